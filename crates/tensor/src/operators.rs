//! `+ - * /` between tensors, results of tensors and numbers; each gives a `Result<Tensor>`.
//!
//! `(&a + &b) * &c` needs no `?` in between, because the left operand may be the result of another operator. An operand
//! given by value is overwritten where nobody else holds its storage and nothing is recorded.

use crate::{
    Tensor,
    elementwise::{binary_owned, binary_owned_ref, unary_owned},
};
use attentia_backend::{Binary, Result, Unary};
use std::ops::{Add, Div, Mul, Neg, Sub};

macro_rules! operators {
    ($($trait:ident $method:ident $op:ident;)*) => {$(
        impl $trait<&Tensor> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: &Tensor) -> Result<Tensor> {
                self.binary(Binary::$op, other)
            }
        }

        impl $trait<Tensor> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: Tensor) -> Result<Tensor> {
                match Binary::$op {
                    // These commute, so the right operand may be the destination.
                    Binary::Add | Binary::Mul => binary_owned_ref(Binary::$op, other, self),
                    _ => self.binary(Binary::$op, &other),
                }
            }
        }

        impl $trait<&Tensor> for Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: &Tensor) -> Result<Tensor> {
                binary_owned_ref(Binary::$op, self, other)
            }
        }

        impl $trait<Tensor> for Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: Tensor) -> Result<Tensor> {
                binary_owned(Binary::$op, self, other)
            }
        }

        impl $trait<&Tensor> for Result<Tensor> {
            type Output = Result<Tensor>;
            fn $method(self, other: &Tensor) -> Result<Tensor> {
                $trait::$method(self?, other)
            }
        }

        impl $trait<Tensor> for Result<Tensor> {
            type Output = Result<Tensor>;
            fn $method(self, other: Tensor) -> Result<Tensor> {
                $trait::$method(self?, other)
            }
        }

        impl $trait<Result<Tensor>> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: Result<Tensor>) -> Result<Tensor> {
                $trait::$method(self, other?)
            }
        }

        impl $trait<Result<Tensor>> for Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: Result<Tensor>) -> Result<Tensor> {
                $trait::$method(self, other?)
            }
        }
    )*};
}

operators! {
    Add add Add;
    Sub sub Sub;
    Mul mul Mul;
    Div div Div;
}

macro_rules! with_number {
    ($($trait:ident $method:ident: |$x:ident, $c:ident| $right:expr, $left:expr;)*) => {$(
        impl $trait<f64> for Tensor {
            type Output = Result<Tensor>;
            fn $method(self, $c: f64) -> Result<Tensor> {
                let $x = self;
                $right
            }
        }

        impl $trait<f64> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, $c: f64) -> Result<Tensor> {
                let $x = self.clone();
                $right
            }
        }

        impl $trait<Tensor> for f64 {
            type Output = Result<Tensor>;
            fn $method(self, $x: Tensor) -> Result<Tensor> {
                let $c = self;
                $left
            }
        }

        impl $trait<&Tensor> for f64 {
            type Output = Result<Tensor>;
            fn $method(self, $x: &Tensor) -> Result<Tensor> {
                $trait::$method(self, $x.clone())
            }
        }
    )*};
}

with_number! {
    Add add: |x, c| scalar_owned(Unary::AddScalar, x, c), scalar_owned(Unary::AddScalar, x, c);
    Sub sub: |x, c| scalar_owned(Unary::AddScalar, x, -c), scalar_owned(Unary::AddScalar, unary_owned(Unary::Neg, x)?, c);
    Mul mul: |x, c| scalar_owned(Unary::MulScalar, x, c), scalar_owned(Unary::MulScalar, x, c);
    Div div: |x, c| x.div_scalar(c), reciprocal_times(x, c);
}

/// In place where that is possible; errors for a fraction and a tensor of integers.
fn scalar_owned(op: fn(f64) -> Unary, x: Tensor, c: f64) -> Result<Tensor> {
    let op = op(c);
    if !x.dtype().is_float() {
        x.check_scalar(op.name(), c.into())?;
    }
    unary_owned(op, x)
}

/// `c / x`, rounded once.
fn reciprocal_times(x: Tensor, c: f64) -> Result<Tensor> {
    if c == 1.0 && x.dtype().is_float() {
        return unary_owned(Unary::Reciprocal, x);
    }
    x.constant("div", c.into())?.div(&x)
}

impl Neg for Tensor {
    type Output = Result<Tensor>;
    fn neg(self) -> Result<Tensor> {
        unary_owned(Unary::Neg, self)
    }
}

impl Neg for &Tensor {
    type Output = Result<Tensor>;
    fn neg(self) -> Result<Tensor> {
        self.unary(Unary::Neg)
    }
}
