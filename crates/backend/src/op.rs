//! The closed list of primitives.
//!
//! Every variant has a derivative in `attentia-tensor`, a loop in `attentia-reference` and a kernel in each backend;
//! an exhaustive `match` in each of them finds the one that was forgotten.

use crate::DType;

/// Elementwise functions of one operand. Scalars adopt the operand's dtype.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// `-x`
    Neg,
    /// `|x|`
    Abs,
    /// -1, 0 or 1; NaN stays NaN.
    Sign,
    /// `x²`
    Square,
    /// `√x`
    Sqrt,
    /// `1/√x`
    Rsqrt,
    /// `1/x`
    Reciprocal,
    /// `eˣ`
    Exp,
    /// `eˣ − 1`, exact near 0.
    Expm1,
    /// Natural logarithm.
    Log,
    /// `ln(1 + x)`, exact near 0.
    Log1p,
    /// Sine, radians.
    Sin,
    /// Cosine, radians.
    Cos,
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + e⁻ˣ)`
    Sigmoid,
    /// Error function.
    Erf,
    /// Largest whole number not above.
    Floor,
    /// Smallest whole number not below.
    Ceil,
    /// Nearest whole number, ties to even.
    Round,
    /// Logical negation of a bool.
    Not,
    /// `x + c`
    AddScalar(f64),
    /// `x · c`
    MulScalar(f64),
    /// `xᶜ`
    PowScalar(f64),
    /// `max(x, c)`; NaN stays NaN.
    MaxScalar(f64),
    /// `min(x, c)`; NaN stays NaN.
    MinScalar(f64),
}

impl Unary {
    /// One of each, with an arbitrary scalar, so that tests can walk over the list.
    pub const ALL: [Unary; 25] = [
        Unary::Neg,
        Unary::Abs,
        Unary::Sign,
        Unary::Square,
        Unary::Sqrt,
        Unary::Rsqrt,
        Unary::Reciprocal,
        Unary::Exp,
        Unary::Expm1,
        Unary::Log,
        Unary::Log1p,
        Unary::Sin,
        Unary::Cos,
        Unary::Tanh,
        Unary::Sigmoid,
        Unary::Erf,
        Unary::Floor,
        Unary::Ceil,
        Unary::Round,
        Unary::Not,
        Unary::AddScalar(0.5),
        Unary::MulScalar(1.5),
        Unary::PowScalar(2.5),
        Unary::MaxScalar(0.25),
        Unary::MinScalar(0.25),
    ];

    /// The name in messages and test ids.
    pub const fn name(self) -> &'static str {
        match self {
            Unary::Neg => "neg",
            Unary::Abs => "abs",
            Unary::Sign => "sign",
            Unary::Square => "square",
            Unary::Sqrt => "sqrt",
            Unary::Rsqrt => "rsqrt",
            Unary::Reciprocal => "reciprocal",
            Unary::Exp => "exp",
            Unary::Expm1 => "expm1",
            Unary::Log => "log",
            Unary::Log1p => "log1p",
            Unary::Sin => "sin",
            Unary::Cos => "cos",
            Unary::Tanh => "tanh",
            Unary::Sigmoid => "sigmoid",
            Unary::Erf => "erf",
            Unary::Floor => "floor",
            Unary::Ceil => "ceil",
            Unary::Round => "round",
            Unary::Not => "not",
            Unary::AddScalar(_) => "add_scalar",
            Unary::MulScalar(_) => "mul_scalar",
            Unary::PowScalar(_) => "pow_scalar",
            Unary::MaxScalar(_) => "max_scalar",
            Unary::MinScalar(_) => "min_scalar",
        }
    }

    /// Whether it is defined for operands of this dtype. Integers wrap; `abs`, `neg` and `sign` of `u8` and `u32` are
    /// those of the unsigned value.
    pub const fn accepts(self, dtype: DType) -> bool {
        match self {
            Unary::Not => matches!(dtype, DType::Bool),
            Unary::Neg
            | Unary::Abs
            | Unary::Sign
            | Unary::Square
            | Unary::AddScalar(_)
            | Unary::MulScalar(_)
            | Unary::MaxScalar(_)
            | Unary::MinScalar(_) => dtype.is_float() || dtype.is_integer(),
            _ => dtype.is_float(),
        }
    }
}

/// Elementwise functions of two operands of one dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a − b`
    Sub,
    /// `a · b`
    Mul,
    /// `a / b`; integers truncate towards zero, and division by zero gives zero.
    Div,
    /// `aᵇ`, floats only.
    Pow,
    /// The greater; NaN if either is.
    Max,
    /// The smaller; NaN if either is.
    Min,
    /// Logical and, of bools.
    And,
    /// Logical or, of bools.
    Or,
    /// Logical exclusive or, of bools.
    Xor,
}

impl Binary {
    /// Every variant.
    pub const ALL: [Binary; 10] = [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Pow,
        Binary::Max,
        Binary::Min,
        Binary::And,
        Binary::Or,
        Binary::Xor,
    ];

    /// The name in messages and test ids.
    pub const fn name(self) -> &'static str {
        match self {
            Binary::Add => "add",
            Binary::Sub => "sub",
            Binary::Mul => "mul",
            Binary::Div => "div",
            Binary::Pow => "pow",
            Binary::Max => "maximum",
            Binary::Min => "minimum",
            Binary::And => "logical_and",
            Binary::Or => "logical_or",
            Binary::Xor => "logical_xor",
        }
    }

    /// Whether it is defined for operands of this dtype. Integers wrap.
    pub const fn accepts(self, dtype: DType) -> bool {
        match self {
            Binary::And | Binary::Or | Binary::Xor => matches!(dtype, DType::Bool),
            Binary::Pow => dtype.is_float(),
            _ => !matches!(dtype, DType::Bool),
        }
    }
}

/// Comparisons of two operands of one dtype; the result is bool. Any comparison with NaN is false, but `Ne`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names say it
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Compare {
    /// Every variant.
    pub const ALL: [Compare; 6] = [Compare::Eq, Compare::Ne, Compare::Lt, Compare::Le, Compare::Gt, Compare::Ge];

    /// The name in messages and test ids.
    pub const fn name(self) -> &'static str {
        match self {
            Compare::Eq => "eq",
            Compare::Ne => "ne",
            Compare::Lt => "lt",
            Compare::Le => "le",
            Compare::Gt => "gt",
            Compare::Ge => "ge",
        }
    }
}

/// Reductions over axes, which stay in the result with extent 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduce {
    /// Sum; of integers and bools in `i64`.
    Sum,
    /// Arithmetic mean, floats only; NaN of nothing.
    Mean,
    /// Variance with `count − correction` in the denominator, floats only.
    Var {
        /// Bessel's correction: 1 for the unbiased estimate, 0 for the population's.
        correction: usize,
    },
    /// Greatest; NaN if any is. An empty axis is an error. Of bools: any.
    Max,
    /// Smallest; NaN if any is. An empty axis is an error. Of bools: all.
    Min,
    /// Product; of integers and bools in `i64`.
    Prod,
}

impl Reduce {
    /// One of each.
    pub const ALL: [Reduce; 6] =
        [Reduce::Sum, Reduce::Mean, Reduce::Var { correction: 1 }, Reduce::Max, Reduce::Min, Reduce::Prod];

    /// The name in messages and test ids.
    pub const fn name(self) -> &'static str {
        match self {
            Reduce::Sum => "sum",
            Reduce::Mean => "mean",
            Reduce::Var { .. } => "var",
            Reduce::Max => "max",
            Reduce::Min => "min",
            Reduce::Prod => "prod",
        }
    }

    /// The dtype of the result, or `None` when it is not defined for this one.
    pub const fn result(self, dtype: DType) -> Option<DType> {
        match self {
            Reduce::Max | Reduce::Min => Some(dtype),
            Reduce::Mean | Reduce::Var { .. } if !dtype.is_float() => None,
            Reduce::Sum | Reduce::Prod if !dtype.is_float() => Some(DType::I64),
            _ => Some(dtype),
        }
    }
}

/// Position of an extreme along one axis, as `i64`; the first of equals, and NaN counts as the most extreme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names say it
pub enum ArgReduce {
    Max,
    Min,
}

impl ArgReduce {
    /// Every variant.
    pub const ALL: [ArgReduce; 2] = [ArgReduce::Max, ArgReduce::Min];

    /// The name in messages and test ids.
    pub const fn name(self) -> &'static str {
        match self {
            ArgReduce::Max => "argmax",
            ArgReduce::Min => "argmin",
        }
    }
}

/// The dtype in which an operation adds up operands of a dtype: the one table for every backend.
///
/// | operands | products, softmax, norms, attention, optimiser | sums, means, variances |
/// |---|---|---|
/// | f64 | f64 | f64 |
/// | f32 | f32, in fixed blocks | f32 within a block, f64 across blocks or f32 pairwise |
/// | bf16, f16 | f32 | f32 |
/// | integers, bool | – | i64, wrapping |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Accumulation;

impl Accumulation {
    /// The accumulator's dtype for operands of `dtype`.
    pub const fn of(dtype: DType) -> DType {
        match dtype {
            DType::F64 => DType::F64,
            DType::F32 | DType::Bf16 | DType::F16 => DType::F32,
            DType::I64 | DType::U32 | DType::U8 | DType::Bool => DType::I64,
        }
    }
}
