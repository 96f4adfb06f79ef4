//! NumPy's npy format (NEP 1), versions 1 to 3.
//!
//! ```text
//! "\x93NUMPY" major minor | header length (u16, from version 2 on u32) | {'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), } | elements
//! ```
//!
//! A file is not trusted: what its header claims is compared with its length before anything is allocated.

use crate::Tensor;
use attentia_backend::{DType, Device, Error, ErrorKind, Result, Shape};
use half::f16;

const MAGIC: &[u8] = b"\x93NUMPY";
/// Elements start at a multiple of this, in bytes.
const ALIGNMENT: usize = 64;

fn refuse(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Io, "npy", what)
}

/// The tensor in the bytes of an npy file: little-endian floats, integers or bools. Signed integers of 1 to 4 bytes
/// become i64.
///
/// ```
/// # fn main() -> attentia_tensor::Result<()> {
/// # #[cfg(feature = "ndarray")] {
/// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
/// use attentia_tensor::{Tensor, read_npy, write_npy};
/// let x = Tensor::from_slice(&[1.0f32, 2.0], &[2], &device)?;
/// assert_eq!(read_npy(&write_npy(&x)?, &device)?.to_vec::<f32>()?, [1.0, 2.0]);
/// # }
/// # Ok(())
/// # }
/// ```
pub fn read_npy(bytes: &[u8], device: &Device) -> Result<Tensor> {
    let (header, elements) = split(bytes).ok_or_else(|| refuse("this is no npy file, or it ends in its header"))?;
    let header = std::str::from_utf8(header).map_err(|_| refuse("the header is no text"))?;
    let descr = field(header, "descr").and_then(quoted).ok_or_else(|| refuse("the header names no plain dtype"))?;
    let columns_first = match field(header, "fortran_order") {
        Some(value) if value.starts_with("True") => true,
        Some(value) if value.starts_with("False") => false,
        _ => return Err(refuse("the header does not say in which order the elements are")),
    };
    let mut extents = field(header, "shape").and_then(tuple).ok_or_else(|| refuse("the header names no shape"))?;
    if columns_first {
        extents.reverse();
    }
    let shape = Shape::new(&extents)?;
    let x = decode(descr, elements, &shape, device)?;
    if !columns_first {
        return Ok(x);
    }
    let order: Vec<isize> = (0..extents.len() as isize).rev().collect();
    x.permute(&order)
}

/// Header and elements.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (version, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<2>()?;
    let (length, rest) = match version[0] {
        1 => rest.split_first_chunk::<2>().map(|(n, rest)| (u16::from_le_bytes(*n) as usize, rest))?,
        2 | 3 => rest.split_first_chunk::<4>().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest))?,
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// What follows `'name':`
fn field<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = header.split_once(&format!("'{name}'")).or_else(|| header.split_once(&format!("\"{name}\"")))?;
    rest.trim_start().strip_prefix(':').map(str::trim_start)
}

fn quoted(value: &str) -> Option<&str> {
    let quote = value.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    value[1..].split_once(quote).map(|(inside, _)| inside)
}

fn tuple(value: &str) -> Option<Vec<usize>> {
    let (inside, _) = value.strip_prefix('(')?.split_once(')')?;
    inside.split(',').map(str::trim).filter(|e| !e.is_empty()).map(|e| e.parse().ok()).collect()
}

fn decode(descr: &str, elements: &[u8], shape: &Shape, device: &Device) -> Result<Tensor> {
    fn whole<const N: usize, T: attentia_backend::Element>(
        elements: &[u8],
        shape: &Shape,
        device: &Device,
        from: impl Fn([u8; N]) -> T,
    ) -> Result<Tensor> {
        let (chunks, rest) = elements.as_chunks::<N>();
        if chunks.len() != shape.count() || !rest.is_empty() {
            let what = format!(
                "the header claims {} elements of {N} bytes, and {} bytes follow",
                shape.count(),
                elements.len()
            );
            return Err(refuse(what));
        }
        Tensor::from_vec(chunks.iter().map(|&bytes| from(bytes)).collect(), shape, device)
    }
    match descr {
        "<f8" => whole(elements, shape, device, f64::from_le_bytes),
        "<f4" => whole(elements, shape, device, f32::from_le_bytes),
        "<f2" => whole(elements, shape, device, f16::from_le_bytes),
        "<i8" => whole(elements, shape, device, i64::from_le_bytes),
        "<i4" => whole(elements, shape, device, |bytes| i32::from_le_bytes(bytes) as i64),
        "<i2" => whole(elements, shape, device, |bytes| i16::from_le_bytes(bytes) as i64),
        "|i1" => whole(elements, shape, device, |bytes| i8::from_le_bytes(bytes) as i64),
        "<u4" => whole(elements, shape, device, u32::from_le_bytes),
        "|u1" => whole(elements, shape, device, u8::from_le_bytes),
        "|b1" => whole(elements, shape, device, |[byte]: [u8; 1]| byte != 0),
        other => Err(refuse(format!("elements of type {other:?} are not supported"))
            .help("save little-endian floats, integers or bools")),
    }
}

/// The bytes of an npy file. Errors for bf16, which NumPy does not know.
pub fn write_npy(x: &Tensor) -> Result<Vec<u8>> {
    let (descr, elements) = encode(x)?;
    let extents: Vec<String> = x.shape().iter().map(|extent| format!("{extent},")).collect();
    // A tuple of one has a comma, longer ones may end in one.
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", extents.join(" "));
    let before = MAGIC.len() + 4; // version and length
    let padding = (before + header.len() + 1).next_multiple_of(ALIGNMENT) - before - header.len() - 1;
    let length = (header.len() + padding + 1) as u16; // at most nine numbers
    let mut bytes = Vec::with_capacity(before + usize::from(length) + elements.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[1, 0]);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + padding, b' ');
    bytes.push(b'\n');
    bytes.extend_from_slice(&elements);
    Ok(bytes)
}

fn encode(x: &Tensor) -> Result<(&'static str, Vec<u8>)> {
    Ok(match x.dtype() {
        DType::F64 => ("<f8", x.to_vec::<f64>()?.into_iter().flat_map(f64::to_le_bytes).collect()),
        DType::F32 => ("<f4", x.to_vec::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect()),
        DType::F16 => ("<f2", x.to_vec::<f16>()?.into_iter().flat_map(f16::to_le_bytes).collect()),
        DType::I64 => ("<i8", x.to_vec::<i64>()?.into_iter().flat_map(i64::to_le_bytes).collect()),
        DType::U32 => ("<u4", x.to_vec::<u32>()?.into_iter().flat_map(u32::to_le_bytes).collect()),
        DType::U8 => ("|u1", x.to_vec::<u8>()?),
        DType::Bool => ("|b1", x.to_vec::<bool>()?.into_iter().map(u8::from).collect()),
        DType::Bf16 => {
            return Err(Error::new(ErrorKind::DType, "npy", "NumPy has no bf16")
                .operand(x.data().operand("x"))
                .help("convert it with to_dtype(DType::F32)"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{counted, device};

    /// `numpy.save` of `numpy.arange(6, dtype='<i4').reshape(2, 3, order='F')`, by hand.
    fn columns_first() -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        let mut header = b"{'descr': '<i4', 'fortran_order': True, 'shape': (2, 3), }".to_vec();
        header.resize(0x75, b' ');
        header.push(b'\n');
        bytes.extend(header);
        bytes.extend((0..6i32).flat_map(i32::to_le_bytes));
        bytes
    }

    #[test]
    fn every_dtype_survives() {
        let device = device();
        for dtype in DType::ALL {
            for x in
                [counted(&[2, 3], &device), counted(&[], &device), counted(&[0, 4], &device), counted(&[5], &device)]
            {
                let x = x.to_dtype(dtype).unwrap();
                let Ok(bytes) = write_npy(&x) else {
                    assert_eq!(dtype, DType::Bf16);
                    continue;
                };
                let y = read_npy(&bytes, &device).unwrap();
                assert_eq!((y.dtype(), y.shape()), (dtype, x.shape()));
                assert_eq!(y.to_string(), x.to_string());
            }
        }
        let x = read_npy(&columns_first(), &device).unwrap();
        assert_eq!(x.to_vec::<i64>().unwrap(), [0, 2, 4, 1, 3, 5]);
    }

    #[test]
    fn hostile_files_are_errors() {
        let device = device();
        let good = columns_first();
        for cut in 0..good.len() {
            assert!(read_npy(&good[..cut], &device).is_err(), "{cut}");
        }
        let header = String::from_utf8_lossy(&good[10..128]).into_owned();
        for (from, to) in [
            ("(2, 3)", "(99999999999999999999, 3)"),
            ("(2, 3)", "(9999999999, 9999999999)"),
            ("(2, 3)", "(9999999999, 3)"),
            ("(2, 3)", "(2, -3)"),
            ("(2, 3)", "(0, 3)"),
            ("(2, 3)", "(2, 3"),
            ("(2, 3)", "(1,1,1,1,1,1,1,2,3)"),
            ("'<i4'", "'|O'"),
            ("'<i4'", "[('a', '<i4')]"),
            ("True", "1"),
        ] {
            let changed = header.replace(from, to);
            let mut bytes = b"\x93NUMPY\x02\x00".to_vec();
            bytes.extend((changed.len() as u32).to_le_bytes());
            bytes.extend(changed.as_bytes());
            bytes.extend(&good[128..]);
            assert!(read_npy(&bytes, &device).is_err(), "{to}");
        }
    }
}
