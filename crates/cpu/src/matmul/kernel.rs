//! What the loops call: arguments of the micro-kernels, and the table of those of an instruction set.

#[cfg(target_arch = "x86_64")]
use super::tile::{avx2, avx512};
use super::{element::Element, soon::Lines};
use crate::isa::Isa;

/// Arguments of a tile; strides in elements.
pub(crate) struct Tile<'a, S, T> {
    pub(crate) k: usize,
    pub(crate) a: *const S,
    pub(crate) a_row: isize,
    pub(crate) a_k: isize,
    /// A row of B is contiguous; there are elements for whole registers, unless the tile is a thin one.
    pub(crate) b: *const T,
    pub(crate) b_k: isize,
    /// A row of C is contiguous.
    pub(crate) c: *mut S,
    pub(crate) c_row: isize,
    /// Columns; more than the kernel's registers less one hold, at most what they hold.
    pub(crate) cols: usize,
    /// Rows of sums to start from, which may be C's or all the same.
    pub(crate) from: *const S,
    pub(crate) from_row: isize,
    /// Whether to start from them.
    pub(crate) add: bool,
    /// What to ask for while it is computed: C, unless the cache has it already, what else is read or written with it, and
    /// what is read soon. Not for thin tiles.
    pub(crate) ahead: &'a [Lines],
}

/// Arguments of a block of dot products; strides in elements.
pub(crate) struct Dot<S, T> {
    pub(crate) k: usize,
    /// A row of A is contiguous.
    pub(crate) a: *const S,
    pub(crate) a_row: isize,
    /// A column of B is contiguous.
    pub(crate) b: *const T,
    pub(crate) b_col: isize,
    pub(crate) c: *mut S,
    pub(crate) c_row: isize,
    pub(crate) c_col: isize,
    /// Columns: one to the kernel's.
    pub(crate) cols: usize,
    /// What sums start from, and whether they do.
    pub(crate) from: *const S,
    pub(crate) from_row: isize,
    pub(crate) from_col: isize,
    pub(crate) add: bool,
}

/// A strip to pack: `width` lanes (rows of A, columns of B) by `k`, to `to[p · pitch + lane]`.
pub(crate) struct Pack<S, T> {
    pub(crate) from: *const T,
    pub(crate) lane: isize,
    pub(crate) step: isize,
    pub(crate) width: usize,
    pub(crate) k: usize,
    pub(crate) to: *mut S,
    /// At least `width`; what lies beyond is filled with any finite or infinite numbers of the strip, or zeros.
    pub(crate) pitch: usize,
}

pub(crate) type TileFn<S, T> = unsafe fn(&Tile<S, T>);
pub(crate) type DotFn<S, T> = unsafe fn(&Dot<S, T>);
pub(crate) type PackFn<S, T> = unsafe fn(&Pack<S, T>);

/// The kernels of one instruction set for operands of type `T`.
pub(crate) struct Kernels<T: Element> {
    /// Lanes of a register.
    pub(crate) lanes: usize,
    /// Most rows of a tile.
    pub(crate) rows: usize,
    /// Tiles of packed panels of A: `panels[R − 1][V − 1]`, for R up to `rows` and V of 1 and 2.
    pub(crate) panels: &'static [[TileFn<T::Sum, T::Sum>; 2]],
    /// The same for A with any strides.
    pub(crate) free: &'static [[TileFn<T::Sum, T::Sum>; 2]],
    /// `thin[R − 1]`, for R up to [`THIN`].
    pub(crate) thin: [Thin<T>; THIN],
    pub(crate) pack: PackFn<T::Sum, T>,
}

/// The kernels for panels whose steps are pairs of `T`, each in the place of a sum, and how sums become left operands.
/// What a strip of `pack` counts as `k` are elements.
pub(crate) struct PairPanels<T: Element> {
    pub(crate) kernels: Kernels<T>,
    /// Makes zeros of the first or second elements of so many pairs.
    pub(crate) clear: unsafe fn(*mut T::Sum, usize, usize),
    /// Rows of sums become rows of pairs of neighbours, in place: of `rows` rows, `columns` columns and the pitch of rows.
    pub(crate) along: unsafe fn(*mut T::Sum, usize, usize, usize),
    /// Two matrices of sums become pairs of their rows' neighbours, and the second also of its columns'.
    pub(crate) across: unsafe fn(*mut T::Sum, *mut T::Sum, usize, usize, usize),
}

/// Rows that count as few: the other operand is then read once, in place.
pub(crate) const THIN: usize = 4;

/// The kernels for a few rows of A; elements of B are widened in registers.
pub(crate) struct Thin<T: Element> {
    /// Registers of a row of C, ascending from 1.
    pub(crate) tiles: &'static [(usize, TileFn<T::Sum, T>)],
    pub(crate) dot: DotFn<T::Sum, T>,
    /// Columns of `dot`.
    pub(crate) columns: usize,
}

impl<T: Element> Thin<T> {
    /// The widest tile that needs no more registers than these, of which there is one at least.
    pub(crate) fn tile(&self, registers: usize) -> (usize, TileFn<T::Sum, T>) {
        self.tiles.iter().rev().find(|(wide, _)| *wide <= registers).copied().unwrap_or(self.tiles[0])
    }
}

impl<T: Element> Kernels<T> {
    /// The kernels of an instruction set that this processor has; none for the portable one.
    pub(crate) fn of(isa: Isa) -> Option<&'static Kernels<T>> {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => Some(const { &avx512::Table::<T>::KERNELS }),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(const { &avx2::Table::<T>::KERNELS }),
            _ => None,
        }
    }
}
