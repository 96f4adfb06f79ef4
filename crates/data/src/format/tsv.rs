//! Columns between tabs. There is no quoting: a quotation mark is a quotation mark.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::lines::Lines;
use crate::pair::{Found, Pairs, RawPair};
use crate::{Error, Reason, Result};

/// Which columns to read, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// The text.
    pub source: usize,
    /// Its translation.
    pub target: usize,
    /// What the pair belongs to, if a column says it.
    pub document: Option<usize>,
}

/// Source and target are the first two columns.
impl Default for Columns {
    fn default() -> Self {
        Self { source: 1, target: 2, document: None }
    }
}

/// Pairs of two columns of a file. Lines that have too few of them are dropped and counted.
///
/// # Errors
///
/// [`Error::Option`] for columns that cannot be; when the file cannot be opened; in the iterator, [`Error::EmptyFile`]
/// and [`Error::Unreadable`].
///
/// ```no_run
/// use attentia_data::format::{Columns, tsv};
///
/// let pairs = tsv("sentences.tsv", Columns { source: 2, target: 4, document: None })?;
/// # Ok::<(), attentia_data::Error>(())
/// ```
pub fn tsv(path: impl AsRef<Path>, columns: Columns) -> Result<Pairs> {
    let Columns { source, target, document } = columns;
    if source == 0 || target == 0 || document == Some(0) {
        return Err(Error::Option { option: "columns", cause: "the first column is 1, there is no 0".to_owned() });
    }
    if source == target {
        let cause = format!("source and target are both column {source}");
        return Err(Error::Option { option: "columns", cause });
    }
    let parse = move |line: String, place| {
        let column = |number: usize| line.split('\t').nth(number - 1).map(str::to_owned);
        let found = match (column(source), column(target), document.map(column)) {
            (Some(source), Some(target), None) => RawPair { source, target, document: None, place },
            (Some(source), Some(target), Some(Some(document))) => {
                RawPair { source, target, document: Some(document), place }
            }
            _ => return vec![Found::Dropped(Reason::Columns, place, line)],
        };
        vec![Found::Pair(found)]
    };
    Ok(Pairs::of(Lines::open(path)?.each(parse)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn columns_are_chosen_by_number() {
        let folder = Folder::new("tsv");
        let text = "\u{feff}1\tone\t0.9\teins\tdoc a\r\n2\ttwo\n\n3\tthree\t\"0.1\"\tdrei\tdoc b";
        let path = folder.write("a.tsv", text.as_bytes());
        let mut pairs = tsv(&path, Columns { source: 4, target: 2, document: Some(5) }).unwrap();
        let read: Vec<_> = pairs.by_ref().map(|pair| pair.unwrap()).collect();
        let [first, second] = &read[..] else { panic!("{read:?}") };
        assert_eq!((&*first.source, &*first.target, first.document.as_deref()), ("eins", "one", Some("doc a")));
        assert_eq!((&*second.source, second.place.to_string()), ("drei", format!("{}:4", path.display())));
        assert_eq!(pairs.dropped().count(Reason::Columns), 2);
        assert_eq!(pairs.dropped().reasons[&Reason::Columns].text, "2 two");
    }

    #[test]
    fn bad_files_and_bad_columns() {
        let folder = Folder::new("tsv-bad");
        let empty = folder.write("empty", b"");
        let columns = Columns::default();
        assert!(matches!(tsv(empty, columns).unwrap().next(), Some(Err(Error::EmptyFile { .. }))));
        assert!(matches!(tsv(folder.path(""), columns), Err(Error::NotAFile { .. })));
        for (source, target, document) in [(0, 1, None), (1, 0, None), (2, 2, None), (1, 2, Some(0))] {
            let error = tsv("any", Columns { source, target, document }).unwrap_err();
            assert!(error.to_string().contains("columns"), "{error}");
        }
        let bad = folder.write("bad", b"a\tb\n\xff\tb\nno tab\n");
        let mut pairs = tsv(bad, columns).unwrap();
        assert_eq!(pairs.by_ref().filter(|pair| pair.is_ok()).count(), 1);
        assert_eq!(pairs.dropped().dropped(), 2);
    }
}
