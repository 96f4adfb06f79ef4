//! Readers of the files that parallel text comes in. Each returns [`Pairs`](crate::Pairs), which read as they go: what
//! is in memory is a line, an entry, a page or a compiled catalogue, never a corpus.
//!
//! | function | reads |
//! |---|---|
//! | [`moses`] | two text files, a line of one is the translation of the same line of the other |
//! | [`tsv`] | a text file with columns between tabs |
//! | [`ding`] | the dictionary of the program Ding |
//! | [`po`], [`mo`], [`mo_pair`] | catalogues of GNU gettext |
//! | [`ddtp`] | descriptions of Debian's packages and their translation |
//! | [`lohelp`] | two folders with help pages of LibreOffice |
//!
//! Text files may be compressed with gzip when their name ends in `.gz`, and may have a byte order mark and Windows'
//! line ends. A line that is no UTF-8 or longer than 1 MiB is dropped and counted; what makes the rest of a file
//! meaningless is an error.

mod ddtp;
mod ding;
mod gettext;
mod lohelp;
mod moses;
mod tsv;

pub use ddtp::ddtp;
pub use ding::{Direction, ding};
pub use gettext::mo::{mo, mo_pair};
pub use gettext::po::po;
pub use lohelp::{BROKEN_EMBEDDING, lohelp};
pub use moses::moses;
pub use tsv::{Columns, tsv};
