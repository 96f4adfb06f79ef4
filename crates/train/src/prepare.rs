//! From sentence pairs to what a training reads: a tokenizer and two files of examples, in the run's folder.
//!
//! ```text
//! tokenizer.json    learned from the train split
//! train.examples    its pairs as ids, and those of the valid split; pairs that no batch may hold are left out and
//! valid.examples    counted
//! prepared.toml     what of the configuration they were made for; written last, removed first
//! ```
//!
//! The pairs are read one by one, once for the vocabulary and once for the files: memory holds the different words of the
//! train split, and 16 bytes for each of its pairs, but not their text.

use crate::{Error, Result, RunConfig};
use attentia_data::{Example, ExampleFile, Examples, Tokenizer};
use attentia_nn::{Parameters, Scope};
use attentia_tensor::Device;
use attentia_transformer::EncoderDecoder;
use std::path::Path;

/// Parts of a corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// What is learned from.
    Train,
    /// What chooses among models.
    Valid,
    /// What is reported.
    Test,
}

impl Split {
    /// All of them.
    pub const ALL: [Split; 3] = [Split::Train, Split::Valid, Split::Test];

    /// Its name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Valid => "valid",
            Split::Test => "test",
        }
    }
}

/// Pairs of a sentence and its translation.
pub type SentencePairs<'a> = Box<dyn Iterator<Item = Result<[String; 2]>> + Send + 'a>;

/// Something with sentence pairs in three splits, which can be read again and again.
pub trait Splits {
    /// The pairs of a split, from the first.
    fn pairs(&self, split: Split) -> Result<SentencePairs<'_>>;
}

/// What a training reads.
#[derive(Debug)]
pub struct Prepared {
    /// Text to ids.
    pub tokenizer: Tokenizer,
    /// What is learned from.
    pub train: ExampleFile,
    /// What chooses among models.
    pub valid: ExampleFile,
    /// The first pairs of the valid split, to be translated on the way.
    pub samples: Vec<[String; 2]>,
    /// Pairs of both that were left out because they have more tokens than the model has positions, or than a batch holds.
    pub too_long: usize,
}

const TOKENIZER: &str = "tokenizer.json";
const TRAIN: &str = "train.examples";
const VALID: &str = "valid.examples";
const MADE_FOR: &str = "prepared.toml";

/// What [`Prepared::new`] makes.
pub(crate) const FILES: [&str; 4] = [TOKENIZER, TRAIN, VALID, MADE_FOR];

/// The pairs of a split with at most `longest` words in both languages; 0 keeps all.
pub fn within(corpus: &dyn Splits, split: Split, longest: usize) -> Result<SentencePairs<'_>> {
    let short = move |text: &String| longest == 0 || text.split_whitespace().count() <= longest;
    Ok(Box::new(corpus.pairs(split)?.filter(move |pair| pair.as_ref().map_or(true, |sides| sides.iter().all(short)))))
}

impl Prepared {
    /// Makes the files, or, where `again` says so, takes those that an earlier start has left for the same corpus, vocabulary
    /// and limits.
    ///
    /// Errors when a pair cannot be read, nothing is left to learn from, or a file cannot be written.
    pub fn new(folder: &Path, corpus: &dyn Splits, config: &RunConfig, again: bool) -> Result<Prepared> {
        let longest = config.corpus.longest;
        let samples = within(corpus, Split::Valid, longest)?.take(config.validate.samples).collect::<Result<_>>()?;
        let [tokenizer_path, train_path, valid_path, made_for_path] = FILES.map(|name| folder.join(name));
        let made_for = config.data_toml()?;
        let there = made_for_path.is_file().then(|| attentia_file::read_text(&made_for_path)).transpose()?;
        if again && there.as_ref() == Some(&made_for) {
            let tokenizer = Tokenizer::load(&tokenizer_path)?;
            let (train, valid) = (ExampleFile::open(train_path)?, ExampleFile::open(valid_path)?);
            return Ok(Prepared { tokenizer, train, valid, samples, too_long: 0 });
        }
        if there.is_some() {
            // From here on until all are made, they are of no one configuration.
            let refuse = |source| attentia_file::Error::Write { path: made_for_path.clone(), source };
            std::fs::remove_file(&made_for_path).map_err(refuse)?;
        }
        let tokenizer = learn(within(corpus, Split::Train, longest)?, config.model.architecture.vocabulary)?;
        tokenizer.save(&tokenizer_path)?;
        let mut too_long = 0;
        let mut write = |path: &Path, split| -> Result<ExampleFile> {
            encode(path, within(corpus, split, longest)?, &tokenizer, config, &mut too_long)?;
            Ok(ExampleFile::open(path)?)
        };
        let train = write(&train_path, Split::Train)?;
        let valid = write(&valid_path, Split::Valid)?;
        if train.is_empty() {
            return Err(Error::NoExamples);
        }
        attentia_file::write_atomic(&made_for_path, made_for.as_bytes())?;
        Ok(Prepared { tokenizer, train, valid, samples, too_long })
    }

    /// A new model as the configuration says, over the tokens that there are, and its parameters.
    pub fn model(&self, config: &RunConfig, device: &Device) -> Result<(EncoderDecoder, Parameters)> {
        let scope = Scope::new(device, config.precision(), config.train.seed);
        let mut architecture = config.model.architecture.clone();
        architecture.vocabulary = self.tokenizer.vocab_size();
        Ok((EncoderDecoder::new(&scope, architecture)?, scope.parameters()))
    }
}

fn learn(pairs: SentencePairs, vocabulary: usize) -> Result<Tokenizer> {
    let mut refused = None;
    let texts = pairs.map_while(|pair| pair.map_err(|error| refused = Some(error)).ok()).flatten();
    let tokenizer = Tokenizer::train_bpe(texts, vocabulary);
    match refused {
        Some(error) => Err(error),
        None => Ok(tokenizer?),
    }
}

fn encode(
    path: &Path,
    pairs: SentencePairs,
    tokenizer: &Tokenizer,
    config: &RunConfig,
    too_long: &mut usize,
) -> Result<()> {
    // With its end mark.
    let limit = config.model.architecture.positions.min(config.train.batch_tokens);
    let mut refused = None;
    let examples = pairs
        .map_while(|pair| pair.map_err(|error| refused = Some(error)).ok())
        .map(|[source, target]| Ok(Example { source: tokenizer.encode(&source)?, target: tokenizer.encode(&target)? }));
    let examples = examples.filter(|example| {
        let fits = example.as_ref().map_or(true, |e| e.source.len().max(e.target.len()) < limit);
        *too_long += usize::from(!fits);
        fits
    });
    let written = ExampleFile::write(path, examples);
    match refused {
        Some(error) => Err(error),
        None => Ok(written.map(|_| ())?),
    }
}
