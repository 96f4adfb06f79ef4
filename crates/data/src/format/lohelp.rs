//! Help pages of LibreOffice: one folder per language with the same pages, in which the same paragraph has the same id.
//! The alignment is the translators' own and not a guess.
//!
//! A page is one document. A paragraph whose id one side lacks, or has more often than the other, is dropped. Some pages
//! embed parts of others, and where that failed they say so in both languages: give [`BROKEN_EMBEDDING`] to
//! [`FilterConfig::unwanted`](crate::FilterConfig::unwanted).

mod page;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use crate::lines::read_bounded;
use crate::pair::{At, Found, Pairs, Place, RawPair};
use crate::{Error, Reason, Result};
use page::Page;

/// What stands where a page could not embed another.
pub const BROKEN_EMBEDDING: &str = " not found]";

/// Bytes of the largest page that is read; LibreOffice's own stay below 1 MB.
const PAGE_LIMIT: u64 = 1 << 24;

/// Pairs of the paragraphs of two languages' pages, such as `help/en-US` and `help/de`. Pages are taken from the folder
/// `text` where there is one, and read in the order of their paths.
///
/// # Errors
///
/// [`Error::NotAFolder`], [`Error::NoPages`] where the folder of the source has no `.html` file; in the iterator, what
/// stops a page from being read.
///
/// ```no_run
/// use attentia_data::format::lohelp;
///
/// let help = std::path::Path::new("/usr/share/libreoffice/help");
/// let pairs = lohelp(help.join("en-US"), help.join("de"))?.sentences();
/// # Ok::<(), attentia_data::Error>(())
/// ```
pub fn lohelp(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<Pairs> {
    let (source, target) = (text_folder(source.as_ref())?, text_folder(target.as_ref())?);
    let mut names = Vec::new();
    collect(&source, "", &mut names)?;
    if names.is_empty() {
        return Err(Error::NoPages { path: source });
    }
    names.sort_unstable();
    let mut names = names.into_iter();
    let mut ready = VecDeque::new();
    let mut step = move || -> Result<Option<Found>> {
        loop {
            if let Some(found) = ready.pop_front() {
                return Ok(Some(found));
            }
            let Some(name) = names.next() else { return Ok(None) };
            ready.extend(page_pairs(&source.join(&name), &target.join(&name), &name)?);
        }
    };
    Ok(Pairs::of(std::iter::from_fn(move || step().transpose())))
}

fn text_folder(folder: &Path) -> Result<PathBuf> {
    if !folder.is_dir() {
        return Err(Error::NotAFolder { path: folder.to_owned() });
    }
    let text = folder.join("text");
    Ok(if text.is_dir() { text } else { folder.to_owned() })
}

/// Adds the names of all pages below `folder`, with `/` between folders. Links to folders are not followed: they may
/// lead in a circle.
fn collect(folder: &Path, prefix: &str, names: &mut Vec<String>) -> Result<()> {
    let refuse = |source| attentia_file::Error::Read { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().map_err(refuse)?.is_dir() {
            collect(&entry.path(), &format!("{name}/"), names)?;
        } else if name.ends_with(".html") {
            names.push(name);
        }
    }
    Ok(())
}

fn page_pairs(source: &Path, target: &Path, name: &str) -> Result<Vec<Found>> {
    let place = Place { file: source.into(), at: At::File };
    if !target.is_file() {
        return Ok(vec![Found::Dropped(Reason::Unaligned, place, String::new())]);
    }
    let (source, target) = match (read(source)?, read(target)?) {
        (Ok(source), Ok(target)) => (source, target),
        (Err(reason), _) | (_, Err(reason)) => return Ok(vec![Found::Dropped(reason, place, String::new())]),
    };
    let mut found = Vec::new();
    let mut translations = target.by_id();
    for (id, texts) in source.paragraphs() {
        let place = Place { file: place.file.clone(), at: At::Id(id.to_owned()) };
        let others = translations.remove(id).unwrap_or_default();
        if texts.len() != others.len() {
            found.push(Found::Dropped(Reason::Unaligned, place, texts.concat()));
            continue;
        }
        let pair = |(source, target): (&String, String)| {
            let document = Some(name.to_owned());
            Found::Pair(RawPair { source: source.clone(), target, document, place: place.clone() })
        };
        found.extend(texts.iter().zip(others).map(pair));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Result<Page, Reason>> {
    let Some(bytes) = read_bounded(path, PAGE_LIMIT)? else { return Ok(Err(Reason::Length)) };
    Ok(std::str::from_utf8(&bytes).map(Page::parse).map_err(|_| Reason::Encoding))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    fn page(body: &str) -> Vec<u8> {
        let page = format!(
            "\u{feff}<!DOCTYPE html>\r\n<html><head><title>No &amp; no</title></head><body><p id=\"menu\">Menu</p>\
             <div id=\"DisplayArea\">{body}</div><div id=\"SearchFrame\"><p id=\"search\">Find</p></div></body></html>"
        );
        page.into_bytes()
    }

    fn read(folder: &Folder) -> (Vec<[String; 3]>, Pairs) {
        let mut pairs = lohelp(folder.path("en"), folder.path("de")).unwrap();
        let read = pairs.by_ref().map(|pair| pair.unwrap());
        let read = read.map(|pair| [pair.source, pair.target, pair.document.unwrap()]).collect();
        (read, pairs)
    }

    #[test]
    fn pages_are_joined_on_path_and_id() {
        let folder = Folder::new("lohelp");
        let english = "<h1 id=\"t\">Title</h1><p id=\"a\">One.</p><p id=\"a\">Two.</p><p id=\"only\">English</p>";
        let german = "<p id=\"a\">Eins.</p><h1 id=\"t\">Titel</h1><p id=\"a\">Zwei.</p><p id=\"more\">Mehr</p>";
        folder.write("en/text/b/x.html", &page(english));
        folder.write("de/text/b/x.html", &page(german));
        folder.write("en/text/a.html", &page("<p id=\"a\">First</p><p id=\"b\">x</p>"));
        folder.write("de/text/a.html", &page("<p id=\"a\">Erste</p><p id=\"b\">y</p><p id=\"b\">z</p>"));
        folder.write("en/text/alone.html", &page("<p id=\"a\">Alone</p>"));
        folder.write("en/text/bad.html", b"<p id=\"a\">\xff</p>");
        folder.write("de/text/bad.html", &page("<p id=\"a\">Gut</p>"));
        folder.write("en/text/style.css", b"p {}");
        let (read, pairs) = read(&folder);
        let expected = [
            ["First", "Erste", "a.html"],
            ["Title", "Titel", "b/x.html"],
            ["One.", "Eins.", "b/x.html"],
            ["Two.", "Zwei.", "b/x.html"],
        ];
        assert_eq!(read, expected);
        let dropped = pairs.dropped();
        assert_eq!((dropped.count(Reason::Unaligned), dropped.count(Reason::Encoding)), (3, 1), "{dropped}");
    }

    #[test]
    fn folders_that_are_none() {
        let folder = Folder::new("lohelp-none");
        let file = folder.write("en/a.txt", b"");
        assert!(matches!(lohelp(&file, folder.path("")), Err(Error::NotAFolder { .. })));
        assert!(matches!(lohelp(folder.path("none"), folder.path("")), Err(Error::NotAFolder { .. })));
        assert!(matches!(lohelp(folder.path("en"), folder.path("")), Err(Error::NoPages { .. })));
        folder.write("en/empty.html", b"");
        folder.write("empty.html", b"");
        assert_eq!(lohelp(folder.path("en"), folder.path("")).unwrap().count(), 0);
    }
}
