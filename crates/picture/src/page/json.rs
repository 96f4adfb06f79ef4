//! JSON that may stand inside a `<script>` element.

/// A string in quotes. Besides what JSON reserves, `<`, `>` and `&` are written as numbers, so that no text ends the
/// element or opens a comment in it; and so are control characters and the two line ends that only JavaScript knows.
pub(super) fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            control if control.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

pub(super) fn array(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

/// One entry a line: a page is read by people too.
pub(super) fn object(entries: &[(&str, String)]) -> String {
    let entries: Vec<String> = entries.iter().map(|(name, value)| format!("{}:{value}", string(name))).collect();
    format!("{{{}}}", entries.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_leaves_its_string() {
        let text = string("</script><!--\"\\'&\u{2028}\u{2029}\n\u{0}\u{7f}ß▁🎈");
        assert_eq!(text, "\"\\u003c/script\\u003e\\u003c!--\\\"\\\\'\\u0026\\u2028\\u2029\\u000a\\u0000\\u007fß▁🎈\"");
    }

    #[test]
    fn nests() {
        let inner = array(["1".to_owned(), string("a")].into_iter());
        assert_eq!(object(&[("x", inner), ("y", "2".to_owned())]), "{\"x\":[1,\"a\"],\n\"y\":2}");
    }
}
