//! A trained model as one file: safetensors with a single metadata key of canonical JSON.
//!
//! ```text
//! metadata["attentia"] = {"checksums": {path: crc32c, …}, "config": {…}, "format": 1, "step": 2000, "tokenizer": "…"}
//! tensors              = parameters by path
//! ```
//!
//! No time, host or path goes in, and keys are sorted, so that equal states are equal bytes. Loading trusts no length:
//! the safetensors header is validated before anything is allocated, then every tensor is checked against its
//! checksum, and the paths and shapes against the model.

use crate::{EncoderDecoder, EncoderDecoderConfig};
use attentia_nn::Scope;
use attentia_tensor::{DType, Device, Error, ErrorKind, Result, Tensor};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

const KEY: &str = "attentia";
/// The version that this code writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// A model's configuration, parameters and tokenizer.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// What the model is made of.
    pub config: EncoderDecoderConfig,
    /// The tokenizer, in its own JSON.
    pub tokenizer: String,
    /// Training steps so far.
    pub step: u64,
    /// Parameters by path.
    pub parameters: BTreeMap<String, Tensor>,
}

// Fields in alphabetical order: that is the canonical JSON.
#[derive(Serialize, Deserialize)]
struct Metadata {
    checksums: BTreeMap<String, u32>,
    config: EncoderDecoderConfig,
    format: u32,
    step: u64,
    tokenizer: String,
}

fn broken(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Io, "checkpoint", what)
        .help("the file is no checkpoint of this program, or it was damaged or cut short; restore it from a copy")
}

impl Checkpoint {
    /// The file's bytes. Parameters must be f32.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut values = Vec::new();
        for (path, tensor) in &self.parameters {
            values.push((path.clone(), tensor.shape().to_vec(), tensor.to_vec::<f32>()?));
        }
        let bytes = |data: &[f32]| -> Vec<u8> { data.iter().flat_map(|x| x.to_le_bytes()).collect() };
        let encoded: Vec<(String, Vec<usize>, Vec<u8>)> =
            values.into_iter().map(|(path, shape, data)| (path, shape, bytes(&data))).collect();
        let metadata = Metadata {
            checksums: encoded.iter().map(|(path, _, data)| (path.clone(), crc32c::crc32c(data))).collect(),
            config: self.config.clone(),
            format: FORMAT,
            step: self.step,
            tokenizer: self.tokenizer.clone(),
        };
        let json = serde_json::to_string(&metadata).map_err(|e| broken(e.to_string()))?;
        let views = encoded
            .iter()
            .map(|(path, shape, data)| {
                let view = TensorView::new(Dtype::F32, shape.clone(), data).map_err(|e| broken(e.to_string()))?;
                Ok((path.as_str(), view))
            })
            .collect::<Result<Vec<_>>>()?;
        safetensors::serialize(views, Some(HashMap::from([(KEY.to_owned(), json)]))).map_err(|e| broken(e.to_string()))
    }

    /// Reads and verifies a file's bytes; parameters go to `device`.
    pub fn from_bytes(bytes: &[u8], device: &Device) -> Result<Checkpoint> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| broken(format!("not safetensors: {e}")))?;
        let json = header
            .metadata()
            .as_ref()
            .and_then(|m| m.get(KEY))
            .ok_or_else(|| broken(format!("safetensors without the metadata key {KEY:?}")))?;
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format } = serde_json::from_str(json).map_err(|e| broken(format!("metadata: {e}")))?;
        if format > FORMAT {
            let what = format!("format {format}, and this program reads up to {FORMAT}");
            return Err(Error::new(ErrorKind::Io, "checkpoint", what).help("it was written by a newer version; update"));
        }
        let metadata: Metadata = serde_json::from_str(json).map_err(|e| broken(format!("metadata: {e}")))?;
        metadata.config.validate()?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| broken(format!("not safetensors: {e}")))?;
        if file.len() != metadata.checksums.len() {
            return Err(broken(format!("{} tensors and {} checksums", file.len(), metadata.checksums.len())));
        }
        let mut parameters = BTreeMap::new();
        for (path, checksum) in metadata.checksums {
            let view = file.tensor(&path).map_err(|_| broken(format!("tensor {path} is missing")))?;
            if view.dtype() != Dtype::F32 {
                return Err(broken(format!("tensor {path} is {:?}, not f32", view.dtype())));
            }
            if crc32c::crc32c(view.data()) != checksum {
                return Err(broken(format!("tensor {path} does not match its checksum")));
            }
            let values: Vec<f32> =
                view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
            parameters.insert(path, Tensor::from_slice(&values, view.shape(), device)?);
        }
        Ok(Checkpoint { config: metadata.config, tokenizer: metadata.tokenizer, step: metadata.step, parameters })
    }

    /// The model, with these parameters.
    pub fn model(&self, device: &Device) -> Result<EncoderDecoder> {
        let scope = Scope::new(device, DType::F32, 0);
        let model = EncoderDecoder::new(&scope, self.config.clone())?;
        scope.parameters().load(&self.parameters)?;
        Ok(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(device: &Device) -> Checkpoint {
        let config = EncoderDecoderConfig { width: 4, heads: 2, layers: 1, hidden: 4, ..EncoderDecoderConfig::tiny(6) };
        let scope = Scope::new(device, DType::F32, 5);
        EncoderDecoder::new(&scope, config.clone()).unwrap();
        let parameters = scope.parameters().tensors().into_iter().map(|(p, t)| (p.to_owned(), t)).collect();
        Checkpoint { config, tokenizer: "{}".to_owned(), step: 9, parameters }
    }

    #[test]
    fn what_is_written_is_read_and_equal_states_are_equal_bytes() {
        let device = Device::new(attentia_reference::ReferenceBackend::new());
        let bytes = checkpoint(&device).to_bytes().unwrap();
        let read = Checkpoint::from_bytes(&bytes, &device).unwrap();
        assert_eq!(read.step, 9);
        read.model(&device).unwrap();
        assert_eq!(read.to_bytes().unwrap(), bytes);
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let device = Device::new(attentia_reference::ReferenceBackend::new());
        let bytes = checkpoint(&device).to_bytes().unwrap();
        for length in (0..bytes.len()).step_by(7) {
            assert!(Checkpoint::from_bytes(&bytes[..length], &device).is_err(), "cut to {length}");
        }
        let tensors = bytes.len() - 64;
        for at in (tensors..bytes.len()).step_by(5) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let error = Checkpoint::from_bytes(&damaged, &device).unwrap_err().to_string();
            assert!(error.contains("checksum"), "{error}");
        }
    }

    #[test]
    fn a_newer_format_says_so() {
        let device = Device::new(attentia_reference::ReferenceBackend::new());
        let bytes = checkpoint(&device).to_bytes().unwrap();
        let field = br#"\"format\":1"#;
        let at = bytes.windows(field.len()).position(|w| w == field).unwrap();
        let mut newer = bytes;
        newer[at + field.len() - 1] = b'7';
        let error = Checkpoint::from_bytes(&newer, &device).unwrap_err().to_string();
        assert!(error.contains("newer version"), "{error}");
    }
}
