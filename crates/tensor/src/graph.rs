//! The graph: nodes are applications of functions, edges lead from results to what made them.
//!
//! ```text
//! Tensor ──edge──► Node { parents: [edge, ..], work: function + saved values }
//! ```
//!
//! Invariants:
//! - the graph is owned by its outputs; nothing in a node points forward, so there are no cycles (a saved output keeps
//!   its values, and is linked to its node again only for the time of the backward);
//! - a node's parents have lower ids than itself, so descending ids are a topological order;
//! - an edge is the only strong link to a node, and its drop is deferred, so that dropping is flat whatever leads to
//!   a node: parents, saved values, tensors captured by a function.

use crate::{Data, Function, Tensor};
use attentia_backend::{DType, Error, ErrorKind, Result, Shape};
use smallvec::SmallVec;
use std::{
    cell::{Cell, RefCell},
    fmt,
    mem::{ManuallyDrop, take},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The id that the next node of any thread will not be below.
pub(crate) fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// Shape and dtype of a node's output, which its cotangent must have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spec {
    pub shape: Shape,
    pub dtype: DType,
}

impl Spec {
    pub fn of(data: &Data) -> Spec {
        Spec { shape: *data.shape(), dtype: data.dtype() }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", self.shape, self.dtype)
    }
}

/// A link to one output of a node.
pub(crate) struct Edge {
    /// `None` only while it is dropped.
    node: Option<Arc<Node>>,
    output: u32,
}

pub(crate) struct Node {
    pub id: u64,
    pub name: &'static str,
    pub parents: Parents,
    pub outputs: SmallVec<[Spec; 1]>,
    pub kind: Kind,
}

pub(crate) type Parents = SmallVec<[Option<Edge>; 2]>;

pub(crate) enum Kind {
    /// The start of gradients; counts how often its value was replaced, for those that compute it again.
    Leaf { version: AtomicU64 },
    /// `None` once a backward has consumed it.
    Inner(Mutex<Option<Work>>),
}

#[derive(Clone)]
pub(crate) struct Work {
    pub function: Arc<dyn Function>,
    pub saved: Vec<Saved>,
}

/// A saved value; `None` stands for one that was not there. No variant holds the node, so saving an output cannot leak.
#[derive(Clone)]
pub(crate) enum Saved {
    Input(u32, Option<Data>),
    Output(u32, Option<Data>),
    Extra(Data),
}

impl Node {
    /// An application of a function.
    pub fn of(work: Work, parents: Parents, outputs: &[Data]) -> Arc<Node> {
        Arc::new(Node {
            id: next_id(),
            name: work.function.name(),
            parents,
            outputs: outputs.iter().map(Spec::of).collect(),
            kind: Kind::Inner(Mutex::new(Some(work))),
        })
    }

    /// A leaf: where a gradient ends.
    pub fn leaf(spec: Spec) -> Arc<Node> {
        Arc::new(Node {
            id: next_id(),
            name: "leaf",
            parents: Parents::new(),
            outputs: SmallVec::from_buf([spec]),
            kind: Kind::Leaf { version: AtomicU64::new(0) },
        })
    }

    /// Takes or clones what the backward needs. A second use after taking is an error.
    pub fn work(&self, consume: bool) -> Result<Work> {
        let work = match &self.kind {
            Kind::Leaf { .. } => None,
            Kind::Inner(work) => {
                let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
                if consume { work.take() } else { work.clone() }
            }
        };
        work.ok_or_else(|| {
            let what = format!("the graph was consumed by an earlier backward, from {} on", self.name);
            Error::new(ErrorKind::Consumed, "backward", what)
                .help("use backward_retain first if the graph is needed twice, or sum the losses and go back once")
        })
    }

    pub fn is_leaf(&self) -> bool {
        matches!(self.kind, Kind::Leaf { .. })
    }

    /// How often the value of this leaf was replaced; 0 for other nodes.
    pub fn version(&self) -> u64 {
        match &self.kind {
            Kind::Leaf { version } => version.load(Ordering::Acquire),
            Kind::Inner(_) => 0,
        }
    }

    pub fn replaced(&self) {
        if let Kind::Leaf { version } = &self.kind {
            version.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub fn spec(&self, output: usize) -> Option<Spec> {
        self.outputs.get(output).copied()
    }
}

impl Edge {
    pub fn new(node: Arc<Node>, output: usize) -> Edge {
        Edge { node: Some(node), output: output as u32 }
    }

    /// `None` never: only a drop takes the node away.
    pub fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    pub fn id(&self) -> u64 {
        self.node.as_ref().map_or(0, |n| n.id)
    }

    pub fn output(&self) -> usize {
        self.output as usize
    }

    /// What an edge is the same as another by.
    pub fn key(&self) -> (u64, u32) {
        (self.id(), self.output)
    }
}

impl Clone for Edge {
    fn clone(&self) -> Edge {
        Edge { node: self.node.clone(), output: self.output }
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = self.node.as_ref().map_or("", |n| n.name);
        write!(f, "{name}#{}.{}", self.id(), self.output)
    }
}

thread_local! {
    static DROPPING: Cell<bool> = const { Cell::new(false) };
    // No destructor of its own, so that it works in every phase of a thread's end; it is empty between drops.
    static DOOMED: RefCell<ManuallyDrop<Vec<Node>>> = const { RefCell::new(ManuallyDrop::new(Vec::new())) };
}

/// The outermost drop of a node in this thread takes down everything that hangs on it, in a loop.
impl Drop for Edge {
    fn drop(&mut self) {
        // `into_inner` gives the node to exactly one of all who let go of it.
        let Some(node) = self.node.take().and_then(Arc::into_inner) else { return };
        if DROPPING.get() {
            DOOMED.with_borrow_mut(|list| list.push(node));
            return;
        }
        /// Runs also when a drop of a user's function unwinds.
        struct Done;
        impl Drop for Done {
            fn drop(&mut self) {
                drop(DOOMED.with_borrow_mut(|list| take(&mut **list)));
                DROPPING.set(false);
            }
        }
        DROPPING.set(true);
        let _done = Done;
        drop(node);
        while let Some(next) = DOOMED.with_borrow_mut(|list| list.pop()) {
            drop(next);
        }
    }
}

thread_local! {
    static GRADIENTS: Cell<bool> = const { Cell::new(true) };
}

/// Whether operations are recorded in this thread.
pub fn is_grad_enabled() -> bool {
    GRADIENTS.get()
}

fn with_grad<T>(enabled: bool, f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            GRADIENTS.set(self.0);
        }
    }
    let _restore = Restore(GRADIENTS.replace(enabled));
    f()
}

/// Runs `f` without recording. The mode belongs to the thread: work that `f` hands to other threads records.
///
/// ```
/// # fn main() -> attentia_tensor::Result<()> {
/// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
/// use attentia_tensor::{DType, Tensor, Var, no_grad};
/// let w = Var::new(Tensor::ones(&[2], DType::F32, &device)?)?;
/// let y = no_grad(|| w.tensor().exp())?;
/// assert!(!y.requires_grad());
/// # Ok(())
/// # }
/// ```
pub fn no_grad<T>(f: impl FnOnce() -> T) -> T {
    with_grad(false, f)
}

/// Runs `f` with recording, also inside [`no_grad`].
pub fn enable_grad<T>(f: impl FnOnce() -> T) -> T {
    with_grad(true, f)
}

pub(crate) fn set_grad<T>(enabled: bool, f: impl FnOnce() -> T) -> T {
    with_grad(enabled, f)
}

/// Whether an operation on these operands is recorded.
pub(crate) fn records(operands: &[&Tensor]) -> bool {
    GRADIENTS.get() && operands.iter().any(|t| t.edge.is_some())
}
