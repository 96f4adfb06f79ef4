//! What goes through every forward: whether it trains, which random stream dropout draws from, what is planned to be
//! captured, and who receives it.

use crate::Site;
use attentia_tensor::{Result, RngKey, Tensor};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

/// Which values of a run are wanted. A plan is made before the run and outlives recomputation; the values go to a
/// [`Sink`].
pub trait Plan: fmt::Debug + Send + Sync {
    /// Whether the value at this site should be computed and kept.
    fn wants(&self, site: Site) -> bool;
}

/// Receives the values that were planned.
pub trait Sink {
    /// Takes the value, which is cut from the graph.
    fn keep(&mut self, site: Site, value: &Tensor) -> Result<()>;
}

/// A plan that wants some sites.
impl Plan for BTreeSet<Site> {
    fn wants(&self, site: Site) -> bool {
        self.contains(&site)
    }
}

/// Values by site. A site that is visited again replaces its value.
pub type Captures = BTreeMap<Site, Tensor>;

impl Sink for Captures {
    fn keep(&mut self, site: Site, value: &Tensor) -> Result<()> {
        self.insert(site, value.clone());
        Ok(())
    }
}

/// What a forward needs to know of the run; cheap to clone, so that recomputation can own one.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// What to capture; `None` costs one test per site.
    pub plan: Option<Arc<dyn Plan>>,
    /// Whether dropout is active.
    pub train: bool,
    /// Seed of the run.
    pub seed: u64,
    /// Training step.
    pub step: u64,
}

/// A [`Run`], and the sink of one forward. Recomputation gets the run and no sink.
pub struct Context<'s> {
    run: Run,
    sink: Option<&'s mut dyn Sink>,
    calls: u64,
}

impl<'s> Context<'s> {
    /// Nobody receives anything, whatever is planned.
    pub fn new(run: Run) -> Context<'s> {
        Context { run, sink: None, calls: 0 }
    }

    /// Evaluation: no dropout, nothing is captured.
    pub fn evaluation() -> Context<'s> {
        Context::new(Run::default())
    }

    /// What the run's plan wants is given to `sink`.
    ///
    /// ```
    /// use attentia_nn::{Captures, Context, Run, Site};
    /// use std::{collections::BTreeSet, sync::Arc};
    /// let site: Site = "dec.3.cross.pattern".parse()?;
    /// let mut captures = Captures::new();
    /// let run = Run { plan: Some(Arc::new(BTreeSet::from([site]))), ..Run::default() };
    /// let cx = Context::watched(run, &mut captures);
    /// assert!(cx.wants(site) && !cx.wants("dec.3.cross.out".parse()?));
    /// # Ok::<(), attentia_tensor::Error>(())
    /// ```
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

    /// Whether the value at this site is planned and somebody receives it.
    pub fn wants(&self, site: Site) -> bool {
        self.sink.is_some() && self.run.plan.as_ref().is_some_and(|plan| plan.wants(site))
    }

    /// Shows a value to whoever wants it.
    pub fn tap(&mut self, site: Site, value: &Tensor) -> Result<()> {
        match (&self.run.plan, &mut self.sink) {
            (Some(plan), Some(sink)) if plan.wants(site) => sink.keep(site, &value.detach()),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Context({:?}, watched: {})", self.run, self.sink.is_some())
    }
}
