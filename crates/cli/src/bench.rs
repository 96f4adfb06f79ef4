//! `attentia bench`: how fast this machine is at what matters here. Peers are compared in the package `benches`.

mod attention;

use crate::{Machine, usage};
use anyhow::Result;
use attentia::{
    data::{Batch, Batches, Example},
    nn::Scope,
    tensor::{DType, Device, RngKey, Tensor},
    train::{TrainConfig, Trainer},
    transformer::{EncoderDecoder, EncoderDecoderConfig, GenerateOptions, generate},
};
use serde::Serialize;
use std::{
    io::Write,
    time::{Duration, Instant},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    part: Option<Part>,
    /// Seconds for each line; 1 if left out
    #[arg(long, value_name = "X")]
    seconds: Option<f64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    /// Time attention over a list of lengths, beside the processor's peak
    ///
    /// Queries and keys have the same length. Each round times every length and probes the peak beside it, so that
    /// both see the same state of the machine. A row says which kernel ran, or why there was none and
    /// attention was composed of products and a softmax, with scores in memory.
    ///
    /// GFLOP/s count useful work: 4 operations for each query, visible key, head and element of the head dimension, and
    /// for gradients 2.5 times as much again. Hidden keys of --causal do not count. The peak is that of f32
    /// multiply-adds, half of it for f64. f16 is widened to f32, and so is bf16 but where the processor multiplies pairs of it
    /// faster: then its peak is that of pairs.
    ///
    /// Memory is the most that the device held during a call beyond queries, keys and values: results, scratch and
    /// intermediate values; the workspace is the part that a kernel tells of itself.
    Attention(attention::Attention),
}

#[derive(Serialize)]
struct Line {
    what: &'static str,
    /// Median of the repetitions.
    milliseconds: f64,
    rate: f64,
    unit: &'static str,
    repetitions: usize,
}

impl Bench {
    pub(crate) fn run(self, machine: &Machine) -> Result<()> {
        match self.part {
            Some(Part::Attention(_)) if self.json || self.seconds.is_some() => Err(usage(
                "options of bench before attention",
                "attention has its own, behind it: attentia bench attention --rounds 7 --json",
            )),
            Some(Part::Attention(attention)) => attention.run(machine),
            None => self.overview(machine),
        }
    }

    fn overview(self, machine: &Machine) -> Result<()> {
        let device = machine.device()?;
        let mut out = std::io::stdout();
        let seconds = self.seconds.unwrap_or(1.0);
        let seconds = if seconds.is_nan() { 0.0 } else { seconds };
        let time = Duration::from_secs_f64(seconds.clamp(0.01, 600.0));
        let mut lines = Vec::new();
        if !self.json {
            writeln!(out, "{:44} {:>12} {:>14}", "f32, median", "ms", "rate")?;
        }
        let mut add = |line: Line| -> Result<()> {
            if !self.json {
                writeln!(out, "{:44} {:12.3} {:14.1} {}", line.what, line.milliseconds, line.rate, line.unit)?;
            }
            lines.push(line);
            Ok(())
        };
        let normal = |seed, shape: &[usize]| Tensor::randn(RngKey::new(seed), shape, DType::F32, &device);
        for (what, n) in [("product 256 x 256 x 256", 256), ("product 1024 x 1024 x 1024", 1024)] {
            let (a, b) = (normal(1, &[n, n])?, normal(2, &[n, n])?);
            add(measure(what, time, 2e-9 * (n * n * n) as f64, "GFLOP/s", || Ok(a.matmul(&b).map(drop)?))?)?;
        }
        let x = normal(3, &[2048, 1024])?;
        let gigabytes = 2e-9 * (x.count() * size_of::<f32>()) as f64;
        add(measure("softmax, 2048 rows of 1024", time, gigabytes, "GB/s", || Ok(x.softmax(-1).map(drop)?))?)?;
        add(measure("layer norm, 2048 rows of 1024", time, gigabytes, "GB/s", || {
            Ok(x.layer_norm(None, None, 1e-5).map(drop)?)
        })?)?;
        add(training("training step, tiny, 64 pairs of 16 tokens", EncoderDecoderConfig::tiny(3000), time, &device)?)?;
        add(training(
            "training step, small, 64 pairs of 16 tokens",
            EncoderDecoderConfig::small(8000),
            time,
            &device,
        )?)?;
        add(writing("translation, small, 16 x 32 tokens", time, &device)?)?;
        if self.json {
            let answer =
                serde_json::json!({"device": device.to_string(), "threads": machine.threads(), "lines": lines});
            writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&answer)?)?;
        }
        Ok(())
    }
}

/// Repeats for a time, at least three times behind one that warms up.
fn measure(
    what: &'static str,
    time: Duration,
    work: f64,
    unit: &'static str,
    mut run: impl FnMut() -> Result<()>,
) -> Result<Line> {
    run()?;
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || start.elapsed() < time {
        let once = Instant::now();
        run()?;
        times.push(once.elapsed().as_secs_f64());
    }
    let median = median(&mut times);
    Ok(Line { what, milliseconds: 1e3 * median, rate: work / median, unit, repetitions: times.len() })
}

/// The upper one of two middles.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

const PAIRS: usize = 64;
/// With its end mark.
const TOKENS: usize = 16;

fn training(what: &'static str, config: EncoderDecoderConfig, time: Duration, device: &Device) -> Result<Line> {
    let ids =
        |salt: usize| (0..TOKENS - 1).map(|i| (4 + (salt * 31 + i * 17) % (config.vocabulary - 4)) as u32).collect();
    let examples: Vec<Example> = (0..PAIRS).map(|n| Example { source: ids(n), target: ids(n + PAIRS) }).collect();
    let train = TrainConfig { batch_tokens: PAIRS * TOKENS, ..TrainConfig::default() };
    let batches =
        Batches::new(&examples, train.batch_tokens)?.in_order().collect::<attentia::data::Result<Vec<Batch>>>()?;
    let scope = Scope::new(device, DType::F32, 1);
    let model = EncoderDecoder::new(&scope, config.clone())?;
    let mut trainer = Trainer::new(model, scope.parameters(), &examples, train, device)?;
    measure(what, time, (2 * PAIRS * TOKENS) as f64, "tokens/s", || {
        for batch in &batches {
            trainer.accumulate(batch)?;
        }
        Ok(trainer.update().map(drop)?)
    })
}

fn writing(what: &'static str, time: Duration, device: &Device) -> Result<Line> {
    const ROWS: usize = 16;
    const LENGTH: usize = 32;
    let model = EncoderDecoder::new(&Scope::new(device, DType::F32, 1), EncoderDecoderConfig::small(8000))?;
    let ids: Vec<i64> = (0..ROWS * LENGTH).map(|i| 4 + (i as i64 * 37) % 7000).collect();
    let source = Tensor::from_slice(&ids, &[ROWS, LENGTH], device)?;
    let options = GenerateOptions { limit: LENGTH, may_end: false, ..GenerateOptions::default() };
    measure(what, time, (ROWS * LENGTH) as f64, "tokens/s", || {
        Ok(generate(&model, &source, &[LENGTH; ROWS], options).map(drop)?)
    })
}
