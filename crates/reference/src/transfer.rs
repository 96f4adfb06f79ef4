//! Elements from and to the host, and the scalars that fill a tensor.

use crate::{
    check, number,
    storage::{Number, read, shaped, store},
};
use attentia_backend::{DType, Error, ErrorKind, HostSlice, HostSliceMut, Result, Scalar, View, ViewMut, rules::Meta};
use half::{bf16, f16};

/// Host elements, row-major, into a destination.
pub(crate) fn upload(host: HostSlice, out: ViewMut) -> Result<()> {
    fits("upload", host.dtype(), host.len(), check::destination("out", &out))?;
    match host {
        HostSlice::F64(x) => put("upload", out, x.to_vec()),
        HostSlice::F32(x) => put("upload", out, x.iter().map(|&x| x as f64).collect()),
        HostSlice::Bf16(x) => put("upload", out, x.iter().map(|x| x.to_f64()).collect()),
        HostSlice::F16(x) => put("upload", out, x.iter().map(|x| x.to_f64()).collect()),
        HostSlice::I64(x) => put("upload", out, x.to_vec()),
        HostSlice::U32(x) => put("upload", out, x.iter().map(|&x| x as i64).collect()),
        HostSlice::U8(x) => put("upload", out, x.iter().map(|&x| x as i64).collect()),
        HostSlice::Bool(x) => put("upload", out, x.iter().map(|&x| x as i64).collect()),
    }
}

fn put<T: Number>(op: &'static str, out: ViewMut, values: Vec<T>) -> Result<()> {
    let values = shaped(values, out.shape())?;
    store(op, "out", out, &values)
}

/// Elements of a view, row-major, to the host. They are values of their dtype already: nothing is rounded.
pub(crate) fn download(x: View, host: HostSliceMut) -> Result<()> {
    fits("download", host.dtype(), host.len(), check::operand("x", x))?;
    match host {
        HostSliceMut::F64(host) => take(x, host, |x: f64| x),
        HostSliceMut::F32(host) => take(x, host, |x: f64| x as f32),
        HostSliceMut::Bf16(host) => take(x, host, bf16::from_f64),
        HostSliceMut::F16(host) => take(x, host, f16::from_f64),
        HostSliceMut::I64(host) => take(x, host, |x: i64| x),
        HostSliceMut::U32(host) => take(x, host, |x: i64| x as u32),
        HostSliceMut::U8(host) => take(x, host, |x: i64| x as u8),
        HostSliceMut::Bool(host) => take(x, host, |x: i64| x != 0),
    }
}

fn take<T: Number, H>(x: View, host: &mut [H], convert: impl Fn(T) -> H) -> Result<()> {
    let x = read::<T>("download", "x", x)?;
    host.iter_mut().zip(x.iter()).for_each(|(to, &from)| *to = convert(from));
    Ok(())
}

fn fits(op: &'static str, dtype: DType, len: usize, device: Meta) -> Result<()> {
    if dtype != device.dtype {
        return Err(Error::new(ErrorKind::DType, op, format!("the host's elements are {dtype}"))
            .operand(device.operand().expected(dtype.name())));
    }
    if len != device.layout.count() {
        return Err(Error::new(ErrorKind::Shape, op, format!("the host has {len} elements")).operand(device.operand()));
    }
    Ok(())
}

/// `out[i] = start + i · step`, i counted row-major. In an integer dtype both scalars are whole numbers first.
pub(crate) fn iota(start: Scalar, step: Scalar, out: ViewMut) -> Result<()> {
    let count = out.layout().count();
    if out.dtype().is_float() {
        let (start, step) = (start.to_f64(), step.to_f64());
        return put("iota", out, (0..count).map(|i| start + i as f64 * step).collect());
    }
    let (start, step) = (whole(start), whole(step));
    put("iota", out, (0..count as i64).map(|i| start.wrapping_add(i.wrapping_mul(step))).collect())
}

/// `out = value`
pub(crate) fn full(value: Scalar, out: ViewMut) -> Result<()> {
    let (dtype, count) = (out.dtype(), out.layout().count());
    let (float, integer) = match value {
        Scalar::Float(x) => (x, number::to_integer(dtype, x)),
        Scalar::Int(x) => (number::to_float(dtype, x), x),
    };
    if dtype.is_float() {
        return put("full", out, vec![float; count]);
    }
    put("full", out, vec![integer; count])
}

/// A scalar among integers; a float is truncated.
fn whole(x: Scalar) -> i64 {
    match x {
        Scalar::Float(x) => x as i64,
        Scalar::Int(x) => x,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;

    #[test]
    fn elements_make_the_round_trip_in_any_layout() {
        let mut x = Sample::floats(DType::F16, &[2, 2], &[0.; 4]).seen(|l| l.flip(0).unwrap());
        let host = [1.5f32, -2.0, f32::INFINITY, 6e-8].map(f16::from_f32);
        upload(HostSlice::F16(&host), x.view_mut()).unwrap();
        let mut back = [f16::ZERO; 4];
        download(x.view(), HostSliceMut::F16(&mut back)).unwrap();
        assert_eq!(back, host);
        let mut wrong = [0f32; 4];
        assert_eq!(download(x.view(), HostSliceMut::F32(&mut wrong)).unwrap_err().kind(), ErrorKind::DType);
        assert_eq!(upload(HostSlice::F16(&host[1..]), x.view_mut()).unwrap_err().kind(), ErrorKind::Shape);
    }

    #[test]
    fn scalars_adopt_the_dtype() {
        let mut x = Sample::integers(DType::U8, &[3], &[0; 3]);
        iota(Scalar::Int(254), Scalar::Int(1), x.view_mut()).unwrap();
        assert_eq!(x.to_integers(), [254, 255, 0]);
        full(Scalar::Float(-1.0), x.view_mut()).unwrap();
        assert_eq!(x.to_integers(), [0; 3]);
        let mut x = Sample::floats(DType::F32, &[3], &[0.; 3]);
        iota(Scalar::Float(0.5), Scalar::Float(-0.25), x.view_mut()).unwrap();
        assert_eq!(x.to_floats(), [0.5, 0.25, 0.0]);
        full(Scalar::Int((1 << 53) + 1), x.view_mut()).unwrap();
        assert_eq!(x.to_floats(), [9_007_199_254_740_992.0; 3]);
        let mut flags = Sample::integers(DType::Bool, &[2], &[0, 0]);
        full(Scalar::Float(0.5), flags.view_mut()).unwrap();
        assert_eq!(flags.to_integers(), [1, 1]);
    }
}
