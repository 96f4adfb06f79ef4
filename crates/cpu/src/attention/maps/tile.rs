//! A block of weights, and what goes into which map.

use super::{
    list::List,
    map::{At, Map, block_rows, of_range, place},
};
use crate::{
    attention::{
        modifier::Row,
        problem::{KEYS, PITCH},
        scores::{Scores, gated},
        statistics::total_of,
        weights::Weigher,
    },
    isa::{Kernel, Machine},
    math::Real,
    matmul::element::{Element, Sum},
    rows::{LANES, blocks, put, sum, take},
    softmax::row_maximum,
};
use std::ops::Range;

/// A block of scores becomes weights, with slopes multiplied by their gradients, and these go into the maps.
pub(super) struct Tile<'a, T: Element, A> {
    pub(super) block: Scores<'a, T, A>,
    /// Of the block's rows.
    pub(super) lse: *const A,
    /// `dout · V`, [`PITCH`] elements from row to row.
    pub(super) slopes: Option<*mut A>,
    pub(super) at: &'a At,
    pub(super) maps: &'a [Map<A>],
    /// Sums of the range, and where those of each map begin.
    pub(super) parts: *mut A,
    pub(super) places: &'a [usize],
}

impl<T: Element<Sum = A>, A: Sum> Kernel for Tile<'_, T, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Tile { block, lse, slopes, at, maps, parts, places } = self;
        let columns = block.keys.len();
        for i in 0..block.queries.len() {
            let (row, of) = (block.scores.wrapping_add(i * PITCH), block.row(i));
            // SAFETY: rows of scores have KEYS elements, of which `columns` are the block's; there is an lse for each row.
            unsafe {
                let lse = *lse.wrapping_add(i);
                if !block.complete::<M>(i) || lse == A::NEG_INFINITY {
                    row.write_bytes(0, columns);
                    continue;
                }
                for map in maps {
                    if let Map::Top { k, weights, keys } = map {
                        List::new(weights, keys, at, of.t, *k).offer(row.cast_const(), columns, of.key);
                    }
                }
                let weigher = Weigher::new(block.problem.nats(), lse);
                weigher.approach::<M>(row, columns);
                blocks!(columns, |at, len| {
                    let mut p = take(row.add(at).cast_const(), len, A::NEG_INFINITY);
                    p.iter_mut().for_each(|x| *x = weigher.weight::<M>(*x));
                    put(p, row.add(at), len);
                });
                if let Some(slopes) = slopes {
                    times(row, slopes.wrapping_add(i * PITCH), block.gates(i), columns);
                }
                maps.iter().for_each(|map| map.add_row(row.cast_const(), of));
            }
        }
        for (map, place) in maps.iter().zip(places) {
            // SAFETY: as above; the sums are this task's.
            unsafe { map.add_block::<T, M>(&block, at, parts.wrapping_add(*place)) };
        }
    }
}

impl<A: Sum> Map<A> {
    /// Takes in a row of weights.
    ///
    /// # Safety
    ///
    /// The row has its columns.
    #[inline(always)]
    unsafe fn add_row(&self, weights: *const A, row: Row) {
        match self {
            Map::Rows { places, weights: to } => {
                for (_, place_of) in of_range(places, &(row.t..row.t + 1)) {
                    let to = to.target(row.b, row.h, *place_of);
                    for j in 0..row.columns {
                        // SAFETY: the caller's promise.
                        unsafe { *place(to, 0, row.key + j) = *weights.wrapping_add(j) };
                    }
                }
            }
            Map::Totals { sum, magnitude } => {
                let [sum, magnitude] = [sum, magnitude].map(|to| place(to.target(row.b, row.h, 0), row.t, 0));
                // SAFETY: the caller's promise.
                unsafe {
                    *sum += total_of(weights, row.columns);
                    *magnitude += magnitude_of(weights, row.columns);
                }
            }
            _ => {}
        }
    }

    /// Takes in a block of weights.
    ///
    /// # Safety
    ///
    /// Rows have [`KEYS`] elements; the sums are those of the range.
    #[inline(always)]
    unsafe fn add_block<T: Element<Sum = A>, M: Machine>(&self, block: &Scores<T, A>, at: &At, sums: *mut A) {
        let (rows, key, columns) = (block.queries.len(), block.keys.start, block.keys.len());
        let weights = block.scores.cast_const();
        let add = |sum: A, p: A, _| sum + p;
        let mut of_columns = [<A as Real>::ZERO; KEYS];
        // SAFETY: the caller's promise, for everything below.
        unsafe {
            match self {
                Map::Columns { weights: of_rows, .. } => {
                    let mut factors = [A::ONE; LANES];
                    if let Some(of_rows) = of_rows {
                        let of = |i: usize| *of_rows.at(block.b, block.h, block.queries.start + i).0;
                        factors.iter_mut().take(rows).enumerate().for_each(|(i, factor)| *factor = of(i));
                        let weigh = |sum, p, i: usize| A::mul_add::<M>(factors[i], p, sum);
                        fold_columns(weights, 0..rows, columns, (&mut of_columns, A::ZERO), weigh);
                    } else {
                        fold_columns(weights, 0..rows, columns, (&mut of_columns, A::ZERO), add);
                    }
                    let to = sums.wrapping_add(key);
                    blocks!(columns, |at, len| {
                        let (mut sums, more) = (take(to.add(at).cast_const(), len, A::ZERO), &of_columns[at..]);
                        for l in 0..len {
                            sums[l] += more[l];
                        }
                        put(sums, to.add(at), len);
                    });
                }
                Map::Blocks { size, .. } => {
                    let (across, first) = (block.problem.keys.div_ceil(*size), block_rows(&at.range, *size).start);
                    let mut most = [<A as Real>::ZERO; KEYS];
                    let greater = |most, p, _| if p > most { p } else { most };
                    for (of, range) in groups(block.queries.clone(), |t| t / size) {
                        fold_columns(weights, range.clone(), columns, (&mut of_columns, A::ZERO), add);
                        fold_columns(weights, range, columns, (&mut most, A::NEG_INFINITY), greater);
                        let to = sums.wrapping_add(2 * (of - first) * across);
                        let mut start = 0;
                        while start < columns {
                            let x = (key + start) / size;
                            let len = ((x + 1) * size - key).min(columns) - start;
                            let to = to.wrapping_add(2 * x);
                            *to += total_of(of_columns.as_ptr().wrapping_add(start), len);
                            let greatest = row_maximum(most.as_ptr().wrapping_add(start), len);
                            let other = &mut *to.wrapping_add(1);
                            *other = if greatest > *other { greatest } else { *other };
                            start += len;
                        }
                    }
                }
                Map::Segments { count, queries, keys, .. } => {
                    let (keys, of_sequence) = (&keys[block.b], block.b * block.problem.queries);
                    let first = keys.partition_point(|(start, _)| *start <= key).saturating_sub(1);
                    for (from, range) in groups(block.queries.clone(), |t| queries[of_sequence + t]) {
                        let Some(from) = from else { continue };
                        fold_columns(weights, range, columns, (&mut of_columns, A::ZERO), add);
                        for (run, (start, to)) in keys.iter().enumerate().skip(first) {
                            if *start >= key + columns {
                                break;
                            }
                            let end = keys.get(run + 1).map_or(key + columns, |(next, _)| (*next).min(key + columns));
                            let start = (*start).max(key) - key;
                            if let Some(to) = to {
                                *sums.wrapping_add(from * count + to) +=
                                    total_of(of_columns.as_ptr().wrapping_add(start), end - key - start);
                            }
                        }
                    }
                }
                Map::Diagonals { .. } => {
                    // The first place is that of the range's last query and key 0.
                    let to = sums.wrapping_add(at.range.end - block.queries.end + key);
                    add_diagonals(weights, rows, columns, to);
                }
                Map::Totals { .. } | Map::Top { .. } | Map::Rows { .. } => {}
            }
        }
    }
}

/// Weights of a row times their gradients: what dropout leaves of the slopes. A key of weight 0 gives 0, whatever its value.
///
/// # Safety
///
/// Both rows have so many columns.
#[inline(always)]
unsafe fn times<A: Real>(weights: *mut A, slopes: *const A, gates: Option<[A; KEYS]>, columns: usize) {
    let gates = gates.as_ref().map(|gates| gates.as_chunks::<LANES>().0);
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise, here and below.
        let (mut p, mut dp) =
            unsafe { (take(weights.add(at).cast_const(), len, A::ZERO), take(slopes.add(at), len, A::ZERO)) };
        if let Some(gates) = gates {
            dp = gated(dp, &gates[at / LANES]);
        }
        for l in 0..LANES {
            p[l] = if p[l] == A::ZERO { A::ZERO } else { p[l] * dp[l] };
        }
        // SAFETY: as above.
        unsafe { put(p, weights.add(at), len) };
    });
}

/// `Σ |x|` of the first columns.
///
/// # Safety
///
/// There are so many.
#[inline(always)]
unsafe fn magnitude_of<A: Real>(x: *const A, columns: usize) -> A {
    let mut sums = [A::ZERO; LANES];
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let block = unsafe { take(x.add(at), len, A::ZERO) };
        for l in 0..LANES {
            sums[l] += block[l].abs();
        }
    });
    sum(sums)
}

/// Neighbouring queries of the same kind: the kind, and their rows within the block.
#[inline(always)]
fn groups<K: PartialEq>(queries: Range<usize>, kind: impl Fn(usize) -> K) -> impl Iterator<Item = (K, Range<usize>)> {
    let first = queries.start;
    let mut next = first;
    std::iter::from_fn(move || {
        let start = next;
        if start == queries.end {
            return None;
        }
        let of = kind(start);
        while next < queries.end && kind(next) == of {
            next += 1;
        }
        Some((of, start - first..next - first))
    })
}

/// Folds columns over some rows, [`PITCH`] elements apart, from a number on. What lies behind the columns means nothing.
///
/// Row by row, into memory: with a stripe of columns at a time in registers the compiler turns the loops around, and gathers.
///
/// # Safety
///
/// There are these rows.
#[inline(always)]
unsafe fn fold_columns<A: Real>(
    x: *const A,
    rows: Range<usize>,
    columns: usize,
    (to, from): (&mut [A; KEYS], A),
    fold: impl Fn(A, A, usize) -> A,
) {
    to.fill(from);
    for i in rows {
        for at in (0..columns).step_by(LANES) {
            let to = &mut to[at..at + LANES];
            // SAFETY: the caller's promise; rows have room for whole blocks.
            let block = unsafe { take(x.add(i * PITCH + at), LANES, A::ZERO) };
            for l in 0..LANES {
                to[l] = fold(to[l], block[l], i);
            }
        }
    }
}

/// Adds rows of weights, [`PITCH`] elements apart, along their diagonals, from that of the last row and column 0 on.
///
/// ```text
/// to[d] += Σ_i x[i][d − (rows − 1 − i)]        a b c d e      ·          left of | a row adds what lies on few diagonals;
///                                                a b c d e    ·          between them registers add up all rows
///                                                  |   |      rows
/// ```
///
/// A row that was added to what the row before it has just written would wait for it: the two differ by one element.
///
/// # Safety
///
/// There are these rows; nobody else touches the sums, one for each diagonal.
#[inline(always)]
unsafe fn add_diagonals<A: Real>(x: *const A, rows: usize, columns: usize, to: *mut A) {
    let row = |i: usize| x.wrapping_add(i * PITCH);
    // SAFETY: the caller's promise, for everything below.
    unsafe {
        let add = |i: usize, range: Range<usize>| {
            for j in range {
                *to.wrapping_add(rows - 1 - i + j) += *row(i).wrapping_add(j);
            }
        };
        if columns < rows {
            return (0..rows).for_each(|i| add(i, 0..columns));
        }
        // Diagonals from the last row's column 0 to the first row's last column have an element in every row.
        blocks!(columns + 1 - rows, |at, len| {
            let mut sums = [A::ZERO; LANES];
            for i in 0..rows {
                let block = take(row(i).wrapping_add(at + i), len, A::ZERO);
                for l in 0..LANES {
                    sums[l] += block[l];
                }
            }
            let to = to.wrapping_add(rows - 1 + at);
            let mut all = take(to.cast_const(), len, A::ZERO);
            for l in 0..LANES {
                all[l] += sums[l];
            }
            put(all, to, len);
        });
        for i in 0..rows {
            add(i, 0..i);
            add(i, columns + 1 - rows + i..columns);
        }
    }
}
