//! Shapes, indices, reductions and their errors.

use super::{counted, device};
use crate::*;

fn values(x: Tensor) -> Vec<f64> {
    x.to_vec().unwrap()
}

#[test]
fn views_copy_nothing() {
    let device = device();
    let x = counted(&[2, 3, 4], &device);
    let views = [
        x.transpose(0, 2).unwrap(),
        x.t().unwrap(),
        x.permute(&[1, 2, 0]).unwrap(),
        x.narrow(1, 1, 2).unwrap(),
        x.slice(2, .., -1).unwrap(),
        x.select(0, -1).unwrap(),
        x.unsqueeze(-1).unwrap().squeeze(3).unwrap(),
        x.broadcast_to(&[5, 2, 3, 4]).unwrap(),
        x.flatten().unwrap(),
        x.split(&[1, 2], 1).unwrap().remove(1),
        x.chunk(3, 2).unwrap().remove(0),
        x.i((.., 1..3, -1)).unwrap(),
    ];
    for view in views {
        assert!(view.data().buffer().same_storage(x.data().buffer()), "{view:?}");
    }
    let copied = materialised_bytes();
    let flat = x.t().unwrap().flatten().unwrap();
    assert!(!flat.data().buffer().same_storage(x.data().buffer()));
    assert!(materialised_bytes() >= copied + 24 * 8);
}

#[test]
fn slices_are_those_of_python() {
    let device = device();
    let x = counted(&[6], &device);
    assert_eq!(values(x.slice(0, 1..5, 2).unwrap()), [1.0, 3.0]);
    assert_eq!(values(x.slice(0, -2.., 1).unwrap()), [4.0, 5.0]);
    assert_eq!(values(x.slice(0, ..-3, 2).unwrap()), [0.0, 2.0]);
    let (from, to) = (4, 1);
    assert_eq!(values(x.slice(0, from..to, -2).unwrap()), [4.0, 2.0]);
    assert_eq!(values(x.slice(0, 2..=4, 1).unwrap()), [2.0, 3.0, 4.0]);
    assert_eq!(values(x.slice(0, 3..3, 1).unwrap()), []);
    assert_eq!(values(x.slice(0, .., -4).unwrap()), [5.0, 1.0]);
    assert_eq!(x.slice(0, 0..7, 1).unwrap_err().kind(), ErrorKind::Index);
    assert_eq!(x.slice(0, usize::MAX.., 1).unwrap_err().kind(), ErrorKind::Index);
    assert_eq!(x.slice(0, .., 0).unwrap_err().kind(), ErrorKind::Argument);
    assert_eq!(x.slice(0, isize::MIN.., isize::MIN).unwrap_err().kind(), ErrorKind::Index);
    assert_eq!(values(x.slice(0, .., isize::MAX).unwrap()), [0.0]);
    assert_eq!(values(x.slice(0, .., isize::MIN).unwrap()), [5.0]);
    let empty = counted(&[0], &device);
    assert_eq!(values(empty.flip(0).unwrap()), []);
    assert!(x.i((0, 0)).is_err() && x.i(6).is_err() && x.i(-7).is_err());
}

#[test]
fn impossible_shapes_are_errors() {
    let device = device();
    let x = counted(&[2, 3], &device);
    assert!(x.reshape(&[4, -1]).is_err());
    assert!(x.squeeze(0).is_err());
    assert!(x.unsqueeze(4).is_err() && x.unsqueeze(isize::MIN).is_err());
    assert!(x.transpose(0, 2).is_err() && x.transpose(isize::MIN, 0).is_err());
    assert!(x.permute(&[0, 0]).is_err());
    assert!(x.narrow(0, 1, usize::MAX).is_err());
    assert!(x.broadcast_to(&[3, 3]).is_err());
    assert!(x.dims::<3>().is_err());
    assert!(x.pad(&[(usize::MAX, 1)], 0).is_err());
    assert!(x.split(&[1, usize::MAX, 2], 0).is_err());
    assert!(x.chunk(0, 0).is_err());
    assert!(Tensor::cat(&[], 0).is_err() && Tensor::stack(&[], 0).is_err());
    assert!(Tensor::from_slice(&[1.0], &[2], &device).is_err());
    assert!(Tensor::zeros(&[usize::MAX, 4], DType::F32, &device).is_err());
    assert!(Tensor::arange(0, 1, 0, DType::F32, &device).is_err());
    assert!(Tensor::arange(0.0, f64::INFINITY, 1.0, DType::F32, &device).is_err());
    assert!(Tensor::rand_uniform(RngKey::new(1), 0.0, f64::NAN, &[2], DType::F32, &device).is_err());
    assert!(x.to_vec::<f32>().is_err() && x.item::<f64>().is_err());
    let scalar = Tensor::ones(&[], DType::F64, &device).unwrap();
    assert!(scalar.matmul(&x).is_err() && scalar.t().is_err() && scalar.layer_norm(None, None, 1e-5).is_err());
    assert!(scalar.softmax(0).is_err());
}

#[test]
fn devices_are_not_mixed_in_silence() {
    let (a, b) = (counted(&[2], &device()), counted(&[2], &device()));
    assert_eq!((&a + &b).unwrap_err().kind(), ErrorKind::Device);
    assert_eq!(a.matmul(&b).unwrap_err().kind(), ErrorKind::Device);
    assert_eq!(Tensor::cat(&[&a, &b], 0).unwrap_err().kind(), ErrorKind::Device);
    assert_eq!(values((&a + b.to_device(a.device()).unwrap()).unwrap()), [0.0, 2.0]);
}

#[test]
fn scalars_do_not_vanish_in_integers() {
    let device = device();
    let x = Tensor::from_slice(&[1i64, i64::MAX - 1], &[2], &device).unwrap();
    assert_eq!(x.add_scalar(0.5).unwrap_err().kind(), ErrorKind::DType);
    assert_eq!((&x + 0.5).unwrap_err().kind(), ErrorKind::DType);
    assert_eq!(x.add_scalar(1).unwrap().to_vec::<i64>().unwrap()[0], 2);
    let large = Tensor::from_slice(&[0i64], &[1], &device).unwrap().add_scalar((1i64 << 53) + 1).unwrap();
    assert_eq!(large.item::<i64>().unwrap(), (1 << 53) + 1);
    assert_eq!(x.div_scalar(2).unwrap().to_vec::<i64>().unwrap()[0], 0);
    let third = Tensor::from_slice(&[5.0], &[1], &device).unwrap().div_scalar(3.0).unwrap();
    assert_eq!(third.item::<f64>().unwrap(), 5.0 / 3.0);
}

#[test]
fn products_of_every_rank() {
    let device = device();
    let (row, matrix) = (counted(&[3], &device), counted(&[3, 2], &device));
    assert_eq!(values(row.matmul(&row).unwrap()), [5.0]);
    assert_eq!(values(row.matmul(&matrix).unwrap()), [10.0, 13.0]);
    assert_eq!(values(matrix.t().unwrap().matmul(&row).unwrap()), [10.0, 13.0]);
    let batch = counted(&[2, 4, 3], &device);
    assert_eq!(batch.matmul(&matrix).unwrap().dims().unwrap(), [2, 4, 2]);
    assert_eq!(batch.matmul(&matrix.broadcast_to(&[2, 3, 2]).unwrap()).unwrap().dims().unwrap(), [2, 4, 2]);
    assert_eq!(batch.matmul(&row).unwrap().dims().unwrap(), [2, 4]);
    assert_eq!(counted(&[2, 0, 3], &device).matmul(&matrix).unwrap().dims().unwrap(), [2, 0, 2]);
    assert_eq!(values(counted(&[1, 0], &device).matmul(&counted(&[0, 2], &device)).unwrap()), [0.0, 0.0]);
}

/// The weight's gradient of operands whose rows don't fold: summed product by product.
#[test]
fn gradients_of_a_weight_under_transposed_activations() {
    let device = device();
    let w = Var::new(counted(&[3, 2], &device)).unwrap();
    let x = counted(&[4, 2, 3], &device);
    let gradient = |x: &Tensor, g: &Tensor| {
        let y = x.matmul(&w.tensor()).unwrap();
        values(y.backward_with(g.clone()).unwrap().remove(&w).unwrap())
    };
    let g = counted(&[4, 2, 2], &device);
    let swapped = |t: &Tensor| t.transpose(0, 1).unwrap().copy().unwrap().transpose(0, 1).unwrap();
    assert_eq!(gradient(&x, &g), gradient(&swapped(&x), &g));
    assert_eq!(gradient(&x, &g), gradient(&x, &swapped(&g)));
}

#[test]
fn joins_and_masks() {
    let device = device();
    let x = counted(&[2, 2], &device);
    assert_eq!(Tensor::stack(&[&x, &x], 1).unwrap().dims().unwrap(), [2, 2, 2]);
    assert_eq!(values(x.pad(&[(0, 0), (1, 0)], 7).unwrap()), [7.0, 0.0, 1.0, 7.0, 2.0, 3.0]);
    assert_eq!(values(counted(&[3, 3], &device).tril(0).unwrap()), [0.0, 0.0, 0.0, 3.0, 4.0, 0.0, 6.0, 7.0, 8.0]);
    assert_eq!(values(counted(&[2, 3], &device).triu(1).unwrap()), [0.0, 1.0, 2.0, 0.0, 0.0, 5.0]);
    assert_eq!(values(Tensor::eye(2, DType::F64, &device).unwrap()), [1.0, 0.0, 0.0, 1.0]);
    let classes = Tensor::from_slice(&[2i64, 0], &[2], &device).unwrap();
    let hot = Tensor::one_hot(&classes, 3, DType::Bool).unwrap();
    assert_eq!(hot.to_vec::<bool>().unwrap(), [false, false, true, true, false, false]);
    assert_eq!(Tensor::one_hot(&classes, 2, DType::F32).unwrap_err().kind(), ErrorKind::Index);
    assert!(x.index_select(0, &classes).is_err());
    let none = Tensor::from_slice::<i64>(&[], &[0], &device).unwrap();
    assert_eq!(x.index_select(1, &none).unwrap().dims().unwrap(), [2, 0]);
}

#[test]
fn reductions_of_everything_and_nothing() {
    let device = device();
    let x = counted(&[2, 3], &device);
    assert_eq!(values(x.sum(&[-1], false).unwrap()), [3.0, 12.0]);
    assert_eq!(x.mean(&[0, 1], true).unwrap().dims().unwrap(), [1, 1]);
    assert_eq!(values(x.var(&[1], 1, false).unwrap()), [1.0, 1.0]);
    assert_eq!(x.argmax(1, false).unwrap().to_vec::<i64>().unwrap(), [2, 2]);
    assert_eq!(values(x.topk(2, 1, true).unwrap().0), [2.0, 1.0, 5.0, 4.0]);
    assert_eq!(values(x.cumsum(0).unwrap()), [0.0, 1.0, 2.0, 3.0, 5.0, 7.0]);
    assert!(x.any(&[0], false).is_err());
    let truth = x.gt_scalar(4.5).unwrap();
    assert_eq!(truth.any(&[1], false).unwrap().to_vec::<bool>().unwrap(), [false, true]);
    assert!(!truth.all(&[0, 1], false).unwrap().item::<bool>().unwrap());
    let none = counted(&[0, 2], &device);
    assert_eq!(values(none.sum(&[0], false).unwrap()), [0.0, 0.0]);
    assert!(none.max(&[0], false).is_err());
    let none = none.gt_scalar(0.0).unwrap();
    assert_eq!(none.all(&[0], false).unwrap().to_vec::<bool>().unwrap(), [true, true]);
    assert!(x.sum(&[0, 0], false).is_err());
    let masked = Tensor::full(&[2], f64::NEG_INFINITY, DType::F64, &device).unwrap();
    assert_eq!(values(masked.logsumexp(0, false).unwrap()), [f64::NEG_INFINITY]);
}

/// The product's gradient with zeros among the elements.
#[test]
fn the_gradient_of_a_product_with_zeros() {
    let device = device();
    for (x, expected) in
        [([2.0, 0.0, 3.0], [0.0, 6.0, 0.0]), ([0.0, 0.0, 3.0], [0.0; 3]), ([2.0, 4.0, 3.0], [12.0, 6.0, 8.0])]
    {
        let x = Var::new(Tensor::from_slice(&x, &[3], &device).unwrap()).unwrap();
        let grads = x.tensor().prod_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&x).unwrap().to_vec::<f64>().unwrap(), expected);
    }
}

#[test]
fn fully_masked_rows_are_zero_and_so_is_their_gradient() {
    let device = device();
    let x = Var::new(counted(&[2, 2], &device)).unwrap();
    let mask = Tensor::from_slice(&[false, false, true, false], &[2, 2], &device).unwrap();
    for composed in [false, true] {
        let run = || x.tensor().masked_softmax(&mask, -1).unwrap();
        let y = if composed { without_kernels(run) } else { run() };
        assert_eq!(y.to_vec::<f64>().unwrap(), [0.0, 0.0, 1.0, 0.0]);
        let g = y.square().unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(g.get(&x).unwrap().to_vec::<f64>().unwrap(), [0.0; 4]);
    }
}

#[test]
fn text() {
    let device = device();
    let x = counted(&[2, 2], &device).div_scalar(3.0).unwrap();
    assert_eq!(x.to_string(), "[[0.0000, 0.3333],\n [0.6667, 1.0000]]\n[2, 2] f64 reference");
    assert_eq!(format!("{x:?}"), "Tensor([2, 2] f64 reference)");
    assert_eq!(counted(&[3], &device).sub_scalar(1).unwrap().to_string(), "[-1.,  0.,  1.]\n[3] f64 reference");
    let long = counted(&[2000], &device).to_string();
    assert_eq!(long, "[   0.,    1.,    2., ..., 1997., 1998., 1999.]\n[2000] f64 reference");
    assert_eq!(Tensor::scalar(1, DType::I64, &device).unwrap().to_string(), "1\n[] i64 reference");
    assert_eq!(counted(&[0, 2], &device).to_string(), "[]\n[0, 2] f64 reference");
    let odd = Tensor::from_slice(&[f64::NAN, 1e-9, f64::INFINITY], &[3], &device).unwrap().to_string();
    assert_eq!(odd, "[      NaN, 1.0000e-9,       inf]\n[3] f64 reference");
}
