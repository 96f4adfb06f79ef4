//! Dropout (Srivastava et al., 2014).

use crate::{Context, Scope};
use attentia_tensor::{Error, ErrorKind, Result, RngKey, Tensor};

/// Zeroes elements with probability p while training, and scales the others by `1 / (1 − p)`.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    p: f64,
    module: RngKey,
}

impl Dropout {
    /// Errors when p lies outside [0, 1).
    pub fn new(scope: Scope, p: f64) -> Result<Dropout> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::new(ErrorKind::Argument, "dropout", format!("p is {p}"))
                .in_path(&**scope.path())
                .help("p lies in [0, 1)"));
        }
        Ok(Dropout { p, module: RngKey::default().path(scope.path()) })
    }

    /// The probability of dropping an element.
    pub fn p(&self) -> f64 {
        self.p
    }

    /// Whether it changes anything in this run.
    pub fn is_active(&self, cx: &Context) -> bool {
        self.p > 0.0 && cx.run().train
    }

    /// The identity in evaluation.
    pub fn forward(&self, x: Tensor, cx: &mut Context) -> Result<Tensor> {
        if !self.is_active(cx) {
            return Ok(x);
        }
        x.dropout(self.p, cx.dropout_key(self.module))
    }
}
