//! The forward: tasks are blocks of queries.

use super::{
    problem::{Heads, KEYS, OP, Problem},
    products::{Left, Multiplier},
    scores::{Finish, Online, Scores},
    statistics::Rows,
};
use crate::{
    CpuBackend, isa,
    math::Real,
    matmul::{
        block::finish,
        element::{Element, Sum},
        schedule::{Scratch, Shared, block},
    },
};
use attentia_backend::{AttentionOperands, AttentionOut, AttentionSpec, Error, ErrorKind, Result, Shape, Statistic};

/// Bytes of packed keys and values at a time: what L3 holds beside everything else. A single head may take more.
const PACKED: usize = 8 << 20;

/// Blocks of keys that a task packs.
const PACKED_BLOCKS: usize = 2;

/// Bytes of the packed keys and values of a call, as far as they are there at the same time, without the padding of panels.
pub(super) fn workspace(operands: &AttentionOperands) -> usize {
    // Ranks are checked later.
    let axis = |shape: &Shape, axis: usize| shape.get(axis).copied().unwrap_or(0);
    let (k, v) = (operands.k.shape(), operands.v.shape());
    let elements = axis(k, 2).saturating_mul(axis(k, 3).saturating_add(axis(v, 3)));
    let size = operands.k.dtype().statistics().size();
    let heads = axis(k, 0).saturating_mul(axis(k, 1));
    let each = elements.saturating_mul(size);
    each.saturating_mul(heads).min(PACKED.max(each))
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

pub(super) fn run<T: Element<Sum = A>, A: Real + Sum>(
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
        return Err(Error::new(ErrorKind::Argument, OP, message));
    }
    let statistic = |(&statistic, to)| Ok((statistic, Heads::<*mut A>::new_mut(to, "statistic", &rows)?));
    let statistics = spec.statistics.iter().zip(statistics).map(statistic).collect::<Result<_>>()?;
    if problem.is_empty() {
        return Ok(());
    }
    let multiplier = Multiplier::<T>::of(cpu.isa);
    let lengths = {
        let keys = multiplier.right_len(problem.keys.checked_next_multiple_of(KEYS).unwrap_or(usize::MAX), problem.dim);
        let values = multiplier.right_len(problem.value_dim, KEYS);
        Lengths { keys, values, all: keys.saturating_add(values.saturating_mul(problem.key_blocks())) }
    };
    let forward = Forward { cpu, problem: &problem, multiplier, lengths, out, lse, statistics };
    let units = problem.batch * problem.groups;
    let together = (PACKED / lengths.all.saturating_mul(size_of::<A>()).max(1)).clamp(1, units);
    let memory = block::<A>(cpu, together.saturating_mul(lengths.all))?;
    let packed = Shared(memory.as_ptr().cast::<A>());
    let height = multiplier.block_rows();
    let blocks = problem.queries.div_ceil(height);
    let scratch = Scratch::new::<A>(cpu, together * problem.group() * blocks, forward.scratch_len(height))?;
    for first in (0..units).step_by(together) {
        let count = together.min(units - first);
        let parts = problem.key_blocks().div_ceil(PACKED_BLOCKS);
        cpu.threads.run(count * parts, |task| {
            let (unit, part) = (task / parts, task % parts);
            // SAFETY: each task has blocks of keys of its own, and their place in the memory.
            unsafe { forward.pack(first + unit, part * PACKED_BLOCKS, packed.at(unit * lengths.all)) };
        });
        let group = problem.group();
        cpu.threads.run(count * group * blocks, |task| {
            // With causality the last block of a head sees most keys: it begins first.
            let (unit, in_group, at) = (task / blocks / group, task / blocks % group, blocks - 1 - task % blocks);
            let queries = at * height..problem.queries.min((at + 1) * height);
            scratch.lend(|scratch| {
                // SAFETY: keys and values are packed; each task has rows of its own, and scratch for them.
                unsafe { forward.block(first + unit, in_group, queries, packed.at(unit * lengths.all), scratch) }
            });
        });
    }
    Ok(())
}

struct Forward<'a, T: Element + 'static, A> {
    cpu: &'a CpuBackend,
    problem: &'a Problem<T>,
    multiplier: Multiplier<T>,
    lengths: Lengths,
    out: Heads<*mut T>,
    lse: Heads<*mut A>,
    statistics: Vec<(Statistic, Heads<*mut A>)>,
}

impl<T: Element<Sum = A>, A: Real + Sum> Forward<'_, T, A> {
    /// Queries, scores, output, maxima, totals and statistics of a block, and the modifier's rows.
    fn scratch_len(&self, height: usize) -> usize {
        let statistics = if self.statistics.is_empty() { 0 } else { Rows::<A>::EACH };
        height * (self.problem.dim + KEYS + self.problem.value_dim + 2 + statistics) + self.problem.modifier_len()
    }

    /// Packs some blocks of keys and values of a unit.
    ///
    /// # Safety
    ///
    /// The memory is a unit's, and nobody else touches these blocks.
    unsafe fn pack(&self, unit: usize, first: usize, to: *mut A) {
        let Forward { problem, multiplier, lengths, .. } = self;
        let (b, g) = (unit / problem.groups, unit % problem.groups);
        for at in first..problem.key_blocks().min(first + PACKED_BLOCKS) {
            let (key, count) = (at * KEYS, KEYS.min(problem.keys - at * KEYS));
            let (keys, values) =
                (to.wrapping_add(key * problem.dim), to.wrapping_add(lengths.keys + at * lengths.values));
            // SAFETY: the keys that there are; a block's place in both.
            unsafe {
                multiplier.pack_right(problem.k.rows(b, g, key), count, problem.dim, keys);
                multiplier.pack_right(problem.v.columns(b, g, key), problem.value_dim, count, values);
            }
        }
    }

    /// Computes and writes a block of queries.
    ///
    /// # Safety
    ///
    /// `packed` is the unit's; scratch has [`scratch_len`](Self::scratch_len); nobody else touches these rows.
    unsafe fn block(
        &self,
        unit: usize,
        in_group: usize,
        queries: std::ops::Range<usize>,
        packed: *const A,
        scratch: *mut A,
    ) {
        let Forward { cpu, problem, multiplier, lengths, .. } = self;
        let (b, g) = (unit / problem.groups, unit % problem.groups);
        let h = g * problem.group() + in_group;
        let (rows, dim, width) = (queries.len(), problem.dim, problem.value_dim);
        let scores = scratch.wrapping_add(rows * dim);
        let output = scores.wrapping_add(rows * KEYS);
        let maxima = output.wrapping_add(rows * width);
        let totals = maxima.wrapping_add(rows);
        let modifier = totals.wrapping_add(rows);
        let kept = modifier.wrapping_add(problem.modifier_len());
        let statistics = (!self.statistics.is_empty()).then(|| Rows::new(kept, rows));
        // SAFETY: scratch has these parts; the operands have these rows.
        unsafe {
            multiplier.pack_left(problem.q.rows(b, h, queries.start), rows, dim, scratch);
            let scale = A::from_f64(problem.scale);
            for i in 0..rows * dim {
                let q = scratch.wrapping_add(i);
                *q = *q * scale;
            }
            for i in 0..rows {
                *maxima.wrapping_add(i) = A::NEG_INFINITY;
                *totals.wrapping_add(i) = A::ZERO;
            }
            for i in 0..rows * width {
                *output.wrapping_add(i) = A::ZERO;
            }
            for i in 0..if statistics.is_some() { rows * Rows::<A>::EACH } else { 0 } {
                *kept.wrapping_add(i) = A::ZERO;
            }
        }
        let visible = problem.visible_to(b, queries.clone());
        for at in visible.start / KEYS..visible.end.div_ceil(KEYS) {
            // What lies behind the last visible key is not touched: padding may hold anything.
            let keys = at * KEYS..visible.end.min((at + 1) * KEYS);
            let count = keys.len();
            let of_keys = packed.wrapping_add(keys.start * dim);
            let of_values = packed.wrapping_add(lengths.keys + at * lengths.values);
            let depth = KEYS.min(problem.keys - keys.start);
            let block = Scores { problem: *problem, b, h, queries: queries.clone(), keys, scores, rows: modifier };
            let weights = crate::matmul::block::Operand { start: scores.cast_const(), lane: KEYS as isize, step: 1 };
            // SAFETY: packed operands and scratch are this block's.
            unsafe {
                let left = Left::Packed(scratch.cast_const());
                multiplier.multiply([rows, count, dim], left, (of_keys, dim), scores, KEYS, false);
                isa::run(cpu.isa, Online { block, maxima, totals, output, width, statistics });
                multiplier.multiply([rows, width, count], Left::Free(weights), (of_values, depth), output, width, true);
            }
        }
        isa::run(cpu.isa, Finish { rows, maxima: maxima.cast_const(), totals, output, width, statistics });
        // SAFETY: this block's rows of the destinations.
        unsafe {
            finish(output.cast_const(), width, rows, width, self.out.target(b, h, queries.start), false);
            let lse = self.lse.target(b, h, queries.start);
            for i in 0..rows {
                *lse.at(i, 0).start = *totals.wrapping_add(i);
            }
            for ((statistic, to), rows_of) in self.statistics.iter().zip(statistics.iter().cycle()) {
                let (from, to) = (rows_of.of(*statistic), to.target(b, h, queries.start));
                for i in 0..rows {
                    *to.at(i, 0).start = *from.wrapping_add(i);
                }
            }
        }
    }
}
