//! Pairs of a text and its translation on their way from a file: one at a time, with the place that each comes from.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::sentence::sentence_pairs;
use crate::text::tidy;
use crate::{Reason, Report, Result};

/// A text and its translation as a file has them: not filtered yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawPair {
    /// The text.
    pub source: String,
    /// Its translation.
    pub target: String,
    /// What it belongs to, such as a page or a dictionary entry: splits never part a document.
    pub document: Option<String>,
    /// Where it stands.
    pub place: Place,
}

/// Where a pair stands: `help.html, id hd_1` or `train.en:12`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file, of the source side where there are two.
    pub file: Arc<Path>,
    /// The place inside it.
    pub at: At,
}

/// A place inside a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum At {
    /// Of a text file, counted from 1.
    Line(u64),
    /// Of a catalogue, counted from 1.
    Entry(u64),
    /// Of an element of a page.
    Id(String),
    /// The whole file.
    File,
}

impl Place {
    pub(crate) fn line(file: &Arc<Path>, number: u64) -> Self {
        Self { file: file.clone(), at: At::Line(number) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match &self.at {
            At::Line(number) => write!(f, "{file}:{number}"),
            At::Entry(number) => write!(f, "{file}, entry {number}"),
            At::Id(id) => write!(f, "{file}, id {id}"),
            At::File => write!(f, "{file}"),
        }
    }
}

/// What a reader meets.
pub(crate) enum Found {
    Pair(RawPair),
    /// Something that is no pair, with the text that there is.
    Dropped(Reason, Place, String),
}

type Stream = Box<dyn Iterator<Item = Result<Found>> + Send>;

/// An iterator of pairs that reads as it goes. Texts come in Unicode's form NFC, with single spaces and without control
/// characters; what a reader could not use is counted in [`dropped`](Self::dropped). After an error comes nothing.
///
/// ```
/// use attentia_data::{At, Pairs, Place, RawPair};
///
/// let pair = |number, source: &str, target: &str| {
///     let place = Place { file: std::path::Path::new("phrases").into(), at: At::Line(number) };
///     Ok(RawPair { source: source.into(), target: target.into(), document: None, place })
/// };
/// let pairs = vec![pair(1, "Stop.  Go.", "Halt. Los."), pair(2, "", "Leer.")];
/// let mut pairs = Pairs::new(pairs.into_iter()).sentences();
/// assert_eq!(pairs.next().transpose()?.unwrap().source, "Stop.");
/// assert_eq!(pairs.next().transpose()?.unwrap().target, "Los.");
/// assert!(pairs.next().is_none() && pairs.dropped().dropped() == 1);
/// # Ok::<(), attentia_data::Error>(())
/// ```
pub struct Pairs {
    stream: Stream,
    cut: bool,
    ready: VecDeque<RawPair>,
    report: Report,
    done: bool,
}

impl Pairs {
    /// Pairs of any other origin.
    pub fn new(pairs: impl Iterator<Item = Result<RawPair>> + Send + 'static) -> Self {
        Self::of(pairs.map(|pair| pair.map(Found::Pair)))
    }

    pub(crate) fn of(stream: impl Iterator<Item = Result<Found>> + Send + 'static) -> Self {
        let stream = Box::new(stream);
        Self { stream, cut: false, ready: VecDeque::new(), report: Report::default(), done: false }
    }

    /// Readers one after the other; each is opened when its turn comes, so that thousands of files need one handle.
    ///
    /// ```no_run
    /// use attentia_data::{Pairs, format};
    ///
    /// let catalogues = ["a.po", "b.po"];
    /// let pairs = Pairs::concat(catalogues.into_iter().map(format::po));
    /// # let _ = pairs;
    /// ```
    pub fn concat(mut readers: impl Iterator<Item = Result<Self>> + Send + 'static) -> Self {
        let mut open: Option<Self> = None;
        Self::of(std::iter::from_fn(move || {
            loop {
                if let Some(found) = open.as_mut().and_then(Self::found) {
                    return Some(found);
                }
                match readers.next()? {
                    Ok(reader) => open = Some(reader),
                    Err(error) => return Some(Err(error)),
                }
            }
        }))
    }

    /// Cuts both sides into sentences where they have equally many, and leaves the others whole. For languages that
    /// end a sentence with `.`, `!` or `?` and begin one with a capital; abbreviations of English and German are known.
    #[must_use]
    pub fn sentences(mut self) -> Self {
        self.cut = true;
        self
    }

    /// Ends the reading with [`Error::Stopped`](crate::Error::Stopped) once `stop` says so.
    #[must_use]
    pub fn until(mut self, stop: impl Fn() -> bool + Send + 'static) -> Self {
        let found = std::mem::replace(&mut self.stream, Box::new(std::iter::empty()));
        self.stream = Box::new(found.map(move |found| if stop() { Err(crate::Error::Stopped) } else { found }));
        self
    }

    /// What the reader has dropped so far, by reason.
    pub fn dropped(&self) -> &Report {
        &self.report
    }

    fn found(&mut self) -> Option<Result<Found>> {
        if let Some(pair) = self.ready.pop_front() {
            return Some(Ok(Found::Pair(pair)));
        }
        if self.done {
            return None;
        }
        let pair = match self.stream.next() {
            Some(Ok(Found::Pair(pair))) => pair,
            Some(Err(error)) => {
                self.done = true;
                return Some(Err(error));
            }
            other => {
                self.done = other.is_none();
                return other;
            }
        };
        let RawPair { source, target, document, place } = pair;
        let (source, target) = (tidy(source), tidy(target));
        if source.is_empty() || target.is_empty() {
            return Some(Ok(Found::Dropped(Reason::Empty, place, source + &target)));
        }
        if self.cut {
            let whole = |(source, target)| RawPair { source, target, document: document.clone(), place: place.clone() };
            self.ready.extend(sentence_pairs(&source, &target).into_iter().map(whole));
            return self.found();
        }
        Some(Ok(Found::Pair(RawPair { source, target, document, place })))
    }
}

impl Iterator for Pairs {
    type Item = Result<RawPair>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.found()? {
                Ok(Found::Pair(pair)) => return Some(Ok(pair)),
                Ok(Found::Dropped(reason, place, text)) => self.report.drop(reason, &place, &text),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pairs").field("sentences", &self.cut).field("dropped", &self.report).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn pair(source: &str, target: &str) -> Result<RawPair> {
        let place = Place { file: Path::new("x").into(), at: At::File };
        Ok(RawPair { source: source.to_owned(), target: target.to_owned(), document: None, place })
    }

    #[test]
    fn nothing_follows_an_error() {
        let items = vec![pair("a", "b"), Err(Error::NothingToScore), pair("c", "d")];
        let mut pairs = Pairs::new(items.into_iter());
        assert!(pairs.next().is_some_and(|pair| pair.is_ok()));
        assert!(pairs.next().is_some_and(|pair| pair.is_err()));
        assert!(pairs.next().is_none() && pairs.next().is_none());
    }

    #[test]
    fn readers_in_a_row_keep_their_counts() {
        let reader = |last: &str| Ok(Pairs::new(vec![pair("a", "b"), pair("", "leer"), pair(last, "d")].into_iter()));
        let mut pairs = Pairs::concat(vec![reader("x"), reader("y"), Err(Error::NothingToScore)].into_iter());
        let sources: Vec<_> = pairs.by_ref().map_while(|pair| pair.ok()).map(|pair| pair.source).collect();
        assert_eq!(sources, ["a", "x", "a", "y"]);
        assert_eq!(pairs.dropped().dropped(), 2);
        assert!(pairs.next().is_none(), "the error was the last");
    }

    #[test]
    fn places_are_written_as_editors_read_them() {
        let place = |at| Place { file: Path::new("a.po").into(), at }.to_string();
        assert_eq!(place(At::Line(3)), "a.po:3");
        assert_eq!(place(At::Entry(3)), "a.po, entry 3");
        assert_eq!(place(At::Id("h1".to_owned())), "a.po, id h1");
        assert_eq!(place(At::File), "a.po");
    }
}
