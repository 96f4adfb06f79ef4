//! Token ids as small numbers, for what compares tokens.

use crate::{
    attention::{
        modifier::Row,
        problem::{Problem, table},
    },
    matmul::element::{Element, Sum},
    rows::LANES,
};
use attentia_backend::{Result, TokenIds};
use std::collections::HashMap;

/// `[B, T]` of queries and `[B, S]` of keys and of what stands before each.
#[derive(Default)]
pub(super) struct Tokens {
    queries: Vec<u32>,
    pub(super) keys: Vec<Block>,
    pub(super) before: Vec<Block>,
    /// Blocks of a sequence.
    blocks: usize,
}

/// Neighbours, aligned: a load never meets two lines more than it must.
#[derive(Clone, Copy)]
#[repr(align(128))]
pub(super) struct Block([u32; LANES]);

/// The number of no token.
pub(super) const NO_TOKEN: u32 = u32::MAX;

/// Small numbers for ids, equal for equals: themselves, or in the order of their appearance where one of them is not small.
fn numbers(ids: [Vec<i64>; 2]) -> [Vec<u32>; 2] {
    let small = 0..i64::from(NO_TOKEN);
    if ids.iter().flatten().all(|id| small.contains(id)) {
        return ids.map(|ids| ids.into_iter().map(|id| id as u32).collect());
    }
    let mut numbers = HashMap::new();
    ids.map(|ids| {
        let number = |id| {
            let next = numbers.len() as u32;
            *numbers.entry(id).or_insert(next)
        };
        ids.into_iter().map(number).collect()
    })
}

impl Tokens {
    pub(super) fn new<T: Element<Sum = A>, A: Sum>(problem: &Problem<T>, tokens: TokenIds) -> Result<Tokens> {
        let Problem { batch, queries, keys: length, .. } = *problem;
        let of_queries = table(tokens.queries, "query tokens", [batch, queries])?;
        let of_keys = table(tokens.keys, "key tokens", [batch, length])?;
        let [queries, of_keys] = numbers([of_queries, of_keys]);
        let blocks = length.div_ceil(LANES);
        let [mut keys, mut before] = [0, 1].map(|_| vec![Block([NO_TOKEN; LANES]); batch * blocks]);
        for (i, &token) in of_keys.iter().enumerate() {
            let (start, key) = (i / length * blocks, i % length);
            keys[start + key / LANES].0[key % LANES] = token;
            if key + 1 < length {
                before[start + (key + 1) / LANES].0[(key + 1) % LANES] = token;
            }
        }
        Ok(Tokens { queries, keys, before, blocks })
    }

    /// The query's token, and tokens of a sequence from a key on.
    pub(super) fn of(&self, tokens: &[Block], row: Row, queries: usize) -> (u32, *const u32) {
        let sequence = tokens.as_ptr().wrapping_add(row.b * self.blocks).cast::<u32>();
        (self.queries[row.b * queries + row.t], sequence.wrapping_add(row.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ids_have_equal_numbers_however_large_they_are() {
        assert_eq!(numbers([vec![3, 0], vec![7, 3]]), [vec![3, 0], vec![7, 3]]);
        for large in [-1, i64::MIN, i64::from(u32::MAX), i64::MAX] {
            assert_eq!(numbers([vec![3, large], vec![7, 3, large]]), [vec![0, 1], vec![2, 0, 1]]);
        }
    }
}
