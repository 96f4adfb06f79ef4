//! Cross-entropy between logits `[N, C]` and class indices `[N]`, with label smoothing ε.
//!
//! ```text
//! lse_n      = ln Σ_c exp(logits[n, c])
//! loss_n     = lse_n − (1 − ε) · logits[n, t_n] − ε/C · Σ_c logits[n, c]
//! dlogits_nc = dloss_n · (exp(logits[n, c] − lse_n) − (1 − ε) · [c = t_n] − ε/C)
//! ```
//!
//! A row whose target is `ignore_index` has loss 0 and gradient 0, whatever its logits. A term with factor 0 is left
//! out, so that a logit of −∞ costs nothing where it is neither the target nor smoothed.

use crate::{
    arithmetic::Arithmetic,
    check,
    softmax::log_sum_exp,
    storage::{read, rows, shaped, store},
};
use attentia_backend::{CrossEntropy, Result, View, ViewMut, rules, rules::Meta};

const OP: &str = "cross_entropy";

/// Losses, and the lse that the backward needs.
pub(crate) fn forward(
    a: Arithmetic,
    spec: &CrossEntropy,
    logits: View,
    targets: View,
    loss: ViewMut,
    lse: ViewMut,
) -> Result<()> {
    let targets = checked(spec, logits, targets)?;
    is_statistic(check::destination("loss", &loss), logits)?;
    is_statistic(check::destination("lse", &lse), logits)?;
    let logits = rows::<f64>(&read(OP, "logits", logits)?)?;
    let lses: Vec<f64> = logits.iter().map(|x| log_sum_exp(a, x)).collect();
    let losses = logits.iter().zip(&lses).zip(targets).map(|((x, lse), target)| match target {
        Some(target) => row_loss(a, spec.label_smoothing, x, *lse, target),
        None => 0.0,
    });
    let losses = shaped(losses.collect(), loss.shape())?;
    store(OP, "loss", loss, &losses)?;
    let lses = shaped(lses, lse.shape())?;
    store(OP, "lse", lse, &lses)
}

fn row_loss(a: Arithmetic, smoothing: f64, x: &[f64], lse: f64, target: usize) -> f64 {
    let mut loss = lse;
    if smoothing < 1.0 {
        loss = a.keep(loss - a.keep((1.0 - smoothing) * x[target]));
    }
    if smoothing > 0.0 {
        loss = a.keep(loss - a.keep(smoothing / x.len() as f64 * a.sum(x.iter().copied())));
    }
    loss
}

/// `dlogits` from the lse and the cotangent of the loss.
pub(crate) fn backward(
    a: Arithmetic,
    spec: &CrossEntropy,
    logits: View,
    targets: View,
    lse: View,
    dloss: View,
    dlogits: ViewMut,
) -> Result<()> {
    let targets = checked(spec, logits, targets)?;
    is_statistic(check::operand("lse", lse), logits)?;
    check::shape(OP, check::operand("dloss", dloss), &logits.shape()[..1])?;
    rules::float(OP, check::operand("dloss", dloss))?;
    let (lse, dloss) = (read::<f64>(OP, "lse", lse)?, read::<f64>(OP, "dloss", dloss)?);
    let logits = rows::<f64>(&read(OP, "logits", logits)?)?;
    let gradient = logits.iter().zip(targets).enumerate().flat_map(|(n, (x, target))| match target {
        Some(target) => row_gradient(a, spec.label_smoothing, x, lse[[n]], target, dloss[[n]]),
        None => vec![0.0; x.len()],
    });
    let gradient = shaped(gradient.collect(), dlogits.shape())?;
    store(OP, "dlogits", dlogits, &gradient)
}

fn row_gradient(a: Arithmetic, smoothing: f64, x: &[f64], lse: f64, target: usize, dloss: f64) -> Vec<f64> {
    let even = smoothing / x.len() as f64;
    let slope = |(c, x): (usize, &f64)| {
        let probability = a.keep(libm::exp(a.keep(x - lse)));
        let wanted = even + if c == target { 1.0 - smoothing } else { 0.0 };
        a.keep(a.keep(probability - a.keep(wanted)) * dloss)
    };
    x.iter().enumerate().map(slope).collect()
}

/// The targets as classes, `None` where ignored.
fn checked(spec: &CrossEntropy, logits: View, targets: View) -> Result<Vec<Option<usize>>> {
    let (logits_meta, targets_meta) = (check::operand("logits", logits), check::operand("targets", targets));
    rules::cross_entropy(logits_meta, targets_meta)?;
    let smoothing = spec.label_smoothing;
    check::argument(OP, (0.0..=1.0).contains(&smoothing), || format!("label_smoothing is {smoothing}, not in [0, 1]"))?;
    let class = |(n, &target): (usize, &i64)| {
        if spec.ignore_index == Some(target) {
            return Ok(None);
        }
        check::index(OP, logits_meta, 1, targets_meta, target, &[n]).map(Some)
    };
    read::<i64>(OP, "targets", targets)?.iter().enumerate().map(class).collect()
}

fn is_statistic(x: Meta, logits: View) -> Result<()> {
    check::shape(OP, x, &logits.shape()[..1])?;
    rules::dtype(OP, x, logits.dtype().statistics())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, assert_close, check_gradient, weighted};
    use attentia_backend::{DType, ErrorKind, Shape};

    const PLAIN: CrossEntropy = CrossEntropy { label_smoothing: 0.0, ignore_index: None };

    fn run(spec: &CrossEntropy, logits: &Sample, targets: &Sample) -> (Sample, Sample) {
        let dtype = logits.view().dtype().statistics();
        let (mut loss, mut lse) = (Sample::empty(dtype, &targets.extents()), Sample::empty(dtype, &targets.extents()));
        forward(Arithmetic::EXACT, spec, logits.view(), targets.view(), loss.view_mut(), lse.view_mut()).unwrap();
        (loss, lse)
    }

    #[test]
    fn rows_by_hand() {
        let inf = f64::INFINITY;
        let logits = Sample::floats(DType::F64, &[3, 2], &[3f64.ln(), 0.0, -inf, 2.0, -inf, 2.0]);
        let targets = Sample::integers(DType::I64, &[3], &[0, 1, 0]);
        let (loss, lse) = run(&PLAIN, &logits, &targets);
        assert_close(&lse, &[4f64.ln(), 2.0, 2.0], 1e-15);
        assert_close(&loss, &[(4.0f64 / 3.0).ln(), 0.0, inf], 1e-15);
        let smooth = CrossEntropy { label_smoothing: 0.5, ignore_index: Some(0) };
        let (loss, _) = run(&smooth, &Sample::floats(DType::F64, &[3, 2], &[0., 4., 0., 4., -inf, -inf]), &targets);
        let lse = 4.0 + (1.0 + (-4f64).exp()).ln();
        assert_close(&loss, &[0.0, lse - 2.0 - 1.0, 0.0], 1e-15);
        let one_row = logits.seen(|l| l.narrow(0, 0, 1).unwrap().broadcast_to(&Shape::new(&[3, 2]).unwrap()).unwrap());
        assert_close(&run(&PLAIN, &one_row, &targets).0, &[(4.0f64 / 3.0).ln(), 4f64.ln(), (4.0f64 / 3.0).ln()], 1e-15);
    }

    #[test]
    fn gradients_agree_with_differences() {
        let (logits, dloss) = (Sample::scattered(&[4, 5], 1), Sample::scattered(&[4], 2));
        let targets = Sample::integers(DType::I64, &[4], &[0, -100, 4, 2]);
        for label_smoothing in [0.0, 0.1, 1.0] {
            let spec = CrossEntropy { label_smoothing, ignore_index: Some(-100) };
            let (_, lse) = run(&spec, &logits, &targets);
            let mut dlogits = Sample::empty(DType::F64, &[4, 5]);
            let (x, to) = (logits.view(), dlogits.view_mut());
            backward(Arithmetic::EXACT, &spec, x, targets.view(), lse.view(), dloss.view(), to).unwrap();
            check_gradient("logits", &logits, &dlogits, |x| weighted(&run(&spec, x, &targets).0, &dloss));
            assert_eq!(dlogits.to_floats()[5..10], [0.0; 5]);
        }
    }

    #[test]
    fn targets_that_are_no_class_are_named() {
        let logits = Sample::floats(DType::F32, &[2, 3], &[0.0; 6]);
        let (mut loss, mut lse) = (Sample::empty(DType::F32, &[2]), Sample::empty(DType::F32, &[2]));
        for (bad, ignore_index) in [(3, None), (-1, Some(-100))] {
            let targets = Sample::integers(DType::I64, &[2], &[0, bad]);
            let spec = CrossEntropy { label_smoothing: 0.0, ignore_index };
            let (x, t) = (logits.view(), targets.view());
            let error = forward(Arithmetic::EXACT, &spec, x, t, loss.view_mut(), lse.view_mut()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Index);
            let text = format!("cross_entropy: {bad} at position [1] of targets lies outside axis 1 of logits\n");
            assert!(error.to_string().starts_with(&text), "{error}");
        }
        let spec = CrossEntropy { label_smoothing: f64::NAN, ignore_index: None };
        let (x, t) = (logits.view(), Sample::integers(DType::I64, &[2], &[0, 0]));
        let error = forward(Arithmetic::EXACT, &spec, x, t.view(), loss.view_mut(), lse.view_mut()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument);
        let (none, empty) = (Sample::floats(DType::F32, &[0, 3], &[]), Sample::integers(DType::I64, &[0], &[]));
        assert!(run(&PLAIN, &none, &empty).0.to_floats().is_empty());
    }
}
