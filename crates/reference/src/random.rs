//! Uniform and normal numbers: each element's bits are those of its place in the stream.
//!
//! ```text
//! row = flat index over all axes but the last      column = index along the last      (a scalar: 0, 0)
//! ```

use crate::{
    check,
    storage::{shaped, store},
};
use attentia_backend::{DType, Philox, Result, RngKey, ViewMut, rules};

/// `low + unit · (high − low)`, unit in [0, 1): on the grid of `f32` for every dtype but `f64`. Rounding to a 16-bit
/// dtype may give `high` itself.
pub(crate) fn uniform(key: RngKey, low: f64, high: f64, out: ViewMut) -> Result<()> {
    check::argument("uniform", low <= high && (high - low).is_finite(), || format!("no numbers in [{low}, {high})"))?;
    let (generator, dtype) = (key.generator(), out.dtype());
    draw("uniform", out, |row, column| {
        let word = generator.word(row, column);
        let unit = if dtype == DType::F64 { Philox::unit_f64(word) } else { Philox::unit_f32(word) as f64 };
        low + unit * (high - low)
    })
}

/// `mean + deviation · z`, z a standard normal number.
pub(crate) fn normal(key: RngKey, mean: f64, deviation: f64, out: ViewMut) -> Result<()> {
    check::argument("normal", mean.is_finite() && (0.0..f64::INFINITY).contains(&deviation), || {
        format!("mean is {mean} and deviation {deviation}")
    })?;
    let generator = key.generator();
    draw("normal", out, |row, column| {
        let block = Philox::normals(generator.block(row, column / 4));
        mean + deviation * block[(column % 4) as usize]
    })
}

fn draw(op: &'static str, out: ViewMut, value: impl Fn(u64, u64) -> f64) -> Result<()> {
    rules::float(op, check::destination("out", &out))?;
    let values = places(out.shape()).map(|(row, column)| value(row, column)).collect();
    let values = shaped(values, out.shape())?;
    store(op, "out", out, &values)
}

/// Row and column of each element, row-major.
pub(crate) fn places(shape: &[usize]) -> impl Iterator<Item = (u64, u64)> {
    let width = shape.last().copied().unwrap_or(1).max(1);
    (0..shape.iter().product()).map(move |i: usize| ((i / width) as u64, (i % width) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;
    use attentia_backend::ErrorKind;

    #[test]
    fn bits_depend_on_the_place_only() {
        let (key, generator) = (RngKey::new(3), RngKey::new(3).generator());
        let mut out = Sample::empty(DType::F32, &[2, 3, 5]);
        uniform(key, -1.0, 3.0, out.view_mut()).unwrap();
        let at = |row, column| (-1.0 + Philox::unit_f32(generator.word(row, column)) as f64 * 4.0) as f32 as f64;
        assert_eq!(out.to_floats()[5 * 4 + 3], at(4, 3));
        let mut column_major = Sample::empty(DType::F32, &[5, 3, 2]).seen(|l| l.transpose(0, 2));
        uniform(key, -1.0, 3.0, column_major.view_mut()).unwrap();
        assert_eq!(column_major.to_floats(), out.to_floats());
        let mut scalar = Sample::empty(DType::F64, &[]);
        uniform(key, 0.0, 1.0, scalar.view_mut()).unwrap();
        assert_eq!(scalar.to_floats(), [Philox::unit_f64(generator.word(0, 0))]);
    }

    #[test]
    fn normals_come_in_blocks_of_four() {
        let (key, generator) = (RngKey::new(5), RngKey::new(5).generator());
        let mut out = Sample::empty(DType::F64, &[2, 6]);
        normal(key, 1.0, 2.0, out.view_mut()).unwrap();
        assert_eq!(out.to_floats()[6 + 5], 1.0 + 2.0 * Philox::normals(generator.block(1, 1))[1]);
    }

    #[test]
    fn nonsense_is_refused() {
        let mut out = Sample::empty(DType::F32, &[2]);
        for (low, high) in [(1.0, 0.0), (0.0, f64::INFINITY), (f64::NAN, 1.0)] {
            let error = uniform(RngKey::new(0), low, high, out.view_mut()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Argument);
        }
        assert!(normal(RngKey::new(0), 0.0, -1.0, out.view_mut()).is_err());
        let error = normal(RngKey::new(0), 0.0, 1.0, Sample::empty(DType::I64, &[2]).view_mut()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DType);
        normal(RngKey::new(0), 0.0, 1.0, Sample::empty(DType::F32, &[0]).view_mut()).unwrap();
    }
}
