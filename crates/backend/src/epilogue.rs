//! What becomes of the sums of a product on their way to the destination.

use crate::{
    Activation, Error, ErrorKind, Result, Source, View,
    rules::{self, Meta},
};

/// `out = apply(a · b + bias) + add`, in the dtype that sums have, rounded once.
///
/// ```text
/// Epilogue::NONE                                             out = a · b
/// Epilogue::ACCUMULATE                                       out += a · b
/// bias: Some(b), apply: Some(Apply::Value(Gelu))             a layer: out = gelu(x · wᵀ + b)
/// apply: Some(Apply::Slope(Gelu, u))                         its backward: du = (dy · w) ⊙ gelu'(u)
/// bias: Some(b), add: Some(Source::View(x))                  the last map of a residual branch: out = h · wᵀ + b + x
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// One number per column, `[N]`, of out's dtype.
    pub bias: Option<View<'a>>,
    /// What is applied to the sum.
    pub apply: Option<Apply<'a>>,
    /// Added last: a view of out's shape and dtype, or what the destination holds.
    pub add: Option<Source<'a>>,
}

/// What an [`Epilogue`] applies to each sum `s`.
#[derive(Clone, Copy, Debug)]
pub enum Apply<'a> {
    /// `f(s)`
    Value(Activation),
    /// `s · f'(x)`, for x of out's shape and dtype; of relu `s` where x > 0, and else 0.
    Slope(Activation, View<'a>),
}

impl<'a> Epilogue<'a> {
    /// Sums are written.
    pub const NONE: Epilogue<'static> = Epilogue { bias: None, apply: None, add: None };
    /// Sums are added to what the destination holds.
    pub const ACCUMULATE: Epilogue<'static> = Epilogue { bias: None, apply: None, add: Some(Source::Destination) };

    /// The views with their roles in errors: the bias, x of a slope, and what is added.
    pub fn views(&self) -> [Option<(&'static str, View<'a>)>; 3] {
        let x = match self.apply {
            Some(Apply::Slope(_, x)) => Some(x),
            _ => None,
        };
        let added = match self.add {
            Some(Source::View(added)) => Some(added),
            _ => None,
        };
        [self.bias.map(|bias| ("bias", bias)), x.map(|x| ("x", x)), added.map(|added| ("added", added))]
    }

    /// Whether views have the shapes and the dtype that a destination `[.., M, N]` asks for.
    pub fn check(&self, op: &'static str, out: Meta) -> Result<()> {
        let shape = out.layout.shape();
        for (i, (role, view)) in self.views().into_iter().enumerate().filter_map(|(i, view)| Some((i, view?))) {
            let trailing = i == 0; // the bias
            let meta = Meta { role, layout: view.layout(), dtype: view.dtype(), device: out.device };
            rules::dtype(op, meta, out.dtype)?;
            let expected = if trailing { &shape[shape.rank().saturating_sub(1)..] } else { &shape[..] };
            if view.shape().as_slice() != expected {
                return Err(Error::new(ErrorKind::Shape, op, format!("{role} does not fit the destination"))
                    .operand(meta.operand().expected(format!("{expected:?}")))
                    .operand(out.operand())
                    .help("a bias is [N], everything else has the shape of out: broadcast it with stride 0"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Buffer, DType, Layout, Shape, Storage};
    use std::any::Any;

    /// A number of floats that nobody reads.
    #[derive(Debug)]
    struct Floats(usize);

    impl Storage for Floats {
        fn dtype(&self) -> DType {
            DType::F32
        }
        fn len(&self) -> usize {
            self.0
        }
        fn as_any(&self) -> &dyn Any {
            self
        }
        fn as_any_mut(&mut self) -> &mut dyn Any {
            self
        }
    }

    fn layout(extents: &[usize]) -> Layout {
        Layout::contiguous(Shape::new(extents).unwrap())
    }

    #[test]
    fn a_bias_has_one_number_per_column_and_the_rest_the_shape_of_out() {
        let buffer = Buffer::new(Floats(64));
        let (row, column, whole) = (layout(&[3]), layout(&[2]), layout(&[2, 3]));
        let view = |layout| View::new(&buffer, layout).unwrap();
        let out = Meta { role: "out", layout: &whole, dtype: DType::F32, device: "here" };
        let check = |epilogue: Epilogue| epilogue.check("matmul", out);
        let all = Epilogue {
            bias: Some(view(&row)),
            apply: Some(Apply::Slope(Activation::Relu, view(&whole))),
            add: Some(Source::View(view(&whole))),
        };
        check(all).unwrap();
        check(Epilogue::ACCUMULATE).unwrap();
        let error = check(Epilogue { bias: Some(view(&column)), ..all }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shape);
        assert!(error.to_string().contains("expected [3]"), "{error}");
        let x = Some(Apply::Slope(Activation::Gelu, view(&row)));
        assert!(check(Epilogue { apply: x, ..all }).unwrap_err().to_string().contains("x does not fit"));
        let other = Meta { dtype: DType::F64, ..out };
        assert_eq!(all.check("matmul", other).unwrap_err().kind(), ErrorKind::DType);
    }
}
