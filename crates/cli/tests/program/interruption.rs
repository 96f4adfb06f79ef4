//! Runs that are stopped and killed end with the bytes of one that was left alone.

use crate::setting::{Folder, SMALL, bytes, command, succeed, text};
use std::{
    process::{Child, Stdio},
    time::{Duration, Instant},
};

fn arguments<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["quickstart", "--out", out, "--test-pairs", "4", "--threads", "2"], SMALL, more].concat()
}

fn start(arguments: &[&str]) -> Child {
    command(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Steps that stand in the run's log.
fn steps(folder: &Folder) -> Vec<u64> {
    let lines = std::fs::read_to_string(folder.path("run/metrics.jsonl")).unwrap_or_default();
    let step = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok().filter(|l| l["loss"].is_f64());
    lines.lines().filter_map(step).map(|line| line["step"].as_u64().unwrap()).collect()
}

#[test]
fn twenty_kills_change_no_byte() {
    let folder = Folder::new("kills");
    let (whole, run) = (folder.text("whole"), folder.text("run"));
    assert!(start(&arguments(&whole, &[])).wait_with_output().unwrap().status.success());

    // Moments of a fixed congruence, spread over what a start takes.
    let (mut state, mut kills) = (7u64, 0);
    while kills < 20 {
        let mut child = start(&arguments(&run, &["--resume"]));
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (begun, wait) = (Instant::now(), Duration::from_millis(state >> 33 & 0x3ff));
        while begun.elapsed() < wait && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    let output = start(&arguments(&run, &["--resume"])).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    for name in ["last.safetensors", "previous.safetensors", "best.safetensors", "model.safetensors"] {
        let of = |run: &str| bytes(folder.path(&format!("{run}/{name}")));
        assert!(of("whole") == of("run"), "{name} has other bytes");
    }
    // The log tells of one run, each step once.
    assert_eq!(steps(&folder), (1..=40).collect::<Vec<_>>());
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_the_run_goes_on() {
    let folder = Folder::new("signal");
    let run = folder.text("run");
    for signal in ["INT", "TERM"] {
        let seen = steps(&folder).len();
        let mut child = start(&arguments(&run, &["--resume", "--set", "train.steps=100000"]));
        // The log is flushed with every fifth step's checkpoint: then it is in the middle of its work.
        while steps(&folder).len() <= seen {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(Duration::from_millis(20));
        }
        let kill = format!("kill -{signal} {}", child.id());
        assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("interrupted, and saved"), "{}", text(&output.stderr));
        // What was logged was saved.
        let saved = succeed(&["info", &folder.text("run/last.safetensors"), "--json"]);
        let saved: serde_json::Value = serde_json::from_str(&saved).unwrap();
        assert_eq!(saved["step"].as_u64(), steps(&folder).last().copied(), "{signal}");
    }
    let steps = steps(&folder);
    assert_eq!(steps, (1..=steps.len() as u64).collect::<Vec<_>>());
}
