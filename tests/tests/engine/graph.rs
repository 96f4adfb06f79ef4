//! Graphs: any depth, any nesting, and errors that name the node.

use crate::{bits, cpu, random};
use attentia_backend::{DType, ErrorKind, RngKey};
use attentia_tensor::{Tensor, Var, checkpoint};

/// Runs on a thread with a stack of 2 MiB, as test threads and the main threads of some systems have.
fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
}

const DEEP: usize = 1_000_000;

#[test]
fn a_million_nodes_are_dropped_on_a_small_stack() {
    on_a_small_stack(|| {
        let device = cpu(1);
        let x = Var::new(Tensor::zeros(&[1], DType::F32, &device).unwrap()).unwrap();
        let mut y = x.tensor();
        for _ in 0..DEEP {
            y = y.add_scalar(1.0).unwrap();
        }
        assert_eq!(y.item::<f32>().unwrap(), DEEP as f32);
        drop(y);
    });
}

#[test]
fn a_million_nodes_are_walked_backwards_on_a_small_stack() {
    on_a_small_stack(|| {
        let device = cpu(1);
        let x = Var::new(Tensor::ones(&[1], DType::F64, &device).unwrap()).unwrap();
        let mut y = x.tensor();
        for _ in 0..DEEP / 4 {
            y = y.neg().unwrap();
        }
        assert_eq!(y.backward().unwrap().get(&x).unwrap().item::<f64>().unwrap(), 1.0);
    });
}

#[test]
fn nested_checkpoints_are_dropped_on_a_small_stack() {
    on_a_small_stack(|| {
        let device = cpu(1);
        let x = Var::new(Tensor::zeros(&[1], DType::F32, &device).unwrap()).unwrap();
        // Each captures the one before: a chain through captured tensors, not through operands.
        let mut y = x.tensor();
        for _ in 0..DEEP {
            let captured = y.clone();
            y = checkpoint(move |_| Ok(vec![captured.neg()?]), &[]).unwrap().remove(0);
        }
        assert!(y.requires_grad());
        drop(y);
    });
}

#[test]
fn a_checkpoint_behind_a_frozen_input_gives_all_gradients() {
    let device = cpu(1);
    let (w, b) = (
        Var::new(random(1, &[3, 4], DType::F64, &device).unwrap()).unwrap(),
        Var::new(random(2, &[4], DType::F64, &device).unwrap()).unwrap(),
    );
    let frozen = random(3, &[2, 3], DType::F64, &device).unwrap();
    assert!(!frozen.requires_grad());
    let layer = {
        let (w, b) = (w.clone(), b.clone());
        move |x: &[Tensor]| Ok(vec![(x[0].matmul(&w.tensor())? + b.tensor())?.dropout(0.4, RngKey::new(6))?.gelu()?])
    };
    let plain = layer(std::slice::from_ref(&frozen)).unwrap().remove(0).square().unwrap().sum_all().unwrap();
    let saved = checkpoint(layer, &[frozen]).unwrap().remove(0).square().unwrap().sum_all().unwrap();
    assert_eq!(bits(&plain).unwrap(), bits(&saved).unwrap());
    let (plain, saved) = (plain.backward().unwrap(), saved.backward().unwrap());
    for var in [&w, &b] {
        let (a, b) = (plain.get(var).unwrap(), saved.get(var).unwrap());
        assert_eq!(bits(a).unwrap(), bits(b).unwrap());
    }
}

#[test]
fn a_second_backward_names_the_node() {
    let device = cpu(1);
    let x = Var::new(random(1, &[3], DType::F32, &device).unwrap()).unwrap();
    let shared = x.tensor().tanh().unwrap();
    let (first, second) = (shared.sum_all().unwrap(), shared.exp().unwrap().sum_all().unwrap());
    first.backward().unwrap();
    let error = second.backward().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Consumed);
    assert!(error.to_string().contains("tanh"), "{error}");
}
