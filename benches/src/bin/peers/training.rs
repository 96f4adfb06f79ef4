//! Training steps of one model on the same batches, ours and PyTorch's in turn.

use crate::{Arguments, Comparison};
use anyhow::{Context, Result};
use attentia::{
    backend::{DType, Device},
    data::{Batch, Example, Ids, Tokenizer},
    nn::Precision,
    train::Trainer,
    transformer::EncoderDecoderConfig,
};
use attentia_benches::{
    models::{VOCABULARY, sentences, warm_trainer},
    operands::cpu,
    peer::{Peer, number},
    timing::summarise,
};
use clap::ValueEnum;
use serde_json::{Value, json};

/// What is trained.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Model {
    /// `tiny` on the bundled corpus, as quickstart does
    Quickstart,
    /// d 512, 8 heads, 6+6 layers, ff 2048 on 16 x (32 + 32) tokens out of 8000
    Base,
    /// `base` with dropout 0.1, also on attention weights
    BaseDropout,
    /// `base` with bf16 products and f32 parameters
    BaseBf16,
    /// `base` on sentences of 256 tokens, 8 x (256 + 256)
    BaseLong,
    /// d 256, 4 heads, 3+3 layers, ff 1024 on 32 x (24 + 24) tokens out of 8000
    Small,
}

/// A model, and what it is trained on.
struct Task {
    config: EncoderDecoderConfig,
    precision: Precision,
    /// PyTorch's names of that precision: it has two ways, and the faster one counts.
    theirs: &'static [&'static str],
    batch_tokens: usize,
    examples: Vec<Example>,
    /// Steps between two looks at the other engine.
    slice: usize,
}

impl Model {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn task(self) -> Result<Task> {
        let f32 = Precision::from(DType::F32);
        if let Model::Quickstart = self {
            let (examples, vocabulary) = corpus()?;
            let config = EncoderDecoderConfig::tiny(vocabulary);
            return Ok(Task { config, precision: f32, theirs: &["f32"], batch_tokens: 1024, examples, slice: 10 });
        }
        let dropout = if let Model::BaseDropout = self { 0.1 } else { 0.0 };
        let untied = |config| EncoderDecoderConfig { tied: false, dropout, attention_dropout: dropout, ..config };
        let (config, rows, width) = match self {
            Model::Small => (untied(EncoderDecoderConfig::small(VOCABULARY)), 32, 24),
            Model::BaseLong => (untied(EncoderDecoderConfig::base(VOCABULARY)), 8, 256),
            _ => (untied(EncoderDecoderConfig::base(VOCABULARY)), 16, 32),
        };
        let (precision, theirs): (_, &[_]) = match self {
            Model::BaseBf16 => (Precision::mixed_bf16(), &["bf16", "bf16_weights"]),
            _ => (f32, &["f32"]),
        };
        let examples = sentences(8 * rows, width);
        Ok(Task { config, precision, theirs, batch_tokens: rows * width, examples, slice: 1 })
    }
}

/// Quickstart's sentences, and the size of its vocabulary.
fn corpus() -> Result<(Vec<Example>, usize)> {
    let corpus = attentia_corpus::english_german()?.at_most_words(12);
    let texts = corpus.train.iter().flat_map(|pair| [&pair.source, &pair.target]);
    let tokenizer = Tokenizer::train_bpe(texts, 3000)?;
    let example = |pair: &attentia_corpus::Pair| {
        Ok(Example { source: tokenizer.encode(&pair.source)?, target: tokenizer.encode(&pair.target)? })
    };
    Ok((corpus.train.iter().map(example).collect::<Result<_>>()?, tokenizer.vocab_size()))
}

/// Opens the same training in PyTorch, in one of its precisions.
fn open(peer: &mut Peer, task: &Task, batches: &[Batch], precision: &str) -> Result<()> {
    let rows = |ids: &Ids| (0..ids.rows()).filter_map(|r| ids.row(r)).map(Value::from).collect::<Vec<_>>();
    let line = |b: &Batch| {
        let (source, input, target) = (rows(&b.source), rows(&b.decoder_input), rows(&b.decoder_target));
        format!("{}\n", json!({"source": source, "decoder_input": input, "decoder_target": target}))
    };
    let path = std::env::temp_dir().join(format!("attentia-batches-{}.jsonl", std::process::id()));
    std::fs::write(&path, batches.iter().map(line).collect::<String>())?;
    let config = &task.config;
    let opened = peer.ask(&json!({
        "op": "train_open", "batches": path, "d_model": config.width, "heads": config.heads,
        "encoder_layers": config.encoder_layers, "decoder_layers": config.decoder_layers, "ff": config.hidden,
        "vocab": config.vocabulary, "dropout": config.dropout, "attention_dropout": config.attention_dropout,
        "tied": config.tied, "clip_norm": 1.0, "precision": precision,
    }));
    std::fs::remove_file(&path)?;
    let parameters = number(&opened?, "parameters")?;
    let ours = task.config.parameter_count();
    eprintln!("{ours} parameters, PyTorch {parameters} ({precision})");
    Ok(())
}

/// A trainer whose memory is warm, and the batches that both engines take.
fn trainer<'a>(task: &'a Task, steps: usize, device: &Device) -> Result<(Trainer<'a>, Vec<Batch>)> {
    warm_trainer(task.config.clone(), task.precision, &task.examples, task.batch_tokens, steps, device)
}

pub(crate) fn training(peer: &mut Peer, arguments: &Arguments, models: &[Model]) -> Result<Vec<Comparison>> {
    let models = if models.is_empty() { Model::value_variants() } else { models };
    let mut all = Vec::new();
    for &model in models {
        let task = model.task()?;
        for precision in task.theirs {
            all.push(train(peer, arguments, &model.name(), &task, precision)?);
        }
    }
    Ok(all)
}

fn train(peer: &mut Peer, arguments: &Arguments, name: &str, task: &Task, precision: &str) -> Result<Comparison> {
    let device = cpu(arguments.threads)?;
    let (mut trainer, batches) = trainer(task, task.slice * arguments.rounds, &device)?;
    open(peer, task, &batches, precision)?;
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    let mut tokens = 0;
    for slice in batches.chunks(task.slice) {
        for batch in slice {
            trainer.accumulate(batch)?;
            let step = trainer.update()?.context("a step was left out")?;
            tokens += step.tokens;
            mine.push(step.elapsed.as_nanos() as f64);
        }
        let answer = peer.ask(&json!({"op": "train_step", "steps": slice.len()}))?;
        for ns in answer["batch_ns"].as_array().context("PyTorch gave no batch_ns")? {
            theirs.push(ns.as_f64().context("batch_ns holds no number")?);
        }
    }
    let rate = |times: &[f64]| tokens as f64 / times.iter().sum::<f64>() * 1e9;
    println!(
        "{name}, tokens/s, source and target without padding: ours {:.0}, PyTorch {:.0} ({precision})",
        rate(&mine),
        rate(&theirs)
    );
    let (ours, pytorch) = (summarise(&mut mine), summarise(&mut theirs));
    let name = format!("training step, {name}, PyTorch {precision}");
    Ok(Comparison::new(name, ours, pytorch))
}

/// The greatest resident memory of this process, which trains, and of PyTorch's.
pub(crate) fn memory(peer: &mut Peer, arguments: &Arguments) -> Result<()> {
    let task = Model::Base.task()?;
    let device = cpu(arguments.threads)?;
    let (mut trainer, batches) = trainer(&task, arguments.rounds, &device)?;
    for batch in &batches {
        trainer.accumulate(batch)?;
        trainer.update()?;
    }
    open(peer, &task, &batches, "f32")?;
    peer.ask(&json!({"op": "train_step", "steps": arguments.rounds}))?;
    let theirs = number(&peer.ask(&json!({"op": "memory"}))?, "peak_bytes")?;
    let ours = peak_bytes()? as f64;
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    println!("greatest resident memory, MiB: ours {:.0}, PyTorch {:.0}", mib(ours), mib(theirs));
    if let Some(path) = &arguments.json {
        let report = json!({"model": "base", "rounds": arguments.rounds, "ours_bytes": ours, "pytorch_bytes": theirs});
        attentia::file::write_atomic(path, format!("{report:#}\n").as_bytes())?;
    }
    Ok(())
}

/// `VmHWM` of this process.
fn peak_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("resident memory is read from /proc")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("there is no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("VmHWM is no number")?;
    Ok(kib << 10)
}
