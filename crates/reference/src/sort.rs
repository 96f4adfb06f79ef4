//! Sorting along an axis, and its first elements (top-k).

use crate::{
    check,
    storage::{Number, read, shaped, store},
};
use attentia_backend::{DType, Result, View, ViewMut, rules};
use ndarray::Axis;
use std::cmp::Ordering;

/// Values in order and the positions that they came from. Stable in both directions: equal elements keep ascending
/// positions. NaN counts as greatest, and all NaNs as equal. Destinations with k elements along the axis get the
/// first k.
pub(crate) fn sort(x: View, axis: usize, descending: bool, values: ViewMut, indices: ViewMut) -> Result<()> {
    let x_meta = check::operand("x", x);
    check::axis("sort", x_meta, axis)?;
    check::axis("sort", check::destination("values", &values), axis)?;
    let expected = rules::top_k("sort", x_meta, axis, values.shape()[axis])?;
    check::shape("sort", check::destination("values", &values), &expected)?;
    check::shape("sort", check::destination("indices", &indices), &expected)?;
    check::result("sort", check::destination("values", &values), x.dtype())?;
    rules::dtype("sort", check::destination("indices", &indices), DType::I64)?;
    if x.dtype().is_float() {
        sort_as::<f64>(x, axis, descending, values, indices)
    } else {
        sort_as::<i64>(x, axis, descending, values, indices)
    }
}

fn sort_as<T: Number>(x: View, axis: usize, descending: bool, values: ViewMut, indices: ViewMut) -> Result<()> {
    let x = read::<T>("sort", "x", x)?;
    let shape = values.shape();
    if shape.count() == 0 {
        return Ok(());
    }
    let mut positions = shaped(vec![0i64; shape.count()], shape)?;
    for (x, mut to) in x.lanes(Axis(axis)).into_iter().zip(positions.lanes_mut(Axis(axis))) {
        let x: Vec<T> = x.iter().copied().collect();
        to.iter_mut().zip(order(&x, descending)).for_each(|(to, from)| *to = from as i64);
    }
    let sorted = positions.indexed_iter().map(|(at, &from)| {
        let mut source = at;
        source[axis] = from as usize;
        x[source]
    });
    let sorted = shaped(sorted.collect(), shape)?;
    store("sort", "values", values, &sorted)?;
    store("sort", "indices", indices, &positions)
}

/// Positions of a row's elements in order.
fn order<T: Number>(x: &[T], descending: bool) -> Vec<usize> {
    let ascending = |a: T, b: T| a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
    let compare =
        |&i: &usize, &j: &usize| -> Ordering { if descending { ascending(x[j], x[i]) } else { ascending(x[i], x[j]) } };
    let mut positions: Vec<usize> = (0..x.len()).collect();
    positions.sort_by(compare);
    positions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, assert_close};
    use attentia_backend::ErrorKind;

    fn run(x: &Sample, axis: usize, descending: bool, extents: &[usize]) -> (Sample, Vec<i64>) {
        let mut values = Sample::empty(x.view().dtype(), extents);
        let mut indices = Sample::empty(DType::I64, extents);
        sort(x.view(), axis, descending, values.view_mut(), indices.view_mut()).unwrap();
        (values, indices.to_integers())
    }

    #[test]
    fn nan_is_greatest_and_equals_keep_their_order() {
        let nan = f64::NAN;
        let x = Sample::floats(DType::F32, &[6], &[2., nan, 1., 2., nan, 1.]);
        let (values, indices) = run(&x, 0, false, &[6]);
        assert_close(&values, &[1., 1., 2., 2., nan, nan], 0.0);
        assert_eq!(indices, [2, 5, 0, 3, 1, 4]);
        let (values, indices) = run(&x, 0, true, &[6]);
        assert_close(&values, &[nan, nan, 2., 2., 1., 1.], 0.0);
        assert_eq!(indices, [1, 4, 0, 3, 2, 5]);
    }

    #[test]
    fn short_destinations_take_the_first_ones() {
        let x = Sample::integers(DType::I64, &[3, 2], &[3, 7, 1, 9, 2, 8]);
        let (values, indices) = run(&x, 0, true, &[2, 2]);
        assert_eq!((values.to_integers(), indices), (vec![3, 9, 2, 8], vec![0, 1, 2, 2]));
        let (values, _) = run(&x.seen(|l| l.flip(0).unwrap()), 0, false, &[1, 2]);
        assert_eq!(values.to_integers(), [1, 7]);
        assert!(run(&x, 0, false, &[0, 2]).1.is_empty());
        let (mut values, mut indices) = (Sample::empty(DType::I64, &[4, 2]), Sample::empty(DType::I64, &[4, 2]));
        let error = sort(x.view(), 0, true, values.view_mut(), indices.view_mut()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Index);
        assert!(sort(x.view(), 2, true, values.view_mut(), indices.view_mut()).is_err());
    }
}
