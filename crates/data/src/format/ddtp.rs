//! Descriptions of Debian's packages and their translations, by the Debian Description Translation Project: what apt
//! fetches as `Translation-en` and `Translation-de` (`main/i18n` of a mirror; unpack them with `lz4cat` or `xzcat`).
//!
//! ```text
//! Package: 0ad-data
//! Description-md5: 26581e685027d5ae84824362a4ba59ee      of the original: the same in every language
//! Description-de: Echtzeit-Strategiespiel (Datendateien)  the synopsis, a unit
//!  0 A.D. ist ein freies,                                 lines of a paragraph, a unit
//!  quelloffenes Spiel.
//!  .                                                      between paragraphs
//!   * eine Aufzählung, deren                              a bullet with its lines, a unit
//!     Zeilen eingerückt sind
//! ```
//!
//! A description and its translation are paired unit by unit where they have the same units, and by their synopsis
//! alone where they have not. Packages that are named alike up to their first hyphen are one document: `0ad` and
//! `0ad-data` are described in the same words.
//!
//! Memory holds the original descriptions that the translations ask for by their checksum, a part of one file.

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use crate::lines::Lines;
use crate::pair::{Found, Pairs, Place, RawPair};
use crate::{Error, Reason, Result};

/// Pairs of an original `Translation-en`, or another language, and a translation.
///
/// # Errors
///
/// When a file cannot be opened; [`Error::EmptyFile`], [`Error::Unreadable`], and [`Error::Malformed`] for a line that
/// belongs to no stanza. The translation is read once for its checksums and the original to its end before the first
/// pair.
///
/// ```no_run
/// use attentia_data::format::ddtp;
///
/// let pairs = ddtp("Translation-en", "Translation-de")?;
/// # Ok::<(), attentia_data::Error>(())
/// ```
pub fn ddtp(original: impl AsRef<Path>, translation: impl AsRef<Path>) -> Result<Pairs> {
    let translation = translation.as_ref();
    let mut wanted: HashMap<String, Option<Vec<Unit>>> = HashMap::new();
    let mut asking = Stanzas::open(translation)?;
    while let Some(stanza) = asking.next()? {
        // A stanza without a checksum is of no original.
        if !stanza.md5.is_empty() {
            wanted.insert(stanza.md5, None);
        }
    }
    let mut answering = Stanzas::open(original.as_ref())?;
    while let Some(stanza) = answering.next()? {
        if let Some(place) = wanted.get_mut(&stanza.md5).filter(|_| stanza.bad.is_none()) {
            *place = Some(stanza.units);
        }
    }
    let mut stanzas = Stanzas::open(translation)?;
    let mut ready = VecDeque::new();
    let mut step = move || -> Result<Option<Found>> {
        loop {
            if let Some(found) = ready.pop_front() {
                return Ok(Some(found));
            }
            let Some(stanza) = stanzas.next()? else { return Ok(None) };
            ready.extend(pair(stanza, &wanted));
        }
    };
    Ok(Pairs::of(std::iter::from_fn(move || step().transpose())))
}

fn pair(translation: Stanza, originals: &HashMap<String, Option<Vec<Unit>>>) -> Vec<Found> {
    let Stanza { package, md5, units, place, bad } = translation;
    if let Some(reason) = bad {
        return vec![Found::Dropped(reason, place, package)];
    }
    let Some(original) = originals.get(&md5).and_then(Option::as_ref) else {
        return vec![Found::Dropped(Reason::Unaligned, place, package)];
    };
    let document = package.split('-').next().map(str::to_owned);
    let kinds = |units: &[Unit]| units.iter().map(|unit| unit.bullet).collect::<Vec<_>>();
    let alike = kinds(original) == kinds(&units);
    let paired = if alike { units.len() } else { 1 };
    let mut found: Vec<Found> = original
        .iter()
        .zip(&units)
        .take(paired)
        .map(|(source, target)| {
            let (source, target) = (source.text.clone(), target.text.clone());
            Found::Pair(RawPair { source, target, document: document.clone(), place: place.clone() })
        })
        .collect();
    if !alike {
        found.push(Found::Dropped(Reason::Unaligned, place, package));
    }
    found
}

/// A synopsis, a paragraph or a bullet.
struct Unit {
    text: String,
    bullet: bool,
}

struct Stanza {
    package: String,
    md5: String,
    /// The synopsis first.
    units: Vec<Unit>,
    place: Place,
    /// Why a line of it could not be read.
    bad: Option<Reason>,
}

/// Reads a stanza at a time.
struct Stanzas {
    lines: Lines,
}

impl Stanzas {
    fn open(path: &Path) -> Result<Stanzas> {
        Ok(Stanzas { lines: Lines::open(path)? })
    }

    fn next(&mut self) -> Result<Option<Stanza>> {
        let mut stanza: Option<Stanza> = None;
        // Whether the next line of the text begins a unit.
        let mut between = true;
        loop {
            let line = match self.lines.next()? {
                Some(Ok(line)) => line,
                Some(Err(reason)) => {
                    let place = self.lines.place();
                    stanza.get_or_insert_with(|| Stanza::new(place)).bad = Some(reason);
                    continue;
                }
                None if self.lines.number() == 0 => {
                    return Err(Error::EmptyFile { path: self.lines.path().to_path_buf() });
                }
                None => return Ok(stanza),
            };
            if line.trim().is_empty() {
                match stanza {
                    Some(stanza) => return Ok(Some(stanza)),
                    None => continue,
                }
            }
            let place = self.lines.place();
            if let Some(text) = line.strip_prefix([' ', '\t']) {
                let Some(stanza) = &mut stanza else { return Err(self.malformed("a text in front of any field")) };
                between = stanza.text(text, between);
                continue;
            }
            let Some((field, value)) = line.split_once(':') else {
                return Err(self.malformed("neither a field, as in Package: name, nor a text behind a space"));
            };
            let stanza = stanza.get_or_insert_with(|| Stanza::new(place));
            let value = value.trim();
            match field {
                "Package" => stanza.package = value.to_owned(),
                "Description-md5" => stanza.md5 = value.to_owned(),
                _ if field.starts_with("Description") => {
                    stanza.units = vec![Unit { text: value.to_owned(), bullet: false }];
                    between = true;
                }
                _ => {}
            }
        }
    }

    fn malformed(&self, cause: &str) -> Error {
        let help = "stanzas of Package, Description-md5 and Description-<language>, with an empty line between them";
        Error::Malformed { place: self.lines.place().to_string(), cause: cause.to_owned(), help }
    }
}

/// What a bullet begins with, and a space.
const BULLETS: [char; 5] = ['*', '-', '+', 'o', '•'];

impl Stanza {
    fn new(place: Place) -> Stanza {
        Stanza { package: String::new(), md5: String::new(), units: Vec::new(), place, bad: None }
    }

    /// Takes a line of the long description, without the space in front of it. Returns whether the next begins a unit.
    fn text(&mut self, line: &str, between: bool) -> bool {
        let text = line.trim();
        if text == "." {
            return true;
        }
        let item = text.strip_prefix(BULLETS).and_then(|rest| rest.strip_prefix(' '));
        let indented = line.starts_with([' ', '\t']);
        match (item, self.units.last_mut()) {
            (Some(item), _) => self.units.push(Unit { text: item.trim().to_owned(), bullet: true }),
            (None, Some(last)) if !between && (last.bullet || !indented) => {
                last.text.push(' ');
                last.text.push_str(text);
            }
            // An indented line outside a bullet stands as it is, and is no part of what is around it.
            _ => self.units.push(Unit { text: text.to_owned(), bullet: false }),
        }
        indented && item.is_none() && !self.units.last().is_some_and(|unit| unit.bullet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    const ENGLISH: &str = "\
Package: game
Description-md5: 1
Description-en: fast game
 It is a game
 for everybody.
 .
 It has:
  * a wolf, which
    howls
  - trees

Package: game-data
Description-md5: 2
Description-en: fast game (data)
 Pictures.
 .
 Sounds.

Package: unwanted
Description-md5: 9
Description-en: nobody translated this
";

    const GERMAN: &str = "\
Package: game
Description-md5: 1
Description-de: schnelles Spiel
 Es ist ein Spiel für alle.
 .
 Darin:
  * ein Wolf, der heult
  - Bäume

Package: game-data
Description-md5: 2
Description-de: schnelles Spiel (Daten)
 Bilder und Klänge.

Package: gone
Description-md5: 3
Description-de: längst entfernt
";

    #[test]
    fn descriptions_are_joined_by_checksum_and_paired_by_unit() {
        let folder = Folder::new("ddtp");
        let (en, de) = (folder.write("en", ENGLISH.as_bytes()), folder.write("de", GERMAN.as_bytes()));
        let mut pairs = ddtp(en, &de).unwrap();
        let read: Vec<_> = pairs.by_ref().map(|pair| pair.unwrap()).collect();
        let texts: Vec<_> = read.iter().map(|pair| (&*pair.source, &*pair.target)).collect();
        assert_eq!(
            texts,
            [
                ("fast game", "schnelles Spiel"),
                ("It is a game for everybody.", "Es ist ein Spiel für alle."),
                ("It has:", "Darin:"),
                ("a wolf, which howls", "ein Wolf, der heult"),
                ("trees", "Bäume"),
                ("fast game (data)", "schnelles Spiel (Daten)"),
            ]
        );
        assert!(read.iter().all(|pair| pair.document.as_deref() == Some("game")));
        assert_eq!(read[5].place.to_string(), format!("{}:10", de.display()));
        // Other units, and no original.
        assert_eq!(pairs.dropped().count(Reason::Unaligned), 2);
    }

    #[test]
    fn what_is_no_such_file_is_an_error_with_its_line() {
        let folder = Folder::new("ddtp-bad");
        let good = folder.write("en", ENGLISH.as_bytes());
        for (text, part) in [(" text\n", "bad:1"), ("Package: x\nno field\n", "bad:2"), ("", "empty")] {
            let bad = folder.write("bad", text.as_bytes());
            let error = ddtp(&good, &bad).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("bad") && error.contains(part), "{error}");
        }
        // Nothing is paired with what could not be read, nor without a checksum.
        let torn =
            folder.write("torn", b"Package: game\nDescription-md5: 1\nDescription-en: fast game\n \xff\n It has:\n");
        let bare = folder.write("bare", b"Package: a\nDescription-en: one\n\nPackage: b\nDescription-de: zwei\n");
        let german = folder.write("de", GERMAN.as_bytes());
        for (english, german) in [(&torn, &german), (&bare, &bare)] {
            let mut pairs = ddtp(english, german).unwrap();
            assert!(pairs.by_ref().next().is_none() && pairs.dropped().count(Reason::Unaligned) >= 2);
        }
        let broken = folder.write("broken", b"Package: x\nDescription-md5: 1\nDescription-de: \xff\n");
        let mut pairs = ddtp(&good, &broken).unwrap();
        assert!(pairs.by_ref().next().is_none());
        assert_eq!(pairs.dropped().count(Reason::Encoding), 1);
    }
}
