//! Zeroed memory from the system: anonymous mappings, on huge pages where the system has them.

use std::ptr::NonNull;

/// Memory that goes back to the system when dropped.
pub(super) struct Mapping {
    memory: platform::Mapping,
    #[cfg(test)]
    _share: quota::Share,
}

impl Mapping {
    /// Its first byte; aligned to a huge page when the mapping is at least that long.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.memory.start()
    }
}

/// `bytes` zeroed bytes, at least one; `None` when the system refuses.
pub(super) fn map(bytes: usize) -> Option<Mapping> {
    Some(Mapping {
        #[cfg(test)]
        _share: quota::take(bytes)?,
        memory: platform::map(bytes)?,
    })
}

/// Memory whose last byte lies before a page that nobody may touch. It goes back to the system when dropped, so that its
/// addresses may not be touched any more either.
pub(super) struct Guarded {
    memory: platform::Mapping,
    bytes: usize,
}

impl Guarded {
    /// Its first byte: aligned as the number of bytes is.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.memory.start()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes
    }
}

/// `bytes` bytes of the value `fill` before an inaccessible page; `None` when the system refuses, or knows no such pages.
pub(super) fn guarded(bytes: usize, fill: u8) -> Option<Guarded> {
    let memory = platform::guarded(bytes)?;
    // SAFETY: the mapping has this many bytes from its start, and nobody else knows of it yet.
    unsafe { memory.start().write_bytes(fill, bytes) };
    Some(Guarded { memory, bytes })
}

/// For tests: a system that has only so many bytes for the thread that asks.
#[cfg(test)]
pub(super) mod quota {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    /// Lifts the limit when dropped: a thread may run several tests.
    pub(in crate::pool) struct Limit;

    pub(in crate::pool) fn limit(bytes: usize) -> Limit {
        LEFT.set(bytes);
        Limit
    }

    impl Drop for Limit {
        fn drop(&mut self) {
            LEFT.set(usize::MAX);
        }
    }

    pub(in crate::pool) fn left() -> usize {
        LEFT.get()
    }

    /// What a mapping took, until it is dropped.
    pub(super) struct Share(usize);

    pub(super) fn take(bytes: usize) -> Option<Share> {
        LEFT.set(LEFT.get().checked_sub(bytes)?);
        Some(Share(bytes))
    }

    impl Drop for Share {
        fn drop(&mut self) {
            LEFT.set(LEFT.get().saturating_add(self.0));
        }
    }
}

#[cfg(unix)]
mod platform {
    use crate::pool::HUGE_PAGE;
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

    /// At the end of the pages before an inaccessible one.
    pub(super) fn guarded(bytes: usize) -> Option<Mapping> {
        // SAFETY: a question.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
        let usable = bytes.checked_next_multiple_of(page)?;
        let mapped = usable.checked_add(page)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: as above.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), mapped, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return None;
        }
        let base = NonNull::new(base.cast::<u8>())?;
        // SAFETY: `bytes <= usable < mapped`.
        let mapping = Mapping { base, mapped, start: unsafe { base.add(usable - bytes) } };
        // SAFETY: pages of this mapping, which is dropped if it can't be used.
        let opened = usable == 0
            || unsafe { libc::mprotect(base.as_ptr().cast(), usable, libc::PROT_READ | libc::PROT_WRITE) } == 0;
        opened.then_some(mapping)
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: this mapping was made above; the pool drops it only while no block of it is in use.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped) };
        }
    }
}

#[cfg(not(unix))]
mod platform {
    //! The global allocator stands in for mappings.
    use crate::pool::ALIGNMENT;
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

    pub(super) fn guarded(_bytes: usize) -> Option<Mapping> {
        None
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: allocated above with this layout; the pool drops it only while no block of it is in use.
            unsafe { dealloc(self.start.as_ptr(), self.layout) };
        }
    }
}
