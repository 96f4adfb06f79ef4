//! An HTML document that asks for nothing: a frame with named fields, and the policy that holds it to its word.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

/// A browser hashes what its parser made of the file, and the parser knows no carriage returns: a checkout that has
/// them would make a page whose script is refused.
pub(crate) fn unix_lines(text: &str) -> String {
    text.replace("\r\n", "\n")
}

/// The content security policy that allows this style and this script, and denies the rest.
pub(crate) fn policy(style: &str, script: Option<&str>) -> String {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    let script = script.map(|script| format!("script-src 'sha256-{}'; ", hash(script))).unwrap_or_default();
    // The empty icon is a `data:` address; without one, browsers ask a server for theirs.
    format!(
        "default-src 'none'; {script}style-src 'sha256-{}'; img-src data:; base-uri 'none'; form-action 'none'",
        hash(style)
    )
}

/// Puts the fields where the frame names them, in one pass: a field's text is never looked at again.
pub(crate) fn fill(frame: &str, fields: &[(&str, String)]) -> String {
    let mut parts = frame.split("{{");
    let mut page = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}").unwrap_or(("", part));
        let field = fields.iter().find(|(field, _)| *field == name);
        page.push_str(field.map_or("", |(_, text)| text));
        page.push_str(rest);
    }
    page
}
