use super::*;
use crate::{
    Color,
    text::{BOLD, width},
};

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn pixels(map: &HeatMap<'_>, scale: f32) -> Pixmap {
    Pixmap::decode_png(&map.to_png(scale).unwrap()).unwrap()
}

fn is_white(pixels: &Pixmap, x: u32, y: u32) -> bool {
    let color = pixels.pixel(x, y).unwrap();
    [color.red(), color.green(), color.blue()] == [255; 3]
}

/// Pixels that are not white.
fn ink(pixels: &Pixmap) -> usize {
    (0..pixels.height())
        .flat_map(|y| (0..pixels.width()).map(move |x| (x, y)))
        .filter(|(x, y)| !is_white(pixels, *x, *y))
        .count()
}

#[test]
fn cells_have_their_colours() {
    let (rows, columns) = (words("a"), words("a b c"));
    let map = HeatMap::new(&[0.0, 0.5, 1.0], &rows, &columns).unwrap();
    let pixels = pixels(&map, 1.0);
    for share in [0.0, 0.5, 1.0] {
        let [red, green, blue] = Color::of(share).0;
        let same = |pixel: &resvg::tiny_skia::PremultipliedColorU8| {
            (pixel.red(), pixel.green(), pixel.blue()) == (red, green, blue)
        };
        // A cell is 29 x 29 pixels, and the legend has some.
        assert!(pixels.pixels().iter().filter(|pixel| same(pixel)).count() >= 29 * 29, "{share}");
    }
}

#[test]
fn nothing_is_clipped() {
    for text in [
        "WWWWWWWWWWWWWW",
        "Donaudampfschifffahrt",
        "ЩЩЩЩЩЩЩЩЩЩЩЩ",
        "ΩΩΩΩΩΩΩΩΩΩΩΩ",
        "@%@%@%@%@%@%",
        "mwmwmwmwmwmw",
        "日本日本日本日本",
    ] {
        let rows = vec![text.to_owned(); 2];
        let map = HeatMap::new(&[0.5; 4], &rows, &rows).unwrap().title(text.repeat(4));
        let pixels = pixels(&map.row_axis(text.repeat(2)).column_axis(text.repeat(3)), 1.0);
        let (width, height) = (pixels.width(), pixels.height());
        // Margins are 16 wide; letters may overhang their advance a little.
        let frame = (0..width)
            .flat_map(|x| [(x, 4), (x, height - 5)])
            .chain((0..height).flat_map(|y| [(4, y), (width - 5, y)]));
        for (x, y) in frame {
            assert!(is_white(&pixels, x, y), "{text} reaches {x}, {y} of {width} x {height}");
        }
    }
}

/// The layout counts with widths that no letter of ours exceeds.
#[test]
fn widths_are_upper_bounds() {
    let options = usvg::Options { fontdb: FONTS.clone(), ..usvg::Options::default() };
    let ranges = [' '..='~', '\u{a0}'..='\u{17f}', 'Ͱ'..='ώ', 'Ѐ'..='џ', '‐'..='›', '←'..='↙', '−'..='−', '▁'..='▁'];
    for c in ranges.into_iter().flatten().filter(|c| !c.is_whitespace()) {
        for (weight, factor) in [("normal", 1.0), ("bold", BOLD)] {
            let text = crate::text::escape(&c.to_string().repeat(10));
            let svg = format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"9\" height=\"9\"><text font-family=\"DejaVu Sans\" \
                 font-size=\"100\" font-weight=\"{weight}\">{text}</text></svg>"
            );
            let tree = usvg::Tree::from_str(&svg, &options).unwrap();
            let drawn = f64::from(tree.root().bounding_box().width()) / 1000.0;
            // The first and the last letter may overhang.
            assert!(drawn <= width(&c.to_string()) * factor + 0.01, "{c:?} {weight}: {drawn}");
        }
    }
}

#[test]
fn a_character_that_the_font_lacks_leaves_a_box() {
    let labels = |text: &str| ink(&pixels(&HeatMap::new(&[1.0], &words(text), &words("a")).unwrap(), 1.0));
    assert!(labels("日日日") > labels("\u{3000}") + 30 || labels("日日日") > labels("a") + 30);
    assert!(labels("▁▁▁") > labels("a"));
}

#[test]
fn titles_are_bold() {
    let labels = words("a");
    let map = HeatMap::new(&[1.0], &labels, &labels).unwrap().title("a title");
    let plain = map.to_svg().replace("font-weight=\"bold\"", "");
    let plain = Pixmap::decode_png(&rasterise(&plain, 1.0).unwrap()).unwrap();
    assert!(ink(&pixels(&map, 1.0)) > ink(&plain));
}

#[test]
fn a_scale_has_its_limits() {
    let labels = words("a");
    let map = HeatMap::new(&[1.0], &labels, &labels).unwrap();
    for scale in [0.0, -1.0, 1e6, f32::NAN, f32::INFINITY] {
        let error = map.to_png(scale).unwrap_err();
        assert!(matches!(error, Error::Scale { most: 16_384, .. }), "{scale}: {error}");
    }
    let (once, twice) = (pixels(&map, 1.0), pixels(&map, 2.0));
    assert_eq!((twice.width(), twice.height()), (2 * once.width(), 2 * once.height()));
}

#[test]
fn the_same_map_gives_the_same_bytes() {
    let labels = words("eins zwei drei");
    let map = HeatMap::new(&[0.25; 9], &labels, &labels).unwrap().title("titel");
    assert_eq!(map.to_png(1.5).unwrap(), map.clone().to_png(1.5).unwrap());
}
