//! What goes through every forward: whether it trains, which random stream dropout draws from, and who is watching.

use crate::Site;
use attentia_tensor::{Result, RngKey, Tensor};
use std::fmt;

/// What a forward needs to know of the run; cheap to clone, so that recomputation can own one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Whether dropout is active.
    pub train: bool,
    /// Seed of the run.
    pub seed: u64,
    /// Training step.
    pub step: u64,
}

/// Receives the values that it asks for.
pub trait Sink {
    /// Whether the value at this site should be computed and kept.
    fn wants(&self, site: Site) -> bool;
    /// Takes the value. It must not outlive the run in the graph: keep a detached tensor.
    fn keep(&mut self, site: Site, value: &Tensor) -> Result<()>;
}

/// A [`Run`], and the sink of one forward. Recomputation gets the run and no sink.
pub struct Context<'s> {
    run: Run,
    sink: Option<&'s mut dyn Sink>,
    calls: u64,
}

impl<'s> Context<'s> {
    /// Nobody watches.
    pub fn new(run: Run) -> Context<'s> {
        Context { run, sink: None, calls: 0 }
    }

    /// Evaluation: no dropout, nobody watches.
    pub fn evaluation() -> Context<'s> {
        Context::new(Run::default())
    }

    /// The values that `sink` wants are given to it.
    pub fn watched(run: Run, sink: &'s mut dyn Sink) -> Context<'s> {
        Context { run, sink: Some(sink), calls: 0 }
    }

    /// The run.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The next dropout stream of a module: distinct for a module applied twice, the same in a recomputation that
    /// starts from the same count, and independent of every other module's.
    pub fn dropout_key(&mut self, module: RngKey) -> RngKey {
        self.calls += 1;
        RngKey { seed: self.run.seed, step: self.run.step, call: self.calls, ..module }
    }

    /// Whether somebody wants the value at this site.
    pub fn wants(&self, site: Site) -> bool {
        self.sink.as_ref().is_some_and(|sink| sink.wants(site))
    }

    /// Shows a value to whoever wants it.
    pub fn tap(&mut self, site: Site, value: &Tensor) -> Result<()> {
        match &mut self.sink {
            Some(sink) if sink.wants(site) => sink.keep(site, &value.detach()),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Context({:?}, watched: {})", self.run, self.sink.is_some())
    }
}
