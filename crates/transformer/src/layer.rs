//! One layer of the encoder and of the decoder.
//!
//! ```text
//! pre-norm   x ← x + dropout(part(norm(x)))      for each part: self-attention, cross-attention, feed-forward
//! post-norm  x ← norm(x + dropout(part(x)))
//! ```

use crate::{EncoderDecoderConfig, NormPlacement};
use attentia_attention::{AttentionOptions, Cache, KeyValue, MultiHeadAttention};
use attentia_nn::{Context, Dropout, FeedForward, LayerNorm, Part, Place, Point, Scope, Stack};
use attentia_tensor::{Result, Tensor};

/// What surrounds a part: its norm, its dropout and the sum with what came in.
#[derive(Clone, Debug)]
struct Residual {
    norm: LayerNorm,
    dropout: Dropout,
    placement: NormPlacement,
    place: Place,
}

impl Residual {
    fn new(scope: &Scope, name: &str, config: &EncoderDecoderConfig, place: Place) -> Result<Residual> {
        Ok(Residual {
            norm: LayerNorm::new(scope / format!("{name}_norm").as_str(), config.width)?,
            dropout: Dropout::new(scope / format!("{name}_dropout").as_str(), config.dropout)?,
            placement: config.norm,
            place,
        })
    }

    fn around(
        &self,
        x: Tensor,
        cx: &mut Context,
        part: impl FnOnce(&Tensor, &mut Context) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let y = match self.placement {
            NormPlacement::Pre => {
                let added = part(&self.norm.forward(&x)?, cx)?;
                (x + self.dropout.forward(added, cx)?)?
            }
            NormPlacement::Post => {
                let added = part(&x, cx)?;
                self.norm.forward(&(x + self.dropout.forward(added, cx)?)?)?
            }
        };
        cx.tap(self.place.at(Point::Residual), &y)?;
        Ok(y)
    }
}

/// The feed-forward part with its surroundings, which both kinds of layer end with.
#[derive(Clone, Debug)]
struct FeedForwardPart {
    residual: Residual,
    network: FeedForward,
}

impl FeedForwardPart {
    fn new(scope: &Scope, config: &EncoderDecoderConfig, place: Place) -> Result<FeedForwardPart> {
        Ok(FeedForwardPart {
            residual: Residual::new(scope, "ff", config, place)?,
            network: FeedForward::new(
                scope / "ff",
                config.width,
                config.hidden,
                config.activation,
                config.dropout,
                place,
            )?,
        })
    }

    fn forward(&self, x: Tensor, cx: &mut Context) -> Result<Tensor> {
        self.residual.around(x, cx, |x, cx| {
            let output = self.network.forward(x, cx)?;
            cx.tap(self.residual.place.at(Point::Output), &output)?;
            Ok(output)
        })
    }
}

/// An attention part with its surroundings.
#[derive(Clone, Debug)]
struct AttentionPart {
    residual: Residual,
    attention: MultiHeadAttention,
}

impl AttentionPart {
    fn new(scope: &Scope, config: &EncoderDecoderConfig, place: Place) -> Result<AttentionPart> {
        let name = place.part.word();
        Ok(AttentionPart {
            residual: Residual::new(scope, name, config, place)?,
            attention: MultiHeadAttention::new(
                scope / name,
                config.width,
                config.heads,
                config.attention_dropout,
                place,
            )?,
        })
    }
}

/// Self-attention and feed-forward.
#[derive(Clone, Debug)]
pub struct EncoderLayer {
    attention: AttentionPart,
    feed_forward: FeedForwardPart,
    place: Place,
}

/// The places of a layer's parts.
fn places(stack: Stack, index: usize) -> impl Fn(Part) -> Place {
    // A configuration has at most 1024 layers.
    let layer = u16::try_from(index).unwrap_or(u16::MAX);
    move |part| Place { stack, layer, part }
}

impl EncoderLayer {
    /// Registers its parameters below `scope`; `index` is its place in the stack, from 0.
    pub fn new(scope: Scope, config: &EncoderDecoderConfig, index: usize) -> Result<EncoderLayer> {
        let place = places(Stack::Encoder, index);
        Ok(EncoderLayer {
            attention: AttentionPart::new(&scope, config, place(Part::SelfAttention))?,
            feed_forward: FeedForwardPart::new(&scope, config, place(Part::FeedForward))?,
            place: place(Part::Block),
        })
    }

    /// `x: [B, S, C]`; the options hide padding.
    pub fn forward(&self, x: Tensor, options: AttentionOptions, cx: &mut Context) -> Result<Tensor> {
        cx.tap(self.place.at(Point::Input), &x)?;
        let AttentionPart { residual, attention } = &self.attention;
        let x = residual.around(x, cx, |x, cx| attention.forward(x, options, cx))?;
        self.feed_forward.forward(x, cx)
    }
}

/// Self-attention, cross-attention and feed-forward.
#[derive(Clone, Debug)]
pub struct DecoderLayer {
    self_attention: AttentionPart,
    cross_attention: AttentionPart,
    feed_forward: FeedForwardPart,
    place: Place,
}

/// What the self-attention of a decoder layer looks at.
#[derive(Debug)]
pub enum Past<'a> {
    /// Everything is here; the options hide what comes later.
    Whole(AttentionOptions<'a>),
    /// One position is here; those before are in the cache.
    Cached(&'a mut Cache),
}

impl DecoderLayer {
    /// Registers its parameters below `scope`; `index` is its place in the stack, from 0.
    pub fn new(scope: Scope, config: &EncoderDecoderConfig, index: usize) -> Result<DecoderLayer> {
        let place = places(Stack::Decoder, index);
        Ok(DecoderLayer {
            self_attention: AttentionPart::new(&scope, config, place(Part::SelfAttention))?,
            cross_attention: AttentionPart::new(&scope, config, place(Part::CrossAttention))?,
            feed_forward: FeedForwardPart::new(&scope, config, place(Part::FeedForward))?,
            place: place(Part::Block),
        })
    }

    /// Keys and values of the encoder's output `[B, S, C]` for this layer's cross-attention.
    pub fn cross_keys(&self, memory: &Tensor, cx: &mut Context) -> Result<KeyValue> {
        self.cross_attention.attention.keys(memory, memory, cx)
    }

    /// `x: [B, T, C]`; the options `of_memory` hide padding of the N sources, which serve B / N targets each.
    ///
    /// Padding at the end of a target needs no mask of its own: no earlier position sees it.
    pub fn forward(
        &self,
        x: Tensor,
        past: Past,
        memory: &KeyValue,
        of_memory: AttentionOptions,
        cx: &mut Context,
    ) -> Result<Tensor> {
        cx.tap(self.place.at(Point::Input), &x)?;
        let AttentionPart { residual, attention } = &self.self_attention;
        let x = residual.around(x, cx, |x, cx| match past {
            Past::Whole(options) => attention.forward(x, options, cx),
            Past::Cached(cache) => attention.extend(x, cache, AttentionOptions::default(), cx),
        })?;
        let AttentionPart { residual, attention } = &self.cross_attention;
        let x = residual.around(x, cx, |x, cx| attention.attend(x, memory, of_memory, cx))?;
        self.feed_forward.forward(x, cx)
    }
}
