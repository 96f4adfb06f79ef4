//! Which pairs are worth learning from.
//!
//! The checks run in the order of [`FilterConfig`]'s fields and the first that fails names the reason. Words are what
//! white space separates and characters are Unicode's, so the defaults suit pairs of languages with spaces and alphabets
//! of like density; for Chinese or Japanese, open `max_ratio` and `min_ratio` and set `letters` to 1.

use serde::{Deserialize, Serialize};

use crate::digest::{Seen, digest128};
use crate::text::normal_characters;
use crate::{Error, RawPair, Reason, Report, Result};

/// What a pair must be to be kept.
///
/// ```
/// let config: attentia_data::FilterConfig = serde_json::from_str(r#"{ "max_words": 40 }"#).unwrap();
/// assert_eq!((config.min_words, config.max_words, config.letters), (1, 40, 3));
/// assert!(serde_json::from_str::<attentia_data::FilterConfig>(r#"{ "max_word": 40 }"#).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilterConfig {
    /// Fewest words on either side.
    pub min_words: usize,
    /// Most words on either side.
    pub max_words: usize,
    /// Drop pairs with U+FFFD, the mark of bytes that were lost.
    pub encoding: bool,
    /// Drop pairs in which a side has one of these texts.
    pub unwanted: Vec<String>,
    /// Fewest characters of the target per character of the source.
    pub min_ratio: f64,
    /// Most characters of the target per character of the source.
    pub max_ratio: f64,
    /// Drop pairs whose sides are the same in [normal form](crate::normal_form).
    pub identical: bool,
    /// Letters in a row that each side must have somewhere; 0 for no such demand.
    pub letters: usize,
    /// Drop pairs that have been there, letter by letter.
    pub duplicates: bool,
}

/// 1 to 60 words, 0.4 to 2.5 characters per character, a run of three letters, and nothing twice.
impl Default for FilterConfig {
    fn default() -> Self {
        Self {
            min_words: 1,
            max_words: 60,
            encoding: true,
            unwanted: Vec::new(),
            min_ratio: 0.4,
            max_ratio: 2.5,
            identical: true,
            letters: 3,
            duplicates: true,
        }
    }
}

impl FilterConfig {
    /// Says what no pair could satisfy.
    ///
    /// # Errors
    ///
    /// [`Error::Option`].
    pub fn validate(&self) -> Result<()> {
        let wrong = |option, cause: String| Err(Error::Option { option, cause });
        if self.min_words > self.max_words {
            return wrong("max_words", format!("{} is less than min_words = {}", self.max_words, self.min_words));
        }
        // Infinity has no place in JSON, and a corpus is written with its options.
        if !(self.min_ratio >= 0.0 && self.min_ratio <= self.max_ratio && self.max_ratio.is_finite()) {
            let cause = format!("{} and max_ratio = {} are no finite range", self.min_ratio, self.max_ratio);
            return wrong("min_ratio", cause);
        }
        if self.unwanted.iter().any(String::is_empty) {
            return wrong("unwanted", "an empty text stands in every pair".to_owned());
        }
        Ok(())
    }
}

/// Applies a [`FilterConfig`] to one pair after the other. Its memory is 16 bytes per pair that it kept (20 to 40 with
/// the free places of a table), whatever the length of the texts.
///
/// ```
/// use attentia_data::{At, Filter, FilterConfig, Place, RawPair, Reason};
///
/// let mut filter = Filter::new(FilterConfig::default())?;
/// let place = Place { file: std::path::Path::new("a.tsv").into(), at: At::Line(1) };
/// let pair = RawPair { source: "Click OK.".into(), target: "Auf OK klicken.".into(), document: None, place };
/// assert_eq!(filter.check(&pair), Ok(()));
/// assert_eq!(filter.check(&pair), Err(Reason::Duplicate));
/// assert_eq!(filter.report().kept, 1);
/// # Ok::<(), attentia_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Filter {
    config: FilterConfig,
    seen: Seen,
    report: Report,
}

impl Filter {
    /// A filter that has seen nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] where the options contradict themselves.
    pub fn new(config: FilterConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self { config, seen: Seen::default(), report: Report::default() })
    }

    /// Whether to keep this pair, or why not; [`report`](Self::report) counts the answer.
    ///
    /// # Errors
    ///
    /// The reason for dropping it.
    pub fn check(&mut self, pair: &RawPair) -> std::result::Result<(), Reason> {
        self.check_among(pair, "")
    }

    /// [`check`](Self::check), with duplicates only among pairs of the same group.
    pub(crate) fn check_among(&mut self, pair: &RawPair, group: &str) -> std::result::Result<(), Reason> {
        let (source, target) = (pair.source.as_str(), pair.target.as_str());
        let reason = self.config.reason(source, target).or_else(|| {
            let first = !self.config.duplicates || self.seen.insert(digest128(&[group, source, target]));
            (!first).then_some(Reason::Duplicate)
        });
        match reason {
            None => {
                self.report.kept += 1;
                Ok(())
            }
            Some(reason) => {
                self.report.drop(reason, &pair.place, &format!("{source} | {target}"));
                Err(reason)
            }
        }
    }

    /// What was kept and dropped so far.
    pub fn report(&self) -> &Report {
        &self.report
    }
}

impl FilterConfig {
    /// What is wrong with a pair by itself.
    fn reason(&self, source: &str, target: &str) -> Option<Reason> {
        let sides = [source, target];
        let words = sides.map(|side| side.split_whitespace().count());
        if words.contains(&0) {
            return Some(Reason::Empty);
        }
        if !words.iter().all(|words| (self.min_words..=self.max_words).contains(words)) {
            return Some(Reason::Words);
        }
        if self.encoding && sides.iter().any(|side| side.contains('\u{fffd}')) {
            return Some(Reason::Encoding);
        }
        if self.unwanted.iter().any(|text| sides.iter().any(|side| side.contains(text.as_str()))) {
            return Some(Reason::Unwanted);
        }
        if !(self.min_ratio..=self.max_ratio).contains(&ratio(source, target)) {
            return Some(Reason::Ratio);
        }
        if self.identical && normal_characters(source).eq(normal_characters(target)) {
            return Some(Reason::Identical);
        }
        let has_letters = sides.iter().all(|side| longest_run(side) >= self.letters);
        (!has_letters).then_some(Reason::Letters)
    }
}

/// Characters of the target per character of the source.
pub(crate) fn ratio(source: &str, target: &str) -> f64 {
    target.chars().count() as f64 / source.chars().count() as f64
}

/// Letters of the longest run of letters.
fn longest_run(text: &str) -> usize {
    let (mut longest, mut run) = (0, 0);
    for c in text.chars() {
        run = if c.is_alphabetic() { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{At, Place};

    fn pair(source: &str, target: &str) -> RawPair {
        let place = Place { file: std::path::Path::new("x").into(), at: At::Line(1) };
        RawPair { source: source.to_owned(), target: target.to_owned(), document: None, place }
    }

    #[test]
    fn each_reason_has_its_pair() {
        let config = FilterConfig { max_words: 5, unwanted: vec!["[draft]".to_owned()], ..FilterConfig::default() };
        let mut filter = Filter::new(config).unwrap();
        let cases = [
            ("Click OK", "OK klicken", Ok(())),
            ("Click OK", "OK klicken", Err(Reason::Duplicate)),
            ("click OK", "OK klicken", Ok(())),
            ("one two three four five six", "eins zwei drei vier", Err(Reason::Words)),
            ("one two three", "eins zwei drei vier fünf sechs", Err(Reason::Words)),
            (" ", "eins", Err(Reason::Empty)),
            ("caf\u{fffd}", "Café", Err(Reason::Encoding)),
            ("[draft] text", "Entwurf Text", Err(Reason::Unwanted)),
            ("abcdefghij", "abc", Err(Reason::Ratio)),
            ("abcd", "abcdefghijk", Err(Reason::Ratio)),
            ("File 1", "[file] 2", Err(Reason::Identical)),
            ("12 + 3x", "12 und 3", Err(Reason::Letters)),
            ("12", "13", Err(Reason::Identical)),
            // Ten to four is 2.5, and both ends belong to the range.
            ("abcd", "abcdefghij", Ok(())),
        ];
        for (source, target, expected) in cases {
            assert_eq!(filter.check(&pair(source, target)), expected, "{source:?} {target:?}");
        }
        assert_eq!((filter.report().kept, filter.report().dropped()), (3, 11));
        assert_eq!(filter.report().reasons[&Reason::Ratio].text, "abcdefghij | abc");
    }

    #[test]
    fn a_check_that_is_off_does_not_check() {
        let off = FilterConfig {
            min_words: 0,
            max_words: usize::MAX,
            encoding: false,
            unwanted: vec![],
            min_ratio: 0.0,
            max_ratio: f64::MAX,
            identical: false,
            letters: 0,
            duplicates: false,
        };
        let mut filter = Filter::new(off).unwrap();
        for (source, target) in [("1", "1"), ("1", "1"), ("\u{fffd}", &*"x ".repeat(500))] {
            assert_eq!(filter.check(&pair(source, target)), Ok(()));
        }
        assert_eq!(filter.check(&pair("", "x")), Err(Reason::Empty), "no option makes an empty side a pair");
    }

    #[test]
    fn options_that_leave_nothing_are_errors() {
        let wrong = [
            FilterConfig { min_words: 9, max_words: 8, ..FilterConfig::default() },
            FilterConfig { min_ratio: 3.0, ..FilterConfig::default() },
            FilterConfig { max_ratio: f64::NAN, ..FilterConfig::default() },
            FilterConfig { max_ratio: f64::INFINITY, ..FilterConfig::default() },
            FilterConfig { unwanted: vec![String::new()], ..FilterConfig::default() },
        ];
        for config in wrong {
            let error = Filter::new(config.clone()).unwrap_err().to_string();
            assert!(error.contains("help: "), "{config:?}: {error}");
        }
    }

    #[test]
    fn a_group_has_its_own_duplicates() {
        let mut filter = Filter::new(FilterConfig::default()).unwrap();
        let pair = pair("Click OK", "OK klicken");
        assert_eq!(filter.check_among(&pair, "train"), Ok(()));
        assert_eq!(filter.check_among(&pair, "test"), Ok(()));
        assert_eq!(filter.check_among(&pair, "test"), Err(Reason::Duplicate));
    }
}
