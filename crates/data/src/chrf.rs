//! Corpus chrF2, equal to sacrebleu's default to 1e-9: a score that counts characters, and so half-right word forms too.
//!
//! ```text
//! per order n = 1..6, over the whole corpus, white space left out
//!     precision_n = matched n-grams / n-grams of the hypotheses     clipped per sentence
//!     recall_n    = matched n-grams / n-grams of the references
//! P, R  = means over the orders that both sides have n-grams of
//! chrF2 = 100 * (1 + 2^2) P R / (2^2 P + R)
//! ```
//!
//! Sources: Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation"; Popović 2016, "chrF
//! deconstructed: β parameters and n-gram weights". Tests compare with values that sacrebleu 2.6.0 computed
//! (`tests/golden/bleu.py`).

use std::collections::HashMap;
use std::fmt;

use crate::text::is_space;
use crate::{Error, Result};

const ORDERS: usize = 6;
/// Recall counts this many times as much as precision.
const BETA: f64 = 2.0;

/// A score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chrf {
    /// 0 to 100.
    pub score: f64,
}

impl Chrf {
    /// How the score was made, in the notation that papers print.
    pub fn signature(&self) -> &'static str {
        concat!("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:attentia-", env!("CARGO_PKG_VERSION"))
    }
}

/// `chrF2 = 57.30`
impl fmt::Display for Chrf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chrF2 = {:.2}", self.score)
    }
}

/// Scores translations against one reference each. Give plain, detokenized text.
///
/// # Errors
///
/// [`Error::Unpaired`] when the lists differ in length, [`Error::NothingToScore`] when they are empty.
///
/// ```
/// let chrf = attentia_data::corpus_chrf(&["Das ist ein kleiner Test."], &["Das ist ein Test."])?;
/// assert!((chrf.score - 67.4526567120).abs() < 1e-9);
/// println!("{chrf}\n{}", chrf.signature());
/// # Ok::<(), attentia_data::Error>(())
/// ```
pub fn corpus_chrf<H: AsRef<str>, R: AsRef<str>>(hypotheses: &[H], references: &[R]) -> Result<Chrf> {
    if hypotheses.len() != references.len() {
        return Err(Error::Unpaired { hypotheses: hypotheses.len(), references: references.len() });
    }
    if hypotheses.is_empty() {
        return Err(Error::NothingToScore);
    }
    let mut orders = [Counts::default(); ORDERS];
    for (hypothesis, reference) in hypotheses.iter().zip(references) {
        let (hypothesis, reference) = (characters(hypothesis.as_ref()), characters(reference.as_ref()));
        for (order, counts) in (1..).zip(&mut orders) {
            counts.add(&hypothesis, &reference, order);
        }
    }
    Ok(Chrf { score: score(&orders) })
}

/// N-grams of one order.
#[derive(Clone, Copy, Default)]
struct Counts {
    hypothesis: usize,
    reference: usize,
    matched: usize,
}

impl Counts {
    fn add(&mut self, hypothesis: &[char], reference: &[char], order: usize) {
        // N-grams for which no reference exists are no mistakes: such a sentence has no say in this order.
        if reference.len() >= order {
            self.hypothesis += hypothesis.windows(order).len();
        }
        self.reference += reference.windows(order).len();
        let known = count(reference, order);
        for (gram, times) in count(hypothesis, order) {
            self.matched += known.get(gram).map_or(0, |limit| times.min(*limit));
        }
    }
}

fn score(orders: &[Counts]) -> f64 {
    let (mut precision, mut recall, mut effective) = (0.0, 0.0, 0.0);
    for counts in orders.iter().filter(|counts| counts.hypothesis > 0 && counts.reference > 0) {
        precision += counts.matched as f64 / counts.hypothesis as f64;
        recall += counts.matched as f64 / counts.reference as f64;
        effective += 1.0;
    }
    if precision + recall == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (precision / effective, recall / effective);
    let factor = BETA * BETA;
    100.0 * ((1.0 + factor) * precision * recall / (factor * precision + recall))
}

fn characters(text: &str) -> Vec<char> {
    text.chars().filter(|c| !is_space(*c)).collect()
}

fn count(text: &[char], order: usize) -> HashMap<&[char], usize> {
    let mut counts = HashMap::new();
    for gram in text.windows(order) {
        *counts.entry(gram).or_insert(0) += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{TOLERANCE, golden, with_our_version};

    #[test]
    fn scores_are_those_of_sacrebleu() {
        let golden = golden();
        for case in golden.cases {
            let chrf = corpus_chrf(&case.hypotheses, &case.references).unwrap();
            let name = format!("{} (sacrebleu {}): {chrf}", case.name, golden.sacrebleu);
            assert!((chrf.score - case.chrf).abs() <= TOLERANCE, "{name}: {} != {}", chrf.score, case.chrf);
        }
    }

    #[test]
    fn bad_input_is_an_error() {
        assert!(matches!(corpus_chrf(&["a"], &["a", "b"]), Err(Error::Unpaired { hypotheses: 1, references: 2 })));
        assert!(matches!(corpus_chrf::<&str, &str>(&[], &[]), Err(Error::NothingToScore)));
    }

    #[test]
    fn display_and_signature() {
        let chrf = corpus_chrf(&["abc"], &["abc"]).unwrap();
        assert_eq!(chrf.to_string(), "chrF2 = 100.00");
        assert_eq!(chrf.signature(), with_our_version(&golden().signatures.chrf));
    }
}
