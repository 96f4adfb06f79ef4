//! Scores that sacrebleu computed, for the tests of our own.

use serde::Deserialize;

/// A score of the golden file has to agree to this: the sums run in the same order, only `exp` and `ln` differ.
pub(crate) const TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
pub(crate) struct Golden {
    pub sacrebleu: String,
    pub signatures: Signatures,
    pub cases: Vec<Case>,
    pub tokenized: Vec<[String; 2]>,
}

#[derive(Deserialize)]
pub(crate) struct Signatures {
    pub bleu: String,
    pub chrf: String,
}

#[derive(Deserialize)]
pub(crate) struct Case {
    pub name: String,
    #[serde(default)]
    pub hypotheses: Vec<String>,
    #[serde(default)]
    pub references: Vec<String>,
    /// Instead of both: numbers of pairs in the corpus' test split, each with the words of its reference that the
    /// hypothesis consists of; -1 is a wrong word.
    #[serde(default)]
    rows: Vec<(usize, Vec<isize>)>,
    pub score: f64,
    pub precisions: [f64; 4],
    pub bp: f64,
    pub sys_len: usize,
    pub ref_len: usize,
    pub chrf: f64,
}

pub(crate) fn golden() -> Golden {
    let mut golden: Golden = serde_json::from_str(include_str!("../tests/golden/bleu.json")).unwrap();
    let corpus = attentia_corpus::english_german().unwrap();
    for case in &mut golden.cases {
        for (number, words) in std::mem::take(&mut case.rows) {
            let reference = corpus.test[number].target.clone();
            let known: Vec<&str> = reference.split(' ').collect();
            let word = |at: &isize| usize::try_from(*at).map_or("falsch", |at| known[at]);
            case.hypotheses.push(words.iter().map(word).collect::<Vec<_>>().join(" "));
            case.references.push(reference);
        }
    }
    golden
}

/// A signature of sacrebleu with our version in its last field.
pub(crate) fn with_our_version(signature: &str) -> String {
    let (fields, _) = signature.rsplit_once("version:").unwrap();
    format!("{fields}version:attentia-{}", env!("CARGO_PKG_VERSION"))
}
