//! Segments: ids of queries and of keys, of which a query sees the keys with its own.
//!
//! ```text
//! span of a query      from the first key with its id to behind the last: what it sees lies in it, as in a window
//! whole                every key between has the id: nothing is compared
//! rising               neither end of a span falls from query to query: those of a block are known from its edges
//! bounds of a block    least and greatest id of its keys: blocks of which no query has an id are passed over
//! ```
//!
//! Documents that are packed one behind the other are whole and rising, and cost the sum of their squares. Ids in any
//! other order are right too: keys are compared, and blocks between the ends of a span may be passed over by their
//! bounds.

use super::problem::{KEYS, room, table};
use attentia_backend::{Result, View};
use std::{collections::HashMap, iter::repeat_n, ops::Range};

/// Ids of all positions, and what follows from them.
pub(super) struct Segments {
    /// T and S.
    extents: [usize; 2],
    queries: Vec<i64>,
    keys: Vec<i64>,
    /// Of each query.
    spans: Vec<Range<usize>>,
    /// Of each block of keys.
    bounds: Vec<[i64; 2]>,
    /// Of each sequence.
    order: Vec<Order>,
}

#[derive(Clone, Copy)]
struct Order {
    whole: bool,
    rising: bool,
}

impl Segments {
    /// Ids `[B, T]` of queries and `[B, S]` of keys.
    pub(super) fn new(views: [View; 2], batch: usize, [queries, keys]: [usize; 2]) -> Result<Segments> {
        let [of_queries, of_keys] = views;
        let mut segments = Segments {
            extents: [queries, keys],
            queries: table(of_queries, "query segments", [batch, queries])?,
            keys: table(of_keys, "key segments", [batch, keys])?,
            spans: room(batch.saturating_mul(queries))?,
            bounds: room(batch.saturating_mul(keys.div_ceil(KEYS)))?,
            order: room(batch)?,
        };
        for b in 0..batch {
            let keys = &segments.keys[b * keys..][..keys];
            for block in keys.chunks(KEYS) {
                segments.bounds.push(bounds(block));
            }
            let mut order = Order { whole: true, rising: true };
            let mut known: HashMap<i64, Range<usize>> = HashMap::new();
            let mut start = 0;
            for run in keys.chunk_by(|a, b| a == b) {
                let end = start + run.len();
                let again = known.entry(run[0]).and_modify(|span| {
                    span.end = end;
                    order.whole = false;
                });
                again.or_insert(start..end);
                start = end;
            }
            let mut before = 0..0;
            for run in segments.queries[b * queries..][..queries].chunk_by(|a, b| a == b) {
                // An id that no key has: nothing, where it does not fall.
                let span = known.get(&run[0]).cloned().unwrap_or(before.end..before.end);
                order.rising &= before.start <= span.start && before.end <= span.end;
                segments.spans.extend(repeat_n(span.clone(), run.len()));
                before = span;
            }
            segments.order.push(order);
        }
        Ok(segments)
    }

    /// The keys between which those of a query's id lie.
    pub(super) fn span(&self, b: usize, t: usize) -> Range<usize> {
        self.spans[b * self.extents[0] + t].clone()
    }

    /// Whether no end of a span of this sequence falls.
    pub(super) fn rise(&self, b: usize) -> bool {
        self.order[b].rising
    }

    /// The id of a query and those of all keys, where they have to be compared within its span.
    pub(super) fn compared(&self, b: usize, t: usize) -> Option<(i64, &[i64])> {
        let [queries, keys] = self.extents;
        (!self.order[b].whole).then(|| (self.queries[b * queries + t], &self.keys[b * keys..][..keys]))
    }

    /// Whether a block of keys may have an id of one of these queries.
    pub(super) fn meet(&self, b: usize, queries: Range<usize>, block: usize) -> bool {
        let [of_queries, of_keys] = self.extents;
        if self.order[b].whole {
            return true; // spans tell
        }
        let [low, high] = bounds(&self.queries[b * of_queries..][queries]);
        let [least, greatest] = self.bounds[b * of_keys.div_ceil(KEYS) + block];
        low <= greatest && least <= high
    }
}

/// The least and the greatest.
fn bounds(ids: &[i64]) -> [i64; 2] {
    ids.iter().fold([i64::MAX, i64::MIN], |[low, high], &id| [low.min(id), high.max(id)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        CpuBackend,
        oracle::{Lie, Sample},
    };
    use attentia_backend::DType;

    fn segments(queries: &[i64], keys: &[i64]) -> Segments {
        let b = CpuBackend::new(1).unwrap();
        let ids = |ids: &[i64]| {
            let id = |at: usize| ids.get(at).map_or(0.0, |&id| id as f64);
            Sample::new(&b, DType::I64, &[1, ids.len()], Lie::Contiguous, id)
        };
        let (of_queries, of_keys) = (ids(queries), ids(keys));
        Segments::new([of_queries.view(), of_keys.view()], 1, [queries.len(), keys.len()]).unwrap()
    }

    /// Blocks of keys that each block of 32 queries would take.
    fn visited(segments: &Segments) -> usize {
        let [queries, keys] = segments.extents;
        let block = |first: usize| {
            let rows = first..queries.min(first + 32);
            let seen = |block: &usize| {
                let of_block = block * KEYS..keys.min((block + 1) * KEYS);
                let near = |t| segments.span(0, t).start < of_block.end && segments.span(0, t).end > of_block.start;
                rows.clone().any(near) && segments.meet(0, rows.clone(), *block)
            };
            (0..keys.div_ceil(KEYS)).filter(seen).count()
        };
        (0..queries).step_by(32).map(block).sum()
    }

    #[test]
    fn packed_documents_cost_the_sum_of_their_squares() {
        let ids: Vec<i64> = (0..4096).map(|i| i / 512).collect();
        let packed = segments(&ids, &ids);
        assert!(packed.rise(0) && packed.compared(0, 0).is_none());
        assert_eq!(packed.span(0, 700), 512..1024);
        assert_eq!(visited(&packed), 8 * (512 / 32) * (512 / KEYS));
        // In any order of the documents, one of which comes twice.
        let shuffled: Vec<i64> = ids.iter().map(|id| [5, 2, 7, 2, 9, 0, 1, 4][*id as usize]).collect();
        let shuffled = segments(&shuffled, &shuffled);
        assert!(!shuffled.rise(0) && shuffled.compared(0, 0).is_some());
        assert_eq!(
            visited(&shuffled),
            (8 + 2) * (512 / 32) * (512 / KEYS),
            "the one that comes twice has four squares"
        );
    }

    #[test]
    fn queries_of_no_key_see_nothing() {
        let some = segments(&[1, 2, 3], &[1, 1, 3, 3]);
        assert_eq!([0, 1, 2].map(|t| some.span(0, t)), [0..2, 2..2, 2..4]);
        assert!(some.rise(0));
        let none = segments(&[1, 2], &[]);
        assert_eq!([0, 1].map(|t| none.span(0, t)), [0..0, 0..0]);
    }
}
