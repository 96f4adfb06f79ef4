//! Pairs of token sequences to padded batches.
//!
//! ```text
//! source          s1 s2 s3 <eos>                 [B, S]   what the encoder reads
//! decoder_input   <bos> t1 t2 t3                 [B, T]   what the decoder reads ..
//! decoder_target  t1 t2 t3 <eos>                 [B, T]   .. and what it should say at the same position
//! ```
//!
//! Rows are filled with `<pad>` = 0 to the length of the longest of the batch. Examples of like length stand together,
//! so that little is padding, and a batch takes as many as its token budget allows. The order of an epoch is a function
//! of `(seed, epoch)` alone: it is the same on every machine, and an epoch can be resumed in its middle without
//! replaying what came before.

use crate::examples::{Example, Examples};
use crate::tokenizer::{BOS, EOS, PAD};
use crate::{Error, Result};

/// Ids of several sequences, row by row, short rows filled with `<pad>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    ids: Vec<i64>,
    lengths: Vec<usize>,
    width: usize,
}

impl Ids {
    /// Pads the sequences to the longest of them.
    ///
    /// ```
    /// let ids = attentia_data::Ids::padded(&[vec![7, 8, 9], vec![5]]);
    /// assert_eq!((ids.shape(), ids.lengths()), ([2, 3], &[3, 1][..]));
    /// assert_eq!(ids.ids(), [7, 8, 9, 5, 0, 0]);
    /// assert_eq!(ids.row(1), Some(&[5, 0, 0][..]));
    /// ```
    pub fn padded<S: AsRef<[u32]>>(sequences: &[S]) -> Self {
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.as_ref().len()).collect();
        let width = lengths.iter().copied().max().unwrap_or(0);
        let mut ids = Vec::with_capacity(width * sequences.len());
        for sequence in sequences {
            ids.extend(sequence.as_ref().iter().map(|id| i64::from(*id)));
            ids.resize(ids.len() + width - sequence.as_ref().len(), i64::from(PAD));
        }
        Self { ids, lengths, width }
    }

    /// All ids, row-major, `[B, T]`.
    pub fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// `[rows, width]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows(), self.width]
    }

    /// Number of sequences, B.
    pub fn rows(&self) -> usize {
        self.lengths.len()
    }

    /// Length of the longest sequence, T.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Tokens of each row that are no padding, `[B]`.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// One row with its padding, `[T]`.
    pub fn row(&self, row: usize) -> Option<&[i64]> {
        let start = row.checked_mul(self.width)?;
        (row < self.rows()).then(|| self.ids.get(start..start + self.width)).flatten()
    }

    /// Tokens that are no padding.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The id that fills short rows.
    pub fn pad(&self) -> i64 {
        i64::from(PAD)
    }
}

/// Some examples, ready for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Source tokens and `<eos>`, `[B, S]`.
    pub source: Ids,
    /// `<bos>` and target tokens, `[B, T]`.
    pub decoder_input: Ids,
    /// Target tokens and `<eos>`, `[B, T]`.
    pub decoder_target: Ids,
    /// Where each row stands in the list of examples, `[B]`.
    pub indices: Vec<usize>,
}

/// Cuts examples into batches, epoch after epoch. Borrows the examples; a batch is made when it is asked for.
#[derive(Debug, Clone)]
pub struct Batches<'a> {
    examples: &'a dyn Examples,
    budget: usize,
}

/// Tokens of the longer side with its end mark: what one row of a batch costs.
fn cost(examples: &dyn Examples, index: usize) -> usize {
    let [source, target] = examples.lengths(index);
    source.max(target).saturating_add(1)
}

impl<'a> Batches<'a> {
    /// A batch holds at most `budget` tokens on each side, padding and end marks counted:
    /// `B * max(S, T) <= budget`.
    ///
    /// # Errors
    ///
    /// [`Error::ExampleTooLong`] for an example that alone exceeds the budget.
    pub fn new(examples: &'a dyn Examples, budget: usize) -> Result<Self> {
        let costs = (0..examples.len()).map(|index| (index, cost(examples, index)));
        match costs.into_iter().find(|(_, length)| *length > budget) {
            Some((index, length)) => Err(Error::ExampleTooLong { index, length, budget }),
            None => Ok(Self { examples, budget }),
        }
    }

    /// The batches of one epoch, in an order drawn from `(seed, epoch)`. Which examples share a batch changes from
    /// epoch to epoch as well. Skipping (`epoch(seed, 3).skip(100)`) builds none of the batches skipped.
    ///
    /// ```
    /// use attentia_data::{Batches, Example};
    ///
    /// let examples: Vec<Example> =
    ///     (0..50).map(|n| Example { source: vec![9; n % 7], target: vec![8; n % 5] }).collect();
    /// let batches = Batches::new(&examples, 64)?;
    /// let all = batches.epoch(1, 0).collect::<attentia_data::Result<Vec<_>>>()?;
    /// assert_eq!(all.iter().map(|batch| batch.indices.len()).sum::<usize>(), 50);
    /// assert_eq!(batches.epoch(1, 0).skip(2).next().transpose()?.as_ref(), all.get(2));
    /// assert_ne!(batches.epoch(1, 1).collect::<attentia_data::Result<Vec<_>>>()?, all);
    /// # Ok::<(), attentia_data::Error>(())
    /// ```
    pub fn epoch(&self, seed: u64, epoch: u64) -> Epoch<'a> {
        let mut order: Vec<usize> = (0..self.examples.len()).collect();
        order.sort_by_cached_key(|&index| draw([seed, epoch, 0, index as u64]));
        let mut groups = self.groups(order);
        let mut keyed: Vec<(u64, Vec<usize>)> = (0u64..).zip(groups.drain(..)).collect();
        keyed.sort_by_cached_key(|(number, _)| draw([seed, epoch, 1, *number]));
        Epoch { examples: self.examples, groups: keyed.into_iter().map(|(_, group)| group).collect(), next: 0 }
    }

    /// Every example once, shortest first, nothing drawn: for validation and for translation.
    pub fn in_order(&self) -> Epoch<'a> {
        Epoch { examples: self.examples, groups: self.groups((0..self.examples.len()).collect()), next: 0 }
    }

    /// A number that other examples or another budget would change: two lists with the same one give the same batches.
    pub fn fingerprint(&self) -> u64 {
        draw([self.budget as u64, self.examples.len() as u64, self.examples.fingerprint(), 0])
    }

    /// Sorts by length, keeping the given order among equals, and cuts where the budget ends.
    fn groups(&self, mut order: Vec<usize>) -> Vec<Vec<usize>> {
        let length = |index: usize| cost(self.examples, index);
        order.sort_by_key(|&index| length(index));
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for index in order {
            // Lengths only rise, so the newcomer is the longest of its batch.
            match groups.last_mut() {
                Some(group) if (group.len() + 1).saturating_mul(length(index)) <= self.budget => group.push(index),
                _ => groups.push(vec![index]),
            }
        }
        groups
    }
}

/// The batches of one epoch: an iterator of known length. A batch is an error when its examples cannot be read.
#[derive(Debug, Clone)]
pub struct Epoch<'a> {
    examples: &'a dyn Examples,
    groups: Vec<Vec<usize>>,
    next: usize,
}

impl Epoch<'_> {
    /// `[B, S, T]` of each batch to come, with end marks: known before any of them is read.
    pub fn extents(&self) -> impl Iterator<Item = [usize; 3]> {
        self.groups.iter().skip(self.next).map(|group| {
            let widest = |side: usize| group.iter().map(|&index| self.examples.lengths(index)[side] + 1).max();
            [group.len(), widest(0).unwrap_or(0), widest(1).unwrap_or(0)]
        })
    }
}

impl Iterator for Epoch<'_> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let indices = self.groups.get(self.next)?.clone();
        self.next += 1;
        let examples = indices.iter().map(|&index| self.examples.get(index)).collect::<Result<Vec<Example>>>();
        Some(examples.map(|examples| {
            let rows =
                |sequence: fn(&Example) -> Vec<u32>| Ids::padded(&examples.iter().map(sequence).collect::<Vec<_>>());
            Batch {
                source: rows(|example| [&example.source, &[EOS][..]].concat()),
                decoder_input: rows(|example| [&[BOS], &example.target[..]].concat()),
                decoder_target: rows(|example| [&example.target, &[EOS][..]].concat()),
                indices,
            }
        }))
    }

    fn nth(&mut self, count: usize) -> Option<Result<Batch>> {
        self.next = self.next.saturating_add(count).min(self.groups.len());
        self.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.groups.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Epoch<'_> {}

/// 64 random bits of a key: each word in turn goes through the finaliser of SplitMix64 (Steele, Lea and Flood 2014,
/// with Stafford's mix 13). A function of its key only, so no order and no thread can change it.
pub(crate) fn draw(key: [u64; 4]) -> u64 {
    key.iter().fold(0x9E37_79B9_7F4A_7C15, |state: u64, word| {
        let mut z = (state ^ word).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(count: usize) -> Vec<Example> {
        let ids = |n: usize| (0..n).map(|i| 4 + i as u32).collect();
        let length = |salt: u64, n: usize| (draw([9, salt, 0, n as u64]) % 20) as usize;
        (0..count).map(|n| Example { source: ids(length(0, n)), target: ids(length(1, n)) }).collect()
    }

    #[test]
    fn rows_hold_the_marks_where_they_belong() {
        let examples =
            [Example { source: vec![10, 11], target: vec![20] }, Example { source: vec![], target: vec![21, 22] }];
        let batch = Batches::new(&examples, 100).unwrap().in_order().next().unwrap().unwrap();
        assert_eq!((batch.source.ids(), batch.source.lengths()), (&[10, 11, 2, 2, 0, 0][..], &[3, 1][..]));
        assert_eq!(
            (batch.decoder_input.ids(), batch.decoder_input.lengths()),
            (&[1, 20, 0, 1, 21, 22][..], &[2, 3][..])
        );
        assert_eq!(batch.decoder_target.ids(), [20, 2, 0, 21, 22, 2]);
        assert_eq!(batch.indices, [0, 1]);
        assert_eq!((batch.source.row(1), batch.source.row(2)), (Some(&[2, 0, 0][..]), None));
        assert_eq!((batch.source.tokens(), batch.source.pad()), (4, 0));
    }

    #[test]
    fn an_epoch_holds_each_example_once_within_the_budget() {
        let examples = examples(1000);
        let batches = Batches::new(&examples, 200).unwrap();
        for epoch in [batches.epoch(3, 0), batches.epoch(3, 1), batches.in_order()] {
            let expected = epoch.len();
            let extents: Vec<_> = epoch.extents().collect();
            let (mut seen, mut count, mut used, mut paid) = (Vec::new(), 0, 0, 0);
            for batch in epoch {
                let batch = batch.unwrap();
                let [rows, source] = batch.source.shape();
                let [_, target] = batch.decoder_target.shape();
                assert_eq!(extents[count], [rows, source, target]);
                assert!(rows * source.max(target) <= 200);
                used += batch.source.tokens() + batch.decoder_target.tokens();
                paid += rows * (source + target);
                seen.extend(batch.indices);
                count += 1;
            }
            seen.sort_unstable();
            assert_eq!(seen, (0..1000).collect::<Vec<_>>());
            assert_eq!(count, expected);
            // Two independent random sides are the worst case: only the longer one can be bucketed.
            assert!(used * 3 > paid * 2, "{used} of {paid} tokens are no padding");
        }
    }

    #[test]
    fn seed_and_epoch_decide_the_order_and_nothing_else_does() {
        let examples = examples(300);
        let batches = Batches::new(&examples, 150).unwrap();
        let order =
            |seed, epoch| batches.epoch(seed, epoch).flat_map(|batch| batch.unwrap().indices).collect::<Vec<_>>();
        assert_eq!(order(1, 5), order(1, 5));
        assert_ne!(order(1, 5), order(1, 6));
        assert_ne!(order(1, 5), order(2, 5));
        // A change of this number makes every resumed run differ from the run that it resumes.
        assert_eq!(draw([1, 2, 3, 4]), 0xC207_722D_002A_03FC);
    }

    #[test]
    fn skipping_lands_on_the_same_batch() {
        let examples = examples(300);
        let batches = Batches::new(&examples, 150).unwrap();
        let all: Vec<Batch> = batches.epoch(1, 0).map(Result::unwrap).collect();
        for start in [0, 1, 7, all.len() - 1, all.len(), all.len() + 5] {
            let rest: Vec<Batch> = batches.epoch(1, 0).skip(start).map(Result::unwrap).collect();
            assert_eq!(rest, all[start.min(all.len())..]);
        }
        let mut epoch = batches.epoch(1, 0);
        assert!(epoch.nth(usize::MAX).is_none() && epoch.len() == 0 && epoch.next().is_none());
    }

    #[test]
    fn a_fingerprint_tells_examples_and_budgets_apart() {
        let examples = examples(30);
        let mut other = examples.clone();
        let last = other.last_mut().unwrap();
        (last.source, last.target) = ([&last.source[..], &[7]].concat(), vec![9]);
        let of = |examples: &[Example], budget| Batches::new(&examples, budget).unwrap().fingerprint();
        assert_eq!(of(&examples, 150), of(&examples.clone(), 150));
        assert_ne!(of(&examples, 150), of(&examples, 151));
        assert_ne!(of(&examples, 150), of(&other, 150));
        assert_ne!(of(&examples, 150), of(&examples[1..], 150));
    }

    #[test]
    fn first_examples_of_shuffled_epochs_are_spread_evenly() {
        let same = vec![Example { source: vec![5], target: vec![5] }; 10];
        let batches = Batches::new(&same, 2).unwrap();
        let mut firsts = [0usize; 10];
        for epoch in 0..5000 {
            firsts[batches.epoch(0, epoch).next().unwrap().unwrap().indices[0]] += 1;
        }
        // Binomial with mean 500 and deviation 21: five deviations.
        assert!(firsts.iter().all(|count| (395..605).contains(count)), "{firsts:?}");
    }

    #[test]
    fn no_example_and_too_long_examples() {
        assert_eq!(Batches::new(&Vec::new(), 10).unwrap().epoch(0, 0).count(), 0);
        let long = [Example { source: vec![5; 3], target: vec![] }, Example { source: vec![], target: vec![5; 10] }];
        assert!(Batches::new(&long, 11).is_ok());
        assert!(matches!(Batches::new(&long, 10), Err(Error::ExampleTooLong { index: 1, length: 11, budget: 10 })));
        let empty: [Vec<u32>; 0] = [];
        assert_eq!(Ids::padded(&empty).shape(), [0, 0]);
        assert_eq!(Ids::padded(&[vec![], vec![]]).row(1), Some(&[][..]));
    }
}
