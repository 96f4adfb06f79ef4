//! `attentia train`: a run as its configuration says, from the first step or from where it was stopped.

use crate::{Machine, corpora::Source};
use anyhow::{Context, Result, bail};
use attentia::{
    data::Examples,
    nn::Scope,
    tensor::Device,
    train::{
        CONFIG, JsonLines, Outcome, Prepared, Progress, Recorder, RunConfig, RunFolder, Step, TensorBoard, Trainer,
    },
    transformer::EncoderDecoder,
};
use serde_json::json;
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Train {
    /// Configuration file, TOML; left out with --resume, it is the run's own
    config: Option<PathBuf>,
    /// The run's folder; runs/<name of the configuration> if left out
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Change a value of the configuration, as in train.steps=100 (can be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Go on where the run in the folder was stopped
    #[arg(long)]
    resume: bool,
    /// Only tell how many parameters, how much memory and how much time it takes; a few steps are tried, nothing is kept
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
}

/// The exit code of a run that saved and stopped because it was asked to.
pub(crate) const INTERRUPTED: u8 = 130;

impl Train {
    pub(crate) fn run(self, machine: &Machine) -> Result<ExitCode> {
        let out = match (&self.out, &self.config) {
            (Some(out), _) => out.clone(),
            (None, Some(config)) => Path::new("runs").join(config.file_stem().unwrap_or(config.as_os_str())),
            (None, None) => {
                bail!("neither a configuration nor a folder\n  help: attentia train CONFIG.toml, or --resume --out DIR")
            }
        };
        let path = match self.config {
            Some(path) => path,
            None if self.resume => out.join(CONFIG),
            None => bail!("no configuration\n  help: attentia train CONFIG.toml --out {}", out.display()),
        };
        let text = attentia::file::read_text(&path)?;
        let config = configure(&text, &self.set, machine).with_context(|| path.display().to_string())?;
        if self.dry_run {
            return dry_run(&config, machine).map(|()| ExitCode::SUCCESS);
        }
        let run = Run::open(&out, config, machine, self.resume)?;
        let outcome = run.train()?;
        if outcome == Outcome::Interrupted {
            eprintln!("interrupted, and saved: attentia train --resume --out {}", out.display());
            return Ok(ExitCode::from(INTERRUPTED));
        }
        let how = if outcome == Outcome::Stopped { "stopped early" } else { "finished" };
        writeln!(std::io::stdout(), "{how}: {}", run.folder.model().display())?;
        writeln!(std::io::stdout(), "next: attentia evaluate {}", out.display())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The configuration of a text with settings from the command line.
pub(crate) fn configure(text: &str, sets: &[String], machine: &Machine) -> Result<RunConfig> {
    let seed = machine.seed.map(|seed| format!("train.seed={seed}"));
    Ok(RunConfig::from_toml(text, &sets.iter().cloned().chain(seed).collect::<Vec<_>>())?)
}

/// A run that is ready to train.
pub(crate) struct Run {
    pub(crate) folder: RunFolder,
    pub(crate) config: RunConfig,
    pub(crate) corpus: Source,
    pub(crate) device: Device,
    data: Prepared,
    threads: usize,
    interrupted: Arc<AtomicBool>,
}

impl Run {
    /// Opens the corpus and the folder, and makes what the training reads.
    pub(crate) fn open(out: &Path, config: RunConfig, machine: &Machine, resume: bool) -> Result<Run> {
        let interrupted = watch_signals()?;
        let device = machine.device()?;
        let corpus = Source::open(&config.corpus.from)?;
        let folder = RunFolder::open(out, resume)?;
        let begun = out.join(CONFIG);
        if resume && begun.is_file() {
            let before = RunConfig::from_toml(&attentia::file::read_text(&begun)?, &[] as &[&str]);
            if let Some(change) = config.changed_data(&before.with_context(|| begun.display().to_string())?) {
                bail!(
                    "{}: {change}\n  help: a run goes on with the data that it began with; choose another folder",
                    begun.display()
                );
            }
        }
        let data = prepare(out, &corpus, &config, resume)?;
        Ok(Run { folder, config, corpus, device, data, threads: machine.threads(), interrupted })
    }

    /// Trains to the end or until the process is told to stop.
    pub(crate) fn train(&self) -> Result<Outcome> {
        let Run { folder, config, data, device, .. } = self;
        let found = folder.newest(device)?;
        for damaged in found.iter().flat_map(|found| &found.damaged) {
            eprintln!("warning: a checkpoint is damaged and was set aside, the one before it is taken\n  {damaged}");
        }
        let from = found.map(|found| found.checkpoint);
        if let Some(from) = &from {
            eprintln!("going on behind step {}", from.step);
        }
        let mut progress = Progress::new("training", config.train.steps);
        let started = json!({
            "device": device.to_string(),
            "threads": self.threads,
            "seed": config.train.seed,
            "version": env!("CARGO_PKG_VERSION"),
        });
        let mut lines = JsonLines::open(folder.path().join("metrics.jsonl"), started)?;
        let mut board = TensorBoard::open(folder.path())?;
        let mut recorders: [&mut dyn Recorder; 3] = [&mut progress, &mut lines, &mut board];
        let outcome = attentia::train::run(folder, config, data, from, device, &mut recorders, &self.interrupted)?;
        progress.finish();
        Ok(outcome)
    }
}

/// The first signal asks for an end after the step; the second one ends the process at once.
fn watch_signals() -> Result<Arc<AtomicBool>> {
    use signal_hook::{consts::TERM_SIGNALS, flag};
    let interrupted = Arc::new(AtomicBool::new(false));
    for &signal in TERM_SIGNALS {
        // In this order: what looks at the flag must have run before it is set.
        let told = flag::register_conditional_shutdown(signal, i32::from(INTERRUPTED), Arc::clone(&interrupted))
            .and_then(|_| flag::register(signal, Arc::clone(&interrupted)));
        told.context("signals cannot be watched")?;
    }
    Ok(interrupted)
}

fn prepare(folder: &Path, corpus: &Source, config: &RunConfig, again: bool) -> Result<Prepared> {
    eprintln!("preparing: the vocabulary, and the pairs as its tokens");
    let data = Prepared::new(folder, corpus, config, again)?;
    eprintln!(
        "{} sentence pairs to learn from, {} to validate, {} tokens in the vocabulary, seed {}",
        data.train.len(),
        data.valid.len(),
        data.tokenizer.vocab_size(),
        config.train.seed,
    );
    if data.too_long > 0 {
        eprintln!("left out: {} pairs with more tokens than the model has positions or a batch holds", data.too_long);
    }
    Ok(data)
}

/// Steps that are timed.
const TRIED: u64 = 8;

fn dry_run(config: &RunConfig, machine: &Machine) -> Result<()> {
    let device = machine.device()?;
    let corpus = Source::open(&config.corpus.from)?;
    let folder = tempfile::tempdir().context("no temporary folder can be made")?;
    let data = prepare(folder.path(), &corpus, config, false)?;
    let mut architecture = config.model.architecture.clone();
    architecture.vocabulary = data.tokenizer.vocab_size();
    let scope = Scope::new(&device, config.precision(), config.train.seed);
    let parameters = architecture.parameter_count();
    let model = EncoderDecoder::new(&scope, architecture)?;
    let mut trainer = Trainer::new(model, scope.parameters(), &data.train, config.train_config(), &device)?;
    let mut tried: Vec<Step> = Vec::new();
    while (tried.len() as u64) < TRIED.min(config.train.steps) {
        tried.extend(trainer.next_batch()?);
    }
    let (tokens, time) =
        tried.iter().fold((0, Duration::ZERO), |(tokens, time), step| (tokens + step.tokens, time + step.elapsed));
    let per_step = time.as_secs_f64() / tried.len().max(1) as f64;
    let minutes = per_step * config.train.steps as f64 / 60.0;
    let mut out = std::io::stdout();
    writeln!(out, "parameters   {parameters}")?;
    if let Some(bytes) = peak_memory() {
        writeln!(out, "memory       {:.0} MiB at most so far, the largest batches included", bytes as f64 / 1048576.0)?;
    }
    writeln!(out, "steps        {}", config.train.steps)?;
    let rate = tokens as f64 / time.as_secs_f64().max(1e-9);
    writeln!(
        out,
        "time         about {minutes:.1} min: {per_step:.3} s a step, {rate:.0} tokens/s over {} steps",
        tried.len()
    )?;
    Ok(())
}

/// The greatest resident memory of this process, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
