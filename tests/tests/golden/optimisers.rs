//! Optimisers, clipping and schedules, step by step.

use crate::{Golden, assert_close, device, floats};
use attentia_nn::{
    Adam, AdamW, AdamWConfig, Initialise, Optimizer, Schedule, Scope, Sgd, SgdConfig, clip_factor, gradient_norm,
};
use attentia_tensor::{DType, Grads, Tensor, Var};

#[test]
fn trajectories() {
    let device = device();
    let golden = Golden::read("modules", &device);
    let decay =
        |case: &str| golden.constants[case].contains("weight_decay").then(|| golden.constant(case, "weight_decay"));
    for case in ["sgd.plain", "sgd.momentum", "sgd.nesterov", "adam", "adamw"] {
        let scope = Scope::new(&device, DType::F64, 1);
        let x = scope.parameter("x", &[5], Initialise::Zeros).unwrap();
        x.set(golden.get(&format!("{case}/initial"))).unwrap();
        let adam = AdamWConfig { betas: (0.9, 0.98), epsilon: 1e-9, weight_decay: decay(case).unwrap_or(0.0) };
        let sgd = SgdConfig {
            momentum: if case == "sgd.plain" { 0.0 } else { 0.9 },
            nesterov: case == "sgd.nesterov",
            weight_decay: decay(case).unwrap_or(0.0),
        };
        let mut optimizer: Box<dyn Optimizer> = match case {
            "adam" => Box::new(Adam::new(scope.parameters(), adam).unwrap()),
            "adamw" => Box::new(AdamW::new(scope.parameters(), adam).unwrap()),
            _ => Box::new(Sgd::new(scope.parameters(), sgd).unwrap()),
        };
        for step in 0..6 {
            let row = |what: &str| golden.get(&format!("{case}/{what}")).select(0, step).unwrap();
            let mut grads = Grads::new();
            grads.insert(x.id(), row("gradients"));
            optimizer.step(grads, golden.constant(case, "lr")).unwrap();
            assert_close(case, &floats(&x.value()), &floats(&row("trajectory")), 1e-12);
        }
    }
}

#[test]
fn clipping() {
    let device = device();
    let golden = Golden::read("modules", &device);
    for case in ["clip_norm.longer", "clip_norm.shorter"] {
        let mut grads = Grads::new();
        for (_, tensor) in golden.below(&format!("{case}/in/")) {
            grads.insert(
                Var::new(Tensor::zeros(tensor.shape(), DType::F64, &device).unwrap()).unwrap().id(),
                tensor.clone(),
            );
        }
        let (norm, limit) = (gradient_norm(&grads).unwrap(), golden.constant(case, "limit"));
        assert_close(case, &[norm], &golden.floats(&format!("{case}/norm")), 1e-14);
        let factor = clip_factor(norm, limit);
        // PyTorch divides by the norm + 1e-6, so that it shortens by a little more.
        for (name, tensor) in golden.below(&format!("{case}/in/")) {
            let ours = floats(&(tensor * factor).unwrap());
            assert_close(case, &ours, &golden.floats(&format!("{case}/out/{name}")), 1e-6);
        }
    }
}

#[test]
fn schedules() {
    let device = device();
    let golden = Golden::read("modules", &device);
    let (peak, warmup, total, floor) = (0.003, 10, 32, 0.0001);
    for (case, schedule) in [
        ("schedule.constant", Schedule::Constant { peak }),
        ("schedule.inverse_square_root", Schedule::InverseSquareRoot { peak, warmup }),
        ("schedule.linear", Schedule::Linear { peak, warmup, total }),
        ("schedule.cosine", Schedule::Cosine { peak, warmup, total, floor }),
    ] {
        let ours: Vec<f64> = (1..=40).map(|step| schedule.at(step)).collect();
        assert_close(case, &ours, &golden.floats(&format!("{case}/rates")), 1e-15);
    }
}
