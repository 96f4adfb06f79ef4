//! Views: other shapes of the same elements, without a copy.

use crate::{
    Backward, Data, Function, Saver, Span, Tensor,
    function::run_one,
    window::{Slice, Window},
};
use attentia_backend::{Error, ErrorKind, Layout, MAX_RANK, Result, Shape, rules};
use std::sync::atomic::{AtomicU64, Ordering};

static MATERIALISED: AtomicU64 = AtomicU64::new(0);

/// Bytes that were copied since the start of the program because a [`Tensor::reshape`] could not be a view: the only
/// copy that this crate makes without being asked for one.
pub fn materialised_bytes() -> u64 {
    MATERIALISED.load(Ordering::Relaxed)
}

/// The same elements in the same order under another shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reshape {
    pub from: Shape,
    pub to: Shape,
}

impl Function for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn forward(&self, inputs: &[&Tensor], _: &mut Saver) -> Result<Vec<Data>> {
        let data = inputs[0].data();
        if let Some(layout) = data.layout().reshape(&self.to) {
            return Ok(vec![data.with_layout(layout)]);
        }
        let bytes = data.layout().count() * data.dtype().size();
        MATERIALISED.fetch_add(bytes as u64, Ordering::Relaxed);
        let copy = data.copied()?;
        match copy.layout().reshape(&self.to) {
            Some(layout) => Ok(vec![copy.relayout(layout)]),
            None => Err(Error::new(ErrorKind::Shape, "reshape", format!("{} does not fit {}", data.shape(), self.to))),
        }
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let back = Reshape { from: self.to, to: self.from };
        Ok(vec![b.take_grad(0).map(|g| run_one(&back, &[&g])).transpose()?])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![run_one(self, inputs)?])
    }
}

/// Axis `i` of the result is axis `order[i]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permute {
    rank: usize,
    order: [usize; MAX_RANK],
}

impl Permute {
    pub fn new(axes: &[usize]) -> Permute {
        let mut order = [0; MAX_RANK];
        let rank = axes.len().min(MAX_RANK);
        order[..rank].copy_from_slice(&axes[..rank]);
        Permute { rank, order }
    }

    fn order(&self) -> &[usize] {
        &self.order[..self.rank]
    }
}

impl Function for Permute {
    fn name(&self) -> &'static str {
        "permute"
    }

    fn forward(&self, inputs: &[&Tensor], _: &mut Saver) -> Result<Vec<Data>> {
        let data = inputs[0].data();
        match data.layout().permute(self.order()) {
            Some(layout) => Ok(vec![data.with_layout(layout)]),
            None => Err(Error::new(ErrorKind::Shape, "permute", format!("no permutation: {:?}", self.order()))
                .operand(data.operand("x"))),
        }
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let mut back = *self;
        for (to, &from) in self.order().iter().enumerate() {
            back.order[from] = to;
        }
        Ok(vec![b.take_grad(0).map(|g| run_one(&back, &[&g])).transpose()?])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![run_one(self, inputs)?])
    }
}

/// Repeats axes of extent 1, and adds leading ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BroadcastTo {
    pub from: Shape,
    pub to: Shape,
}

impl Function for BroadcastTo {
    fn name(&self) -> &'static str {
        "broadcast_to"
    }

    fn forward(&self, inputs: &[&Tensor], _: &mut Saver) -> Result<Vec<Data>> {
        let data = inputs[0].data();
        Ok(vec![data.with_layout(rules::broadcast_to(data.meta("x"), &self.to)?)])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![b.take_grad(0).map(|g| g.sum_to_shape(&self.from)).transpose()?])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![run_one(self, inputs)?])
    }
}

impl Tensor {
    /// The same elements under another shape; one extent may be -1 and is inferred. A view where strides allow, else
    /// a copy, which [`materialised_bytes`] counts.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// let x = attentia_tensor::Tensor::arange(0, 12, 1, attentia_tensor::DType::F32, &device)?;
    /// assert_eq!(x.reshape(&[3, -1])?.dims()?, [3, 4]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn reshape(&self, shape: &[isize]) -> Result<Tensor> {
        let to = rules::reshape(self.meta("x"), shape)?;
        self.reshape_to(&to)
    }

    /// A reshape to extents that are known to fit.
    pub(crate) fn reshape_to(&self, to: &Shape) -> Result<Tensor> {
        run_one(&Reshape { from: *self.shape(), to: *to }, &[self])
    }

    /// All elements along one axis.
    pub fn flatten(&self) -> Result<Tensor> {
        self.reshape(&[-1])
    }

    /// Swaps two axes.
    pub fn transpose(&self, a: isize, b: isize) -> Result<Tensor> {
        let (a, b) = (self.axis("transpose", a)?, self.axis("transpose", b)?);
        let mut order = [0, 1, 2, 3, 4, 5, 6, 7];
        order.swap(a, b);
        run_one(&Permute::new(&order[..self.rank()]), &[self])
    }

    /// Swaps the last two axes.
    pub fn t(&self) -> Result<Tensor> {
        if self.rank() < 2 {
            return Err(Error::new(ErrorKind::Shape, "t", format!("has rank {}", self.rank()))
                .operand(self.data().operand("x").expected("at least two axes")));
        }
        self.transpose(-2, -1)
    }

    /// Axis `i` of the result is axis `order[i]`.
    pub fn permute(&self, order: &[isize]) -> Result<Tensor> {
        run_one(&Permute::new(&rules::permute(self.meta("x"), order)?), &[self])
    }

    /// Moves an axis to the end, for operations along the last axis.
    pub(crate) fn axis_last(&self, axis: usize) -> Result<Tensor> {
        let order: Vec<usize> = (0..self.rank()).filter(|&a| a != axis).chain([axis]).collect();
        run_one(&Permute::new(&order), &[self])
    }

    /// Undoes [`Tensor::axis_last`].
    pub(crate) fn axis_back(&self, axis: usize) -> Result<Tensor> {
        let last = self.rank().saturating_sub(1);
        let order: Vec<usize> = (0..axis).chain([last]).chain(axis..last).collect();
        run_one(&Permute::new(&order), &[self])
    }

    /// `len` elements of an axis from `start`.
    pub fn narrow(&self, axis: isize, start: usize, len: usize) -> Result<Tensor> {
        let axis = self.axis("narrow", axis)?;
        rules::narrow(self.meta("x"), axis, start, len)?;
        run_one(&Slice(Window::whole(self.shape()).along(axis, start, 1, len)), &[self])
    }

    /// Elements `start, start + step, …` before `stop` of an axis, as in Python, where bounds may be left out or
    /// counted from the end: `x.slice(0, 2..-1, 2)?`, `x.slice(1, .., -1)?` reverses. Bounds outside the axis are an
    /// error, not clamped.
    pub fn slice(&self, axis: isize, span: impl Into<Span>, step: isize) -> Result<Tensor> {
        let axis = self.axis("slice", axis)?;
        let (start, len) = span.into().resolve("slice", self, axis, step)?;
        run_one(&Slice(Window::whole(self.shape()).along(axis, start, step, len)), &[self])
    }

    /// The elements at one index of an axis, which disappears; negative indices count from the end.
    pub fn select(&self, axis: isize, index: isize) -> Result<Tensor> {
        let axis = self.axis("select", axis)?;
        self.narrow(axis as isize, self.place("select", axis, index)?, 1)?.squeeze(axis as isize)
    }

    /// What an index names along an axis; negative ones count from the end.
    pub(crate) fn place(&self, op: &'static str, axis: usize, index: isize) -> Result<usize> {
        let extent = self.shape()[axis] as isize;
        let place = if index < 0 { index.saturating_add(extent) } else { index };
        if (0..extent).contains(&place) {
            return Ok(place as usize);
        }
        Err(Error::new(ErrorKind::Index, op, format!("no index {index} along axis {axis}"))
            .operand(self.data().operand("x"))
            .help(format!("indices are {}..{extent}", -extent)))
    }

    /// Reverses an axis.
    pub fn flip(&self, axis: isize) -> Result<Tensor> {
        self.slice(axis, .., -1)
    }

    /// Removes an axis of extent 1.
    pub fn squeeze(&self, axis: isize) -> Result<Tensor> {
        let axis = self.axis("squeeze", axis)?;
        match self.layout().squeeze(axis) {
            Some(layout) => self.reshape_to(layout.shape()),
            None => Err(Error::new(ErrorKind::Shape, "squeeze", format!("axis {axis} has more than one element"))
                .operand(self.data().operand("x"))
                .help("only an axis of extent 1 can be removed; use select or a reduction")),
        }
    }

    /// Adds an axis of extent 1; `axis` is its place in the result.
    pub fn unsqueeze(&self, axis: isize) -> Result<Tensor> {
        let rank = self.rank() as isize;
        let at = if axis < 0 { axis + rank + 1 } else { axis };
        let layout: Option<Layout> = usize::try_from(at).ok().and_then(|at| self.layout().unsqueeze(at));
        match layout {
            Some(layout) => self.reshape_to(layout.shape()),
            None => Err(Error::new(ErrorKind::Shape, "unsqueeze", format!("no place {axis} for an axis"))
                .operand(self.data().operand("x"))
                .help(format!("places are {}..={rank}, and the greatest rank is {MAX_RANK}", -rank - 1))),
        }
    }

    /// Repeats axes of extent 1 and adds leading ones, by stride 0. The gradient is summed over the repeats.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Tensor> {
        let to = Shape::new(shape)?;
        rules::broadcast_to(self.meta("x"), &to)?;
        run_one(&BroadcastTo { from: *self.shape(), to }, &[self])
    }

    /// Sums over what broadcasting from `shape` repeats: the transpose of [`Tensor::broadcast_to`].
    pub fn sum_to_shape(&self, shape: &[usize]) -> Result<Tensor> {
        let to = Shape::new(shape)?;
        if *self.shape() == to {
            return Ok(self.clone());
        }
        if Layout::contiguous(to).broadcast_to(self.shape()).is_none() {
            return Err(Error::new(ErrorKind::Shape, "sum_to_shape", format!("{to} does not broadcast to x"))
                .operand(self.data().operand("x")));
        }
        let added = self.rank() - to.rank();
        let repeated = |axis: usize| axis < added || (to[axis - added] == 1 && self.shape()[axis] != 1);
        let axes: Vec<isize> = (0..self.rank()).filter(|&a| repeated(a)).map(|a| a as isize).collect();
        self.sum(&axes, true)?.reshape_to(&to)
    }
}
