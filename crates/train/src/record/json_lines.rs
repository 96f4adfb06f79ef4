//! `metrics.jsonl`: a JSON object per start, step, skip and validation, for programs and for `tail -f`.
//!
//! ```text
//! {"step":0,"started":{"device":"cpu","threads":2,"seed":1,"version":"0.1.0"}}
//! {"step":12,"loss":6.9,"learning_rate":0.0001,"gradient_norm":1.3,"tokens":3012,"tokens_per_second":41234.0}
//! {"step":13,"skipped":true}
//! {"step":500,"epoch":3,"valid_loss":3.1,"valid_accuracy":0.41,"best":true,"samples":[{"source":"…", …}]}
//! ```

use super::{Recorder, Report};
use crate::{Result, Step};
use serde_json::{Value, json};
use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Writes `metrics.jsonl`.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    out: BufWriter<File>,
    started: Value,
}

impl JsonLines {
    /// Opens the file or creates it. `started` says what should be known of this start: the device, threads, the seed.
    pub fn open(path: impl AsRef<Path>, started: Value) -> Result<JsonLines> {
        let path = path.as_ref().to_owned();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|source| attentia_file::Error::Write { path: path.clone(), source })?;
        Ok(JsonLines { path, out: BufWriter::new(file), started })
    }

    fn write(&mut self, record: &Value) -> Result<()> {
        let written = writeln!(self.out, "{record}");
        written.map_err(|source| attentia_file::Error::Write { path: self.path.clone(), source }.into())
    }

    /// Where the lines up to this step end. A line that a killed process left unfinished is of no step.
    fn end_of(&self, step: u64) -> std::io::Result<u64> {
        let mut file = self.out.get_ref();
        file.seek(SeekFrom::Start(0))?;
        let (mut reader, mut line, mut end) = (BufReader::new(file), Vec::new(), 0);
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line)?;
            let of = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<Value>(line).ok());
            match of.and_then(|record| record.get("step")?.as_u64()) {
                Some(of) if of <= step => end += length as u64,
                _ => return Ok(end),
            }
        }
    }
}

impl Recorder for JsonLines {
    fn begin(&mut self, step: u64) -> Result<()> {
        // A new run drops the start of the last one too.
        let end = if step == 0 { Ok(0) } else { self.end_of(step) };
        let cut = end.and_then(|end| {
            self.out.get_ref().set_len(end)?;
            self.out.get_ref().seek(SeekFrom::Start(end)).map(|_| ())
        });
        cut.map_err(|source| attentia_file::Error::Write { path: self.path.clone(), source })?;
        self.write(&json!({"step": step, "started": self.started}))
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        self.write(&json!({
            "step": step.step,
            "loss": step.loss,
            "learning_rate": step.learning_rate,
            "gradient_norm": step.gradient_norm,
            "tokens": step.tokens,
            "tokens_per_second": step.tokens_per_second(),
        }))
    }

    fn skipped(&mut self, step: u64) -> Result<()> {
        self.write(&json!({"step": step, "skipped": true}))
    }

    fn validation(&mut self, report: &Report) -> Result<()> {
        let samples = report.samples.iter().map(
            |sample| json!({"source": sample.source, "reference": sample.reference, "translation": sample.translation}),
        );
        self.write(&json!({
            "step": report.step,
            "epoch": report.epoch,
            "valid_loss": report.validation.loss,
            "valid_accuracy": report.validation.accuracy,
            "best": report.best,
            "samples": samples.collect::<Vec<_>>(),
        }))
    }

    fn flush(&mut self) -> Result<()> {
        let flushed = self.out.flush().and_then(|()| self.out.get_ref().sync_data());
        Ok(flushed.map_err(|source| attentia_file::Error::Write { path: self.path.clone(), source })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn step(step: u64) -> Step {
        let elapsed = Duration::from_millis(5);
        Step { step, loss: 2.5, learning_rate: 0.1, gradient_norm: 1.0, tokens: 100, elapsed }
    }

    #[test]
    fn what_is_behind_the_checkpoint_goes() {
        let path = std::env::temp_dir().join(format!("attentia-lines-{}.jsonl", std::process::id()));
        let mut lines = JsonLines::open(&path, json!({"seed": 1})).unwrap();
        lines.begin(0).unwrap();
        for number in 1..=9 {
            lines.step(&step(number)).unwrap();
        }
        lines.flush().unwrap();
        drop(lines);
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend(b"{\"step\":10,\"lo");
        std::fs::write(&path, torn).unwrap();

        let mut lines = JsonLines::open(&path, json!({"seed": 1})).unwrap();
        lines.begin(4).unwrap();
        lines.step(&step(5)).unwrap();
        lines.flush().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let steps: Vec<u64> =
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [0, 1, 2, 3, 4, 4, 5]);
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!((last["loss"].as_f64(), last["tokens_per_second"].as_f64()), (Some(2.5), Some(20_000.0)));

        JsonLines::open(&path, json!({})).unwrap().begin(0).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        std::fs::remove_file(path).unwrap();
    }
}
