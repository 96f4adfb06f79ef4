//! `attentia bench attention`: what it reports, what it writes, and what it refuses before it spends time.

use crate::setting::{Folder, attentia, bytes, fail, succeed, text};
use serde_json::Value;

const SHORT: &[&str] = &["bench", "attention", "--rounds", "2", "--threads", "2", "--heads", "4", "--dim", "16"];

fn report(more: &[&str]) -> Value {
    serde_json::from_str(&succeed(&[SHORT, &["--json"], more].concat())).unwrap()
}

fn rows(report: &Value) -> &Vec<Value> {
    report["measurements"].as_array().unwrap()
}

/// Fields of a measurement that are numbers above 0.
const NUMBERS: &[&str] = &[
    "tokens",
    "repetitions",
    "median_milliseconds",
    "best_milliseconds",
    "gflop",
    "gflops",
    "best_gflops",
    "percent_of_peak",
    "best_percent_of_peak",
    "of_forward",
    "peak_bytes",
];

#[test]
fn every_pass_over_every_length_has_its_numbers() {
    // Out of order, twice, by commas and by spaces: each once, the shortest first.
    let report = report(&["--seq", "96,32", "32", "--stats", "--backward"]);
    assert!(report["peak_gflops"].as_f64().is_some_and(|peak| peak > 0.0 && peak.is_finite()), "{report}");
    assert_eq!((&report["threads"], &report["kv_heads"], &report["dtype"]), (&2.into(), &4.into(), &"f32".into()));
    let seen: Vec<_> =
        rows(&report).iter().map(|m| (m["tokens"].as_u64().unwrap(), m["pass"].as_str().unwrap())).collect();
    let passes =
        ["forward", "forward + statistics", "forward + all statistics", "maps", "forward + gradients", "gradient maps"];
    assert_eq!(seen, [32, 96].map(|tokens| passes.map(|pass| (tokens, pass))).concat());
    for m in rows(&report) {
        for name in NUMBERS {
            assert!(m[name].as_f64().is_some_and(|number| number > 0.0 && number.is_finite()), "{name}: {m}");
        }
        assert!(m["best_milliseconds"].as_f64() <= m["median_milliseconds"].as_f64(), "{m}");
        assert!(m["repetitions"].as_u64().unwrap() >= 2, "{m}");
        // Either a kernel with its workspace, or the reason why there was none.
        assert_eq!(m["kernel"].is_string(), m["composed"].is_null(), "{m}");
        assert_eq!(m["kernel"].is_string(), m["workspace_bytes"].is_u64(), "{m}");
    }
}

#[test]
fn only_useful_work_counts() {
    let gflop = |report: &Value, row: usize| rows(report)[row]["gflop"].as_f64().unwrap();
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-12, "{a} {b}");
    let full = report(&["--seq", "32", "--backward", "--batch", "3", "--kv-heads", "2"]);
    near(gflop(&full, 0), 4e-9 * 3.0 * 4.0 * 32.0 * 32.0 * 16.0);
    near(gflop(&full, 1), 3.5 * gflop(&full, 0));
    let causal = report(&["--seq", "32", "--batch", "3", "--causal"]);
    near(gflop(&causal, 0) / gflop(&full, 0), (32.0 * 33.0 / 2.0) / (32.0 * 32.0));
}

#[test]
fn the_path_is_told_as_it_is() {
    for dtype in ["f32", "f64", "bf16", "f16"] {
        let report = report(&["--seq", "24", "--dtype", dtype]);
        assert_eq!((&report["dtype"], &rows(&report)[0]["composed"]), (&dtype.into(), &Value::Null), "{report}");
    }
    // No kernel goes so far.
    let output = attentia(&["bench", "attention", "--seq", "8", "--rounds", "1", "--dim", "5000", "--heads", "1"]);
    let table = text(&output.stdout);
    assert!(output.status.success() && table.contains("composed: ") && table.contains("5000"), "{table}");
    assert!(text(&output.stderr).contains("attention 2/2"), "{}", text(&output.stderr));
}

#[test]
fn the_page_is_whole_and_asks_for_nothing() {
    let folder = Folder::new("bench-attention");
    let path = folder.write("page.html", "an older page");
    let table = succeed(&[SHORT, &["--seq", "16,32,64", "--stats", "--causal", "--html", &path]].concat());
    assert!(table.contains("GFLOP/s") && table.contains("causal"), "{table}");
    let page = String::from_utf8(bytes(&path)).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"), "{page}");
    assert_eq!((page.matches("<svg").count(), page.matches("<circle").count()), (2, 24), "{page}");
    for pass in ["forward + statistics", "forward + all statistics"] {
        assert_eq!(page.matches(&format!("<td>{pass}</td>")).count(), 3, "{page}");
    }
    // The name of SVG's vocabulary is no address that anybody asks.
    assert!(!page.replace("http://www.w3.org/2000/svg", "").contains("://"), "{page}");
    assert!(!page.contains("<script") && !page.contains("@import") && !page.contains("url("), "{page}");
    assert_eq!(std::fs::read_dir(folder.path("")).unwrap().count(), 1);
}

#[test]
fn mistakes_cost_no_time() {
    let folder = Folder::new("bench-mistakes");
    let refused = |more: &[&str], parts: &[&str]| {
        // A million rounds: it would never end.
        let message = fail(&[&["bench", "attention", "--rounds", "1000000"], more].concat(), 2);
        parts.iter().for_each(|part| assert!(message.contains(part), "{part:?} is not in: {message}"));
    };
    for option in ["--batch", "--heads", "--kv-heads", "--dim"] {
        refused(&[option, "0"], &[option, "help:"]);
    }
    refused(&["--heads", "6", "--kv-heads", "4"], &["--heads 6", "--kv-heads 4", "help:", "1, 2, 3, 6"]);
    refused(&["--seq", "128,0"], &["--seq", "help:"]);
    refused(&["--seq"], &["--seq"]);
    refused(&["--seq", ""], &["--seq"]);
    refused(&["--seq", "many"], &["--seq", "many"]);
    refused(&["--dtype", "i64"], &["i64", "bf16"]);
    refused(&["--dim", "9999999999999999999"], &["too many elements", "help:"]);
    refused(&["--device", "reference"], &["reference", "help:"]);
    refused(&["--device", "abacus"], &["abacus", "cpu, reference"]);
    let message = fail(&["bench", "attention", "--rounds", "0"], 2);
    assert!(message.contains("--rounds 0") && message.contains("help:"), "{message}");
    let message = fail(&["bench", "--json", "attention"], 2);
    assert!(message.contains("help:") && message.contains("bench attention"), "{message}");
    #[cfg(target_os = "linux")] // which tells how much memory there is
    {
        refused(&["--seq", "100000000"], &["forward of 100000000 tokens", "GiB", "help:"]);
        refused(&["--seq", "100000000", "--dim", "5000"], &["GiB", "score matrices", "5000", "help:"]);
    }

    // A file that cannot be written is no wrong usage.
    for path in [folder.text("no/such/page.html"), folder.text("")] {
        let message = fail(&["bench", "attention", "--rounds", "1000000", "--html", &path], 1);
        assert!(message.contains(&path) && message.contains("help:"), "{message}");
    }
    assert_eq!(std::fs::read_dir(folder.path("")).unwrap().count(), 0);
}
