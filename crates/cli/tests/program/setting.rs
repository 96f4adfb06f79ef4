//! Running the program in folders of a test's own.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A run that takes seconds: it learns nothing, and writes all that a whole run writes.
pub const SMALL: &[&str] = &[
    "--set",
    "corpus.longest=5",
    "--set",
    "model.vocabulary=500",
    "--set",
    "train.batch_tokens=256",
    "--set",
    "train.steps=40",
    "--set",
    "train.warmup=5",
    "--set",
    "validate.every=15",
    "--set",
    "checkpoint.every=5",
];

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attentia"));
    command.args(arguments);
    command
}

pub fn attentia(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// What a run that must succeed prints.
pub fn succeed(arguments: &[&str]) -> String {
    let output = attentia(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

/// What a run that must fail with this code says; it must not have panicked.
pub fn fail(arguments: &[&str], code: i32) -> String {
    refused(command(arguments).output().unwrap(), code)
}

pub fn refused(output: Output, code: i32) -> String {
    let message = text(&output.stderr).to_owned();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    message
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A folder of a test's own, removed at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("attentia-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.text(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn bytes(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// Whether an optional part is there. If not, tells that a test is skipped for it, and fails when `ATTENTIA_REQUIRE`
/// names it.
pub fn part_is_there(part: &str, there: bool) -> bool {
    let required = std::env::var("ATTENTIA_REQUIRE").unwrap_or_default();
    assert!(there || !required.split(',').any(|name| name == part), "{part} is required and is not there");
    if !there {
        // Not a print macro: those are captured.
        std::io::stderr().write_all(format!("skipped: {part} is not there\n").as_bytes()).unwrap();
    }
    there
}

/// A Python that has this module.
pub fn python_with(module: &str) -> Option<Command> {
    let python = std::env::var("ATTENTIA_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let asked = Command::new(&python).args(["-c", &format!("import {module}")]).output();
    let there = asked.is_ok_and(|output| output.status.success());
    part_is_there(module, there).then(|| Command::new(python))
}
