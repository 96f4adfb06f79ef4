//! Kernel against composition, chunks against the whole, and what is refused.

use super::*;
use crate::{Device, RngKey, Var, fused::attention::chunks::with_budget, grad, no_grad, without_kernels};
use attentia_backend::{Alignment, Causal, Dropout, ScoreExpr};

fn device() -> Device {
    Device::new(attentia_reference::ReferenceBackend::new())
}

fn random(seed: u64, shape: &[usize], device: &Device) -> Tensor {
    Tensor::rand_uniform(RngKey::new(seed), -1.5, 1.5, shape, DType::F64, device).unwrap()
}

/// All maps, whose sizes fit nothing evenly.
fn all<'a>(weights: &'a Tensor, ids: [&'a Tensor; 2], rows: &'a [usize]) -> Vec<WeightMap<'a>> {
    let [queries, keys] = ids;
    vec![
        WeightMap::Columns { weights: None },
        WeightMap::Columns { weights: Some(weights) },
        WeightMap::Totals,
        WeightMap::Diagonals,
        WeightMap::Blocks { size: 2 },
        WeightMap::Blocks { size: 100 },
        WeightMap::Segments { queries, keys, count: 3 },
        WeightMap::Top { k: 4 },
        WeightMap::Rows { queries: rows },
    ]
}

#[test]
fn kernel_and_composition_agree() {
    let device = device();
    for (t, s, causal) in [
        (5, 7, Causal::No),
        (5, 7, Causal::Yes(Alignment::BottomRight)),
        (7, 3, Causal::Yes(Alignment::BottomRight)), // fewer keys than the list, and queries that see none
        (3, 1, Causal::Yes(Alignment::TopLeft)),
        (3, 0, Causal::No),
        (0, 3, Causal::No),
    ] {
        let (q, k) = (random(1, &[2, 4, t, 3], &device), random(2, &[2, 2, s, 3], &device));
        let (bias, weights) = (random(3, &[4, t, s], &device), random(4, &[2, 4, t], &device));
        let ids = |extent: usize| {
            let ids: Vec<i64> = (0..2 * extent as i64).map(|i| i * i % 5 - 1).collect();
            Tensor::from_slice(&ids, &[2, extent], &device).unwrap()
        };
        let (queries, keys) = (ids(t), ids(s));
        let rows: Vec<usize> = (0..t).rev().chain((0..t).take(1)).collect();
        let (biases, cap) = ([&bias], ScoreExpr::Score.tanh());
        let dropout = Some(Dropout { p: 0.3, key: RngKey::new(6) });
        let attention =
            Attention { causal, dropout, biases: &biases, modifier: Some(&cap), ..Attention::new(&q, &k, &k) };
        let lse = attention.run().unwrap().lse;
        let maps = all(&weights, [&queries, &keys], &rows);
        assert!(
            attention.explain_maps().unwrap().is_kernel() && attention.explain_gradient_maps().unwrap().is_kernel()
        );
        let dout = random(5, &[2, 4, t, 3], &device);
        let unordered = not_top(&maps);
        let run = || {
            let mut all = attention.maps(&lse, &maps).unwrap();
            all.extend(attention.gradient_maps(&lse, &dout, &unordered).unwrap());
            all
        };
        let (by_kernel, composed) = (run(), without_kernels(run));
        for ((map, a), b) in maps.iter().chain(&unordered).zip(&by_kernel).zip(&composed) {
            assert_eq!(a.len(), b.len(), "{map:?}");
            for (a, b) in a.iter().zip(b) {
                assert_eq!((a.shape(), a.dtype()), (b.shape(), b.dtype()), "{map:?}");
                let values = |x: &Tensor| x.to_dtype(DType::F64).unwrap().to_vec::<f64>().unwrap();
                for (x, y) in values(a).into_iter().zip(values(b)) {
                    assert!((x - y).abs() < 1e-12, "T {t}, S {s}, {map:?}: {x} and {y}");
                }
            }
        }
    }
}

/// What can be had of weights times their gradients.
fn not_top<'a>(maps: &[WeightMap<'a>]) -> Vec<WeightMap<'a>> {
    maps.iter().filter(|map| !matches!(map, WeightMap::Top { .. })).copied().collect()
}

/// f64; sums over queries in another order.
const REORDERED: f64 = 1e-12;

#[test]
fn chunks_give_what_the_whole_gives() {
    let device = device();
    let (t, s) = (7, 6);
    let row = 2 * 4 * s * 8;
    let ids = |extent: usize| {
        let ids: Vec<i64> = (0..2 * extent as i64).map(|i| i * i % 5 - 1).collect();
        Tensor::from_slice(&ids, &[2, extent], &device).unwrap()
    };
    let (ids, rows) = ([ids(t), ids(s)], [6, 0, 3, 3, 5, 0]);
    let leaf = |seed, shape: &[usize]| Var::new(random(seed, shape, &device)).unwrap().tensor();
    let leaves = [
        leaf(1, &[2, 4, t, 3]),
        leaf(2, &[2, 2, s, 3]),
        leaf(3, &[4, t, s]),
        leaf(4, &[2, 4, t]),
        leaf(5, &[2, 4, t, 3]),
    ];
    let [q, k, bias, weights, dout] = &leaves;
    let attention = Attention {
        causal: Causal::Yes(Alignment::BottomRight), // the first query sees nothing
        biases: &[bias],
        dropout: Some(Dropout { p: 0.3, key: RngKey::new(6) }),
        ..Attention::new(q, k, k)
    };
    let lse = attention.run().unwrap().lse;
    // Blocks of two, of four and of all queries: within chunks, across some, across all.
    let mut maps = all(weights, [&ids[0], &ids[1]], &rows);
    maps.push(WeightMap::Blocks { size: 4 });
    let of = |budget: usize| {
        with_budget(budget, || {
            let times_gradients = attention.gradient_maps(&lse, dout, &not_top(&maps)).unwrap();
            let maps = attention.maps(&lse, &maps).unwrap().into_iter().chain(times_gradients);
            let maps: Vec<Tensor> = maps.flatten().collect();
            let terms = maps.iter().filter(|map| map.requires_grad()).enumerate();
            let terms = terms.map(|(i, map)| {
                let weight = random(10 + i as u64, map.shape(), &device);
                (map * &weight).unwrap().sum_all().unwrap()
            });
            let loss = terms.reduce(|a, b| (a + b).unwrap()).unwrap();
            let gradients = grad(&[&loss], None, &leaves.each_ref(), false).unwrap();
            let all = maps.iter().cloned().chain(gradients.into_iter().map(Option::unwrap));
            all.map(|x| x.detach().to_dtype(DType::F64).unwrap()).collect::<Vec<_>>()
        })
    };
    let whole = of(usize::MAX);
    for rows in 1..t {
        for (i, (a, b)) in whole.iter().zip(of(rows * row)).enumerate() {
            assert_eq!(a.shape(), b.shape());
            for (x, y) in a.to_vec::<f64>().unwrap().into_iter().zip(b.to_vec::<f64>().unwrap()) {
                assert!((x - y).abs() < REORDERED, "{rows} rows at a time, result {i}: {x} and {y}");
            }
        }
    }
}

#[test]
fn gradients_are_those_of_normalised_weights_whatever_the_lse_carries() {
    let device = device();
    let q = Var::new(random(1, &[1, 1, 3, 2], &device)).unwrap();
    let k = random(2, &[1, 1, 4, 2], &device);
    let gradient = |detached: bool| {
        let q_now = q.tensor();
        let attention = Attention::new(&q_now, &k, &k);
        let lse = attention.run().unwrap().lse;
        let lse = if detached { lse.detach() } else { lse };
        let mass = attention.column_mass(&lse, None).unwrap();
        let loss = mass.square().unwrap().sum_all().unwrap();
        loss.backward().unwrap().remove(&q).unwrap().to_vec::<f64>().unwrap()
    };
    assert_eq!(gradient(true), gradient(false));
    assert!(gradient(true).iter().any(|x| x.abs() > 1e-3));
}

/// The derivative of a loss by a factor on the output of a head.
#[test]
fn importance_of_heads_is_a_difference_of_their_gates() {
    let device = device();
    for causal in [Causal::No, Causal::Yes(Alignment::BottomRight)] {
        let x = Var::new(random(1, &[2, 4, 6, 3], &device)).unwrap().tensor();
        let (k, v) = (random(2, &[2, 2, 5, 3], &device), random(3, &[2, 2, 5, 2], &device)); // grouped heads
        let dropout = Some(Dropout { p: 0.2, key: RngKey::new(6) });
        let attention = Attention { causal, dropout, ..Attention::new(&x, &k, &v) };
        let attended = attention.run().unwrap();
        // Some loss that is not linear in the outputs, and mixes heads.
        let loss_of = |output: &Tensor| output.sum(&[1], false).unwrap().tanh().unwrap().sum_all().unwrap();
        let loss = loss_of(&attended.output);
        let dout = grad(&[&loss], None, &[&attended.output], false).unwrap().remove(0).unwrap();
        let maps = [WeightMap::Totals, WeightMap::Columns { weights: None }];
        let maps = no_grad(|| attention.gradient_maps(&attended.lse, &dout, &maps)).unwrap();
        let importance = |map: &Tensor| map.sum(&[0, 2], false).unwrap().to_vec::<f64>().unwrap();
        let [of_rows, of_columns] = [&maps[0][0], &maps[1][0]].map(importance);
        let output = attended.output.detach();
        for head in 0..4 {
            let with = |factor: f64| {
                let gates: Vec<f64> = (0..4).map(|h| if h == head { factor } else { 1.0 }).collect();
                let gates = Tensor::from_slice(&gates, &[4, 1, 1], &device).unwrap();
                loss_of(&(&output * &gates).unwrap()).item::<f64>().unwrap()
            };
            let step = 1e-5;
            let difference = (with(1.0 + step) - with(1.0 - step)) / (2.0 * step);
            for exact in [of_rows[head], of_columns[head]] {
                assert!((exact - difference).abs() < 1e-4 * difference.abs().max(1.0), "{exact} and {difference}");
            }
        }
    }
}

#[test]
fn what_cannot_be_done_is_said() {
    let device = device();
    let q = Var::new(random(1, &[1, 2, 3, 2], &device)).unwrap().tensor();
    let x = q.detach();
    let attention = Attention { fallback: Fallback::Deny, ..Attention::new(&x, &x, &x) };
    let lse = attention.run().unwrap().lse;
    let refused = |attention: &Attention, lse: &Tensor, map: WeightMap, part: &str| {
        let error = attention.maps(lse, &[map]).unwrap_err().to_string();
        assert!(error.contains(part), "{part:?} is not in: {error}");
    };
    let recorded = Attention { q: &q, ..attention };
    refused(&recorded, &lse, WeightMap::Diagonals, "gradients of maps have no kernel");
    without_kernels(|| refused(&attention, &lse, WeightMap::Diagonals, "switched off"));
    refused(&attention, &x, WeightMap::Diagonals, "lse has another shape");
    let single = lse.to_dtype(DType::F32).unwrap();
    refused(&attention, &single, WeightMap::Diagonals, "lse must be f64");
    refused(&attention, &lse, WeightMap::Columns { weights: Some(&x) }, "row weights has another shape");
    refused(&attention, &lse, WeightMap::Blocks { size: 0 }, "at least 1");
    refused(&attention, &lse, WeightMap::Top { k: 33 }, "1 to 32");
    let gradients = |dout: &Tensor, map: WeightMap, part: &str| {
        let error = attention.gradient_maps(&lse, dout, &[map]).unwrap_err().to_string();
        assert!(error.contains(part), "{part:?} is not in: {error}");
    };
    gradients(&lse, WeightMap::Totals, "dout has another shape");
    gradients(&x.to_dtype(DType::F32).unwrap(), WeightMap::Totals, "dout must be f64");
    gradients(&x, WeightMap::Top { k: 3 }, "greatest keys of weights times their gradients");
    gradients(&q, WeightMap::Totals, "gradients of maps have no kernel");
    refused(&attention, &lse, WeightMap::Rows { queries: &[3] }, "query 3");
    let ids = Tensor::zeros(&[1, 2], DType::I64, &device).unwrap();
    refused(&attention, &lse, WeightMap::Segments { queries: &ids, keys: &ids, count: 2 }, "query segments");
}
