//! Adam (Kingma and Ba, 2015) and AdamW (Loshchilov and Hutter, 2019), one fused update per parameter.

use super::{Optimizer, ParameterGroup, Slot, load_into, require_gradients, slots, state_of};
use crate::Parameters;
use attentia_tensor::{FusedOp, Grads, Result, Tensor, no_grad};
use std::collections::BTreeMap;

/// Constants of Adam and AdamW; the learning rate comes with each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// β₁ and β₂: how slowly the moments forget.
    pub betas: (f64, f64),
    /// ε, outside the root.
    pub epsilon: f64,
    /// λ: `p ← p − lr λ p` in AdamW, `g ← g + λ p` in Adam.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    /// β = (0.9, 0.999), ε = 1e-8, no decay.
    fn default() -> Self {
        AdamWConfig { betas: (0.9, 0.999), epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// Whether decay acts on the parameter or on the gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Decay {
    Decoupled,
    InGradient,
}

/// The moments' names in files.
const MOMENTS: [&str; 2] = ["first", "second"];

/// What both have in common.
#[derive(Debug)]
struct Moments {
    config: AdamWConfig,
    decay: Decay,
    step: u64,
    slots: Vec<Slot<2>>,
}

impl Moments {
    fn new(groups: Vec<ParameterGroup>, config: AdamWConfig, decay: Decay) -> Result<Moments> {
        Ok(Moments { config, decay, step: 0, slots: slots(groups, config.weight_decay)? })
    }

    fn step(&mut self, mut grads: Grads, learning_rate: f64, gradient_scale: f64) -> Result<()> {
        require_gradients(&self.slots, &grads)?;
        self.step += 1;
        let AdamWConfig { betas, epsilon, .. } = self.config;
        let (decay, step) = (self.decay, self.step);
        no_grad(|| {
            for slot in &mut self.slots {
                let Some(mut gradient) = grads.remove(&slot.var) else { continue };
                let mut spec = attentia_tensor::AdamW {
                    learning_rate: learning_rate * slot.learning_rate_factor,
                    betas,
                    epsilon,
                    weight_decay: slot.weight_decay,
                    step,
                    gradient_scale,
                };
                if decay == Decay::InGradient {
                    spec.weight_decay = 0.0;
                    if slot.weight_decay != 0.0 {
                        let scaled = (gradient * gradient_scale)?;
                        gradient = (scaled + (slot.var.value() * slot.weight_decay)?)?;
                        spec.gradient_scale = 1.0;
                    }
                }
                update(&spec, slot, &gradient).map_err(|e| e.in_path(slot.path.as_str()))?;
            }
            Ok(())
        })
    }
}

fn update(spec: &attentia_tensor::AdamW, slot: &mut Slot<2>, gradient: &Tensor) -> Result<()> {
    let device = gradient.device();
    device.support(FusedOp::AdamW, gradient.dtype()).require("adamw")?;
    slot.var.update_with(slot.state.each_mut(), |parameter, [first, second]| {
        device.adamw(spec, gradient.view()?, parameter, first, second)
    })
}

macro_rules! optimizer {
    ($(#[$docs:meta])* $name:ident, $decay:expr) => {
        $(#[$docs])*
        #[derive(Debug)]
        pub struct $name(Moments);

        impl $name {
            /// Over one group; moments start at zero.
            pub fn new(parameters: Parameters, config: AdamWConfig) -> Result<$name> {
                $name::with_groups(vec![parameters.into()], config)
            }

            /// Over groups with learning rates and decays of their own. Errors when a parameter is in two.
            pub fn with_groups(groups: Vec<ParameterGroup>, config: AdamWConfig) -> Result<$name> {
                Ok($name(Moments::new(groups, config, $decay)?))
            }
        }

        impl Optimizer for $name {
            fn step_scaled(&mut self, grads: Grads, learning_rate: f64, gradient_scale: f64) -> Result<()> {
                self.0.step(grads, learning_rate, gradient_scale)
            }

            fn steps(&self) -> u64 {
                self.0.step
            }

            fn state(&self) -> Vec<(String, Tensor)> {
                state_of(&self.0.slots, MOMENTS)
            }

            fn load_state(&mut self, steps: u64, tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
                load_into(&mut self.0.slots, MOMENTS, tensors)?;
                self.0.step = steps;
                Ok(())
            }
        }
    };
}

optimizer! {
    /// AdamW: decay acts on the parameter, apart from the gradient.
    AdamW, Decay::Decoupled
}

optimizer! {
    /// Adam: decay is added to the gradient (L2 regularisation).
    Adam, Decay::InGradient
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Initialise, Scope, gradient_norm};
    use attentia_tensor::{DType, Device};

    fn scope() -> Scope {
        Scope::new(&Device::new(attentia_reference::ReferenceBackend::new()), DType::F64, 3)
    }

    #[test]
    fn a_parameter_without_gradient_is_named_unless_it_is_frozen() {
        let scope = scope();
        let used = (&scope / "used").parameter("weight", &[2], Initialise::Ones).unwrap();
        let forgotten = (&scope / "blocks" / 3).parameter("forgotten", &[2], Initialise::Ones).unwrap();
        let mut optimizer = AdamW::new(scope.parameters(), AdamWConfig::default()).unwrap();
        let grads = || used.tensor().sum_all().unwrap().backward().unwrap();
        let error = optimizer.step(grads(), 0.1).unwrap_err();
        assert!(error.to_string().contains("blocks.3.forgotten"), "{error}");
        assert_eq!((optimizer.steps(), used.tensor().to_vec::<f64>().unwrap()), (0, vec![1.0, 1.0]));
        forgotten.set_requires_grad(false);
        optimizer.step(grads(), 0.1).unwrap();
        assert_eq!(forgotten.value().to_vec::<f64>().unwrap(), [1.0, 1.0]);
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
    fn groups_have_rates_of_their_own_and_state_can_be_taken_over() {
        let scope = scope();
        let slow = scope.parameter("slow", &[1], Initialise::Ones).unwrap();
        let fast = scope.parameter("fast", &[1], Initialise::Ones).unwrap();
        let group = |path: &'static str, learning_rate_factor| ParameterGroup {
            learning_rate_factor,
            ..scope.parameters().filter(move |p| p == path).into()
        };
        let groups = || vec![group("slow", 0.0), group("fast", 2.0)];
        let config = AdamWConfig::default();
        let step = |optimizer: &mut AdamW| {
            let loss = (slow.tensor() + fast.tensor()).unwrap().square().unwrap();
            optimizer.step(loss.backward().unwrap(), 0.1).unwrap();
        };
        let mut first = AdamW::with_groups(groups(), config).unwrap();
        step(&mut first);
        assert_eq!(slow.value().item::<f64>().unwrap(), 1.0);
        assert!((fast.value().item::<f64>().unwrap() - 0.8).abs() < 1e-6);
        let (after, mut state) = (scope.parameters().tensors(), first.state().into_iter().collect());
        step(&mut first);
        let expected = fast.value().item::<f64>().unwrap();

        scope.parameters().load(&after).unwrap();
        let mut second = AdamW::with_groups(groups(), config).unwrap();
        second.load_state(1, &mut state).unwrap();
        assert!(state.is_empty());
        step(&mut second);
        assert_eq!(fast.value().item::<f64>().unwrap(), expected);
        assert!(second.load_state(1, &mut BTreeMap::new()).unwrap_err().to_string().contains("first.fast is missing"));
        let twice = AdamW::with_groups(vec![group("fast", 1.0), group("fast", 1.0)], config).unwrap_err();
        assert!(twice.to_string().contains("two groups"), "{twice}");
    }
}
