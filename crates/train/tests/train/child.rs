//! Processes of their own for a test: the same binary with the same test, told by its environment what to do.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

const TASK: &str = "ATTENTIA_TEST_TASK";

/// What this process is to do, if it was started by [`command`].
pub fn task() -> Option<Vec<String>> {
    std::env::var(TASK).ok().map(|task| task.split('\n').map(str::to_owned).collect())
}

/// This binary, running `test` with a task.
pub fn command(test: &str, task: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    set_task(command.args(arguments(test)), task);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The same under strace.
pub fn traced(options: &[&str], test: &str, task: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.arg("-f").args(options).arg(std::env::current_exe().unwrap());
    set_task(command.args(arguments(test)), task);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn arguments(test: &str) -> [&str; 4] {
    ["--exact", test, "--nocapture", "--test-threads=1"]
}

fn set_task(command: &mut Command, task: &[&str]) {
    command.env(TASK, task.join("\n"));
}

/// Tells the parent something: a line on standard error, at once. Not a print macro: those are captured, and buffered.
pub fn tell(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Whether an optional part is there. If not, tells that a test is skipped for it, and fails when `ATTENTIA_REQUIRE`
/// names it.
pub fn part_is_there(part: &str, there: bool) -> bool {
    let required = std::env::var("ATTENTIA_REQUIRE").unwrap_or_default();
    assert!(there || !required.split(',').any(|name| name == part), "{part} is required and is not there");
    if !there {
        tell(&format!("skipped: {part} is not there"));
    }
    there
}

/// Whether there is strace, to count and to fail a child's system calls.
pub fn strace_is_there() -> bool {
    part_is_there("strace", Command::new("strace").arg("-V").output().is_ok_and(|o| o.status.success()))
}

/// An empty folder of this process.
pub fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("attentia-train-{name}-{}", std::process::id()));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
