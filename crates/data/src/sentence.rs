//! Paragraphs to sentences, for languages that end a sentence with `.`, `!` or `?` and begin one with a capital.
//!
//! ```text
//! boundary   after . ! ?  and perhaps a closing quote or bracket, white space, perhaps an opening one, a capital
//! exception  the full stop belongs to an abbreviation, a number or a single letter
//! ```
//!
//! A pair is cut only where both sides have equally many sentences. Otherwise it stays whole: which sentence belongs to
//! which would be a guess.

use crate::text::is_space;

/// What a full stop follows without ending a sentence, in lower case; numbers and single letters come on top. Spaced
/// forms as `z. B.` end in a single letter and need no line here, but for those that don't.
const ABBREVIATIONS: [&str; 45] = [
    "e.g", "i.e", "etc", "vs", "approx", "resp", "no", "nos", "fig", "incl", "excl", "max", "min", "st", "mr", "mrs",
    "dr", "z.b", "d.h", "u.a", "u.u", "o.ä", "o. ä", "o.a", "s.o", "s.u", "i.d.r", "i. d.r", "bzw", "usw", "ggf",
    "evtl", "ca", "nr", "inkl", "exkl", "abb", "vgl", "sog", "ggfs", "allg", "bspw", "entspr", "engl", "zzgl",
];

/// The sentences of a text, without white space around them.
pub(crate) fn sentences(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while let Some(boundary) = next_boundary(text, at) {
        at = boundary.next;
        if !ends_in_abbreviation(&text[start..boundary.stop]) {
            parts.push(text[start..boundary.end].trim());
            start = boundary.next;
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

/// The sentences of two texts side by side, or both texts whole when their numbers differ.
pub(crate) fn sentence_pairs(source: &str, target: &str) -> Vec<(String, String)> {
    let (sources, targets) = (sentences(source), sentences(target));
    if sources.len() != targets.len() {
        return vec![(source.to_owned(), target.to_owned())];
    }
    sources.into_iter().zip(targets).map(|(source, target)| (source.to_owned(), target.to_owned())).collect()
}

/// Byte positions: behind the stop, behind the closing quote, at the next sentence.
struct Boundary {
    stop: usize,
    end: usize,
    next: usize,
}

fn next_boundary(text: &str, from: usize) -> Option<Boundary> {
    let stops = text[from..].match_indices(['.', '!', '?']);
    stops.map(|(at, _)| from + at + 1).find_map(|stop| {
        let rest = &text[stop..];
        let closed = rest.strip_prefix(['"', '”', '“', '»', ')']).unwrap_or(rest);
        let next = closed.trim_start_matches(is_space);
        let opened = next.strip_prefix(['"', '„', '“', '«', '(']).unwrap_or(next);
        let found = next.len() < closed.len() && opened.starts_with(|c| matches!(c, 'A'..='Z' | 'Ä' | 'Ö' | 'Ü'));
        found.then(|| Boundary { stop, end: text.len() - closed.len(), next: text.len() - next.len() })
    })
}

/// `head` ends with the mark that might end a sentence.
fn ends_in_abbreviation(head: &str) -> bool {
    let Some(head) = head.strip_suffix('.') else { return false };
    let starts = |before: &str| {
        before.is_empty() || before.ends_with(|c: char| is_space(c) || matches!(c, '(' | '"' | '„' | '“'))
    };
    let number = head.trim_end_matches(|c: char| c.is_ascii_digit());
    if number.len() < head.len() && starts(number) {
        return true;
    }
    if head.strip_suffix(|c: char| c.is_ascii_alphabetic()).is_some_and(starts) {
        return true;
    }
    // No abbreviation of the list is longer than eight characters.
    let tail = head.char_indices().rev().take(9).last().map_or("", |(at, _)| &head[at..]).to_lowercase();
    ABBREVIATIONS.iter().any(|known| tail.strip_suffix(known).is_some_and(starts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_are_cut_where_a_sentence_ends() {
        let cases: [(&str, &[&str]); 13] = [
            ("", &[]),
            ("One. Two! Three? Four", &["One.", "Two!", "Three?", "Four"]),
            ("Say \"Never.\" Then go.", &["Say \"Never.\"", "Then go."]),
            ("See e.g. Chapter 2. It helps.", &["See e.g. Chapter 2. It helps."]),
            ("Das ist z. B. Text. Und z.B. Wort.", &["Das ist z. B. Text.", "Und z.B. Wort."]),
            ("Am 3. Mai. Ende.", &["Am 3. Mai.", "Ende."]),
            ("Only ½. The rest.", &["Only ½.", "The rest."]),
            ("no capital. here", &["no capital. here"]),
            ("Ohne Abstand.Hier", &["Ohne Abstand.Hier"]),
            ("Er ging (o. Ä. Wege). „Über uns“ kam.", &["Er ging (o. Ä. Wege).", "„Über uns“ kam."]),
            ("Unnr. Das trennt. Nr. Eins nicht.", &["Unnr.", "Das trennt.", "Nr. Eins nicht."]),
            ("Plan B. Next", &["Plan B. Next"]),
            ("Mit einem sehr langen Wort allgemein. Dann.", &["Mit einem sehr langen Wort allgemein.", "Dann."]),
        ];
        for (text, expected) in cases {
            assert_eq!(sentences(text), expected, "{text:?}");
        }
    }

    #[test]
    fn pairs_are_cut_only_where_both_sides_agree() {
        let own = |s: &str, t: &str| (s.to_owned(), t.to_owned());
        assert_eq!(sentence_pairs("One. Two.", "Eins. Zwei."), [own("One.", "Eins."), own("Two.", "Zwei.")]);
        assert_eq!(sentence_pairs("One. Two.", "Eins, zwei."), [own("One. Two.", "Eins, zwei.")]);
    }

    proptest! {
        #[test]
        fn no_character_is_lost(text in "([a-zA-ZÄä„“\"().!?] ?){0,60}") {
            let plain = |text: &str| text.split_whitespace().collect::<String>();
            prop_assert_eq!(plain(&sentences(&text).concat()), plain(&text));
        }
    }
}
