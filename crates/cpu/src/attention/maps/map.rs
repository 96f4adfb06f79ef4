//! A map: what it adds up, and where it goes.

use super::list::List;
use crate::{
    attention::problem::{Heads, Problem, table},
    math::Real,
    matmul::{
        block::Target,
        element::{Element, Sum},
    },
};
use attentia_backend::{AttentionMap, Result};
use std::ops::Range;

/// A map and its destinations.
pub(super) enum Map<A> {
    Columns {
        weights: Option<Heads<*const A>>,
        mass: Heads<*mut A>,
    },
    Totals {
        sum: Heads<*mut A>,
        magnitude: Heads<*mut A>,
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

impl<A: Sum> Map<A> {
    pub(super) fn new<T: Element<Sum = A>>(problem: &Problem<T>, map: AttentionMap) -> Result<Map<A>> {
        let [b, h, t, s] = problem.scores();
        Ok(match map {
            AttentionMap::Columns { weights, mass } => Map::Columns {
                weights: weights.map(|weights| Heads::new(weights, "row weights", &[b, h, t])).transpose()?,
                mass: Heads::new_mut(mass, "column mass", &[b, h, s])?,
            },
            AttentionMap::Totals { sum, magnitude } => Map::Totals {
                sum: Heads::new_mut(sum, "row sum", &[b, h, t])?,
                magnitude: Heads::new_mut(magnitude, "row magnitude", &[b, h, t])?,
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
    pub(super) fn only_rows(maps: &[Map<A>]) -> Option<Vec<usize>> {
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
    pub(super) fn part_len<T: Element>(&self, problem: &Problem<T>, queries: &Range<usize>) -> usize {
        match self {
            Map::Columns { .. } => problem.keys,
            Map::Diagonals { .. } => AttentionMap::diagonals(queries.len(), problem.keys),
            Map::Blocks { size, .. } => {
                let across = problem.keys.div_ceil(*size);
                block_rows(queries, *size).len().saturating_mul(across).saturating_mul(2)
            }
            Map::Segments { count, .. } => count.saturating_mul(*count),
            Map::Totals { .. } | Map::Top { .. } | Map::Rows { .. } => 0,
        }
    }

    /// What a row's destination and the sums hold before the first key, where it is not 0 of these.
    ///
    /// # Safety
    ///
    /// The rows and the sums are ours.
    pub(super) unsafe fn begin(&self, at: &At, columns: usize, sums: *mut A) {
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
                Map::Totals { sum, magnitude } => {
                    for to in [sum, magnitude].map(|to| to.target(at.b, at.h, 0)) {
                        at.range.clone().for_each(|t| *place(to, t, 0) = <A as Real>::ZERO);
                    }
                }
                Map::Blocks { size, .. } => {
                    let cells = block_rows(&at.range, *size).len() * columns.div_ceil(*size);
                    (0..cells).for_each(|i| *sums.wrapping_add(2 * i + 1) = A::NEG_INFINITY);
                }
                _ => {}
            }
        }
    }

    /// Keys of which no product is formed, since none of the queries sees them: only a maximum needs to know that they are 0.
    ///
    /// # Safety
    ///
    /// The sums are ours.
    pub(super) unsafe fn pass_over(
        &self,
        at: &At,
        queries: Range<usize>,
        keys: Range<usize>,
        columns: usize,
        sums: *mut A,
    ) {
        let Map::Blocks { size, .. } = self else { return };
        let (across, first) = (columns.div_ceil(*size), block_rows(&at.range, *size).start);
        for y in block_rows(&queries, *size) {
            for x in block_rows(&keys, *size) {
                // SAFETY: by contract.
                let most = unsafe { &mut *sums.wrapping_add(2 * ((y - first) * across + x) + 1) };
                *most = if <A as Real>::ZERO > *most { <A as Real>::ZERO } else { *most };
            }
        }
    }

    /// Adds up the sums of all ranges of queries, and writes a head's map.
    ///
    /// # Safety
    ///
    /// Sums are complete; nobody else touches them and the head's destination.
    pub(super) unsafe fn write<T: Element<Sum = A>>(
        &self,
        problem: &Problem<T>,
        b: usize,
        h: usize,
        ranges: usize,
        sums: &dyn Fn(usize) -> (Range<usize>, *mut A),
    ) {
        let Problem { queries, keys, .. } = *problem;
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
        match self {
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
                        let (mut sum, mut most) = (<A as Real>::ZERO, A::NEG_INFINITY);
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
            Map::Totals { .. } | Map::Top { .. } | Map::Rows { .. } => {}
        }
    }
}

/// A head and a range of its queries.
pub(super) struct At {
    pub(super) b: usize,
    pub(super) h: usize,
    pub(super) range: Range<usize>,
}

/// A place of a destination of any type.
pub(super) fn place<O>(to: Target<O>, row: usize, col: usize) -> *mut O {
    to.start.wrapping_offset(row as isize * to.row + col as isize * to.col)
}

/// Rows of blocks that a range of queries meets.
pub(super) fn block_rows(queries: &Range<usize>, size: usize) -> Range<usize> {
    if queries.is_empty() { 0..0 } else { queries.start / size..(queries.end - 1) / size + 1 }
}

/// Places of rows whose queries are in a range.
pub(super) fn of_range<'a>(places: &'a [(usize, usize)], range: &Range<usize>) -> &'a [(usize, usize)] {
    let [first, last] = [range.start, range.end].map(|t| places.partition_point(|(query, _)| *query < t));
    &places[first..last]
}
