//! Vectors for tokens.

use crate::{Initialise, Scope, Weight};
use attentia_tensor::{Result, Tensor};
use std::sync::Arc;

/// A table with one row per token.
#[derive(Clone, Debug)]
pub struct Embedding {
    table: Weight,
    path: Arc<str>,
}

impl Embedding {
    /// Registers `weight [tokens, width]`, normal with deviation `1/√width`.
    pub fn new(scope: Scope, tokens: usize, width: usize) -> Result<Embedding> {
        let deviation = 1.0 / (width.max(1) as f64).sqrt();
        let table = scope.weight("weight", &[tokens, width], Initialise::Normal { deviation })?;
        Ok(Embedding { table, path: scope.path().clone() })
    }

    /// `index: [..] i64 → [.., width]`. An index outside the table is an error.
    pub fn forward(&self, index: &Tensor) -> Result<Tensor> {
        // Rows are picked before the cast: the table is larger than a batch.
        let rows = self.table.var().tensor().embedding(index).map_err(|e| e.in_path(&*self.path))?;
        if rows.dtype() == self.table.compute { Ok(rows) } else { rows.to_dtype(self.table.compute) }
    }

    /// The transposed map onto tokens, for tied output weights: `x: [.., width] → [.., tokens]`.
    pub fn attend(&self, x: &Tensor) -> Result<Tensor> {
        self.table.linear(x, None).map_err(|e| e.in_path(&*self.path))
    }
}
