//! Reductions over any axes, positions of extremes, running sums.

use crate::{
    case::{Case, Destination, Operand},
    fill::Fill,
    layout::Placement,
    matrix::{self, Cell, cells},
    tolerance::{Accept, FUSED},
};
use attentia_backend::{ArgReduce, DType, ErrorKind, Reduce};

/// What is reduced, and over which axes.
const SHAPES: [(&[usize], &[usize]); 20] = [
    (&[2], &[0]),
    (&[17], &[0]),
    (&[64], &[0]),
    (&[129], &[0]),
    (&[3, 31], &[1]),
    (&[33, 5], &[0]),
    (&[7, 16], &[0, 1]),
    (&[5, 63], &[1]),
    (&[65, 3], &[0]),
    (&[65, 3], &[1]),
    (&[2, 15, 7], &[1]),
    (&[2, 15, 7], &[0, 2]),
    (&[3, 5, 32], &[2]),
    (&[3, 5, 32], &[0]),
    (&[3, 5, 32], &[1, 2]),
    (&[2, 3, 5, 7], &[1, 3]),
    (&[2, 3, 5, 7], &[0, 1, 2, 3]),
    (&[2, 3, 5, 7], &[]),
    (&[4, 1, 33], &[1]),
    (&[2, 2, 2, 3, 17], &[0, 4]),
];

/// Enough for several tasks and several blocks of a sum.
const LARGE: [(&[usize], &[usize]); 5] =
    [(&[70_001], &[0]), (&[3, 20_011], &[1]), (&[20_011, 3], &[0]), (&[257, 129, 3], &[0, 1]), (&[257, 129, 3], &[1])];

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let operations = Reduce::ALL.into_iter().chain([Reduce::Var { correction: 0 }]);
    for (i, op) in operations.enumerate() {
        let dtypes = DType::ALL.into_iter().enumerate().filter(|(_, dtype)| op.result(*dtype).is_some());
        for (d, dtype) in dtypes {
            reduce_cases(op, dtype, i * 2 + d, &mut all);
        }
    }
    for (i, op) in ArgReduce::ALL.into_iter().enumerate() {
        for (d, dtype) in DType::ALL.into_iter().enumerate() {
            along_an_axis(i + d, |cell, axis| {
                all.push(arg_reduce(op, dtype, cell, axis, cell.name()));
            });
            let flat = Cell { placement: Placement::Contiguous, shape: &[9, 40], turn: 0 };
            all.push(arg_reduce(op, dtype, flat, 0, "edges".to_owned()));
            if matches!(dtype, DType::F32 | DType::Bf16 | DType::I64) {
                let large = Cell { placement: Placement::STRIDED[d % 5], shape: &[5, 10_007], turn: d };
                all.push(arg_reduce(op, dtype, large, 1, large.name()));
            }
        }
        let none = Cell { placement: Placement::Empty, shape: &[3, 0], turn: 0 };
        let mut refused = arg_reduce(op, DType::F32, none, 1, "refused_empty".to_owned());
        refused.outputs = vec![Destination::new("out", DType::I64, &[3, 1], Placement::Contiguous, 0, Accept::Exact)];
        all.push(refused.refused(ErrorKind::Shape));
    }
    for (d, dtype) in DType::ALL.into_iter().enumerate() {
        along_an_axis(d, |cell, axis| all.push(cumsum(dtype, cell, axis)));
        if dtype == DType::F32 || dtype == DType::F16 {
            for (placement, shape, axis) in
                [(Placement::Sliced, &[3, 9001][..], 1), (Placement::Contiguous, &[9001, 7], 0)]
            {
                all.push(cumsum(dtype, Cell { placement, shape, turn: d }, axis));
            }
        }
    }
    all
}

/// Cells of a rank above 0, each with an axis.
fn along_an_axis(salt: usize, mut take: impl FnMut(Cell, usize)) {
    for cell in cells(&matrix::ELEMENTWISE, salt) {
        if !cell.shape.is_empty() {
            take(cell, (cell.turn + salt) % cell.shape.len());
        }
    }
}

fn reduced(shape: &[usize], axes: &[usize]) -> Vec<usize> {
    shape.iter().enumerate().map(|(i, &e)| if axes.contains(&i) { 1 } else { e }).collect()
}

fn reduce_cases(op: Reduce, dtype: DType, salt: usize, all: &mut Vec<Case>) {
    let fill = |unruly: bool| match (op, dtype) {
        (_, DType::Bool) => Fill::Between(0.0, 1.0),
        (Reduce::Prod, d) if d.is_float() => Fill::Between(0.8, 1.25),
        (_, d) if !d.is_float() => Fill::Between(-5.0, 5.0),
        _ if unruly => Fill::Unruly(-2.0, 2.0),
        _ => Fill::Between(-2.0, 2.0),
    };
    for (i, (shape, axes)) in SHAPES.into_iter().enumerate() {
        let cell = Cell { placement: Placement::STRIDED[(i + salt) % 5], shape, turn: i * 7 + salt * 3 };
        all.push(reduce(op, dtype, dtype, cell, axes, fill(false), ""));
        if dtype.is_float() && i % 4 == salt % 4 {
            all.push(reduce(op, dtype, dtype, cell, axes, fill(true), "_unruly"));
        }
    }
    let ends: [(Placement, &[usize], &[usize]); 6] = [
        (Placement::One, &[], &[]),
        (Placement::One, &[1, 1, 1], &[0, 2]),
        (Placement::Empty, &[0, 5], &[1]),
        (Placement::Empty, &[2, 0, 3], &[0, 2]),
        (Placement::Empty, &[3, 0], &[1]),
        (Placement::Empty, &[0], &[0]),
    ];
    for (turn, (placement, shape, axes)) in ends.into_iter().enumerate() {
        let cell = Cell { placement, shape, turn };
        let nothing = axes.iter().any(|&axis| shape[axis] == 0);
        let case = reduce(op, dtype, dtype, cell, axes, fill(false), "");
        all.push(match op {
            Reduce::Max | Reduce::Min if nothing => case.refused(ErrorKind::Shape),
            _ => case,
        });
    }
    if matches!(dtype, DType::F32 | DType::Bf16 | DType::I64) {
        for (i, (shape, axes)) in LARGE.into_iter().enumerate() {
            let fill = if op == Reduce::Prod { Fill::Between(0.999, 1.001) } else { fill(false) };
            let cell = Cell { placement: Placement::STRIDED[(i + salt) % 5], shape, turn: salt };
            all.push(reduce(op, dtype, dtype, cell, axes, fill, ""));
        }
    }
    if dtype.is_half() {
        // The destination's dtype is the caller's: a sum of 16-bit numbers that nobody rounds.
        let cell = Cell { placement: Placement::Transposed, shape: &[33, 65], turn: salt };
        all.push(reduce(op, dtype, DType::F32, cell, &[0], fill(false), "_into_f32"));
    }
    if matches!(op, Reduce::Var { .. }) && dtype.is_float() {
        // A large mean: the formula with the mean of squares loses every digit here.
        let offset = if dtype.is_half() { 30.0 } else { 3000.0 };
        let cell = Cell { placement: Placement::Contiguous, shape: &[3, 999], turn: 0 };
        all.push(reduce(op, dtype, dtype, cell, &[1], Fill::Between(offset, offset + 1.0), "_offset"));
    }
}

fn reduce(
    op: Reduce,
    dtype: DType,
    result: DType,
    cell: Cell,
    axes: &'static [usize],
    fill: Fill,
    suffix: &str,
) -> Case {
    let terms = axes.iter().map(|&axis| cell.shape[axis]).product();
    let accept = match op {
        Reduce::Max | Reduce::Min => Accept::Exact,
        Reduce::Sum | Reduce::Mean | Reduce::Prod => Accept::Sum { terms },
        Reduce::Var { .. } => Accept::Naive(FUSED),
    };
    let result = if result.is_float() { result } else { op.result(dtype).unwrap_or(result) };
    let kind = if let Reduce::Var { correction: 0 } = op { "population_" } else { "" };
    let over = axes.iter().map(usize::to_string).collect::<String>();
    let what = format!("{kind}{}_over_{over}{suffix}", cell.name());
    let out = Destination::new("out", result, &reduced(cell.shape, axes), writable(cell), cell.turn, accept);
    Case::new(op.name(), what, cell.placement, dtype, move |b, views| {
        let ([x], [out]) = views.all();
        b.reduce(op, x, axes, out)
    })
    .input(Operand::new("x", dtype, cell.shape, cell.placement, cell.turn, fill))
    .output(out)
}

/// A destination of another shape than the operand's: an empty operand may have a result, and the other way round.
fn writable(cell: Cell) -> Placement {
    match cell.placement {
        Placement::Empty | Placement::One => Placement::WRITABLE[cell.turn % 4],
        _ => cell.destination(),
    }
}

fn arg_reduce(op: ArgReduce, dtype: DType, cell: Cell, axis: usize, what: String) -> Case {
    let fill = match (what.as_str(), dtype) {
        ("edges", _) => Fill::Edges,
        (_, DType::Bool) => Fill::Between(0.0, 1.0),
        // Few values: most extremes are reached more than once.
        (_, d) if d.is_float() => Fill::Given(vec![1.0, 2.0, -1.0, 2.0, 0.5, -1.0, 0.0]),
        _ => Fill::Between(-3.0, 3.0),
    };
    let empty = cell.shape[axis] == 0;
    let case = Case::new(op.name(), format!("{what}_along_{axis}"), cell.placement, dtype, move |b, views| {
        let ([x], [out]) = views.all();
        b.arg_reduce(op, x, axis, out)
    })
    .input(Operand::new("x", dtype, cell.shape, cell.placement, cell.turn, fill))
    .output(Destination::new(
        "out",
        DType::I64,
        &reduced(cell.shape, &[axis]),
        writable(cell),
        cell.turn,
        Accept::Exact,
    ));
    if empty { case.refused(ErrorKind::Shape) } else { case }
}

fn cumsum(dtype: DType, cell: Cell, axis: usize) -> Case {
    let result = Reduce::Sum.result(dtype).unwrap_or(dtype);
    let fill = match dtype {
        DType::Bool => Fill::Between(0.0, 1.0),
        d if d.is_float() && cell.turn % 4 == 1 => Fill::Unruly(-2.0, 2.0),
        d if d.is_float() => Fill::Between(-2.0, 2.0),
        _ => Fill::Between(-9.0, 9.0),
    };
    let accept = Accept::Sum { terms: cell.shape[axis] };
    Case::new("cumsum", format!("{}_along_{axis}", cell.name()), cell.placement, dtype, move |b, views| {
        let ([x], [out]) = views.all();
        b.cumsum(x, axis, out)
    })
    .input(Operand::new("x", dtype, cell.shape, cell.placement, cell.turn, fill))
    .output(Destination::new("out", result, cell.shape, cell.destination(), cell.turn, accept))
}
