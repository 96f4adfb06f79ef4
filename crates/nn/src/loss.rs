//! Losses.

use attentia_tensor::{CrossEntropy, Error, ErrorKind, Result, Tensor};

/// A cross-entropy over some targets.
#[derive(Clone, Debug)]
pub struct CrossEntropyLoss {
    /// Sum over the targets that count, in nats; dtype of statistics. The gradients of sums over several batches add up
    /// to that of one large batch, whatever the batches' sizes.
    pub sum: Tensor,
    /// Number of targets that count, at least one.
    pub targets: usize,
}

impl CrossEntropyLoss {
    /// Nats per target.
    pub fn mean(&self) -> Result<Tensor> {
        self.sum.mul_scalar(1.0 / self.targets as f64)
    }
}

/// Cross-entropy between logits `[.., C]` and class indices `[..]` (i64), over those that are not `ignore_index`.
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
    let sum = rows.cross_entropy(&targets.reshape(&[-1])?, spec)?.sum_all()?;
    Ok(CrossEntropyLoss { sum, targets: counted })
}
