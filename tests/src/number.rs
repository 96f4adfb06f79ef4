//! Host numbers: every float as the `f64` that equals it, every integer and bool as an `i64`.

use attentia_backend::{Backend, Buffer, DType, Element, Layout, Result, Shape, View, ViewMut};
use half::{bf16, f16};

/// The elements of one buffer, in the order of memory.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Of a float dtype.
    Floats(Vec<f64>),
    /// Of an integer dtype, or bool as 0 and 1.
    Integers(Vec<i64>),
}

impl Values {
    /// `len` elements that no operation may rely on: NaN, or an odd pattern.
    pub fn poison(dtype: DType, len: usize) -> Values {
        match dtype.is_float() {
            true => Values::Floats(vec![f64::NAN; len]),
            false => Values::Integers(vec![if dtype == DType::Bool { 1 } else { 0x5a }; len]),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Values::Floats(x) => x.len(),
            Values::Integers(x) => x.len(),
        }
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at `i` as a float.
    pub fn float(&self, i: usize) -> f64 {
        match self {
            Values::Floats(x) => x[i],
            Values::Integers(x) => x[i] as f64,
        }
    }

    /// Whether the elements at `i` are the same bits; all NaNs count as one.
    pub fn same(&self, other: &Values, i: usize) -> bool {
        match (self, other) {
            (Values::Floats(a), Values::Floats(b)) => {
                a[i].to_bits() == b[i].to_bits() || a[i].is_nan() && b[i].is_nan()
            }
            (Values::Integers(a), Values::Integers(b)) => a[i] == b[i],
            _ => false,
        }
    }

    /// The elements that a layout names, row-major.
    pub fn through(&self, layout: &Layout) -> Values {
        let at = indices(layout);
        match self {
            Values::Floats(x) => Values::Floats(at.into_iter().map(|i| x[i]).collect()),
            Values::Integers(x) => Values::Integers(at.into_iter().map(|i| x[i]).collect()),
        }
    }

    /// Floats rounded to another dtype.
    pub fn rounded(self, dtype: DType) -> Values {
        match self {
            Values::Floats(x) => Values::Floats(x.into_iter().map(|x| round(dtype, x)).collect()),
            integers => integers,
        }
    }

    /// `|x|` of each element.
    pub fn magnitudes(&self) -> Values {
        match self {
            Values::Floats(x) => Values::Floats(x.iter().map(|x| x.abs()).collect()),
            Values::Integers(x) => Values::Integers(x.clone()),
        }
    }
}

/// Indices of the buffer's elements that a layout names, row-major.
pub fn indices(layout: &Layout) -> Vec<usize> {
    if layout.count() == 0 {
        return Vec::new();
    }
    let mut all = vec![layout.offset() as isize];
    for (&extent, &stride) in layout.shape().iter().zip(layout.strides()) {
        all = all.iter().flat_map(|&base| (0..extent as isize).map(move |i| base + i * stride)).collect();
    }
    all.into_iter().map(|i| i as usize).collect()
}

/// The position of the `flat`-th element, row-major.
pub fn position(shape: &Shape, mut flat: usize) -> Vec<usize> {
    let mut at = vec![0; shape.rank()];
    for axis in (0..shape.rank()).rev() {
        at[axis] = flat % shape[axis];
        flat /= shape[axis];
    }
    at
}

/// Mantissa bits, exponent of the smallest normal number, exponent of the greatest.
fn format(dtype: DType) -> (i32, i32, i32) {
    match dtype {
        DType::F32 => (23, -126, 127),
        DType::Bf16 => (7, -126, 127),
        DType::F16 => (10, -14, 15),
        _ => (52, -1022, 1023),
    }
}

fn power_of_two(exponent: i32) -> f64 {
    match exponent {
        1024.. => f64::INFINITY,
        -1022..=1023 => f64::from_bits(((exponent + 1023) as u64) << 52),
        _ => f64::from_bits(1u64 << (exponent + 1074).max(0)),
    }
}

/// The distance between neighbours of a float dtype at `x`; that of denormals is the least.
pub fn ulp(dtype: DType, x: f64) -> f64 {
    let (mantissa, least, greatest) = format(dtype);
    let exponent = ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    power_of_two(exponent.clamp(least, greatest) - mantissa)
}

/// Where the next binade after the greatest finite number would begin: what overflows is compared as if it were this.
pub fn top(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::MAX,
        _ => power_of_two(format(dtype).2 + 1),
    }
}

/// The smallest normal number of a float dtype.
pub fn smallest_normal(dtype: DType) -> f64 {
    power_of_two(format(dtype).1)
}

/// The unit roundoff of a float dtype: half an ulp of 1.
pub fn roundoff(dtype: DType) -> f64 {
    power_of_two(-format(dtype).0 - 1)
}

/// The nearest value of a float dtype, ties to even, in one rounding.
pub fn round(dtype: DType, x: f64) -> f64 {
    if dtype == DType::F64 || x == 0.0 || !x.is_finite() {
        return x;
    }
    let ulp = ulp(dtype, x);
    let rounded = (x / ulp).round_ties_even() * ulp;
    if rounded.abs() < top(dtype) { rounded } else { f64::INFINITY.copysign(x) }
}

/// The value as an integer dtype or bool holds it.
pub fn wrap(dtype: DType, x: i64) -> i64 {
    match dtype {
        DType::U32 => x as u32 as i64,
        DType::U8 => x as u8 as i64,
        DType::Bool => i64::from(x != 0),
        _ => x,
    }
}

/// Writes host numbers to a destination of any dtype.
pub fn write(backend: &dyn Backend, values: &Values, out: ViewMut) -> Result<()> {
    fn floats<T: Element>(backend: &dyn Backend, x: &Values, out: ViewMut) -> Result<()> {
        let typed: Vec<T> = (0..x.len()).map(|i| T::from_f64(x.float(i))).collect();
        backend.upload(T::host(&typed), out)
    }
    fn integers<T: Element>(backend: &dyn Backend, x: &Values, of: impl Fn(i64) -> T, out: ViewMut) -> Result<()> {
        let typed: Vec<T> = match x {
            Values::Integers(x) => x.iter().map(|&x| of(x)).collect(),
            Values::Floats(x) => x.iter().map(|&x| of(x as i64)).collect(),
        };
        backend.upload(T::host(&typed), out)
    }
    match out.dtype() {
        DType::F64 => floats::<f64>(backend, values, out),
        DType::F32 => floats::<f32>(backend, values, out),
        DType::Bf16 => floats::<bf16>(backend, values, out),
        DType::F16 => floats::<f16>(backend, values, out),
        DType::I64 => integers(backend, values, |x| x, out),
        DType::U32 => integers(backend, values, |x| x as u32, out),
        DType::U8 => integers(backend, values, |x| x as u8, out),
        DType::Bool => integers(backend, values, |x| x != 0, out),
    }
}

/// Reads a view of any dtype, row-major.
pub fn read(backend: &dyn Backend, x: View) -> Result<Values> {
    fn typed<T: Element>(backend: &dyn Backend, x: View) -> Result<Vec<T>> {
        let mut host = vec![T::zero(); x.layout().count()];
        backend.download(x, T::host_mut(&mut host))?;
        Ok(host)
    }
    fn floats<T: Element>(backend: &dyn Backend, x: View) -> Result<Values> {
        Ok(Values::Floats(typed::<T>(backend, x)?.into_iter().map(T::to_f64).collect()))
    }
    fn integers<T: Element>(backend: &dyn Backend, x: View, of: impl Fn(T) -> i64) -> Result<Values> {
        Ok(Values::Integers(typed::<T>(backend, x)?.into_iter().map(of).collect()))
    }
    match x.dtype() {
        DType::F64 => floats::<f64>(backend, x),
        DType::F32 => floats::<f32>(backend, x),
        DType::Bf16 => floats::<bf16>(backend, x),
        DType::F16 => floats::<f16>(backend, x),
        DType::I64 => integers(backend, x, |x: i64| x),
        DType::U32 => integers(backend, x, |x: u32| x as i64),
        DType::U8 => integers(backend, x, |x: u8| x as i64),
        DType::Bool => integers(backend, x, |x: bool| x as i64),
    }
}

/// All elements of a buffer, as one axis.
pub fn whole(len: usize) -> Result<Layout> {
    Ok(Layout::contiguous(Shape::new(&[len])?))
}

/// A buffer of a dtype with these contents.
pub fn buffer(backend: &dyn Backend, dtype: DType, values: &Values) -> Result<Buffer> {
    let mut buffer = backend.alloc(dtype, values.len())?;
    write(backend, values, ViewMut::new(&mut buffer, &whole(values.len())?)?)?;
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulps_are_the_distance_to_the_next_number() {
        for x in [1.0f32, 1.5, 3.0, 1e-30, f32::MIN_POSITIVE, 1e-40, 3e38] {
            assert_eq!(ulp(DType::F32, x as f64), x.next_up() as f64 - x as f64, "{x}");
        }
        assert_eq!(ulp(DType::F64, 1.0), f64::EPSILON);
        assert_eq!(ulp(DType::F64, 0.0), 5e-324);
        assert_eq!(ulp(DType::F16, 0.0), 2f64.powi(-24));
        assert_eq!(ulp(DType::Bf16, 1.0), 2f64.powi(-7));
        assert_eq!(roundoff(DType::F32), f32::EPSILON as f64 / 2.0);
    }

    #[test]
    fn rounding_agrees_with_the_language() {
        for x in [0.1, 1e-42, 3.4e38, 3.5e38, -16_777_217.0, 1.0 + 2f64.powi(-24), f64::NAN, f64::INFINITY] {
            let (mine, theirs) = (round(DType::F32, x), x as f32 as f64);
            assert!(mine == theirs || mine.is_nan() && theirs.is_nan(), "{x}: {mine} {theirs}");
        }
        assert_eq!(round(DType::F16, 65_519.0), 65_504.0);
        assert_eq!(round(DType::F16, 65_520.0), f64::INFINITY);
    }
}
