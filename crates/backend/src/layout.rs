//! How an operand walks over its buffer.
//!
//! ```text
//! element (i₀, i₁, …) of the tensor = buffer[offset + i₀·stride₀ + i₁·stride₁ + …]
//! ```
//!
//! Strides count elements, are signed (a flipped axis) and may be zero (a broadcast axis).

use crate::{Shape, shape::MAX_RANK};
use std::fmt;

/// Shape, signed strides and offset of an operand, all in elements.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    shape: Shape,
    strides: [isize; MAX_RANK],
    offset: usize,
}

impl Layout {
    /// Row-major from element 0.
    pub fn contiguous(shape: Shape) -> Layout {
        let mut strides = [0; MAX_RANK];
        let mut stride = 1isize;
        for axis in (0..shape.rank()).rev() {
            strides[axis] = stride;
            // Cannot overflow: `Shape` bounds the product of its non-zero extents.
            stride *= shape[axis].max(1) as isize;
        }
        Layout { shape, strides, offset: 0 }
    }

    /// Without gaps, and with its axes nested as those of another layout of the same rank: the axis with the longest stride
    /// is the outermost. Where that leaves a choice, as of an axis that repeats itself, and for another rank: row-major.
    ///
    /// ```
    /// use attentia_backend::{Layout, Shape};
    /// # fn main() -> attentia_backend::Result<()> {
    /// // Heads split from a projection: [B, T, H, D] seen as [B, H, T, D].
    /// let heads = Layout::contiguous(Shape::new(&[2, 5, 4, 8])?).transpose(1, 2);
    /// let result = Layout::nested_like(Shape::new(&[2, 4, 5, 16])?, &heads);
    /// assert_eq!(result.strides(), [320, 16, 64, 1]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn nested_like(shape: Shape, other: &Layout) -> Layout {
        let (rank, strides) = (shape.rank(), other.strides());
        // An axis of one place may stand anywhere: the outermost harms nobody.
        let is_one = |axis: usize| shape[axis] == 1 && other.shape[axis] == 1;
        let mut result = Layout::contiguous(shape);
        if rank != other.rank() || (0..rank).any(|axis| strides[axis] <= 0 && !is_one(axis)) {
            return result;
        }
        let mut order: Vec<usize> = (0..rank).collect();
        order.sort_by_key(|&axis| std::cmp::Reverse(if is_one(axis) { isize::MAX } else { strides[axis] }));
        let mut stride = 1;
        for axis in order.into_iter().rev() {
            result.strides[axis] = stride;
            stride *= shape[axis].max(1) as isize;
        }
        result
    }

    /// A layout from its parts, or `None` when an element would lie before the buffer or indices would overflow.
    pub fn from_parts(shape: Shape, strides: &[isize], offset: usize) -> Option<Layout> {
        if strides.len() != shape.rank() {
            return None;
        }
        let mut all = [0; MAX_RANK];
        all[..strides.len()].copy_from_slice(strides);
        let layout = Layout { shape, strides: all, offset };
        layout.checked_bounds()?;
        Some(layout)
    }

    /// The extents.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// One stride per axis, in elements.
    pub fn strides(&self) -> &[isize] {
        &self.strides[..self.shape.rank()]
    }

    /// Buffer index of the first element.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.rank()
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.shape.count()
    }

    /// Whether elements follow each other in row-major order without gaps (from any offset). Empty layouts are.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1isize;
        for axis in (0..self.rank()).rev() {
            let extent = self.shape[axis];
            if extent == 0 {
                return true;
            }
            if extent != 1 && self.strides[axis] != expected {
                return false;
            }
            expected *= extent as isize;
        }
        true
    }

    /// Lowest and one past the highest buffer index in use; `(offset, offset)` when empty.
    pub fn bounds(&self) -> (usize, usize) {
        // Every constructor has proved that this is `Some`.
        self.checked_bounds().unwrap_or((0, usize::MAX))
    }

    fn checked_bounds(&self) -> Option<(usize, usize)> {
        if self.shape.contains(&0) {
            return Some((self.offset, self.offset));
        }
        let (mut low, mut high) = (isize::try_from(self.offset).ok()?, isize::try_from(self.offset).ok()?);
        for (&extent, &stride) in self.shape.iter().zip(self.strides()) {
            let reach = stride.checked_mul(extent as isize - 1)?;
            if reach < 0 {
                low = low.checked_add(reach)?;
            } else {
                high = high.checked_add(reach)?;
            }
        }
        Some((usize::try_from(low).ok()?, usize::try_from(high).ok()?.checked_add(1)?))
    }

    /// Whether two different indices may name the same element, so that it can't be a destination.
    ///
    /// Sorted by stride, each axis has to step over everything that the smaller ones span. That is exact for every
    /// layout made from a contiguous one by views; exotic layouts made by hand may be refused although they are injective.
    pub fn may_overlap_itself(&self) -> bool {
        if self.count() == 0 {
            return false;
        }
        let mut axes: [(usize, usize); MAX_RANK] = [(0, 0); MAX_RANK];
        let mut used = 0;
        for (&extent, &stride) in self.shape.iter().zip(self.strides()) {
            if extent > 1 {
                axes[used] = (stride.unsigned_abs(), extent);
                used += 1;
            }
        }
        axes[..used].sort_unstable();
        let mut span = 0;
        for &(stride, extent) in &axes[..used] {
            if stride <= span {
                return true;
            }
            span += stride * (extent - 1);
        }
        false
    }

    /// Swaps two axes, which must be below the rank.
    pub fn transpose(mut self, a: usize, b: usize) -> Layout {
        let (first, second) = (self.shape[a], self.shape[b]);
        self.shape = self.shape.with(a, second).with(b, first);
        self.strides.swap(a, b);
        self
    }

    /// Reorders the axes: axis `i` of the result is axis `order[i]`, or `None` when `order` is no permutation.
    pub fn permute(&self, order: &[usize]) -> Option<Layout> {
        if order.len() != self.rank() {
            return None;
        }
        let mut result = *self;
        let mut seen = [false; MAX_RANK];
        for (to, &from) in order.iter().enumerate() {
            if from >= self.rank() || std::mem::replace(&mut seen[from], true) {
                return None;
            }
            result.shape = result.shape.with(to, self.shape[from]);
            result.strides[to] = self.strides[from];
        }
        Some(result)
    }

    /// Elements `start, start + step, …` of an axis, `len` of them; a negative step walks backwards.
    /// `None` when one of them lies outside the axis.
    pub fn slice(&self, axis: usize, start: usize, step: isize, len: usize) -> Option<Layout> {
        let extent = *self.shape.get(axis)?;
        let mut result = *self;
        result.shape = result.shape.with(axis, len);
        if len == 0 {
            return (start <= extent).then_some(result);
        }
        let last = isize::try_from(start).ok()?.checked_add(step.checked_mul(len as isize - 1)?)?;
        if start >= extent || last < 0 || last as usize >= extent {
            return None;
        }
        // In range: element `start` of the axis exists, or the layout is empty and the offset is never read.
        if self.count() != 0 {
            result.offset = (self.offset as isize + start as isize * self.strides[axis]) as usize;
        }
        result.strides[axis] = self.strides[axis].checked_mul(step)?;
        Some(result)
    }

    /// `len` elements of an axis from `start`.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Option<Layout> {
        if start.checked_add(len)? > *self.shape.get(axis)? {
            return None;
        }
        self.slice(axis, start, 1, len)
    }

    /// Reverses an axis.
    pub fn flip(&self, axis: usize) -> Option<Layout> {
        match *self.shape.get(axis)? {
            0 => Some(*self),
            extent => self.slice(axis, extent - 1, -1, extent),
        }
    }

    /// Adds an axis of extent 1 before `axis`, or `None` when the rank is already the greatest.
    pub fn unsqueeze(&self, axis: usize) -> Option<Layout> {
        let rank = self.rank();
        if axis > rank || rank == MAX_RANK {
            return None;
        }
        let (mut extents, mut strides) = ([1; MAX_RANK], [0; MAX_RANK]);
        for i in 0..rank {
            let to = i + usize::from(i >= axis);
            extents[to] = self.shape[i];
            strides[to] = self.strides[i];
        }
        let shape = Shape::new(&extents[..=rank]).ok()?;
        Some(Layout { shape, strides, offset: self.offset })
    }

    /// Removes an axis of extent 1; `None` for any other.
    pub fn squeeze(&self, axis: usize) -> Option<Layout> {
        if *self.shape.get(axis)? != 1 {
            return None;
        }
        let (mut extents, mut strides) = ([0; MAX_RANK], [0; MAX_RANK]);
        for (to, from) in (0..self.rank()).filter(|&i| i != axis).enumerate() {
            extents[to] = self.shape[from];
            strides[to] = self.strides[from];
        }
        let shape = Shape::new(&extents[..self.rank() - 1]).ok()?;
        Some(Layout { shape, strides, offset: self.offset })
    }

    /// Repeats axes of extent 1, and adds leading ones, by stride 0; `None` when the shapes don't broadcast.
    pub fn broadcast_to(&self, shape: &Shape) -> Option<Layout> {
        let added = shape.rank().checked_sub(self.rank())?;
        let mut strides = [0; MAX_RANK];
        for axis in 0..self.rank() {
            match (self.shape[axis], shape[added + axis]) {
                (a, b) if a == b => strides[added + axis] = self.strides[axis],
                (1, _) => {}
                _ => return None,
            }
        }
        Some(Layout { shape: *shape, strides, offset: self.offset })
    }

    /// The same elements in the same order under another shape, without a copy; `None` when that needs one.
    ///
    /// Axes are grouped so that each group has the same number of elements before and after; a group of old axes can
    /// be regrouped when its strides are those of one longer axis.
    pub fn reshape(&self, shape: &Shape) -> Option<Layout> {
        if shape.count() != self.count() {
            return None;
        }
        if self.count() == 0 || self.is_contiguous() {
            return Some(Layout { offset: self.offset, ..Layout::contiguous(*shape) });
        }
        let mut strides = [0; MAX_RANK];
        let old: Vec<(usize, isize)> =
            self.shape.iter().copied().zip(self.strides().iter().copied()).filter(|&(extent, _)| extent != 1).collect();
        let (mut from, mut to) = (0, 0);
        while from < old.len() {
            let (group, mut old_count) = (from, old[from].0);
            let first_new = to;
            while to < shape.rank() && shape[to] == 1 {
                to += 1;
            }
            let mut new_count = *shape.get(to)?;
            while old_count != new_count {
                if old_count < new_count {
                    from += 1;
                    old_count *= old.get(from)?.0;
                } else {
                    to += 1;
                    new_count *= shape.get(to)?;
                }
            }
            if old[group..=from].windows(2).any(|w| w[0].1 != w[1].1 * w[1].0 as isize) {
                return None;
            }
            let mut stride = old[from].1;
            for axis in (first_new..=to).rev() {
                strides[axis] = stride;
                stride *= shape[axis] as isize;
            }
            from += 1;
            to += 1;
        }
        Some(Layout { shape: *shape, strides, offset: self.offset })
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} strides {:?} offset {}", self.shape, self.strides(), self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contiguous(extents: &[usize]) -> Layout {
        Layout::contiguous(Shape::new(extents).unwrap())
    }

    fn indices(layout: &Layout) -> Vec<usize> {
        let mut all = vec![layout.offset() as isize];
        for (&extent, &stride) in layout.shape().iter().zip(layout.strides()) {
            all = all.iter().flat_map(|&base| (0..extent).map(move |i| base + i as isize * stride)).collect();
        }
        all.into_iter().map(|i| i as usize).collect()
    }

    #[test]
    fn views_name_the_elements_that_they_say() {
        let x = contiguous(&[2, 3, 4]);
        assert_eq!(indices(&x), (0..24).collect::<Vec<_>>());
        assert_eq!(indices(&x.flip(2).unwrap())[..4], [3, 2, 1, 0]);
        assert_eq!(indices(&x.transpose(0, 2))[..4], [0, 12, 4, 16]);
        assert_eq!(indices(&x.slice(1, 2, -2, 2).unwrap())[..5], [8, 9, 10, 11, 0]);
        assert!(x.narrow(1, 2, 2).is_none());
        assert!(x.narrow(1, 3, 0).is_some());
    }

    #[test]
    fn a_layout_nested_like_another_has_each_element_once() {
        let shape = |s: &[usize]| Shape::new(s).unwrap();
        let nested = |s: &[usize], other: Layout| Layout::nested_like(shape(s), &other);
        let heads = contiguous(&[2, 3, 4, 5]).transpose(1, 2);
        assert_eq!(nested(heads.shape(), heads), heads);
        for layout in [nested(&[2, 4, 3, 7], heads), nested(&[2, 4, 1, 7], heads), nested(&[2, 4, 0, 7], heads)] {
            let mut all = indices(&layout);
            all.sort_unstable();
            assert_eq!(all, (0..layout.count()).collect::<Vec<_>>(), "{layout:?}");
        }
        // One place of an axis says nothing of the others' order.
        let one = heads.narrow(1, 2, 1).unwrap();
        assert_eq!(nested(&[2, 1, 3, 5], one).strides()[2..], [5, 1]);
        // Row-major where the other leaves a choice.
        let repeated = contiguous(&[2, 1, 4, 5]).broadcast_to(&shape(&[2, 3, 4, 5])).unwrap().transpose(1, 2);
        for unclear in [repeated, heads.flip(3).unwrap(), contiguous(&[8])] {
            assert!(nested(&[2, 4, 3, 7], unclear).is_contiguous(), "{unclear:?}");
        }
    }

    #[test]
    fn reshape_keeps_the_order_or_refuses() {
        let x = contiguous(&[4, 6]);
        let shape = |s: &[usize]| Shape::new(s).unwrap();
        assert!(x.transpose(0, 1).reshape(&shape(&[24])).is_none());
        for view in [x.narrow(0, 1, 2).unwrap(), x.narrow(1, 1, 4).unwrap(), x.flip(0).unwrap(), x.transpose(0, 1)] {
            let count = view.count();
            for new in [vec![count], vec![2, count / 2], vec![1, view.shape()[0], 2, view.shape()[1] / 2, 1]] {
                if let Some(reshaped) = view.reshape(&shape(&new)) {
                    assert_eq!(indices(&reshaped), indices(&view), "{view:?} as {new:?}");
                }
            }
            let split = view.reshape(&shape(&[view.shape()[0], 2, view.shape()[1] / 2]));
            assert!(split.is_some(), "splitting an axis never needs a copy");
        }
    }

    #[test]
    fn destinations_that_overlap_are_found() {
        let x = contiguous(&[3, 4]);
        assert!(!x.may_overlap_itself());
        assert!(!x.transpose(0, 1).flip(0).unwrap().may_overlap_itself());
        let row = contiguous(&[1, 4]).broadcast_to(&Shape::new(&[3, 4]).unwrap()).unwrap();
        assert!(row.may_overlap_itself());
        assert!(Layout::from_parts(Shape::new(&[3, 3]).unwrap(), &[1, 1], 0).unwrap().may_overlap_itself());
    }

    #[test]
    fn parts_that_leave_the_buffer_are_refused() {
        let shape = Shape::new(&[3]).unwrap();
        assert!(Layout::from_parts(shape, &[-1], 1).is_none());
        assert!(Layout::from_parts(shape, &[isize::MAX], 0).is_none());
        assert_eq!(Layout::from_parts(shape, &[-1], 2).unwrap().bounds(), (0, 3));
    }

    proptest::proptest! {
        /// Whatever views are taken of a contiguous buffer, their elements are elements of it, and a layout that is
        /// said not to overlap itself names none twice.
        #[test]
        fn no_chain_of_views_leaves_the_buffer(
            extents in proptest::collection::vec(0usize..5, 0..5),
            steps in proptest::collection::vec((0u8..7, 0usize..6, 0usize..6, -3isize..4), 0..8),
        ) {
            let base = contiguous(&extents);
            let mut view = base;
            for (kind, a, b, step) in steps {
                let rank = view.rank();
                let next = match kind {
                    0 if a < rank && b < rank => Some(view.transpose(a, b)),
                    1 => view.slice(a, b, step, 2),
                    2 => view.narrow(a, b, 1),
                    3 => view.flip(a),
                    4 => view.unsqueeze(a),
                    5 => view.squeeze(a),
                    6 => Shape::new(&[view.count()]).ok().and_then(|flat| view.reshape(&flat)),
                    _ => None,
                };
                view = next.unwrap_or(view);
                let mut all = indices(&view);
                proptest::prop_assert!(all.iter().all(|&i| i < base.count()), "{view:?}");
                if !view.may_overlap_itself() {
                    let count = all.len();
                    all.sort_unstable();
                    all.dedup();
                    proptest::prop_assert_eq!(all.len(), count);
                }
            }
        }
    }
}
