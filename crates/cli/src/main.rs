//! The `attentia` program.

#![forbid(unsafe_code)]

/// A line on standard error. That nobody reads it any more is no reason to stop.
macro_rules! tell {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        drop(writeln!(std::io::stderr(), $($line)*));
    }};
}

mod bench;
mod corpora;
mod corpus;
mod doctor;
mod evaluate;
mod info;
mod interruption;
mod quickstart;
mod train;
mod translate;

use clap::{CommandFactory, Parser, Subcommand};
use interruption::Interruption;
use std::process::ExitCode;

/// Train a translator with attention, translate with it, and see where it looks.
#[derive(Debug, Parser)]
#[command(
    name = "attentia",
    version,
    after_help = "Start with: attentia quickstart\n\nExit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (a training has saved)"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    machine: Machine,
}

/// What to compute on.
#[derive(Clone, Debug, clap::Args)]
struct Machine {
    /// Device: cpu, or reference (the slow oracle)
    #[arg(long, global = true, default_value = "cpu", value_name = "NAME")]
    device: String,
    /// Threads; 0 means one per core. The results do not depend on it
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Seed of initial values, of the order of batches and of dropout; of the splits, for corpus build
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: Option<u64>,
}

impl Machine {
    fn device(&self) -> anyhow::Result<attentia::tensor::Device> {
        match attentia::device_with_threads(&self.device, self.threads) {
            Err(error) if !attentia::DEVICES.contains(&&*self.device) => Err(Usage(error.to_string()).into()),
            device => Ok(device?),
        }
    }

    /// The number of threads that 0 stands for.
    fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a small English-German translator on the bundled corpus, and show what it learned
    ///
    /// Trains an encoder-decoder (d 128, 4 heads, 2+2 layers) on sentences of at most 12 words, translates the test
    /// sentences, and writes the run's folder with the model and pages that show its attention. Takes a few minutes on
    /// two cores. The last line on standard output is the score, as in "BLEU after: 24.50".
    Quickstart(quickstart::Quickstart),
    /// Train a model as a configuration file says
    ///
    /// The run's folder holds checkpoints (last, previous, best), metrics.jsonl, TensorBoard events and, at the end,
    /// model.safetensors. Ctrl-C finishes the step, saves and exits with 130; --resume goes on with the same bits.
    Train(train::Train),
    /// Translate a text, a file or standard input, line by line
    Translate(translate::Translate),
    /// Score a model's translations with BLEU and chrF, as sacrebleu does
    Evaluate(evaluate::Evaluate),
    /// Make a corpus of sentence pairs, or look into one
    #[command(subcommand)]
    Corpus(corpus::Corpus),
    /// Show what a checkpoint holds
    Info(info::Info),
    /// Show what this machine offers, measure its limits, and test the kernels against the oracle
    Doctor {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Time kernels, training and translation on this machine, or attention over a list of lengths
    Bench(bench::Bench),
    /// Print a completion script for a shell: attentia completions bash > /etc/bash_completion.d/attentia
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let Cli { command, machine } = Cli::parse();
    let done = |result: anyhow::Result<()>| result.map(|()| ExitCode::SUCCESS);
    let signals = match Interruption::watch() {
        Ok(signals) => signals,
        Err(error) => return failed(&error),
    };
    let result = match command {
        Command::Quickstart(quickstart) => quickstart.run(&machine, &signals),
        Command::Train(train) => train.run(&machine, &signals),
        Command::Translate(translate) => translate.run(&machine),
        Command::Evaluate(evaluate) => done(evaluate.run(&machine)),
        Command::Corpus(corpus) => corpus.run(&machine, &signals),
        Command::Info(info) => done(info.run(&machine)),
        Command::Doctor { json } => done(doctor::run(&machine, json)),
        Command::Bench(bench) => done(bench.run(&machine)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "attentia", &mut script);
            done(std::io::Write::write_all(&mut std::io::stdout(), &script).map_err(Into::into))
        }
    };
    match result {
        Ok(code) => code,
        // The reader of our output went away (`attentia … | head`): there is nobody left to tell.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    // Some causes are told of by what they caused already.
    let mut message = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    tell!("error: {message}");
    if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// A command line whose parts do not go together, which shows only after they were read. The exit code is 2.
#[derive(Debug)]
struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A [`Usage`] error; `help` says what to write instead.
fn usage(what: impl std::fmt::Display, help: impl std::fmt::Display) -> anyhow::Error {
    Usage(format!("{what}\n  help: {help}")).into()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(is))
}
