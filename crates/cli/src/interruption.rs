//! Ctrl-C and SIGTERM: they end the program at once, but for a training, which finishes its step and saves.
//!
//! One flag says that the next signal ends the process. It is set wherever there is nothing to save; a training clears it
//! when it begins, the first signal sets it again, and the training looks at it after each step.

use anyhow::{Context, Result};
use signal_hook::{consts::TERM_SIGNALS, flag};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// The exit code of a program that was told to stop.
pub(crate) const INTERRUPTED: u8 = 130;

/// What signals do to this process.
#[derive(Debug)]
pub(crate) struct Interruption {
    at_once: Arc<AtomicBool>,
}

impl Interruption {
    /// From here on a signal ends the process with exit code 130.
    pub(crate) fn watch() -> Result<Interruption> {
        let at_once = Arc::new(AtomicBool::new(true));
        for &signal in TERM_SIGNALS {
            // In this order: what looks at the flag must have run before it is set.
            let told = flag::register_conditional_shutdown(signal, i32::from(INTERRUPTED), Arc::clone(&at_once))
                .and_then(|_| flag::register(signal, Arc::clone(&at_once)));
            told.context("signals cannot be watched")?;
        }
        Ok(Interruption { at_once })
    }

    /// Runs what ends by itself soon after the flag is set; says too whether a signal set it.
    pub(crate) fn deferred<T>(&self, run: impl FnOnce(&Arc<AtomicBool>) -> T) -> (T, bool) {
        self.at_once.store(false, Ordering::Relaxed);
        let result = run(&self.at_once);
        (result, self.at_once.swap(true, Ordering::Relaxed))
    }
}
