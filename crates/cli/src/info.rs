//! `attentia info`: what a checkpoint holds.

use crate::{
    Machine,
    translate::{checkpoint_file, load},
};
use anyhow::Result;
use attentia::data::Tokenizer;
use serde_json::json;
use std::{io::Write, path::PathBuf};

#[derive(Debug, clap::Args)]
pub(crate) struct Info {
    /// Checkpoint file, or a run's folder
    checkpoint: PathBuf,
    /// List every parameter with its shape
    #[arg(long)]
    parameters: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Info {
    pub(crate) fn run(self, machine: &Machine) -> Result<()> {
        let device = machine.device()?;
        let checkpoint = load(&self.checkpoint, &device)?;
        let path = checkpoint_file(&self.checkpoint)?;
        let bytes = std::fs::metadata(&path)?.len();
        let count = checkpoint.config.parameter_count();
        let tokens = match checkpoint.tokenizer.is_empty() {
            true => None,
            false => Some(Tokenizer::from_json(&checkpoint.tokenizer)?.vocab_size()),
        };
        let training = checkpoint.training.as_ref();
        let mut out = std::io::stdout();
        let shapes = checkpoint.parameters.iter().map(|(path, tensor)| (path, tensor.shape().as_slice().to_vec()));
        if self.json {
            let shapes: serde_json::Map<_, _> = shapes.map(|(path, shape)| (path.clone(), json!(shape))).collect();
            let answer = json!({
                "file": path, "bytes": bytes, "step": checkpoint.step, "parameters": count,
                "config": checkpoint.config, "precision": checkpoint.precision, "tokenizer_tokens": tokens,
                "resumable": training.is_some(), "training": training.map(|t| &t.progress), "shapes": shapes,
            });
            writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?;
            return Ok(());
        }
        let config = &checkpoint.config;
        writeln!(out, "{}: {:.1} MiB, checksums match", path.display(), bytes as f64 / 1048576.0)?;
        writeln!(
            out,
            "encoder-decoder  {} + {} layers, width {}, {} heads, feed-forward {}, up to {} tokens",
            config.encoder_layers, config.decoder_layers, config.width, config.heads, config.hidden, config.positions
        )?;
        writeln!(
            out,
            "parameters       {count} in {}, products in {}",
            checkpoint.precision.parameters, checkpoint.precision.compute
        )?;
        match tokens {
            Some(tokens) => writeln!(out, "tokenizer        {tokens} tokens")?,
            None => writeln!(out, "tokenizer        none: it works on ids")?,
        }
        writeln!(out, "trained          {} steps", checkpoint.step)?;
        writeln!(out, "resumable        {}", if training.is_some() { "yes" } else { "no: for use only" })?;
        if self.parameters {
            for (path, shape) in shapes {
                writeln!(out, "  {path:50} {shape:?}")?;
            }
        }
        Ok(())
    }
}
