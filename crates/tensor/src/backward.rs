//! From cotangents of outputs to gradients of leaves: one loop over nodes in descending order of their ids.
//!
//! ```text
//! frontier = { node of each root: its cotangent }
//! while the frontier has a node: take the one of highest id          // all its consumers have been served
//!     leaf            → its cotangent is a gradient
//!     anything else   → function.backward(saved, cotangents) → add to the parents' cotangents in the frontier
//! ```

use crate::{
    Backward, Tensor, Var, VarId, anomaly,
    elementwise::binary_owned,
    frontier::{Frontier, Pending},
    function::Sums,
    graph::{Edge, Node, Saved, Spec, Work, is_grad_enabled, set_grad},
    tensor::same_device,
};
use attentia_backend::{Binary, Error, ErrorKind, Result};
use smallvec::SmallVec;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Gradients of variables, by their identity.
#[derive(Clone, Debug, Default)]
pub struct Grads {
    // Ascending ids.
    entries: Vec<(VarId, Tensor)>,
}

impl Grads {
    /// No gradients.
    pub fn new() -> Grads {
        Grads::default()
    }

    /// The gradient of a variable, or `None` when the loss does not depend on it.
    pub fn get(&self, var: &Var) -> Option<&Tensor> {
        self.get_id(var.id())
    }

    /// The gradient of the variable with this id.
    pub fn get_id(&self, id: VarId) -> Option<&Tensor> {
        self.position(id).ok().map(|at| &self.entries[at].1)
    }

    /// Takes a gradient out.
    pub fn remove(&mut self, var: &Var) -> Option<Tensor> {
        self.position(var.id()).ok().map(|at| self.entries.remove(at).1)
    }

    /// Puts a gradient in, and gives back the one that it replaces.
    pub fn insert(&mut self, id: VarId, gradient: Tensor) -> Option<Tensor> {
        match self.position(id) {
            Ok(at) => Some(std::mem::replace(&mut self.entries[at].1, gradient)),
            Err(at) => {
                self.entries.insert(at, (id, gradient));
                None
            }
        }
    }

    /// Adds another set of gradients to this one, in place where this one's storage has no other owner: gradient
    /// accumulation over micro-batches.
    pub fn accumulate(&mut self, other: Grads) -> Result<()> {
        for (id, gradient) in other.entries {
            match self.position(id) {
                Ok(at) => {
                    // Moved out, so that the sum can be written where it stands.
                    let (_, mine) = self.entries.remove(at);
                    self.entries.insert(at, (id, accumulate(mine, gradient)?));
                }
                Err(at) => self.entries.insert(at, (id, gradient)),
            }
        }
        Ok(())
    }

    /// All gradients in the order of their variables' creation.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (VarId, &Tensor)> {
        self.entries.iter().map(|(id, gradient)| (*id, gradient))
    }

    /// All gradients, to be replaced.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (VarId, &mut Tensor)> {
        self.entries.iter_mut().map(|(id, gradient)| (*id, gradient))
    }

    /// Number of gradients.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn position(&self, id: VarId) -> std::result::Result<usize, usize> {
        self.entries.binary_search_by_key(&id, |entry| entry.0)
    }
}

impl IntoIterator for Grads {
    type Item = (VarId, Tensor);
    type IntoIter = std::vec::IntoIter<(VarId, Tensor)>;
    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl Tensor {
    /// Gradients of this scalar with respect to every variable that it depends on. Consumes the graph: each node gives
    /// up its saved values as the walk leaves it. Errors when there is not exactly one element, no variable behind it,
    /// or when part of the graph was consumed before.
    pub fn backward(self) -> Result<Grads> {
        let seed = self.seed()?;
        self.walk(seed)
    }

    /// Like [`Tensor::backward`], and keeps the graph for another one.
    pub fn backward_retain(&self) -> Result<Grads> {
        let seed = self.seed()?;
        let root = self.root()?;
        leaves(root, seed, false)
    }

    /// Like [`Tensor::backward`] from any shape, given the gradient of the loss with respect to this tensor.
    pub fn backward_with(self, mut cotangent: Tensor) -> Result<Grads> {
        check_cotangent("backward", &self, &cotangent)?;
        cotangent.edge = None;
        self.walk(cotangent)
    }

    /// The walk alone holds the graph, so that it can free it.
    fn walk(mut self, cotangent: Tensor) -> Result<Grads> {
        let root = self.root()?;
        self.edge = None;
        drop(self);
        leaves(root, cotangent, true)
    }

    fn seed(&self) -> Result<Tensor> {
        self.one_element("backward")?;
        Tensor::ones(self.shape(), self.dtype(), self.device())
    }

    fn root(&self) -> Result<Edge> {
        self.edge.clone().ok_or_else(|| {
            Error::new(ErrorKind::Gradient, "backward", "nothing that made this tensor requires a gradient")
                .operand(self.data.operand("x"))
                .help("make parameters with Var::new, and compute outside no_grad and without detach")
        })
    }
}

fn check_cotangent(op: &'static str, output: &Tensor, cotangent: &Tensor) -> Result<()> {
    if output.shape() == cotangent.shape() && output.dtype() == cotangent.dtype() {
        return same_device(op, &[output, cotangent]);
    }
    Err(Error::new(ErrorKind::Gradient, op, "the cotangent does not look like its tensor")
        .operand(output.data.operand("output"))
        .operand(cotangent.data.operand("cotangent").expected(Spec::of(&output.data).to_string())))
}

/// Gradients of `outputs` (each weighted by its cotangent) with respect to `inputs`, which may be variables' tensors or
/// results in between. `None` for an input that the outputs do not depend on. Keeps the graph; with `create_graph` the
/// gradients can themselves be differentiated.
///
/// `grad_outputs` may be left out when every output has one element.
///
/// ```
/// # fn main() -> attentia_tensor::Result<()> {
/// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
/// use attentia_tensor::{Tensor, Var, grad};
/// let x = Var::new(Tensor::from_slice(&[2.0], &[1], &device)?)?.tensor();
/// let y = x.pow_scalar(3.0)?;
/// let slope = grad(&[&y], None, &[&x], true)?.remove(0).unwrap(); // 3x²
/// let curvature = grad(&[&slope], None, &[&x], false)?.remove(0).unwrap(); // 6x
/// assert_eq!((slope.item::<f64>()?, curvature.item::<f64>()?), (12.0, 12.0));
/// # Ok(())
/// # }
/// ```
pub fn grad(
    outputs: &[&Tensor],
    grad_outputs: Option<&[&Tensor]>,
    inputs: &[&Tensor],
    create_graph: bool,
) -> Result<Vec<Option<Tensor>>> {
    if let Some(given) = grad_outputs
        && given.len() != outputs.len()
    {
        let what = format!("{} cotangents for {} outputs", given.len(), outputs.len());
        return Err(Error::new(ErrorKind::Argument, "grad", what));
    }
    let mut roots = Vec::with_capacity(outputs.len());
    for (i, output) in outputs.iter().enumerate() {
        let seed = match grad_outputs {
            Some(given) => {
                check_cotangent("grad", output, given[i])?;
                given[i].clone()
            }
            None => output.seed()?,
        };
        roots.push((output.root()?, seed));
    }
    let targets: Vec<Option<Edge>> = inputs.iter().map(|t| t.edge.clone()).collect();
    if let Some(i) = targets.iter().position(Option::is_none) {
        return Err(Error::new(ErrorKind::Gradient, "grad", format!("input {i} does not require a gradient"))
            .operand(inputs[i].data.operand("input"))
            .help("make it with Var::new, or from tensors that require gradients"));
    }
    grad_edges(roots, &targets, Pass { consume: false, create_graph, floor: 0 })
}

/// How a walk treats the graph.
#[derive(Clone, Copy)]
pub(crate) struct Pass {
    /// Whether nodes give up their saved values.
    pub consume: bool,
    /// Whether the gradients are recorded themselves.
    pub create_graph: bool,
    /// Nodes with lower ids are not entered: they belong to somebody else's graph.
    pub floor: u64,
}

fn leaves(root: Edge, seed: Tensor, consume: bool) -> Result<Grads> {
    let pass = Pass { consume, create_graph: false, floor: 0 };
    let mut frontier = Frontier::default();
    frontier.add(root, seed)?;
    let mut grads = Grads::new();
    while let Some(Pending { edge, grads: mut cotangents }) = frontier.pop() {
        let Some(node) = edge.node() else { continue };
        if node.is_leaf() {
            if let Some(gradient) = cotangents.first_mut().and_then(Option::take) {
                grads.entries.push((VarId::of(node.id), gradient));
            }
            continue;
        }
        step(node, cotangents, pass, |_| true, &mut frontier)?;
    }
    grads.entries.reverse(); // they came in descending order
    Ok(grads)
}

/// Gradients with respect to edges; `None` targets get `None`, and a target named twice gets its gradient twice.
pub(crate) fn grad_edges(
    roots: Vec<(Edge, Tensor)>,
    targets: &[Option<Edge>],
    pass: Pass,
) -> Result<Vec<Option<Tensor>>> {
    let mut wanted: HashMap<u64, SmallVec<[(u32, usize); 1]>> = HashMap::new();
    for (position, target) in targets.iter().enumerate() {
        if let Some(edge) = target {
            let (id, output) = edge.key();
            wanted.entry(id).or_default().push((output, position));
        }
    }
    let reach = reach(&roots, &wanted, pass.floor);
    let mut result: Vec<Option<Tensor>> = targets.iter().map(|_| None).collect();
    let mut frontier = Frontier::default();
    for (edge, seed) in roots {
        if reach.contains_key(&edge.id()) {
            frontier.add(edge, seed)?;
        }
    }
    while let Some(Pending { edge, grads }) = frontier.pop() {
        let Some(node) = edge.node() else { continue };
        let id = node.id;
        for &(output, position) in wanted.get(&id).into_iter().flatten() {
            result[position] = grads.get(output as usize).cloned().flatten();
        }
        // Behind a target there may be others.
        if id >= pass.floor && reach.get(&id) == Some(&true) {
            step(node, grads, pass, |parent| reach.contains_key(&parent.id()), &mut frontier)?;
        }
    }
    Ok(result)
}

/// Leaves each edge in the first of its places only: where the results go back to the graph as gradients of a
/// function's inputs, the same edge twice would count double.
pub(crate) fn each_once(targets: &mut [Option<Edge>]) {
    for i in 1..targets.len() {
        let (before, rest) = targets.split_at_mut(i);
        let key = rest[0].as_ref().map(Edge::key);
        if key.is_some() && before.iter().any(|t| t.as_ref().map(Edge::key) == key) {
            rest[0] = None;
        }
    }
}

/// The nodes that lead to a wanted one, and whether they do so through their parents.
fn reach(
    roots: &[(Edge, Tensor)],
    wanted: &HashMap<u64, SmallVec<[(u32, usize); 1]>>,
    floor: u64,
) -> HashMap<u64, bool> {
    let lowest = wanted.keys().copied().min().unwrap_or(u64::MAX);
    let mut seen = HashSet::new();
    let mut found: Vec<&Node> = Vec::new();
    let mut stack: Vec<&Arc<Node>> = roots.iter().filter_map(|(edge, _)| edge.node()).collect();
    while let Some(node) = stack.pop() {
        if node.id < lowest || !seen.insert(node.id) {
            continue;
        }
        found.push(node);
        if node.id >= floor {
            stack.extend(node.parents.iter().flatten().filter_map(Edge::node));
        }
    }
    found.sort_unstable_by_key(|node| node.id); // parents first
    let mut reach = HashMap::with_capacity(found.len());
    for node in found {
        let through = node.id >= floor && node.parents.iter().flatten().any(|p| reach.contains_key(&p.id()));
        if through || wanted.contains_key(&node.id) {
            reach.insert(node.id, through);
        }
    }
    reach
}

/// One node: its cotangents become cotangents of its parents.
fn step(
    node: &Arc<Node>,
    grads: Vec<Option<Tensor>>,
    pass: Pass,
    wants: impl Fn(&Edge) -> bool,
    frontier: &mut Frontier,
) -> Result<()> {
    let Work { function, saved } = node.work(pass.consume)?;
    let recorded: SmallVec<[bool; 8]> = node.parents.iter().map(Option::is_some).collect();
    let needs: SmallVec<[bool; 8]> = node.parents.iter().map(|p| p.as_ref().is_some_and(&wants)).collect();
    let apart = pass.create_graph || anomaly::is_on();
    let sums = (!apart).then(|| Sums { frontier: &mut *frontier, parents: &node.parents });
    let saved = restore(node, saved, pass.create_graph);
    let backward = Backward { saved, grads, needs: &needs, recorded: &recorded, sums };
    let watched = if anomaly::is_on() { Some(anomaly::Health::of_cotangents(&backward.grads)?) } else { None };
    let gradients = set_grad(pass.create_graph, || function.backward(backward))
        .map_err(|e| if watched.is_some() { e.in_path(format!("backward of {}", node.name)) } else { e })?;
    if gradients.len() != needs.len() {
        let what = format!("its backward gave {} gradients for {} inputs", gradients.len(), needs.len());
        return Err(Error::new(ErrorKind::Gradient, node.name, what));
    }
    if let Some(before) = watched {
        before.check_backward(node.name, &gradients)?;
    }
    for (i, (gradient, parent)) in gradients.into_iter().zip(&node.parents).enumerate() {
        let (Some(gradient), Some(edge), true) = (gradient, parent, needs[i]) else { continue };
        check_gradient(node.name, i, &gradient, edge)?;
        set_grad(pass.create_graph, || frontier.add(edge.clone(), gradient))?;
    }
    Ok(())
}

/// With `link`, inputs lead to the parents and outputs to this node again, so that the gradient can be differentiated.
fn restore(node: &Arc<Node>, saved: Vec<Saved>, link: bool) -> Vec<Tensor> {
    let relink = |saved| {
        let (data, edge) = match saved {
            Saved::Extra(data) => (data, None),
            Saved::Input(_, data) | Saved::Output(_, data) if !link => (data?, None),
            Saved::Input(i, data) => (data?, node.parents.get(i as usize).cloned().flatten()),
            Saved::Output(j, data) => {
                let data = data?;
                let edge = data.dtype().is_float().then(|| Edge::new(node.clone(), j as usize));
                (data, edge)
            }
        };
        Some(Tensor { data, edge })
    };
    saved.into_iter().filter_map(relink).collect()
}

fn check_gradient(name: &'static str, input: usize, gradient: &Tensor, parent: &Edge) -> Result<()> {
    let Some(spec) = parent.node().and_then(|n| n.spec(parent.output())) else { return Ok(()) };
    if spec == Spec::of(&gradient.data) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Gradient, name, format!("its backward gave a wrong gradient for input {input}"))
        .operand(gradient.data.operand("gradient").expected(spec.to_string())))
}

/// The sum of two cotangents, written into the one that nobody else holds.
pub(crate) fn accumulate(a: Tensor, b: Tensor) -> Result<Tensor> {
    if is_grad_enabled() && (a.requires_grad() || b.requires_grad()) {
        return a.add(&b);
    }
    binary_owned(Binary::Add, a, b)
}
