//! Which placements and shapes meet which dtypes.
//!
//! The full product would be a hundred thousand calls that find nothing new. Instead each dtype sees every shape once
//! and every placement several times, and the pairing moves on from dtype to dtype and from operation to operation; the
//! other operands' placements move on too, at another pace. So every pair of (dtype, shape), (dtype, placement) and
//! (placement, shape) comes up, and so do all pairs of placements of two operands.

use crate::layout::Placement;

/// Shapes around the widths of vectors and tiles, odd primes, and ranks from 1 to 5.
pub const ELEMENTWISE: [&[usize]; 17] = [
    &[2],
    &[17],
    &[64],
    &[65],
    &[127],
    &[3, 15],
    &[7, 16],
    &[2, 33],
    &[5, 63],
    &[13, 32],
    &[31, 7],
    &[2, 3, 31],
    &[3, 1, 17],
    &[4, 16, 5],
    &[2, 3, 5, 7],
    &[2, 1, 3, 2, 4],
    &[1, 65],
];

/// Rows for operations along the last axis: `[rows, width]` and deeper.
pub const ROWS: [&[usize]; 17] = [
    &[2],
    &[65],
    &[3, 2],
    &[2, 3],
    &[5, 7],
    &[4, 15],
    &[3, 16],
    &[2, 17],
    &[7, 31],
    &[3, 32],
    &[5, 33],
    &[2, 63],
    &[3, 64],
    &[2, 129],
    &[2, 3, 13],
    &[2, 2, 3, 5],
    &[31, 1],
];

/// Shapes without an element.
pub const EMPTY: [&[usize]; 4] = [&[0], &[3, 0], &[0, 5], &[2, 0, 3]];
/// Shapes of one element.
pub const ONE: [&[usize]; 3] = [&[], &[1], &[1, 1, 1]];

/// One combination.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Where the first operand lies.
    pub placement: Placement,
    /// The shape.
    pub shape: &'static [usize],
    /// Picks the placements of the other operands.
    pub turn: usize,
}

impl Cell {
    /// `3x65`, or `scalar`.
    pub fn name(&self) -> String {
        name(self.shape)
    }

    /// Placement of the second operand.
    pub fn second(&self) -> Placement {
        self.placement.other(self.turn + self.turn / 5)
    }

    /// Placement of the third operand.
    pub fn third(&self) -> Placement {
        self.placement.other(self.turn * 2 + self.turn / 3 + 1)
    }

    /// Placement of a destination.
    pub fn destination(&self) -> Placement {
        self.placement.destination(self.turn + self.turn / 4)
    }

    /// Placement of one more destination.
    pub fn second_destination(&self) -> Placement {
        self.placement.destination(self.turn + 1 + self.turn / 3)
    }
}

/// A shape as ids write it.
pub fn name(shape: &[usize]) -> String {
    if shape.is_empty() {
        return "scalar".to_owned();
    }
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

/// All cells for one dtype of one operation; `salt` is the number of the pair.
pub fn cells(shapes: &[&'static [usize]], salt: usize) -> Vec<Cell> {
    let strided = shapes.iter().enumerate().map(|(i, shape)| (Placement::STRIDED[(i + salt) % 5], *shape));
    let empty = (0..2).map(|i| (Placement::Empty, EMPTY[(i + salt) % EMPTY.len()]));
    let one = (0..2).map(|i| (Placement::One, ONE[(i + salt) % ONE.len()]));
    let all = strided.chain(empty).chain(one);
    all.enumerate().map(|(i, (placement, shape))| Cell { placement, shape, turn: i * 7 + salt * 3 }).collect()
}

/// [`cells`] without shapes of rank 0, for operations along an axis.
pub fn row_cells(salt: usize) -> Vec<Cell> {
    cells(&ROWS, salt).into_iter().filter(|cell| !cell.shape.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn pairs_are_covered() {
        let all: Vec<Cell> = (0..8).flat_map(|salt| cells(&ELEMENTWISE, salt)).collect();
        let pairs: HashSet<_> = all.iter().map(|c| (c.placement, c.second())).collect();
        assert_eq!(pairs.len(), 25 + 2, "two operands meet in every pair of placements");
        let results: HashSet<_> = all.iter().map(|c| (c.placement, c.destination())).collect();
        assert_eq!(results.len(), 20 + 2, "an operand and its result too");
        let shapes: HashSet<_> = all.iter().map(|c| (c.placement, c.shape)).collect();
        assert_eq!(shapes.len(), 5 * ELEMENTWISE.len() + EMPTY.len() + ONE.len());
        for salt in 0..5 {
            let kinds: HashSet<_> = cells(&ELEMENTWISE, salt).iter().map(|c| c.placement).collect();
            assert_eq!(kinds.len(), 7, "each dtype sees all seven");
        }
    }
}
