//! The dictionary file of the program Ding, German-English in its best-known edition.
//!
//! ```text
//! # comment
//! Haus {n}; Gebäude {n} | zu Hause :: house; building | at home
//! ```
//!
//! Both sides have the same number of fields between `|`, and a field holds synonyms between `;`. Notes in `{..}`, `[..]`
//! and `(..)` go. Synonyms are paired in their order where there are equally many, else the first with the first: each
//! of one side translates each of the other. A headword and the phrases of its line are one document.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::lines::Lines;
use crate::pair::{Found, Pairs, Place, RawPair};
use crate::text::close_gaps;
use crate::{Reason, Result};

/// Which side of `::` is the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The left one: German in the German-English file.
    #[default]
    LeftToRight,
    /// The right one.
    RightToLeft,
}

/// Pairs of a dictionary.
///
/// # Errors
///
/// When the file cannot be opened; in the iterator, [`Error::EmptyFile`](crate::Error::EmptyFile) and
/// [`Error::Unreadable`](crate::Error::Unreadable).
///
/// ```no_run
/// use attentia_data::format::{Direction, ding};
///
/// let english_german = ding("/usr/share/trans/de-en", Direction::RightToLeft)?;
/// # Ok::<(), attentia_data::Error>(())
/// ```
pub fn ding(path: impl AsRef<Path>, direction: Direction) -> Result<Pairs> {
    Ok(Pairs::of(Lines::open(path)?.each(move |line, place| entry(&line, &place, direction))))
}

fn entry(line: &str, place: &Place, direction: Direction) -> Vec<Found> {
    if line.starts_with('#') || line.trim().is_empty() {
        return Vec::new();
    }
    let unaligned = || Found::Dropped(Reason::Unaligned, place.clone(), line.to_owned());
    let Some((left, right)) = line.split_once("::") else { return vec![unaligned()] };
    let (left, right) = (without_notes(left), without_notes(right));
    let (lefts, rights): (Vec<_>, Vec<_>) = (left.split('|').collect(), right.split('|').collect());
    if lefts.len() != rights.len() {
        return vec![unaligned()];
    }
    let document = lefts.first().map(|field| synonyms(field).swap_remove(0));
    let mut found = Vec::new();
    for (left, right) in lefts.into_iter().zip(rights) {
        let (mut lefts, mut rights) = (synonyms(left), synonyms(right));
        if lefts.len() != rights.len() {
            lefts.truncate(1);
            rights.truncate(1);
        }
        for (left, right) in lefts.into_iter().zip(rights) {
            let (source, target) = match direction {
                Direction::LeftToRight => (left, right),
                Direction::RightToLeft => (right, left),
            };
            found.push(Found::Pair(RawPair { source, target, document: document.clone(), place: place.clone() }));
        }
    }
    found
}

/// At least one.
fn synonyms(field: &str) -> Vec<String> {
    field.split(';').map(|synonym| close_gaps(&synonym.split_whitespace().collect::<Vec<_>>().join(" "))).collect()
}

/// Drops what stands in brackets, which may be nested. A bracket without its partner is text.
fn without_notes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // Closing bracket and length of `out` before each bracket that is open.
    let mut open: Vec<(char, usize)> = Vec::new();
    for c in text.chars() {
        if let Some(closing) = match c {
            '{' => Some('}'),
            '[' => Some(']'),
            '(' => Some(')'),
            _ => None,
        } {
            open.push((closing, out.len()));
        } else if let Some(depth) = open.iter().rposition(|(closing, _)| *closing == c) {
            out.truncate(open[depth].1);
            open.truncate(depth);
            continue;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::testing::Folder;

    fn read(text: &str, direction: Direction) -> (Vec<[String; 3]>, u64) {
        let folder = Folder::new("ding");
        let mut pairs = ding(folder.write("de-en", text.as_bytes()), direction).unwrap();
        let read = pairs.by_ref().map(|pair| pair.unwrap());
        let read = read.map(|pair| [pair.source, pair.target, pair.document.unwrap()]).collect();
        (read, pairs.dropped().dropped())
    }

    #[test]
    fn fields_and_synonyms_become_pairs() {
        let text = "# Version :: 1.9\n\nHaus {n}; Gebäude {n} [a; b | c] | zu Hause :: house; building | at home; in\n";
        let (pairs, dropped) = read(text, Direction::LeftToRight);
        assert_eq!(
            pairs,
            [["Haus", "house", "Haus"], ["Gebäude", "building", "Haus"], ["zu Hause", "at home", "Haus"]]
        );
        assert_eq!(dropped, 0);
        assert_eq!(read(text, Direction::RightToLeft).0[0], ["house", "Haus", "Haus"]);
    }

    #[test]
    fn lines_without_a_counterpart_are_counted() {
        let gap = read("Haus {n}, groß {adj} :: house , large", Direction::LeftToRight).0;
        assert_eq!(gap, [["Haus, groß", "house, large", "Haus, groß"]]);
        let (pairs, dropped) = read("Wort\na | b :: c\n{note} :: note\nx :: y", Direction::LeftToRight);
        assert_eq!((pairs.len(), dropped), (1, 3));
    }

    #[test]
    fn notes_go_and_lone_brackets_stay() {
        let cases = [("a (b [c] d) e", "a  e"), ("a) b", "a) b"), ("a (b", "a (b"), ("(a [b) c", " c"), ("{a}(b)", "")];
        for (text, expected) in cases {
            assert_eq!(without_notes(text), expected, "{text:?}");
        }
    }

    #[test]
    fn bad_files() {
        let folder = Folder::new("ding-bad");
        let open = |path| ding(path, Direction::LeftToRight);
        assert!(matches!(open(folder.path("")), Err(Error::NotAFile { .. })));
        assert!(matches!(open(folder.write("e", b"")).unwrap().next(), Some(Err(Error::EmptyFile { .. }))));
        let mut pairs = open(folder.write("latin1", b"Stra\xdfe :: street\r\nWeg :: way\r\n")).unwrap();
        assert_eq!(pairs.by_ref().map(|pair| pair.unwrap().target).collect::<Vec<_>>(), ["way"]);
        assert_eq!(pairs.dropped().count(Reason::Encoding), 1);
    }
}
