//! The `attentia` program.

#![forbid(unsafe_code)]

mod doctor;
mod quickstart;
mod translate;

use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// Train a translator with attention, translate with it, and see where it looks.
#[derive(Debug, Parser)]
#[command(name = "attentia", version, after_help = "Start with: attentia quickstart")]
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
}

impl Machine {
    fn device(&self) -> attentia::Result<attentia::tensor::Device> {
        attentia::device_with_threads(&self.device, self.threads)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a small English-German translator on the bundled corpus, and show what it learned
    ///
    /// Trains an encoder-decoder (d 128, 4 heads, 2+2 layers) on sentences of at most 12 words, translates the test
    /// sentences, and writes the checkpoint and a picture of the cross-attention. Takes a few minutes on two cores.
    /// The last line on standard output is the score, as in "BLEU after: 24.50".
    Quickstart {
        /// Folder for model.safetensors and attention.svg
        #[arg(long, value_name = "DIR", default_value = "quickstart")]
        out: PathBuf,
        /// Seed of initial values, order of batches and dropout
        #[arg(long, default_value_t = 1, value_name = "N")]
        seed: u64,
        /// Training steps
        #[arg(long, default_value_t = quickstart::STEPS, value_name = "N")]
        steps: u64,
        /// Translate only the first N test sentences; 0 means all
        #[arg(long, default_value_t = 0, value_name = "N")]
        test_pairs: usize,
    },
    /// Translate a sentence with a trained checkpoint
    Translate {
        /// Checkpoint file, as written by quickstart
        checkpoint: PathBuf,
        /// English text
        text: String,
        /// Write the cross-attention of the last decoder layer (mean of its heads) to this file
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Show what this machine offers, measure its limits, and test the kernels against the oracle
    Doctor {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Quickstart { out, seed, steps, test_pairs } => {
            quickstart::run(&cli.machine, &out, seed, steps, test_pairs)
        }
        Command::Translate { checkpoint, text, svg } => {
            translate::run(&cli.machine, &checkpoint, &text, svg.as_deref())
        }
        Command::Doctor { json } => doctor::run(&cli.machine, json),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output went away (`attentia … | head`): there is nobody left to tell.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(is))
}
