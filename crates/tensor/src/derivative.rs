//! The derivatives of the elementwise primitives, in tensor operations, so that those of any order exist.

use crate::Tensor;
use attentia_backend::{Binary, Result, Unary};

/// What the derivative of a unary operation is written in.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Keep {
    Nothing,
    Input,
    Output,
}

pub(crate) const fn keep(op: Unary) -> Keep {
    use Unary::*;
    match op {
        Neg | Not | AddScalar(_) | MulScalar(_) | Sign | Floor | Ceil | Round => Keep::Nothing,
        Exp | Expm1 | Sqrt | Rsqrt | Reciprocal | Tanh | Sigmoid => Keep::Output,
        Abs | Square | Log | Log1p | Sin | Cos | Erf | PowScalar(_) | MaxScalar(_) | MinScalar(_) => Keep::Input,
    }
}

/// `g · d op(x) / dx`; `v` is x or `op(x)`, as [`keep`] says.
pub(crate) fn unary_derivative(op: Unary, v: Option<Tensor>, g: Tensor) -> Result<Tensor> {
    use Unary::*;
    let v = match v {
        Some(v) => v,
        None => {
            return match op {
                Neg => -g,
                AddScalar(_) => Ok(g),
                MulScalar(c) => g * c,
                _ => g.zeros_like(), // flat between its steps
            };
        }
    };
    match op {
        Exp => g * v,
        Expm1 => g * (v + 1.0)?,
        Sqrt => g * (0.5 / v)?,
        Rsqrt => (g * -0.5)? * (v.square()? * v)?,
        Reciprocal => (g * v.square()?)? * -1.0,
        Tanh => g * (1.0 - v.square()?)?,
        Sigmoid => g * (&v * (1.0 - &v)?)?,
        Abs => g * v.sign()?,
        Square => (g * 2.0)? * v,
        Log => g / v,
        Log1p => g / (v + 1.0)?,
        Sin => g * v.cos()?,
        Cos => (g * v.sin()?)? * -1.0,
        Erf => (g * std::f64::consts::FRAC_2_SQRT_PI)? * (-v.square()?)?.exp()?,
        PowScalar(0.0) => g.zeros_like(),
        PowScalar(c) => (g * c)? * v.pow_scalar(c - 1.0)?,
        MaxScalar(c) => g.where_or_zero(&v.ge_scalar(c)?),
        MinScalar(c) => g.where_or_zero(&v.le_scalar(c)?),
        Neg | Not | AddScalar(_) | MulScalar(_) | Sign | Floor | Ceil | Round => g.zeros_like(),
    }
}

/// Whether the derivative of a binary operation is written in its operands.
pub(crate) const fn keeps(op: Binary) -> bool {
    !matches!(op, Binary::Add | Binary::Sub)
}

/// `g · ∂op/∂a` and `g · ∂op/∂b`, where wanted.
pub(crate) fn binary_derivative(
    op: Binary,
    operands: Option<(Tensor, Tensor)>,
    g: Tensor,
    wants: (bool, bool),
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let Some((a, b)) = operands else {
        let second = match (wants.1, op) {
            (false, _) => None,
            (true, Binary::Sub) => Some(g.neg()?),
            (true, _) => Some(g.clone()),
        };
        return Ok((wants.0.then_some(g), second));
    };
    // The last use of g takes it by value, and may write into it.
    let both = |first: &dyn Fn(Tensor) -> Result<Tensor>, second: &dyn Fn(Tensor) -> Result<Tensor>| {
        let db = match wants {
            (true, true) => Some(second(g.clone())?),
            (false, true) => return Ok((None, Some(second(g)?))),
            _ => None,
        };
        Ok((if wants.0 { Some(first(g)?) } else { None }, db))
    };
    match op {
        Binary::Mul => both(&|g| g * &b, &|g| g * &a),
        Binary::Div => both(&|g| g / &b, &|g| ((g * &a)? / b.square()?)? * -1.0),
        Binary::Pow => both(
            // Where b = 0 the slope is 0, also at a = 0; where aᵇ = 0 the logarithm must not make a NaN of it.
            &|g| (g * (&b * a.pow(&(&b - 1.0)?)?)?)?.where_or_zero(&b.ne_scalar(0.0)?),
            &|g| {
                let (power, flat) = (a.pow(&b)?, a.eq_scalar(0.0)?.logical_and(&b.ge_scalar(0.0)?)?);
                let log = Tensor::where_cond(&flat, &Tensor::zeros(&[], a.dtype(), a.device())?, &a.log()?)?;
                g * (power * log)?
            },
        ),
        // At a tie each gets half.
        Binary::Max | Binary::Min => {
            let (tie, wins) = (a.eq(&b)?, if op == Binary::Max { a.gt(&b)? } else { a.lt(&b)? });
            let loses = wins.logical_or(&tie)?.logical_not()?;
            let share = |g: Tensor, wins: &Tensor| {
                let half = Tensor::where_cond(&tie, &(&g * 0.5)?, &Tensor::zeros(&[], g.dtype(), g.device())?)?;
                Tensor::where_cond(wins, &g, &half)
            };
            both(&|g| share(g, &wins), &|g| share(g, &loses))
        }
        Binary::Add | Binary::Sub | Binary::And | Binary::Or | Binary::Xor => Ok((None, None)),
    }
}
