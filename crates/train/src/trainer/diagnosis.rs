//! Where a NaN or an infinity came from: looked for only when there is one.

use super::{MOST_SKIPPED, NotFinite, Trainer};
use crate::{Error, Result};
use attentia_data::Batch;
use attentia_nn::Optimizer;
use attentia_tensor::{DType, Tensor, detect_anomaly};

impl Trainer<'_> {
    /// Stops or goes on, as the configuration says. `batches` are those that it came from, with their numbers.
    pub(super) fn not_finite(&mut self, what: &'static str, value: f64, batches: &[(u64, Batch)]) -> Result<()> {
        self.position.skipped += 1;
        let step = self.optimizer.steps() + 1;
        match self.config.not_finite {
            NotFinite::Skip if self.position.skipped < MOST_SKIPPED => Ok(()),
            _ => Err(Error::NotFinite { step, what, value, origin: self.origin(batches) }),
        }
    }

    /// Computes the batches again with every operation watched.
    fn origin(&self, batches: &[(u64, Batch)]) -> String {
        let not_finite = |tensor: &Tensor| -> bool {
            let greatest = tensor.abs().and_then(|x| x.max_all()).and_then(|x| x.to_dtype(DType::F64)?.item::<f64>());
            greatest.is_ok_and(|greatest| !greatest.is_finite())
        };
        if let Some((path, _)) = self.parameters.tensors().iter().find(|(_, tensor)| not_finite(tensor)) {
            return format!("\n  the parameter {path} is not finite");
        }
        let watched = |(number, batch): &(u64, Batch)| {
            let backward = || Ok(self.loss(*number, batch)?.sum.backward()?);
            detect_anomaly(backward)
                .err()
                .map(|error: Error| format!("\n  {}", error.to_string().replace('\n', "\n  ")))
        };
        batches
            .iter()
            .find_map(watched)
            .unwrap_or_else(|| "\n  no single operation of it overflowed: a sum did".to_owned())
    }
}
