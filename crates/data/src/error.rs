//! What can go wrong, in words that name the file, the cause and the next step.

use std::path::PathBuf;

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] attentia_file::Error),
    /// A file was read, but is no tokenizer that serves.
    #[error("{path}: {source}", path = .path.display())]
    In {
        /// The file.
        path: PathBuf,
        /// What is wrong inside it.
        source: Box<Error>,
    },
    /// Text that is no tokenizer.
    #[error(
        "tokenizer: the JSON is not a tokenizer: {cause}\n  \
         help: expected a tokenizer.json as Tokenizer::to_json writes it"
    )]
    NotATokenizer {
        /// What the parser said.
        cause: String,
    },
    /// A tokenizer whose special tokens do not stand where batches expect them.
    #[error(
        "tokenizer: {token} should have id {expected}, but {found}\n  \
         help: train with Tokenizer::train_bpe, or give the four special tokens the ids 0 to 3"
    )]
    SpecialToken {
        /// The token.
        token: &'static str,
        /// The id that it must have.
        expected: u32,
        /// What was found in its place.
        found: String,
    },
    /// A vocabulary that has no room for the bytes and the special tokens.
    #[error(
        "tokenizer: a vocabulary of {asked} is too small\n  \
         help: ask for at least {least} (256 bytes and 4 special tokens)"
    )]
    VocabularyTooSmall {
        /// What was asked for.
        asked: usize,
        /// The smallest size that works.
        least: usize,
    },
    /// Training had nothing to learn from.
    #[error("tokenizer: all texts are empty\n  help: pass at least one text that is more than white space")]
    NoText,
    /// An id outside the vocabulary.
    #[error(
        "tokenizer: id {id} at position {position} is outside the vocabulary of {size}\n  \
         help: was the model trained with this tokenizer?"
    )]
    UnknownId {
        /// The id.
        id: u32,
        /// Where it stands in the sequence.
        position: usize,
        /// Size of the vocabulary.
        size: usize,
    },
    /// The tokenizer library failed.
    #[error("tokenizer: cannot {action}: {cause}")]
    Tokenizer {
        /// What was being done.
        action: &'static str,
        /// What the library said.
        cause: String,
    },
    /// An example that no batch may hold.
    #[error(
        "batch: example {index} needs {length} tokens with its end marks, and a batch may hold {budget}\n  \
         help: raise the budget, or drop long examples first"
    )]
    ExampleTooLong {
        /// Position in the list of examples.
        index: usize,
        /// Tokens of its longer side, end mark counted.
        length: usize,
        /// The budget of a batch in tokens.
        budget: usize,
    },
    /// Two lists that should be parallel are not.
    #[error(
        "bleu: {hypotheses} hypotheses, but {references} references\n  \
         help: one reference per hypothesis, in the same order"
    )]
    Unpaired {
        /// Number of hypotheses.
        hypotheses: usize,
        /// Number of references.
        references: usize,
    },
    /// A score of no sentences.
    #[error("bleu: there is no sentence to score\n  help: is the test set empty after filtering?")]
    NothingToScore,
}
