//! The micro-kernels: what runs inside the innermost two loops.
//!
//! ```text
//! tile  C[R, 16·V] (+)= A[R, k] · B[k, 16·V]            16: lanes of a register
//!         acc[R][V] = 0                                 stays in registers
//!         for p in 0..k:
//!             b[V]  = B[p, ..]                          V loads
//!             for i in 0..R:
//!                 a = A[i, p] in every lane             1 load
//!                 acc[i][..] += a · b[..]               V fused multiply-adds
//!         C (+)= acc
//!
//! dot   C[R, J] (+)= A[R, k] · B[J, k]ᵀ                 both run along k: nothing is transposed
//!         acc[R][J] = 0
//!         for p in 0..k step 16:
//!             for j in 0..J: acc[..][j] += A[.., p..p+16] · B[j, p..p+16]      lane by lane
//!         C (+)= sum of the lanes of acc
//!       where columns are short, j is the outer loop and p the inner one; the sums are the same
//! ```
//!
//! | kernel | accumulators | b | a | of | why |
//! |---|---|---|---|---|---|
//! | AVX-512 tile 14 × 2 | 28 | 2 | 1 | 32 | 16 to 23 loads feed 28 multiply-adds: two units of each run at full rate with loads to spare |
//! | AVX2 tile 6 × 2 | 12 | 2 | 1 | 16 | 8 loads for 12 |
//! | AVX-512 wide tile 1 × 16, 2 × 12, 3 × 8, 4 × 6 | 16 to 24 | 1 | 1 | 32 | a thin A: B is read once, in pieces as long as possible; narrower ones for the rest |
//!
//! 1. Multiply-adds take 4 cycles and two start in each, so 8 accumulators are the least that keep the units busy; tiles
//!    of fewer rows, at the lower edge, have enough from 4 × 2 on. There is a kernel for every R, and the schedule cuts
//!    a matrix into panels of nearly equal height, so that no rows of zeros are multiplied.
//! 2. A is read from a packed panel (strides 1 and R), where the place of a row is part of the instruction, or in place
//!    with two strides, where rows are addresses, not additions ([`odd_multiples`]).
//!    From a panel the lower half of the rows is broadcast by the AVX-512 multiply-adds themselves, twice instead of
//!    once: 7 instructions of 47 less. A core that two threads share starts about three a cycle for each of them, and
//!    then 14 cycles are too short for 47. It saves 3 to 6 % on a busy Xeon (docs/src/measurements.md).
//! 3. B is read in whole registers; the last one of a thin tile is masked, and a masked load takes a slot of a
//!    multiply-add on Intel's processors. No kernel reads or writes outside of the operands.
//! 4. C is touched once, at the end; unless a cache has it, it is prefetched while the sums are made, a line in each step, and
//!    then what is read after this tile: a core waits for some twenty lines at once, and behind all of them together what is
//!    multiplied would wait too.
//! 5. A masked store of AVX2 takes a dozen cycles on AMD's processors up to Zen 3, so it is the exception: for the last
//!    register of a row of C where it is not full, and for the end of a packed strip. Before its end a strip is written in
//!    whole registers, and the next steps write over what was too much.

use super::{
    block::LARGEST_TILE,
    element::Element,
    kernel::{Dot, Kernels, Pack, Thin, Tile, TileFn},
    vector::{Load, Vector},
};
use std::{
    arch::{
        asm,
        x86_64::{_MM_HINT_T0, _mm_prefetch},
    },
    ops::Add,
};

/// Rows of B that a thin tile fetches ahead: what L3 takes to answer.
const AHEAD: isize = 8;

/// Bytes of a column of which several, where they lie side by side, are in a page.
const SHORT: usize = 1 << 10;

/// Rows that packing fetches ahead.
const PACK_AHEAD: isize = 16;

/// Repeats a body for each row below a constant: the compiler's own unrolling gives up before fourteen, and keeps the
/// accumulators in memory then.
macro_rules! each_row {
    ($i:ident < $rows:ident, $body:block) => {
        each_row!(@ $i $rows $body 0 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $i:ident $rows:ident $body:block $($row:literal)*) => {$(
        if $row < $rows {
            let $i: usize = $row;
            $body
        }
    )*};
}

/// Makes the compiler forget what it knows of a number or a pointer: it adds no instruction.
macro_rules! hide {
    ($x:ident) => {
        asm!("/* {0} */", inout(reg) $x, options(pure, readonly, nostack, preserves_flags))
    };
}

/// `stride` times 1, 3, 5, …, as far as `R` rows need them, each in a register of its own: an address can add a register
/// times 1, 2, 4 or 8, so that row 12 is `a + 4 · (3 · stride)`.
///
/// Left to itself the compiler adds the stride from row to row, in a chain as long as the multiply-adds take, on the very
/// ports that Intel's processors multiply with.
#[inline(always)]
fn odd_multiples<const R: usize>(stride: isize) -> [isize; 7] {
    std::array::from_fn(|i| {
        let mut multiple = if 2 * i + 1 < R { (2 * i + 1) as isize * stride } else { 0 };
        // SAFETY: no instruction, and the register keeps its value.
        unsafe { hide!(multiple) };
        multiple
    })
}

/// `i` times the stride of [`odd_multiples`].
#[inline(always)]
fn multiple(odd: &[isize; 7], i: usize) -> isize {
    if i == 0 { 0 } else { odd[(i >> i.trailing_zeros()) / 2] << i.trailing_zeros() }
}

/// How a tile finds its operands.
pub(super) mod place {
    /// A in a packed panel, whole registers of B.
    pub(in crate::matmul) const PANEL: u8 = 0;
    /// A anywhere, whole registers of B.
    pub(in crate::matmul) const FREE: u8 = 1;
    /// A anywhere, B as wide as C and from afar.
    pub(in crate::matmul) const THIN: u8 = 2;
}
use place::{FREE, PANEL, THIN};

/// What a multiplication of two registers adds to a sum. Nothing else in a tile looks at the numbers.
pub(super) trait Products<V> {
    /// # Safety
    ///
    /// The processor has the instruction set of `V`.
    unsafe fn add(sums: V, a: V, b: V) -> V;
}

/// Lane by lane, one product.
struct OfNumbers;

impl<V: Vector> Products<V> for OfNumbers {
    #[inline(always)]
    unsafe fn add(sums: V, a: V, b: V) -> V {
        // SAFETY: by contract.
        unsafe { sums.fma(a, b) }
    }
}

/// # Safety
///
/// The processor has the instruction set of `V`; operands and C hold what the arguments say.
#[inline(always)]
#[expect(clippy::needless_range_loop)] // rows and columns by number, as above
pub(super) unsafe fn tile<V, T, P, const R: usize, const N: usize, const PLACE: u8>(t: &Tile<V::Scalar, T>)
where
    V: Vector + Load<T> + Load<<V as Vector>::Scalar>,
    P: Products<V>,
{
    // SAFETY: by contract, rows of A, of B and of C are valid for the columns that are read and written.
    unsafe {
        let last = V::mask(t.cols - (N - 1) * V::LANES);
        let mut acc = [[V::zero(); N]; R];
        let odd = odd_multiples::<R>(t.a_row * size_of::<V::Scalar>() as isize);
        let mut a = t.a;
        let mut b = t.b;
        macro_rules! step {
            () => {
                let mut row = [V::zero(); N];
                for j in 0..N {
                    let p = b.wrapping_add(j * V::LANES);
                    let masked = PLACE == THIN && j + 1 == N;
                    row[j] = if masked { <V as Load<T>>::load_masked(p, last) } else { <V as Load<T>>::load(p) };
                    if PLACE == THIN {
                        _mm_prefetch::<_MM_HINT_T0>(p.wrapping_offset(AHEAD * t.b_k).cast());
                    }
                }
                // The same address again, which the compiler can't know: it does not keep what it has read there.
                let mut again = a;
                hide!(again);
                each_row!(i < R, {
                    let place = if PLACE == PANEL { (i * size_of::<V::Scalar>()) as isize } else { multiple(&odd, i) };
                    let x = V::splat(a.wrapping_byte_offset(place));
                    let twice = PLACE == PANEL && V::BROADCASTS && i >= R / 2;
                    let y = if twice { V::splat(again.wrapping_byte_offset(place)) } else { x };
                    for j in 0..N {
                        acc[i][j] = P::add(acc[i][j], if j == 0 { x } else { y }, row[j]);
                    }
                });
                a = a.wrapping_offset(if PLACE == PANEL { R as isize } else { t.a_k });
                b = b.wrapping_offset(t.b_k);
            };
        }
        let mut steps = t.k;
        if PLACE != THIN {
            for lines in t.ahead {
                // One in each step.
                let mut line = lines.start;
                let (mut there, mut back) = (lines.there, lines.back);
                let count = steps.min(lines.count);
                for _ in 0..count {
                    _mm_prefetch::<_MM_HINT_T0>(line);
                    line = line.wrapping_offset(there);
                    std::mem::swap(&mut there, &mut back);
                    step!();
                }
                steps -= count;
            }
        }
        for _ in 0..steps {
            step!();
        }
        let whole = t.cols == N * V::LANES;
        each_row!(i < R, {
            for j in 0..N {
                let p = t.c.wrapping_offset(i as isize * t.c_row).wrapping_add(j * V::LANES);
                let from = t.from.wrapping_offset(i as isize * t.from_row).wrapping_add(j * V::LANES);
                if j + 1 < N || whole {
                    let sum = if t.add { acc[i][j].add(<V as Load<V::Scalar>>::load(from)) } else { acc[i][j] };
                    sum.store(p);
                } else {
                    let sum =
                        if t.add { acc[i][j].add(<V as Load<V::Scalar>>::load_masked(from, last)) } else { acc[i][j] };
                    sum.store_masked(p, last);
                }
            }
        });
    }
}

/// # Safety
///
/// The processor has the instruction set of `V`; operands and C hold what the arguments say.
#[inline(always)]
#[expect(clippy::needless_range_loop)] // rows and columns by number, as above
unsafe fn dot<V, T, const R: usize, const J: usize>(t: &Dot<V::Scalar, T>)
where
    V: Vector + Load<T> + Load<<V as Vector>::Scalar>,
    V::Scalar: Add<Output = V::Scalar>,
{
    // SAFETY: by contract, rows of A and columns of B are valid for k, and elements of C for R rows and `cols` columns.
    unsafe {
        // Loops and no closures: a closure does not have the features that its surroundings are compiled with, and where
        // it is not inlined, neither are the intrinsics in it.
        let (mut a, mut b) = ([t.a; R], [t.b; J]);
        for i in 0..R {
            a[i] = t.a.wrapping_offset(i as isize * t.a_row);
        }
        // Columns that are missing are computed as copies of the last one, and not stored.
        for j in 0..J {
            b[j] = t.b.wrapping_offset(j.min(t.cols - 1) as isize * t.b_col);
        }
        let mut acc = [[V::zero(); J]; R];
        let whole = t.k - t.k % V::LANES;
        let mut p = 0;
        if t.k * size_of::<T>() <= SHORT {
            // Read one behind the other: that is what the processor fetches ahead along.
            for j in 0..J {
                let mut sums = [V::zero(); R];
                p = 0;
                while p < whole {
                    let y = <V as Load<T>>::load(b[j].wrapping_add(p));
                    for i in 0..R {
                        let x = <V as Load<V::Scalar>>::load(a[i].wrapping_add(p));
                        sums[i] = sums[i].fma(x, y);
                    }
                    p += V::LANES;
                }
                for i in 0..R {
                    acc[i][j] = sums[i];
                }
            }
        }
        while p < whole {
            let mut x = [V::zero(); R];
            for i in 0..R {
                x[i] = <V as Load<V::Scalar>>::load(a[i].wrapping_add(p));
            }
            for j in 0..J {
                let y = <V as Load<T>>::load(b[j].wrapping_add(p));
                for i in 0..R {
                    acc[i][j] = acc[i][j].fma(x[i], y);
                }
            }
            p += V::LANES;
        }
        if p < t.k {
            let rest = V::mask(t.k - p);
            let mut x = [V::zero(); R];
            for i in 0..R {
                x[i] = <V as Load<V::Scalar>>::load_masked(a[i].wrapping_add(p), rest);
            }
            for j in 0..J {
                let y = <V as Load<T>>::load_masked(b[j].wrapping_add(p), rest);
                for i in 0..R {
                    acc[i][j] = acc[i][j].fma(x[i], y);
                }
            }
        }
        for i in 0..R {
            for j in 0..J {
                if j < t.cols {
                    let p = t.c.wrapping_offset(i as isize * t.c_row + j as isize * t.c_col);
                    let from = t.from.wrapping_offset(i as isize * t.from_row + j as isize * t.from_col);
                    let sum = acc[i][j].sum();
                    *p = if t.add { *from + sum } else { sum };
                }
            }
        }
    }
}

/// Packs a strip: rows along the lanes are copied, rows along k are transposed in registers, anything else is gathered.
///
/// # Safety
///
/// The processor has the instruction set of `V`; the strip is valid, and `to` for `k · pitch` elements.
#[inline(always)]
unsafe fn pack<V, T>(t: &Pack<V::Scalar, T>)
where
    V: Vector + Load<T>,
    T: Element<Sum = V::Scalar>,
{
    // SAFETY: by contract; loads are masked to the strip, stores to the pitch.
    unsafe {
        if t.lane == 1 {
            let (whole, rest) = (t.width / V::LANES * V::LANES, V::mask(t.width % V::LANES));
            let tail = V::mask(t.pitch % V::LANES);
            for p in 0..t.k {
                let from = t.from.wrapping_offset(p as isize * t.step);
                let to = t.to.wrapping_add(p * t.pitch);
                // Rows may be pages apart, where the processor does not fetch ahead by itself.
                let ahead = from.wrapping_offset(PACK_AHEAD * t.step);
                _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(t.width - 1).cast());
                let mut lane = 0;
                while lane < t.pitch {
                    let x = if lane < whole {
                        V::load(from.wrapping_add(lane))
                    } else if lane < t.width {
                        V::load_masked(from.wrapping_add(lane), rest)
                    } else {
                        V::zero()
                    };
                    // Steps that follow are written later.
                    if (t.k - p) * t.pitch - lane >= V::LANES {
                        x.store(to.wrapping_add(lane));
                    } else {
                        x.store_masked(to.wrapping_add(lane), tail);
                    }
                    lane += V::LANES;
                }
            }
        } else if t.step == 1 {
            for lane in (0..t.pitch).step_by(V::LANES) {
                // Lanes beyond the strip repeat its last one.
                let first = lane.min(t.width - 1);
                let last = t.width - 1 - first;
                let (room, to) = (t.pitch - lane, V::mask(t.pitch - lane));
                let mut p = 0;
                while p < t.k {
                    let count = (t.k - p).min(V::LANES);
                    let mut square = V::zeros();
                    let from = V::mask(count);
                    for i in 0..V::LANES {
                        let row = t.from.wrapping_offset((first + i.min(last)) as isize * t.lane).wrapping_add(p);
                        square[i] = if count == V::LANES { V::load(row) } else { V::load_masked(row, from) };
                    }
                    V::transpose(&mut square);
                    let out = t.to.wrapping_add(p * t.pitch + lane);
                    // Steps that follow are written later where all lanes are in one register; and in whole squares none
                    // of these steps is the last but in the last square.
                    let alone = t.pitch <= V::LANES && (t.k - p - count) * t.pitch + room >= V::LANES;
                    if count == V::LANES && (alone || room >= V::LANES) {
                        for i in 0..V::LANES {
                            square[i].store(out.wrapping_add(i * t.pitch));
                        }
                    } else {
                        for i in 0..V::LANES {
                            if i < count {
                                square[i].store_masked(out.wrapping_add(i * t.pitch), to);
                            }
                        }
                    }
                    p += count;
                }
            }
        } else {
            for p in 0..t.k {
                for lane in 0..t.pitch {
                    let from = t.from.wrapping_offset(p as isize * t.step + lane.min(t.width - 1) as isize * t.lane);
                    *t.to.wrapping_add(p * t.pitch + lane) = (*from).widen();
                }
            }
        }
    }
}

/// The kernels compiled for one instruction set.
macro_rules! compiled {
    (
        mod $name:ident, $features:literal, $vector:ident;
        rows $rows:literal: $($row:literal)*;
        thin $($few:literal: $($wide:literal)* wide, $columns:literal dots;)*
    ) => {
        pub(super) mod $name {
            use super::{Dot, Element, FREE, Kernels, LARGEST_TILE, OfNumbers, PANEL, Pack, THIN, Thin, Tile, TileFn};
            use std::marker::PhantomData;

            #[target_feature(enable = $features)]
            unsafe fn tile<T: Element, const R: usize, const N: usize, const PLACE: u8>(t: &Tile<T::Sum, T>) {
                // SAFETY: this function is only called on a processor that has its features; the rest is the caller's.
                unsafe { super::tile::<T::$vector, T, OfNumbers, R, N, PLACE>(t) }
            }
            #[target_feature(enable = $features)]
            unsafe fn dot<T: Element, const R: usize, const J: usize>(t: &Dot<T::Sum, T>) {
                // SAFETY: as above.
                unsafe { super::dot::<T::$vector, T, R, J>(t) }
            }
            #[target_feature(enable = $features)]
            unsafe fn pack<T: Element>(t: &Pack<T::Sum, T>) {
                // SAFETY: as above.
                unsafe { super::pack::<T::$vector, T>(t) }
            }

            pub(crate) struct Table<T>(PhantomData<T>);

            impl<T: Element> Table<T> {
                const FITS: () = assert!($rows * 2 * size_of::<T::$vector>() <= LARGEST_TILE * size_of::<T::Sum>());
                const PANELS: &'static [[TileFn<T::Sum, T::Sum>; 2]] =
                    &[$([tile::<T::Sum, $row, 1, PANEL>, tile::<T::Sum, $row, 2, PANEL>]),*];
                const FREE: &'static [[TileFn<T::Sum, T::Sum>; 2]] =
                    &[$([tile::<T::Sum, $row, 1, FREE>, tile::<T::Sum, $row, 2, FREE>]),*];
                pub(crate) const KERNELS: Kernels<T> = Kernels {
                    lanes: size_of::<T::$vector>() / size_of::<T::Sum>(),
                    rows: {
                        let () = Self::FITS;
                        $rows
                    },
                    panels: Self::PANELS,
                    free: Self::FREE,
                    thin: [$(Thin {
                        tiles: &[$(($wide, tile::<T, $few, $wide, THIN>)),*],
                        dot: dot::<T, $few, $columns>,
                        columns: $columns,
                    }),*],
                    pack: pack::<T>,
                };
            }
        }
    };
}

compiled! {
    mod avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c", Zmm;
    rows 14: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
    thin 1: 1 2 4 8 16 wide, 8 dots; 2: 1 2 4 8 12 wide, 4 dots; 3: 1 2 4 8 wide, 4 dots; 4: 1 2 4 6 wide, 4 dots;
}
compiled! {
    mod avx2, "avx2,fma,f16c", Ymm;
    rows 6: 1 2 3 4 5 6;
    thin 1: 1 2 4 8 wide, 8 dots; 2: 1 2 4 6 wide, 4 dots; 3: 1 2 4 wide, 3 dots; 4: 1 2 3 wide, 2 dots;
}
