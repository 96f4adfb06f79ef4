//! Rows of a table by index.

use super::fused;
use crate::{Backward, Data, Function, Saver, Tensor, function::run_one, tensor::same_device};
use attentia_backend::{FusedOp, Result, Shape, rules};

/// `out[.., :] = table[index[..], :]`
#[derive(Clone, Copy, Debug)]
pub(crate) struct Embedding {
    pub table: Shape,
}

impl Function for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (table, index) = (inputs[0], inputs[1]);
        let shape = rules::embedding(table.meta("table"), index.meta("index"))?;
        let mut out = Data::alloc(table.device(), table.dtype(), shape)?;
        table.device().embedding(table.view()?, index.view()?, out.view_mut()?)?;
        save.input(1);
        Ok(vec![out])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let [index] = b.take_saved()?;
        let Some(dy) = b.take_grad(0) else { return Ok(vec![None, None]) };
        Ok(vec![Some(run_one(&EmbeddingBackward { table: self.table }, &[&index, &dy])?), None])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (table, index) = (inputs[0], inputs[1]);
        let shape = rules::embedding(table.meta("table"), index.meta("index"))?;
        Ok(vec![table.index_select(0, &index.flatten()?)?.reshape_to(&shape)?])
    }
}

/// The table's gradient: `dtable[index[..], :] += dy[.., :]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EmbeddingBackward {
    pub table: Shape,
}

impl Function for EmbeddingBackward {
    fn name(&self) -> &'static str {
        "embedding_backward"
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (index, dy) = (inputs[0], inputs[1]);
        let mut dtable = Tensor::zeros(&self.table, dy.dtype(), dy.device())?.into_data();
        dy.device().embedding_backward(index.view()?, dy.view()?, dtable.view_mut()?)?;
        save.input(0);
        Ok(vec![dtable])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let [index] = b.take_saved()?;
        Ok(vec![None, b.take_grad(0).map(|g| g.embedding(&index)).transpose()?])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (index, dy) = (inputs[0], inputs[1]);
        let rows = Shape::new(&[index.count(), self.table[1]])?;
        let index = index.reshape(&[-1, 1])?.expand(&rows)?;
        let zeros = Tensor::zeros(&self.table, dy.dtype(), dy.device())?;
        Ok(vec![zeros.scatter_add(0, &index, &dy.reshape_to(&rows)?)?])
    }
}

impl Tensor {
    /// Rows of this table `[V, C]` by index `[..]` (i64): `[.., C]`. An index outside the table is an error.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// use attentia_tensor::{DType, Tensor};
    /// let table = Tensor::arange(0, 6, 1, DType::F32, &device)?.reshape(&[3, 2])?; // [V, C]
    /// let tokens = Tensor::from_slice(&[2i64, 0], &[1, 2], &device)?; //              [B, T]
    /// assert_eq!(table.embedding(&tokens)?.to_vec::<f32>()?, [4.0, 5.0, 0.0, 1.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn embedding(&self, index: &Tensor) -> Result<Tensor> {
        rules::embedding(self.meta("table"), index.meta("index"))?;
        same_device("embedding", &[self, index])?;
        fused(FusedOp::Embedding, &Embedding { table: *self.shape() }, &[self, index])
    }
}
