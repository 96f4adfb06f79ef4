//! Catalogues as programs read them: compiled, with tables of lengths and offsets.
//!
//! ```text
//! 0   magic 0x950412de, in the byte order of all numbers (u32)
//! 4   revision: major in the upper half, 0 or 1
//! 8   number of messages N
//! 12  offset of the table of originals:    N times (length, offset)
//! 16  offset of the table of translations: N times (length, offset)
//!     texts, each with a NUL behind; an original is  context EOT singular NUL plural,  a translation  form NUL form ..
//! ```
//!
//! Source: the GNU gettext manual, "The Format of GNU MO Files". No number of the file is trusted: each table and each
//! text is checked against its length.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::{Message, check_charset};
use crate::lines::read_bounded;
use crate::pair::{At, Found, Pairs, Place};
use crate::{Error, Reason, Result};

/// Bytes of the largest catalogue that is read: it is in memory as a whole. Large programs have 2 MB.
const FILE_LIMIT: u64 = 1 << 26;

/// Pairs of a `.mo` file whose message ids are the text of the source language, as most programs have it.
///
/// # Errors
///
/// When the file cannot be opened, or is no catalogue ([`Error::Malformed`]); in the iterator, [`Error::Malformed`] for
/// an entry that lies outside the file.
///
/// ```no_run
/// let pairs = attentia_data::format::mo("/usr/share/locale/de/LC_MESSAGES/tar.mo")?;
/// # Ok::<(), attentia_data::Error>(())
/// ```
pub fn mo(path: impl AsRef<Path>) -> Result<Pairs> {
    let catalogue = Catalogue::open(path.as_ref())?;
    let entries = 0..catalogue.entries;
    Ok(Pairs::of(entries.flat_map(move |number| of_entry(&catalogue, number).unwrap_or_else(|error| vec![Err(error)]))))
}

fn of_entry(catalogue: &Catalogue, number: u32) -> Result<Vec<Result<Found>>> {
    let place = catalogue.place(number);
    let (original, translation) = (catalogue.original(number)?, catalogue.translation(number)?);
    if original.is_empty() {
        check_charset(&String::from_utf8_lossy(translation), &place)?;
        return Ok(Vec::new());
    }
    Ok(message(id_of(original), translation, place).into_iter().map(Ok).collect())
}

/// Pairs of two `.mo` files that translate the same message ids into the source and the target language; for programs
/// whose ids are no text.
///
/// # Errors
///
/// Those of [`mo`].
///
/// ```no_run
/// let folder = std::path::Path::new("/usr/share/locale");
/// let file = |language: &str| folder.join(language).join("LC_MESSAGES/tar.mo");
/// let french_german = attentia_data::format::mo_pair(file("fr"), file("de"))?;
/// # Ok::<(), attentia_data::Error>(())
/// ```
pub fn mo_pair(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<Pairs> {
    let (source, target) = (Catalogue::open(source.as_ref())?, Catalogue::open(target.as_ref())?);
    let mut of_original = HashMap::new();
    for number in 0..target.entries {
        of_original.insert(key(target.original(number)?).to_vec(), number);
    }
    let entries = 0..source.entries;
    let pairs = move |number| -> Result<Vec<Result<Found>>> {
        let place = source.place(number);
        let (original, text) = (source.original(number)?, source.translation(number)?);
        if original.is_empty() {
            check_charset(&String::from_utf8_lossy(text), &place)?;
            return Ok(Vec::new());
        }
        let Some(other) = of_original.get(key(original)) else {
            let id = String::from_utf8_lossy(id_of(original)).into_owned();
            return Ok(vec![Ok(Found::Dropped(Reason::Unaligned, place, id))]);
        };
        Ok(message(text, target.translation(*other)?, place).into_iter().map(Ok).collect())
    };
    Ok(Pairs::of(entries.flat_map(move |number| pairs(number).unwrap_or_else(|error| vec![Err(error)]))))
}

/// What two languages' entries are joined on: context and singular.
fn key(original: &[u8]) -> &[u8] {
    original.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// An original without its context.
fn id_of(original: &[u8]) -> &[u8] {
    original.iter().position(|byte| *byte == 4).map_or(original, |context| &original[context + 1..])
}

fn message(source: &[u8], target: &[u8], place: Place) -> Vec<Found> {
    let forms = |bytes: &[u8]| -> Option<Vec<String>> {
        bytes.split(|byte| *byte == 0).map(|form| String::from_utf8(form.to_vec()).ok()).collect()
    };
    match (forms(source), forms(target)) {
        (Some(source), Some(target)) => Message { source, target, document: None, place, is_format: false }.pairs(),
        (source, _) => vec![Found::Dropped(Reason::Encoding, place, source.unwrap_or_default().concat())],
    }
}

struct Catalogue {
    path: Arc<Path>,
    bytes: Vec<u8>,
    big_endian: bool,
    entries: u32,
    originals: u32,
    translations: u32,
}

impl Catalogue {
    fn open(path: &Path) -> Result<Self> {
        let malformed = |cause: String| Error::Malformed {
            place: path.display().to_string(),
            cause,
            help: "is it a compiled catalogue (.mo)? make it again with msgfmt",
        };
        let bytes = read_bounded(path, FILE_LIMIT)?
            .ok_or_else(|| malformed(format!("larger than {} MiB, the most that is read", FILE_LIMIT >> 20)))?;
        if bytes.is_empty() {
            return Err(Error::EmptyFile { path: path.to_owned() });
        }
        let big_endian = match bytes.first_chunk() {
            Some([0xde, 0x12, 0x04, 0x95]) => false,
            Some([0x95, 0x04, 0x12, 0xde]) => true,
            _ => return Err(malformed("it does not begin as a catalogue does (0x950412de)".to_owned())),
        };
        let mut catalogue = Self { path: path.into(), bytes, big_endian, entries: 0, originals: 0, translations: 0 };
        let header = [4, 8, 12, 16].map(|at| catalogue.number(at));
        let [Some(revision), Some(entries), Some(originals), Some(translations)] = header else {
            return Err(malformed(format!("{} bytes are less than its header", catalogue.bytes.len())));
        };
        if revision >> 16 > 1 {
            return Err(malformed(format!(
                "its format has revision {}, and 1 is the last that is known",
                revision >> 16
            )));
        }
        let end = |table: u32| u64::from(table) + 8 * u64::from(entries);
        if end(originals).max(end(translations)) > catalogue.bytes.len() as u64 {
            let length = catalogue.bytes.len();
            return Err(malformed(format!("its tables of {entries} messages do not fit into its {length} bytes")));
        }
        (catalogue.entries, catalogue.originals, catalogue.translations) = (entries, originals, translations);
        Ok(catalogue)
    }

    fn place(&self, number: u32) -> Place {
        Place { file: self.path.clone(), at: At::Entry(u64::from(number) + 1) }
    }

    fn original(&self, number: u32) -> Result<&[u8]> {
        self.text(self.originals, number)
    }

    fn translation(&self, number: u32) -> Result<&[u8]> {
        self.text(self.translations, number)
    }

    fn text(&self, table: u32, number: u32) -> Result<&[u8]> {
        let at = table as usize + 8 * number as usize;
        let range = self.number(at).zip(self.number(at + 4));
        let range =
            range.and_then(|(length, offset)| Some(offset as usize..(offset as usize).checked_add(length as usize)?));
        range.and_then(|range| self.bytes.get(range)).ok_or_else(|| Error::Malformed {
            place: self.place(number).to_string(),
            cause: format!("its text lies outside the {} bytes of the file", self.bytes.len()),
            help: "the file is cut off or damaged: copy it again, or make it again with msgfmt",
        })
    }

    fn number(&self, at: usize) -> Option<u32> {
        let bytes = *self.bytes.get(at..)?.first_chunk::<4>()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;
    use proptest::prelude::*;

    fn catalogue(entries: &[(&str, &str)], big_endian: bool) -> Vec<u8> {
        let numbers = |numbers: &[u32]| -> Vec<u8> {
            numbers.iter().flat_map(|n| if big_endian { n.to_be_bytes() } else { n.to_le_bytes() }).collect()
        };
        let count = entries.len() as u32;
        let (mut tables, mut texts) = ([Vec::new(), Vec::new()], Vec::new());
        for (original, translation) in entries {
            for (table, text) in tables.iter_mut().zip([original, translation]) {
                table.extend([text.len() as u32, 28 + 16 * count + texts.len() as u32]);
                texts.extend([text.as_bytes(), b"\0"].concat());
            }
        }
        let header = numbers(&[0x9504_12de, 0, count, 28, 28 + 8 * count, 0, 28]);
        [header, numbers(&tables.concat()), texts].concat()
    }

    const GERMAN: [(&str, &str); 5] = [
        ("", "Content-Type: text/plain; charset=UTF-8\n"),
        ("%d file\0%d files", "%d Datei\0%d Dateien"),
        ("Nobody", ""),
        ("Only German", "Nur deutsch"),
        ("menu\u{4}_Open", "Ö_ffnen"),
    ];

    fn all(pairs: Pairs) -> Result<Vec<[String; 2]>> {
        pairs.map(|pair| pair.map(|pair| [pair.source, pair.target])).collect()
    }

    #[test]
    fn both_byte_orders() {
        let folder = Folder::new("mo");
        for big_endian in [false, true] {
            let mut pairs = mo(folder.write("de.mo", &catalogue(&GERMAN, big_endian))).unwrap();
            let read: Vec<_> = pairs.by_ref().map(|pair| pair.unwrap()).collect();
            let texts: Vec<_> = read.iter().map(|pair| [&*pair.source, &*pair.target]).collect();
            let expected = [
                ["%d file", "%d Datei"],
                ["%d files", "%d Dateien"],
                ["Only German", "Nur deutsch"],
                ["Open", "Öffnen"],
            ];
            assert_eq!(texts, expected);
            assert!(read[3].place.to_string().ends_with("de.mo, entry 5"));
            assert_eq!(pairs.dropped().count(Reason::Untranslated), 1);
        }
    }

    #[test]
    fn two_files_are_joined_on_context_and_id() {
        let folder = Folder::new("mo-pair");
        let french =
            [("%d file\0%d files", "%d fichier\0%d fichiers"), ("Open", "Ouvert"), ("menu\u{4}_Open", "_Ouvrir")];
        let french = folder.write("fr.mo", &catalogue(&french, false));
        let german = folder.write("de.mo", &catalogue(&GERMAN, true));
        let mut pairs = mo_pair(french, german).unwrap();
        let read: Vec<_> = pairs.by_ref().map(|pair| pair.unwrap()).map(|pair| [pair.source, pair.target]).collect();
        assert_eq!(read, [["%d fichier", "%d Datei"], ["%d fichiers", "%d Dateien"], ["Ouvrir", "Öffnen"]]);
        assert_eq!(pairs.dropped().count(Reason::Unaligned), 1);
    }

    #[test]
    fn each_cut_is_an_error_that_names_the_file() {
        let folder = Folder::new("mo-cut");
        let whole = catalogue(&GERMAN, false);
        // The last NUL may go: lengths do not count it.
        for length in 0..whole.len() - 1 {
            let path = folder.write("cut.mo", &whole[..length]);
            let error = mo(&path).and_then(all).unwrap_err().to_string();
            assert!(error.contains("cut.mo") && error.contains("help: "), "{length}: {error}");
            assert!(mo_pair(&path, &path).and_then(all).is_err(), "{length}");
        }
        assert!(all(mo(folder.write("whole.mo", &whole)).unwrap()).is_ok());
    }

    #[test]
    fn numbers_of_the_file_are_not_trusted() {
        let folder = Folder::new("mo-numbers");
        for at in (4..28 + 80).step_by(4) {
            for number in [u32::MAX, u32::MAX / 8, 1 << 31, 0x7fff_ffff] {
                let mut bytes = catalogue(&GERMAN, false);
                bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
                let read = mo(folder.write("bad.mo", &bytes)).and_then(all);
                // Bytes 20 to 27 describe a hash table that nobody reads.
                assert_eq!(read.is_ok(), (20..28).contains(&at), "{at} {number}");
            }
        }
    }

    #[test]
    fn what_is_no_catalogue() {
        let folder = Folder::new("mo-none");
        assert!(matches!(mo(folder.path("")), Err(Error::NotAFile { .. })));
        assert!(matches!(mo(folder.write("empty", b"")), Err(Error::EmptyFile { .. })));
        assert!(matches!(mo(folder.write("text", b"msgid \"a\"")), Err(Error::Malformed { .. })));
        let latin = [("", "charset=ISO-8859-1\n"), ("a", "b")];
        assert!(matches!(
            mo(folder.write("l.mo", &catalogue(&latin, false))).and_then(all),
            Err(Error::Malformed { .. })
        ));
        let mut bytes = catalogue(&[("a", "b"), ("c", "d")], false);
        let last = bytes.len() - 2;
        bytes[last] = 0xff;
        let mut pairs = mo(folder.write("utf8.mo", &bytes)).unwrap();
        assert_eq!(pairs.by_ref().filter(|pair| pair.is_ok()).count(), 1);
        assert_eq!(pairs.dropped().count(Reason::Encoding), 1);
    }

    proptest! {
        #[test]
        fn a_flipped_byte_never_panics(at in 0usize..200, value in any::<u8>()) {
            let folder = Folder::new("mo-flip");
            let mut bytes = catalogue(&GERMAN, false);
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = mo(folder.write("flip.mo", &bytes)).and_then(all);
        }
    }
}
