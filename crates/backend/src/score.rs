//! Score modifiers as data: evaluated tile by tile on a CPU, printed into a kernel on a GPU, differentiated here.

use std::fmt;

/// An expression in the attention score of one (query, key) pair.
///
/// ```
/// use attentia_backend::ScoreExpr as S;
/// // 30 · tanh(score / 30): soft-capping
/// let capped = S::constant(30.0) * (S::Score * S::constant(1.0 / 30.0)).tanh();
/// let slope = capped.derivative(&S::Score);
/// let at = |s: f64, e: &S| e.evaluate(&|leaf| match leaf { S::Score => s, _ => f64::NAN });
/// assert!((at(0.0, &slope) - 1.0).abs() < 1e-7);
/// assert!((at(90.0, &capped) - 30.0 * 3f64.tanh()).abs() < 1e-5);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ScoreExpr {
    /// The scaled product `scale · ⟨q, k⟩`.
    Score,
    /// A number, by its `f32` bits so that expressions can be hashed; see [`ScoreExpr::constant`].
    Constant(u32),
    /// The i-th entry of the operands' scalars: changes per step without a new kernel.
    Scalar(u8),
    /// The i-th bias operand at this (batch, head, query, key).
    Bias(u8),
    /// The i-th per-head vector operand (an ALiBi slope, say) at this head.
    HeadScalar(u8),
    /// Key position minus query position, in tokens, with the spec's causal alignment.
    Distance,
    /// Sum.
    Add(Box<(ScoreExpr, ScoreExpr)>),
    /// Product.
    Mul(Box<(ScoreExpr, ScoreExpr)>),
    /// Hyperbolic tangent.
    Tanh(Box<ScoreExpr>),
    /// `eˣ`
    Exp(Box<ScoreExpr>),
    /// `|x|`, with derivative [`ScoreExpr::Sign`].
    Abs(Box<ScoreExpr>),
    /// -1, 0 or 1.
    Sign(Box<ScoreExpr>),
}

impl ScoreExpr {
    /// A number; kept as `f32`.
    pub fn constant(x: f32) -> ScoreExpr {
        ScoreExpr::Constant(x.to_bits())
    }

    /// Hyperbolic tangent of this expression.
    pub fn tanh(self) -> ScoreExpr {
        ScoreExpr::Tanh(Box::new(self))
    }

    /// Exponential of this expression.
    pub fn exp(self) -> ScoreExpr {
        ScoreExpr::Exp(Box::new(self))
    }

    /// Absolute value of this expression.
    pub fn abs(self) -> ScoreExpr {
        ScoreExpr::Abs(Box::new(self))
    }

    fn is_constant(&self, x: f32) -> bool {
        *self == ScoreExpr::constant(x)
    }

    /// The value, given the value of each leaf but constants.
    pub fn evaluate(&self, leaf: &dyn Fn(&ScoreExpr) -> f64) -> f64 {
        match self {
            ScoreExpr::Constant(bits) => f32::from_bits(*bits) as f64,
            ScoreExpr::Add(pair) => pair.0.evaluate(leaf) + pair.1.evaluate(leaf),
            ScoreExpr::Mul(pair) => pair.0.evaluate(leaf) * pair.1.evaluate(leaf),
            ScoreExpr::Tanh(x) => x.evaluate(leaf).tanh(),
            ScoreExpr::Exp(x) => x.evaluate(leaf).exp(),
            ScoreExpr::Abs(x) => x.evaluate(leaf).abs(),
            ScoreExpr::Sign(x) => match x.evaluate(leaf) {
                x if x > 0.0 => 1.0,
                x if x < 0.0 => -1.0,
                x => x,
            },
            _ => leaf(self),
        }
    }

    /// The leaves in their order but for constants, as often as they occur.
    pub fn leaves(&self) -> Vec<&ScoreExpr> {
        match self {
            ScoreExpr::Constant(_) => Vec::new(),
            ScoreExpr::Add(pair) | ScoreExpr::Mul(pair) => [pair.0.leaves(), pair.1.leaves()].concat(),
            ScoreExpr::Tanh(x) | ScoreExpr::Exp(x) | ScoreExpr::Abs(x) | ScoreExpr::Sign(x) => x.leaves(),
            _ => vec![self],
        }
    }

    /// Whether this leaf occurs.
    pub fn names(&self, leaf: &ScoreExpr) -> bool {
        self.leaves().contains(&leaf)
    }

    /// The derivative with respect to a leaf: `Score`, `Scalar(i)`, `Bias(i)` or `HeadScalar(i)`.
    pub fn derivative(&self, leaf: &ScoreExpr) -> ScoreExpr {
        if self == leaf {
            return ScoreExpr::constant(1.0);
        }
        match self {
            ScoreExpr::Add(pair) => pair.0.derivative(leaf) + pair.1.derivative(leaf),
            ScoreExpr::Mul(pair) => pair.0.derivative(leaf) * pair.1.clone() + pair.0.clone() * pair.1.derivative(leaf),
            ScoreExpr::Tanh(x) => {
                (ScoreExpr::constant(1.0) + ScoreExpr::constant(-1.0) * (self.clone() * self.clone()))
                    * x.derivative(leaf)
            }
            ScoreExpr::Exp(x) => self.clone() * x.derivative(leaf),
            ScoreExpr::Abs(x) => ScoreExpr::Sign(x.clone()) * x.derivative(leaf),
            _ => ScoreExpr::constant(0.0),
        }
    }
}

impl std::ops::Add for ScoreExpr {
    type Output = ScoreExpr;
    fn add(self, other: ScoreExpr) -> ScoreExpr {
        if self.is_constant(0.0) {
            other
        } else if other.is_constant(0.0) {
            self
        } else {
            ScoreExpr::Add(Box::new((self, other)))
        }
    }
}

impl std::ops::Mul for ScoreExpr {
    type Output = ScoreExpr;
    fn mul(self, other: ScoreExpr) -> ScoreExpr {
        if self.is_constant(0.0) || other.is_constant(1.0) {
            self
        } else if other.is_constant(0.0) || self.is_constant(1.0) {
            other
        } else {
            ScoreExpr::Mul(Box::new((self, other)))
        }
    }
}

impl fmt::Display for ScoreExpr {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            ScoreExpr::Score => f.write_str("score"),
            ScoreExpr::Constant(bits) => write!(f, "{}", f32::from_bits(*bits)),
            ScoreExpr::Scalar(i) => write!(f, "scalar[{i}]"),
            ScoreExpr::Bias(i) => write!(f, "bias[{i}]"),
            ScoreExpr::HeadScalar(i) => write!(f, "head_scalar[{i}]"),
            ScoreExpr::Distance => f.write_str("distance"),
            ScoreExpr::Add(pair) => write!(f, "({} + {})", pair.0, pair.1),
            ScoreExpr::Mul(pair) => write!(f, "{} * {}", pair.0, pair.1),
            ScoreExpr::Tanh(x) => write!(f, "tanh({x})"),
            ScoreExpr::Exp(x) => write!(f, "exp({x})"),
            ScoreExpr::Abs(x) => write!(f, "abs({x})"),
            ScoreExpr::Sign(x) => write!(f, "sign({x})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ScoreExpr as S;

    #[test]
    fn leaves_are_found_behind_functions() {
        let expression = (S::Score * S::constant(2.0)).tanh() + S::Bias(1).exp() * S::Score;
        assert_eq!(expression.leaves(), [&S::Score, &S::Bias(1), &S::Score]);
        assert!(expression.names(&S::Bias(1)) && !expression.names(&S::Bias(0)));
    }

    #[test]
    fn derivatives_agree_with_differences() {
        let expressions = [
            S::constant(5.0) * (S::Score * S::constant(0.2)).tanh(),
            S::Score + S::HeadScalar(0) * S::Distance,
            (S::Score * S::Score * S::Scalar(1)).exp(),
            (S::Score + S::Bias(0)).abs() * S::Score,
        ];
        for expression in &expressions {
            for leaf in [S::Score, S::Bias(0), S::Scalar(1), S::HeadScalar(0)] {
                let at = |nudge: f64| {
                    let leaf = leaf.clone();
                    move |l: &S| if *l == leaf { 0.37 + nudge } else { 0.81 }
                };
                let h = 1e-6;
                let numeric = (expression.evaluate(&at(h)) - expression.evaluate(&at(-h))) / (2.0 * h);
                let symbolic = expression.derivative(&leaf).evaluate(&at(0.0));
                assert!((numeric - symbolic).abs() < 1e-6, "d({expression})/d({leaf}): {numeric} {symbolic}");
            }
        }
    }
}
