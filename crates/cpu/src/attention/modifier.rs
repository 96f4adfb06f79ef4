//! Score modifiers, evaluated for a row of a block at a time.
//!
//! An expression becomes a list of steps on a stack of rows: a step is a loop over [`KEYS`] elements, which the compiler
//! vectorises, and what a step costs beside it is spread over all of them. Numbers that are the same along a row
//! (constants, scalars, values per head) stay numbers.
//!
//! ```text
//! score + slope · |distance|      Distance  Abs  Times slope  Score  Add
//! ```

use super::problem::{KEYS, Problem};
use crate::{
    isa::Machine,
    math::{Real, exp, tanh},
    matmul::element::{Element, Sum},
};
use attentia_backend::ScoreExpr;

/// Most rows that an expression may need at the same time.
pub(super) const DEEPEST: usize = 16;

/// The same along a row.
#[derive(Clone, Copy, Debug)]
enum Number<A> {
    Known(A),
    OfHead(usize),
}

/// What happens to the stack of rows.
#[derive(Clone, Copy, Debug)]
enum Step<A> {
    /// A row more.
    Score,
    Bias(usize),
    Distance,
    Fill(Number<A>),
    /// The last two become one.
    Add,
    Multiply,
    /// The last one changes.
    Plus(Number<A>),
    Times(Number<A>),
    Tanh,
    Exp,
    Abs,
    Sign,
}

/// An expression as steps.
#[derive(Clone, Debug)]
pub(super) struct Modifier<A> {
    steps: Vec<Step<A>>,
}

/// A row of a block: where its leaves come from.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) b: usize,
    pub(super) h: usize,
    pub(super) t: usize,
    /// The first key, and how many there are.
    pub(super) key: usize,
    pub(super) columns: usize,
}

/// Rows that an expression needs at the same time.
pub(super) fn depth(expression: &ScoreExpr) -> usize {
    match expression {
        ScoreExpr::Add(pair) | ScoreExpr::Mul(pair) => match (is_number(&pair.0), is_number(&pair.1)) {
            (true, _) => depth(&pair.1),
            (_, true) => depth(&pair.0),
            // The deeper one first: the other then stands on one row.
            _ => match (depth(&pair.0), depth(&pair.1)) {
                (a, b) if a == b => a + 1,
                (a, b) => a.max(b),
            },
        },
        ScoreExpr::Tanh(x) | ScoreExpr::Exp(x) | ScoreExpr::Abs(x) | ScoreExpr::Sign(x) => depth(x),
        _ => 1,
    }
}

fn is_number(expression: &ScoreExpr) -> bool {
    matches!(expression, ScoreExpr::Constant(_) | ScoreExpr::Scalar(_) | ScoreExpr::HeadScalar(_))
}

impl<A: Real> Modifier<A> {
    /// `scalars` has a value for each that the expression names, and it is no deeper than [`DEEPEST`].
    pub(super) fn new(expression: &ScoreExpr, scalars: &[f64]) -> Modifier<A> {
        let mut modifier = Modifier { steps: Vec::new() };
        modifier.append(expression, scalars);
        modifier
    }

    fn append(&mut self, expression: &ScoreExpr, scalars: &[f64]) {
        let number = |expression: &ScoreExpr| match expression {
            ScoreExpr::Constant(bits) => Some(Number::Known(A::from_f64(f64::from(f32::from_bits(*bits))))),
            ScoreExpr::Scalar(i) => Some(Number::Known(A::from_f64(scalars[usize::from(*i)]))),
            ScoreExpr::HeadScalar(i) => Some(Number::OfHead(usize::from(*i))),
            _ => None,
        };
        if let Some(number) = number(expression) {
            return self.steps.push(Step::Fill(number));
        }
        let step = match expression {
            ScoreExpr::Add(pair) | ScoreExpr::Mul(pair) => {
                let adds = matches!(expression, ScoreExpr::Add(_));
                let (a, b) = (&pair.0, &pair.1);
                let with_number = match (number(a), number(b)) {
                    (Some(number), _) => Some((b, number)),
                    (None, Some(number)) => Some((a, number)),
                    (None, None) => None,
                };
                match with_number {
                    Some((of, number)) => {
                        self.append(of, scalars);
                        if adds { Step::Plus(number) } else { Step::Times(number) }
                    }
                    None => {
                        let (first, second) = if depth(a) >= depth(b) { (a, b) } else { (b, a) };
                        self.append(first, scalars);
                        self.append(second, scalars);
                        if adds { Step::Add } else { Step::Multiply }
                    }
                }
            }
            ScoreExpr::Tanh(x) => self.after(x, scalars, Step::Tanh),
            ScoreExpr::Exp(x) => self.after(x, scalars, Step::Exp),
            ScoreExpr::Abs(x) => self.after(x, scalars, Step::Abs),
            ScoreExpr::Sign(x) => self.after(x, scalars, Step::Sign),
            ScoreExpr::Bias(i) => Step::Bias(usize::from(*i)),
            ScoreExpr::Distance => Step::Distance,
            _ => Step::Score,
        };
        self.steps.push(step);
    }

    fn after(&mut self, x: &ScoreExpr, scalars: &[f64], step: Step<A>) -> Step<A> {
        self.append(x, scalars);
        step
    }
}

impl<A: Sum> Modifier<A> {
    /// Evaluates a row. The value lies in the first row of the stack; what lies behind its columns means nothing.
    ///
    /// # Safety
    ///
    /// `scores` and the [`DEEPEST`] rows of `stack` have [`KEYS`] elements each, and are apart; the row is one of the
    /// problem's.
    #[inline(always)]
    pub(super) unsafe fn evaluate<T: Element<Sum = A>, M: Machine>(
        &self,
        problem: &Problem<T>,
        row: Row,
        scores: *const A,
        stack: *mut A,
    ) {
        // SAFETY: by contract; rows of the stack are apart, and an expression needs no more of them than there are.
        let at = |depth: usize| unsafe { &mut *stack.wrapping_add(depth * KEYS).cast::<[A; KEYS]>() };
        let value = |number: Number<A>| match number {
            Number::Known(x) => x,
            Number::OfHead(i) => problem.head_scalars[i][row.h],
        };
        let mut depth = 0;
        for step in &self.steps {
            match *step {
                // SAFETY: by contract.
                Step::Score => *at(depth) = unsafe { *scores.cast::<[A; KEYS]>() },
                // SAFETY: by contract.
                Step::Bias(i) => unsafe { problem.bias_row(i, row, at(depth)) },
                Step::Distance => {
                    let first = row.key as isize - problem.position(row.t);
                    for (j, x) in at(depth).iter_mut().enumerate() {
                        *x = A::from_f64((first + j as isize) as f64);
                    }
                }
                Step::Fill(number) => *at(depth) = [value(number); KEYS],
                Step::Add => {
                    let (a, b) = (at(depth - 2), at(depth - 1));
                    a.iter_mut().zip(b).for_each(|(a, b)| *a += *b);
                }
                Step::Multiply => {
                    let (a, b) = (at(depth - 2), at(depth - 1));
                    a.iter_mut().zip(b).for_each(|(a, b)| *a = *a * *b);
                }
                Step::Plus(number) => {
                    let number = value(number);
                    at(depth - 1).iter_mut().for_each(|x| *x += number);
                }
                Step::Times(number) => {
                    let number = value(number);
                    at(depth - 1).iter_mut().for_each(|x| *x = *x * number);
                }
                Step::Tanh => at(depth - 1).iter_mut().for_each(|x| *x = tanh::<M, A>(*x)),
                Step::Exp => at(depth - 1).iter_mut().for_each(|x| *x = exp::<M, A>(*x)),
                Step::Abs => at(depth - 1).iter_mut().for_each(|x| *x = Real::abs(*x)),
                Step::Sign => at(depth - 1).iter_mut().for_each(|x| *x = sign(*x)),
            }
            match step {
                Step::Score | Step::Bias(_) | Step::Distance | Step::Fill(_) => depth += 1,
                Step::Add | Step::Multiply => depth -= 1,
                _ => {}
            }
        }
    }
}

/// −1, 0 or 1; NaN stays.
#[inline(always)]
fn sign<A: Real>(x: A) -> A {
    let one = if x > A::ZERO { A::ONE } else { x };
    if x < A::ZERO { -A::ONE } else { one }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ScoreExpr as S;

    #[test]
    fn the_deeper_operand_comes_first() {
        let chain = |n: usize| (1..n).fold(S::Score, |sum, i| S::Bias(i as u8).abs() + sum);
        assert_eq!(depth(&chain(100)), 2);
        let mut tree = S::Score;
        for levels in 1..20 {
            assert_eq!(depth(&tree), levels);
            tree = tree.clone() * tree;
        }
        let scaled = S::Score * S::constant(2.0) + S::Scalar(0) * S::Distance;
        assert_eq!(depth(&scaled), 2);
        let modifier = Modifier::<f32>::new(&(chain(3) + S::HeadScalar(0)), &[]);
        assert_eq!(modifier.steps.len(), 8, "{modifier:?}");
    }
}
