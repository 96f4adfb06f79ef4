//! Vectors for tokens.

use crate::{Initialise, Scope};
use attentia_tensor::{Result, Tensor, Var};
use std::sync::Arc;

/// A table with one row per token.
#[derive(Clone, Debug)]
pub struct Embedding {
    table: Var,
    path: Arc<str>,
}

impl Embedding {
    /// Registers `weight [tokens, width]`, normal with deviation `1/√width`.
    pub fn new(scope: Scope, tokens: usize, width: usize) -> Result<Embedding> {
        let deviation = 1.0 / (width.max(1) as f64).sqrt();
        let table = scope.parameter("weight", &[tokens, width], Initialise::Normal { deviation })?;
        Ok(Embedding { table, path: scope.path().clone() })
    }

    /// `index: [..] i64 → [.., width]`. An index outside the table is an error.
    pub fn forward(&self, index: &Tensor) -> Result<Tensor> {
        self.table.tensor().embedding(index).map_err(|e| e.in_path(&*self.path))
    }

    /// The transposed map onto tokens, for tied output weights: `x: [.., width] → [.., tokens]`.
    pub fn attend(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.table.tensor().t()?).map_err(|e| e.in_path(&*self.path))
    }
}
