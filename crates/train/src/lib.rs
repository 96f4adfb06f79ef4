//! The training loop, and the translator that it trains.
//!
//! - [`Trainer`] runs steps over batches and reports each of them;
//! - [`Translator`] is a model with its tokenizer: text in, text out, and the attention that connected them;
//! - [`Progress`] shows a run to a person: a bar in a terminal, plain lines elsewhere.

#![forbid(unsafe_code)]

mod error;
mod progress;
mod trainer;
mod translator;

pub use error::{Error, Result};
pub use progress::Progress;
pub use trainer::{Step, TrainConfig, Trainer};
pub use translator::{AttentionMap, Translator};
