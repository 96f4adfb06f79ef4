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
    let begun = Instant::now();
    assert!(start(&arguments(&whole, &[])).wait_with_output().unwrap().status.success());
    let whole_took = begun.elapsed();

    // Moments of a fixed congruence, spread over what an undisturbed run took. One that is through begins anew.
    let (mut state, mut kills, mut in_training) = (7u64, 0, 0);
    while kills < 20 {
        let mut child = start(&arguments(&run, &["--resume"]));
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (begun, wait) = (Instant::now(), whole_took.mul_f64((state >> 33 & 0x3ff) as f64 / 1024.0));
        while begun.elapsed() < wait && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if folder.path("run/model.safetensors").exists() {
            std::fs::remove_dir_all(folder.path("run")).unwrap();
        } else {
            kills += 1;
            in_training += usize::from(folder.path("run/last.safetensors").exists());
        }
    }
    assert!(in_training >= 3, "{in_training} of {kills} kills found a checkpoint");
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

#[cfg(unix)]
#[test]
fn what_has_nothing_to_save_ends_at_once() {
    use std::io::{BufRead, BufReader, Write};
    let folder = Folder::new("at-once");
    let run = folder.text("run");
    succeed(&arguments(&run, &[]));
    // A quickstart goes on as it was begun, settings included: nothing is left to do here.
    succeed(&["quickstart", "--resume", "--out", &run, "--test-pairs", "2"]);
    let mut child = command(&["translate", &run]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // A chunk of lines is answered before the next is read: then it waits for more.
    let mut input = child.stdin.take().unwrap();
    input.write_all("Click OK.\n".repeat(256).as_bytes()).unwrap();
    let mut answer = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut answer).unwrap();
    assert!(answer.ends_with('\n'));
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_reader_of_standard_error_may_go_away() {
    let folder = Folder::new("deaf");
    let run = folder.text("run");
    let mut child = start(&arguments(&run, &[]));
    drop(child.stderr.take());
    assert!(child.wait().unwrap().success());
    assert!(folder.path("run/model.safetensors").is_file());
}
