//! Random numbers by their place: the counter-based stream of [`Philox`], many blocks at a time.
//!
//! ```text
//! row = flat index over all axes but the last      column = index along the last      (a scalar: 0, 0)
//! words(row, first block): for each of 16 blocks, in its lane
//!     (c0, c2) = block, row; ten rounds of two 32 × 32 → 64-bit products and exclusive ors
//! ```
//!
//! A lane holds each of its four words in 64 bits: that is the form in which vector units multiply 32-bit numbers, and
//! only the words that are multiplied next need their upper halves cleared.

use crate::{
    CpuBackend,
    isa::{self, Kernel, Machine},
    nest::{Nest, Run, Runs},
    rows::{Floats, GRAIN, Tile, as_row, leading_axes},
};
use attentia_backend::{DType, Error, ErrorKind, Layout, Philox, Result, RngKey, ViewMut};
use std::ops::Range;

/// Blocks of four words that are made at a time.
const BLOCKS: usize = 16;
/// Words that are made at a time.
pub(crate) const WORDS: usize = 4 * BLOCKS;

/// The words of columns `4 · block .. 4 · block + 64` of a row.
#[inline(always)]
pub(crate) fn words(key: [u32; 2], row: u64, block: u64) -> [u32; WORDS] {
    const LOW: u64 = 0xffff_ffff;
    let (row_low, row_high) = (row & LOW, row >> 32);
    // Words 0 and 1 of a block in one number, 2 and 3 in the other.
    let (mut first, mut second) = ([0u64; BLOCKS], [0u64; BLOCKS]);
    for lane in 0..BLOCKS {
        let block = block.wrapping_add(lane as u64);
        let (mut c0, mut c1, mut c2, mut c3) = (block & LOW, block >> 32, row_low, row_high);
        let (mut k0, mut k1) = (key[0], key[1]);
        for _ in 0..10 {
            let (p0, p1) = ((c0 & LOW).wrapping_mul(0xd251_1f53), (c2 & LOW).wrapping_mul(0xcd9e_8d57));
            (c0, c2) = ((p1 >> 32) ^ c1 ^ k0 as u64, (p0 >> 32) ^ c3 ^ k1 as u64);
            (c1, c3) = (p1, p0);
            (k0, k1) = (k0.wrapping_add(0x9e37_79b9), k1.wrapping_add(0xbb67_ae85));
        }
        first[lane] = (c0 & LOW) | (c1 << 32);
        second[lane] = (c2 & LOW) | (c3 << 32);
    }
    let mut pairs = [0u64; 2 * BLOCKS];
    for lane in 0..BLOCKS {
        pairs[2 * lane] = first[lane].to_le();
        pairs[2 * lane + 1] = second[lane].to_le();
    }
    bytemuck::cast::<[u64; 2 * BLOCKS], [u32; WORDS]>(pairs).map(u32::from_le)
}

/// Rows of a logical shape in pieces of at most [`PIECE`] columns, each with the place of its elements in a stream.
pub(crate) struct Places<const N: usize> {
    nest: Nest<N>,
    column_strides: [isize; N],
    columns: usize,
    pieces: usize,
}

/// Columns in a piece: whole blocks.
const PIECE: usize = crate::rows::PIECE;

impl<const N: usize> Places<N> {
    /// The places of operands of one shape; operand 0 is the row number itself. `None` when there are no elements.
    pub(crate) fn new(layouts: [&Layout; N]) -> Option<Places<N>> {
        let mut rows = layouts.map(as_row);
        if rows[0].count() == 0 {
            return None;
        }
        let column_strides = rows.map(|l| if l.shape().last() == Some(&1) { 1 } else { l.strides()[l.rank() - 1] });
        let columns = rows[0].shape().last().copied().unwrap_or(1);
        rows = rows.map(|l| leading_axes(&l));
        rows[0] = Layout::contiguous(*rows[0].shape());
        let nest = Nest::new(rows.each_ref());
        Some(Places { nest, column_strides, columns, pieces: columns.div_ceil(PIECE) })
    }

    /// Number of pieces.
    pub(crate) fn len(&self) -> usize {
        self.nest.count() * self.pieces
    }

    /// Pieces in a task.
    pub(crate) fn grain(&self) -> usize {
        (GRAIN / self.columns.min(PIECE)).max(1)
    }

    /// The pieces of `range`.
    #[inline(always)]
    pub(crate) fn pieces(&self, range: Range<usize>) -> Pieces<'_, N> {
        let row = range.start / self.pieces;
        let runs = self.nest.runs(row..range.end.div_ceil(self.pieces));
        Pieces { places: self, runs, run: None, in_run: 0, row, piece: range.start % self.pieces, left: range.len() }
    }
}

/// Some columns of a row.
pub(crate) struct Piece<const N: usize> {
    /// Number of the row.
    pub(crate) row: u64,
    /// The first column.
    pub(crate) first: usize,
    /// Where they lie in each operand.
    pub(crate) tiles: [Tile; N],
}

/// The pieces of a range.
pub(crate) struct Pieces<'a, const N: usize> {
    places: &'a Places<N>,
    runs: Runs<'a, N>,
    /// The rows that the next piece is one of, and which of them.
    run: Option<Run<N>>,
    in_run: usize,
    /// The same row's number among all, and the next piece in it.
    row: usize,
    piece: usize,
    /// Pieces still to come.
    left: usize,
}

impl<const N: usize> Iterator for Pieces<'_, N> {
    type Item = Piece<N>;

    #[inline(always)]
    fn next(&mut self) -> Option<Piece<N>> {
        if self.left == 0 {
            return None;
        }
        if self.run.is_none_or(|run| self.in_run == run.len) {
            self.run = self.runs.next();
            self.in_run = 0;
        }
        let (places, offsets, row) = (self.places, self.run?.at(self.in_run), self.row as u64);
        let first = self.piece * PIECE;
        let columns = PIECE.min(places.columns - first);
        self.left -= 1;
        self.piece += 1;
        if self.piece == places.pieces {
            self.piece = 0;
            self.row += 1;
            self.in_run += 1;
        }
        let tiles = std::array::from_fn(|n| Tile {
            offset: offsets[n] + first as isize * places.column_strides[n],
            rows: 1,
            row_stride: 0,
            columns,
            column_stride: if columns == 1 { 1 } else { places.column_strides[n] },
        });
        Some(Piece { row, first, tiles })
    }
}

pub(crate) fn uniform(cpu: &CpuBackend, key: RngKey, low: f64, high: f64, out: ViewMut) -> Result<()> {
    if low > high || !(high - low).is_finite() {
        return Err(Error::new(ErrorKind::Argument, "uniform", format!("no numbers in [{low}, {high})")));
    }
    let coarse = out.dtype() != DType::F64;
    draw(cpu, "uniform", key, Uniform { low, span: high - low, coarse }, out)
}

pub(crate) fn normal(cpu: &CpuBackend, key: RngKey, mean: f64, deviation: f64, out: ViewMut) -> Result<()> {
    if !mean.is_finite() || !(0.0..f64::INFINITY).contains(&deviation) {
        let what = format!("mean is {mean} and deviation {deviation}");
        return Err(Error::new(ErrorKind::Argument, "normal", what));
    }
    draw(cpu, "normal", key, Normal { mean, deviation }, out)
}

/// How words become numbers.
trait Distribution: Copy + Sync {
    fn numbers(&self, words: &[u32; WORDS], to: &mut [f64; WORDS]);
}

#[derive(Clone, Copy)]
struct Uniform {
    low: f64,
    span: f64,
    /// On the grid that f32 holds, for every dtype but f64.
    coarse: bool,
}

impl Distribution for Uniform {
    #[inline(always)]
    fn numbers(&self, words: &[u32; WORDS], to: &mut [f64; WORDS]) {
        for (to, &word) in to.iter_mut().zip(words) {
            let unit = if self.coarse { Philox::unit_f32(word) as f64 } else { Philox::unit_f64(word) };
            *to = self.low + unit * self.span;
        }
    }
}

#[derive(Clone, Copy)]
struct Normal {
    mean: f64,
    deviation: f64,
}

impl Distribution for Normal {
    #[inline(always)]
    fn numbers(&self, words: &[u32; WORDS], to: &mut [f64; WORDS]) {
        let (blocks, _) = words.as_chunks::<4>();
        let (quads, _) = to.as_chunks_mut::<4>();
        for (quad, &block) in quads.iter_mut().zip(blocks) {
            *quad = Philox::normals(block).map(|z| self.mean + self.deviation * z);
        }
    }
}

fn draw<D: Distribution>(cpu: &CpuBackend, op: &'static str, key: RngKey, numbers: D, out: ViewMut) -> Result<()> {
    // Computed in f64 and rounded once to any dtype.
    let out = Floats::<f64>::output(op, out)?;
    let Some(places) = Places::new([out.layout(), out.layout()]) else { return Ok(()) };
    let key = key.generator().key();
    cpu.threads.chunks(places.len(), places.grain(), |range| {
        isa::run(cpu.isa, Draw { key, numbers, places: &places, range, out });
    });
    Ok(())
}

/// Some pieces of a destination.
struct Draw<'a, D> {
    key: [u32; 2],
    numbers: D,
    places: &'a Places<2>,
    range: Range<usize>,
    out: Floats<'a, f64>,
}

impl<D: Distribution> Kernel for Draw<'_, D> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Draw { key, numbers, places, range, out } = self;
        let mut scratch = [0.0; PIECE];
        for Piece { row, first, tiles: [_, tile] } in places.pieces(range) {
            for at in (0..tile.columns).step_by(WORDS) {
                let words = words(key, row, ((first + at) / 4) as u64);
                let (groups, _) = scratch[at..].as_chunks_mut::<WORDS>();
                if let Some(group) = groups.first_mut() {
                    numbers.numbers(&words, group);
                }
            }
            let to = out.place(tile, scratch.as_mut_ptr()).row(0);
            // SAFETY: the places stay within the layout; tasks have different pieces.
            unsafe {
                if to != scratch.as_mut_ptr() {
                    std::ptr::copy_nonoverlapping(scratch.as_ptr(), to, tile.columns);
                }
                out.store::<M>(tile, scratch.as_mut_ptr());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{Lie, Sample, check};
    use attentia_backend::Backend;

    #[test]
    fn words_are_those_of_the_generator() {
        let generator = RngKey::new(3).path("x").generator();
        for (row, block) in [(0, 0), (1, 16), (u64::MAX, 1 << 33), (1 << 32, (1 << 32) - 3), (7, u64::MAX - 5)] {
            let made = words(generator.key(), row, block);
            for (i, four) in made.as_chunks::<4>().0.iter().enumerate() {
                assert_eq!(*four, generator.block(row, block.wrapping_add(i as u64)));
            }
        }
    }

    #[test]
    fn agree_with_the_oracle() {
        for dtype in DType::FLOATS {
            for lie in Lie::WRITABLE {
                for extents in [&[][..], &[0], &[1], &[3, 5, 7], &[4, 67], &[2, 0], &[1030], &[70, 3]] {
                    check(&format!("random {dtype} {lie:?} {extents:?}"), |b| {
                        let [mut uniform, mut normal] = [0; 2].map(|_| Sample::room(b, dtype, extents, lie));
                        b.uniform(RngKey::new(4), -1.0, 3.0, uniform.view_mut()).unwrap();
                        b.normal(RngKey::new(4).call(1), 1.0, 2.0, normal.view_mut()).unwrap();
                        vec![uniform, normal]
                    });
                }
            }
        }
        let parallel = check("large", |b| {
            let mut out = Sample::room(b, DType::F32, &[3, 20_000], Lie::Contiguous);
            b.uniform(RngKey::new(4), 0.0, 1.0, out.view_mut()).unwrap();
            vec![out]
        });
        assert!(parallel > 0);
    }

    #[test]
    fn nonsense_is_refused() {
        let cpu = CpuBackend::new(1).unwrap();
        let mut out = Sample::room(&cpu, DType::F32, &[2], Lie::Contiguous);
        for (low, high) in [(1.0, 0.0), (0.0, f64::INFINITY), (f64::NAN, 1.0)] {
            let error = cpu.uniform(RngKey::new(0), low, high, out.view_mut()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Argument);
        }
        for (mean, deviation) in [(0.0, -1.0), (f64::NAN, 1.0), (0.0, f64::INFINITY)] {
            assert!(cpu.normal(RngKey::new(0), mean, deviation, out.view_mut()).is_err());
        }
        let mut whole = Sample::room(&cpu, DType::I64, &[2], Lie::Contiguous);
        assert_eq!(cpu.normal(RngKey::new(0), 0.0, 1.0, whole.view_mut()).unwrap_err().kind(), ErrorKind::DType);
    }
}
