//! Maps of attention weights, and of these times their gradients, after a forward of the same backend that leaves the
//! log-sum-exp.
//!
//! The forms are those of attention. For maps of weights alone keys stand in for values, which they do not read.

use super::attention::{self, Form};
use crate::{
    case::{Case, Destination, Operand, Views},
    fill::Fill,
    layout::Placement,
    tolerance::{Accept, FUSED_TRANSCENDENTAL, SAVED_LSE},
};
use attentia_backend::{AttentionMap, AttentionOut, Backend, DType, Layout, Result, Shape, Support, View, ViewMut};

/// Queries and keys of a block, segments, and keys of each row.
const BLOCK: usize = 3;
const SEGMENTS: usize = 3;
const TOP: usize = 4;

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (d, dtype) in DType::FLOATS.into_iter().enumerate() {
        let forms = attention::forms().into_iter().filter(|(_, form)| form.spec.statistics.is_empty());
        for (i, (name, form)) in forms.enumerate() {
            let placement = match () {
                () if form.sizes.iter().all(|&e| e == 1) => Placement::One,
                () if form.sizes[..6].contains(&0) => Placement::Empty,
                () => Placement::STRIDED[(i + d) % 5],
            };
            all.push(maps(name, &form, true, dtype, placement, i * 5 + d * 3));
            if !form.spec.dropout {
                all.push(maps(name, &form, false, dtype, placement, i * 5 + d * 3));
            }
        }
    }
    all
}

fn maps(name: &str, form: &Form, gradients: bool, dtype: DType, placement: Placement, turn: usize) -> Case {
    let [b, h, groups, t, s, d, width] = form.sizes;
    let statistics = dtype.statistics();
    let fitting = |shape: &[usize], wanted: Placement| match placement {
        _ if shape.contains(&0) => Placement::Empty,
        Placement::Empty => Placement::WRITABLE[turn % 4],
        Placement::One if shape.iter().all(|&e| e == 1) => Placement::One,
        Placement::One => Placement::Contiguous,
        _ => wanted,
    };
    let operand = |role, dtype, shape: &[usize], step: usize, fill| {
        let wanted = if step == 0 { placement } else { placement.other(turn + step) };
        Operand::new(role, dtype, shape, fitting(shape, wanted), turn + step, fill)
    };
    let result = |role, dtype, shape: &[usize], step: usize, accept| {
        Destination::new(role, dtype, shape, fitting(shape, placement.destination(turn + step)), turn + step, accept)
    };
    // Of both signs are sums of gradients, in each term of which a rounding of the saved lse is a relative error.
    let tolerance = if gradients || form.scores.abs() > 1.0 { SAVED_LSE } else { FUSED_TRANSCENDENTAL };
    let (fused, zeros) = (Accept::Naive(tolerance), Accept::NaiveKeepingZeros(tolerance));
    let size = if form.scores > 0.0 { form.scores } else { 1.0 };
    let (run, ask) = (form.clone(), form.clone());
    let what = if gradients { format!("{name}_times_gradients") } else { name.to_owned() };
    let mut case = Case::new("attention_maps", what, placement, dtype, move |b, views| call(&run, gradients, b, views))
        .input(operand("q", dtype, &[b, h, t, d], 0, Fill::Between(-size, size)))
        .input(operand("k", dtype, &[b, groups, s, d], 1, Fill::Between(-1.5, 1.5)));
    if gradients {
        case = case.input(operand("v", dtype, &[b, groups, s, width], 2, Fill::Between(-1.0, 1.0)));
    }
    case = form.optional(case, dtype, &operand);
    if gradients {
        case = case.input(operand("dout", dtype, &[b, h, t, width], 1, Fill::Between(-1.0, 1.0)));
    }
    // One of the ids on each side is no segment's.
    let ids = Fill::Between(-1.0, SEGMENTS as f64);
    let (tall, wide) = (t.div_ceil(BLOCK), s.div_ceil(BLOCK));
    case = case
        .input(operand("row weights", statistics, &[b, h, t], 2, Fill::Between(0.5, 1.5)))
        .input(operand("segments of queries", DType::I64, &[b, t], 3, ids.clone()))
        .input(operand("segments of keys", DType::I64, &[b, s], 4, ids))
        .output(result("column mass", statistics, &[b, h, s], 0, zeros))
        .output(result("weighted column mass", statistics, &[b, h, s], 1, zeros))
        .output(result("row sum", statistics, &[b, h, t], 3, zeros))
        .output(result("row magnitude", statistics, &[b, h, t], 0, zeros))
        .output(result("diagonal mass", statistics, &[b, h, AttentionMap::diagonals(t, s)], 2, zeros))
        .output(result("block mean", statistics, &[b, h, tall, wide], 3, fused))
        .output(result("block maximum", statistics, &[b, h, tall, wide], 0, zeros))
        .output(result("segment mass", statistics, &[b, h, SEGMENTS, SEGMENTS], 1, fused))
        .output(result("rows", statistics, &[b, h, rows(t).len(), s], 0, zeros));
    if !gradients {
        case = case.output(result("top weights", statistics, &[b, h, t, TOP], 2, fused)).output(result(
            "top keys",
            DType::I64,
            &[b, h, t, TOP],
            3,
            Accept::Exact,
        ));
    }
    case.cost(b * h * t * s * (d * 2 + if gradients { width * 2 } else { 0 }))
        .asking(move |b, _, views| support(&ask, gradients, b, views))
}

/// The last query, and twice the first.
fn rows(queries: usize) -> Vec<usize> {
    queries.checked_sub(1).map_or(Vec::new(), |last| vec![last, 0, 0])
}

/// The operands as attention has them: for weights alone with k for v.
fn operands<'a>(gradients: bool, views: &[View<'a>]) -> Vec<View<'a>> {
    if gradients { views.to_vec() } else { [&[views[0], views[1], views[1]], &views[2..]].concat() }
}

fn support(form: &Form, gradients: bool, b: &dyn Backend, views: &[View]) -> Support {
    let all = operands(gradients, views);
    match form.support(b, &all) {
        Support::Kernel { .. } => {
            form.with_operands(&form.given(&all), |operands| b.attention_maps_support(&form.spec, operands, gradients))
        }
        hidden => hidden,
    }
}

fn call(form: &Form, gradients: bool, b: &dyn Backend, views: Views) -> Result<()> {
    let all = operands(gradients, &views.inputs);
    let given = form.given(&all);
    let (dout, rest) =
        if gradients { (given.rest.first().copied(), &given.rest[1..]) } else { (None, &given.rest[..]) };
    let [weights, from, to] = *rest else { panic!("the case has {} operands more", given.rest.len()) };
    let q = given.q.shape();
    let (rows_shape, out_shape) = (Shape::new(&q[..3])?, Shape::new(&[q[0], q[1], q[2], all[2].shape()[3]])?);
    let (lse_layout, out_layout) = (Layout::contiguous(rows_shape), Layout::contiguous(out_shape));
    let mut lse = b.alloc(given.q.dtype().statistics(), lse_layout.count())?;
    let mut out = b.alloc(given.q.dtype(), out_layout.count())?;
    form.with_operands(&given, |operands| {
        let (out, lse) = (ViewMut::new(&mut out, &out_layout)?, ViewMut::new(&mut lse, &lse_layout)?);
        b.attention(&form.spec, operands, AttentionOut { out, lse, statistics: Vec::new() })
    })?;
    let queries = rows(q[2]);
    let mut outputs = views.outputs.into_iter();
    let mut next = || outputs.next().unwrap_or_else(|| panic!("the case lacks destinations"));
    let mut maps = vec![
        AttentionMap::Columns { weights: None, mass: next() },
        AttentionMap::Columns { weights: Some(weights), mass: next() },
        AttentionMap::Totals { sum: next(), magnitude: next() },
        AttentionMap::Diagonals { mass: next() },
        AttentionMap::Blocks { size: BLOCK, mean: next(), greatest: next() },
        AttentionMap::Segments { queries: from, keys: to, mass: next() },
        AttentionMap::Rows { queries: &queries, weights: next() },
    ];
    if !gradients {
        maps.push(AttentionMap::Top { weights: next(), keys: next() });
    }
    let lse = View::new(&lse, &lse_layout)?;
    form.with_operands(&given, |operands| b.attention_maps(&form.spec, operands, lse, dout, maps))
}
