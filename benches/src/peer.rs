//! A peer: a process that is asked for slices of work, one JSON line each. The protocol is in `peers/README.md`.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// PyTorch, kept open.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// How PyTorch is set up; see "The better setting" in `peers/README.md`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setting {
    /// Freed memory stays in the process.
    pub tuned_allocator: bool,
    /// MKL may use AVX-512 on processors of any maker.
    pub all_isa: bool,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

impl Peer {
    /// Starts PyTorch. Errors when `peers/setup` has not been run.
    pub fn pytorch(threads: usize, setting: Setting) -> Result<Peer> {
        let python = folder().join(".venv/bin/python");
        if !python.exists() {
            bail!("PyTorch is not installed here\n  help: run benches/peers/setup first");
        }
        let mut command = Command::new(python);
        command.arg(folder().join("torch_peer.py")).args(["--threads", &threads.to_string()]);
        if setting.tuned_allocator {
            command.arg("--tuned-allocator");
        }
        if setting.all_isa {
            command.arg("--mkl-all-isa");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start PyTorch")?;
        let requests = child.stdin.take().context("PyTorch has no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("PyTorch has no standard output")?);
        Ok(Peer { child, requests, answers })
    }

    /// One request, one answer.
    pub fn ask(&mut self, request: &Value) -> Result<Value> {
        writeln!(self.requests, "{request}")?;
        self.requests.flush()?;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("PyTorch ended while it was asked for {request}");
        }
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("PyTorch answered {line}"))?;
        if answer["ok"] != true {
            bail!("PyTorch could not do {request}: {}", answer["error"]);
        }
        Ok(answer)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill and only its status to collect.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A number of an answer.
pub fn number(answer: &Value, field: &str) -> Result<f64> {
    answer[field].as_f64().with_context(|| format!("PyTorch's answer has no number {field:?}: {answer}"))
}
