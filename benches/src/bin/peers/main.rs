//! Ours and PyTorch's in the same run: rounds that alternate slices of both, ratios of medians over the rounds. Attention also
//! beside ONNX Runtime, candle and burn.
//!
//! ```text
//! cargo run --release -p attentia-benches --bin peers -- kernels [--beside candle,burn]
//! cargo run --release -p attentia-benches --bin peers -- attention [128 512 2048 …] [--dtype bf16] [--heads 1] [--queries 1] [--beside candle]
//! cargo run --release -p attentia-benches --bin peers -- accuracy [128 1024 …]
//! cargo run --release -p attentia-benches --bin peers -- training [quickstart base base-dropout base-long …]
//! cargo run --release -p attentia-benches --bin peers -- decoding
//! cargo run --release -p attentia-benches --bin peers -- memory
//! cargo run --release -p attentia-benches --bin peers -- tokens          (without PyTorch)
//! ```

#![forbid(unsafe_code)]

mod accuracy;
mod attention;
mod decoding;
mod kernels;
mod training;

use anyhow::{Context, Result};
use attentia_benches::{
    peer::{Peer, Setting, number},
    timing::{Summary, measure, summarise},
};
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, io::Write, path::PathBuf};
use training::Model;

/// Time Attentia beside PyTorch, in one run
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Threads of both
    #[arg(long, global = true, default_value_t = 2)]
    threads: usize,
    /// Rounds; each has a slice of ours and a slice of PyTorch's
    #[arg(long, global = true, default_value_t = 15)]
    rounds: usize,
    /// Write the results to this file as JSON
    #[arg(long, global = true)]
    json: Option<PathBuf>,
    /// Let PyTorch's MKL use AVX-512 on processors of any maker (not its default)
    #[arg(long, global = true)]
    unlocked: bool,
}

#[derive(Clone, Subcommand)]
enum What {
    /// Products, softmax, layer norm, GELU, scalar addition
    Kernels {
        /// Other peers than PyTorch, for scalar addition
        #[arg(long, value_enum, value_delimiter = ',')]
        beside: Vec<RustPeer>,
    },
    /// Attention, full and causal, forward and with gradients
    Attention(attention::Shapes),
    /// How far attention in f32 is from f64: ours, its composition from primitives, and PyTorch's
    Accuracy(accuracy::Shapes),
    /// Training steps of the same models on the same batches
    Training {
        /// Which models; all where none is named
        #[arg(value_enum)]
        models: Vec<Model>,
    },
    /// Writing with `base`: source of 32 tokens, 64 steps, with and without cache
    Decoding,
    /// Greatest resident memory of a process that trains `base`
    Memory,
    /// What `base` writes with and without cache, without PyTorch: an error if any token differs
    Tokens {
        /// Sentences, each written greedily and with four beams
        #[arg(long, default_value_t = 200)]
        sentences: usize,
    },
}

/// Rust libraries, built in `rust-peers`.
#[derive(Clone, Copy, ValueEnum)]
enum RustPeer {
    Candle,
    Burn,
}

impl RustPeer {
    fn start(self, threads: usize) -> Result<Peer> {
        let name = match self {
            RustPeer::Candle => "candle",
            RustPeer::Burn => "burn",
        };
        Peer::rust(name, threads, true)
    }
}

/// One line of the report.
#[derive(Serialize)]
struct Comparison {
    name: String,
    ours: Summary,
    pytorch: Summary,
    /// PyTorch's median over ours: above 1 we are faster.
    speed: f64,
    /// Other peers by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    others: BTreeMap<&'static str, Summary>,
}

impl Comparison {
    fn new(name: String, ours: Summary, pytorch: Summary) -> Comparison {
        Comparison { name, speed: pytorch.median_ns / ours.median_ns, ours, pytorch, others: BTreeMap::new() }
    }

    /// The same of the best times. Where something else wants the cores, PyTorch's busy-waiting threads lose whole time
    /// slices and its median says little; the best does not.
    fn best_speed(&self) -> f64 {
        self.pytorch.best_ns / self.ours.best_ns
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let What::Tokens { sentences } = arguments.what {
        return decoding::tokens(arguments.threads, sentences);
    }
    let setting = Setting { tuned_allocator: true, all_isa: arguments.unlocked };
    let mut peer = Peer::pytorch(arguments.threads, setting)?;
    let hello = peer.ask(&json!({"op": "hello"}))?;
    eprintln!("PyTorch {} ({}), {} threads", hello["torch"], hello["isa"], arguments.threads);
    let comparisons = match &arguments.what {
        What::Kernels { beside } => kernels::kernels(&mut peer, &arguments, beside)?,
        What::Attention(shapes) => attention::attention(&mut peer, &arguments, shapes)?,
        What::Training { models } => training::training(&mut peer, &arguments, models)?,
        What::Decoding => decoding::decoding(&mut peer, &arguments)?,
        What::Accuracy(shapes) => return accuracy::accuracy(&mut peer, &hello, &arguments, shapes),
        What::Memory => return training::memory(&mut peer, &arguments),
        What::Tokens { .. } => return Ok(()),
    };
    println!("{:44} {:>22} {:>22} {:>14}", "", "ours, µs", "PyTorch, µs", "speed");
    println!("{:44} {:>22} {:>22} {:>14}", "", "median (best)", "median (best)", "median (best)");
    let times = |s: &Summary| format!("{:.1} ({:.1})", s.median_ns / 1e3, s.best_ns / 1e3);
    for c in &comparisons {
        let speed = format!("{:.2}x ({:.2}x)", c.speed, c.best_speed());
        println!("{:44} {:>22} {:>22} {speed:>14}", c.name, times(&c.ours), times(&c.pytorch));
        for (name, other) in &c.others {
            let [speed, best] = [other.median_ns / c.ours.median_ns, other.best_ns / c.ours.best_ns];
            println!("{:>67} {:>22} {:>14}", name, times(other), format!("{speed:.2}x ({best:.2}x)"));
        }
    }
    for group in ["product", "softmax", "layer_norm", "gelu", "attention"] {
        let members: Vec<&Comparison> = comparisons.iter().filter(|c| c.name.starts_with(group)).collect();
        let mean = |speed: &dyn Fn(&Comparison) -> f64| {
            (members.iter().map(|c| speed(c).ln()).sum::<f64>() / members.len() as f64).exp()
        };
        if members.len() > 1 {
            println!("{group}: geometric mean {:.2}x ({:.2}x)", mean(&|c| c.speed), mean(&|c| c.best_speed()));
        }
    }
    if let Some(path) = arguments.json {
        let report = json!({"pytorch": hello, "rounds": arguments.rounds, "comparisons": comparisons});
        std::fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Alternates slices, and takes the median over the rounds of each slice's median.
fn compare(
    name: String,
    peer: &mut Peer,
    request: Value,
    rounds: usize,
    ours: impl FnMut() -> attentia::Result<()>,
) -> Result<Comparison> {
    compare_all(name, peer, &mut [], request, rounds, ours)
}

/// The same with a slice of each of the others too.
fn compare_all(
    name: String,
    peer: &mut Peer,
    others: &mut [&mut Peer],
    mut request: Value,
    rounds: usize,
    mut ours: impl FnMut() -> attentia::Result<()>,
) -> Result<Comparison> {
    const SLICE: f64 = 0.04;
    request["seconds"] = SLICE.into();
    let (mut mine, mut theirs) = (Slices::default(), Slices::default());
    let mut of_others: Vec<Slices> = others.iter().map(|_| Slices::default()).collect();
    for _ in 0..rounds {
        mine.add(measure(SLICE, &mut ours)?);
        theirs.add(slice(peer, &request)?);
        for (peer, slices) in others.iter_mut().zip(&mut of_others) {
            slices.add(slice(peer, &request)?);
        }
    }
    let (ours, pytorch) = (mine.summary(), theirs.summary());
    let others = others.iter().map(|peer| peer.name()).zip(of_others.into_iter().map(Slices::summary)).collect();
    eprint!(".");
    std::io::stderr().flush()?;
    Ok(Comparison { others, ..Comparison::new(name, ours, pytorch) })
}

/// A slice of a peer's work.
fn slice(peer: &mut Peer, request: &Value) -> Result<Summary> {
    let answer = peer.ask(request)?;
    Ok(Summary { median_ns: number(&answer, "median_ns")?, best_ns: number(&answer, "best_ns")? })
}

/// Slices of one side.
#[derive(Default)]
struct Slices(Vec<Summary>);

impl Slices {
    fn add(&mut self, slice: Summary) {
        self.0.push(slice);
    }

    /// The median of medians, the best of all.
    fn summary(self) -> Summary {
        let best_ns = self.0.iter().map(|slice| slice.best_ns).fold(f64::INFINITY, f64::min);
        let mut medians: Vec<f64> = self.0.iter().map(|slice| slice.median_ns).collect();
        Summary { best_ns, ..summarise(&mut medians) }
    }
}
