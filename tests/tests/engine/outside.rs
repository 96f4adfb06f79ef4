//! A function and a backend that were written outside the engine.

use crate::{bits, cpu, model::forward_and_backward, random};
use attentia_backend::{DType, Device};
use attentia_reference::ReferenceBackend;
use attentia_tensor::{Backward, Data, Function, Result, Saver, Tensor, apply, gradcheck, gradgradcheck};
use attentia_tests::outside::Outside;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// `x · |x|`, from a kernel that the engine does not know.
#[derive(Debug)]
struct SignedSquare(Arc<AtomicUsize>);

impl Function for SignedSquare {
    fn name(&self) -> &'static str {
        "signed_square"
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        self.0.fetch_add(1, Relaxed);
        save.input(0);
        let squares: Vec<f64> = inputs[0].to_vec::<f64>()?.iter().map(|x| x * x.abs()).collect();
        Ok(vec![Data::from_slice(&squares, *inputs[0].shape(), inputs[0].device())?])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let [x] = b.take_saved()?;
        Ok(vec![b.take_grad(0).map(|g| x.abs()?.mul_scalar(2.0)? * &g).transpose()?])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![(inputs[0] * &inputs[0].abs()?)?])
    }
}

#[test]
fn a_function_written_outside_is_differentiated() {
    for device in [cpu(1), Device::new(ReferenceBackend::new())] {
        let forwards = Arc::new(AtomicUsize::new(0));
        let function: Arc<dyn Function> = Arc::new(SignedSquare(forwards.clone()));
        let x = random(1, &[2, 3], DType::F64, &device).unwrap();
        let run = |x: &[Tensor]| apply(function.clone(), &[&x[0]]);
        gradcheck(run, std::slice::from_ref(&x), Default::default()).unwrap();
        gradgradcheck(run, std::slice::from_ref(&x), Default::default()).unwrap();
        assert!(forwards.load(Relaxed) > 10);
        let composed = function.compose(&[&x]).unwrap().remove(0);
        assert_eq!(bits(&run(&[x]).unwrap()[0]).unwrap(), bits(&composed).unwrap());
    }
}

#[test]
fn a_backend_written_outside_trains() {
    let (backend, calls) = Outside::counting(cpu(2));
    let outside = Device::new(backend);
    let seen: Vec<_> = forward_and_backward(&outside, DType::F32).unwrap().iter().map(|x| bits(x).unwrap()).collect();
    let plain: Vec<_> = forward_and_backward(&cpu(2), DType::F32).unwrap().iter().map(|x| bits(x).unwrap()).collect();
    assert!(seen == plain, "a wrapper changes no bit");
    for entry in ["matmul", "softmax", "softmax_backward", "layer_norm", "layer_norm_backward", "embedding_backward"] {
        assert!(calls.of(entry) > 0, "{entry} was not reached");
    }
    let hidden = Device::new(Outside::compose_only(cpu(2)));
    let composed = forward_and_backward(&hidden, DType::F32).unwrap();
    let (loss, same) = (f32::from_bits(plain[0][0] as u32), composed[0].item::<f32>().unwrap());
    assert!((loss - same).abs() < 1e-4 * loss.abs(), "{loss} and, composed, {same}");
}
