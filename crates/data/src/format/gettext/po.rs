//! Catalogues as people write them: `msgid "File"`, `msgstr "Datei"`.
//!
//! ```text
//! # comment                     skipped; "#:" names the source file, which becomes the document
//! #, fuzzy, c-format            flags: fuzzy entries are dropped, %% of formats becomes %
//! msgctxt "menu"                skipped: a context says where a text is used, and is no part of it
//! msgid "%d file"
//! msgid_plural "%d files"
//! msgstr[0] "%d Datei"          entries end at an empty line, or where the next one begins
//! msgstr[1] "%d Dateien"
//! #~ msgid "Old"                obsolete: dropped
//! ```
//!
//! Read line by line. A syntax error ends the reading with the number of the line; an entry with bytes that are no
//! UTF-8 is dropped and counted.

use std::collections::VecDeque;
use std::path::Path;

use super::{Message, check_charset};
use crate::lines::{LINE_LIMIT, Lines};
use crate::pair::{Found, Pairs, Place};
use crate::{Error, Reason, Result};

/// Pairs of a `.po` file: `msgid` is the source, `msgstr` the target.
///
/// # Errors
///
/// When the file cannot be opened; in the iterator, [`Error::Malformed`] with the line of a syntax error,
/// [`Error::EmptyFile`] and [`Error::Unreadable`].
///
/// ```
/// # let path = std::env::temp_dir().join(format!("attentia-{}.po", std::process::id()));
/// # std::fs::write(&path, "msgid \"_File\"\nmsgstr \"_Datei\"\n").unwrap();
/// let pairs = attentia_data::format::po(&path)?.collect::<attentia_data::Result<Vec<_>>>()?;
/// assert_eq!((&*pairs[0].source, &*pairs[0].target), ("File", "Datei"));
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<(), attentia_data::Error>(())
/// ```
pub fn po(path: impl AsRef<Path>) -> Result<Pairs> {
    let mut reader = Reader { lines: Lines::open(path)?, entry: Entry::default(), ready: VecDeque::new(), done: false };
    Ok(Pairs::of(std::iter::from_fn(move || reader.step().transpose())))
}

struct Reader {
    lines: Lines,
    entry: Entry,
    ready: VecDeque<Found>,
    done: bool,
}

/// Most plural forms of a language: Arabic has six.
const MOST_FORMS: usize = 16;

#[derive(Default)]
struct Entry {
    place: Option<Place>,
    fuzzy: bool,
    is_format: bool,
    document: Option<String>,
    field: Option<Field>,
    has_context: bool,
    id: Option<String>,
    plural: Option<String>,
    forms: Vec<Option<String>>,
    bad: Option<Reason>,
}

#[derive(Clone, Copy, PartialEq)]
enum Field {
    Context,
    Id,
    Plural,
    Form(usize),
}

impl Reader {
    fn step(&mut self) -> Result<Option<Found>> {
        loop {
            if let Some(found) = self.ready.pop_front() {
                return Ok(Some(found));
            }
            if self.done {
                return Ok(None);
            }
            match self.lines.next()? {
                Some(Ok(line)) => self.line(line.trim())?,
                Some(Err(reason)) => self.entry.bad = Some(reason),
                None if self.lines.number() == 0 => {
                    return Err(Error::EmptyFile { path: self.lines.path().to_path_buf() });
                }
                None => {
                    self.done = true;
                    self.end_entry()?;
                }
            }
        }
    }

    fn line(&mut self, line: &str) -> Result<()> {
        if let Some(comment) = line.strip_prefix('#') {
            return self.comment(comment);
        }
        if line.is_empty() {
            return self.end_entry();
        }
        if line.starts_with('"') {
            let Some(field) = self.entry.field else {
                // The line in front of it was unreadable, and the entry is lost anyway.
                return if self.entry.bad.is_some() { Ok(()) } else { Err(self.wrong("a text without a keyword")) };
            };
            return self.append(field, line);
        }
        let (keyword, text) = line.split_at(line.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(line.len()));
        let field = match keyword {
            "msgctxt" => Field::Context,
            "msgid" => Field::Id,
            "msgid_plural" => Field::Plural,
            "msgstr" => Field::Form(0),
            _ => {
                let number = keyword.strip_prefix("msgstr[").and_then(|rest| rest.strip_suffix(']'));
                let number = number.and_then(|number| number.parse().ok()).filter(|number| *number < MOST_FORMS);
                Field::Form(number.ok_or_else(|| self.wrong("no keyword of a catalogue begins this line"))?)
            }
        };
        if !self.entry.forms.is_empty() && !matches!(field, Field::Form(_)) {
            self.end_entry()?;
        }
        let place = self.lines.place();
        self.entry.place.get_or_insert(place);
        self.entry.field = Some(field);
        self.append(field, text.trim_start())
    }

    fn comment(&mut self, comment: &str) -> Result<()> {
        // A comment belongs to the entry that follows.
        if !self.entry.forms.is_empty() {
            self.end_entry()?;
        }
        if let Some(flags) = comment.strip_prefix(',') {
            for flag in flags.split(',').map(str::trim) {
                self.entry.fuzzy |= flag == "fuzzy";
                self.entry.is_format |= flag.ends_with("-format") && !flag.starts_with("no-");
            }
        } else if let Some(references) = comment.strip_prefix(':') {
            let first = references.split_whitespace().next();
            let file = first.map(|first| first.rsplit_once(':').map_or(first, |(file, _)| file).to_owned());
            self.entry.document = self.entry.document.take().or(file);
        } else if let Some(old) = comment.strip_prefix('~')
            && old.trim_start().strip_prefix("msgid").is_some_and(|rest| !rest.starts_with('_'))
        {
            self.ready.push_back(Found::Dropped(Reason::Obsolete, self.lines.place(), old.trim().to_owned()));
        }
        Ok(())
    }

    /// Adds what stands between quotation marks.
    fn append(&mut self, field: Field, quoted: &str) -> Result<()> {
        let inside = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let Some(text) = inside.and_then(unescaped) else {
            return Err(self.wrong("the text is not between two quotation marks, or a backslash says nothing"));
        };
        let entry = &mut self.entry;
        let slot = match field {
            Field::Context => {
                entry.has_context = true;
                return Ok(());
            }
            Field::Id => entry.id.get_or_insert_default(),
            Field::Plural => entry.plural.get_or_insert_default(),
            Field::Form(number) => {
                let length = entry.forms.len().max(number + 1);
                entry.forms.resize(length, None);
                entry.forms[number].get_or_insert_default()
            }
        };
        if slot.len() + text.len() > LINE_LIMIT {
            entry.bad = Some(Reason::Length);
        } else {
            slot.push_str(&text);
        }
        Ok(())
    }

    fn end_entry(&mut self) -> Result<()> {
        let entry = std::mem::take(&mut self.entry);
        let place = entry.place.unwrap_or_else(|| self.lines.place());
        if let Some(reason) = entry.bad {
            self.ready.push_back(Found::Dropped(reason, place, entry.id.unwrap_or_default()));
            return Ok(());
        }
        let Some(id) = entry.id else { return Ok(()) };
        if entry.forms.is_empty() {
            return Err(Error::Malformed {
                place: place.to_string(),
                cause: "this entry has a msgid and no msgstr".to_owned(),
                help: "check the catalogue with msgfmt --check",
            });
        }
        let target: Vec<String> = entry.forms.into_iter().map(Option::unwrap_or_default).collect();
        if id.is_empty() && !entry.has_context {
            return check_charset(&target[0], &place);
        }
        if entry.fuzzy {
            self.ready.push_back(Found::Dropped(Reason::Fuzzy, place, id));
            return Ok(());
        }
        let source = std::iter::once(id).chain(entry.plural).collect();
        let message = Message { source, target, document: entry.document, place, is_format: entry.is_format };
        self.ready.extend(message.pairs());
        Ok(())
    }

    fn wrong(&self, cause: &str) -> Error {
        let place = self.lines.place().to_string();
        Error::Malformed { place, cause: cause.to_owned(), help: "check the catalogue with msgfmt --check" }
    }
}

/// The text that C's escapes stand for; nothing where one is unknown, where a quotation mark stands alone or where bytes
/// in octal are no UTF-8.
fn unescaped(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes().peekable();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'"' => return None,
            b'\\' => match rest.next()? {
                b'n' => b'\n',
                b't' => b'\t',
                b'r' => b'\r',
                b'a' => 0x07,
                b'b' => 0x08,
                b'f' => 0x0c,
                b'v' => 0x0b,
                same @ (b'\\' | b'"' | b'\'' | b'?') => same,
                digit @ b'0'..=b'7' => {
                    let mut code = u32::from(digit - b'0');
                    for _ in 0..2 {
                        let Some(next) = rest.next_if(|next| matches!(next, b'0'..=b'7')) else { break };
                        code = code * 8 + u32::from(next - b'0');
                    }
                    u8::try_from(code).ok()?
                }
                _ => return None,
            },
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Report;
    use crate::testing::Folder;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Reading {
        pairs: Vec<[String; 2]>,
        documents: Vec<Option<String>>,
        dropped: Report,
        error: Option<Error>,
    }

    fn read(text: &[u8]) -> Reading {
        let folder = Folder::new(&format!("po-{:?}", std::thread::current().id()));
        let mut pairs = po(folder.write("a.po", text)).unwrap();
        let mut reading = Reading::default();
        for pair in pairs.by_ref() {
            match pair {
                Ok(pair) => {
                    reading.pairs.push([pair.source, pair.target]);
                    reading.documents.push(pair.document);
                }
                Err(error) => reading.error = Some(error),
            }
        }
        Reading { dropped: pairs.dropped().clone(), ..reading }
    }

    const CATALOGUE: &str = r##"
# Translators
#, fuzzy
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\n"

#. a comment
#: src/menu.c:12 src/other.c:3
msgctxt "menu"
msgid "_Open "
"file"
msgstr "Datei ö_ffnen"
#: src/menu.c:14
#, c-format
msgid "%d%% of one file"
msgid_plural "%d%% of files"
msgstr[0] "%d%% einer Datei"
msgstr[1] "%d%% der Dateien"

#, fuzzy
#| msgid "Old one"
msgid "New"
msgstr "Alt"

msgid "Nobody"
msgstr ""

#~ msgid "Gone"
#~ msgid_plural "Gones"
#~ msgstr[0] "Weg"

msgid "tab\there \"quoted\" \\ \303\204"
msgstr "Tab\tda"
"##;

    #[test]
    fn entries_become_pairs() {
        let reading = read(CATALOGUE.replace('\n', "\r\n").as_bytes());
        let expected = [
            ["Open file", "Datei öffnen"],
            ["%d% of one file", "%d% einer Datei"],
            ["%d% of files", "%d% der Dateien"],
            ["tab here \"quoted\" \\ Ä", "Tab da"],
        ];
        assert_eq!(reading.pairs, expected);
        assert!(reading.error.is_none());
        let menu = Some("src/menu.c".to_owned());
        assert_eq!(reading.documents, [menu.clone(), menu.clone(), menu, None]);
        let counts =
            [Reason::Fuzzy, Reason::Untranslated, Reason::Obsolete].map(|reason| reading.dropped.count(reason));
        assert_eq!((counts, reading.dropped.dropped()), ([1, 1, 1], 3));
    }

    #[test]
    fn bad_bytes_cost_their_entry_only() {
        let text = b"msgid \"a\"\nmsgstr \"\xff\"\n\nmsgid \"\xff\"\n\"b\"\nmsgstr \"b\"\n\nmsgid \"c\"\nmsgstr \"d\"";
        let reading = read(text);
        assert_eq!(reading.pairs, [["c", "d"]]);
        assert!(reading.error.is_none());
        assert_eq!(reading.dropped.count(Reason::Encoding), 2);
        let long = "\"0123456789\"\n".repeat(200_000);
        let reading = read(format!("msgid \"a\"\nmsgstr \"\"\n{long}\nmsgid \"c\"\nmsgstr \"d\"\n").as_bytes());
        assert_eq!((reading.pairs.len(), reading.dropped.count(Reason::Length)), (1, 1));
    }

    #[test]
    fn syntax_errors_name_the_line() {
        let cases = [
            ("msgid \"a\nmsgstr \"b\"", ":1"),
            ("msgid \"a\"\nmsgstr b", ":2"),
            ("msgid \"a\"\nmsgstr \"\\q\"", ":2"),
            ("msgid \"a\"\nmsgstr \"b\"c\"", ":2"),
            ("msgid \"a\"\nmsgstr \"\\303\"", ":2"),
            ("\"lost\"", ":1"),
            ("msgid \"a\"\nmsgstr[16] \"b\"", ":2"),
            ("msgid \"a\"\nmsgstr[x] \"b\"", ":2"),
            ("\nmsgid \"a\"\n\n", ":2"),
            ("<html>", ":1"),
            ("msgid \"\"\nmsgstr \"charset=latin1\"", ":1"),
        ];
        for (text, place) in cases {
            let error = read(text.as_bytes()).error;
            let text = format!("{text:?}: {error:?}");
            assert!(matches!(error, Some(Error::Malformed { place: at, .. }) if at.ends_with(place)), "{text}");
        }
        assert!(matches!(read(b"").error, Some(Error::EmptyFile { .. })));
        assert!(matches!(po(std::env::temp_dir()), Err(Error::NotAFile { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_file_makes_it_panic(
            lines in prop::collection::vec(r#"(msg(id|str|ctxt|id_plural|str\[[01]\]) ?)?[#", \\a~n|:]{0,8}"#, 0..12),
        ) {
            read(lines.join("\n").as_bytes());
        }
    }
}
