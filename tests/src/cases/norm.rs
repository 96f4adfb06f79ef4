//! Layer norm and RMS norm, with and without parameters, forward and backward.

use crate::{
    case::{Case, Destination, Gradient, Operand, Views},
    fill::Fill,
    layout::Placement,
    matrix::{Cell, row_cells},
    tolerance::{Accept, FUSED},
};
use attentia_backend::{Backend, DType, ErrorKind, FusedOp, Result, View, ViewMut};
use std::sync::Arc;

const EPSILON: f64 = 1e-5;

/// Which parameters a call has, and which gradients it wants.
#[derive(Clone, Copy)]
struct Form {
    layer: bool,
    weight: bool,
    bias: bool,
    dx: bool,
    parameters: bool,
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for layer in [true, false] {
        for (d, dtype) in DType::FLOATS.into_iter().enumerate() {
            // A row without elements has no mean.
            let cells = row_cells(d * 2 + usize::from(layer)).into_iter().filter(|cell| cell.shape.last() != Some(&0));
            for (i, cell) in cells.enumerate() {
                let form = Form {
                    layer,
                    weight: i % 4 != 1,
                    bias: layer && i % 4 != 2,
                    dx: i % 5 != 3,
                    parameters: i % 5 != 2,
                };
                all.push(norm(form, dtype, cell, Fill::Between(-2.0, 3.0), ""));
            }
            let form = Form { layer, weight: true, bias: layer, dx: true, parameters: true };
            let mut extra = |placement, shape, fill, name: &str| {
                all.push(norm(form, dtype, Cell { placement, shape, turn: d }, fill, name));
            };
            extra(Placement::Contiguous, &[3, 8], Fill::Given(vec![1.5]), "_constant");
            extra(Placement::Reversed, &[3, 8], Fill::Given(vec![0.0]), "_zero");
            extra(Placement::Contiguous, &[4, 5], Fill::Unruly(-1.0, 1.0), "_unruly");
            let offset = if dtype.is_half() { 30.0 } else { 3000.0 };
            extra(Placement::Contiguous, &[3, 512], Fill::Between(offset, offset + 1.0), "_offset");
            if matches!(dtype, DType::F32 | DType::Bf16) {
                extra(Placement::Contiguous, &[300, 257], Fill::Between(-2.0, 3.0), "_large");
                extra(Placement::Transposed, &[2, 150, 96], Fill::Between(-2.0, 3.0), "_large");
                extra(Placement::Sliced, &[2000, 33], Fill::Between(-2.0, 3.0), "_large");
                extra(Placement::Contiguous, &[2, 20_011], Fill::Between(-2.0, 3.0), "_large");
            }
        }
        all.push(refusal(layer));
    }
    all
}

fn name(form: Form) -> &'static str {
    if form.layer { "layer_norm" } else { "rms_norm" }
}

fn norm(form: Form, dtype: DType, cell: Cell, fill: Fill, suffix: &str) -> Case {
    let Cell { placement, shape, turn } = cell;
    let width = shape[shape.len() - 1];
    let mut statistics = shape.to_vec();
    statistics[shape.len() - 1] = 1;
    let statistic = |role, turn: usize| {
        let placement = if statistics.contains(&0) { Placement::Empty } else { Placement::WRITABLE[turn % 4] };
        Destination::new(role, dtype.statistics(), &statistics, placement, turn, Accept::Naive(FUSED))
    };
    let parameter = |role, turn: usize| {
        Operand::new(role, dtype, &[width], Placement::STRIDED[turn % 5], turn, Fill::Between(-1.5, 1.5))
    };
    let flags = [(form.weight, "w"), (form.bias, "b")];
    let flags: String = flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    let what = format!("{}_{flags}{suffix}", cell.name());
    let mut case = Case::new(name(form), what, placement, dtype, move |b, views| forward(form, b, views))
        .input(Operand::new("x", dtype, shape, placement, turn, fill));
    if form.weight {
        case = case.input(parameter("weight", turn));
    }
    if form.bias {
        case = case.input(parameter("bias", turn + 1));
    }
    case = case.output(Destination::new("out", dtype, shape, cell.destination(), turn, Accept::Naive(FUSED)));
    if form.layer {
        case = case.output(statistic("mean", turn));
    }
    case = case.output(statistic("rstd", turn + 1));
    let mut gradients = Vec::new();
    if form.dx {
        gradients.push(Destination::new("dx", dtype, shape, cell.second_destination(), turn, Accept::Naive(FUSED)));
    }
    if form.parameters && form.weight {
        let place = Placement::WRITABLE[turn % 4];
        gradients.push(Destination::new("dweight", dtype, &[width], place, turn, Accept::Naive(FUSED)));
    }
    if form.parameters && form.bias {
        let place = Placement::WRITABLE[(turn + 1) % 4];
        gradients.push(Destination::new("dbias", dtype, &[width], place, turn, Accept::Naive(FUSED)));
    }
    case.gradient(Gradient {
        operation: if form.layer { "layer_norm_backward" } else { "rms_norm_backward" },
        saved: if form.layer { vec![1, 2] } else { vec![1] },
        cotangents: vec![Operand::new("dy", dtype, shape, cell.second(), turn + 1, Fill::Between(-1.0, 1.0))],
        outputs: gradients,
        run: Arc::new(move |b, views| backward(form, b, views)),
    })
    .asking(move |b, dtype, _| b.support(if form.layer { FusedOp::LayerNorm } else { FusedOp::RmsNorm }, dtype))
}

/// The operands that a form has, in their order; `None` for the others.
fn given<'a, T>(rest: &mut impl Iterator<Item = T>, there: bool) -> Option<T>
where
    T: 'a,
{
    if there { rest.next() } else { None }
}

fn forward(form: Form, b: &dyn Backend, views: Views) -> Result<()> {
    let mut inputs = views.inputs.into_iter();
    let Some(x) = inputs.next() else { panic!("the case has no x") };
    let weight = given(&mut inputs, form.weight);
    let bias = given(&mut inputs, form.bias);
    let mut outputs = views.outputs.into_iter();
    let mut next = || outputs.next().unwrap_or_else(|| panic!("the case lacks a destination"));
    if form.layer {
        b.layer_norm(x, weight, bias, EPSILON, next(), next(), next())
    } else {
        b.rms_norm(x, weight, EPSILON, next(), next())
    }
}

fn backward(form: Form, b: &dyn Backend, views: Views) -> Result<()> {
    let mut inputs = views.inputs.into_iter();
    let Some(x) = inputs.next() else { panic!("the case has no x") };
    let weight = given(&mut inputs, form.weight);
    given(&mut inputs, form.bias);
    let rest: Vec<View> = inputs.collect();
    let mut outputs = views.outputs.into_iter();
    let dx = given(&mut outputs, form.dx);
    let dweight: Option<ViewMut> = given(&mut outputs, form.parameters && form.weight);
    let dbias = given(&mut outputs, form.parameters && form.bias);
    match rest[..] {
        [mean, rstd, dy] => b.layer_norm_backward(x, weight, mean, rstd, dy, dx, dweight, dbias),
        [rstd, dy] => b.rms_norm_backward(x, weight, rstd, dy, dx, dweight),
        _ => panic!("the case has {} saved values and cotangents", rest.len()),
    }
}

/// A weight of another width.
fn refusal(layer: bool) -> Case {
    let form = Form { layer, weight: true, bias: false, dx: true, parameters: true };
    let mut case = norm(
        form,
        DType::F32,
        Cell { placement: Placement::Contiguous, shape: &[2, 3], turn: 0 },
        Fill::Between(0.0, 1.0),
        "_refused",
    );
    case.inputs[1] = Operand::new("weight", DType::F32, &[4], Placement::Contiguous, 0, Fill::Between(0.0, 1.0));
    case.refused(ErrorKind::Shape)
}
