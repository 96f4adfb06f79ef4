//! Derivatives against differences.

use crate::{Tensor, Var, grad, graph::enable_grad, no_grad};
use attentia_backend::{DType, Error, ErrorKind, Result, RngKey};

/// How [`gradcheck`] compares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradcheckOptions {
    /// Half the distance of the two points of a central difference. The default balances rounding (10⁻¹⁶ / step)
    /// against curvature (step²).
    pub step: f64,
    /// Accepted difference relative to the numeric derivative.
    pub rtol: f64,
    /// Accepted absolute difference.
    pub atol: f64,
    /// `None` moves every element of every input by itself; `Some(n)` moves all of them at once along `n` random
    /// directions, which is cheap for large inputs but cannot name the element.
    pub directions: Option<usize>,
    /// Stream of the weights and the directions.
    pub key: RngKey,
}

impl Default for GradcheckOptions {
    fn default() -> Self {
        GradcheckOptions { step: 1e-6, rtol: 1e-5, atol: 1e-7, directions: None, key: RngKey::new(0x6a09_e667) }
    }
}

/// Checks that the gradients of `f` with respect to its `f64` inputs are those of central differences of
/// `Σ weight · output`, for one set of random weights. Other inputs are passed on as they are. `f` must be a pure
/// function, smooth around the inputs. The error names the input, the element, and both numbers.
///
/// ```
/// # fn main() -> attentia_tensor::Result<()> {
/// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
/// use attentia_tensor::{Tensor, gradcheck};
/// let x = Tensor::from_slice(&[0.3, -1.2], &[2], &device)?;
/// gradcheck(|x| Ok(vec![x[0].sin()?]), &[x], Default::default())?;
/// # Ok(())
/// # }
/// ```
pub fn gradcheck(
    f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    inputs: &[Tensor],
    options: GradcheckOptions,
) -> Result<()> {
    for (i, input) in inputs.iter().enumerate() {
        if input.dtype().is_float() && input.dtype() != DType::F64 {
            return Err(Error::new(ErrorKind::DType, "gradcheck", format!("input {i} is too coarse for differences"))
                .operand(input.data().operand("input").expected("f64"))
                .help("convert it with to_dtype(DType::F64)"));
        }
    }
    let checked: Vec<usize> = (0..inputs.len()).filter(|&i| inputs[i].dtype() == DType::F64).collect();
    let leaves = inputs.iter().map(leaf).collect::<Result<Vec<_>>>()?;
    let outputs = enable_grad(|| f(&leaves))?;
    let weights = weights(&outputs, options.key)?;
    let gradients = weighted_gradients(&outputs, &weights, &leaves, &checked)?;
    let objective = |inputs: &[Tensor]| weigh(&no_grad(|| f(inputs))?, &weights);
    match options.directions {
        None => each_element(inputs, &checked, &gradients, objective, options),
        Some(count) => along_directions(inputs, &checked, &gradients, objective, options, count),
    }
}

/// [`gradcheck`] of the gradients of `f`: its second derivatives, with respect to the inputs and the cotangents.
pub fn gradgradcheck(
    f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    inputs: &[Tensor],
    options: GradcheckOptions,
) -> Result<()> {
    let outputs = no_grad(|| f(inputs))?;
    let cotangents = weights(&outputs, options.key.call(1))?;
    let all: Vec<Tensor> = inputs.iter().cloned().chain(cotangents.into_iter().flatten()).collect();
    gradcheck(|all| gradients(&f, inputs.len(), all), &all, options)
}

/// The gradients of `f` with respect to its float inputs, as a function that can be differentiated: of the `count`
/// inputs of `f`, and after them one cotangent per f64 output.
pub(crate) fn gradients(
    f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    count: usize,
    all: &[Tensor],
) -> Result<Vec<Tensor>> {
    let (inputs, cotangents) = all.split_at(count.min(all.len()));
    enable_grad(|| {
        // Differences are taken with plain tensors, which need leaves for a gradient to exist.
        let inputs = inputs
            .iter()
            .map(|t| if t.requires_grad() { Ok(t.clone()) } else { leaf(t) })
            .collect::<Result<Vec<_>>>()?;
        let outputs = f(&inputs)?;
        let wanted: Vec<&Tensor> = inputs.iter().filter(|t| t.requires_grad()).collect();
        let (roots, seeds): (Vec<&Tensor>, Vec<&Tensor>) = outputs
            .iter()
            .filter(|t| t.dtype() == DType::F64)
            .zip(cotangents)
            .filter(|(output, _)| output.requires_grad())
            .unzip();
        Ok(grad(&roots, Some(&seeds), &wanted, true)?.into_iter().flatten().collect())
    })
}

pub(crate) fn leaf(input: &Tensor) -> Result<Tensor> {
    if input.dtype().is_float() { Ok(Var::new(input.detach())?.tensor()) } else { Ok(input.clone()) }
}

/// One random weight per element of each f64 output, away from 0; `None` for other outputs.
pub(crate) fn weights(outputs: &[Tensor], key: RngKey) -> Result<Vec<Option<Tensor>>> {
    let weight = |(j, output): (usize, &Tensor)| {
        let key = key.step(j as u64);
        (output.dtype() == DType::F64)
            .then(|| Tensor::rand_uniform(key, 0.5, 1.5, output.shape(), DType::F64, output.device()))
            .transpose()
    };
    outputs.iter().enumerate().map(weight).collect()
}

fn weigh(outputs: &[Tensor], weights: &[Option<Tensor>]) -> Result<f64> {
    let mut sum = 0.0;
    for (output, weight) in outputs.iter().zip(weights) {
        if let Some(weight) = weight {
            let (output, weight) = (output.to_vec::<f64>()?, weight.to_vec::<f64>()?);
            sum += output.iter().zip(&weight).map(|(y, w)| y * w).sum::<f64>();
        }
    }
    Ok(sum)
}

/// The gradients by differentiation, zeros where there is none, in the order of `checked`.
fn weighted_gradients(
    outputs: &[Tensor],
    weights: &[Option<Tensor>],
    leaves: &[Tensor],
    checked: &[usize],
) -> Result<Vec<Vec<f64>>> {
    let (roots, seeds): (Vec<&Tensor>, Vec<&Tensor>) = outputs
        .iter()
        .zip(weights)
        .filter(|(y, _)| y.requires_grad())
        .filter_map(|(y, w)| Some((y, w.as_ref()?)))
        .unzip();
    let wanted: Vec<&Tensor> = checked.iter().map(|&i| &leaves[i]).collect();
    let gradients = grad(&roots, Some(&seeds), &wanted, false)?;
    let dense = |(gradient, leaf): (Option<Tensor>, &&Tensor)| match gradient {
        Some(gradient) => gradient.to_vec::<f64>(),
        None => Ok(vec![0.0; leaf.count()]),
    };
    gradients.into_iter().zip(&wanted).map(dense).collect()
}

fn each_element(
    inputs: &[Tensor],
    checked: &[usize],
    gradients: &[Vec<f64>],
    objective: impl Fn(&[Tensor]) -> Result<f64>,
    options: GradcheckOptions,
) -> Result<()> {
    let mut moved: Vec<Tensor> = inputs.iter().map(Tensor::detach).collect();
    for (&i, gradient) in checked.iter().zip(gradients) {
        let values = inputs[i].to_vec::<f64>()?;
        for (element, &analytic) in gradient.iter().enumerate() {
            let mut at = |nudge: f64| {
                let mut values = values.clone();
                values[element] += nudge;
                moved[i] = Tensor::from_slice(&values, inputs[i].shape(), inputs[i].device())?;
                objective(&moved)
            };
            let numeric = (at(options.step)? - at(-options.step)?) / (2.0 * options.step);
            if !close(analytic, numeric, options) {
                let place = position(element, inputs[i].shape());
                return Err(disagree(&format!("of input {i} at {place:?}"), analytic, numeric, &inputs[i]));
            }
        }
        moved[i] = inputs[i].detach();
    }
    Ok(())
}

fn along_directions(
    inputs: &[Tensor],
    checked: &[usize],
    gradients: &[Vec<f64>],
    objective: impl Fn(&[Tensor]) -> Result<f64>,
    options: GradcheckOptions,
    count: usize,
) -> Result<()> {
    for n in 0..count {
        let mut analytic = 0.0;
        let (mut ahead, mut behind) = (inputs.to_vec(), inputs.to_vec());
        for (&i, gradient) in checked.iter().zip(gradients) {
            let key = options.key.call(2 + n as u64).step(i as u64);
            let direction = Tensor::randn(key, inputs[i].shape(), DType::F64, inputs[i].device())?;
            analytic += gradient.iter().zip(direction.to_vec::<f64>()?).map(|(g, d)| g * d).sum::<f64>();
            let step = direction.mul_scalar(options.step)?;
            ahead[i] = inputs[i].detach().add(&step)?;
            behind[i] = inputs[i].detach().sub(&step)?;
        }
        let numeric = (objective(&ahead)? - objective(&behind)?) / (2.0 * options.step);
        if let (false, Some(input)) = (close(analytic, numeric, options), inputs.first()) {
            return Err(disagree(&format!("along direction {n}"), analytic, numeric, input));
        }
    }
    Ok(())
}

fn close(analytic: f64, numeric: f64, options: GradcheckOptions) -> bool {
    // Written so that NaN is not close to anything.
    (analytic - numeric).abs() <= options.atol + options.rtol * numeric.abs()
}

fn disagree(place: &str, analytic: f64, numeric: f64, input: &Tensor) -> Error {
    let what = format!("the gradient {place} is {analytic:e}, and differences give {numeric:e}");
    Error::new(ErrorKind::Gradient, "gradcheck", what).operand(input.data().operand("input"))
}

/// Index along each axis of the n-th element in row-major order.
fn position(mut element: usize, shape: &[usize]) -> Vec<usize> {
    let mut place = vec![0; shape.len()];
    for (at, &extent) in place.iter_mut().zip(shape).rev() {
        *at = element % extent.max(1);
        element /= extent.max(1);
    }
    place
}
