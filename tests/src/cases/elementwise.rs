//! Functions of one element and of two, comparisons, choices.

use crate::{
    case::{Case, Destination, Expect, Operand},
    fill::{Fill, edges, whole_edges},
    layout::Placement,
    matrix::{Cell, ELEMENTWISE, cells, name},
    tolerance::{Accept, PRIMITIVE, transcendental},
};
use attentia_backend::{Binary, Compare, DType, ErrorKind, Source, Unary};

/// More elements than one task takes, in rows that no vector width divides.
const LARGE: [&[usize]; 2] = [&[5, 16_411], &[16_411, 5]];

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (i, op) in Unary::ALL.into_iter().enumerate() {
        for (d, dtype) in DType::ALL.into_iter().enumerate().filter(|(_, dtype)| op.accepts(*dtype)) {
            unary_cases(op, dtype, i + d, &mut all);
        }
    }
    for (i, op) in Binary::ALL.into_iter().enumerate() {
        for (d, dtype) in DType::ALL.into_iter().enumerate().filter(|(_, dtype)| op.accepts(*dtype)) {
            binary_cases(op, dtype, i + d, &mut all);
        }
    }
    for (i, op) in Compare::ALL.into_iter().enumerate() {
        for (d, dtype) in DType::ALL.into_iter().enumerate() {
            all.extend(cells(&ELEMENTWISE, i + d).into_iter().map(|cell| compare(op, dtype, cell)));
            all.push(compare_edges(op, dtype));
        }
    }
    for (d, dtype) in DType::ALL.into_iter().enumerate() {
        all.extend(cells(&ELEMENTWISE, d).into_iter().map(|cell| select(dtype, cell)));
    }
    all.extend(refusals());
    all
}

/// Scalars that every dtype holds exactly; whole ones for integers.
fn adapted(op: Unary, dtype: DType) -> Unary {
    if dtype.is_float() {
        return op;
    }
    match op {
        Unary::AddScalar(_) => Unary::AddScalar(3.0),
        Unary::MulScalar(_) => Unary::MulScalar(3.0),
        Unary::MaxScalar(_) => Unary::MaxScalar(5.0),
        Unary::MinScalar(_) => Unary::MinScalar(5.0),
        other => other,
    }
}

fn unary_accept(op: Unary, dtype: DType) -> Accept {
    match op {
        Unary::Neg | Unary::Abs => Accept::Bits,
        Unary::Sign
        | Unary::Floor
        | Unary::Ceil
        | Unary::Round
        | Unary::Not
        | Unary::MaxScalar(_)
        | Unary::MinScalar(_) => Accept::Exact,
        Unary::Square | Unary::Sqrt | Unary::Reciprocal | Unary::AddScalar(_) | Unary::MulScalar(_) => {
            Accept::Ulps(PRIMITIVE)
        }
        Unary::Rsqrt
        | Unary::Exp
        | Unary::Expm1
        | Unary::Log
        | Unary::Log1p
        | Unary::Sin
        | Unary::Cos
        | Unary::Tanh
        | Unary::Sigmoid
        | Unary::Erf
        | Unary::PowScalar(_) => Accept::Ulps(transcendental(dtype)),
    }
}

/// Numbers where the function is interesting.
fn domain(op: Unary, dtype: DType) -> Fill {
    if !dtype.is_float() {
        return if dtype == DType::Bool { Fill::Between(0.0, 1.0) } else { Fill::Between(-9.0, 9.0) };
    }
    match op {
        Unary::Sqrt | Unary::Rsqrt | Unary::Log | Unary::PowScalar(_) => Fill::Between(0.0, 9.0),
        Unary::Log1p => Fill::Between(-0.99, 9.0),
        Unary::Sin | Unary::Cos => Fill::Between(-40.0, 40.0),
        Unary::Exp | Unary::Expm1 | Unary::Sigmoid => Fill::Between(-12.0, 12.0),
        _ => Fill::Between(-4.0, 4.0),
    }
}

fn unary_cases(op: Unary, dtype: DType, salt: usize, all: &mut Vec<Case>) {
    let op = adapted(op, dtype);
    all.extend(
        cells(&ELEMENTWISE, salt).into_iter().map(|cell| unary(op, dtype, cell, domain(op, dtype), cell.name())),
    );
    let edges = Cell { placement: Placement::Contiguous, shape: &[41], turn: salt };
    all.push(unary(op, dtype, edges, Fill::Edges, "edges".to_owned()));
    all.push(unary(op, dtype, Cell { placement: Placement::Reversed, ..edges }, Fill::Edges, "edges".to_owned()));
    for placement in Placement::WRITABLE {
        let shape: &[usize] = [&[37][..], &[3, 33], &[2, 5, 7]][salt % 3];
        let x =
            Destination::new("x", dtype, shape, placement, salt, unary_accept(op, dtype)).holding(domain(op, dtype));
        let run = move |b: &dyn attentia_backend::Backend, views: crate::case::Views| {
            let ([], [x]) = views.all();
            b.unary(op, Source::Destination, x)
        };
        all.push(Case::new(op.name(), "in_place", placement, dtype, run).output(x));
    }
    if dtype != DType::Bool {
        let all_bits = Cell { placement: Placement::WRITABLE[salt % 4], shape: &[256, 256], turn: salt };
        all.push(unary(op, dtype, all_bits, Fill::AnyBits, "any_bits".to_owned()));
    }
    if dtype == DType::F32 || dtype == DType::Bf16 {
        let shape = LARGE[salt % 2];
        let placement = Placement::STRIDED[salt % 5];
        all.push(unary(op, dtype, Cell { placement, shape, turn: salt }, domain(op, dtype), name(shape)));
    }
}

fn unary(op: Unary, dtype: DType, cell: Cell, fill: Fill, what: String) -> Case {
    Case::new(op.name(), what, cell.placement, dtype, move |b, views| {
        let ([x], [out]) = views.all();
        b.unary(op, Source::View(x), out)
    })
    .input(Operand::new("x", dtype, cell.shape, cell.placement, cell.turn, fill))
    .output(Destination::new("out", dtype, cell.shape, cell.destination(), cell.turn, unary_accept(op, dtype)))
}

fn binary_accept(op: Binary, dtype: DType) -> Accept {
    match op {
        Binary::Add | Binary::Sub | Binary::Mul | Binary::Div => Accept::Ulps(PRIMITIVE),
        Binary::Pow => Accept::Ulps(transcendental(dtype)),
        Binary::Max | Binary::Min | Binary::And | Binary::Or | Binary::Xor => Accept::Exact,
    }
}

fn binary_domain(op: Binary, dtype: DType) -> (Fill, Fill) {
    match (op, dtype) {
        (_, DType::Bool) => (Fill::Between(0.0, 1.0), Fill::Between(0.0, 1.0)),
        (Binary::Pow, _) => (Fill::Between(0.0, 6.0), Fill::Between(-3.0, 3.0)),
        _ if dtype.is_float() => (Fill::Between(-4.0, 4.0), Fill::Between(-4.0, 4.0)),
        _ => (Fill::Between(-9.0, 9.0), Fill::Between(-3.0, 3.0)),
    }
}

fn binary_cases(op: Binary, dtype: DType, salt: usize, all: &mut Vec<Case>) {
    let (left, right) = binary_domain(op, dtype);
    for cell in cells(&ELEMENTWISE, salt) {
        all.push(binary(op, dtype, cell, left.clone(), right.clone(), cell.name()));
    }
    // Every edge beside every edge.
    let count = if dtype.is_float() { edges(dtype).len() } else { whole_edges(dtype).len() };
    let pairs = Cell { placement: Placement::Contiguous, shape: &[41 * 41], turn: salt };
    all.push(binary(op, dtype, pairs, Fill::EdgesRepeated(count), Fill::Edges, "edges".to_owned()));
    for placement in Placement::WRITABLE {
        let shape: &[usize] = [&[37][..], &[3, 33], &[2, 5, 7]][salt % 3];
        let (accept, second) = (binary_accept(op, dtype), placement.other(salt));
        all.push(
            Case::new(op.name(), "in_place", placement, dtype, move |b, views| {
                let ([right], [left]) = views.all();
                b.binary(op, Source::Destination, right, left)
            })
            .input(Operand::new("b", dtype, shape, second, salt, right.clone()))
            .output(Destination::new("a", dtype, shape, placement, salt, accept).holding(left.clone())),
        );
    }
    if dtype != DType::Bool {
        let any_bits = Cell { placement: Placement::Contiguous, shape: &[127, 129], turn: salt };
        all.push(binary(op, dtype, any_bits, Fill::AnyBits, Fill::AnyBits, "any_bits".to_owned()));
    }
    if dtype == DType::F32 || dtype == DType::F16 {
        let cell = Cell { placement: Placement::STRIDED[salt % 5], shape: LARGE[salt % 2], turn: salt };
        all.push(binary(op, dtype, cell, left, right, cell.name()));
    }
}

fn binary(op: Binary, dtype: DType, cell: Cell, left: Fill, right: Fill, what: String) -> Case {
    Case::new(op.name(), what, cell.placement, dtype, move |b, views| {
        let ([left, right], [out]) = views.all();
        b.binary(op, Source::View(left), right, out)
    })
    .input(Operand::new("a", dtype, cell.shape, cell.placement, cell.turn, left))
    .input(Operand::new("b", dtype, cell.shape, cell.second(), cell.turn + 1, right))
    .output(Destination::new("out", dtype, cell.shape, cell.destination(), cell.turn, binary_accept(op, dtype)))
}

fn compare(op: Compare, dtype: DType, cell: Cell) -> Case {
    // Few different values, so that many are equal.
    let fill = || if dtype.is_float() { Fill::Given(vec![0.0, 1.0, -1.0, 0.5, 1.0]) } else { Fill::Between(0.0, 2.0) };
    let repeated = if dtype.is_float() { Fill::Given(vec![1.0, -0.0, 0.5]) } else { Fill::Between(0.0, 2.0) };
    comparison(op, dtype, cell, fill(), repeated, cell.name())
}

fn compare_edges(op: Compare, dtype: DType) -> Case {
    let count = if dtype.is_float() { edges(dtype).len() } else { whole_edges(dtype).len() };
    let cell = Cell { placement: Placement::Contiguous, shape: &[41 * 41], turn: 0 };
    comparison(op, dtype, cell, Fill::EdgesRepeated(count), Fill::Edges, "edges".to_owned())
}

fn comparison(op: Compare, dtype: DType, cell: Cell, left: Fill, right: Fill, what: String) -> Case {
    Case::new(op.name(), what, cell.placement, dtype, move |b, views| {
        let ([left, right], [out]) = views.all();
        b.compare(op, left, right, out)
    })
    .input(Operand::new("a", dtype, cell.shape, cell.placement, cell.turn, left))
    .input(Operand::new("b", dtype, cell.shape, cell.second(), cell.turn + 1, right))
    .output(Destination::new("out", DType::Bool, cell.shape, cell.destination(), cell.turn, Accept::Exact))
}

fn select(dtype: DType, cell: Cell) -> Case {
    Case::new("select", cell.name(), cell.placement, dtype, |b, views| {
        let ([condition, left, right], [out]) = views.all();
        b.select(condition, left, right, out)
    })
    .input(Operand::new("condition", DType::Bool, cell.shape, cell.third(), cell.turn + 2, Fill::Between(0.0, 1.0)))
    .input(Operand::new("a", dtype, cell.shape, cell.placement, cell.turn, Fill::Edges))
    .input(Operand::new("b", dtype, cell.shape, cell.second(), cell.turn + 1, Fill::Between(0.0, 9.0)))
    .output(Destination::new("out", dtype, cell.shape, cell.destination(), cell.turn, Accept::Bits))
}

/// Mistakes of a direct caller: errors, and nothing else.
fn refusals() -> Vec<Case> {
    let wrong = |case: Case, shapes: [&[usize]; 3]| {
        let [a, b, out] = shapes;
        let operand =
            |role, shape| Operand::new(role, DType::F32, shape, Placement::Contiguous, 0, Fill::Between(0.0, 1.0));
        let out = Destination::new("out", DType::F32, out, Placement::Contiguous, 0, Accept::Exact);
        case.input(operand("a", a)).input(operand("b", b)).output(out).refused(ErrorKind::Shape)
    };
    let add = |what: &str| {
        Case::new("add", what, Placement::Contiguous, DType::F32, |b, views| {
            let ([left, right], [out]) = views.all();
            b.binary(Binary::Add, Source::View(left), right, out)
        })
    };
    let exp = Case::new("exp", "refused_shape", Placement::Contiguous, DType::F32, |b, views| {
        let ([x, _], [out]) = views.all();
        b.unary(Unary::Exp, Source::View(x), out)
    });
    let all = vec![
        wrong(add("refused_left"), [&[3], &[4], &[4]]),
        wrong(add("refused_right"), [&[4], &[2, 2], &[4]]),
        wrong(exp, [&[3], &[1], &[4]]),
    ];
    debug_assert!(all.iter().all(|case| matches!(case.expect, Expect::Refusal(_))));
    all
}
