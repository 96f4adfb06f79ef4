//! GELU, its approximation, SiLU, ReLU: forward and backward.

use crate::{
    case::{Case, Destination, Gradient, Operand},
    fill::Fill,
    layout::Placement,
    matrix::{Cell, ELEMENTWISE, cells},
    tolerance::{Accept, FUSED_TRANSCENDENTAL},
};
use attentia_backend::{Activation, DType, FusedOp, Source};
use std::sync::Arc;

fn accept(f: Activation) -> Accept {
    match f {
        Activation::Relu => Accept::Exact,
        _ => Accept::NaiveBesideOperands(FUSED_TRANSCENDENTAL),
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (i, f) in Activation::ALL.into_iter().enumerate() {
        for (d, dtype) in DType::FLOATS.into_iter().enumerate() {
            let salt = i + d * 2;
            let wide = Fill::Between(-6.0, 6.0);
            all.extend(cells(&ELEMENTWISE, salt).into_iter().map(|cell| activation(f, dtype, cell, wide.clone(), "")));
            let finite: Vec<f64> = vec![
                f64::NAN,
                0.0,
                -0.0,
                1e-7,
                -1e-7,
                1e-30,
                0.5,
                -0.5,
                1.0,
                -1.0,
                3.0,
                -3.0,
                5.5,
                -5.5,
                9.0,
                -9.0,
                30.0,
                -30.0,
                200.0,
                -200.0,
            ];
            let edges = Cell { placement: Placement::Contiguous, shape: &[2, 20], turn: salt };
            let mut given = finite;
            if f == Activation::Relu {
                (given[16], given[17]) = (f64::INFINITY, f64::NEG_INFINITY);
            }
            all.push(activation(f, dtype, edges, Fill::Given(given), "_edges"));
            if matches!(dtype, DType::F32 | DType::F16) {
                let large = Cell { placement: Placement::STRIDED[salt % 5], shape: &[7, 9001], turn: salt };
                all.push(activation(f, dtype, large, wide, "_large"));
            }
            for placement in Placement::WRITABLE {
                all.extend(in_place(f, dtype, placement, salt));
            }
        }
    }
    all
}

fn backward_name(f: Activation) -> &'static str {
    match f {
        Activation::Gelu => "gelu_backward",
        Activation::GeluTanh => "gelu_tanh_backward",
        Activation::Silu => "silu_backward",
        Activation::Relu => "relu_backward",
    }
}

fn activation(f: Activation, dtype: DType, cell: Cell, fill: Fill, suffix: &str) -> Case {
    let Cell { placement, shape, turn } = cell;
    Case::new(f.name(), format!("{}{suffix}", cell.name()), placement, dtype, move |b, views| {
        let ([x], [out]) = views.all();
        b.activation(f, Source::View(x), out)
    })
    .input(Operand::new("x", dtype, shape, placement, turn, fill))
    .output(Destination::new("out", dtype, shape, cell.destination(), turn, accept(f)))
    .gradient(Gradient {
        operation: backward_name(f),
        saved: Vec::new(),
        cotangents: vec![Operand::new("dy", dtype, shape, cell.second(), turn + 1, Fill::Between(-2.0, 2.0))],
        outputs: vec![Destination::new("dx", dtype, shape, cell.second_destination(), turn, accept(f))],
        run: Arc::new(move |b, views| {
            let ([x, dy], [dx]) = views.all();
            b.activation_backward(f, x, Source::View(dy), dx)
        }),
    })
    .asking(move |b, dtype, _| b.support(FusedOp::Activation(f), dtype))
}

fn in_place(f: Activation, dtype: DType, placement: Placement, turn: usize) -> [Case; 2] {
    let shape: &[usize] = [&[33][..], &[5, 17], &[2, 3, 9]][turn % 3];
    let place = |role, fill| Destination::new(role, dtype, shape, placement, turn, accept(f)).holding(fill);
    let forward = Case::new(f.name(), "in_place", placement, dtype, move |b, views| {
        let ([], [x]) = views.all();
        b.activation(f, Source::Destination, x)
    });
    let backward = Case::new(backward_name(f), "in_place", placement, dtype, move |b, views| {
        let ([x], [dy]) = views.all();
        b.activation_backward(f, x, Source::Destination, dy)
    });
    let x = Operand::new("x", dtype, shape, placement.other(turn), turn, Fill::Between(-4.0, 4.0));
    [
        forward.output(place("x", Fill::Between(-4.0, 4.0))),
        backward.input(x).output(place("dy", Fill::Between(-1.0, 1.0))),
    ]
    .map(|case| case.asking(move |b, dtype, _| b.support(FusedOp::Activation(f), dtype)))
}
