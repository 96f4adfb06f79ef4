//! A call of attention as the loops see it: extents, strides, and which keys a query sees.

use super::{
    modifier::{self, Modifier, Row},
    segments::Segments,
};
use crate::{
    CpuBackend, check,
    matmul::{
        block::{Operand, Target},
        element::{Element, Sum},
    },
    storage::{Input, Output, Raw},
};
use attentia_backend::{
    Alignment, AttentionOperands, AttentionSpec, Causal, DType, Dropout, Error, ErrorKind, Layout, MaskKind, Philox,
    Result, ScoreExpr, View, ViewMut, rules,
};
use std::{fmt, ops::Range};

pub(super) const OP: &str = "attention";

/// Keys of a block: what is done once for a row of a block is spread over them. A multiple of dropout's words.
pub(super) const KEYS: usize = 512;

/// Elements from one row of a block's scores to the next: rows a power of two apart would share a few sets of the L1 cache.
pub(super) const PITCH: usize = KEYS + 16;

/// Tasks from which heads are not cut into ranges of keys any more.
pub(super) const TASKS: usize = 8;

/// An operand `[B, heads, positions, width]`.
#[derive(Clone, Copy)]
pub(super) struct Heads<P> {
    start: P,
    strides: [isize; 4],
}

// SAFETY: operands are shared to be read; destinations are written by tasks in disjoint parts.
unsafe impl<T: Sync> Sync for Heads<*const T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Heads<*mut T> {}

/// The strides of an operand without elements may be anything, and lead nowhere.
fn offset(place: [usize; 3], strides: [isize; 3]) -> isize {
    place.iter().zip(strides).fold(0, |sum, (&i, stride)| sum.wrapping_add((i as isize).wrapping_mul(stride)))
}

fn strides(layout: &Layout) -> [isize; 4] {
    let mut strides = [0; 4];
    strides.iter_mut().zip(layout.strides()).for_each(|(to, &from)| *to = from);
    strides
}

impl<T: Raw> Heads<*const T> {
    pub(super) fn new(view: View, role: &str, shape: &[usize]) -> Result<Self> {
        check::shape(OP, role, view.layout(), shape)?;
        let input = Input::<T>::new(OP, view)?;
        Ok(Heads { start: input.start(), strides: strides(input.layout()) })
    }

    /// Positions as lanes, from `first` on.
    pub(super) fn rows(&self, b: usize, h: usize, first: usize) -> Operand<T> {
        let [of_b, of_h, lane, step] = self.strides;
        Operand { start: self.start.wrapping_offset(offset([b, h, first], [of_b, of_h, lane])), lane, step }
    }

    /// The width as lanes: what a product adds up are positions, from `first` on.
    pub(super) fn columns(&self, b: usize, h: usize, first: usize) -> Operand<T> {
        let Operand { start, lane, step } = self.rows(b, h, first);
        Operand { start, lane: step, step: lane }
    }

    /// Strides and start of one row of a last axis, for operands `[B, H, T, S]` and `[B, H, T]`.
    pub(super) fn at(&self, b: usize, h: usize, t: usize) -> (*const T, isize) {
        let row = self.rows(b, h, t);
        (row.start, row.step)
    }
}

impl<T: Element> Heads<*mut T> {
    /// A destination of a shape that broadcasts to the scores', and its extents as four of them.
    pub(super) fn broadcast(view: ViewMut, role: &str, scores: [usize; 4]) -> Result<(Self, [usize; 4])> {
        let output = Output::<T>::new(OP, view)?;
        let layout = output.layout();
        let (mut extents, mut strides) = ([1; 4], [0; 4]);
        let missing = scores.len().checked_sub(layout.rank());
        for (i, (&extent, &stride)) in layout.shape().iter().zip(layout.strides()).enumerate() {
            if let Some(missing) = missing {
                (extents[missing + i], strides[missing + i]) = (extent, stride);
            }
        }
        let fits =
            missing.is_some() && extents.iter().zip(scores).all(|(&extent, whole)| extent == 1 || extent == whole);
        if !fits {
            let message = format!("{role} is {}, and does not broadcast to {scores:?}", layout.shape());
            return Err(Error::new(ErrorKind::Shape, OP, message));
        }
        Ok((Heads { start: output.start(), strides }, extents))
    }

    /// A destination `[H]`.
    pub(super) fn per_head(view: ViewMut, role: &str, heads: usize) -> Result<Self> {
        check::shape(OP, role, view.layout(), &[heads])?;
        let output = Output::<T>::new(OP, view)?;
        let stride = output.layout().strides().first().copied().unwrap_or(0);
        Ok(Heads { start: output.start(), strides: [0, stride, 0, 0] })
    }
}

impl<T: Raw> Heads<*mut T> {
    pub(super) fn new_mut(view: ViewMut, role: &str, shape: &[usize]) -> Result<Self> {
        check::shape(OP, role, view.layout(), shape)?;
        let output = Output::<T>::new(OP, view)?;
        Ok(Heads { start: output.start(), strides: strides(output.layout()) })
    }

    /// Rows from `first` on, to be written.
    pub(super) fn target(&self, b: usize, h: usize, first: usize) -> Target<T> {
        let [of_b, of_h, row, col] = self.strides;
        Target { start: self.start.wrapping_offset(offset([b, h, first], [of_b, of_h, row])), row, col }
    }
}

/// Dropout of weights, ready for use.
#[derive(Clone, Copy)]
pub(super) struct Gate {
    pub(super) key: [u32; 2],
    pub(super) threshold: u32,
    pub(super) factor: f64,
}

/// The operands.
pub(super) struct Problem<T: Element> {
    pub(super) batch: usize,
    pub(super) heads: usize,
    /// Key heads.
    pub(super) groups: usize,
    /// T.
    pub(super) queries: usize,
    /// S.
    pub(super) keys: usize,
    /// D.
    pub(super) dim: usize,
    /// D_v.
    pub(super) value_dim: usize,
    pub(super) q: Heads<*const T>,
    pub(super) k: Heads<*const T>,
    pub(super) v: Heads<*const T>,
    pub(super) scale: f64,
    /// Whether a product needs nothing but the scale to be a score: exponentials are taken of products then.
    pub(super) plain: bool,
    pub(super) gate: Option<Gate>,
    /// What becomes of a product; and its derivative by the product.
    pub(super) modifier: Option<[Modifier<T::Sum>; 2]>,
    /// Which biases are added behind it.
    pub(super) added: Vec<usize>,
    /// `[H]` each.
    pub(super) head_scalars: Vec<Vec<T::Sum>>,
    /// `[H]`
    pub(super) sinks: Option<Vec<T::Sum>>,
    biases: Vec<Heads<*const T>>,
    mask: Option<Heads<*const u8>>,
    /// Keys before padding, and keys of padding before the others, of each sequence.
    lengths: Option<Counts>,
    starts: Option<Counts>,
    segments: Option<Segments>,
    causal: bool,
    window: Option<usize>,
    /// Key position of query 0.
    first_position: isize,
}

impl<T: Element<Sum = A>, A: Sum> Problem<T> {
    pub(super) fn new(cpu: &CpuBackend, spec: &AttentionSpec, operands: &AttentionOperands) -> Result<Problem<T>> {
        let AttentionOperands { q, k, v, scale, mask, biases, scalars, head_scalars, sinks, dropout, .. } = *operands;
        let AttentionOperands { key_lengths, key_starts, segments, .. } = *operands;
        agree("mask", spec.mask == MaskKind::Boolean, mask.is_some())?;
        agree("key_lengths", spec.key_lengths, key_lengths.is_some())?;
        agree("key_starts", spec.key_starts, key_starts.is_some())?;
        agree("segments", spec.segments, segments.is_some())?;
        agree("sinks", spec.sinks, sinks.is_some())?;
        agree("dropout", spec.dropout, dropout.is_some())?;
        agree("biases", usize::from(spec.biases), biases.len())?;
        if let Some(dropout) = dropout {
            rules::dropout(check::operand(cpu, "q", q.layout(), q.dtype()), dropout.p)?;
        }
        let meta = |role, view: View<'_>| (role, *view.layout(), view.dtype());
        let shown = [meta("q", q), meta("k", k), meta("v", v)];
        let [mq, mk, mv] = [0, 1, 2].map(|i| check::operand(cpu, shown[i].0, &shown[i].1, shown[i].2));
        rules::attention(mq, mk, mv)?;
        let (qs, ks) = (*q.shape(), *k.shape());
        let [batch, heads, queries, dim] = [qs[0], qs[1], qs[2], qs[3]];
        let (groups, keys, value_dim) = (ks[1], ks[2], v.shape()[3]);
        let mask = match mask {
            Some(mask) if mask.dtype() != DType::Bool => {
                return Err(Error::new(ErrorKind::DType, OP, format!("mask is {}, expected bool", mask.dtype())));
            }
            Some(mask) => Some(Heads::new(mask, "mask", &[batch, heads, queries, keys])?),
            None => None,
        };
        let lengths = key_lengths.map(|lengths| Counts::new(lengths, "key_lengths", batch)).transpose()?;
        let starts = key_starts.map(|starts| Counts::new(starts, "key_starts", batch)).transpose()?;
        let segments = segments.map(|ids| Segments::new(ids, batch, [queries, keys])).transpose()?;
        let scores = [batch, heads, queries, keys];
        let added = |i: &usize| {
            let bias = ScoreExpr::Bias(*i as u8);
            !spec.modifier.as_ref().is_some_and(|modifier| modifier.names(&bias))
        };
        for leaf in spec.modifier.iter().flat_map(ScoreExpr::leaves) {
            let (i, count) = match *leaf {
                ScoreExpr::Scalar(i) => (i, scalars.len()),
                ScoreExpr::Bias(i) => (i, biases.len()),
                ScoreExpr::HeadScalar(i) => (i, head_scalars.len()),
                _ => continue,
            };
            if usize::from(i) >= count {
                let message = format!("the modifier names {leaf}, and there are {count} of them");
                return Err(Error::new(ErrorKind::Argument, OP, message)
                    .help("give a value for each leaf of the modifier; they are counted from 0"));
            }
        }
        let modifier = spec.modifier.as_ref().map(|modifier| {
            [modifier, &modifier.derivative(&ScoreExpr::Score)].map(|expression| Modifier::new(expression, scalars))
        });
        let added: Vec<usize> = (0..biases.len()).filter(added).collect();
        let plain = modifier.is_none() && added.is_empty() && scale > 0.0 && scale.is_finite();
        let gate = dropout.map(|Dropout { p, key }| {
            let (key, threshold) = (key.generator().key(), Philox::drop_threshold(p));
            Gate { key, threshold, factor: 1.0 / (1.0 - p) }
        });
        Ok(Problem {
            batch,
            heads,
            groups,
            queries,
            keys,
            dim,
            value_dim,
            q: Heads::new(q, "q", &qs)?,
            k: Heads::new(k, "k", &ks)?,
            v: Heads::new(v, "v", v.shape())?,
            scale,
            plain,
            gate,
            modifier,
            added,
            head_scalars: (head_scalars.iter().enumerate())
                .map(|(i, values)| per_head::<T>(*values, &format!("head_scalar {i}"), heads))
                .collect::<Result<_>>()?,
            sinks: sinks.map(|sinks| per_head::<T>(sinks, "sinks", heads)).transpose()?,
            biases: (biases.iter().enumerate())
                .map(|(i, bias)| Heads::new(*bias, &format!("bias {i}"), &scores))
                .collect::<Result<_>>()?,
            mask,
            lengths,
            starts,
            segments,
            causal: spec.causal != Causal::No,
            window: spec.window.map(|window| window as usize),
            first_position: match spec.causal {
                Causal::Yes(Alignment::TopLeft) => 0,
                _ => keys as isize - queries as isize,
            },
        })
    }

    /// Whether there is no score at all.
    pub(super) fn is_empty(&self) -> bool {
        self.batch == 0 || self.heads == 0 || self.queries == 0
    }

    /// What a score is in nats: 1, or the scale where scores are left as products.
    pub(super) fn nats(&self) -> f64 {
        if self.plain { self.scale } else { 1.0 }
    }

    /// What a score is in bits.
    pub(super) fn bits(&self) -> A {
        A::from_f64(self.nats() * std::f64::consts::LOG2_E)
    }

    /// `[B, H, T, S]`
    pub(super) fn scores(&self) -> [usize; 4] {
        [self.batch, self.heads, self.queries, self.keys]
    }

    /// Elements of scratch that a modifier's rows take: the products, and the stack.
    pub(super) fn modifier_len(&self) -> usize {
        if self.modifier.is_some() { (1 + modifier::DEEPEST) * KEYS } else { 0 }
    }

    /// Key position of a query.
    pub(super) fn position(&self, t: usize) -> isize {
        self.first_position + t as isize
    }

    /// A row of a bias; nothing is written behind its columns.
    ///
    /// # Safety
    ///
    /// The row is one of the scores.
    #[inline(always)]
    pub(super) unsafe fn bias_row(&self, i: usize, row: Row, to: &mut [A; KEYS]) {
        let (start, stride) = self.biases[i].at(row.b, row.h, row.t);
        let start = start.wrapping_offset(row.key as isize * stride);
        // SAFETY: by contract.
        unsafe {
            match stride {
                1 => (0..row.columns).for_each(|j| to[j] = (*start.wrapping_add(j)).widen()),
                _ => (0..row.columns).for_each(|j| to[j] = (*start.wrapping_offset(j as isize * stride)).widen()),
            }
        }
    }

    /// Query heads that share a key head.
    pub(super) fn group(&self) -> usize {
        self.heads / self.groups.max(1)
    }

    /// Blocks of keys.
    pub(super) fn key_blocks(&self) -> usize {
        self.keys.div_ceil(KEYS)
    }

    /// The keys of a sequence that are not padding.
    pub(super) fn present(&self, b: usize) -> Range<usize> {
        let of = |counts: &Option<Counts>, none: usize| counts.map_or(none, |counts| counts.at(b).min(self.keys));
        of(&self.starts, 0)..of(&self.lengths, self.keys)
    }

    /// Of some keys, those that are not padding, counted from the first.
    pub(super) fn present_in(&self, b: usize, keys: Range<usize>) -> Range<usize> {
        let Range { start, end } = self.present(b);
        let at = |key: usize| key.clamp(keys.start, keys.end) - keys.start;
        at(start)..at(end)
    }

    /// The keys that a query may see, but for the mask and for keys of other segments between those of its own.
    pub(super) fn visible(&self, b: usize, t: usize) -> Range<usize> {
        let [start, end] = self.ends(b, t);
        start..end.max(start)
    }

    /// The first key that a query may see, and the one behind the last; of a query that sees nothing the former may be behind
    /// the latter. Both rise with t, unless spans of segments fall.
    fn ends(&self, b: usize, t: usize) -> [usize; 2] {
        let position = self.position(t);
        let present = self.present(b);
        let (mut start, mut end) = (present.start as isize, present.end as isize);
        if self.causal {
            end = end.min(position + 1);
        }
        if let Some(window) = self.window {
            let window = isize::try_from(window).unwrap_or(isize::MAX);
            start = start.max(position.saturating_sub(window).saturating_add(1));
            end = end.min(position.saturating_add(window));
        }
        if let Some(segments) = &self.segments {
            let span = segments.span(b, t);
            (start, end) = (start.max(span.start as isize), end.min(span.end as isize));
        }
        [start, end].map(|end| end.clamp(0, self.keys as isize) as usize)
    }

    /// The keys that any of these queries may see.
    pub(super) fn visible_to(&self, b: usize, queries: Range<usize>) -> Range<usize> {
        if self.segments.as_ref().is_none_or(|segments| segments.rise(b)) {
            let ([start, _], [_, end]) = (self.ends(b, queries.start), self.ends(b, queries.end - 1));
            return start..end.max(start);
        }
        let all = queries.map(|t| self.visible(b, t)).filter(|keys| !keys.is_empty());
        all.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0)
    }

    /// Whether all of these queries see all of these keys, as far as it can be told without looking at each.
    pub(super) fn all_visible(&self, b: usize, queries: Range<usize>, keys: Range<usize>) -> bool {
        let (first, last) = (self.visible(b, queries.start), self.visible(b, queries.end - 1));
        // Both ends rise with the query.
        self.mask.is_none() && self.segments.is_none() && last.start <= keys.start && keys.end <= first.end
    }

    /// Whether a block of keys may have one of the segments of these queries.
    pub(super) fn meet(&self, b: usize, queries: Range<usize>, block: usize) -> bool {
        self.segments.as_ref().is_none_or(|segments| segments.meet(b, queries, block))
    }

    /// The segment of a query and those of all keys, where visible keys may be of others.
    pub(super) fn compared(&self, b: usize, t: usize) -> Option<(i64, &[i64])> {
        self.segments.as_ref()?.compared(b, t)
    }

    /// The row of the mask, and the stride from key to key.
    pub(super) fn mask_row(&self, b: usize, h: usize, t: usize) -> Option<(*const u8, isize)> {
        self.mask.as_ref().map(|mask| mask.at(b, h, t))
    }

    /// The number of a row of weights in the stream of dropout.
    pub(super) fn row_number(&self, b: usize, h: usize, t: usize) -> u64 {
        ((b * self.heads + h) * self.queries + t) as u64
    }
}

/// A number of keys for each sequence, i64.
#[derive(Clone, Copy)]
struct Counts {
    start: *const i64,
    stride: isize,
}

// SAFETY: shared to be read.
unsafe impl Sync for Counts {}

impl Counts {
    fn new(view: View, role: &str, batch: usize) -> Result<Counts> {
        check::shape(OP, role, view.layout(), &[batch])?;
        let input = Input::<i64>::new(OP, view)?;
        Ok(Counts { start: input.start(), stride: input.layout().strides().first().copied().unwrap_or(0) })
    }

    /// Of sequence b; a negative one counts as 0.
    fn at(&self, b: usize) -> usize {
        // SAFETY: the layout has an element for each sequence.
        let count = unsafe { *self.start.wrapping_offset(b as isize * self.stride) };
        usize::try_from(count).unwrap_or(0)
    }
}

/// A vector of values per head.
fn per_head<T: Element>(view: View, role: &str, heads: usize) -> Result<Vec<T::Sum>> {
    check::shape(OP, role, view.layout(), &[heads])?;
    let input = Input::<T>::new(OP, view)?;
    let stride = input.layout().strides().first().copied().unwrap_or(0);
    // SAFETY: the layout has an element for each head.
    Ok((0..heads).map(|h| unsafe { (*input.start().wrapping_offset(h as isize * stride)).widen() }).collect())
}

/// A table of whole numbers, `[rows, columns]`, row after row.
pub(super) fn table(view: View, role: &str, [rows, columns]: [usize; 2]) -> Result<Vec<i64>> {
    let numbers = Heads::<*const i64>::new(view, role, &[rows, columns])?;
    let mut all = room(rows.saturating_mul(columns))?;
    for row in 0..rows {
        // SAFETY: the layout has an element for each place.
        all.extend((0..columns).map(|column| unsafe { *numbers.rows(row, column, 0).start }));
    }
    Ok(all)
}

/// A list that takes so many elements, if there is memory: a view that repeats itself has any number of places.
pub(super) fn room<T>(len: usize) -> Result<Vec<T>> {
    let mut room = Vec::new();
    let full = |_| Error::new(ErrorKind::OutOfMemory, OP, format!("no memory for {len} entries of a table of ids"));
    room.try_reserve_exact(len).map_err(full)?;
    Ok(room)
}

/// What the specification says of an operand, and whether it is there.
fn agree<N: PartialEq + fmt::Display>(role: &str, specified: N, given: N) -> Result<()> {
    if specified == given {
        return Ok(());
    }
    let message = format!("specification and operands disagree on {role}: {specified} and {given}");
    Err(Error::new(ErrorKind::Argument, OP, message).help("what the specification names is given, and nothing else"))
}
