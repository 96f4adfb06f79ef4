//! Pictures and pages from plain slices. This crate knows no tensor, opens no file and asks no network: numbers and
//! labels go in, a string or bytes come out, and where they are stored is the caller's business.
//!
//! ```
//! use attentia_picture::HeatMap;
//!
//! let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
//! let svg = HeatMap::new(&[0.9, 0.1, 0.2, 0.8], &words("die Katze"), &words("the cat"))?
//!     .title("decoder, layer 3, head 0")
//!     .row_axis("target")
//!     .column_axis("source")
//!     .range(0.0, 1.0)?
//!     .to_svg();
//! assert!(svg.starts_with("<svg") && svg.contains("Katze"));
//! # Ok::<(), attentia_picture::Error>(())
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | [`heat_map`] | a labelled matrix with a legend: SVG |
//! | [`page`] | all attention maps of a sentence pair in one HTML file, to be explored with pointer and keyboard |
//! | [`chart`] | lines over an axis of doublings: SVG |
//! | [`report`] | facts, charts and a table in one HTML file |
//! | `png` | still pictures, the same on every machine: `HeatMap::to_png`, with the feature `png` |
//! | [`color`] | the colour ramp, even to the eye and readable in grey |

#![forbid(unsafe_code)]

pub mod chart;
pub mod color;
mod document;
mod error;
pub mod heat_map;
pub mod page;
#[cfg(feature = "png")]
mod png;
pub mod report;
mod text;

pub use chart::Chart;
pub use color::Color;
pub use error::{Error, Result};
pub use heat_map::HeatMap;
pub use page::{AttentionPage, Map};
pub use report::Report;
