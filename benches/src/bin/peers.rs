//! Ours and PyTorch's in the same run: rounds that alternate slices of both, ratios of medians over the rounds.
//!
//! ```text
//! cargo run --release -p attentia-benches --bin peers -- kernels  [--json FILE]
//! cargo run --release -p attentia-benches --bin peers -- training [--json FILE]
//! ```

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use attentia::{
    backend::{Activation, DType, Device, SoftmaxKind, Source},
    data::{Batch, Batches, Example, Tokenizer},
    nn::{Schedule, Scope},
    tensor::{Tensor, Var},
    train::{TrainConfig, Trainer},
    transformer::{EncoderDecoder, EncoderDecoderConfig},
};
use attentia_benches::{
    operands::{Operand, cpu},
    peer::{Peer, Setting, number},
    timing::{Summary, measure, summarise},
};
use clap::{Parser, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};
use std::{io::Write, path::PathBuf};

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

#[derive(Clone, Copy, Subcommand)]
enum What {
    /// Products, softmax, layer norm, GELU, scalar addition
    Kernels,
    /// Training steps of quickstart's model on the same batches
    Training,
}

/// One line of the report.
#[derive(Serialize)]
struct Comparison {
    name: String,
    ours: Summary,
    pytorch: Summary,
    /// PyTorch's median over ours: above 1 we are faster.
    speed: f64,
}

impl Comparison {
    /// The same of the best times. Where something else wants the cores, PyTorch's busy-waiting threads lose whole time
    /// slices and its median says little; the best does not.
    fn best_speed(&self) -> f64 {
        self.pytorch.best_ns / self.ours.best_ns
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let setting = Setting { tuned_allocator: true, all_isa: arguments.unlocked };
    let mut peer = Peer::pytorch(arguments.threads, setting)?;
    let hello = peer.ask(&json!({"op": "hello"}))?;
    eprintln!("PyTorch {} ({}), {} threads", hello["torch"], hello["isa"], arguments.threads);
    let comparisons = match arguments.what {
        What::Kernels => kernels(&mut peer, &arguments)?,
        What::Training => vec![training(&mut peer, &arguments)?],
    };
    println!("{:36} {:>22} {:>22} {:>14}", "", "ours, µs", "PyTorch, µs", "speed");
    println!("{:36} {:>22} {:>22} {:>14}", "", "median (best)", "median (best)", "median (best)");
    let times = |s: &Summary| format!("{:.1} ({:.1})", s.median_ns / 1e3, s.best_ns / 1e3);
    for c in &comparisons {
        let speed = format!("{:.2}x ({:.2}x)", c.speed, c.best_speed());
        println!("{:36} {:>22} {:>22} {speed:>14}", c.name, times(&c.ours), times(&c.pytorch));
    }
    for group in ["product", "softmax", "layer_norm", "gelu"] {
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
    mut ours: impl FnMut() -> attentia::Result<()>,
) -> Result<Comparison> {
    const SLICE: f64 = 0.04;
    let mut request = request;
    request["seconds"] = SLICE.into();
    let (mut mine, mut theirs, mut best) = (Vec::new(), Vec::new(), [f64::INFINITY; 2]);
    for _ in 0..rounds {
        let summary = measure(SLICE, &mut ours)?;
        mine.push(summary.median_ns);
        best[0] = best[0].min(summary.best_ns);
        let answer = peer.ask(&request)?;
        theirs.push(number(&answer, "median_ns")?);
        best[1] = best[1].min(number(&answer, "best_ns")?);
    }
    let ours = Summary { best_ns: best[0], ..summarise(&mut mine) };
    let pytorch = Summary { best_ns: best[1], ..summarise(&mut theirs) };
    eprint!(".");
    std::io::stderr().flush()?;
    Ok(Comparison { name, speed: pytorch.median_ns / ours.median_ns, ours, pytorch })
}

fn kernels(peer: &mut Peer, arguments: &Arguments) -> Result<Vec<Comparison>> {
    let device = cpu(arguments.threads)?;
    let rounds = arguments.rounds;
    let mut all = Vec::new();
    let shapes = [
        (1, 256, 256, 256),
        (1, 512, 512, 512),
        (1, 1024, 1024, 1024),
        (1, 2048, 2048, 2048),
        (1, 512, 2048, 512),
        (1, 64, 512, 512),
        (1, 1, 3072, 768),
        (64, 128, 128, 64),
    ];
    for (batch, m, n, k) in shapes {
        for transpose_b in [false, true] {
            let name = format!("product {batch}x[{m}x{k}]x[{k}x{n}]{}", if transpose_b { " nt" } else { " nn" });
            let request = json!({
                "op": "matmul", "batch": batch, "m": m, "n": n, "k": k, "transpose_b": transpose_b,
            });
            let a = Operand::normal(&device, DType::F32, &[batch, m, k])?;
            let b = match transpose_b {
                true => Operand::normal(&device, DType::F32, &[batch, n, k])?.transposed(),
                false => Operand::normal(&device, DType::F32, &[batch, k, n])?,
            };
            let mut out = Operand::normal(&device, DType::F32, &[batch, m, n])?;
            all.push(compare(name, peer, request, rounds, || {
                device.matmul(a.view()?, b.view()?, false, out.view_mut()?)
            })?);
        }
    }
    for (rows, cols) in [(4096, 4096), (256, 512)] {
        let x = Operand::normal(&device, DType::F32, &[rows, cols])?;
        let mut out = Operand::normal(&device, DType::F32, &[rows, cols])?;
        let request = json!({"op": "softmax", "rows": rows, "cols": cols});
        all.push(compare(format!("softmax {rows}x{cols}"), peer, request, rounds, || {
            device.softmax(SoftmaxKind::Softmax, Source::View(x.view()?), None, out.view_mut()?)
        })?);
    }
    for (rows, cols) in [(16384, 768), (512, 768)] {
        let x = Operand::normal(&device, DType::F32, &[rows, cols])?;
        let vector = || Operand::normal(&device, DType::F32, &[cols]);
        let (weight, bias) = (vector()?, vector()?);
        let mut out = Operand::normal(&device, DType::F32, &[rows, cols])?;
        let statistic = || Operand::normal(&device, DType::F32, &[rows, 1]);
        let (mut mean, mut rstd) = (statistic()?, statistic()?);
        let request = json!({"op": "layer_norm", "rows": rows, "cols": cols});
        all.push(compare(format!("layer_norm {rows}x{cols}"), peer, request, rounds, || {
            let (weight, bias) = (Some(weight.view()?), Some(bias.view()?));
            let (mean, rstd) = (mean.view_mut()?, rstd.view_mut()?);
            device.layer_norm(x.view()?, weight, bias, 1e-5, out.view_mut()?, mean, rstd)
        })?);
    }
    for (f, form) in [(Activation::Gelu, "exact"), (Activation::GeluTanh, "tanh")] {
        for len in [16 << 20, 128 << 10] {
            let x = Operand::normal(&device, DType::F32, &[len])?;
            let mut out = Operand::normal(&device, DType::F32, &[len])?;
            let request = json!({"op": "gelu", "len": len, "form": form});
            all.push(compare(format!("gelu {form} {len}"), peer, request, rounds, || {
                device.activation(f, Source::View(x.view()?), out.view_mut()?)
            })?);
        }
    }
    all.push(scalar_add(peer, &device, rounds)?);
    eprintln!();
    Ok(all)
}

/// A chain of scalar additions, forward and backward, per addition.
fn scalar_add(peer: &mut Peer, device: &Device, rounds: usize) -> Result<Comparison> {
    const CHAIN: usize = 1000;
    let leaf = Var::new(Tensor::full(&[], 1.0, DType::F32, device)?)?;
    let one = Tensor::full(&[], 1.0, DType::F32, device)?;
    let request = json!({"op": "scalar_add", "chain": CHAIN, "mode": "forward_backward"});
    let mut comparison = compare("scalar add, forward and backward".into(), peer, request, rounds, || {
        let mut y = leaf.tensor();
        for _ in 0..CHAIN {
            y = y.add(&one)?;
        }
        y.backward().map(drop)
    })?;
    comparison.ours.median_ns /= CHAIN as f64;
    comparison.ours.best_ns /= CHAIN as f64;
    comparison.speed = comparison.pytorch.median_ns / comparison.ours.median_ns;
    Ok(comparison)
}

/// Quickstart's model and batches, in slices of ten steps.
fn training(peer: &mut Peer, arguments: &Arguments) -> Result<Comparison> {
    const SLICE: usize = 10;
    let device = cpu(arguments.threads)?;
    let corpus = attentia_corpus::english_german()?.at_most_words(12);
    let texts = corpus.train.iter().flat_map(|pair| [&pair.source, &pair.target]);
    let tokenizer = Tokenizer::train_bpe(texts, 3000)?;
    let examples = corpus
        .train
        .iter()
        .map(|pair| Ok(Example { source: tokenizer.encode(&pair.source)?, target: tokenizer.encode(&pair.target)? }))
        .collect::<Result<Vec<_>>>()?;
    let batches: Vec<Batch> = Batches::new(&examples, 2048)?.epoch(1, 0).take(SLICE * arguments.rounds).collect();
    let path = std::env::temp_dir().join(format!("attentia-batches-{}.jsonl", std::process::id()));
    let rows =
        |ids: &attentia::data::Ids| (0..ids.rows()).filter_map(|r| ids.row(r)).map(Value::from).collect::<Vec<_>>();
    let lines: String = batches
        .iter()
        .map(|b| {
            let (source, input, target) = (rows(&b.source), rows(&b.decoder_input), rows(&b.decoder_target));
            format!("{}\n", json!({"source": source, "decoder_input": input, "decoder_target": target}))
        })
        .collect();
    std::fs::write(&path, lines)?;
    let config = EncoderDecoderConfig::tiny(tokenizer.vocab_size());
    let opened = peer.ask(&json!({
        "op": "train_open", "batches": path, "d_model": config.width, "heads": config.heads,
        "encoder_layers": config.encoder_layers, "decoder_layers": config.decoder_layers, "ff": config.hidden,
        "vocab": config.vocabulary, "dropout": config.dropout, "clip_norm": 1.0,
    }));
    std::fs::remove_file(&path)?;
    let opened = opened?;
    let scope = Scope::new(&device, DType::F32, 1);
    let model = EncoderDecoder::new(&scope, config)?;
    let parameters = scope.parameters();
    eprintln!("parameters: ours {}, PyTorch's {}", parameters.count(), opened["parameters"]);
    let train = TrainConfig {
        steps: batches.len() as u64,
        batch_tokens: 2048,
        accumulate: 1,
        schedule: Schedule::Constant { peak: 1e-4 },
        label_smoothing: 0.1,
        clip: 1.0,
        seed: 1,
    };
    let mut trainer = Trainer::new(model, parameters, &examples, train, &device)?;
    let mut step = |batch| {
        trainer.accumulate(batch)?;
        trainer.update()
    };
    step(&batches[0])?; // warm memory
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    let (mut tokens, mut ours_ns, mut theirs_ns) = (0usize, 0.0, 0.0);
    for slice in batches.chunks(SLICE) {
        for batch in slice {
            let step = step(batch)?;
            tokens += step.tokens;
            mine.push(step.elapsed.as_nanos() as f64);
        }
        ours_ns += mine[mine.len() - slice.len()..].iter().sum::<f64>();
        let answer = peer.ask(&json!({"op": "train_step", "steps": slice.len()}))?;
        for ns in answer["batch_ns"].as_array().context("PyTorch gave no batch_ns")? {
            theirs.push(ns.as_f64().context("batch_ns holds no number")?);
            theirs_ns += ns.as_f64().unwrap_or(0.0);
        }
    }
    println!(
        "tokens/s, source and target without padding: ours {:.0}, PyTorch {:.0}",
        tokens as f64 / ours_ns * 1e9,
        tokens as f64 / theirs_ns * 1e9
    );
    let (ours, pytorch) = (summarise(&mut mine), summarise(&mut theirs));
    Ok(Comparison {
        name: "training step of quickstart".into(),
        speed: pytorch.median_ns / ours.median_ns,
        ours,
        pytorch,
    })
}
