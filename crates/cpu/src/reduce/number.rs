//! What reductions compute in: f32, f64 and i64, and the type that results of blocks are merged in.

use crate::{
    convert::Wide as _,
    elementwise::{
        lane::{Lane, gather, round_to_odd},
        operand::{Destination, Operand, load},
    },
    isa::{Isa, Machine},
    math,
    storage::Raw,
};
use attentia_backend::DType;
use half::{bf16, f16};

/// The type in which results of blocks are merged: f64 or i64.
pub(crate) trait Wide: Raw + Number<Wide = Self> {
    /// Stores a result, rounded to the destination's dtype.
    ///
    /// # Safety
    ///
    /// The offset must be one of the destination's layout, and its element belong to this task alone.
    unsafe fn store(self, out: &Destination, at: isize);
}

/// A type that blocks are folded in.
pub(crate) trait Number: Raw + PartialOrd + Default {
    type Wide: Wide;
    const ZERO: Self;
    const ONE: Self;
    /// Below everything.
    const LOWEST: Self;
    /// Above everything.
    const GREATEST: Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// `a · b + self`
    fn add_product<M: Machine>(self, a: Self, b: Self) -> Self;
    /// The greater; NaN if either is.
    fn max(self, other: Self) -> Self;
    /// The smaller; NaN if either is.
    fn min(self, other: Self) -> Self;
    fn is_nan(self) -> bool;
    fn wide(self) -> Self::Wide;
    /// Quotient by a count; floats only.
    fn over(self, count: usize) -> Self;
    /// Loads elements of any dtype that is folded in this type.
    ///
    /// # Safety
    ///
    /// The elements must lie within the layout and not be written meanwhile.
    unsafe fn load(isa: Isa, from: Operand, offset: isize, stride: isize, to: &mut [Self]);
}

macro_rules! float {
    ($t:ty, $mul_add:ident) => {
        impl Number for $t {
            type Wide = f64;
            const ZERO: $t = 0.0;
            const ONE: $t = 1.0;
            const LOWEST: $t = <$t>::NEG_INFINITY;
            const GREATEST: $t = <$t>::INFINITY;
            #[inline(always)]
            fn add(self, other: $t) -> $t {
                self + other
            }
            #[inline(always)]
            fn sub(self, other: $t) -> $t {
                self - other
            }
            #[inline(always)]
            fn mul(self, other: $t) -> $t {
                self * other
            }
            #[inline(always)]
            fn add_product<M: Machine>(self, a: $t, b: $t) -> $t {
                M::$mul_add(a, b, self)
            }
            #[inline(always)]
            fn max(self, other: $t) -> $t {
                math::max(self, other)
            }
            #[inline(always)]
            fn min(self, other: $t) -> $t {
                math::min(self, other)
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                <$t>::is_nan(self)
            }
            #[inline(always)]
            fn wide(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn over(self, count: usize) -> $t {
                self / count as $t
            }
            unsafe fn load(isa: Isa, from: Operand, offset: isize, stride: isize, to: &mut [$t]) {
                // SAFETY: the caller's promise.
                unsafe { load(isa, from, offset, stride, to) }
            }
        }
    };
}
float!(f32, mul_add);
float!(f64, mul_add_f64);

impl Wide for f64 {
    unsafe fn store(self, out: &Destination, at: isize) {
        // SAFETY: the caller's promise.
        unsafe {
            match out.dtype {
                DType::F64 => *out.at(at) = self,
                DType::Bf16 => *out.at(at) = bf16::narrow(round_to_odd(self)),
                DType::F16 => *out.at(at) = f16::narrow(round_to_odd(self)),
                _ => *out.at(at) = self as f32,
            }
        }
    }
}

impl Number for i64 {
    type Wide = i64;
    const ZERO: i64 = 0;
    const ONE: i64 = 1;
    const LOWEST: i64 = i64::MIN;
    const GREATEST: i64 = i64::MAX;
    #[inline(always)]
    fn add(self, other: i64) -> i64 {
        self.wrapping_add(other)
    }
    #[inline(always)]
    fn sub(self, other: i64) -> i64 {
        self.wrapping_sub(other)
    }
    #[inline(always)]
    fn mul(self, other: i64) -> i64 {
        self.wrapping_mul(other)
    }
    #[inline(always)]
    fn add_product<M: Machine>(self, a: i64, b: i64) -> i64 {
        self.wrapping_add(a.wrapping_mul(b))
    }
    #[inline(always)]
    fn max(self, other: i64) -> i64 {
        Ord::max(self, other)
    }
    #[inline(always)]
    fn min(self, other: i64) -> i64 {
        Ord::min(self, other)
    }
    #[inline(always)]
    fn is_nan(self) -> bool {
        false
    }
    #[inline(always)]
    fn wide(self) -> i64 {
        self
    }
    #[inline(always)]
    fn over(self, count: usize) -> i64 {
        self / count as i64
    }
    unsafe fn load(isa: Isa, from: Operand, offset: isize, stride: isize, to: &mut [i64]) {
        unsafe fn widened<T: Copy + Default + Into<i64>>(from: *const T, stride: isize, to: &mut [i64]) {
            let mut buffer = [T::default(); 256];
            for (i, to) in to.chunks_mut(256).enumerate() {
                let buffer = &mut buffer[..to.len()];
                // SAFETY: the caller's promise.
                unsafe { gather(from.offset((i * 256) as isize * stride), stride, buffer) };
                to.iter_mut().zip(buffer).for_each(|(to, from)| *to = (*from).into());
            }
        }
        // SAFETY: the caller's promise.
        unsafe {
            match from.dtype {
                DType::U32 => widened::<u32>(from.at(offset), stride, to),
                DType::U8 | DType::Bool => widened::<u8>(from.at(offset), stride, to),
                _ => <i64 as Lane>::load(isa, from, offset, stride, to),
            }
        }
    }
}

impl Wide for i64 {
    unsafe fn store(self, out: &Destination, at: isize) {
        // SAFETY: the caller's promise.
        unsafe {
            match out.dtype {
                DType::U32 => *out.at(at) = self as u32,
                DType::U8 | DType::Bool => *out.at(at) = self as u8,
                _ => *out.at(at) = self,
            }
        }
    }
}
