//! Stable sorting and its first elements.

use crate::{
    case::{Case, Destination, Operand},
    fill::Fill,
    layout::Placement,
    matrix::{Cell, ELEMENTWISE, cells},
    tolerance::Accept,
};
use attentia_backend::DType;

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (d, dtype) in DType::ALL.into_iter().enumerate() {
        for descending in [false, true] {
            for cell in cells(&ELEMENTWISE, d + usize::from(descending)) {
                if cell.shape.is_empty() {
                    continue;
                }
                let axis = (cell.turn + d) % cell.shape.len();
                // Everything, one, or some: top-k is the same entry with shorter destinations.
                let extent = cell.shape[axis];
                let k = [extent, 1.min(extent), extent.div_ceil(2)][cell.turn % 3];
                all.push(sort(dtype, cell, axis, descending, k, "", few(dtype)));
            }
            let cell = Cell { placement: Placement::Contiguous, shape: &[3, 50], turn: d };
            all.push(sort(dtype, cell, 1, descending, 50, "_edges", Fill::Edges));
            all.push(sort(dtype, cell, 1, descending, 0, "_nothing", few(dtype)));
        }
        if matches!(dtype, DType::F32 | DType::Bf16 | DType::I64) {
            let cell = Cell { placement: Placement::STRIDED[d % 5], shape: &[3, 5003], turn: d };
            all.push(sort(dtype, cell, 1, true, 10, "_large", Fill::Between(-1000.0, 1000.0)));
            all.push(sort(dtype, cell, 1, false, 5003, "_large", Fill::Between(-1000.0, 1000.0)));
        }
    }
    all
}

/// Many equal elements, so that stability shows.
fn few(dtype: DType) -> Fill {
    match dtype {
        DType::Bool => Fill::Between(0.0, 1.0),
        d if d.is_float() => Fill::Unruly(-1.0, 1.0),
        _ => Fill::Between(-3.0, 3.0),
    }
}

fn sort(dtype: DType, cell: Cell, axis: usize, descending: bool, k: usize, suffix: &str, fill: Fill) -> Case {
    let direction = if descending { "down" } else { "up" };
    let what = format!("{}_along_{axis}_{direction}_top_{k}{suffix}", cell.name());
    let mut shape = cell.shape.to_vec();
    shape[axis] = k;
    let placement = |turn: usize| match shape.contains(&0) {
        true => Placement::Empty,
        false if cell.placement == Placement::One => Placement::One,
        false => Placement::WRITABLE[turn % 4],
    };
    let values = Destination::new("values", dtype, &shape, placement(cell.turn), cell.turn, Accept::Exact);
    let indices = Destination::new("indices", DType::I64, &shape, placement(cell.turn / 2), cell.turn, Accept::Exact);
    Case::new("sort", what, cell.placement, dtype, move |b, views| {
        let ([x], [values, indices]) = views.all();
        b.sort(x, axis, descending, values, indices)
    })
    .input(Operand::new("x", dtype, cell.shape, cell.placement, cell.turn, fill))
    .output(values)
    .output(indices)
}
