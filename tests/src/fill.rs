//! What operands hold.

use crate::number::{Values, round, smallest_normal, top, ulp, wrap};
use attentia_backend::DType;
use half::{bf16, f16};

/// How an operand is filled, row-major over its layout.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Left as it is: NaN, or an odd number.
    Poison,
    /// Numbers without a pattern in `[low, high]`; whole ones for integers, either truth value for bool.
    Between(f64, f64),
    /// The same, one in seven of them not finite: NaN, ∞, −∞.
    Unruly(f64, f64),
    /// The numbers at which functions change their minds, one after the other, from any of them on; [`edges`].
    Edges,
    /// The same, each one `n` times: with [`Fill::Edges`] beside it, all pairs.
    EdgesRepeated(usize),
    /// Floats of any bits: of 16 bits every one of them in turn, of more bits without a pattern.
    AnyBits,
    /// These numbers, over and over.
    Given(Vec<f64>),
    /// These whole numbers, over and over.
    Whole(Vec<i64>),
}

impl Fill {
    /// Positions along an axis, without a pattern.
    pub fn positions(extent: usize) -> Fill {
        Fill::Between(0.0, extent.saturating_sub(1) as f64)
    }

    /// Writes the elements at `at`.
    pub fn write(&self, dtype: DType, seed: u64, values: &mut Values, at: &[usize]) {
        match values {
            Values::Floats(all) => {
                let edges = edges(dtype);
                at.iter().enumerate().for_each(|(n, &i)| {
                    if let Some(x) = self.float(dtype, &edges, seed, n) {
                        all[i] = round(dtype, x);
                    }
                });
            }
            Values::Integers(all) => {
                let edges = whole_edges(dtype);
                at.iter().enumerate().for_each(|(n, &i)| {
                    if let Some(x) = self.integer(&edges, seed, n) {
                        all[i] = wrap(dtype, x);
                    }
                });
            }
        }
    }

    fn float(&self, dtype: DType, edges: &[f64], seed: u64, n: usize) -> Option<f64> {
        Some(match self {
            Fill::Poison => return None,
            Fill::Between(low, high) => low + unit(seed, n) * (high - low),
            Fill::Unruly(low, high) => match bits(seed ^ 0xabcd, n) % 21 {
                0 => f64::NAN,
                1 => f64::INFINITY,
                2 => f64::NEG_INFINITY,
                _ => low + unit(seed, n) * (high - low),
            },
            Fill::Edges => edges[(n + seed as usize % edges.len()) % edges.len()],
            Fill::EdgesRepeated(times) => edges[n / times % edges.len()],
            Fill::AnyBits => match dtype {
                DType::F16 => f16::from_bits(n as u16).to_f64(),
                DType::Bf16 => bf16::from_bits(n as u16).to_f64(),
                DType::F32 => f32::from_bits(bits(seed, n) as u32) as f64,
                _ => f64::from_bits(bits(seed, n)),
            },
            Fill::Given(all) => all[n % all.len()],
            Fill::Whole(all) => all[n % all.len()] as f64,
        })
    }

    fn integer(&self, edges: &[i64], seed: u64, n: usize) -> Option<i64> {
        Some(match self {
            Fill::Poison => return None,
            Fill::Between(low, high) | Fill::Unruly(low, high) => {
                low.floor() as i64 + (unit(seed, n) * (high - low + 1.0)).floor() as i64
            }
            Fill::Edges => edges[(n + seed as usize % edges.len()) % edges.len()],
            Fill::EdgesRepeated(times) => edges[n / times % edges.len()],
            Fill::AnyBits => bits(seed, n) as i64,
            Fill::Given(all) => all[n % all.len()] as i64,
            Fill::Whole(all) => all[n % all.len()],
        })
    }
}

/// SplitMix64 of a position.
fn bits(seed: u64, n: usize) -> u64 {
    let mut z = seed.wrapping_add((n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number in [0, 1).
pub fn unit(seed: u64, n: usize) -> f64 {
    (bits(seed, n) >> 11) as f64 / (1u64 << 53) as f64
}

/// The floats at which functions change their minds: zeros, denormals, ties, limits of exponentials, the greatest
/// numbers, infinities, NaN.
pub fn edges(dtype: DType) -> Vec<f64> {
    let least = ulp(dtype, 0.0);
    let normal = smallest_normal(dtype);
    let greatest = match dtype {
        DType::F64 => f64::MAX,
        _ => top(dtype) - ulp(dtype, top(dtype) / 2.0),
    };
    let (overflow, underflow) = match dtype {
        DType::F64 => (709.78, -745.1),
        DType::F16 => (11.08, -17.3),
        _ => (88.72, -103.9),
    };
    let mut all = vec![0.0, f64::NAN, f64::INFINITY];
    for x in [least, normal, normal - least, 1e-4, 0.25, 0.5, 1.0, 1.5, 2.5, 3.0, 20.0, 100.0, 1000.5, greatest] {
        all.push(x);
    }
    let negative: Vec<f64> = all.iter().filter(|x| !x.is_nan()).map(|x| -x).collect();
    all.extend(negative);
    all.extend([overflow, overflow + 0.1, underflow, underflow - 0.2, -overflow, 1.0 + ulp(dtype, 1.0)]);
    all.into_iter().map(|x| round(dtype, x)).collect()
}

/// The same for integers and bool.
pub fn whole_edges(dtype: DType) -> Vec<i64> {
    match dtype {
        DType::I64 => vec![0, 1, -1, 2, -7, i64::MAX, i64::MIN, 1 << 40, -(1 << 33)],
        DType::U32 => vec![0, 1, 2, 7, u32::MAX as i64, 1 << 31, (1 << 31) - 1],
        DType::U8 => vec![0, 1, 2, 7, 255, 128, 127],
        _ => vec![0, 1],
    }
}
