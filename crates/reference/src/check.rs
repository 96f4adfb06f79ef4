//! What every entry checks before it computes, in terms of the rules that the tensor library applies too.
//!
//! A destination's dtype is the caller's: a float result may be stored in any float dtype (rounded once); an integer
//! or bool result only in its own.

use attentia_backend::{
    DType, Error, ErrorKind, Result, Source, View, ViewMut,
    rules::{self, Meta},
};

/// The name by which errors call the place where reference buffers live.
pub(crate) const DEVICE: &str = "reference";

/// An operand as the rules see it.
pub(crate) fn operand<'a>(role: &'static str, x: View<'a>) -> Meta<'a> {
    Meta { role, layout: x.layout(), dtype: x.dtype(), device: DEVICE }
}

/// A destination as the rules see it.
pub(crate) fn destination<'a>(role: &'static str, out: &ViewMut<'a>) -> Meta<'a> {
    Meta { role, layout: out.layout(), dtype: out.dtype(), device: DEVICE }
}

/// The operand that is a view or the destination itself.
pub(crate) fn source<'a>(role: &'static str, x: Source<'a>, out: &ViewMut<'a>) -> Meta<'a> {
    match x {
        Source::View(x) => operand(role, x),
        Source::Destination => destination(role, out),
    }
}

/// The operand has exactly this shape.
pub(crate) fn shape(op: &'static str, x: Meta, expected: &[usize]) -> Result<()> {
    if x.layout.shape().as_slice() == expected {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, op, format!("{} has another shape", x.role))
        .operand(x.operand().expected(format!("{expected:?}"))))
}

/// The axis exists.
pub(crate) fn axis(op: &'static str, x: Meta, axis: usize) -> Result<()> {
    if axis < x.layout.rank() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, op, format!("there is no axis {axis}")).operand(x.operand()))
}

/// The destination can hold a result of this dtype.
pub(crate) fn result(op: &'static str, out: Meta, dtype: DType) -> Result<()> {
    if out.dtype == dtype || out.dtype.is_float() && dtype.is_float() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::DType, op, format!("{} cannot hold a result of {dtype}", out.role))
        .operand(out.operand().expected(dtype.name())))
}

/// An argument lies in its range.
pub(crate) fn argument(op: &'static str, holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::new(ErrorKind::Argument, op, what())) }
}

/// The place along an axis of x that an element of the index names.
pub(crate) fn index(
    op: &'static str,
    x: Meta,
    axis: usize,
    index: Meta,
    value: i64,
    position: &[usize],
) -> Result<usize> {
    let place = usize::try_from(value).ok().filter(|&i| i < x.layout.shape()[axis]);
    place.ok_or_else(|| rules::outside(op, x, axis, index, value, position))
}
