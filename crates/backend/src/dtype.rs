//! Element types: a run-time value inside the engine, a Rust type at its edges.

use crate::{HostSlice, HostSliceMut};
use half::{bf16, f16};
use std::fmt;

/// The type of a tensor's elements.
///
/// There is no implicit promotion between float dtypes: mixing two of them is an error that names both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// bfloat16: the upper half of an `f32`.
    Bf16,
    /// IEEE binary16.
    F16,
    /// Signed 64-bit integer: indices and token ids.
    I64,
    /// Unsigned 32-bit integer.
    U32,
    /// Byte.
    U8,
    /// Truth value, stored as one byte that is 0 or 1.
    Bool,
}

impl DType {
    /// Every dtype, widest float first.
    pub const ALL: [DType; 8] =
        [DType::F64, DType::F32, DType::Bf16, DType::F16, DType::I64, DType::U32, DType::U8, DType::Bool];

    /// The float dtypes.
    pub const FLOATS: [DType; 4] = [DType::F64, DType::F32, DType::Bf16, DType::F16];

    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::U32 => 4,
            DType::Bf16 | DType::F16 => 2,
            DType::U8 | DType::Bool => 1,
        }
    }

    /// Whether gradients can flow through it.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::Bf16 | DType::F16)
    }

    /// Whether it is `i64`, `u32` or `u8`.
    pub const fn is_integer(self) -> bool {
        matches!(self, DType::I64 | DType::U32 | DType::U8)
    }

    /// Whether it is stored in 16 bits and therefore accumulated in `f32`.
    pub const fn is_half(self) -> bool {
        matches!(self, DType::Bf16 | DType::F16)
    }

    /// The dtype of statistics, norms and log-sum-exp beside data of this dtype: `f64` for `f64`, else `f32`.
    pub const fn statistics(self) -> DType {
        match self {
            DType::F64 => DType::F64,
            _ => DType::F32,
        }
    }

    /// The name used in messages and files: `f32`, `bf16`, `i64` …
    pub const fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::I64 => "i64",
            DType::U32 => "u32",
            DType::U8 => "u8",
            DType::Bool => "bool",
        }
    }

    /// The dtype with this [`name`](DType::name).
    pub fn parse(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.name() == name)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A Rust type that a tensor's elements can be read from and written to.
pub trait Element: Copy + fmt::Debug + PartialEq + Send + Sync + 'static {
    /// The run-time name of this type.
    const DTYPE: DType;
    /// A typed slice as the backend takes it.
    fn host(values: &[Self]) -> HostSlice<'_>;
    /// A typed destination as the backend takes it.
    fn host_mut(values: &mut [Self]) -> HostSliceMut<'_>;
    /// The value used to initialise a destination.
    fn zero() -> Self;
    /// Nearest value of this type; floats round to even, integers saturate, `bool` is `x != 0`.
    fn from_f64(x: f64) -> Self;
    /// The value as `f64`; exact for every type but `i64` beyond 2⁵³.
    fn to_f64(self) -> f64;
}

macro_rules! element {
    ($($t:ty, $dtype:ident, $zero:expr, $from:expr, $to:expr;)*) => {$(
        impl Element for $t {
            const DTYPE: DType = DType::$dtype;
            fn host(values: &[Self]) -> HostSlice<'_> { HostSlice::$dtype(values) }
            fn host_mut(values: &mut [Self]) -> HostSliceMut<'_> { HostSliceMut::$dtype(values) }
            fn zero() -> Self { $zero }
            fn from_f64(x: f64) -> Self { ($from)(x) }
            fn to_f64(self) -> f64 { ($to)(self) }
        }
    )*};
}

element! {
    f64, F64, 0.0, |x| x, |x| x;
    f32, F32, 0.0, |x| x as f32, |x| x as f64;
    bf16, Bf16, bf16::ZERO, bf16::from_f64, bf16::to_f64;
    f16, F16, f16::ZERO, f16::from_f64, f16::to_f64;
    i64, I64, 0, |x| x as i64, |x| x as f64;
    u32, U32, 0, |x| x as u32, |x| x as f64;
    u8, U8, 0, |x| x as u8, |x| x as f64;
    bool, Bool, false, |x| x != 0.0, |x| x as u8 as f64;
}

/// One number on its way into a tensor; it adopts the tensor's dtype.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// A real number.
    Float(f64),
    /// A whole number, exact beyond 2⁵³.
    Int(i64),
}

impl Scalar {
    /// The number as `f64`.
    pub fn to_f64(self) -> f64 {
        match self {
            Scalar::Float(x) => x,
            Scalar::Int(x) => x as f64,
        }
    }
}

impl From<f64> for Scalar {
    fn from(x: f64) -> Self {
        Scalar::Float(x)
    }
}
impl From<f32> for Scalar {
    fn from(x: f32) -> Self {
        Scalar::Float(x as f64)
    }
}
impl From<i64> for Scalar {
    fn from(x: i64) -> Self {
        Scalar::Int(x)
    }
}
impl From<i32> for Scalar {
    fn from(x: i32) -> Self {
        Scalar::Int(x as i64)
    }
}
impl From<usize> for Scalar {
    fn from(x: usize) -> Self {
        Scalar::Int(i64::try_from(x).unwrap_or(i64::MAX))
    }
}
impl From<bool> for Scalar {
    fn from(x: bool) -> Self {
        Scalar::Int(x as i64)
    }
}
