//! Folding one task's elements: rows over lanes, or columns side by side.

use super::{COLUMNS, number::Number};
use crate::{
    elementwise::operand::Operand,
    isa::{self, Isa, Kernel, Machine},
    nest::Nest,
};
use std::ops::Range;

/// Elements of a block of a row.
const BLOCK: usize = 2048;
/// Accumulators of a row: four AVX-512 registers of f32, so that additions don't wait for each other.
const LANES: usize = 64;
/// Rows of a block of columns.
pub(super) const ROWS: usize = 32;

/// Receives each result: its number in the order of the nest, its offset in the destination, its state.
pub(super) type Emit<'a, S> = dyn Fn(usize, isize, S) + 'a;

/// A way to fold elements into one value.
pub(super) trait Fold<L: Number>: 'static {
    /// What is known of the elements so far.
    type State: Copy + Send + Sync;
    fn nothing() -> Self::State;
    /// States of elements and of those that follow them.
    fn merge(a: Self::State, b: Self::State) -> Self::State;
    fn result(state: Self::State) -> L::Wide;
    /// The state of at least one element.
    fn row<M: Machine>(x: &[L]) -> Self::State;
    /// Merges up to [`ROWS`] rows, as long as `states`, into the states of their columns.
    fn columns<M: Machine>(rows: &[&[L]], states: &mut [Self::State]);
}

/// A fold whose state is one value: an associative operation with a neutral element.
trait Monoid<L: Number>: 'static {
    const NEUTRAL: L;
    fn combine(a: L, b: L) -> L;
    const WIDE_NEUTRAL: L::Wide;
    fn combine_wide(a: L::Wide, b: L::Wide) -> L::Wide;
}

macro_rules! monoid {
    ($name:ident, $neutral:ident, $combine:ident) => {
        pub(super) struct $name;
        impl<L: Number> Monoid<L> for $name {
            const NEUTRAL: L = L::$neutral;
            const WIDE_NEUTRAL: L::Wide = <L::Wide as Number>::$neutral;
            #[inline(always)]
            fn combine(a: L, b: L) -> L {
                L::$combine(a, b)
            }
            #[inline(always)]
            fn combine_wide(a: L::Wide, b: L::Wide) -> L::Wide {
                <L::Wide as Number>::$combine(a, b)
            }
        }
        impl<L: Number> Fold<L> for $name {
            type State = L::Wide;
            #[inline(always)]
            fn nothing() -> L::Wide {
                <Self as Monoid<L>>::WIDE_NEUTRAL
            }
            #[inline(always)]
            fn merge(a: L::Wide, b: L::Wide) -> L::Wide {
                <Self as Monoid<L>>::combine_wide(a, b)
            }
            #[inline(always)]
            fn result(state: L::Wide) -> L::Wide {
                state
            }
            #[inline(always)]
            fn row<M: Machine>(x: &[L]) -> L::Wide {
                fold_row::<Self, L>(x).wide()
            }
            #[inline(always)]
            fn columns<M: Machine>(rows: &[&[L]], states: &mut [L::Wide]) {
                fold_columns::<Self, L>(rows, states);
            }
        }
    };
}
monoid!(Sum, ZERO, add);
monoid!(Product, ONE, mul);
monoid!(Greatest, LOWEST, max);
monoid!(Smallest, GREATEST, min);

/// Σ over lanes: element i goes to lane i mod 64, and lanes are combined in halves.
#[inline(always)]
fn fold_row<F: Monoid<L>, L: Number>(x: &[L]) -> L {
    if x.len() < LANES {
        let mut all = F::NEUTRAL;
        for &x in x {
            all = F::combine(all, x);
        }
        return all;
    }
    let mut lanes = [F::NEUTRAL; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for i in 0..LANES {
            lanes[i] = F::combine(lanes[i], chunk[i]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = F::combine(*lane, x);
    }
    combine_lanes::<F, L>(lanes)
}

#[inline(always)]
fn combine_lanes<F: Monoid<L>, L: Number>(mut lanes: [L; LANES]) -> L {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = F::combine(lanes[i], lanes[half + i]);
        }
        half /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn fold_columns<F: Monoid<L>, L: Number>(rows: &[&[L]], states: &mut [L::Wide]) {
    let mut sums = [F::NEUTRAL; COLUMNS];
    let sums = &mut sums[..states.len()];
    for row in rows {
        for (sum, &x) in sums.iter_mut().zip(*row) {
            *sum = F::combine(*sum, x);
        }
    }
    for (state, sum) in states.iter_mut().zip(sums) {
        *state = F::combine_wide(*state, sum.wide());
    }
}

/// Σ (x − mean)², floats only.
pub(super) struct Variance;

/// Count, mean and squared deviations from the mean.
#[derive(Clone, Copy)]
pub(super) struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// From sums of deviations, and of their squares, from a number near the mean.
    #[inline(always)]
    fn around(pivot: f64, count: f64, sum: f64, squares: f64) -> Moments {
        let shift = sum / count;
        // What rounding leaves below zero is nothing; NaN passes.
        let rest = squares - sum * shift;
        Moments { count, mean: pivot + shift, squares: if rest < 0.0 { 0.0 } else { rest } }
    }

    #[inline(always)]
    fn merge(a: Moments, b: Moments) -> Moments {
        if a.count == 0.0 {
            return b;
        }
        let (count, delta) = (a.count + b.count, b.mean - a.mean);
        let share = b.count / count;
        Moments {
            count,
            mean: a.mean + delta * share,
            squares: a.squares + b.squares + delta * delta * share * a.count,
        }
    }
}

impl<L: Number<Wide = f64>> Fold<L> for Variance {
    type State = Moments;

    fn nothing() -> Moments {
        Moments { count: 0.0, mean: 0.0, squares: 0.0 }
    }
    #[inline(always)]
    fn merge(a: Moments, b: Moments) -> Moments {
        if b.count == 0.0 { a } else { Moments::merge(a, b) }
    }
    fn result(state: Moments) -> f64 {
        state.squares
    }

    #[inline(always)]
    fn row<M: Machine>(x: &[L]) -> Moments {
        let pivot = fold_row::<Sum, L>(x).over(x.len());
        let (mut sums, mut squares) = ([L::ZERO; LANES], [L::ZERO; LANES]);
        for chunk in x.chunks(LANES) {
            for ((&x, sum), square) in chunk.iter().zip(&mut sums).zip(&mut squares) {
                let d = x.sub(pivot);
                *sum = sum.add(d);
                *square = square.add_product::<M>(d, d);
            }
        }
        let (sum, squares) = (combine_lanes::<Sum, L>(sums), combine_lanes::<Sum, L>(squares));
        Moments::around(pivot.wide(), x.len() as f64, sum.wide(), squares.wide())
    }

    #[inline(always)]
    fn columns<M: Machine>(rows: &[&[L]], states: &mut [Moments]) {
        let (mut pivots, mut sums, mut squares) = ([L::ZERO; COLUMNS], [L::ZERO; COLUMNS], [L::ZERO; COLUMNS]);
        let width = states.len();
        let (pivots, sums, squares) = (&mut pivots[..width], &mut sums[..width], &mut squares[..width]);
        for row in rows {
            for (pivot, &x) in pivots.iter_mut().zip(*row) {
                *pivot = pivot.add(x);
            }
        }
        for pivot in pivots.iter_mut() {
            *pivot = pivot.over(rows.len());
        }
        for row in rows {
            for (((&x, &mut pivot), sum), square) in row.iter().zip(&mut *pivots).zip(&mut *sums).zip(&mut *squares) {
                let d = x.sub(pivot);
                *sum = sum.add(d);
                *square = square.add_product::<M>(d, d);
            }
        }
        for (i, state) in states.iter_mut().enumerate() {
            let block = Moments::around(pivots[i].wide(), rows.len() as f64, sums[i].wide(), squares[i].wide());
            *state = Moments::merge(*state, block);
        }
    }
}

/// The extreme of a block, for who looks for its position.
pub(super) struct Extreme<'a, L> {
    pub(super) block: &'a [L],
    pub(super) greatest: bool,
}

impl<L: Number> Kernel for Extreme<'_, L> {
    type Output = L;
    #[inline(always)]
    fn run<M: Machine>(self) -> L {
        match self.greatest {
            true => fold_row::<Greatest, L>(self.block),
            false => fold_row::<Smallest, L>(self.block),
        }
    }
}

/// Folds the elements `part` of the results `units`, which for columns lie in one run of at most [`COLUMNS`].
pub(super) fn task<F: Fold<L>, L: Number>(
    isa: Isa,
    x: Operand,
    kept: &Nest<2>,
    reduced: &Nest<1>,
    columns: bool,
    units: Range<usize>,
    part: Range<usize>,
    emit: &Emit<F::State>,
) {
    let task = Task { isa, x, kept, reduced, units, part, emit };
    if columns { isa::run(isa, Columns::<F, L>(task)) } else { isa::run(isa, Rows::<F, L>(task)) }
}

struct Task<'a, S> {
    isa: Isa,
    x: Operand<'a>,
    kept: &'a Nest<2>,
    reduced: &'a Nest<1>,
    units: Range<usize>,
    part: Range<usize>,
    emit: &'a Emit<'a, S>,
}

struct Rows<'a, F: Fold<L>, L: Number>(Task<'a, F::State>);

impl<F: Fold<L>, L: Number> Kernel for Rows<'_, F, L> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Task { isa, x, kept, reduced, units, part, emit } = self.0;
        let mut result = units.start;
        let mut buffer = [L::default(); BLOCK];
        // Mostly there is one reduced axis; short rows should not pay for a nest each.
        let single = (reduced.axes().len() == 1).then(|| reduced.axes().next()).flatten();
        for results in kept.runs(units) {
            for i in 0..results.len {
                let [base, out] = results.at(i);
                let mut state = F::nothing();
                match single {
                    Some((_, [stride])) => {
                        let at = base + part.start as isize * stride;
                        state = fold_run::<F, L, M>(isa, x, at, stride, part.len(), &mut buffer, state);
                    }
                    None => {
                        for run in reduced.runs(part.clone()) {
                            let at = base + run.offsets[0];
                            state = fold_run::<F, L, M>(isa, x, at, run.strides[0], run.len, &mut buffer, state);
                        }
                    }
                }
                emit(result, out, state);
                result += 1;
            }
        }
    }
}

/// Folds `len` elements, which must be some of x.
#[inline(always)]
fn fold_run<F: Fold<L>, L: Number, M: Machine>(
    isa: Isa,
    x: Operand,
    at: isize,
    stride: isize,
    len: usize,
    buffer: &mut [L; BLOCK],
    mut state: F::State,
) -> F::State {
    for start in (0..len).step_by(BLOCK) {
        let at = at + start as isize * stride;
        // SAFETY: an index of the kept axes and one of the reduced axes are an index of x.
        let block = unsafe { slice(isa, x, at, stride, BLOCK.min(len - start), buffer) };
        state = F::merge(state, F::row::<M>(block));
    }
    state
}

/// Elements where they lie, or in the buffer, which must have room for them.
///
/// # Safety
///
/// The elements must lie within x's layout.
#[inline(always)]
pub(super) unsafe fn slice<'a, L: Number>(
    isa: Isa,
    x: Operand<'a>,
    at: isize,
    stride: isize,
    len: usize,
    buffer: &'a mut [L],
) -> &'a [L] {
    // SAFETY: the caller's promise.
    unsafe {
        if stride == 1 && L::holds(x.dtype) {
            return std::slice::from_raw_parts(x.at(at), len);
        }
        L::load(isa, x, at, stride, &mut buffer[..len]);
    }
    &buffer[..len]
}

struct Columns<'a, F: Fold<L>, L: Number>(Task<'a, F::State>);

impl<F: Fold<L>, L: Number> Kernel for Columns<'_, F, L> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Task { isa, x, kept, reduced, units, part, emit } = self.0;
        let first = units.start;
        for results in kept.runs(units) {
            let mut states = [F::nothing(); COLUMNS];
            let states = &mut states[..results.len];
            let mut block = Block::<L> { buffers: [[L::default(); COLUMNS]; ROWS], starts: [0; ROWS], rows: 0 };
            for run in reduced.runs(part.clone()) {
                for i in 0..run.len {
                    block.starts[block.rows] = results.offsets[0] + run.at(i)[0];
                    block.rows += 1;
                    if block.rows == ROWS {
                        block.fold::<F, M>(isa, x, states);
                    }
                }
            }
            if block.rows > 0 {
                block.fold::<F, M>(isa, x, states);
            }
            for (i, state) in states.iter().enumerate() {
                emit(first + i, results.at(i)[1], *state);
            }
        }
    }
}

/// Rows that wait to be folded together.
struct Block<L> {
    buffers: [[L; COLUMNS]; ROWS],
    starts: [isize; ROWS],
    rows: usize,
}

impl<L: Number> Block<L> {
    #[inline(always)]
    fn fold<F: Fold<L>, M: Machine>(&mut self, isa: Isa, x: Operand, states: &mut [F::State]) {
        let width = states.len();
        let empty: &[L] = &[];
        let mut rows = [empty; ROWS];
        for ((row, &at), buffer) in rows.iter_mut().zip(&self.starts[..self.rows]).zip(&mut self.buffers) {
            // SAFETY: the row's first element is one of x, and the columns follow it with stride 1.
            *row = unsafe { slice(isa, x, at, 1, width, buffer) };
        }
        F::columns::<M>(&rows[..self.rows], states);
        self.rows = 0;
    }
}
