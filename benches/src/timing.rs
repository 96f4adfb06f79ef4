//! Samples, and what is reported of them.

use serde::Serialize;
use std::time::Instant;

/// A sample lasts at least this long; shorter work is repeated within it.
const SAMPLE_NS: f64 = 20_000.0;

/// A call that lasts longer is a sample as it is, after one to warm up: rounds give the repetitions.
const LONG_NS: f64 = 100e6;

/// Median and best of some samples, in nanoseconds per call.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Summary {
    /// Median.
    pub median_ns: f64,
    /// Best.
    pub best_ns: f64,
}

/// Calls `work` for about `seconds` and summarises the samples, at least five of them; warms up first. A call that lasts
/// longer than that, and than 100 ms, is the only sample.
pub fn measure<E>(seconds: f64, mut work: impl FnMut() -> Result<(), E>) -> Result<Summary, E> {
    work()?;
    let once = Instant::now();
    work()?;
    let once = once.elapsed().as_nanos().max(1) as f64;
    if once > LONG_NS.max(seconds * 1e9) {
        return Ok(summarise(&mut [once]));
    }
    let calls = (SAMPLE_NS / once).ceil().max(1.0) as usize;
    let mut samples = Vec::new();
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < seconds || samples.len() < 5 {
        let sample = Instant::now();
        for _ in 0..calls {
            work()?;
        }
        samples.push(sample.elapsed().as_nanos() as f64 / calls as f64);
    }
    Ok(summarise(&mut samples))
}

/// Median and best; zero of nothing.
pub fn summarise(samples: &mut [f64]) -> Summary {
    samples.sort_by(f64::total_cmp);
    let median_ns = samples.get(samples.len() / 2).copied().unwrap_or(0.0);
    Summary { median_ns, best_ns: samples.first().copied().unwrap_or(0.0) }
}
