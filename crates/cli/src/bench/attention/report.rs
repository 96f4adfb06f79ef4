//! What `attentia bench attention` found, and how it is printed.

use attentia::tensor::DType;
use serde::Serialize;
use std::io::Write;

/// What is printed as JSON, and drawn.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) version: &'static str,
    pub(super) device: String,
    pub(super) isa: &'static str,
    pub(super) threads: usize,
    pub(super) dtype: &'static str,
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) dim: usize,
    /// As many as keys, if it is not here.
    pub(super) queries: Option<usize>,
    pub(super) causal: bool,
    pub(super) rounds: usize,
    pub(super) seed: u64,
    /// Of multiply-adds in f32, half of it for f64, or of bf16 in pairs: the best of all rounds.
    pub(super) peak_gflops: f64,
    /// Whether kernels multiply bf16 in pairs.
    pub(super) in_pairs: bool,
    pub(super) measurements: Vec<Measurement>,
}

impl Report {
    /// The call and the machine, in a line.
    pub(super) fn setting(&self) -> String {
        let Report { dtype, batch, heads, kv_heads, dim, threads, isa, rounds, .. } = self;
        let shared = if heads == kv_heads { String::new() } else { format!(" on {kv_heads} of keys") };
        let queries = self.queries.map_or(String::new(), |queries| format!(", queries {queries}"));
        let causal = if self.causal { ", causal" } else { "" };
        format!(
            "{dtype}, batch {batch}, {heads} heads{shared}, dim {dim}{queries}{causal}; {isa}, threads {threads}, rounds {rounds}"
        )
    }

    /// The peak, and what it is of.
    pub(super) fn peak(&self) -> String {
        let of = match () {
            () if self.in_pairs => "bf16 multiplied in pairs",
            () if self.dtype == DType::F64.name() => "half of f32's multiply-adds",
            () => "multiply-adds in f32",
        };
        format!("{:.0} GFLOP/s, {of}, best of the same rounds", self.peak_gflops)
    }

    pub(super) fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(out, "attention, {}", self.setting())?;
        writeln!(out, "peak {}\n", self.peak())?;
        writeln!(
            out,
            "{:32} {:>19} {:>15} {:>13} {:>8} {:>18}",
            "", "time, ms", "GFLOP/s", "% of peak", "of", "memory, MiB"
        )?;
        writeln!(
            out,
            "{:>7} {:24} {:>9} {:>9} {:>7} {:>7} {:>6} {:>6} {:>8} {:>8} {:>9}  path",
            "tokens", "pass", "median", "best", "median", "best", "median", "best", "forward", "most", "workspace"
        )?;
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        for m in &self.measurements {
            let workspace = m.workspace_bytes.map_or("-".to_owned(), |bytes| format!("{:.2}", mib(bytes)));
            writeln!(
                out,
                "{:7} {:24} {:9.3} {:9.3} {:7.1} {:7.1} {:6.1} {:6.1} {:7.2}x {:8.2} {workspace:>9}  {}",
                m.tokens,
                m.pass,
                m.median_milliseconds,
                m.best_milliseconds,
                m.gflops,
                m.best_gflops,
                m.percent_of_peak,
                m.best_percent_of_peak,
                m.of_forward,
                mib(m.peak_bytes),
                m.path()
            )?;
        }
        for (m, reading) in self.measurements.iter().filter_map(|m| Some((m, m.reading.as_ref()?))) {
            let Reading { gb, gb_per_s, best_gb_per_s, read_gb_per_s } = reading;
            writeln!(
                out,
                "{:7} keys and values, {:.1} MB, at {gb_per_s:.1} GB/s, best {best_gb_per_s:.1}; reading alone {read_gb_per_s:.1}: {:.0} %, best {:.0} %",
                m.tokens,
                1e3 * gb,
                100.0 * gb_per_s / read_gb_per_s,
                100.0 * best_gb_per_s / read_gb_per_s
            )?;
        }
        Ok(())
    }
}

/// A pass over a length.
#[derive(Serialize)]
pub(super) struct Measurement {
    pub(super) tokens: usize,
    pub(super) pass: &'static str,
    pub(super) repetitions: usize,
    /// Of the rounds, each of which counts with the median of its repetitions.
    pub(super) median_milliseconds: f64,
    pub(super) best_milliseconds: f64,
    /// Useful work of a repetition.
    pub(super) gflop: f64,
    /// By the median time.
    pub(super) gflops: f64,
    pub(super) best_gflops: f64,
    pub(super) percent_of_peak: f64,
    pub(super) best_percent_of_peak: f64,
    /// Median time, as a multiple of the forward's.
    pub(super) of_forward: f64,
    /// Of a few queries: how fast keys and values were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reading: Option<Reading>,
    /// The kernel that ran, or null.
    pub(super) kernel: Option<&'static str>,
    /// The kernel's scratch memory, as it tells.
    pub(super) workspace_bytes: Option<usize>,
    /// Why there was no kernel, or null.
    pub(super) composed: Option<String>,
    /// The most that the device's pool held during the call beyond the operands: results, scratch, intermediate values.
    pub(super) peak_bytes: usize,
}

/// A forward of a few queries as what it is: one reading of keys and values.
#[derive(Serialize)]
pub(super) struct Reading {
    /// What is read, in GB.
    pub(super) gb: f64,
    /// By the median time.
    pub(super) gb_per_s: f64,
    pub(super) best_gb_per_s: f64,
    /// Reading the same memory and nothing else, the best of all rounds.
    pub(super) read_gb_per_s: f64,
}

impl Measurement {
    /// Which path it took, in words.
    pub(super) fn path(&self) -> String {
        match (self.kernel, &self.composed) {
            (Some(kernel), _) => format!("kernel {kernel}"),
            (None, Some(why)) => format!("composed: {why}"),
            (None, None) => "composed".to_owned(),
        }
    }
}
