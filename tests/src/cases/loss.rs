//! Cross-entropy over class indices: smoothing, ignored rows, logits that break naive formulas.

use crate::{
    case::{Case, Destination, Gradient, Operand},
    fill::Fill,
    layout::Placement,
    matrix,
    tolerance::{Accept, FUSED, FUSED_TRANSCENDENTAL},
};
use attentia_backend::{CrossEntropy, DType, ErrorKind, FusedOp};
use std::sync::Arc;

const SHAPES: [[usize; 2]; 14] = [
    [2, 2],
    [1, 65],
    [3, 7],
    [5, 15],
    [7, 16],
    [2, 17],
    [31, 3],
    [33, 5],
    [4, 31],
    [3, 33],
    [2, 63],
    [5, 64],
    [3, 129],
    [17, 10],
];

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let classes = |c: usize| Fill::positions(c);
    for (d, dtype) in DType::FLOATS.into_iter().enumerate() {
        for (i, shape) in SHAPES.into_iter().enumerate() {
            let turn = i * 7 + d * 3;
            let placement = Placement::STRIDED[(i + d) % 5];
            let smoothing = [0.0, 0.1, 0.5, 1.0][turn % 4];
            let fill = Fill::Between(-5.0, 5.0);
            all.push(cross_entropy(
                dtype,
                shape,
                placement,
                turn,
                (smoothing, None),
                fill.clone(),
                classes(shape[1]),
                "",
            ));
            // Every third target is ignored: an index that is no class, or one that is.
            let ignored = if turn.is_multiple_of(2) { -100 } else { 0 };
            let targets = Fill::Whole(vec![1, ignored, (shape[1] - 1) as i64]);
            let spec = (smoothing, Some(ignored));
            all.push(cross_entropy(dtype, shape, placement, turn + 1, spec, fill, targets, "_ignoring"));
        }
        let one = (0.1, None);
        all.push(cross_entropy(dtype, [0, 5], Placement::Empty, d, one, Fill::Between(-1.0, 1.0), classes(5), ""));
        all.push(cross_entropy(
            dtype,
            [0, 5],
            Placement::Empty,
            d + 1,
            one,
            Fill::Between(-1.0, 1.0),
            classes(5),
            "_offset",
        ));
        all.push(cross_entropy(dtype, [1, 1], Placement::One, d, one, Fill::Between(-1.0, 1.0), classes(1), ""));
        let inf = f64::INFINITY;
        let extremes: [(&str, f64, Vec<f64>); 6] = [
            ("_masked_class", 0.0, vec![1.0, -inf, 0.5, 2.0, -inf]),
            ("_large", 0.0, vec![1e4, 9.99e3, -1e4, 1e4, 0.0]),
            ("_large_smoothed", 0.1, vec![1e4, 9.99e3, -1e4, 1e4, 0.0]),
            ("_confident", 0.0, vec![60.0, -60.0, -60.0, -60.0, -60.0]),
            ("_nan", 0.1, vec![1.0, f64::NAN, 0.5, -2.0, 0.0]),
            ("_plus_inf", 0.0, vec![1.0, inf, 0.5, -2.0, 0.0]),
        ];
        for (i, (name, smoothing, row)) in extremes.into_iter().enumerate() {
            let placement = Placement::STRIDED[(i + d) % 5];
            let targets = Fill::Whole(vec![0, 2, 3]);
            all.push(cross_entropy(dtype, [3, 5], placement, i, (smoothing, None), Fill::Given(row), targets, name));
        }
        let unruly = Fill::Unruly(-3.0, 3.0);
        let nothing = Fill::Whole(vec![-1]);
        all.push(cross_entropy(
            dtype,
            [6, 9],
            Placement::Contiguous,
            0,
            (0.1, Some(-1)),
            unruly,
            nothing,
            "_all_ignored",
        ));
        if matches!(dtype, DType::F32 | DType::Bf16) {
            for (i, shape) in [[40, 1003], [2, 30_011], [3000, 11]].into_iter().enumerate() {
                let placement = Placement::STRIDED[(i + d) % 5];
                let fill = Fill::Between(-9.0, 9.0);
                all.push(cross_entropy(dtype, shape, placement, i + d, (0.1, None), fill, classes(shape[1]), "_large"));
            }
        }
    }
    for target in [-1, 5, i64::MAX] {
        let targets = Fill::Whole(vec![0, target, 1]);
        let fill = Fill::Between(-1.0, 1.0);
        let name = format!("_refused_{target}");
        let spec = (0.0, Some(-100));
        all.push(
            cross_entropy(DType::F32, [3, 5], Placement::Contiguous, 0, spec, fill, targets, &name)
                .refused(ErrorKind::Index),
        );
    }
    all
}

fn cross_entropy(
    dtype: DType,
    [rows, classes]: [usize; 2],
    placement: Placement,
    turn: usize,
    (label_smoothing, ignore_index): (f64, Option<i64>),
    logits: Fill,
    targets: Fill,
    suffix: &str,
) -> Case {
    let spec = CrossEntropy { label_smoothing, ignore_index };
    let (shape, statistics) = ([rows, classes], dtype.statistics());
    let accept = Accept::NaiveKeepingZeros(FUSED_TRANSCENDENTAL);
    let target = placement.other(turn);
    let what = format!("{}_smoothed_{label_smoothing}{suffix}", matrix::name(&shape));
    let rowwise = |role, turn| Destination::new(role, statistics, &[rows], placement.destination(turn), turn, accept);
    Case::new("cross_entropy", what, placement, dtype, move |b, views| {
        let ([logits, targets], [loss, lse]) = views.all();
        b.cross_entropy(&spec, logits, targets, loss, lse)
    })
    .input(Operand::new("logits", dtype, &shape, placement, turn, logits))
    .input(Operand::new("targets", DType::I64, &[rows], target, turn + 1, targets))
    .output(rowwise("loss", turn))
    .output(Destination::new(
        "lse",
        statistics,
        &[rows],
        placement.destination(turn + 1),
        turn,
        Accept::Naive(FUSED_TRANSCENDENTAL),
    ))
    .gradient(Gradient {
        operation: "cross_entropy_backward",
        saved: vec![1],
        cotangents: vec![Operand::new(
            "dloss",
            statistics,
            &[rows],
            placement.other(turn + 3),
            turn,
            Fill::Between(-1.0, 1.0),
        )],
        outputs: vec![Destination::new(
            "dlogits",
            dtype,
            &shape,
            placement.destination(turn + 2),
            turn,
            if dtype.is_half() { Accept::NaiveKeepingZeros(FUSED) } else { accept },
        )],
        run: Arc::new(move |b, views| {
            let ([logits, targets, lse, dloss], [dlogits]) = views.all();
            b.cross_entropy_backward(&spec, logits, targets, lse, dloss, dlogits)
        }),
    })
    .asking(|b, dtype, _| b.support(FusedOp::CrossEntropy, dtype))
}
