//! Instruction sets: found at run time, each forceable, and how one kernel is compiled for all of them.
//!
//! A kernel is written once, as a scalar loop or over fixed-width lane arrays, generic over [`Machine`]:
//!
//! ```text
//! #[inline(always)] fn kernel<M: Machine>(..) { for i in 0..n { out[i] = M::mul_add(x[i], a, b) } }
//! run(isa, kernel)                 // calls it inside a function compiled for AVX-512, AVX2+FMA or the baseline
//! ```
//!
//! The compiler then vectorises the same text three times. Reductions can't be reordered by the compiler, so they are
//! written over `[f32; LANES]` accumulators, which also fixes the order of the sum. Only matrix products and a few
//! conversions use intrinsics, and the tiles of AMX assembly.

use std::fmt;

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// What the target's baseline guarantees: SSE2 on x86-64, NEON on aarch64.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL, besides those of [`Isa::Avx2`].
    Avx512,
    /// [`Isa::Avx512`], and AVX-512 BF16 for products of bf16.
    Avx512Bf16,
    /// [`Isa::Avx512Bf16`], and the tiles of AMX for products of bf16 (Linux).
    Amx,
}

impl Isa {
    /// Every instruction set, the most general first.
    pub const ALL: [Isa; 5] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16, Isa::Amx];

    /// The fastest one that this processor has.
    pub fn detect() -> Isa {
        let fast = |isa: &Isa| isa.is_available() && (*isa != Isa::Avx512Bf16 || pairs_are_fast());
        Isa::ALL.into_iter().rev().find(fast).unwrap_or(Isa::Portable)
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => ["avx2", "fma", "f16c"].iter().all(|f| feature(f)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available() && ["avx512f", "avx512bw", "avx512dq", "avx512vl"].iter().all(|f| feature(f))
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Isa::Avx512.is_available() && feature("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512Bf16.is_available() && tiles::are_available(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The name in reports and test ids.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
fn feature(name: &str) -> bool {
    match name {
        "avx2" => is_x86_feature_detected!("avx2"),
        "fma" => is_x86_feature_detected!("fma"),
        "f16c" => is_x86_feature_detected!("f16c"),
        "avx512f" => is_x86_feature_detected!("avx512f"),
        "avx512bw" => is_x86_feature_detected!("avx512bw"),
        "avx512dq" => is_x86_feature_detected!("avx512dq"),
        "avx512vl" => is_x86_feature_detected!("avx512vl"),
        "avx512bf16" => is_x86_feature_detected!("avx512bf16"),
        _ => false,
    }
}

/// Whether multiplying pairs of bf16 is faster than multiplying them as f32. Intel's processors, which have tiles for it, take
/// about two cycles for `vdpbf16ps` and half a one for a multiply-add: 70 and 180 GFLOP/s of a core, where AMD's Zen 5 doubles.
#[cfg(target_arch = "x86_64")]
fn pairs_are_fast() -> bool {
    use std::arch::x86_64::__cpuid;
    let maker = __cpuid(0);
    [maker.ebx, maker.edx, maker.ecx] != [*b"Genu", *b"ineI", *b"ntel"].map(u32::from_le_bytes)
}

#[cfg(not(target_arch = "x86_64"))]
fn pairs_are_fast() -> bool {
    false
}

/// The tiles of AMX, for which the standard library has no word yet.
#[cfg(target_arch = "x86_64")]
mod tiles {
    use std::{arch::x86_64::*, sync::OnceLock};

    /// Whether the processor has bf16 tiles, and the system gives them to this process.
    pub(super) fn are_available() -> bool {
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        *AVAILABLE.get_or_init(|| processor_has_them() && system_gives_them())
    }

    /// Intel's manual, CPUID leaf 7: EDX bit 22 is AMX-BF16, bit 24 AMX-TILE. The system saves their state when bits 17
    /// and 18 of XCR0 are set.
    fn processor_has_them() -> bool {
        #[target_feature(enable = "xsave")]
        fn saved_states() -> u64 {
            // SAFETY: register 0 exists where the system has enabled XSAVE.
            unsafe { _xgetbv(0) }
        }
        const BITS: u32 = 1 << 22 | 1 << 24;
        const STATES: u64 = 1 << 17 | 1 << 18;
        let leaf_7 = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BITS == BITS;
        let xsave_in_use = __cpuid(1).ecx & 1 << 27 != 0;
        // SAFETY: XSAVE is there and in use.
        leaf_7 && xsave_in_use && unsafe { saved_states() } & STATES == STATES
    }

    /// Linux gives the eight KiB of state only to processes that ask (Documentation/arch/x86/xstate.rst).
    #[cfg(target_os = "linux")]
    fn system_gives_them() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: a request that changes nothing but this process's permission.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }

    #[cfg(not(target_os = "linux"))]
    fn system_gives_them() -> bool {
        false
    }
}

/// What differs between instruction sets in a kernel that the compiler vectorises.
pub(crate) trait Machine: Copy + Send + Sync + 'static {
    /// Which one it is.
    const ISA: Isa;
    /// `a · b + c`, fused where the instruction set has it (a library call would be a hundred times slower).
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
    /// The same in f64.
    fn mul_add_f64(a: f64, b: f64, c: f64) -> f64;
}

/// Baseline code.
#[derive(Clone, Copy)]
pub(crate) struct Portable;
/// AVX2 + FMA code.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;
/// AVX-512 code.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

impl Machine for Portable {
    const ISA: Isa = Isa::Portable;
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
    #[inline(always)]
    fn mul_add_f64(a: f64, b: f64, c: f64) -> f64 {
        a * b + c
    }
}

macro_rules! fused_machine {
    ($name:ident) => {
        impl Machine for $name {
            const ISA: Isa = Isa::$name;
            #[inline(always)]
            fn mul_add(a: f32, b: f32, c: f32) -> f32 {
                a.mul_add(b, c)
            }
            #[inline(always)]
            fn mul_add_f64(a: f64, b: f64, c: f64) -> f64 {
                a.mul_add(b, c)
            }
        }
    };
}
fused_machine!(Avx2);
fused_machine!(Avx512);

/// A piece of work that [`run`] compiles for each instruction set: a struct of arguments with an
/// `#[inline(always)]` body.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;
    /// The body; everything that it calls should be `#[inline(always)]` too.
    fn run<M: Machine>(self) -> Self::Output;
}

/// Runs a kernel with the instructions of `isa`.
#[inline]
pub(crate) fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        // Not inlined where a kernel runs another one: then it is meant to be apart.
        #[inline(never)]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2<K: Kernel>(kernel: K) -> K::Output {
            kernel.run::<Avx2>()
        }
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn avx512<K: Kernel>(kernel: K) -> K::Output {
            kernel.run::<Avx512>()
        }
        match isa {
            // SAFETY: a `CpuBackend` holds an instruction set only after `is_available` has confirmed it.
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => return unsafe { avx512(kernel) },
            // SAFETY: as above.
            Isa::Avx2 => return unsafe { avx2(kernel) },
            Isa::Portable => {}
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = isa;
    kernel.run::<Portable>()
}
