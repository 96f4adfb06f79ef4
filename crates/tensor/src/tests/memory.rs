//! What owns storage, and that deep graphs are flat.

use super::{counted, device};
use crate::*;
use std::thread;

/// The stack of a thread that a program starts by default, in bytes.
const STACK: usize = 2 << 20;
const DEEP: usize = 1_000_000;

fn on_a_small_stack(f: impl FnOnce() + Send + 'static) {
    thread::Builder::new().stack_size(STACK).spawn(f).unwrap().join().unwrap();
}

fn chain(x: &Tensor, length: usize) -> Tensor {
    (0..length).fold(x.clone(), |x, _| x.add_scalar(1.0).unwrap())
}

#[test]
fn a_million_nodes_are_dropped_and_differentiated_flat() {
    on_a_small_stack(|| {
        let device = device();
        let x = Var::new(Tensor::zeros(&[], DType::F64, &device).unwrap()).unwrap();
        drop(chain(&x.tensor(), DEEP));
        let y = chain(&x.tensor(), DEEP);
        assert_eq!(y.backward().unwrap().get(&x).unwrap().item::<f64>().unwrap(), 1.0);
    });
}

#[test]
fn a_million_nodes_below_checkpoints_are_flat() {
    on_a_small_stack(|| {
        let device = device();
        let x = Var::new(Tensor::zeros(&[], DType::F64, &device).unwrap()).unwrap();
        // The closures own a deep graph each, and lie one below the other.
        let mut y = chain(&x.tensor(), DEEP / 2);
        for _ in 0..1000 {
            let captured = y.clone();
            y = checkpoint(move |_| Ok(vec![captured.add_scalar(1.0)?]), &[]).unwrap().remove(0);
        }
        drop(chain(&y, DEEP / 2));
        drop(y);
    });
}

#[test]
fn a_thread_may_end_with_a_deep_graph() {
    thread_local! {
        static LAST: std::cell::RefCell<Option<Tensor>> = const { std::cell::RefCell::new(None) };
    }
    on_a_small_stack(|| {
        let device = device();
        let x = Var::new(Tensor::zeros(&[], DType::F64, &device).unwrap()).unwrap();
        LAST.set(Some(chain(&x.tensor(), DEEP / 4)));
    });
}

#[test]
fn backward_frees_as_it_goes() {
    let device = device();
    let x = Var::new(counted(&[1000], &device)).unwrap();
    let before = device.memory().live;
    let y = (0..50).fold(x.tensor(), |x, _| x.sin().unwrap()).sum_all().unwrap();
    let held = device.memory().live - before;
    let grads = y.backward().unwrap();
    assert!(device.memory().live - before < held / 10, "only the gradient is left");
    drop(grads);
    assert_eq!(device.memory().live, before);
}

#[test]
fn updates_write_in_place_unless_a_tensor_still_holds_the_value() {
    let device = device();
    let x = Var::new(counted(&[4], &device)).unwrap();
    let fill = |value: f64| x.update(|out| device.full(Scalar::Float(value), out));
    let before = device.memory().live;
    fill(1.0).unwrap();
    assert_eq!(device.memory().live, before);
    let (old, copies) = (x.tensor(), copy_on_write_count());
    fill(2.0).unwrap();
    assert!(copy_on_write_count() > copies);
    assert_eq!(old.to_vec::<f64>().unwrap(), [1.0; 4]);
    assert_eq!(x.value().to_vec::<f64>().unwrap(), [2.0; 4]);
    assert!(x.set(&counted(&[3], &device)).is_err());
    assert!(x.set(&counted(&[4], &super::device())).is_err());
}

#[test]
fn eight_threads_share_one_model() {
    let device = device();
    let w = Var::new(counted(&[8, 8], &device).mul_scalar(0.01).unwrap()).unwrap();
    let gradient = |seed: u64| {
        let x = Tensor::randn(RngKey::new(seed), &[4, 8], DType::F64, &device).unwrap();
        let loss = x.matmul(&w.tensor()).unwrap().tanh().unwrap().sum_all().unwrap();
        loss.backward().unwrap().get(&w).unwrap().to_vec::<f64>().unwrap()
    };
    let alone: Vec<Vec<f64>> = (0..8).map(gradient).collect();
    let together: Vec<Vec<f64>> = thread::scope(|scope| {
        let gradient = &gradient;
        let threads: Vec<_> = (0..8).map(|seed| scope.spawn(move || gradient(seed))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}

#[test]
fn operands_by_value_are_overwritten_only_when_nobody_else_looks() {
    let device = device();
    let (a, b) = (counted(&[3], &device), counted(&[3], &device));
    let kept = a.clone();
    let sum = (a + &b).unwrap();
    assert_eq!(kept.to_vec::<f64>().unwrap(), [0.0, 1.0, 2.0]);
    let before = device.memory().live;
    let sum = (-(sum * 2.0).unwrap()).unwrap();
    assert_eq!(device.memory().live, before);
    assert_eq!(sum.to_vec::<f64>().unwrap(), [0.0, -4.0, -8.0]);
    let column = b.reshape(&[3, 1]).unwrap().copy().unwrap();
    assert_eq!((column + &b).unwrap().dims().unwrap(), [3, 3], "a broadcast result does not fit the operand");
}
