//! Text in SVG: escaped, and measured without a font.

/// Escapes what XML reserves, and replaces what XML 1.0 can't carry at all (control characters) by U+FFFD.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            control if control.is_control() => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

/// Upper bound of the width of a text in a sans-serif font, in units of its size. The viewer's font is not known,
/// so each class of characters counts with the widest of DejaVu Sans, Verdana and Liberation Sans. Bold letters are
/// wider by [`BOLD`] at most.
pub(crate) fn width(text: &str) -> f64 {
    text.chars().map(advance).sum()
}

pub(crate) const BOLD: f64 = 1.15;

fn advance(c: char) -> f64 {
    match c {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '|' => 0.40,
        'f' | 't' | 'r' | 'I' | ' ' | '(' | ')' | '[' | ']' | '/' | '\\' | '"' | '-' | '!' => 0.46,
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '…' | '—' | '▁' => 1.08,
        'A'..='Z' | '&' | '+' | '=' | '<' | '>' | '~' | '#' | '^' | '_' => 0.84,
        ' '..='~' => 0.66,
        'Æ' | 'æ' | 'Œ' | 'œ' | 'Ŵ' | '©' | '®' | '¼' | '½' | '¾' => 1.16,
        'Љ' | 'Њ' | 'Ж' | 'Ш' | 'Щ' | 'Ы' | 'Ю' => 1.16,
        'Ħ' | 'ŵ' | 'ŉ' | 'ω' | 'ώ' | 'ж' | 'м' | 'ф' | 'ш' | 'щ' | 'ы' | 'ю' | 'љ' | 'њ' => 0.97,
        '¬' | '±' | '×' | '÷' => 0.88,
        '\0'..='\u{2ff}' | 'Ͱ'..='ӿ' if c.is_uppercase() => 0.89,
        '\0'..='\u{2ff}' | 'Ͱ'..='ӿ' => 0.72,
        '‰' | '‱' => 1.90,
        // Ideographs, symbols and emoji fill a square or a little more.
        _ => 1.25,
    }
}

/// A text no wider than `limit` units, cut with an ellipsis where it is longer.
pub(crate) fn fit(text: &str, limit: f64) -> String {
    if width(text) <= limit {
        return text.to_owned();
    }
    let mut room = limit - advance('…');
    let mut out = String::new();
    for c in text.chars() {
        room -= advance(c);
        if room < 0.0 {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

/// A number short enough for a legend and exact enough for a tooltip: four significant digits.
pub(crate) fn number(x: f64) -> String {
    if x.is_nan() {
        return "NaN".to_owned();
    }
    let size = x.abs();
    if size != 0.0 && !(1e-3..1e5).contains(&size) {
        return if size.is_infinite() {
            format!("{}∞", if x < 0.0 { "−" } else { "" })
        } else {
            format!("{x:.3e}")
        };
    }
    let digits = if size >= 1000.0 {
        1
    } else if size >= 100.0 {
        2
    } else if size >= 10.0 {
        3
    } else {
        4
    };
    let text = format!("{x:.digits$}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_markup_and_replaces_what_xml_forbids() {
        assert_eq!(escape("<a href=\"x\">&'\u{0}\u{1b}"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;\u{fffd}\u{fffd}");
        assert_eq!(escape("Größe 日本 🎈"), "Größe 日本 🎈");
    }

    #[test]
    fn fits_by_cutting_at_the_end() {
        assert_eq!(fit("short", 10.0), "short");
        let cut = fit("a very long label that nobody reads", 6.0);
        assert!(cut.starts_with("a very") && cut.ends_with('…') && width(&cut) <= 6.0, "{cut}");
        assert_eq!(fit("abc", 0.0), "…");
    }

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (0.25, "0.25"),
            (0.123_456, "0.1235"),
            (-12.5, "-12.5"),
            (1234.56, "1234.6"),
            (1e-9, "1.000e-9"),
            (3.5e7, "3.500e7"),
            (f64::NEG_INFINITY, "−∞"),
            (f64::NAN, "NaN"),
            (99_999.0, "99999"),
            (-0.001, "-0.001"),
            (100.0, "100"),
        ];
        for (x, text) in cases {
            assert_eq!(number(x), text);
        }
    }
}
