//! Blocks of [`LANES`] elements by value, and what becomes of their lanes at the end of a row.

use super::LANES;
use crate::math::Real;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m128i, _MM_HINT_T0, _mm_prefetch, _mm_sfence, _mm_stream_si128};

/// `blocks!(columns, |at, len| { .. })`: the body for each block of a row, its first element and its length. Whole blocks
/// come with a length that the compiler knows, so that they stay in registers; the rest, if any, comes last.
///
/// A macro, because a closure that is called twice may not be inlined, and would then be compiled without the
/// instructions of the kernel around it.
macro_rules! blocks {
    ($columns:expr, |$at:ident, $len:ident| $body:block) => {{
        let columns = $columns;
        let whole = columns - columns % $crate::rows::LANES;
        let mut start = 0;
        while start < whole {
            let ($at, $len) = (start, $crate::rows::LANES);
            $body
            start += $crate::rows::LANES;
        }
        if whole < columns {
            let ($at, $len) = (whole, columns - whole);
            $body
        }
    }};
}
pub(crate) use blocks;

/// A block of up to [`LANES`] elements by value; `pad` fills the rest.
///
/// # Safety
///
/// `len` elements can be read at `from`.
#[inline(always)]
pub(crate) unsafe fn take<A: Copy>(from: *const A, len: usize, pad: A) -> [A; LANES] {
    if len >= LANES {
        // SAFETY: the caller's promise.
        return unsafe { from.cast::<[A; LANES]>().read_unaligned() };
    }
    let mut block = [pad; LANES];
    // SAFETY: `len < LANES`, and the caller's promise.
    unsafe { copy_part(from, block.as_mut_ptr(), len) };
    block
}

/// Copies fewer than [`LANES`] elements in pieces of fixed length: a general copy would be a library call.
///
/// # Safety
///
/// `len` elements can be read at `from` and written at `to`, which are apart.
#[inline(always)]
unsafe fn copy_part<A: Copy>(from: *const A, to: *mut A, len: usize) {
    let mut at = 0;
    macro_rules! piece {
        ($($n:literal)*) => {$(
            if len & $n != 0 {
                // SAFETY: the pieces before took `at` of the elements, which leaves at least this many.
                unsafe { to.add(at).cast::<[A; $n]>().write_unaligned(from.add(at).cast::<[A; $n]>().read_unaligned()) };
                at += $n;
            }
        )*};
    }
    piece!(16 8 4 2);
    if len & 1 != 0 {
        // SAFETY: as above.
        unsafe { *to.add(at) = *from.add(at) };
    }
}

/// Writes the first `len` elements of a block.
///
/// # Safety
///
/// `len` elements can be written at `to`.
#[inline(always)]
pub(crate) unsafe fn put<A: Copy>(block: [A; LANES], to: *mut A, len: usize) {
    if len >= LANES {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[A; LANES]>().write_unaligned(block) };
    } else {
        // SAFETY: `len < LANES`, and the caller's promise.
        unsafe { copy_part(block.as_ptr(), to, len) };
    }
}

/// Writes the first `len` elements of a block past the caches, without reading the lines that it fills: for results too
/// large to be found there again. [`fence`] comes after the last one.
///
/// # Safety
///
/// As [`put`].
#[inline(always)]
pub(crate) unsafe fn stream<A: Copy>(block: [A; LANES], to: *mut A, len: usize) {
    #[cfg(target_arch = "x86_64")]
    if len >= LANES && to.cast::<__m128i>().is_aligned() {
        let (from, to) = (block.as_ptr().cast::<__m128i>(), to.cast::<__m128i>());
        for i in 0..size_of::<[A; LANES]>() / size_of::<__m128i>() {
            // SAFETY: the block and, by the caller's promise, the destination have this many; it is aligned.
            unsafe { _mm_stream_si128(to.add(i), from.add(i).read_unaligned()) };
        }
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { put(block, to, len) };
}

/// Orders what [`stream`] wrote before everything that this thread writes later.
#[inline(always)]
pub(crate) fn fence() {
    // SAFETY: an instruction of the baseline.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        _mm_sfence();
    }
}

/// Asks for a block of elements at an address, which need not exist.
#[inline(always)]
pub(crate) fn prefetch<A>(from: *const A) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..size_of::<[A; LANES]>() / 64 {
        // SAFETY: a hint, to which any address may be given.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast::<i8>().wrapping_add(64 * line)) };
    }
}

/// Folds lanes by halves until one is left. Each half is an array of its own: one that shrinks would live in memory.
macro_rules! fold {
    ($lanes:ident, |$a:ident, $b:ident| $body:expr) => {
        fold!(@ $lanes, |$a, $b| $body, 16 8 4 2 1)[0]
    };
    (@ $lanes:ident, |$a:ident, $b:ident| $body:expr,) => { $lanes };
    (@ $lanes:ident, |$a:ident, $b:ident| $body:expr, $half:literal $($rest:literal)*) => {{
        let mut half = [A::ZERO; $half];
        for l in 0..$half {
            let ($a, $b) = ($lanes[l], $lanes[l + $half]);
            half[l] = $body;
        }
        fold!(@ half, |$a, $b| $body, $($rest)*)
    }};
}

const _: () = assert!(LANES == 32, "fold begins with halves of 16");

/// The lanes added up pairwise.
#[inline(always)]
pub(crate) fn sum<A: Real>(lanes: [A; LANES]) -> A {
    fold!(lanes, |a, b| a + b)
}

/// The greatest lane; NaN is passed over.
#[inline(always)]
pub(crate) fn greatest<A: Real>(lanes: [A; LANES]) -> A {
    fold!(lanes, |a, b| if b > a { b } else { a })
}
