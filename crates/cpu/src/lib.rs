//! The CPU backend: kernels in `std`'s SIMD types and auto-vectorised loops, chosen at run time.
//!
//! ```text
//! backend.rs      impl Backend: each entry forwards to the module of its name
//! isa.rs          instruction sets, and how one kernel is compiled for all of them
//! pool.rs         memory on huge pages          storage.rs   typed access to a view's memory
//! nest.rs         merged loop nests             threads.rs   parallel loops with a fixed schedule
//! rows.rs         rows of any dtype and stride  math.rs      exp, log, tanh, erf … that vectorise
//! elementwise/ reduce/ matmul/ index.rs …       the kernels
//! ```
//!
//! # Invariants
//!
//! - The order of every sum is a function of shape, dtype and instruction set, never of the number of threads; sums run in
//!   fixed chunks. The same bits come out of 1, 2 or 7 threads.
//! - No operand is copied to make it contiguous: kernels walk strides, or pack tiles.
//! - A direct caller's mistakes are errors: every entry checks the shapes that its pointers rely on.
//!
//! ```
//! use attentia_cpu::{CpuBackend, Isa};
//! use attentia_backend::Backend;
//! let cpu = CpuBackend::new(2)?;                       // two threads, the best instruction set
//! assert_eq!(cpu.name(), "cpu");
//! let portable = CpuBackend::with_isa(1, Isa::Portable)?;
//! assert_eq!(portable.isa(), Isa::Portable);
//! # Ok::<(), attentia_backend::Error>(())
//! ```

mod activation;
mod adamw;
mod attention;
mod backend;
mod check;
mod convert;
mod cross_entropy;
mod dropout;
mod elementwise;
mod index;
mod isa;
mod math;
mod matmul;
mod nest;
mod norm;
#[cfg(test)]
mod oracle;
mod pool;
mod probe;
mod random;
mod reduce;
mod rows;
mod softmax;
mod sort;
mod storage;
mod threads;
mod transfer;

pub use isa::Isa;

use attentia_backend::{Error, ErrorKind, Result};

/// The CPU as a compute engine: an instruction set, a pool of threads and a pool of memory.
#[derive(Debug)]
pub struct CpuBackend {
    isa: Isa,
    threads: threads::Threads,
    pool: pool::Pool,
}

impl CpuBackend {
    /// `threads` workers (0: one per core) and the best instruction set of this processor.
    pub fn new(threads: usize) -> Result<CpuBackend> {
        CpuBackend::with_isa(threads, Isa::detect())
    }

    /// `threads` workers (0: one per core) and a forced instruction set; an error when the processor lacks it.
    pub fn with_isa(threads: usize, isa: Isa) -> Result<CpuBackend> {
        if !isa.is_available() {
            let what = format!("this processor has no {isa}");
            let help = format!("the best it has is {}", Isa::detect());
            return Err(Error::new(ErrorKind::BackendUnavailable, "cpu", what).help(help));
        }
        Ok(CpuBackend { isa, threads: threads::Threads::new(threads)?, pool: pool::Pool::new() })
    }

    /// As [`with_isa`](Self::with_isa), and all its memory, scratch included, ends at inaccessible pages and is given back at
    /// once: a kernel that reads or writes behind an operand, or one that is gone, ends the process. For tests; slow. Allocations
    /// fail where the system has no such pages.
    pub fn guarded(threads: usize, isa: Isa) -> Result<CpuBackend> {
        Ok(CpuBackend { pool: pool::Pool::guarded(), ..CpuBackend::with_isa(threads, isa)? })
    }

    /// The instruction set that its kernels use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Number of threads that its kernels use.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// How many kernels ran on more than one worker so far.
    pub fn parallel_runs(&self) -> usize {
        self.threads.parallel_runs()
    }
}
