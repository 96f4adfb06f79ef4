//! Typed access to a buffer's memory.

use crate::pool::{Block, Pool};
use attentia_backend::{ByteOwner, DType, Error, ErrorKind, Layout, Operand, Result, Storage, View, ViewMut};
use half::{bf16, f16};
use std::{any::Any, sync::Arc};

/// Types that lie in memory as they are: any bit pattern is valid. A bool is read as its byte.
pub(crate) trait Raw: Copy + Send + Sync + 'static {
    /// Whether a buffer of this dtype holds elements of this type.
    fn holds(dtype: DType) -> bool;
}

macro_rules! raw {
    ($($t:ty => $pattern:pat,)*) => {$(
        impl Raw for $t {
            #[inline]
            fn holds(dtype: DType) -> bool { matches!(dtype, $pattern) }
        }
    )*};
}
raw! {
    f64 => DType::F64,
    f32 => DType::F32,
    bf16 => DType::Bf16,
    f16 => DType::F16,
    i64 => DType::I64,
    u32 => DType::U32,
    u8 => DType::U8 | DType::Bool,
}

/// Runs `$body` with `$t` as the type that holds a dtype's elements in memory.
macro_rules! with_element {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            attentia_backend::DType::F64 => {
                type $t = f64;
                $body
            }
            attentia_backend::DType::F32 => {
                type $t = f32;
                $body
            }
            attentia_backend::DType::Bf16 => {
                type $t = half::bf16;
                $body
            }
            attentia_backend::DType::F16 => {
                type $t = half::f16;
                $body
            }
            attentia_backend::DType::I64 => {
                type $t = i64;
                $body
            }
            attentia_backend::DType::U32 => {
                type $t = u32;
                $body
            }
            attentia_backend::DType::U8 | attentia_backend::DType::Bool => {
                type $t = u8;
                $body
            }
        }
    };
}
pub(crate) use with_element;

/// The memory behind a buffer of the CPU backend.
#[derive(Debug)]
pub(crate) struct CpuStorage {
    memory: Memory,
    dtype: DType,
    len: usize,
}

#[derive(Debug)]
enum Memory {
    Pooled(Block),
    /// Read only: bytes that somebody else keeps alive.
    Adopted(Adopted),
}

/// Foreign bytes, which stay where they are as the owner promises.
#[derive(Debug)]
struct Adopted {
    start: *const u8,
    /// Keeps the bytes alive; nobody writes to them.
    _owner: Arc<dyn ByteOwner>,
}

// SAFETY: shared, read-only bytes, like a `&[u8]`; the owner is `Send` and `Sync`.
unsafe impl Send for Adopted {}
// SAFETY: as above.
unsafe impl Sync for Adopted {}

impl CpuStorage {
    /// Room for `len` elements of any content.
    pub(crate) fn alloc(pool: &Pool, dtype: DType, len: usize) -> Result<CpuStorage> {
        let bytes = len.checked_mul(dtype.size()).ok_or_else(|| {
            Error::new(ErrorKind::OutOfMemory, "alloc", format!("{len} elements of {dtype} exceed the address space"))
        })?;
        Ok(CpuStorage { memory: Memory::Pooled(pool.alloc(bytes)?), dtype, len })
    }

    /// A read-only view of foreign bytes, if their start and length suit the dtype. Bools are not adopted: a byte
    /// other than 0 and 1 would have to be looked for.
    pub(crate) fn adopt(owner: Arc<dyn ByteOwner>, dtype: DType) -> Option<CpuStorage> {
        let bytes = owner.bytes();
        let fits =
            bytes.as_ptr().align_offset(8) == 0 && bytes.len().is_multiple_of(dtype.size()) && dtype != DType::Bool;
        let (start, len) = (bytes.as_ptr(), bytes.len() / dtype.size());
        fits.then(|| CpuStorage { memory: Memory::Adopted(Adopted { start, _owner: owner }), dtype, len })
    }
}

impl CpuStorage {
    /// The layout stays within this memory. `View` has checked it against the length that the buffer's storage claims;
    /// a storage of somebody else's that hands out ours may claim another.
    fn check_bounds(&self, op: &'static str, layout: &Layout) -> Result<()> {
        if layout.bounds().1 <= self.len || layout.count() == 0 {
            return Ok(());
        }
        let what = format!("an operand reaches past its {} elements", self.len);
        Err(Error::new(ErrorKind::Index, op, what).operand(Operand::new("operand", *layout, self.dtype)))
    }

    /// All bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        let bytes = self.len * self.dtype.size();
        match &self.memory {
            // SAFETY: the block has at least this many bytes, all initialised.
            Memory::Pooled(block) => unsafe { std::slice::from_raw_parts(block.as_ptr(), bytes) },
            // SAFETY: the owner keeps these bytes alive, in place and unchanged: the contract of `ByteOwner`.
            Memory::Adopted(adopted) => unsafe { std::slice::from_raw_parts(adopted.start, bytes) },
        }
    }

    /// All bytes, to write; none when they are adopted.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = self.len * self.dtype.size();
        match &self.memory {
            // SAFETY: as above, and `&mut self` is the only access.
            Memory::Pooled(block) => unsafe { std::slice::from_raw_parts_mut(block.as_ptr(), bytes) },
            Memory::Adopted(_) => &mut [],
        }
    }
}

impl Storage for CpuStorage {
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn len(&self) -> usize {
        self.len
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

fn foreign(op: &'static str, layout: &Layout, dtype: DType) -> Error {
    Error::new(ErrorKind::Device, op, "an operand's memory does not belong to the cpu backend")
        .operand(Operand::new("operand", *layout, dtype))
        .help("move it with to_device")
}

fn mismatch<T>(op: &'static str, layout: &Layout, dtype: DType) -> Error {
    let expected = std::any::type_name::<T>();
    Error::new(ErrorKind::DType, op, format!("an operand is {dtype}, not {expected}"))
        .operand(Operand::new("operand", *layout, dtype))
}

/// An operand to read: `start` points to its first element, `layout`'s strides lead to the others.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a, T> {
    start: *const T,
    layout: &'a Layout,
}

// SAFETY: it is a shared borrow of plain numbers.
unsafe impl<T: Sync> Sync for Input<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Send for Input<'_, T> {}

impl<'a, T: Raw> Input<'a, T> {
    /// Errors when the view is another backend's or of another dtype.
    pub(crate) fn new(op: &'static str, view: View<'a>) -> Result<Input<'a, T>> {
        let layout = view.layout();
        let storage = view.buffer().storage().as_any().downcast_ref::<CpuStorage>();
        let storage = storage.ok_or_else(|| foreign(op, layout, view.dtype()))?;
        if !T::holds(storage.dtype) {
            return Err(mismatch::<T>(op, layout, storage.dtype));
        }
        storage.check_bounds(op, layout)?;
        let base = match &storage.memory {
            Memory::Pooled(block) => block.as_ptr().cast_const(),
            Memory::Adopted(adopted) => adopted.start,
        };
        // `View` has checked the layout against the buffer's length, and an empty one is never read.
        let start = base.cast::<T>().wrapping_add(layout.offset());
        Ok(Input { start, layout })
    }

    /// Pointer to the first element.
    #[inline]
    pub(crate) fn start(&self) -> *const T {
        self.start
    }

    /// Its layout; the offset is already in `start`.
    #[inline]
    pub(crate) fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// All elements, when they follow each other.
    #[inline]
    pub(crate) fn as_slice(&self) -> Option<&'a [T]> {
        // SAFETY: a contiguous layout within its buffer covers `count` initialised elements from `start`; an empty
        // one may point anywhere, but is dangling-safe only when aligned, which element offsets keep.
        self.layout.is_contiguous().then(|| unsafe { std::slice::from_raw_parts(self.start, self.layout.count()) })
    }
}

/// An operand to write (or to read and write): sole owner of its memory, no element twice.
#[derive(Clone, Copy)]
pub(crate) struct Output<'a, T> {
    start: *mut T,
    layout: &'a Layout,
}

// SAFETY: tasks that share it write disjoint elements; each kernel says which.
unsafe impl<T: Send> Sync for Output<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Output<'_, T> {}

impl<'a, T: Raw> Output<'a, T> {
    /// Errors when the destination is another backend's, of another dtype, or adopted (read only).
    pub(crate) fn new(op: &'static str, mut view: ViewMut<'a>) -> Result<Output<'a, T>> {
        let (layout, dtype) = (view.layout(), view.dtype());
        let storage = view.storage().as_any_mut().downcast_mut::<CpuStorage>();
        let storage = storage.ok_or_else(|| foreign(op, layout, dtype))?;
        if !T::holds(storage.dtype) {
            return Err(mismatch::<T>(op, layout, storage.dtype));
        }
        storage.check_bounds(op, layout)?;
        match &storage.memory {
            Memory::Pooled(block) => {
                let start = block.as_ptr().cast::<T>().wrapping_add(layout.offset());
                Ok(Output { start, layout })
            }
            Memory::Adopted(_) => Err(Error::new(ErrorKind::Shared, op, "the destination is mapped read only")
                .operand(Operand::new("out", *layout, dtype))
                .help("copy it first")),
        }
    }

    /// Pointer to the first element.
    #[inline]
    pub(crate) fn start(&self) -> *mut T {
        self.start
    }

    /// Its layout; the offset is already in `start`.
    #[inline]
    pub(crate) fn layout(&self) -> &'a Layout {
        self.layout
    }
}
