//! Every entry of the trait and every variant of the operations has cases, in all seven placements.

use attentia_backend::{Activation, ArgReduce, Binary, Compare, Reduce, Unary};
use attentia_tests::{Case, cases, coverage, layout::Placement};
use std::{collections::HashSet, fs, path::Path};

fn source(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/backend/src").join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_entry_and_every_operation_is_covered_in_all_placements() {
    let entries = coverage::trait_entries(&source("backend.rs"), "Backend");
    assert!(entries.len() > 40, "the trait's source was not understood: {entries:?}");
    let gaps = coverage::gaps(&cases::all(), &entries);
    assert!(gaps.is_empty(), "{}", gaps.join("\n"));
}

#[test]
fn the_lists_of_operations_are_whole() {
    let operations = source("op.rs");
    for (name, listed) in [
        ("Unary", Unary::ALL.len()),
        ("Binary", Binary::ALL.len()),
        ("Compare", Compare::ALL.len()),
        ("Reduce", Reduce::ALL.len()),
        ("ArgReduce", ArgReduce::ALL.len()),
    ] {
        let variants = coverage::enum_variants(&operations, name);
        assert_eq!(variants.len(), listed, "{name}::ALL and the variants {variants:?}");
    }
    let fused = source("fused.rs");
    assert_eq!(coverage::enum_variants(&fused, "Activation").len(), Activation::ALL.len());
    assert_eq!(coverage::enum_variants(&fused, "SoftmaxKind").len(), coverage::operations("softmax").len());
    // FusedOp::ALL has one entry per kind of softmax and per activation, and one for each other variant.
    let expected = coverage::enum_variants(&fused, "FusedOp").len() - 2 + 3 + Activation::ALL.len();
    assert_eq!(attentia_backend::FusedOp::ALL.len(), expected);
}

#[test]
fn a_missing_case_is_found() {
    let entries = coverage::trait_entries(&source("backend.rs"), "Backend");
    let without = |keep: &dyn Fn(&Case) -> bool| {
        let cases: Vec<Case> = cases::all().into_iter().filter(|case| keep(case)).collect();
        coverage::gaps(&cases, &entries)
    };
    assert_eq!(without(&|case| case.operation != "erf"), ["erf has no case"]);
    let gaps = without(&|case| case.operation != "matmul" || case.placement != Placement::Reversed);
    assert_eq!(gaps, ["matmul has no case with a placement of kind reversed"]);
    let mut more = entries.clone();
    more.push("convolution".to_owned());
    assert_eq!(coverage::gaps(&cases::all(), &more), ["convolution has no case"]);
}

#[test]
fn ids_are_unique_and_costs_are_known() {
    let (cases, mut seen) = (cases::all(), HashSet::new());
    for case in &cases {
        assert!(seen.insert(&case.id), "{} twice", case.id);
        assert!(case.id.starts_with(case.operation) && case.id.ends_with(case.dtype.name()), "{}", case.id);
    }
    let cheap = cases.iter().filter(|case| case.cost <= 1000).count();
    assert!(cheap * 10 > cases.len() * 8, "most cases are cheap enough for an emulator: {cheap} of {}", cases.len());
    assert!(cases.iter().any(|case| case.cost > 1_000_000));
}
