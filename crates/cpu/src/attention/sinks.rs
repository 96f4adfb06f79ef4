//! Sinks: a logit of each head in the denominator of its rows.
//!
//! ```text
//! forward    when a row is complete:   m = max(lse, sink)     l = exp(lse − m) + exp(sink − m)     w = exp(lse − m) / l
//!            out *= w     lse = m + ln l     statistics of weights that are w times as large
//! backward   dsink_h = − Σ_{b, t} exp(sink_h − lse) · delta          delta = Σ dout · out − dlse, as for the keys
//! ```
//!
//! The loops over keys know nothing of it: what they make of the keys alone is corrected once for each row, and the
//! weights of the backward, `exp(score − lse)`, are right by the lse that was saved.

use super::{
    online::State,
    problem::{Heads, OP, Problem},
};
use crate::{
    CpuBackend, check,
    isa::{self, Kernel, Machine},
    math::{Real, exp, log},
    matmul::{
        block::finish,
        element::{Element, Sum},
        schedule::{Shared, block},
    },
    pool::Block,
    softmax::scale_row,
};
use attentia_backend::{Error, ErrorKind, Result, ViewMut};

/// Takes a sink into rows that are complete: their outputs are divided, and the lse stands in the place of their maxima.
pub(super) struct Sink<'a, A> {
    pub(super) state: State<'a, A>,
    pub(super) sink: A,
}

impl<A: Real> Kernel for Sink<'_, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Sink { state: State { rows, width, output, maxima, statistics, .. }, sink } = self;
        if sink == A::NEG_INFINITY {
            return; // none, and −∞ − −∞ would be NaN
        }
        for i in 0..rows {
            // SAFETY: each row has an lse, and `width` elements of output.
            unsafe {
                let lse = &mut *maxima.wrapping_add(i);
                if *lse == A::NEG_INFINITY {
                    *lse = sink; // nothing was visible; output and statistics are 0 as they should be
                    continue;
                }
                let m = if sink > *lse { sink } else { *lse };
                let [keys, beside] = [*lse - m, sink - m].map(|x| exp::<M, A>(x));
                let share = keys / (keys + beside);
                scale_row(output.wrapping_add(i * width), share, width);
                *lse = m + log::<M, A>(keys + beside);
                if let Some(statistics) = &statistics {
                    statistics.shrink::<M>(i, share);
                }
            }
        }
    }
}

/// The gradient of the sinks: a part for each sequence and head, which are added up at the end.
pub(super) struct SinkGradient<T> {
    to: Heads<*mut T>,
    heads: usize,
    parts: Shared<f64>,
    /// What the parts lie in.
    _memory: Block,
}

impl<T: Element<Sum = A>, A: Sum> SinkGradient<T> {
    pub(super) fn new(cpu: &CpuBackend, problem: &Problem<T>, to: ViewMut) -> Result<SinkGradient<T>> {
        if problem.sinks.is_none() {
            return Err(Error::new(ErrorKind::Argument, "attention_backward", "a gradient of sinks, and no sinks")
                .help("give the sinks that the forward had, or ask for no gradient of theirs"));
        }
        check::shape(OP, "dsinks", to.layout(), &[problem.heads])?;
        let memory = block::<f64>(cpu, problem.batch.saturating_mul(problem.heads))?;
        let parts = Shared(memory.as_ptr().cast::<f64>());
        Ok(SinkGradient {
            to: Heads::per_head(to, "dsinks", problem.heads)?,
            heads: problem.heads,
            parts,
            _memory: memory,
        })
    }

    /// The part of a sequence and a head, from the lse and delta of all its queries.
    ///
    /// # Safety
    ///
    /// Both have a number for each query, and nobody else writes this part.
    pub(super) unsafe fn add(
        &self,
        cpu: &CpuBackend,
        problem: &Problem<T>,
        [b, h]: [usize; 2],
        lse: *const A,
        delta: *const A,
    ) {
        let Some(sinks) = &problem.sinks else { return };
        let rows = Rows { count: problem.queries, sink: sinks[h], lse, delta };
        // SAFETY: the caller's promise.
        unsafe { *self.parts.at(b * self.heads + h) = isa::run(cpu.isa, rows) };
    }

    /// Adds up the parts, in the order of the sequences.
    ///
    /// # Safety
    ///
    /// All parts are complete.
    pub(super) unsafe fn finish(&self, batch: usize) {
        for h in 0..self.heads {
            // SAFETY: the caller's promise; the destination has an element for each head.
            unsafe {
                let sum: f64 = (0..batch).map(|b| *self.parts.at(b * self.heads + h)).sum();
                finish(&A::from_f64(sum), 1, 1, 1, self.to.target(0, h, 0));
            }
        }
    }
}

/// `− Σ exp(sink − lse) · delta`
struct Rows<A> {
    count: usize,
    sink: A,
    lse: *const A,
    delta: *const A,
}

impl<A: Real> Kernel for Rows<A> {
    type Output = f64;
    #[inline(always)]
    fn run<M: Machine>(self) -> f64 {
        let mut sum = 0.0;
        for t in 0..self.count {
            // SAFETY: there are so many of both.
            let (lse, delta) = unsafe { (*self.lse.wrapping_add(t), *self.delta.wrapping_add(t)) };
            if self.sink == A::NEG_INFINITY {
                continue; // as a key of weight 0
            }
            // In f64: terms of both signs add up to little.
            sum -= exp::<M, f64>(self.sink.to_f64() - lse.to_f64()) * delta.to_f64();
        }
        sum
    }
}
