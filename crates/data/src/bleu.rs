//! Corpus BLEU, equal to sacrebleu's default to 1e-9: a number that can stand beside published ones.
//!
//! ```text
//! precision_n = matched n-grams / n-grams of the hypotheses     n = 1..4, over the whole corpus, clipped per sentence
//! smoothing   : the k-th order without a match counts as 1 / 2^k matches                  (method 3 of Chen & Cherry)
//! BP          = exp(1 - reference length / hypothesis length) if the hypotheses are shorter, else 1
//! BLEU        = 100 * BP * (precision_1 * .. * precision_4)^(1/4)
//! ```
//!
//! Sources: Papineni et al. 2002, "BLEU"; Post 2018, "A call for clarity in reporting BLEU scores"; the tokenizer is
//! that of `mteval-v13a`. Tests compare with values that sacrebleu 2.6.0 computed (`tests/golden/bleu.py`).

use std::collections::HashMap;
use std::fmt;

use crate::text::is_space;
use crate::{Error, Result};

const ORDERS: usize = 4;

/// A score with its parts.
#[derive(Debug, Clone, PartialEq)]
pub struct Bleu {
    /// 0 to 100.
    pub score: f64,
    /// Percent of matched n-grams for n = 1, 2, 3, 4, smoothed.
    pub precisions: [f64; ORDERS],
    /// Brevity penalty, 0 to 1.
    pub bp: f64,
    /// Tokens of all hypotheses.
    pub sys_len: usize,
    /// Tokens of all references.
    pub ref_len: usize,
}

impl Bleu {
    /// How the score was made, in the notation that papers print.
    pub fn signature(&self) -> &'static str {
        concat!("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:attentia-", env!("CARGO_PKG_VERSION"))
    }
}

/// `BLEU = 31.42 60.1/38.2/25.0/17.3 (BP = 0.985 ratio = 0.985 hyp_len = 6012 ref_len = 6103)`
impl fmt::Display for Bleu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p1, p2, p3, p4] = self.precisions;
        let ratio = if self.ref_len == 0 { 0.0 } else { self.sys_len as f64 / self.ref_len as f64 };
        write!(f, "BLEU = {:.2} {p1:.1}/{p2:.1}/{p3:.1}/{p4:.1} ", self.score)?;
        write!(f, "(BP = {:.3} ratio = {ratio:.3} hyp_len = {} ref_len = {})", self.bp, self.sys_len, self.ref_len)
    }
}

/// Scores translations against one reference each. Give plain, detokenized text.
///
/// # Errors
///
/// [`Error::Unpaired`] when the lists differ in length, [`Error::NothingToScore`] when they are empty.
///
/// ```
/// let bleu = attentia_data::corpus_bleu(&["Das ist ein kleiner Test."], &["Das ist ein Test."])?;
/// assert!((bleu.score - 37.9917842826).abs() < 1e-9);
/// println!("{bleu}\n{}", bleu.signature());
/// # Ok::<(), attentia_data::Error>(())
/// ```
pub fn corpus_bleu<H: AsRef<str>, R: AsRef<str>>(hypotheses: &[H], references: &[R]) -> Result<Bleu> {
    if hypotheses.len() != references.len() {
        return Err(Error::Unpaired { hypotheses: hypotheses.len(), references: references.len() });
    }
    if hypotheses.is_empty() {
        return Err(Error::NothingToScore);
    }
    let mut counts = Counts::default();
    for (hypothesis, reference) in hypotheses.iter().zip(references) {
        let (hypothesis, reference) = (tokenize(hypothesis.as_ref()), tokenize(reference.as_ref()));
        counts.add(&words(&hypothesis), &words(&reference));
    }
    Ok(counts.score())
}

/// What sentences contribute; sums of these are all that a corpus score needs.
#[derive(Default)]
struct Counts {
    matched: [usize; ORDERS],
    total: [usize; ORDERS],
    sys_len: usize,
    ref_len: usize,
}

impl Counts {
    fn add(&mut self, hypothesis: &[&str], reference: &[&str]) {
        self.sys_len += hypothesis.len();
        self.ref_len += reference.len();
        for order in 1..=ORDERS {
            let known = count(reference, order);
            for (gram, times) in count(hypothesis, order) {
                self.total[order - 1] += times;
                self.matched[order - 1] += known.get(gram).map_or(0, |limit| times.min(*limit));
            }
        }
    }

    fn score(&self) -> Bleu {
        let (sys_len, ref_len) = (self.sys_len, self.ref_len);
        let bp = match sys_len {
            _ if sys_len >= ref_len => 1.0,
            0 => 0.0,
            _ => (1.0 - ref_len as f64 / sys_len as f64).exp(),
        };
        let mut precisions = [0.0; ORDERS];
        let mut score = 0.0;
        if self.matched.iter().any(|matched| *matched > 0) {
            let mut without_match = 1.0;
            for (precision, (&matched, &total)) in precisions.iter_mut().zip(self.matched.iter().zip(&self.total)) {
                // No sentence is this long, so none has a longer n-gram either: the product is zero.
                if total == 0 {
                    break;
                }
                *precision = if matched == 0 {
                    without_match *= 2.0;
                    100.0 / (without_match * total as f64)
                } else {
                    100.0 * matched as f64 / total as f64
                };
            }
            score = bp * (precisions.iter().map(|p| log(*p)).sum::<f64>() / ORDERS as f64).exp();
        }
        Bleu { score, precisions, bp, sys_len, ref_len }
    }
}

/// A logarithm whose value at 0 is finite, as sacrebleu has it: the score of a product with a zero is then below 1e-600
/// and rounds to 0.
fn log(precision: f64) -> f64 {
    if precision == 0.0 { -9_999_999_999.0 } else { precision.ln() }
}

fn count<'a, 'b>(words: &'a [&'b str], order: usize) -> HashMap<&'a [&'b str], usize> {
    let mut counts = HashMap::new();
    for gram in words.windows(order) {
        *counts.entry(gram).or_insert(0) += 1;
    }
    counts
}

/// Splits as Python does, for which four more control characters are white space.
fn words(text: &str) -> Vec<&str> {
    text.split(is_space).filter(|word| !word.is_empty()).collect()
}

/// `mteval-v13a`: entities back to characters, then spaces around symbols, around full stops and commas that stand
/// between no digits, and after a dash that follows a digit. Words are what white space then separates.
fn tokenize(text: &str) -> String {
    let mut line = text.trim_end_matches(is_space).replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    if line.contains('&') {
        // In this order: `&amp;lt;` becomes `<`.
        line = line.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    }
    let mut spaced = vec![' '];
    for c in line.chars() {
        if is_symbol(c) { spaced.extend([' ', c, ' ']) } else { spaced.push(c) }
    }
    spaced.push(' ');
    let stop = |c: char| c == '.' || c == ',';
    let digit = |c: char| c.is_ascii_digit();
    let spaced = rewrite(&spaced, |a, b| (!digit(a) && stop(b)).then(|| vec![a, ' ', b, ' ']));
    let spaced = rewrite(&spaced, |a, b| (stop(a) && !digit(b)).then(|| vec![' ', a, ' ', b]));
    let spaced = rewrite(&spaced, |a, b| (digit(a) && b == '-').then(|| vec![a, ' ', b, ' ']));
    spaced.into_iter().collect()
}

/// ASCII that is neither a letter, a digit, an apostrophe, a comma, a dash nor a full stop. The space is among them.
fn is_symbol(c: char) -> bool {
    matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/')
}

/// Replaces pairs of neighbours from the left; a pair that was replaced takes no part in the next one.
fn rewrite(text: &[char], rule: impl Fn(char, char) -> Option<Vec<char>>) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len() * 2);
    let mut at = 0;
    while let Some(&first) = text.get(at) {
        match text.get(at + 1).and_then(|&second| rule(first, second)) {
            Some(replacement) => {
                out.extend(replacement);
                at += 2;
            }
            None => {
                out.push(first);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{TOLERANCE, golden, with_our_version};

    #[test]
    fn scores_are_those_of_sacrebleu() {
        let golden = golden();
        assert!(golden.cases.len() >= 20 && golden.cases.iter().any(|case| case.hypotheses.len() >= 300));
        for case in golden.cases {
            let bleu = corpus_bleu(&case.hypotheses, &case.references).unwrap();
            let close = |ours: f64, theirs: f64| (ours - theirs).abs() <= TOLERANCE;
            let name = format!("{} (sacrebleu {}): {bleu}", case.name, golden.sacrebleu);
            assert!(close(bleu.score, case.score), "{name}: {} != {}", bleu.score, case.score);
            assert!(close(bleu.bp, case.bp), "{name}: {} != {}", bleu.bp, case.bp);
            assert!(bleu.precisions.iter().zip(case.precisions).all(|(a, b)| close(*a, b)), "{name}");
            assert_eq!((bleu.sys_len, bleu.ref_len), (case.sys_len, case.ref_len), "{name}");
        }
    }

    #[test]
    fn tokens_are_those_of_13a() {
        for [text, tokens] in golden().tokenized {
            assert_eq!(words(&tokenize(&text)).join(" "), tokens, "{text:?}");
        }
    }

    #[test]
    fn bad_input_is_an_error() {
        assert!(matches!(corpus_bleu(&["a"], &["a", "b"]), Err(Error::Unpaired { hypotheses: 1, references: 2 })));
        assert!(matches!(corpus_bleu::<&str, &str>(&[], &[]), Err(Error::NothingToScore)));
    }

    #[test]
    fn display_and_signature() {
        let bleu = corpus_bleu(&["a b c d e"], &["a b c d e f"]).unwrap();
        assert_eq!(
            bleu.to_string(),
            "BLEU = 81.87 100.0/100.0/100.0/100.0 (BP = 0.819 ratio = 0.833 hyp_len = 5 ref_len = 6)"
        );
        assert_eq!(bleu.signature(), with_our_version(&golden().signatures.bleu));
    }
}
