//! The most probable token at each step, until `<eos>` or the source's limit.

use super::{GenerateOptions, Generated, Hypothesis, score, session::Session};
use crate::EOS;
use attentia_tensor::{DType, Result, Tensor};

pub(super) fn run(
    mut session: Session,
    sources: &[usize],
    limits: &[usize],
    options: GenerateOptions,
) -> Result<Generated> {
    let mut results: Vec<Option<Hypothesis>> = vec![None; limits.len()];
    // Of each row: its source, and the log-probability so far.
    let mut open: Vec<(usize, f64)> = sources.iter().map(|&source| (source, 0.0)).collect();
    for length in 1.. {
        let (tokens, log_probabilities) = most_probable(&session.step()?)?;
        open.iter_mut().zip(&log_probabilities).for_each(|((_, sum), &log_probability)| *sum += log_probability);
        session.append(&tokens);
        let goes_on = |row: usize| tokens[row] != EOS && length < limits[open[row].0];
        for (row, &(source, log_probability)) in open.iter().enumerate().filter(|(row, _)| !goes_on(*row)) {
            let finished = tokens[row] == EOS;
            let mut written = session.tokens(row);
            if finished {
                written.pop();
            }
            let maps = session.history.as_ref().map(|history| history.maps(source, row)).transpose()?;
            results[source] = Some(Hypothesis {
                tokens: written,
                log_probability,
                score: score(log_probability, length, &options),
                finished,
                maps: maps.unwrap_or_default(),
            });
        }
        let rows: Vec<usize> = (0..open.len()).filter(|&row| goes_on(row)).collect();
        if rows.is_empty() {
            break;
        }
        session.keep(&rows, &rows)?;
        open = rows.iter().map(|&row| open[row]).collect();
    }
    Ok(Generated {
        hypotheses: results.into_iter().map(|result| result.into_iter().collect()).collect(),
        decoder_tokens: session.decoder_tokens,
        steps: session.steps,
    })
}

/// The first of the most probable tokens of each row, and its log-probability.
fn most_probable(logits: &Tensor) -> Result<(Vec<i64>, Vec<f64>)> {
    let (best, token) = logits.topk(1, -1, true)?; // [rows, 1]
    let wide = logits.dtype().statistics();
    let log_probability = best.to_dtype(wide)?.sub(&logits.to_dtype(wide)?.logsumexp(-1, true)?)?;
    Ok((token.to_vec()?, log_probability.to_dtype(DType::F64)?.to_vec()?))
}
