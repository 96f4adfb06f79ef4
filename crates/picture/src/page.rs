//! The attention of one sentence pair as one HTML file, to be opened in any browser, sent by mail or kept.
//!
//! ```text
//!  source  Click the icon .
//!  target  Klicken Sie auf das Symbol .
//!
//!  [encoder self | decoder self | cross]   layer [0 1 2 3 4 5]   colours
//!
//!  #### #### #### #### ####      all heads of the layer, small, and their mean
//!
//!        / / / / /               the chosen head, with all tokens
//!    la  # # # # #    ====       legend
//!    be  # # # # #    --- -      the marked row and column, largest weights first
//!    ls  # # # # #    keys
//! ```
//!
//! - The file asks for nothing: no font, no library, no network. Its content security policy allows the one script and
//!   the one style in it, by their SHA-256, and denies the rest.
//! - Weights travel as 16-bit numbers in base64, [`AttentionPage::STEP`] apart: a base model's 144 heads on 40 x 40
//!   tokens make 0.7 MB.
//! - Equal maps give equal bytes, in whatever order they were added.
//!
//! `page.html` is the frame, `page.css` the looks and `page.js` everything that moves.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::color::NOT_A_NUMBER;
use crate::document::{fill, policy, unix_lines};
use crate::text::escape;
use crate::{Color, Error, Result};

mod json;
mod site;
mod weights;

use site::Site;

const FRAME: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Weights on a page: more make a file of more than 45 MB.
const MOST_WEIGHTS: usize = 1 << 24;
/// Tokens along a side: more than a canvas holds at the least size of a cell.
const MOST_TOKENS: usize = 1024;
/// Colours that travel with the page, from 0 to 1.
const RAMP: u32 = 256;

/// The attention maps of one sentence pair, to be written as a page.
///
/// ```
/// use attentia_picture::{AttentionPage, Map};
///
/// let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
/// let (source, target) = (words("the cat"), words("die Katze"));
/// let html = AttentionPage::new("the cat", "die Katze")
///     .map(Map {
///         name: "dec.0.cross".into(),
///         heads: 2,
///         rows: &target,
///         columns: &source,
///         weights: &[0.9, 0.1, 0.2, 0.8, 0.5, 0.5, 0.5, 0.5], // [H, T, S]
///     })?
///     .to_html()?;
/// assert!(html.starts_with("<!doctype html>"));
/// # Ok::<(), attentia_picture::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionPage {
    source: String,
    target: String,
    maps: BTreeMap<Site, Stored>,
}

/// What one attention layer did: a matrix of weights per head.
#[derive(Debug, Clone, PartialEq)]
pub struct Map<'a> {
    /// Where it stands in the model: `enc.N.self`, `dec.N.self` or `dec.N.cross`, N counted from 0.
    pub name: String,
    /// H, the number of heads.
    pub heads: usize,
    /// The T tokens that look (the queries), one label each.
    pub rows: &'a [String],
    /// The S tokens that are looked at (the keys), one label each.
    pub columns: &'a [String],
    /// Row-major, `[H, T, S]`; each between 0 and 1, or NaN.
    pub weights: &'a [f32],
}

#[derive(Debug, Clone, PartialEq)]
struct Stored {
    heads: usize,
    rows: Vec<String>,
    columns: Vec<String>,
    weights: Vec<u16>,
}

impl AttentionPage {
    /// Distance of two weights that the page can tell apart; what it shows is wrong by half of it at most.
    pub const STEP: f32 = 1.0 / weights::LEVELS as f32;

    /// A page without maps. The two sentences are its title.
    pub fn new(source: impl Into<String>, target: impl Into<String>) -> Self {
        Self { source: source.into(), target: target.into(), maps: BTreeMap::new() }
    }

    /// Adds one layer's maps. NaN is allowed, and shown as such.
    ///
    /// # Errors
    ///
    /// [`Error::MapName`] for a name that says no place, [`Error::MapTwice`] for a place that is taken,
    /// [`Error::MapShape`], [`Error::MapEmpty`] without a weight, [`Error::MapTooLong`] above 1,024 tokens,
    /// [`Error::PageTooLarge`] above 16.8 million weights on one page, [`Error::Weight`] for a number that is no weight.
    pub fn map(mut self, map: Map<'_>) -> Result<Self> {
        let site: Site = map.name.parse()?;
        if self.maps.contains_key(&site) {
            return Err(Error::MapTwice { name: map.name });
        }
        let (heads, rows, columns) = (map.heads, map.rows.len(), map.columns.len());
        let cells = heads.checked_mul(rows).and_then(|lines| lines.checked_mul(columns));
        if cells != Some(map.weights.len()) {
            return Err(Error::MapShape { name: map.name, weights: map.weights.len(), heads, rows, columns });
        }
        if map.weights.is_empty() {
            return Err(Error::MapEmpty { name: map.name, heads, rows, columns });
        }
        if rows.max(columns) > MOST_TOKENS {
            return Err(Error::MapTooLong { name: map.name, rows, columns, most: MOST_TOKENS });
        }
        let together = map.weights.len() + self.maps.values().map(|stored| stored.weights.len()).sum::<usize>();
        if together > MOST_WEIGHTS {
            return Err(Error::PageTooLarge { name: map.name, weights: together, most: MOST_WEIGHTS });
        }
        let weights = weights::encode(map.weights).map_err(|at| Error::Weight {
            head: at / (rows * columns),
            row: at / columns % rows,
            column: at % columns,
            value: map.weights[at],
            name: map.name,
        })?;
        let stored = Stored { heads, rows: map.rows.to_vec(), columns: map.columns.to_vec(), weights };
        self.maps.insert(site, stored);
        Ok(self)
    }

    /// The page as one HTML document.
    ///
    /// It opens at the cross-attention of the last layer, at the mean of its heads, or where its address says:
    /// `page.html#dec.5.cross/3` is head 3 of that map.
    ///
    /// # Errors
    ///
    /// [`Error::NoMap`] without a map.
    pub fn to_html(&self) -> Result<String> {
        if self.maps.is_empty() {
            return Err(Error::NoMap);
        }
        let (style, script) = (unix_lines(STYLE), unix_lines(SCRIPT));
        let fields = [
            ("policy", policy(&style, Some(&script))),
            ("title", escape(&format!("{} → {}", self.source, self.target))),
            ("source", escape(&self.source)),
            ("target", escape(&self.target)),
            ("data", self.data()),
            ("style", style),
            ("script", script),
        ];
        Ok(fill(&unix_lines(FRAME), &fields))
    }

    /// What `page.js` reads.
    fn data(&self) -> String {
        let mut sequences: Vec<&[String]> = Vec::new();
        // Few: the source's tokens and the target's, as a rule.
        let mut number = |tokens| {
            let known = sequences.iter().position(|sequence| *sequence == tokens);
            known.unwrap_or_else(|| {
                sequences.push(tokens);
                sequences.len() - 1
            })
        };
        let maps = self.maps.iter().map(|(site, map)| {
            let bytes: Vec<u8> = map.weights.iter().flat_map(|code| code.to_le_bytes()).collect();
            json::object(&[
                ("name", json::string(&site.to_string())),
                ("heads", map.heads.to_string()),
                ("rows", number(&map.rows).to_string()),
                ("columns", number(&map.columns).to_string()),
                ("weights", json::string(&STANDARD.encode(bytes))),
            ])
        });
        let maps = json::array(maps);
        let tokens = |sequence: &&[String]| json::array(sequence.iter().map(|token| json::string(token)));
        let ramp = (0..RAMP).map(|step| json::string(&Color::of(f64::from(step) / f64::from(RAMP - 1)).hex()));
        json::object(&[
            ("levels", weights::LEVELS.to_string()),
            ("ramp", json::array(ramp)),
            ("notANumber", json::string(&NOT_A_NUMBER.hex())),
            ("sequences", json::array(sequences.iter().map(tokens))),
            ("maps", maps),
        ])
    }
}

#[cfg(test)]
mod tests;
