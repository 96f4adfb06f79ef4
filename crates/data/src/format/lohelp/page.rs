//! The paragraphs of one help page.
//!
//! ```text
//! page        what stands between <div id="DisplayArea" and <div id="SearchFrame"
//! paragraph   a <p> or <h1> .. <h6> with an id; a block inside a paragraph ends it
//! code        <pre>, scripts and elements of a class for code are no text
//! switch      an element of class switchinline holds one wording per system or application, all but one hidden by a
//!             script: the one whose id begins with "default" is taken, or else the first
//! ```

use std::collections::HashMap;

use html5gum::{DefaultEmitter, StartTag, Token, Tokenizer};

use crate::text::{close_gaps, is_format, tidy};

const TEXT: [&str; 7] = ["p", "h1", "h2", "h3", "h4", "h5", "h6"];
const CODE: [&str; 3] = ["pre", "script", "style"];
const CODE_CLASSES: [&str; 5] = ["code", "codeintable", "smathcode", "bascode", "pycode"];
const VOID: [&str; 13] =
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"];

/// Texts by id, ids in the order of their first paragraph.
#[derive(Debug, Default)]
pub(super) struct Page {
    ids: Vec<String>,
    texts: HashMap<String, Vec<String>>,
}

impl Page {
    pub(super) fn parse(html: &str) -> Self {
        let start = html.find("<div id=\"DisplayArea\"").unwrap_or(0);
        let end = html.find("<div id=\"SearchFrame\"").filter(|end| *end > start).unwrap_or(html.len());
        let mut reader = Reader::default();
        // Else a `<` in a script would begin a tag.
        let mut emitter = DefaultEmitter::default();
        emitter.naively_switch_states(true);
        for token in Tokenizer::new_with_emitter(&html[start..end], emitter) {
            // Reading from a string cannot fail.
            let Ok(token) = token;
            match token {
                Token::StartTag(tag) => reader.start(&tag),
                Token::EndTag(tag) => reader.end(&String::from_utf8_lossy(&tag.name)),
                Token::String(text) => reader.text(&String::from_utf8_lossy(&text)),
                _ => {}
            }
        }
        reader.finish();
        reader.page
    }

    pub(super) fn paragraphs(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.ids.iter().map(|id| (id.as_str(), self.texts.get(id).map_or(&[][..], Vec::as_slice)))
    }

    pub(super) fn by_id(self) -> HashMap<String, Vec<String>> {
        self.texts
    }

    fn push(&mut self, id: String, text: String) {
        if !self.texts.contains_key(&id) {
            self.ids.push(id.clone());
        }
        self.texts.entry(id).or_default().push(text);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    None,
    Text,
    Switch,
    Choice,
    Code,
}

/// Numbers of buffers: the text around the switch, and each wording with whether it is the default.
struct Switch {
    outside: usize,
    choices: Vec<(bool, usize)>,
}

#[derive(Default)]
struct Reader {
    page: Page,
    open: Vec<(String, Role)>,
    id: Option<String>,
    /// Texts of the paragraph that is open and of the wordings in it.
    buffers: Vec<String>,
    /// The buffer that takes what comes, if a paragraph is open.
    out: Option<usize>,
    switches: Vec<Switch>,
    /// Code elements that are open.
    code: usize,
}

impl Reader {
    fn start(&mut self, tag: &StartTag<()>) {
        let name = String::from_utf8_lossy(&tag.name).into_owned();
        if name == "br" {
            self.text(" ");
        }
        if VOID.contains(&name.as_str()) {
            return;
        }
        let attribute = |name: &str| {
            let value = tag.attributes.get(name.as_bytes());
            value.map(|value| String::from_utf8_lossy(value).into_owned())
        };
        let role = self.role(&name, attribute);
        self.open.push((name.clone(), role));
        if tag.self_closing {
            self.end(&name);
        }
    }

    fn role(&mut self, name: &str, attribute: impl Fn(&str) -> Option<String>) -> Role {
        let classes = attribute("class").unwrap_or_default();
        let has = |class: &str| classes.split_whitespace().any(|has| has == class);
        if CODE.contains(&name) || CODE_CLASSES.iter().any(|class| has(class)) {
            self.code += 1;
            return Role::Code;
        }
        if TEXT.contains(&name) {
            self.finish();
            self.id = attribute("id").filter(|id| !id.is_empty());
            self.out = Some(self.buffer());
            return Role::Text;
        }
        let Some(out) = self.out else { return Role::None };
        if has("switchinline") {
            self.switches.push(Switch { outside: out, choices: Vec::new() });
            return Role::Switch;
        }
        if self.switches.is_empty() || attribute("hidden").is_none() {
            return Role::None;
        }
        let is_default = attribute("id").is_some_and(|id| id.starts_with("default"));
        let buffer = self.buffer();
        if let Some(switch) = self.switches.last_mut() {
            switch.choices.push((is_default, buffer));
        }
        self.out = Some(buffer);
        Role::Choice
    }

    fn end(&mut self, name: &str) {
        if !self.open.iter().any(|(open, _)| open == name) {
            return;
        }
        while let Some((open, role)) = self.open.pop() {
            self.leave(role);
            if open == name {
                return;
            }
        }
    }

    fn leave(&mut self, role: Role) {
        match role {
            Role::None => {}
            Role::Code => self.code -= 1,
            Role::Text => self.finish(),
            Role::Choice => {
                if let Some(switch) = self.switches.last() {
                    self.out = Some(switch.outside);
                }
            }
            Role::Switch => {
                let Some(Switch { outside, choices }) = self.switches.pop() else { return };
                let default = choices.iter().find(|(is_default, _)| *is_default).or(choices.first());
                if let Some((_, chosen)) = default {
                    let chosen = std::mem::take(&mut self.buffers[*chosen]);
                    self.buffers[outside].push_str(&chosen);
                }
                self.out = Some(outside);
            }
        }
    }

    fn text(&mut self, text: &str) {
        if let (Some(out), 0) = (self.out, self.code) {
            self.buffers[out].push_str(text);
        }
    }

    fn buffer(&mut self) -> usize {
        self.buffers.push(String::new());
        self.buffers.len() - 1
    }

    /// Ends the paragraph that is open, if there is one.
    fn finish(&mut self) {
        if let (Some(out), Some(id)) = (self.out.take(), self.id.take()) {
            let text = clean(std::mem::take(&mut self.buffers[out]));
            if !text.is_empty() {
                self.page.push(id, text);
            }
        }
        self.id = None;
        self.buffers.clear();
        self.switches.clear();
    }
}

/// Without characters that one cannot see, and without the space that a tag has left before a comma or a full stop.
fn clean(text: String) -> String {
    close_gaps(&tidy(tidy(text).chars().filter(|c| !is_format(*c)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(html: &str) -> Vec<(String, Vec<String>)> {
        let page = Page::parse(html);
        page.paragraphs().map(|(id, texts)| (id.to_owned(), texts.to_vec())).collect()
    }

    fn text(inside: &str) -> String {
        let paragraphs = read(&format!("<p id=x>{inside}</p>"));
        paragraphs.into_iter().flat_map(|(_, texts)| texts).collect::<Vec<_>>().join(" / ")
    }

    #[test]
    fn text_of_a_paragraph() {
        let cases = [
            ("Press <span class=\"ui\">OK</span> .", "Press OK."),
            ("one<br>two<br/>three", "one two three"),
            ("a &amp; b &lt;c&gt; &nbsp; d&#228;", "a & b <c> dä"),
            ("<!-- no -->yes<img src=\"x.png\" alt=\"no\">", "yes"),
            ("soft\u{ad}ly zero\u{200b}width", "softly zerowidth"),
            ("text <code class=\"x\">stays</code> <span class=\"a code\">goes</span> end", "text stays end"),
            ("a<pre>b</pre>c<script>if (a < b) d</script>", "ac"),
            ("<b>never closed", "never closed"),
            ("</i>stray end", "stray end"),
            ("A&lt;b", "A<b"),
        ];
        for (inside, expected) in cases {
            assert_eq!(text(inside), expected, "{inside}");
        }
    }

    #[test]
    fn a_switch_gives_its_default_or_its_first() {
        let wording = |id: &str, text: &str| format!("<span hidden=\"true\" id=\"{id}\">{text}</span>");
        let switch = |inside: &str| format!("Choose <span class=\"switchinline\">{inside}</span> now.");
        let (mac, default) = (wording("MAC1", "Mac"), wording("default1", "Windows"));
        assert_eq!(text(&switch(&format!("{mac}{default}"))), "Choose Windows now.");
        assert_eq!(text(&switch(&format!("{default} {mac}"))), "Choose Windows now.");
        assert_eq!(text(&switch(&mac)), "Choose Mac now.");
        assert_eq!(text(&switch("")), "Choose now.");
        let inner = format!("<span class=\"switchinline\">{mac}{}</span> inside", wording("default2", "deep"));
        assert_eq!(text(&switch(&format!("{mac}{}", wording("default3", &inner)))), "Choose deep inside now.");
        assert_eq!(text(&format!("no switch {default}")), "no switch Windows");
    }

    #[test]
    fn blocks_end_paragraphs_and_ids_group_them() {
        let html = "<p id=a>one<p id=b>two<p>no id</p><h2 id=a>three</h2><p id=c> </p><div><p id=d>four</div>five";
        let own = |id: &str, texts: &[&str]| (id.to_owned(), texts.iter().map(|text| (*text).to_owned()).collect());
        let expected: [(String, Vec<String>); 3] =
            [own("a", &["one", "three"]), own("b", &["two"]), own("d", &["four"])];
        assert_eq!(read(html), expected);
    }

    proptest! {
        #[test]
        fn no_page_makes_it_panic(
            html in "(</?(p|h1|span|pre|br|div)( (id=x|hidden|class=(switchinline|code)))* ?/?>|[a-z &;<>]{0,4}){0,30}",
        ) {
            read(&html);
        }
    }
}
