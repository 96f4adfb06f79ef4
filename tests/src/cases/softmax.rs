//! The softmax family along the last axis, forward and backward.

use crate::{
    case::{Case, Destination, Gradient, Operand},
    fill::Fill,
    layout::Placement,
    matrix::{Cell, row_cells},
    tolerance::{Accept, FUSED, FUSED_TRANSCENDENTAL},
};
use attentia_backend::{DType, ErrorKind, FusedOp, SoftmaxKind, Source};
use std::sync::Arc;

const KINDS: [SoftmaxKind; 3] = [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax, SoftmaxKind::Masked];

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (s, kind) in KINDS.into_iter().enumerate() {
        for (d, dtype) in DType::FLOATS.into_iter().enumerate() {
            for cell in row_cells(s * 2 + d) {
                all.push(softmax(kind, dtype, cell, Fill::Between(-5.0, 5.0), Fill::Between(0.0, 1.0), ""));
            }
            all.extend(in_place(kind, dtype, s + d));
            extremes(kind, dtype, &mut all);
            if matches!(dtype, DType::F32 | DType::Bf16) {
                for (i, shape) in [&[64, 1000][..], &[3, 5003], &[2000, 7], &[2, 2, 130, 192]].into_iter().enumerate() {
                    let cell = Cell { placement: Placement::STRIDED[(i + d) % 5], shape, turn: i + d };
                    all.push(softmax(kind, dtype, cell, Fill::Between(-9.0, 9.0), Fill::Between(0.0, 1.0), "_large"));
                }
            }
        }
    }
    let cell = Cell { placement: Placement::Contiguous, shape: &[2, 3], turn: 0 };
    let refused = |what, with_mask: bool, kind: SoftmaxKind| {
        let case = Case::new(kind.name(), what, cell.placement, DType::F32, move |b, views| {
            let ([x, mask], [out]) = views.all();
            b.softmax(kind, Source::View(x), with_mask.then_some(mask), out)
        });
        let fill = Fill::Between(0.0, 1.0);
        case.input(Operand::new("x", DType::F32, cell.shape, cell.placement, 0, fill.clone()))
            .input(Operand::new("mask", DType::Bool, &[2, 3], cell.placement, 0, fill))
            .output(Destination::new("out", DType::F32, cell.shape, cell.placement, 0, Accept::Exact))
            .refused(ErrorKind::Argument)
    };
    all.push(refused("refused_without_mask", false, SoftmaxKind::Masked));
    all.push(refused("refused_with_mask", true, SoftmaxKind::Softmax));
    all
}

fn backward_name(kind: SoftmaxKind) -> &'static str {
    match kind {
        SoftmaxKind::Softmax => "softmax_backward",
        SoftmaxKind::LogSoftmax => "log_softmax_backward",
        SoftmaxKind::Masked => "masked_softmax_backward",
    }
}

fn accept(kind: SoftmaxKind) -> Accept {
    match kind {
        SoftmaxKind::Masked => Accept::NaiveKeepingZeros(FUSED_TRANSCENDENTAL),
        _ => Accept::Naive(FUSED_TRANSCENDENTAL),
    }
}

fn backward_accept(kind: SoftmaxKind) -> Accept {
    match kind {
        SoftmaxKind::Masked => Accept::NaiveKeepingZeros(FUSED),
        SoftmaxKind::Softmax => Accept::Naive(FUSED),
        SoftmaxKind::LogSoftmax => Accept::Naive(FUSED_TRANSCENDENTAL),
    }
}

fn softmax(kind: SoftmaxKind, dtype: DType, cell: Cell, x: Fill, mask: Fill, suffix: &str) -> Case {
    let Cell { placement, shape, turn } = cell;
    let masked = kind == SoftmaxKind::Masked;
    let mut case = Case::new(kind.name(), format!("{}{suffix}", cell.name()), placement, dtype, move |b, mut views| {
        let mask = if masked { views.inputs.pop() } else { None };
        let ([x], [out]) = views.all();
        b.softmax(kind, Source::View(x), mask, out)
    })
    .input(Operand::new("x", dtype, shape, placement, turn, x));
    if masked {
        case = case.input(Operand::new("mask", DType::Bool, shape, cell.third(), turn + 2, mask));
    }
    case.output(Destination::new("out", dtype, shape, cell.destination(), turn, accept(kind)))
        .gradient(Gradient {
            operation: backward_name(kind),
            saved: vec![0],
            cotangents: vec![cotangent(dtype, cell)],
            outputs: vec![Destination::new("dx", dtype, shape, cell.second_destination(), turn, backward_accept(kind))],
            run: Arc::new(move |b, mut views| {
                if masked {
                    views.inputs.remove(1);
                }
                let ([_, y, dy], [dx]) = views.all();
                b.softmax_backward(kind, y, Source::View(dy), dx)
            }),
        })
        .asking(move |b, dtype, _| b.support(FusedOp::Softmax(kind), dtype))
}

/// A cotangent that isn't the same along a row: then the gradient is 0, and what a kernel gives is nothing but rounding.
fn cotangent(dtype: DType, cell: Cell) -> Operand {
    let (placement, turn) = match (cell.second(), cell.shape.len()) {
        (Placement::Broadcast, 1) => (Placement::Transposed, cell.turn + 1),
        (Placement::Broadcast, _) => (Placement::Broadcast, 0),
        (placement, _) => (placement, cell.turn + 1),
    };
    Operand::new("dy", dtype, cell.shape, placement, turn, Fill::Between(-1.0, 1.0))
}

/// Forward over its own operand, backward over its own cotangent.
fn in_place(kind: SoftmaxKind, dtype: DType, turn: usize) -> Vec<Case> {
    let masked = kind == SoftmaxKind::Masked;
    let shape: &[usize] = [&[5, 33][..], &[3, 64], &[2, 3, 17]][turn % 3];
    let mut all = Vec::new();
    for placement in Placement::WRITABLE {
        let mut case = Case::new(kind.name(), "in_place", placement, dtype, move |b, mut views| {
            let mask = if masked { views.inputs.pop() } else { None };
            let ([], [out]) = views.all();
            b.softmax(kind, Source::Destination, mask, out)
        });
        if masked {
            let mask = Operand::new("mask", DType::Bool, shape, placement.other(turn), turn, Fill::Between(0.0, 1.0));
            case = case.input(mask);
        }
        let x = Destination::new("x", dtype, shape, placement, turn, accept(kind)).holding(Fill::Between(-5.0, 5.0));
        let asked = move |b: &dyn attentia_backend::Backend, dtype, _: &[attentia_backend::View]| {
            b.support(FusedOp::Softmax(kind), dtype)
        };
        all.push(case.output(x).asking(asked));
        let y = Operand::new(
            "y",
            dtype,
            shape,
            placement.other(turn),
            turn,
            match kind {
                SoftmaxKind::LogSoftmax => Fill::Between(-6.0, -0.5),
                _ => Fill::Between(0.001, 0.3),
            },
        );
        let dy = Destination::new("dy", dtype, shape, placement, turn, backward_accept(kind));
        let back = Case::new(backward_name(kind), "in_place", placement, dtype, move |b, views| {
            let ([y], [dy]) = views.all();
            b.softmax_backward(kind, y, Source::Destination, dy)
        });
        all.push(back.input(y).output(dy.holding(Fill::Between(-1.0, 1.0))).asking(asked));
    }
    all
}

/// Rows at which kernels break.
fn extremes(kind: SoftmaxKind, dtype: DType, all: &mut Vec<Case>) {
    let inf = f64::INFINITY;
    let rows: [(&str, Vec<f64>); 9] = [
        ("_all_minus_inf", vec![-inf; 5]),
        ("_some_minus_inf", vec![1.0, -inf, 0.5, -inf, -inf]),
        ("_first_minus_inf", vec![-inf, -inf, -inf, -inf, 3.0]),
        ("_plus_inf", vec![1.0, inf, 0.5, -2.0, 0.0]),
        ("_nan", vec![1.0, f64::NAN, 0.5, -2.0, 0.0]),
        ("_large", vec![1e4, 9.99e3, -1e4, 1e4, 0.0]),
        ("_huge", vec![6e4, -6e4, 6e4, 5.9e4, -1.0]),
        ("_very_negative", vec![-95.0, -96.5, -100.0, -1e4, -110.0]),
        ("_equal", vec![-7.25; 5]),
    ];
    for (i, (name, row)) in rows.into_iter().enumerate() {
        let placement = Placement::STRIDED[(i + dtype.size()) % 5];
        // Five and seventy are coprime with the widths of vectors: the special value stands everywhere once.
        for shape in [&[3, 5][..], &[2, 70]] {
            let cell = Cell { placement, shape, turn: i };
            all.push(softmax(kind, dtype, cell, Fill::Given(row.clone()), Fill::Between(0.0, 1.0), name));
        }
    }
    if kind != SoftmaxKind::Masked {
        return;
    }
    let masks: [(&str, Vec<i64>); 5] = [
        ("_nothing_left", vec![0]),
        ("_everything", vec![1]),
        ("_one_left", vec![0, 0, 0, 1, 0, 0, 0]),
        ("_some_rows_full", [vec![0; 14], vec![1; 3], vec![0; 4]].concat()),
        ("_last_only", vec![0, 0, 0, 0, 0, 0, 1]),
    ];
    for (i, (name, mask)) in masks.into_iter().enumerate() {
        let cell = Cell { placement: Placement::STRIDED[i], shape: &[5, 7], turn: i };
        all.push(softmax(kind, dtype, cell, Fill::Between(-5.0, 5.0), Fill::Whole(mask.clone()), name));
        let scores = Fill::Given(vec![-inf, 1.0, -2.0, -inf, 0.0]);
        all.push(softmax(kind, dtype, cell, scores, Fill::Whole(mask), &format!("{name}_beside_minus_inf")));
    }
    // Width 192 is 64 modulo 128, scores are so low that exp of any of them underflows, and some rows have nothing left.
    let low = Cell { placement: Placement::Contiguous, shape: &[6, 192], turn: 0 };
    let mask = Fill::Whole([vec![0; 192], vec![1; 192], vec![0, 1, 1, 0]].concat());
    all.push(softmax(kind, dtype, low, Fill::Between(-140.0, -95.0), mask, "_low"));
}
