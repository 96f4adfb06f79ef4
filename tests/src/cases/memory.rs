//! Entries without operands: names, memory, and buffers over bytes that live elsewhere.

use crate::{
    case::{Case, Destination},
    layout::Placement,
    number::{self, Values, whole},
    tolerance::Accept,
};
use attentia_backend::{Backend, ByteOwner, DType, Error, ErrorKind, FusedOp, Result, Scalar, Support, View, ViewMut};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

pub(super) fn cases() -> Vec<Case> {
    let check = |operation, what: &str, run: fn(&dyn Backend, DType) -> Result<()>, dtype| {
        Case::new(operation, what, Placement::Contiguous, dtype, move |b, _| run(b, dtype))
    };
    let mut all = vec![
        check("name", "given", |b, _| holds(!b.name().is_empty(), "the name is empty"), DType::F32),
        check("as_any", "same", |b, _| holds(b.as_any().type_id() == b.as_any().type_id(), "no type"), DType::F32),
        check("synchronize", "idle", |b, _| b.synchronize(), DType::F32),
        check("alloc", "refused_size", |b, _| refuses_memory(b), DType::F32),
    ];
    for dtype in DType::ALL {
        all.push(check("alloc", "length", allocates, dtype));
        all.push(check("memory", "live", counts_live_bytes, dtype));
        all.push(check("adopt", "bytes", adopts, dtype));
        all.push(check("adopt", "misfits", adopts_no_misfits, dtype));
    }
    for dtype in DType::FLOATS {
        all.push(check("support", "answers", supports, dtype));
    }
    all.push(synchronised());
    all
}

fn holds(condition: bool, what: &str) -> Result<()> {
    if condition { Ok(()) } else { Err(Error::new(ErrorKind::Argument, "check", what)) }
}

fn allocates(b: &dyn Backend, dtype: DType) -> Result<()> {
    for len in [0, 1, 7, 1000, 100_003] {
        let buffer = b.alloc(dtype, len)?;
        holds(buffer.len() == len && buffer.dtype() == dtype, "alloc gave another length or dtype")?;
    }
    // Two buffers are two places.
    let (mut first, mut second) = (b.alloc(dtype, 9)?, b.alloc(dtype, 9)?);
    let layout = whole(9)?;
    b.full(Scalar::Int(1), ViewMut::new(&mut first, &layout)?)?;
    b.full(Scalar::Int(0), ViewMut::new(&mut second, &layout)?)?;
    let values = number::read(b, View::new(&first, &layout)?)?;
    holds((0..9).all(|i| values.float(i) == 1.0), "buffers share memory")
}

fn refuses_memory(b: &dyn Backend) -> Result<()> {
    match b.alloc(DType::F64, isize::MAX as usize / 8) {
        Err(error) => holds(error.kind() == ErrorKind::OutOfMemory, "the error is not OutOfMemory"),
        Ok(_) => holds(false, "2⁶³ bytes were given"),
    }
}

fn counts_live_bytes(b: &dyn Backend, dtype: DType) -> Result<()> {
    let before = b.memory().live;
    // Far larger than what other tests hold and drop meanwhile.
    let len = (64 << 20) / dtype.size();
    let buffer = b.alloc(dtype, len)?;
    let (during, peak) = (b.memory().live, b.memory().peak);
    holds(during >= (32 << 20) && peak >= during.saturating_sub(16 << 20), "live bytes do not show the buffer")?;
    drop(buffer);
    let after = b.memory().live;
    holds(after < before + (32 << 20), "live bytes still show a dropped buffer")
}

/// 64 bytes whose start has the alignment of a u64, seen from an offset on.
#[derive(Debug)]
struct Owned {
    words: [u64; 8],
    from: usize,
    to: usize,
    asked: AtomicUsize,
}

impl Owned {
    fn window(from: usize, to: usize) -> Arc<Owned> {
        // Small numbers: every byte is a valid bool.
        Arc::new(Owned {
            words: std::array::from_fn(|i| (i as u64 % 2) * 0x0001_0100_0001_0101),
            from,
            to,
            asked: AtomicUsize::new(0),
        })
    }
}

#[allow(unsafe_code)]
// SAFETY: the words lie in the owner, nothing writes to them, and the window is fixed.
unsafe impl ByteOwner for Owned {
    fn bytes(&self) -> &[u8] {
        self.asked.fetch_add(1, Relaxed);
        &bytemuck::cast_slice(&self.words)[self.from..self.to]
    }
}

fn adopts(b: &dyn Backend, dtype: DType) -> Result<()> {
    let owner = Owned::window(0, 64);
    let Some(mut buffer) = b.adopt(owner.clone(), dtype)? else { return Ok(()) };
    holds(owner.asked.load(Relaxed) == 1, "the owner was not asked once")?;
    let layout = whole(64 / dtype.size())?;
    holds(buffer.len() == layout.count() && buffer.dtype() == dtype, "another length or dtype")?;
    let seen = number::read(b, View::new(&buffer, &layout)?)?;
    holds(owner.asked.load(Relaxed) == 1, "the owner was asked again")?;
    let expected = uploaded(b, dtype, owner.bytes())?;
    holds((0..seen.len()).all(|i| seen.same(&expected, i)), "the adopted buffer holds other numbers")?;
    // It is read-only: writing is refused, or goes to memory of its own.
    let before = owner.words;
    let _ = ViewMut::new(&mut buffer, &layout).and_then(|out| b.full(Scalar::Int(1), out));
    holds(owner.words == before, "a write reached the owner's bytes")
}

/// The same bytes, by way of the host.
fn uploaded(b: &dyn Backend, dtype: DType, bytes: &[u8]) -> Result<Values> {
    fn host<T: bytemuck::AnyBitPattern + attentia_backend::Element>(b: &dyn Backend, bytes: &[u8]) -> Result<Values> {
        let typed: Vec<T> = bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect();
        through(b, &typed)
    }
    fn through<T: attentia_backend::Element>(b: &dyn Backend, typed: &[T]) -> Result<Values> {
        let (layout, mut buffer) = (whole(typed.len())?, b.alloc(T::DTYPE, typed.len())?);
        b.upload(T::host(typed), ViewMut::new(&mut buffer, &layout)?)?;
        number::read(b, View::new(&buffer, &layout)?)
    }
    match dtype {
        DType::F64 => host::<f64>(b, bytes),
        DType::F32 => host::<f32>(b, bytes),
        DType::Bf16 => host::<half::bf16>(b, bytes),
        DType::F16 => host::<half::f16>(b, bytes),
        DType::I64 => host::<i64>(b, bytes),
        DType::U32 => host::<u32>(b, bytes),
        DType::U8 => host::<u8>(b, bytes),
        DType::Bool => through(b, &bytes.iter().map(|&byte| byte != 0).collect::<Vec<_>>()),
    }
}

/// Bytes that start in the wrong place, or that are no whole number of elements, are not adopted.
fn adopts_no_misfits(b: &dyn Backend, dtype: DType) -> Result<()> {
    holds(b.adopt(Owned::window(1, 57), dtype)?.is_none(), "a start that is not aligned to 8 was adopted")?;
    let ragged = b.adopt(Owned::window(0, 63), dtype)?;
    holds(dtype.size() == 1 || ragged.is_none(), "63 bytes were adopted as whole elements")
}

fn supports(b: &dyn Backend, dtype: DType) -> Result<()> {
    FusedOp::ALL.into_iter().try_for_each(|op| match b.support(op, dtype) {
        Support::Kernel { name, .. } => holds(!name.is_empty(), "a kernel without a name"),
        Support::Compose { why } => holds(!why.is_empty(), "no kernel and no reason"),
    })
}

/// Work that was started before is done.
fn synchronised() -> Case {
    Case::new("synchronize", "after_work", Placement::Contiguous, DType::F32, |b, views| {
        let ([], [out]) = views.all();
        b.iota(Scalar::Int(0), Scalar::Int(1), out)?;
        b.synchronize()
    })
    .output(Destination::new("out", DType::F32, &[3, 7], Placement::Contiguous, 0, Accept::Exact))
}
