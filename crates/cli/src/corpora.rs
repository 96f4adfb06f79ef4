//! Where sentence pairs come from: the corpus inside the program, or a folder.

use anyhow::{Context, Result};
use attentia::{
    data::{self, At, Corpus, Pairs, Place, RawPair},
    train::{self, SentencePairs, Split, Splits},
};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::{path::Path, sync::Arc};

/// The name of the corpus inside the program.
pub(crate) const BUNDLED: &str = "bundled";

/// Reads the name of a split.
pub(crate) fn split_parser() -> impl TypedValueParser<Value = Split> {
    PossibleValuesParser::new(Split::ALL.map(Split::name)).map(|name| {
        // The parser lets only these names through.
        Split::ALL.into_iter().find(|split| split.name() == name).unwrap_or(Split::Test)
    })
}

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

    /// The pairs of all splits; the document of each is its split, as [`Corpus::pairs`] has it.
    pub(crate) fn all(&self) -> Result<Pairs> {
        let corpus = match self {
            Source::Folder(corpus) => return Ok(corpus.pairs()?),
            Source::Bundled(corpus) => corpus,
        };
        let file: Arc<Path> = Path::new(BUNDLED).into();
        let parts = [(Split::Train, &corpus.train), (Split::Valid, &corpus.valid), (Split::Test, &corpus.test)];
        let pairs = parts.into_iter().flat_map(|(split, pairs)| {
            pairs.iter().enumerate().map(move |(number, pair)| (split, number as u64 + 1, pair))
        });
        let pairs: Vec<data::Result<RawPair>> = pairs
            .map(|(split, number, pair)| {
                let place = Place { file: file.clone(), at: At::Line(number) };
                let (source, target) = (pair.source.clone(), pair.target.clone());
                Ok(RawPair { source, target, document: Some(split.name().to_owned()), place })
            })
            .collect();
        Ok(Pairs::new(pairs.into_iter()))
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
