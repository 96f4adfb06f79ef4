//! The forms in which corpus tools and scores compare texts: what white space is, when two texts count as the same.

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// White space as Python's `str.split` has it: four more control characters than Unicode's property.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// NFC, single spaces, no control characters: a text that fits a column of a file with tabs.
pub(crate) fn tidy(text: String) -> String {
    if is_tidy(&text) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut space = false;
    for c in text.nfc() {
        if is_space(c) {
            space = !out.is_empty();
        } else if !c.is_control() {
            if space {
                out.push(' ');
            }
            space = false;
            out.push(c);
        }
    }
    out
}

fn is_tidy(text: &str) -> bool {
    // A text that starts with a space is not tidy, so the character before the first counts as one.
    let mut last = ' ';
    for c in text.chars() {
        if c.is_control() || (is_space(c) && (c != ' ' || last == ' ')) {
            return false;
        }
        last = c;
    }
    (text.is_empty() || last != ' ') && (text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes)
}

/// A tidy text without the space that something between a word and a comma or a full stop leaves when it goes.
pub(crate) fn close_gaps(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    let mut last = ' ';
    while let Some(c) = rest.next() {
        let mut behind = rest.clone();
        let is_gap = c == ' '
            && (last.is_alphanumeric() || last == '_')
            && matches!(behind.next(), Some('.' | ',' | ';'))
            && matches!(behind.next(), None | Some(' '));
        if !is_gap {
            out.push(c);
        }
        last = c;
    }
    out
}

/// The form in which two sources count as the same sentence: lower case, letters only, single spaces.
///
/// ```
/// assert_eq!(attentia_data::normal_form("Click  [File], then 2 times «OK»!"), "click file then times ok");
/// ```
pub fn normal_form(text: &str) -> String {
    let mut form = String::with_capacity(text.len());
    form.extend(normal_characters(text));
    form
}

/// [`normal_form`], letter by letter: two texts that differ do so early.
pub(crate) fn normal_characters(text: &str) -> impl Iterator<Item = char> {
    let mut lower = text.chars().flat_map(char::to_lowercase);
    let (mut begun, mut gap, mut held) = (false, false, None);
    std::iter::from_fn(move || {
        if let Some(letter) = held.take() {
            return Some(letter);
        }
        loop {
            let c = lower.next()?;
            if !c.is_alphabetic() {
                gap = true;
            } else if std::mem::take(&mut gap) && begun {
                held = Some(c);
                return Some(' ');
            } else {
                begun = true;
                return Some(c);
            }
        }
    })
}

/// Characters that format and have no glyph of their own (Unicode's category Cf): soft hyphens, joiners, marks of
/// direction.
pub(crate) fn is_format(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
        | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
        | '\u{2066}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}'
        | '\u{e0020}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tidy_texts() {
        let cases = [
            ("  a\t b\r\n", "a b"),
            ("a\u{1}b \u{2} c", "ab c"),
            ("a\u{1c}b\u{a0}c", "a b c"),
            ("u\u{308}ber", "über"),
            ("\u{2003}", ""),
            ("a\u{200d}b", "a\u{200d}b"),
        ];
        for (text, expected) in cases {
            assert_eq!(tidy(text.to_owned()), expected, "{text:?}");
        }
    }

    #[test]
    fn gaps_are_closed_behind_words() {
        for (text, expected) in [("no , space ;but . here", "no, space ;but. here"), ("( , ) .", "( , ) ."), ("", "")] {
            assert_eq!(close_gaps(text), expected, "{text:?}");
        }
    }

    #[test]
    fn normal_forms() {
        for (text, expected) in [("", ""), ("3,5 %", ""), ("Don't", "don t"), ("ÄÖ_ß2x", "äö ß x"), ("你好。", "你好")]
        {
            assert_eq!(normal_form(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn tidying_twice_changes_nothing(text in any::<String>()) {
            let once = tidy(text);
            prop_assert!(!once.contains(['\t', '\n', '\r']) && !once.contains("  "));
            prop_assert_eq!(tidy(once.clone()), once);
        }

        #[test]
        fn the_normal_form_of_a_normal_form_is_itself(text in "[ -~äöüßéЖ中0-9]{0,40}") {
            let once = normal_form(&text);
            prop_assert_eq!(normal_form(&once), once);
        }
    }
}
