//! Shapes: at most eight extents, whose product always fits.

use crate::{Error, ErrorKind, Result};
use std::{fmt, ops::Deref};

/// The greatest number of axes a tensor can have.
pub const MAX_RANK: usize = 8;

/// The extents of a tensor, outermost first; rank 0 is a scalar.
///
/// Invariants, checked when it is made: rank ≤ [`MAX_RANK`], and the product of the extents that are not zero fits
/// in `isize`, so that no stride or size derived from it can overflow.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    extents: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// The shape of a scalar.
    pub const SCALAR: Shape = Shape { extents: [0; MAX_RANK], rank: 0 };

    /// A shape from its extents. Errors when the rank or the number of elements is too large.
    pub fn new(extents: &[usize]) -> Result<Shape> {
        if extents.len() > MAX_RANK {
            return Err(Error::new(ErrorKind::Shape, "shape", format!("{extents:?} has rank {}", extents.len()))
                .help(format!("a tensor has at most {MAX_RANK} axes; merge some with reshape")));
        }
        let mut product = 1usize;
        for &extent in extents {
            // Zero extents are left out: strides of an empty tensor are products of the others.
            product = product
                .checked_mul(extent.max(1))
                .filter(|&p| p <= isize::MAX as usize / 8)
                .ok_or_else(|| Error::new(ErrorKind::Shape, "shape", format!("{extents:?} has too many elements")))?;
        }
        let mut shape = Shape { extents: [0; MAX_RANK], rank: extents.len() as u8 };
        shape.extents[..extents.len()].copy_from_slice(extents);
        Ok(shape)
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.iter().product()
    }

    /// The extents as a slice.
    pub fn as_slice(&self) -> &[usize] {
        &self.extents[..self.rank as usize]
    }

    /// The same shape with one extent replaced. `axis` must be below the rank.
    pub(crate) fn with(mut self, axis: usize, extent: usize) -> Shape {
        self.extents[axis] = extent;
        self
    }

    /// The common shape of two operands by NumPy's broadcasting rule, or `None`.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let rank = self.rank().max(other.rank());
        let mut extents = [0; MAX_RANK];
        for i in 0..rank {
            let from_end = |s: &Shape| if i < s.rank() { s[s.rank() - 1 - i] } else { 1 };
            extents[rank - 1 - i] = match (from_end(self), from_end(other)) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return None,
            };
        }
        Shape::new(&extents[..rank]).ok()
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        self.as_slice()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(&format!("{:?}", self.as_slice()))
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}", self.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_checked() {
        assert!(Shape::new(&[usize::MAX, 2]).is_err());
        assert!(Shape::new(&[0, usize::MAX, usize::MAX]).is_err(), "an empty tensor still needs strides");
        assert!(Shape::new(&[1; 9]).is_err());
        assert_eq!(Shape::new(&[2, 0, 3]).unwrap().count(), 0);
        assert_eq!(Shape::SCALAR.count(), 1);
    }

    #[test]
    fn broadcasting_follows_numpy() {
        let shape = |s: &[usize]| Shape::new(s).unwrap();
        assert_eq!(shape(&[3, 1]).broadcast(&shape(&[2])), Some(shape(&[3, 2])));
        assert_eq!(shape(&[0]).broadcast(&shape(&[1])), Some(shape(&[0])));
        assert_eq!(shape(&[3]).broadcast(&shape(&[2])), None);
    }
}
