//! Maps of the weights, and of these times their gradients: a second pass over q and k, with the `lse` that a forward left.
//!
//! ```text
//! for each head and range of queries, in any order:                         task
//!     for each block of about 30 queries of the range that is asked for:
//!         for each block of 512 keys that one of the queries sees:
//!             S = Q · K, with modifier, biases and hiding as in the forward  [rows, 512]  L1
//!             offer S to the greatest keys of each row
//!             P = exp(S − lse)
//!             with dout:          P = P ⊙ dropout(dout · V)                  a second product, over D_v
//!             of each row:        add P to the diagonals and to its total, copy rows that are asked for
//!             of all rows:        add column sums of P to columns, blocks and segments
//! for each head and map: add up the ranges in their order, and write
//! ```
//!
//! Half of a forward's products, and no search for a maximum. Ranges are cut by shape: the bits do not depend on the number of
//! threads. Rows are added up along columns first, in registers; sums of 512 columns are then cut into blocks and segments, whose
//! rows come in groups: what happens to each weight is one addition for each map.
//!
//! Keys, and with dout values, are packed once for a head, as in the forward. If nothing but whole rows is asked for, only their queries are looked at.

mod list;
mod map;
#[cfg(test)]
mod tests;
mod tile;

use super::{
    forward::PACKED,
    problem::{Heads, KEYS, PITCH, Problem},
    products::{Left, Multiplier},
    scores::Scores,
    weights::Weigher,
};
use crate::{
    CpuBackend, isa,
    matmul::{
        element::{Element, Sum},
        schedule::{Scratch, Shared, block},
        soon::Soon,
    },
    rows::LANES,
};
use attentia_backend::{AttentionMap, AttentionOperands, AttentionSpec, Backend, Result, View};
use list::{List, Weigh};
use map::{At, Map};
use std::ops::Range;
use tile::Tile;

/// Tasks from which heads are not cut into ranges of queries any more.
const TASKS: usize = 32;

/// Bytes of the tasks' sums, which are added up when they are full. One head at least is worked on at a time.
const PARTS: usize = 64 << 20;

/// Blocks of keys that a task packs.
const PACKED_BLOCKS: usize = 2;

/// Bytes that a call takes beside the scratch of each thread and the sums of maps: packed keys, and with `gradients` values.
pub(super) fn workspace<T: Element>(operands: &AttentionOperands, gradients: bool) -> usize {
    // Ranks are checked later.
    let axis = |axis: usize| operands.k.shape().get(axis).copied().unwrap_or(0);
    let width = operands.v.shape().get(3).filter(|_| gradients).copied().unwrap_or(0);
    let each = axis(2).saturating_mul(axis(3).saturating_add(width)).saturating_mul(size_of::<T::Sum>());
    each.saturating_mul(axis(0).saturating_mul(axis(1))).min(PACKED.max(each))
}

pub(super) fn run<T: Element<Sum = A>, A: Sum>(
    cpu: &CpuBackend,
    spec: &AttentionSpec,
    operands: &AttentionOperands,
    lse: View,
    dout: Option<View>,
    maps: Vec<AttentionMap>,
) -> Result<()> {
    let problem = Problem::<T>::new(cpu, spec, operands)?;
    let statistics = operands.q.dtype().statistics();
    maps.iter().try_for_each(|map| map.check(problem.scores(), statistics, dout.is_some(), cpu.name()))?;
    let lse = Heads::<*const A>::new(lse, "lse", &problem.scores()[..3])?;
    let out_shape = [problem.batch, problem.heads, problem.queries, problem.value_dim];
    let dout = dout.map(|dout| Heads::<*const T>::new(dout, "dout", &out_shape)).transpose()?;
    let maps = maps.into_iter().map(|map| Map::new(&problem, map)).collect::<Result<Vec<_>>>()?;
    let (multiplier, rows) = (Multiplier::of(cpu.isa), Map::only_rows(&maps));
    Pass { cpu, multiplier, lse, dout, rows, maps, problem: &problem }.run()
}

struct Pass<'a, T: Element + 'static, A> {
    cpu: &'a CpuBackend,
    problem: &'a Problem<T>,
    multiplier: Multiplier<T>,
    lse: Heads<*const A>,
    dout: Option<Heads<*const T>>,
    maps: Vec<Map<A>>,
    /// The queries that are looked at, if not all.
    rows: Option<Vec<usize>>,
}

impl<T: Element<Sum = A>, A: Sum> Pass<'_, T, A> {
    fn run(&self) -> Result<()> {
        let Pass { cpu, problem, multiplier, maps, .. } = self;
        let (units, group) = (problem.batch * problem.groups, problem.group());
        if maps.is_empty() || units * group == 0 {
            return Ok(());
        }
        let height = multiplier.block_rows();
        let of_height = problem.queries.div_ceil(height);
        let ranges = TASKS.div_ceil(units * group).min(of_height).max(1);
        let range = |i: usize| {
            let place = |i: usize| problem.queries.min(i * of_height / ranges * height);
            place(i)..place(i + 1)
        };
        // Where the sums of each map begin among those of each range, and their end.
        let places: Vec<Vec<usize>> = (0..ranges)
            .map(|i| {
                let mut places = vec![0usize];
                for map in maps {
                    places.push(places[places.len() - 1].saturating_add(map.part_len(problem, &range(i))));
                }
                places
            })
            .collect();
        let part = places.iter().map(|places| places[maps.len()]).max().unwrap_or(0);
        let packed_len = self.keys_len().saturating_add(self.values_len());
        let fit = |bytes: usize, len: usize| bytes / len.saturating_mul(size_of::<A>()).max(1);
        let parts_of_unit = part.saturating_mul(group * ranges);
        let together = fit(PACKED, packed_len).min(fit(PARTS, parts_of_unit)).clamp(1, units);
        let packed_memory = block::<A>(cpu, together.saturating_mul(packed_len))?;
        let packed = Shared(packed_memory.as_ptr().cast::<A>());
        let parts_memory = block::<A>(cpu, together.saturating_mul(parts_of_unit))?;
        let parts = Shared(parts_memory.as_ptr().cast::<A>());
        let of_dout = if self.dout.is_some() { height * (problem.value_dim + PITCH) } else { 0 };
        let scratch_len = height * (problem.dim + PITCH) + LANES + of_dout + problem.modifier_len();
        let scratch = Scratch::new::<A>(cpu, together * group * ranges, scratch_len)?;
        for first in (0..units).step_by(together) {
            let count = together.min(units - first);
            let packs = problem.key_blocks().div_ceil(PACKED_BLOCKS);
            cpu.threads.run(count * packs, |task| {
                let (unit, pack) = (task / packs, task % packs);
                // SAFETY: each task has blocks of keys of its own, and their place in the memory.
                unsafe { self.pack(first + unit, pack * PACKED_BLOCKS, packed.at(unit * packed_len)) };
            });
            let head = |i: usize| {
                ((first + i / group) / problem.groups, i % group + (first + i / group) % problem.groups * group)
            };
            cpu.threads.run(count * group * ranges, |task| {
                // With causality the last range of a head sees most keys: it begins first.
                let (i, which) = (task / ranges, ranges - 1 - task % ranges);
                let (b, h) = head(i);
                let part_of = parts.at((i * ranges + which) * part);
                scratch.lend(|scratch: *mut A| {
                    let keys = packed.at(i / group * packed_len).cast_const();
                    let at = At { b, h, range: range(which) };
                    // SAFETY: keys and values are packed; each task has sums, rows and scratch of its own.
                    unsafe { self.range(&at, keys, part_of, &places[which], scratch) };
                });
            });
            cpu.threads.run(count * group * maps.len(), |task| {
                let (i, map) = (task / maps.len(), task % maps.len());
                let (b, h) = head(i);
                let sums = |which: usize| (range(which), parts.at((i * ranges + which) * part + places[which][map]));
                // SAFETY: sums are complete; each task has a map of a head of its own.
                unsafe { maps[map].write(problem, b, h, ranges, &sums) };
            });
        }
        Ok(())
    }

    /// Elements of a unit's packed keys.
    fn keys_len(&self) -> usize {
        self.multiplier.right_len(self.problem.keys, self.problem.dim)
    }

    /// Elements of its packed values, which lie behind the keys.
    fn values_len(&self) -> usize {
        if self.dout.is_some() { self.multiplier.right_len(self.problem.keys, self.problem.value_dim) } else { 0 }
    }

    /// Packs some blocks of keys of a unit, and their values where there is a dout.
    ///
    /// # Safety
    ///
    /// The memory is a unit's, and nobody else touches these blocks.
    unsafe fn pack(&self, unit: usize, first: usize, to: *mut A) {
        let Pass { problem, multiplier, .. } = self;
        let (b, g) = (unit / problem.groups, unit % problem.groups);
        let values = to.wrapping_add(self.keys_len());
        for at in first..problem.key_blocks().min(first + PACKED_BLOCKS) {
            let (key, count) = (at * KEYS, KEYS.min(problem.keys - at * KEYS));
            // SAFETY: the keys that there are, and a block's place.
            unsafe {
                multiplier.pack_right(
                    problem.k.rows(b, g, key),
                    count,
                    problem.dim,
                    to.wrapping_add(key * multiplier.steps(problem.dim)),
                );
                if self.dout.is_some() {
                    let (width, rows) = (problem.value_dim, problem.v.rows(b, g, key));
                    multiplier.pack_right(rows, count, width, values.wrapping_add(key * multiplier.steps(width)));
                }
            }
        }
    }

    /// Blocks of queries of a range that are looked at.
    fn blocks_of(&self, range: &Range<usize>) -> Vec<Range<usize>> {
        let height = self.multiplier.block_rows();
        let Some(rows) = &self.rows else {
            return range.clone().step_by(height).map(|t| t..range.end.min(t + height)).collect();
        };
        let [first, last] = [range.start, range.end].map(|t| rows.partition_point(|row| *row < t));
        let mut blocks: Vec<Range<usize>> = Vec::new();
        for &t in &rows[first..last] {
            match blocks.last_mut() {
                Some(block) if block.end == t && block.len() < height => block.end += 1,
                _ => blocks.push(t..t + 1),
            }
        }
        blocks
    }

    /// A range of queries of a head.
    ///
    /// # Safety
    ///
    /// `packed` are the head's keys and values; the sums begin at these places of `parts`; nobody else touches them, the
    /// scratch, and the rows of destinations that have one for each query.
    unsafe fn range(&self, at: &At, packed: *const A, parts: *mut A, places: &[usize], scratch: *mut A) {
        let Pass { cpu, problem, multiplier, maps, .. } = self;
        let (b, h, dim, width) = (at.b, at.h, problem.dim, problem.value_dim);
        let height = multiplier.block_rows();
        let scores = scratch.wrapping_add(height * dim);
        let lse = scores.wrapping_add(height * PITCH);
        let rows = lse.wrapping_add(LANES);
        let slopes = rows.wrapping_add(problem.modifier_len());
        let of_dout = slopes.wrapping_add(height * PITCH);
        // SAFETY: the caller's promise; all bits zero are the number 0.
        unsafe {
            parts.write_bytes(0, places[maps.len()]);
            for (map, place) in maps.iter().zip(places) {
                map.begin(at, problem.keys, parts.wrapping_add(*place));
            }
        }
        for queries in self.blocks_of(&at.range) {
            let count = queries.len();
            // SAFETY: the rows that there are, and their parts of scratch.
            unsafe {
                multiplier.pack_left(problem.q.rows(b, h, queries.start), count, dim, scratch);
                (0..count).for_each(|i| *lse.wrapping_add(i) = *self.lse.at(b, h, queries.start + i).0);
                if let Some(dout) = self.dout {
                    multiplier.pack_left(dout.rows(b, h, queries.start), count, width, of_dout);
                }
            }
            let visible = problem.visible_to(b, queries.clone());
            let before = visible.start / KEYS * KEYS;
            for (map, place) in maps.iter().zip(places) {
                for keys in [0..before, visible.end..problem.keys] {
                    // SAFETY: the sums are this task's.
                    unsafe { map.pass_over(at, queries.clone(), keys, problem.keys, parts.wrapping_add(*place)) };
                }
            }
            for block in visible.start / KEYS..visible.end.div_ceil(KEYS) {
                // What lies behind the last visible key is not touched: padding may hold anything.
                let keys = block * KEYS..visible.end.min((block + 1) * KEYS);
                let of_keys = packed.wrapping_add(keys.start * multiplier.steps(dim));
                let of_values = packed.wrapping_add(self.keys_len() + keys.start * multiplier.steps(width));
                let [to_scores, to_slopes] = [dim, width].map(|depth| [count, keys.len(), depth]);
                let block = Scores { problem: *problem, b, h, queries: queries.clone(), keys, scores, rows };
                // SAFETY: packed operands and scratch are this block's.
                unsafe {
                    multiplier.multiply(
                        to_scores,
                        Left::Packed(scratch.cast_const()),
                        (of_keys, dim),
                        (scores, PITCH),
                        false,
                        &Soon::nothing(),
                    );
                    let slopes = self.dout.is_some().then_some(slopes);
                    if let Some(slopes) = slopes {
                        let left = Left::Packed(of_dout.cast_const());
                        multiplier.multiply(
                            to_slopes,
                            left,
                            (of_values, width),
                            (slopes, PITCH),
                            false,
                            &Soon::nothing(),
                        );
                    }
                    isa::run(cpu.isa, Tile { block, lse: lse.cast_const(), slopes, at, maps, parts, places });
                }
            }
        }
        for map in maps {
            if let Map::Top { k, weights, keys } = map {
                for t in at.range.clone() {
                    // SAFETY: rows of this task, which are complete.
                    unsafe {
                        let list = List::new(weights, keys, at, t, *k);
                        let weigher = Weigher::new(problem.nats(), *self.lse.at(b, h, t).0);
                        isa::run(cpu.isa, Weigh { list, weigher });
                    }
                }
            }
        }
    }
}
