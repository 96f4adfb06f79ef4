//! What is read or written soon, and asked for while tiles are computed.
//!
//! Most of what a step of a model reads comes from memory or from another core, which takes as long as a hundred
//! multiply-adds, and rows of a matrix are too short and too far apart for the processor to guess them. Asked for in the
//! tiles before, a line in each step, they are there when they are packed.

use super::block::Operand;
use std::cell::Cell;

/// Bytes of two lines.
const PAIR: usize = 128;

/// Most rows that a tile asks for, and the steps that each takes at least.
const ROWS: usize = 16;
const STEPS: usize = 8;

/// Most operands that wait.
const WAITING: usize = 8;

/// Lines of memory: two of a row, and the same two of the rows that follow. Distances in bytes.
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

    /// Of so many rows, `pitch` bytes apart, the lines of two bytes that are `there` apart.
    pub(crate) fn new<S>(start: *const S, there: usize, pitch: isize, rows: usize) -> Lines {
        let there = there as isize;
        Lines { start: start.cast(), there, back: pitch - there, count: 2 * rows }
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

/// Operands that wait, of which the last comes first. One thread's.
pub(crate) struct Soon {
    waiting: [Cell<Rows>; WAITING],
    count: Cell<usize>,
}

impl Soon {
    pub(crate) fn nothing() -> Soon {
        let none = Rows { start: std::ptr::null(), pitch: 0, rows: 0, pairs: 0, asked: 0 };
        Soon { waiting: std::array::from_fn(|_| Cell::new(none)), count: Cell::new(0) }
    }

    /// Puts lanes and steps first, if one of both is contiguous and there is room: nothing depends on it.
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

    /// What a tile of so many steps asks for.
    pub(crate) fn take(&self, steps: usize) -> Option<Lines> {
        let last = self.count.get().checked_sub(1)?;
        let mut x = self.waiting[last].get();
        let rows = (steps / STEPS).clamp(1, ROWS).min(x.rows - x.asked);
        let start = x.start.wrapping_offset(x.asked as isize * x.pitch);
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
