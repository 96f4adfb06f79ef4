//! Where each written token looked, in the run that wrote it: patterns of every step, put together along the path of a
//! hypothesis through the beams.

use attentia_nn::{Captures, Part, Site, Stack};
use attentia_tensor::{DType, Device, Result, Tensor};
use std::collections::BTreeMap;

/// Attention weights on the host, `[rows, heads, keys]` of one query each, or `[rows, heads, keys, keys]`.
struct Pattern {
    heads: usize,
    keys: usize,
    weights: Vec<f32>,
}

struct Step {
    patterns: BTreeMap<Site, Pattern>,
    /// For each row of this step its row in the step before.
    parents: Vec<usize>,
}

/// The patterns of a decoding.
pub(super) struct History {
    device: Device,
    lengths: Vec<usize>,
    encoder: BTreeMap<Site, Pattern>,
    steps: Vec<Step>,
    /// The same for the rows that go on after the last step.
    next: Vec<usize>,
}

fn on_host(seen: Captures) -> Result<BTreeMap<Site, Pattern>> {
    let read = |(site, tensor): (Site, Tensor)| {
        let [_, heads, _, keys] = tensor.dims()?;
        Ok((site, Pattern { heads, keys, weights: tensor.to_dtype(DType::F32)?.to_vec()? }))
    };
    seen.into_iter().map(read).collect()
}

impl History {
    /// Starts with what the encoder showed.
    pub(super) fn new(seen: Captures, lengths: &[usize]) -> Result<History> {
        let device = match seen.values().next() {
            Some(tensor) => tensor.device().clone(),
            None => return Err(missing()),
        };
        let next = (0..lengths.len()).collect();
        Ok(History { device, lengths: lengths.to_vec(), encoder: on_host(seen)?, steps: Vec::new(), next })
    }

    /// A step of `rows` rows showed these patterns `[rows, H, 1, keys]`.
    pub(super) fn push(&mut self, seen: Captures, rows: usize) -> Result<()> {
        let parents = std::mem::replace(&mut self.next, (0..rows).collect());
        self.steps.push(Step { patterns: on_host(seen)?, parents });
        Ok(())
    }

    /// These rows of the last step go on.
    pub(super) fn keep(&mut self, rows: &[usize]) {
        self.next = rows.to_vec();
    }

    /// The maps of the hypothesis that is in this row of the last step.
    pub(super) fn maps(&self, source: usize, mut row: usize) -> Result<Captures> {
        let s = self.lengths[source];
        let mut maps = Captures::new();
        for (&site, pattern) in &self.encoder {
            let Pattern { heads, keys, weights } = pattern;
            let own = &weights[source * heads * keys * keys..][..heads * keys * keys];
            let cropped: Vec<f32> = own
                .chunks(*keys)
                .enumerate()
                .filter(|(i, _)| i % keys < s)
                .flat_map(|(_, row)| &row[..s])
                .copied()
                .collect();
            maps.insert(site, Tensor::from_vec(cropped, &[*heads, s, s], &self.device)?);
        }
        let t = self.steps.len();
        let mut path = vec![0; t];
        for (place, step) in path.iter_mut().zip(&self.steps).rev() {
            *place = row;
            row = step.parents[row];
        }
        let Some(last) = self.steps.last() else { return Ok(maps) };
        for (&site, Pattern { heads, .. }) in &last.patterns {
            // A step sees itself and what was written before it; of a source, the tokens that are no padding.
            let width = if (site.stack, site.part) == (Stack::Decoder, Part::SelfAttention) { t } else { s };
            let mut map = vec![0f32; heads * t * width];
            for (i, (step, &row)) in self.steps.iter().zip(&path).enumerate() {
                let Some(Pattern { keys, weights, .. }) = step.patterns.get(&site) else { return Err(missing()) };
                for head in 0..*heads {
                    let from = &weights[(row * heads + head) * keys..][..(*keys).min(width)];
                    map[(head * t + i) * width..][..from.len()].copy_from_slice(from);
                }
            }
            maps.insert(site, Tensor::from_vec(map, &[*heads, t, width], &self.device)?);
        }
        Ok(maps)
    }
}

fn missing() -> attentia_tensor::Error {
    attentia_tensor::Error::new(attentia_tensor::ErrorKind::Argument, "generate", "a step showed no attention weights")
        .help("every layer of an encoder-decoder shows its pattern; was the model changed?")
}
