//! Where a training is: what a checkpoint says beside its tensors.

use super::TrainConfig;
use crate::{Error, Result};
use attentia_data::Batches;
use attentia_nn::Parameters;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The place in the data, and what is known of an update that is not complete.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    pub(super) epoch: u64,
    /// Batches taken of this epoch.
    pub(super) batch: u64,
    /// Batches since the beginning: each has a dropout of its own.
    pub(super) batches: u64,
    pub(super) accumulated: Accumulated,
    /// Batches and updates that were left out since the last update, because they were not finite.
    pub(super) skipped: u64,
    pub(super) best: Option<Best>,
    /// Validations since the best one.
    pub(super) worse: u64,
    /// Of the data: another list of examples is another training.
    fingerprint: u64,
}

/// The validation with the least loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Updates before it.
    pub step: u64,
    /// Nats per target token.
    pub loss: f64,
}

/// What the batches of an update that is not complete have in sum.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Accumulated {
    pub(super) batches: u64,
    pub(super) loss: f64,
    pub(super) targets: usize,
    pub(super) tokens: usize,
}

impl Accumulated {
    pub(super) fn add(&mut self, loss: f64, targets: usize, tokens: usize) {
        self.batches += 1;
        self.loss += loss;
        self.targets += targets;
        self.tokens += tokens;
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    fixed: Map<String, Value>,
    position: Position,
}

/// What must be the same when a training goes on: the configuration but for `steps`, and which parameters are frozen.
fn fixed(config: &TrainConfig, parameters: &Parameters) -> Result<Map<String, Value>> {
    let value = serde_json::to_value(config).map_err(unreadable)?;
    let mut fields: Map<String, Value> = serde_json::from_value(value).map_err(unreadable)?;
    fields.remove("steps");
    let frozen = parameters.iter().filter(|(_, var)| !var.requires_grad()).map(|(path, _)| path);
    fields.insert("frozen".to_owned(), frozen.collect());
    Ok(fields)
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::Resume { what: format!("the position in the training cannot be read: {error}") }
}

impl Position {
    pub(super) fn start(batches: &Batches) -> Position {
        let accumulated = Accumulated::default();
        let (skipped, best, worse) = (0, None, 0);
        let fingerprint = batches.fingerprint();
        Position { epoch: 0, batch: 0, batches: 0, accumulated, skipped, best, worse, fingerprint }
    }

    pub(super) fn next_epoch(&mut self) {
        self.epoch += 1;
        self.batch = 0;
    }

    pub(super) fn to_json(&self, config: &TrainConfig, parameters: &Parameters) -> Result<Value> {
        serde_json::to_value(Saved { fixed: fixed(config, parameters)?, position: self.clone() }).map_err(unreadable)
    }

    /// Errors when it is of another configuration, other frozen parameters or other data, and says what differs.
    pub(super) fn from_json(
        saved: Value,
        config: &TrainConfig,
        parameters: &Parameters,
        batches: &Batches,
    ) -> Result<Position> {
        let Saved { fixed: theirs, position } = serde_json::from_value(saved).map_err(unreadable)?;
        let ours = fixed(config, parameters)?;
        if let Some(field) = ours.keys().chain(theirs.keys()).find(|field| ours.get(*field) != theirs.get(*field)) {
            let of = |fixed: &Map<String, Value>| fixed.get(field).map_or("nothing".to_owned(), Value::to_string);
            return Err(Error::Resume { what: format!("{field} was {}, and is now {}", of(&theirs), of(&ours)) });
        }
        if position.fingerprint != batches.fingerprint() {
            return Err(Error::Resume { what: "the checkpoint was made with other examples".to_owned() });
        }
        Ok(position)
    }
}
