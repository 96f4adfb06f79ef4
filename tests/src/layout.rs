//! The seven ways in which an operand can lie in memory.
//!
//! ```text
//! contiguous   row-major from element 0
//! transposed   axes stored in another order (one axis: every third element)
//! sliced       a window with a margin on all sides and steps, so that the offset isn't 0
//! broadcast    an axis of stride 0
//! reversed     axes of negative stride
//! empty        an extent of 0
//! one          every extent 1, with strides that mean nothing and must not be trusted
//! ```

use attentia_backend::{Layout, Shape};
use std::fmt;

/// One of the seven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the module says it
pub enum Placement {
    Contiguous,
    Transposed,
    Sliced,
    Broadcast,
    Reversed,
    Empty,
    One,
}

use Placement::*;

impl Placement {
    /// All seven.
    pub const ALL: [Placement; 7] = [Contiguous, Transposed, Sliced, Broadcast, Reversed, Empty, One];
    /// Those that fit any shape.
    pub const STRIDED: [Placement; 5] = [Contiguous, Transposed, Sliced, Broadcast, Reversed];
    /// Those that fit any shape and can be written.
    pub const WRITABLE: [Placement; 4] = [Contiguous, Transposed, Sliced, Reversed];

    /// The name in a case's id.
    pub fn name(self) -> &'static str {
        match self {
            Contiguous => "contiguous",
            Transposed => "transposed",
            Sliced => "sliced",
            Broadcast => "broadcast",
            Reversed => "reversed",
            Empty => "empty",
            One => "one",
        }
    }

    /// The placement of another operand of the same call: all pairs come up as `turn` grows.
    pub fn other(self, turn: usize) -> Placement {
        match self {
            Empty | One => self,
            _ => Placement::STRIDED[turn % 5],
        }
    }

    /// The same for a destination.
    pub fn destination(self, turn: usize) -> Placement {
        match self {
            Empty | One => self,
            _ => Placement::WRITABLE[turn % 4],
        }
    }

    /// A layout of this kind for a shape, and the length of the buffer that it lies in. `turn` picks among variants:
    /// which axis is broadcast, which are reversed.
    pub fn place(self, shape: &[usize], turn: usize) -> (Layout, usize) {
        self.try_place(shape, turn).unwrap_or_else(|| panic!("{self} has no layout for {shape:?}"))
    }

    fn try_place(self, extents: &[usize], turn: usize) -> Option<(Layout, usize)> {
        let shape = |extents: &[usize]| Shape::new(extents).ok();
        let contiguous = |extents: &[usize]| shape(extents).map(Layout::contiguous);
        let rank = extents.len();
        let with = |axis: usize, extent: usize| {
            let mut extents = extents.to_vec();
            extents[axis] = extent;
            extents
        };
        match self {
            Transposed if rank == 1 => {
                let wide = contiguous(&[extents[0], 3])?.narrow(1, turn % 3, 1)?.squeeze(1)?;
                Some((wide, extents[0] * 3))
            }
            Transposed if rank > 1 => {
                let (a, b) = if turn.is_multiple_of(2) { (rank - 2, rank - 1) } else { (0, rank - 1) };
                let mut stored = extents.to_vec();
                stored.swap(a, b);
                let layout = contiguous(&stored)?;
                Some((layout.transpose(a, b), layout.count()))
            }
            Sliced if rank > 0 => {
                // The last axis keeps step 1 in two of three turns: its rows stay contiguous, as in a window of a cache.
                let step = |axis: usize| if axis + 1 == rank && !turn.is_multiple_of(3) { 1 } else { 2 };
                let stored: Vec<usize> = (0..rank).map(|axis| extents[axis] * step(axis) + 3).collect();
                let all = contiguous(&stored)?;
                let window = (0..rank).try_fold(all, |layout, axis| {
                    layout.slice(axis, 1 + axis % 2, step(axis) as isize, extents[axis])
                })?;
                Some((window, all.count()))
            }
            Broadcast if rank > 0 => {
                let single = contiguous(&with(turn % rank, 1))?;
                Some((single.broadcast_to(&shape(extents)?)?, single.count()))
            }
            Reversed if rank > 0 => {
                let stored = contiguous(&with(0, extents[0] + 1))?;
                let window = stored.narrow(0, 1, extents[0])?;
                let flips = |axis: usize| match turn % 3 {
                    0 => axis + 1 == rank,
                    1 => axis == 0,
                    _ => true,
                };
                let flipped = (0..rank).filter(|&a| flips(a)).try_fold(window, |layout, axis| layout.flip(axis))?;
                Some((flipped, stored.count()))
            }
            Empty if !extents.contains(&0) => None,
            Empty if turn.is_multiple_of(2) => Some((contiguous(extents)?, 0)),
            Empty => Some((Layout::from_parts(shape(extents)?, &vec![5; rank], 2)?, 3)),
            One if extents.iter().any(|&e| e != 1) => None,
            One => {
                let strides: Vec<isize> = (0..rank).map(|axis| [7, -3, 0][(axis + turn) % 3]).collect();
                Some((Layout::from_parts(shape(extents)?, &strides, 1)?, 3))
            }
            _ => {
                let layout = contiguous(extents)?;
                Some((layout, layout.count()))
            }
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::indices;

    #[test]
    fn placements_are_what_they_say() {
        for shape in [&[4][..], &[3, 5], &[2, 3, 4], &[2, 1, 3, 2], &[]] {
            for turn in 0..6 {
                for placement in Placement::STRIDED {
                    let (layout, len) = placement.place(shape, turn);
                    assert_eq!(layout.shape().as_slice(), shape);
                    assert!(indices(&layout).iter().all(|&i| i < len));
                    if shape.is_empty() || shape.contains(&1) {
                        continue;
                    }
                    let holds = match placement {
                        Broadcast => layout.strides().contains(&0) && layout.may_overlap_itself(),
                        Reversed => layout.strides().iter().any(|&s| s < 0),
                        Sliced => layout.offset() > 0,
                        Transposed => !layout.is_contiguous(),
                        _ => layout.is_contiguous() && layout.offset() == 0,
                    };
                    assert!(holds, "{placement} {layout:?}");
                    assert!(placement == Broadcast || !layout.may_overlap_itself());
                }
            }
        }
    }
}
