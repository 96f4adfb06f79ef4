//! Matrix products.
//!
//! ```text
//! a [.., M, K] · b [.., K, N] → [.., M, N]
//! one b for all of a's leading axes:  [R, K] · [K, N] → [R, N],  R = all rows of a     one product, not a batch
//! its gradient:                       db = aᵀ [K, R] · g [R, N]                        the same fold
//! ```

use crate::{Backward, Data, Function, Saver, Tensor, function::run_one, graph::records, tensor::same_device};
use attentia_backend::{Epilogue, Layout, Result, Shape, rules};

/// A product of operands of rank 2 or more, whose leading axes broadcast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatMul {
    pub a: Shape,
    pub b: Shape,
}

impl Function for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (a, b) = (inputs[0].data(), inputs[1].data());
        let shape = rules::matmul(a.meta("a"), b.meta("b"))?;
        let mut out = Data::alloc(a.device(), a.dtype(), shape)?;
        multiply(a, b, &mut out)?;
        // Each operand is needed for the gradient of the other only.
        if save.needs(1) {
            save.input(0);
        }
        if save.needs(0) {
            save.input(1);
        }
        Ok(vec![out])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let mut saved = std::mem::take(&mut b.saved).into_iter();
        let left = if b.recorded[1] { saved.next() } else { None };
        let right = if b.recorded[0] { saved.next() } else { None };
        let Some(g) = b.take_grad(0) else { return Ok(vec![None, None]) };
        let da = match right {
            Some(right) if b.wants(0) => Some(g.matmul(&right.t()?)?.sum_to_shape(&self.a)?),
            _ => None,
        };
        let db = match left {
            Some(left) if b.wants(1) => Some(self.right_gradient(&left, &g)?),
            _ => None,
        };
        Ok(vec![da, db])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![run_one(self, inputs)?])
    }
}

impl MatMul {
    /// `aᵀ · g`, summed over the leading axes that b does not have.
    fn right_gradient(&self, a: &Tensor, g: &Tensor) -> Result<Tensor> {
        let summed = lead(&self.b).iter().all(|&e| e == 1) && lead(a.shape()) == lead(g.shape());
        if !summed || lead(g.shape()).is_empty() {
            return a.t()?.matmul(g)?.sum_to_shape(&self.b);
        }
        let flat = |t: &Tensor| fold(t.layout()).map(|layout| t.reshape_to(layout.shape()));
        match (flat(a), flat(g)) {
            (Some(a), Some(g)) => a?.t()?.matmul(&g?)?.reshape_to(&self.b),
            _ if records(&[a, g]) => a.t()?.matmul(g)?.sum_to_shape(&self.b),
            _ => summed_products(a.data(), g.data())?.reshape_to(&self.b)?.to_dtype(a.dtype()),
        }
    }
}

/// The leading axes of a product's operand.
fn lead(shape: &Shape) -> &[usize] {
    &shape[..shape.rank().saturating_sub(2)]
}

/// `[.., M, K]` as `[R, K]`, where strides allow.
pub(crate) fn fold(layout: &Layout) -> Option<Layout> {
    let (&width, rows) = layout.shape().split_last()?;
    layout.reshape(&Shape::new(&[rows.iter().product(), width]).ok()?)
}

/// The only matrix of an operand whose leading axes all have extent 1 or stride 0.
fn single(layout: &Layout) -> Option<Layout> {
    let mut result = *layout;
    while result.rank() > 2 {
        if result.shape()[0] == 0 || (result.shape()[0] != 1 && result.strides()[0] != 0) {
            return None;
        }
        result = result.narrow(0, 0, 1)?.squeeze(0)?;
    }
    Some(result)
}

fn multiply(a: &Data, b: &Data, out: &mut Data) -> Result<()> {
    let device = a.device().clone();
    let (out_layout, rank) = (*out.layout(), out.layout().rank());
    if lead(a.shape()) == lead(out.shape())
        && let (Some(rows), Some(matrix), Some(result)) = (fold(a.layout()), single(b.layout()), fold(&out_layout))
    {
        return device.matmul(a.view_as(&rows)?, b.view_as(&matrix)?, Epilogue::NONE, out.view_mut_as(&result)?);
    }
    let widened = |x: &Data| {
        let mut extents = out_layout.shape().to_vec();
        extents[rank - 2..].copy_from_slice(&x.shape()[x.shape().rank() - 2..]);
        rules::broadcast_to(x.meta("operand"), &Shape::new(&extents)?)
    };
    let (a_layout, b_layout) = (widened(a)?, widened(b)?);
    device.matmul(a.view_as(&a_layout)?, b.view_as(&b_layout)?, Epilogue::NONE, out.view_mut()?)
}

/// `Σ aᵢᵀ · gᵢ` over the leading axes, one product after the other into one sum, for operands that don't fold.
fn summed_products(a: &Data, g: &Data) -> Result<Tensor> {
    let device = a.device();
    let (k, n) = (a.shape()[a.shape().rank() - 1], g.shape()[g.shape().rank() - 1]);
    let mut sum = Tensor::zeros(&[k, n], a.dtype().statistics(), device)?.into_data();
    let mut pairs = vec![(*a.layout(), *g.layout())];
    while let Some((left, right)) = pairs.pop() {
        let axes = left.rank();
        if axes == 2 {
            let transposed = left.transpose(0, 1);
            device.matmul(a.view_as(&transposed)?, g.view_as(&right)?, Epilogue::ACCUMULATE, sum.view_mut()?)?;
            continue;
        }
        let at = |layout: &Layout, i| layout.narrow(0, i, 1).and_then(|part| part.squeeze(0));
        // Last in, first out: the first index is on top.
        let parts = (0..left.shape()[0]).rev().filter_map(|i| Some((at(&left, i)?, at(&right, i)?)));
        pairs.extend(parts);
    }
    Ok(Tensor::from_data(sum))
}

impl Tensor {
    /// The matrix product over the last two axes; leading axes broadcast. An operand of rank 1 is a row on the left
    /// and a column on the right, and its axis is gone from the result.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// use attentia_tensor::{DType, Tensor};
    /// let x = Tensor::ones(&[4, 2, 3], DType::F32, &device)?; // [B, T, C]
    /// let w = Tensor::ones(&[3, 5], DType::F32, &device)?; //    [C, D]
    /// assert_eq!(x.matmul(&w)?.dims()?, [4, 2, 5]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        match (self.rank(), other.rank()) {
            (1, 1) => self.unsqueeze(0)?.product(&other.unsqueeze(1)?)?.reshape(&[]),
            (1, _) => self.unsqueeze(0)?.product(other)?.squeeze(-2),
            (_, 1) => self.product(&other.unsqueeze(1)?)?.squeeze(-1),
            _ => self.product(other),
        }
    }

    fn product(&self, other: &Tensor) -> Result<Tensor> {
        same_device("matmul", &[self, other])?;
        run_one(&MatMul { a: *self.shape(), b: *other.shape() }, &[self, other])
    }
}
