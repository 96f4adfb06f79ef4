//! Memory: a size-class pool on huge pages.
//!
//! The first touch of a fresh 4 KiB page costs about two microseconds in the kernel, ten times the arithmetic that an
//! elementwise operation does on it. So freed blocks are kept and handed out again, and what the system gives is asked
//! for in 2 MiB pages.
//!
//! ```text
//! classes: 64 · {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, …} bytes      at most a quarter is waste, but for reused blocks
//! ≤ 256 KiB: carved from 2 MiB slabs, never returned      > 256 KiB: a mapping of its own, whole 2 MiB pages from 2 MiB
//! 1 MiB, a common size of weights: two to a huge page, which goes back when both are free
//! miss: first the next larger classes up to twice the size, then the system
//! refused by the system: every free block that is a whole mapping goes back to it, and it is asked once more
//! ```
//!
//! Blocks are zero when the system gives them and hold stale numbers afterwards; they are never uninitialised memory.
//!
//! A guarded pool keeps nothing: each block is a mapping of its own that ends at an inaccessible page, for tests of what kernels
//! read and write.

mod system;

use attentia_backend::{Error, ErrorKind, MemoryUse, Result};
use std::{
    collections::HashSet,
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
/// Of a block that has a huge page with one other.
const HALF_A_PAGE: usize = HUGE_PAGE / 2;
const CLASSES_PER_OCTAVE: usize = 4;
/// Up to 2⁴⁷ bytes.
const CLASSES: usize = 40 * CLASSES_PER_OCTAVE;

/// Keeps freed blocks for the next allocation.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    guarded: bool,
    free: Mutex<Free>,
    live: AtomicUsize,
    peak: AtomicUsize,
    cached: AtomicUsize,
    system_allocations: AtomicUsize,
}

struct Free {
    /// By class. One for which [`is_mapping`] holds is a whole mapping, any other a part of one.
    blocks: Vec<Vec<NonNull<u8>>>,
    /// The rest of the newest slab.
    slab: Option<(NonNull<u8>, usize)>,
    /// The second half of the newest page that two blocks share.
    half: Option<NonNull<u8>>,
    /// Everything that the system gave and has not got back; the rest goes back with the pool.
    mappings: Vec<system::Mapping>,
}

// SAFETY: the pointers are to memory that the pool owns; who holds the mutex holds the only references.
unsafe impl Send for Free {}

/// A block of memory that goes back to its pool when dropped. Its bytes are always initialised.
pub(crate) struct Block {
    start: NonNull<u8>,
    origin: Origin,
    pool: Pool,
}

/// Where a block comes from.
enum Origin {
    /// From blocks of this class, to which it returns.
    Class(usize),
    Guarded(system::Guarded),
}

impl Origin {
    fn bytes(&self) -> usize {
        match self {
            Origin::Class(class) => class_bytes(*class),
            Origin::Guarded(memory) => memory.len(),
        }
    }
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

/// Whether blocks of so many bytes are mappings of their own.
fn is_mapping(bytes: usize) -> bool {
    bytes > LARGEST_CARVED && bytes != HALF_A_PAGE
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
        Pool::with(false)
    }

    /// A pool whose blocks end at inaccessible pages, and which keeps none.
    pub(crate) fn guarded() -> Pool {
        Pool::with(true)
    }

    fn with(guarded: bool) -> Pool {
        let free =
            Free { blocks: (0..CLASSES).map(|_| Vec::new()).collect(), slab: None, half: None, mappings: Vec::new() };
        Pool(Arc::new(Shared {
            guarded,
            free: Mutex::new(free),
            live: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            cached: AtomicUsize::new(0),
            system_allocations: AtomicUsize::new(0),
        }))
    }

    /// A block of at least `bytes` bytes of any content.
    pub(crate) fn alloc(&self, bytes: usize) -> Result<Block> {
        if self.0.guarded {
            return self.alloc_guarded(bytes);
        }
        let wanted = class_of(bytes).ok_or_else(|| self.exhausted(bytes))?;
        let mut free = self.lock();
        // A block of up to twice the size serves better than a trip to the system. A larger one is left to those that need it:
        // while a scratch of one MiB holds one of four, a gradient of four gets another from the system.
        let candidates = wanted..(wanted + CLASSES_PER_OCTAVE + 1).min(CLASSES);
        let found = candidates.into_iter().find_map(|class| free.blocks[class].pop().map(|start| (start, class)));
        let (start, class) = match found {
            Some((start, class)) => {
                self.0.cached.fetch_sub(class_bytes(class), Relaxed);
                (start, class)
            }
            None => (self.fresh(&mut free, wanted, bytes)?, wanted),
        };
        drop(free);
        Ok(self.lend(start, Origin::Class(class)))
    }

    fn alloc_guarded(&self, bytes: usize) -> Result<Block> {
        /// Numbers of these bytes are neither 0 nor NaN, in any type: what a kernel takes from there shows.
        const STALE: u8 = 0x4b;
        let memory = system::guarded(bytes, STALE).ok_or_else(|| self.exhausted(bytes))?;
        self.0.system_allocations.fetch_add(1, Relaxed);
        Ok(self.lend(memory.start(), Origin::Guarded(memory)))
    }

    fn lend(&self, start: NonNull<u8>, origin: Origin) -> Block {
        let live = self.0.live.fetch_add(origin.bytes(), Relaxed) + origin.bytes();
        self.0.peak.fetch_max(live, Relaxed);
        Block { start, origin, pool: self.clone() }
    }

    /// A new block from the current slab or the system.
    fn fresh(&self, free: &mut Free, class: usize, bytes: usize) -> Result<NonNull<u8>> {
        let size = class_bytes(class);
        if size == HALF_A_PAGE {
            if let Some(start) = free.half.take() {
                return Ok(start);
            }
            let mapping = self.map(free, HUGE_PAGE).ok_or_else(|| self.exhausted(bytes))?;
            let start = mapping.start();
            free.mappings.push(mapping);
            // SAFETY: the second half of the page.
            free.half = Some(unsafe { start.add(size) });
            return Ok(start);
        }
        if is_mapping(size) {
            let page = if size >= HUGE_PAGE { HUGE_PAGE } else { 4096 };
            let mapping = self.map(free, size.next_multiple_of(page)).ok_or_else(|| self.exhausted(bytes))?;
            let start = mapping.start();
            free.mappings.push(mapping);
            return Ok(start);
        }
        if free.slab.is_none_or(|(_, left)| left < size) {
            let mapping = self.map(free, HUGE_PAGE).ok_or_else(|| self.exhausted(bytes))?;
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

    /// A mapping of the system's. What is cached is worth less than an allocation that fails: when the system refuses,
    /// it gets back what it can, and is asked once more.
    fn map(&self, free: &mut Free, bytes: usize) -> Option<system::Mapping> {
        let mapping = system::map(bytes).or_else(|| self.release(free).then(|| system::map(bytes)).flatten())?;
        self.0.system_allocations.fetch_add(1, Relaxed);
        Some(mapping)
    }

    /// Gives all free blocks that are whole mappings back to the system, and pages of which both halves are free; whether there
    /// were any. All at once, because only neighbours in the address space together make room for something larger.
    fn release(&self, free: &mut Free) -> bool {
        let mut released = HashSet::new();
        for (class, blocks) in free.blocks.iter_mut().enumerate().filter(|(c, _)| is_mapping(class_bytes(*c))) {
            self.0.cached.fetch_sub(blocks.len() * class_bytes(class), Relaxed);
            released.extend(blocks.drain(..));
        }
        self.release_pages(free, &mut released);
        free.mappings.retain(|mapping| !released.contains(&mapping.start()));
        !released.is_empty()
    }

    /// Takes pages of which both halves are free off the lists.
    fn release_pages(&self, free: &mut Free, released: &mut HashSet<NonNull<u8>>) {
        let Some(class) = class_of(HALF_A_PAGE) else { return };
        let halves: HashSet<_> = free.blocks[class].iter().copied().chain(free.half).collect();
        let mut gone = HashSet::new();
        for first in free.mappings.iter().map(|mapping| mapping.start()).filter(|first| halves.contains(first)) {
            // SAFETY: a block of this class that begins a mapping is the first half of a page.
            let second = unsafe { first.add(HALF_A_PAGE) };
            if halves.contains(&second) {
                released.insert(first);
                gone.extend([first, second]);
            }
        }
        let before = free.blocks[class].len();
        free.blocks[class].retain(|half| !gone.contains(half));
        self.0.cached.fetch_sub((before - free.blocks[class].len()) * HALF_A_PAGE, Relaxed);
        free.half = free.half.filter(|half| !gone.contains(half));
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
        let (shared, size) = (&self.pool.0, self.origin.bytes());
        shared.live.fetch_sub(size, Relaxed);
        if let Origin::Class(class) = self.origin {
            shared.cached.fetch_add(size, Relaxed);
            self.pool.lock().blocks[class].push(self.start);
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Pool({:?})", self.usage())
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Block({} bytes)", self.origin.bytes())
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
    fn a_block_of_twice_the_size_serves_and_a_larger_one_is_left() {
        let pool = Pool::new();
        drop(pool.alloc(4 << 20).unwrap());
        let of_system = |bytes| {
            let before = pool.usage().system_allocations;
            let block = pool.alloc(bytes).unwrap();
            (pool.usage().system_allocations - before, block)
        };
        let (taken, small) = of_system(1 << 20);
        assert_eq!(taken, 1, "the block of four times the size is left");
        assert_eq!(of_system(2 << 20).0, 0, "it serves half of its size");
        assert_eq!(of_system(4 << 20).0, 0, "and its own");
        drop(small);
    }

    #[test]
    fn cached_mappings_go_back_before_memory_runs_out() {
        let _limit = system::quota::limit(10 << 20);
        let pool = Pool::new();
        let (small, large) = (pool.alloc(1000).unwrap(), pool.alloc(4 << 20).unwrap());
        let before = pool.usage();
        assert_eq!(pool.alloc(5 << 20).unwrap_err().kind(), ErrorKind::OutOfMemory, "nothing is cached");
        assert_eq!(pool.usage(), before);
        drop(large);
        assert_eq!(pool.usage().cached, before.cached + (4 << 20));
        let larger = pool.alloc(5 << 20).unwrap();
        let after = pool.usage();
        assert_eq!((after.cached, after.live), (before.cached, before.live + (1 << 20)));
        assert_eq!(after.system_allocations, before.system_allocations + 1);
        assert_eq!(pool.alloc(5 << 20).unwrap_err().kind(), ErrorKind::OutOfMemory, "live blocks stay");
        for (block, bytes) in [(&small, 1000), (&larger, 5 << 20)] {
            // SAFETY: the block is ours and has this many bytes.
            unsafe { block.as_ptr().write_bytes(1, bytes) };
        }
        drop((small, larger));
        let again = pool.alloc(5 << 20).unwrap();
        assert_eq!(pool.usage().system_allocations, after.system_allocations, "what comes back is kept as before");
        drop((again, pool));
        assert_eq!(system::quota::left(), 10 << 20, "every mapping goes back once");
    }

    #[test]
    fn a_slab_takes_the_place_of_a_cached_mapping_but_is_never_given_back() {
        const MAPPED: usize = HALF_A_PAGE / 2 * 3;
        let _limit = system::quota::limit(2 << 20);
        let pool = Pool::new();
        drop(pool.alloc(MAPPED).unwrap());
        assert_eq!(pool.usage().cached, MAPPED);
        let small = pool.alloc(64).unwrap();
        assert_eq!((pool.usage().cached, pool.usage().live), (0, 64));
        drop(small);
        assert_eq!(pool.alloc(MAPPED).unwrap_err().kind(), ErrorKind::OutOfMemory);
        assert_eq!(pool.usage().cached, 64);
    }

    #[test]
    fn two_blocks_of_half_a_page_share_it() {
        let _limit = system::quota::limit(HUGE_PAGE);
        let pool = Pool::new();
        let first = pool.alloc(HALF_A_PAGE).unwrap();
        assert_eq!(
            pool.alloc(HALF_A_PAGE / 2).unwrap_err().kind(),
            ErrorKind::OutOfMemory,
            "the other half is not for it"
        );
        let second = pool.alloc(HALF_A_PAGE).unwrap();
        assert_eq!(pool.usage().system_allocations, 1);
        assert_eq!(second.as_ptr().addr() - first.as_ptr().addr(), HALF_A_PAGE);
        #[cfg(unix)]
        assert_eq!(first.as_ptr().addr() % HUGE_PAGE, 0);
        drop(second);
        assert_eq!(pool.alloc(HUGE_PAGE).unwrap_err().kind(), ErrorKind::OutOfMemory, "half of it is live");
        assert_eq!(pool.usage().cached, HALF_A_PAGE);
        let second = pool.alloc(HALF_A_PAGE).unwrap();
        drop((first, second));
        let page = pool.alloc(HUGE_PAGE).unwrap();
        assert_eq!((pool.usage().cached, pool.usage().live), (0, HUGE_PAGE), "both halves went back");
        drop(page);
        drop(pool.alloc(HALF_A_PAGE).unwrap());
        let page = pool.alloc(HUGE_PAGE).unwrap();
        assert_eq!(pool.usage().cached, 0, "and one with a half that nobody had");
        drop((page, pool));
        assert_eq!(system::quota::left(), HUGE_PAGE);
    }

    #[cfg(unix)]
    #[test]
    fn guarded_blocks_end_at_a_page_and_are_not_kept() {
        let pool = Pool::guarded();
        for bytes in [0, 1, 6, 4096, 5000, 3 << 20] {
            let block = pool.alloc(bytes).unwrap();
            let end = block.as_ptr().addr() + bytes;
            assert!(end.is_multiple_of(4096), "{bytes} bytes end at {end:#x}");
            // SAFETY: the block is ours and has `bytes` bytes.
            unsafe { block.as_ptr().write_bytes(1, bytes) };
            assert_eq!(pool.usage().live, bytes);
        }
        assert_eq!((pool.usage().live, pool.usage().cached), (0, 0));
        assert_eq!(pool.alloc(usize::MAX - 100).unwrap_err().kind(), ErrorKind::OutOfMemory);
    }

    #[test]
    fn impossible_sizes_are_errors() {
        let pool = Pool::new();
        assert_eq!(pool.alloc(usize::MAX / 2).unwrap_err().kind(), ErrorKind::OutOfMemory);
        assert_eq!(pool.alloc(1 << 46).unwrap_err().kind(), ErrorKind::OutOfMemory);
    }
}
