//! A model and what belongs to it as one file; the format is [`attentia_nn::State`]'s.
//!
//! ```text
//! tensors   model.<path>        parameters
//!           optimizer.<…>       where the file can resume a training: the optimiser's state …
//!           accumulated.<path>  … and gradients of an update that is not complete
//! ```

use crate::{EncoderDecoder, EncoderDecoderConfig};
use attentia_nn::{Parameters, Precision, Scope, State};
use attentia_tensor::{Device, Error, ErrorKind, Result, Tensor};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

const MODEL: &str = "model.";

/// A model's configuration, parameters and tokenizer, and optionally the state of its training.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// What the model is made of.
    pub config: EncoderDecoderConfig,
    /// The dtype of its parameters, and the one that it computes in.
    pub precision: Precision,
    /// The tokenizer, in its own JSON; empty when the model works on ids.
    pub tokenizer: String,
    /// Training steps so far.
    pub step: u64,
    /// Parameters by path.
    pub parameters: BTreeMap<String, Tensor>,
    /// What a training needs to go on; `None` in a file for use only.
    pub training: Option<Training>,
}

/// What a training needs to go on as if it had never stopped.
#[derive(Clone, Debug)]
pub struct Training {
    /// What the loop knows, as it wrote it: place in the data, seed, figures.
    pub progress: serde_json::Value,
    /// Tensors by name, e.g. `optimizer.first.<path>`; none begins with `model.`.
    pub tensors: BTreeMap<String, Tensor>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meaning {
    config: EncoderDecoderConfig,
    precision: Precision,
    step: u64,
    tokenizer: String,
    training: Option<serde_json::Value>,
}

impl Checkpoint {
    /// The state of a model now.
    pub fn of(model: &EncoderDecoder, parameters: &Parameters, tokenizer: String, step: u64) -> Checkpoint {
        let (config, precision) = (model.config().clone(), model.precision());
        Checkpoint { config, precision, tokenizer, step, parameters: parameters.tensors(), training: None }
    }

    fn state(&self) -> State<Meaning> {
        let mut tensors: BTreeMap<String, Tensor> =
            self.parameters.iter().map(|(path, tensor)| (format!("{MODEL}{path}"), tensor.clone())).collect();
        let training = self.training.as_ref().map(|training| {
            tensors.extend(training.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
            training.progress.clone()
        });
        let (config, tokenizer) = (self.config.clone(), self.tokenizer.clone());
        let meaning = Meaning { config, precision: self.precision, step: self.step, tokenizer, training };
        State { meaning, tensors }
    }

    fn from_state(State { meaning, tensors }: State<Meaning>) -> Result<Checkpoint> {
        let Meaning { config, precision, step, tokenizer, training } = meaning;
        config.validate()?;
        let (mut parameters, mut others) = (BTreeMap::new(), BTreeMap::new());
        for (name, tensor) in tensors {
            match name.strip_prefix(MODEL) {
                Some(path) => parameters.insert(path.to_owned(), tensor),
                None => others.insert(name, tensor),
            };
        }
        let training = training.map(|progress| Training { progress, tensors: others });
        Ok(Checkpoint { config, precision, tokenizer, step, parameters, training })
    }

    /// The file's bytes. Equal states are equal bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.state().to_bytes()
    }

    /// Reads and verifies a file's bytes; tensors go to `device`. Errors as [`State::from_bytes`].
    pub fn from_bytes(bytes: &[u8], device: &Device) -> Result<Checkpoint> {
        Checkpoint::from_state(State::from_bytes(bytes, device)?)
    }

    /// Writes the file, all or nothing. Errors with [`ErrorKind::Io`] and the path.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.state().save(path)
    }

    /// Reads and verifies a file. Errors as [`State::load`].
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Checkpoint> {
        let path = path.as_ref();
        Checkpoint::from_state(State::load(path, device)?).map_err(|e| e.in_path(path.display().to_string()))
    }

    /// The model with these parameters, in the precision that it was saved in, and the parameters of it.
    pub fn model(&self, device: &Device) -> Result<(EncoderDecoder, Parameters)> {
        self.model_in(self.precision, device)
    }

    /// The same in another precision: parameters are cast once.
    pub fn model_in(&self, precision: Precision, device: &Device) -> Result<(EncoderDecoder, Parameters)> {
        self.check()?;
        let scope = Scope::new(device, precision, 0);
        let model = EncoderDecoder::new(&scope, self.config.clone())?;
        let cast = |(path, tensor): (&String, &Tensor)| Ok((path.clone(), tensor.to_dtype(precision.parameters)?));
        scope.parameters().load(&self.parameters.iter().map(cast).collect::<Result<_>>()?)?;
        Ok((model, scope.parameters()))
    }

    /// A configuration that asks for more than the file holds is refused before anything is allocated for it.
    fn check(&self) -> Result<()> {
        let refuse = |what: String| {
            Err(Error::new(ErrorKind::Io, "checkpoint", what).help("was the file made by another version, or by hand?"))
        };
        let held: u64 = self.parameters.values().map(|tensor| tensor.count() as u64).sum();
        let needed = self.config.parameter_count();
        if held != needed {
            return refuse(format!("the configuration has {needed} parameters, and the file {held}"));
        }
        let dtype = self.precision.parameters;
        match self.parameters.iter().find(|(_, tensor)| tensor.dtype() != dtype) {
            Some((path, tensor)) => refuse(format!("the parameters are {dtype}, and {path} is {}", tensor.dtype())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NormPlacement, PositionEncoding};
    use attentia_tensor::DType;

    fn checkpoint(device: &Device) -> Checkpoint {
        checkpoint_in(DType::F32.into(), device)
    }

    fn checkpoint_in(precision: Precision, device: &Device) -> Checkpoint {
        let config = EncoderDecoderConfig { width: 4, heads: 2, hidden: 4, ..EncoderDecoderConfig::tiny(6) };
        let scope = Scope::new(device, precision, 5);
        let model = EncoderDecoder::new(&scope, config).unwrap();
        Checkpoint::of(&model, &scope.parameters(), "{}".to_owned(), 9)
    }

    fn device() -> Device {
        Device::new(attentia_reference::ReferenceBackend::new())
    }

    #[test]
    fn what_is_written_is_read_and_equal_states_are_equal_bytes() {
        let device = device();
        let moment = Tensor::ones(&[2], DType::F32, &device).unwrap();
        let training = Training {
            progress: serde_json::json!({"epoch": 3, "batch": 7}),
            tensors: BTreeMap::from([("optimizer.first.w".to_owned(), moment)]),
        };
        let bytes = Checkpoint { training: Some(training), ..checkpoint(&device) }.to_bytes().unwrap();
        let read = Checkpoint::from_bytes(&bytes, &device).unwrap();
        assert_eq!((read.step, read.training.as_ref().unwrap().progress["batch"].as_u64()), (9, Some(7)));
        assert_eq!(read.training.as_ref().unwrap().tensors.len(), 1);
        read.model(&device).unwrap();
        assert_eq!(read.to_bytes().unwrap(), bytes);
    }

    #[test]
    fn a_model_computes_in_the_precision_that_it_was_saved_in() {
        let device = device();
        for precision in [Precision::mixed_bf16(), DType::F64.into(), DType::Bf16.into()] {
            let bytes = checkpoint_in(precision, &device).to_bytes().unwrap();
            let mut read = Checkpoint::from_bytes(&bytes, &device).unwrap();
            assert_eq!(read.model(&device).unwrap().0.precision(), precision);
            assert_eq!(read.to_bytes().unwrap(), bytes);
            assert_eq!(read.model_in(DType::F32.into(), &device).unwrap().0.precision(), DType::F32.into());
            read.precision = DType::F16.into();
            let error = read.model(&device).unwrap_err().to_string();
            assert!(error.contains("parameters are f16"), "{error}");
        }
    }

    #[test]
    fn a_configuration_larger_than_its_file_is_refused_before_memory_is() {
        let device = device();
        let mut crafted = checkpoint(&device);
        crafted.config.encoder_layers = 1000;
        crafted.config.width = 1 << 16;
        crafted.config.heads = 1;
        crafted.config.positions = 1 << 20;
        let error = Checkpoint::from_bytes(&crafted.to_bytes().unwrap(), &device).unwrap_err().to_string();
        assert!(error.contains("positions of width"), "{error}");
        crafted.config.positions = 8;
        let read = Checkpoint::from_bytes(&crafted.to_bytes().unwrap(), &device).unwrap();
        let error = read.model(&device).unwrap_err().to_string();
        assert!(error.contains("and the file"), "{error}");
    }

    #[test]
    fn parameters_are_counted_without_building_the_model() {
        let device = device();
        for (norm, tied, position_encoding) in [
            (NormPlacement::Pre, true, PositionEncoding::Sinusoidal),
            (NormPlacement::Post, false, PositionEncoding::Learned),
        ] {
            let activation = if tied { Default::default() } else { attentia_nn::FeedForwardActivation::SwiGlu };
            let config = EncoderDecoderConfig {
                width: 4,
                heads: 2,
                hidden: 6,
                encoder_layers: 1,
                decoder_layers: 3,
                norm,
                tied,
                position_encoding,
                activation,
                ..EncoderDecoderConfig::tiny(6)
            };
            let scope = Scope::new(&device, DType::F32, 5);
            EncoderDecoder::new(&scope, config.clone()).unwrap();
            assert_eq!(scope.parameters().count() as u64, config.parameter_count());
        }
        assert_eq!(
            EncoderDecoderConfig { tied: false, ..EncoderDecoderConfig::base(8000) }.parameter_count() / 100_000,
            564
        );
    }
}
