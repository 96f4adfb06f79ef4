//! Joining and splitting tensors.

use crate::{
    Backward, Data, Function, Saver, Tensor,
    function::{run, run_one},
    tensor::same_device,
};
use attentia_backend::{Error, ErrorKind, Layout, Result, Scalar, Shape, rules};

/// One after the other along an axis.
#[derive(Clone, Debug)]
pub(crate) struct Cat {
    pub axis: usize,
    pub sizes: Vec<usize>,
}

impl Function for Cat {
    fn name(&self) -> &'static str {
        "cat"
    }

    fn forward(&self, inputs: &[&Tensor], _: &mut Saver) -> Result<Vec<Data>> {
        let metas: Vec<_> = inputs.iter().map(|t| t.meta("operand")).collect();
        let shape = rules::cat(&metas, self.axis)?;
        let first = inputs[0];
        let mut out = Data::alloc(first.device(), first.dtype(), shape)?;
        let whole = *out.layout();
        for (x, part) in inputs.iter().zip(parts(&whole, self.axis, &self.sizes)?) {
            x.device().copy(x.view()?, out.view_mut_as(&part)?)?;
        }
        Ok(vec![out])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let Some(g) = b.take_grad(0) else { return Ok(self.sizes.iter().map(|_| None).collect()) };
        let mut start = 0;
        let part = |(i, &size): (usize, &usize)| {
            start += size;
            b.wants(i).then(|| g.narrow(self.axis as isize, start - size, size)).transpose()
        };
        self.sizes.iter().enumerate().map(part).collect()
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![run_one(self, inputs)?])
    }
}

/// Consecutive parts of an axis, as views of one storage.
#[derive(Clone, Debug)]
pub(crate) struct Split {
    pub axis: usize,
    pub sizes: Vec<usize>,
    pub whole: Shape,
}

impl Function for Split {
    fn name(&self) -> &'static str {
        "split"
    }

    fn forward(&self, inputs: &[&Tensor], _: &mut Saver) -> Result<Vec<Data>> {
        let x = inputs[0].data();
        Ok(parts(x.layout(), self.axis, &self.sizes)?.into_iter().map(|part| x.with_layout(part)).collect())
    }

    /// One tensor for all parts; those without a cotangent are zeros.
    fn backward(&self, b: Backward) -> Result<Vec<Option<Tensor>>> {
        let Some(some) = b.grads.iter().flatten().next() else { return Ok(vec![None]) };
        let (dtype, device) = (some.dtype(), some.device().clone());
        let mut grads = Vec::with_capacity(self.sizes.len());
        for (grad, &size) in b.grads.into_iter().zip(&self.sizes) {
            grads.push(match grad {
                Some(grad) => grad,
                None => {
                    let mut extents = self.whole.to_vec();
                    extents[self.axis] = size;
                    Tensor::scalar(Scalar::Int(0), dtype, &device)?.broadcast_to(&extents)?
                }
            });
        }
        let all: Vec<&Tensor> = grads.iter().collect();
        Ok(vec![Some(Tensor::cat(&all, self.axis as isize)?)])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        run(self, inputs)
    }
}

fn parts(whole: &Layout, axis: usize, sizes: &[usize]) -> Result<Vec<Layout>> {
    let mut start = 0;
    let part = |&size: &usize| {
        let part = whole.narrow(axis, start, size);
        start += size;
        part.ok_or_else(|| {
            Error::new(ErrorKind::Index, "split", format!("{start} elements of axis {axis} of {}", whole.shape()))
        })
    };
    sizes.iter().map(part).collect()
}

impl Tensor {
    /// Tensors one after the other along an axis; they agree everywhere else.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// use attentia_tensor::{DType, Tensor};
    /// let (a, b) = (Tensor::zeros(&[2, 3], DType::F32, &device)?, Tensor::ones(&[2, 1], DType::F32, &device)?);
    /// assert_eq!(Tensor::cat(&[&a, &b], 1)?.dims()?, [2, 4]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn cat(tensors: &[&Tensor], axis: isize) -> Result<Tensor> {
        let Some(first) = tensors.first() else {
            return Err(Error::new(ErrorKind::Argument, "cat", "no tensors").help("pass at least one"));
        };
        let axis = first.axis("cat", axis)?;
        same_device("cat", tensors)?;
        let metas: Vec<_> = tensors.iter().map(|t| t.meta("operand")).collect();
        rules::cat(&metas, axis)?;
        let sizes = tensors.iter().map(|t| t.shape()[axis]).collect();
        run_one(&Cat { axis, sizes }, tensors)
    }

    /// Tensors of one shape along a new axis, whose place in the result is `axis`.
    pub fn stack(tensors: &[&Tensor], axis: isize) -> Result<Tensor> {
        let lifted = tensors.iter().map(|t| t.unsqueeze(axis)).collect::<Result<Vec<_>>>()?;
        let Some(first) = lifted.first() else {
            return Err(Error::new(ErrorKind::Argument, "stack", "no tensors").help("pass at least one"));
        };
        if let Some(other) = lifted.iter().find(|t| t.shape() != first.shape()) {
            return Err(Error::new(ErrorKind::Shape, "stack", "shapes differ")
                .operand(tensors[0].data().operand("first"))
                .operand(other.data().operand("other").expected(first.shape().to_string())));
        }
        Tensor::cat(&lifted.iter().collect::<Vec<_>>(), axis)
    }

    /// Consecutive parts of an axis, as views; the sizes add up to its extent.
    pub fn split(&self, sizes: &[usize], axis: isize) -> Result<Vec<Tensor>> {
        let axis = self.axis("split", axis)?;
        let total = sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
        if total != Some(self.shape()[axis]) {
            return Err(Error::new(ErrorKind::Shape, "split", format!("sizes {sizes:?} do not fill axis {axis}"))
                .operand(self.data().operand("x"))
                .help(format!("they must add up to {}", self.shape()[axis])));
        }
        run(&Split { axis, sizes: sizes.to_vec(), whole: *self.shape() }, &[self])
    }

    /// `count` parts of an axis, as views; as equal as possible, the larger ones first.
    pub fn chunk(&self, count: usize, axis: isize) -> Result<Vec<Tensor>> {
        let at = self.axis("chunk", axis)?;
        let extent = self.shape()[at];
        if count == 0 || count > extent.max(1) {
            return Err(Error::new(ErrorKind::Argument, "chunk", format!("{count} parts of {extent} elements"))
                .operand(self.data().operand("x")));
        }
        let sizes: Vec<usize> = (0..count).map(|i| extent / count + usize::from(i < extent % count)).collect();
        self.split(&sizes, axis)
    }
}
