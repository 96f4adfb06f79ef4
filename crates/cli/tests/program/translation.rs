//! Translating lines, with all that lines can be; and scores beside sacrebleu's.

use crate::setting::{Folder, SMALL, bytes, command, python_with, refused, succeed, text};
use std::{
    io::Write,
    process::{Output, Stdio},
};

/// A model that has seen forty small batches.
fn model(folder: &Folder) -> String {
    succeed(&[&["quickstart", "--out", &folder.text("run"), "--test-pairs", "4"], SMALL].concat());
    folder.text("run")
}

fn with_input(arguments: &[&str], input: &[u8]) -> Output {
    let mut child =
        command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn lines_keep_their_order_and_scores_are_those_of_sacrebleu() {
    let folder = Folder::new("translation");
    let model = model(&folder);
    let one = succeed(&["translate", &model, "Click the OK button."]);
    assert_eq!(one.lines().count(), 1);

    // Blank lines stay; what cannot be translated is told of, leaves its line empty and makes the code 1.
    let long = "word ".repeat(2_000_000);
    let input =
        [b"Close the window.\n\nOpen a file.\r\n\xff\xfe\n".as_slice(), long.as_bytes(), b"\nClick OK."].concat();
    let output = with_input(&["translate", &model], &input);
    let lines: Vec<&str> = text(&output.stdout).split('\n').collect();
    assert_eq!(lines.len(), 7, "{lines:?}");
    assert_eq!([1, 3, 4].map(|empty| lines[empty]), [""; 3]);
    let message = refused(output, 1);
    assert!(message.contains("line 4: it is not UTF-8") && message.contains("line 5: "), "{message}");
    assert!(message.contains("tokens, and the model reads at most") && message.contains("2 of 6 lines"), "{message}");

    let lines = folder.write("lines.txt", "Close the window.\nOpen a file.\n");
    let best = succeed(&["translate", &model, "--file", &lines, "--beam", "4", "--nbest", "3"]);
    let ranks: Vec<&str> = best.lines().map(|line| line.split(" ||| ").next().unwrap()).collect();
    assert_eq!(ranks, ["0", "0", "0", "1", "1", "1"]);
    let json = succeed(&["translate", &model, "--file", &lines, "--beam", "4", "--json"]);
    let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(first["source"], "Close the window.");
    assert!(first["translations"][0]["score"].as_f64().unwrap() < 0.0);

    let pictures = ["page.html", "map.png", "map.svg"].map(|name| folder.text(name));
    let [page, png, svg] = &pictures;
    let drawn = ["translate", &model, "Click OK <now>.", "--attention", page, "--png", png, "--svg", svg];
    succeed(&drawn);
    assert!(bytes(png).starts_with(b"\x89PNG") && text(&bytes(svg)).contains("&lt;eos&gt;"));
    assert!(text(&bytes(page)).contains("dec.1.cross"));
    // The same run, the same bytes.
    let before = pictures.clone().map(bytes);
    succeed(&drawn);
    assert!(before == pictures.clone().map(bytes));

    let empty = refused(command(&["translate", &model, "  "]).output().unwrap(), 1);
    assert!(empty.contains("the text is empty"), "{empty}");
    // Whoever read our output went away: that is no failure.
    let mut closed = command(&["translate", &model, "--file", &lines]).stdout(Stdio::piped()).spawn().unwrap();
    drop(closed.stdout.take());
    assert!(closed.wait().unwrap().success());

    beside_sacrebleu(&folder, &model);
}

fn beside_sacrebleu(folder: &Folder, model: &str) {
    let sources: String = ["Close the window.", "Click OK.", "Open a file.", "Type 1,000.5 in A1!"].join("\n") + "\n";
    let references =
        ["Schließen Sie das Fenster.", "Klicken Sie auf OK.", "Öffnen Sie eine Datei.", "Geben Sie 1.000,5 ein!"];
    let (src, reference) = (folder.write("src.txt", sources), folder.write("ref.txt", references.join("\n") + "\n"));
    let out = folder.text("translations.txt");
    let answer = succeed(&["evaluate", model, "--src", &src, "--ref", &reference, "--out", &out, "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let Some(mut python) = python_with("sacrebleu") else { return };
    let script = "
import json, sacrebleu, sys
lines = lambda path: open(path, encoding='utf-8').read().split('\\n')[:-1]
hypotheses, references = lines(sys.argv[1]), [lines(sys.argv[2])]
bleu, chrf = sacrebleu.metrics.BLEU(), sacrebleu.metrics.CHRF()
scores = [metric.corpus_score(hypotheses, references).score for metric in (bleu, chrf)]
print(json.dumps([scores, [str(bleu.get_signature()), str(chrf.get_signature())]]))";
    let theirs = python.args(["-c", script, &out, &reference]).output().unwrap();
    assert!(theirs.status.success(), "{}", text(&theirs.stderr));
    let theirs: serde_json::Value = serde_json::from_slice(&theirs.stdout).unwrap();
    for (at, name) in ["bleu", "chrf"].into_iter().enumerate() {
        let (ours, score) = (answer["model"][name].as_f64().unwrap(), theirs[0][at].as_f64().unwrap());
        assert!((ours - score).abs() < 0.01, "{name}: {ours}, sacrebleu {score}");
        let signature =
            |value: &serde_json::Value| value.as_str().unwrap().split("|version:").next().unwrap().to_owned();
        let ours = signature(&answer["model"][format!("{name}_signature")]);
        assert_eq!(ours, signature(&theirs[1][at]), "{name}");
    }
}
