//! Marks of the letter that opens a menu entry from the keyboard: `_File` (GTK), `&File` (Qt, Windows), `~File`
//! (LibreOffice), and `ファイル(_F)` in scripts that have no such letter.
//!
//! The same characters are also text (`snake_case`, `R&D`, `~/.config`). A mark is taken for one where it stands alone
//! on its side, in front of a letter, and either begins a word or is inside a word that the other side marks too, in a
//! word that is not the same.

const MARKS: [char; 3] = ['_', '&', '~'];

pub(super) fn without_accelerators(source: String, target: String) -> (String, String) {
    let mut sides = (source, target);
    for mark in MARKS {
        let found = (find(&sides.0, mark), find(&sides.1, mark));
        let both_differ = match &found {
            (Some(a), Some(b)) => a.word != b.word,
            _ => false,
        };
        let (first, second) = found;
        let remove = |text: &str, found: Option<Accelerator<'_>>| match found {
            Some(found) if found.begins_word || both_differ => Some([&text[..found.from], &text[found.to..]].concat()),
            _ => None,
        };
        let (first, second) = (remove(&sides.0, first), remove(&sides.1, second));
        sides = (first.unwrap_or(sides.0), second.unwrap_or(sides.1));
    }
    sides
}

struct Accelerator<'a> {
    /// The bytes to remove: the mark, or a whole `(_F)`.
    from: usize,
    to: usize,
    word: &'a str,
    begins_word: bool,
}

fn find(text: &str, mark: char) -> Option<Accelerator<'_>> {
    let mut places = text.match_indices(mark);
    let (at, _) = places.next()?;
    if places.next().is_some() {
        return None;
    }
    let (before, after) = (&text[..at], &text[at + mark.len_utf8()..]);
    let letter = after.chars().next().filter(|c| c.is_alphabetic())?;
    let behind = &after[letter.len_utf8()..];
    if let (Some(outside), true) = (before.strip_suffix('('), behind.starts_with(')')) {
        let from = outside.trim_end().len();
        let to = text.len() - behind.len() + 1;
        return Some(Accelerator { from, to, word: &text[from..to], begins_word: true });
    }
    if mark == '&' && is_entity(after) {
        return None;
    }
    let start = before
        .rfind(char::is_whitespace)
        .map_or(0, |space| space + before[space..].chars().next().map_or(1, char::len_utf8));
    let end = text.len() - after.len() + after.find(char::is_whitespace).unwrap_or(after.len());
    let begins_word = !before.ends_with(|c: char| c.is_alphanumeric());
    Some(Accelerator { from: at, to: at + mark.len_utf8(), word: &text[start..end], begins_word })
}

/// Whether `&` begins `&name;`.
fn is_entity(after: &str) -> bool {
    let name = after.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
    name.len() < after.len() && name.starts_with(';')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_go_and_text_stays() {
        let cases = [
            (["_File", "_Datei"], ["File", "Datei"]),
            (["Save &As...", "Speichern &unter..."], ["Save As...", "Speichern unter..."]),
            (["E~xit", "Be~enden"], ["Exit", "Beenden"]),
            (["E_xit", "_Beenden"], ["Exit", "Beenden"]),
            (["_OK", "_OK"], ["OK", "OK"]),
            (["_File", "ファイル(_F)"], ["File", "ファイル"]),
            (["_Open…", "開く (_O)…"], ["Open…", "開く…"]),
            (["_File", "Datei"], ["File", "Datei"]),
            (["set file_name", "file_name setzen"], ["set file_name", "file_name setzen"]),
            (["R&D costs", "Kosten für R&D"], ["R&D costs", "Kosten für R&D"]),
            (["Tom & Jerry", "Tom & Jerry"], ["Tom & Jerry", "Tom & Jerry"]),
            (["a&nbsp;b", "x &nbsp; y"], ["a&nbsp;b", "x &nbsp; y"]),
            (["in ~/.config", "unter ~/.config"], ["in ~/.config", "unter ~/.config"]),
            (["__init__ and a_b", "__init__ und a_b"], ["__init__ and a_b", "__init__ und a_b"]),
            (["use && here", "hier && nutzen"], ["use && here", "hier && nutzen"]),
            (["", "_"], ["", "_"]),
        ];
        for ([source, target], expected) in cases {
            let (a, b) = without_accelerators(source.to_owned(), target.to_owned());
            assert_eq!([&*a, &*b], expected, "{source:?} {target:?}");
        }
    }
}
