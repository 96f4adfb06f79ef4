//! Loop nests over several strided operands at once.
//!
//! ```text
//! axes of extent 1 vanish; axes are ordered by the destination's strides, outermost first;
//! neighbours that every operand walks as one longer axis are merged:
//!   contiguous everywhere          → one axis
//!   bias broadcast over rows       → two axes, inner strides (1, 1, …, 1)
//! run = one walk along the innermost axis: base offset and stride of each operand, and a length
//! ```

use attentia_backend::{Layout, MAX_RANK};
use std::ops::Range;

/// A merged loop nest over `N` operands of one shape; operand 0 is the destination. Offsets are relative to each
/// operand's first element.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nest<const N: usize> {
    rank: usize,
    extents: [usize; MAX_RANK],
    strides: [[isize; N]; MAX_RANK],
}

/// One walk along the innermost axis of a nest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<const N: usize> {
    /// Offset of each operand's first element of this run.
    pub(crate) offsets: [isize; N],
    /// Stride of each operand along it.
    pub(crate) strides: [isize; N],
    /// Number of elements.
    pub(crate) len: usize,
}

impl<const N: usize> Run<N> {
    /// Offset of each operand's element `i` of this run.
    #[inline]
    pub(crate) fn at(&self, i: usize) -> [isize; N] {
        std::array::from_fn(|n| self.offsets[n] + i as isize * self.strides[n])
    }
}

impl<const N: usize> Nest<N> {
    /// The nest of operands that all have the first one's shape (the caller has broadcast them).
    pub(crate) fn new(layouts: [&Layout; N]) -> Nest<N> {
        let shape = layouts[0].shape();
        let mut axes: [(usize, [isize; N]); MAX_RANK] = [(1, [0; N]); MAX_RANK];
        let mut rank = 0;
        for (axis, &extent) in shape.iter().enumerate() {
            if extent != 1 {
                axes[rank] = (extent, layouts.map(|l| l.strides()[axis]));
                rank += 1;
            }
        }
        // Stable: axes that the destination does not tell apart keep their order.
        axes[..rank].sort_by_key(|(_, strides)| std::cmp::Reverse(strides[0].unsigned_abs()));
        let mut nest = Nest { rank: 0, extents: [1; MAX_RANK], strides: [[0; N]; MAX_RANK] };
        for &(extent, strides) in &axes[..rank] {
            if nest.rank > 0 {
                let outer = nest.rank - 1;
                if (0..N).all(|i| nest.strides[outer][i] == strides[i] * extent as isize) {
                    nest.extents[outer] *= extent;
                    nest.strides[outer] = strides;
                    continue;
                }
            }
            nest.extents[nest.rank] = extent;
            nest.strides[nest.rank] = strides;
            nest.rank += 1;
        }
        nest.rank = nest.rank.max(1);
        nest
    }

    /// Number of elements.
    pub(crate) fn count(&self) -> usize {
        self.extents[..self.rank].iter().product()
    }

    /// Extent and strides of each axis, outermost first; at least one.
    pub(crate) fn axes(&self) -> impl ExactSizeIterator<Item = (usize, [isize; N])> + '_ {
        self.extents[..self.rank].iter().copied().zip(self.strides[..self.rank].iter().copied())
    }

    /// Length of the innermost axis.
    pub(crate) fn run_len(&self) -> usize {
        self.extents[self.rank - 1]
    }

    /// Each run, or part of a run, of the elements `range` in the nest's order.
    ///
    /// An iterator, so that a kernel's loop body lies in the function compiled for the instruction set: a closure that the
    /// compiler chose not to inline would be compiled for the baseline.
    #[inline(always)]
    pub(crate) fn runs(&self, range: Range<usize>) -> Runs<'_, N> {
        // Index of the first element, split over the axes.
        let mut index = [0usize; MAX_RANK];
        let mut rest = range.start;
        for axis in (0..self.rank).rev() {
            // An extent of 0 has no elements to begin at.
            index[axis] = rest % self.extents[axis].max(1);
            rest /= self.extents[axis].max(1);
        }
        Runs { nest: self, index, left: range.len() }
    }
}

/// The runs of a range of a nest's elements.
#[derive(Clone, Debug)]
pub(crate) struct Runs<'a, const N: usize> {
    nest: &'a Nest<N>,
    /// Index of the next run's first element, along each axis.
    index: [usize; MAX_RANK],
    /// Elements still to come.
    left: usize,
}

impl<const N: usize> Iterator for Runs<'_, N> {
    type Item = Run<N>;

    #[inline(always)]
    fn next(&mut self) -> Option<Run<N>> {
        if self.left == 0 {
            return None;
        }
        let Runs { nest, index, left } = self;
        let inner = nest.rank - 1;
        let len = (nest.extents[inner] - index[inner]).min(*left);
        let mut offsets = [0isize; N];
        for (&i, strides) in index[..nest.rank].iter().zip(&nest.strides) {
            for (offset, stride) in offsets.iter_mut().zip(strides) {
                *offset += i as isize * stride;
            }
        }
        *left -= len;
        index[inner] = 0;
        for axis in (0..inner).rev() {
            index[axis] += 1;
            if index[axis] < nest.extents[axis] {
                break;
            }
            index[axis] = 0;
        }
        Some(Run { offsets, strides: nest.strides[inner], len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use attentia_backend::Shape;

    fn contiguous(extents: &[usize]) -> Layout {
        Layout::contiguous(Shape::new(extents).unwrap())
    }

    #[test]
    fn contiguous_operands_are_one_run() {
        let x = contiguous(&[2, 1, 3, 4]);
        let nest = Nest::new([&x, &x]);
        assert_eq!((nest.rank, nest.run_len()), (1, 24));
        let transposed = x.transpose(2, 3);
        assert_eq!(Nest::new([&transposed, &transposed]).rank, 1, "the order of axes is the destination's");
    }

    #[test]
    fn ranges_cover_every_element_once() {
        let out = contiguous(&[3, 4, 5]);
        let row = contiguous(&[5]).broadcast_to(out.shape()).unwrap();
        let flipped = out.flip(1).unwrap();
        let nest = Nest::new([&out, &row, &flipped]);
        assert_eq!(nest.count(), 60);
        let mut seen = Vec::new();
        for start in (0..60).step_by(7) {
            for run in nest.runs(start..60.min(start + 7)) {
                for i in 0..run.len as isize {
                    seen.push(std::array::from_fn::<isize, 3, _>(|n| run.offsets[n] + i * run.strides[n]));
                }
            }
        }
        seen.sort();
        let expected: Vec<_> = (0..60).map(|i| [i, i % 5, (i / 20) * 20 + 5 * (0 - (i / 5) % 4) + i % 5]).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn nothing_and_scalars() {
        let empty = contiguous(&[3, 0]);
        let nest = Nest::new([&empty]);
        assert_eq!(nest.count(), 0);
        assert!(nest.runs(0..0).next().is_none());
        let scalar = contiguous(&[]);
        assert_eq!(Nest::new([&scalar]).count(), 1);
    }
}
