//! The affine map of a layer, with the weight as layers keep it: `[out, in]`.
//!
//! ```text
//! x [.., K], w [N, K], b [N] → y = x · wᵀ + b   [.., N]
//! R = all rows of x:   y  [R, N] = x [R, K] · wᵀ [K, N] + b              the product adds the bias: no pass of its own
//!                      dx [R, K] = g [R, N] · w [N, K]                   and adds to what others have given for dx so far
//!                      dw [N, K] = gᵀ [N, R] · x [R, K]                 in the weight's own order, which its optimiser walks
//!                      db [N]    = Σ rows of g
//! ```
//!
//! Parameters may be wider than x, f32 beside bf16 or f16: they are rounded where they are multiplied, and dw is written in
//! their dtype, as it was summed.

use crate::{
    Backward, Data, Function, Saver, Tensor, function::run_one, graph::records, matmul::fold, tensor::same_device,
};
use attentia_backend::{
    Activation, Apply, DType, Epilogue, Error, ErrorKind, Layout, Reduce, Result, Shape, rules, rules::Meta,
};

/// `x · wᵀ (+ b)` of x `[.., K]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    /// Dtype of the weight and the bias.
    pub parameters: DType,
}

impl Function for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (x, w) = (inputs[0].data(), inputs[1].data());
        let rounded = self.rounded(w, x.dtype())?;
        let out =
            self.apply(&rows_of(x)?, rounded.as_ref().unwrap_or(w), inputs.get(2).map(|bias| bias.data()), None)?;
        // Each operand is needed for the gradient of the other only.
        if save.needs(1) {
            save.input(0);
        }
        if save.needs(0) {
            save.input(1);
            if let Some(rounded) = rounded {
                save.extra(rounded);
            }
        }
        let shape = with_last(x.shape(), w.shape()[0])?;
        Ok(vec![out.relayout(Layout::contiguous(shape))])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let mut saved = std::mem::take(&mut b.saved).into_iter();
        let x = if b.recorded[1] { saved.next() } else { None };
        let w = if b.recorded[0] { saved.next() } else { None };
        let rounded = saved.next();
        let mut gradients = vec![None; b.needs.len()];
        let Some(g) = b.take_grad(0) else { return Ok(gradients) };
        let (shape, g) = (*g.shape(), into_rows(g)?);
        if let Some(w) = w.filter(|_| b.wants(0)) {
            // The rounded weight is a constant: where this derivative is derived again, the weight is rounded once more.
            let w = match rounded {
                Some(rounded) if !records(&[&w]) => rounded,
                _ => w.to_dtype(g.dtype())?,
            };
            gradients[0] = Some(input_gradient(&mut b, &g, &w, &shape)?);
        }
        if let Some(x) = x.filter(|_| b.wants(1)) {
            gradients[1] = Some(self.weight_gradient(&g, &as_rows(&x)?)?);
        }
        if b.wants(2) {
            gradients[2] = Some(self.bias_gradient(&g)?);
        }
        Ok(gradients)
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let dtype = inputs[0].dtype();
        let y = inputs[0].matmul(&inputs[1].to_dtype(dtype)?.t()?);
        Ok(vec![match inputs.get(2) {
            Some(bias) => y + bias.to_dtype(dtype)?,
            None => y,
        }?])
    }
}

/// `g · w` of g `[R, N]` and w `[N, K]` as the gradient of input 0, `[.., K]` for an output of this shape: added to what there
/// is of it.
pub(crate) fn input_gradient(b: &mut Backward, g: &Tensor, w: &Tensor, output: &Shape) -> Result<Tensor> {
    let shape = with_last(output, w.shape()[1])?;
    let Some(sum) = b.take_sum(0) else { return g.matmul(w)?.reshape_to(&shape) };
    let mut sum = sum.into_data();
    if fold(sum.layout()).is_none() || !sum.is_writable() {
        sum = sum.copied()?;
    }
    let rows = *rows_of(&sum)?.layout();
    g.device().matmul(g.view()?, w.view()?, Epilogue::ACCUMULATE, sum.view_mut_as(&rows)?)?;
    Ok(Tensor::from_data(sum))
}

/// `[.., K]` as `[R, K]`: a copy only where strides leave no other way.
pub(crate) fn rows_of(x: &Data) -> Result<Data> {
    if let Some(rows) = fold(x.layout()) {
        return Ok(x.with_layout(rows));
    }
    let copy = x.copied()?;
    let rows = Shape::new(&[copy.shape().iter().rev().skip(1).product(), copy.shape().last().copied().unwrap_or(1)])?;
    Ok(copy.relayout(Layout::contiguous(rows)))
}

/// The shape with another last extent.
pub(crate) fn with_last(shape: &Shape, extent: usize) -> Result<Shape> {
    let lead = &shape[..shape.rank().saturating_sub(1)];
    Shape::new(&[lead, &[extent]].concat())
}

impl Linear {
    /// A parameter in the dtype that is multiplied, where that is another.
    pub(crate) fn rounded(&self, parameter: &Data, dtype: DType) -> Result<Option<Data>> {
        if self.parameters == dtype { Ok(None) } else { parameter.cast(dtype).map(Some) }
    }

    /// `f(x · wᵀ + b)` of a weight in x's dtype.
    pub(crate) fn apply(&self, x: &Data, w: &Data, bias: Option<&Data>, f: Option<Activation>) -> Result<Data> {
        let transposed = w.layout().transpose(0, 1);
        let mut out = Data::alloc(x.device(), x.dtype(), Shape::new(&[x.shape()[0], w.shape()[0]])?)?;
        let rounded = bias.map(|bias| self.rounded(bias, x.dtype())).transpose()?.flatten();
        let bias = rounded.as_ref().or(bias).map(Data::view).transpose()?;
        let epilogue = Epilogue { bias, apply: f.map(Apply::Value), add: None };
        x.device().matmul(x.view()?, w.view_as(&transposed)?, epilogue, out.view_mut()?)?;
        Ok(out)
    }

    /// `gᵀ · x` in the weight's dtype. What is recorded is the product of widened operands, which a product of 16-bit ones
    /// with sums in f32 is too.
    pub(crate) fn weight_gradient(&self, g: &Tensor, x: &Tensor) -> Result<Tensor> {
        if self.parameters == g.dtype() || records(&[g, x]) {
            return g.to_dtype(self.parameters)?.t()?.matmul(&x.to_dtype(self.parameters)?);
        }
        let transposed = g.t()?;
        let shape = Shape::new(&[g.shape()[1], x.shape()[1]])?;
        let mut out = Data::alloc(g.device(), self.parameters, shape)?;
        g.device().matmul(transposed.view()?, x.view()?, Epilogue::NONE, out.view_mut()?)?;
        Ok(Tensor::from_data(out))
    }

    /// `Σ rows of g` in the bias's dtype, likewise.
    pub(crate) fn bias_gradient(&self, g: &Tensor) -> Result<Tensor> {
        if self.parameters == g.dtype() || records(&[g]) {
            return g.to_dtype(self.parameters)?.sum(&[0], false);
        }
        let n = g.shape()[1];
        let mut out = Data::alloc(g.device(), self.parameters, Shape::new(&[1, n])?)?;
        g.device().reduce(Reduce::Sum, g.view()?, &[0], out.view_mut()?)?;
        Tensor::from_data(out).reshape_to(&Shape::new(&[n])?)
    }
}

impl Tensor {
    /// `x wᵀ + b` along the last axis: x `[.., K]`, weight `[N, K]`, bias `[N]`, result `[.., N]`. Errors when K or N
    /// disagree, or dtypes or devices do.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// use attentia_tensor::Tensor;
    /// let x = Tensor::from_slice(&[1.0, 2.0], &[1, 2], &device)?;
    /// let weight = Tensor::from_slice(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0], &[3, 2], &device)?;
    /// let bias = Tensor::from_slice(&[0.5, 0.0, 0.0], &[3], &device)?;
    /// assert_eq!(x.linear(&weight, Some(&bias))?.to_vec::<f64>()?, [1.5, 2.0, 3.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let metas = linear_operands(self.meta("x"), weight, bias);
        rules::float("linear", metas[0])?;
        rules::alike("linear", &metas)?;
        linear("linear", self, weight, bias)
    }

    /// [`linear`](Tensor::linear) of a 16-bit x with parameters in f32, as mixed precision keeps them: they are rounded to
    /// x's dtype where they are used, sums are f32, the result has x's dtype. Gradients of weight and bias are f32 and were
    /// never rounded, which they would be behind `weight.to_dtype(..)`. Errors when x is not 16-bit, the parameters are not
    /// f32, or shapes or devices disagree.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// use attentia_tensor::{DType, Tensor, Var};
    /// let x = Tensor::ones(&[4, 2], DType::Bf16, &device)?;
    /// let weight = Var::new(Tensor::ones(&[3, 2], DType::F32, &device)?)?;
    /// let y = x.mixed_linear(&weight.tensor(), None)?;
    /// assert_eq!(y.dtype(), DType::Bf16);
    /// let gradients = y.sum_all()?.backward()?;
    /// assert_eq!(gradients.get(&weight).map(|g| g.dtype()), Some(DType::F32));
    /// # Ok(())
    /// # }
    /// ```
    pub fn mixed_linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        const OP: &str = "mixed_linear";
        let metas = linear_operands(self.meta("x"), weight, bias);
        if !matches!(self.dtype(), DType::Bf16 | DType::F16) {
            return Err(Error::new(ErrorKind::DType, OP, format!("x is {}, and not 16-bit", self.dtype()))
                .operands(metas.iter().map(|meta| meta.operand()))
                .help("x is bf16 or f16 and the parameters f32; where all have one dtype, use linear"));
        }
        for &parameter in &metas[1..] {
            rules::dtype(OP, parameter, DType::F32)?;
        }
        linear(OP, self, weight, bias)
    }
}

fn linear_operands<'a>(x: Meta<'a>, weight: &'a Tensor, bias: Option<&'a Tensor>) -> Vec<Meta<'a>> {
    [x, weight.meta("weight")].into_iter().chain(bias.map(|b| b.meta("bias"))).collect()
}

/// Checks shapes, and answers with the result's.
pub(crate) fn check_shapes(op: &'static str, x: Meta, weight: &Tensor, bias: Option<&Tensor>) -> Result<Shape> {
    let wrong = |what: &str| {
        let metas = linear_operands(x, weight, bias);
        Error::new(ErrorKind::Shape, op, what.to_owned()).operands(metas.iter().map(|meta| meta.operand()))
    };
    let (Some(&k), &[n, inner]) = (x.layout.shape().last(), weight.shape().as_slice()) else {
        return Err(wrong("the weight is no matrix, or x has no axis").help("x [.., in], weight [out, in], bias [out]"));
    };
    if k != inner {
        return Err(wrong(&format!("x ends with {k}, and the weight takes {inner}"))
            .help("the weight is [out, in]; in is the last extent of x"));
    }
    if bias.is_some_and(|bias| bias.shape().as_slice() != [n]) {
        return Err(wrong("the bias is not one number per output").help(format!("expected [{n}]")));
    }
    with_last(x.layout.shape(), n)
}

/// [`as_rows`], without a second handle on the storage: what others have of a cotangent can be written to once it is gone.
pub(crate) fn into_rows(x: Tensor) -> Result<Tensor> {
    as_rows(&x)
}

/// [`rows_of`], recorded.
pub(crate) fn as_rows(x: &Tensor) -> Result<Tensor> {
    let (&width, lead) = x.shape().split_last().unwrap_or((&1, &[]));
    x.reshape_to(&Shape::new(&[lead.iter().product(), width])?)
}

/// The map, when dtypes fit.
fn linear(op: &'static str, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    check_shapes(op, x.meta("x"), weight, bias)?;
    let mut operands = vec![x, weight];
    operands.extend(bias);
    same_device(op, &operands)?;
    run_one(&Linear { parameters: weight.dtype() }, &operands)
}

#[cfg(test)]
mod tests {
    use crate::{DType, Device, Tensor, Var, grad, tests::device};

    /// x in bf16, and a weight and a bias in f32 that bf16 does not hold.
    fn operands(device: &Device) -> (Var, Var, Var) {
        let of = |values: &[f32], extents: &[usize], dtype| {
            Var::new(Tensor::from_slice(values, extents, device).unwrap().to_dtype(dtype).unwrap()).unwrap()
        };
        let x = of(&[1.0, -0.5, 3.0, 0.25, 2.0, -1.0], &[2, 3], DType::Bf16);
        let weight = of(&[0.1, 0.2, 0.3, -0.7, 0.011, 1.9], &[2, 3], DType::F32);
        (x, weight, of(&[0.013, -4.7], &[2], DType::F32))
    }

    fn behind_a_cast(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
        let rounded = |t: &Tensor| t.to_dtype(DType::Bf16).unwrap();
        x.linear(&rounded(weight), Some(&rounded(bias))).unwrap()
    }

    #[test]
    fn the_order_of_what_is_kept_fits_whatever_wants_a_gradient() {
        let (x, weight, bias) = operands(&device());
        let gradients = |wanted: [bool; 3], create_graph: bool| {
            let [x, weight, bias] = [(&x, 0), (&weight, 1), (&bias, 2)].map(|(var, i)| {
                let tensor = var.tensor();
                if wanted[i] { tensor } else { tensor.detach() }
            });
            let y = x.mixed_linear(&weight, Some(&bias)).unwrap();
            let (all, seed) = ([x, weight, bias], y.detach());
            let leaves: Vec<&Tensor> = all.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(x, _)| x).collect();
            let given = grad(&[&y], Some(&[&seed]), &leaves, create_graph).unwrap().into_iter();
            given.map(|g| g.unwrap().to_dtype(DType::F32).unwrap().to_vec::<f32>().unwrap()).collect::<Vec<_>>()
        };
        let all = gradients([true; 3], false);
        for wanted in (1..8).map(|bits| [0, 1, 2].map(|i| bits >> i & 1 == 1)) {
            let expected: Vec<_> =
                all.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(g, _)| g.clone()).collect();
            for create_graph in [false, true] {
                assert_eq!(gradients(wanted, create_graph), expected, "{wanted:?}, recorded: {create_graph}");
            }
        }
    }

    #[test]
    fn parameters_in_f32_give_the_bits_of_rounded_ones_and_gradients_that_are_not_rounded() {
        let device = device();
        let (x, weight, bias) = operands(&device);
        let seed = Tensor::from_slice(&[0.1f32, 0.7, -0.9, 0.3], &[2, 2], &device).unwrap();
        let run = |mixed: bool| {
            let (x, weight, bias) = (x.tensor(), weight.tensor(), bias.tensor());
            let y =
                if mixed { x.mixed_linear(&weight, Some(&bias)).unwrap() } else { behind_a_cast(&x, &weight, &bias) };
            let gradients = (&y * &seed.to_dtype(DType::Bf16).unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
            (y, gradients)
        };
        let ((y, ours), (expected, cast)) = (run(true), run(false));
        let of = |t: Option<&Tensor>| t.unwrap().to_dtype(DType::F32).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(of(Some(&y)), of(Some(&expected)));
        assert_eq!(of(ours.get(&x)), of(cast.get(&x)));
        let rounded = |t: Option<&Tensor>| of(Some(&t.unwrap().to_dtype(DType::Bf16).unwrap()));
        assert_eq!(rounded(ours.get(&bias)), of(cast.get(&bias)));
        let (ours, cast) = (ours.get(&weight).unwrap(), cast.get(&weight).unwrap());
        assert_eq!((ours.dtype(), cast.dtype()), (DType::F32, DType::F32));
        // Sums of products of bf16 numbers, exact in f32 but not in bf16.
        assert_ne!(of(Some(ours)), of(Some(cast)));
        assert_eq!(of(Some(&ours.to_dtype(DType::Bf16).unwrap())), of(Some(cast)));
    }

    #[test]
    fn second_derivatives_reach_parameters_in_f32() {
        let (x, weight, bias) = operands(&device());
        // y², so that the derivative with respect to x depends on the weight.
        let second = |y: Tensor| {
            let loss = y.square().unwrap().sum_all().unwrap();
            let first = grad(&[&loss], None, &[&x.tensor()], true).unwrap().remove(0).unwrap();
            let gradients = first.sum_all().unwrap().backward().unwrap();
            gradients.get(&weight).unwrap().to_vec::<f32>().unwrap()
        };
        let mixed = second(x.tensor().mixed_linear(&weight.tensor(), Some(&bias.tensor())).unwrap());
        let cast = second(behind_a_cast(&x.tensor(), &weight.tensor(), &bias.tensor()));
        assert!(mixed.iter().any(|&g| g != 0.0));
        for (ours, theirs) in mixed.iter().zip(&cast) {
            assert!((ours - theirs).abs() <= theirs.abs() / 64.0, "{mixed:?} against {cast:?}");
        }
    }

    #[test]
    fn dtypes_that_are_not_mixed_are_refused() {
        let (x, weight, _) = operands(&device());
        let (narrow, wide) = (x.tensor(), weight.tensor());
        let error = wide.mixed_linear(&wide, None).unwrap_err();
        assert!(error.to_string().contains("not 16-bit"), "{error}");
        let error = narrow.mixed_linear(&narrow, None).unwrap_err();
        assert!(error.to_string().contains("weight must be f32"), "{error}");
    }
}
