//! From files to a corpus, from text to batches of token ids, and from translations to a score. Nothing here knows a
//! tensor: ids are plain vectors with a shape beside them, so that any engine can use the crate and any test can read
//! its output.
//!
//! | module | what it does |
//! |---|---|
//! | [`mod@format`] | readers of parallel text: line by line, columns, Ding, gettext, help pages of LibreOffice |
//! | [`pair`] | the pairs that readers find, one at a time, whole or cut into sentences |
//! | [`filter`] | which pairs are worth learning from |
//! | [`report`] | what was kept, and what was dropped for which reason |
//! | [`mod@build`] | pairs to a folder with train, valid and test that share no document and no source |
//! | [`corpus`] | such a folder, read again |
//! | [`stats`] | a corpus in numbers |
//! | [`tokenizer`] | byte-level BPE: train, load, save, encode, decode, label |
//! | [`examples`] | pairs of sentences as ids, in memory or in a file that is larger than memory |
//! | [`batch`] | pairs of sentences to padded `[B, T]` batches under a token budget, shuffled by `(seed, epoch)` |
//! | [`bleu`], [`chrf`] | corpus BLEU and chrF2, equal to sacrebleu's defaults to 1e-9 |
//! | [`lookup`] | the baseline: the translation of the nearest source of train |
//!
//! ```
//! use attentia_data::{Batches, Example, Tokenizer};
//!
//! let texts = ["the cat sleeps", "die Katze schläft", "the dog sleeps", "der Hund schläft"];
//! let tokenizer = Tokenizer::train_bpe(texts, 300)?;
//! let examples = texts
//!     .chunks(2)
//!     .map(|pair| Ok(Example { source: tokenizer.encode(pair[0])?, target: tokenizer.encode(pair[1])? }))
//!     .collect::<attentia_data::Result<Vec<_>>>()?;
//!
//! let batches = Batches::new(&examples, 1024)?;
//! for batch in batches.epoch(7, 0) {
//!     let batch = batch?;
//!     assert_eq!(batch.source.shape(), [2, batch.source.width()]);
//!     assert_eq!(batch.decoder_input.shape(), batch.decoder_target.shape());
//! }
//! # Ok::<(), attentia_data::Error>(())
//! ```

#![forbid(unsafe_code)]

pub mod batch;
pub mod bleu;
pub mod build;
pub mod chrf;
pub mod corpus;
mod digest;
mod error;
pub mod examples;
pub mod filter;
pub mod format;
#[cfg(test)]
mod golden;
mod lines;
pub mod lookup;
pub mod pair;
pub mod report;
mod sentence;
pub mod stats;
#[cfg(test)]
mod testing;
mod text;
pub mod tokenizer;

pub use batch::{Batch, Batches, Epoch, Ids};
pub use bleu::{Bleu, corpus_bleu};
pub use build::{BuildConfig, SplitBy, build};
pub use chrf::{Chrf, corpus_chrf};
pub use corpus::{Corpus, Manifest};
pub use error::{Error, Result};
pub use examples::{Example, ExampleFile, Examples};
pub use filter::{Filter, FilterConfig};
pub use lookup::Lookup;
pub use pair::{At, Pairs, Place, RawPair};
pub use report::{Reason, Report};
pub use stats::Stats;
pub use text::normal_form;
pub use tokenizer::Tokenizer;
