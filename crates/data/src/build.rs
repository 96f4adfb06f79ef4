//! From pairs to a corpus: filtered, split, and without what would make a score a test of memory.
//!
//! ```text
//! 1. each pair      filter; its split is a hash of (seed, document), or of its source in normal form where it has none
//!                   train ─► train.tsv           valid, test ─► a file each that waits
//! 2. test again     without what train has       the same: equal in normal form of the source
//! 3. valid again    without what train or test has
//! 4. corpus.json    options, report, counts, SHA-256 of each file
//! ```
//!
//! Everything happens in a folder of its own beside the destination, which takes the destination's name at the end: what
//! stood there is in use until the new corpus is whole. In memory are 16 bytes per pair kept and 16 per source of train
//! (20 to 40 with the free places of the tables), never the text. The same pairs and options give the same bytes.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::corpus::{FORMAT, Leaks, MANIFEST, Manifest, SPLITS, SplitInfo, VERSION, split_file};
use crate::digest::{Digesting, Seen, digest64, digest128};
use crate::lines::Lines;
use crate::pair::Pairs;
use crate::text::normal_form;
use crate::{Corpus, Error, Filter, FilterConfig, Result};

/// How a corpus is made.
///
/// ```
/// let config: attentia_data::BuildConfig =
///     serde_json::from_str(r#"{ "test_percent": 2.5, "filter": { "max_words": 40 } }"#).unwrap();
/// assert_eq!((config.valid_percent, config.test_percent), (4.0, 2.5));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BuildConfig {
    /// Any text; another one gives other splits.
    pub seed: String,
    /// Share of documents for choosing among models, in percent; 0 for no such split.
    pub valid_percent: f64,
    /// Share of documents for the final score, in percent; 0 for no such split.
    pub test_percent: f64,
    /// What stays together.
    pub split_by: SplitBy,
    /// Which pairs are kept.
    pub filter: FilterConfig,
}

/// 4 % valid and 8 % test by document.
impl Default for BuildConfig {
    fn default() -> Self {
        Self {
            seed: "attentia".to_owned(),
            valid_percent: 4.0,
            test_percent: 8.0,
            split_by: SplitBy::Document,
            filter: FilterConfig::default(),
        }
    }
}

/// What a split never parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SplitBy {
    /// The pairs of a document, where the format has documents: sentences of one page resemble one another.
    #[default]
    Document,
    /// Only pairs with the same source, for corpora of a few large documents.
    Source,
    /// What is in one split already: a pair's document is `train`, `valid` or `test`, as [`Corpus::pairs`] says.
    Kept,
}

impl BuildConfig {
    /// Says what cannot be done.
    ///
    /// # Errors
    ///
    /// [`Error::Option`].
    pub fn validate(&self) -> Result<()> {
        let (valid, test) = (self.valid_percent, self.test_percent);
        if !(valid >= 0.0 && test >= 0.0 && valid + test < 100.0) {
            let cause = format!("{valid} % and test_percent = {test} % leave no pair to train on, or are no shares");
            return Err(Error::Option { option: "valid_percent", cause });
        }
        self.filter.validate()
    }

    /// The number of the split in [`SPLITS`].
    fn split(&self, document: Option<&str>, normal_source: &str) -> usize {
        if self.split_by == SplitBy::Kept
            && let Some(split) = SPLITS.iter().position(|split| document == Some(*split))
        {
            return split;
        }
        let document = document.filter(|_| self.split_by == SplitBy::Document);
        let number = digest64(&[&self.seed, document.unwrap_or(normal_source)]);
        // Whole percents by the last two digits, thousandths of one by the three before them.
        let percent = (number % 100) as f64 + (number / 100 % 1000) as f64 / 1000.0;
        match percent {
            _ if percent < self.valid_percent => VALID,
            _ if percent < self.valid_percent + self.test_percent => TEST,
            _ => TRAIN,
        }
    }
}

const TRAIN: usize = 0;
const VALID: usize = 1;
const TEST: usize = 2;

/// Makes a corpus of pairs in a folder, which must be new, empty or a corpus; that one is then replaced as a whole.
///
/// # Errors
///
/// [`Error::Option`], [`Error::Occupied`], [`Error::EmptySplit`], what `pairs` meets and what the disk answers. What
/// stood in the folder is then untouched.
///
/// ```
/// # let folder = std::env::temp_dir().join(format!("attentia-build-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder).unwrap();
/// # let lines = |say: &str| ('A'..='Z').map(|c| format!("{say} {}\n", String::from(c).repeat(4))).collect::<String>();
/// # std::fs::write(folder.join("text.en"), lines("the word")).unwrap();
/// # std::fs::write(folder.join("text.de"), lines("das Wort")).unwrap();
/// use attentia_data::{BuildConfig, build, format};
///
/// let pairs = format::moses(folder.join("text.en"), folder.join("text.de"))?;
/// let config = BuildConfig { valid_percent: 10.0, test_percent: 20.0, ..BuildConfig::default() };
/// let corpus = build(pairs, folder.join("corpus"), &config)?;
/// println!("{}", corpus.manifest().report);
/// for pair in corpus.split("train")? {
///     assert!(pair?.target.starts_with("das Wort"));
/// }
/// # std::fs::remove_dir_all(&folder).unwrap();
/// # Ok::<(), attentia_data::Error>(())
/// ```
pub fn build(pairs: Pairs, folder: impl AsRef<Path>, config: &BuildConfig) -> Result<Corpus> {
    config.validate()?;
    let folder = folder.as_ref();
    check_destination(folder)?;
    let staging = Staging::beside(folder)?;
    let manifest = fill(pairs, folder, &staging.0, config)?;
    let json = serde_json::to_string_pretty(&manifest).map_err(|error| failed(folder, io::Error::other(error)))?;
    attentia_file::write_atomic(staging.0.join(MANIFEST), (json + "\n").as_bytes())?;
    // Read again before anything is replaced by it.
    Corpus::open(&staging.0)?;
    staging.take_the_place_of(folder)?;
    Corpus::open(folder)
}

fn fill(mut pairs: Pairs, folder: &Path, staging: &Path, config: &BuildConfig) -> Result<Manifest> {
    let mut filter = Filter::new(config.filter.clone())?;
    let mut in_train = Seen::default();
    let waiting = ["valid", "test"].map(|name| staging.join(format!("{name}.waiting")));
    let train = write_split(staging, "train", |train| {
        let mut held_out = Vec::new();
        for path in &waiting {
            held_out.push(io::BufWriter::new(std::fs::File::create(path).map_err(|error| failed(path, error))?));
        }
        for pair in pairs.by_ref() {
            let pair = pair?;
            let normal = normal_form(&pair.source);
            let split = config.split(pair.document.as_deref(), &normal);
            // A pair that is in train and in test leaves test below, so duplicates count within a split.
            if filter.check_among(&pair, SPLITS[split]).is_err() {
                continue;
            }
            if split == TRAIN {
                in_train.insert(digest128(&[&normal]));
                train.add(&pair.source, &pair.target)?;
            } else {
                let file = &mut held_out[split - VALID];
                writeln!(file, "{}\t{}", pair.source, pair.target).map_err(|error| failed(staging, error))?;
            }
        }
        held_out.iter_mut().try_for_each(Write::flush).map_err(|error| failed(staging, error))
    })?;

    let mut leaks = Leaks::default();
    let [waiting_valid, waiting_test] = &waiting;
    let mut in_test = Seen::default();
    let test = write_split(staging, "test", |test| {
        each_waiting(waiting_test, |source, target| {
            let digest = digest128(&[&normal_form(source)]);
            if in_train.contains(digest) {
                leaks.test_in_train += 1;
                return Ok(());
            }
            in_test.insert(digest);
            test.add(source, target)
        })
    })?;
    let valid = write_split(staging, "valid", |valid| {
        each_waiting(waiting_valid, |source, target| {
            let digest = digest128(&[&normal_form(source)]);
            if in_train.contains(digest) {
                leaks.valid_in_train += 1;
            } else if in_test.contains(digest) {
                leaks.valid_in_test += 1;
            } else {
                return valid.add(source, target);
            }
            Ok(())
        })
    })?;
    for path in &waiting {
        std::fs::remove_file(path).map_err(|error| failed(path, error))?;
    }

    let mut report = pairs.dropped().clone();
    report.add(filter.report());
    let wanted = [true, config.valid_percent > 0.0, config.test_percent > 0.0];
    for ((split, info), wanted) in SPLITS.into_iter().zip([&train, &valid, &test]).zip(wanted) {
        if wanted && info.pairs == 0 {
            return Err(Error::EmptySplit { path: folder.to_owned(), split, report: Box::new(report) });
        }
    }
    let train_sources = in_train.len() as u64;
    let options = config.clone();
    Ok(Manifest {
        format: FORMAT.to_owned(),
        version: VERSION,
        options,
        report,
        leaks,
        train_sources,
        train,
        valid,
        test,
    })
}

fn failed(path: &Path, source: io::Error) -> Error {
    attentia_file::Error::Write { path: path.to_owned(), source }.into()
}

/// The file of a split while it is written.
struct SplitFile<'a> {
    out: Digesting<&'a mut dyn Write>,
    path: &'a Path,
    info: SplitInfo,
}

impl SplitFile<'_> {
    fn add(&mut self, source: &str, target: &str) -> Result<()> {
        let words = |text: &str| text.split_whitespace().count() as u64;
        self.info.pairs += 1;
        self.info.source_words += words(source);
        self.info.target_words += words(target);
        writeln!(self.out, "{source}\t{target}").map_err(|error| failed(self.path, error))
    }
}

fn write_split(staging: &Path, name: &str, fill: impl FnOnce(&mut SplitFile<'_>) -> Result<()>) -> Result<SplitInfo> {
    let path = staging.join(split_file(name));
    let mut filled = None;
    let written = attentia_file::write_atomic_with(&path, |out| {
        let mut file = SplitFile { out: Digesting::new(out), path: &path, info: SplitInfo::default() };
        let result = fill(&mut file);
        let SplitFile { out, info, .. } = file;
        let (bytes, sha256) = out.finish();
        let stop = result.is_err();
        filled = Some(result.map(|()| SplitInfo { bytes, sha256, ..info }));
        // Ends the writing; the error that is reported is the one inside.
        if stop { Err(io::Error::other("stopped")) } else { Ok(()) }
    });
    match (filled, written) {
        (Some(Err(error)), _) => Err(error),
        (_, Err(error)) => Err(error.into()),
        (Some(Ok(info)), Ok(())) => Ok(info),
        (None, Ok(())) => Ok(SplitInfo::default()),
    }
}

/// Reads a file that this module wrote.
fn each_waiting(path: &Path, mut take: impl FnMut(&str, &str) -> Result<()>) -> Result<()> {
    let mut lines = Lines::open(path)?;
    while let Some(line) = lines.next()? {
        let line = line.unwrap_or_default();
        if let Some((source, target)) = line.split_once('\t') {
            take(source, target)?;
        }
    }
    Ok(())
}

/// A folder may be written to when it does not exist, is empty or holds a corpus and nothing else.
fn check_destination(folder: &Path) -> Result<()> {
    let refuse = |source| attentia_file::Error::Read { path: folder.to_owned(), source };
    if !folder.exists() {
        return Ok(());
    }
    if !folder.is_dir() {
        return Err(Error::NotAFolder { path: folder.to_owned() });
    }
    let is_corpus = folder.join(MANIFEST).is_file();
    for entry in std::fs::read_dir(folder).map_err(refuse)? {
        let found = entry.map_err(refuse)?.file_name().to_string_lossy().into_owned();
        if !is_corpus || (found != MANIFEST && SPLITS.iter().all(|split| split_file(split) != found)) {
            return Err(Error::Occupied { path: folder.to_owned(), found });
        }
    }
    Ok(())
}

/// The folder in which a corpus grows; it is removed when it is not needed any more, unless the process is killed.
struct Staging(PathBuf);

impl Staging {
    fn beside(folder: &Path) -> Result<Self> {
        let staging = beside(folder, "new")?;
        // What a dead process of the same number has left.
        let _ = std::fs::remove_dir_all(&staging);
        std::fs::create_dir_all(&staging).map_err(|error| failed(&staging, error))?;
        Ok(Self(staging))
    }

    /// Between the two renames no folder has the name: a process that is killed there leaves the old corpus beside it,
    /// whole, as `.name.<process>.old`.
    fn take_the_place_of(self, folder: &Path) -> Result<()> {
        let old = beside(folder, "old")?;
        let replaces = folder.exists();
        if replaces {
            attentia_file::rename(folder, &old)?;
        }
        if let Err(error) = attentia_file::rename(&self.0, folder) {
            if replaces && !folder.exists() {
                attentia_file::rename(&old, folder)?;
            }
            return Err(error.into());
        }
        if replaces {
            std::fs::remove_dir_all(&old).map_err(|error| failed(&old, error))?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After the rename there is nothing to remove; else a leftover does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn beside(folder: &Path, what: &str) -> Result<PathBuf> {
    let absolute = std::path::absolute(folder).map_err(|error| failed(folder, error))?;
    let Some(name) = absolute.file_name() else { return Err(Error::NotAFolder { path: folder.to_owned() }) };
    Ok(absolute.with_file_name(format!(".{}.{}.{what}", name.to_string_lossy(), std::process::id())))
}

#[cfg(test)]
mod tests;
