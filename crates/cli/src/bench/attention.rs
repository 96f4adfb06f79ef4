//! `attentia bench attention`: time, rate and memory of attention over a list of lengths.
//!
//! ```text
//! for each length and pass: once on a device of its own, whose pool then tells the memory; once to warm up
//! for each round
//!     for each length
//!         probe the peak
//!         for each pass: repeat for a slice of time
//! ```
//!
//! Rounds go around all lengths: a machine that is busy for a while slows a round of each, not one of them.

mod page;
mod pass;
mod report;

use super::median;
use crate::{Machine, usage};
use anyhow::Result;
use attentia::{
    backend::{Alignment, Causal, Support},
    cpu::CpuBackend,
    file::{check_writable, write_atomic},
    tensor::{self, DType, Device, RngKey, Tensor, Var, grad, no_grad},
    train::Progress,
};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use pass::{MAPS, Pass};
use report::{Measurement, Reading, Report};
use std::{
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

/// A pass is repeated for this long in each round, at least once.
const SLICE: Duration = Duration::from_millis(20);

/// Tokens that a sequence of the bench has, one after the other in an order without a pattern.
const VOCABULARY: i64 = 1000;

/// Matrices of scores that a composition holds of a chunk of rows at the same time, at least: products, scores, weights.
const SCORE_MATRICES: f64 = 3.0;

#[derive(Debug, clap::Args)]
pub(crate) struct Attention {
    /// Type of queries, keys and values
    #[arg(long, default_value = "f32", value_parser = float_parser())]
    dtype: DType,
    /// Sequences at a time
    #[arg(long, default_value_t = 1, value_name = "B")]
    batch: usize,
    /// Query heads
    #[arg(long, default_value_t = 8, value_name = "H")]
    heads: usize,
    /// Key and value heads, each shared by as many query heads; as many as query heads if left out
    #[arg(long, value_name = "H")]
    kv_heads: Option<usize>,
    /// Head dimension
    #[arg(long, default_value_t = 64, value_name = "D")]
    dim: usize,
    /// Numbers of keys, and of queries unless --queries is given, as in 128,512,2048; each is timed, the shortest first
    #[arg(long, default_value = "128,512,2048", value_name = "T", value_delimiter = ',', num_args = 1..)]
    seq: Vec<usize>,
    /// Queries, the last of the positions: 1 is a step of decoding
    #[arg(long, value_name = "T")]
    queries: Option<usize>,
    /// Hide from each query the keys behind it
    #[arg(long)]
    causal: bool,
    /// Time the forward with the gradients of queries, keys and values too
    #[arg(long)]
    backward: bool,
    /// Time the forward with statistics of its weights too: entropy, greatest weight and mean distance, and then all that
    /// there are; and maps of the weights after a forward: what keys and distances receive, and blocks of 64; with --backward
    /// also maps of the weights times their gradients. Their price is the multiple of the plain forward's time
    #[arg(long)]
    stats: bool,
    /// Rounds over all lengths; medians are taken over them
    #[arg(long, default_value_t = 7, value_name = "N")]
    rounds: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write a page with charts over the length and all numbers to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Reads the name of a float type.
fn float_parser() -> impl TypedValueParser<Value = DType> {
    PossibleValuesParser::new(DType::FLOATS.map(DType::name)).map(|name| {
        // The parser lets only these names through.
        DType::FLOATS.into_iter().find(|dtype| dtype.name() == name).unwrap_or(DType::F32)
    })
}

/// Most queries whose time is that of reading keys and values.
const FEW_QUERIES: usize = 4;

/// What attention reads, and the cotangent of its output.
struct Operands {
    /// `[B, H, T, D]`, `[B, H_kv, S, D]` twice
    leaves: [Var; 3],
    /// `[B, H, T, D]`
    dout: Tensor,
    /// Token ids `[B, T]` and `[B, S]`
    tokens: [Tensor; 2],
    /// `[B, H, T]`
    lse: Tensor,
}

/// A length on its way through the rounds.
struct Case {
    tokens: usize,
    operands: Operands,
    timings: Vec<Timing>,
    /// Rate of reading keys and values, GB/s, the best of all rounds; of a few queries.
    read_rate: Option<f64>,
}

/// What is known of a pass over a length so far.
struct Timing {
    pass: Pass,
    support: Support,
    peak_bytes: usize,
    /// Medians of the rounds, seconds.
    rounds: Vec<f64>,
    best: f64,
    repetitions: usize,
}

impl Attention {
    pub(crate) fn run(mut self, machine: &Machine) -> Result<()> {
        self.seq.sort_unstable();
        self.seq.dedup();
        self.check()?;
        let device = machine.device()?;
        let Some(cpu) = device.as_any().downcast_ref::<CpuBackend>() else {
            return Err(usage(
                format!("bench attention on {device}, which has no peak to measure"),
                "leave --device out; it times the cpu",
            ));
        };
        self.check_memory(&device)?;
        if let Some(path) = &self.html {
            check_writable(path)?;
        }
        let report = self.measure(machine, &device, cpu)?;
        let mut out = std::io::stdout();
        match self.json {
            true => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
            false => report.print(&mut out)?,
        }
        if let Some(path) = &self.html {
            write_atomic(path, page::of(&report)?.as_bytes())?;
            tell!("report: {}", path.display());
        }
        Ok(())
    }

    fn kv_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }

    fn passes(&self) -> impl Iterator<Item = Pass> + use<> {
        let optional = [
            (self.stats, Pass::Statistics),
            (self.stats, Pass::AllStatistics),
            (self.stats, Pass::Maps),
            (self.backward, Pass::Gradients),
            (self.stats && self.backward, Pass::GradientMaps),
        ];
        [Pass::Forward].into_iter().chain(optional.into_iter().filter(|(asked, _)| *asked).map(|(_, pass)| pass))
    }

    /// What can be said of the options alone.
    fn check(&self) -> Result<()> {
        let (heads, kv_heads) = (self.heads, self.kv_heads());
        for (name, value, help) in [
            ("batch", self.batch, "at least one sequence"),
            ("heads", heads, "at least one head, often 8 to 32"),
            ("kv-heads", kv_heads, "at least one; left out, as many as --heads"),
            ("queries", self.queries.unwrap_or(1), "at least one; left out, as many as keys"),
            ("dim", self.dim, "at least 1, often 64 or 128"),
            ("rounds", self.rounds, "at least one round, and more for a median worth its name"),
        ] {
            if value == 0 {
                return Err(usage(format!("--{name} 0"), help));
            }
        }
        if heads % kv_heads != 0 {
            let divisors: Vec<String> = (1..=heads).filter(|n| heads % n == 0).map(|n| n.to_string()).collect();
            return Err(usage(
                format!("--heads {heads} cannot share --kv-heads {kv_heads} evenly"),
                format!("a number that divides {heads}: {}", divisors.join(", ")),
            ));
        }
        if self.seq.first().is_none_or(|&tokens| tokens == 0) {
            return Err(usage("--seq without a length, or with 0", "lengths from 1, as in --seq 128,512,2048"));
        }
        Ok(())
    }

    /// Refuses what memory cannot hold, where the system tells how much is available.
    fn check_memory(&self, device: &Device) -> Result<()> {
        let Some(available) = available_memory() else { return Ok(()) };
        let elements = |heads: usize, tokens: usize, last: usize| {
            [self.batch, heads, tokens, last].into_iter().map(|extent| extent as f64).product::<f64>()
        };
        let size = self.dtype.size() as f64;
        let operands = |tokens| {
            let queries = elements(self.heads, self.queries(tokens), self.dim);
            2.0 * size * (queries + elements(self.kv_heads(), tokens, self.dim))
        };
        let all: f64 = self.seq.iter().map(|&tokens| operands(tokens)).sum();
        for (tokens, pass) in self.seq.iter().flat_map(|&tokens| self.passes().map(move |pass| (tokens, pass))) {
            let extents = self.extents(tokens, device).map_err(|error| usage(error, "smaller extents"))?;
            let (scratch, why) = match self.support(&extents.0, &extents.1, pass)? {
                Support::Kernel { workspace, .. } => (workspace as f64, String::new()),
                Support::Compose { why } => {
                    let [matrix, row] = [self.queries(tokens), 1].map(|rows| size * elements(self.heads, rows, tokens));
                    let chunk = matrix.min(row.max(tensor::Attention::CHUNK_BYTES as f64));
                    (SCORE_MATRICES * chunk, format!(": without a kernel score matrices stand in memory, and {why}"))
                }
            };
            // Operands are there once more while the memory of a pass is measured.
            let needed = all + operands(tokens) + scratch;
            if needed > available {
                let gib = |bytes: f64| bytes / f64::from(1 << 30);
                let (pass, needed, available) = (pass.name(), gib(needed), gib(available));
                return Err(usage(
                    format!("{pass} of {tokens} tokens needs {needed:.1} GiB, and {available:.1} are available{why}"),
                    "shorter lengths in --seq, or fewer --heads or --batch",
                ));
            }
        }
        Ok(())
    }

    fn measure(&self, machine: &Machine, device: &Device, cpu: &CpuBackend) -> Result<Report> {
        let seed = machine.seed.unwrap_or(1);
        let mut progress = Progress::new("attention", (self.seq.len() * (self.rounds + 1)) as u64);
        progress.advance(0);
        let mut done = 0;
        let mut step = || {
            done += 1;
            progress.advance(done);
        };
        let mut cases = Vec::new();
        for &tokens in &self.seq {
            let operands = self.operands(tokens, device, RngKey::new(seed))?;
            let timings = self.passes().map(|pass| {
                let peak_bytes = self.peak_bytes(machine, tokens, pass)?;
                self.call(&operands, pass)?;
                let support = self.support(&operands.leaves.each_ref().map(Var::tensor), &operands.tokens, pass)?;
                Ok(Timing { pass, support, peak_bytes, rounds: Vec::new(), best: f64::INFINITY, repetitions: 0 })
            });
            let timings = timings.collect::<Result<_>>()?;
            cases.push(Case { tokens, operands, timings, read_rate: None });
            step();
        }
        let (mut peak, mut in_pairs) = (0f64, false);
        for _ in 0..self.rounds {
            for Case { tokens, operands, timings, read_rate } in &mut cases {
                let pairs = if self.dtype == DType::Bf16 { cpu.measure_pair_peak() } else { None };
                in_pairs |= pairs.is_some();
                peak = peak.max(pairs.unwrap_or_else(|| cpu.measure_fma_peak()));
                if self.queries(*tokens) <= FEW_QUERIES {
                    let [_, k, v] = operands.leaves.each_ref().map(Var::tensor);
                    let rate = cpu.measure_read_rate(&[k.view()?, v.view()?]);
                    *read_rate = read_rate.iter().copied().chain(rate).reduce(f64::max);
                }
                for timing in timings {
                    let pass = timing.pass;
                    timing.round(|| self.call(operands, pass))?;
                }
                step();
            }
        }
        progress.finish();
        // Half as many f64 fit into a register.
        let peak = if self.dtype == DType::F64 { peak / 2.0 } else { peak };
        Ok(Report {
            version: env!("CARGO_PKG_VERSION"),
            device: device.to_string(),
            isa: cpu.isa().name(),
            threads: cpu.threads(),
            dtype: self.dtype.name(),
            batch: self.batch,
            heads: self.heads,
            kv_heads: self.kv_heads(),
            dim: self.dim,
            queries: self.queries,
            causal: self.causal,
            rounds: self.rounds,
            seed,
            peak_gflops: peak,
            in_pairs,
            measurements: cases.into_iter().flat_map(|case| self.measurements(case, peak)).collect(),
        })
    }

    fn measurements(&self, case: Case, peak: f64) -> Vec<Measurement> {
        let mut forward = f64::NAN;
        let measurement = |mut timing: Timing| {
            let (median, best) = (median(&mut timing.rounds), timing.best);
            if timing.pass == Pass::Forward {
                forward = median;
            }
            let gflop = self.gflop(case.tokens, timing.pass);
            let (kernel, workspace_bytes, composed) = match timing.support {
                Support::Kernel { name, workspace } => (Some(name), Some(workspace), None),
                Support::Compose { why } => (None, None, Some(why)),
            };
            Measurement {
                tokens: case.tokens,
                pass: timing.pass.name(),
                repetitions: timing.repetitions,
                median_milliseconds: 1e3 * median,
                best_milliseconds: 1e3 * best,
                gflop,
                gflops: gflop / median,
                best_gflops: gflop / best,
                percent_of_peak: 100.0 * gflop / median / peak,
                best_percent_of_peak: 100.0 * gflop / best / peak,
                of_forward: median / forward,
                reading: case.read_rate.filter(|_| timing.pass == Pass::Forward).map(|rate| {
                    let gb = 1e-9 * self.key_bytes(case.tokens);
                    Reading { gb, gb_per_s: gb / median, best_gb_per_s: gb / best, read_gb_per_s: rate }
                }),
                kernel,
                workspace_bytes,
                composed,
                peak_bytes: timing.peak_bytes,
            }
        };
        case.timings.into_iter().map(measurement).collect()
    }

    /// Bytes of keys and values.
    fn key_bytes(&self, tokens: usize) -> f64 {
        let extents = [2, self.batch, self.kv_heads(), tokens, self.dim, self.dtype.size()];
        extents.into_iter().map(|extent| extent as f64).product()
    }

    /// The number of queries over so many keys.
    fn queries(&self, tokens: usize) -> usize {
        self.queries.unwrap_or(tokens)
    }

    /// Useful work in units of 10⁹ operations, over visible keys only.
    fn gflop(&self, tokens: usize, pass: Pass) -> f64 {
        // Under causality queries before the first key see none.
        let queries = if self.causal { self.queries(tokens).min(tokens) } else { self.queries(tokens) };
        let (tokens, queries) = (tokens as f64, queries as f64);
        let hidden = if self.causal { queries * (queries - 1.0) / 2.0 } else { 0.0 };
        let visible = tokens * queries - hidden;
        let forward = 4e-9 * visible * (self.batch as f64) * (self.heads as f64) * (self.dim as f64);
        pass.forwards() * forward
    }

    /// `[B, H, T, D]`, and `[B, H_kv, S, D]` twice.
    fn shapes(&self, tokens: usize) -> [[usize; 4]; 3] {
        let of = |heads, positions| [self.batch, heads, positions, self.dim];
        [of(self.heads, self.queries(tokens)), of(self.kv_heads(), tokens), of(self.kv_heads(), tokens)]
    }

    fn operands(&self, tokens: usize, device: &Device, key: RngKey) -> Result<Operands> {
        let normal = |call: u64, shape: &[usize]| Tensor::randn(key.call(call), shape, self.dtype, device);
        let [q, k, v] = self.shapes(tokens);
        let leaves = [Var::new(normal(1, &q)?)?, Var::new(normal(2, &k)?)?, Var::new(normal(3, &v)?)?];
        // The last query stands at the last key.
        let ids: Vec<i64> = (0..tokens as i64).map(|i| (i % VOCABULARY).pow(2) * 7919 % VOCABULARY).collect();
        let ids = Tensor::from_slice(&ids, &[1, tokens], device)?.broadcast_to(&[self.batch, tokens])?;
        let queries = match tokens.checked_sub(q[2]) {
            Some(first) => ids.narrow(1, first, q[2])?,
            None => Tensor::zeros(&[self.batch, q[2]], DType::I64, device)?,
        };
        let (count, tokens) = (tokens, [queries, ids]);
        // Of scores with variance 1, about: a forward that left it would count in the memory of every pass.
        let about = (count as f64).ln() + 0.5;
        let lse = Tensor::full(&q[..3], about, self.dtype.statistics(), device)?;
        Ok(Operands { leaves, dout: normal(4, &q)?, tokens, lse })
    }

    /// Operands of the same shapes whose elements are all one: no memory.
    fn extents(&self, tokens: usize, device: &Device) -> Result<([Tensor; 3], [Tensor; 2])> {
        let element = Var::new(Tensor::zeros(&[1, 1, 1, 1], self.dtype, device)?)?.tensor();
        let [q, k, v] = self.shapes(tokens);
        let id = Tensor::zeros(&[1, 1], DType::I64, device)?;
        let ids = [id.broadcast_to(&[self.batch, q[2]])?, id.broadcast_to(&[self.batch, tokens])?];
        Ok(([element.broadcast_to(&q)?, element.broadcast_to(&k)?, element.broadcast_to(&v)?], ids))
    }

    /// What the pool of a device of its own held at most during the first call, beyond the operands.
    fn peak_bytes(&self, machine: &Machine, tokens: usize, pass: Pass) -> Result<usize> {
        let device = machine.device()?;
        let operands = self.operands(tokens, &device, RngKey::new(0))?;
        let live = device.memory().live;
        self.call(&operands, pass)?;
        Ok(device.memory().peak.saturating_sub(live))
    }

    fn attention<'a>(
        &self,
        [q, k, v]: &'a [Tensor; 3],
        [queries, keys]: &'a [Tensor; 2],
        pass: Pass,
    ) -> tensor::Attention<'a> {
        tensor::Attention {
            causal: if self.causal { Causal::Yes(Alignment::BottomRight) } else { Causal::No },
            statistics: pass.statistics(),
            tokens: Some(tensor::Tokens { queries, keys }),
            ..tensor::Attention::new(q, k, v)
        }
    }

    fn call(&self, Operands { leaves, dout, tokens, lse }: &Operands, pass: Pass) -> tensor::Result<()> {
        let leaves = leaves.each_ref().map(Var::tensor);
        let attention = self.attention(&leaves, tokens, pass);
        match pass {
            Pass::Forward | Pass::Statistics | Pass::AllStatistics => no_grad(|| attention.run()).map(drop),
            Pass::Maps => no_grad(|| attention.maps(lse, &MAPS)).map(drop),
            Pass::GradientMaps => no_grad(|| attention.gradient_maps(lse, dout, &MAPS)).map(drop),
            Pass::Gradients => {
                let [q, k, v] = &leaves;
                grad(&[&attention.run()?.output], Some(&[dout]), &[q, k, v], false).map(drop)
            }
        }
    }

    /// Which path [`call`](Self::call) takes.
    fn support(&self, leaves: &[Tensor; 3], tokens: &[Tensor; 2], pass: Pass) -> Result<Support> {
        let attention = self.attention(leaves, tokens, pass);
        Ok(match pass {
            Pass::Forward | Pass::Statistics | Pass::AllStatistics => no_grad(|| attention.explain()),
            Pass::Maps => no_grad(|| attention.explain_maps()),
            Pass::GradientMaps => no_grad(|| attention.explain_gradient_maps()),
            Pass::Gradients => attention.explain(),
        }?)
    }
}

impl Timing {
    /// Repeats for a slice of time.
    fn round(&mut self, call: impl Fn() -> tensor::Result<()>) -> Result<()> {
        let (start, mut times) = (Instant::now(), Vec::new());
        while times.is_empty() || start.elapsed() < SLICE {
            let once = Instant::now();
            call()?;
            times.push(once.elapsed().as_secs_f64());
        }
        self.repetitions += times.len();
        self.best = times.iter().copied().fold(self.best, f64::min);
        self.rounds.push(median(&mut times));
        Ok(())
    }
}

/// Bytes that processes may still take, where the system tells.
fn available_memory() -> Option<f64> {
    let table = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = table.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
}
