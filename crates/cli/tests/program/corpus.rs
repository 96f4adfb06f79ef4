//! A corpus of one's own: built, looked at, and learned from.

use crate::setting::{Folder, SMALL, bytes, command, fail, succeed, text};

/// 400 pairs of short sentences, a few of them useless.
fn sentences() -> (String, String) {
    let words = [("red", "rot"), ("blue", "blau"), ("green", "grün"), ("small", "klein"), ("large", "groß")];
    let things = [("house", "Haus"), ("book", "Buch"), ("car", "Auto"), ("tree", "Baum")];
    let (mut english, mut german) = (String::new(), String::new());
    for number in 0..400 {
        let ((w, wort), (t, ding)) = (words[number % 5], things[number / 5 % 4]);
        let letters: String = number.to_string().chars().map(|c| char::from(b'a' + c as u8 - b'0')).collect();
        english += &format!("the {w} {t} of {letters}\n");
        german += &format!("das {wort} {ding} von {letters}\n");
    }
    (english + "\nsame line\n", german + "leer\nsame line\n")
}

#[test]
fn a_corpus_is_built_looked_at_and_learned_from() {
    let folder = Folder::new("corpus");
    let (english, german) = sentences();
    let (en, de, out) = (folder.write("text.en", english), folder.write("text.de", german), folder.text("corpus"));
    let report =
        succeed(&["corpus", "build", "--from", "moses", &en, &de, "--out", &out, "--valid", "5", "--test", "10"]);
    assert!(report.contains("train") && report.contains("left out:"), "{report}");
    let again = succeed(&["corpus", "build", "--from", "moses", &en, &de, "--out", &out, "--json"]);
    let manifest: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert!(manifest["train"]["pairs"].as_u64().unwrap() > 250, "{manifest}");
    let stats = succeed(&["corpus", "stats", &out, "--split", "valid"]);
    assert!(stats.contains("das"), "{stats}");
    let bundled = succeed(&["corpus", "stats", "bundled", "--split", "test", "--json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&bundled).unwrap()["stats"]["pairs"], 2307);

    let merged = folder.text("merged");
    let merged = succeed(&["corpus", "build", "--from", "corpus", &out, "bundled", "--out", &merged, "--json"]);
    let merged: serde_json::Value = serde_json::from_str(&merged).unwrap();
    let train = |manifest: &serde_json::Value| manifest["train"]["pairs"].as_u64().unwrap();
    assert_eq!(train(&merged), train(&manifest) + 39572);

    let config = folder.write("own.toml", format!("[corpus]\nfrom = {out:?}\n[model]\nwidth = 32\nhidden = 64\n"));
    let run = folder.text("run");
    let more = ["--set", "corpus.longest=0", "--set", "model.vocabulary=300"];
    let dry = succeed(&[&["train", &config, "--dry-run"], SMALL, &more].concat());
    assert!(dry.contains("parameters") && dry.contains("tokens/s") && dry.contains("memory"), "{dry}");
    assert!(!folder.path("run").exists());
    let done = succeed(&[&["train", &config, "--out", &run], SMALL, &more].concat());
    assert!(done.contains("finished") && folder.path("run/model.safetensors").is_file(), "{done}");
    let scores = succeed(&["evaluate", &run, "--baseline"]);
    assert!(scores.contains("model") && scores.contains("look-up"), "{scores}");

    // It is not overwritten by another start, and --resume has nothing left to do.
    let message = fail(&[&["train", &config, "--out", &run], SMALL].concat(), 1);
    assert!(message.contains(&run) && message.contains("--resume"), "{message}");
    succeed(&["train", "--resume", "--out", &run]);
    // Wherever it is told to: what the configuration named from here is found from there.
    let from = |place: &std::path::Path, arguments: &[&str]| {
        let output = command(arguments).current_dir(place).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    let near = folder.write("near.toml", "[corpus]\nfrom = \"corpus\"\n[model]\nwidth = 32\nhidden = 64\n");
    let near_run = folder.text("near");
    from(&folder.path(""), &[&["train", &near, "--out", &near_run], SMALL, &more].concat());
    from(std::path::Path::new("/"), &["train", &folder.text("near/config.toml"), "--resume"]);
    assert!(bytes(folder.path("near/model.safetensors")) == bytes(folder.path("run/model.safetensors")));
    // Nor does it go on with other sentences.
    let message = fail(&["train", "--resume", "--out", &run, "--set", "corpus.longest=3"], 1);
    assert!(message.contains("corpus.longest was 0, and is now 3"), "{message}");
}
