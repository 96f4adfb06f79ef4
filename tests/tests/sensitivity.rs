//! The suite can fail: a backend that is wrong by a thousandth is found by at least four of five cases of every operation.
//! The others expect zeros, as the variance of one number and the softmax of one score do.
//!
//! A tolerance that grew until everything passed would show up here.

use attentia_backend::{Backend, DType, Device, Result, Source, Unary, ViewMut};
use attentia_reference::ReferenceBackend;
use attentia_tests::{
    case::{Call, Case, Expect, Outcome, Views},
    cases, coverage,
    layout::Placement,
    outside::Outside,
};
use std::{collections::BTreeMap, sync::Arc};

/// The name by which a call knows that it runs on the backend under test and not on the oracle.
const WRONG: &str = "reference-counted";

fn disturb(b: &dyn Backend, out: ViewMut) -> Result<()> {
    match out.dtype() {
        DType::Bool => b.unary(Unary::Not, Source::Destination, out),
        dtype if dtype.is_float() => b.unary(Unary::MulScalar(1.001), Source::Destination, out),
        _ => b.unary(Unary::AddScalar(1.0), Source::Destination, out),
    }
}

/// The same call, after which the first result is changed a little.
fn disturbed(run: Call) -> Call {
    Arc::new(move |b, Views { inputs, mut outputs }| {
        let again = outputs.iter_mut().map(ViewMut::reborrow).collect();
        run(b, Views { inputs, outputs: again })?;
        match outputs.into_iter().next() {
            Some(out) if b.name() == WRONG => disturb(b, out),
            _ => Ok(()),
        }
    })
}

/// Whether multiplying its result by 1.001 is a mistake that this case should see: it has results, they aren't all zero,
/// and it compares f32, f64 or integers.
fn is_fit(case: &Case) -> bool {
    let tame = [
        "_nan", "_inf", "_huge", "_large", "nothing", "_refused", "zero", "constant", "unruly", "no_keys", "_to_bf16",
        "_to_f16",
    ];
    case.expect == Expect::Values
        && !case.outputs.is_empty()
        && !matches!(case.placement, Placement::Empty | Placement::One)
        && !case.dtype.is_half()
        && case.cost < 100_000
        && tame.iter().all(|word| !case.id.contains(word))
}

#[test]
fn an_error_of_a_thousandth_is_noticed() {
    let device = Device::new(Outside::counting(Device::new(ReferenceBackend::new())).0);
    assert_eq!(device.name(), WRONG);
    // Of each operation: how many cases noticed, and which did not.
    let mut seen: BTreeMap<&str, (usize, Vec<String>)> = BTreeMap::new();
    for case in cases::all().into_iter().filter(is_fit) {
        let mut note = |operation: &'static str, outcome: std::result::Result<Outcome, String>| {
            let entry = seen.entry(operation).or_default();
            match outcome {
                Err(_) => entry.0 += 1,
                Ok(_) => entry.1.push(case.id.clone()),
            }
        };
        let forward = Case { run: disturbed(case.run.clone()), grad: None, ..case.clone() };
        note(case.operation, forward.check(&*device));
        if let Some(mut gradient) = case.grad.clone().filter(|gradient| !gradient.outputs.is_empty()) {
            gradient.run = disturbed(gradient.run);
            let operation = gradient.operation;
            note(operation, Case { grad: Some(gradient), ..case.clone() }.check(&*device));
        }
    }
    let blind: Vec<String> = seen
        .iter()
        .filter(|(_, (noticed, missed))| noticed < &(missed.len() * 4))
        .map(|(operation, (noticed, missed))| format!("{operation}: {noticed} notice, and not {missed:?}"))
        .collect();
    assert!(blind.is_empty(), "{}", blind.join("\n"));
    let covered = coverage::table(&cases::all());
    let unseen: Vec<_> = covered.keys().filter(|operation| !seen.contains_key(*operation)).collect();
    let without_results: Vec<_> = unseen.iter().filter(|o| !coverage::WITHOUT_OPERANDS.contains(o)).collect();
    assert!(without_results.is_empty(), "no case was disturbed of {without_results:?}");
}

#[test]
fn a_backend_that_forgets_strides_is_found() {
    // `x + 0` of the destination's own memory instead of the operand: whatever was there, it isn't x.
    let device = Device::new(Outside::counting(Device::new(ReferenceBackend::new())).0);
    let (mut found, mut missed) = (0, Vec::new());
    for case in
        cases::all().into_iter().filter(|case| case.operation == "copy" && !case.id.contains("bool") && is_fit(case))
    {
        let run = case.run.clone();
        let forgetful: Call = Arc::new(move |b, Views { inputs, mut outputs }| {
            if b.name() != WRONG {
                return run(b, Views { inputs, outputs });
            }
            // Reads the same number of elements from the start of the buffer, row-major.
            let layout = attentia_backend::Layout::contiguous(*inputs[0].shape());
            let plain = attentia_backend::View::new(inputs[0].buffer(), &layout);
            match (plain, outputs.pop()) {
                (Ok(plain), Some(out)) => b.copy(plain, out),
                _ => Ok(()),
            }
        });
        let outcome = Case { run: forgetful, ..case.clone() }.check(&*device);
        match case.placement {
            Placement::Contiguous => assert!(outcome.is_ok(), "{}: {outcome:?}", case.id),
            _ if outcome.is_err() => found += 1,
            _ => missed.push(case.id),
        }
    }
    // The transpose of a matrix of one row is itself.
    assert!(found > 100 && missed.len() * 20 < found, "{found} found, and these not: {missed:?}");
}
