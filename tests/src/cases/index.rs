//! Reading and adding by index: gather, scatter_add, rows of a table.

use crate::{
    case::{Case, Destination, Gradient, Operand},
    fill::Fill,
    layout::Placement,
    matrix::{Cell, ELEMENTWISE, cells},
    tolerance::Accept,
};
use attentia_backend::{DType, ErrorKind, FusedOp};
use std::sync::Arc;

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (d, dtype) in DType::ALL.into_iter().enumerate() {
        for cell in cells(&ELEMENTWISE, d).into_iter().filter(|cell| !cell.shape.is_empty()) {
            let axis = (cell.turn + d) % cell.shape.len();
            // Longer, shorter or as long as x along the axis.
            let extent = cell.shape[axis];
            let drawn = if extent == 0 { 0 } else { [extent, extent * 2 + 1, extent.div_ceil(2)][cell.turn % 3] };
            all.push(gather(dtype, cell, axis, drawn, Fill::positions(extent), ""));
            if dtype != DType::Bool {
                all.push(scatter_add(dtype, cell, axis, drawn, Fill::positions(extent), ""));
            }
        }
    }
    let cell = |placement, shape, turn| Cell { placement, shape, turn };
    for (d, dtype) in [DType::F32, DType::Bf16].into_iter().enumerate() {
        let large = cell(Placement::STRIDED[d * 2], &[70, 1009], d);
        all.push(gather(dtype, large, 1, 900, Fill::positions(1009), "_large"));
        all.push(scatter_add(dtype, large, 1, 1500, Fill::positions(1009), "_large"));
        all.push(scatter_add(dtype, cell(Placement::Contiguous, &[3, 5], 0), 1, 800, Fill::positions(5), "_crowded"));
    }
    for wrong in [-1, 5, i64::MAX, i64::MIN] {
        let small = cell(Placement::Contiguous, &[3, 5], 0);
        let indices = || Fill::Whole(vec![0, 4, wrong, 1]);
        let what = format!("_refused_{wrong}");
        all.push(gather(DType::F32, small, 1, 5, indices(), &what).refused(ErrorKind::Index));
        all.push(scatter_add(DType::F32, small, 1, 5, indices(), &what).refused(ErrorKind::Index));
        all.push(embedding(DType::F32, [5, 8], small, indices(), &what).refused(ErrorKind::Index));
    }
    for (d, dtype) in DType::FLOATS.into_iter().enumerate() {
        for (i, cell) in cells(&ELEMENTWISE, d).into_iter().enumerate() {
            let table = [[5, 8], [17, 33], [64, 1], [2, 65], [101, 16]][i % 5];
            all.push(embedding(dtype, table, cell, Fill::positions(table[0]), ""));
        }
        all.push(embedding(
            dtype,
            [1009, 64],
            cell(Placement::Contiguous, &[4, 300], d),
            Fill::positions(1009),
            "_large",
        ));
        all.push(embedding(dtype, [3, 17], cell(Placement::Contiguous, &[900], d), Fill::positions(3), "_crowded"));
    }
    all
}

fn with(shape: &[usize], axis: usize, extent: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    shape[axis] = extent;
    shape
}

/// The placement of an operand whose extent along the axis is not x's.
fn fitting(shape: &[usize], cell: Cell, turn: usize) -> Placement {
    match cell.placement {
        Placement::Empty if shape.contains(&0) => Placement::Empty,
        Placement::One if shape.iter().all(|&e| e == 1) => Placement::One,
        Placement::Empty | Placement::One => Placement::WRITABLE[turn % 4],
        placement => placement.destination(turn),
    }
}

fn gather(dtype: DType, cell: Cell, axis: usize, drawn: usize, indices: Fill, suffix: &str) -> Case {
    let shape = with(cell.shape, axis, drawn);
    let index = match fitting(&shape, cell, cell.turn) {
        Placement::Contiguous if !shape.contains(&0) && cell.turn.is_multiple_of(2) => Placement::Broadcast,
        placement => placement,
    };
    let what = format!("{}_along_{axis}_{drawn}{suffix}", cell.name());
    let out = Destination::new("out", dtype, &shape, fitting(&shape, cell, cell.turn / 2), cell.turn, Accept::Bits);
    Case::new("gather", what, cell.placement, dtype, move |b, views| {
        let ([x, index], [out]) = views.all();
        b.gather(x, index, axis, out)
    })
    .input(Operand::new("x", dtype, cell.shape, cell.placement, cell.turn, Fill::Edges))
    .input(Operand::new("index", DType::I64, &shape, index, cell.turn + 1, indices))
    .output(out)
}

fn scatter_add(dtype: DType, cell: Cell, axis: usize, drawn: usize, indices: Fill, suffix: &str) -> Case {
    let shape = with(cell.shape, axis, drawn);
    let source = match cell.placement {
        Placement::Broadcast => Placement::Broadcast,
        _ => fitting(&shape, cell, cell.turn),
    };
    let what = format!("{}_along_{axis}_{drawn}{suffix}", cell.name());
    let fill = || if dtype.is_float() { Fill::Between(-2.0, 2.0) } else { Fill::Between(-5.0, 5.0) };
    let accept = Accept::Sum { terms: drawn + 1 };
    let out = Destination::new("out", dtype, cell.shape, cell.destination(), cell.turn, accept).holding(fill());
    Case::new("scatter_add", what, cell.placement, dtype, move |b, views| {
        let ([src, index], [out]) = views.all();
        b.scatter_add(index, src, axis, out)
    })
    .input(Operand::new("src", dtype, &shape, source, cell.turn, fill()))
    .input(Operand::new("index", DType::I64, &shape, fitting(&shape, cell, cell.turn / 3), cell.turn + 1, indices))
    .output(out)
}

fn embedding(dtype: DType, table: [usize; 2], cell: Cell, indices: Fill, suffix: &str) -> Case {
    let shape = if cell.shape.len() < 8 { [cell.shape, &[table[1]]].concat() } else { cell.shape.to_vec() };
    let strided = match cell.placement {
        Placement::Empty | Placement::One => Placement::WRITABLE[cell.turn % 4],
        placement => placement,
    };
    let what = format!("{}x{}_at_{}{suffix}", table[0], table[1], cell.name());
    let terms = 1 + cell.shape.iter().product::<usize>();
    let dtable =
        Destination::new("dtable", dtype, &table, strided.destination(cell.turn), cell.turn, Accept::Sum { terms })
            .holding(Fill::Between(-1.0, 1.0));
    let dy_placement = if shape.contains(&0) { Placement::Empty } else { strided.other(cell.turn / 2) };
    let index = cell.placement.other(cell.turn + 2);
    Case::new("embedding", what, cell.placement, dtype, |b, views| {
        let ([table, index], [out]) = views.all();
        b.embedding(table, index, out)
    })
    .input(Operand::new("table", dtype, &table, strided, cell.turn, Fill::Edges))
    .input(Operand::new("index", DType::I64, cell.shape, index, cell.turn + 1, indices))
    .output(Destination::new("out", dtype, &shape, fitting(&shape, cell, cell.turn), cell.turn, Accept::Bits))
    .gradient(Gradient {
        operation: "embedding_backward",
        saved: Vec::new(),
        cotangents: vec![Operand::new("dy", dtype, &shape, dy_placement, cell.turn, Fill::Between(-1.0, 1.0))],
        outputs: vec![dtable],
        run: Arc::new(|b, views| {
            let ([_, index, dy], [dtable]) = views.all();
            b.embedding_backward(index, dy, dtable)
        }),
    })
    .asking(|b, dtype, _| b.support(FusedOp::Embedding, dtype))
}
