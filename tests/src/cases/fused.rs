//! Dropout and the AdamW update.

use crate::{
    case::{Case, Destination, Operand},
    fill::Fill,
    layout::Placement,
    matrix::{Cell, ELEMENTWISE, cells},
    tolerance::{Accept, FUSED, FUSED_TRANSCENDENTAL},
};
use attentia_backend::{AdamW, DType, Dropout, ErrorKind, FusedOp, RngKey, Source};

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (d, dtype) in DType::FLOATS.into_iter().enumerate() {
        for cell in cells(&ELEMENTWISE, d) {
            all.push(dropout(dtype, cell, [0.1, 0.5, 0.0, 0.9][cell.turn % 4], Fill::Between(-3.0, 3.0), ""));
            all.push(adamw(dtype, cell));
        }
        let unruly = Cell { placement: Placement::Sliced, shape: &[6, 35], turn: d };
        all.push(dropout(dtype, unruly, 0.5, Fill::Unruly(-1.0, 1.0), "_unruly"));
        for placement in Placement::WRITABLE {
            all.push(dropout_in_place(dtype, placement, d));
        }
        if matches!(dtype, DType::F32 | DType::Bf16) {
            let large = Cell { placement: Placement::STRIDED[d % 5], shape: &[3, 30_011], turn: d };
            all.push(dropout(dtype, large, 0.1, Fill::Between(-3.0, 3.0), "_large"));
            all.push(adamw(dtype, Cell { placement: Placement::Contiguous, ..large }));
        }
    }
    for p in [1.0, -0.1, f64::NAN] {
        let cell = Cell { placement: Placement::Contiguous, shape: &[3], turn: 0 };
        let refused = dropout(DType::F32, cell, p, Fill::Between(0.0, 1.0), "_refused");
        all.push(refused.refused(ErrorKind::Argument));
    }
    all
}

fn spec(p: f64, turn: usize) -> Dropout {
    Dropout { p, key: RngKey::new(11).path("dec.1.ffn").step(turn as u64).call(2) }
}

fn dropout(dtype: DType, cell: Cell, p: f64, fill: Fill, suffix: &str) -> Case {
    let Cell { placement, shape, turn } = cell;
    let spec = spec(p, turn);
    let accept = Accept::NaiveKeepingZeros(FUSED);
    Case::new("dropout", format!("{}_p_{p}{suffix}", cell.name()), placement, dtype, move |b, views| {
        let ([x], [out]) = views.all();
        b.dropout(&spec, Source::View(x), out)
    })
    .input(Operand::new("x", dtype, shape, placement, turn, fill))
    .output(Destination::new("out", dtype, shape, cell.destination(), turn, accept))
    .asking(|b, dtype, _| b.support(FusedOp::Dropout, dtype))
}

fn dropout_in_place(dtype: DType, placement: Placement, turn: usize) -> Case {
    let (spec, shape) = (spec(0.25, turn), [7, 33]);
    let x = Destination::new("x", dtype, &shape, placement, turn, Accept::NaiveKeepingZeros(FUSED));
    Case::new("dropout", "in_place", placement, dtype, move |b, views| {
        let ([], [x]) = views.all();
        b.dropout(&spec, Source::Destination, x)
    })
    .output(x.holding(Fill::Between(-3.0, 3.0)))
    .asking(|b, dtype, _| b.support(FusedOp::Dropout, dtype))
}

fn adamw(dtype: DType, cell: Cell) -> Case {
    let Cell { placement, shape, turn } = cell;
    let spec = AdamW {
        learning_rate: 1e-2,
        betas: (0.9, 0.99),
        epsilon: 1e-8,
        weight_decay: [0.0, 0.1][turn % 2],
        step: [1, 2, 1000][turn % 3],
        gradient_scale: [1.0, 0.25][turn / 2 % 2],
    };
    let held = |role, dtype, turn: usize, accept, fill| {
        Destination::new(role, dtype, shape, cell.placement.destination(turn), turn, accept).holding(fill)
    };
    let statistics = dtype.statistics();
    Case::new("adamw", format!("{}_step_{}", cell.name(), spec.step), placement, dtype, move |b, views| {
        let ([gradient], [parameter, first, second]) = views.all();
        b.adamw(&spec, gradient, parameter, first, second)
    })
    .input(Operand::new("gradient", dtype, shape, placement, turn, Fill::Between(-1.0, 1.0)))
    .output(held("parameter", dtype, turn, Accept::Naive(FUSED_TRANSCENDENTAL), Fill::Between(-1.0, 1.0)))
    .output(held("first_moment", statistics, turn + 1, Accept::Naive(FUSED), Fill::Between(-0.1, 0.1)))
    .output(held("second_moment", statistics, turn / 4, Accept::Naive(FUSED), Fill::Between(0.0, 0.1)))
    .asking(|b, dtype, _| b.support(FusedOp::AdamW, dtype))
}
