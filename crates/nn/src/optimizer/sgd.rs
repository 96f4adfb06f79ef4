//! Stochastic gradient descent with momentum (Sutskever et al., 2013), as PyTorch has it.

use super::{Optimizer, ParameterGroup, Slot, load_into, require_gradients, slots, state_of};
use crate::Parameters;
use attentia_tensor::{Grads, Result, Tensor, no_grad};
use std::collections::BTreeMap;

/// Constants of SGD; the learning rate comes with each step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SgdConfig {
    /// μ: the share of the velocity that stays, in `v ← μ v + g`.
    pub momentum: f64,
    /// Steps along `g + μ v` instead of `v`.
    pub nesterov: bool,
    /// λ in `g ← g + λ p`.
    pub weight_decay: f64,
}

/// `p ← p − lr · v`
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    step: u64,
    slots: Vec<Slot<1>>,
}

impl Sgd {
    /// Over one group; velocities start at zero.
    pub fn new(parameters: Parameters, config: SgdConfig) -> Result<Sgd> {
        Sgd::with_groups(vec![parameters.into()], config)
    }

    /// Over groups with learning rates and decays of their own. Errors when a parameter is in two.
    pub fn with_groups(groups: Vec<ParameterGroup>, config: SgdConfig) -> Result<Sgd> {
        Ok(Sgd { config, step: 0, slots: slots(groups, config.weight_decay)? })
    }
}

impl Optimizer for Sgd {
    fn step_scaled(&mut self, mut grads: Grads, learning_rate: f64, gradient_scale: f64) -> Result<()> {
        require_gradients(&self.slots, &grads)?;
        self.step += 1;
        let SgdConfig { momentum, nesterov, .. } = self.config;
        no_grad(|| {
            for Slot { path, var, learning_rate_factor, weight_decay, state: [velocity] } in &mut self.slots {
                let Some(gradient) = grads.remove(var) else { continue };
                let value = var.value();
                let mut update = || {
                    let mut g = gradient.to_dtype(velocity.dtype())?;
                    if gradient_scale != 1.0 {
                        g = (g * gradient_scale)?;
                    }
                    if *weight_decay != 0.0 {
                        g = (g + (value.to_dtype(velocity.dtype())? * *weight_decay)?)?;
                    }
                    if momentum != 0.0 {
                        *velocity = ((&*velocity * momentum)? + &g)?;
                        g = if nesterov { (g + (&*velocity * momentum)?)? } else { velocity.clone() };
                    }
                    let change = (g * (learning_rate * *learning_rate_factor))?.to_dtype(value.dtype())?;
                    var.set(&(&value - change)?)
                };
                update().map_err(|e| e.in_path(path.as_str()))?;
            }
            Ok(())
        })
    }

    fn steps(&self) -> u64 {
        self.step
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        state_of(&self.slots, ["velocity"])
    }

    fn load_state(&mut self, steps: u64, tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
        load_into(&mut self.slots, ["velocity"], tensors)?;
        self.step = steps;
        Ok(())
    }
}
