//! Weights as 16-bit numbers: 0 to `LEVELS` stand for 0 to 1, and one more code says NaN.

/// The code of 1.
pub(super) const LEVELS: u16 = u16::MAX - 1;
const NAN: u16 = u16::MAX;
/// How far outside 0 to 1 a weight may lie by rounding. A cut of this size keeps what is shown right to four digits.
const SLACK: f32 = 5e-5;

/// One code per weight, or the place of the first number that is no weight.
pub(super) fn encode(weights: &[f32]) -> Result<Vec<u16>, usize> {
    let code = |(at, weight): (usize, &f32)| {
        if weight.is_nan() {
            Ok(NAN)
        } else if (-SLACK..=1.0 + SLACK).contains(weight) {
            // The cast of a float cuts off below 0 and above 65,535; above 1 the code would say NaN.
            Ok(((weight * f32::from(LEVELS)).round() as u16).min(LEVELS))
        } else {
            Err(at)
        }
    };
    weights.iter().enumerate().map(code).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_right_to_four_digits() {
        let weights: Vec<f32> = (0..=100_003).map(|n| n as f32 / 100_003.0).collect();
        for (weight, code) in weights.iter().zip(encode(&weights).unwrap()) {
            let shown = f64::from(code) / f64::from(LEVELS);
            assert!((shown - f64::from(*weight)).abs() < 1e-5, "{weight} is shown as {shown}");
        }
    }

    #[test]
    fn ends_rounding_and_nan() {
        assert_eq!(encode(&[0.0, 1.0, f32::NAN, -0.0]), Ok(vec![0, LEVELS, NAN, 0]));
        assert_eq!(encode(&[-1e-5, 1.0 + 1e-5]), Ok(vec![0, LEVELS]));
        for value in [-0.001, 1.001, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(encode(&[0.5, value]), Err(1));
        }
    }
}
