//! Products of matrices: tile sizes and their neighbours, broadcast batches, every placement of three operands, and every kind
//! of epilogue.

use crate::{
    case::{Case, Destination, Operand},
    fill::Fill,
    layout::Placement,
    tolerance::{Accept, FUSED_TRANSCENDENTAL},
};
use attentia_backend::{Activation, Apply, DType, Epilogue, ErrorKind, Source};

/// `[lead.., M, K] × [lead.., K, N]`: lead, M, K, N.
const SIZES: [(&[usize], [usize; 3]); 26] = [
    (&[], [2, 3, 5]),
    (&[], [7, 1, 7]),
    (&[], [1, 127, 1]),
    (&[], [1, 64, 33]),
    (&[], [33, 64, 1]),
    (&[], [15, 16, 17]),
    (&[], [16, 16, 16]),
    (&[], [17, 15, 16]),
    (&[], [31, 33, 32]),
    (&[], [32, 31, 33]),
    (&[], [33, 32, 31]),
    (&[], [63, 65, 64]),
    (&[], [64, 64, 64]),
    (&[], [65, 63, 65]),
    (&[], [3, 300, 5]),
    (&[], [13, 2, 97]),
    (&[], [97, 13, 2]),
    (&[2], [5, 7, 3]),
    (&[3], [17, 33, 16]),
    (&[2, 3], [4, 5, 6]),
    (&[2, 1, 3], [9, 8, 7]),
    (&[5], [1, 16, 31]),
    (&[5], [31, 16, 1]),
    (&[2], [64, 32, 65]),
    (&[4], [2, 2, 2]),
    (&[2, 2], [16, 17, 33]),
];

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (d, dtype) in DType::FLOATS.into_iter().enumerate() {
        for (i, (lead, sizes)) in SIZES.into_iter().enumerate() {
            for accumulate in [false, true] {
                let turn = i * 7 + d * 3 + usize::from(accumulate) * 11;
                let placement = Placement::STRIDED[(i + d + usize::from(accumulate) * 2) % 5];
                all.push(matmul(dtype, dtype, lead, sizes, accumulate, placement, turn, "", -1.0));
                if dtype.is_half() && i % 2 == 0 {
                    let what = "_into_f32";
                    all.push(matmul(dtype, DType::F32, lead, sizes, accumulate, placement, turn, what, -1.0));
                }
            }
        }
        for accumulate in [false, true] {
            for (lead, sizes) in [(&[][..], [0, 3, 5]), (&[], [3, 5, 0]), (&[0], [2, 3, 4]), (&[2, 0], [1, 1, 1])] {
                all.push(matmul(dtype, dtype, lead, sizes, accumulate, Placement::Empty, d, "", -1.0));
            }
            for (lead, sizes) in [(&[][..], [3, 0, 5]), (&[2], [17, 0, 16])] {
                // Nothing to sum: zeros, or what was there.
                all.push(matmul(dtype, dtype, lead, sizes, accumulate, Placement::Empty, d, "", -1.0));
            }
            for lead in [&[][..], &[1], &[1, 1]] {
                all.push(matmul(dtype, dtype, lead, [1, 1, 1], accumulate, Placement::One, d, "", -1.0));
            }
        }
        for (i, sizes) in [[65, 33, 17], [4, 7, 9], [16, 64, 32]].into_iter().enumerate() {
            all.push(matmul(dtype, dtype, &[], sizes, false, Placement::STRIDED[(i + d) % 5], i, "_unruly", -1.0));
        }
        // Sums that do not cancel: the bound is tight.
        all.push(matmul(dtype, dtype, &[], [20, 500, 20], false, Placement::Contiguous, d, "_positive", 0.0));
    }
    for (i, sizes) in [[129, 257, 130], [256, 64, 300], [1, 1031, 517], [517, 1031, 1]].into_iter().enumerate() {
        for (d, dtype) in [DType::F32, DType::Bf16].into_iter().enumerate() {
            all.push(matmul(dtype, dtype, &[], sizes, d == 1, Placement::STRIDED[(i + d) % 5], i * 3 + d, "", -1.0));
        }
    }
    for (d, dtype) in DType::FLOATS.into_iter().enumerate() {
        all.push(matmul(dtype, dtype, &[6], [33, 64, 65], true, Placement::STRIDED[d], d, "_batch", -1.0));
    }
    all.extend(endings());
    all.extend(refusals());
    all
}

/// What becomes of the sums of a case.
#[derive(Clone, Copy)]
enum Ending {
    Bias,
    BiasAccumulated,
    Residual,
    Value(Activation),
    ValueAccumulated(Activation),
    Slope(Activation),
    All(Activation),
}

impl Ending {
    fn name(self) -> String {
        match self {
            Ending::Bias => "bias".to_owned(),
            Ending::BiasAccumulated => "bias_accumulated".to_owned(),
            Ending::Residual => "bias_residual".to_owned(),
            Ending::Value(f) => format!("bias_{}", f.name()),
            Ending::ValueAccumulated(f) => format!("{}_accumulated", f.name()),
            Ending::Slope(f) => format!("{}_slope", f.name()),
            Ending::All(f) => format!("bias_{}_slope_residual", f.name()),
        }
    }

    fn has_bias(self) -> bool {
        !matches!(self, Ending::ValueAccumulated(_) | Ending::Slope(_))
    }

    fn has_x(self) -> bool {
        matches!(self, Ending::Slope(_) | Ending::All(_))
    }

    fn is_residual(self) -> bool {
        matches!(self, Ending::Residual | Ending::All(_))
    }

    fn accumulates(self) -> bool {
        matches!(self, Ending::BiasAccumulated | Ending::ValueAccumulated(_))
    }

    /// Whether only sums are made.
    fn is_linear(self) -> bool {
        matches!(self, Ending::Bias | Ending::BiasAccumulated | Ending::Residual)
    }
}

/// Few rows, many, long sums of few elements and of some more, batches that share an operand and such that don't.
fn endings() -> Vec<Case> {
    let mut all = Vec::new();
    let mut kinds = vec![Ending::Bias, Ending::BiasAccumulated, Ending::Residual];
    for f in Activation::ALL {
        kinds.extend([Ending::Value(f), Ending::ValueAccumulated(f), Ending::Slope(f), Ending::All(f)]);
    }
    let sizes: [(&[usize], [usize; 3]); 10] = [
        (&[], [17, 33, 70]),
        (&[], [3, 40, 65]),
        (&[], [65, 40, 2]),
        (&[], [1, 1, 1]),
        (&[], [9, 2100, 33]),
        (&[], [61, 1500, 37]),
        (&[], [130, 520, 97]),
        (&[2, 3], [9, 8, 7]),
        (&[3], [1, 16, 31]),
        (&[2], [3, 0, 5]),
    ];
    for (d, dtype) in DType::FLOATS.into_iter().enumerate() {
        for (k, ending) in kinds.iter().enumerate() {
            // Each kind meets three sizes in each dtype.
            for (i, (lead, sizes)) in sizes.into_iter().enumerate().filter(|(i, _)| (i + k + d) % 3 == 0) {
                let placement = if sizes.contains(&0) { Placement::Empty } else { Placement::STRIDED[(i + k) % 5] };
                all.push(ended(dtype, dtype, lead, sizes, *ending, placement, i + k * 2 + d));
                if dtype.is_half() && ending.is_linear() {
                    all.push(ended(dtype, DType::F32, lead, sizes, *ending, placement, i + k * 2 + d));
                }
            }
        }
    }
    all
}

fn ended(
    dtype: DType,
    result: DType,
    lead: &'static [usize],
    [m, k, n]: [usize; 3],
    ending: Ending,
    placement: Placement,
    turn: usize,
) -> Case {
    let shape = |last: [usize; 2]| [lead, &last].concat();
    let (a, b, out) = (shape([m, k]), shape([k, n]), shape([m, n]));
    let place = |shape: &[usize], turn: usize| match placement {
        Placement::Empty if shape.contains(&0) => Placement::Empty,
        Placement::Empty => Placement::WRITABLE[turn % 4],
        _ if shape.iter().all(|&extent| extent == 1) => Placement::One,
        _ => placement.other(turn),
    };
    let to = if k == 0 { Placement::WRITABLE[turn % 4] } else { placement.destination(turn) };
    let to = if out.iter().all(|&extent| extent == 1) { Placement::One } else { to };
    let accept = match ending.is_linear() {
        true => Accept::Sum { terms: k + 2 },
        false => Accept::NaiveBesideOperands(FUSED_TRANSCENDENTAL),
    };
    let what = format!("{}_{m}x{k}x{n}_{}", crate::matrix::name(lead), ending.name());
    let what = if result == dtype { what } else { format!("{what}_into_f32") };
    let batch: usize = lead.iter().product();
    let mut case = Case::new("matmul", what, placement, dtype, move |backend, views| {
        // The operands that an ending has, in this order.
        let mut inputs = views.inputs.into_iter();
        let mut next = |is_there: bool| if is_there { inputs.next() } else { None };
        let ends = [ending.has_bias(), ending.has_x(), ending.is_residual()];
        let ([a, b], [bias, x, added]) = ([true; 2].map(&mut next), ends.map(&mut next));
        let (Some(a), Some(b), Some(out)) = (a, b, views.outputs.into_iter().next()) else {
            panic!("the case has two operands and a destination")
        };
        let apply = match (ending, x) {
            (Ending::Value(f) | Ending::ValueAccumulated(f), _) => Some(Apply::Value(f)),
            (Ending::Slope(f) | Ending::All(f), Some(x)) => Some(Apply::Slope(f, x)),
            _ => None,
        };
        let add = if ending.accumulates() { Some(Source::Destination) } else { added.map(Source::View) };
        backend.matmul(a, b, Epilogue { bias, apply, add }, out)
    })
    .input(Operand::new("a", dtype, &a, place(&a, turn), turn, Fill::Between(-1.0, 1.0)))
    .input(Operand::new("b", dtype, &b, place(&b, turn + 1), turn + 1, Fill::Between(-1.0, 1.0)));
    let more =
        [(ending.has_bias(), "bias", &[n][..]), (ending.has_x(), "x", &out), (ending.is_residual(), "added", &out)];
    for (i, (_, role, shape)) in more.into_iter().enumerate().filter(|(_, (is_there, ..))| *is_there) {
        let turn = turn + 2 + i;
        case = case.input(Operand::new(role, result, shape, place(shape, turn), turn, Fill::Between(-3.0, 3.0)));
    }
    let mut destination = Destination::new("out", result, &out, to, turn, accept);
    if ending.accumulates() {
        destination = destination.holding(Fill::Between(-1.0, 1.0));
    }
    case.output(destination).cost(batch * m * k * n)
}

fn matmul(
    dtype: DType,
    result: DType,
    lead: &'static [usize],
    [m, k, n]: [usize; 3],
    accumulate: bool,
    placement: Placement,
    turn: usize,
    suffix: &str,
    low: f64,
) -> Case {
    let shape = |last: [usize; 2]| [lead, &last].concat();
    let (a, b, out) = (shape([m, k]), shape([k, n]), shape([m, n]));
    let fill = |turn: usize| match (suffix, turn % 2) {
        // In one operand only: two infinities would make nothing but NaN.
        ("_unruly", 0) => Fill::Unruly(low, 1.0),
        _ => Fill::Between(low, 1.0),
    };
    // The placements of operands that are empty or single can't follow those of the others.
    let fitting = |shape: &[usize], wanted: Placement| match placement {
        Placement::Empty if shape.contains(&0) => Placement::Empty,
        Placement::Empty => Placement::WRITABLE[turn % 4],
        Placement::One => Placement::One,
        _ => wanted,
    };
    let mode = if accumulate { "_accumulated" } else { "" };
    let what = format!("{}_{m}x{k}x{n}{mode}{suffix}", crate::matrix::name(lead));
    let place_a = fitting(&a, placement);
    let place_b = fitting(&b, placement.other(turn + turn / 5));
    let place_out = fitting(&out, placement.destination(turn / 2));
    let accept = Accept::Sum { terms: k + usize::from(accumulate) };
    let mut destination = Destination::new("out", result, &out, place_out, turn, accept);
    if accumulate {
        destination = destination.holding(Fill::Between(low, 1.0));
    }
    let batch: usize = lead.iter().product();
    Case::new("matmul", what, placement, dtype, move |backend, views| {
        let ([a, b], [out]) = views.all();
        backend.matmul(a, b, if accumulate { Epilogue::ACCUMULATE } else { Epilogue::NONE }, out)
    })
    .input(Operand::new("a", dtype, &a, place_a, turn, fill(0)))
    .input(Operand::new("b", dtype, &b, place_b, turn + 1, fill(1)))
    .output(destination)
    .cost(batch * m * k * n)
}

fn refusals() -> Vec<Case> {
    let wrong = |what: &str, a: &[usize], b: &[usize], out: &[usize]| {
        let operand =
            |role, shape| Operand::new(role, DType::F32, shape, Placement::Contiguous, 0, Fill::Between(0.0, 1.0));
        Case::new("matmul", what, Placement::Contiguous, DType::F32, |backend, views| {
            let ([a, b], [out]) = views.all();
            backend.matmul(a, b, Epilogue::NONE, out)
        })
        .input(operand("a", a))
        .input(operand("b", b))
        .output(Destination::new("out", DType::F32, out, Placement::Contiguous, 0, Accept::Exact))
        .refused(ErrorKind::Shape)
    };
    vec![
        wrong("refused_inner", &[2, 3], &[4, 5], &[2, 5]),
        wrong("refused_rank", &[3], &[3, 5], &[1, 5]),
        wrong("refused_out", &[2, 3], &[3, 5], &[5, 2]),
        wrong("refused_batch", &[2, 2, 3], &[3, 3, 5], &[2, 2, 5]),
    ]
}
