//! The house keeps its plan: arrows between crates point down only, and `unsafe` has its place.

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What a crate may depend on, development dependencies apart. A crate that isn't listed here is a failure: say first
/// where it stands.
const ALLOWED: [(&str, &[&str]); 17] = [
    ("backend", &[]),
    ("reference", &["backend"]),
    ("cpu", &["backend"]),
    ("kernels", &[]),
    ("cuda", &["backend", "kernels"]),
    ("tensor", &["backend"]),
    ("file", &[]),
    ("nn", &["file", "tensor", "backend"]),
    ("attention", &["nn", "tensor", "backend"]),
    ("transformer", &["file", "attention", "nn", "tensor", "backend"]),
    ("corpus", &[]),
    ("data", &["file"]),
    ("picture", &[]),
    ("train", &["file", "data", "transformer", "picture", "attention", "nn", "tensor", "backend"]),
    ("lens", &["transformer", "picture", "attention", "nn", "tensor", "backend"]),
    (
        "attentia",
        &[
            "train",
            "lens",
            "file",
            "data",
            "picture",
            "corpus",
            "transformer",
            "attention",
            "nn",
            "tensor",
            "backend",
            "cpu",
            "cuda",
            "reference",
        ],
    ),
    ("cli", &["attentia", "corpus"]),
];

/// What isn't published may look at everything.
const TOOLS: [&str; 2] = ["benches", "tests"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// `attentia-cpu` is `cpu`; the facade is itself.
fn short(package: &str) -> &str {
    package.strip_prefix("attentia-").unwrap_or(package)
}

fn is_ours(package: &str) -> bool {
    package == "attentia" || package.starts_with("attentia-")
}

#[test]
fn arrows_point_down() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into();
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() >= 10, "the workspace was not understood");
    for package in packages {
        let name = short(text(package, "name"));
        if TOOLS.contains(&name) {
            assert_eq!(package["publish"], serde_json::json!([]), "{name} must not be published");
            continue;
        }
        let may = allowed.get(name).unwrap_or_else(|| panic!("{name} has no place in the plan"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let on = text(dependency, "name");
            if is_ours(on) && dependency["kind"].as_str() != Some("dev") {
                assert!(may.contains(&short(on)), "{name} must not depend on {on}");
            }
        }
    }
}

#[test]
fn nothing_above_tensor_names_a_backend_even_in_its_sources() {
    for folder in ["tensor", "nn", "attention", "transformer", "train", "lens", "data", "picture"] {
        for path in sources(&root().join("crates").join(folder).join("src")) {
            if path.components().any(|c| c.as_os_str() == "tests") || path.ends_with("tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            // Examples and unit tests may use the CPU; the library itself must not.
            let library = text.split("#[cfg(test)]").next().unwrap_or_default();
            let code = library.lines().filter(|line| !line.trim_start().starts_with("//"));
            for (number, line) in code.enumerate() {
                let names = line.contains("attentia_cpu") || line.contains("attentia_cuda");
                assert!(!names, "{}:{}: {line}", path.display(), number + 1);
            }
        }
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true if path.ends_with("target") => Vec::new(),
            true => sources(&path),
            false if path.extension().is_some_and(|e| e == "rs") => vec![path],
            false => Vec::new(),
        })
        .collect()
}

/// Crates whose kernels need it.
const UNSAFE: [&str; 2] = ["cpu", "cuda"];

/// Files of other crates that allow it for a single item: where `ByteOwner` declares its promise, and where an owner for
/// the tests gives it.
const ALLOWS_UNSAFE: [(&str, &str); 2] = [("backend", "byte_owner.rs"), ("tests", "cases/memory.rs")];

#[test]
fn unsafe_has_its_place() {
    let metadata = metadata();
    let mut checked = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = short(text(package, "name"));
        if UNSAFE.contains(&name) {
            continue;
        }
        for target in package["targets"].as_array().unwrap() {
            let kinds: Vec<&str> = target["kind"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            if kinds.iter().any(|kind| ["lib", "bin"].contains(kind)) {
                let path = text(target, "src_path");
                let text = fs::read_to_string(path).unwrap();
                let level = if ALLOWS_UNSAFE.iter().any(|(of, _)| *of == name) { "deny" } else { "forbid" };
                assert!(text.contains(&format!("#![{level}(unsafe_code)]")), "{path} does not {level} unsafe code");
                let folder = Path::new(path).parent().unwrap();
                for source in sources(folder) {
                    let allowed = ALLOWS_UNSAFE.iter().any(|(of, file)| *of == name && source == folder.join(file));
                    let allows = fs::read_to_string(&source).unwrap().matches("allow(unsafe_code)").count();
                    assert_eq!(allows, usize::from(allowed), "{} allows unsafe code", source.display());
                }
                checked.insert(name.to_owned());
            }
        }
    }
    assert!(checked.len() >= 8, "only {checked:?} were checked");
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    // The lint asks for a comment before each block; here each crate with blocks must have the lint on.
    let metadata = metadata();
    for package in metadata["packages"].as_array().unwrap() {
        let manifest = fs::read_to_string(text(package, "manifest_path")).unwrap();
        let name = text(package, "name");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name} does not use the workspace's lints");
    }
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("undocumented_unsafe_blocks = \"deny\""));
}
