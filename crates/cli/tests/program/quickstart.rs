//! The first command of a newcomer, in small.

use crate::setting::{Folder, SMALL, bytes, fail, succeed};

fn quickstart(out: &str, more: &[&str]) -> String {
    succeed(&[&["quickstart", "--out", out, "--test-pairs", "20"], SMALL, more].concat())
}

/// A few steps teach nothing, but everything that a whole run writes is there, the same for any number of threads.
#[test]
fn everything_is_there_and_the_same_with_one_thread_and_with_two() {
    let folder = Folder::new("quickstart");
    let (one, two) = (folder.text("one"), folder.text("two"));
    let report = quickstart(&one, &["--threads", "1"]);
    let last = report.lines().last().unwrap();
    let score = last.strip_prefix("BLEU after: ").unwrap_or_else(|| panic!("last line: {last}"));
    assert!(score.parse::<f64>().is_ok() && score.split_once('.').unwrap().1.len() == 2, "{score}");
    let page = String::from_utf8(bytes(folder.path("one/attention.html"))).unwrap();
    for name in ["enc.0.self", "dec.1.self", "dec.1.cross", "Content-Security-Policy"] {
        assert!(page.contains(name), "{name}");
    }
    assert!(String::from_utf8(bytes(folder.path("one/attention.svg"))).unwrap().contains("</svg>"));
    assert!(bytes(folder.path("one/attention.png")).starts_with(b"\x89PNG"));
    assert!(folder.path("one/config.toml").is_file());
    let steps = String::from_utf8(bytes(folder.path("one/metrics.jsonl"))).unwrap();
    // A line for the start, 40 steps, and validations behind 15, 30 and the last.
    assert_eq!(steps.lines().count(), 44);

    quickstart(&two, &["--threads", "2"]);
    for name in ["model.safetensors", "last.safetensors", "best.safetensors", "attention.png", "attention.html"] {
        let of = |run: &str| bytes(folder.path(&format!("{run}/{name}")));
        assert!(of("one") == of("two"), "one thread and two made different bytes of {name}");
    }
    // Again into the same folder: it starts anew. With another seed: another model.
    let again = quickstart(&two, &["--seed", "5"]);
    assert!(again.contains("BLEU after: "));
    assert!(bytes(folder.path("one/model.safetensors")) != bytes(folder.path("two/model.safetensors")));

    let info = succeed(&["info", &one, "--parameters"]);
    assert!(info.contains("trained          40 steps") || info.contains("trained          30 steps"), "{info}");
    assert!(info.contains("for use only"), "{info}");
    let resumable = succeed(&["info", &folder.text("one/last.safetensors"), "--json"]);
    let resumable: serde_json::Value = serde_json::from_str(&resumable).unwrap();
    assert!(resumable["resumable"] == true && resumable["step"] == 40, "{resumable}");
    let scores = succeed(&["evaluate", &one, "--longest", "3", "--baseline", "--json"]);
    let scores: serde_json::Value = serde_json::from_str(&scores).unwrap();
    assert!(scores["baseline"]["bleu"].as_f64() > scores["model"]["bleu"].as_f64(), "{scores}");
    assert!(scores["model"]["chrf_signature"].as_str().unwrap().contains("nc:6"), "{scores}");
}

#[test]
fn what_is_in_the_way_stays() {
    let folder = Folder::new("occupied");
    let file = folder.write("file", "a file, not a folder");
    let message = fail(&[&["quickstart", "--out", &file], SMALL].concat(), 1);
    assert!(message.contains(&file) && message.contains("help:"), "{message}");
    assert_eq!(bytes(&file), b"a file, not a folder");

    // A run of another kind is not replaced.
    let run = folder.path("run");
    std::fs::create_dir(&run).unwrap();
    let config = folder.write("run/config.toml", "[model]\npreset = \"base\"\n");
    let message = fail(&[&["quickstart", "--out", run.to_str().unwrap()], SMALL].concat(), 1);
    assert!(message.contains("another run") && message.contains("help:"), "{message}");
    assert!(bytes(config).starts_with(b"[model]"));
}
