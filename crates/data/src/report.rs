//! What became of the pairs of a corpus: how many were kept, and how many were dropped for which reason.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::pair::Place;

/// Why something that stood in a file is no pair of the corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// Bytes that are no UTF-8, or U+FFFD, which stands where another program met such bytes.
    Encoding,
    /// A line, an entry or a page that is longer than a reader holds in memory.
    Length,
    /// A side without text.
    Empty,
    /// A line with too few columns.
    Columns,
    /// Something without a counterpart on the other side.
    Unaligned,
    /// A translation that its file marks as uncertain.
    Fuzzy,
    /// An entry that nobody has translated.
    Untranslated,
    /// An entry that its file keeps, but no program uses any more.
    Obsolete,
    /// Too few or too many words on a side.
    Words,
    /// One side much longer than the other.
    Ratio,
    /// A side without a run of letters.
    Letters,
    /// A text that is not wanted.
    Unwanted,
    /// Both sides are the same in normal form: not translated.
    Identical,
    /// The pair has been there.
    Duplicate,
}

impl Reason {
    /// The word in reports: `ratio`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encoding => "encoding",
            Self::Length => "length",
            Self::Empty => "empty",
            Self::Columns => "columns",
            Self::Unaligned => "unaligned",
            Self::Fuzzy => "fuzzy",
            Self::Untranslated => "untranslated",
            Self::Obsolete => "obsolete",
            Self::Words => "words",
            Self::Ratio => "ratio",
            Self::Letters => "letters",
            Self::Unwanted => "unwanted",
            Self::Identical => "identical",
            Self::Duplicate => "duplicate",
        }
    }
}

/// What was dropped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    /// How many.
    pub count: u64,
    /// Where the first stands.
    pub place: String,
    /// Its text, shortened; empty where nothing could be read.
    pub text: String,
}

/// Pairs kept and dropped. As text, a table:
///
/// ```text
/// kept              2
/// dropped           1
///   words           1  a.tsv:3: This sentence is much too long …
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Pairs that passed.
    pub kept: u64,
    /// The others.
    pub reasons: BTreeMap<Reason, Dropped>,
}

/// Characters of an example in a report.
const EXAMPLE: usize = 60;

impl Report {
    /// How many were dropped, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.reasons.values().map(|dropped| dropped.count).sum()
    }

    /// How many were dropped for this reason.
    pub fn count(&self, reason: Reason) -> u64 {
        self.reasons.get(&reason).map_or(0, |dropped| dropped.count)
    }

    pub(crate) fn drop(&mut self, reason: Reason, place: &Place, text: &str) {
        let first = || Dropped { count: 0, place: place.to_string(), text: shortened(text) };
        self.reasons.entry(reason).or_insert_with(first).count += 1;
    }

    /// Adds the counts of another report; its examples serve where there is none.
    pub(crate) fn add(&mut self, other: &Self) {
        self.kept += other.kept;
        for (reason, dropped) in &other.reasons {
            let entry = self.reasons.entry(*reason).or_insert_with(|| Dropped { count: 0, ..dropped.clone() });
            entry.count += dropped.count;
        }
    }
}

fn shortened(text: &str) -> String {
    let mut kept: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(EXAMPLE).collect();
    if text.chars().nth(EXAMPLE).is_some() {
        kept.push('…');
    }
    kept
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<14}{:>10}\n{:<14}{:>10}", "kept", self.kept, "dropped", self.dropped())?;
        for (reason, Dropped { count, place, text }) in &self.reasons {
            write!(f, "\n  {:<12}{count:>10}  {place}", reason.name())?;
            if !text.is_empty() {
                write!(f, ": {text}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pair::At;
    use std::path::Path;

    fn place(line: u64) -> Place {
        Place { file: Path::new("a.tsv").into(), at: At::Line(line) }
    }

    #[test]
    fn the_table_names_the_first_of_each_reason() {
        let mut report = Report { kept: 1200, ..Report::default() };
        report.drop(Reason::Words, &place(3), &"long ".repeat(20));
        report.drop(Reason::Words, &place(4), "not shown");
        report.drop(Reason::Encoding, &place(9), "");
        let expected = "kept                1200\n\
                        dropped                3\n  \
                        encoding             1  a.tsv:9\n  \
                        words                2  a.tsv:3: long long long long long long long long long long long long …";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn reports_add_up_and_survive_json() {
        let mut report = Report { kept: 1, ..Report::default() };
        report.drop(Reason::Fuzzy, &place(1), "x");
        let mut sum = report.clone();
        sum.add(&report);
        assert_eq!((sum.kept, sum.count(Reason::Fuzzy), sum.count(Reason::Ratio)), (2, 2, 0));
        let json = serde_json::to_string(&sum).unwrap();
        assert!(json.contains("\"fuzzy\""), "{json}");
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), sum);
    }
}
