//! Where in the model a map was taken.

use std::{fmt, str::FromStr};

use crate::Error;

/// Sites are ordered as the page offers them: by kind, then by layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Site {
    kind: Kind,
    layer: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    EncoderSelf,
    DecoderSelf,
    Cross,
}

impl FromStr for Site {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let unknown = || Error::MapName { name: name.to_owned() };
        let mut parts = name.split('.');
        let (Some(stack), Some(layer), Some(part), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(unknown());
        };
        let kind = match (stack, part) {
            ("enc", "self") => Kind::EncoderSelf,
            ("dec", "self") => Kind::DecoderSelf,
            ("dec", "cross") => Kind::Cross,
            _ => return Err(unknown()),
        };
        let site = Self { kind, layer: layer.parse().map_err(|_| unknown())? };
        // One name for one place: no `dec.007.cross`.
        if site.to_string() == name { Ok(site) } else { Err(unknown()) }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stack, part) = match self.kind {
            Kind::EncoderSelf => ("enc", "self"),
            Kind::DecoderSelf => ("dec", "self"),
            Kind::Cross => ("dec", "cross"),
        };
        write!(f, "{stack}.{}.{part}", self.layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_one_place() {
        for name in ["enc.0.self", "dec.11.self", "dec.3.cross"] {
            assert_eq!(name.parse::<Site>().unwrap().to_string(), name);
        }
        for name in
            ["", "enc.0.cross", "dec.x.self", "dec.-1.self", "dec.+1.self", "dec.01.self", "dec.1", "dec.1.self.2"]
        {
            assert_eq!(name.parse::<Site>(), Err(Error::MapName { name: name.to_owned() }));
        }
    }

    #[test]
    fn layers_are_counted_and_not_spelled() {
        let mut sites = ["dec.0.cross", "enc.10.self", "enc.9.self", "dec.0.self"].map(|name| name.parse().unwrap());
        sites.sort_by_key(|site: &Site| *site);
        assert_eq!(sites.map(|site| site.to_string()), ["enc.9.self", "enc.10.self", "dec.0.self", "dec.0.cross"]);
    }
}
