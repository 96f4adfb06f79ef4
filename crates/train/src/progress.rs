//! A run as a person sees it: a bar in a terminal, a line every few seconds elsewhere.

use crate::{Recorder, Report, Result, Step};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// Shows steps, loss, tokens per second and the time left, on standard error.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    total: u64,
    started: Instant,
    /// What was done before this run: by the one that it goes on from.
    first: u64,
    last_line: Instant,
    smooth_loss: Option<f64>,
    tokens: usize,
}

const LINE_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// A run of `total` steps of something.
    pub fn new(what: &'static str, total: u64) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
            let template = "{prefix} [{bar:30}] {pos}/{len}  {msg}  {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(what);
            bar
        });
        let now = Instant::now();
        Progress { bar, what, total, started: now, first: 0, last_line: now, smooth_loss: None, tokens: 0 }
    }

    /// After `done` of the total are finished.
    pub fn advance(&mut self, done: u64) {
        self.show(done, String::new());
    }

    fn show(&mut self, done: u64, message: String) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(message);
                bar.set_position(done);
            }
            None if done == self.total || self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                let elapsed = self.started.elapsed().as_secs_f64();
                let here = done.saturating_sub(self.first).max(1);
                let left = elapsed / here as f64 * self.total.saturating_sub(done) as f64;
                tell(&format!("{} {done}/{}  {message}  {left:.0} s left", self.what, self.total));
            }
            None => {}
        }
    }

    /// A line that stays above the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => tell(line),
        }
    }

    /// Removes the bar; so does dropping it.
    pub fn finish(self) {}
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// That nobody reads standard error any more is no reason to stop a run.
fn tell(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}

impl Recorder for Progress {
    /// Rates and the time left are those of this process.
    fn begin(&mut self, step: u64) -> Result<()> {
        (self.first, self.started) = (step, Instant::now());
        if let Some(bar) = &self.bar {
            bar.set_position(step);
            bar.reset_eta();
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let smooth = self.smooth_loss.map_or(step.loss, |l| 0.98 * l + 0.02 * step.loss);
        self.smooth_loss = Some(smooth);
        self.tokens += step.tokens;
        let rate = self.tokens as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        self.show(step.step, format!("loss {smooth:.3}  {rate:.0} tokens/s"));
        Ok(())
    }

    fn skipped(&mut self, step: u64) -> Result<()> {
        self.say(&format!("step {step}: a batch was left out, its loss or gradient is not finite"));
        Ok(())
    }

    fn validation(&mut self, report: &Report) -> Result<()> {
        let Report { step, epoch, validation, best, samples } = report;
        let (loss, accuracy) = (validation.loss, 100.0 * validation.accuracy);
        let best = if *best { ", the best so far" } else { "" };
        self.say(&format!("step {step}, epoch {epoch}: valid loss {loss:.3}, {accuracy:.1} % of tokens right{best}"));
        if let Some(sample) = samples.first() {
            self.say(&format!("    {}\n    {}", sample.source, sample.translation));
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
