//! Names for places inside a model.
//!
//! ```text
//! dec.3.cross.pattern = decoder, layer 3, cross attention, attention weights
//! ```
//!
//! | part | points |
//! |---|---|
//! | `self`, `cross` | `q` `k` `v` `scores` `pattern` `z` `out` `residual` |
//! | `ff` | `hidden` `out` `residual` |
//! | `block` | `in` |

use attentia_tensor::{Error, ErrorKind};
use std::{fmt, str::FromStr};

/// An enum with a word for each variant.
macro_rules! words {
    ($(#[$docs:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$docs])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Every one of them.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The word in a site's name.
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }

            fn of(word: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|one| one.word() == word)
            }
        }
    };
}

words! {
    /// Which half of the model.
    Stack {
        /// Reads the source.
        Encoder = "enc",
        /// Writes the target.
        Decoder = "dec",
    }
}

words! {
    /// Which part of a layer.
    Part {
        /// Attention of a sequence to itself.
        SelfAttention = "self",
        /// Attention of the decoder to the encoder's output.
        CrossAttention = "cross",
        /// The position-wise network.
        FeedForward = "ff",
        /// The layer as a whole.
        Block = "block",
    }
}

words! {
    /// Which value of a part.
    Point {
        /// Queries `[B, H, T, D]`.
        Query = "q",
        /// Keys `[B, H, S, D]`; those of this forward only, when there is a cache.
        Key = "k",
        /// Values `[B, H, S, D]`, likewise.
        Value = "v",
        /// Scaled scores `[B, H, T, S]` with their biases, before the mask.
        Scores = "scores",
        /// Attention weights `[B, H, T, S]`, before dropout.
        Pattern = "pattern",
        /// Weighted sums of values, per head `[B, H, T, D]`.
        Mixed = "z",
        /// What lies between the two maps of a feed-forward network `[B, T, hidden]`, after its activation.
        Hidden = "hidden",
        /// What the part returns `[B, T, C]`.
        Output = "out",
        /// The residual stream after the part was added `[B, T, C]`; normalised already where norms come last.
        Residual = "residual",
        /// The residual stream that enters the layer `[B, T, C]`.
        Input = "in",
    }
}

impl Part {
    /// The values that this part has.
    pub const fn points(self) -> &'static [Point] {
        use Point::*;
        match self {
            Part::SelfAttention | Part::CrossAttention => {
                &[Query, Key, Value, Scores, Pattern, Mixed, Output, Residual]
            }
            Part::FeedForward => &[Hidden, Output, Residual],
            Part::Block => &[Input],
        }
    }
}

/// A part of a layer of a stack; `place.at(point)` is a [`Site`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Half of the model.
    pub stack: Stack,
    /// Layer, from 0.
    pub layer: u16,
    /// Part of the layer.
    pub part: Part,
}

impl Place {
    /// A value of this part.
    pub const fn at(self, point: Point) -> Site {
        Site { stack: self.stack, layer: self.layer, part: self.part, point }
    }
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

impl Site {
    /// The part of the model whose value it is.
    pub const fn place(self) -> Place {
        Place { stack: self.stack, layer: self.layer, part: self.part }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Place { stack, layer, part } = self;
        f.pad(&format!("{}.{layer}.{}", stack.word(), part.word()))
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(&format!("{}.{}", self.place(), self.point.word()))
    }
}

/// `stack.layer.part.point`. Errors say which word is unknown and which ones there are.
impl FromStr for Site {
    type Err = Error;

    fn from_str(name: &str) -> Result<Site, Error> {
        let refuse = |what: String| {
            Error::new(ErrorKind::Argument, "site", format!("{name:?}: {what}"))
                .help("a site is stack.layer.part.point, such as dec.3.cross.pattern")
        };
        let &[stack, layer, part, point] = name.split('.').collect::<Vec<_>>().as_slice() else {
            return Err(refuse("it has not four words".to_owned()));
        };
        let words = |all: &[&str]| all.join(", ");
        let stack = Stack::of(stack).ok_or_else(|| refuse(format!("no stack is {stack:?}; there are enc, dec")))?;
        let layer = layer.parse().map_err(|_| refuse(format!("{layer:?} is no layer")))?;
        let known: Vec<_> = Part::ALL.iter().map(|part| part.word()).collect();
        let part = Part::of(part).ok_or_else(|| refuse(format!("no part is {part:?}; there are {}", words(&known))))?;
        let known: Vec<_> = part.points().iter().map(|point| point.word()).collect();
        let point = Point::of(point)
            .filter(|point| part.points().contains(point))
            .ok_or_else(|| refuse(format!("{} has no {point:?}; it has {}", part.word(), words(&known))))?;
        Ok(Site { stack, layer, part, point })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_site_has_a_name_that_reads_back() {
        let mut names = 0;
        for &stack in Stack::ALL {
            for &part in Part::ALL {
                for &point in part.points() {
                    let site = Site { stack, layer: 11, part, point };
                    assert_eq!(site.to_string().parse::<Site>().unwrap(), site);
                    names += 1;
                }
            }
        }
        assert_eq!(names, 2 * (8 + 8 + 3 + 1));
    }

    #[test]
    fn a_wrong_name_says_what_there_is() {
        let error = |name: &str| name.parse::<Site>().unwrap_err().to_string();
        assert!(error("dec.3.cross.patern").contains("q, k, v, scores, pattern, z, out, residual"));
        assert!(error("dec.3.crossing.pattern").contains("self, cross, ff, block"));
        assert!(error("mid.3.cross.pattern").contains("enc, dec"));
        assert!(error("dec.x.cross.pattern").contains("no layer"));
        assert!(error("dec.3").contains("dec.3.cross.pattern"));
    }
}
