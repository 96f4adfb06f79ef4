//! Sequences that are packed into one are the sequences one by one.

use crate::{cpu, random};
use attentia_attention::segment_ids;
use attentia_backend::{Alignment, Causal, DType};
use attentia_tensor::{Attention, Fallback, Result, Tensor, Var, grad};

/// Where five sequences begin and end: longer than a block of keys, shorter than one of queries, of one position.
const CUMULATIVE: [usize; 6] = [0, 300, 301, 371, 888, 928];

/// A sum of a few hundred terms in another order, for f32 and f64.
const REORDERED: [(DType, f64); 2] = [(DType::F32, 2e-5), (DType::F64, 1e-13)];

/// The output, and the gradients of its weighted sum.
fn with_gradients(output: Tensor, weights: &Tensor, leaves: &[Tensor]) -> Result<Vec<Vec<f64>>> {
    let gradients = grad(&[&output], Some(&[weights]), &leaves.iter().collect::<Vec<_>>(), false)?;
    let all = [Some(output.detach())].into_iter().chain(gradients).flatten();
    all.map(|x| x.to_dtype(DType::F64)?.to_vec::<f64>()).collect()
}

#[test]
fn packed_sequences_are_those_run_one_by_one() {
    let device = cpu(2);
    let total = CUMULATIVE[5];
    for (dtype, tolerance) in REORDERED {
        for window in [None, Some(40)] {
            let heads = [(1, 4), (2, 2), (3, 2), (4, 4)];
            let [q, k, v, weights] = heads.map(|(seed, h)| random(seed, &[1, h, total, 16], dtype, &device).unwrap());
            let leaves = [q, k, v].map(|x| Var::new(x).unwrap().tensor());
            let [q, k, v] = &leaves;
            let ids = segment_ids(&CUMULATIVE, total, &device).unwrap();
            let causal = Causal::Yes(Alignment::BottomRight);
            let packed = Attention {
                causal,
                window,
                segments: Some([&ids, &ids]),
                fallback: Fallback::Deny,
                ..Attention::new(q, k, v)
            };
            let together = with_gradients(packed.run().unwrap().output, &weights, &leaves).unwrap();
            let one = |ends: &[usize]| {
                let [q, k, v] = [q, k, v].map(|x| x.narrow(2, ends[0], ends[1] - ends[0]).unwrap());
                Attention { causal, window, ..Attention::new(&q, &k, &v) }.run().unwrap().output
            };
            let apart: Vec<Tensor> = CUMULATIVE.windows(2).map(one).collect();
            let apart = Tensor::cat(&apart.iter().collect::<Vec<_>>(), 2).unwrap();
            let apart = with_gradients(apart, &weights, &leaves).unwrap();
            assert_eq!((together.len(), apart.len()), (4, 4));
            for ((what, a), b) in ["out", "dq", "dk", "dv"].iter().zip(&together).zip(&apart) {
                let greatest = b.iter().fold(0f64, |m, x| m.max(x.abs()));
                for (i, (x, y)) in a.iter().zip(b).enumerate() {
                    assert!((x - y).abs() <= tolerance * greatest, "{dtype} {window:?} {what}[{i}]: {x:e} for {y:e}");
                }
            }
        }
    }
}
