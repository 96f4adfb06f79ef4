//! What goes wrong is told with the file or the key, the cause and a next step; the exit code is right, nothing is lost
//! and nothing panics.

use crate::setting::{Folder, SMALL, bytes, command, fail, part_is_there, refused, succeed};
use attentia::{data::Tokenizer, transformer::Checkpoint};
use serde_json::Value;
use std::process::{Command, Stdio};

fn contains_all(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn files_that_are_no_corpus() {
    let folder = Folder::new("no-corpus");
    let out = folder.text("out");
    let good = folder.write("good.de", "eins zwei drei\n".repeat(3));
    let empty = folder.write("empty.en", "");
    let build =
        |source: &str, target: &str| fail(&["corpus", "build", "--from", "moses", source, target, "--out", &out], 1);
    contains_all(&build(&empty, &good), &["empty.en", "help:"]);
    let short = folder.write("short.en", "one two three\n");
    contains_all(&build(&short, &good), &["short.en", "good.de", "1", "3", "help:"]);
    contains_all(&build(&folder.text("none.en"), &good), &["none.en", "help:"]);
    assert!(!folder.path("out").exists());

    // Lines that are no text, or endless, are left out and counted; the rest is kept.
    let mut english = b"\xff\xfe broken\n".to_vec();
    english.extend(b"x".repeat(10 << 20));
    english.push(b'\n');
    let mut german = "kaputt\nendlos\n".to_owned();
    for number in 0..300 {
        let letters: String = number.to_string().chars().map(|c| char::from(b'a' + c as u8 - b'0')).collect();
        english.extend(format!("the word {letters} here\n").bytes());
        german += &format!("das Wort {letters} hier\n");
    }
    let (en, de) = (folder.write("text.en", english), folder.write("text.de", german));
    let report = succeed(&["corpus", "build", "--from", "moses", &en, &de, "--out", &out]);
    contains_all(&report, &["300", "encoding"]);

    let occupied = folder.path("occupied");
    std::fs::create_dir(&occupied).unwrap();
    std::fs::write(occupied.join("letter.txt"), "dear").unwrap();
    let message = fail(&["corpus", "build", "--from", "moses", &en, &de, "--out", occupied.to_str().unwrap()], 1);
    contains_all(&message, &["occupied", "help:"]);
    assert_eq!(bytes(occupied.join("letter.txt")), b"dear");
}

#[test]
fn settings_that_make_no_sense() {
    let folder = Folder::new("settings");
    let run = folder.text("run");
    let config = folder.write("c.toml", "[train]\nlabel_smothing = 0.1\n");
    contains_all(
        &fail(&["train", &config, "--out", &run], 1),
        &["c.toml", "label_smothing", "label_smoothing", "help:"],
    );
    let config = folder.write("d.toml", "[corpus]\nfrom = \"no/such/corpus\"\n");
    contains_all(&fail(&["train", &config, "--out", &run], 1), &["no/such/corpus", "corpus build"]);
    contains_all(&fail(&["train", &folder.text("none.toml"), "--out", &run], 1), &["none.toml", "help:"]);
    contains_all(&fail(&["train"], 2), &["help:"]);
    contains_all(&fail(&["translate", "x", "--beam", "2", "--nbest", "3"], 2), &["--nbest 3", "--beam 2", "help:"]);
    contains_all(&fail(&["corpus", "build", "--from", "moses", "x", "--out", "y"], 2), &["1 inputs", "two", "help:"]);
    fail(&["evaluate", "x", "--src", "a", "--ref", "b", "--split", "test"], 2);
    fail(&["train", "--seed", "9223372036854775808"], 2);
    let known = folder.write("known.toml", "[train]\nsteps = 3\n");
    contains_all(&fail(&["train", &known, "--set", "train.step=3"], 2), &["--set", "train.step", "train.steps?"]);
    contains_all(&fail(&["translate", "x", "--length-penalty", "nan"], 2), &["--length-penalty", "help:"]);
    contains_all(&fail(&["corpus", "build", "--from", "tsv", "--columns", "0,1", "x", "--out", "y"], 2), &["columns"]);
    fail(&["translate", "x", "--file", "y", "--png", "z.png"], 2);
    contains_all(&fail(&["doctor", "--device", "abacus"], 2), &["abacus", "cpu, reference"]);
    contains_all(&fail(&["doctor", "--device", "reference"], 1), &["reference"]);
    fail(&["translat"], 2);
    fail(&["corpus", "build", "--from", "paper", "x", "--out", "y"], 2);
    assert!(!folder.path("run").exists());

    // A learning rate that ends in a NaN stops the run by name, and what was saved before is there.
    let nan =
        [&["quickstart", "--out", &run], SMALL, &["--set", "train.peak=1e30", "--set", "checkpoint.every=1"]].concat();
    let message = fail(&nan, 1);
    contains_all(&message, &["step", "help:", "skip"]);
    assert!(message.contains("parameter") || message.contains("infinity") || message.contains("NaN"), "{message}");
    assert!(folder.path("run/last.safetensors").is_file());
}

/// The checkpoint with a greater number in its seal, and a seal that is whole.
fn of_a_newer_format(checkpoint: &[u8]) -> Vec<u8> {
    let (length, rest) = checkpoint.split_first_chunk().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    let seal = header["__metadata__"].as_object_mut().unwrap().values_mut().next().unwrap();
    let mut opened: Value = serde_json::from_str(seal.as_str().unwrap()).unwrap();
    let format = opened["format"].as_u64().unwrap() + 1;
    let checksum =
        crc32c::crc32c_append(crc32c::crc32c(&format.to_le_bytes()), opened["content"].to_string().as_bytes());
    (opened["format"], opened["checksum"]) = (format.into(), checksum.into());
    *seal = opened.to_string().into();
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn files_that_are_no_checkpoint() {
    let folder = Folder::new("no-checkpoint");
    let run = folder.text("run");
    succeed(&[&["quickstart", "--out", &run, "--test-pairs", "2"], SMALL].concat());
    let whole = bytes(folder.path("run/model.safetensors"));

    let missing = fail(&["translate", "no/such/file.safetensors", "Hello."], 1);
    contains_all(&missing, &["no/such/file.safetensors", "quickstart"]);
    let torn = folder.write("torn.safetensors", &whole[..whole.len() - 1000]);
    contains_all(&fail(&["translate", &torn, "Hello."], 1), &["torn.safetensors", "help:"]);
    let foreign = folder.write("foreign.safetensors", b"PK\x03\x04 is a zip");
    contains_all(&fail(&["info", &foreign], 1), &["foreign.safetensors", "help:"]);
    let newer = folder.write("newer.safetensors", of_a_newer_format(&whole));
    contains_all(&fail(&["info", &newer], 1), &["newer.safetensors", "help:", "newer version"]);
    // Its tokenizer names tokens that its model has no row for.
    let device = attentia::device("cpu").unwrap();
    let mut stranger = Checkpoint::load(folder.path("run/model.safetensors"), &device).unwrap();
    let texts: Vec<String> = (0..900u32).map(|n| format!("{n:x} {n:x}")).collect();
    stranger.tokenizer = Tokenizer::train_bpe(&texts, 900).unwrap().to_json().unwrap();
    stranger.save(folder.path("stranger.safetensors")).unwrap();
    let message = fail(&["translate", &folder.text("stranger.safetensors"), "Hello."], 1);
    contains_all(&message, &["its tokenizer has", "its model 500", "help:"]);
    contains_all(&fail(&["evaluate", &folder.text("empty-folder")], 1), &["empty-folder"]);
    assert!(bytes(folder.path("run/model.safetensors")) == whole);
}

#[test]
fn two_trainings_in_one_folder() {
    let folder = Folder::new("two");
    let run = folder.text("run");
    let long = [&["quickstart", "--out", &run], SMALL, &["--set", "train.steps=100000"]].concat();
    let mut first = command(&long).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !folder.path("run/.lock").exists() {
        assert!(first.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let message = fail(&[&["quickstart", "--resume", "--out", &run], SMALL].concat(), 1);
    first.kill().unwrap();
    first.wait().unwrap();
    contains_all(&message, &["run", "another process", "help:"]);
}

/// A file system of 2 MB for a command, in a name space of its own.
fn on_a_small_disk(folder: &str, options: &str, arguments: &[&str]) -> Option<std::process::Output> {
    let program = env!("CARGO_BIN_EXE_attentia");
    let quoted: Vec<String> = arguments.iter().map(|argument| format!("'{argument}'")).collect();
    let script = format!("mount -t tmpfs -o {options} none '{folder}' && exec '{program}' {}", quoted.join(" "));
    let unshare =
        |script: &str| Command::new("unshare").args(["--mount", "--map-root-user", "sh", "-c", script]).output();
    let there = unshare("mount -t tmpfs none /mnt").is_ok_and(|output| output.status.success());
    part_is_there("mount", there).then(|| unshare(&script).unwrap())
}

#[test]
fn a_full_disk_and_one_that_cannot_be_written() {
    let folder = Folder::new("disk");
    let disk = folder.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let disk = disk.to_str().unwrap();
    let run = format!("{disk}/run");
    let arguments = [&["quickstart", "--out", &run], SMALL].concat();
    if let Some(output) = on_a_small_disk(disk, "size=2m", &arguments) {
        contains_all(&refused(output, 1), &["run", "No space left", "help:"]);
    }
    if let Some(output) = on_a_small_disk(disk, "ro", &arguments) {
        contains_all(&refused(output, 1), &["run", "Read-only", "help:"]);
    }
}
