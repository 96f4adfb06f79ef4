//! The forward: tasks are blocks of queries.

use super::{
    online::{Finish, Merge, Online, State},
    problem::{Heads, KEYS, OP, PITCH, Problem, TASKS},
    products::{Left, Multiplier, plain},
    scores::Scores,
    sinks::Sink,
    statistics::Statistics,
};
use crate::{
    CpuBackend,
    isa::{self, Isa},
    matmul::{
        block::{Operand, finish},
        element::{Element, Sum},
        schedule::{Scratch, Shared, block},
        soon::Soon,
    },
};
use attentia_backend::{
    AttentionOperands, AttentionOut, AttentionSpec, Error, ErrorKind, Result, Shape, Statistic, ViewMut,
};
use std::ops::Range;

/// Bytes of packed keys and values of a head that each thread packs for itself: about what its core's L2 holds. Tests have
/// small heads.
const OWN: usize = if cfg!(test) { 16 << 10 } else { 1 << 20 };

/// Bytes of those that threads share, at a time: what L3 holds beside everything else. A single head may take more.
pub(super) const PACKED: usize = if cfg!(test) { 128 << 10 } else { 8 << 20 };

/// Blocks of keys that a task packs.
const PACKED_BLOCKS: usize = 2;

/// Bytes that a call takes beside the scratch of each thread: packed keys and values that threads share, as far as they are
/// there at the same time; or the states of ranges.
pub(super) fn workspace<T: Element>(isa: Isa, operands: &AttentionOperands) -> usize {
    // Ranks are checked later.
    let axis = |shape: &Shape, axis: usize| shape.get(axis).copied().unwrap_or(0);
    let (q, k, v) = (operands.q.shape(), operands.k.shape(), operands.v.shape());
    let size = size_of::<T::Sum>();
    // The strides of a pointless pointer: only they count.
    let columns = [operands.k, operands.v].map(|x| {
        let stride = |axis: usize| x.layout().strides().get(axis).copied().unwrap_or(0);
        Operand::<T> { start: std::ptr::null(), lane: stride(2), step: stride(3) }
    });
    let multiplier = Multiplier::<T>::of(isa);
    if multiplier.in_place(axis(q, 2), columns) {
        let states = axis(q, 0).saturating_mul(axis(q, 1)).max(TASKS);
        let each = axis(q, 2).saturating_mul(axis(v, 3).saturating_add(2));
        return states.saturating_mul(each).saturating_mul(size);
    }
    let each = Lengths::of(&multiplier, axis(k, 2), axis(k, 3), axis(v, 3)).all.saturating_mul(size);
    let heads = axis(k, 0).saturating_mul(axis(k, 1));
    if each <= OWN { 0 } else { each.saturating_mul(heads.min((PACKED / each).max(1))) }
}

/// A sequence and a key head, packed.
#[derive(Clone, Copy)]
struct Lengths {
    /// Elements of the keys, and of a block of values.
    keys: usize,
    values: usize,
    /// Of both.
    all: usize,
}

impl Lengths {
    fn of<T: Element>(multiplier: &Multiplier<T>, keys: usize, dim: usize, value_dim: usize) -> Lengths {
        let of_keys = multiplier.right_len(keys, dim);
        let values = multiplier.right_len(value_dim, KEYS.min(keys));
        Lengths { keys: of_keys, values, all: of_keys.saturating_add(values.saturating_mul(keys.div_ceil(KEYS))) }
    }
}

pub(super) fn run<T: Element<Sum = A>, A: Sum>(
    cpu: &CpuBackend,
    spec: &AttentionSpec,
    operands: &AttentionOperands,
    destinations: AttentionOut,
) -> Result<()> {
    let problem = Problem::<T>::new(cpu, spec, operands)?;
    let AttentionOut { out, lse, statistics } = destinations;
    let rows = [problem.batch, problem.heads, problem.queries];
    let out = Heads::<*mut T>::new_mut(out, "out", &[rows[0], rows[1], rows[2], problem.value_dim])?;
    let lse = Heads::<*mut A>::new_mut(lse, "lse", &rows)?;
    if statistics.len() != spec.statistics.len() {
        let message = format!("{} destinations for {} statistics", statistics.len(), spec.statistics.len());
        return Err(Error::new(ErrorKind::Argument, OP, message).help("one for each, in the specification's order"));
    }
    let to_rows = |(statistic, to): (&Statistic, ViewMut)| {
        Heads::<*mut A>::new_mut(to, &format!("destination of {statistic:?}"), &rows)
    };
    let to_statistics = spec.statistics.iter().zip(statistics).map(to_rows).collect::<Result<_>>()?;
    let statistics = Statistics::new(cpu, &problem, &spec.statistics, operands.tokens)?;
    if problem.is_empty() {
        return Ok(());
    }
    let multiplier = Multiplier::<T>::of(cpu.isa);
    let in_place = multiplier.in_place(problem.queries, [problem.k.rows(0, 0, 0), problem.v.rows(0, 0, 0)]);
    let lengths = match in_place {
        true => Lengths { keys: 0, values: 0, all: 0 },
        false => Lengths::of(&multiplier, problem.keys, problem.dim, problem.value_dim),
    };
    let forward =
        Forward { cpu, problem: &problem, multiplier, in_place, lengths, out, lse, statistics, to_statistics };
    match in_place {
        true => forward.in_ranges(),
        false => forward.packed(),
    }
}

/// A block of queries.
#[derive(Clone)]
struct At {
    b: usize,
    /// Key head, and head.
    g: usize,
    h: usize,
    queries: Range<usize>,
}

struct Forward<'a, T: Element + 'static, A> {
    cpu: &'a CpuBackend,
    problem: &'a Problem<T>,
    multiplier: Multiplier<T>,
    /// Whether keys and values are read where they lie: a few queries read them once.
    in_place: bool,
    lengths: Lengths,
    out: Heads<*mut T>,
    lse: Heads<*mut A>,
    statistics: Statistics<A>,
    to_statistics: Vec<Heads<*mut A>>,
}

impl<T: Element<Sum = A>, A: Sum> Forward<'_, T, A> {
    /// Many queries: keys and values are packed, and read by all blocks of queries. Those of a head that is not long are
    /// packed by the thread that reads them, as it has tasks of few heads; those of a long one by all, for all.
    fn packed(&self) -> Result<()> {
        let Forward { cpu, problem, multiplier, lengths, .. } = self;
        let (units, group) = (problem.batch * problem.groups, problem.group());
        let bytes = lengths.all.saturating_mul(size_of::<A>());
        let own = bytes <= OWN;
        let together = if own { units } else { (PACKED / bytes).clamp(1, units) };
        let (own_len, shared_len) = if own { (lengths.all, 0) } else { (0, together.saturating_mul(lengths.all)) };
        let memory = block::<A>(cpu, shared_len)?;
        let shared = Shared(memory.as_ptr().cast::<A>());
        let height = multiplier.block_rows();
        let blocks = problem.queries.div_ceil(height);
        let state_len = self.state_len(height);
        let scratch_len = own_len + state_len + self.scratch_len(height);
        let scratch = Scratch::new::<A>(cpu, together * group * blocks, scratch_len)?;
        for first in (0..units).step_by(together) {
            let count = together.min(units - first);
            let parts = if own { 0 } else { problem.key_blocks().div_ceil(PACKED_BLOCKS) };
            cpu.threads.run(count * parts, |task| {
                let (unit, part) = (task / parts, task % parts * PACKED_BLOCKS);
                let part = part..problem.key_blocks().min(part + PACKED_BLOCKS);
                // SAFETY: each task has blocks of keys of its own, and their place in the memory.
                unsafe { self.pack(first + unit, part, shared.at(unit * lengths.all)) };
            });
            cpu.threads.run(count * group * blocks, |task| {
                // With causality the last block of a head sees most keys: it begins first.
                let (unit, in_group, at) = (task / blocks / group, task / blocks % group, blocks - 1 - task % blocks);
                let queries = at * height..problem.queries.min((at + 1) * height);
                let at = self.at(first + unit, in_group, queries);
                scratch.lend_again(|scratch: *mut A, holds| {
                    let packed = if own { scratch } else { shared.at(unit * lengths.all) };
                    let scratch = scratch.wrapping_add(own_len);
                    let state = self.state(scratch, &at);
                    // SAFETY: the memory is for these keys and values, and nobody else packs them there; each task has rows of
                    // its own, and scratch for them.
                    unsafe {
                        if own && holds.replace(first + unit) != Some(first + unit) {
                            self.pack(first + unit, 0..problem.key_blocks(), packed);
                        }
                        let packed = packed.cast_const();
                        let place = own.then_some((first + unit, in_group * blocks + task % blocks));
                        let soon = self.soon(&at, place);
                        let scratch = scratch.wrapping_add(state_len);
                        self.walk(&at, 0..problem.key_blocks(), packed, state, scratch, &soon);
                        self.write(&at, state);
                    }
                });
            });
        }
        Ok(())
    }

    /// A few queries: keys and values are read where they lie, and those of few heads in several ranges, whose states are
    /// merged in their order.
    fn in_ranges(&self) -> Result<()> {
        let Forward { cpu, problem, .. } = self;
        let (group, queries) = (problem.group(), problem.queries);
        let heads = problem.batch * problem.heads;
        let ranges = TASKS.div_ceil(heads).min(problem.key_blocks()).max(1);
        let state_len = self.state_len(queries);
        let memory = block::<A>(cpu, heads * ranges * state_len)?;
        let states = Shared(memory.as_ptr().cast::<A>());
        let scratch = Scratch::new::<A>(cpu, heads * ranges, self.scratch_len(queries))?;
        let at = |head: usize| self.at(head / group, head % group, 0..queries);
        let state = |head: usize, range: usize| self.state(states.at((head * ranges + range) * state_len), &at(head));
        cpu.threads.run(heads * ranges, |task| {
            let (head, range) = (task / ranges, task % ranges);
            let blocks = range * problem.key_blocks() / ranges..(range + 1) * problem.key_blocks() / ranges;
            scratch.lend(|scratch: *mut A| {
                // SAFETY: each task has a state of its own, and scratch.
                unsafe {
                    self.walk(&at(head), blocks, std::ptr::null(), state(head, range), scratch, &Soon::nothing())
                };
            });
        });
        cpu.threads.run(heads, |head| {
            let into = state(head, 0);
            for range in 1..ranges {
                isa::run(cpu.isa, Merge { into, from: state(head, range), unit: problem.bits() });
            }
            // SAFETY: states are complete; each task has rows of its own.
            unsafe { self.write(&at(head), into) };
        });
        Ok(())
    }

    fn at(&self, unit: usize, in_group: usize, queries: Range<usize>) -> At {
        let (b, g) = (unit / self.problem.groups, unit % self.problem.groups);
        At { b, g, h: g * self.problem.group() + in_group, queries }
    }

    fn state_len(&self, rows: usize) -> usize {
        State::len(rows, self.problem.value_dim, &self.statistics)
    }

    fn state(&self, start: *mut A, at: &At) -> State<'_, A> {
        State::new(start, at.queries.len(), self.problem.value_dim, &self.statistics)
    }

    /// Queries and scores of a block, the modifier's rows, and what products in place need.
    fn scratch_len(&self, height: usize) -> usize {
        let Problem { dim, value_dim, queries, .. } = *self.problem;
        let product = |columns, k| self.multiplier.in_place_len(queries, columns, k);
        let products = if self.in_place { product(KEYS, dim).max(product(value_dim, KEYS)) } else { 0 };
        height * (dim + PITCH) + self.problem.modifier_len() + products
    }

    /// Packs some blocks of keys and values of a unit.
    ///
    /// # Safety
    ///
    /// The memory is a unit's, and nobody else touches these blocks.
    unsafe fn pack(&self, unit: usize, blocks: Range<usize>, to: *mut A) {
        let Forward { problem, multiplier, lengths, .. } = self;
        let (b, g) = (unit / problem.groups, unit % problem.groups);
        for at in blocks {
            let (key, count) = (at * KEYS, KEYS.min(problem.keys - at * KEYS));
            let keys = to.wrapping_add(key * multiplier.steps(problem.dim));
            let values = to.wrapping_add(lengths.keys + at * lengths.values);
            // SAFETY: the keys that there are; a block's place in both.
            unsafe {
                multiplier.pack_right(problem.k.rows(b, g, key), count, problem.dim, keys);
                multiplier.pack_right(problem.v.columns(b, g, key), problem.value_dim, count, values);
                multiplier.clear_outside(values, problem.value_dim, count, problem.present_in(b, key..key + count));
            }
        }
    }

    /// What the task of a block of queries writes, and what those after it read: the next block, and a part of the next unit's
    /// keys and values. `place`: the unit and the task's number in it, where each thread packs for itself.
    fn soon(&self, at: &At, place: Option<(usize, usize)>) -> Soon {
        let soon = Soon::nothing();
        let Problem { groups, queries, keys, dim, value_dim, .. } = *self.problem;
        let At { b, h, .. } = *at;
        let height = self.multiplier.block_rows();
        if let Some((unit, task)) = place.filter(|(unit, _)| unit + 1 < self.problem.batch * groups) {
            let (b, g) = ((unit + 1) / groups, (unit + 1) % groups);
            let tasks = self.problem.group() * queries.div_ceil(height);
            let part = task * keys / tasks..(task + 1) * keys / tasks;
            soon.ask(self.problem.v.rows(b, g, part.start), part.len(), value_dim);
            soon.ask(self.problem.k.rows(b, g, part.start), part.len(), dim);
        }
        // Blocks come from the last to the first.
        let before = at.queries.start.saturating_sub(height);
        soon.ask(self.problem.q.rows(b, h, before), at.queries.start - before, dim);
        soon.ask(self.out.target(b, h, at.queries.start).as_operand(), at.queries.len(), value_dim);
        soon
    }

    /// Takes blocks of keys into the state of a block of queries, which begins here.
    ///
    /// # Safety
    ///
    /// `packed` is the unit's, unless products are in place; scratch has [`scratch_len`](Self::scratch_len); nobody else
    /// touches it and the state.
    unsafe fn walk(
        &self,
        at: &At,
        blocks: Range<usize>,
        packed: *const A,
        state: State<'_, A>,
        scratch: *mut A,
        soon: &Soon,
    ) {
        let Forward { cpu, problem, multiplier, lengths, .. } = self;
        let At { b, g, h, queries } = at.clone();
        let (rows, dim, width) = (queries.len(), problem.dim, problem.value_dim);
        let scores = scratch.wrapping_add(rows * dim);
        let modifier = scores.wrapping_add(rows * PITCH);
        let products = modifier.wrapping_add(problem.modifier_len());
        // SAFETY: scratch has these parts; the operands have these rows.
        unsafe {
            state.clear();
            let q = problem.q.rows(b, h, queries.start);
            match self.in_place {
                true => plain(q, rows, dim, scratch),
                false => multiplier.pack_left(q, rows, dim, scratch),
            }
        }
        let visible = problem.visible_to(b, queries.clone());
        let seen = if visible.is_empty() { 0..0 } else { visible.start / KEYS..visible.end.div_ceil(KEYS) };
        for at in blocks.start.max(seen.start)..blocks.end.min(seen.end) {
            if !problem.meet(b, queries.clone(), at) {
                continue;
            }
            // What lies before the first visible key and behind the last is not weighed: padding may hold anything.
            let keys = at * KEYS..visible.end.min((at + 1) * KEYS);
            let (first, count) = (keys.start, keys.len());
            let hidden = visible.start.saturating_sub(first);
            let hidden = if self.in_place { hidden } else { multiplier.before(hidden) };
            let of_keys = packed.wrapping_add(keys.start * multiplier.steps(dim));
            let of_values = packed.wrapping_add(lengths.keys + at * lengths.values);
            let depth = KEYS.min(problem.keys - keys.start);
            let block = Scores { problem: *problem, b, h, queries: queries.clone(), keys, scores, rows: modifier };
            let (online, output) = (Online { block, state }, state.output);
            let (to_scores, to_output) = ([rows, count, dim], [rows, width, count - hidden]);
            // SAFETY: packed operands and scratch are this block's.
            unsafe {
                if self.in_place {
                    let (q, k) = ((scratch.cast_const(), dim), problem.k.rows(b, g, first));
                    multiplier.multiply_in_place(to_scores, q, k, scores, PITCH, false, products);
                    isa::run(cpu.isa, online);
                    let weights = (scores.wrapping_add(hidden).cast_const(), PITCH);
                    let v = problem.v.columns(b, g, first + hidden);
                    multiplier.multiply_in_place(to_output, weights, v, output, width, true, products);
                } else {
                    let left = Left::Packed(scratch.cast_const());
                    multiplier.multiply(to_scores, left, (of_keys, dim), (scores, PITCH), false, soon);
                    isa::run(cpu.isa, online);
                    let weights = multiplier.along(scores, rows, count).at(0, multiplier.steps(hidden));
                    let of_values = multiplier.without_first(of_values, hidden);
                    multiplier.multiply(
                        to_output,
                        Left::Free(weights),
                        (of_values, depth),
                        (output, width),
                        true,
                        soon,
                    );
                }
            }
        }
    }

    /// Makes results of a state, and writes them.
    ///
    /// # Safety
    ///
    /// The state is complete, and nobody else touches it and these rows.
    unsafe fn write(&self, at: &At, state: State<'_, A>) {
        let At { b, h, queries, .. } = at.clone();
        let State { rows, width, output, maxima, statistics, .. } = state;
        isa::run(self.cpu.isa, Finish { state, nats: self.problem.nats() });
        if let Some(sinks) = &self.problem.sinks {
            isa::run(self.cpu.isa, Sink { state, sink: sinks[h] });
        }
        // SAFETY: this block's rows of the destinations.
        unsafe {
            finish(output.cast_const(), width, rows, width, self.out.target(b, h, queries.start));
            let lse = self.lse.target(b, h, queries.start);
            for i in 0..rows {
                *lse.at(i, 0).start = *maxima.wrapping_add(i);
            }
            for ((which, to), all) in self.to_statistics.iter().enumerate().zip(statistics.iter().cycle()) {
                let (from, to) = (all.results(which), to.target(b, h, queries.start));
                for i in 0..rows {
                    *to.at(i, 0).start = *from.wrapping_add(i);
                }
            }
        }
    }
}
