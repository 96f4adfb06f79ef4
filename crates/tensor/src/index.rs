//! Elements by index.

use crate::{Backward, Data, Function, Saver, Tensor, function::run_one, tensor::same_device};
use attentia_backend::{DType, Error, ErrorKind, Result, Scalar, Shape, rules};

/// `out[.., i, ..] = x[.., index[.., i, ..], ..]`
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gather {
    pub axis: usize,
    pub whole: Shape,
}

impl Function for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (x, index) = (inputs[0], inputs[1]);
        let mut out = Data::alloc(x.device(), x.dtype(), *index.shape())?;
        x.device().gather(x.view()?, index.view()?, self.axis, out.view_mut()?)?;
        save.input(1);
        Ok(vec![out])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let [index] = b.take_saved()?;
        let Some(g) = b.take_grad(0) else { return Ok(vec![None, None]) };
        let zeros = Tensor::zeros(&self.whole, g.dtype(), g.device())?;
        Ok(vec![Some(zeros.scatter_add(self.axis as isize, &index, &g)?), None])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![run_one(self, inputs)?])
    }
}

/// x, plus `src` at the places that the index names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScatterAdd {
    pub axis: usize,
}

impl Function for ScatterAdd {
    fn name(&self) -> &'static str {
        "scatter_add"
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (x, index, src) = (inputs[0], inputs[1], inputs[2]);
        let mut out = x.data().copied()?;
        x.device().scatter_add(index.view()?, src.view()?, self.axis, out.view_mut()?)?;
        save.input(1);
        Ok(vec![out])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let [index] = b.take_saved()?;
        let Some(g) = b.take_grad(0) else { return Ok(vec![None, None, None]) };
        let src = if b.wants(2) { Some(g.gather(self.axis as isize, &index)?) } else { None };
        Ok(vec![Some(g), None, src])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![run_one(self, inputs)?])
    }
}

impl Tensor {
    /// `out[.., i, ..] = x[.., index[.., i, ..], ..]` along an axis; index is i64 with x's rank and, on the other axes,
    /// at most x's extents. An index outside the axis is an error.
    pub fn gather(&self, axis: isize, index: &Tensor) -> Result<Tensor> {
        let axis = self.axis("gather", axis)?;
        rules::gather(self.meta("x"), index.meta("index"), axis)?;
        same_device("gather", &[self, index])?;
        run_one(&Gather { axis, whole: *self.shape() }, &[self, index])
    }

    /// x, plus `src[.., i, ..]` at `[.., index[.., i, ..], ..]` along an axis, in ascending order of i.
    pub fn scatter_add(&self, axis: isize, index: &Tensor, src: &Tensor) -> Result<Tensor> {
        let axis = self.axis("scatter_add", axis)?;
        rules::scatter_add(self.meta("x"), index.meta("index"), src.meta("src"), axis)?;
        same_device("scatter_add", &[self, index, src])?;
        run_one(&ScatterAdd { axis }, &[self, index, src])
    }

    /// The parts of an axis that `index` (i64 `[N]`) names, in its order.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// use attentia_tensor::{DType, Tensor};
    /// let x = Tensor::arange(0, 6, 1, DType::F32, &device)?.reshape(&[3, 2])?;
    /// let rows = x.index_select(0, &Tensor::from_slice(&[2i64, 0], &[2], &device)?)?;
    /// assert_eq!(rows.to_vec::<f32>()?, [4.0, 5.0, 0.0, 1.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn index_select(&self, axis: isize, index: &Tensor) -> Result<Tensor> {
        let axis = self.axis("index_select", axis)?;
        rules::dtype("index_select", index.meta("index"), DType::I64)?;
        let [count] = *index.shape().as_slice() else {
            return Err(Error::new(ErrorKind::Shape, "index_select", "the index is no vector")
                .operand(self.data().operand("x"))
                .operand(index.data().operand("index").expected("[N]")));
        };
        let mut column = vec![1; self.rank()];
        let mut extents = self.shape().to_vec();
        column[axis] = count;
        extents[axis] = count;
        let index = index.reshape_to(&Shape::new(&column)?)?;
        self.gather(axis as isize, &index.expand(&Shape::new(&extents)?)?)
    }

    /// One axis more, at the end: `classes` long, 1 at the index and 0 elsewhere. An index that is no class is an
    /// error.
    pub fn one_hot(index: &Tensor, classes: usize, dtype: DType) -> Result<Tensor> {
        rules::dtype("one_hot", index.meta("index"), DType::I64)?;
        let at = index.unsqueeze(-1)?;
        let mut extents = index.shape().to_vec();
        extents.push(classes);
        let counted = if dtype == DType::Bool { DType::U8 } else { dtype };
        let zeros = Tensor::zeros(&extents, counted, index.device())?;
        let one = Tensor::scalar(Scalar::Int(1), counted, index.device())?;
        zeros.scatter_add(-1, &at, &one.expand(at.shape())?)?.to_dtype(dtype)
    }
}
