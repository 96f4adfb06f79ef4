//! The rows that are being written, and one decoder step for all of them.
//!
//! ```text
//! sources  N that are still open          cross-attention keys [N, H, S, D] of each layer
//! rows     N · G, G next to each other for each source: its live hypotheses
//! caches   [N · G, H, L, D] of each layer, L the greatest limit
//! ```

use super::{GenerateOptions, maps::History};
use crate::{BOS, EOS, EncoderDecoder};
use attentia_attention::{Cache, KeyValue};
use attentia_nn::{Captures, Context, Plan, Point, Run, Site};
use attentia_tensor::{DType, Device, Result, Tensor};
use std::sync::Arc;

/// Decoding in progress.
pub(super) struct Session<'m> {
    model: &'m EncoderDecoder,
    device: Device,
    /// Per open source: how long it is, i64 `[N]`, and keys for each layer.
    lengths: Tensor,
    cross: Vec<KeyValue>,
    caches: Vec<Cache>,
    /// What was written, per row, `<bos>` first.
    written: Vec<Vec<i64>>,
    cached: bool,
    forbidden: Option<Tensor>,
    pub(super) history: Option<History>,
    pub(super) decoder_tokens: usize,
    pub(super) steps: usize,
}

/// Every attention pattern.
#[derive(Debug)]
struct Patterns;

impl Plan for Patterns {
    fn wants(&self, site: Site) -> bool {
        site.point == Point::Pattern
    }
}

impl<'m> Session<'m> {
    /// Encodes the sources; one row for each, with `<bos>` written.
    pub(super) fn new(
        model: &'m EncoderDecoder,
        source: &Tensor,
        lengths: &[usize],
        limits: &[usize],
        options: GenerateOptions,
    ) -> Result<Session<'m>> {
        let mut seen = Captures::new();
        let mut cx = context(options.maps, &mut seen);
        let memory = model.encode(source, lengths, &mut cx)?;
        let cross = model.cross_keys(&memory, &mut cx)?;
        let config = model.config();
        let (heads, dim) = (config.heads, config.width / config.heads);
        let device = source.device().clone();
        let longest = limits.iter().copied().max().unwrap_or(0);
        let cache = |keys: &KeyValue| Cache::new([lengths.len(), heads, longest, dim], keys.key.dtype(), &device);
        let caches = if options.cached { cross.iter().map(cache).collect::<Result<_>>()? } else { Vec::new() };
        let forbidden = match options.may_end {
            true => None,
            false => Some(Tensor::arange(0, config.vocabulary as i64, 1, DType::I64, &device)?.eq_scalar(EOS)?),
        };
        Ok(Session {
            model,
            lengths: memory.lengths,
            cross,
            caches,
            written: vec![vec![BOS]; lengths.len()],
            cached: options.cached,
            forbidden,
            history: if options.maps { Some(History::new(seen, lengths)?) } else { None },
            decoder_tokens: 0,
            steps: 0,
            device,
        })
    }

    /// Logits `[rows, V]` of the next token of each row.
    pub(super) fn step(&mut self) -> Result<Tensor> {
        let mut seen = Captures::new();
        let mut cx = context(self.history.is_some(), &mut seen);
        let rows = self.written.len();
        let read = if self.cached { 1 } else { self.written.first().map_or(0, Vec::len) };
        let ids: Vec<i64> = self.written.iter().flat_map(|row| &row[row.len() - read..]).copied().collect();
        let ids = Tensor::from_vec(ids, &[rows, read], &self.device)?;
        let logits = match self.cached {
            true => self.model.decode_next(&ids, &mut self.caches, &self.cross, &self.lengths, &mut cx)?,
            false => self.model.decode_last(&ids, &self.cross, &self.lengths, &mut cx)?,
        };
        self.decoder_tokens += rows * read;
        self.steps += 1;
        if let Some(history) = &mut self.history {
            history.push(seen, rows)?;
        }
        match &self.forbidden {
            Some(forbidden) => logits.masked_fill(forbidden, f64::NEG_INFINITY),
            None => Ok(logits),
        }
    }

    /// Appends a token to each row.
    pub(super) fn append(&mut self, tokens: &[i64]) {
        self.written.iter_mut().zip(tokens).for_each(|(row, &token)| row.push(token));
    }

    /// Goes on with these rows, of these sources (by their place among the open ones), in this order.
    pub(super) fn keep(&mut self, rows: &[usize], sources: &[usize]) -> Result<()> {
        if let Some(history) = &mut self.history {
            history.keep(rows);
        }
        let identity =
            |places: &[usize], count: usize| places.len() == count && places.iter().enumerate().all(|(i, &p)| i == p);
        if !identity(rows, self.written.len()) {
            let order = indices(rows, &self.device)?;
            self.caches.iter_mut().try_for_each(|cache| cache.reorder(&order))?;
            self.written = rows.iter().map(|&row| self.written[row].clone()).collect();
        }
        let open = self.lengths.shape().first().copied().unwrap_or(0);
        if !identity(sources, open) {
            let order = indices(sources, &self.device)?;
            self.cross = self.cross.iter().map(|keys| keys.index_select(&order)).collect::<Result<_>>()?;
            self.lengths = self.lengths.index_select(0, &order)?;
        }
        Ok(())
    }

    /// What a row wrote, without `<bos>`.
    pub(super) fn tokens(&self, row: usize) -> Vec<i64> {
        self.written[row][1..].to_vec()
    }
}

fn indices(places: &[usize], device: &Device) -> Result<Tensor> {
    let places: Vec<i64> = places.iter().map(|&place| place as i64).collect();
    let count = places.len();
    Tensor::from_vec(places, &[count], device)
}

/// Evaluation, in which patterns are captured when they are wanted.
fn context(maps: bool, seen: &mut Captures) -> Context<'_> {
    match maps {
        true => Context::watched(Run { plan: Some(Arc::new(Patterns)), ..Run::default() }, seen),
        false => Context::evaluation(),
    }
}
