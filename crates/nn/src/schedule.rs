//! Learning-rate schedules.

use serde::{Deserialize, Serialize};

/// The learning rate as a function of the step, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Always the same.
    Constant {
        /// Learning rate.
        peak: f64,
    },
    /// Rises linearly to `peak` at step `warmup`, then falls with `√(warmup / step)` (Vaswani et al., 2017, §5.3).
    InverseSquareRoot {
        /// Greatest learning rate.
        peak: f64,
        /// Steps until it is reached.
        warmup: u64,
    },
    /// Rises linearly to `peak` at step `warmup`, then falls linearly to zero after step `total`.
    Linear {
        /// Greatest learning rate.
        peak: f64,
        /// Steps until it is reached.
        warmup: u64,
        /// Last step.
        total: u64,
    },
    /// Rises linearly to `peak` at step `warmup`, then falls along half a cosine to `floor` at step `total`
    /// (Loshchilov and Hutter, 2017, without restarts).
    Cosine {
        /// Greatest learning rate.
        peak: f64,
        /// Steps until it is reached.
        warmup: u64,
        /// Step at which `floor` is reached.
        total: u64,
        /// Learning rate from then on.
        floor: f64,
    },
}

impl Schedule {
    /// The learning rate of a step.
    pub fn at(&self, step: u64) -> f64 {
        let rise = |warmup: u64| step as f64 / warmup.max(1) as f64;
        match *self {
            Schedule::Constant { peak } => peak,
            Schedule::InverseSquareRoot { peak, warmup } => {
                peak * rise(warmup).min((warmup.max(1) as f64 / step.max(1) as f64).sqrt())
            }
            Schedule::Linear { peak, warmup, total } => {
                let fall = (total + 1).saturating_sub(step) as f64 / (total + 1).saturating_sub(warmup).max(1) as f64;
                peak * rise(warmup).min(fall.min(1.0))
            }
            Schedule::Cosine { peak, warmup, total, floor } => {
                if step < warmup {
                    return peak * rise(warmup);
                }
                let done = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
                floor + (peak - floor) * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos()) / 2.0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_peak_at_the_end_of_warm_up() {
        let root = Schedule::InverseSquareRoot { peak: 2.0, warmup: 100 };
        assert_eq!((root.at(50), root.at(100), root.at(400)), (1.0, 2.0, 1.0));
        let linear = Schedule::Linear { peak: 1.0, warmup: 10, total: 109 };
        assert_eq!((linear.at(5), linear.at(10), linear.at(60)), (0.5, 1.0, 0.5));
        assert!(linear.at(109) > 0.0 && linear.at(110) == 0.0 && linear.at(u64::MAX) == 0.0);
    }
}
