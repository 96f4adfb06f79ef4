//! Errors of a run: the engine's, the data's, or the run's own.

use std::path::PathBuf;

/// The result of everything that can fail here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine refused.
    #[error(transparent)]
    Tensor(#[from] attentia_tensor::Error),
    /// The data were not usable.
    #[error(transparent)]
    Data(#[from] attentia_data::Error),
    /// There is nothing to train on.
    #[error(
        "train: no examples\n  \
         help: is the corpus empty after filtering, or shorter than corpus.longest, model.positions and train.batch_tokens allow?"
    )]
    NoExamples,
    /// The loss or the gradient is no number any more; the parameters are those of the step before.
    #[error(
        "train: the {what} of step {step} is {value}{origin}\n  \
         help: lower the learning rate or lengthen the warm-up; train.not_finite = \"skip\" leaves such batches out, from the start"
    )]
    NotFinite {
        /// The step.
        step: u64,
        /// Loss or gradient norm.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The operation and the layer where it appeared first, indented lines.
        origin: String,
    },
    /// A configuration that makes no sense.
    #[error("configuration: {what}\n  help: {help}")]
    Config {
        /// What is wrong, with the key.
        what: String,
        /// What to do.
        help: String,
    },
    /// A picture of what was reported cannot be drawn.
    #[error(transparent)]
    Picture(#[from] attentia_picture::Error),
    /// A file where a run's folder should be.
    #[error("{path}: is a file, and a run needs a folder\n  help: choose another folder", path = .path.display())]
    NoFolder {
        /// The path.
        path: PathBuf,
    },
    /// A folder that holds a run already.
    #[error("{folder}: holds a run already\n  help: --resume goes on with it; or choose another folder", folder = .folder.display())]
    Occupied {
        /// The folder.
        folder: PathBuf,
    },
    /// The best checkpoint of a run that goes on is not there.
    #[error("{path}: is missing, and the run's best validation was its\n  help: restore it from a copy, or begin anew in another folder", path = .path.display())]
    NoBest {
        /// The file.
        path: PathBuf,
    },
    /// A checkpoint that this training cannot go on from.
    #[error("resume: {what}\n  help: pass the model, the examples and the configuration that the training began with")]
    Resume {
        /// What is missing or differs.
        what: String,
    },
    /// A file or a folder of the run.
    #[error(transparent)]
    File(#[from] attentia_file::Error),
    /// Another process is training into the folder.
    #[error("{folder}: another process writes its checkpoints here\n  help: wait for it, or choose another folder", folder = .folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// All checkpoints of a run's folder are damaged.
    #[error("{folder}: every checkpoint is damaged{reasons}\n  help: restore one of them from a copy, or choose another folder", folder = .folder.display())]
    AllDamaged {
        /// The folder.
        folder: PathBuf,
        /// Each file's error, indented.
        reasons: String,
    },
    /// A text without words.
    #[error("translate: the text is empty\n  help: pass a sentence")]
    NoText,
    /// A text that the model has no positions for.
    #[error("translate: {tokens} tokens, and the model reads at most {limit}\n  help: split the text into sentences")]
    TooLong {
        /// Tokens of the text, end mark included.
        tokens: usize,
        /// The model's positions.
        limit: usize,
    },
}
