//! Two text files whose lines belong together, as the translation system Moses reads them and most corpora are
//! published.

use std::path::Path;

use crate::lines::{Line, Lines};
use crate::pair::{Found, Pairs, RawPair};
use crate::{Error, Result};

/// Pairs of the lines of two files.
///
/// # Errors
///
/// When a file cannot be opened; in the iterator, [`Error::UnequalLines`] where a file has more lines than the other,
/// [`Error::EmptyFile`] and [`Error::Unreadable`].
///
/// ```
/// # let folder = std::env::temp_dir();
/// # let path = |end: &str| folder.join(format!("attentia-moses-{}.{end}", std::process::id()));
/// # std::fs::write(path("en"), "Yes.\nNo.\n").unwrap();
/// # std::fs::write(path("de"), "Ja.\nNein.\n").unwrap();
/// for pair in attentia_data::format::moses(path("en"), path("de"))? {
///     let pair = pair?;
///     println!("{}: {} -> {}", pair.place, pair.source, pair.target);
/// }
/// # std::fs::remove_file(path("en")).unwrap();
/// # std::fs::remove_file(path("de")).unwrap();
/// # Ok::<(), attentia_data::Error>(())
/// ```
pub fn moses(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<Pairs> {
    let (mut source, mut target) = (Lines::open(source)?, Lines::open(target)?);
    Ok(Pairs::of(std::iter::from_fn(move || step(&mut source, &mut target).transpose())))
}

fn step(source: &mut Lines, target: &mut Lines) -> Result<Option<Found>> {
    let lines = (source.next()?, target.next()?);
    match lines {
        (Some(line), Some(translation)) => Ok(Some(found(source, line, translation))),
        (None, None) if source.number() == 0 => Err(Error::EmptyFile { path: source.path().to_path_buf() }),
        (None, None) => Ok(None),
        _ => Err(Error::UnequalLines {
            source_lines: source.count_all()?,
            target_lines: target.count_all()?,
            source_file: source.path().to_path_buf(),
            target_file: target.path().to_path_buf(),
        }),
    }
}

fn found(lines: &Lines, source: Line, target: Line) -> Found {
    let place = lines.place();
    match (source, target) {
        (Ok(source), Ok(target)) => Found::Pair(RawPair { source, target, document: None, place }),
        (Err(reason), other) | (other, Err(reason)) => Found::Dropped(reason, place, other.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reason;
    use crate::testing::{Folder, gzip};

    fn read(folder: &Folder, source: &[u8], target: &[u8]) -> (Vec<(String, String)>, Pairs, Option<Error>) {
        let mut pairs = moses(folder.write("a", source), folder.write("b", target)).unwrap();
        let mut read = Vec::new();
        for pair in pairs.by_ref() {
            match pair {
                Ok(pair) => read.push((pair.source, pair.target)),
                Err(error) => return (read, pairs, Some(error)),
            }
        }
        (read, pairs, None)
    }

    #[test]
    fn lines_that_cannot_be_read_leave_the_others_in_step() {
        let folder = Folder::new("moses");
        let long = "x".repeat(10_000_000);
        let source = [b"\xef\xbb\xbfone\r\n\xffbad\nthree\n\nfive\n", long.as_bytes(), b"\nseven"].concat();
        let (read, pairs, error) = read(&folder, &source, "eins\nzwei\ndrei\nvier\n\nsechs\nsieben\n".as_bytes());
        let own = |pair: (&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
        assert_eq!(read, [own(("one", "eins")), own(("three", "drei")), own(("seven", "sieben"))]);
        assert!(error.is_none());
        let dropped = pairs.dropped();
        let counts = [Reason::Encoding, Reason::Empty, Reason::Length].map(|reason| dropped.count(reason));
        assert_eq!(counts, [1, 2, 1]);
        assert!(dropped.reasons[&Reason::Encoding].place.ends_with("a:2"), "{dropped}");
    }

    #[test]
    fn unequal_files_are_named_with_their_counts() {
        let folder = Folder::new("moses-unequal");
        for (source, target, counts) in [("a\nb\nc\n", "x\n", [3, 1]), ("", "x\ny", [0, 2]), ("a", "", [1, 0])] {
            let (_, _, error) = read(&folder, source.as_bytes(), target.as_bytes());
            let text = error.as_ref().map(Error::to_string).unwrap_or_default();
            match error {
                Some(Error::UnequalLines { source_lines, target_lines, source_file, target_file }) => {
                    assert_eq!([source_lines, target_lines], counts);
                    assert!(source_file.ends_with("a") && target_file.ends_with("b"));
                }
                other => panic!("{other:?}"),
            }
            assert!(text.contains("help: "), "{text}");
        }
    }

    #[test]
    fn empty_files_folders_and_compressed_files() {
        let folder = Folder::new("moses-odd");
        assert!(matches!(read(&folder, b"", b"").2, Some(Error::EmptyFile { .. })));
        assert!(matches!(moses(folder.path(""), folder.path("a")), Err(Error::NotAFile { .. })));
        assert!(matches!(moses(folder.path("a"), folder.path("none")), Err(Error::File(_))));
        let packed = folder.write("c.gz", &gzip(b"packed\n"));
        let pairs = moses(packed, folder.write("d", b"gepackt")).unwrap();
        assert_eq!(pairs.map(|pair| pair.unwrap().target).collect::<Vec<_>>(), ["gepackt"]);
    }
}
