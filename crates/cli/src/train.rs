//! `attentia train`: a run as its configuration says, from the first step or from where it was stopped.

use crate::{
    Machine, Usage,
    corpora::{BUNDLED, Source},
    interruption::{INTERRUPTED, Interruption},
    usage,
};
use anyhow::{Context, Result, bail};
use attentia::{
    data::Examples,
    tensor::Device,
    train::{
        CONFIG, JsonLines, Outcome, Prepared, Progress, Recorder, RunConfig, RunFolder, Step, TensorBoard, Trainer,
    },
};
use serde_json::json;
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
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

impl Train {
    pub(crate) fn run(self, machine: &Machine, signals: &Interruption) -> Result<ExitCode> {
        let out = match (&self.out, &self.config) {
            (Some(out), _) => out.clone(),
            // A run's own configuration means the run.
            (None, Some(config)) if self.resume && config.file_name().is_some_and(|name| name == CONFIG) => {
                config.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new(".")).to_owned()
            }
            (None, Some(config)) => Path::new("runs").join(config.file_stem().unwrap_or(config.as_os_str())),
            (None, None) => {
                let help = "attentia train CONFIG.toml, or --resume --out DIR";
                return Err(usage("neither a configuration nor a folder", help));
            }
        };
        let path = match self.config {
            Some(path) => path,
            None if self.resume => out.join(CONFIG),
            None => {
                let help = format!("attentia train CONFIG.toml --out {}", out.display());
                return Err(usage("no configuration", help));
            }
        };
        let text = attentia::file::read_text(&path)?;
        let config = configure(&path.display().to_string(), &text, &self.set, machine)?;
        if self.dry_run {
            let (done, interrupted) = signals.deferred(|interrupted| dry_run(&config, machine, interrupted));
            done?;
            return Ok(if interrupted { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS });
        }
        let run = Run::open(&out, config, machine, self.resume)?;
        let outcome = run.train(signals)?;
        if outcome == Outcome::Interrupted {
            tell!("interrupted, and saved: attentia train --resume --out {}", out.display());
            return Ok(ExitCode::from(INTERRUPTED));
        }
        let how = if outcome == Outcome::Stopped { "stopped early" } else { "finished" };
        writeln!(std::io::stdout(), "{how}: {}", run.folder.model().display())?;
        writeln!(std::io::stdout(), "next: attentia evaluate {}", out.display())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The configuration of a text, called `name`, with settings from the command line.
pub(crate) fn configure(name: &str, text: &str, sets: &[String], machine: &Machine) -> Result<RunConfig> {
    let seed = machine.seed.map(|seed| format!("train.seed={seed}"));
    let sets: Vec<String> = sets.iter().cloned().chain(seed).collect();
    let mut config = match RunConfig::from_toml(text, &sets) {
        Ok(config) => config,
        // Where the text alone is right, a setting is wrong.
        Err(error) => match RunConfig::from_toml(text, &[] as &[&str]) {
            Ok(_) => return Err(Usage(format!("--set: {error}")).into()),
            Err(error) => return Err(anyhow::Error::from(error).context(name.to_owned())),
        },
    };
    if config.train.warmup >= config.train.steps {
        tell!("warning: train.warmup is {}, and the run ends at step {}", config.train.warmup, config.train.steps);
    }
    // The run is gone on with from other folders too.
    let from = &mut config.corpus.from;
    if from != BUNDLED {
        let whole = std::path::absolute(&from).with_context(|| format!("corpus.from is {from:?}"))?;
        let Some(whole) = whole.to_str() else { bail!("corpus.from: {} is no text", whole.display()) };
        *from = whole.to_owned();
    }
    Ok(config)
}

/// A run that is ready to train.
pub(crate) struct Run {
    pub(crate) folder: RunFolder,
    pub(crate) config: RunConfig,
    pub(crate) corpus: Source,
    pub(crate) device: Device,
    data: Prepared,
    threads: usize,
}

impl Run {
    /// Opens the corpus and the folder, and makes what the training reads.
    pub(crate) fn open(out: &Path, config: RunConfig, machine: &Machine, resume: bool) -> Result<Run> {
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
        Ok(Run { folder, config, corpus, device, data, threads: machine.threads() })
    }

    /// Trains to the end or until the process is told to stop.
    pub(crate) fn train(&self, signals: &Interruption) -> Result<Outcome> {
        let Run { folder, config, data, device, .. } = self;
        let found = folder.newest(device)?;
        for damaged in found.iter().flat_map(|found| &found.damaged) {
            tell!("warning: a checkpoint is damaged and was set aside, the one before it is taken\n  {damaged}");
        }
        let from = found.map(|found| found.checkpoint);
        if let Some(from) = &from {
            tell!("going on behind step {}", from.step);
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
        let (outcome, interrupted) = signals.deferred(|interrupted| {
            attentia::train::run(folder, config, data, from, device, &mut recorders, interrupted)
        });
        progress.finish();
        let outcome = outcome?;
        Ok(if interrupted { Outcome::Interrupted } else { outcome })
    }
}

fn prepare(folder: &Path, corpus: &Source, config: &RunConfig, again: bool) -> Result<Prepared> {
    tell!("preparing: the vocabulary, and the pairs as its tokens");
    let data = Prepared::new(folder, corpus, config, again)?;
    tell!(
        "{} sentence pairs to learn from, {} to validate, {} tokens in the vocabulary, seed {}",
        data.train.len(),
        data.valid.len(),
        data.tokenizer.vocab_size(),
        config.train.seed,
    );
    if data.too_long > 0 {
        tell!("left out: {} pairs with more tokens than the model has positions or a batch holds", data.too_long);
    }
    Ok(data)
}

/// Steps that are timed.
const TRIED: u64 = 8;

/// Ends early, and prints nothing, once it is interrupted: its temporary folder goes with it.
fn dry_run(config: &RunConfig, machine: &Machine, interrupted: &AtomicBool) -> Result<()> {
    let device = machine.device()?;
    let corpus = Source::open(&config.corpus.from)?;
    let folder = tempfile::tempdir().context("no temporary folder can be made")?;
    let data = prepare(folder.path(), &corpus, config, false)?;
    let (model, parameters) = data.model(config, &device)?;
    let count = model.config().parameter_count();
    let mut trainer = Trainer::new(model, parameters, &data.train, config.train_config(), &device)?;
    let mut tried: Vec<Step> = Vec::new();
    while (tried.len() as u64) < TRIED.min(config.train.steps) {
        if interrupted.load(Ordering::Relaxed) {
            return Ok(());
        }
        tried.extend(trainer.next_batch()?);
    }
    let (tokens, time) =
        tried.iter().fold((0, Duration::ZERO), |(tokens, time), step| (tokens + step.tokens, time + step.elapsed));
    let per_step = time.as_secs_f64() / tried.len().max(1) as f64;
    let minutes = per_step * config.train.steps as f64 / 60.0;
    let mut out = std::io::stdout();
    writeln!(out, "parameters   {count}")?;
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
