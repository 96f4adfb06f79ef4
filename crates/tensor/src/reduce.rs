//! Reductions over axes, running sums and sorting.

use crate::{
    Backward, Data, Function, Saver, Tensor,
    function::{run, run_one},
};
use attentia_backend::{ArgReduce, DType, MAX_RANK, Reduce, Result, Scalar, Shape, rules};

/// A [`Reduce`] over some axes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reduction {
    op: Reduce,
    whole: Shape,
    /// Bit `i` is set when axis `i` is reduced.
    axes: u8,
    keepdim: bool,
}

impl Reduction {
    pub fn new(op: Reduce, whole: &Shape, axes: &[usize], keepdim: bool) -> Reduction {
        Reduction { op, whole: *whole, axes: axes.iter().fold(0, |bits, a| bits | 1 << (a % MAX_RANK)), keepdim }
    }

    fn axes(&self) -> Vec<usize> {
        (0..self.whole.rank()).filter(|&a| self.axes >> a & 1 == 1).collect()
    }

    /// The result's extents with reduced axes of extent 1, or without them.
    fn result(&self, keepdim: bool) -> Result<Shape> {
        let extents = (0..self.whole.rank()).filter_map(|a| match self.axes >> a & 1 {
            0 => Some(self.whole[a]),
            _ => keepdim.then_some(1),
        });
        Shape::new(&extents.collect::<Vec<_>>())
    }

    /// Elements per result.
    fn count(&self) -> usize {
        self.axes().iter().map(|&a| self.whole[a]).product()
    }

    fn derivative(&self, x: Option<Tensor>, y: Option<Tensor>, g: Tensor) -> Result<Tensor> {
        let axes: Vec<isize> = self.axes().iter().map(|&a| a as isize).collect();
        let kept = self.result(true)?;
        let g = g.reshape_to(&kept)?;
        let Some(x) = x else {
            let g = if self.op == Reduce::Mean { g.div_scalar(self.count())? } else { g };
            return g.expand(&self.whole);
        };
        match (self.op, y) {
            (Reduce::Var { correction }, _) => {
                let scale = 2.0 / (self.count() as f64 - correction as f64).max(0.0);
                let mean = x.mean(&axes, true)?;
                (x - mean)? * (g * scale)?
            }
            // Equals share.
            (Reduce::Max | Reduce::Min, Some(y)) => {
                let ties = x.eq(&y.reshape_to(&kept)?)?;
                let share = (g / ties.to_dtype(x.dtype())?.sum(&axes, true)?)?;
                share.expand(&self.whole)?.where_or_zero(&ties)
            }
            // The product of the others: by division where no other is 0.
            _ => {
                let zero = x.eq_scalar(0)?;
                let others = Tensor::where_cond(&zero, &Tensor::ones(&[], x.dtype(), x.device())?, &x)?;
                let zeros = zero.sum(&axes, true)?;
                let alone = zeros.expand(&self.whole)?.eq(&zero.to_dtype(DType::I64)?)?;
                let product = (g * others.prod(&axes, true)?)?;
                (product / &others)?.where_or_zero(&alone)
            }
        }
    }
}

impl Function for Reduction {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let x = inputs[0];
        let axes = self.axes();
        let (kept, dtype) = rules::reduce(self.op, x.meta("x"), &axes)?;
        let mut out = Data::alloc(x.device(), dtype, kept)?;
        x.device().reduce(self.op, x.view()?, &axes, out.view_mut()?)?;
        let out = match out.layout().reshape(&self.result(self.keepdim)?) {
            Some(layout) => out.relayout(layout),
            None => out,
        };
        if !matches!(self.op, Reduce::Sum | Reduce::Mean) {
            save.input(0);
        }
        if matches!(self.op, Reduce::Max | Reduce::Min) {
            save.output(0);
        }
        Ok(vec![out])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let Some(g) = b.take_grad(0) else { return Ok(vec![None]) };
        let mut saved = b.saved.into_iter();
        Ok(vec![Some(self.derivative(saved.next(), saved.next(), g)?)])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![run_one(self, inputs)?])
    }
}

/// Running sum along an axis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cumsum {
    pub axis: usize,
}

impl Function for Cumsum {
    fn name(&self) -> &'static str {
        "cumsum"
    }

    fn forward(&self, inputs: &[&Tensor], _: &mut Saver) -> Result<Vec<Data>> {
        let x = inputs[0];
        let (shape, dtype) = rules::cumsum(x.meta("x"));
        let mut out = Data::alloc(x.device(), dtype, shape)?;
        x.device().cumsum(x.view()?, self.axis, out.view_mut()?)?;
        Ok(vec![out])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let axis = self.axis as isize;
        Ok(vec![b.take_grad(0).map(|g| g.flip(axis)?.cumsum(axis)?.flip(axis)).transpose()?])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![run_one(self, inputs)?])
    }
}

/// The first `k` elements of a sorted axis, and where they came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sort {
    pub name: &'static str,
    pub axis: usize,
    pub descending: bool,
    pub k: usize,
    pub whole: Shape,
}

impl Function for Sort {
    fn name(&self) -> &'static str {
        self.name
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let x = inputs[0];
        let shape = rules::top_k(self.name, x.meta("x"), self.axis, self.k)?;
        let mut values = Data::alloc(x.device(), x.dtype(), shape)?;
        let mut indices = Data::alloc(x.device(), DType::I64, shape)?;
        x.device().sort(x.view()?, self.axis, self.descending, values.view_mut()?, indices.view_mut()?)?;
        save.output(1);
        Ok(vec![values, indices])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let [indices] = b.take_saved()?;
        let Some(g) = b.take_grad(0) else { return Ok(vec![None]) };
        let zeros = Tensor::zeros(&self.whole, g.dtype(), g.device())?;
        Ok(vec![Some(zeros.scatter_add(self.axis as isize, &indices, &g)?)])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        run(self, inputs)
    }
}

/// `ln Σ exp(x)` along an axis, which stays with extent 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogSumExp {
    pub axis: usize,
}

impl Function for LogSumExp {
    fn name(&self) -> &'static str {
        "logsumexp"
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let x = inputs[0].detach();
        let out = self.compose(&[&x])?.into_iter().next().map(Tensor::into_data);
        save.input(0);
        save.output(0);
        Ok(out.into_iter().collect())
    }

    /// `g · exp(x − lse)`; a row of −inf, whose lse is −inf, has zero gradient rather than NaN.
    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let [x, lse] = b.take_saved()?;
        let Some(g) = b.take_grad(0) else { return Ok(vec![None]) };
        let finite = lse.ne_scalar(f64::NEG_INFINITY)?;
        let weight = (x - lse.where_or_zero(&finite)?)?.exp()?;
        Ok(vec![Some((weight * g)?)])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (x, axis) = (inputs[0], self.axis as isize);
        let max = x.detach().max(&[axis], true)?;
        // exp(−inf − 0) is 0 and its logarithm −inf, where exp(−inf − −inf) would be NaN.
        let max = max.where_or_zero(&max.abs()?.lt_scalar(f64::INFINITY)?)?;
        Ok(vec![((x - &max)?.exp()?.sum(&[axis], true)?.log()? + max)?])
    }
}

impl Tensor {
    fn reduce(&self, op: Reduce, axes: &[isize], keepdim: bool) -> Result<Tensor> {
        let axes = rules::axes(op.name(), self.meta("x"), axes)?;
        run_one(&Reduction::new(op, self.shape(), &axes, keepdim), &[self])
    }

    fn reduce_all(&self, op: Reduce) -> Result<Tensor> {
        let axes: Vec<usize> = (0..self.rank()).collect();
        run_one(&Reduction::new(op, self.shape(), &axes, false), &[self])
    }

    /// Variance over axes with `count − correction` in the denominator: 1 for the unbiased estimate, 0 for the
    /// population's.
    pub fn var(&self, axes: &[isize], correction: usize, keepdim: bool) -> Result<Tensor> {
        self.reduce(Reduce::Var { correction }, axes, keepdim)
    }

    /// Position of the greatest along an axis, i64: the first of equals; NaN counts as greatest.
    pub fn argmax(&self, axis: isize, keepdim: bool) -> Result<Tensor> {
        self.arg_reduce(ArgReduce::Max, axis, keepdim)
    }

    /// Position of the smallest along an axis, i64: the first of equals; NaN counts as smallest.
    pub fn argmin(&self, axis: isize, keepdim: bool) -> Result<Tensor> {
        self.arg_reduce(ArgReduce::Min, axis, keepdim)
    }

    fn arg_reduce(&self, op: ArgReduce, axis: isize, keepdim: bool) -> Result<Tensor> {
        let axis = self.axis(op.name(), axis)?;
        let mut out = Data::alloc(self.device(), DType::I64, rules::arg_reduce(op, self.meta("x"), axis)?)?;
        self.device().arg_reduce(op, self.view()?, axis, out.view_mut()?)?;
        let out = Tensor::from_data(out);
        if keepdim { Ok(out) } else { out.squeeze(axis as isize) }
    }

    /// Whether any element along the axes is true; of bools.
    pub fn any(&self, axes: &[isize], keepdim: bool) -> Result<Tensor> {
        rules::dtype("any", self.meta("x"), DType::Bool)?;
        self.reduce_bool("any", Reduce::Max, axes, keepdim)
    }

    /// Whether all elements along the axes are true; of bools.
    pub fn all(&self, axes: &[isize], keepdim: bool) -> Result<Tensor> {
        rules::dtype("all", self.meta("x"), DType::Bool)?;
        self.reduce_bool("all", Reduce::Min, axes, keepdim)
    }

    /// Any and all of nothing are false and true, where a maximum has no answer.
    fn reduce_bool(&self, name: &'static str, op: Reduce, axes: &[isize], keepdim: bool) -> Result<Tensor> {
        let resolved = rules::axes(name, self.meta("x"), axes)?;
        if resolved.iter().all(|&a| self.shape()[a] != 0) {
            return self.reduce(op, axes, keepdim);
        }
        let shape = Reduction::new(op, self.shape(), &resolved, keepdim).result(keepdim)?;
        Tensor::full(&shape, Scalar::from(op == Reduce::Min), DType::Bool, self.device())
    }

    /// Running sum along an axis; of integers and bools in `i64`.
    pub fn cumsum(&self, axis: isize) -> Result<Tensor> {
        run_one(&Cumsum { axis: self.axis("cumsum", axis)? }, &[self])
    }

    /// Values in stable order along an axis, and the positions (i64) that they came from; NaN counts as greatest.
    pub fn sort(&self, axis: isize, descending: bool) -> Result<(Tensor, Tensor)> {
        let axis = self.axis("sort", axis)?;
        self.sorted(Sort { name: "sort", axis, descending, k: self.shape()[axis], whole: *self.shape() })
    }

    /// The `k` greatest (or smallest) along an axis in order, and their positions (i64); of equals the first.
    pub fn topk(&self, k: usize, axis: isize, largest: bool) -> Result<(Tensor, Tensor)> {
        let axis = self.axis("topk", axis)?;
        rules::top_k("topk", self.meta("x"), axis, k)?;
        self.sorted(Sort { name: "topk", axis, descending: largest, k, whole: *self.shape() })
    }

    fn sorted(&self, sort: Sort) -> Result<(Tensor, Tensor)> {
        let mut outputs = run(&sort, &[self])?;
        // The function gives two.
        let indices = outputs.pop().unwrap_or_else(|| self.detach());
        let values = outputs.pop().unwrap_or_else(|| self.detach());
        Ok((values, indices))
    }

    /// `ln Σ exp(x)` along an axis, without overflow; −inf, with zero gradient, for a row of −inf.
    pub fn logsumexp(&self, axis: isize, keepdim: bool) -> Result<Tensor> {
        rules::float("logsumexp", self.meta("x"))?;
        let axis = self.axis("logsumexp", axis)?;
        let out = run_one(&LogSumExp { axis }, &[self])?;
        if keepdim { Ok(out) } else { out.squeeze(axis as isize) }
    }
}

macro_rules! reductions {
    ($($(#[$doc:meta])* $name:ident $all:ident $op:expr;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            pub fn $name(&self, axes: &[isize], keepdim: bool) -> Result<Tensor> {
                self.reduce($op, axes, keepdim)
            }

            #[doc = concat!("[`Tensor::", stringify!($name), "`] over all axes: a scalar.")]
            pub fn $all(&self) -> Result<Tensor> {
                self.reduce_all($op)
            }
        )*}
    };
}

reductions! {
    /// Sum over axes, which stay with extent 1 when `keepdim`; of integers and bools in `i64`.
    sum sum_all Reduce::Sum;
    /// Mean over axes; NaN of nothing.
    mean mean_all Reduce::Mean;
    /// Greatest over axes; NaN if any is. Equals share the gradient. An empty axis is an error.
    max max_all Reduce::Max;
    /// Smallest over axes; NaN if any is. Equals share the gradient. An empty axis is an error.
    min min_all Reduce::Min;
    /// Product over axes; of integers and bools in `i64`. Its second derivative is exact where no element is 0.
    prod prod_all Reduce::Prod;
}
