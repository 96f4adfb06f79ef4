//! Memory: a size-class pool on huge pages.
//!
//! The first touch of a fresh 4 KiB page costs about two microseconds in the kernel, ten times the arithmetic that an
//! elementwise operation does on it. So freed blocks are kept and handed out again, and what the system gives is asked
//! for in 2 MiB pages.
//!
//! ```text
//! classes: 64 · {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, …} bytes      at most a quarter is waste, but for reused blocks
//! ≤ 256 KiB: carved from 2 MiB slabs, never returned      > 256 KiB: a mapping of its own, whole 2 MiB pages from 2 MiB
//! miss: first the next larger classes up to four times the size, then the system
//! ```
//!
//! Blocks are zero when the system gives them and hold stale numbers afterwards; they are never uninitialised memory.

use attentia_backend::{Error, ErrorKind, MemoryUse, Result};
use std::{
    fmt,
    ptr::NonNull,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Alignment of every block, in bytes: one AVX-512 register, one cache line.
pub(crate) const ALIGNMENT: usize = 64;
const HUGE_PAGE: usize = 2 << 20;
const LARGEST_CARVED: usize = 256 << 10;
/// Four classes per octave, up to 2⁴⁷ bytes.
const CLASSES: usize = 40 * 4;

/// Keeps freed blocks for the next allocation.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    free: Mutex<Free>,
    live: AtomicUsize,
    peak: AtomicUsize,
    cached: AtomicUsize,
    system_allocations: AtomicUsize,
}

struct Free {
    blocks: Vec<Vec<NonNull<u8>>>,
    /// The rest of the newest slab.
    slab: Option<(NonNull<u8>, usize)>,
    /// Everything that the system gave, to be given back when the pool goes.
    mappings: Vec<system::Mapping>,
}

// SAFETY: the pointers are to memory that the pool owns; who holds the mutex holds the only references.
unsafe impl Send for Free {}

/// A block of memory that goes back to its pool when dropped. Its bytes are always initialised.
pub(crate) struct Block {
    start: NonNull<u8>,
    class: usize,
    pool: Pool,
}

// SAFETY: a block owns its bytes, like a `Vec<u8>`.
unsafe impl Send for Block {}
// SAFETY: shared access only reads.
unsafe impl Sync for Block {}

/// The smallest class that holds `bytes`, or `None` beyond the greatest.
fn class_of(bytes: usize) -> Option<usize> {
    let units = bytes.max(1).div_ceil(ALIGNMENT);
    let class = if units <= 4 {
        units - 1
    } else {
        let octave = (units - 1).ilog2() as usize;
        let quarter = (units - 1 - (1 << octave)) >> (octave - 2);
        4 * (octave - 1) + quarter
    };
    (class < CLASSES).then_some(class)
}

/// Bytes of a block of this class.
fn class_bytes(class: usize) -> usize {
    let units = if class < 4 {
        class + 1
    } else {
        let (octave, quarter) = (class / 4 + 1, class % 4);
        (1 << octave) + ((quarter + 1) << (octave - 2))
    };
    units * ALIGNMENT
}

impl Pool {
    pub(crate) fn new() -> Pool {
        let free = Free { blocks: (0..CLASSES).map(|_| Vec::new()).collect(), slab: None, mappings: Vec::new() };
        Pool(Arc::new(Shared {
            free: Mutex::new(free),
            live: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            cached: AtomicUsize::new(0),
            system_allocations: AtomicUsize::new(0),
        }))
    }

    /// A block of at least `bytes` bytes of any content.
    pub(crate) fn alloc(&self, bytes: usize) -> Result<Block> {
        let wanted = class_of(bytes).ok_or_else(|| self.exhausted(bytes))?;
        let mut free = self.lock();
        // A block of up to four times the size serves better than a trip to the system.
        let candidates = wanted..(wanted + 9).min(CLASSES);
        let found = candidates.into_iter().find_map(|class| free.blocks[class].pop().map(|start| (start, class)));
        let (start, class) = match found {
            Some((start, class)) => {
                self.0.cached.fetch_sub(class_bytes(class), Relaxed);
                (start, class)
            }
            None => (self.fresh(&mut free, wanted, bytes)?, wanted),
        };
        drop(free);
        let live = self.0.live.fetch_add(class_bytes(class), Relaxed) + class_bytes(class);
        self.0.peak.fetch_max(live, Relaxed);
        Ok(Block { start, class, pool: self.clone() })
    }

    /// A new block from the current slab or the system.
    fn fresh(&self, free: &mut Free, class: usize, bytes: usize) -> Result<NonNull<u8>> {
        let size = class_bytes(class);
        if size > LARGEST_CARVED {
            let page = if size >= HUGE_PAGE { HUGE_PAGE } else { 4096 };
            let mapping = system::map(size.next_multiple_of(page)).ok_or_else(|| self.exhausted(bytes))?;
            self.0.system_allocations.fetch_add(1, Relaxed);
            let start = mapping.start();
            free.mappings.push(mapping);
            return Ok(start);
        }
        if free.slab.is_none_or(|(_, left)| left < size) {
            let mapping = system::map(HUGE_PAGE).ok_or_else(|| self.exhausted(bytes))?;
            self.0.system_allocations.fetch_add(1, Relaxed);
            // What is left of the old slab is given to the free lists in the largest classes that fit.
            if let Some((start, left)) = free.slab.replace((mapping.start(), HUGE_PAGE)) {
                self.shelve(free, start, left);
            }
            free.mappings.push(mapping);
        }
        let (start, left) = free.slab.ok_or_else(|| self.exhausted(bytes))?;
        // SAFETY: `left >= size` bytes of the slab follow `start`.
        let rest = unsafe { start.add(size) };
        free.slab = Some((rest, left - size));
        Ok(start)
    }

    /// Cuts `left` bytes into blocks for the free lists.
    fn shelve(&self, free: &mut Free, mut start: NonNull<u8>, mut left: usize) {
        for class in (0..CLASSES).rev() {
            let size = class_bytes(class);
            while size <= left {
                free.blocks[class].push(start);
                self.0.cached.fetch_add(size, Relaxed);
                // SAFETY: `size <= left` bytes remain.
                start = unsafe { start.add(size) };
                left -= size;
            }
        }
    }

    fn exhausted(&self, bytes: usize) -> Error {
        let MemoryUse { live, cached, .. } = self.usage();
        Error::new(ErrorKind::OutOfMemory, "alloc", format!("no room for {bytes} bytes"))
            .help(format!("{live} bytes are live and {cached} cached; use smaller batches or free tensors"))
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        // A panic cannot leave the lists half changed: every push and pop is one step.
        self.0.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn usage(&self) -> MemoryUse {
        let shared = &self.0;
        MemoryUse {
            live: shared.live.load(Relaxed),
            peak: shared.peak.load(Relaxed),
            cached: shared.cached.load(Relaxed),
            system_allocations: shared.system_allocations.load(Relaxed),
        }
    }
}

impl Block {
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let (shared, size) = (&self.pool.0, class_bytes(self.class));
        shared.live.fetch_sub(size, Relaxed);
        shared.cached.fetch_add(size, Relaxed);
        self.pool.lock().blocks[self.class].push(self.start);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Pool({:?})", self.usage())
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Block({} bytes)", class_bytes(self.class))
    }
}

#[cfg(unix)]
mod system {
    //! Anonymous mappings, on huge pages where the system has them.
    use super::HUGE_PAGE;
    use std::ptr::NonNull;

    pub(super) struct Mapping {
        base: NonNull<u8>,
        mapped: usize,
        start: NonNull<u8>,
    }

    impl Mapping {
        pub(super) fn start(&self) -> NonNull<u8> {
            self.start
        }
    }

    /// `bytes` zeroed bytes; aligned to a huge page when at least that long.
    pub(super) fn map(bytes: usize) -> Option<Mapping> {
        let huge = bytes >= HUGE_PAGE;
        let mapped = if huge { bytes.checked_add(HUGE_PAGE)? } else { bytes };
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: an anonymous mapping at an address of the system's choice touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), mapped, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return None;
        }
        let base = NonNull::new(base.cast::<u8>())?;
        let skip = if huge { base.as_ptr().align_offset(HUGE_PAGE) } else { 0 };
        // SAFETY: `skip < HUGE_PAGE`, which was added to the length above.
        let start = unsafe { base.add(skip) };
        #[cfg(target_os = "linux")]
        if huge {
            // SAFETY: the range lies inside the mapping; advice changes no content. Refusal only costs speed.
            let _ = unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        Some(Mapping { base, mapped, start })
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: this mapping was made above; the pool drops it only after every block has come back.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped) };
        }
    }
}

#[cfg(not(unix))]
mod system {
    //! Zeroed memory from the global allocator.
    use super::ALIGNMENT;
    use std::{
        alloc::{Layout, alloc_zeroed, dealloc},
        ptr::NonNull,
    };

    pub(super) struct Mapping {
        start: NonNull<u8>,
        layout: Layout,
    }

    impl Mapping {
        pub(super) fn start(&self) -> NonNull<u8> {
            self.start
        }
    }

    pub(super) fn map(bytes: usize) -> Option<Mapping> {
        let layout = Layout::from_size_align(bytes, ALIGNMENT).ok()?;
        // SAFETY: the pool never asks for zero bytes.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Mapping { start, layout })
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: allocated above with this layout.
            unsafe { dealloc(self.start.as_ptr(), self.layout) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_what_they_are_asked_for() {
        for bytes in (1..5000).chain((12..46).flat_map(|e| [(1 << e) - 1, 1 << e, (1 << e) + 1])) {
            let class = class_of(bytes).unwrap();
            let size = class_bytes(class);
            assert!(size >= bytes, "{bytes} in class {class} of {size}");
            assert!(size <= (bytes + bytes / 4).next_multiple_of(ALIGNMENT), "{bytes} in class {class} of {size}");
            assert_eq!(class_of(size), Some(class), "{size}");
        }
        assert!(class_of(1 << 60).is_none());
    }

    #[test]
    fn blocks_are_reused_and_accounted_for() {
        let pool = Pool::new();
        let sizes = [1, 64, 100, 5000, 300_000, 3 << 20];
        let blocks: Vec<Block> = sizes.iter().map(|&s| pool.alloc(s).unwrap()).collect();
        let before = pool.usage();
        assert!(before.live >= sizes.iter().sum());
        for (block, size) in blocks.iter().zip(sizes) {
            // SAFETY: the block is ours and has `size` bytes.
            unsafe { block.as_ptr().write_bytes(1, size) };
        }
        drop(blocks);
        assert_eq!(pool.usage().live, 0);
        let again: Vec<Block> = sizes.iter().map(|&s| pool.alloc(s).unwrap()).collect();
        assert_eq!(pool.usage().system_allocations, before.system_allocations);
        drop(again);
    }

    #[test]
    fn impossible_sizes_are_errors() {
        let pool = Pool::new();
        assert_eq!(pool.alloc(usize::MAX / 2).unwrap_err().kind(), ErrorKind::OutOfMemory);
        assert_eq!(pool.alloc(1 << 46).unwrap_err().kind(), ErrorKind::OutOfMemory);
    }
}
