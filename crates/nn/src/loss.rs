//! Losses.

use attentia_tensor::{CrossEntropy, Error, ErrorKind, Result, Tensor};

/// A mean cross-entropy and what it was the mean of.
#[derive(Clone, Debug)]
pub struct CrossEntropyLoss {
    /// Mean over the targets that count, in nats; dtype of statistics.
    pub mean: Tensor,
    /// Number of targets that count.
    pub targets: usize,
}

/// Mean cross-entropy between logits `[.., C]` and class indices `[..]` (i64) that are not `ignore_index`.
///
/// Errors when no target counts: the mean would be NaN.
pub fn cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    label_smoothing: f64,
    ignore_index: Option<i64>,
) -> Result<CrossEntropyLoss> {
    let classes = logits.shape().last().copied().unwrap_or(1);
    let counted = match ignore_index {
        None => targets.count(),
        Some(ignored) => targets.to_vec::<i64>()?.into_iter().filter(|&t| t != ignored).count(),
    };
    if counted == 0 {
        return Err(Error::new(ErrorKind::Argument, "cross_entropy", "no target counts")
            .help("every target equals ignore_index; drop empty batches"));
    }
    let rows = logits.reshape(&[-1, classes as isize])?; // [N, C]
    let spec = CrossEntropy { label_smoothing, ignore_index };
    let mean = rows.cross_entropy(&targets.reshape(&[-1])?, spec)?.sum_all()?.mul_scalar(1.0 / counted as f64)?;
    Ok(CrossEntropyLoss { mean, targets: counted })
}
