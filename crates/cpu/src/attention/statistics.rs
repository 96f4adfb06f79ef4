//! Statistics of each row of weights, beside the output and without a second pass.
//!
//! ```text
//! e_s = exp(x_s − m)     l = Σ e     E = Σ e · (x − m)     W = Σ e · w_s                 of the keys so far
//! m' > m                 E = exp(m − m') · (E + (m − m') · l)                    W = exp(m − m') · W
//! at the end             entropy = ln l − E / l     mean of w = W / l     greatest weight = 1 / l
//! ```
//!
//! w is a distance from a table that rows read at different places, or 1 for some keys and 0 for the others. Only what is asked
//! for is computed: E within the loop of the exponentials, each W in a short loop of its own over the columns that it is about.
//! Sums over whole rows stay in lanes until the end.
//!
//! Scores, and with them m and E, are in the problem's unit until the end. Weights and their sum are those of the plain forward,
//! operation by operation.

use super::{
    modifier::Row,
    problem::{OP, Problem, table},
    scores::{ROWS, weights},
};
use crate::{
    CpuBackend,
    isa::{self, Kernel, Machine},
    math::{Real, exp, exp2_below_zero, log},
    matmul::element::{Element, Sum},
    rows::{LANES, blocks, put, sum, take},
};
use attentia_backend::{Error, ErrorKind, Result, Statistic, TokenIds};
use std::collections::HashMap;

/// What is kept of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kept {
    /// E.
    Energy,
    /// W of distances, and of their logarithms.
    Distance,
    LogDistance,
    /// W of earlier keys with the query's token, and of keys behind one.
    Duplicate,
    Induction,
    /// W of so many first keys.
    First(usize),
    /// W of the key at this distance.
    At(isize),
    /// The first key of the maximum.
    ArgMax,
    Nothing,
}

impl Kept {
    fn of(statistic: Statistic) -> Kept {
        match statistic {
            Statistic::Entropy | Statistic::EffectiveKeys => Kept::Energy,
            Statistic::MeanDistance => Kept::Distance,
            Statistic::MeanLogDistance => Kept::LogDistance,
            Statistic::DuplicateMass => Kept::Duplicate,
            Statistic::InductionMass => Kept::Induction,
            Statistic::SinkMass(keys) => Kept::First(keys as usize),
            Statistic::PreviousMass => Kept::At(-1),
            Statistic::SelfMass => Kept::At(0),
            Statistic::NextMass => Kept::At(1),
            Statistic::ArgMax => Kept::ArgMax,
            Statistic::MaxWeight => Kept::Nothing,
        }
    }

    /// Numbers that it takes: a lane each, or one.
    fn len(self) -> usize {
        match self {
            Kept::Energy | Kept::Distance | Kept::LogDistance | Kept::Duplicate | Kept::Induction => LANES,
            Kept::First(_) | Kept::At(_) | Kept::ArgMax => 1,
            Kept::Nothing => 0,
        }
    }
}

/// What a call asks for, and what has to be kept of each row for that.
pub(super) struct Statistics<A> {
    /// With the place of what they are made of.
    asked: Vec<(Statistic, usize)>,
    /// Each once, with its place among the numbers of a row.
    kept: Vec<(Kept, usize)>,
    /// Where E begins, and W of distances.
    energy: Option<usize>,
    distance: Option<usize>,
    /// Whether any other W is kept.
    has_sums: bool,
    /// Numbers that are kept of a row.
    each: usize,
    /// By distance, from the first key's to the last query on; of nothing that is not asked for.
    distances: Vec<A>,
    logs: Vec<A>,
    tokens: Tokens,
    queries: usize,
    /// What a score is in bits, and in nats.
    unit: A,
    nats: A,
}

/// Token ids as small numbers, `[B, T]` of queries and `[B, S]` of keys and of what stands before each.
#[derive(Default)]
struct Tokens {
    queries: Vec<u32>,
    keys: Vec<Block>,
    before: Vec<Block>,
    /// Blocks of a sequence.
    blocks: usize,
}

/// Neighbours, aligned: a load never meets two lines more than it must.
#[derive(Clone, Copy)]
#[repr(align(128))]
struct Block([u32; LANES]);

/// The number of no token.
const NO_TOKEN: u32 = u32::MAX;

impl<A: Real + Sum> Statistics<A> {
    pub(super) fn new<T: Element<Sum = A>>(
        cpu: &CpuBackend,
        problem: &Problem<T>,
        asked: &[Statistic],
        tokens: Option<TokenIds>,
    ) -> Result<Statistics<A>> {
        let needs_tokens = asked.iter().any(|statistic| statistic.needs_tokens());
        if needs_tokens != tokens.is_some() {
            let message = if needs_tokens { "a statistic needs token ids" } else { "no statistic needs token ids" };
            return Err(Error::new(ErrorKind::Argument, OP, message).help(
                "give ids of queries [B, T] and of keys [B, S] for duplicate and induction mass, and for nothing else",
            ));
        }
        let mut statistics = Statistics {
            asked: Vec::new(),
            kept: Vec::new(),
            energy: None,
            distance: None,
            has_sums: false,
            each: 0,
            distances: Vec::new(),
            logs: Vec::new(),
            tokens: tokens.map_or(Ok(Tokens::default()), |tokens| Tokens::new(problem, tokens))?,
            queries: problem.queries,
            unit: problem.bits(),
            nats: A::from_f64(problem.nats()),
        };
        // Lanes first, so that all of them are aligned.
        for lanes in [true, false] {
            for kept in asked.iter().map(|statistic| Kept::of(*statistic)) {
                if (kept.len() == LANES) == lanes {
                    statistics.place_of(kept);
                }
            }
        }
        statistics.asked = asked.iter().map(|&s| (s, statistics.place_of(Kept::of(s)))).collect();
        statistics.each = statistics.each.next_multiple_of(LANES);
        let others = [Kept::Energy, Kept::Distance, Kept::ArgMax, Kept::Nothing];
        statistics.has_sums = statistics.kept.iter().any(|(kept, _)| !others.contains(kept));
        let count = (problem.queries + problem.keys).saturating_sub(1);
        let first = -problem.position(problem.queries.saturating_sub(1));
        let distance = |i: usize| A::from_f64((first + i as isize).unsigned_abs() as f64);
        let table = |kept: Kept| match statistics.kept.iter().any(|(other, _)| *other == kept) {
            true => (0..count).map(distance).collect(),
            false => Vec::new(),
        };
        (statistics.distances, statistics.logs) = (table(Kept::Distance), table(Kept::LogDistance));
        isa::run(cpu.isa, Logarithms(&mut statistics.logs));
        Ok(statistics)
    }

    fn place_of(&mut self, kept: Kept) -> usize {
        if let Some((_, place)) = self.kept.iter().find(|(other, _)| *other == kept) {
            return *place;
        }
        let place = self.each;
        self.kept.push((kept, place));
        self.each += kept.len();
        match kept {
            Kept::Energy => self.energy = Some(place),
            Kept::Distance => self.distance = Some(place),
            _ => {}
        }
        place
    }
}

impl<A> Statistics<A> {
    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Elements that some rows take: what is kept of each, and its statistics; and what aligns them.
    pub(super) fn len(&self, rows: usize) -> usize {
        if self.asked.is_empty() { 0 } else { rows * (self.each + self.asked.len()) + LANES }
    }

    /// Where a table begins for a row.
    fn from(&self, table: &[A], row: Row) -> *const A {
        table.as_ptr().wrapping_add(self.queries - 1 - row.t + row.key)
    }
}

impl Tokens {
    fn new<T: Element<Sum = A>, A: Real + Sum>(problem: &Problem<T>, tokens: TokenIds) -> Result<Tokens> {
        let Problem { batch, queries, keys: length, .. } = *problem;
        let mut numbers = HashMap::new();
        let mut number = |id: i64| {
            let next = numbers.len() as u32;
            *numbers.entry(id).or_insert(next)
        };
        let of_queries = table(tokens.queries, "query tokens", [batch, queries])?;
        let of_keys = table(tokens.keys, "key tokens", [batch, length])?;
        let queries = of_queries.into_iter().map(&mut number).collect();
        let of_keys: Vec<u32> = of_keys.into_iter().map(&mut number).collect();
        let blocks = length.div_ceil(LANES);
        let [mut keys, mut before] = [0, 1].map(|_| vec![Block([NO_TOKEN; LANES]); batch * blocks]);
        for (i, &token) in of_keys.iter().enumerate() {
            let (start, key) = (i / length * blocks, i % length);
            keys[start + key / LANES].0[key % LANES] = token;
            if key + 1 < length {
                before[start + (key + 1) / LANES].0[(key + 1) % LANES] = token;
            }
        }
        Ok(Tokens { queries, keys, before, blocks })
    }

    /// The query's token, and tokens of a sequence from a key on.
    fn of(&self, tokens: &[Block], row: Row, queries: usize) -> (u32, *const u32) {
        let sequence = tokens.as_ptr().wrapping_add(row.b * self.blocks).cast::<u32>();
        (self.queries[row.b * queries + row.t], sequence.wrapping_add(row.key))
    }
}

/// `log₂(1 + x)` of distances.
struct Logarithms<'a, A>(&'a mut [A]);

impl<A: Real> Kernel for Logarithms<'_, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let factor = A::from_f64(std::f64::consts::LOG2_E);
        self.0.iter_mut().for_each(|x| *x = log::<M, A>(A::ONE + *x) * factor);
    }
}

/// What is kept of each row of a block of queries, and what becomes of it at the end.
///
/// ```text
/// [rows, each]    sums and others of each row         [statistics, rows]    results
/// ```
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, A> {
    statistics: &'a Statistics<A>,
    start: *mut A,
    rows: usize,
}

impl<'a, A: Real> Rows<'a, A> {
    /// In memory for [`Statistics::len`] numbers.
    pub(super) fn new(statistics: &'a Statistics<A>, start: *mut A, rows: usize) -> Rows<'a, A> {
        // A block of lanes in as few lines as it can have.
        let bytes = size_of::<[A; LANES]>();
        let start = start.cast::<u8>().wrapping_add(start.addr().next_multiple_of(bytes) - start.addr()).cast();
        Rows { statistics, start, rows }
    }

    /// All rows of the statistic that was asked for as number `i`.
    pub(super) fn results(&self, i: usize) -> *mut A {
        self.start.wrapping_add(self.rows * (self.statistics.each + i))
    }

    #[inline(always)]
    fn row(&self, i: usize) -> *mut A {
        self.start.wrapping_add(i * self.statistics.each)
    }

    /// Takes in a block of scores, none above `base`, and writes their exponentials over them, which are added to `total`.
    /// `position` is the query's.
    ///
    /// # Safety
    ///
    /// The memory is ours, and `i` one of the rows; so for all below. `scores` has the row's columns.
    #[inline(always)]
    pub(super) unsafe fn add<M: Machine>(
        &self,
        i: usize,
        scores: *mut A,
        row: Row,
        base: A,
        position: isize,
        total: &mut [A; LANES],
    ) {
        let (statistics, numbers) = (self.statistics, self.row(i));
        // SAFETY: the caller's promise, for all numbers of the row; tables and tokens have the row's columns.
        unsafe {
            let (exponent, columns) = ([base, statistics.unit], row.columns);
            let side = statistics.distance.and_then(|place| Some((Side::of(row, position)?, numbers.add(place))));
            match (statistics.energy.map(|place| numbers.add(place)), side) {
                (Some(to), Some((side, distances))) => {
                    let blocks = Blocks::new(side);
                    energies::<M, A, true>(scores, exponent, columns, to, total, blocks).finish::<M>(side, distances);
                }
                (Some(to), None) => {
                    energies::<M, A, false>(scores, exponent, columns, to, total, Blocks::none());
                }
                (None, _) => weights::<M, A>(scores, base, statistics.unit, columns, total),
            }
            let is_counted = statistics.energy.is_some() && side.is_some();
            if statistics.has_sums || (statistics.distance.is_some() && !is_counted) {
                // A function of its own: what all its loops need at hand would not leave enough registers to the one above.
                isa::run(M::ISA, Sums { statistics, numbers, weights: scores.cast_const(), row, position, is_counted });
            }
        }
    }

    /// What a new maximum, `greatest`, makes of sums so far, whose exponentials become `shrink` times as large. `m` and `l`
    /// are as before the block.
    ///
    /// # Safety
    ///
    /// As above.
    #[inline(always)]
    pub(super) unsafe fn rise(&self, i: usize, scores: *const A, row: Row, [m, l, greatest]: [A; 3], shrink: A) {
        for &(kept, place) in &self.statistics.kept {
            // SAFETY: the caller's promise.
            unsafe {
                let to = self.row(i).add(place);
                if kept == Kept::ArgMax {
                    *to = A::from_f64((row.key + first_of(scores, row.columns, greatest)) as f64);
                } else if l > A::ZERO {
                    if kept == Kept::Energy {
                        *to += bounded(m - greatest, self.statistics.unit) * l;
                    }
                    (0..kept.len()).for_each(|j| *to.add(j) = *to.add(j) * shrink);
                }
            }
        }
    }

    /// Adds what was kept of the keys that follow. Maxima and totals are those before, of both; `factors` are what the new
    /// maximum, `base`, makes of their exponentials.
    ///
    /// # Safety
    ///
    /// As above.
    #[inline(always)]
    pub(super) unsafe fn merge(&self, later: &Rows<A>, i: usize, m: [A; 2], l: [A; 2], factors: [A; 2], base: A) {
        let numbers = [self.row(i), later.row(i)];
        for &(kept, place) in &self.statistics.kept {
            // SAFETY: the caller's promise.
            unsafe {
                let [to, from] = numbers.map(|row| row.add(place));
                if kept == Kept::ArgMax {
                    *to = if m[1] > m[0] { *from } else { *to };
                    continue;
                }
                if kept == Kept::Energy {
                    for (n, energy) in [to, from].into_iter().enumerate() {
                        *energy += bounded(m[n] - base, self.statistics.unit) * l[n];
                    }
                }
                (0..kept.len()).for_each(|j| *to.add(j) = *to.add(j) * factors[0] + *from.add(j) * factors[1]);
            }
        }
    }

    /// Makes statistics of what was kept of all rows, whose weights add up to `l`, with its logarithms; 0 of a row without
    /// weights.
    ///
    /// # Safety
    ///
    /// As above.
    #[inline(always)]
    pub(super) unsafe fn finish<M: Machine>(&self, l: &[A; ROWS], logs: &[A; ROWS]) {
        for (which, &(statistic, place)) in self.statistics.asked.iter().enumerate() {
            let mut numbers = [A::ONE; ROWS];
            let (kept, results) = (Kept::of(statistic).len(), self.results(which));
            // SAFETY: the caller's promise.
            unsafe {
                for (i, number) in numbers.iter_mut().enumerate().take(self.rows) {
                    let from = self.row(i).add(place).cast_const();
                    match kept {
                        0 => {}
                        1 => *number = *from,
                        _ => *number = sum(take(from, LANES, A::ZERO)),
                    }
                }
            }
            if statistic != Statistic::ArgMax {
                for i in 0..ROWS {
                    numbers[i] = numbers[i] / l[i];
                }
            }
            if matches!(statistic, Statistic::Entropy | Statistic::EffectiveKeys) {
                for i in 0..ROWS {
                    numbers[i] = logs[i] - self.statistics.nats * numbers[i];
                }
            }
            if statistic == Statistic::EffectiveKeys {
                for number in &mut numbers {
                    *number = exp::<M, A>(*number);
                }
            }
            for (i, number) in numbers.into_iter().enumerate().take(self.rows) {
                // SAFETY: the caller's promise.
                unsafe { *results.add(i) = if l[i] == A::ZERO { A::ZERO } else { number } };
            }
        }
    }
}

impl<A: Real> Rows<'_, A> {
    /// What becomes of finished statistics when all weights of a row are `share` times as large. That is sums of weights
    /// but for the entropy: `−Σ w p ln(w p) = w · entropy − w ln w`.
    ///
    /// # Safety
    ///
    /// As above.
    #[inline(always)]
    pub(super) unsafe fn shrink<M: Machine>(&self, i: usize, share: A) {
        // 0 · ln 0 is 0 in the limit.
        let spread = if share == A::ZERO { A::ZERO } else { share * log::<M, A>(share) };
        for (which, (statistic, _)) in self.statistics.asked.iter().enumerate() {
            // SAFETY: the caller's promise.
            let result = unsafe { &mut *self.results(which).add(i) };
            *result = match statistic {
                Statistic::ArgMax => *result,
                Statistic::Entropy => *result * share - spread,
                Statistic::EffectiveKeys => exp::<M, A>(log::<M, A>(*result) * share - spread),
                _ => *result * share,
            };
        }
    }
}

/// Adds a row of weights to the sums that are kept of it.
struct Sums<'a, A> {
    statistics: &'a Statistics<A>,
    numbers: *mut A,
    weights: *const A,
    row: Row,
    position: isize,
    /// Whether distances were added up with the exponentials.
    is_counted: bool,
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
                    Kept::Distance => match Side::of(row, position) {
                        Some(side) => by_blocks::<M, A>(weights, row.columns, Blocks::new(side)).finish::<M>(side, to),
                        None => weighted::<M, A>(weights, statistics.from(&statistics.distances, row), row, to),
                    },
                    Kept::LogDistance => weighted::<M, A>(weights, statistics.from(&statistics.logs, row), row, to),
                    Kept::Duplicate => {
                        let tokens = statistics.tokens.of(&statistics.tokens.keys, row, statistics.queries);
                        matching(weights, tokens, before(position), to);
                    }
                    Kept::Induction => {
                        let tokens = statistics.tokens.of(&statistics.tokens.before, row, statistics.queries);
                        matching(weights, tokens, before(position + 1), to);
                    }
                    Kept::First(keys) => *to += total_of(weights, keys.saturating_sub(row.key).min(row.columns)),
                    Kept::At(distance) => {
                        let column = position + distance - row.key as isize;
                        if (0..row.columns as isize).contains(&column) {
                            *to += *weights.offset(column);
                        }
                    }
                    Kept::Energy | Kept::ArgMax | Kept::Nothing => {}
                }
            }
        }
    }
}

/// A distance below the maximum, as far as it matters: its exponential is 0 from here on, and 0 · −∞ shall be 0. The
/// exponential begins with the same steps.
#[inline(always)]
fn bounded<A: Real>(below: A, unit: A) -> A {
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
struct Side<A> {
    /// Distance of lane 0 in the nearest block.
    nearest: A,
    /// Number of the row's first block as distances count them, and the way to the next one.
    first: A,
    step: A,
}

impl<A: Real> Side<A> {
    /// `None` where keys stand on both sides.
    #[inline(always)]
    fn of(row: Row, position: isize) -> Option<Side<A>> {
        let blocks = row.columns.div_ceil(LANES);
        let (behind, before) = (row.key as isize - position, position - (row.key + blocks * LANES) as isize + 1);
        let (nearest, first, step) = match () {
            () if behind >= 0 => (behind, 0, 1.0),
            () if before >= 0 => (before + LANES as isize - 1, blocks - 1, -1.0),
            () => return None,
        };
        Some(Side { nearest: A::from_f64(nearest as f64), first: A::from_f64(first as f64), step: A::from_f64(step) })
    }
}

/// Sums over the blocks of a row, in lanes: `Σ e`, and `Σ e · block`.
struct Blocks<A> {
    sums: [A; LANES],
    by_block: [A; LANES],
    block: A,
    step: A,
}

impl<A: Real> Blocks<A> {
    #[inline(always)]
    fn new(side: Side<A>) -> Blocks<A> {
        Blocks { sums: [A::ZERO; LANES], by_block: [A::ZERO; LANES], block: side.first, step: side.step }
    }

    /// Nothing is added up.
    #[inline(always)]
    fn none() -> Blocks<A> {
        Blocks::new(Side { nearest: A::ZERO, first: A::ZERO, step: A::ZERO })
    }

    /// The weights of the next block.
    #[inline(always)]
    fn add<M: Machine>(&mut self, e: &[A; LANES]) {
        for l in 0..LANES {
            self.sums[l] += e[l];
            self.by_block[l] = A::mul_add::<M>(e[l], self.block, self.by_block[l]);
        }
        self.block += self.step;
    }

    /// Adds `Σ e · |distance|` to lanes.
    ///
    /// # Safety
    ///
    /// There are [`LANES`] lanes.
    #[inline(always)]
    unsafe fn finish<M: Machine>(&self, side: Side<A>, to: *mut A) {
        // SAFETY: the caller's promise, here and below.
        let mut all = unsafe { take(to.cast_const(), LANES, A::ZERO) };
        for l in 0..LANES {
            let first = side.nearest + side.step * A::from_f64(l as f64);
            let in_blocks = A::mul_add::<M>(self.by_block[l], A::from_f64(LANES as f64), all[l]);
            all[l] = A::mul_add::<M>(self.sums[l], first, in_blocks);
        }
        // SAFETY: as above.
        unsafe { put(all, to, LANES) };
    }
}

/// [`weights`], which adds `Σ e · (x − m)` to lanes, and with `DISTANCES` also what is known by block.
///
/// # Safety
///
/// The row has `columns` elements, none above m, and there are [`LANES`] lanes.
#[inline(always)]
unsafe fn energies<M: Machine, A: Real, const DISTANCES: bool>(
    row: *mut A,
    [m, unit]: [A; 2],
    columns: usize,
    to: *mut A,
    total: &mut [A; LANES],
    blocks: Blocks<A>,
) -> Blocks<A> {
    let mut counted = blocks;
    // SAFETY: the caller's promise, here and below.
    let (mut sums, mut energies) = (*total, unsafe { take(to.cast_const(), LANES, A::ZERO) });
    blocks!(columns, |at, len| {
        // SAFETY: as above.
        let mut block = unsafe { take(row.add(at).cast_const(), len, A::NEG_INFINITY) };
        for l in 0..LANES {
            let below = block[l] - m;
            block[l] = exp2_below_zero::<M, A>(below, unit);
            sums[l] += block[l];
            energies[l] = A::mul_add::<M>(block[l], bounded(below, unit), energies[l]);
        }
        if DISTANCES {
            counted.add::<M>(&block);
        }
        // SAFETY: as above.
        unsafe { put(block, row.add(at), len) };
    });
    // SAFETY: as above.
    unsafe { put(energies, to, LANES) };
    *total = sums;
    counted
}

/// What [`energies`] adds up by block, of a row of weights.
///
/// # Safety
///
/// The row has `columns` elements.
#[inline(always)]
unsafe fn by_blocks<M: Machine, A: Real>(weights: *const A, columns: usize, mut blocks: Blocks<A>) -> Blocks<A> {
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

/// Adds the weights of keys with a token to lanes.
///
/// # Safety
///
/// There are so many weights and tokens, and [`LANES`] lanes.
#[inline(always)]
unsafe fn matching<A: Real>(weights: *const A, (token, tokens): (u32, *const u32), columns: usize, to: *mut A) {
    // SAFETY: the caller's promise, here and below.
    let mut sums = unsafe { take(to.cast_const(), LANES, A::ZERO) };
    blocks!(columns, |at, len| {
        // SAFETY: as above.
        let (e, of_keys) = unsafe { (take(weights.add(at), len, A::ZERO), take(tokens.add(at), len, NO_TOKEN)) };
        for l in 0..LANES {
            sums[l] += if of_keys[l] == token { e[l] } else { A::ZERO };
        }
    });
    // SAFETY: as above.
    unsafe { put(sums, to, LANES) };
}

/// `Σ e` of the first columns.
///
/// # Safety
///
/// There are so many.
#[inline(always)]
pub(super) unsafe fn total_of<A: Real>(weights: *const A, columns: usize) -> A {
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
unsafe fn first_of<A: Real>(scores: *const A, columns: usize, greatest: A) -> usize {
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let block = unsafe { take(scores.add(at), len, A::NEG_INFINITY) };
        let mut is_here = false;
        for l in 0..LANES {
            is_here |= at_least(block[l], greatest);
        }
        if is_here {
            return at + block.iter().position(|&score| at_least(score, greatest)).unwrap_or(0);
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
