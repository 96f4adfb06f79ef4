//! What catalogues of GNU gettext have in common: messages with their plural forms, and marks in them that are for
//! programs and not for readers.

mod accelerator;
pub(super) mod mo;
pub(super) mod po;

use crate::pair::{Found, Place, RawPair};
use crate::{Error, Reason};
use accelerator::without_accelerators;

/// Forms of one message on both sides: the singular first.
struct Message {
    source: Vec<String>,
    target: Vec<String>,
    document: Option<String>,
    place: Place,
    /// `%%` stands for a percent sign.
    is_format: bool,
}

impl Message {
    /// Form by form where both languages have equally many; else their last forms, which both use for large numbers.
    fn pairs(self) -> Vec<Found> {
        let Self { mut source, mut target, document, place, is_format } = self;
        if target.iter().all(String::is_empty) {
            return vec![Found::Dropped(Reason::Untranslated, place, source.swap_remove(0))];
        }
        if source.len() != target.len() {
            source.drain(..source.len().saturating_sub(1));
            target.drain(..target.len().saturating_sub(1));
        }
        let pair = |(source, target): (String, String)| {
            let (mut source, mut target) = without_accelerators(source, target);
            if is_format {
                (source, target) = (source.replace("%%", "%"), target.replace("%%", "%"));
            }
            Found::Pair(RawPair { source, target, document: document.clone(), place: place.clone() })
        };
        source.into_iter().zip(target).map(pair).collect()
    }
}

/// A header may name an encoding that is not UTF-8; then most of the file would seem damaged.
fn check_charset(header: &str, place: &Place) -> Result<(), Error> {
    let lower = header.to_ascii_lowercase();
    let Some((_, charset)) = lower.split_once("charset=") else { return Ok(()) };
    let charset = charset.split(|c: char| c.is_whitespace() || c == ';').next().unwrap_or_default();
    // `CHARSET` stands in templates that nobody has filled in.
    if ["", "utf-8", "utf8", "ascii", "us-ascii", "charset"].contains(&charset) {
        return Ok(());
    }
    Err(Error::Malformed {
        place: place.to_string(),
        cause: format!("the header says charset={charset}, and only UTF-8 is read"),
        help: "convert the catalogue with msgconv --to-code=UTF-8",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::At;
    use std::path::Path;

    fn pairs(source: &[&str], target: &[&str], is_format: bool) -> Vec<[String; 2]> {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let place = Place { file: Path::new("x").into(), at: At::File };
        let message = Message { source: own(source), target: own(target), document: None, place, is_format };
        let pair = |found| match found {
            Found::Pair(pair) => [pair.source, pair.target],
            Found::Dropped(reason, ..) => [reason.name().to_owned(), String::new()],
        };
        message.pairs().into_iter().map(pair).collect()
    }

    #[test]
    fn plural_forms_meet_their_like() {
        assert_eq!(pairs(&["a", "b"], &["x", "y"], false), [["a", "x"], ["b", "y"]]);
        assert_eq!(pairs(&["a", "b"], &["x", "y", "z"], false), [["b", "z"]]);
        assert_eq!(pairs(&["a", "b"], &["x"], false), [["b", "x"]]);
        assert_eq!(pairs(&["a", "b"], &["", ""], false), [["untranslated", ""]]);
    }

    #[test]
    fn percent_signs_of_formats_are_one() {
        assert_eq!(pairs(&["5%% of %s"], &["%2$d%% von %1$s"], true), [["5% of %s", "%2$d% von %1$s"]]);
        assert_eq!(pairs(&["5%%"], &["5%%"], false), [["5%%", "5%%"]]);
    }

    #[test]
    fn charsets() {
        let place = Place { file: Path::new("x.po").into(), at: At::Line(1) };
        for header in ["", "Content-Type: text/plain; charset=UTF-8\n", "charset=CHARSET\n", "charset=us-ascii; x"] {
            assert!(check_charset(header, &place).is_ok(), "{header:?}");
        }
        let error = check_charset("Content-Type: text/plain; charset=ISO-8859-1\n", &place).unwrap_err();
        assert!(error.to_string().contains("iso-8859-1"), "{error}");
    }
}
