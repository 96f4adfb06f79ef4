//! Writes a page with made-up attention of a German sentence and an English one, as large as a base model's: six
//! layers of eight heads. `cargo run -p attentia-picture --example attention_page > page.html`.
//!
//! Heads are given the habits that trained ones have: the token itself, its neighbours, the sentence's end, a broad
//! mean; heads of the decoder look back only, and cross heads follow an alignment, later layers more sharply.

use attentia_picture::{AttentionPage, Map};

const LAYERS: usize = 6;
const HEADS: usize = 8;
const SOURCE: &str = "Click the Format Cells icon , then choose a different currency . <eos>";
const TARGET: &str = "Klicken Sie auf das Symbol Zellen formatieren und wählen Sie dann eine andere Währung . <eos>";
/// The source token of each target token.
const ALIGNED: [usize; 16] = [0, 0, 0, 1, 4, 3, 2, 5, 7, 7, 6, 8, 9, 10, 11, 12];

fn main() -> attentia_picture::Result<()> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (source, target) = (words(SOURCE), words(TARGET));
    let mut page = AttentionPage::new(SOURCE.trim_end_matches(" <eos>"), TARGET.trim_end_matches(" <eos>"));
    for layer in 0..LAYERS {
        let encoder =
            weights(source.len(), source.len(), layer, |head, row, column| habit(head, row, column, source.len()));
        let decoder = weights(target.len(), target.len(), layer + 17, |head, row, column| {
            if column > row { f32::NEG_INFINITY } else { habit(head, row, column, row + 1) }
        });
        let cross = weights(target.len(), source.len(), layer + 31, |head, row, column| {
            let sharpness = 0.25 + 0.14 * layer as f32 + 0.09 * (head % 5) as f32;
            let distance =
                (column as f32 - ALIGNED[row] as f32 - [0.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0][head]).abs();
            let sink = if column + 1 == source.len() { 1.6 - 0.25 * layer as f32 } else { 0.0 };
            -sharpness * 2.6 * distance.min(4.0) + if head == 6 { 2.0 * sink } else { 0.5 * sink }
        });
        for (name, rows, columns, weights) in [
            (format!("enc.{layer}.self"), &source, &source, &encoder),
            (format!("dec.{layer}.self"), &target, &target, &decoder),
            (format!("dec.{layer}.cross"), &target, &source, &cross),
        ] {
            page = page.map(Map { name, heads: HEADS, rows, columns, weights })?;
        }
    }
    print!("{}", page.to_html()?);
    Ok(())
}

/// The score of a column for a row, before noise: what head `head` likes.
fn habit(head: usize, row: usize, column: usize, columns: usize) -> f32 {
    let (near, step) = (row.abs_diff(column) as f32, column as i64 - row as i64);
    match head {
        0 => -3.0 * (step + 1).unsigned_abs().min(2) as f32,
        1 => -2.6 * (step - 1).unsigned_abs().min(2) as f32,
        2 => -2.2 * near.min(3.0),
        3 => 2.6 * f32::from(column + 1 == columns),
        4 => -0.5 * near,
        5 => 2.2 * f32::from(column % 5 == 2),
        6 => -0.9 * (near - 4.0).abs(),
        _ => 0.0,
    }
}

/// The softmax of noisy scores, `[HEADS, rows, columns]`.
fn weights(rows: usize, columns: usize, seed: usize, score: impl Fn(usize, usize, usize) -> f32) -> Vec<f32> {
    let mut state = seed as u32 + 1;
    let mut noise = || {
        // xorshift32 (Marsaglia 2003)
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 24) as f32
    };
    let mut weights = Vec::with_capacity(HEADS * rows * columns);
    for head in 0..HEADS {
        for row in 0..rows {
            let line: Vec<f32> = (0..columns).map(|column| (score(head, row, column) + 2.2 * noise()).exp()).collect();
            let sum: f32 = line.iter().sum();
            weights.extend(line.iter().map(|weight| weight / sum));
        }
    }
    weights
}
