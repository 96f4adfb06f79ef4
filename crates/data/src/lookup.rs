//! The translation that needs no learning: what the nearest source of the training data was translated as. A model that
//! does not beat it has learnt less than a list knows.
//!
//! ```text
//! words of a text    lower case, runs of letters and digits, each once
//! nearness           F1 = 2 |A ∩ B| / (|A| + |B|) of two sets of words
//! ```
//!
//! For each word there is a list of the sources that have it, so a search counts along the lists of its words and never
//! meets a source without any of them. Of equally near ones the first wins.

use std::collections::HashMap;

use crate::{Error, Result};

/// Pairs to look sources up in.
///
/// ```
/// use attentia_data::Lookup;
///
/// let train = [("Open the file.", "Datei öffnen."), ("Close the window.", "Fenster schließen.")];
/// let lookup = Lookup::new(train)?;
/// let near = lookup.nearest("Close the file window");
/// assert_eq!((near.index, lookup.target(near.index)), (1, Some("Fenster schließen.")));
/// assert!((near.f1 - 6.0 / 7.0).abs() < 1e-12);
/// # Ok::<(), attentia_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Lookup {
    /// Numbers of words.
    words: HashMap<String, usize>,
    /// For each word the pairs whose source has it, rising.
    pairs_of: Vec<Vec<u32>>,
    /// For each pair the number of different words of its source.
    sizes: Vec<u32>,
    targets: Vec<String>,
}

/// The result of a search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nearest {
    /// Number of the pair, counted from 0 in the order in which they were given.
    pub index: usize,
    /// 0 to 1; with 0, no word is the same and the pair is the first of all.
    pub f1: f64,
}

impl Lookup {
    /// Reads pairs of source and target.
    ///
    /// # Errors
    ///
    /// [`Error::NothingToLookUp`] when there are none.
    pub fn new<S: AsRef<str>, T: Into<String>>(pairs: impl IntoIterator<Item = (S, T)>) -> Result<Self> {
        let mut lookup = Self { words: HashMap::new(), pairs_of: vec![], sizes: vec![], targets: vec![] };
        for (number, (source, target)) in (0u32..).zip(pairs) {
            let words = words(source.as_ref());
            lookup.sizes.push(words.len() as u32);
            lookup.targets.push(target.into());
            for word in words {
                let next = lookup.words.len();
                let at = *lookup.words.entry(word).or_insert(next);
                if at == lookup.pairs_of.len() {
                    lookup.pairs_of.push(Vec::new());
                }
                lookup.pairs_of[at].push(number);
            }
        }
        if lookup.targets.is_empty() {
            return Err(Error::NothingToLookUp);
        }
        Ok(lookup)
    }

    /// The pair whose source is nearest.
    pub fn nearest(&self, source: &str) -> Nearest {
        let words = words(source);
        let size = words.len() as u32;
        let lists: Vec<&[u32]> =
            words.iter().filter_map(|word| self.words.get(word)).map(|at| self.pairs_of[*at].as_slice()).collect();
        let mut common = vec![0u32; self.targets.len()];
        for pair in lists.iter().copied().flatten() {
            common[*pair as usize] += 1;
        }
        // The best so far as a fraction of whole numbers: ties are exact.
        let (mut index, mut shared, mut total) = (0u32, 0u64, 1u64);
        for pair in lists.iter().copied().flatten() {
            // Taken, so that a pair that stands in many lists is judged once.
            let common = u64::from(std::mem::take(&mut common[*pair as usize]));
            let sum = u64::from(size + self.sizes[*pair as usize]);
            let (ours, best) = (common * total, shared * sum);
            if ours > best || (ours == best && common > 0 && *pair < index) {
                (index, shared, total) = (*pair, common, sum);
            }
        }
        Nearest { index: index as usize, f1: 2.0 * shared as f64 / total as f64 }
    }

    /// The target of the nearest source.
    pub fn translate(&self, source: &str) -> &str {
        let index = self.nearest(source).index;
        self.target(index).unwrap_or_default()
    }

    /// The target of a pair, counted from 0.
    pub fn target(&self, index: usize) -> Option<&str> {
        self.targets.get(index).map(String::as_str)
    }
}

/// The different words of a text.
fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let mut words: Vec<String> =
        lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_owned).collect();
    words.sort_unstable();
    words.dedup();
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn the_nearest_and_of_equals_the_first() {
        let train = [("a b c", "1"), ("b c d", "2"), ("c b a", "3"), ("x", "4")];
        let lookup = Lookup::new(train).unwrap();
        for (source, expected) in [("A, b. C!", "1"), ("b c", "1"), ("d b", "2"), ("x y", "4"), ("q", "1"), ("", "1")] {
            assert_eq!(lookup.translate(source), expected, "{source:?}");
        }
        assert_eq!(lookup.nearest("a b c"), Nearest { index: 0, f1: 1.0 });
        assert_eq!(lookup.nearest("q").f1, 0.0);
        assert_eq!(lookup.target(4), None);
        assert!(matches!(Lookup::new([("", "")][..0].iter().copied()), Err(Error::NothingToLookUp)));
    }

    proptest! {
        #[test]
        fn a_search_along_the_lists_is_a_search_through_all(
            train in prop::collection::vec("[a-e ]{0,12}", 1..12), query in "[a-f ]{0,12}",
        ) {
            let set = |text: &str| words(text).into_iter().collect::<HashSet<_>>();
            let query_set = set(&query);
            let f1 = |text: &String| {
                let (common, sum) = (set(text).intersection(&query_set).count(), set(text).len() + query_set.len());
                if common == 0 { 0.0 } else { 2.0 * common as f64 / sum as f64 }
            };
            let scores: Vec<f64> = train.iter().map(f1).collect();
            let best = scores.iter().copied().fold(0.0, f64::max);
            let expected = scores.iter().position(|score| *score == best).unwrap();
            let lookup = Lookup::new(train.iter().map(|text| (text.as_str(), ""))).unwrap();
            prop_assert_eq!(lookup.nearest(&query), Nearest { index: expected, f1: best });
        }
    }

    #[test]
    fn the_bundled_corpus() {
        let corpus = attentia_corpus::english_german().unwrap().at_least_words(3).at_most_words(12);
        let lookup = Lookup::new(corpus.train.iter().map(|pair| (&pair.source, &pair.target))).unwrap();
        let found: Vec<&str> = corpus.train[..50].iter().map(|pair| pair.source.as_str()).collect();
        assert!(found.iter().all(|source| lookup.nearest(source).f1 == 1.0));
    }
}
