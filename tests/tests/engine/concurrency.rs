//! Many threads, one model.

use crate::{bits, cpu, model::Training};
use attentia_backend::{Backend, Device};
use attentia_tensor::{Function, Tensor, Var, no_grad};

#[test]
fn eight_threads_share_one_model() {
    let device = cpu(2);
    let training = Training::new(&device).unwrap();
    let gradients = |step: u64| {
        let grads = training.loss(step).unwrap().backward().unwrap();
        training.parameters.iter().map(|(var, _, _)| bits(grads.get(var).unwrap()).unwrap()).collect::<Vec<_>>()
    };
    let serial: Vec<_> = (0..8).map(gradients).collect();
    std::thread::scope(|scope| {
        let gradients = &gradients;
        let workers: Vec<_> = (0..8)
            .map(|worker| scope.spawn(move || (0..8).map(|step| gradients((step + worker) % 8)).collect::<Vec<_>>()))
            .collect();
        for (worker, handle) in workers.into_iter().enumerate() {
            for (step, result) in handle.join().unwrap().into_iter().enumerate() {
                assert!(result == serial[(step + worker) % 8], "thread {worker} got other bits");
            }
        }
    });
    // Grad mode belongs to its thread.
    std::thread::scope(|scope| {
        no_grad(|| {
            let recorded = scope.spawn(|| training.loss(0).unwrap().requires_grad()).join().unwrap();
            assert!(recorded && !training.loss(0).unwrap().requires_grad());
        });
    });
}

#[test]
fn tensors_and_variables_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Tensor>();
    crosses::<Var>();
    crosses::<Device>();
    crosses::<Box<dyn Backend>>();
    crosses::<Box<dyn Function>>();
}
