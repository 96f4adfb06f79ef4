//! Lines of a text file, one in memory at a time: plain or gzip, with or without a byte order mark, a carriage return
//! or a final newline. A line that is no UTF-8 or longer than [`LINE_LIMIT`] doesn't end the reading.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use crate::pair::{Found, Place};
use crate::{Error, Reason, Result};

/// Bytes of the longest line that is read. What is longer is no sentence, whatever it is.
pub(crate) const LINE_LIMIT: usize = 1 << 20;

/// Size of a buffer for reading, in bytes.
const BUFFER: usize = 1 << 16;

pub(crate) struct Lines {
    path: Arc<Path>,
    reader: Box<dyn BufRead + Send>,
    number: u64,
    buffer: Vec<u8>,
}

/// A line, or why it could not be read.
pub(crate) type Line = std::result::Result<String, Reason>;

impl Lines {
    /// A name that ends in `.gz` says that the file is compressed.
    pub(crate) fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = BufReader::with_capacity(BUFFER, open(path)?);
        let packed = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
        let reader: Box<dyn BufRead + Send> =
            if packed { Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(file))) } else { Box::new(file) };
        Ok(Self { path: path.into(), reader, number: 0, buffer: Vec::new() })
    }

    /// The number of the line that was read last, counted from 1; 0 before the first.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn path(&self) -> &Arc<Path> {
        &self.path
    }

    pub(crate) fn place(&self) -> Place {
        Place::line(&self.path, self.number)
    }

    pub(crate) fn next(&mut self) -> Result<Option<Line>> {
        self.buffer.clear();
        // A carriage return and a newline fit on top.
        let most = LINE_LIMIT + 2;
        let unreadable =
            |number: u64, source| Error::Unreadable { path: self.path.to_path_buf(), line: number, source };
        let read = self.reader.by_ref().take(most as u64).read_until(b'\n', &mut self.buffer);
        if read.map_err(|source| unreadable(self.number + 1, source))? == 0 {
            return Ok(None);
        }
        self.number += 1;
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
        } else if self.buffer.len() == most {
            self.reader.skip_until(b'\n').map_err(|source| unreadable(self.number, source))?;
        }
        let mut text = self.buffer.strip_suffix(b"\r").unwrap_or(&self.buffer);
        if self.number == 1 {
            text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
        }
        if text.len() > LINE_LIMIT {
            return Ok(Some(Err(Reason::Length)));
        }
        Ok(Some(std::str::from_utf8(text).map(str::to_owned).map_err(|_| Reason::Encoding)))
    }

    /// Reads to the end and says how many lines there are in all.
    pub(crate) fn count_all(&mut self) -> Result<u64> {
        while self.next()?.is_some() {}
        Ok(self.number)
    }

    /// Pairs of a file in which each line stands for itself; a file without a line is an error.
    pub(crate) fn each(
        mut self,
        mut parse: impl FnMut(String, Place) -> Vec<Found> + Send + 'static,
    ) -> impl Iterator<Item = Result<Found>> + Send + 'static {
        let mut ready = VecDeque::new();
        let mut step = move || -> Result<Option<Found>> {
            loop {
                if let Some(found) = ready.pop_front() {
                    return Ok(Some(found));
                }
                match self.next()? {
                    Some(Ok(line)) => ready.extend(parse(line, self.place())),
                    Some(Err(reason)) => return Ok(Some(Found::Dropped(reason, self.place(), String::new()))),
                    None if self.number == 0 => return Err(Error::EmptyFile { path: self.path.to_path_buf() }),
                    None => return Ok(None),
                }
            }
        };
        std::iter::from_fn(move || step().transpose())
    }
}

/// Opens a file for reading; a folder is an error at once and not at the first byte.
pub(crate) fn open(path: &Path) -> Result<File> {
    if path.is_dir() {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    let refuse = |source| attentia_file::Error::Read { path: path.to_owned(), source };
    Ok(File::open(path).map_err(refuse)?)
}

/// All bytes of a file, or nothing where it is larger than `limit`.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let refuse = |source| attentia_file::Error::Read { path: path.to_owned(), source };
    let read = open(path)?.take(limit + 1).read_to_end(&mut bytes).map_err(refuse)?;
    Ok((read as u64 <= limit).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Folder, gzip};

    fn lines(folder: &Folder, name: &str) -> Result<Vec<Line>> {
        let mut lines = Lines::open(folder.path(name))?;
        std::iter::from_fn(|| lines.next().transpose()).collect()
    }

    #[test]
    fn line_ends_marks_and_bad_bytes() {
        let folder = Folder::new("lines");
        let long = vec![b'x'; LINE_LIMIT];
        folder.write("a", b"\xef\xbb\xbfone\r\ntwo\n\n\xff\xfe\nlast");
        folder.write("b", &[&long[..], b"\r\nnext\n", &long, b"y\nend\n", &long.repeat(10), b"\n."].concat());
        folder.write("c.gz", &[gzip(b"one\ntw"), gzip(b"o\n")].concat());
        let text = |text: &str| Ok(text.to_owned());
        let a = [text("one"), text("two"), text(""), Err(Reason::Encoding), text("last")];
        assert_eq!(lines(&folder, "a").unwrap(), a);
        let b = lines(&folder, "b").unwrap();
        assert_eq!(b[0].as_ref().map(String::len), Ok(LINE_LIMIT));
        assert_eq!(b[1..], [text("next"), Err(Reason::Length), text("end"), Err(Reason::Length), text(".")]);
        assert_eq!(lines(&folder, "c.gz").unwrap(), [text("one"), text("two")]);
    }

    #[test]
    fn what_is_no_file_and_what_is_cut_off() {
        let folder = Folder::new("lines-bad");
        folder.write("plain.gz", b"no gzip at all");
        let whole = gzip("eine Zeile und noch eine\n".repeat(100).as_bytes());
        folder.write("cut.gz", &whole[..whole.len() - 9]);
        folder.write("nothing.gz", b"");
        assert!(matches!(Lines::open(folder.path("")), Err(Error::NotAFile { .. })));
        assert!(matches!(Lines::open(folder.path("none")), Err(Error::File(_))));
        for name in ["plain.gz", "cut.gz", "nothing.gz"] {
            let error = lines(&folder, name).unwrap_err();
            assert!(matches!(error, Error::Unreadable { .. }) && error.to_string().contains(name), "{error}");
        }
        assert_eq!(read_bounded(&folder.path("plain.gz"), 13).unwrap(), None);
        assert_eq!(read_bounded(&folder.path("plain.gz"), 14).unwrap().unwrap().len(), 14);
    }
}
