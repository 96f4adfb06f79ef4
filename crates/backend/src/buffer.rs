//! Safe handles on memory that a backend owns.
//!
//! A [`View`] reads, a [`ViewMut`] writes. A `ViewMut` can be made only while its storage has one owner, so kernels
//! need no locks, no version counters and no rule about aliasing.

use crate::{DType, Error, ErrorKind, Layout, Operand, Result};
use half::{bf16, f16};
use std::{any::Any, fmt::Debug, sync::Arc};

/// A backend's own memory behind a [`Buffer`].
pub trait Storage: Debug + Send + Sync + 'static {
    /// The type of its elements.
    fn dtype(&self) -> DType;
    /// Number of elements.
    fn len(&self) -> usize;
    /// Whether it has no elements.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// For the backend, to find its own type again.
    fn as_any(&self) -> &dyn Any;
    /// For the backend, to find its own type again.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// A shared handle on storage; cloning it copies nothing.
#[derive(Clone, Debug)]
pub struct Buffer(Arc<dyn Storage>);

impl Buffer {
    /// Wraps a backend's storage.
    pub fn new(storage: impl Storage) -> Buffer {
        Buffer(Arc::new(storage))
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.0.dtype()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The storage, for the backend that made it.
    pub fn storage(&self) -> &dyn Storage {
        &*self.0
    }

    /// Whether nobody else holds this storage, so that it may be overwritten.
    pub fn is_sole_owner(&mut self) -> bool {
        Arc::get_mut(&mut self.0).is_some()
    }

    /// Whether two handles hold the same storage.
    pub fn same_storage(&self, other: &Buffer) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

fn check_bounds(role: &'static str, layout: &Layout, dtype: DType, len: usize) -> Result<()> {
    let (_, high) = layout.bounds();
    if high <= len || layout.count() == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Index, "view", format!("element {} of a buffer of {len}", high - 1))
        .operand(Operand::new(role, *layout, dtype)))
}

/// An operand to read: a layout that is known to stay within its buffer.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    buffer: &'a Buffer,
    layout: &'a Layout,
}

impl<'a> View<'a> {
    /// Errors when the layout reaches past the buffer.
    pub fn new(buffer: &'a Buffer, layout: &'a Layout) -> Result<View<'a>> {
        check_bounds("view", layout, buffer.dtype(), buffer.len())?;
        Ok(View { buffer, layout })
    }

    /// The buffer.
    pub fn buffer(&self) -> &'a Buffer {
        self.buffer
    }

    /// How it walks over the buffer.
    pub fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.buffer.dtype()
    }

    /// Its extents.
    pub fn shape(&self) -> &'a crate::Shape {
        self.layout.shape()
    }
}

/// An operand to write: sole owner of its storage, no element twice.
#[derive(Debug)]
pub struct ViewMut<'a> {
    storage: &'a mut dyn Storage,
    layout: &'a Layout,
}

impl<'a> ViewMut<'a> {
    /// Errors when somebody else holds the storage, when the layout reaches past it, or when it names an element twice.
    pub fn new(buffer: &'a mut Buffer, layout: &'a Layout) -> Result<ViewMut<'a>> {
        let dtype = buffer.dtype();
        check_bounds("destination", layout, dtype, buffer.len())?;
        let refuse = |what: &str| {
            Err(Error::new(ErrorKind::Shared, "destination", what).operand(Operand::new("out", *layout, dtype)))
        };
        if layout.may_overlap_itself() {
            return refuse("its layout names an element twice")
                .map_err(|e| e.help("write into a tensor that is not broadcast"));
        }
        match Arc::get_mut(&mut buffer.0) {
            Some(storage) => Ok(ViewMut { storage, layout }),
            None => refuse("its storage is still held by another tensor")
                .map_err(|e| e.help("drop the other tensor, or copy before writing")),
        }
    }

    /// How it walks over the storage.
    pub fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.storage.dtype()
    }

    /// Its extents.
    pub fn shape(&self) -> &'a crate::Shape {
        self.layout.shape()
    }

    /// The storage, for the backend that made it.
    pub fn storage(&mut self) -> &mut dyn Storage {
        self.storage
    }

    /// The same destination for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        ViewMut { storage: &mut *self.storage, layout: self.layout }
    }
}

/// The left operand of an elementwise kernel: another tensor, or the destination itself (in place).
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// Read from here.
    View(View<'a>),
    /// Read what the destination holds, with the destination's layout and dtype.
    Destination,
}

/// Elements on the host, to be uploaded.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // one variant per dtype, named like it
pub enum HostSlice<'a> {
    F64(&'a [f64]),
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
    I64(&'a [i64]),
    U32(&'a [u32]),
    U8(&'a [u8]),
    Bool(&'a [bool]),
}

/// Room on the host for elements to be downloaded.
#[derive(Debug)]
#[allow(missing_docs)] // one variant per dtype, named like it
pub enum HostSliceMut<'a> {
    F64(&'a mut [f64]),
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
    F16(&'a mut [f16]),
    I64(&'a mut [i64]),
    U32(&'a mut [u32]),
    U8(&'a mut [u8]),
    Bool(&'a mut [bool]),
}

macro_rules! host {
    ($($variant:ident)*) => {
        impl HostSlice<'_> {
            /// The dtype of its elements.
            pub fn dtype(&self) -> DType { match self { $(HostSlice::$variant(_) => DType::$variant,)* } }
            /// Number of elements.
            pub fn len(&self) -> usize { match self { $(HostSlice::$variant(s) => s.len(),)* } }
            /// Whether it has no elements.
            pub fn is_empty(&self) -> bool { self.len() == 0 }
        }
        impl HostSliceMut<'_> {
            /// The dtype of its elements.
            pub fn dtype(&self) -> DType { match self { $(HostSliceMut::$variant(_) => DType::$variant,)* } }
            /// Number of elements.
            pub fn len(&self) -> usize { match self { $(HostSliceMut::$variant(s) => s.len(),)* } }
            /// Whether it has no elements.
            pub fn is_empty(&self) -> bool { self.len() == 0 }
        }
    };
}
host! { F64 F32 Bf16 F16 I64 U32 U8 Bool }
