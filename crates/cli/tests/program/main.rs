//! The program as a person runs it.

mod bench_attention;
mod corpus;
mod interruption;
mod mistakes;
mod quickstart;
mod setting;
mod tensorboard;
mod translation;

use setting::{attentia, text};

#[test]
fn doctor_finds_this_machine_well() {
    let output = attentia(&["doctor", "--json", "--threads", "2"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["threads"], 2);
    assert!(report["fma_peak_gflops"].as_f64().unwrap() > 0.1);
    assert!(report["copy_gb_per_s"].as_f64().unwrap() > 0.01);
    let checks = report["self_test"].as_array().unwrap();
    assert!(checks.len() >= 22 && checks.iter().all(|c| c["error"].as_f64() <= c["limit"].as_f64()));
    let kernels = report["kernels"].as_array().unwrap();
    assert!(kernels.iter().any(|k| k["name"] == "softmax" && k["dtypes"].as_array().unwrap().len() == 4));
    let page = attentia(&["doctor"]);
    assert!(text(&page.stdout).contains("FMA peak"));
}

#[test]
fn bench_measures_and_every_command_explains_itself() {
    let output = attentia(&["bench", "--seconds", "0.01", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = report["lines"].as_array().unwrap();
    assert!(lines.len() >= 7 && lines.iter().all(|line| line["rate"].as_f64().unwrap() > 0.0), "{report}");

    for command in ["quickstart", "train", "translate", "evaluate", "corpus", "info", "doctor", "bench", "completions"]
    {
        let help = attentia(&[command, "--help"]);
        assert!(help.status.success() && text(&help.stdout).contains("Usage:"), "{command}");
    }
    let script = attentia(&["completions", "bash"]);
    assert!(text(&script.stdout).contains("quickstart"));
}
