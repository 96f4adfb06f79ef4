//! Tensors and what they mean as one file: safetensors with a single metadata key of canonical JSON.
//!
//! ```text
//! 8 bytes  length of the header, little-endian
//! header   {"__metadata__": {"attentia": SEAL}, path: {dtype, shape, data_offsets}, …}, padded with spaces
//! data     tensors, the wider dtypes first, then by path
//!
//! SEAL     {"checksum": crc32c of the format (8 bytes, little-endian) and the content's text,
//!           "content": CONTENT, "format": 3}
//! CONTENT  {"checksums": {path: crc32c of dtype, shape and bytes, …}, "state": what the tensors mean}
//! ```
//!
//! No time, host or path of the machine goes in, and keys are sorted, so that equal states are equal bytes. Reading
//! trusts nothing: the header must be the very text that writing would give, and each tensor must match its checksum,
//! so that no flipped bit passes: it is an error of kind [`ErrorKind::Damaged`]. A seal that is whole, of a newer format,
//! is no damage and says so; so the seal itself must stay what it is. A length is believed only after it was compared
//! with the file's.

use attentia_file::{read, write_atomic_with};
use attentia_tensor::{DType, Device, Element, Error, ErrorKind, Result, Tensor};
use safetensors::{
    Dtype, SafeTensors,
    tensor::{Metadata, TensorInfo},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
    path::Path,
};

const KEY: &str = "attentia";
/// The version that this code writes and reads.
const FORMAT: u32 = 3;
const ALIGNMENT: usize = 8;

/// Named tensors, and a value that says what they are.
///
/// ```
/// # use attentia_tensor::{DType, Device, Tensor};
/// use attentia_nn::State;
/// # let device = Device::new(attentia_reference::ReferenceBackend::new());
/// let weight = Tensor::ones(&[2, 3], DType::F32, &device)?;
/// let state = State { meaning: "a matrix of ones".to_owned(), tensors: [("weight".to_owned(), weight)].into() };
/// let bytes = state.to_bytes()?;
/// let read = State::<String>::from_bytes(&bytes, &device)?;
/// assert_eq!((read.meaning.as_str(), read.to_bytes()?), ("a matrix of ones", bytes));
/// # Ok::<(), attentia_tensor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct State<M> {
    /// What the tensors are: a configuration, a step, a tokenizer.
    pub meaning: M,
    /// Tensors by path, of any dtype.
    pub tensors: BTreeMap<String, Tensor>,
}

// Fields in alphabetical order: that is the canonical JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal<'a> {
    checksum: u32,
    #[serde(borrow)]
    content: &'a RawValue,
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content<M> {
    checksums: BTreeMap<String, u32>,
    state: M,
}

fn damaged(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Damaged, "checkpoint", what)
        .help("the file is no checkpoint of this program, or it was damaged or cut short; restore it from a copy")
}

/// The text of the metadata cannot be written.
fn unwritable(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Argument, "checkpoint", error.to_string())
}

fn seal_checksum(format: u32, content: &str) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&u64::from(format).to_le_bytes()), content.as_bytes())
}

impl<M: Serialize> State<M> {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let (order, header) = self.header()?;
        self.write(&order, &header, &mut bytes).map_err(|failure| match failure {
            Failure::Tensor(error) => error,
            Failure::File(error) => unwritable(error),
        })?;
        Ok(bytes)
    }

    /// Writes the file, all or nothing; only a piece of a tensor's bytes is in memory at a time.
    ///
    /// Errors with [`ErrorKind::Io`], the path and the system's cause; the file is then what it was before.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let (order, header) = self.header()?;
        let mut refused = None;
        let written = write_atomic_with(path, |file| {
            self.write(&order, &header, file).map_err(|failure| match failure {
                Failure::File(error) => error,
                Failure::Tensor(error) => {
                    let message = error.to_string();
                    refused = Some(error);
                    io::Error::other(message)
                }
            })
        });
        match (written, refused) {
            (_, Some(error)) => Err(error),
            (Err(error), None) => Err(Error::new(ErrorKind::Io, "save", error.to_string())),
            (Ok(()), None) => Ok(()),
        }
    }

    /// The order of the tensors in the file, and the header with its padding.
    fn header(&self) -> Result<(Vec<&str>, Vec<u8>)> {
        let mut order: Vec<(&str, Dtype)> =
            self.tensors.iter().map(|(path, tensor)| (path.as_str(), stored(tensor.dtype()))).collect();
        order.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        let (mut infos, mut checksums, mut end) = (Vec::new(), BTreeMap::new(), 0);
        for &(path, dtype) in &order {
            let tensor = &self.tensors[path];
            let (mut sum, start) = (checksum_of_shape(dtype, tensor.shape()), end);
            for bytes in pieces(tensor)? {
                let bytes = bytes?;
                sum = crc32c::crc32c_append(sum, &bytes);
                end += bytes.len();
            }
            checksums.insert(path.to_owned(), sum);
            infos.push((
                path.to_owned(),
                TensorInfo { dtype, shape: tensor.shape().to_vec(), data_offsets: (start, end) },
            ));
        }
        // A value's maps are sorted, whatever the order of the fields in the code.
        let content = serde_json::to_value(Content { checksums, state: &self.meaning }).map_err(unwritable)?;
        let content = content.to_string();
        let checksum = seal_checksum(FORMAT, &content);
        let content = RawValue::from_string(content).map_err(unwritable)?;
        let seal = serde_json::to_string(&Seal { checksum, content: &content, format: FORMAT }).map_err(unwritable)?;
        let metadata = Metadata::new(Some(HashMap::from([(KEY.to_owned(), seal)])), infos).map_err(unwritable)?;
        Ok((order.into_iter().map(|(path, _)| path).collect(), header_text(&metadata)?))
    }

    fn write(
        &self,
        order: &[&str],
        header: &[u8],
        file: &mut (impl Write + ?Sized),
    ) -> std::result::Result<(), Failure> {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header)?;
        for &path in order {
            for bytes in pieces(&self.tensors[path]).map_err(Failure::Tensor)? {
                file.write_all(&bytes.map_err(Failure::Tensor)?)?;
            }
        }
        Ok(())
    }
}

impl<M: DeserializeOwned> State<M> {
    /// Reads and verifies a file's bytes; tensors go to `device`. Memory is bounded by the bytes that are there.
    ///
    /// Errors with [`ErrorKind::Damaged`] when they are not those that were written, with [`ErrorKind::Io`] when they are
    /// of another format or mean something else than an `M`.
    pub fn from_bytes(bytes: &[u8], device: &Device) -> Result<State<M>> {
        let (length, header) =
            SafeTensors::read_metadata(bytes).map_err(|e| damaged(format!("not safetensors: {e}")))?;
        let seal = header
            .metadata()
            .as_ref()
            .and_then(|metadata| metadata.get(KEY))
            .ok_or_else(|| damaged(format!("safetensors without the metadata key {KEY:?}")))?;
        let seal: Seal = serde_json::from_str(seal).map_err(|e| damaged(format!("metadata: {e}")))?;
        let text = seal.content.get();
        if seal_checksum(seal.format, text) != seal.checksum {
            return Err(damaged("the metadata do not match their checksum"));
        }
        if seal.format != FORMAT {
            let what = format!("format {}, and this program reads {FORMAT}", seal.format);
            return Err(Error::new(ErrorKind::Io, "checkpoint", what).help("it was written by a newer version; update"));
        }
        if bytes.get(ALIGNMENT..ALIGNMENT + length) != Some(&header_text(&header)?[..]) {
            return Err(damaged("the header is not as this program writes it"));
        }
        let content: Content<M> = serde_json::from_str(text).map_err(|e| {
            Error::new(ErrorKind::Io, "checkpoint", format!("it does not say what was expected: {e}"))
                .help("the file is whole, but of another kind or version")
        })?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| damaged(format!("not safetensors: {e}")))?;
        if file.len() != content.checksums.len() {
            return Err(damaged(format!("{} tensors and {} checksums", file.len(), content.checksums.len())));
        }
        let mut tensors = BTreeMap::new();
        for (path, expected) in content.checksums {
            let view = file.tensor(&path).map_err(|_| damaged(format!("tensor {path} is missing")))?;
            let sum = checksum_of_shape(view.dtype(), view.shape());
            if crc32c::crc32c_append(sum, view.data()) != expected {
                return Err(damaged(format!("tensor {path} does not match its checksum")));
            }
            tensors.insert(path, from_le_bytes(view.dtype(), view.shape(), view.data(), device)?);
        }
        Ok(State { meaning: content.state, tensors })
    }

    /// Reads and verifies a file. Errors with [`ErrorKind::Io`] and the path.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<State<M>> {
        let path = path.as_ref();
        let bytes = read(path).map_err(|error| Error::new(ErrorKind::Io, "load", error.to_string()))?;
        State::from_bytes(&bytes, device).map_err(|error| error.in_path(path.display().to_string()))
    }
}

/// Why writing stopped.
enum Failure {
    Tensor(Error),
    File(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::File(error)
    }
}

/// The header's text with its padding.
fn header_text(metadata: &Metadata) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec(metadata).map_err(unwritable)?;
    text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
    Ok(text)
}

/// A tensor's checksum before its bytes.
fn checksum_of_shape(dtype: Dtype, shape: &[usize]) -> u32 {
    let sum = crc32c::crc32c(format!("{dtype:?}").as_bytes());
    shape.iter().fold(sum, |sum, &extent| crc32c::crc32c_append(sum, &(extent as u64).to_le_bytes()))
}

/// The name of a dtype in the file.
fn stored(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::Bf16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::I64 => Dtype::I64,
        DType::U32 => Dtype::U32,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}

/// Elements of a piece: little enough for the host's allocator to give it from what it has.
const PIECE: usize = 4096;

/// The elements, row-major, each little-endian, piece by piece.
fn pieces(tensor: &Tensor) -> Result<impl Iterator<Item = Result<Vec<u8>>>> {
    let count = tensor.shape().iter().product::<usize>();
    let flat = tensor.reshape(&[count as isize])?;
    let piece = move |start: usize| to_le_bytes(&flat.narrow(0, start, PIECE.min(count - start))?);
    Ok((0..count).step_by(PIECE).map(piece))
}

fn to_le_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    fn of<T: Element, const N: usize>(tensor: &Tensor, bytes: impl Fn(T) -> [u8; N]) -> Result<Vec<u8>> {
        Ok(tensor.to_vec::<T>()?.into_iter().flat_map(bytes).collect())
    }
    match tensor.dtype() {
        DType::F64 => of(tensor, f64::to_le_bytes),
        DType::F32 => of(tensor, f32::to_le_bytes),
        DType::Bf16 => of(tensor, half::bf16::to_le_bytes),
        DType::F16 => of(tensor, half::f16::to_le_bytes),
        DType::I64 => of(tensor, i64::to_le_bytes),
        DType::U32 => of(tensor, u32::to_le_bytes),
        DType::U8 => tensor.to_vec::<u8>(),
        DType::Bool => of(tensor, |x: bool| [u8::from(x)]),
    }
}

fn from_le_bytes(dtype: Dtype, shape: &[usize], bytes: &[u8], device: &Device) -> Result<Tensor> {
    fn of<T: Element, const N: usize>(
        bytes: &[u8],
        shape: &[usize],
        device: &Device,
        element: impl Fn([u8; N]) -> T,
    ) -> Result<Tensor> {
        let elements: Vec<T> = bytes.as_chunks::<N>().0.iter().map(|&bytes| element(bytes)).collect();
        Tensor::from_vec(elements, shape, device)
    }
    match dtype {
        Dtype::F64 => of(bytes, shape, device, f64::from_le_bytes),
        Dtype::F32 => of(bytes, shape, device, f32::from_le_bytes),
        Dtype::BF16 => of(bytes, shape, device, half::bf16::from_le_bytes),
        Dtype::F16 => of(bytes, shape, device, half::f16::from_le_bytes),
        Dtype::I64 => of(bytes, shape, device, i64::from_le_bytes),
        Dtype::U32 => of(bytes, shape, device, u32::from_le_bytes),
        Dtype::U8 => of(bytes, shape, device, |[byte]: [u8; 1]| byte),
        Dtype::BOOL => of(bytes, shape, device, |[byte]: [u8; 1]| byte != 0),
        other => Err(damaged(format!("its dtype {other:?} is none of ours"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Device {
        Device::new(attentia_reference::ReferenceBackend::new())
    }

    fn state(device: &Device) -> State<(u64, String)> {
        let tensors = DType::ALL.into_iter().map(|dtype| {
            let values = Tensor::arange(0, 6, 1, DType::I64, device).unwrap().reshape(&[2, 3]).unwrap();
            (format!("of.{dtype}"), values.to_dtype(dtype).unwrap())
        });
        State { meaning: (9, "quoted \"text\" ü".to_owned()), tensors: tensors.collect() }
    }

    #[test]
    fn every_dtype_comes_back_and_equal_states_are_equal_bytes() {
        let device = device();
        let bytes = state(&device).to_bytes().unwrap();
        let read = State::<(u64, String)>::from_bytes(&bytes, &device).unwrap();
        assert_eq!(read.meaning, state(&device).meaning);
        assert_eq!(read.tensors.len(), 8);
        assert_eq!(read.tensors["of.f64"].to_vec::<f64>().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(read.to_bytes().unwrap(), bytes);
        SafeTensors::deserialize(&bytes).unwrap(); // any safetensors reader understands it
    }

    /// Fault R4: every byte, three patterns, every length; nothing is accepted and nothing panics.
    #[test]
    fn no_flip_and_no_cut_passes() {
        let device = device();
        let bytes = state(&device).to_bytes().unwrap();
        for at in 0..bytes.len() {
            for pattern in [0x01, 0x20, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= pattern;
                let read = State::<(u64, String)>::from_bytes(&damaged, &device);
                assert!(read.is_err_and(|e| e.kind() == ErrorKind::Damaged), "byte {at} ^ {pattern:#x} passed");
            }
        }
        for length in 0..bytes.len() {
            let read = State::<(u64, String)>::from_bytes(&bytes[..length], &device);
            assert!(read.is_err_and(|e| e.kind() == ErrorKind::Damaged), "cut to {length}");
        }
    }

    /// The file with another seal.
    fn resealed(bytes: &[u8], change: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
        let (length, rest) = bytes.split_first_chunk().unwrap();
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        let mut header: serde_json::Value = serde_json::from_slice(header).unwrap();
        let mut seal = serde_json::from_str(header["__metadata__"][KEY].as_str().unwrap()).unwrap();
        change(&mut seal);
        header["__metadata__"][KEY] = seal.to_string().into();
        let header = header.to_string();
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn a_newer_format_says_so_and_a_flipped_digit_is_no_newer_format() {
        let bytes = state(&device()).to_bytes().unwrap();
        let read = |bytes: &[u8]| State::<(u64, String)>::from_bytes(bytes, &device()).unwrap_err();
        let flipped = resealed(&bytes, |seal| seal["format"] = 7.into());
        assert_eq!(read(&flipped).kind(), ErrorKind::Damaged);
        let newer = resealed(&bytes, |seal| {
            seal["checksum"] = seal_checksum(7, &seal["content"].to_string()).into();
            seal["format"] = 7.into();
        });
        let error = read(&newer);
        assert!(error.to_string().contains("newer version") && error.kind() == ErrorKind::Io, "{error}");
    }

    #[test]
    fn another_meaning_is_no_damage() {
        let device = device();
        let bytes = state(&device).to_bytes().unwrap();
        let error = State::<bool>::from_bytes(&bytes, &device).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    }
}
