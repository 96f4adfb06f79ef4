//! The backward: tasks are ranges of keys of a key head.

use super::{
    problem::{Heads, KEYS, PITCH, Problem, TASKS},
    products::{Left, Multiplier},
    scores::Scores,
    sinks::SinkGradient,
    slopes::{Deltas, Slopes, Sums},
    summed::{Place, Summed},
};
use crate::{
    CpuBackend,
    isa::{self, Kernel, Machine},
    math::Real,
    matmul::{
        block::{Operand, finish},
        element::{Element, Sum},
        schedule::{Scratch, Shared, block},
        soon::Soon,
    },
};
use attentia_backend::{
    AttentionCotangents, AttentionGrads, AttentionOperands, AttentionSaved, AttentionSpec, Error, ErrorKind, Result,
    View, ViewMut,
};
use std::ops::Range;

/// Bytes of the tasks' parts of summed gradients, which are added up when they are full. At least [`TASKS`] tasks run at a
/// time, whatever their parts take.
const PARTS: usize = 64 << 20;

/// Blocks of queries whose gradients of a block of keys are added up before they are added to those of earlier ones, as errors
/// grow with the number of terms.
const TILES: usize = 16;

/// Bytes of queries and keys of a head that leave room in an L2 for those of the next.
const SHORT: usize = 256 << 10;

/// Rows of queries whose partial gradients are added up at a time.
const ADDED: usize = 64;

pub(super) fn run<T: Element<Sum = A>, A: Sum>(
    cpu: &CpuBackend,
    spec: &AttentionSpec,
    operands: &AttentionOperands,
    saved: &AttentionSaved,
    cotangents: &AttentionCotangents,
    grads: AttentionGrads,
) -> Result<()> {
    let problem = Problem::<T>::new(cpu, spec, operands)?;
    let Problem { batch, heads, groups, queries, keys, dim, value_dim, .. } = problem;
    let (rows, out_shape) = ([batch, heads, queries], [batch, heads, queries, value_dim]);
    let read = |view: View<'_>, role| Heads::<*const T>::new(view, role, &out_shape);
    let (modifier, scalars) = (spec.modifier.as_ref(), operands.scalars);
    let mut summed = Vec::new();
    for (i, to) in wanted("biases", grads.biases, operands.biases.len())? {
        summed.push(Summed::of_bias(&problem, modifier, i, scalars, to)?);
    }
    for (i, to) in wanted("head_scalars", grads.head_scalars, operands.head_scalars.len())? {
        summed.push(Summed::of_values(&problem, modifier, i, scalars, to)?);
    }
    let backward = Backward {
        cpu,
        multiplier: Multiplier::<T>::of(cpu.isa),
        out: read(saved.out, "saved out")?,
        lse: Heads::<*const A>::new(saved.lse, "saved lse", &rows)?,
        dout: cotangents.out.map(|dout| read(dout, "dout")).transpose()?,
        dlse: cotangents.lse.map(|dlse| Heads::<*const A>::new(dlse, "dlse", &rows)).transpose()?,
        dq: grads.q.map(|dq| Heads::<*mut T>::new_mut(dq, "dq", &[batch, heads, queries, dim])).transpose()?,
        dk: grads.k.map(|dk| Heads::<*mut T>::new_mut(dk, "dk", &[batch, groups, keys, dim])).transpose()?,
        dv: grads.v.map(|dv| Heads::<*mut T>::new_mut(dv, "dv", &[batch, groups, keys, value_dim])).transpose()?,
        sinks: grads.sinks.map(|to| SinkGradient::new(cpu, &problem, to)).transpose()?,
        problem: &problem,
        summed: &summed,
    };
    let units = batch * groups;
    let ranges = TASKS.div_ceil(units.max(1)).min(problem.key_blocks()).max(1);
    let tasks = units * ranges;
    // What the ranges of a key head add to dq: with one of them it is in the task's own scratch.
    let sums = if backward.dq.is_some() { problem.group() * queries * dim } else { 0 };
    let (own, partial) = if ranges > 1 { (0, tasks * sums) } else { (sums, 0) };
    let scratch = Scratch::new::<A>(cpu, tasks, own + backward.parts(std::ptr::null_mut()).1)?;
    let memory = block::<A>(cpu, partial)?;
    let partial = Shared(memory.as_ptr().cast::<A>());
    let place = |task: usize| {
        let (unit, range) = (task / ranges, task % ranges);
        let key = |range: usize| keys.min(range * problem.key_blocks() / ranges * KEYS);
        let (b, group, heads) = (unit / groups, unit % groups, problem.group());
        Place { b, group, head: group * heads, heads, keys: key(range)..key(range + 1) }
    };
    let part = (0..ranges.min(tasks)).map(|range| backward.parts_len(&place(range))).max().unwrap_or(0);
    let together = (PARTS / part.saturating_mul(size_of::<A>()).max(1)).max(TASKS).min(tasks).max(1);
    let parts_memory = block::<A>(cpu, part.saturating_mul(together))?;
    let parts = Shared(parts_memory.as_ptr().cast::<A>());
    let wholes_memory = block::<A>(cpu, summed.iter().map(Summed::len).sum())?;
    let wholes = Shared(wholes_memory.as_ptr().cast::<A>());
    // SAFETY: nobody else has this memory.
    unsafe { zero(wholes.at(0), summed.iter().map(Summed::len).sum()) };
    for first in (0..tasks).step_by(together) {
        let wave = together.min(tasks - first);
        cpu.threads.run(wave, |i| {
            let task = first + i;
            scratch.lend(|scratch: *mut A| {
                let dq = if ranges > 1 { partial.at(task * sums) } else { scratch };
                let scratch = scratch.wrapping_add(own);
                // SAFETY: each task has its own scratch, sums, parts and rows of dk and dv; with one range also of dq.
                unsafe {
                    let next = (task + 1 < tasks).then(|| place(task + 1));
                    let soon = backward.soon(&place(task), next);
                    backward.range(&place(task), dq, parts.at(i * part), scratch, ranges == 1, &soon)
                };
            });
        });
        // Where a gradient's parts begin within each task's, and the gradient itself.
        let mut before = vec![0; wave];
        let mut whole = 0;
        for summed in &summed {
            let of_tasks: Vec<(Place, usize)> =
                before.iter().enumerate().map(|(i, before)| (place(first + i), i * part + before)).collect();
            cpu.threads.chunks(summed.rows(), ADDED, |rows| {
                // SAFETY: parts are complete; rows of this task.
                unsafe { summed.gather(rows, &of_tasks, parts.at(0).cast_const(), wholes.at(whole)) };
            });
            before.iter_mut().zip(&of_tasks).for_each(|(before, (place, _))| *before += summed.part_len(place));
            whole += summed.len();
        }
    }
    if let Some(sinks) = &backward.sinks {
        // SAFETY: all tasks are done.
        unsafe { sinks.finish(batch) };
    }
    let mut whole = 0;
    for summed in &summed {
        cpu.threads.run(summed.matrices(), |matrix| {
            // SAFETY: it is complete; a matrix of this task.
            unsafe { summed.finish(matrix, wholes.at(whole).cast_const()) };
        });
        whole += summed.len();
    }
    if let (Some(dq), true) = (backward.dq, ranges > 1) {
        let (group, parts) = (problem.group(), queries.div_ceil(ADDED));
        cpu.threads.run(units * group * parts, |task| {
            let (unit, in_group, part) = (task / parts / group, task / parts % group, task % parts);
            let first = part * ADDED;
            let count = ADDED.min(queries - first);
            let offset = (in_group * queries + first) * dim;
            let into = partial.at(unit * ranges * sums + offset);
            // SAFETY: rows of this task, in every partial sum and in dq; all are complete.
            unsafe {
                for range in 1..ranges {
                    let from = partial.at((unit * ranges + range) * sums + offset);
                    for i in 0..count * dim {
                        *into.wrapping_add(i) += *from.wrapping_add(i);
                    }
                }
                let (b, h) = (unit / groups, unit % groups * group + in_group);
                finish(into.cast_const(), dim, count, dim, dq.target(b, h, first));
            }
        });
    }
    Ok(())
}

/// The gradients that are wanted, by their numbers: none, or one for each operand.
fn wanted<'a>(
    role: &str,
    grads: Vec<Option<ViewMut<'a>>>,
    operands: usize,
) -> Result<impl Iterator<Item = (usize, ViewMut<'a>)>> {
    if !grads.is_empty() && grads.len() != operands {
        let message = format!("{} gradients for {operands} {role}", grads.len());
        return Err(Error::new(ErrorKind::Argument, "attention_backward", message)
            .help("none, or one for each operand in its order, of which some may be None"));
    }
    Ok(grads.into_iter().enumerate().filter_map(|(i, to)| Some((i, to?))))
}

struct Backward<'a, T: Element + 'static, A> {
    cpu: &'a CpuBackend,
    problem: &'a Problem<T>,
    multiplier: Multiplier<T>,
    out: Heads<*const T>,
    lse: Heads<*const A>,
    dout: Option<Heads<*const T>>,
    dlse: Option<Heads<*const A>>,
    dq: Option<Heads<*mut T>>,
    dk: Option<Heads<*mut T>>,
    dv: Option<Heads<*mut T>>,
    sinks: Option<SinkGradient<T>>,
    summed: &'a [Summed<T>],
}

/// Scratch of a task, part by part.
struct Parts<A> {
    /// Of a block of keys: kᵀ and vᵀ as columns of scores, k as columns of dq, and the two sums.
    k_columns: *mut A,
    v_columns: *mut A,
    k_steps: *mut A,
    dk: *mut A,
    dv: *mut A,
    /// Gradients of the block of keys by earlier blocks of queries.
    earlier_dk: *mut A,
    earlier_dv: *mut A,
    /// Of a block of queries: rows of q and of dout, and both as columns of dk and dv.
    q_rows: *mut A,
    dout_rows: *mut A,
    q_columns: *mut A,
    dout_columns: *mut A,
    scores: *mut A,
    slopes: *mut A,
    /// Of all queries of the group.
    lse: *mut A,
    delta: *mut A,
    /// Rows for the modifier.
    modifier: *mut A,
}

impl<T: Element<Sum = A>, A: Sum> Backward<'_, T, A> {
    /// Whether sums over queries go through [`Gather`].
    fn is_long(&self) -> bool {
        self.problem.group() * self.problem.queries.div_ceil(self.multiplier.block_rows()) > TILES
    }

    /// The parts of a task's scratch, and the elements of all.
    fn parts(&self, scratch: *mut A) -> (Parts<A>, usize) {
        let Backward { problem, multiplier, .. } = self;
        let (dim, width, height) = (problem.dim, problem.value_dim, multiplier.block_rows());
        let rows = problem.group() * problem.queries;
        let earlier = if self.is_long() { KEYS } else { 0 };
        let mut all = 0usize;
        let mut part = |len: usize| {
            let start = scratch.wrapping_add(all);
            all = all.saturating_add(len);
            start
        };
        let parts = Parts {
            k_columns: part(multiplier.right_len(KEYS, dim)),
            v_columns: part(multiplier.right_len(KEYS, width)),
            k_steps: part(multiplier.right_len(dim, KEYS)),
            dk: part(KEYS * dim),
            dv: part(KEYS * width),
            earlier_dk: part(earlier * dim),
            earlier_dv: part(earlier * width),
            q_rows: part(height * dim),
            dout_rows: part(height * width),
            q_columns: part(multiplier.right_len(dim, height)),
            // Rows of out lie there before.
            dout_columns: part(multiplier.right_len(width, height).max(height * width)),
            scores: part(height * PITCH),
            slopes: part(height * PITCH),
            lse: part(rows),
            delta: part(rows),
            modifier: part(problem.modifier_len()),
        };
        (parts, all)
    }

    /// Elements of a task's parts of summed gradients.
    fn parts_len(&self, place: &Place) -> usize {
        self.summed.iter().map(|summed| summed.part_len(place)).sum()
    }

    /// What a task of a whole head writes, and what the next one reads; of a group of heads, for the first.
    fn soon(&self, place: &Place, next: Option<Place>) -> Soon {
        let soon = Soon::nothing();
        let Problem { queries, keys, dim, value_dim, .. } = *self.problem;
        let bytes = (queries + keys).saturating_mul(dim.max(value_dim)).saturating_mul(size_of::<T>());
        if bytes > SHORT || place.keys.len() < keys {
            return soon;
        }
        for (to, width) in [(self.dv, value_dim), (self.dk, dim)] {
            if let Some(to) = to {
                soon.ask(to.target(place.b, place.group, 0).as_operand(), keys, width);
            }
        }
        if let Some(dq) = self.dq {
            soon.ask(dq.target(place.b, place.head, 0).as_operand(), queries, dim);
        }
        if let Some(next) = next {
            let (b, g, h) = (next.b, next.group, next.head);
            soon.ask(self.problem.q.rows(b, h, 0), queries, dim);
            soon.ask(self.problem.v.rows(b, g, 0), keys, value_dim);
            soon.ask(self.problem.k.rows(b, g, 0), keys, dim);
            if let Some(dout) = self.dout {
                soon.ask(self.out.rows(b, h, 0), queries, value_dim);
                soon.ask(dout.rows(b, h, 0), queries, value_dim);
            }
        }
        soon
    }

    /// The gradients of a range of keys, and what these add to dq, `[group, T, D]`, which is written if it is `whole`, and to
    /// summed gradients.
    ///
    /// # Safety
    ///
    /// Scratch and dq are this task's, and so are the keys' gradients, and the queries' if dq is whole.
    unsafe fn range(&self, place: &Place, dq: *mut A, sums: *mut A, scratch: *mut A, whole: bool, soon: &Soon) {
        let problem = self.problem;
        let (b, group) = (place.b, place.heads);
        let (queries, dim) = (problem.queries, problem.dim);
        let (parts, _) = self.parts(scratch);
        // SAFETY: dq and the parts of scratch have this many elements.
        unsafe {
            if self.dq.is_some() {
                zero(dq, group * queries * dim);
            }
            zero(sums, self.parts_len(place));
            for in_group in 0..group {
                let (h, first) = (place.head + in_group, in_group * queries);
                self.statistics(b, h, &parts, first);
                // The first range of keys does it for all of them.
                if let (Some(sinks), 0) = (&self.sinks, place.keys.start) {
                    let [lse, delta] = [parts.lse, parts.delta].map(|x| x.wrapping_add(first).cast_const());
                    sinks.add(self.cpu, problem, [b, h], lse, delta);
                }
            }
            for key in place.keys.clone().step_by(KEYS) {
                self.block(place, key..place.keys.end.min(key + KEYS), dq, sums, &parts, soon);
            }
            if let (Some(to), true) = (self.dq, whole) {
                for in_group in 0..group {
                    let from = dq.wrapping_add(in_group * queries * dim).cast_const();
                    finish(from, dim, queries, dim, to.target(b, place.head + in_group, 0));
                }
            }
        }
    }

    /// `lse` and `delta = Σ dout · out − dlse` of all queries of a head, from `first` on in their parts of scratch.
    ///
    /// # Safety
    ///
    /// As [`range`](Self::range).
    unsafe fn statistics(&self, b: usize, h: usize, parts: &Parts<A>, first: usize) {
        let problem = self.problem;
        let (lse, delta) = (parts.lse.wrapping_add(first), parts.delta.wrapping_add(first));
        let (height, width) = (self.multiplier.block_rows(), problem.value_dim);
        // SAFETY: the rows that there are, a block of them at a time in scratch that is not in use yet.
        unsafe {
            for t in 0..problem.queries {
                *lse.wrapping_add(t) = *self.lse.at(b, h, t).0;
                *delta.wrapping_add(t) = self.dlse.map_or(A::ZERO, |dlse| *dlse.at(b, h, t).0);
            }
            for start in (0..problem.queries).step_by(height) {
                let rows = height.min(problem.queries - start);
                let (x, y) = (parts.dout_rows, parts.dout_columns);
                match self.dout {
                    Some(dout) => {
                        widen(dout.rows(b, h, start), rows, width, x);
                        widen(self.out.rows(b, h, start), rows, width, y);
                    }
                    None => {
                        zero(x, rows * width);
                        zero(y, rows * width);
                    }
                }
                let delta = delta.wrapping_add(start);
                isa::run(self.cpu.isa, Deltas { rows, width, x: x.cast_const(), y: y.cast_const(), delta });
            }
        }
    }

    /// A block of keys with all queries that see it.
    ///
    /// # Safety
    ///
    /// As [`range`](Self::range).
    unsafe fn block(&self, place: &Place, keys: Range<usize>, dq: *mut A, sums: *mut A, parts: &Parts<A>, soon: &Soon) {
        let Backward { problem, multiplier, .. } = self;
        let (b, g, group) = (place.b, place.group, place.heads);
        let (queries, dim, width) = (problem.queries, problem.dim, problem.value_dim);
        let (count, height) = (keys.len(), multiplier.block_rows());
        // SAFETY: a block of keys, and its parts of scratch.
        unsafe {
            multiplier.pack_right(problem.k.rows(b, g, keys.start), count, dim, parts.k_columns);
            multiplier.pack_right(problem.v.rows(b, g, keys.start), count, width, parts.v_columns);
            multiplier.pack_right(problem.k.columns(b, g, keys.start), dim, count, parts.k_steps);
            multiplier.clear_outside(parts.k_steps, dim, count, problem.present_in(b, keys.clone()));
            let grads = [(parts.dk, parts.earlier_dk, count * dim), (parts.dv, parts.earlier_dv, count * width)];
            for (grad, earlier, len) in grads {
                zero(grad, len);
                zero(earlier, if self.is_long() { len } else { 0 });
            }
            let gather = || grads.map(|(grad, earlier, len)| isa::run(self.cpu.isa, Gather { grad, earlier, len }));
            let mut tiles = 0;
            for in_group in 0..group {
                for start in (0..queries).step_by(height) {
                    let rows = start..queries.min(start + height);
                    let visible = problem.visible_to(b, rows.clone());
                    let near = !visible.is_empty() && visible.start < keys.end && visible.end > keys.start;
                    if near && problem.meet(b, rows.clone(), keys.start / KEYS) {
                        if tiles == TILES {
                            gather();
                            tiles = 0;
                        }
                        tiles += 1;
                        // What lies behind the last visible key is not touched: padding may hold anything.
                        let seen = keys.start..keys.end.min(visible.end);
                        let hidden = self.multiplier.before(visible.start.saturating_sub(keys.start));
                        self.tile(place, in_group, rows, (seen, hidden, count), dq, sums, parts, soon);
                    }
                }
            }
            let [dk, dv] = match self.is_long() {
                true => {
                    gather();
                    [parts.earlier_dk, parts.earlier_dv]
                }
                false => [parts.dk, parts.dv],
            };
            if let Some(to) = self.dk {
                finish(dk.cast_const(), dim, count, dim, to.target(b, g, keys.start));
            }
            if let Some(to) = self.dv {
                finish(dv.cast_const(), width, count, width, to.target(b, g, keys.start));
            }
        }
    }

    /// A block of queries and a block of keys, of which the first `hidden` are seen by none, and `packed` were packed: five
    /// products.
    ///
    /// # Safety
    ///
    /// As [`range`](Self::range).
    #[expect(clippy::too_many_arguments)] // one loop nest, cut at its innermost block
    unsafe fn tile(
        &self,
        place: &Place,
        in_group: usize,
        queries: Range<usize>,
        (keys, hidden, packed): (Range<usize>, usize, usize),
        dq: *mut A,
        sums: *mut A,
        parts: &Parts<A>,
        soon: &Soon,
    ) {
        let Backward { cpu, problem, multiplier, .. } = self;
        let (rows, count, dim, width) = (queries.len(), keys.len(), problem.dim, problem.value_dim);
        let (b, h, first, start) = (place.b, place.head + in_group, in_group * problem.queries, queries.start);
        let statistics = |x: *mut A| x.wrapping_add(first + start).cast_const();
        let Parts { scores, slopes, .. } = *parts;
        // SAFETY: blocks of the operands, and the parts of scratch for them.
        unsafe {
            multiplier.pack_left(problem.q.rows(b, h, start), rows, dim, parts.q_rows);
            let (left, right) = (Left::Packed(parts.q_rows.cast_const()), parts.k_columns.cast_const());
            multiplier.multiply([rows, count, dim], left, (right, dim), (scores, PITCH), false, soon);
            match self.dout {
                Some(dout) => {
                    multiplier.pack_left(dout.rows(b, h, start), rows, width, parts.dout_rows);
                    let (left, right) = (Left::Packed(parts.dout_rows.cast_const()), parts.v_columns.cast_const());
                    multiplier.multiply([rows, count, width], left, (right, width), (slopes, PITCH), false, soon);
                }
                None => (0..rows).for_each(|i| zero(slopes.wrapping_add(i * PITCH), count)),
            }
            let block = Scores { problem: *problem, b, h, queries, keys: keys.clone(), scores, rows: parts.modifier };
            let (lse, delta) = (statistics(parts.lse), statistics(parts.delta));
            let sums = Sums { all: self.summed, place, parts: sums };
            isa::run(cpu.isa, Slopes { block, slopes, lse, delta, sums });
            let [weights, of_queries, of_keys] = multiplier.across([scores, slopes], rows, count);
            if let (Some(dout), true) = (self.dout, self.dv.is_some()) {
                multiplier.pack_right(dout.columns(b, h, start), width, rows, parts.dout_columns);
                let right = (parts.dout_columns.cast_const(), rows);
                multiplier.multiply([count, width, rows], Left::Free(weights), right, (parts.dv, width), true, soon);
            }
            if self.dk.is_some() {
                multiplier.pack_right(problem.q.columns(b, h, start), dim, rows, parts.q_columns);
                let right = (parts.q_columns.cast_const(), rows);
                multiplier.multiply([count, dim, rows], Left::Free(of_queries), right, (parts.dk, dim), true, soon);
            }
            if self.dq.is_some() {
                // Hidden keys may hold anything, and 0 · NaN would be NaN.
                let right = multiplier.without_first(parts.k_steps.cast_const(), hidden);
                let left = Left::Free(of_keys.at(0, multiplier.steps(hidden)));
                let dq = dq.wrapping_add((first + start) * dim);
                multiplier.multiply([rows, dim, count - hidden], left, (right, packed), (dq, dim), true, soon);
            }
        }
    }
}

/// Adds a gradient to that by earlier blocks of queries, and begins it anew.
struct Gather<A> {
    grad: *mut A,
    earlier: *mut A,
    len: usize,
}

impl<A: Real> Kernel for Gather<A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Gather { grad, earlier, len } = self;
        // SAFETY: both have `len` elements, and are one task's.
        let [earlier, grad] = unsafe { [earlier, grad].map(|x| std::slice::from_raw_parts_mut(x, len)) };
        for (sum, term) in earlier.iter_mut().zip(grad) {
            *sum += *term;
            *term = A::ZERO;
        }
    }
}

/// # Safety
///
/// `len` elements can be written.
unsafe fn zero<A: Real>(x: *mut A, len: usize) {
    // SAFETY: the caller's promise; all bits zero are the number 0.
    unsafe { x.write_bytes(0, len) };
}

/// Rows of sums, one after the other.
///
/// # Safety
///
/// The operand has these rows, and `to` room for them.
unsafe fn widen<T: Element>(x: Operand<T>, rows: usize, width: usize, to: *mut T::Sum) {
    for i in 0..rows {
        for j in 0..width {
            // SAFETY: the caller's promise.
            unsafe { *to.wrapping_add(i * width + j) = (*x.at(i, j).start).widen() };
        }
    }
}
