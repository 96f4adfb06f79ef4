//! Statistics of each row of weights, beside the output and without a second pass.
//!
//! ```text
//! e_s = exp(x_s − m)     l = Σ e     E = Σ e · (x − m)     W = Σ e · w_s                 of the keys so far
//! m' > m                 E = exp(m − m') · (E + (m − m') · l)                    W = exp(m − m') · W
//! at the end             entropy = ln l − E / l     mean of w = W / l     greatest weight = 1 / l
//! ```
//!
//! w is a distance, or 1 for some keys and 0 for the others. Only what is asked for is computed: E and distances that are linear in
//! the columns within the loop of the exponentials, sums over whole rows in one more loop, those over a few columns by themselves.
//! Sums over whole rows stay in lanes until the end.
//!
//! Scores, and with them m and E, are in the problem's unit until the end. Weights and their sum are those of the plain forward,
//! operation by operation.

use super::{
    modifier::Row,
    problem::{OP, Problem, table},
    scores::weights,
};
use crate::{
    CpuBackend,
    isa::{self, Kernel, Machine},
    math::{Real, exp, exp2_below_zero, log},
    matmul::element::{Element, Sum},
    rows::{LANES, blocks, greatest as greatest_of, put, sum, take},
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
    lanes: Lanes,
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

/// Where sums over whole rows begin among the numbers of a row, of those that are kept.
#[derive(Clone, Copy, Default)]
struct Lanes {
    energy: Option<usize>,
    distance: Option<usize>,
    log_distance: Option<usize>,
    duplicate: Option<usize>,
    induction: Option<usize>,
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
            lanes: Lanes::default(),
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
        let place = |kept: Kept| statistics.kept.iter().find(|(other, _)| *other == kept).map(|(_, place)| *place);
        statistics.lanes = Lanes {
            energy: place(Kept::Energy),
            distance: place(Kept::Distance),
            log_distance: place(Kept::LogDistance),
            duplicate: place(Kept::Duplicate),
            induction: place(Kept::Induction),
        };
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
    #[inline(always)]
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
    #[inline(always)]
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

    /// Takes in a block of scores, of which `greatest` is the first greatest, and writes their exponentials over them.
    /// Returns the sum of these. `m` and `l` are as before the block, `base` is the maximum with it, `position` the query's.
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
        [m, l, base]: [A; 3],
        greatest: A,
        position: isize,
    ) -> A {
        let (statistics, numbers) = (self.statistics, self.row(i));
        let (lanes, from) = (statistics.lanes, [base, statistics.unit]);
        let side = lanes.distance.and_then(|_| Side::of(row, position));
        let mut sums = [[A::ZERO; LANES]; 2];
        // SAFETY: the caller's promise, for all numbers of the row; tables and tokens have the row's columns.
        unsafe {
            if greatest > m {
                self.rise::<M>(numbers, scores, row, [m, l, base], greatest);
            }
            let total = match (lanes.energy, side) {
                (None, None) => weights::<M, A>(scores, base, statistics.unit, row.columns),
                (Some(place), None) => {
                    let to = numbers.add(place);
                    exponentials::<M, A, true, false>(scores, from, row.columns, to, &mut sums, (0, 0.0))
                }
                (Some(place), Some(side)) => {
                    let to = numbers.add(place);
                    exponentials::<M, A, true, true>(scores, from, row.columns, to, &mut sums, side.blocks())
                }
                (None, Some(side)) => {
                    let nothing = std::ptr::null_mut();
                    exponentials::<M, A, false, true>(scores, from, row.columns, nothing, &mut sums, side.blocks())
                }
            };
            let weights = scores.cast_const();
            match (lanes.distance, side) {
                (Some(place), Some(side)) => side.add::<M, A>(&sums, numbers.add(place)),
                (Some(place), None) => {
                    let nothing = [Matching::nothing(), Matching::nothing()];
                    let factors = (statistics.from(&statistics.distances, row), numbers.add(place));
                    along::<M, A, true, false, false>(weights, row.columns, factors, nothing);
                }
                (None, _) => {}
            }
            if lanes.log_distance.is_some() || lanes.duplicate.is_some() || lanes.induction.is_some() {
                self.along::<M>(numbers, weights, row, position);
            }
            for &(kept, place) in &statistics.kept {
                let to = numbers.add(place);
                match kept {
                    Kept::First(keys) => *to += total_of(weights, keys.saturating_sub(row.key).min(row.columns)),
                    Kept::At(distance) => {
                        let column = position + distance - row.key as isize;
                        if (0..row.columns as isize).contains(&column) {
                            *to += *weights.offset(column);
                        }
                    }
                    _ => {}
                }
            }
            total
        }
    }

    /// Sums over whole rows that share a loop.
    ///
    /// # Safety
    ///
    /// As above.
    #[inline(always)]
    unsafe fn along<M: Machine>(&self, numbers: *mut A, weights: *const A, row: Row, position: isize) {
        let Statistics { lanes, logs, tokens, queries, .. } = self.statistics;
        // Columns of keys before a position.
        let before = |end: isize| (end - row.key as isize).clamp(0, row.columns as isize) as usize;
        let matching = |place: Option<usize>, of: &[Block], end: isize| match place {
            None => Matching::nothing(),
            Some(place) => {
                let (token, tokens) = tokens.of(of, row, *queries);
                Matching { token, tokens, end: before(end), to: numbers.wrapping_add(place) }
            }
        };
        let both = [
            matching(lanes.duplicate, &tokens.keys, position),
            matching(lanes.induction, &tokens.before, position + 1),
        ];
        let factors = match lanes.log_distance {
            None => (std::ptr::null(), std::ptr::null_mut()),
            Some(place) => (self.statistics.from(logs, row), numbers.wrapping_add(place)),
        };
        let asked = (lanes.log_distance.is_some(), lanes.duplicate.is_some(), lanes.induction.is_some());
        // SAFETY: the caller's promise; what is asked for is there.
        unsafe {
            match asked {
                (true, true, true) => along::<M, A, true, true, true>(weights, row.columns, factors, both),
                (true, true, false) => along::<M, A, true, true, false>(weights, row.columns, factors, both),
                (true, false, true) => along::<M, A, true, false, true>(weights, row.columns, factors, both),
                (true, false, false) => along::<M, A, true, false, false>(weights, row.columns, factors, both),
                (false, true, true) => along::<M, A, false, true, true>(weights, row.columns, factors, both),
                (false, true, false) => along::<M, A, false, true, false>(weights, row.columns, factors, both),
                (false, false, true) => along::<M, A, false, false, true>(weights, row.columns, factors, both),
                (false, false, false) => {}
            }
        }
    }

    /// What a new maximum makes of sums so far.
    ///
    /// # Safety
    ///
    /// As above.
    #[inline(always)]
    unsafe fn rise<M: Machine>(&self, numbers: *mut A, scores: *const A, row: Row, [m, l, base]: [A; 3], greatest: A) {
        let unit = self.statistics.unit;
        let shrink = exp2_below_zero::<M, A>(m - base, unit);
        for &(kept, place) in &self.statistics.kept {
            // SAFETY: the caller's promise.
            unsafe {
                let to = numbers.add(place);
                if kept == Kept::ArgMax {
                    *to = A::from_f64((row.key + first_of(scores, row.columns, greatest)) as f64);
                } else if l > A::ZERO {
                    if kept == Kept::Energy {
                        *to += bounded(m - base, unit) * l;
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

    /// Makes statistics of what was kept of a row; 0 of one without weights.
    ///
    /// # Safety
    ///
    /// As above.
    #[inline(always)]
    pub(super) unsafe fn finish<M: Machine>(&self, i: usize, l: A) {
        for (which, &(statistic, place)) in self.statistics.asked.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let numbers = self.row(i).add(place).cast_const();
                let in_lanes = || sum(take(numbers, LANES, A::ZERO)) / l;
                let entropy = || log::<M, A>(l) - self.statistics.nats * in_lanes();
                *self.results(which).add(i) = match statistic {
                    _ if l == A::ZERO => A::ZERO,
                    Statistic::Entropy => entropy(),
                    Statistic::EffectiveKeys => exp::<M, A>(entropy()),
                    Statistic::MaxWeight => A::ONE / l,
                    Statistic::ArgMax => *numbers,
                    Statistic::MeanDistance
                    | Statistic::MeanLogDistance
                    | Statistic::DuplicateMass
                    | Statistic::InductionMass => in_lanes(),
                    Statistic::SinkMass(_) | Statistic::SelfMass | Statistic::PreviousMass | Statistic::NextMass => {
                        *numbers / l
                    }
                };
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

/// A distance below the maximum, as far as it matters: its exponential is 0 long before, and 0 · −∞ shall be 0.
#[inline(always)]
fn bounded<A: Real>(below: A, unit: A) -> A {
    let lowest = A::from_f64(-1e4) / unit;
    if below < lowest { lowest } else { below }
}

/// Where all keys of a block stand on one side of a query, its distances are linear in the columns, and none has to be read:
///
/// ```text
/// column = 32 · block + lane      Σ e · |distance| = Σ_lane |distance of the lane in the nearest block| · Σ_block e
///                                                  + 32 · Σ_lane Σ_block e · (blocks between it and the nearest)
/// ```
///
/// All terms are positive: nothing cancels.
#[derive(Clone, Copy)]
struct Side {
    /// Distance of lane 0 in the nearest block.
    nearest: isize,
    /// Blocks between the first one and the nearest; 0 where keys stand behind the query.
    first: usize,
    /// From lane to lane, and from block to block.
    step: f64,
}

impl Side {
    #[inline(always)]
    fn of(row: Row, position: isize) -> Option<Side> {
        let blocks = row.columns.div_ceil(LANES);
        let (behind, before) = (row.key as isize - position, position - (row.key + blocks * LANES) as isize + 1);
        match () {
            () if behind >= 0 => Some(Side { nearest: behind, first: 0, step: 1.0 }),
            () if before >= 0 => Some(Side { nearest: before + LANES as isize - 1, first: blocks - 1, step: -1.0 }),
            () => None,
        }
    }

    /// Blocks between the first one and the nearest, and what each one adds to that.
    fn blocks(self) -> (usize, f64) {
        (self.first, self.step)
    }

    /// Adds distances to lanes, from `Σ_block e` and the same of blocks between.
    ///
    /// # Safety
    ///
    /// There are [`LANES`] lanes.
    #[inline(always)]
    unsafe fn add<M: Machine, A: Real>(self, [sums, of_blocks]: &[[A; LANES]; 2], to: *mut A) {
        // SAFETY: the caller's promise.
        let mut all = unsafe { take(to.cast_const(), LANES, A::ZERO) };
        let nearest = A::from_f64(self.nearest as f64);
        for l in 0..LANES {
            let distance = nearest + A::from_f64(self.step * l as f64);
            let between = A::mul_add::<M>(of_blocks[l], A::from_f64(LANES as f64), all[l]);
            all[l] = A::mul_add::<M>(sums[l], distance, between);
        }
        // SAFETY: the caller's promise.
        unsafe { put(all, to, LANES) };
    }
}

/// [`weights`], which adds `Σ e · (x − m)` to lanes with `ENERGY`; with `BLOCKS` it leaves `Σ e` in lanes, and `Σ e · b` of
/// blocks that are numbered from `first` on in steps.
///
/// # Safety
///
/// The row has `columns` elements, none above m; there are [`LANES`] lanes to add to.
#[inline(always)]
unsafe fn exponentials<M: Machine, A: Real, const ENERGY: bool, const BLOCKS: bool>(
    row: *mut A,
    [m, unit]: [A; 2],
    columns: usize,
    to: *mut A,
    [all, of_blocks]: &mut [[A; LANES]; 2],
    (first, step): (usize, f64),
) -> A {
    let (mut sums, mut energies) = ([A::ZERO; LANES], [A::ZERO; LANES]);
    let mut by_block = [A::ZERO; LANES];
    let (mut block_number, step) = (A::from_f64(first as f64), A::from_f64(step));
    if ENERGY {
        // SAFETY: the caller's promise, here and below.
        energies = unsafe { take(to.cast_const(), LANES, A::ZERO) };
    }
    blocks!(columns, |at, len| {
        // SAFETY: as above.
        let mut block = unsafe { take(row.add(at).cast_const(), len, A::NEG_INFINITY) };
        for l in 0..LANES {
            let below = block[l] - m;
            block[l] = exp2_below_zero::<M, A>(below, unit);
            sums[l] += block[l];
            if ENERGY {
                energies[l] = A::mul_add::<M>(block[l], bounded(below, unit), energies[l]);
            }
            if BLOCKS {
                by_block[l] = A::mul_add::<M>(block[l], block_number, by_block[l]);
            }
        }
        block_number += step;
        // SAFETY: as above.
        unsafe { put(block, row.add(at), len) };
    });
    if ENERGY {
        // SAFETY: as above.
        unsafe { put(energies, to, LANES) };
    }
    if BLOCKS {
        (*all, *of_blocks) = (sums, by_block);
    }
    sum(sums)
}

/// Lanes to which the weights of the first columns with a token are added.
#[derive(Clone, Copy)]
struct Matching<A> {
    token: u32,
    /// Of the columns, with room for whole blocks.
    tokens: *const u32,
    /// The first column that does not count.
    end: usize,
    to: *mut A,
}

impl<A: Real> Matching<A> {
    fn nothing() -> Matching<A> {
        Matching { token: NO_TOKEN, tokens: std::ptr::null(), end: 0, to: std::ptr::null_mut() }
    }

    /// Adds a block.
    ///
    /// # Safety
    ///
    /// There are tokens of it.
    #[inline(always)]
    unsafe fn add(&self, e: &[A; LANES], at: usize, sums: &mut [A; LANES]) {
        // SAFETY: the caller's promise.
        let tokens = unsafe { take(self.tokens.add(at), LANES, NO_TOKEN) };
        let left = self.end.saturating_sub(at) as u32;
        for l in 0..LANES {
            let counts = tokens[l] == self.token && (l as u32) < left;
            sums[l] += if counts { e[l] } else { A::ZERO };
        }
    }
}

/// Adds to lanes, in one loop over the weights: `Σ e · w` with `FACTORS`, and the weights of columns with a token.
///
/// # Safety
///
/// What the parameters ask for is there: factors and tokens of the columns, and [`LANES`] lanes.
#[inline(always)]
unsafe fn along<M: Machine, A: Real, const FACTORS: bool, const FIRST: bool, const SECOND: bool>(
    weights: *const A,
    columns: usize,
    (factors, to): (*const A, *mut A),
    [first, second]: [Matching<A>; 2],
) {
    let [mut weighted, mut firsts, mut seconds] = [[A::ZERO; LANES]; 3];
    // SAFETY: the caller's promise, here and below.
    unsafe {
        if FACTORS {
            weighted = take(to.cast_const(), LANES, A::ZERO);
        }
        if FIRST {
            firsts = take(first.to.cast_const(), LANES, A::ZERO);
        }
        if SECOND {
            seconds = take(second.to.cast_const(), LANES, A::ZERO);
        }
    }
    blocks!(columns, |at, len| {
        // SAFETY: as above.
        unsafe {
            let e = take(weights.add(at), len, A::ZERO);
            if FACTORS {
                let w = take(factors.add(at), len, A::ZERO);
                for l in 0..LANES {
                    weighted[l] = A::mul_add::<M>(e[l], w[l], weighted[l]);
                }
            }
            if FIRST {
                first.add(&e, at, &mut firsts);
            }
            if SECOND {
                second.add(&e, at, &mut seconds);
            }
        }
    });
    // SAFETY: as above.
    unsafe {
        if FACTORS {
            put(weighted, to, LANES);
        }
        if FIRST {
            put(firsts, first.to, LANES);
        }
        if SECOND {
            put(seconds, second.to, LANES);
        }
    }
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
    // Places below 0, of which the first is the greatest, as numbers of the scores' type: small, and so exact.
    let mut places = [A::NEG_INFINITY; LANES];
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let block = unsafe { take(scores.add(at), len, A::NEG_INFINITY) };
        let start = A::from_f64(-(at as f64));
        for l in 0..LANES {
            let place = if block[l] < greatest { A::NEG_INFINITY } else { start - A::from_f64(l as f64) };
            places[l] = if place > places[l] { place } else { places[l] };
        }
    });
    (-greatest_of(places).to_f64()) as usize
}
