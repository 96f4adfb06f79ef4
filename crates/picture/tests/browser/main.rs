//! Pages in a real browser: what they draw, what they answer, and that they ask for nothing.

mod chromium;

use attentia_picture::{AttentionPage, Chart, Map, Report};
use base64::{Engine, engine::general_purpose::STANDARD};
use chromium::Chromium;
use sha2::{Digest, Sha256};

const HEADS: usize = 4;
const LAYERS: usize = 3;
/// Tokens that would break a page which took them for markup or code.
const SOURCE: [&str; 6] = ["the", "</script>", "\"'\u{2028}", "<img src=x onerror=alert(1)>", "&amp;", "cat"];
const TARGET: [&str; 5] = ["die", "▁Katze", "sehr_langes_Wort_das_niemand_ganz_lesen_will", "\n", "."];

/// A page of three layers whose weights all differ, but for one NaN in `dec.0.self`.
fn page() -> String {
    let tokens = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let (source, target) = (tokens(&SOURCE), tokens(&TARGET));
    let mut page = AttentionPage::new(SOURCE.join(" "), TARGET.join(" "));
    for layer in 0..LAYERS {
        for (name, rows, columns) in [
            (format!("enc.{layer}.self"), &source, &source),
            (format!("dec.{layer}.self"), &target, &target),
            (format!("dec.{layer}.cross"), &target, &source),
        ] {
            let cells = HEADS * rows.len() * columns.len();
            let mut weights: Vec<f32> = (0..cells).map(|n| ((n * 71 + layer * 13) % 127) as f32 / 127.0).collect();
            if name == "dec.0.self" {
                weights[3] = f32::NAN;
            }
            page = page.map(Map { name, heads: HEADS, rows, columns, weights: &weights }).unwrap();
        }
    }
    page.to_html().unwrap()
}

/// A copy whose policy also lets one more script run, at the end of the body.
fn driven(page: &str, driver: &str) -> String {
    let hash = STANDARD.encode(Sha256::digest(driver));
    let page = page.replace("script-src ", &format!("script-src 'sha256-{hash}' "));
    page.replace("</body>", &format!("<script>{driver}</script>\n</body>"))
}

#[test]
fn a_page_asks_for_nothing_and_complains_of_nothing() {
    let Some(chromium) = Chromium::find() else { return };
    let visit = chromium.open("quiet", &page());
    assert_eq!(visit.console, Vec::<String>::new());
    assert_eq!(visit.requests, Vec::<String>::new());
    assert!(visit.dom.contains("<b>dec.2.cross</b><span>mean of heads</span>"), "{}", visit.dom);
    assert!(!visit.dom.contains("<img"));
}

#[test]
fn a_report_asks_for_nothing_and_complains_of_nothing() {
    let Some(chromium) = Chromium::find() else { return };
    let chart = Chart::new(&[1.0, 2.0]).unwrap().title(SOURCE[3]).line(SOURCE[1], &[0.5, 1.0]).unwrap();
    let rows = [vec!["1".to_owned(), SOURCE[3].to_owned()]];
    let report = Report::new(SOURCE[1]).fact("a", SOURCE[3]).chart(chart).table(&["number", "text"], &rows).unwrap();
    let visit = chromium.open("report", &report.to_html());
    assert_eq!(visit.console, Vec::<String>::new());
    assert_eq!(visit.requests, Vec::<String>::new());
    assert!(visit.dom.contains("<circle") && !visit.dom.contains("<img"), "{}", visit.dom);
}

/// What the first test does not see, it would see if it were there.
#[test]
fn a_script_that_was_changed_does_not_run_and_a_request_is_seen() {
    let Some(chromium) = Chromium::find() else { return };
    let changed = page().replace("\"use strict\";", "\"use strict\" ;");
    let visit = chromium.open("changed", &changed);
    assert!(visit.console.iter().any(|line| line.contains("Content Security Policy")), "{:?}", visit.console);
    assert!(!visit.dom.contains("dec.2.cross</b>"));

    let image = "<img src=\"http://127.0.0.1:9/image.png\"></body>";
    let refused = chromium.open("refused", &page().replace("</body>", image));
    assert!(refused.console.iter().any(|line| line.contains("Content Security Policy")), "{:?}", refused.console);
    assert_eq!(refused.requests, Vec::<String>::new());
    let allowed = page().replace("img-src data:", "img-src http:").replace("</body>", image);
    let requests = chromium.open("allowed", &allowed).requests;
    assert!(requests.iter().any(|url| url == "http://127.0.0.1:9/image.png"), "{requests:?}");
}

#[test]
fn buttons_keys_and_pointer_change_what_is_shown() {
    let Some(chromium) = Chromium::find() else { return };
    let visit = chromium.open("driven", &driven(&page(), include_str!("driver.js")));
    assert_eq!(visit.console, Vec::<String>::new());
    assert_eq!(visit.requests, Vec::<String>::new());
    let findings = visit.text_of("<pre id=\"findings\">");
    let all: Vec<(&str, &str)> = findings.lines().filter_map(|line| line.split_once('=')).collect();
    let find = |name: &str| {
        let value = all.iter().find(|(found, _)| *found == name);
        value.unwrap_or_else(|| panic!("no {name} in {findings}")).1
    };

    assert!(find("first").starts_with("dec.2.crossmean of heads|"));
    assert!(find("colors").parse::<usize>().unwrap() > 20, "{findings}");
    assert_eq!(find("thumbnails"), "5", "four heads and their mean, and no two alike");

    // In the order of the driver: what is shown after each step, beside what must be.
    let steps = [
        ("press head 2", "dec.2.crosshead 2"),
        ("press 0", "dec.0.crosshead 2"),
        ("press encoder self", "enc.0.selfhead 2"),
        ("press 1", "enc.0.selfhead 2"),
        ("press cross", "dec.0.crosshead 2"),
        ("press mean of heads", "dec.0.crossmean of heads"),
        ("key ArrowRight", "dec.0.crosshead 0"),
        ("key ArrowRight", "dec.0.crosshead 1"),
        ("key ArrowLeft", "dec.0.crosshead 0"),
        ("key ArrowUp", "dec.1.crosshead 0"),
        ("key ArrowDown", "dec.0.crosshead 0"),
        ("key ArrowDown", "dec.2.crosshead 0"),
        ("key 1", "enc.2.selfhead 0"),
        ("key 2", "dec.2.selfhead 0"),
        ("key 3", "dec.2.crosshead 0"),
        ("key m", "dec.2.crossmean of heads"),
        ("key s", "dec.2.crossmean of heads"),
    ];
    let taken: Vec<_> = all.iter().filter(|(name, _)| name.starts_with("press ") || name.starts_with("key ")).collect();
    let mut before = find("first");
    for ((name, shown), (step, expected)) in taken.iter().zip(steps) {
        assert_eq!(*name, step);
        assert_eq!(shown.split('|').next(), Some(expected), "{step}");
        assert_ne!(*shown, before, "{step} changes the picture");
        before = shown;
    }
    assert_eq!(taken.last().unwrap(), &&("key x", before), "no other key does");
    for (group, pressed) in [("head 2", "head 2"), ("0", "0"), ("encoder self", "encoder self"), ("1", "1")] {
        assert_eq!(find(&format!("pressed {group}")), pressed);
    }

    assert_eq!(find("hovered"), "30", "each of 5 x 6 cells says its weight");
    assert_eq!(find("marks"), "true");
    // Head by head of dec.2.cross, the last cell's weights are ((n * 71 + 26) % 127) / 127.
    let mean: f64 =
        (0..HEADS).map(|head| ((head * 30 + 29) * 71 + 26) % 127).map(|w| w as f64 / 127.0).sum::<f64>() / 4.0;
    assert_eq!(find("hover"), format!(". → cat{mean:.4}"));
    assert!(find("detail").starts_with(". looks at"), "{}", find("detail"));
    assert_eq!(find("left"), "true");
    assert!(find("cell").starts_with("▁Katze → &lt;/script&gt;"), "{}", find("cell"));
    assert_eq!(find("still"), before, "arrows in the map move the cell and not the head");
    assert_eq!(find("escaped"), "true");
    assert!(find("address").starts_with("dec.0.selfhead 1|"));
    assert_eq!(find("labels"), "0", "whatever can be used says what it is");
    assert_eq!((find("resources"), find("faults")), ("0", ""));
}

/// A NaN has its sign, its word and its place in the legend.
#[test]
fn nan_is_shown_as_such() {
    let Some(chromium) = Chromium::find() else { return };
    let driver = r##"location.hash = "#dec.0.self/0"; dispatchEvent(new HashChangeEvent("hashchange"));
        const marks = document.getElementById("marks"); marks.focus();
        for (const key of ["ArrowRight", "ArrowRight", "ArrowRight"])
            marks.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));"##;
    let visit = chromium.open("nan", &driven(&page(), driver));
    assert_eq!(visit.console, Vec::<String>::new());
    assert!(visit.text_of("<div id=\"legend\"").contains("NaN: not a number"));
    assert!(visit.text_of("<output id=\"value\"").contains("<b>NaN</b>"), "{}", visit.dom);
}
