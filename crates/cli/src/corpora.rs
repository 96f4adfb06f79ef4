//! Where sentence pairs come from: the corpus inside the program, or a folder.

use anyhow::{Context, Result};
use attentia::{
    data::Corpus,
    train::{self, SentencePairs, Split, Splits},
};

/// The name of the corpus inside the program.
pub(crate) const BUNDLED: &str = "bundled";

/// An opened corpus.
pub(crate) enum Source {
    Bundled(attentia_corpus::Corpus),
    Folder(Box<Corpus>),
}

impl Source {
    /// `bundled`, or a folder that `attentia corpus build` made.
    pub(crate) fn open(from: &str) -> Result<Source> {
        if from == BUNDLED {
            return Ok(Source::Bundled(attentia_corpus::english_german()?));
        }
        let opened = Corpus::open(from).with_context(|| {
            format!("the corpus {from:?} cannot be opened: it is neither {BUNDLED:?} nor a folder of `attentia corpus build`")
        });
        Ok(Source::Folder(Box::new(opened?)))
    }

    /// Pairs of a split with at most `longest` words on both sides (0: all), as sources and references.
    pub(crate) fn within(&self, split: Split, longest: usize) -> Result<(Vec<String>, Vec<String>)> {
        let pairs = train::within(self, split, longest)?.collect::<train::Result<Vec<_>>>()?;
        Ok(pairs.into_iter().map(|[source, target]| (source, target)).unzip())
    }
}

impl Splits for Source {
    fn pairs(&self, split: Split) -> train::Result<SentencePairs<'_>> {
        match self {
            Source::Bundled(corpus) => {
                let pairs = match split {
                    Split::Train => &corpus.train,
                    Split::Valid => &corpus.valid,
                    Split::Test => &corpus.test,
                };
                Ok(Box::new(pairs.iter().map(|pair| Ok([pair.source.clone(), pair.target.clone()]))))
            }
            Source::Folder(corpus) => {
                let pairs = corpus.split(split.name())?;
                Ok(Box::new(pairs.map(|pair| pair.map(|pair| [pair.source, pair.target]).map_err(train::Error::from))))
            }
        }
    }
}
