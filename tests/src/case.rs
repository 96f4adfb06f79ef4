//! A case is a value: operands, the call, what comes out, and how exact that has to be.
//!
//! Nothing is allocated until a case runs: an operand is a shape, a placement and a way to fill it. How it runs and is
//! compared stands in `judge.rs`.

use crate::{fill::Fill, layout::Placement, tolerance::Accept};
use attentia_backend::{Backend, DType, ErrorKind, Layout, Result, Support, View, ViewMut};
use std::sync::Arc;

/// An operand to be made.
#[derive(Clone, Debug)]
pub struct Operand {
    pub(crate) role: &'static str,
    pub(crate) dtype: DType,
    pub(crate) layout: Layout,
    pub(crate) len: usize,
    pub(crate) fill: Fill,
}

impl Operand {
    /// An operand of this shape and placement.
    pub fn new(
        role: &'static str,
        dtype: DType,
        shape: &[usize],
        placement: Placement,
        turn: usize,
        fill: Fill,
    ) -> Operand {
        let (layout, len) = placement.place(shape, turn);
        Operand { role, dtype, layout, len, fill }
    }

    /// An operand of a layout made by hand, over a buffer of `len` elements.
    pub fn at(role: &'static str, dtype: DType, layout: Layout, len: usize, fill: Fill) -> Operand {
        Operand { role, dtype, layout, len, fill }
    }
}

/// A result's place, and how exact the result has to be.
#[derive(Clone, Debug)]
pub struct Destination {
    pub(crate) operand: Operand,
    pub(crate) accept: Accept,
}

impl Destination {
    /// Room for a result, filled with what must not be read.
    pub fn new(
        role: &'static str,
        dtype: DType,
        shape: &[usize],
        placement: Placement,
        turn: usize,
        accept: Accept,
    ) -> Destination {
        Destination { operand: Operand::new(role, dtype, shape, placement, turn, Fill::Poison), accept }
    }

    /// What it holds before the call, for updates in place.
    pub fn holding(mut self, fill: Fill) -> Destination {
        self.operand.fill = fill;
        self
    }
}

/// The call: it gets views of all inputs and of all destinations, in their order.
pub type Call = Arc<dyn Fn(&dyn Backend, Views) -> Result<()> + Send + Sync>;
/// What the backend answers when it is asked for a kernel.
pub type Ask = Arc<dyn Fn(&dyn Backend, DType, &[View]) -> Support + Send + Sync>;

/// Views of a call.
pub struct Views<'a> {
    /// Of the inputs.
    pub inputs: Vec<View<'a>>,
    /// Of the destinations.
    pub outputs: Vec<ViewMut<'a>>,
}

impl<'a> Views<'a> {
    /// All of them by position. The numbers are those of the case.
    pub fn all<const I: usize, const O: usize>(self) -> ([View<'a>; I], [ViewMut<'a>; O]) {
        let (found, wanted) = ((self.inputs.len(), self.outputs.len()), (I, O));
        match (self.inputs.try_into(), self.outputs.try_into()) {
            (Ok(inputs), Ok(outputs)) => (inputs, outputs),
            _ => panic!("the case has (inputs, outputs) = {found:?}, and its call wants {wanted:?}"),
        }
    }
}

/// What a call has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Give the oracle's values.
    Values,
    /// Refuse, with an error of this kind.
    Refusal(ErrorKind),
}

/// The backward of a case's operation.
#[derive(Clone)]
pub struct Gradient {
    /// Its name in the list of what has to be covered.
    pub operation: &'static str,
    /// Which of the forward's outputs it reads: the oracle's, rounded to their dtype.
    pub saved: Vec<usize>,
    /// Cotangents.
    pub cotangents: Vec<Operand>,
    /// Where the gradients go.
    pub outputs: Vec<Destination>,
    /// The call: it gets the forward's inputs, the saved outputs and the cotangents.
    pub run: Call,
}

/// One test of one operation.
#[derive(Clone)]
pub struct Case {
    /// `softmax/3x65/strided/bf16`
    pub id: String,
    /// The entry, or entry and variant, that it covers.
    pub operation: &'static str,
    /// How its first operand lies in memory.
    pub placement: Placement,
    /// The dtype that it is about.
    pub dtype: DType,
    /// About how many elements are read, multiplied or written: for choosing the cheap ones.
    pub cost: usize,
    /// The operands.
    pub inputs: Vec<Operand>,
    /// The results.
    pub outputs: Vec<Destination>,
    /// The call.
    pub run: Call,
    /// The backward, when the operation has one.
    pub grad: Option<Gradient>,
    /// What it has to do.
    pub expect: Expect,
    /// How to ask for the kernel, when the backend need not have one.
    pub ask: Option<Ask>,
    /// Whether the oracle computes in f64. Casts and random numbers depend on the dtype itself: theirs does not.
    pub widen: bool,
}

/// How a case ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel ran and was right.
    Right,
    /// The backend has no kernel for it, said so, and refuses to run it.
    Composed,
}

impl Case {
    /// A case of an operation; `what` distinguishes it from the others with the same placement and dtype.
    pub fn new(
        operation: &'static str,
        what: impl std::fmt::Display,
        placement: Placement,
        dtype: DType,
        run: impl Fn(&dyn Backend, Views) -> Result<()> + Send + Sync + 'static,
    ) -> Case {
        Case {
            id: format!("{operation}/{what}/{placement}/{dtype}"),
            operation,
            placement,
            dtype,
            cost: 0,
            inputs: Vec::new(),
            outputs: Vec::new(),
            run: Arc::new(run),
            grad: None,
            expect: Expect::Values,
            ask: None,
            widen: true,
        }
    }

    /// One more operand.
    pub fn input(mut self, operand: Operand) -> Case {
        self.cost += operand.layout.count();
        self.inputs.push(operand);
        self
    }

    /// One more result.
    pub fn output(mut self, destination: Destination) -> Case {
        self.cost += destination.operand.layout.count();
        self.outputs.push(destination);
        self
    }

    /// Another cost than the number of elements.
    pub fn cost(mut self, cost: usize) -> Case {
        self.cost = cost;
        self
    }

    /// With a backward.
    pub fn gradient(mut self, gradient: Gradient) -> Case {
        self.cost *= 3;
        self.grad = Some(gradient);
        self
    }

    /// The call must be refused.
    pub fn refused(mut self, kind: ErrorKind) -> Case {
        self.expect = Expect::Refusal(kind);
        self
    }

    /// The backend may have no kernel.
    pub fn asking(mut self, ask: impl Fn(&dyn Backend, DType, &[View]) -> Support + Send + Sync + 'static) -> Case {
        self.ask = Some(Arc::new(ask));
        self
    }

    /// The oracle computes in the case's own dtype.
    pub fn in_own_dtype(mut self) -> Case {
        self.widen = false;
        self
    }

    /// Every operation that this case covers.
    pub fn operations(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.operation).chain(self.grad.as_ref().map(|g| g.operation))
    }
}
