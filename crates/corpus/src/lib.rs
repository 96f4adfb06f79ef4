//! A real English-German corpus that travels inside the program: 43 thousand sentence pairs from LibreOffice's help
//! pages, 1.8 MB of compressed data, no download and no path to configure.
//!
//! ```
//! let corpus = attentia_corpus::english_german()?.at_least_words(3).at_most_words(12);
//! let pair = &corpus.train[0];
//! println!("{} -> {}", pair.source, pair.target);
//! assert!(corpus.train.len() > 17_000 && corpus.valid.len() > 600 && corpus.test.len() > 1_000);
//! # Ok::<(), attentia_corpus::Error>(())
//! ```
//!
//! # What a score on it means
//!
//! Help pages repeat one another, so a split by sentence would test memory. Here a *page* belongs to one split, chosen
//! by a hash of its path; and a pair whose source stands in train as well, once lower-cased and without digits and
//! punctuation, has left valid and test (and what valid shared with test has left valid). The text is software
//! documentation: short, dry and regular. A model trained on it speaks that language and no other.
//!
//! # Provenance
//!
//! Debian's `libreoffice-help-en-us` and `libreoffice-help-de`, 4:7.4.7. The data are under the Mozilla Public License
//! 2.0 and keep it; the code of this crate, `make/make.py` that made the data included, is MIT or Apache-2.0. The
//! README has the command that makes the same bytes again.

#![forbid(unsafe_code)]

use std::io::Read;

use flate2::read::GzDecoder;

/// A sentence, a heading or a short paragraph in two languages.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pair {
    /// English, 1 to 60 words.
    pub source: String,
    /// German, 1 to 60 words.
    pub target: String,
}

impl Pair {
    /// Words of the source and of the target, split at white space.
    ///
    /// ```
    /// let pair = attentia_corpus::Pair { source: "Click OK.".into(), target: "Klicken Sie auf OK.".into() };
    /// assert_eq!(pair.words(), (2, 4));
    /// ```
    pub fn words(&self) -> (usize, usize) {
        (self.source.split_whitespace().count(), self.target.split_whitespace().count())
    }
}

/// Pairs in three splits, of which no two share a page or, in lower case and letters only, a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    /// What a model learns from.
    pub train: Vec<Pair>,
    /// What chooses among models and stops training.
    pub valid: Vec<Pair>,
    /// What is reported, once.
    pub test: Vec<Pair>,
}

impl Corpus {
    /// Keeps the pairs with at most `limit` words on *both* sides.
    ///
    /// ```
    /// let short = attentia_corpus::english_german()?.at_most_words(12);
    /// assert!(short.test.iter().all(|pair| pair.words().0 <= 12 && pair.words().1 <= 12));
    /// # Ok::<(), attentia_corpus::Error>(())
    /// ```
    pub fn at_most_words(self, limit: usize) -> Self {
        self.keep(|(source, target)| source <= limit && target <= limit)
    }

    /// Keeps the pairs with at least `limit` words on *both* sides: 3 leaves sentences and drops most headings.
    pub fn at_least_words(self, limit: usize) -> Self {
        self.keep(|(source, target)| source >= limit && target >= limit)
    }

    fn keep(mut self, wanted: impl Fn((usize, usize)) -> bool) -> Self {
        for split in [&mut self.train, &mut self.valid, &mut self.test] {
            split.retain(|pair| wanted(pair.words()));
        }
        self
    }
}

/// The data inside the crate could not be read: the build was tampered with or the disk is failing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream does not decompress to UTF-8 text, or its checksum is wrong.
    #[error(
        "corpus: the bundled file {file} does not decompress: {source}\n  \
         help: build attentia-corpus again from a clean copy"
    )]
    Damaged {
        /// Name of the file in the crate's `data` folder.
        file: &'static str,
        /// What the decompressor said.
        source: std::io::Error,
    },
    /// A line is not `source`, tab, `target`.
    #[error(
        "corpus: {file}, line {line}: expected English, one tab and German\n  \
         help: make the data again with make/make.py"
    )]
    Line {
        /// Name of the file in the crate's `data` folder.
        file: &'static str,
        /// Counted from 1.
        line: usize,
    },
}

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The corpus, decompressed now: 43 thousand pairs, about 6 MB of text, some tens of milliseconds. Pairs stand in the
/// order of the pages' paths, so shuffle before training.
///
/// # Errors
///
/// [`Error`] when the bundled bytes are damaged.
pub fn english_german() -> Result<Corpus> {
    Ok(Corpus {
        train: unpack("train.tsv.gz", include_bytes!("../data/train.tsv.gz"))?,
        valid: unpack("valid.tsv.gz", include_bytes!("../data/valid.tsv.gz"))?,
        test: unpack("test.tsv.gz", include_bytes!("../data/test.tsv.gz"))?,
    })
}

fn unpack(file: &'static str, packed: &[u8]) -> Result<Vec<Pair>> {
    let mut text = String::new();
    GzDecoder::new(packed).read_to_string(&mut text).map_err(|source| Error::Damaged { file, source })?;
    let pair = |(index, line): (usize, &str)| match line.split_once('\t') {
        Some((source, target)) if !source.is_empty() && !target.is_empty() && !target.contains('\t') => {
            Ok(Pair { source: source.to_owned(), target: target.to_owned() })
        }
        _ => Err(Error::Line { file, line: index + 1 }),
    };
    text.lines().enumerate().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::io::Write;

    fn normal(text: &str) -> String {
        let letters = text.to_lowercase().replace(|c: char| !c.is_alphabetic(), " ");
        letters.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn counts_are_those_of_the_readme() {
        let corpus = english_german().unwrap();
        assert_eq!((corpus.train.len(), corpus.valid.len(), corpus.test.len()), (39_572, 1_383, 2_307));
        let short = corpus.at_least_words(3).at_most_words(12);
        assert_eq!((short.train.len(), short.valid.len(), short.test.len()), (17_943, 652, 1_018));
    }

    #[test]
    fn every_pair_obeys_the_rules_of_the_corpus() {
        let corpus = english_german().unwrap();
        for split in [&corpus.train, &corpus.valid, &corpus.test] {
            for pair in split {
                let (source, target) = pair.words();
                assert!((1..=60).contains(&source) && (1..=60).contains(&target), "{pair:?}");
                let ratio = pair.target.chars().count() as f64 / pair.source.chars().count() as f64;
                assert!((0.4..=2.5).contains(&ratio), "{pair:?}");
                assert_ne!(pair.source, pair.target);
                for side in [&pair.source, &pair.target] {
                    assert_eq!(*side, side.split_whitespace().collect::<Vec<_>>().join(" "), "white space");
                    assert!(!side.contains("&amp;") && !side.contains("<span"), "markup in {side:?}");
                }
            }
            assert_eq!(split.iter().collect::<HashSet<_>>().len(), split.len(), "duplicates");
        }
    }

    #[test]
    fn no_source_stands_in_two_splits() {
        let corpus = english_german().unwrap();
        let sources = |split: &[Pair]| split.iter().map(|pair| normal(&pair.source)).collect::<HashSet<_>>();
        let (train, valid, test) = (sources(&corpus.train), sources(&corpus.valid), sources(&corpus.test));
        assert!(train.is_disjoint(&valid) && train.is_disjoint(&test) && valid.is_disjoint(&test));
    }

    #[test]
    fn damaged_data_are_an_error() {
        let whole = gzip(b"one\teins\n");
        assert_eq!(unpack("x", &whole).unwrap(), [Pair { source: "one".into(), target: "eins".into() }]);
        for length in 0..whole.len() {
            assert!(matches!(unpack("x", &whole[..length]), Err(Error::Damaged { .. })), "{length} bytes");
        }
        let mut flipped = whole.clone();
        let last = flipped.len() - 6; // inside the checksum
        flipped[last] ^= 1;
        assert!(matches!(unpack("x", &flipped), Err(Error::Damaged { .. })));
        assert!(matches!(unpack("x", &gzip(b"\xff\t\xff\n")), Err(Error::Damaged { .. })));
        assert!(matches!(unpack("x", &gzip(b"one\teins\ntwo\n")), Err(Error::Line { line: 2, .. })));
        assert!(matches!(unpack("x", &gzip(b"a\tb\tc\n")), Err(Error::Line { line: 1, .. })));
    }
}
