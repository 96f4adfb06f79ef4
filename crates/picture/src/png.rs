//! Still pictures: the SVG as pixels, drawn with the fonts of this crate.
//!
//! The machine's fonts are not looked at, so that a picture is the same everywhere. Ours are DejaVu Sans and its bold
//! face (`font/`, made by `make/font.py`) with Latin, Latin-1, Latin Extended-A, Greek, Cyrillic, punctuation, arrows,
//! `▁`, `−` and `∞`. Other characters are drawn as a box.

use std::sync::{Arc, LazyLock};

use resvg::{
    tiny_skia::{Pixmap, Transform},
    usvg::{self, fontdb},
};

use crate::{Error, HeatMap, Result};

/// Pixels a side; a square of them takes a gigabyte.
const MOST_PIXELS: u32 = 1 << 14;

static FONTS: LazyLock<Arc<fontdb::Database>> = LazyLock::new(|| {
    let mut fonts = fontdb::Database::new();
    for face in [&include_bytes!("../font/DejaVuSans.ttf")[..], include_bytes!("../font/DejaVuSans-Bold.ttf")] {
        fonts.load_font_data(face.to_vec());
    }
    Arc::new(fonts)
});

impl HeatMap<'_> {
    /// The picture as a PNG file, `scale` pixels to a unit of the SVG: 1 for screens, 2 for dense ones and for print.
    /// Needs the feature `png`.
    ///
    /// Characters: Latin, Latin-1, Latin Extended-A, Greek, Cyrillic, punctuation, arrows, `▁`, `−` and `∞`; others are
    /// drawn as a box. The SVG, which borrows the viewer's fonts, has no such limit.
    ///
    /// ```
    /// use attentia_picture::HeatMap;
    ///
    /// let (rows, columns) = (["die".to_owned(), "Katze".to_owned()], ["the".to_owned(), "cat".to_owned()]);
    /// let png = HeatMap::new(&[0.9, 0.1, 0.2, 0.8], &rows, &columns)?.title("head 0").to_png(2.0)?;
    /// assert!(png.starts_with(b"\x89PNG"));
    /// # Ok::<(), attentia_picture::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Scale`] unless both sides come to 1 to 16,384 pixels.
    pub fn to_png(&self, scale: f32) -> Result<Vec<u8>> {
        rasterise(&self.to_svg(), scale)
    }
}

fn rasterise(svg: &str, scale: f32) -> Result<Vec<u8>> {
    let options = usvg::Options { fontdb: FONTS.clone(), ..usvg::Options::default() };
    let tree = usvg::Tree::from_str(svg, &options).map_err(|error| raster(&error))?;
    let [width, height] = [tree.size().width(), tree.size().height()].map(|side| (side * scale).ceil());
    // A NaN is in no range.
    if ![width, height].iter().all(|side| (1.0..=MOST_PIXELS as f32).contains(side)) {
        return Err(Error::Scale { scale, width, height, most: MOST_PIXELS });
    }
    let mut pixels = Pixmap::new(width as u32, height as u32).ok_or_else(|| raster(&"no room for its pixels"))?;
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| raster(&error))
}

fn raster(reason: &dyn std::fmt::Display) -> Error {
    Error::Raster { reason: reason.to_string() }
}

#[cfg(test)]
mod tests;
