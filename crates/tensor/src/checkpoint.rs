//! Memory for time: keep a function's inputs only, and run it again at backward.

use crate::{
    Backward, Data, Function, Saver, Tensor,
    backward::{Pass, grad_edges},
    function::record,
    graph::{Edge, Parents, Saved, Work, is_grad_enabled, next_id, set_grad},
};
use attentia_backend::{Error, ErrorKind, Result};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
};

type Recomputed = Arc<dyn Fn(&[Tensor]) -> Result<Vec<Option<Tensor>>> + Send + Sync>;

/// `f(inputs)`, without keeping what `f` computes on the way: the backward runs `f` again.
///
/// `f` runs once recorded. The variables and tensors that it captured and that require gradients are found in the
/// recording and become parents beside `inputs`; then the recording is dropped. So `f` may capture layers, and inputs
/// may be frozen. It must compute the same thing both times: random streams are keyed, so dropout does; a variable
/// that was updated in between, or a tensor that it did not use the first time, is an error.
///
/// Where the gradient is to be differentiated again (`create_graph`), it is a checkpoint too: the next derivative runs `f` and
/// its gradient once more, one recording of them lives at a time, and a variable must not be updated before that either.
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
    let outputs = recomputed(move |own| Ok(f(own)?.into_iter().map(Some).collect()), inputs)?;
    Ok(outputs.into_iter().flatten().collect())
}

/// [`checkpoint`] of a function that may leave out results: the same ones each time.
pub(crate) fn recomputed(
    f: impl Fn(&[Tensor]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    inputs: &[Tensor],
) -> Result<Vec<Option<Tensor>>> {
    if !is_grad_enabled() {
        return f(inputs);
    }
    let own: Vec<Tensor> =
        inputs.iter().map(|t| if t.requires_grad() { t.clone().with_leaf() } else { t.clone() }).collect();
    let floor = next_id();
    let outputs = f(&own)?;
    let mut captured = frontier(outputs.iter().flatten(), floor);
    captured.retain(|edge| !own.iter().any(|t| t.edge.as_ref().is_some_and(|e| e.key() == edge.key())));
    let parents: Parents = inputs.iter().map(|t| t.edge.clone()).chain(captured.iter().cloned().map(Some)).collect();
    let there: Vec<bool> = outputs.iter().map(Option::is_some).collect();
    let data: Vec<Data> = outputs.into_iter().flatten().map(Tensor::into_data).collect(); // the recording ends here
    let results = if parents.iter().all(Option::is_none) {
        data.into_iter().map(Tensor::from_data).collect()
    } else {
        let saved = inputs.iter().enumerate().map(|(i, t)| Saved::Input(i as u32, Some(t.data().clone()))).collect();
        let versions = captured.iter().map(version).collect();
        let function = Recompute { f: Arc::new(f), inputs: inputs.len(), there: there.clone(), captured, versions };
        record(Work { function: Arc::new(function), saved }, parents, data)
    };
    Ok(placed(&there, results))
}

/// Values in the places where there is one.
pub(crate) fn placed(there: &[bool], values: impl IntoIterator<Item = Tensor>) -> Vec<Option<Tensor>> {
    let mut values = values.into_iter();
    there.iter().map(|there| if *there { values.next() } else { None }).collect()
}

/// Gradients of `inputs` from cotangents of outputs; where they are recorded, by a function that computes them again.
pub(crate) fn recomputed_gradients(
    f: impl Fn(Vec<Tensor>, Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    inputs: Vec<Tensor>,
    grads: Vec<Option<Tensor>>,
) -> Result<Vec<Option<Tensor>>> {
    if !is_grad_enabled() {
        return f(inputs, grads);
    }
    let (count, there) = (inputs.len(), grads.iter().map(Option::is_some).collect::<Vec<_>>());
    let operands: Vec<Tensor> = inputs.into_iter().chain(grads.into_iter().flatten()).collect();
    let gradients = move |operands: &[Tensor]| {
        let (inputs, cotangents) = operands.split_at(count);
        f(inputs.to_vec(), placed(&there, cotangents.iter().cloned()))
    };
    recomputed(gradients, &operands)
}

fn version(edge: &Edge) -> u64 {
    edge.node().map_or(0, |node| node.version())
}

/// The edges that lead out of the part of the graph that was recorded since `floor`.
fn frontier<'a>(outputs: impl Iterator<Item = &'a Tensor>, floor: u64) -> Vec<Edge> {
    let (mut seen, mut leaving) = (HashSet::new(), BTreeMap::new());
    let mut stack: Vec<&Edge> = outputs.filter_map(|t| t.edge.as_ref()).collect();
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
#[derive(Clone)]
pub(crate) struct Recompute {
    f: Recomputed,
    inputs: usize,
    /// Which results it gave.
    there: Vec<bool>,
    /// What `f` captured, in the order of the parents behind the inputs.
    captured: Vec<Edge>,
    /// How often each of them had been updated.
    versions: Vec<u64>,
}

impl Recompute {
    /// Gradients of the inputs and of what `f` captured, from a recording that ends with this call unless somebody records it.
    fn gradients(
        &self,
        inputs: Vec<Tensor>,
        grads: Vec<Option<Tensor>>,
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        if self.captured.iter().map(version).ne(self.versions.iter().copied()) {
            return Err(Error::new(
                ErrorKind::Gradient,
                "checkpoint",
                "a variable was updated between forward and backward",
            )
            .help("the recomputation would differ from the forward; run backward before the optimiser's step"));
        }
        // Inputs that are linked are so to the checkpoint around this gradient; others get a leaf for now.
        let inputs: Vec<Tensor> = inputs
            .into_iter()
            .zip(needs)
            .map(|(t, &needed)| if needed && !t.requires_grad() { t.with_leaf() } else { t })
            .collect();
        let floor = next_id();
        let outputs = set_grad(true, || (self.f)(&inputs))?;
        let alike = outputs.iter().map(Option::is_some).eq(self.there.iter().copied());
        let outputs: Vec<Tensor> = outputs.into_iter().flatten().collect();
        let known: HashSet<_> =
            inputs.iter().filter_map(|t| t.edge.as_ref()).chain(&self.captured).map(Edge::key).collect();
        if !alike || frontier(outputs.iter(), floor).iter().any(|edge| !known.contains(&edge.key())) {
            let what = "the recomputation used a tensor that the forward did not, or gave other results";
            return Err(Error::new(ErrorKind::Gradient, "checkpoint", what)
                .help("the function must do the same thing each time; its gradient would be cut in silence"));
        }
        let mut targets: Vec<Option<Edge>> =
            inputs.iter().map(|t| t.edge.clone()).chain(self.captured.iter().cloned().map(Some)).collect();
        for (target, &needed) in targets.iter_mut().zip(needs) {
            *target = target.take().filter(|_| needed);
        }
        let roots = outputs.into_iter().zip(grads).filter_map(|(output, g)| Some((output.edge.clone()?, g?))).collect();
        let create_graph = is_grad_enabled(); // within the checkpoint around this gradient
        grad_edges(roots, &targets, Pass { consume: !create_graph, create_graph, floor })
    }
}

impl Function for Recompute {
    fn name(&self) -> &'static str {
        "checkpoint"
    }

    fn forward(&self, inputs: &[&Tensor], _: &mut Saver) -> Result<Vec<Data>> {
        Ok(self.compose(inputs)?.into_iter().map(Tensor::into_data).collect())
    }

    fn backward(&self, b: Backward) -> Result<Vec<Option<Tensor>>> {
        let (function, needs) = (self.clone(), b.needs.to_vec());
        let gradients = move |inputs, grads| function.gradients(inputs, grads, &needs);
        recomputed_gradients(gradients, b.saved, b.grads)
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let inputs: Vec<Tensor> = inputs.iter().take(self.inputs).map(|t| (*t).clone()).collect();
        Ok((self.f)(&inputs)?.into_iter().flatten().collect())
    }
}

impl fmt::Debug for Recompute {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "checkpoint of {} inputs and {} captured tensors", self.inputs, self.captured.len())
    }
}
