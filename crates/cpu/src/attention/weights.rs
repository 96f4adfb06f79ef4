//! Scores become weights: below a maximum, and below a log-sum-exp.

use crate::{
    isa::Machine,
    math::{Real, exp2_below_zero, power_less},
    rows::{LANES, blocks, put, take},
};

/// `2^((x − m) · unit)` of a row in its place, added to the lanes of a total.
///
/// # Safety
///
/// The row has `columns` elements, none above m.
#[inline(always)]
pub(super) unsafe fn weights<M: Machine, A: Real>(row: *mut A, m: A, unit: A, columns: usize, total: &mut [A; LANES]) {
    let mut sums = *total;
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let mut block = unsafe { take(row.add(at).cast_const(), len, A::NEG_INFINITY) };
        for l in 0..LANES {
            block[l] = exp2_below_zero::<M, A>(block[l] - m, unit);
            sums[l] += block[l];
        }
        // SAFETY: the caller's promise.
        unsafe { put(block, row.add(at), len) };
    });
    *total = sums;
}

/// Log-sum-exps from which on scores are taken below them before anything else. Nearer to 0 the bounds of the exponent are
/// rounded by less than half a bit, so that the bits of the power do not wrap; from 2²² on they would.
const FAR: f64 = (1u32 << 20) as f64;

/// `exp(score − lse)` of a row.
///
/// ```text
/// exponent    score · unit − lse = (score · unit − coarse) − rest        coarse: a multiple of 2⁻¹⁴
/// weight      2^(score · unit − coarse) · 2^−rest
/// ```
///
/// with lse in the exponent's units. Rounded as it is, the exponent would be the greatest error of a weight: half a last place of
/// numbers below 8 is 2.4e-7. Taken from the coarse part it is exact until its fraction is rounded, near 0; beyond 512, where the
/// coarse part itself has fewer places in f32, as exact as that.
#[derive(Clone, Copy)]
pub(super) struct Weigher<A> {
    /// In two parts, as it is multiplied by scores that may be large.
    unit: [A; 2],
    coarse: A,
    /// `2^−rest`
    factor: A,
    /// Scores that bound the exponent: below one weights are 0, and above the other there are none, but for roundings.
    lowest: A,
    highest: A,
    /// What a score is in nats, and lse, where it is far from 0: half a last place may be several bits then, and weights are
    /// made of `score − lse`.
    far: Option<[A; 2]>,
}

impl<A: Real> Weigher<A> {
    /// `nats`: what a score is in nats, as `lse` is.
    #[inline(always)]
    pub(super) fn new(nats: f64, lse: A) -> Weigher<A> {
        match lse.to_f64() {
            // After the subtraction nothing above 0 is exact, and no weight is above 1.
            far if far.abs() >= FAR => {
                let far = Some([A::from_f64(nats), lse]);
                Weigher { far, highest: A::ZERO, ..Weigher::below(1.0, 0.0) }
            }
            near => Weigher::below(nats, near),
        }
    }

    #[inline(always)]
    fn below(nats: f64, lse: f64) -> Weigher<A> {
        const PARTS: f64 = (1u32 << 14) as f64;
        let (unit, lse) = (nats * A::PER_NAT, lse * A::PER_NAT);
        // To whole parts, by a sum without any after the point.
        let shift = 1.5 * (1u64 << 52) as f64;
        let coarse = A::from_f64(((lse * PARTS + shift) - shift) / PARTS);
        let rounded = A::from_f64(unit);
        let r = (lse - coarse.to_f64()) / A::PER_NAT;
        Weigher {
            unit: [rounded, A::from_f64(unit - rounded.to_f64())],
            coarse,
            // exp(−r), to the last digit of what is so small.
            factor: A::from_f64(1.0 - r * (1.0 - r * (0.5 - r / 6.0))),
            lowest: A::from_f64((lse + A::NO_POWER.to_f64()) / unit),
            highest: A::from_f64((lse + 1.0) / unit),
            far: None,
        }
    }

    /// Scores become what [`weight`](Self::weight) takes: themselves, but far from 0.
    ///
    /// # Safety
    ///
    /// The row has `columns` elements.
    #[inline(always)]
    pub(super) unsafe fn approach<M: Machine>(&self, row: *mut A, columns: usize) {
        let Some([nats, lse]) = self.far else { return };
        for j in 0..columns {
            // SAFETY: the caller's promise.
            let score = unsafe { &mut *row.wrapping_add(j) };
            if *score != A::NEG_INFINITY {
                *score = A::mul_add::<M>(*score, nats, -lse);
            }
        }
    }

    /// 0 of a hidden key, even in a row that is NaN.
    #[inline(always)]
    pub(super) fn weight<M: Machine>(&self, score: A) -> A {
        let Weigher { unit, coarse, factor, lowest, highest, .. } = *self;
        let x = if score < lowest { lowest } else { score };
        let x = if x > highest { highest } else { x };
        let weight = power_less::<M, A>(x, unit, coarse) * factor;
        if score == A::NEG_INFINITY { A::ZERO } else { weight }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        CpuBackend, Isa,
        attention::tests::plain,
        oracle::{Lie, Sample},
    };
    use attentia_backend::{
        AttentionCotangents, AttentionGrads, AttentionOperands, AttentionOut, AttentionSaved, AttentionSpec, Backend,
        DType,
    };

    /// Each query has one key, the last or the first, however large its scores are. Gradients of q and k are products of 0
    /// and what is large: only that they are finite is asked of them.
    #[test]
    fn scores_of_any_size() {
        const LENGTH: usize = 600;
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let b = CpuBackend::with_isa(1, isa).unwrap();
            // Powers of two, of which all numbers on the way are exact; and others, where an lse is rounded by more than a bit, and
            // weights may be anything up to 1.
            let exact = [8, 12, 20, 40, 80].map(|power| (2f64.powi(power), 1.0));
            let rounded = [1e3, 1e5, 1.3e7, 1.7e9, 1.1e20].map(|size| (size, 0.1));
            for (size, scale) in exact.into_iter().chain(rounded) {
                let column =
                    |of: &dyn Fn(usize) -> f64| Sample::new(&b, DType::F32, &[1, 1, LENGTH, 1], Lie::Contiguous, of);
                let (q, k) = (column(&|t| if t % 2 == 0 { size } else { -size }), column(&|s| s as f64));
                let (v, dout) = (column(&|s| s as f64 / 600.0), column(&|t| 1.0 + (t % 2) as f64));
                let operands = AttentionOperands { scale, ..plain(&q, &k, &v) };
                let room = |shape: &[usize]| Sample::room(&b, DType::F32, shape, Lie::Contiguous);
                let (mut out, mut lse) = (room(&[1, 1, LENGTH, 1]), room(&[1, 1, LENGTH]));
                let [mut dq, mut dk, mut dv] = [(); 3].map(|()| room(&[1, 1, LENGTH, 1]));
                let results = AttentionOut { out: out.view_mut(), lse: lse.view_mut(), statistics: Vec::new() };
                let spec = AttentionSpec::default();
                b.attention(&spec, &operands, results).unwrap();
                let saved = AttentionSaved { out: out.view(), lse: lse.view() };
                let cotangents = AttentionCotangents { out: Some(dout.view()), lse: None };
                let (q, k, v) = (Some(dq.view_mut()), Some(dk.view_mut()), Some(dv.view_mut()));
                let grads = AttentionGrads { q, k, v, biases: Vec::new(), head_scalars: Vec::new(), sinks: None };
                b.attention_backward(&spec, &operands, &saved, &cotangents, grads).unwrap();
                // Behind an operand lies what is nobody's.
                let [out, dq, dk, dv] = [out, dq, dk, dv].map(|x| x.values(&b)[..LENGTH].to_vec());
                let last = (LENGTH - 1) as f64 / 600.0;
                for (t, y) in out.into_iter().enumerate() {
                    let want = if t % 2 == 0 { last } else { 0.0 };
                    assert!((y - want).abs() < 1e-6, "{isa}, {size}: output {t} is {y}");
                }
                for (s, dv) in dv.into_iter().enumerate() {
                    let want = match s {
                        0 => 600.0,
                        _ if s + 1 == LENGTH => 300.0,
                        _ => 0.0,
                    };
                    let least = if scale == 1.0 { want * (1.0 - 1e-3) } else { 0.0 };
                    assert!(
                        (least..=want * (1.0 + 1e-3)).contains(&dv),
                        "{isa}, {size}: gradient of value {s} is {dv}"
                    );
                }
                assert!(dq.iter().chain(&dk).all(|x| x.is_finite()), "{isa}, {size}");
            }
        }
    }
}
