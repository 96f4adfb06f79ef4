//! One product, or one block of one, on one thread.
//!
//! ```text
//! loop 4   for pc in 0..K step KC                 KC: a panel of B stays in L2
//! loop 3     (M and N were cut by the schedule, so that a panel of A per tile comes from L2)
//!            pack A[.., pc..] into panels         unless it is packed already or can be read in place
//! loop 2     for jr in 0..N step NR
//!              pack B[pc.., jr..] into a panel    unless it is packed already or can be read in place
//! loop 1       for ir in 0..M step MR
//!                tile                             tile.rs
//! ```
//!
//! Loop names are those of the BLIS papers (Van Zee and van de Geijn, 2015). Loop 5 (over N) is the schedule's.
//!
//! A destination that is not made of contiguous rows of sums (16-bit, or strided), or that has to keep what it holds until the
//! end, is computed in scratch and written once, rounded once.

use super::{
    element::Element,
    epilogue::Epilogue,
    kernel::{Dot, Kernels, Pack, THIN, Tile},
    portable,
    soon::{Ahead, Soon},
};
use std::{mem::MaybeUninit, ops::Range};

/// Most steps along K between two visits to C: a panel of B of 32 f32 columns takes 64 KiB.
///
/// It does not fit in L1, and need not: a step takes 14 cycles and two lines of B, which L2 gives in time. Half of it, which
/// fits, visits C twice for the widths of common models: 512 × 2048, K 512 takes a fifth longer (docs/src/measurements.md).
pub(super) const KC: usize = 512;

/// Bytes after which addresses fall into the same set of the L1 cache.
const WAY: usize = 4096;

/// Tiles that read a panel so seldom that packing it does not pay.
const FEW_TILES: usize = 5;

/// Elements of the largest tile, 14 rows of 32 f32.
pub(crate) const LARGEST_TILE: usize = 14 * 32;

/// Room for a tile.
#[repr(align(64))]
struct Buffer<S>([S; LARGEST_TILE]);

/// Steps that all panels are packed for before the next ones. As many lines may fall into one set of the L1 cache.
const FEW_STEPS: usize = 8;

/// Rows of A or columns of B ("lanes"), and the way along K.
#[derive(Clone, Copy)]
pub(crate) struct Operand<T> {
    pub(crate) start: *const T,
    /// To the next row of A, or column of B.
    pub(crate) lane: isize,
    /// To the next element along K.
    pub(crate) step: isize,
}

impl<T> Operand<T> {
    /// From another row (of A) or column (of B), and another place along K.
    pub(crate) fn at(self, lane: usize, step: usize) -> Operand<T> {
        let offset = lane as isize * self.lane + step as isize * self.step;
        Operand { start: self.start.wrapping_offset(offset), ..self }
    }

    /// Bytes from one line of memory to the next, when either lanes or steps are contiguous.
    fn pitch(&self) -> usize {
        self.lane.unsigned_abs().max(self.step.unsigned_abs()).saturating_mul(size_of::<T>())
    }
}

/// Where a product goes.
#[derive(Clone, Copy)]
pub(crate) struct Target<O> {
    pub(crate) start: *mut O,
    pub(crate) row: isize,
    pub(crate) col: isize,
}

impl<O: Element> Target<O> {
    /// From another element.
    pub(crate) fn at(self, row: usize, col: usize) -> Target<O> {
        let offset = row as isize * self.row + col as isize * self.col;
        Target { start: self.start.wrapping_offset(offset), ..self }
    }

    /// What it holds, to be read: lanes are rows.
    pub(crate) fn as_operand(self) -> Operand<O> {
        Operand { start: self.start.cast_const(), lane: self.row, step: self.col }
    }

    /// As contiguous rows of sums, if that is what it is.
    pub(crate) fn sums(self) -> Option<Target<O::Sum>> {
        (O::IS_SUM && self.col == 1).then_some(Target { start: self.start.cast(), row: self.row, col: 1 })
    }
}

// SAFETY: the pointers are those of views that outlive the loops which share them; tasks write disjoint parts of C.
unsafe impl<T: Sync> Sync for Operand<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Target<T> {}

/// `C = then(A · B)` for `A [m, k]`, `B [k, n]`.
#[derive(Clone, Copy)]
pub(crate) struct Product<T, O> {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) a: Operand<T>,
    pub(crate) b: Operand<T>,
    pub(crate) c: Target<O>,
    /// What sums start from, and what becomes of them.
    pub(crate) then: Epilogue<O>,
}

impl<T: Element, O: Element> Product<T, O> {
    /// The product with the roles of rows and columns exchanged: `Cᵀ = then(Bᵀ · Aᵀ)`.
    pub(crate) fn swap(self) -> Product<T, O> {
        let c = Target { row: self.c.col, col: self.c.row, ..self.c };
        Product { m: self.n, n: self.m, a: self.b, b: self.a, c, then: self.then.swap(), ..self }
    }

    /// Rows and columns `[m0, m0 + m)` × `[n0, n0 + n)`.
    pub(crate) fn window(self, m0: usize, m: usize, n0: usize, n: usize) -> Product<T, O> {
        let then = self.then.at(m0, n0);
        Product { m, n, a: self.a.at(m0, 0), b: self.b.at(n0, 0), c: self.c.at(m0, n0), then, ..self }
    }

    /// C as contiguous rows of sums, if that is what it is and if it may hold them before they are complete.
    pub(crate) fn sums(&self) -> Option<Target<O::Sum>> {
        self.c.sums().filter(|_| self.then.allows_sums())
    }

    /// Multiply-adds.
    pub(crate) fn work(&self) -> usize {
        self.m.saturating_mul(self.n).saturating_mul(self.k)
    }
}

/// An operand as the loops read it.
#[derive(Clone, Copy)]
pub(crate) enum Side<T, S> {
    /// In place; `T` is `S`, lanes of B are contiguous.
    Direct(Operand<S>),
    /// In panels, as [`tiles`] reads them: for each piece of K, panel after panel. `lanes` counts all of them, with padding.
    Packed { start: *const S, lanes: usize },
    /// To be packed when it is needed.
    Raw(Operand<T>),
}

// SAFETY: as for `Operand`.
unsafe impl<T: Element, S: Element> Sync for Side<T, S> {}

/// Steps along K between two visits to C: equal parts of at most `KC`.
pub(crate) fn depth(k: usize) -> usize {
    k.div_ceil(k.div_ceil(KC).max(1))
}

/// First row of panel `i` of `count`, which share `m` rows as evenly as possible.
pub(crate) fn first_row(i: usize, count: usize, m: usize) -> usize {
    i * m / count
}

/// Elements of scratch that [`product`] needs; enough for any smaller product too.
pub(crate) fn scratch_len<T: Element, O: Element>(kernels: Option<&Kernels<T>>, m: usize, n: usize, k: usize) -> usize {
    match kernels {
        Some(kernels) => {
            let deepest = k.min(KC);
            m * n + (m * deepest + panel_len(kernels, deepest)).max(m.min(THIN) * k)
        }
        None => portable::scratch_len(m, n, k),
    }
}

/// Elements of a panel of B.
pub(crate) fn panel_len<T: Element>(kernels: &Kernels<T>, k: usize) -> usize {
    2 * kernels.lanes * k
}

/// Whether tiles may read A in place: contiguous one way, not read often enough to be worth packing, and rows that don't
/// fall into one set of the cache.
pub(crate) fn a_in_place<T: Element>(kernels: &Kernels<T>, a: &Operand<T>, n: usize) -> bool {
    let few = n <= FEW_TILES * 2 * kernels.lanes;
    T::IS_SUM && (a.step == 1 || a.lane == 1) && few && !a.pitch().is_multiple_of(WAY)
}

/// Whether tiles may read B in place: contiguous columns, in whole registers, that are not read often enough to be worth
/// packing.
pub(crate) fn b_in_place<T: Element>(kernels: &Kernels<T>, b: &Operand<T>, m: usize, n: usize, k: usize) -> bool {
    let few = m <= FEW_TILES * kernels.rows;
    let small = n.saturating_mul(k) * size_of::<T>() <= 16 << 10;
    let whole = n.is_multiple_of(kernels.lanes);
    T::IS_SUM && b.lane == 1 && whole && (few || small) && !b.pitch().is_multiple_of(WAY)
}

/// Computes one product.
///
/// # Safety
///
/// Operands and target are valid for the extents, nobody else touches the target; `scratch` holds [`scratch_len`]
/// elements and is nobody else's; the processor has the kernels' instruction set.
pub(crate) unsafe fn product<T: Element, O: Element<Sum = T::Sum>>(
    kernels: Option<&Kernels<T>>,
    x: &Product<T, O>,
    scratch: *mut T::Sum,
) {
    if x.m == 0 || x.n == 0 {
        return;
    }
    // SAFETY: scratch is cut into parts that `scratch_len` has counted; the rest is the caller's contract.
    unsafe {
        let Some(kernels) = kernels else { return portable::product(x, scratch) };
        let (c, then, rest) = match x.sums() {
            Some(sums) => (sums, x.then.of_sums(), scratch),
            None => {
                let sums = Target { start: scratch, row: x.n as isize, col: 1 };
                (sums, Epilogue::NONE, scratch.wrapping_add(x.m * x.n))
            }
        };
        let inner = Product { m: x.m, n: x.n, k: x.k, a: x.a, b: x.b, c, then };
        if x.m <= THIN && (x.b.step == 1 || x.b.lane == 1) {
            thin(kernels, &inner, rest);
            if !then.only_starts() {
                then.without_start().finish(c.start, c.row, x.m, x.n, c);
            }
        } else {
            let a = if a_in_place(kernels, &x.a, x.n) { direct(x.a) } else { Side::Raw(x.a) };
            let b = if b_in_place(kernels, &x.b, x.m, x.n, x.k) { direct(x.b) } else { Side::Raw(x.b) };
            tiles(kernels, &inner, a, b, &Visits { near: false, terms: KC }, &Soon::nothing(), rest);
        }
        if x.sums().is_none() {
            x.then.finish(c.start, c.row, x.m, x.n, x.c);
        }
    }
}

/// An operand of sums, read in place.
pub(crate) fn direct<T: Element>(x: Operand<T>) -> Side<T, T::Sum> {
    Side::Direct(Operand { start: x.start.cast(), lane: x.lane, step: x.step })
}

/// Packs panels: lane `l` of a panel that begins at lane `l0` goes to `to[l0 · k + p · width + l - l0]`. Lanes from
/// `lanes` on are padding.
///
/// Neighbours along a contiguous axis share lines of memory, and whoever reads on finds the next ones in L2 already: a few
/// steps of all panels are packed before the next.
///
/// # Safety
///
/// `x` is valid for lanes and `k` steps, `to` for all panels; the processor has the kernels' instruction set.
pub(crate) unsafe fn pack<T: Element>(
    kernels: &Kernels<T>,
    x: Operand<T>,
    lanes: usize,
    panels: impl Iterator<Item = Range<usize>> + Clone,
    k: usize,
    to: *mut T::Sum,
) {
    let few = if x.lane == 1 { FEW_STEPS } else { k.max(1) };
    for p in (0..k).step_by(few) {
        for panel in panels.clone() {
            let (from, pitch) = (x.at(panel.start, p), panel.len());
            let to = to.wrapping_add(panel.start * k + p * pitch);
            let (lane, step, width) = (from.lane, from.step, lanes.min(panel.end) - panel.start);
            let strip = Pack { from: from.start, lane, step, width, k: few.min(k - p), to, pitch };
            // SAFETY: the caller's contract; each strip has lanes and steps of its own, and so has what it goes to.
            unsafe { (kernels.pack)(&strip) };
        }
    }
}

/// How [`tiles`] visits C.
pub(crate) struct Visits {
    /// Whether C is in the cache already.
    pub(crate) near: bool,
    /// Steps that a tile adds up at most before it visits C: the fewer, the smaller the error of a long sum.
    pub(crate) terms: usize,
}

/// Loops 4, 2 and 1. What the product says of A and B is not read. Tiles prefetch what waits in `soon`, and what is packed next
/// here before it.
///
/// # Safety
///
/// As [`product`]'s; `scratch` holds the panels of what is `Raw`.
pub(crate) unsafe fn tiles<T: Element>(
    kernels: &Kernels<T>,
    x: &Product<T, T::Sum>,
    a: Side<T, T::Sum>,
    b: Side<T, T::Sum>,
    visits: &Visits,
    soon: &Soon,
    scratch: *mut T::Sum,
) {
    let width = 2 * kernels.lanes;
    let panels = x.m.div_ceil(kernels.rows);
    let rows = |i: usize| first_row(i, panels, x.m)..first_row(i + 1, panels, x.m);
    let depth = depth(x.k);
    let a_len = if let Side::Raw(_) = a { x.m * depth } else { 0 };
    let (a_scratch, b_scratch) = (scratch, scratch.wrapping_add(a_len));
    // Where something follows the sums, a tile's go there first.
    let mut buffer = MaybeUninit::<Buffer<T::Sum>>::uninit();
    let buffer: *mut T::Sum = buffer.as_mut_ptr().cast();
    let (start, ends) = (x.then.start(), !x.then.only_starts());
    let mut ahead = Ahead::nothing();
    // What is pushed from here on is forgotten when it has been packed.
    let of_caller = soon.len();
    let mut pc = 0;
    while pc < x.k {
        let kc = depth.min(x.k - pc);
        let is_last = pc + kc == x.k;
        if let Side::Raw(a) = a {
            // SAFETY: panels of A, and their own part of scratch.
            unsafe { pack(kernels, a.at(0, pc), x.m, (0..panels).map(rows), kc, a_scratch) };
            soon.truncate(of_caller);
            if !is_last {
                soon.ask(a.at(0, pc + kc), x.m, depth.min(x.k - pc - kc));
            }
        }
        let without_b = soon.len();
        for jr in (0..x.n).step_by(width) {
            let cols = width.min(x.n - jr);
            let (b, b_k) = match b {
                Side::Direct(b) => (b.at(jr, pc).start, b.step),
                Side::Packed { start, lanes } => (start.wrapping_add(lanes * pc + jr * kc), width as isize),
                Side::Raw(b) => {
                    soon.truncate(without_b);
                    if jr + width < x.n {
                        soon.ask(b.at(jr + width, pc), width.min(x.n - jr - width), kc);
                    } else if !is_last {
                        soon.ask(b.at(0, pc + kc), width.min(x.n), kc);
                    }
                    let from = b.at(jr, pc);
                    let (lane, step, to, pitch) = (from.lane, from.step, b_scratch, width);
                    let strip = Pack { from: from.start, lane, step, width: cols, k: kc, to, pitch };
                    // SAFETY: `cols` columns of B, and the part of scratch for one panel.
                    unsafe { (kernels.pack)(&strip) };
                    (b_scratch.cast_const(), width as isize)
                }
            };
            let mut r0 = 0;
            for i in 0..panels {
                let high = first_row(i + 1, panels, x.m) - r0;
                let panel = |start: *const T::Sum| (start, 1, high as isize, kernels.panels);
                let (mut a, a_row, a_k, kernels_of_a) = match a {
                    Side::Direct(a) => (a.at(r0, pc).start, a.lane, a.step, kernels.free),
                    Side::Packed { start, lanes } => panel(start.wrapping_add(lanes * pc + r0 * kc)),
                    Side::Raw(_) => panel(a_scratch.wrapping_add(r0 * kc).cast_const()),
                };
                let mut b = b;
                let kernel = kernels_of_a[high - 1][usize::from(cols > kernels.lanes)];
                let target = x.c.at(r0, jr);
                let sums = target.as_operand();
                // What sums start from: those of the steps before.
                let mut before = if pc > 0 { Some(sums) } else { start.map(|start| start.at(r0, jr)) };
                ahead.clear();
                if !visits.near {
                    let end = if ends && is_last { Some(x.then.at(r0, jr)) } else { None };
                    ahead.visit(sums, before, end, [high, cols]);
                }
                let mut left = kc;
                while left > 0 {
                    let k = left.min(visits.terms);
                    left -= k;
                    if let Some(lines) = soon.take(k.saturating_sub(ahead.all())) {
                        ahead.push(lines);
                    }
                    let is_end = ends && is_last && left == 0;
                    let (c, c_row) = if is_end { (buffer, width as isize) } else { (target.start, target.row) };
                    let (add, Operand { start: from, lane: from_row, .. }) = (before.is_some(), before.unwrap_or(sums));
                    let lines = ahead.lines();
                    // SAFETY: the tile lies within the operands and C, or the buffer, which has room for `LARGEST_TILE`.
                    unsafe {
                        kernel(&Tile { k, a, a_row, a_k, b, b_k, c, c_row, cols, from, from_row, add, ahead: lines });
                        if is_end {
                            x.then.at(r0, jr).without_start().finish(buffer, c_row, high, cols, target);
                        }
                    }
                    (a, b) = (a.wrapping_offset(k as isize * a_k), b.wrapping_offset(k as isize * b_k));
                    before = Some(sums);
                    ahead.clear();
                }
                r0 += high;
            }
        }
        pc += kc;
    }
}

/// A few rows: B is read once, in place, along whichever axis it is contiguous.
///
/// # Safety
///
/// As [`product`]'s; m ≤ [`THIN`], B is contiguous one way; `scratch` holds `m · k` elements.
unsafe fn thin<T: Element>(kernels: &Kernels<T>, x: &Product<T, T::Sum>, scratch: *mut T::Sum) {
    let (a, a_row) = if T::IS_SUM && x.a.step == 1 {
        (x.a.start.cast(), x.a.lane)
    } else {
        let (from, lane, step) = (x.a.start, x.a.step, x.a.lane);
        let rows = Pack { from, lane, step, width: x.k, k: x.m, to: scratch, pitch: x.k };
        // SAFETY: rows of A, each packed as one step whose lanes run along K.
        unsafe { (kernels.pack)(&rows) };
        (scratch.cast_const(), x.k as isize)
    };
    // SAFETY: the caller's contract.
    unsafe { rows_of_sums(kernels, x, a, a_row) };
}

/// The same for rows of A that are sums, whatever B is of. What the product says of A is not read.
///
/// # Safety
///
/// As [`product`]'s; m ≤ [`THIN`], B is contiguous one way; there are m rows of K sums.
pub(crate) unsafe fn rows_of_sums<T: Element>(
    kernels: &Kernels<T>,
    x: &Product<T, T::Sum>,
    a: *const T::Sum,
    a_row: isize,
) {
    let kernel = &kernels.thin[x.m - 1];
    // Where sums start in the columns from `j` on, and whether they do.
    let start = |j: usize| match x.then.start() {
        Some(start) => (true, start.at(0, j)),
        None => (false, Operand { start: x.c.start.cast_const(), lane: 0, step: 0 }),
    };
    if x.b.step == 1 && (x.b.lane != 1 || x.n == 1) {
        for j in (0..x.n).step_by(kernel.columns) {
            let (b, c, cols) = (x.b.at(j, 0), x.c.at(0, j), kernel.columns.min(x.n - j));
            let (b_col, c_row, c_col) = (b.lane, c.row, c.col);
            let (add, from) = start(j);
            let (from, from_row, from_col) = (from.start, from.lane, from.step);
            let dots = Dot {
                k: x.k,
                a,
                a_row,
                b: b.start,
                b_col,
                c: c.start,
                c_row,
                c_col,
                cols,
                from,
                from_row,
                from_col,
                add,
            };
            // SAFETY: `cols` columns of B, contiguous along K, and of C.
            unsafe { (kernel.dot)(&dots) };
        }
        return;
    }
    let mut j = 0;
    while j < x.n {
        let left = x.n - j;
        let (wide, widest) = kernel.tile(left.div_ceil(kernels.lanes));
        let cols = left.min(wide * kernels.lanes);
        let (b, c) = (x.b.at(j, 0), x.c.at(0, j));
        let (b_k, c_row) = (b.step, c.row);
        let (add, from) = start(j);
        let (from, from_row, c, ahead) = (from.start, from.lane, c.start, &[][..]);
        let tile = Tile { k: x.k, a, a_row, a_k: 1, b: b.start, b_k, c, c_row, cols, from, from_row, add, ahead };
        // SAFETY: `cols` contiguous columns of B and C.
        unsafe { widest(&tile) };
        j += cols;
    }
}

/// Elements that are rounded at a time.
const CHUNK: usize = 64;

/// Writes `m` rows of `n` sums that lie `pitch` apart.
///
/// # Safety
///
/// `from` and `c` are valid for the extents.
pub(crate) unsafe fn finish<O: Element>(from: *const O::Sum, pitch: usize, m: usize, n: usize, c: Target<O>) {
    for i in 0..m {
        let row = from.wrapping_add(i * pitch);
        let mut j = 0;
        while j < n {
            let len = CHUNK.min(n - j);
            let mut sums = [O::Sum::default(); CHUNK];
            let c = c.at(i, j);
            // SAFETY: by contract `len` elements of the row and of C's row exist.
            unsafe {
                std::ptr::copy_nonoverlapping(row.wrapping_add(j), sums.as_mut_ptr(), len);
                if c.col == 1 {
                    O::narrow(&sums[..len], std::slice::from_raw_parts_mut(c.start, len));
                } else {
                    let mut out = [*c.start; CHUNK];
                    O::narrow(&sums[..len], &mut out[..len]);
                    for (l, y) in out[..len].iter().enumerate() {
                        *c.start.wrapping_offset(l as isize * c.col) = *y;
                    }
                }
            }
            j += len;
        }
    }
}
