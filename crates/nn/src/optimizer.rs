//! Optimisers: parameters in groups, a slot of state for each, one trait over all.

pub(crate) mod adam;
pub(crate) mod clip;
pub(crate) mod sgd;

use crate::Parameters;
use attentia_tensor::{Error, ErrorKind, Grads, Result, Tensor, Var};
use std::{collections::BTreeMap, fmt::Debug};

/// Replaces parameters by better ones.
pub trait Optimizer: Debug + Send {
    /// One update with the gradients times `gradient_scale`, e.g. from [`crate::clip_factor`].
    ///
    /// Errors, and changes nothing, when a parameter that is not frozen has no gradient: the error names every such
    /// one. A parameter's learning rate is this one times its group's factor.
    fn step_scaled(&mut self, grads: Grads, learning_rate: f64, gradient_scale: f64) -> Result<()>;

    /// One update.
    fn step(&mut self, grads: Grads, learning_rate: f64) -> Result<()> {
        self.step_scaled(grads, learning_rate, 1.0)
    }

    /// Number of updates so far.
    fn steps(&self) -> u64;

    /// Its tensors, by a name of the state and the parameter's path, such as `first.encoder.0.self.query.weight`:
    /// with [`Optimizer::steps`], all that it remembers.
    fn state(&self) -> Vec<(String, Tensor)>;

    /// Takes up where another one of the same configuration and parameters was. Errors, and changes nothing, when a
    /// tensor is missing or has another shape or dtype; tensors that are not of its names stay where they are.
    fn load_state(&mut self, steps: u64, tensors: &mut BTreeMap<String, Tensor>) -> Result<()>;
}

/// Parameters that are treated alike.
#[derive(Clone, Debug)]
pub struct ParameterGroup {
    /// Which ones, e.g. by [`Parameters::filter`].
    pub parameters: Parameters,
    /// Factor on the learning rate of each step.
    pub learning_rate_factor: f64,
    /// Weight decay in place of the optimiser's; `None` keeps that.
    pub weight_decay: Option<f64>,
}

/// All parameters at the optimiser's own learning rate and decay.
impl From<Parameters> for ParameterGroup {
    fn from(parameters: Parameters) -> ParameterGroup {
        ParameterGroup { parameters, learning_rate_factor: 1.0, weight_decay: None }
    }
}

/// A parameter and the `N` tensors that its optimiser keeps for it.
#[derive(Debug)]
struct Slot<const N: usize> {
    path: String,
    var: Var,
    learning_rate_factor: f64,
    weight_decay: f64,
    state: [Tensor; N],
}

/// One slot per parameter, its tensors zero. Errors when a parameter is in two groups.
fn slots<const N: usize>(groups: Vec<ParameterGroup>, weight_decay: f64) -> Result<Vec<Slot<N>>> {
    let mut slots = BTreeMap::new();
    for group in groups {
        for (path, var) in group.parameters.iter() {
            let value = var.value();
            let mut state = Vec::with_capacity(N);
            for _ in 0..N {
                state.push(Tensor::zeros(value.shape(), value.dtype().statistics(), value.device())?);
            }
            let Ok(state) = <[Tensor; N]>::try_from(state) else { continue }; // N were made
            let slot = Slot {
                path: path.to_owned(),
                var: var.clone(),
                learning_rate_factor: group.learning_rate_factor,
                weight_decay: group.weight_decay.unwrap_or(weight_decay),
                state,
            };
            if slots.insert(path.to_owned(), slot).is_some() {
                return Err(Error::new(ErrorKind::Argument, "optimizer", format!("{path} is in two groups"))
                    .help("split the parameters with Parameters::filter, so that each is in one"));
            }
        }
    }
    Ok(slots.into_values().collect())
}

/// Errors when a parameter that is not frozen has no gradient.
fn require_gradients<const N: usize>(slots: &[Slot<N>], grads: &Grads) -> Result<()> {
    let missing = |slot: &&Slot<N>| slot.var.requires_grad() && grads.get(&slot.var).is_none();
    let missing: Vec<&str> = slots.iter().filter(missing).map(|slot| slot.path.as_str()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Gradient, "step", format!("no gradient for {}", missing.join(", ")))
        .help("did the forward leave it out, or detach what it made? freeze what should stay as it is"))
}

fn state_of<const N: usize>(slots: &[Slot<N>], names: [&str; N]) -> Vec<(String, Tensor)> {
    let of = |slot: &Slot<N>| {
        names.map(|name| format!("{name}.{}", slot.path)).into_iter().zip(slot.state.clone()).collect::<Vec<_>>()
    };
    slots.iter().flat_map(of).collect()
}

fn load_into<const N: usize>(
    slots: &mut [Slot<N>],
    names: [&str; N],
    tensors: &mut BTreeMap<String, Tensor>,
) -> Result<()> {
    let refuse = |what: String| {
        Error::new(ErrorKind::Argument, "load_state", what)
            .help("the state belongs to an optimiser of the same kind over the same parameters")
    };
    for slot in slots.iter() {
        for (name, own) in names.iter().zip(&slot.state) {
            let key = format!("{name}.{}", slot.path);
            let found = tensors.get(&key).ok_or_else(|| refuse(format!("{key} is missing")))?;
            if found.shape() != own.shape() || found.dtype() != own.dtype() {
                let what = format!(
                    "{key} is {} {}, and {} {} is needed",
                    found.shape(),
                    found.dtype(),
                    own.shape(),
                    own.dtype()
                );
                return Err(refuse(what));
            }
        }
    }
    for slot in slots {
        for (name, own) in names.iter().zip(&mut slot.state) {
            if let Some(tensor) = tensors.remove(&format!("{name}.{}", slot.path)) {
                *own = tensor;
            }
        }
    }
    Ok(())
}
