use super::*;

fn labels(count: usize, text: &str) -> Vec<String> {
    (0..count).map(|n| format!("{text}{n}")).collect()
}

fn map<'a>(name: &str, heads: usize, tokens: [&'a [String]; 2], weights: &'a [f32]) -> Map<'a> {
    Map { name: name.to_owned(), heads, rows: tokens[0], columns: tokens[1], weights }
}

fn page() -> AttentionPage {
    AttentionPage::new("source text", "target text")
}

#[test]
fn maps_that_do_not_fit_are_errors() {
    let (two, many) = (labels(2, "t"), labels(1025, "t"));
    let (two, many) = (two.as_slice(), many.as_slice());
    let add = |name: &str, heads, rows, weights: &[f32]| {
        let error = page().map(map(name, heads, [rows, two], weights)).unwrap_err();
        assert!(error.to_string().contains("\n  help: ") && error.to_string().contains(name), "{error}");
        error
    };
    assert!(matches!(add("enc.0.cross", 1, two, &[0.0; 4]), Error::MapName { .. }));
    let shape = add("enc.0.self", 3, two, &[0.0; 4]);
    assert!(matches!(shape, Error::MapShape { weights: 4, heads: 3, rows: 2, columns: 2, .. }));
    assert!(matches!(add("enc.0.self", 0, two, &[]), Error::MapEmpty { heads: 0, .. }));
    assert!(matches!(add("enc.0.self", usize::MAX, two, &[0.0; 4]), Error::MapShape { .. }));
    assert!(matches!(add("dec.0.self", 1, many, &[0.0; 2050]), Error::MapTooLong { rows: 1025, .. }));
    let weight = add("dec.0.self", 2, two, &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, f32::INFINITY, 0.0]);
    assert!(matches!(weight, Error::Weight { head: 1, row: 1, column: 0, .. }));
    let twice = page().map(map("dec.0.self", 1, [two, two], &[0.0; 4])).unwrap();
    let twice = twice.map(map("dec.0.self", 1, [two, two], &[0.0; 4])).unwrap_err();
    assert_eq!(twice, Error::MapTwice { name: "dec.0.self".to_owned() });
    assert_eq!(page().to_html().unwrap_err(), Error::NoMap);
}

#[test]
fn a_page_has_its_limit() {
    let tokens = labels(1024, "");
    let weights = vec![0.0; 12 << 20];
    let page = page().map(map("enc.0.self", 12, [&tokens, &tokens], &weights)).unwrap();
    let error = page.map(map("enc.1.self", 12, [&tokens, &tokens], &weights)).unwrap_err();
    assert!(matches!(error, Error::PageTooLarge { weights: 25_165_824, .. }));
}

/// Six layers of eight heads in each of three kinds, on 40 x 40 tokens.
#[test]
fn a_base_model_fits_into_a_megabyte() {
    let (source, target) = (labels(40, "source"), labels(40, "target"));
    let weights: Vec<f32> = (0..8 * 40 * 40).map(|n| (n % 997) as f32 / 997.0).collect();
    let mut page = page();
    for layer in 0..6 {
        for (kind, rows, columns) in
            [("enc.*.self", &source, &source), ("dec.*.self", &target, &target), ("dec.*.cross", &target, &source)]
        {
            page = page.map(map(&kind.replace('*', &layer.to_string()), 8, [rows, columns], &weights)).unwrap();
        }
    }
    let html = page.to_html().unwrap();
    assert!(html.len() < 700_000, "{} bytes", html.len());
    assert_eq!(html.matches("source39").count(), 1, "tokens are written once");
}

#[test]
fn text_stays_text() {
    let evil = "</script><script>alert('x')</script>\"&\u{2028}\n{{data}}<!--";
    let tokens = vec![evil.to_owned()];
    let html = AttentionPage::new(evil, evil).map(map("enc.0.self", 1, [&tokens, &tokens], &[1.0])).unwrap();
    let html = html.to_html().unwrap();
    assert_eq!(html.matches("<script").count(), 2, "the data and the script");
    assert_eq!(html.matches("</script").count(), 2);
    assert!(!html.contains("<!--"));
    assert_eq!(html.matches("\"maps\":").count(), 1, "a field's text is no frame");
    let data = html.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
    assert!(!data.contains(['<', '>', '&', '\u{2028}']));
}

#[test]
fn nothing_is_asked_for() {
    let tokens = labels(1, "t");
    let html = page().map(map("enc.0.self", 1, [&tokens, &tokens], &[1.0])).unwrap().to_html().unwrap();
    for address in ["http:", "https:", "//cdn", "url(", "@import", " src="] {
        assert!(!html.contains(address), "{address}");
    }
    assert!(html.contains("content=\"default-src 'none'; script-src 'sha256-"));
    assert!(!html.contains("unsafe-"));
    assert!(!html.contains(" style=") && !html.contains(" onclick="), "the policy would refuse these");
}

#[test]
fn every_field_of_the_frame_is_filled_and_ends_where_it_should() {
    let fields = ["policy", "title", "source", "target", "data", "style", "script"];
    let named: Vec<&str> = FRAME.split("{{").skip(1).filter_map(|part| part.split("}}").next()).collect();
    assert!(named.iter().all(|name| fields.contains(name)) && named.len() == fields.len(), "{named:?}");
    assert!(!SCRIPT.contains("</script") && !SCRIPT.contains("<!--") && !STYLE.contains("</style"));
}

#[test]
fn equal_maps_give_equal_bytes_in_any_order() {
    let (two, three) = (labels(2, "t"), labels(3, "s"));
    let (two, three) = (two.as_slice(), three.as_slice());
    let cross = || map("dec.0.cross", 1, [two, three], &[0.5; 6]);
    let own = || map("enc.0.self", 1, [three, three], &[0.25; 9]);
    let one = page().map(cross()).unwrap().map(own()).unwrap();
    let other = page().map(own()).unwrap().map(cross()).unwrap();
    assert_eq!(one.to_html(), other.to_html());
}
