//! Operations with a derivative.
//!
//! A [`Function`] computes plain values in `forward`, says what its `backward` will need, and repeats itself in
//! primitives in `compose`. [`apply`] runs one and records it. Nothing else makes a tensor that carries a gradient, so
//! no forward can exist without a derivative.

use crate::{
    Data, Tensor, anomaly,
    backward::{Pass, each_once, grad_edges},
    frontier::Frontier,
    graph::{Edge, Node, Parents, Saved, Work, is_grad_enabled, next_id, records},
};
use attentia_backend::{Error, ErrorKind, Result};
use std::{fmt::Debug, sync::Arc};

/// An operation with a derivative. Implement it for kernels of your own, and run it with [`apply`].
///
/// ```
/// use attentia_tensor::{Backward, Data, Function, Result, Saver, Tensor, Var, apply};
/// use std::sync::Arc;
///
/// /// x³, from a kernel that the engine does not know.
/// #[derive(Debug)]
/// struct Cube;
///
/// impl Function for Cube {
///     fn name(&self) -> &'static str { "cube" }
///     fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
///         save.input(0);
///         let cubes: Vec<f64> = inputs[0].to_vec::<f64>()?.iter().map(|x| x * x * x).collect();
///         Ok(vec![Data::from_slice(&cubes, *inputs[0].shape(), inputs[0].device())?])
///     }
///     fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
///         let [x] = b.take_saved()?;
///         Ok(vec![b.take_grad(0).map(|g| x.square()?.mul_scalar(3.0)? * &g).transpose()?])
///     }
///     fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
///         Ok(vec![(inputs[0].square()? * inputs[0])?])
///     }
/// }
///
/// # fn main() -> Result<()> {
/// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
/// let x = Var::new(Tensor::from_slice(&[2.0], &[1], &device)?)?;
/// let y = apply(Arc::new(Cube), &[&x.tensor()])?.remove(0);
/// assert_eq!(y.backward()?.get(&x).unwrap().to_vec::<f64>()?, [12.0]);
/// # Ok(())
/// # }
/// ```
pub trait Function: Debug + Send + Sync + 'static {
    /// The operation's name in messages.
    fn name(&self) -> &'static str;
    /// Computes the outputs, and tells `save` what the backward needs. Must not write to its inputs' storage.
    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>>;
    /// One gradient per input from one cotangent per output; `None` where there is none, or where it isn't needed.
    /// Written in tensor operations, or by applying another `Function`: then derivatives of any order work.
    fn backward(&self, b: Backward) -> Result<Vec<Option<Tensor>>>;
    /// The same function in differentiable primitives, and primitives only: the fallback where a backend has no
    /// kernel, the oracle in tests, and the path for second derivatives.
    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>>;
}

/// Collects what a backward will need. Values are kept as they are, and linked to the graph again at backward.
#[derive(Default)]
pub struct Saver<'a> {
    inputs: &'a [&'a Tensor],
    recording: bool,
    saved: Vec<Saved>,
}

impl<'a> Saver<'a> {
    fn new(inputs: &'a [&'a Tensor]) -> Saver<'a> {
        Saver { inputs, recording: records(inputs), saved: Vec::new() }
    }

    /// Whether there will be a backward at all.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// Whether input `i` will want a gradient. [`Backward::recorded`] repeats the answer, so that a function which
    /// saves by it knows later what it saved.
    pub fn needs(&self, i: usize) -> bool {
        self.recording && self.inputs.get(i).is_some_and(|t| t.requires_grad())
    }

    /// Keeps an input.
    pub fn input(&mut self, i: usize) {
        if self.recording {
            self.saved.push(Saved::Input(i as u32, self.inputs.get(i).map(|t| t.data.clone())));
        }
    }

    /// Keeps an output.
    pub fn output(&mut self, j: usize) {
        if self.recording {
            self.saved.push(Saved::Output(j as u32, None)); // filled in after the forward
        }
    }

    /// Keeps a value that is neither: a constant to the gradient.
    pub fn extra(&mut self, data: Data) {
        if self.recording {
            self.saved.push(Saved::Extra(data));
        }
    }

    /// What was saved, once the outputs are there.
    fn finish(self, op: &'static str, outputs: &[Data]) -> Result<Vec<Saved>> {
        let mut saved = self.saved;
        for item in &mut saved {
            if let Saved::Output(j, value) = item {
                *value = outputs.get(*j as usize).cloned();
            }
            if let Saved::Input(_, None) | Saved::Output(_, None) = item {
                return Err(Error::new(ErrorKind::Argument, op, "it saves an input or an output that isn't there"));
            }
        }
        Ok(saved)
    }
}

/// What a backward has to work with.
pub struct Backward<'a> {
    /// The saved values in the order in which they were saved.
    pub saved: Vec<Tensor>,
    /// The cotangent of each output; `None` is zero. They come by value: one that nobody else holds may be overwritten.
    pub grads: Vec<Option<Tensor>>,
    /// Whether the gradient of each input is wanted now.
    pub needs: &'a [bool],
    /// Whether each input required a gradient when the operation was recorded.
    pub recorded: &'a [bool],
    /// Where cotangents of the inputs are added up; `None` where additions are to be seen, by a graph or by anomaly detection.
    pub(crate) sums: Option<Sums<'a>>,
}

/// What the walk has of the inputs' cotangents.
pub(crate) struct Sums<'a> {
    pub frontier: &'a mut Frontier,
    pub parents: &'a Parents,
}

impl Backward<'_> {
    /// All saved values, by value: `let [x, y] = b.take_saved()?;`
    pub fn take_saved<const N: usize>(&mut self) -> Result<[Tensor; N]> {
        std::mem::take(&mut self.saved).try_into().map_err(|saved: Vec<Tensor>| {
            let what = format!("{} values were saved, and {N} asked for", saved.len());
            Error::new(ErrorKind::Argument, "backward", what)
        })
    }

    /// The cotangent of output `j`, by value.
    pub fn take_grad(&mut self, j: usize) -> Option<Tensor> {
        self.grads.get_mut(j).and_then(Option::take)
    }

    /// The cotangent that others have given input `i` so far, by value: for a function that adds in place, as a product can.
    /// Who takes it must return a gradient for this input that includes it: what is taken and not returned is lost. Its storage
    /// may be shared. `None` where there is nothing yet, and where additions are recorded or watched: then the gradient alone is
    /// returned, as ever.
    pub(crate) fn take_sum(&mut self, i: usize) -> Option<Tensor> {
        if !self.wants(i) {
            return None;
        }
        let Sums { frontier, parents } = self.sums.as_mut()?;
        frontier.take(parents.get(i)?.as_ref()?)
    }

    /// Whether input `i` wants a gradient now.
    pub fn wants(&self, i: usize) -> bool {
        self.needs.get(i).copied().unwrap_or(false)
    }
}

/// Runs a function, and records it when an input requires a gradient.
pub fn apply(function: Arc<dyn Function>, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let (outputs, node) = execute(&*function, inputs, |_| function.clone())?;
    Ok(outputs.into_iter().enumerate().map(|(j, data)| linked(data, node.as_ref(), j)).collect())
}

/// [`apply`] for a function that is only put on the heap when it is recorded.
pub(crate) fn run<F: Function + Clone>(function: &F, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let (outputs, node) = execute(function, inputs, |f| Arc::new(f.clone()))?;
    Ok(outputs.into_iter().enumerate().map(|(j, data)| linked(data, node.as_ref(), j)).collect())
}

/// [`run`] for functions of one output.
pub(crate) fn run_one<F: Function + Clone>(function: &F, inputs: &[&Tensor]) -> Result<Tensor> {
    let (mut outputs, node) = execute(function, inputs, |f| Arc::new(f.clone()))?;
    match (outputs.pop(), outputs.is_empty()) {
        (Some(data), true) => Ok(linked(data, node.as_ref(), 0)),
        _ => Err(Error::new(ErrorKind::Argument, function.name(), "gave not one output")),
    }
}

/// The only output of a composition that has one.
pub(crate) fn only(function: &dyn Function, mut outputs: Vec<Tensor>) -> Result<Tensor> {
    match (outputs.pop(), outputs.is_empty()) {
        (Some(output), true) => Ok(output),
        _ => Err(Error::new(ErrorKind::Argument, function.name(), "is composed of not one output")),
    }
}

/// The forward, and a node when it is recorded.
fn execute<F: Function + ?Sized>(
    function: &F,
    inputs: &[&Tensor],
    shared: impl FnOnce(&F) -> Arc<dyn Function>,
) -> Result<(Vec<Data>, Option<Arc<Node>>)> {
    let mut save = Saver::new(inputs);
    let outputs = function.forward(inputs, &mut save)?;
    if anomaly::is_on() {
        anomaly::check_forward(function.name(), inputs, &outputs)?;
    }
    if !save.recording {
        return Ok((outputs, None));
    }
    let saved = save.finish(function.name(), &outputs)?;
    let parents = inputs.iter().map(|t| t.edge.clone()).collect();
    let node = Node::of(Work { function: shared(function), saved }, parents, &outputs);
    Ok((outputs, Some(node)))
}

/// Makes a node, and tensors of the outputs that lead to it.
pub(crate) fn record(work: Work, parents: Parents, outputs: Vec<Data>) -> Vec<Tensor> {
    let node = Node::of(work, parents, &outputs);
    outputs.into_iter().enumerate().map(|(j, data)| linked(data, Some(&node), j)).collect()
}

/// Output `j` of a node. One that is no float carries no gradient.
fn linked(data: Data, node: Option<&Arc<Node>>, j: usize) -> Tensor {
    let edge = node.filter(|_| data.dtype().is_float()).map(|node| Edge::new(node.clone(), j));
    Tensor { data, edge }
}

/// The backward of a function by differentiating its composition: for functions whose gradient has no kernel, and for
/// the second derivatives of those that have one. `inputs` are all inputs of the function, saved.
pub(crate) fn backward_by_compose(
    function: &dyn Function,
    inputs: Vec<Tensor>,
    grads: Vec<Option<Tensor>>,
    needs: &[bool],
) -> Result<Vec<Option<Tensor>>> {
    backward_of(|inputs| function.compose(inputs), inputs, grads, needs)
}

/// [`backward_by_compose`] of a composition that is not a whole function's.
pub(crate) fn backward_of(
    compose: impl FnOnce(&[&Tensor]) -> Result<Vec<Tensor>>,
    inputs: Vec<Tensor>,
    grads: Vec<Option<Tensor>>,
    needs: &[bool],
) -> Result<Vec<Option<Tensor>>> {
    // Linked inputs keep their edges, so that the result can be differentiated again; others get a leaf for now.
    let create_graph = is_grad_enabled();
    let inputs: Vec<Tensor> = inputs
        .into_iter()
        .zip(needs)
        .map(|(t, &needed)| if needed && !t.requires_grad() { t.with_leaf() } else { t })
        .collect();
    let floor = next_id();
    let refs: Vec<&Tensor> = inputs.iter().collect();
    let outputs = crate::graph::set_grad(true, || compose(&refs))?;
    let roots: Vec<(Edge, Tensor)> =
        outputs.into_iter().zip(grads).filter_map(|(output, grad)| Some((output.edge.clone()?, grad?))).collect();
    let mut targets: Vec<Option<Edge>> =
        inputs.iter().zip(needs).map(|(t, &needed)| if needed { t.edge.clone() } else { None }).collect();
    each_once(&mut targets);
    grad_edges(roots, &targets, Pass { consume: !create_graph, create_graph, floor })
}
