//! Derivatives of everything, and what the graph promises.

use super::{counted, device};
use crate::*;
use std::{collections::BTreeSet, fs, path::Path};

#[test]
fn every_function_passes_the_sweep() {
    let device = device();
    let failures: Vec<String> = functions()
        .iter()
        .filter_map(|sample| sample.check(&device).err().map(|e| format!("{}: {e}", sample.id)))
        .collect();
    assert!(failures.is_empty(), "{} samples fail:\n{}", failures.len(), failures.join("\n"));
}

/// The names of all types for which `impl Function` stands in the source.
fn implementations(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().unwrap() != "tests" {
                implementations(&path, found);
            }
            continue;
        }
        for line in fs::read_to_string(&path).unwrap().lines() {
            if let Some(name) = line.strip_prefix("impl Function for ") {
                found.insert(name.trim_end_matches(" {").to_owned());
            }
        }
    }
}

#[test]
fn every_function_has_a_sample() {
    let mut found = BTreeSet::new();
    implementations(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let listed: BTreeSet<String> = functions().iter().map(|s| s.function.to_owned()).collect();
    assert!(found.len() > 25, "the search finds too little: {found:?}");
    assert_eq!(found, listed);
}

#[test]
fn a_second_backward_names_what_was_consumed() {
    let device = device();
    let x = Var::new(counted(&[3], &device)).unwrap();
    let trunk = x.tensor().exp().unwrap();
    let (first, second) = (trunk.sum_all().unwrap(), trunk.square().unwrap().sum_all().unwrap());
    first.backward().unwrap();
    let error = second.backward().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Consumed);
    assert!(error.to_string().contains("exp"), "{error}");
}

#[test]
fn retaining_gives_the_same_gradients_again() {
    let device = device();
    let x = Var::new(counted(&[3], &device)).unwrap();
    let loss = (x.tensor().tanh().unwrap() * x.tensor()).unwrap().sum_all().unwrap();
    let first = loss.backward_retain().unwrap().get(&x).unwrap().to_vec::<f64>().unwrap();
    let again = loss.backward_retain().unwrap().get(&x).unwrap().to_vec::<f64>().unwrap();
    let last = loss.backward().unwrap().get(&x).unwrap().to_vec::<f64>().unwrap();
    assert_eq!(first, again);
    assert_eq!(first, last);
}

#[test]
fn gradients_of_interior_tensors_and_of_unused_ones() {
    let device = device();
    let (x, unused) = (Var::new(counted(&[2], &device)).unwrap(), Var::new(counted(&[2], &device)).unwrap());
    let h = x.tensor().exp().unwrap();
    let loss = h.square().unwrap().sum_all().unwrap();
    let grads = grad(&[&loss], None, &[&h, &x.tensor(), &unused.tensor(), &h], false).unwrap();
    let values = |i: usize| grads[i].as_ref().unwrap().to_vec::<f64>().unwrap();
    let e = 1f64.exp();
    assert!((values(0)[1] - 2.0 * e).abs() < 1e-12);
    assert_eq!(values(3), values(0));
    assert!((values(1)[1] - 2.0 * e * e).abs() < 1e-12);
    assert!(grads[2].is_none());
    assert_eq!(grad(&[&loss], None, &[&h.detach()], false).unwrap_err().kind(), ErrorKind::Gradient);
}

#[test]
fn accumulation_leaves_cotangents_and_saved_values_alone() {
    let device = device();
    let x = Var::new(counted(&[4], &device)).unwrap();
    // Both uses of h give their cotangent on; one of them is the seed itself, which must not be written to.
    let h = x.tensor().mul_scalar(3.0).unwrap();
    let y = (&h + &h).unwrap();
    let seed = Tensor::ones(&[4], DType::F64, &device).unwrap();
    let grads = y.backward_with(seed.clone()).unwrap();
    assert_eq!(grads.get(&x).unwrap().to_vec::<f64>().unwrap(), [6.0; 4]);
    assert_eq!(seed.to_vec::<f64>().unwrap(), [1.0; 4]);
    // A saved output is read after its cotangent was summed up.
    let e = x.tensor().exp().unwrap();
    let kept = e.detach();
    let before = kept.to_vec::<f64>().unwrap();
    let grads = ((&e + &e).unwrap() + &e).unwrap().sum_all().unwrap().backward().unwrap();
    let expected: Vec<f64> = before.iter().map(|e| 3.0 * e).collect();
    assert_eq!(grads.get(&x).unwrap().to_vec::<f64>().unwrap(), expected);
    assert_eq!(kept.to_vec::<f64>().unwrap(), before);
}

#[test]
fn products_add_to_what_others_gave_and_leave_what_is_held_alone() {
    let device = device();
    let of = |extents: &[usize], seed| Tensor::randn(RngKey::new(seed), extents, DType::F64, &device).unwrap();
    let (weight, up, down) = (of(&[3, 3], 2), of(&[5, 3], 3), of(&[3, 5], 4));
    let affine = |weight| Affine { weight, bias: None };
    let f = |x: &Tensor| {
        // The sum's cotangent is x's and those of all branches, and each branch adds to it.
        let branches = [x.linear(&weight, None)?, x.linear(&weight.t()?, None)?];
        let hidden = x.feed_forward(affine(&up), Activation::Gelu, affine(&down))?;
        ((x + &branches[0])? + &branches[1])? + hidden
    };
    // Rows of axes in another order are copied.
    let orders = [of(&[2, 2, 3], 1), of(&[3, 2, 2], 1).permute(&[2, 1, 0]).unwrap()];
    for x in orders.map(|x| Var::new(x).unwrap().tensor()) {
        let (y, seed) = (f(&x).unwrap(), of(&[2, 2, 3], 5));
        let held = seed.to_vec::<f64>().unwrap();
        let slope = |create_graph| {
            let slope = grad(&[&y], Some(&[&seed]), &[&x], create_graph).unwrap().remove(0).unwrap();
            slope.detach().to_vec::<f64>().unwrap()
        };
        for (apart, in_place) in slope(true).iter().zip(slope(false)) {
            assert!((apart - in_place).abs() < 1e-12, "{apart} and {in_place}");
        }
        assert_eq!(seed.to_vec::<f64>().unwrap(), held);
    }
    // Differentiated with operations of their own, and in products; all of these sums are owned by nobody else.
    let agree = |f: &dyn Fn(&Tensor) -> Result<Tensor>, x: &Tensor, close: f64| {
        let x = Var::new(x.clone()).unwrap().tensor();
        let y = f(&x).unwrap().to_dtype(DType::F64).unwrap().sin().unwrap().sum_all().unwrap();
        let slope = |create_graph| {
            let slope = grad(&[&y], None, &[&x], create_graph).unwrap().remove(0).unwrap().detach();
            slope.to_dtype(DType::F64).unwrap().to_vec::<f64>().unwrap()
        };
        for (apart, in_place) in slope(true).iter().zip(slope(false)) {
            assert!((apart - in_place).abs() <= close * (1.0 + apart.abs()), "{apart} and {in_place}");
        }
    };
    // The sum comes in another order of axes than x: it has no rows.
    let permuted = |x: &Tensor| {
        let first = x.linear(&weight, None)?;
        first + x.permute(&[2, 0, 1])?.sin()?.permute(&[1, 2, 0])?
    };
    agree(&permuted, &of(&[2, 2, 3], 6), 1e-12);
    agree(&|x| x.linear(x, None)? + x.linear(&weight, None)?, &of(&[3, 3], 7), 1e-12); // x is its own weight
    agree(&|x| x.linear(&weight, None)? * x, &of(&[3], 8), 1e-12); // one row
    agree(&|x| x.linear(&weight, None)? * x, &of(&[2, 0, 3], 9), 1e-12);
    let narrow = weight.to_dtype(DType::F32).unwrap();
    let mixed = |x: &Tensor| (x.mixed_linear(&narrow, None)? + x.mixed_linear(&narrow, None)?)? + x;
    agree(&mixed, &of(&[2, 4, 3], 10).to_dtype(DType::Bf16).unwrap(), 0.02); // rounded once, or after each sum
}

#[test]
fn what_carries_no_gradient_says_so() {
    let device = device();
    let error = Var::new(Tensor::zeros(&[2], DType::I64, &device).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gradient);
    let plain = Tensor::ones(&[], DType::F64, &device).unwrap();
    assert_eq!(plain.clone().backward().unwrap_err().kind(), ErrorKind::Gradient);
    let x = Var::new(counted(&[2], &device)).unwrap();
    assert_eq!(x.tensor().backward().unwrap_err().kind(), ErrorKind::Shape);
    assert!(!x.tensor().gt_scalar(0.5).unwrap().requires_grad());
    assert!(!x.tensor().to_dtype(DType::I64).unwrap().requires_grad());
    assert!(!x.tensor().sort(0, false).unwrap().1.requires_grad());
    assert!(!no_grad(|| x.tensor().exp()).unwrap().requires_grad());
    assert!(no_grad(|| enable_grad(|| x.tensor().exp())).unwrap().requires_grad());
}

#[derive(Debug)]
struct WrongShape;

impl Function for WrongShape {
    fn name(&self) -> &'static str {
        "wrong_shape"
    }
    fn forward(&self, inputs: &[&Tensor], _: &mut Saver) -> Result<Vec<Data>> {
        Ok(vec![inputs[0].data().clone()])
    }
    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![b.take_grad(0).map(|g| g.sum_all()).transpose()?])
    }
    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![inputs[0].clone()])
    }
}

#[test]
fn a_gradient_of_the_wrong_shape_is_found() {
    let device = device();
    let x = Var::new(counted(&[2], &device)).unwrap();
    let y = apply(std::sync::Arc::new(WrongShape), &[&x.tensor()]).unwrap().remove(0);
    let error = y.sum_all().unwrap().backward().unwrap_err();
    assert!(error.to_string().contains("wrong_shape"), "{error}");
}

#[test]
fn gradcheck_finds_a_wrong_derivative() {
    let device = device();
    let x = counted(&[2, 2], &device).add_scalar(1.0).unwrap();
    let wrong = |x: &[Tensor]| Ok(vec![(x[0].square()? + x[0].detach())?]);
    let error = gradcheck(wrong, std::slice::from_ref(&x), GradcheckOptions::default()).unwrap_err();
    assert!(error.to_string().contains("of input 0 at [0, 0]"), "{error}");
    let options = GradcheckOptions { directions: Some(2), ..Default::default() };
    assert!(gradcheck(wrong, std::slice::from_ref(&x), options).is_err());
    gradcheck(|x| Ok(vec![x[0].square()?]), std::slice::from_ref(&x), options).unwrap();
    assert!(gradcheck(|x| Ok(x.to_vec()), &[x.to_dtype(DType::F32).unwrap()], options).is_err());
}

#[test]
fn checkpoints_give_the_gradients_of_the_plain_function() {
    let device = device();
    let w = Var::new(counted(&[3], &device).mul_scalar(0.1).unwrap()).unwrap();
    let x = Var::new(counted(&[3], &device).add_scalar(1.0).unwrap()).unwrap();
    let memory = (w.tensor() * 2.0).unwrap().sin().unwrap(); // captured, and no leaf
    let (layer, captured) = (w.clone(), memory.clone());
    let f = move |x: &[Tensor]| {
        let h = ((&x[0] * &layer.tensor())?.tanh()? + &captured)?;
        let inner = layer.clone();
        let h = checkpoint(move |h| Ok(vec![(&h[0] * &inner.tensor())?.exp()?]), &[h])?.remove(0);
        Ok(vec![(&h * &x[0])?.dropout(0.3, RngKey::new(4))?])
    };
    let plain = f(&[x.tensor()]).unwrap().remove(0).sum_all().unwrap();
    let saved = checkpoint(f.clone(), &[x.tensor()]).unwrap().remove(0).sum_all().unwrap();
    for var in [&w, &x] {
        let values = |loss: &Tensor| loss.backward_retain().unwrap().get(var).unwrap().to_vec::<f64>().unwrap();
        for (a, b) in values(&plain).iter().zip(values(&saved)) {
            assert!((a - b).abs() < 1e-12);
        }
    }
    // Frozen inputs still reach the captured variable, and the graph may be differentiated twice.
    let frozen = checkpoint(f.clone(), &[x.value()]).unwrap().remove(0).sum_all().unwrap();
    assert!(frozen.backward().unwrap().get(&w).is_some());
    let options = GradcheckOptions::default();
    gradgradcheck(|x| checkpoint(f.clone(), x), &[x.value()], options).unwrap();
    gradgradcheck(
        |x| checkpoint(|x| Ok(vec![(&x[0] * &x[0].exp()?)?, x[1].sin()?]), &[x[0].clone(), x[0].clone()]),
        &[x.value()],
        options,
    )
    .unwrap();
}

#[test]
fn checkpoints_have_derivatives_of_any_order() {
    let device = device();
    let [w, x] = [2.0, 3.0].map(|value| Var::new(Tensor::from_slice(&[value], &[1], &device).unwrap()).unwrap());
    let (w, x) = (w.tensor(), x.tensor());
    // (w x)⁴, whose derivatives by x are 4 w⁴x³, 12 w⁴x², 24 w⁴x and 24 w⁴; w is captured.
    let captured = w.clone();
    let f = move |x: &[Tensor]| Ok(vec![(&x[0] * &captured)?.square()?.square()?]);
    let mut y = checkpoint(f, std::slice::from_ref(&x)).unwrap().remove(0);
    for expected in [4.0 * 16.0 * 27.0, 12.0 * 16.0 * 9.0, 24.0 * 16.0 * 3.0, 24.0 * 16.0] {
        y = grad(&[&y], None, &[&x], true).unwrap().remove(0).unwrap();
        assert_eq!(y.detach().item::<f64>().unwrap(), expected);
    }
    let by_w = grad(&[&y], None, &[&w], false).unwrap().remove(0).unwrap();
    assert_eq!(by_w.item::<f64>().unwrap(), 24.0 * 4.0 * 8.0);
    // What a recorded gradient captured must stay until it is differentiated.
    let (v, layer) = (Var::new(w.detach()).unwrap(), x.detach());
    let captured = v.clone();
    let f = move |x: &[Tensor]| Ok(vec![(&x[0] * &captured.tensor())?.square()?]);
    let x = Var::new(layer).unwrap().tensor();
    let y = checkpoint(f, std::slice::from_ref(&x)).unwrap().remove(0);
    let slope = grad(&[&y], None, &[&x], true).unwrap().remove(0).unwrap();
    v.set(&v.value().add_scalar(1.0).unwrap()).unwrap();
    assert_eq!(slope.backward().unwrap_err().kind(), ErrorKind::Gradient);
}

#[test]
fn a_checkpoint_notices_what_would_make_its_gradient_wrong() {
    let device = device();
    let w = Var::new(counted(&[3], &device)).unwrap();
    let layer = w.clone();
    let loss = checkpoint(move |_| Ok(vec![layer.tensor().exp()?.sum_all()?]), &[]).unwrap().remove(0);
    w.set(&w.value().add_scalar(1.0).unwrap()).unwrap();
    assert_eq!(loss.backward().unwrap_err().kind(), ErrorKind::Gradient);
    let other = Var::new(counted(&[3], &device)).unwrap();
    let (layer, first) = (w.clone(), std::sync::atomic::AtomicBool::new(true));
    let fickle = move |_: &[Tensor]| {
        let var = if first.swap(false, std::sync::atomic::Ordering::Relaxed) { &layer } else { &other };
        Ok(vec![var.tensor().sum_all()?])
    };
    assert_eq!(checkpoint(fickle, &[]).unwrap().remove(0).backward().unwrap_err().kind(), ErrorKind::Gradient);
}

#[test]
fn anomalies_are_named() {
    let device = device();
    let x = Var::new(Tensor::from_slice(&[-1.0, 0.0], &[2], &device).unwrap()).unwrap();
    let forward = detect_anomaly(|| x.tensor().log()).unwrap_err();
    assert_eq!((forward.kind(), forward.op()), (ErrorKind::NotFinite, "log"));
    // −inf as a mask is what was asked for.
    let mask = Tensor::from_slice(&[true, false], &[2], &device).unwrap();
    let y = detect_anomaly(|| x.tensor().masked_fill(&mask, f64::NEG_INFINITY)?.softmax(0)).unwrap();
    assert_eq!(y.to_vec::<f64>().unwrap(), [0.0, 1.0]);
    assert!(x.tensor().log().is_ok(), "off again");
}

#[test]
fn frozen_operands_save_nothing_for_others() {
    let device = device();
    let mut x = counted(&[2, 3], &device);
    let w = Var::new(counted(&[3, 2], &device)).unwrap();
    let frozen = w.value();
    let var = Var::new(x.copy().unwrap()).unwrap();
    let y = var.tensor().matmul(&frozen).unwrap();
    // The gradient of x needs w only, so the storage of a frozen x has no other owner.
    let z = x.matmul(&w.tensor()).unwrap();
    assert!(!x.data.is_writable(), "the gradient of w needs x");
    drop(z);
    let z = x.matmul(&frozen).unwrap();
    assert!(x.data.is_writable());
    assert!(y.requires_grad() && !z.requires_grad());
}
