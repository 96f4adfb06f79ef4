//! A peer: a process that is asked for slices of work, one JSON line each. The protocol is in `peers/README.md`.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// A peer, kept open.
#[derive(Debug)]
pub struct Peer {
    name: &'static str,
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
        Peer::start("PyTorch", &mut command)
    }

    /// Starts ONNX Runtime, for attention. Errors when `peers/setup` has not been run.
    pub fn onnx(threads: usize) -> Result<Peer> {
        let python = folder().join(".venv/bin/python");
        if !python.exists() {
            bail!("ONNX Runtime is not installed here\n  help: run benches/peers/setup first");
        }
        let mut command = Command::new(python);
        command.arg(folder().join("onnx_peer.py")).args(["--threads", &threads.to_string()]);
        Peer::start("ONNX Runtime", &mut command)
    }

    /// Starts candle or burn, for attention. Errors when `rust-peers` has not been built.
    pub fn rust(name: &'static str, threads: usize, tuned_allocator: bool) -> Result<Peer> {
        let program = folder().join(format!("../rust-peers/target/release/{name}-peer"));
        if !program.exists() {
            bail!("{name} is not built here\n  help: run `cargo build --release` in benches/rust-peers first");
        }
        let mut command = Command::new(program);
        command.env("RAYON_NUM_THREADS", threads.to_string());
        if tuned_allocator {
            // As `torch_peer.py`: freed memory stays in the process, on huge pages where the system has them.
            command.env("MALLOC_MMAP_MAX_", "0").env("MALLOC_TRIM_THRESHOLD_", (1u64 << 40).to_string());
            command.env("MALLOC_TOP_PAD_", (64 << 20).to_string()).env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
        }
        Peer::start(name, &mut command)
    }

    fn start(name: &'static str, command: &mut Command) -> Result<Peer> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("cannot start {name}"))?;
        let requests = child.stdin.take().with_context(|| format!("{name} has no standard input"))?;
        let answers = child.stdout.take().with_context(|| format!("{name} has no standard output"))?;
        Ok(Peer { name, child, requests, answers: BufReader::new(answers) })
    }

    /// What it is.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// One request, one answer.
    pub fn ask(&mut self, request: &Value) -> Result<Value> {
        writeln!(self.requests, "{request}")?;
        self.requests.flush()?;
        let (name, mut line) = (self.name, String::new());
        if self.answers.read_line(&mut line)? == 0 {
            bail!("{name} ended while it was asked for {request}");
        }
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("{name} answered {line}"))?;
        if answer["ok"] != true {
            bail!("{name} could not do {request}: {}", answer["error"]);
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
    answer[field].as_f64().with_context(|| format!("the answer has no number {field:?}: {answer}"))
}
