//! The loops over a row of weights.

use super::{Kept, Statistics, tokens::NO_TOKEN};
use crate::{
    attention::modifier::Row,
    isa::{Kernel, Machine},
    math::{Real, exp2_below_zero},
    rows::{self, LANES, blocks, put, sum, take},
};

/// Adds a row of weights to the sums that are kept of it.
pub(super) struct Sums<'a, A> {
    pub(super) statistics: &'a Statistics<A>,
    pub(super) numbers: *mut A,
    pub(super) weights: *const A,
    pub(super) row: Row,
    pub(super) position: isize,
    /// Whether distances were added up with the exponentials.
    pub(super) is_counted: bool,
}

impl<A: Real> Kernel for Sums<'_, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Sums { statistics, numbers, weights, row, position, is_counted } = self;
        // Columns of keys before a position.
        let before = |end: isize| (end - row.key as isize).clamp(0, row.columns as isize) as usize;
        for &(kept, place) in &statistics.kept {
            let to = numbers.wrapping_add(place);
            // SAFETY: numbers are a row's, weights, tables and tokens have its columns.
            unsafe {
                match kept {
                    Kept::Distance if is_counted => {}
                    Kept::Distance => match OneSided::of(row, position) {
                        Some(side) => {
                            by_blocks::<M, A>(weights, row.columns, BlockSums::new(side)).finish::<M>(side, to)
                        }
                        None => weighted::<M, A>(weights, statistics.from(&statistics.distances, row), row, to),
                    },
                    Kept::LogDistance if statistics.energy.is_some() => {}
                    Kept::LogDistance => weighted::<M, A>(weights, statistics.from(&statistics.logs, row), row, to),
                    Kept::First(keys) => *to += total_of(weights, keys.saturating_sub(row.key).min(row.columns)),
                    Kept::At(distance) => {
                        let column = position + distance - row.key as isize;
                        if (0..row.columns as isize).contains(&column) {
                            *to += *weights.offset(column);
                        }
                    }
                    Kept::Duplicate | Kept::Induction | Kept::Energy | Kept::ArgMax | Kept::Nothing => {}
                }
            }
        }
        let Statistics { tokens, duplicate, induction, queries, .. } = statistics;
        let matches = |blocks, end, place: usize| {
            let (token, of_keys) = tokens.of(blocks, row, *queries);
            Matches { token, of_keys, columns: before(end), to: numbers.wrapping_add(place) }
        };
        let duplicates = duplicate.map(|place| matches(&tokens.keys, position, place));
        let inductions = induction.map(|place| matches(&tokens.before, position + 1, place));
        // SAFETY: as above.
        unsafe {
            match (duplicates, inductions) {
                (Some(duplicates), Some(inductions)) => matching(weights, [duplicates, inductions]),
                (Some(one), None) | (None, Some(one)) => matching(weights, [one]),
                (None, None) => {}
            }
        }
    }
}

/// A distance below the maximum, as far as it matters: its exponential is 0 from here on, and 0 · −∞ shall be 0. In f32 the
/// exponential begins with the same steps.
#[inline(always)]
pub(super) fn bounded<A: Real>(below: A, unit: A) -> A {
    let lowest = A::NO_POWER / unit;
    if below < lowest { lowest } else { below }
}

/// Keys on one side of the query: their distances are linear in the columns, and need not be read.
///
/// ```text
/// at = 32 · block + lane         Σ e · (first + at) = Σ_lane (first + lane) · Σ_block e + 32 · Σ_lane Σ_block e · block
/// ```
///
/// Distances count from the nearest key: all terms are positive, so that nothing cancels.
#[derive(Clone, Copy)]
pub(super) struct OneSided<A> {
    /// Distance of lane 0 in the nearest block.
    nearest: A,
    /// Number of the row's first block as distances count them, and the way to the next one.
    first: A,
    step: A,
}

impl<A: Real> OneSided<A> {
    /// `None` where keys stand on both sides.
    #[inline(always)]
    pub(super) fn of(row: Row, position: isize) -> Option<OneSided<A>> {
        let blocks = row.columns.div_ceil(LANES);
        let (behind, before) = (row.key as isize - position, position - (row.key + blocks * LANES) as isize + 1);
        let (nearest, first, step) = match () {
            () if behind >= 0 => (behind, 0, 1.0),
            () if before >= 0 => (before + LANES as isize - 1, blocks - 1, -1.0),
            () => return None,
        };
        Some(OneSided {
            nearest: A::from_f64(nearest as f64),
            first: A::from_f64(first as f64),
            step: A::from_f64(step),
        })
    }
}

/// Sums over the blocks of a row, in lanes: `Σ e`, and `Σ e · block`.
pub(super) struct BlockSums<A> {
    sums: [A; LANES],
    by_block: [A; LANES],
    block: A,
    step: A,
}

impl<A: Real> BlockSums<A> {
    #[inline(always)]
    pub(super) fn new(side: OneSided<A>) -> BlockSums<A> {
        BlockSums { sums: [A::ZERO; LANES], by_block: [A::ZERO; LANES], block: side.first, step: side.step }
    }

    /// Nothing is added up.
    #[inline(always)]
    pub(super) fn none() -> BlockSums<A> {
        BlockSums::new(OneSided { nearest: A::ZERO, first: A::ZERO, step: A::ZERO })
    }

    /// The weights of the next block.
    #[inline(always)]
    fn add<M: Machine>(&mut self, e: &[A; LANES]) {
        for (l, &e) in e.iter().enumerate() {
            self.sums[l] += e;
            self.by_block[l] = A::mul_add::<M>(e, self.block, self.by_block[l]);
        }
        self.block += self.step;
    }

    /// Adds `Σ e · |distance|` to lanes.
    ///
    /// # Safety
    ///
    /// There are [`LANES`] lanes.
    #[inline(always)]
    pub(super) unsafe fn finish<M: Machine>(&self, side: OneSided<A>, to: *mut A) {
        // SAFETY: the caller's promise, here and below.
        let mut all = unsafe { take(to.cast_const(), LANES, A::ZERO) };
        for (l, all) in all.iter_mut().enumerate() {
            let first = side.nearest + side.step * A::from_f64(l as f64);
            let in_blocks = A::mul_add::<M>(self.by_block[l], A::from_f64(LANES as f64), *all);
            *all = A::mul_add::<M>(self.sums[l], first, in_blocks);
        }
        // SAFETY: as above.
        unsafe { put(all, to, LANES) };
    }
}

/// [`weights`](crate::attention::weights::weights), which adds `Σ e · (x − m)` to lanes, with `BLOCKS` also what is known by
/// block, and with `LOGS` `Σ e · log` to lanes of their own. One loop: while it makes exponentials, it has time to read.
pub(super) struct Energies<'a, A> {
    /// Scores, none above m.
    pub(super) row: *mut A,
    pub(super) columns: usize,
    pub(super) m: A,
    pub(super) unit: A,
    pub(super) total: &'a mut [A; LANES],
    pub(super) energies: *mut A,
    /// A table, and lanes.
    pub(super) logs: Option<(*const A, *mut A)>,
    pub(super) side: Option<(OneSided<A>, *mut A)>,
}

impl<A: Real> Energies<'_, A> {
    /// # Safety
    ///
    /// The row and the table have `columns` elements, and there are [`LANES`] lanes of each.
    #[inline(always)]
    pub(super) unsafe fn add<M: Machine>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.side.is_some(), self.logs.is_some()) {
                (false, false) => self.add_with::<M, false, false>(),
                (false, true) => self.add_with::<M, false, true>(),
                (true, false) => self.add_with::<M, true, false>(),
                (true, true) => self.add_with::<M, true, true>(),
            }
        }
    }

    /// # Safety
    ///
    /// As above.
    #[inline(always)]
    unsafe fn add_with<M: Machine, const BLOCKS: bool, const LOGS: bool>(self) {
        let Energies { row, columns, m, unit, total, energies, logs, side } = self;
        let (table, to_logs) = logs.unwrap_or((std::ptr::null(), std::ptr::null_mut()));
        let mut blocks = side.map_or(BlockSums::none(), |(side, _)| BlockSums::new(side));
        // SAFETY: the caller's promise, here and below.
        let lanes = |from: *mut A| unsafe { take(from.cast_const(), LANES, A::ZERO) };
        let (mut sums, mut of_energies) = (*total, lanes(energies));
        let mut of_logs = if LOGS { lanes(to_logs) } else { [A::ZERO; LANES] };
        blocks!(columns, |at, len| {
            // SAFETY: as above.
            let mut block = unsafe { take(row.add(at).cast_const(), len, A::NEG_INFINITY) };
            for l in 0..LANES {
                let below = block[l] - m;
                block[l] = exp2_below_zero::<M, A>(below, unit);
                sums[l] += block[l];
                of_energies[l] = A::mul_add::<M>(block[l], bounded(below, unit), of_energies[l]);
            }
            if BLOCKS {
                blocks.add::<M>(&block);
            }
            if LOGS {
                // SAFETY: as above.
                let logs = unsafe { take(table.add(at), len, A::ZERO) };
                for l in 0..LANES {
                    of_logs[l] = A::mul_add::<M>(block[l], logs[l], of_logs[l]);
                }
            }
            // SAFETY: as above.
            unsafe { put(block, row.add(at), len) };
        });
        *total = sums;
        // SAFETY: as above.
        unsafe {
            put(of_energies, energies, LANES);
            if LOGS {
                put(of_logs, to_logs, LANES);
            }
            if let Some((side, to)) = side {
                blocks.finish::<M>(side, to);
            }
        }
    }
}

/// What [`Energies`] add up by block, of a row of weights.
///
/// # Safety
///
/// The row has `columns` elements.
#[inline(always)]
unsafe fn by_blocks<M: Machine, A: Real>(weights: *const A, columns: usize, mut blocks: BlockSums<A>) -> BlockSums<A> {
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        blocks.add::<M>(&unsafe { take(weights.add(at), len, A::ZERO) });
    });
    blocks
}

/// Adds `Σ e · w` to lanes.
///
/// # Safety
///
/// Weights and factors have the row's columns, and there are [`LANES`] lanes.
#[inline(always)]
unsafe fn weighted<M: Machine, A: Real>(weights: *const A, factors: *const A, row: Row, to: *mut A) {
    // SAFETY: the caller's promise, here and below.
    let mut sums = unsafe { take(to.cast_const(), LANES, A::ZERO) };
    blocks!(row.columns, |at, len| {
        // SAFETY: as above.
        let (e, w) = unsafe { (take(weights.add(at), len, A::ZERO), take(factors.add(at), len, A::ZERO)) };
        for l in 0..LANES {
            sums[l] = A::mul_add::<M>(e[l], w[l], sums[l]);
        }
    });
    // SAFETY: as above.
    unsafe { put(sums, to, LANES) };
}

/// Weights of the first columns' keys with a token are added to lanes.
#[derive(Clone, Copy)]
struct Matches<A> {
    token: u32,
    of_keys: *const u32,
    columns: usize,
    to: *mut A,
}

/// # Safety
///
/// There are so many weights and tokens, and [`LANES`] lanes.
#[inline(always)]
unsafe fn matching<A: Real, const N: usize>(weights: *const A, matches: [Matches<A>; N]) {
    // SAFETY: the caller's promise, here and below.
    let mut sums = matches.map(|of| unsafe { take(of.to.cast_const(), LANES, A::ZERO) });
    let columns = matches.iter().map(|of| of.columns).max().unwrap_or(0);
    blocks!(columns, |at, len| {
        // SAFETY: as above.
        let e = unsafe { take(weights.add(at), len, A::ZERO) };
        for (of, sums) in matches.iter().zip(&mut sums) {
            // SAFETY: as above.
            let tokens = unsafe { take(of.of_keys.add(at), len.min(of.columns - at.min(of.columns)), NO_TOKEN) };
            for l in 0..LANES {
                sums[l] += if tokens[l] == of.token { e[l] } else { A::ZERO };
            }
        }
    });
    for (of, sums) in matches.iter().zip(sums) {
        // SAFETY: as above.
        unsafe { put(sums, of.to, LANES) };
    }
}

/// `Σ e` of the first columns.
///
/// # Safety
///
/// There are so many.
#[inline(always)]
pub(in crate::attention) unsafe fn total_of<A: Real>(weights: *const A, columns: usize) -> A {
    if columns == 0 {
        return A::ZERO;
    }
    let mut sums = [A::ZERO; LANES];
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let e = unsafe { take(weights.add(at), len, A::ZERO) };
        for l in 0..LANES {
            sums[l] += e[l];
        }
    });
    sum(sums)
}

/// Place of the first of some scores that equals their greatest.
///
/// # Safety
///
/// `scores` has `columns` elements.
#[inline(always)]
pub(super) unsafe fn first_of<A: Real>(scores: *const A, columns: usize, greatest: A) -> usize {
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let block = unsafe { take(scores.add(at), len, A::NEG_INFINITY) };
        let mut is_here = false;
        for &score in &block {
            is_here |= at_least(score, greatest);
        }
        if is_here {
            // Minus the place of each, so that the greatest is the first.
            let mut places = [A::NEG_INFINITY; LANES];
            for l in 0..LANES {
                places[l] = if at_least(block[l], greatest) { A::from_f64(-(l as f64)) } else { places[l] };
            }
            return at + (-rows::greatest(places).to_f64()) as usize;
        }
    });
    0
}

/// Not below; so is what can't be compared.
#[inline(always)]
#[expect(clippy::neg_cmp_op_on_partial_ord)] // for NaN
fn at_least<A: Real>(score: A, greatest: A) -> bool {
    !(score < greatest)
}
