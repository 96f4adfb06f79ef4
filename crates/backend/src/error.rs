//! Errors that say which operand, which shape, where, and what to do.
//!
//! ```text
//! attention: key and value disagree on sequence length
//!   q  [2, 8, 128, 64] f32 cpu
//!   v  [2, 8, 255, 64] f32 cpu   <- expected [2, 8, 256, *]
//!   in transformer.blocks.3.attn
//!   help: did the KV cache append to k but not to v?
//! ```

use crate::{DType, Layout};
use std::{borrow::Cow, fmt};

/// The result of everything that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of mistake an [`Error`] reports, for programs that decide by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Shapes, ranks or axes do not fit the operation or each other.
    Shape,
    /// A dtype does not fit the operation or another operand.
    DType,
    /// Operands live on different devices.
    Device,
    /// An index, token id or range lies outside its axis.
    Index,
    /// An argument other than a tensor is out of range.
    Argument,
    /// Storage to be overwritten is still held by somebody else, or destination and source overlap.
    Shared,
    /// A graph was used after `backward` had consumed it.
    Consumed,
    /// A gradient is missing or was asked of something that has none.
    Gradient,
    /// A NaN or an infinity appeared under anomaly mode.
    NotFinite,
    /// The backend does not implement this.
    Unsupported,
    /// No such backend can be started here.
    BackendUnavailable,
    /// Memory ran out.
    OutOfMemory,
    /// A file could not be read or written, or holds something else than was asked for.
    Io,
    /// A file's bytes are not those that were written.
    Damaged,
}

/// An operand as an error shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operand {
    role: Cow<'static, str>,
    layout: Layout,
    dtype: DType,
    device: Cow<'static, str>,
    expected: Option<String>,
}

impl Operand {
    /// The operand called `role` in the operation's documentation.
    pub fn new(role: impl Into<Cow<'static, str>>, layout: Layout, dtype: DType) -> Operand {
        Operand { role: role.into(), layout, dtype, device: Cow::Borrowed(""), expected: None }
    }

    /// Says where the operand lives.
    pub fn on(mut self, device: &str) -> Operand {
        self.device = Cow::Owned(device.to_owned());
        self
    }

    /// Marks this operand as the wrong one, and says what was expected.
    pub fn expected(mut self, what: impl Into<String>) -> Operand {
        self.expected = Some(what.into());
        self
    }
}

/// Why an operation was refused or failed.
#[derive(Clone)]
pub struct Error(Box<Report>);

#[derive(Clone)]
struct Report {
    kind: ErrorKind,
    op: Cow<'static, str>,
    what: String,
    operands: Vec<Operand>,
    path: Option<String>,
    help: Option<String>,
}

impl Error {
    /// An error of operation `op`; `what` is one clause without a full stop.
    pub fn new(kind: ErrorKind, op: impl Into<Cow<'static, str>>, what: impl Into<String>) -> Error {
        let (op, what) = (op.into(), what.into());
        Error(Box::new(Report { kind, op, what, operands: Vec::new(), path: None, help: None }))
    }

    /// Shows one more operand.
    pub fn operand(mut self, operand: Operand) -> Error {
        self.0.operands.push(operand);
        self
    }

    /// Shows operands in the order of the operation's arguments.
    pub fn operands(mut self, operands: impl IntoIterator<Item = Operand>) -> Error {
        self.0.operands.extend(operands);
        self
    }

    /// Says what to do about it.
    pub fn help(mut self, help: impl Into<String>) -> Error {
        self.0.help = Some(help.into());
        self
    }

    /// Says in which module it happened; the innermost path wins.
    pub fn in_path(mut self, path: impl Into<String>) -> Error {
        if self.0.path.is_none() {
            self.0.path = Some(path.into());
        }
        self
    }

    /// What kind of mistake this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operation that refused or failed.
    pub fn op(&self) -> &str {
        &self.0.op
    }

    /// The module path, when one was given.
    pub fn path(&self) -> Option<&str> {
        self.0.path.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let report = &*self.0;
        write!(f, "{}: {}", report.op, report.what)?;
        let role_width = report.operands.iter().map(|o| o.role.chars().count()).max().unwrap_or(0);
        for operand in &report.operands {
            let Operand { role, layout, dtype, device, expected } = operand;
            write!(f, "\n  {role:role_width$}  {} {dtype}", layout.shape())?;
            if !device.is_empty() {
                write!(f, " {device}")?;
            }
            if !layout.is_contiguous() {
                write!(f, " strides {:?}", layout.strides())?;
            }
            if let Some(expected) = expected {
                write!(f, "   <- expected {expected}")?;
            }
        }
        if let Some(path) = &report.path {
            write!(f, "\n  in {path}")?;
        }
        if let Some(help) = &report.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?} error: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {}
