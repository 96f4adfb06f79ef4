//! The program as a person runs it.

use assert_cmd::Command;
use std::path::{Path, PathBuf};

fn attentia(arguments: &[&str]) -> std::process::Output {
    Command::cargo_bin("attentia").unwrap().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A folder of this test's own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("attentia-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn quickstart(out: &Path, threads: &str) -> String {
    let output = attentia(&[
        "quickstart",
        "--steps",
        "6",
        "--test-pairs",
        "40",
        "--out",
        out.to_str().unwrap(),
        "--threads",
        threads,
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

/// Six steps teach nothing, but everything that a whole run writes is there, the same for any number of threads.
#[test]
fn quickstart_writes_a_checkpoint_that_translate_reads() {
    let folder = Folder::new("quickstart");
    let (one, two) = (folder.path("one"), folder.path("two"));
    let report = quickstart(&one, "1");
    let last = report.lines().last().unwrap();
    let score = last.strip_prefix("BLEU after: ").unwrap_or_else(|| panic!("last line: {last}"));
    assert!(score.parse::<f64>().is_ok() && score.split_once('.').unwrap().1.len() == 2, "{score}");
    assert!(std::fs::read_to_string(one.join("attention.svg")).unwrap().contains("</svg>"));

    quickstart(&two, "2");
    let bytes = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(bytes(&one) == bytes(&two), "one thread and two made different checkpoints");

    let (model, svg) = (one.join("model.safetensors"), folder.path("map.svg"));
    let output =
        attentia(&["translate", model.to_str().unwrap(), "Click the OK button.", "--svg", svg.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), 1);
    let map = std::fs::read_to_string(svg).unwrap();
    assert!(map.contains("Click") && map.contains("&lt;eos&gt;"), "{map}");

    // Cut short, it is refused by name, and nothing is written.
    let torn = folder.path("torn.safetensors");
    let whole = bytes(&one);
    std::fs::write(&torn, &whole[..whole.len() - 1000]).unwrap();
    let output = attentia(&["translate", torn.to_str().unwrap(), "Hello."]);
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(message.contains("torn.safetensors") && message.contains("help:"), "{message}");
    let output = attentia(&["translate", model.to_str().unwrap(), "  "]);
    assert!(text(&output.stderr).contains("the text is empty"), "{}", text(&output.stderr));
}

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
fn mistakes_are_explained() {
    let unknown = attentia(&["doctor", "--device", "abacus"]);
    assert_eq!(unknown.status.code(), Some(1));
    let message = text(&unknown.stderr);
    assert!(message.contains("abacus") && message.contains("cpu, reference"), "{message}");

    let oracle = attentia(&["doctor", "--device", "reference"]);
    assert_eq!(oracle.status.code(), Some(1));
    assert!(text(&oracle.stderr).contains("reference"), "{}", text(&oracle.stderr));

    let missing = attentia(&["translate", "no/such/file.safetensors", "Hello."]);
    assert_eq!(missing.status.code(), Some(1));
    let message = text(&missing.stderr);
    assert!(message.contains("no/such/file.safetensors") && message.contains("quickstart"), "{message}");
    assert!(message.find("os error") < message.find("help:"), "the cause stands before the help: {message}");

    assert_eq!(attentia(&["translat"]).status.code(), Some(2));
    let folder = Folder::new("occupied");
    let file = folder.path("file");
    std::fs::write(&file, "a file, not a folder").unwrap();
    let output = attentia(&["quickstart", "--steps", "1", "--out", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(file.to_str().unwrap()), "{}", text(&output.stderr));
}
