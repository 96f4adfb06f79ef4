use super::*;

fn labels(count: usize, text: &str) -> Vec<String> {
    (0..count).map(|n| format!("{text}{n}")).collect()
}

/// The value of an attribute of the root element.
fn root(svg: &str, name: &str) -> f64 {
    let start = svg.find(&format!(" {name}=\"")).unwrap() + name.len() + 3;
    svg[start..].split('"').next().unwrap().parse().unwrap()
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let two = labels(2, "t");
    assert!(matches!(HeatMap::new(&[0.0; 3], &two, &two), Err(Error::Shape { values: 3, rows: 2, columns: 2 })));
    assert!(matches!(HeatMap::new(&[], &[], &two), Err(Error::Empty { rows: 0, columns: 2 })));
    let many = labels(513, "");
    assert!(matches!(HeatMap::new(&vec![0.0; 513 * 513], &many, &many), Err(Error::TooLarge { .. })));
    let map = HeatMap::new(&[0.0; 4], &two, &two).unwrap();
    for (low, high) in [(1.0, 1.0), (2.0, 1.0), (f32::NAN, 1.0), (0.0, f32::INFINITY)] {
        assert!(matches!(map.clone().range(low, high), Err(Error::Range { .. })));
    }
}

#[test]
fn a_cell_has_its_colour_and_its_value() {
    let (rows, columns) = (labels(1, "row"), labels(3, "column"));
    let svg = HeatMap::new(&[0.0, 0.5, 1.0], &rows, &columns).unwrap().to_svg();
    for (column, (share, value)) in [(0.0, "0"), (0.5, "0.5"), (1.0, "1")].into_iter().enumerate() {
        let cell = format!("fill=\"{}\"><title>row0, column{column}: {value}</title>", Color::of(share).hex());
        assert!(svg.contains(&cell), "{cell} not in {svg}");
    }
    assert!(!svg.contains("NaN"));
}

#[test]
fn nan_and_infinity_are_told_apart() {
    let (rows, columns) = (labels(1, "r"), labels(4, "c"));
    let svg = HeatMap::new(&[f32::NAN, 1.0, 3.0, f32::INFINITY], &rows, &columns).unwrap().to_svg();
    assert!(svg.contains(&format!("fill=\"{}\"><title>r0, c0: NaN</title>", NOT_A_NUMBER.hex())));
    assert!(svg.contains(&format!("fill=\"{}\"><title>r0, c3: ∞</title>", Color::of(1.0).hex())));
    assert!(svg.contains(">3</text>") && svg.contains(">1</text>") && svg.contains(">NaN</text>"));
    let nothing = HeatMap::new(&[f32::NAN; 4], &rows, &columns).unwrap().to_svg();
    assert!(nothing.contains(">1</text>") && nothing.contains(">0</text>"));
}

#[test]
fn text_is_escaped_everywhere() {
    let evil = vec!["</title><script>alert('x')</script>&\u{1}".to_owned()];
    let map = HeatMap::new(&[1.0], &evil, &evil).unwrap().title(&evil[0]).row_axis(&evil[0]).column_axis(&evil[0]);
    let svg = map.to_svg();
    assert!(!svg.contains("<script") && !svg.contains('\u{1}') && svg.contains("&lt;script&gt;"));
    assert_eq!(svg.matches("<title>").count(), svg.matches("</title>").count());
}

#[test]
fn the_picture_grows_with_its_labels() {
    let size = |text: &str, title: &str| {
        let names = labels(4, text);
        let svg = HeatMap::new(&[0.0; 16], &names, &names).unwrap().title(title).to_svg();
        (root(&svg, "width"), root(&svg, "height"))
    };
    let (short, long) = (size("a", ""), size("Donaudampfschiff", ""));
    assert!(long.0 > short.0 + 80.0 && long.1 > short.1 + 80.0, "{short:?} {long:?}");
    let endless = size(&"Donaudampfschiff".repeat(20), "");
    assert!(endless.0 < long.0 + 60.0, "long labels are cut");
    assert!(size("a", &"title ".repeat(30)).0 > 1000.0, "titles are not");
}

#[test]
fn crowded_labels_are_thinned_and_tooltips_are_not() {
    let names = labels(200, "token");
    let svg = HeatMap::new(&vec![0.5; 40_000], &names, &names).unwrap().to_svg();
    assert_eq!(svg.matches("<title>").count(), 40_000);
    assert_eq!(svg.matches("rotate(-60)").count(), 40, "every fifth column");
    assert!(root(&svg, "width") < 1200.0);
}

#[test]
fn the_same_map_gives_the_same_bytes() {
    let names = labels(3, "t");
    let map = HeatMap::new(&[0.25; 9], &names, &names).unwrap();
    assert_eq!(map.to_svg(), map.clone().to_svg());
}
