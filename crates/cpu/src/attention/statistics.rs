//! Statistics of each row of weights, beside the output and without a second pass.
//!
//! ```text
//! e_s = exp(x_s − m)     l = Σ e     E = Σ e · (x − m)     W = Σ e · w_s                 of the keys so far
//! m' > m                 E = exp(m − m') · (E + (m − m') · l)                    W = exp(m − m') · W
//! at the end             entropy = ln l − E / l     mean of w = W / l     greatest weight = 1 / l
//! ```
//!
//! w is a distance or its logarithm, or 1 for some keys and 0 for the others. Only what is asked for is computed: E within the
//! loop of the exponentials, and with it logarithms from a table that rows read at different places, and distances of keys on
//! one side of the query; duplicate and induction mass in one loop over the keys' tokens; each other W in a short loop over the
//! columns that it is about.
//! Sums over whole rows stay in lanes until the end.
//!
//! Scores, and with them m and E, are in the problem's unit until the end. Weights and their sum are those of the plain forward,
//! operation by operation.

mod sums;
mod tokens;

pub(super) use sums::total_of;

use super::{
    modifier::Row,
    online::ROWS,
    problem::{OP, Problem},
    weights::weights,
};
use crate::{
    CpuBackend,
    isa::{self, Kernel, Machine},
    math::{Real, exp, log},
    matmul::element::{Element, Sum},
    rows::{LANES, sum, take},
    softmax::scale_row,
};
use attentia_backend::{Error, ErrorKind, Result, Statistic, TokenIds};
use sums::{Energies, OneSided, Sums, bounded, first_of};
use tokens::Tokens;

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
    /// Where E begins; W of distances and of their logarithms; W of what tokens select; and the key of the maximum.
    energy: Option<usize>,
    distance: Option<usize>,
    log: Option<usize>,
    duplicate: Option<usize>,
    induction: Option<usize>,
    arg_max: Option<usize>,
    /// Whether any other W is kept, or that of logarithms without E.
    has_sums: bool,
    /// Numbers that are sums of exponentials, before those that are not; and all that are kept of a row.
    sums: usize,
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

impl<A: Sum> Statistics<A> {
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
            log: None,
            duplicate: None,
            induction: None,
            arg_max: None,
            sums: 0,
            has_sums: false,
            each: 0,
            distances: Vec::new(),
            logs: Vec::new(),
            tokens: tokens.map_or(Ok(Tokens::default()), |tokens| Tokens::new(problem, tokens))?,
            queries: problem.queries,
            unit: problem.bits(),
            nats: A::from_f64(problem.nats()),
        };
        // Lanes first, so that all of them are aligned; what is no sum last.
        let wanted: Vec<Kept> = asked.iter().map(|&statistic| Kept::of(statistic)).collect();
        for len in [LANES, 1] {
            for &kept in wanted.iter().filter(|kept| kept.len() == len && **kept != Kept::ArgMax) {
                statistics.place_of(kept);
            }
        }
        statistics.sums = statistics.each;
        statistics.asked = asked.iter().map(|&s| (s, statistics.place_of(Kept::of(s)))).collect();
        statistics.each = statistics.each.next_multiple_of(LANES);
        statistics.has_sums = statistics.kept.iter().any(|(kept, _)| match kept {
            Kept::Energy | Kept::Distance | Kept::ArgMax | Kept::Nothing => false,
            Kept::LogDistance => statistics.energy.is_none(),
            _ => true,
        });
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
            Kept::LogDistance => self.log = Some(place),
            Kept::Duplicate => self.duplicate = Some(place),
            Kept::Induction => self.induction = Some(place),
            Kept::ArgMax => self.arg_max = Some(place),
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
            let (columns, unit) = (row.columns, statistics.unit);
            let side = statistics.distance.and_then(|place| Some((OneSided::of(row, position)?, numbers.add(place))));
            match statistics.energy.map(|place| numbers.add(place)) {
                Some(energies) => {
                    let logs = statistics.log.map(|place| (statistics.from(&statistics.logs, row), numbers.add(place)));
                    Energies { row: scores, columns, m: base, unit, total, energies, logs, side }.add::<M>();
                }
                None => weights::<M, A>(scores, base, unit, columns, total),
            }
            let is_counted = statistics.energy.is_some() && side.is_some();
            if statistics.has_sums || (statistics.distance.is_some() && !is_counted) {
                // A function of its own: what all its loops need at hand would not leave enough registers to the one above.
                isa::run(M::ISA, Sums { statistics, numbers, weights: scores.cast_const(), row, position, is_counted });
            }
        }
    }

    /// Takes in that a row's greatest score so far is one of these.
    ///
    /// # Safety
    ///
    /// As above; and `scores` has the row's columns.
    #[inline(always)]
    pub(super) unsafe fn find(&self, i: usize, scores: *const A, row: Row, greatest: A) {
        if let Some(place) = self.statistics.arg_max {
            // SAFETY: the caller's promise.
            unsafe {
                *self.row(i).add(place) = A::from_f64((row.key + first_of(scores, row.columns, greatest)) as f64)
            };
        }
    }

    /// What a new maximum, `greatest`, makes of sums so far, whose exponentials become `shrink` times as large. `m` and `l`
    /// are as before the block.
    ///
    /// # Safety
    ///
    /// As above.
    #[inline(always)]
    pub(super) unsafe fn rise(&self, i: usize, [m, l, greatest]: [A; 3], shrink: A) {
        if l > A::ZERO {
            let (statistics, numbers) = (self.statistics, self.row(i));
            // SAFETY: the caller's promise.
            unsafe {
                if let Some(place) = statistics.energy {
                    *numbers.add(place) += bounded(m - greatest, statistics.unit) * l;
                }
                scale_row(numbers, shrink, statistics.sums);
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
        let (statistics, numbers) = (self.statistics, [self.row(i), later.row(i)]);
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(place) = statistics.energy {
                for (n, row) in numbers.into_iter().enumerate() {
                    *row.add(place) += bounded(m[n] - base, statistics.unit) * l[n];
                }
            }
            let [to, from] = numbers;
            (0..statistics.sums).for_each(|j| *to.add(j) = *to.add(j) * factors[0] + *from.add(j) * factors[1]);
            if let (Some(place), true) = (statistics.arg_max, m[1] > m[0]) {
                *to.add(place) = *from.add(place);
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
