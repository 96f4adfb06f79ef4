//! A corpus on the disk: three files of pairs and a page that says what they are.
//!
//! ```text
//! train.tsv   what a model learns from            source, tab, target, newline; UTF-8
//! valid.tsv   what chooses among models
//! test.tsv    what is reported, once
//! corpus.json how they were made, what was dropped, counts, SHA-256
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::sha256_of_file;
use crate::lines::Lines;
use crate::pair::{Found, Pairs, RawPair};
use crate::{BuildConfig, Error, Report, Result};

pub(crate) const MANIFEST: &str = "corpus.json";
pub(crate) const FORMAT: &str = "attentia corpus";
pub(crate) const VERSION: u32 = 1;
/// The names of the splits.
pub const SPLITS: [&str; 3] = ["train", "valid", "test"];

pub(crate) fn split_file(split: &str) -> String {
    format!("{split}.tsv")
}

/// What `corpus.json` holds: no time and no host, so that the same corpus is the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `attentia corpus`.
    pub format: String,
    /// Of the format.
    pub version: u32,
    /// How it was made.
    pub options: BuildConfig,
    /// What the reader and the filter kept and dropped, before anything left valid and test.
    pub report: Report,
    /// What left valid and test.
    pub leaks: Leaks,
    /// Sources of train that differ in [normal form](crate::normal_form).
    pub train_sources: u64,
    /// What a model learns from.
    pub train: SplitInfo,
    /// What chooses among models.
    pub valid: SplitInfo,
    /// What is reported, once.
    pub test: SplitInfo,
}

/// Pairs that left a split because another one has the same source in [normal form](crate::normal_form).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaks {
    /// Left test: train has the source.
    pub test_in_train: u64,
    /// Left valid: train has the source.
    pub valid_in_train: u64,
    /// Left valid: test has the source.
    pub valid_in_test: u64,
}

/// A split in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitInfo {
    /// Pairs, one a line.
    pub pairs: u64,
    /// Words of all sources, split at white space.
    pub source_words: u64,
    /// Words of all targets.
    pub target_words: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Of the file, in hexadecimal.
    pub sha256: String,
}

/// A corpus that [`build`](crate::build()) made.
#[derive(Debug, Clone, PartialEq)]
pub struct Corpus {
    folder: PathBuf,
    manifest: Manifest,
}

impl Corpus {
    /// Reads `corpus.json` and compares the sizes of the files with it.
    ///
    /// # Errors
    ///
    /// [`Error::NotACorpus`] where there is none, a newer one or one with files of another size.
    ///
    /// ```no_run
    /// let corpus = attentia_data::Corpus::open("corpus")?;
    /// corpus.verify()?;
    /// println!("{} pairs to learn from", corpus.manifest().train.pairs);
    /// # Ok::<(), attentia_data::Error>(())
    /// ```
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref().to_owned();
        let path = folder.join(MANIFEST);
        let wrong = |path: &Path, cause: String| Error::NotACorpus { path: path.to_owned(), cause };
        if !path.is_file() {
            return Err(wrong(&folder, format!("it has no {MANIFEST}")));
        }
        let json = attentia_file::read_text(&path)?;
        /// What every version has.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head = serde_json::from_str(&json).map_err(|error| wrong(&path, error.to_string()))?;
        if head.format != FORMAT || head.version != VERSION {
            let Head { format, version } = head;
            return Err(wrong(
                &path,
                format!(
                    "it is {format:?} of version {version}, and this program reads {FORMAT:?} of version {VERSION}"
                ),
            ));
        }
        let manifest: Manifest = serde_json::from_str(&json).map_err(|error| wrong(&path, error.to_string()))?;
        let corpus = Self { folder, manifest };
        for split in SPLITS {
            let path = corpus.path(split);
            let expected = corpus.info(split)?.bytes;
            let found =
                std::fs::metadata(&path).map_err(|source| attentia_file::Error::Read { path: path.clone(), source })?;
            if found.len() != expected {
                return Err(wrong(&path, format!("{} bytes, but {MANIFEST} says {expected}", found.len())));
            }
        }
        Ok(corpus)
    }

    /// The folder that was opened.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What `corpus.json` says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Reads all files and compares their SHA-256 with `corpus.json`.
    ///
    /// # Errors
    ///
    /// [`Error::NotACorpus`] with the file that was changed.
    pub fn verify(&self) -> Result<()> {
        for split in SPLITS {
            let (path, expected) = (self.path(split), &self.info(split)?.sha256);
            let found = sha256_of_file(&path)?;
            if found != *expected {
                let cause = format!("it was changed: its SHA-256 is {found}, but {MANIFEST} says {expected}");
                return Err(Error::NotACorpus { path, cause });
            }
        }
        Ok(())
    }

    /// The pairs of all splits; the document of each is its split. Built again by [`SplitBy::Kept`], several corpora
    /// become one.
    ///
    /// # Errors
    ///
    /// As [`split`](Self::split).
    ///
    /// [`SplitBy::Kept`]: crate::SplitBy::Kept
    pub fn pairs(&self) -> Result<Pairs> {
        let parts = SPLITS.map(|name| self.split(name).map(|pairs| (name, pairs)));
        let parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Pairs::new(parts.into_iter().flat_map(|(name, pairs)| {
            pairs.map(move |pair| pair.map(|pair| RawPair { document: Some(name.to_owned()), ..pair }))
        })))
    }

    /// The pairs of `train`, `valid` or `test`, read as they are asked for. A split that was not wanted has none.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownSplit`]; in the iterator, [`Error::NotACorpus`] for a line that is no pair.
    pub fn split(&self, name: &str) -> Result<Pairs> {
        let empty = self.info(name)?.pairs == 0;
        let mut lines = Lines::open(self.path(name))?;
        let mut step = move || -> Result<Option<Found>> {
            if empty {
                return Ok(None);
            }
            let Some(line) = lines.next()? else { return Ok(None) };
            let wrong = |cause: &str| Error::NotACorpus {
                path: lines.path().to_path_buf(),
                cause: format!("line {}: {cause}", lines.number()),
            };
            let line = line.map_err(|reason| wrong(reason.name()))?;
            let whole =
                |(source, target): &(&str, &str)| !source.is_empty() && !target.is_empty() && !target.contains('\t');
            let Some((source, target)) = line.split_once('\t').filter(whole) else {
                return Err(wrong("expected a source, one tab and a target"));
            };
            let (source, target) = (source.to_owned(), target.to_owned());
            Ok(Some(Found::Pair(RawPair { source, target, document: None, place: lines.place() })))
        };
        Ok(Pairs::of(std::iter::from_fn(move || step().transpose())))
    }

    fn path(&self, split: &str) -> PathBuf {
        self.folder.join(split_file(split))
    }

    fn info(&self, split: &str) -> Result<&SplitInfo> {
        match split {
            "train" => Ok(&self.manifest.train),
            "valid" => Ok(&self.manifest.valid),
            "test" => Ok(&self.manifest.test),
            _ => Err(Error::UnknownSplit { name: split.to_owned() }),
        }
    }
}
