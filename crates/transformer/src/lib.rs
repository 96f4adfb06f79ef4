//! Transformer models: the encoder-decoder, generation, checkpoints.
//!
//! ```
//! use attentia_nn::{Context, Scope};
//! use attentia_tensor::{DType, Device, Tensor};
//! use attentia_transformer::{EncoderDecoder, EncoderDecoderConfig, GenerateOptions, generate};
//! # let device = Device::new(attentia_reference::ReferenceBackend::new());
//! let config = EncoderDecoderConfig { width: 16, heads: 2, hidden: 32, ..EncoderDecoderConfig::tiny(50) };
//! let model = EncoderDecoder::new(&Scope::new(&device, DType::F32, 1), config)?;
//! let source = Tensor::from_slice(&[7i64, 8, 9, 2], &[1, 4], &device)?;                    // ends with <eos> = 2
//! let written = Tensor::from_slice(&[1i64, 5, 6], &[1, 3], &device)?;                      // begins with <bos> = 1
//! let logits = model.forward(&source, &[4], &written, &mut Context::evaluation())?;        // [B, T, vocabulary]
//! assert_eq!(logits.shape().as_slice(), [1, 3, 50]);
//! let options = GenerateOptions { limit: 10, ..GenerateOptions::default() };
//! let written = generate(&model, &source, &[4], options)?;                                  // greedy, over a cache
//! assert!(written.hypotheses[0][0].tokens.len() <= 10);
//! # Ok::<(), attentia_tensor::Error>(())
//! ```

#![forbid(unsafe_code)]

mod checkpoint;
mod config;
mod encoder_decoder;
mod generate;
mod layer;
mod positions;

pub use checkpoint::{Checkpoint, Training};
pub use config::{BOS, EOS, EncoderDecoderConfig, NormPlacement, PAD, PositionEncoding};
pub use encoder_decoder::{EncoderDecoder, Memory};
pub use generate::{GenerateOptions, Generated, Hypothesis, generate};
pub use layer::{DecoderLayer, EncoderLayer, Past};
pub use positions::sinusoidal;
