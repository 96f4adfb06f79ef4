//! What moves or makes values: copy and cast, upload, download, iota, full, uniform, normal.

use crate::{
    case::{Case, Destination, Operand},
    fill::Fill,
    layout::Placement,
    matrix::{Cell, ELEMENTWISE, cells},
    number::{self, Values},
    tolerance::{Accept, RANDOM},
};
use attentia_backend::{DType, ErrorKind, RngKey, Scalar, ViewMut};

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (f, from) in DType::ALL.into_iter().enumerate() {
        for (t, to) in DType::ALL.into_iter().enumerate() {
            all.extend(cells(&ELEMENTWISE, f + t).into_iter().map(|cell| copy(from, to, cell)));
        }
        for to in DType::ALL {
            all.push(copy_any_bits(from, to));
        }
        let large = Cell { placement: Placement::STRIDED[f % 5], shape: &[13, 7001], turn: f };
        all.push(copy(from, from, large));
        if from != DType::F32 {
            all.push(copy(from, DType::F32, Cell { turn: f + 1, ..large }));
        }
    }
    for (d, dtype) in DType::ALL.into_iter().enumerate() {
        for cell in cells(&ELEMENTWISE, d) {
            all.push(download(dtype, cell));
        }
        for cell in cells(&ELEMENTWISE, d).into_iter().map(made) {
            all.push(upload(dtype, cell));
            if dtype != DType::Bool {
                all.push(iota(dtype, cell));
            }
            all.push(full(dtype, cell));
            if dtype.is_float() {
                all.push(random("uniform", dtype, cell));
                all.push(random("normal", dtype, cell));
            }
        }
        let large = Cell { placement: Placement::WRITABLE[d % 4], shape: &[3, 30_011], turn: d };
        all.push(full(dtype, large));
        if dtype.is_float() {
            all.push(random("uniform", dtype, large));
            all.push(random("normal", dtype, large));
        }
    }
    all.extend(whole_numbers());
    all.extend(["upload", "iota", "full", "uniform", "normal"].map(broadcast_destination));
    all
}

/// A cell for an operation without operands: its placement is that of the result, which can't be broadcast.
fn made(cell: Cell) -> Cell {
    let placement = match cell.placement {
        Placement::Broadcast => Placement::WRITABLE[cell.turn % 4],
        placement => placement,
    };
    Cell { placement, ..cell }
}

fn copy(from: DType, to: DType, cell: Cell) -> Case {
    let fill = if from.is_float() && !to.is_float() && cell.turn.is_multiple_of(2) {
        Fill::Between(-300.0, 300.0)
    } else {
        Fill::Edges
    };
    copied(from, to, cell, fill, cell.name())
}

/// Casts of every 16-bit number, and of 65536 wider ones.
fn copy_any_bits(from: DType, to: DType) -> Case {
    let cell = Cell { placement: Placement::Contiguous, shape: &[256, 256], turn: 0 };
    copied(from, to, cell, Fill::AnyBits, "any_bits".to_owned())
}

fn copied(from: DType, to: DType, cell: Cell, fill: Fill, what: String) -> Case {
    let case = Case::new("copy", format!("{what}_to_{to}"), cell.placement, from, |b, views| {
        let ([x], [out]) = views.all();
        b.copy(x, out)
    })
    .input(Operand::new("x", from, cell.shape, cell.placement, cell.turn, fill))
    .output(Destination::new("out", to, cell.shape, cell.destination(), cell.turn, Accept::Bits));
    // Integers beyond 2⁵³ would be rounded twice on their way through f64.
    if from.is_float() { case } else { case.in_own_dtype() }
}

/// Host values for a destination: the suite's numbers, by position.
fn host(dtype: DType, count: usize) -> Values {
    let mut values = Values::poison(dtype, count);
    Fill::Edges.write(dtype, 0, &mut values, &(0..count).collect::<Vec<_>>());
    values
}

fn upload(dtype: DType, cell: Cell) -> Case {
    Case::new("upload", cell.name(), cell.placement, dtype, move |b, views| {
        let ([], [out]) = views.all();
        number::write(b, &host(dtype, out.layout().count()), out)
    })
    .output(Destination::new("out", dtype, cell.shape, cell.placement, cell.turn, Accept::Bits))
}

/// Goes to the host and, row-major, back.
fn download(dtype: DType, cell: Cell) -> Case {
    let out = if cell.shape.contains(&0) { Placement::Empty } else { Placement::Contiguous };
    Case::new("download", cell.name(), cell.placement, dtype, |b, views| {
        let ([x], [out]) = views.all();
        number::write(b, &number::read(b, x)?, out)
    })
    .input(Operand::new("x", dtype, cell.shape, cell.placement, cell.turn, Fill::Edges))
    .output(Destination::new("out", dtype, cell.shape, out, cell.turn, Accept::Bits))
}

fn iota(dtype: DType, cell: Cell) -> Case {
    let (start, step) = match cell.turn % 3 {
        0 => (Scalar::Int(0), Scalar::Int(1)),
        1 => (Scalar::Int(5), Scalar::Int(-2)),
        _ if dtype.is_float() => (Scalar::Float(0.5), Scalar::Float(0.25)),
        _ => (Scalar::Int(i64::MAX - 2), Scalar::Int(3)),
    };
    Case::new("iota", cell.name(), cell.placement, dtype, move |b, views| {
        let ([], [out]) = views.all();
        b.iota(start, step, out)
    })
    .output(Destination::new("out", dtype, cell.shape, cell.placement, cell.turn, Accept::Exact))
}

fn full(dtype: DType, cell: Cell) -> Case {
    let value = match cell.turn % 4 {
        0 => Scalar::Int(1),
        1 => Scalar::Float(-0.75),
        2 if dtype.is_float() => Scalar::Float(f64::NEG_INFINITY),
        2 => Scalar::Int(-1),
        _ => Scalar::Float(200.5),
    };
    Case::new("full", cell.name(), cell.placement, dtype, move |b, views| {
        let ([], [out]) = views.all();
        b.full(value, out)
    })
    .output(Destination::new("out", dtype, cell.shape, cell.placement, cell.turn, Accept::Exact))
}

/// Whole numbers that no f64 holds.
fn whole_numbers() -> Vec<Case> {
    let odd = (1i64 << 60) + 1;
    let cell = Cell { placement: Placement::Contiguous, shape: &[17], turn: 0 };
    DType::ALL
        .into_iter()
        .map(|dtype| {
            Case::new("full", "whole", cell.placement, dtype, move |b, views| {
                let ([], [out]) = views.all();
                b.full(Scalar::Int(odd), out)
            })
            .output(Destination::new("out", dtype, cell.shape, cell.placement, 0, Accept::Exact))
            .in_own_dtype()
        })
        .collect()
}

fn random(operation: &'static str, dtype: DType, cell: Cell) -> Case {
    let key = RngKey::new(7).path("enc.0.drop").step(cell.turn as u64).call(1);
    let (a, b) = [(0.0, 1.0), (-3.0, 5.0), (2.0, 0.125)][cell.turn % 3];
    let (low, high) = if a > b { (b, a) } else { (a, b) };
    Case::new(operation, cell.name(), cell.placement, dtype, move |backend, views| {
        let ([], [out]) = views.all();
        match operation {
            "uniform" => backend.uniform(key, low, high, out),
            _ => backend.normal(key, a, b, out),
        }
    })
    .output(Destination::new("out", dtype, cell.shape, cell.placement, cell.turn, Accept::Largest(RANDOM)))
    .in_own_dtype()
}

/// A destination of stride 0 names an element twice: no view of it can be made, so the call is refused.
fn broadcast_destination(operation: &'static str) -> Case {
    Case::new(operation, "refused", Placement::Broadcast, DType::F32, move |b, _| {
        let (layout, len) = Placement::Broadcast.place(&[3, 5], 0);
        let mut buffer = b.alloc(DType::F32, len)?;
        let out = ViewMut::new(&mut buffer, &layout)?;
        match operation {
            "upload" => number::write(b, &host(DType::F32, 15), out),
            "iota" => b.iota(Scalar::Int(0), Scalar::Int(1), out),
            "full" => b.full(Scalar::Int(0), out),
            "uniform" => b.uniform(RngKey::new(0), 0.0, 1.0, out),
            _ => b.normal(RngKey::new(0), 0.0, 1.0, out),
        }
    })
    .refused(ErrorKind::Shared)
}
