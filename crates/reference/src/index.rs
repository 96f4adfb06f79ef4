//! Reading and adding by index: gather, scatter_add, and rows of a table.
//!
//! An index that names nothing is an error with its value, its position and the axis; then nothing has been written.

use crate::{
    arithmetic::Arithmetic,
    check,
    storage::{Number, contents, read, rows, shaped, store},
};
use attentia_backend::{DType, Result, View, ViewMut, rules, rules::Meta};
use ndarray::{Axis, Dimension};

/// `out[.., i, ..] = x[.., index[.., i, ..], ..]`
pub(crate) fn gather(x: View, index: View, axis: usize, out: ViewMut) -> Result<()> {
    let (x_meta, index_meta) = (check::operand("x", x), check::operand("index", index));
    check::axis("gather", x_meta, axis)?;
    let expected = rules::gather(x_meta, index_meta, axis)?;
    check::shape("gather", check::destination("out", &out), &expected)?;
    check::result("gather", check::destination("out", &out), x.dtype())?;
    if x.dtype().is_float() { gather_as::<f64>(x, index, axis, out) } else { gather_as::<i64>(x, index, axis, out) }
}

fn gather_as<T: Number>(x: View, index: View, axis: usize, out: ViewMut) -> Result<()> {
    let (x_meta, index_meta) = (check::operand("x", x), check::operand("index", index));
    let (x, index) = (read::<T>("gather", "x", x)?, read::<i64>("gather", "index", index)?);
    let mut values = Vec::with_capacity(index.len());
    for (at, &value) in index.indexed_iter() {
        let mut from = at.clone();
        from[axis] = check::index("gather", x_meta, axis, index_meta, value, at.slice())?;
        values.push(x[from]);
    }
    store("gather", "out", out, &shaped(values, index.shape())?)
}

/// `out[.., index[.., i, ..], ..] += src[.., i, ..]`, in ascending order of i.
pub(crate) fn scatter_add(a: Arithmetic, index: View, src: View, axis: usize, out: ViewMut) -> Result<()> {
    let (index_meta, src_meta) = (check::operand("index", index), check::operand("src", src));
    let out_meta = check::destination("out", &out);
    check::axis("scatter_add", out_meta, axis)?;
    check::result("scatter_add", out_meta, src.dtype())?;
    rules::scatter_add(Meta { dtype: src.dtype(), ..out_meta }, index_meta, src_meta, axis)?;
    if src.dtype().is_float() {
        scatter_as::<f64>(|total, x| a.add(total, x), index, src, axis, out)
    } else {
        scatter_as::<i64>(i64::wrapping_add, index, src, axis, out)
    }
}

fn scatter_as<T: Number>(add: impl Fn(T, T) -> T, index: View, src: View, axis: usize, mut out: ViewMut) -> Result<()> {
    let (index_meta, out_meta) = (check::operand("index", index), check::destination("out", &out));
    let (index, src) = (read::<i64>("scatter_add", "index", index)?, read::<T>("scatter_add", "src", src)?);
    let mut values = contents::<T>("scatter_add", "out", &mut out)?;
    for (at, &value) in index.indexed_iter() {
        let mut to = at.clone();
        to[axis] = check::index("scatter_add", out_meta, axis, index_meta, value, at.slice())?;
        let total = &mut values[to];
        *total = add(*total, src[at]);
    }
    store("scatter_add", "out", out, &values)
}

/// `out[.., :] = table[index[..], :]`, table `[V, C]`.
pub(crate) fn embedding(table: View, index: View, out: ViewMut) -> Result<()> {
    let expected = rules::embedding(check::operand("table", table), check::operand("index", index))?;
    check::shape("embedding", check::destination("out", &out), &expected)?;
    check::result("embedding", check::destination("out", &out), table.dtype())?;
    if table.dtype().is_float() {
        embedding_as::<f64>(table, index, out)
    } else {
        embedding_as::<i64>(table, index, out)
    }
}

fn embedding_as<T: Number>(table: View, index: View, out: ViewMut) -> Result<()> {
    let (table_meta, index_meta) = (check::operand("table", table), check::operand("index", index));
    let (table, index) = (read::<T>("embedding", "table", table)?, read::<i64>("embedding", "index", index)?);
    let mut values: Vec<T> = Vec::with_capacity(out.layout().count());
    for (at, &value) in index.indexed_iter() {
        let row = check::index("embedding", table_meta, 0, index_meta, value, at.slice())?;
        values.extend(table.index_axis(Axis(0), row));
    }
    let values = shaped(values, out.shape())?;
    store("embedding", "out", out, &values)
}

/// `dtable[index[..], :] += dy[.., :]`, in ascending order.
pub(crate) fn embedding_backward(a: Arithmetic, index: View, dy: View, mut dtable: ViewMut) -> Result<()> {
    let op = "embedding_backward";
    let (table, index_meta) = (check::destination("dtable", &dtable), check::operand("index", index));
    let expected = rules::embedding(table, index_meta)?;
    check::shape(op, check::operand("dy", dy), &expected)?;
    rules::float(op, check::operand("dy", dy))?;
    check::result(op, table, DType::F64)?;
    let (index, dy) = (read::<i64>(op, "index", index)?, rows::<f64>(&read(op, "dy", dy)?)?);
    let mut values = contents::<f64>(op, "dtable", &mut dtable)?;
    for ((at, &value), dy) in index.indexed_iter().zip(dy) {
        let row = check::index(op, table, 0, index_meta, value, at.slice())?;
        for (column, term) in dy.into_iter().enumerate() {
            values[[row, column]] = a.add(values[[row, column]], term);
        }
    }
    store(op, "dtable", dtable, &values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;
    use attentia_backend::{ErrorKind, Shape};

    #[test]
    fn gather_and_its_errors() {
        let x = Sample::floats(DType::F32, &[2, 3], &[1., 2., 3., 4., 5., 6.]);
        let index = Sample::integers(DType::I64, &[2, 2], &[2, 0, 1, 1]);
        let mut out = Sample::empty(DType::F32, &[2, 2]);
        gather(x.view(), index.view(), 1, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [3., 1., 5., 5.]);
        gather(x.seen(|l| l.flip(1).unwrap()).view(), index.view(), 1, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [1., 3., 5., 5.]);
        for bad in [3, -1] {
            let index = Sample::integers(DType::I64, &[2, 2], &[0, 0, bad, 0]);
            let error = gather(x.view(), index.view(), 1, out.view_mut()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Index);
            let text = format!(
                "gather: {bad} at position [1, 0] of index lies outside axis 1 of x\n  \
                 x      [2, 3] f32 reference\n  \
                 index  [2, 2] i64 reference   <- expected elements in 0..3\n  \
                 help: indices count from 0, and never from the end"
            );
            assert_eq!(error.to_string(), text);
        }
        assert_eq!(out.to_floats(), [1., 3., 5., 5.], "nothing was written");
        assert!(gather(x.view(), index.view(), 2, out.view_mut()).is_err());
    }

    #[test]
    fn scatter_adds_repeated_indices() {
        let index = Sample::integers(DType::I64, &[3, 1], &[1, 1, 0]);
        let index = index.seen(|l| l.broadcast_to(&Shape::new(&[3, 2]).unwrap()).unwrap());
        let src = Sample::floats(DType::F32, &[3, 2], &[1., 2., 3., 4., 5., 6.]);
        let mut out = Sample::floats(DType::F32, &[2, 2], &[10.; 4]);
        scatter_add(Arithmetic::EXACT, index.view(), src.view(), 0, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [15., 16., 14., 16.]);
        let bytes = Sample::integers(DType::U8, &[2], &[200, 100]);
        let mut out = Sample::integers(DType::U8, &[1], &[0]);
        let zeros = Sample::integers(DType::I64, &[2], &[0, 0]);
        scatter_add(Arithmetic::EXACT, zeros.view(), bytes.view(), 0, out.view_mut()).unwrap();
        assert_eq!(out.to_integers(), [44]);
        let ones = Sample::integers(DType::I64, &[2], &[0, 1]);
        let error = scatter_add(Arithmetic::EXACT, ones.view(), bytes.view(), 0, out.view_mut()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Index);
        assert_eq!(out.to_integers(), [44], "nothing was written");
    }

    #[test]
    fn embedding_and_its_gradient() {
        let table = Sample::floats(DType::Bf16, &[3, 2], &[1., 2., 3., 4., 5., 6.]);
        let index = Sample::integers(DType::I64, &[2, 2], &[2, 0, 2, 1]);
        let mut out = Sample::empty(DType::Bf16, &[2, 2, 2]);
        embedding(table.view(), index.view(), out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [5., 6., 1., 2., 5., 6., 3., 4.]);
        let mut dtable = Sample::floats(DType::F32, &[3, 2], &[1.; 6]);
        embedding_backward(Arithmetic::EXACT, index.view(), out.view(), dtable.view_mut()).unwrap();
        assert_eq!(dtable.to_floats(), [2., 3., 4., 5., 11., 13.]);
        let bad = Sample::integers(DType::I64, &[1], &[3]);
        let error = embedding(table.view(), bad.view(), Sample::empty(DType::Bf16, &[1, 2]).view_mut()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Index);
        let none = Sample::integers(DType::I64, &[0], &[]);
        embedding(table.view(), none.view(), Sample::empty(DType::Bf16, &[0, 2]).view_mut()).unwrap();
    }
}
