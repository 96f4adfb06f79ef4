//! Elementwise operations.

use crate::{
    Backward, Data, Function, Saver, Tensor, anomaly,
    derivative::{Keep, binary_derivative, keep, keeps, unary_derivative},
    function::run_one,
    graph::records,
    tensor::same_device,
};
use attentia_backend::{Binary, Compare, DType, Error, ErrorKind, Result, Scalar, Shape, Source, Unary, rules};

/// A [`Unary`] as a function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnaryFunction(pub Unary);

impl Function for UnaryFunction {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let x = inputs[0];
        let mut out = Data::alloc(x.device(), x.dtype(), *x.shape())?;
        x.device().unary(self.0, Source::View(x.view()?), out.view_mut()?)?;
        match keep(self.0) {
            Keep::Nothing => {}
            Keep::Input => save.input(0),
            Keep::Output => save.output(0),
        }
        Ok(vec![out])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let Some(g) = b.take_grad(0) else { return Ok(vec![None]) };
        Ok(vec![Some(unary_derivative(self.0, b.saved.pop(), g)?)])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![inputs[0].unary(self.0)?])
    }
}

/// A [`Binary`] as a function of operands of one shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BinaryFunction(pub Binary);

impl Function for BinaryFunction {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (a, b) = (inputs[0], inputs[1]);
        let mut out = Data::alloc(a.device(), a.dtype(), *a.shape())?;
        a.device().binary(self.0, Source::View(a.view()?), b.view()?, out.view_mut()?)?;
        if keeps(self.0) {
            save.input(0);
            save.input(1);
        }
        Ok(vec![out])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let Some(g) = b.take_grad(0) else { return Ok(vec![None, None]) };
        let operands = match keeps(self.0) {
            true => {
                let [x, y] = b.take_saved()?;
                Some((x, y))
            }
            false => None,
        };
        let (first, second) = binary_derivative(self.0, operands, g, (b.wants(0), b.wants(1)))?;
        Ok(vec![first, second])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![inputs[0].binary(self.0, inputs[1])?])
    }
}

/// `condition ? a : b` of operands of one shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Select;

impl Function for Select {
    fn name(&self) -> &'static str {
        "select"
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (condition, a, b) = (inputs[0], inputs[1], inputs[2]);
        let mut out = Data::alloc(a.device(), a.dtype(), *a.shape())?;
        a.device().select(condition.view()?, a.view()?, b.view()?, out.view_mut()?)?;
        save.input(0);
        Ok(vec![out])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let [condition] = b.take_saved()?;
        let Some(g) = b.take_grad(0) else { return Ok(vec![None, None, None]) };
        let first = if b.wants(1) { Some(g.where_or_zero(&condition)?) } else { None };
        let second = if b.wants(2) { Some(g.where_or_zero(&condition.logical_not()?)?) } else { None };
        Ok(vec![None, first, second])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![Tensor::where_cond(inputs[0], inputs[1], inputs[2])?])
    }
}

/// `op(x)`, written into x where nobody else holds it and nothing is recorded.
pub(crate) fn unary_owned(op: Unary, mut x: Tensor) -> Result<Tensor> {
    if !op.accepts(x.dtype()) || anomaly::is_on() || records(&[&x]) || !x.data.is_writable() {
        return x.unary(op);
    }
    let device = x.device().clone();
    device.unary(op, Source::Destination, x.data.view_mut()?)?;
    Ok(Tensor::from_data(x.data))
}

/// `op(a, b)`, written into `a` where nobody else holds it and nothing is recorded, and for a commutative operation
/// else into `b`.
pub(crate) fn binary_owned(op: Binary, mut a: Tensor, mut b: Tensor) -> Result<Tensor> {
    if binary_into(op, &mut a, &b)? {
        return Ok(a);
    }
    if matches!(op, Binary::Add | Binary::Mul) && binary_into(op, &mut b, &a)? {
        return Ok(b);
    }
    a.binary(op, &b)
}

/// [`binary_owned`] with a right operand that somebody keeps.
pub(crate) fn binary_owned_ref(op: Binary, mut a: Tensor, b: &Tensor) -> Result<Tensor> {
    if binary_into(op, &mut a, b)? { Ok(a) } else { a.binary(op, b) }
}

/// `op(a, b)` in a's storage, if it may be written to.
fn binary_into(op: Binary, a: &mut Tensor, b: &Tensor) -> Result<bool> {
    let fits = alike(a.data(), b.data()) && op.accepts(a.dtype()) && !anomaly::is_on() && !records(&[a, b]);
    if !fits || !a.data.is_writable() {
        return Ok(false);
    }
    let Some(layout) = b.layout().broadcast_to(a.shape()) else { return Ok(false) };
    let device = a.device().clone();
    device.binary(op, Source::Destination, b.data.view_as(&layout)?, a.data.view_mut()?)?;
    a.edge = None;
    Ok(true)
}

/// Same dtype and device, without the cost of a message.
fn alike(a: &Data, b: &Data) -> bool {
    a.dtype() == b.dtype() && a.device().same(b.device())
}

impl Tensor {
    pub(crate) fn unary(&self, op: Unary) -> Result<Tensor> {
        if !op.accepts(self.dtype()) {
            rules::unary(op, self.meta("x"))?;
        }
        run_one(&UnaryFunction(op), &[self])
    }

    pub(crate) fn binary(&self, op: Binary, other: &Tensor) -> Result<Tensor> {
        if self.shape() == other.shape() && alike(&self.data, &other.data) && op.accepts(self.dtype()) {
            return run_one(&BinaryFunction(op), &[self, other]);
        }
        let shape = rules::binary(op, self.meta("a"), other.meta("b"))?;
        same_device(op.name(), &[self, other])?;
        run_one(&BinaryFunction(op), &[&self.expand(&shape)?, &other.expand(&shape)?])
    }

    pub(crate) fn compare(&self, op: Compare, other: &Tensor) -> Result<Tensor> {
        let shape = rules::compare(op, self.meta("a"), other.meta("b"))?;
        same_device(op.name(), &[self, other])?;
        let (a, b) = (self.detach().expand(&shape)?, other.detach().expand(&shape)?);
        let mut out = Data::alloc(self.device(), DType::Bool, shape)?;
        self.device().compare(op, a.view()?, b.view()?, out.view_mut()?)?;
        Ok(Tensor::from_data(out))
    }

    /// This tensor broadcast to a shape that is known to fit; itself when it has that shape already.
    pub(crate) fn expand(&self, shape: &Shape) -> Result<Tensor> {
        if self.shape() == shape { Ok(self.clone()) } else { self.broadcast_to(shape) }
    }

    /// Elements where `keep` is true, else 0: unlike a product with a mask, NaN and infinities don't leak.
    pub(crate) fn where_or_zero(&self, keep: &Tensor) -> Result<Tensor> {
        Tensor::where_cond(keep, self, &Tensor::zeros(&[], self.dtype(), self.device())?)
    }

    /// One element of this tensor's dtype, for an operation named `op`. Errors when the dtype can't hold it.
    pub(crate) fn constant(&self, op: &'static str, value: Scalar) -> Result<Tensor> {
        self.check_scalar(op, value)?;
        Tensor::full(&[], value, self.dtype(), self.device())
    }

    /// A scalar adopts the tensor's dtype; a fraction would vanish in silence in an integer.
    pub(crate) fn check_scalar(&self, op: &'static str, value: Scalar) -> Result<()> {
        match value {
            Scalar::Float(x) if !self.dtype().is_float() && x.fract() != 0.0 => {
                Err(Error::new(ErrorKind::DType, op, format!("{x} is no value of {}", self.dtype()))
                    .operand(self.data.operand("x"))
                    .help("convert the tensor with to_dtype(DType::F32)"))
            }
            _ => Ok(()),
        }
    }

    fn scalar_op(&self, op: fn(f64) -> Unary, value: Scalar) -> Result<Tensor> {
        let named = op(value.to_f64());
        self.check_scalar(named.name(), value)?;
        match (value, named) {
            // Beyond 2⁵³ a whole number is no f64.
            (Scalar::Int(i), _) if i.unsigned_abs() > 1 << 53 => {
                let binary = match named {
                    Unary::AddScalar(_) => Binary::Add,
                    Unary::MulScalar(_) => Binary::Mul,
                    Unary::MaxScalar(_) => Binary::Max,
                    Unary::MinScalar(_) => Binary::Min,
                    _ => Binary::Pow,
                };
                self.binary(binary, &self.constant(named.name(), value)?)
            }
            _ => self.unary(named),
        }
    }

    /// `x + c`
    pub fn add_scalar(&self, c: impl Into<Scalar>) -> Result<Tensor> {
        self.scalar_op(Unary::AddScalar, c.into())
    }

    /// `x − c`
    pub fn sub_scalar(&self, c: impl Into<Scalar>) -> Result<Tensor> {
        match c.into() {
            Scalar::Int(i64::MIN) => self.sub(&self.constant("sub_scalar", Scalar::Int(i64::MIN))?),
            Scalar::Int(i) => self.add_scalar(-i),
            Scalar::Float(x) => self.add_scalar(-x),
        }
    }

    /// `x · c`
    pub fn mul_scalar(&self, c: impl Into<Scalar>) -> Result<Tensor> {
        self.scalar_op(Unary::MulScalar, c.into())
    }

    /// `x / c`, rounded once, not `x · (1/c)`.
    pub fn div_scalar(&self, c: impl Into<Scalar>) -> Result<Tensor> {
        let c = c.into();
        let inverse = 1.0 / c.to_f64();
        // The inverse of a power of two is exact.
        if self.dtype().is_float() && inverse.is_normal() && inverse.to_bits() << 12 == 0 && inverse.abs() > 1e-30 {
            return self.mul_scalar(inverse);
        }
        self.div(&self.constant("div_scalar", c)?)
    }

    /// `xᶜ`
    pub fn pow_scalar(&self, c: impl Into<Scalar>) -> Result<Tensor> {
        self.scalar_op(Unary::PowScalar, c.into())
    }

    /// `max(x, c)`; NaN stays NaN. The gradient passes where `x ≥ c`.
    pub fn clamp_min(&self, c: impl Into<Scalar>) -> Result<Tensor> {
        self.scalar_op(Unary::MaxScalar, c.into())
    }

    /// `min(x, c)`; NaN stays NaN. The gradient passes where `x ≤ c`.
    pub fn clamp_max(&self, c: impl Into<Scalar>) -> Result<Tensor> {
        self.scalar_op(Unary::MinScalar, c.into())
    }

    /// `min(max(x, low), high)`
    pub fn clamp(&self, low: impl Into<Scalar>, high: impl Into<Scalar>) -> Result<Tensor> {
        self.clamp_min(low)?.clamp_max(high)
    }

    /// `condition ? a : b`, broadcast; `condition` is bool.
    pub fn where_cond(condition: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let shape = rules::select(condition.meta("condition"), a.meta("a"), b.meta("b"))?;
        same_device("select", &[condition, a, b])?;
        run_one(&Select, &[&condition.expand(&shape)?, &a.expand(&shape)?, &b.expand(&shape)?])
    }

    /// `value` where the mask (bool, broadcast to this shape) is true.
    pub fn masked_fill(&self, mask: &Tensor, value: impl Into<Scalar>) -> Result<Tensor> {
        if mask.layout().broadcast_to(self.shape()).is_none() {
            return Err(Error::new(ErrorKind::Shape, "masked_fill", "the mask does not broadcast to x")
                .operand(self.data.operand("x"))
                .operand(mask.data.operand("mask").expected(format!("something that broadcasts to {}", self.shape())))
                .help("true means: fill"));
        }
        Tensor::where_cond(mask, &self.constant("masked_fill", value.into())?, self)
    }
}

macro_rules! unary_methods {
    ($($(#[$doc:meta])* $name:ident $op:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            pub fn $name(&self) -> Result<Tensor> {
                self.unary(Unary::$op)
            }
        )*}
    };
}

unary_methods! {
    /// `-x`
    neg Neg;
    /// `|x|`; its gradient at 0 is 0.
    abs Abs;
    /// -1, 0 or 1, with zero gradient.
    sign Sign;
    /// `x²`
    square Square;
    /// `√x`
    sqrt Sqrt;
    /// `1/√x`
    rsqrt Rsqrt;
    /// `1/x`
    reciprocal Reciprocal;
    /// `eˣ`
    exp Exp;
    /// `eˣ − 1`, exact near 0.
    expm1 Expm1;
    /// Natural logarithm.
    log Log;
    /// `ln(1 + x)`, exact near 0.
    log1p Log1p;
    /// Sine, radians.
    sin Sin;
    /// Cosine, radians.
    cos Cos;
    /// Hyperbolic tangent.
    tanh Tanh;
    /// `1 / (1 + e⁻ˣ)`
    sigmoid Sigmoid;
    /// Error function.
    erf Erf;
    /// Largest whole number not above, with zero gradient.
    floor Floor;
    /// Smallest whole number not below, with zero gradient.
    ceil Ceil;
    /// Nearest whole number, ties to even, with zero gradient.
    round Round;
    /// Negation of a bool.
    logical_not Not;
}

macro_rules! binary_methods {
    ($($(#[$doc:meta])* $name:ident $op:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            pub fn $name(&self, other: &Tensor) -> Result<Tensor> {
                self.binary(Binary::$op, other)
            }
        )*}
    };
}

binary_methods! {
    /// `a + b`, broadcast.
    add Add;
    /// `a − b`, broadcast.
    sub Sub;
    /// `a · b`, elementwise, broadcast.
    mul Mul;
    /// `a / b`, broadcast; integers truncate, and division by zero gives zero.
    div Div;
    /// `aᵇ`, broadcast.
    pow Pow;
    /// The greater, broadcast; NaN if either is. At a tie each gets half of the gradient.
    maximum Max;
    /// The smaller, broadcast; NaN if either is. At a tie each gets half of the gradient.
    minimum Min;
    /// Logical and of bools, broadcast.
    logical_and And;
    /// Logical or of bools, broadcast.
    logical_or Or;
    /// Logical exclusive or of bools, broadcast.
    logical_xor Xor;
}

macro_rules! compare_methods {
    ($($(#[$doc:meta])* $name:ident $scalar:ident $op:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            pub fn $name(&self, other: &Tensor) -> Result<Tensor> {
                self.compare(Compare::$op, other)
            }

            #[doc = concat!("[`Tensor::", stringify!($name), "`] with one number.")]
            pub fn $scalar(&self, c: impl Into<Scalar>) -> Result<Tensor> {
                self.compare(Compare::$op, &self.constant(Compare::$op.name(), c.into())?)
            }
        )*}
    };
}

compare_methods! {
    /// `a = b`, bool, broadcast.
    eq eq_scalar Eq;
    /// `a ≠ b`, bool, broadcast; true for NaN.
    ne ne_scalar Ne;
    /// `a < b`, bool, broadcast.
    lt lt_scalar Lt;
    /// `a ≤ b`, bool, broadcast.
    le le_scalar Le;
    /// `a > b`, bool, broadcast.
    gt gt_scalar Gt;
    /// `a ≥ b`, bool, broadcast.
    ge ge_scalar Ge;
}
