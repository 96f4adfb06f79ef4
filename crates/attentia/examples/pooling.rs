//! Attention in five steps: a classifier that learns which word of a sentence says what the sentence is about.
//!
//! ```text
//! 1 encode   x_i = table[word i]                 [B, T, C]
//! 2 weigh    α_i = softmax_i(⟨w, x_i⟩)           [B, T]
//! 3 sum      y = Σ_i α_i x_i                     [B, C]
//! 4 decode   logits = W y + b                    [B, K]
//! 5 train    cross-entropy, backward, AdamW
//! ```
//!
//! Nobody tells it which word matters: the weights show what it found.
//!
//! ```sh
//! cargo run --release -p attentia --example pooling
//! ```

use attentia::{
    nn::{Embedding, cross_entropy},
    prelude::*,
};

const WORDS: [&str; 12] =
    ["the", "you", "then", "open", "this", "here", "formula", "cell", "slide", "animation", "page", "footnote"];
/// The last six words belong to these, two to each; the others stand anywhere.
const TOPICS: [&str; 3] = ["spreadsheet", "presentation", "text"];
const FILLERS: u64 = 6;
const LENGTH: usize = 6;

struct Classifier {
    embedding: Embedding,
    pooling: AttentionPooling,
    output: Linear,
}

impl Classifier {
    fn new(scope: Scope, width: usize) -> attentia::Result<Classifier> {
        Ok(Classifier {
            embedding: Embedding::new(&scope / "embedding", WORDS.len(), width)?,
            pooling: AttentionPooling::new(&scope / "pooling", width)?,
            output: Linear::new(&scope / "output", width, TOPICS.len())?,
        })
    }

    /// Logits `[B, K]` and weights `[B, T]` of sentences `[B, T]`.
    fn forward(&self, words: &Tensor) -> attentia::Result<(Tensor, Tensor)> {
        let x = self.embedding.forward(words)?; // 1 encode       [B, T, C]
        let (y, weights) = self.pooling.forward(&x, None)?; // 2 weigh, 3 sum [B, C], [B, T]
        Ok((self.output.forward(&y)?, weights)) // 4 decode       [B, K]
    }
}

/// Sentences of fillers with one word of a topic, and their topics.
fn sentences(count: usize, seed: u64) -> (Vec<i64>, Vec<i64>) {
    let mut state = seed;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) % below) as i64
    };
    let (mut words, mut topics) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let start = words.len();
        words.extend((0..LENGTH).map(|_| draw(FILLERS)));
        let word = draw(WORDS.len() as u64 - FILLERS);
        words[start + draw(LENGTH as u64) as usize] = FILLERS as i64 + word;
        topics.push(word / 2);
    }
    (words, topics)
}

/// Trains, and shows where it looks.
pub fn main() -> attentia::Result<()> {
    let device = attentia::device("cpu")?;
    let scope = Scope::new(&device, DType::F32, 7);
    let classifier = Classifier::new(&scope / "classifier", 16)?;
    let mut optimizer = AdamW::new(scope.parameters(), AdamWConfig::default())?;
    let (words, topics) = sentences(256, 1);
    let words = Tensor::from_slice(&words, &[256, LENGTH], &device)?;
    let topics = Tensor::from_slice(&topics, &[256], &device)?;
    for step in 1..=150 {
        let (logits, _) = classifier.forward(&words)?;
        let loss = cross_entropy(&logits, &topics, 0.0, None)?.mean()?;
        if step % 50 == 0 {
            println!("step {step}: loss {:.4}", loss.item::<f32>()?);
        }
        optimizer.step(loss.backward()?, 0.03)?; // 5 train
    }

    // Sentences that it has not seen, and where it looks in the first three of them.
    let (words, topics) = sentences(100, 2);
    let (logits, weights) = classifier.forward(&Tensor::from_slice(&words, &[100, LENGTH], &device)?)?;
    let predicted: Vec<i64> = logits.argmax(-1, false)?.to_vec()?;
    let weights: Vec<f32> = weights.to_vec()?;
    for (i, sentence) in words.chunks(LENGTH).enumerate().take(3) {
        println!("\n{}", TOPICS[predicted[i] as usize]);
        for (&word, &weight) in sentence.iter().zip(&weights[i * LENGTH..]) {
            println!("  {:10} {weight:.2} {}", WORDS[word as usize], "#".repeat((weight * 40.0) as usize));
        }
    }
    let right = predicted.iter().zip(&topics).filter(|(a, b)| a == b).count();
    let looked: f32 = words.iter().zip(&weights).filter(|(word, _)| **word >= FILLERS as i64).map(|(_, w)| w).sum();
    println!("\n{right} of 100 topics are right; the word that decides has {:.0} % of the weight", looked);
    assert!(right == 100 && looked > 90.0);
    Ok(())
}
