//! Rules of reading and adding by index.

use super::{Meta, alike, dtype, error, same_device};
use crate::{DType, Error, ErrorKind, Result, Shape};

/// Rule of gather: index is i64, has x's rank, and no more than x's extent on the other axes.
pub fn gather(x: Meta, index: Meta, axis: usize) -> Result<Shape> {
    indexed("gather", x, index, index, axis)?;
    Ok(*index.shape())
}

/// Rule of scatter_add: like [`gather`], with `src` of the index's shape and x's dtype.
pub fn scatter_add(x: Meta, index: Meta, src: Meta, axis: usize) -> Result<()> {
    alike("scatter_add", &[x, src])?;
    if x.dtype == DType::Bool {
        return Err(error(ErrorKind::DType, "scatter_add", "not defined for bool", &[x, index, src]));
    }
    indexed("scatter_add", x, index, src, axis)
}

fn indexed(op: &'static str, x: Meta, index: Meta, src: Meta, axis: usize) -> Result<()> {
    dtype(op, index, DType::I64)?;
    same_device(op, &[x, index])?;
    let fits = index.layout.rank() == x.layout.rank()
        && src.shape() == index.shape()
        && (0..x.layout.rank()).all(|i| i == axis || index.shape()[i] <= x.shape()[i]);
    if fits {
        return Ok(());
    }
    Err(error(ErrorKind::Shape, op, "index does not fit", &[x, index])
        .help(format!("index has the rank of x and, outside axis {axis}, no greater extents")))
}

/// Rule of embedding: table `[V, C]`, index `[..]` → `[.., C]`.
pub fn embedding(table: Meta, index: Meta) -> Result<Shape> {
    dtype("embedding", index, DType::I64)?;
    same_device("embedding", &[table, index])?;
    if table.layout.rank() != 2 {
        return Err(Error::new(ErrorKind::Shape, "embedding", "the table is no matrix")
            .operand(table.operand().expected("[V, C]"))
            .operand(index.operand()));
    }
    let mut extents = index.shape().to_vec();
    extents.push(table.shape()[1]);
    Shape::new(&extents)
}

/// What a backend says of an element of `index` that names no place along an axis of `x`. Only a backend can find it: a
/// rule sees no elements.
pub fn outside(op: &'static str, x: Meta, axis: usize, index: Meta, value: i64, position: &[usize]) -> Error {
    let help = match op {
        "embedding" | "embedding_backward" => {
            "the table needs a row for each token of the vocabulary; rows count from 0"
        }
        "cross_entropy" => "classes count from 0; to leave rows out, set ignore_index to what their targets hold",
        _ => "indices count from 0, and never from the end",
    };
    let what = format!("{value} at position {position:?} of {} lies outside axis {axis} of {}", index.role, x.role);
    Error::new(ErrorKind::Index, op, what)
        .operand(x.operand())
        .operand(index.operand().expected(format!("elements in 0..{}", x.shape()[axis])))
        .help(help)
}
