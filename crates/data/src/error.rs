//! What can go wrong, in words that name the file, the cause and the next step.

use std::io;
use std::path::PathBuf;

use crate::Report;

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
    /// A file that holds no examples, or damaged ones.
    #[error("{path}: is no file of examples: {what}\n  help: remove it and make it again from the corpus", path = .path.display())]
    NotExamples {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A number behind the last example.
    #[error("examples: there is no example {index}: there are {count}\n  help: count from 0")]
    NoExample {
        /// The number asked for.
        index: usize,
        /// How many there are.
        count: usize,
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
        "score: {hypotheses} hypotheses, but {references} references\n  \
         help: one reference per hypothesis, in the same order"
    )]
    Unpaired {
        /// Number of hypotheses.
        hypotheses: usize,
        /// Number of references.
        references: usize,
    },
    /// A score of no sentences.
    #[error("score: there is no sentence to score\n  help: is the test set empty after filtering?")]
    NothingToScore,
    /// An option that cannot be followed.
    #[error("option {option}: {cause}\n  help: correct the option; the documentation lists the defaults")]
    Option {
        /// Its name.
        option: &'static str,
        /// What is wrong with its value.
        cause: String,
    },
    /// A folder stands where a file is expected.
    #[error("{path}: is a folder\n  help: name the file inside it", path = .path.display())]
    NotAFile {
        /// The folder.
        path: PathBuf,
    },
    /// No folder stands where one is expected.
    #[error("{path}: is no folder\n  help: check the path; this format reads a folder", path = .path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// A folder for pages has none.
    #[error(
        "{path}: no file in it or below it ends in .html\n  \
         help: name the folder of one language, such as help/en-US",
        path = .path.display()
    )]
    NoPages {
        /// The folder.
        path: PathBuf,
    },
    /// A file without content.
    #[error("{path}: is empty\n  help: was it written completely? is it the right file?", path = .path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// A text file could not be read to its end.
    #[error(
        "{path}:{line}: cannot be read: {source}\n  \
         help: a .gz file may be cut off or no gzip file at all: test it with gzip -t",
        path = .path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The line where it happened, counted from 1.
        line: u64,
        /// The system's or the decompressor's answer.
        source: io::Error,
    },
    /// The reading was told to stop.
    #[error("stopped while it was reading\n  help: what was written is gone; begin again")]
    Stopped,
    /// A file that breaks the rules of its format.
    #[error("{place}: {cause}\n  help: {help}")]
    Malformed {
        /// File and line or entry.
        place: String,
        /// What is wrong there.
        cause: String,
        /// What to do about it.
        help: &'static str,
    },
    /// Two files that should have a line for each of the other's.
    #[error(
        "not as many lines: {source_lines} in {source_file}, {target_lines} in {target_file}\n  \
         help: line by line, one must be the translation of the other: was a file cut off?",
        source_file = .source_file.display(),
        target_file = .target_file.display()
    )]
    UnequalLines {
        /// The source side.
        source_file: PathBuf,
        /// Its number of lines.
        source_lines: u64,
        /// The target side.
        target_file: PathBuf,
        /// Its number of lines.
        target_lines: u64,
    },
    /// A folder that holds something else than a corpus.
    #[error(
        "{path}: holds {found}, and a corpus is written only where nothing or another corpus stands\n  \
         help: name another folder, or move that away",
        path = .path.display()
    )]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// The name of a file in it that no corpus has.
        found: String,
    },
    /// Nothing is left to learn from.
    #[error(
        "{path}: no pair is left for {split}; what was there before is untouched\n{report}\n  \
         help: loosen the filter by the counts above, choose other shares, or split by source where all pairs belong to \
         a few documents",
        path = .path.display()
    )]
    EmptySplit {
        /// The folder of the corpus.
        path: PathBuf,
        /// The split.
        split: &'static str,
        /// What became of the pairs.
        report: Box<Report>,
    },
    /// A folder without a corpus, or with one that is damaged.
    #[error(
        "{path}: is no corpus: {cause}\n  help: name the folder that holds corpus.json, or build the corpus again",
        path = .path.display()
    )]
    NotACorpus {
        /// The folder or the file in it.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// A split that no corpus has.
    #[error("corpus: there is no split {name:?}\n  help: the splits are train, valid and test")]
    UnknownSplit {
        /// What was asked for.
        name: String,
    },
    /// A search among no pairs.
    #[error("lookup: there is no pair to look up in\n  help: is the training split empty after filtering?")]
    NothingToLookUp,
}
