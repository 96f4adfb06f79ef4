//! Row kernels: the loops that each instruction set gets its own code for.

use super::{lane::Lane, lane::round_to_odd, operand::Row};
use crate::{
    convert::Wide,
    isa::{Kernel, Machine},
    math::{self, Real},
};
use attentia_backend::{Binary, Compare, DType, Unary};
use half::{bf16, f16};

/// `out = op(x)`, in place without x.
pub(super) struct UnaryRow<'a, L> {
    pub(super) op: Unary,
    pub(super) x: Option<&'a [L]>,
    pub(super) out: &'a mut [L],
}

impl<L: Lane> Kernel for UnaryRow<'_, L> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        L::unary::<M>(self.op, self.x, self.out);
    }
}

/// `out = op(a, b)`, in place without a.
pub(super) struct BinaryRow<'a, L> {
    pub(super) op: Binary,
    pub(super) a: Option<&'a [L]>,
    pub(super) b: Row<'a, L>,
    pub(super) out: &'a mut [L],
}

impl<L: Lane> Kernel for BinaryRow<'_, L> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        L::binary::<M>(self.op, self.a, self.b, self.out);
    }
}

/// `out = a op b`
pub(super) struct CompareRow<'a, L> {
    pub(super) op: Compare,
    pub(super) a: Row<'a, L>,
    pub(super) b: Row<'a, L>,
    pub(super) out: &'a mut [u8],
}

impl<L: Lane> Kernel for CompareRow<'_, L> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let (op, a, b) = match (self.a, self.b) {
            (Row::Slice(a), b) => (self.op, a, b),
            // c < x is x > c.
            (a, Row::Slice(b)) => (mirrored(self.op), b, a),
            (Row::Value(a), Row::Value(b)) => return self.out.fill(holds(self.op, a, b) as u8),
        };
        match op {
            Compare::Eq => compare(a, b, self.out, |a, b| a == b),
            Compare::Ne => compare(a, b, self.out, |a, b| a != b),
            Compare::Lt => compare(a, b, self.out, |a, b| a < b),
            Compare::Le => compare(a, b, self.out, |a, b| a <= b),
            Compare::Gt => compare(a, b, self.out, |a, b| a > b),
            Compare::Ge => compare(a, b, self.out, |a, b| a >= b),
        }
    }
}

fn holds<L: Lane>(op: Compare, a: L, b: L) -> bool {
    match op {
        Compare::Eq => a == b,
        Compare::Ne => a != b,
        Compare::Lt => a < b,
        Compare::Le => a <= b,
        Compare::Gt => a > b,
        Compare::Ge => a >= b,
    }
}

fn mirrored(op: Compare) -> Compare {
    match op {
        Compare::Lt => Compare::Gt,
        Compare::Le => Compare::Ge,
        Compare::Gt => Compare::Lt,
        Compare::Ge => Compare::Le,
        Compare::Eq | Compare::Ne => op,
    }
}

#[inline(always)]
fn compare<L: Lane>(a: &[L], b: Row<L>, out: &mut [u8], f: impl Fn(L, L) -> bool) {
    match b {
        Row::Slice(b) => out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = f(*a, *b) as u8),
        Row::Value(b) => out.iter_mut().zip(a).for_each(|(out, a)| *out = f(*a, b) as u8),
    }
}

/// `out = condition ? a : b`
pub(super) struct SelectRow<'a, L> {
    pub(super) condition: Row<'a, u8>,
    pub(super) a: Row<'a, L>,
    pub(super) b: Row<'a, L>,
    pub(super) out: &'a mut [L],
}

impl<L: Lane> Kernel for SelectRow<'_, L> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let SelectRow { condition, a, b, out } = self;
        let condition = match condition {
            Row::Slice(condition) => condition,
            Row::Value(c) => {
                return match if c != 0 { a } else { b } {
                    Row::Slice(x) => out.copy_from_slice(x),
                    Row::Value(x) => out.fill(x),
                };
            }
        };
        match (a, b) {
            (Row::Slice(a), Row::Slice(b)) => {
                for (((out, &c), &a), &b) in out.iter_mut().zip(condition).zip(a).zip(b) {
                    *out = L::choose(c != 0, a, b);
                }
            }
            (Row::Slice(a), Row::Value(b)) => {
                for ((out, &c), &a) in out.iter_mut().zip(condition).zip(a) {
                    *out = L::choose(c != 0, a, b);
                }
            }
            (Row::Value(a), Row::Slice(b)) => {
                for ((out, &c), &b) in out.iter_mut().zip(condition).zip(b) {
                    *out = L::choose(c != 0, a, b);
                }
            }
            (Row::Value(a), Row::Value(b)) => {
                for (out, &c) in out.iter_mut().zip(condition) {
                    *out = L::choose(c != 0, a, b);
                }
            }
        }
    }
}

// Macros, not functions of a closure: a closure is a function of its own, and one that is not inlined is not compiled
// for the kernel's instruction set.

/// `out = f(x)`, in place without x.
macro_rules! map {
    ($x:expr, $out:expr, |$v:ident| $body:expr) => {
        match $x {
            Some(x) => {
                for (out, &$v) in $out.iter_mut().zip(x) {
                    *out = $body;
                }
            }
            None => {
                for out in $out.iter_mut() {
                    let $v = *out;
                    *out = $body;
                }
            }
        }
    };
}

/// `out = f(a, b)`, in place without a.
macro_rules! zip {
    ($a:expr, $b:expr, $out:expr, |$u:ident, $v:ident| $body:expr) => {
        match ($a, $b) {
            (Some(a), Row::Slice(b)) => {
                for ((out, &$u), &$v) in $out.iter_mut().zip(a).zip(b) {
                    *out = $body;
                }
            }
            (Some(a), Row::Value($v)) => {
                for (out, &$u) in $out.iter_mut().zip(a) {
                    *out = $body;
                }
            }
            (None, Row::Slice(b)) => {
                for (out, &$v) in $out.iter_mut().zip(b) {
                    let $u = *out;
                    *out = $body;
                }
            }
            (None, Row::Value($v)) => {
                for out in $out.iter_mut() {
                    let $u = *out;
                    *out = $body;
                }
            }
        }
    };
}

/// The scalar of an operation, rounded to the operand's dtype.
pub(super) fn adopt(op: Unary, dtype: DType) -> Unary {
    let round = |c: f64| match dtype {
        DType::F32 => c as f32 as f64,
        DType::Bf16 => bf16::narrow(round_to_odd(c)).widen() as f64,
        DType::F16 => f16::narrow(round_to_odd(c)).widen() as f64,
        _ => c,
    };
    match op {
        Unary::AddScalar(c) => Unary::AddScalar(round(c)),
        Unary::MulScalar(c) => Unary::MulScalar(round(c)),
        Unary::PowScalar(c) => Unary::PowScalar(round(c)),
        Unary::MaxScalar(c) => Unary::MaxScalar(round(c)),
        Unary::MinScalar(c) => Unary::MinScalar(round(c)),
        _ => op,
    }
}

/// Elements per task, by what one costs.
pub(super) fn grain(op: Unary) -> usize {
    use Unary::*;
    match op {
        Exp | Expm1 | Log | Log1p | Tanh | Sigmoid | Erf => super::GRAIN / 2,
        Sin | Cos | PowScalar(_) => super::SCALAR_GRAIN,
        _ => super::GRAIN,
    }
}

#[inline(always)]
pub(super) fn float_unary<M: Machine, T: Real>(op: Unary, x: Option<&[T]>, out: &mut [T]) {
    let (zero, one) = (T::ZERO, T::ONE);
    match op {
        Unary::Neg => map!(x, out, |x| -x),
        Unary::Abs => map!(x, out, |x| x.abs()),
        Unary::Sign => map!(x, out, |x| {
            let above = if x > zero { one } else { x };
            if x < zero { -one } else { above }
        }),
        Unary::Square => map!(x, out, |x| x * x),
        Unary::Sqrt => map!(x, out, |x| x.sqrt()),
        Unary::Rsqrt => map!(x, out, |x| one / x.sqrt()),
        Unary::Reciprocal => map!(x, out, |x| one / x),
        Unary::Exp => map!(x, out, |x| math::exp::<M, T>(x)),
        Unary::Expm1 => map!(x, out, |x| math::expm1::<M, T>(x)),
        Unary::Log => map!(x, out, |x| math::log::<M, T>(x)),
        Unary::Log1p => map!(x, out, |x| math::log1p::<M, T>(x)),
        Unary::Sin => map!(x, out, |x| x.sin()),
        Unary::Cos => map!(x, out, |x| x.cos()),
        Unary::Tanh => map!(x, out, |x| math::tanh::<M, T>(x)),
        Unary::Sigmoid => map!(x, out, |x| math::sigmoid::<M, T>(x)),
        Unary::Erf => map!(x, out, |x| math::erf::<M, T>(x)),
        Unary::Floor => map!(x, out, |x| x.floor()),
        Unary::Ceil => map!(x, out, |x| x.ceil()),
        Unary::Round => map!(x, out, |x| x.round()),
        Unary::AddScalar(c) => {
            let c = T::from_f64(c);
            map!(x, out, |x| x + c)
        }
        Unary::MulScalar(c) => {
            let c = T::from_f64(c);
            map!(x, out, |x| x * c)
        }
        Unary::MaxScalar(c) => {
            let c = T::from_f64(c);
            map!(x, out, |x| math::max(x, c))
        }
        Unary::MinScalar(c) => {
            let c = T::from_f64(c);
            map!(x, out, |x| math::min(x, c))
        }
        Unary::PowScalar(c) => pow_scalar(T::from_f64(c), x, out),
        // Of bools only.
        Unary::Not => {}
    }
}

/// `xᶜ`: the exponents that models use are products and roots.
#[inline(always)]
fn pow_scalar<T: Real>(c: T, x: Option<&[T]>, out: &mut [T]) {
    let (zero, one) = (T::ZERO, T::ONE);
    if c == one + one {
        map!(x, out, |x| x * x)
    } else if c == T::from_f64(3.0) {
        map!(x, out, |x| x * x * x)
    } else if c == -one {
        map!(x, out, |x| one / x)
    } else if c == T::from_f64(0.5) {
        // Adding 0 makes −0 into +0, whose root is the power's; the power of −∞ is ∞.
        map!(x, out, |x| if x == T::NEG_INFINITY { T::INFINITY } else { (x + zero).sqrt() })
    } else {
        map!(x, out, |x| x.pow(c))
    }
}

#[inline(always)]
pub(super) fn float_binary<M: Machine, T: Real>(op: Binary, a: Option<&[T]>, b: Row<T>, out: &mut [T]) {
    match op {
        Binary::Add => zip!(a, b, out, |a, b| a + b),
        Binary::Sub => zip!(a, b, out, |a, b| a - b),
        Binary::Mul => zip!(a, b, out, |a, b| a * b),
        Binary::Div => zip!(a, b, out, |a, b| a / b),
        Binary::Pow => zip!(a, b, out, |a, b| a.pow(b)),
        Binary::Max => zip!(a, b, out, |a, b| math::max(a, b)),
        Binary::Min => zip!(a, b, out, |a, b| math::min(a, b)),
        // Of bools only.
        Binary::And | Binary::Or | Binary::Xor => {}
    }
}

/// Wrapping arithmetic of the integer lanes.
pub(super) trait Integer: Copy + Ord {
    const ZERO: Self;
    const ONE: Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// Towards zero; 0 for a divisor of 0.
    fn div(self, other: Self) -> Self;
    fn neg(self) -> Self;
    fn abs(self) -> Self;
    fn sign(self) -> Self;
    /// The low bits of the scalar's whole part.
    fn wrapped(c: f64) -> Self;
    /// The nearest to the scalar's whole part.
    fn saturated(c: f64) -> Self;
}

macro_rules! integer {
    ($t:ty, $abs:expr, $sign:expr) => {
        impl Integer for $t {
            const ZERO: $t = 0;
            const ONE: $t = 1;
            #[inline(always)]
            fn add(self, other: $t) -> $t {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn sub(self, other: $t) -> $t {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn mul(self, other: $t) -> $t {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            fn div(self, other: $t) -> $t {
                if other == 0 { 0 } else { self.wrapping_div(other) }
            }
            #[inline(always)]
            fn neg(self) -> $t {
                self.wrapping_neg()
            }
            #[inline(always)]
            fn abs(self) -> $t {
                ($abs)(self)
            }
            #[inline(always)]
            fn sign(self) -> $t {
                ($sign)(self)
            }
            #[inline(always)]
            fn wrapped(c: f64) -> $t {
                c as i64 as $t
            }
            #[inline(always)]
            fn saturated(c: f64) -> $t {
                c as $t
            }
        }
    };
}
integer!(i64, i64::wrapping_abs, i64::signum);
integer!(u32, |x: u32| x, |x: u32| x.min(1));
integer!(u8, |x: u8| x, |x: u8| x.min(1));

#[inline(always)]
pub(super) fn integer_unary<T: Integer>(op: Unary, x: Option<&[T]>, out: &mut [T]) {
    match op {
        Unary::Neg => map!(x, out, |x| x.neg()),
        Unary::Abs => map!(x, out, |x| x.abs()),
        Unary::Sign => map!(x, out, |x| x.sign()),
        Unary::Square => map!(x, out, |x| x.mul(x)),
        Unary::Not => map!(x, out, |x| if x == T::ZERO { T::ONE } else { T::ZERO }),
        Unary::AddScalar(c) => {
            let c = T::wrapped(c);
            map!(x, out, |x| x.add(c))
        }
        Unary::MulScalar(c) => {
            let c = T::wrapped(c);
            map!(x, out, |x| x.mul(c))
        }
        Unary::MaxScalar(c) => {
            let c = T::saturated(c);
            map!(x, out, |x| x.max(c))
        }
        Unary::MinScalar(c) => {
            let c = T::saturated(c);
            map!(x, out, |x| x.min(c))
        }
        // Of floats only.
        _ => {}
    }
}

#[inline(always)]
pub(super) fn integer_binary<T: Integer>(op: Binary, a: Option<&[T]>, b: Row<T>, out: &mut [T]) {
    // A bool other than 0 counts as true, and results are 0 or 1.
    let truth = |x: bool| if x { T::ONE } else { T::ZERO };
    let is = |x: T| x != T::ZERO;
    match op {
        Binary::Add => zip!(a, b, out, |a, b| a.add(b)),
        Binary::Sub => zip!(a, b, out, |a, b| a.sub(b)),
        Binary::Mul => zip!(a, b, out, |a, b| a.mul(b)),
        Binary::Div => zip!(a, b, out, |a, b| a.div(b)),
        Binary::Max => zip!(a, b, out, |a, b| a.max(b)),
        Binary::Min => zip!(a, b, out, |a, b| a.min(b)),
        Binary::And => zip!(a, b, out, |a, b| truth(is(a) && is(b))),
        Binary::Or => zip!(a, b, out, |a, b| truth(is(a) || is(b))),
        Binary::Xor => zip!(a, b, out, |a, b| truth(is(a) != is(b))),
        // Of floats only.
        Binary::Pow => {}
    }
}
