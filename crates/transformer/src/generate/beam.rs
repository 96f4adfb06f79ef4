//! Beam search, for a batch of sources at once.
//!
//! ```text
//! each step, for each open source, k = beams:
//!   of all (live hypothesis, token) take the 2k of greatest log-probability   ties: the earlier hypothesis, lower token
//!   walk them, best first:  <eos> among the first k  → finished               the k best by score are kept
//!                           any other token          → live, until there are k
//! a source is done when k are finished and no live one can pass the worst of them, even if it were certain from here
//! to the limit; at the limit live ones fill up what is missing, unfinished
//! ```

use super::{GenerateOptions, Generated, Hypothesis, score, session::Session};
use crate::EOS;
use attentia_tensor::{DType, Result, Tensor};

/// A source that is still open.
struct Open {
    source: usize,
    /// Log-probability of each live hypothesis; its row is the source's first one plus its place here.
    live: Vec<f64>,
    finished: Vec<Hypothesis>,
}

/// A live hypothesis continued by a token.
#[derive(Clone, Copy)]
struct Candidate {
    beam: usize,
    token: i64,
    log_probability: f64,
}

pub(super) fn run(
    mut session: Session,
    sources: &[usize],
    limits: &[usize],
    options: GenerateOptions,
) -> Result<Generated> {
    let k = options.beams;
    let mut results: Vec<Vec<Hypothesis>> = vec![Vec::new(); limits.len()];
    let mut open: Vec<Open> =
        sources.iter().map(|&source| Open { source, live: vec![0.0], finished: Vec::new() }).collect();
    for length in 1.. {
        let (tokens, log_probabilities, width) = best_of_rows(&session.step()?, 2 * k)?;
        let (mut rows, mut appended, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        let mut still_open = Vec::new();
        let mut first_row = 0;
        for (place, mut state) in open.into_iter().enumerate() {
            let beams = state.live.len();
            let span = first_row * width..(first_row + beams) * width;
            let chosen = candidates(&state.live, &tokens[span.clone()], &log_probabilities[span], 2 * k);
            let mut live = Vec::with_capacity(k);
            for (rank, candidate) in chosen.into_iter().enumerate() {
                if candidate.token != EOS {
                    if live.len() < k {
                        live.push(candidate);
                    }
                } else if rank < k {
                    let row = first_row + candidate.beam;
                    let ended = hypothesis(&session, state.source, row, None, candidate, length, &options)?;
                    state.finished.push(ended);
                }
            }
            keep_best(&mut state.finished, k);
            let limit = limits[state.source];
            let done = live.is_empty() || is_done(&state.finished, &live, limit, &options);
            if done || length >= limit {
                if !done {
                    let mut rest = Vec::new();
                    for &candidate in &live {
                        let (row, token) = (first_row + candidate.beam, Some(candidate.token));
                        rest.push(hypothesis(&session, state.source, row, token, candidate, length, &options)?);
                    }
                    keep_best(&mut rest, k - state.finished.len());
                    state.finished.extend(rest);
                    keep_best(&mut state.finished, k);
                }
                state.finished.truncate(options.best);
                results[state.source] = state.finished;
            } else {
                rows.extend(live.iter().map(|candidate| first_row + candidate.beam));
                appended.extend(live.iter().map(|candidate| candidate.token));
                kept.push(place);
                state.live = live.iter().map(|candidate| candidate.log_probability).collect();
                still_open.push(state);
            }
            first_row += beams;
        }
        open = still_open;
        if open.is_empty() {
            break;
        }
        session.keep(&rows, &kept)?;
        session.append(&appended);
    }
    Ok(Generated { hypotheses: results, decoder_tokens: session.decoder_tokens, steps: session.steps })
}

/// The most probable tokens of each row `[rows · width]`, best first, their log-probabilities, and the width.
fn best_of_rows(logits: &Tensor, count: usize) -> Result<(Vec<i64>, Vec<f64>, usize)> {
    let [_, vocabulary] = logits.dims()?;
    let width = count.min(vocabulary);
    let log_probabilities = logits.to_dtype(logits.dtype().statistics())?.log_softmax(-1)?;
    let (best, tokens) = log_probabilities.topk(width, -1, true)?;
    Ok((tokens.to_vec()?, best.to_dtype(DType::F64)?.to_vec()?, width))
}

/// The best continuations of a source's live hypotheses. A stable sort keeps the earlier hypothesis, and within it the
/// lower token, first among equals.
fn candidates(live: &[f64], tokens: &[i64], log_probabilities: &[f64], count: usize) -> Vec<Candidate> {
    let width = tokens.len() / live.len().max(1);
    let mut all: Vec<Candidate> = tokens
        .iter()
        .zip(log_probabilities)
        .enumerate()
        .map(|(i, (&token, &log_probability))| {
            let beam = i / width.max(1);
            Candidate { beam, token, log_probability: live[beam] + log_probability }
        })
        // What was forbidden has no probability.
        .filter(|candidate| candidate.log_probability > f64::NEG_INFINITY)
        .collect();
    all.sort_by(|a, b| b.log_probability.total_cmp(&a.log_probability));
    all.truncate(count);
    all
}

/// The best `count` by score; the one found earlier goes first among equals.
fn keep_best(hypotheses: &mut Vec<Hypothesis>, count: usize) {
    hypotheses.sort_by(|a, b| b.score.total_cmp(&a.score));
    hypotheses.truncate(count);
}

/// Whether no live hypothesis can pass the worst finished one: log-probabilities only fall, and the penalty is
/// greatest at the limit.
fn is_done(finished: &[Hypothesis], live: &[Candidate], limit: usize, options: &GenerateOptions) -> bool {
    let best_live = live.iter().map(|candidate| candidate.log_probability).fold(f64::NEG_INFINITY, f64::max);
    let worst = finished.last().map_or(f64::NEG_INFINITY, |hypothesis| hypothesis.score);
    finished.len() >= options.beams && score(best_live, limit, options) <= worst
}

/// The hypothesis that a row becomes with one more token, or with `<eos>`.
fn hypothesis(
    session: &Session,
    source: usize,
    row: usize,
    token: Option<i64>,
    candidate: Candidate,
    length: usize,
    options: &GenerateOptions,
) -> Result<Hypothesis> {
    let mut tokens = session.tokens(row);
    tokens.extend(token);
    let maps = session.history.as_ref().map(|history| history.maps(source, row)).transpose()?;
    Ok(Hypothesis {
        tokens,
        log_probability: candidate.log_probability,
        score: score(candidate.log_probability, length, options),
        finished: token.is_none(),
        maps: maps.unwrap_or_default(),
    })
}
