//! Dropout (Srivastava et al., 2014), scaled during training.
//!
//! ```text
//! out = word(row, column) ≥ threshold(p) ? x / (1 − p) : 0
//! ```
//!
//! A dropped element is 0 whatever it was, NaN too. Given a cotangent instead of x, the same call is the backward.

use crate::{
    arithmetic::Arithmetic,
    check,
    random::places,
    storage::{shaped, source, store},
};
use attentia_backend::{Dropout, Philox, Result, Source, ViewMut, rules};

/// Drops or scales each element.
pub(crate) fn dropout(a: Arithmetic, spec: &Dropout, x: Source, mut out: ViewMut) -> Result<()> {
    let x_meta = check::source("x", x, &out);
    rules::dropout(x_meta, spec.p)?;
    check::shape("dropout", x_meta, out.shape())?;
    check::result("dropout", check::destination("out", &out), x_meta.dtype)?;
    let x = source::<f64>("dropout", "x", x, &mut out)?;
    let gate = Gate::new(a, spec);
    let values = x.iter().zip(places(out.shape())).map(|(&x, (row, column))| gate.apply(x, row, column));
    let values = shaped(values.collect(), out.shape())?;
    store("dropout", "out", out, &values)
}

/// What happens to the element at a row and column.
pub(crate) struct Gate {
    arithmetic: Arithmetic,
    generator: Philox,
    threshold: u32,
    factor: f64,
}

impl Gate {
    /// `spec.p` lies in [0, 1).
    pub(crate) fn new(a: Arithmetic, spec: &Dropout) -> Gate {
        let factor = a.keep(1.0 / (1.0 - spec.p));
        Gate { arithmetic: a, generator: spec.key.generator(), threshold: Philox::drop_threshold(spec.p), factor }
    }

    pub(crate) fn apply(&self, x: f64, row: u64, column: u64) -> f64 {
        if self.generator.word(row, column) < self.threshold { 0.0 } else { self.arithmetic.keep(x * self.factor) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;
    use attentia_backend::{DType, ErrorKind, RngKey, Shape};

    #[test]
    fn elements_stay_scaled_or_vanish_by_their_words() {
        let spec = Dropout { p: 0.25, key: RngKey::new(11) };
        let one = Sample::floats(DType::F32, &[1, 1], &[3.0]);
        let x = one.seen(|l| l.broadcast_to(&Shape::new(&[40, 50]).unwrap()).unwrap());
        let mut out = Sample::empty(DType::F32, &[40, 50]);
        dropout(Arithmetic::EXACT, &spec, x.source(), out.view_mut()).unwrap();
        let generator = spec.key.generator();
        for (i, y) in out.to_floats().into_iter().enumerate() {
            let dropped = generator.word(i as u64 / 50, i as u64 % 50) < 1 << 30;
            assert_eq!(y, if dropped { 0.0 } else { 4.0 });
        }
        let dropped = out.to_floats().iter().filter(|y| **y == 0.0).count();
        assert!((400..600).contains(&dropped), "{dropped} of 2000");
    }

    #[test]
    fn p_zero_is_the_identity_and_nan_can_be_dropped() {
        let nan = Sample::floats(DType::F32, &[64], &[f64::NAN; 64]);
        let mut out = Sample::empty(DType::F32, &[64]);
        let half = Dropout { p: 0.5, key: RngKey::new(1) };
        dropout(Arithmetic::EXACT, &half, nan.source(), out.view_mut()).unwrap();
        assert!(out.to_floats().contains(&0.0));
        let mut x = Sample::floats(DType::F32, &[], &[2.0]);
        let none = Dropout { p: 0.0, key: RngKey::new(1) };
        dropout(Arithmetic::EXACT, &none, Source::Destination, x.view_mut()).unwrap();
        assert_eq!(x.to_floats(), [2.0]);
        for p in [1.0, -0.1, f64::NAN] {
            let spec = Dropout { p, key: RngKey::new(1) };
            let error = dropout(Arithmetic::EXACT, &spec, Source::Destination, x.view_mut()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Argument);
        }
    }
}
