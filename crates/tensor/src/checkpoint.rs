//! Memory for time: keep a function's inputs only, and run it again at backward.

use crate::{
    Backward, Data, Function, Saver, Tensor,
    backward::{Pass, each_once, grad_edges},
    function::record,
    graph::{Edge, Parents, Saved, Work, is_grad_enabled, next_id, set_grad},
};
use attentia_backend::{Error, ErrorKind, Result};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
};

type Recomputed = Arc<dyn Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync>;

/// `f(inputs)`, without keeping what `f` computes on the way: the backward runs `f` again.
///
/// `f` runs once recorded. The variables and tensors that it captured and that require gradients are found in the
/// recording and become parents beside `inputs`; then the recording is dropped. So `f` may capture layers, and inputs
/// may be frozen. It must compute the same thing both times: random streams are keyed, so dropout does; a variable
/// that was updated in between, or a tensor that it did not use the first time, is an error.
///
/// ```
/// # fn main() -> attentia_tensor::Result<()> {
/// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
/// use attentia_tensor::{Tensor, Var, checkpoint};
/// let w = Var::new(Tensor::from_slice(&[2.0], &[1], &device)?)?;
/// let x = Tensor::from_slice(&[3.0], &[1], &device)?;
/// let layer = w.clone();
/// let y = checkpoint(move |x| Ok(vec![(&x[0] * &layer.tensor())?.exp()?]), &[x])?.remove(0);
/// let slope = y.backward()?.get(&w).unwrap().item::<f64>()?;
/// assert!((slope - 3.0 * 6f64.exp()).abs() < 1e-9);
/// # Ok(())
/// # }
/// ```
pub fn checkpoint(
    f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync + 'static,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>> {
    if !is_grad_enabled() {
        return f(inputs);
    }
    let own: Vec<Tensor> =
        inputs.iter().map(|t| if t.requires_grad() { t.clone().with_leaf() } else { t.clone() }).collect();
    let floor = next_id();
    let outputs = f(&own)?;
    let mut captured = frontier(&outputs, floor);
    captured.retain(|edge| !own.iter().any(|t| t.edge.as_ref().is_some_and(|e| e.key() == edge.key())));
    let parents: Parents = inputs.iter().map(|t| t.edge.clone()).chain(captured.iter().cloned().map(Some)).collect();
    let data: Vec<Data> = outputs.into_iter().map(Tensor::into_data).collect(); // the recording ends here
    if parents.iter().all(Option::is_none) {
        return Ok(data.into_iter().map(Tensor::from_data).collect());
    }
    let saved = inputs.iter().enumerate().map(|(i, t)| Saved::Input(i as u32, Some(t.data().clone()))).collect();
    let versions = captured.iter().map(version).collect();
    let function = Recompute { f: Arc::new(f), inputs: inputs.len(), captured, versions };
    Ok(record(Work { function: Arc::new(function), saved }, parents, data))
}

fn version(edge: &Edge) -> u64 {
    edge.node().map_or(0, |node| node.version())
}

/// The edges that lead out of the part of the graph that was recorded since `floor`.
fn frontier(outputs: &[Tensor], floor: u64) -> Vec<Edge> {
    let (mut seen, mut leaving) = (HashSet::new(), BTreeMap::new());
    let mut stack: Vec<&Edge> = outputs.iter().filter_map(|t| t.edge.as_ref()).collect();
    while let Some(edge) = stack.pop() {
        if edge.id() < floor {
            leaving.entry(edge.key()).or_insert_with(|| edge.clone());
        } else if seen.insert(edge.id()) {
            stack.extend(edge.node().into_iter().flat_map(|node| node.parents.iter().flatten()));
        }
    }
    leaving.into_values().collect()
}

/// The function that runs again.
pub(crate) struct Recompute {
    f: Recomputed,
    inputs: usize,
    /// What `f` captured, in the order of the parents behind the inputs.
    captured: Vec<Edge>,
    /// How often each of them had been updated.
    versions: Vec<u64>,
}

impl Function for Recompute {
    fn name(&self) -> &'static str {
        "checkpoint"
    }

    fn forward(&self, inputs: &[&Tensor], _: &mut Saver) -> Result<Vec<Data>> {
        Ok(self.compose(inputs)?.into_iter().map(Tensor::into_data).collect())
    }

    fn backward(&self, b: Backward) -> Result<Vec<Option<Tensor>>> {
        if self.captured.iter().map(version).ne(self.versions.iter().copied()) {
            return Err(Error::new(
                ErrorKind::Gradient,
                "checkpoint",
                "a variable was updated between forward and backward",
            )
            .help("the recomputation would differ from the forward; run backward before the optimiser's step"));
        }
        // Linked inputs keep their edges, so that the gradient can be differentiated; others get a leaf for now.
        let saved = b.saved.into_iter().zip(b.needs);
        let inputs: Vec<Tensor> =
            saved.map(|(t, &needed)| if needed && !t.requires_grad() { t.with_leaf() } else { t }).collect();
        let floor = next_id();
        let outputs = set_grad(true, || (self.f)(&inputs))?;
        let known: HashSet<_> =
            inputs.iter().filter_map(|t| t.edge.as_ref()).chain(&self.captured).map(Edge::key).collect();
        if frontier(&outputs, floor).iter().any(|edge| !known.contains(&edge.key())) {
            return Err(Error::new(
                ErrorKind::Gradient,
                "checkpoint",
                "the recomputation used a tensor that the forward did not",
            )
            .help("the function must do the same thing each time; its gradient would be cut in silence"));
        }
        let mut targets: Vec<Option<Edge>> =
            inputs.iter().map(|t| t.edge.clone()).chain(self.captured.iter().cloned().map(Some)).collect();
        for (target, &needed) in targets.iter_mut().zip(b.needs) {
            *target = target.take().filter(|_| needed);
        }
        each_once(&mut targets);
        let roots =
            outputs.into_iter().zip(b.grads).filter_map(|(output, g)| Some((output.edge.clone()?, g?))).collect();
        let create_graph = is_grad_enabled(); // a gradient that is itself recorded keeps what it was computed from
        grad_edges(roots, &targets, Pass { consume: !create_graph, create_graph, floor })
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let inputs: Vec<Tensor> = inputs.iter().take(self.inputs).map(|t| (*t).clone()).collect();
        (self.f)(&inputs)
    }
}

impl fmt::Debug for Recompute {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "checkpoint of {} inputs and {} captured tensors", self.inputs, self.captured.len())
    }
}
