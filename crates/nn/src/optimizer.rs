//! AdamW (Loshchilov and Hutter, 2019), one fused update per parameter.

use crate::Parameters;
use attentia_tensor::{DType, Error, ErrorKind, FusedOp, Grads, Result, Tensor, Var, no_grad};

/// Constants of AdamW; the learning rate comes with each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// β₁ and β₂: how slowly the moments forget.
    pub betas: (f64, f64),
    /// ε, outside the root.
    pub epsilon: f64,
    /// Decoupled weight decay; 0 is plain Adam.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    /// β = (0.9, 0.999), ε = 1e-8, no decay.
    fn default() -> Self {
        AdamWConfig { betas: (0.9, 0.999), epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// AdamW over a model's parameters.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    path: String,
    var: Var,
    first: Tensor,
    second: Tensor,
}

impl AdamW {
    /// Moments start at zero.
    pub fn new(parameters: Parameters, config: AdamWConfig) -> Result<AdamW> {
        let slot = |(path, var): (&str, &Var)| {
            let value = var.tensor();
            let moment = || Tensor::zeros(value.shape(), value.dtype().statistics(), value.device());
            Ok(Slot { path: path.to_owned(), var: var.clone(), first: moment()?, second: moment()? })
        };
        Ok(AdamW { config, step: 0, slots: parameters.iter().map(slot).collect::<Result<_>>()? })
    }

    /// Number of updates so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// One update. Errors, and changes nothing, when a parameter has no gradient: the error names every such one.
    pub fn step(&mut self, grads: Grads, learning_rate: f64) -> Result<()> {
        self.step_scaled(grads, learning_rate, 1.0)
    }

    /// One update with the gradients times `gradient_scale`, e.g. from [`clip_factor`].
    pub fn step_scaled(&mut self, mut grads: Grads, learning_rate: f64, gradient_scale: f64) -> Result<()> {
        let missing: Vec<&str> =
            self.slots.iter().filter(|s| grads.get(&s.var).is_none()).map(|s| s.path.as_str()).collect();
        if !missing.is_empty() {
            return Err(Error::new(ErrorKind::Gradient, "step", format!("no gradient for {}", missing.join(", ")))
                .help("did the forward leave it out, or detach what it made? leave frozen parameters out of the optimiser"));
        }
        self.step += 1;
        let AdamWConfig { betas, epsilon, weight_decay } = self.config;
        let spec =
            attentia_tensor::AdamW { learning_rate, betas, epsilon, weight_decay, step: self.step, gradient_scale };
        no_grad(|| {
            for Slot { path, var, first, second } in &mut self.slots {
                let Some(gradient) = grads.remove(var) else { continue };
                update(&spec, var, &gradient, first, second).map_err(|e| e.in_path(path.as_str()))?;
            }
            Ok(())
        })
    }
}

fn update(
    spec: &attentia_tensor::AdamW,
    var: &Var,
    gradient: &Tensor,
    first: &mut Tensor,
    second: &mut Tensor,
) -> Result<()> {
    let device = gradient.device();
    device.support(FusedOp::AdamW, gradient.dtype()).require("adamw")?;
    var.update_with([first, second], |parameter, [first, second]| {
        device.adamw(spec, gradient.view()?, parameter, first, second)
    })
}

/// Euclidean norm of all gradients together.
pub fn gradient_norm(grads: &Grads) -> Result<f64> {
    no_grad(|| {
        let mut squares = 0.0;
        for (_, gradient) in grads.iter() {
            squares += gradient.square()?.sum_all()?.to_dtype(DType::F64)?.item::<f64>()?;
        }
        Ok(squares.sqrt())
    })
}

/// The factor that brings a gradient of this norm down to `limit`; 1 when it is shorter.
pub fn clip_factor(norm: f64, limit: f64) -> f64 {
    if norm > limit { limit / norm } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Initialise, Scope};
    use attentia_tensor::Device;

    fn scope() -> Scope {
        Scope::new(&Device::new(attentia_reference::ReferenceBackend::new()), DType::F64, 3)
    }

    #[test]
    fn a_parameter_without_gradient_is_named() {
        let scope = scope();
        let used = (&scope / "used").parameter("weight", &[2], Initialise::Ones).unwrap();
        (&scope / "blocks" / 3).parameter("forgotten", &[2], Initialise::Ones).unwrap();
        let mut optimizer = AdamW::new(scope.parameters(), AdamWConfig::default()).unwrap();
        let grads = used.tensor().sum_all().unwrap().backward().unwrap();
        let error = optimizer.step(grads, 0.1).unwrap_err();
        assert!(error.to_string().contains("blocks.3.forgotten"), "{error}");
        assert_eq!((optimizer.steps(), used.tensor().to_vec::<f64>().unwrap()), (0, vec![1.0, 1.0]));
    }

    /// Two steps by hand: with a constant gradient both bias-corrected moments are the gradient and its square.
    #[test]
    fn first_steps_by_hand() {
        let scope = scope();
        let weight = scope.parameter("weight", &[1], Initialise::Ones).unwrap();
        let config = AdamWConfig { weight_decay: 0.5, ..AdamWConfig::default() };
        let mut optimizer = AdamW::new(scope.parameters(), config).unwrap();
        let mut expected = 1.0;
        for _ in 0..2 {
            let grads = weight.tensor().mul_scalar(4.0).unwrap().sum_all().unwrap().backward().unwrap();
            assert_eq!(gradient_norm(&grads).unwrap(), 4.0);
            optimizer.step(grads, 0.1).unwrap();
            expected = expected - 0.1 * 0.5 * expected - 0.1 * 4.0 / (4.0 + 1e-8);
        }
        assert!((weight.tensor().item::<f64>().unwrap() - expected).abs() < 1e-12);
    }

    #[test]
    fn clipping_only_shortens() {
        assert_eq!((clip_factor(0.5, 1.0), clip_factor(4.0, 1.0), clip_factor(0.0, 1.0)), (1.0, 0.25, 1.0));
    }
}
