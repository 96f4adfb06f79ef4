//! Names for places inside a model.
//!
//! ```text
//! dec.3.cross.pattern = decoder, layer 3, cross attention, attention weights
//! ```

use std::fmt;

/// Which half of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stack {
    /// Reads the source.
    Encoder,
    /// Writes the target.
    Decoder,
}

/// Which part of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Attention of a sequence to itself.
    SelfAttention,
    /// Attention of the decoder to the encoder's output.
    CrossAttention,
    /// The position-wise network.
    FeedForward,
    /// The residual stream around the parts.
    Block,
}

/// Which value of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// Attention weights `[B, H, T, S]`, before dropout.
    Pattern,
    /// What the part returns `[B, T, C]`.
    Output,
}

/// A place inside a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// Half of the model.
    pub stack: Stack,
    /// Layer, from 0.
    pub layer: u16,
    /// Part of the layer.
    pub part: Part,
    /// Value of the part.
    pub point: Point,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let stack = match self.stack {
            Stack::Encoder => "enc",
            Stack::Decoder => "dec",
        };
        let part = match self.part {
            Part::SelfAttention => "self",
            Part::CrossAttention => "cross",
            Part::FeedForward => "ff",
            Part::Block => "block",
        };
        let point = match self.point {
            Point::Pattern => "pattern",
            Point::Output => "out",
        };
        f.pad(&format!("{stack}.{}.{part}.{point}", self.layer))
    }
}
