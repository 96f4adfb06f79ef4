//! What has to be covered: every entry of the trait and every variant of the operations, each in all seven placements.
//!
//! The lists are read from the sources of the vocabulary, so that an entry or a variant that somebody adds tomorrow is
//! missed on the same day.

use crate::{Case, layout::Placement};
use attentia_backend::{Activation, ArgReduce, Binary, Compare, FusedOp, Reduce, SoftmaxKind, Unary};
use std::collections::{BTreeMap, BTreeSet};

/// Entries that have no operand, so that no placement can matter.
pub const WITHOUT_OPERANDS: [&str; 7] = ["name", "alloc", "adopt", "synchronize", "memory", "support", "as_any"];

/// Entries that are answered within the cases of another one.
const WITHIN_OTHERS: [&str; 2] = ["attention_support", "attention_maps_support"];

/// Names of the functions of a trait, from its source.
pub fn trait_entries(source: &str, name: &str) -> Vec<String> {
    body(source, &format!("pub trait {name}"))
        .iter()
        .filter_map(|line| line.strip_prefix("    fn "))
        .filter_map(|line| line.split(['(', '<']).next())
        .map(str::to_owned)
        .collect()
}

/// Names of the variants of an enum, from its source.
pub fn enum_variants(source: &str, name: &str) -> Vec<String> {
    body(source, &format!("pub enum {name}"))
        .iter()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|line| line.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or(line).to_owned())
        .collect()
}

/// The lines between an item's head and the brace that closes it.
fn body<'a>(source: &'a str, head: &str) -> Vec<&'a str> {
    let lines = source.lines().skip_while(|line| {
        let rest = line.strip_prefix(head);
        !rest.is_some_and(|rest| rest.starts_with([' ', ':', '<']))
    });
    lines.skip(1).take_while(|line| *line != "}").collect()
}

/// The operations behind an entry of the trait; an entry that is one operation is its own.
pub fn operations(entry: &str) -> Vec<&'static str> {
    let softmax = [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax, SoftmaxKind::Masked];
    match entry {
        "unary" => Unary::ALL.map(Unary::name).to_vec(),
        "binary" => Binary::ALL.map(Binary::name).to_vec(),
        "compare" => Compare::ALL.map(Compare::name).to_vec(),
        "reduce" => Reduce::ALL.map(Reduce::name).to_vec(),
        "arg_reduce" => ArgReduce::ALL.map(ArgReduce::name).to_vec(),
        "softmax" => softmax.map(SoftmaxKind::name).to_vec(),
        "softmax_backward" => vec!["softmax_backward", "log_softmax_backward", "masked_softmax_backward"],
        "activation" => Activation::ALL.map(Activation::name).to_vec(),
        "activation_backward" => vec!["gelu_backward", "gelu_tanh_backward", "silu_backward", "relu_backward"],
        _ => Vec::new(),
    }
}

/// How often the cases cover each operation, by placement.
pub fn table(cases: &[Case]) -> BTreeMap<&'static str, BTreeMap<Placement, usize>> {
    let mut table: BTreeMap<_, BTreeMap<_, usize>> = BTreeMap::new();
    for case in cases {
        for operation in case.operations() {
            *table.entry(operation).or_default().entry(case.placement).or_default() += 1;
        }
    }
    table
}

/// Everything that is missing, in sentences.
pub fn gaps(cases: &[Case], entries: &[String]) -> Vec<String> {
    let table = table(cases);
    let mut gaps = Vec::new();
    let mut expected = BTreeSet::new();
    for entry in entries.iter().filter(|entry| !WITHIN_OTHERS.contains(&entry.as_str())) {
        let operations = operations(entry);
        match operations.is_empty() {
            true => expected.insert(entry.clone()),
            false => operations.into_iter().map(|o| expected.insert(o.to_owned())).fold(false, |a, b| a | b),
        };
    }
    expected.extend(FusedOp::ALL.map(|op| op.name().to_owned()));
    for operation in &expected {
        let Some(placements) = table.get(operation.as_str()) else {
            gaps.push(format!("{operation} has no case"));
            continue;
        };
        if WITHOUT_OPERANDS.contains(&operation.as_str()) {
            continue;
        }
        let missing = Placement::ALL.iter().filter(|p| !placements.contains_key(p));
        gaps.extend(missing.map(|placement| format!("{operation} has no case with a placement of kind {placement}")));
    }
    let unknown = table.keys().filter(|operation| !expected.contains(**operation));
    gaps.extend(unknown.map(|operation| format!("{operation} is no operation of any entry")));
    gaps
}
