//! What this machine can do at most, measured: the yardstick for every kernel.

#[cfg(target_arch = "x86_64")]
use crate::matmul::vector::{F32x8, F32x16, Vector};
use crate::{
    CpuBackend,
    isa::{self, Isa, Kernel, Machine},
    storage::CpuStorage,
};
use attentia_backend::{DType, Result, View};
use std::{hint::black_box, time::Instant};

/// Accumulators that don't wait for each other: more than latency × units of any processor so far, and few enough for
/// sixteen registers.
const CHAINS: usize = 12;
const ROUNDS: usize = 20;

struct FmaChains {
    iterations: usize,
}

/// Lanes of a register.
fn lanes(isa: Isa) -> usize {
    match isa {
        Isa::Portable => 4,
        Isa::Avx2 => 8,
        _ => 16,
    }
}

impl Kernel for FmaChains {
    type Output = f32;

    #[inline(always)]
    fn run<M: Machine>(self) -> f32 {
        let operands = black_box([0.999_999f32, 1e-6]);
        #[cfg(target_arch = "x86_64")]
        match lanes(M::ISA) {
            // SAFETY: this is compiled for, and runs on, a processor with the instruction set.
            16 => return unsafe { self.chains::<F32x16>(&operands) },
            // SAFETY: as above.
            8 => return unsafe { self.chains::<F32x8>(&operands) },
            _ => {}
        }
        let mut chains = [[1f32; 4]; CHAINS];
        for _ in 0..self.iterations {
            for x in chains.as_flattened_mut() {
                *x = M::mul_add(*x, operands[0], operands[1]);
            }
        }
        chains.as_flattened().iter().sum()
    }
}

#[cfg(target_arch = "x86_64")]
impl FmaChains {
    /// # Safety
    ///
    /// The processor has the instruction set of `V`.
    #[inline(always)]
    unsafe fn chains<V: Vector<Scalar = f32>>(self, operands: &[f32; 2]) -> f32 {
        // SAFETY: by contract; both operands are there.
        unsafe {
            let (a, b) = (V::splat(&operands[0]), V::splat(&operands[1]));
            let mut sums = [V::zero(); CHAINS];
            for _ in 0..self.iterations {
                for sum in &mut sums {
                    *sum = sum.fma(a, b);
                }
            }
            let mut total = sums[0];
            for sum in &sums[1..] {
                total = total.add(*sum);
            }
            total.sum()
        }
    }
}

/// Chains of multiplications of pairs, which take longer than f32's.
#[cfg(target_arch = "x86_64")]
const PAIR_CHAINS: usize = 14;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn pair_chains(iterations: usize) -> f32 {
    use std::arch::x86_64::*;
    let operands = black_box([0.5f32, 1e-6]);
    let [a, b] = operands.map(|x| _mm512_cvtne2ps_pbh(_mm512_set1_ps(x), _mm512_set1_ps(x)));
    let mut sums = [_mm512_setzero_ps(); PAIR_CHAINS];
    for _ in 0..iterations {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, a, b);
        }
    }
    sums.into_iter().fold(0.0, |total, sum| total + _mm512_reduce_add_ps(sum))
}

impl CpuBackend {
    /// The best rate of multiply-adds of bf16 in pairs, which are summed in f32, over all threads, in GFLOP/s; nothing where
    /// kernels widen bf16 to f32 instead.
    pub fn measure_pair_peak(&self) -> Option<f64> {
        #[cfg(target_arch = "x86_64")]
        if self.isa == Isa::Avx512Bf16 {
            let (iterations, tasks) = (100_000, self.threads());
            let operations = (4 * lanes(self.isa) * PAIR_CHAINS * iterations * tasks) as f64;
            return Some(best_rate(operations, || {
                // SAFETY: a backend has this instruction set only on a processor that has it.
                self.threads.run(tasks, |_| _ = black_box(unsafe { pair_chains(iterations) }));
            }));
        }
        None
    }

    /// The best rate of f32 multiply-adds over all threads, in GFLOP/s (two operations each).
    pub fn measure_fma_peak(&self) -> f64 {
        let (iterations, tasks) = (200_000, self.threads());
        let operations = (2 * lanes(self.isa) * CHAINS * iterations * tasks) as f64;
        best_rate(operations, || {
            self.threads.run(tasks, |_| {
                black_box(isa::run(self.isa, FmaChains { iterations }));
            });
        })
    }

    /// The best rate of reading the buffers that these operands lie in over all threads, in GB/s: what a kernel can reach at
    /// most that reads each of them once. Nothing for other backends' operands.
    pub fn measure_read_rate(&self, operands: &[View]) -> Option<f64> {
        const PIECE: usize = 1 << 20;
        let storages = operands.iter().map(|operand| operand.buffer().storage().as_any().downcast_ref::<CpuStorage>());
        let buffers = storages.map(|storage| Some(storage?.bytes())).collect::<Option<Vec<_>>>()?;
        let pieces: Vec<&[u8]> = buffers.iter().flat_map(|buffer| buffer.chunks(PIECE)).collect();
        let bytes: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        Some(best_rate(bytes as f64, || {
            self.threads.run(pieces.len(), |i| _ = black_box(isa::run(self.isa, Read(pieces[i]))));
        }))
    }

    /// The best rate of copying 64 MiB over all threads, in GB/s: bytes read plus bytes written.
    pub fn measure_copy_bandwidth(&self) -> Result<f64> {
        const BYTES: usize = 64 << 20;
        const PIECE: usize = 1 << 20;
        let source = CpuStorage::alloc(&self.pool, DType::U8, BYTES)?;
        let mut destination = CpuStorage::alloc(&self.pool, DType::U8, BYTES)?;
        let (from, to) = (source.bytes(), destination.bytes_mut());
        let pieces: Vec<std::sync::Mutex<&mut [u8]>> = to.chunks_mut(PIECE).map(std::sync::Mutex::new).collect();
        Ok(best_rate((2 * BYTES) as f64, || {
            self.threads.run(pieces.len(), |i| {
                if let Ok(mut piece) = pieces[i].lock() {
                    let start = i * PIECE;
                    piece.copy_from_slice(&from[start..start + PIECE]);
                }
            });
        }))
    }
}

/// Sums of a piece of memory, in as many lanes as keep loads coming.
struct Read<'a>(&'a [u8]);

impl Kernel for Read<'_> {
    type Output = u64;
    #[inline(always)]
    fn run<M: Machine>(self) -> u64 {
        let mut sums = [0u64; 64];
        for block in self.0.as_chunks::<512>().0 {
            for (sum, bytes) in sums.iter_mut().zip(block.as_chunks::<8>().0) {
                *sum = sum.wrapping_add(u64::from_ne_bytes(*bytes));
            }
        }
        sums.into_iter().fold(0, u64::wrapping_add)
    }
}

/// Units per nanosecond (so 10⁹ per second) of the fastest of several rounds.
fn best_rate(units: f64, mut work: impl FnMut()) -> f64 {
    let round = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed().as_nanos().max(1) as f64
    };
    let fastest = (0..ROUNDS).map(|_| round(&mut work)).fold(f64::INFINITY, f64::min);
    units / fastest
}

#[cfg(test)]
mod tests {
    use super::*;
    use attentia_backend::{Backend, Layout, Shape};

    #[test]
    fn limits_are_positive() {
        let cpu = CpuBackend::new(1).unwrap();
        // A kernel that left its registers would reach a few GFLOP/s at most, on any processor with these instructions.
        let least = if cpu.isa() == crate::Isa::Portable { 0.1 } else { 10.0 };
        assert!(cpu.measure_fma_peak() > least);
        assert!(cpu.measure_pair_peak().is_none_or(|peak| peak > least));
        assert!(cpu.measure_copy_bandwidth().unwrap() > 0.01);
        let buffer = cpu.alloc(DType::F32, 100_000).unwrap();
        let layout = Layout::contiguous(Shape::new(&[100_000]).unwrap());
        assert!(cpu.measure_read_rate(&[View::new(&buffer, &layout).unwrap()]).is_some_and(|rate| rate > 0.01));
    }
}
