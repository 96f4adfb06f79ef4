//! What sums start from, and what becomes of them before they are written.
//!
//! ```text
//! s = start + a · b          start: a bias, or what the destination holds; the micro-kernels begin with it where they can
//! s = f(s)  or  s · f'(x)
//! s = s + added
//! ```
//!
//! What follows the sums is done by the thread that has computed them, a tile at a time: the micro-kernel writes its rows to
//! a buffer that stays in L1, and a pass over that one writes C. A pass over many rows of C costs more, even while a cache
//! holds them: they lie a whole matrix's width apart, often in one set of L1 (docs/src/measurements.md).

use super::{
    block::{Operand, Target},
    element::Element,
};
use crate::{
    activation::{slopes, values},
    isa::{self, Isa, Kernel, Machine},
    math::Real,
    rows::{LANES, blocks, put, take},
    storage::{Input, Output},
};
use attentia_backend::{Activation, Apply, Result, Source};

/// `apply(start + sum) + added`. Of an operand, lanes are rows of C and steps its columns.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<O> {
    isa: Isa,
    start: Option<Operand<O>>,
    apply: Option<Applied<O>>,
    added: Option<Operand<O>>,
    /// Whether what C holds is added last: then C can't hold sums before.
    reads_target: bool,
}

/// What is applied to a sum: a function, or its slope at x as a factor.
#[derive(Clone, Copy)]
struct Applied<O> {
    f: Activation,
    at: Option<Operand<O>>,
}

impl<O: Element> Epilogue<O> {
    /// Sums are written.
    pub(crate) const NONE: Epilogue<O> =
        Epilogue { isa: Isa::Portable, start: None, apply: None, added: None, reads_target: false };

    /// Sums start from these numbers, such as those of C.
    pub(crate) fn from(start: Option<Operand<O>>) -> Epilogue<O> {
        Epilogue { start, ..Epilogue::NONE }
    }

    /// Of a product to `out`, against which it has been checked; and the strides of its operands, none where there is none.
    pub(crate) fn new<'a>(
        isa: Isa,
        given: attentia_backend::Epilogue<'a>,
        out: &Output<'a, O>,
    ) -> Result<(Epilogue<O>, [&'a [isize]; 3])> {
        let operand = |start: *const O, strides: &[isize]| match strides {
            [.., row, column] => Operand { start, lane: *row, step: *column },
            strides => Operand { start, lane: 0, step: strides.first().copied().unwrap_or(0) },
        };
        let found = |view| Input::<O>::new("matmul", view).map(|x| Some((x.start(), x.layout().strides())));
        let [bias, x, added] = given.views().map(|view| view.map_or(Ok(None), |(_, view)| found(view)));
        let (mut start, x, mut added) = (bias?, x?, added?);
        let accumulates = matches!(given.add, Some(Source::Destination));
        if accumulates {
            added = Some((out.start().cast_const(), out.layout().strides()));
        }
        // What is added to sums alone may come first. Of two, what C holds has to: it is gone when sums are written.
        if given.apply.is_none() && (accumulates || start.is_none()) {
            std::mem::swap(&mut start, &mut added);
        }
        let reads_target = accumulates && given.apply.is_some();
        // A bias is the same for all products of a batch.
        let strides = [start, x, added]
            .map(|of| of.map_or(&[][..], |(_, strides)| if strides.len() > 1 { strides } else { &[] }));
        let [start, at, added] = [start, x, added].map(|of| of.map(|(start, strides)| operand(start, strides)));
        let apply = given.apply.map(|apply| match apply {
            Apply::Value(f) => Applied { f, at: None },
            Apply::Slope(f, _) => Applied { f, at },
        });
        Ok((Epilogue { isa, start, apply, added, reads_target }, strides))
    }

    /// What sums start from, where kernels can begin with it: contiguous rows of sums.
    pub(crate) fn start(&self) -> Option<Operand<O::Sum>> {
        self.start.map(|x| Operand { start: x.start.cast(), lane: x.lane, step: x.step })
    }

    /// Whether C, if it has contiguous rows of sums, may hold them before they are complete, and kernels can start them.
    pub(crate) fn allows_sums(&self) -> bool {
        !self.reads_target && self.start.is_none_or(|x| O::IS_SUM && x.step == 1)
    }

    /// What follows where sums start from other numbers.
    pub(crate) fn starting(self, start: Option<Operand<O>>) -> Epilogue<O> {
        Epilogue { start, ..self }
    }

    /// What follows where sums have been started already.
    pub(crate) fn without_start(self) -> Epilogue<O> {
        self.starting(None)
    }

    /// Whether sums are written as they are.
    pub(crate) fn is_none(&self) -> bool {
        self.start.is_none() && self.only_starts()
    }

    /// Whether it has a start at most.
    pub(crate) fn only_starts(&self) -> bool {
        self.apply.is_none() && self.added.is_none()
    }

    /// The start, x, and what is added.
    pub(crate) fn operands(&self) -> [Option<Operand<O>>; 3] {
        [self.start, self.apply.and_then(|apply| apply.at), self.added]
    }

    /// With other operands; each is given with its place among [`operands`](Self::operands).
    pub(crate) fn map<P>(self, of: impl Fn(Operand<O>, usize) -> Operand<P>) -> Epilogue<P> {
        let [start, at, added] = [0, 1, 2].map(|i| self.operands()[i].map(|x| of(x, i)));
        let apply = self.apply.map(|Applied { f, .. }| Applied { f, at });
        Epilogue { isa: self.isa, start, apply, added, reads_target: self.reads_target }
    }

    /// For the part of C that begins there.
    pub(crate) fn at(self, row: usize, col: usize) -> Epilogue<O> {
        if self.is_none() { self } else { self.map(|x, _| x.at(row, col)) }
    }

    /// For another product of a batch: so many elements further in each operand.
    pub(crate) fn shifted(self, by: [isize; 3]) -> Epilogue<O> {
        self.map(|x, i| Operand { start: x.start.wrapping_offset(by[i]), ..x })
    }

    /// With rows and columns exchanged.
    pub(crate) fn swap(self) -> Epilogue<O> {
        self.map(|x, _| Operand { lane: x.step, step: x.lane, ..x })
    }

    /// For sums that are written as they are: O is the type of sums.
    pub(crate) fn of_sums(self) -> Epilogue<O::Sum> {
        self.map(|x, _| Operand { start: x.start.cast(), lane: x.lane, step: x.step })
    }

    /// Writes what becomes of `m` rows of `n` sums, which lie `pitch` apart, to the first ones of C.
    ///
    /// # Safety
    ///
    /// Sums, operands and C are valid for the extents, nobody else touches C, the processor has the instruction set. C may be
    /// the sums.
    pub(crate) unsafe fn finish<W: Element<Sum = O::Sum>>(
        &self,
        sums: *const O::Sum,
        pitch: isize,
        m: usize,
        n: usize,
        c: Target<W>,
    ) {
        isa::run(self.isa, Finish { epilogue: self, sums, pitch, m, n, c });
    }
}

struct Finish<'a, O: Element, W> {
    epilogue: &'a Epilogue<O>,
    sums: *const O::Sum,
    pitch: isize,
    m: usize,
    n: usize,
    c: Target<W>,
}

impl<O: Element, W: Element<Sum = O::Sum>> Kernel for Finish<'_, O, W> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Finish { epilogue: Epilogue { start, apply, added, .. }, sums, pitch, m, n, c } = self;
        for row in 0..m {
            let sums = sums.wrapping_offset(row as isize * pitch);
            blocks!(n, |col, len| {
                // SAFETY: the caller of `finish` promises the rows and columns of everything.
                unsafe {
                    let mut s = take(sums.wrapping_add(col), len, O::Sum::ZERO);
                    if let Some(start) = start {
                        s = add(s, read(start.at(row, col), len));
                    }
                    s = match apply {
                        Some(Applied { f, at: None }) => values::<M, O::Sum>(*f, s),
                        Some(Applied { f, at: Some(x) }) => slopes::<M, O::Sum>(*f, read(x.at(row, col), len), s),
                        None => s,
                    };
                    if let Some(added) = added {
                        s = add(s, read(added.at(row, col), len));
                    }
                    write(s, len, c.at(row, col));
                }
            });
        }
    }
}

/// `len` columns of a row as sums.
///
/// # Safety
///
/// The operand has them.
#[inline(always)]
unsafe fn read<O: Element>(x: Operand<O>, len: usize) -> [O::Sum; LANES] {
    if O::IS_SUM && x.step == 1 {
        // SAFETY: the caller's promise.
        return unsafe { take(x.start.cast(), len, O::Sum::ZERO) };
    }
    let mut widened = [O::Sum::ZERO; LANES];
    if x.step == 1 && len == LANES {
        // SAFETY: the caller's promise. The compiler knows how many there are, and that they follow each other.
        let row = unsafe { &*x.start.cast::<[O; LANES]>() };
        for l in 0..LANES {
            widened[l] = row[l].widen();
        }
        return widened;
    }
    for (l, sum) in widened[..len].iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *sum = unsafe { *x.start.wrapping_offset(l as isize * x.step) }.widen();
    }
    widened
}

/// Writes `len` columns of a row, rounded.
///
/// # Safety
///
/// C has them.
#[inline(always)]
unsafe fn write<W: Element>(s: [W::Sum; LANES], len: usize, c: Target<W>) {
    // SAFETY: the caller's promise.
    unsafe {
        if W::IS_SUM && c.col == 1 {
            return put(s, c.start.cast(), len);
        }
        let mut rounded = [*c.start; LANES];
        W::narrow(&s[..len], &mut rounded[..len]);
        for (l, x) in rounded[..len].iter().enumerate() {
            *c.start.wrapping_offset(l as isize * c.col) = *x;
        }
    }
}

#[inline(always)]
fn add<S: Real>(mut s: [S; LANES], more: [S; LANES]) -> [S; LANES] {
    for l in 0..LANES {
        s[l] += more[l];
    }
    s
}
