//! The tensor: values, and an edge into the graph that made them.

use crate::{
    Data,
    graph::{Edge, Node, Spec},
};
use attentia_backend::{
    DType, Device, Element, Error, ErrorKind, Layout, Result, Shape, View, ViewMut, rules, rules::Meta,
};

/// An n-dimensional array on a device, with gradients.
///
/// Cloning copies no element. Values never change: what looks like an update makes a new tensor, and only
/// [`crate::Var`] holds a value that an optimiser replaces. Operations are recorded while gradients are enabled
/// ([`crate::no_grad`]) and an operand requires one.
///
/// ```
/// # fn main() -> attentia_tensor::Result<()> {
/// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
/// use attentia_tensor::{Tensor, Var};
/// let w = Var::new(Tensor::from_slice(&[1.0, 2.0, 3.0], &[3], &device)?)?;
/// let loss = (w.tensor() * &w.tensor())?.sum_all()?;
/// let grads = loss.backward()?;
/// assert_eq!(grads.get(&w).unwrap().to_vec::<f64>()?, [2.0, 4.0, 6.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tensor {
    pub(crate) data: Data,
    pub(crate) edge: Option<Edge>,
}

impl Tensor {
    /// A tensor of values that no operation made, so that no gradient flows through it.
    pub fn from_data(data: Data) -> Tensor {
        Tensor { data, edge: None }
    }

    /// Its values.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// Its values alone.
    pub fn into_data(self) -> Data {
        self.data
    }

    /// Its values, to read.
    pub fn view(&self) -> Result<View<'_>> {
        self.data.view()
    }

    /// Its values, to overwrite. Errors while somebody else holds them, or when a graph leads here: its gradient would
    /// be that of the values before.
    pub fn view_mut(&mut self) -> Result<ViewMut<'_>> {
        if self.requires_grad() {
            return Err(Error::new(ErrorKind::Gradient, "view_mut", "the tensor is part of a graph")
                .operand(self.data.operand("x"))
                .help("write to a Var with update, or to a tensor made under no_grad or by detach"));
        }
        self.data.view_mut()
    }

    /// Overwrites the part `narrow(axis, start, len)`, where `len` is the source's extent along the axis: what a cache
    /// grows by. Errors as [`Tensor::view_mut`] does, when the part leaves the axis, or when other extents or the dtype
    /// differ.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// use attentia_tensor::{DType, Tensor};
    /// let mut cache = Tensor::zeros(&[2, 3], DType::F32, &device)?;
    /// cache.write_narrow(1, 2, &Tensor::ones(&[2, 1], DType::F32, &device)?)?;
    /// assert_eq!(cache.to_vec::<f32>()?, [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn write_narrow(&mut self, axis: isize, start: usize, source: &Tensor) -> Result<()> {
        const OP: &str = "write_narrow";
        let at = self.axis(OP, axis)?;
        rules::alike(OP, &[self.meta("x"), source.meta("source")])?;
        same_device(OP, &[self, source])?;
        let len = source.shape().get(at).copied().unwrap_or(0);
        let part = self.layout().narrow(at, start, len).filter(|part| part.shape() == source.shape());
        let Some(part) = part else {
            let what = format!("{len} from {start} along axis {at} is no part of x");
            return Err(Error::new(ErrorKind::Shape, OP, what)
                .operand(self.data.operand("x"))
                .operand(source.data.operand("source"))
                .help("the source has x's extents but along the axis, and start + its extent is at most x's"));
        };
        self.view_mut()?; // says why not, where it can't be written
        let device = self.device().clone();
        device.copy(source.view()?, self.data.view_mut_as(&part)?)
    }

    /// Its extents.
    pub fn shape(&self) -> &Shape {
        self.data.shape()
    }

    /// Its extents as an array, which checks the rank: `let [b, t, c] = x.dims()?;`
    pub fn dims<const N: usize>(&self) -> Result<[usize; N]> {
        <[usize; N]>::try_from(self.shape().as_slice()).map_err(|_| {
            Error::new(ErrorKind::Shape, "dims", format!("has rank {}, not {N}", self.rank()))
                .operand(self.data.operand("x").expected(format!("{N} axes")))
        })
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape().rank()
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.shape().count()
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// Where it lives.
    pub fn device(&self) -> &Device {
        self.data.device()
    }

    /// How it walks over its storage.
    pub fn layout(&self) -> &Layout {
        self.data.layout()
    }

    /// Whether its elements follow each other in row-major order.
    pub fn is_contiguous(&self) -> bool {
        self.layout().is_contiguous()
    }

    /// Whether a gradient flows through it.
    pub fn requires_grad(&self) -> bool {
        self.edge.is_some()
    }

    /// The same values, cut from the graph.
    pub fn detach(&self) -> Tensor {
        Tensor::from_data(self.data.clone())
    }

    /// The same values, at the start of a graph.
    pub(crate) fn with_leaf(mut self) -> Tensor {
        self.edge = Some(Edge::new(Node::leaf(Spec::of(&self.data)), 0));
        self
    }

    /// The elements in row-major order. Errors when they are not of type `T`: nothing is converted in silence.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.data.to_vec()
    }

    /// The only element. Errors when there is not exactly one, or it is not of type `T`.
    pub fn item<T: Element>(&self) -> Result<T> {
        self.one_element("item")?;
        // One element was checked, so the vector has one.
        Ok(self.to_vec::<T>()?.first().copied().unwrap_or_else(T::zero))
    }

    pub(crate) fn one_element(&self, op: &'static str) -> Result<()> {
        if self.count() == 1 {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Shape, op, format!("has {} elements", self.count()))
            .operand(self.data.operand("x").expected("one element"))
            .help("reduce it first, e.g. with sum_all or mean_all"))
    }

    /// An axis counted from either end.
    pub(crate) fn axis(&self, op: &'static str, axis: isize) -> Result<usize> {
        rules::axis(op, self.meta("x"), axis)
    }

    pub(crate) fn meta(&self, role: &'static str) -> Meta<'_> {
        self.data.meta(role)
    }
}

/// Two backends may share a name; their storage they do not.
pub(crate) fn same_device(op: &'static str, operands: &[&Tensor]) -> Result<()> {
    let Some((first, rest)) = operands.split_first() else { return Ok(()) };
    match rest.iter().find(|t| !t.device().same(first.device())) {
        None => Ok(()),
        Some(other) => Err(Error::new(ErrorKind::Device, op, "operands live on different devices")
            .operand(first.data.operand("first"))
            .operand(other.data.operand("other"))
            .help("move one with to_device; two backends of one name are still two")),
    }
}
