//! Headless Chromium as a child process.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
const FLAGS: [&str; 12] = [
    "--headless=new",
    // It refuses to run as root with one, as in most containers.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    // No errands of its own, as far as flags go.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
    "--virtual-time-budget=3000",
];

pub struct Chromium(&'static str);

/// What a page did.
pub struct Visit {
    /// The document after its script has run.
    pub dom: String,
    /// Lines that the page wrote to its console, or the browser about it.
    pub console: Vec<String>,
    /// Addresses that the page asked for.
    pub requests: Vec<String>,
}

impl Chromium {
    /// The browser, if there is one. If not, tells that a test is skipped for it, and fails when `ATTENTIA_REQUIRE`
    /// names it.
    pub fn find() -> Option<Self> {
        let runs = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
        let browser = NAMES.into_iter().find(runs).map(Self);
        let required = std::env::var("ATTENTIA_REQUIRE").unwrap_or_default();
        let required = required.split(',').any(|name| name == "chromium");
        assert!(browser.is_some() || !required, "chromium is required and is not there");
        if browser.is_none() {
            // Not a print macro: those are captured.
            std::io::stderr().write_all(b"skipped: browser (chromium) is not there\n").unwrap();
        }
        browser
    }

    /// Opens a page from a file of its own and waits until its script has run.
    pub fn open(&self, name: &str, page: &str) -> Visit {
        let folder = folder(name);
        let (file, log) = (folder.join("page.html"), folder.join("net.json"));
        fs::write(&file, page).unwrap();
        let output = Command::new(self.0)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", folder.join("profile").display()))
            .arg(format!("--log-net-log={}", log.display()))
            .arg("--dump-dom")
            .arg(format!("file://{}", file.display()))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        let console = errors.lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned).collect();
        let requests = addresses(&fs::read_to_string(&log).unwrap());
        fs::remove_dir_all(&folder).unwrap();
        Visit { dom: String::from_utf8_lossy(&output.stdout).into_owned(), console, requests }
    }
}

impl Visit {
    /// What stands in the element that begins with `start`, up to the next one of its kind or the end of it.
    pub fn text_of(&self, start: &str) -> String {
        let tag = start.trim_start_matches('<').split([' ', '>']).next().unwrap();
        let begin = self.dom.find(start).unwrap_or_else(|| panic!("no {start} in {}", self.dom));
        let rest = &self.dom[begin + start.len()..];
        let close = format!("</{tag}>");
        // A legend has an element of its kind inside.
        let end = if tag == "div" { rest.find("</aside>") } else { rest.find(&close) };
        rest[..end.unwrap()].to_owned()
    }
}

/// The log has one event a line. Pages are the initiators of their requests; the browser's own errands have none.
fn addresses(log: &str) -> Vec<String> {
    let field = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("\"{name}\":\""))?;
        rest.split('"').next().map(str::to_owned)
    };
    let requests = log.lines().filter(|line| field(line, "initiator").is_some_and(|by| by != "not an origin"));
    requests.filter_map(|line| field(line, "url")).collect()
}

/// An empty folder of this process.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("attentia-picture-{name}-{}", std::process::id()));
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    folder
}
