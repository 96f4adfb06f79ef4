//! The types that elementwise kernels compute in, and how elements of each dtype get there and back.
//!
//! ```text
//! f32 ◄─► f32, bf16, f16        f64 ◄─► f64, f32, bf16, f16        i64 ◄─► i64    u32 ◄─► u32    u8 ◄─► u8, bool
//! ```

use super::operand::{Destination, Operand, Row};
use crate::{
    convert::{BLOCK, Wide, narrow, widen},
    isa::{self, Isa, Kernel, Machine},
    storage::Raw,
};
use attentia_backend::{Binary, DType, Unary};
use half::{bf16, f16};

/// A type to compute in.
pub(crate) trait Lane: Raw + PartialOrd + Default {
    /// Loads `to.len()` elements of one of this lane's dtypes.
    ///
    /// # Safety
    ///
    /// The elements must lie within the layout and not be written meanwhile; the dtype is one of the lane's.
    unsafe fn load(isa: Isa, from: Operand, offset: isize, stride: isize, to: &mut [Self]);
    /// Stores elements as one of this lane's dtypes, rounded once.
    ///
    /// # Safety
    ///
    /// The elements must lie within the layout and belong to this task alone; the dtype is one of the lane's.
    unsafe fn store(isa: Isa, dtype: DType, from: &[Self], to: &Destination, offset: isize, stride: isize);
    /// `condition ? a : b` by masks. The compiler turns an `if` between two loaded values into one load from one of two
    /// addresses, which it can't vectorise.
    fn choose(condition: bool, a: Self, b: Self) -> Self;
    /// `out = op(x)`, in place without x. Operations that the dtype does not accept never come here.
    fn unary<M: Machine>(op: Unary, x: Option<&[Self]>, out: &mut [Self]);
    /// `out = op(a, b)`, in place without a.
    fn binary<M: Machine>(op: Binary, a: Option<&[Self]>, b: Row<Self>, out: &mut [Self]);
}

/// Elements as they are.
///
/// # Safety
///
/// The elements must be valid to read.
#[inline]
pub(crate) unsafe fn gather<T: Copy>(from: *const T, stride: isize, to: &mut [T]) {
    // SAFETY: the caller's promise; a buffer and an operand never overlap.
    unsafe {
        match stride {
            1 => std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()),
            0 => to.fill(*from),
            _ => to.iter_mut().enumerate().for_each(|(i, to)| *to = *from.offset(i as isize * stride)),
        }
    }
}

/// Elements as they are.
///
/// # Safety
///
/// The elements must be valid to write.
#[inline]
pub(crate) unsafe fn scatter<T: Copy>(from: &[T], to: *mut T, stride: isize) {
    // SAFETY: the caller's promise; a buffer and an operand never overlap.
    unsafe {
        match stride {
            1 => std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()),
            _ => from.iter().enumerate().for_each(|(i, from)| *to.offset(i as isize * stride) = *from),
        }
    }
}

struct Widen<'a, T: Wide>(&'a [T], &'a mut [T::Compute]);
impl<T: Wide> Kernel for Widen<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        widen::<M, T>(self.0, self.1);
    }
}

struct Narrow<'a, T: Wide>(&'a [T::Compute], &'a mut [T]);
impl<T: Wide> Kernel for Narrow<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        narrow::<M, T>(self.0, self.1);
    }
}

/// 16-bit elements as f32.
///
/// # Safety
///
/// The elements must be valid to read.
unsafe fn gather_wide<T: Wide>(isa: Isa, from: *const T, stride: isize, to: &mut [T::Compute]) {
    // SAFETY: the caller's promise.
    unsafe {
        match stride {
            1 => isa::run(isa, Widen(std::slice::from_raw_parts(from, to.len()), to)),
            0 => to.fill((*from).widen()),
            _ => to.iter_mut().enumerate().for_each(|(i, to)| *to = (*from.offset(i as isize * stride)).widen()),
        }
    }
}

/// f32 as 16-bit elements.
///
/// # Safety
///
/// The elements must be valid to write.
unsafe fn scatter_narrow<T: Wide>(isa: Isa, from: &[T::Compute], to: *mut T, stride: isize) {
    // SAFETY: the caller's promise.
    unsafe {
        match stride {
            1 => isa::run(isa, Narrow(from, std::slice::from_raw_parts_mut(to, from.len()))),
            _ => from.iter().enumerate().for_each(|(i, &x)| *to.offset(i as isize * stride) = T::narrow(x)),
        }
    }
}

/// The f32 from which rounding to 16 bits gives what rounding x itself would: the last bit is set when x is not
/// exact in f32 ("round to odd"), so that x stays on its side of every middle between 16-bit numbers.
#[inline]
pub(crate) fn round_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    if nearest as f64 == x || x.is_nan() || nearest.to_bits() & 1 == 1 {
        return nearest;
    }
    // The neighbour on x's side; an even pattern's neighbours are odd. Magnitudes are ordered like their bits.
    let outwards = x.abs() > nearest.abs() as f64;
    f32::from_bits(if outwards { nearest.to_bits() + 1 } else { nearest.to_bits() - 1 })
}

impl Lane for f32 {
    unsafe fn load(isa: Isa, from: Operand, offset: isize, stride: isize, to: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe {
            match from.dtype {
                DType::Bf16 => gather_wide::<bf16>(isa, from.at(offset), stride, to),
                DType::F16 => gather_wide::<f16>(isa, from.at(offset), stride, to),
                _ => gather::<f32>(from.at(offset), stride, to),
            }
        }
    }

    unsafe fn store(isa: Isa, dtype: DType, from: &[f32], to: &Destination, offset: isize, stride: isize) {
        // SAFETY: the caller's promise.
        unsafe {
            match dtype {
                DType::Bf16 => scatter_narrow::<bf16>(isa, from, to.at(offset), stride),
                DType::F16 => scatter_narrow::<f16>(isa, from, to.at(offset), stride),
                _ => scatter::<f32>(from, to.at(offset), stride),
            }
        }
    }

    #[inline(always)]
    fn choose(condition: bool, a: f32, b: f32) -> f32 {
        let mask = (condition as u32).wrapping_neg();
        f32::from_bits((a.to_bits() & mask) | (b.to_bits() & !mask))
    }
    #[inline(always)]
    fn unary<M: Machine>(op: Unary, x: Option<&[f32]>, out: &mut [f32]) {
        super::row::float_unary::<M, f32>(op, x, out);
    }
    #[inline(always)]
    fn binary<M: Machine>(op: Binary, a: Option<&[f32]>, b: Row<f32>, out: &mut [f32]) {
        super::row::float_binary::<M, f32>(op, a, b, out);
    }
}

impl Lane for f64 {
    unsafe fn load(isa: Isa, from: Operand, offset: isize, stride: isize, to: &mut [f64]) {
        if from.dtype == DType::F64 {
            // SAFETY: the caller's promise.
            return unsafe { gather::<f64>(from.at(offset), stride, to) };
        }
        let mut buffer = [0f32; BLOCK];
        for (i, to) in to.chunks_mut(BLOCK).enumerate() {
            let offset = offset + (i * BLOCK) as isize * stride;
            // SAFETY: the caller's promise.
            unsafe { f32::load(isa, from, offset, stride, &mut buffer[..to.len()]) };
            to.iter_mut().zip(&buffer).for_each(|(to, from)| *to = *from as f64);
        }
    }

    unsafe fn store(isa: Isa, dtype: DType, from: &[f64], to: &Destination, offset: isize, stride: isize) {
        if dtype == DType::F64 {
            // SAFETY: the caller's promise.
            return unsafe { scatter::<f64>(from, to.at(offset), stride) };
        }
        let mut buffer = [0f32; BLOCK];
        for (i, from) in from.chunks(BLOCK).enumerate() {
            let offset = offset + (i * BLOCK) as isize * stride;
            let buffer = &mut buffer[..from.len()];
            match dtype {
                DType::F32 => buffer.iter_mut().zip(from).for_each(|(to, from)| *to = *from as f32),
                _ => buffer.iter_mut().zip(from).for_each(|(to, from)| *to = round_to_odd(*from)),
            }
            // SAFETY: the caller's promise.
            unsafe { f32::store(isa, dtype, buffer, to, offset, stride) };
        }
    }

    #[inline(always)]
    fn choose(condition: bool, a: f64, b: f64) -> f64 {
        let mask = (condition as u64).wrapping_neg();
        f64::from_bits((a.to_bits() & mask) | (b.to_bits() & !mask))
    }
    #[inline(always)]
    fn unary<M: Machine>(op: Unary, x: Option<&[f64]>, out: &mut [f64]) {
        super::row::float_unary::<M, f64>(op, x, out);
    }
    #[inline(always)]
    fn binary<M: Machine>(op: Binary, a: Option<&[f64]>, b: Row<f64>, out: &mut [f64]) {
        super::row::float_binary::<M, f64>(op, a, b, out);
    }
}

macro_rules! integer_lane {
    ($t:ty) => {
        impl Lane for $t {
            unsafe fn load(_: Isa, from: Operand, offset: isize, stride: isize, to: &mut [$t]) {
                // SAFETY: the caller's promise.
                unsafe { gather(from.at(offset), stride, to) }
            }
            unsafe fn store(_: Isa, _: DType, from: &[$t], to: &Destination, offset: isize, stride: isize) {
                // SAFETY: the caller's promise.
                unsafe { scatter(from, to.at(offset), stride) }
            }
            #[inline(always)]
            fn choose(condition: bool, a: $t, b: $t) -> $t {
                let mask = (condition as $t).wrapping_neg();
                (a & mask) | (b & !mask)
            }
            #[inline(always)]
            fn unary<M: Machine>(op: Unary, x: Option<&[$t]>, out: &mut [$t]) {
                super::row::integer_unary::<$t>(op, x, out);
            }
            #[inline(always)]
            fn binary<M: Machine>(op: Binary, a: Option<&[$t]>, b: Row<$t>, out: &mut [$t]) {
                super::row::integer_binary::<$t>(op, a, b, out);
            }
        }
    };
}
integer_lane!(i64);
integer_lane!(u32);
integer_lane!(u8);
