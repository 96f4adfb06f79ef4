//! Memory is flat, and goes as gradients come.

use crate::{cpu, model::Training, random};
use attentia_backend::DType;
use attentia_tensor::{Var, copy_on_write_count, no_grad};

#[test]
fn memory_is_flat_over_training() {
    let device = cpu(2);
    let mut training = Training::new(&device).unwrap();
    let copies = copy_on_write_count();
    let mut first = 0.0;
    for step in 0..20 {
        first = training.step(step).unwrap().max(first);
    }
    let warm = device.memory();
    let mut last = f32::INFINITY;
    for step in 20..520 {
        last = training.step(step).unwrap();
        let now = device.memory();
        assert_eq!(now.live, warm.live, "live bytes after step {step}");
        assert_eq!(now.system_allocations, warm.system_allocations, "step {step} asked the system for memory");
    }
    assert_eq!(copy_on_write_count(), copies, "an update had to copy its variable first");
    assert!(last < first * 0.8, "and it learns: {first} to {last}");
    drop(training);
    assert_eq!(device.memory().live, 0);
}

#[test]
fn the_graph_frees_memory_as_it_is_consumed() {
    let device = cpu(1);
    let x = Var::new(random(1, &[256, 256], DType::F32, &device).unwrap()).unwrap();
    let idle = device.memory().live;
    let mut y = x.tensor();
    for _ in 0..20 {
        y = y.sin().unwrap(); // saves its operand
    }
    let loss = y.sum_all().unwrap();
    drop(y);
    let recorded = device.memory();
    let tensor = 256 * 256 * 4;
    assert!(recorded.live - idle >= 19 * tensor, "a recorded graph holds its operands");
    let grads = loss.backward().unwrap();
    // Gradients come while saved values go.
    assert!(device.memory().peak <= recorded.live + 4 * tensor);
    drop(grads);
    assert_eq!(device.memory().live, idle);
    no_grad(|| x.tensor().sin().unwrap());
    assert_eq!(device.memory().live, idle);
}
