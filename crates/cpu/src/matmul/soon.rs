//! Operands that are read or written soon, prefetched while tiles are computed.
//!
//! What a step of a model reads comes mostly from memory or from another core, which takes as long as a hundred
//! multiply-adds, and rows of a matrix are too short and too far apart for the processor to guess them. The tiles that come
//! before prefetch them, a line in each step, so that they are there when they are packed. It is only a hint: any address will
//! do, and what is still waiting when a task ends is forgotten.

use super::{block::Operand, element::Element, epilogue::Epilogue};
use std::cell::Cell;

/// Bytes of two lines.
const PAIR: usize = 128;

/// Most rows that a tile prefetches two lines of, and how many steps it has to have for each.
const ROWS: usize = 16;
const STEPS: usize = 8;

/// Most operands that wait.
const WAITING: usize = 8;

/// Lines of memory to prefetch: two of a row, and the same two of the rows that follow. Distances in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Lines {
    pub(crate) start: *const i8,
    /// From the first to the second of a row …
    pub(crate) there: isize,
    /// … and from there to the first of the next row.
    pub(crate) back: isize,
    pub(crate) count: usize,
}

impl Lines {
    pub(crate) const NONE: Lines = Lines { start: std::ptr::null(), there: 0, back: 0, count: 0 };

    /// Of so many rows, `pitch` bytes apart, the line of the first byte and the one of the byte `there` further on.
    pub(crate) fn new<S>(start: *const S, there: usize, pitch: isize, rows: usize) -> Lines {
        let there = there as isize;
        Lines { start: start.cast(), there, back: pitch.wrapping_sub(there), count: 2 * rows }
    }
}

/// What a tile prefetches.
pub(super) struct Ahead {
    lines: [Lines; 5],
    count: usize,
}

impl Ahead {
    pub(super) fn nothing() -> Ahead {
        Ahead { lines: [Lines::NONE; 5], count: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.count = 0;
    }

    pub(super) fn lines(&self) -> &[Lines] {
        &self.lines[..self.count]
    }

    /// How many lines these are.
    pub(super) fn all(&self) -> usize {
        self.lines().iter().map(|lines| lines.count).sum()
    }

    pub(super) fn push(&mut self, lines: Lines) {
        if let Some(place) = self.lines.get_mut(self.count) {
            *place = lines;
            self.count += 1;
        }
    }

    /// Adds what is written by a tile of `high` rows and `cols` columns, what its sums start from where that is something else, and
    /// what its end reads.
    pub(super) fn visit<S: Element<Sum = S>>(
        &mut self,
        c: Operand<S>,
        start: Option<Operand<S>>,
        end: Option<Epilogue<S>>,
        [high, cols]: [usize; 2],
    ) {
        let bytes = size_of::<S>();
        let of = |x: Operand<S>| Lines::new(x.start, (cols - 1) * bytes, x.lane.wrapping_mul(bytes as isize), high);
        self.push(of(c));
        // Of one row for all, as a bias is, there is nothing to ask for.
        let is_worth_it = |x: &Operand<S>| x.step == 1 && x.lane != 0 && x.start != c.start;
        if let Some(start) = start.filter(is_worth_it) {
            self.push(of(start));
        }
        if let Some(end) = end {
            let [_, at, added] = end.operands();
            [at, added].into_iter().flatten().filter(is_worth_it).for_each(|x| self.push(of(x)));
        }
    }
}

/// Rows of one operand, pair of lines by pair of lines.
#[derive(Clone, Copy)]
struct Rows {
    start: *const i8,
    pitch: isize,
    rows: usize,
    /// Pairs that are left, and rows of the first of them that have been asked for.
    pairs: usize,
    asked: usize,
}

/// Operands that wait: a stack, the last comes first. One thread's.
pub(crate) struct Soon {
    waiting: [Cell<Rows>; WAITING],
    count: Cell<usize>,
}

impl Soon {
    pub(crate) fn nothing() -> Soon {
        let none = Rows { start: std::ptr::null(), pitch: 0, rows: 0, pairs: 0, asked: 0 };
        Soon { waiting: std::array::from_fn(|_| Cell::new(none)), count: Cell::new(0) }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.count.get()
    }

    /// Forgets all but the first so many.
    pub(crate) fn truncate(&self, len: usize) {
        self.count.set(self.len().min(len));
    }

    /// Pushes so many lanes and steps of an operand. Ignored if neither axis is contiguous, or if [`WAITING`] wait already.
    pub(crate) fn ask<T>(&self, x: Operand<T>, lanes: usize, steps: usize) {
        let (pitch, along, rows) = match (x.lane, x.step) {
            (1, pitch) => (pitch, lanes, steps),
            (pitch, 1) => (pitch, steps, lanes),
            _ => return,
        };
        let (pairs, pitch) = ((along * size_of::<T>()).div_ceil(PAIR), pitch.wrapping_mul(size_of::<T>() as isize));
        if let Some(place) = self.waiting.get(self.count.get()).filter(|_| pairs * rows > 0) {
            place.set(Rows { start: x.start.cast(), pitch, rows, pairs, asked: 0 });
            self.count.set(self.count.get() + 1);
        }
    }

    /// What a tile prefetches that has so many steps to spare.
    pub(crate) fn take(&self, steps: usize) -> Option<Lines> {
        let last = self.count.get().checked_sub(1)?;
        if steps < STEPS {
            return None;
        }
        let mut x = self.waiting[last].get();
        let rows = (steps / STEPS).min(ROWS).min(x.rows - x.asked);
        let start = x.start.wrapping_offset((x.asked as isize).wrapping_mul(x.pitch));
        x.asked += rows;
        if x.asked == x.rows {
            (x.start, x.pairs, x.asked) = (x.start.wrapping_add(PAIR), x.pairs - 1, 0);
        }
        self.waiting[last].set(x);
        if x.pairs == 0 {
            self.count.set(last);
        }
        Some(Lines::new(start, PAIR / 2, x.pitch, rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Every line that tiles of so many steps are given until nothing waits, with how often.
    fn taken(soon: &Soon, steps: usize) -> BTreeMap<usize, usize> {
        let mut lines = BTreeMap::new();
        while let Some(Lines { start, there, back, count }) = soon.take(steps) {
            assert!(count <= steps, "{count} lines in {steps} steps");
            let mut line = start;
            for i in 0..count {
                *lines.entry(line.addr()).or_default() += 1;
                line = line.wrapping_offset(if i % 2 == 0 { there } else { back });
            }
        }
        lines
    }

    #[test]
    fn each_line_of_each_row_is_given_once() {
        let start = std::ptr::without_provenance::<f32>(1 << 20);
        for (lanes, steps) in [(1, 1), (28, 64), (64, 300), (512, 17)] {
            for pitch in [2048, -2048] {
                let by_lanes = Operand { start, lane: 1, step: pitch };
                let by_steps = Operand { start, lane: pitch, step: 1 };
                for (x, along, rows) in [(by_lanes, lanes, steps), (by_steps, steps, lanes)] {
                    let pairs = (along * 4usize).div_ceil(PAIR);
                    let want: BTreeMap<usize, usize> = (0..rows)
                        .flat_map(|row| (0..2 * pairs).map(move |line| (row, line)))
                        .map(|(row, line)| {
                            let offset = row as isize * pitch * 4 + line as isize * 64;
                            (start.wrapping_byte_offset(offset).addr(), 1)
                        })
                        .collect();
                    for tile in [8, 28, 64, 512] {
                        let soon = Soon::nothing();
                        soon.ask(x, lanes, steps);
                        assert_eq!(taken(&soon, tile), want, "{lanes} × {steps}, pitch {pitch}, tiles of {tile}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_last_comes_first_and_what_does_not_fit_is_ignored() {
        let at = |line: usize| Operand { start: std::ptr::without_provenance::<f32>(line * 4096), lane: 1, step: 16 };
        let soon = Soon::nothing();
        assert!(soon.take(512).is_none());
        soon.ask(Operand { lane: 3, ..at(1) }, 8, 8);
        soon.ask(at(1), 0, 8);
        assert_eq!(soon.len(), 0, "neither axis is contiguous, nothing is in it");
        (1..=WAITING + 1).for_each(|line| soon.ask(at(line), 16, 1));
        assert_eq!(soon.len(), WAITING);
        soon.truncate(WAITING - 1);
        assert_eq!(soon.take(STEPS).map(|lines| lines.start.addr()), Some((WAITING - 1) * 4096));
        assert!(soon.take(STEPS - 1).is_none(), "too few steps");
        // A stride of a single row may be anything.
        let extreme = Operand { step: isize::MIN / 4, ..at(9) };
        soon.ask(extreme, 64, 1);
        assert_eq!(soon.take(64).map(|lines| lines.count), Some(2));
    }
}
