//! Maps of the weights: a second pass over q and k, with the `lse` that a forward left.
//!
//! ```text
//! for each head and range of queries, in any order:                         task
//!     for each block of about 30 queries of the range that is asked for:
//!         for each block of 512 keys that one of the queries sees:
//!             S = Q · K, with modifier, biases and hiding as in the forward  [rows, 512]  L1
//!             offer S to the greatest keys of each row
//!             P = exp(S − lse)
//!             of each row:        add P to the diagonals, copy rows that are asked for
//!             of all rows:        add column sums of P to columns, blocks and segments
//! for each head and map: add up the ranges in their order, and write
//! ```
//!
//! Half of a forward's products, and no search for a maximum. Ranges are cut by shape: the bits do not depend on the number of
//! threads. Rows are added up along columns first, in registers; sums of 512 columns are then cut into blocks and segments, whose
//! rows come in groups: what happens to each weight is one addition for each map.
//!
//! Keys are packed once for a head, as in the forward. If nothing but whole rows is asked for, only their queries are looked at.

mod list;
#[cfg(test)]
mod tests;
mod tile;

use super::{
    forward::PACKED,
    problem::{Heads, KEYS, PITCH, Problem, table},
    products::{Left, Multiplier},
    scores::Scores,
};
use crate::{
    CpuBackend, isa,
    math::Real,
    matmul::{
        block::Target,
        element::{Element, Sum},
        schedule::{Scratch, Shared, block},
    },
    rows::LANES,
};
use attentia_backend::{AttentionMap, AttentionOperands, AttentionSpec, Backend, Result, View};
use list::{List, Weigh};
use std::ops::Range;
use tile::Tile;

/// Tasks from which heads are not cut into ranges of queries any more.
const TASKS: usize = 32;

/// Bytes of the tasks' sums, which are added up when they are full. One head at least is worked on at a time.
const PARTS: usize = 64 << 20;

/// Blocks of keys that a task packs.
const PACKED_BLOCKS: usize = 2;

/// Bytes that a call takes beside the scratch of each thread and the sums of maps: packed keys.
pub(super) fn workspace<T: Element>(operands: &AttentionOperands) -> usize {
    // Ranks are checked later.
    let axis = |axis: usize| operands.k.shape().get(axis).copied().unwrap_or(0);
    let each = axis(2).saturating_mul(axis(3)).saturating_mul(size_of::<T::Sum>());
    each.saturating_mul(axis(0).saturating_mul(axis(1))).min(PACKED.max(each))
}

pub(super) fn run<T: Element<Sum = A>, A: Real + Sum>(
    cpu: &CpuBackend,
    spec: &AttentionSpec,
    operands: &AttentionOperands,
    lse: View,
    maps: Vec<AttentionMap>,
) -> Result<()> {
    let problem = Problem::<T>::new(cpu, spec, operands)?;
    let statistics = operands.q.dtype().statistics();
    maps.iter().try_for_each(|map| map.check(problem.scores(), statistics, cpu.name()))?;
    let lse = Heads::<*const A>::new(lse, "lse", &problem.scores()[..3])?;
    let maps = maps.into_iter().map(|map| Map::new(&problem, map)).collect::<Result<Vec<_>>>()?;
    let pass =
        Pass { cpu, multiplier: Multiplier::of(cpu.isa), lse, rows: Map::only_rows(&maps), maps, problem: &problem };
    pass.run()
}

/// A map and its destinations.
enum Map<A> {
    Columns {
        weights: Option<Heads<*const A>>,
        mass: Heads<*mut A>,
    },
    Diagonals {
        mass: Heads<*mut A>,
    },
    Blocks {
        size: usize,
        mean: Heads<*mut A>,
        greatest: Heads<*mut A>,
    },
    Segments {
        count: usize,
        /// `[B, T]`
        queries: Vec<Option<usize>>,
        /// Of each sequence: where neighbours of the same segment begin.
        keys: Vec<Vec<(usize, Option<usize>)>>,
        mass: Heads<*mut A>,
    },
    Top {
        k: usize,
        weights: Heads<*mut A>,
        keys: Heads<*mut i64>,
    },
    Rows {
        /// Queries in their order, with the places of their rows.
        places: Vec<(usize, usize)>,
        weights: Heads<*mut A>,
    },
}

impl<A: Real + Sum> Map<A> {
    fn new<T: Element<Sum = A>>(problem: &Problem<T>, map: AttentionMap) -> Result<Map<A>> {
        let [b, h, t, s] = problem.scores();
        Ok(match map {
            AttentionMap::Columns { weights, mass } => Map::Columns {
                weights: weights.map(|weights| Heads::new(weights, "row weights", &[b, h, t])).transpose()?,
                mass: Heads::new_mut(mass, "column mass", &[b, h, s])?,
            },
            AttentionMap::Diagonals { mass } => {
                Map::Diagonals { mass: Heads::new_mut(mass, "diagonal mass", &[b, h, AttentionMap::diagonals(t, s)])? }
            }
            AttentionMap::Blocks { size, mean, greatest } => {
                let shape = [b, h, t.div_ceil(size), s.div_ceil(size)];
                Map::Blocks {
                    size,
                    mean: Heads::new_mut(mean, "block mean", &shape)?,
                    greatest: Heads::new_mut(greatest, "block maximum", &shape)?,
                }
            }
            AttentionMap::Segments { queries, keys, mass } => {
                let count = mass.shape()[3];
                let segment = |id: i64| usize::try_from(id).ok().filter(|id| *id < count);
                let keys = table(keys, "key segments", [b, s])?;
                let runs = |b: usize| {
                    let ids = keys[b * s..(b + 1) * s].iter().map(|id| segment(*id));
                    let mut runs: Vec<_> = ids.enumerate().collect();
                    runs.dedup_by_key(|(_, segment)| *segment);
                    runs
                };
                Map::Segments {
                    count,
                    queries: table(queries, "query segments", [b, t])?.into_iter().map(segment).collect(),
                    keys: (0..b).map(runs).collect(),
                    mass: Heads::new_mut(mass, "segment mass", &[b, h, count, count])?,
                }
            }
            AttentionMap::Top { weights, keys } => {
                let k = keys.shape()[3];
                Map::Top {
                    k,
                    weights: Heads::new_mut(weights, "top weights", &[b, h, t, k])?,
                    keys: Heads::new_mut(keys, "top keys", &[b, h, t, k])?,
                }
            }
            AttentionMap::Rows { queries, weights } => {
                let mut places: Vec<_> = queries.iter().copied().enumerate().map(|(place, t)| (t, place)).collect();
                places.sort_unstable();
                Map::Rows { places, weights: Heads::new_mut(weights, "rows", &[b, h, queries.len(), s])? }
            }
        })
    }

    /// The queries that matter, in their order, if rows are all that is asked for.
    fn only_rows(maps: &[Map<A>]) -> Option<Vec<usize>> {
        let mut queries = Vec::new();
        for map in maps {
            let Map::Rows { places, .. } = map else { return None };
            queries.extend(places.iter().map(|(t, _)| *t));
        }
        queries.sort_unstable();
        queries.dedup();
        Some(queries)
    }

    /// Elements of the sums of a range of queries.
    fn part_len<T: Element>(&self, problem: &Problem<T>, queries: &Range<usize>) -> usize {
        match self {
            Map::Columns { .. } => problem.keys,
            Map::Diagonals { .. } => AttentionMap::diagonals(queries.len(), problem.keys),
            Map::Blocks { size, .. } => {
                let across = problem.keys.div_ceil(*size);
                block_rows(queries, *size).len().saturating_mul(across).saturating_mul(2)
            }
            Map::Segments { count, .. } => count.saturating_mul(*count),
            Map::Top { .. } | Map::Rows { .. } => 0,
        }
    }
}

/// Rows of blocks that a range of queries meets.
fn block_rows(queries: &Range<usize>, size: usize) -> Range<usize> {
    if queries.is_empty() { 0..0 } else { queries.start / size..(queries.end - 1) / size + 1 }
}

struct Pass<'a, T: Element + 'static, A> {
    cpu: &'a CpuBackend,
    problem: &'a Problem<T>,
    multiplier: Multiplier<T>,
    lse: Heads<*const A>,
    maps: Vec<Map<A>>,
    /// The queries that are looked at, if not all.
    rows: Option<Vec<usize>>,
}

impl<T: Element<Sum = A>, A: Real + Sum> Pass<'_, T, A> {
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
        let keys_len = multiplier.right_len(problem.keys, problem.dim);
        let fit = |bytes: usize, len: usize| bytes / len.saturating_mul(size_of::<A>()).max(1);
        let parts_of_unit = part.saturating_mul(group * ranges);
        let together = fit(PACKED, keys_len).min(fit(PARTS, parts_of_unit)).clamp(1, units);
        let packed_memory = block::<A>(cpu, together.saturating_mul(keys_len))?;
        let packed = Shared(packed_memory.as_ptr().cast::<A>());
        let parts_memory = block::<A>(cpu, together.saturating_mul(parts_of_unit))?;
        let parts = Shared(parts_memory.as_ptr().cast::<A>());
        let scratch_len = height * (problem.dim + PITCH) + LANES + problem.modifier_len();
        let scratch = Scratch::new::<A>(cpu, together * group * ranges, scratch_len)?;
        for first in (0..units).step_by(together) {
            let count = together.min(units - first);
            let packs = problem.key_blocks().div_ceil(PACKED_BLOCKS);
            cpu.threads.run(count * packs, |task| {
                let (unit, pack) = (task / packs, task % packs);
                // SAFETY: each task has blocks of keys of its own, and their place in the memory.
                unsafe { self.pack(first + unit, pack * PACKED_BLOCKS, packed.at(unit * keys_len)) };
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
                    let keys = packed.at(i / group * keys_len).cast_const();
                    let at = At { b, h, range: range(which) };
                    // SAFETY: keys are packed; each task has sums, rows and scratch of its own.
                    unsafe { self.range(&at, keys, part_of, &places[which], scratch) };
                });
            });
            cpu.threads.run(count * group * maps.len(), |task| {
                let (i, map) = (task / maps.len(), task % maps.len());
                let (b, h) = head(i);
                let sums = |which: usize| (range(which), parts.at((i * ranges + which) * part + places[which][map]));
                // SAFETY: sums are complete; each task has a map of a head of its own.
                unsafe { self.write(&maps[map], b, h, ranges, &sums) };
            });
        }
        Ok(())
    }

    /// Packs some blocks of keys of a unit.
    ///
    /// # Safety
    ///
    /// The memory is a unit's, and nobody else touches these blocks.
    unsafe fn pack(&self, unit: usize, first: usize, to: *mut A) {
        let Pass { problem, multiplier, .. } = self;
        let (b, g) = (unit / problem.groups, unit % problem.groups);
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
    /// `packed` are the head's keys; the sums begin at these places of `parts`; nobody else touches them, the scratch, and the
    /// rows of destinations that have one for each query.
    unsafe fn range(&self, at: &At, packed: *const A, parts: *mut A, places: &[usize], scratch: *mut A) {
        let Pass { cpu, problem, multiplier, maps, .. } = self;
        let (b, h, dim) = (at.b, at.h, problem.dim);
        let height = multiplier.block_rows();
        let scores = scratch.wrapping_add(height * dim);
        let lse = scores.wrapping_add(height * PITCH);
        let rows = lse.wrapping_add(LANES);
        // SAFETY: the caller's promise; all bits zero are the number 0.
        unsafe {
            parts.write_bytes(0, places[maps.len()]);
            maps.iter().for_each(|map| map.begin(at, problem.keys));
        }
        for queries in self.blocks_of(&at.range) {
            let count = queries.len();
            // SAFETY: the rows that there are, and their parts of scratch.
            unsafe {
                multiplier.pack_left(problem.q.rows(b, h, queries.start), count, dim, scratch);
                (0..count).for_each(|i| *lse.wrapping_add(i) = *self.lse.at(b, h, queries.start + i).0);
            }
            let visible = problem.visible_to(b, queries.clone());
            for block in visible.start / KEYS..visible.end.div_ceil(KEYS) {
                // What lies behind the last visible key is not touched: padding may hold anything.
                let keys = block * KEYS..visible.end.min((block + 1) * KEYS);
                let of_keys = packed.wrapping_add(keys.start * multiplier.steps(dim));
                let to_scores = [count, keys.len(), dim];
                let block = Scores { problem: *problem, b, h, queries: queries.clone(), keys, scores, rows };
                // SAFETY: packed operands and scratch are this block's.
                unsafe {
                    multiplier.multiply(
                        to_scores,
                        Left::Packed(scratch.cast_const()),
                        (of_keys, dim),
                        scores,
                        PITCH,
                        false,
                    );
                    isa::run(cpu.isa, Tile { block, lse: lse.cast_const(), at, maps, parts, places });
                }
            }
        }
        for map in maps {
            if let Map::Top { k, weights, keys } = map {
                for t in at.range.clone() {
                    // SAFETY: rows of this task, which are complete.
                    unsafe {
                        let list = List::new(weights, keys, at, t, *k);
                        let nats = A::from_f64(problem.nats());
                        isa::run(cpu.isa, Weigh { list, nats, lse: *self.lse.at(b, h, t).0 });
                    }
                }
            }
        }
    }

    /// Adds up the sums of all ranges of queries, and writes a head's map.
    ///
    /// # Safety
    ///
    /// Sums are complete; nobody else touches them and the head's destination.
    unsafe fn write(
        &self,
        map: &Map<A>,
        b: usize,
        h: usize,
        ranges: usize,
        sums: &dyn Fn(usize) -> (Range<usize>, *mut A),
    ) {
        let Problem { queries, keys, .. } = *self.problem;
        // The same elements of all ranges.
        let added = |len: usize| {
            let whole = sums(0).1;
            for which in 1..ranges {
                let more = sums(which).1;
                for i in 0..len {
                    // SAFETY: by contract.
                    unsafe { *whole.wrapping_add(i) += *more.wrapping_add(i) };
                }
            }
            whole.cast_const()
        };
        // SAFETY: by contract, here and below: destinations have these places, and sums these elements.
        let put = |to: Target<A>, row: usize, col: usize, x: A| unsafe { *place(to, row, col) = x };
        match map {
            Map::Columns { mass, .. } => {
                let (from, to) = (added(keys), mass.target(b, h, 0));
                // SAFETY: as above.
                (0..keys).for_each(|s| put(to, s, 0, unsafe { *from.wrapping_add(s) }));
            }
            Map::Segments { count, mass, .. } => {
                let (from, to) = (added(count * count), mass.target(b, h, 0));
                for i in 0..count * count {
                    // SAFETY: as above.
                    put(to, i / count, i % count, unsafe { *from.wrapping_add(i) });
                }
            }
            Map::Diagonals { mass } => {
                let to = mass.target(b, h, 0);
                let all: Vec<_> = (0..ranges).map(sums).collect();
                for j in 0..AttentionMap::diagonals(queries, keys) {
                    let mut sum = <A as Real>::ZERO;
                    for (range, from) in &all {
                        let len = AttentionMap::diagonals(range.len(), keys);
                        // The first place of a range is that of its last query and key 0.
                        if let Some(i) = (j + range.end).checked_sub(queries).filter(|i| *i < len) {
                            // SAFETY: as above.
                            sum += unsafe { *from.wrapping_add(i) };
                        }
                    }
                    put(to, j, 0, sum);
                }
            }
            Map::Blocks { size, mean, greatest } => {
                let (across, to) = (keys.div_ceil(*size), [mean, greatest].map(|to| to.target(b, h, 0)));
                let all: Vec<_> = (0..ranges).map(sums).collect();
                for y in 0..queries.div_ceil(*size) {
                    let height = (*size).min(queries - y * size);
                    for x in 0..across {
                        let (mut sum, mut most) = (<A as Real>::ZERO, <A as Real>::ZERO);
                        for (range, from) in &all {
                            let rows = block_rows(range, *size);
                            if rows.contains(&y) {
                                let i = 2 * ((y - rows.start) * across + x);
                                // SAFETY: as above.
                                let [more, other] = unsafe { [*from.wrapping_add(i), *from.wrapping_add(i + 1)] };
                                sum += more;
                                most = if other > most { other } else { most };
                            }
                        }
                        let cells = height * (*size).min(keys - x * size);
                        put(to[0], y, x, sum / A::from_f64(cells as f64));
                        put(to[1], y, x, most);
                    }
                }
            }
            Map::Top { .. } | Map::Rows { .. } => {}
        }
    }
}

/// A place of a destination of any type.
fn place<O>(to: Target<O>, row: usize, col: usize) -> *mut O {
    to.start.wrapping_offset(row as isize * to.row + col as isize * to.col)
}

/// A head and a range of its queries.
struct At {
    b: usize,
    h: usize,
    range: Range<usize>,
}

impl<A: Real + Sum> Map<A> {
    /// What a row's destination holds before the first key.
    ///
    /// # Safety
    ///
    /// The rows are ours.
    unsafe fn begin(&self, at: &At, columns: usize) {
        // SAFETY: by contract, for destinations of these extents.
        unsafe {
            match self {
                Map::Top { k, weights, keys } => {
                    for t in at.range.clone() {
                        let list = List::new(weights, keys, at, t, *k);
                        for i in 0..*k {
                            *place(list.weights, 0, i) = A::NEG_INFINITY;
                            *place(list.keys, 0, i) = -1;
                        }
                    }
                }
                Map::Rows { places, weights } => {
                    for (_, row) in of_range(places, &at.range) {
                        let to = weights.target(at.b, at.h, *row);
                        (0..columns).for_each(|s| *place(to, 0, s) = <A as Real>::ZERO);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Places of rows whose queries are in a range.
fn of_range<'a>(places: &'a [(usize, usize)], range: &Range<usize>) -> &'a [(usize, usize)] {
    let [first, last] = [range.start, range.end].map(|t| places.partition_point(|(query, _)| *query < t));
    &places[first..last]
}
