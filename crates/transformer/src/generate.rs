//! Writing translations.

use crate::{BOS, EOS, EncoderDecoder, PAD};
use attentia_nn::Context;
use attentia_tensor::{Result, Tensor, no_grad};

/// The most probable class of each row: `[N, C] → N` indices.
pub fn argmax_last(logits: &Tensor) -> Result<Vec<i64>> {
    logits.argmax(-1, false)?.to_vec()
}

/// Translates sources `[B, S]` of these lengths by taking the most probable token at each step, until `<eos>` or
/// `limit` tokens. The results hold neither `<bos>` nor `<eos>`.
///
/// The sources are encoded once; the decoder reads everything written so far at each step.
pub fn greedy(
    model: &EncoderDecoder,
    source: &Tensor,
    lengths: &[usize],
    limit: usize,
    cx: &mut Context,
) -> Result<Vec<Vec<i64>>> {
    no_grad(|| {
        let memory = model.encode(source, lengths, cx)?;
        let batch = lengths.len();
        let mut written = vec![vec![BOS]; batch];
        let mut finished = vec![Vec::new(); batch];
        let mut open = vec![true; batch];
        let limit = limit.min(model.config().positions.saturating_sub(1));
        for length in 1..=limit {
            if !open.contains(&true) {
                break;
            }
            let flat: Vec<i64> = written.iter().flatten().copied().collect();
            let ids = Tensor::from_slice(&flat, &[batch, length], source.device())?;
            let next = argmax_last(&model.decode_last(&ids, &memory, cx)?)?;
            for (i, token) in next.into_iter().enumerate() {
                open[i] &= token != EOS;
                written[i].push(if open[i] { token } else { PAD });
                if open[i] {
                    finished[i].push(token);
                }
            }
        }
        Ok(finished)
    })
}
