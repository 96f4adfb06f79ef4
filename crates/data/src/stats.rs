//! A corpus in numbers: what one looks at before choosing a vocabulary, a filter or the size of a model.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::filter::ratio;
use crate::{RawPair, Result};

/// Numbers of a corpus. As text, a small table for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// How many.
    pub pairs: u64,
    /// The source side.
    pub source: SideStats,
    /// The target side.
    pub target: SideStats,
    /// Characters of the target per character of the source at [`QUANTILES`].
    pub ratios: [f64; QUANTILES.len()],
}

/// Numbers of one language.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideStats {
    /// What white space separates.
    pub words: u64,
    /// Unicode characters, spaces counted.
    pub characters: u64,
    /// Words that differ, case and punctuation counted.
    pub vocabulary: u64,
    /// Words that occur once.
    pub once: u64,
    /// Number of texts with 1, 2, 3-4, 5-8, 9-16, .. words: entry `n` ends at 2^n.
    pub lengths: Vec<u64>,
    /// The most frequent words and how often they occur, at most [`TOP_WORDS`]; those of equal count in their order.
    pub top: Vec<(String, u64)>,
}

/// How many frequent words are listed.
pub const TOP_WORDS: usize = 20;

/// Shares of the pairs that have a smaller ratio, or the same.
pub const QUANTILES: [f64; 9] = [0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0];

impl Stats {
    /// Reads all pairs. In memory are the vocabularies and four bytes per pair.
    ///
    /// # Errors
    ///
    /// The first that `pairs` has.
    ///
    /// ```
    /// use attentia_data::{At, Place, RawPair, Stats};
    ///
    /// let place = Place { file: std::path::Path::new("a").into(), at: At::File };
    /// let pair = RawPair { source: "the cat".into(), target: "die Katze".into(), document: None, place };
    /// let stats = Stats::of([Ok(pair)])?;
    /// assert_eq!((stats.pairs, stats.source.words, stats.target.characters), (1, 2, 9));
    /// println!("{stats}");
    /// # Ok::<(), attentia_data::Error>(())
    /// ```
    pub fn of(pairs: impl IntoIterator<Item = Result<RawPair>>) -> Result<Self> {
        let [mut source, mut target] = [Side::default(), Side::default()];
        let mut ratios: Vec<f32> = Vec::new();
        for pair in pairs {
            let pair = pair?;
            source.add(&pair.source);
            target.add(&pair.target);
            if !pair.source.is_empty() {
                ratios.push(ratio(&pair.source, &pair.target) as f32);
            }
        }
        ratios.sort_unstable_by(f32::total_cmp);
        let last = ratios.len().saturating_sub(1) as f64;
        let quantile = |share: f64| ratios.get((share * last).round() as usize).map_or(0.0, |ratio| f64::from(*ratio));
        let pairs = source.texts;
        Ok(Self { pairs, source: source.finish(), target: target.finish(), ratios: QUANTILES.map(quantile) })
    }
}

#[derive(Default)]
struct Side {
    texts: u64,
    stats: SideStats,
    counts: HashMap<String, u64>,
}

impl Side {
    fn add(&mut self, text: &str) {
        let mut words = 0;
        for word in text.split_whitespace() {
            words += 1;
            match self.counts.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(self.counts.insert(word.to_owned(), 1)),
            }
        }
        self.texts += 1;
        self.stats.words += words;
        self.stats.characters += text.chars().count() as u64;
        let class = words.max(1).next_power_of_two().trailing_zeros() as usize;
        if self.stats.lengths.len() <= class {
            self.stats.lengths.resize(class + 1, 0);
        }
        self.stats.lengths[class] += 1;
    }

    fn finish(self) -> SideStats {
        let Self { mut stats, counts, .. } = self;
        stats.vocabulary = counts.len() as u64;
        stats.once = counts.values().filter(|count| **count == 1).count() as u64;
        let mut top: Vec<_> = counts.into_iter().collect();
        top.sort_unstable_by(|(word, count), (other, others)| others.cmp(count).then_with(|| word.cmp(other)));
        top.truncate(TOP_WORDS);
        stats.top = top;
        stats
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pairs, source, target, ratios } = self;
        writeln!(f, "{:<14}{:>12}{:>12}", "", "source", "target")?;
        writeln!(f, "{:<14}{pairs:>12}{pairs:>12}", "pairs")?;
        let rows = [
            ("words", source.words, target.words),
            ("characters", source.characters, target.characters),
            ("vocabulary", source.vocabulary, target.vocabulary),
            ("  seen once", source.once, target.once),
        ];
        for (name, source, target) in rows {
            writeln!(f, "{name:<14}{source:>12}{target:>12}")?;
        }
        for class in 0..source.lengths.len().max(target.lengths.len()) {
            let range = match class {
                0 => "1".to_owned(),
                1 => "2".to_owned(),
                _ => format!("{}-{}", (1u64 << (class - 1)) + 1, 1u64 << class),
            };
            let number = |side: &SideStats| side.lengths.get(class).copied().unwrap_or(0);
            writeln!(f, "{:<14}{:>12}{:>12}", format!("  of {range} words"), number(source), number(target))?;
        }
        writeln!(f, "characters of the target per character of the source")?;
        for (share, ratio) in QUANTILES.iter().zip(ratios) {
            writeln!(f, "  {:<12}{ratio:>12.2}", format!("{:.0} %", share * 100.0))?;
        }
        let list = |side: &SideStats| side.top.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>().join(" ");
        write!(f, "frequent words\n  {}\n  {}", list(source), list(target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{At, Error, Place};

    fn pair(source: &str, target: &str) -> Result<RawPair> {
        let place = Place { file: std::path::Path::new("x").into(), at: At::File };
        Ok(RawPair { source: source.to_owned(), target: target.to_owned(), document: None, place })
    }

    #[test]
    fn numbers_of_three_pairs() {
        let stats = Stats::of([pair("a b a", "äöü"), pair("c", "cc c c c c"), pair("a b c d", "x")]).unwrap();
        let SideStats { words, characters, vocabulary, once, lengths, top } = &stats.source;
        assert_eq!((stats.pairs, *words, *characters, *vocabulary, *once), (3, 8, 13, 4, 1));
        assert_eq!(*lengths, [1, 0, 2]);
        let words: Vec<_> = top.iter().map(|(word, count)| (word.as_str(), *count)).collect();
        assert_eq!(words, [("a", 3), ("b", 2), ("c", 2), ("d", 1)]);
        assert_eq!(stats.target.lengths, [2, 0, 0, 1]);
        assert_eq!((stats.ratios[0] as f32, stats.ratios[4] as f32, stats.ratios[8]), (1.0 / 7.0, 0.6, 10.0));
        let text = stats.to_string();
        assert!(text.contains("\n  50 %                0.60\n"), "{text}");
        assert!(text.contains("  of 5-8 words           0           1"), "{text}");
        assert_eq!(serde_json::from_str::<Stats>(&serde_json::to_string(&stats).unwrap()).unwrap(), stats);
    }

    #[test]
    fn no_pair_and_an_error() {
        let none = Stats::of([]).unwrap();
        assert_eq!((none.pairs, none.ratios), (0, [0.0; 9]));
        assert!(!none.to_string().is_empty());
        assert!(matches!(Stats::of([pair("a", "b"), Err(Error::NothingToScore)]), Err(Error::NothingToScore)));
    }
}
