//! In which dtype parameters are kept, and in which a model computes.

use attentia_tensor::DType;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Dtypes of a model. Norms, softmax and losses compute their statistics in f32 whatever this says (f64 for f64).
///
/// `Precision::mixed_bf16()` keeps parameters and the optimiser's moments in f32, so that small updates are not lost,
/// and rounds weights to bf16 where they are used: products and activations are bf16, gradients of weights f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Precision {
    /// Of parameters.
    #[serde(serialize_with = "name", deserialize_with = "parse")]
    pub parameters: DType,
    /// Of products and activations.
    #[serde(serialize_with = "name", deserialize_with = "parse")]
    pub compute: DType,
}

impl Precision {
    /// bf16 products and activations over f32 parameters.
    pub const fn mixed_bf16() -> Precision {
        Precision { parameters: DType::F32, compute: DType::Bf16 }
    }
}

/// One dtype for both.
impl From<DType> for Precision {
    fn from(dtype: DType) -> Precision {
        Precision { parameters: dtype, compute: dtype }
    }
}

fn name<S: Serializer>(dtype: &DType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(dtype.name())
}

fn parse<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DType, D::Error> {
    let name = String::deserialize(deserializer)?;
    DType::parse(&name).ok_or_else(|| D::Error::custom(format!("{name} is no dtype")))
}
