//! The harness: one trial per case and device, counts, skips.
//!
//! ```no_run
//! use attentia_backend::Device;
//! use attentia_reference::ReferenceBackend;
//! use attentia_tests::suite::{Target, run};
//!
//! let device = Device::new(ReferenceBackend::new());
//! run(vec![Target { device, label: String::new(), unsupported: |_case| None }])
//! # ;
//! ```
//!
//! Arguments are those of `cargo test`: a filter picks cases by their id (`softmax/3x64`), `--list` names them,
//! `--format pretty` prints a line for each instead of a dot.

use crate::{
    case::{Case, Outcome},
    cases, coverage,
};
use attentia_backend::Device;
use libtest_mimic::{Arguments, Failed, FormatSetting, Trial};
use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// A backend to be tested.
pub struct Target {
    /// The backend.
    pub device: Device,
    /// Appended to the ids, where one backend is tested in several configurations: `avx512`.
    pub label: String,
    /// Why a case can't run there, or `None`. Every such case is counted and printed.
    pub unsupported: fn(&Case) -> Option<&'static str>,
}

/// Runs every case on every target, and prints what was run and what was not.
pub fn run(targets: Vec<Target>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    if arguments.format.is_none() && !arguments.quiet {
        arguments.format = Some(FormatSetting::Terse);
    }
    let cases: Vec<Arc<Case>> = cases::all().into_iter().map(Arc::new).collect();
    let composed = Arc::new(AtomicUsize::new(0));
    let mut skipped = Vec::new();
    let mut trials = Vec::new();
    for target in &targets {
        for case in &cases {
            let id = match target.label.as_str() {
                "" => case.id.clone(),
                label => format!("{}@{label}", case.id),
            };
            if let Some(reason) = (target.unsupported)(case) {
                skipped.push(format!("{id}: {reason}"));
                continue;
            }
            let (case, device, composed) = (case.clone(), target.device.clone(), composed.clone());
            trials.push(Trial::test(id, move || match case.check(&*device) {
                Ok(Outcome::Right) => Ok(()),
                Ok(Outcome::Composed) => {
                    composed.fetch_add(1, Relaxed);
                    Ok(())
                }
                Err(what) => Err(Failed::from(what)),
            }));
        }
    }
    let count = trials.len();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        let plain: Vec<Case> = cases.iter().map(|case| Case::clone(case)).collect();
        summary(&targets, &plain, count, composed.load(Relaxed), &skipped);
    }
    conclusion.exit_code()
}

fn summary(targets: &[Target], cases: &[Case], count: usize, composed: usize, skipped: &[String]) {
    println!("cases per operation (contiguous transposed sliced broadcast reversed empty one):");
    for (operation, placements) in coverage::table(cases) {
        let by_placement: Vec<String> =
            crate::layout::Placement::ALL.iter().map(|p| placements.get(p).copied().unwrap_or(0).to_string()).collect();
        println!("  {operation:24} {:5}   {}", placements.values().sum::<usize>(), by_placement.join(" "));
    }
    for what in skipped {
        println!("skipped {what}");
    }
    let names: Vec<String> =
        targets.iter().map(|t| format!("{} {}", t.device.name(), t.label).trim().to_owned()).collect();
    println!("cases: {} on {} targets ({}), {count} trials", cases.len(), targets.len(), names.join(", "));
    println!("composed: {composed} (no kernel: support says so, and the call is refused)");
    println!("skipped: {} unsupported", skipped.len());
}
