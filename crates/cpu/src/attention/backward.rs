//! The backward: tasks are ranges of keys of a key head.

use super::{
    problem::{Heads, KEYS, Problem},
    products::{Left, Multiplier},
    scores::{Deltas, Scores, Slopes},
};
use crate::{
    CpuBackend, isa,
    math::Real,
    matmul::{
        block::{Operand, finish},
        element::{Element, Sum},
        schedule::{Scratch, Shared, block},
    },
};
use attentia_backend::{
    AttentionCotangents, AttentionGrads, AttentionOperands, AttentionSaved, AttentionSpec, Result, View,
};
use std::ops::Range;

/// Tasks from which key heads are not cut any more.
const TASKS: usize = 8;

/// Rows of queries whose partial gradients are added up at a time.
const ADDED: usize = 64;

pub(super) fn run<T: Element<Sum = A>, A: Real + Sum>(
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
        problem: &problem,
    };
    let units = batch * groups;
    let ranges = TASKS.div_ceil(units.max(1)).min(problem.key_blocks()).max(1);
    let tasks = units * ranges;
    // What the ranges of a key head add to dq: with one of them it is in the task's own scratch.
    let sums = if backward.dq.is_some() { problem.group() * queries * dim } else { 0 };
    let (own, partial) = if ranges > 1 { (0, tasks * sums) } else { (sums, 0) };
    let scratch = Scratch::new::<A>(cpu, tasks, own + backward.lengths().iter().sum::<usize>())?;
    let memory = block::<A>(cpu, partial)?;
    let partial = Shared(memory.as_ptr().cast::<A>());
    let first_block = |range: usize| range * problem.key_blocks() / ranges;
    cpu.threads.run(tasks, |task| {
        let (unit, range) = (task / ranges, task % ranges);
        scratch.lend(|scratch: *mut A| {
            let dq = if ranges > 1 { partial.at(task * sums) } else { scratch };
            let scratch = scratch.wrapping_add(own);
            // SAFETY: each task has its own scratch, sums and rows of dk and dv; with one range also of dq.
            unsafe { backward.range(unit, first_block(range)..first_block(range + 1), dq, scratch, ranges == 1) };
        });
    });
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
                finish(into.cast_const(), dim, count, dim, dq.target(b, h, first), false);
            }
        });
    }
    Ok(())
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
}

/// Scratch of a task, part by part.
struct Parts<A> {
    /// Of a block of keys: kᵀ and vᵀ as columns of scores, k as columns of dq, and the two sums.
    k_columns: *mut A,
    v_columns: *mut A,
    k_steps: *mut A,
    dk: *mut A,
    dv: *mut A,
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
}

impl<T: Element<Sum = A>, A: Real + Sum> Backward<'_, T, A> {
    /// Elements of each of [`Parts`].
    fn lengths(&self) -> [usize; 13] {
        let Backward { problem, multiplier, .. } = self;
        let (dim, width, height) = (problem.dim, problem.value_dim, multiplier.block_rows());
        let rows = problem.group() * problem.queries;
        [
            multiplier.right_len(KEYS, dim),
            multiplier.right_len(KEYS, width),
            multiplier.right_len(dim, KEYS),
            KEYS * dim,
            KEYS * width,
            height * dim,
            height * width,
            multiplier.right_len(dim, height),
            multiplier.right_len(width, height),
            height * KEYS,
            height * KEYS,
            rows,
            rows,
        ]
    }

    fn parts(&self, scratch: *mut A) -> Parts<A> {
        let mut end = scratch;
        let [
            k_columns,
            v_columns,
            k_steps,
            dk,
            dv,
            q_rows,
            dout_rows,
            q_columns,
            dout_columns,
            scores,
            slopes,
            lse,
            delta,
        ] = self.lengths().map(|len| {
            let start = end;
            end = end.wrapping_add(len);
            start
        });
        Parts {
            k_columns,
            v_columns,
            k_steps,
            dk,
            dv,
            q_rows,
            dout_rows,
            q_columns,
            dout_columns,
            scores,
            slopes,
            lse,
            delta,
        }
    }

    /// The gradients of some blocks of keys, and what these add to dq, `[group, T, D]`, which is written if it is `whole`.
    ///
    /// # Safety
    ///
    /// Scratch and dq are this task's, and so are the keys' gradients, and the queries' if dq is whole.
    unsafe fn range(&self, unit: usize, blocks: Range<usize>, dq: *mut A, scratch: *mut A, whole: bool) {
        let problem = self.problem;
        let (b, g) = (unit / problem.groups, unit % problem.groups);
        let (group, queries, dim) = (problem.group(), problem.queries, problem.dim);
        let parts = self.parts(scratch);
        // SAFETY: dq and the parts of scratch have this many elements.
        unsafe {
            if self.dq.is_some() {
                zero(dq, group * queries * dim);
            }
            for in_group in 0..group {
                self.statistics(b, g * group + in_group, &parts, in_group * queries);
            }
            for at in blocks {
                self.block(b, g, at * KEYS..problem.keys.min((at + 1) * KEYS), dq, &parts);
            }
            if let (Some(to), true) = (self.dq, whole) {
                for in_group in 0..group {
                    let from = dq.wrapping_add(in_group * queries * dim).cast_const();
                    finish(from, dim, queries, dim, to.target(b, g * group + in_group, 0), false);
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
    unsafe fn block(&self, b: usize, g: usize, keys: Range<usize>, dq: *mut A, parts: &Parts<A>) {
        let Backward { problem, multiplier, .. } = self;
        let (group, queries, dim, width) = (problem.group(), problem.queries, problem.dim, problem.value_dim);
        let (count, height) = (keys.len(), multiplier.block_rows());
        // SAFETY: a block of keys, and its parts of scratch.
        unsafe {
            multiplier.pack_right(problem.k.rows(b, g, keys.start), count, dim, parts.k_columns);
            multiplier.pack_right(problem.v.rows(b, g, keys.start), count, width, parts.v_columns);
            multiplier.pack_right(problem.k.columns(b, g, keys.start), dim, count, parts.k_steps);
            zero(parts.dk, count * dim);
            zero(parts.dv, count * width);
            for in_group in 0..group {
                for start in (0..queries).step_by(height) {
                    let rows = start..queries.min(start + height);
                    let visible = problem.visible_to(b, rows.clone());
                    if visible.start < keys.end && visible.end > keys.start {
                        // What lies behind the last visible key is not touched: padding may hold anything.
                        let seen = keys.start..keys.end.min(visible.end);
                        self.tile(b, g * group + in_group, in_group * queries, rows, seen, count, dq, parts);
                    }
                }
            }
            if let Some(to) = self.dk {
                finish(parts.dk.cast_const(), dim, count, dim, to.target(b, g, keys.start), false);
            }
            if let Some(to) = self.dv {
                finish(parts.dv.cast_const(), width, count, width, to.target(b, g, keys.start), false);
            }
        }
    }

    /// A block of queries and a block of keys, of which `packed` were packed: five products.
    ///
    /// # Safety
    ///
    /// As [`range`](Self::range).
    #[expect(clippy::too_many_arguments)] // one loop nest, cut at its innermost block
    unsafe fn tile(
        &self,
        b: usize,
        h: usize,
        first: usize,
        queries: Range<usize>,
        keys: Range<usize>,
        packed: usize,
        dq: *mut A,
        parts: &Parts<A>,
    ) {
        let Backward { cpu, problem, multiplier, .. } = self;
        let (rows, count, dim, width) = (queries.len(), keys.len(), problem.dim, problem.value_dim);
        let start = queries.start;
        let statistics = |x: *mut A| x.wrapping_add(first + start).cast_const();
        let Parts { scores, slopes, .. } = *parts;
        let along_keys = |x: *mut A| Operand { start: x.cast_const(), lane: KEYS as isize, step: 1 };
        let along_queries = |x: *mut A| Operand { start: x.cast_const(), lane: 1, step: KEYS as isize };
        // SAFETY: blocks of the operands, and the parts of scratch for them.
        unsafe {
            multiplier.pack_left(problem.q.rows(b, h, start), rows, dim, parts.q_rows);
            let scale = A::from_f64(problem.scale);
            for i in 0..rows * dim {
                let q = parts.q_rows.wrapping_add(i);
                *q = *q * scale;
            }
            let (left, right) = (Left::Packed(parts.q_rows.cast_const()), parts.k_columns.cast_const());
            multiplier.multiply([rows, count, dim], left, (right, dim), scores, KEYS, false);
            match self.dout {
                Some(dout) => {
                    multiplier.pack_left(dout.rows(b, h, start), rows, width, parts.dout_rows);
                    let (left, right) = (Left::Packed(parts.dout_rows.cast_const()), parts.v_columns.cast_const());
                    multiplier.multiply([rows, count, width], left, (right, width), slopes, KEYS, false);
                }
                None => (0..rows).for_each(|i| zero(slopes.wrapping_add(i * KEYS), count)),
            }
            let block = Scores { problem: *problem, b, h, queries, keys: keys.clone(), scores, pitch: KEYS };
            isa::run(cpu.isa, Slopes { block, slopes, lse: statistics(parts.lse), delta: statistics(parts.delta) });
            if let (Some(dout), true) = (self.dout, self.dv.is_some()) {
                multiplier.pack_right(dout.columns(b, h, start), width, rows, parts.dout_columns);
                let right = (parts.dout_columns.cast_const(), rows);
                let left = Left::Free(along_queries(scores));
                multiplier.multiply([count, width, rows], left, right, parts.dv, width, true);
            }
            if self.dk.is_some() {
                multiplier.pack_right(problem.q.columns(b, h, start), dim, rows, parts.q_columns);
                let right = (parts.q_columns.cast_const(), rows);
                let left = Left::Free(along_queries(slopes));
                multiplier.multiply([count, dim, rows], left, right, parts.dk, dim, true);
            }
            if self.dq.is_some() {
                let (right, left) = (parts.k_steps.cast_const(), Left::Free(along_keys(slopes)));
                let dq = dq.wrapping_add((first + start) * dim);
                multiplier.multiply([rows, dim, count], left, (right, packed), dq, dim, true);
            }
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
