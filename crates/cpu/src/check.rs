//! What every entry checks before its pointers rely on it. The tensor library has validated the call for people; these
//! are for whoever calls the backend directly, and keep safe code from reaching past a buffer.

use crate::CpuBackend;
use attentia_backend::{Backend, DType, Error, ErrorKind, Layout, Result, Shape, rules::Meta};

/// An operand as errors show it.
pub(crate) fn operand<'a>(cpu: &'a CpuBackend, role: &'static str, layout: &'a Layout, dtype: DType) -> Meta<'a> {
    Meta { role, layout, dtype, device: cpu.name() }
}

/// The operand called `role` has exactly this shape.
pub(crate) fn shape(op: &'static str, role: &str, layout: &Layout, expected: &[usize]) -> Result<()> {
    if layout.shape().as_slice() == expected {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, op, format!("{role} is {}, expected {expected:?}", layout.shape())))
}

/// The axis exists.
pub(crate) fn axis(op: &'static str, layout: &Layout, axis: usize) -> Result<()> {
    if axis < layout.rank() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, op, format!("there is no axis {axis} in {}", layout.shape())))
}

/// The last extent; a scalar counts as one row of one element.
pub(crate) fn row_len(shape: &Shape) -> usize {
    shape.last().copied().unwrap_or(1)
}
