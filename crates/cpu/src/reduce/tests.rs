use super::*;
use crate::oracle::{Numbers, compare, layouts, shape};
use attentia_backend::ArgReduce;

const OPS: [Reduce; 8] = [
    Reduce::Sum,
    Reduce::Mean,
    Reduce::Var { correction: 1 },
    Reduce::Var { correction: 0 },
    Reduce::Var { correction: 5 },
    Reduce::Max,
    Reduce::Min,
    Reduce::Prod,
];

/// Quarters: their sums are exact in every accumulator.
fn quarters(i: usize) -> f64 {
    (i * 7919 % 61) as f64 / 4.0 - 5.0
}

/// Factors whose products neither vanish nor grow out of range, in f32.
fn factors(i: usize) -> f64 {
    [1.0, -1.0, 2.0, 0.5, 1.25, 0.75][i * 31 % 6]
}

/// Ulp of the destination: the reference's own order of additions shows in f64.
fn tolerance(op: Reduce, dtype: DType) -> f64 {
    match (op, dtype) {
        (Reduce::Max | Reduce::Min, _) => 0.0,
        (Reduce::Sum | Reduce::Mean, _) => 1.0,
        (_, DType::F64) => 200.0,
        (Reduce::Prod, _) => 1.0,
        _ => 4.0,
    }
}

fn check(op: Reduce, x: Numbers, axes: &[usize], out: Option<Layout>) -> usize {
    let to = op.result(x.dtype).unwrap();
    let out = out.unwrap_or_else(|| Layout::contiguous(kept_shape(x.layout.shape(), axes).unwrap()));
    let tolerance = tolerance(op, x.dtype);
    compare(&format!("{op:?} over {axes:?}"), &[x], &[Numbers::room(to, out)], tolerance, &|b, x, mut out| {
        b.reduce(op, x[0], axes, out.remove(0))
    })
}

fn numbers(op: Reduce, dtype: DType, layout: Layout) -> Numbers {
    match dtype.is_float() {
        true => Numbers::new(dtype, layout, if op == Reduce::Prod { factors } else { quarters }),
        false => Numbers::finite(dtype, layout, 1),
    }
}

#[test]
fn every_set_of_axes_agrees_with_the_reference() {
    let cases: [(&[usize], &[&[usize]]); 8] = [
        (&[], &[&[]]),
        (&[1], &[&[], &[0]]),
        (&[5], &[&[], &[0]]),
        (&[3, 4], &[&[], &[0], &[1], &[0, 1]]),
        (&[7, 70], &[&[], &[0], &[1], &[0, 1]]),
        (&[90, 33], &[&[0], &[1], &[0, 1]]),
        (&[2, 3, 5], &[&[0], &[1], &[2], &[0, 1], &[0, 2], &[1, 2], &[0, 1, 2]]),
        (&[3, 5, 2, 40], &[&[0, 2], &[1, 3], &[1, 2], &[0, 1, 2], &[0, 1, 3]]),
    ];
    for op in OPS {
        for dtype in DType::ALL.into_iter().filter(|&d| op.result(d).is_some()) {
            for (extents, sets) in cases {
                for axes in sets {
                    for x in layouts(extents, true) {
                        check(op, numbers(op, dtype, x), axes, None);
                    }
                    let kept = kept_shape(&shape(extents), axes).unwrap();
                    for out in layouts(&kept, false) {
                        check(op, numbers(op, dtype, Layout::contiguous(shape(extents))), axes, Some(out));
                    }
                }
            }
        }
    }
}

#[test]
fn special_values_go_where_they_should() {
    for op in OPS {
        for dtype in DType::FLOATS {
            for (extents, axes) in [(&[40, 30][..], &[0][..]), (&[40, 30], &[1]), (&[3, 400], &[1]), (&[3, 4], &[0, 1])]
            {
                for x in layouts(extents, false) {
                    let values = [1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0];
                    let rare = |i: usize| if i.is_multiple_of(37) { values[i / 37 % 6] } else { factors(i) };
                    check(op, Numbers::new(dtype, x, rare), axes, None);
                }
            }
        }
    }
}

#[test]
fn nothing_has_a_sum_and_no_extreme() {
    for op in OPS {
        for dtype in DType::ALL.into_iter().filter(|&d| op.result(d).is_some()) {
            let empty = |extents| Numbers::room(dtype, Layout::contiguous(shape(extents)));
            if !matches!(op, Reduce::Max | Reduce::Min) {
                check(op, empty(&[2, 0]), &[1], None);
                check(op, empty(&[0, 0]), &[0, 1], None);
            }
            check(op, empty(&[2, 0]), &[0], None);
        }
    }
}

#[test]
fn long_sums_are_accurate_and_parallel() {
    let positive = |dtype, layout| Numbers::new(dtype, layout, |i| (i * 2_654_435_761 % 1009) as f64 / 1009.0 + 0.01);
    let mut runs = Vec::new();
    for (extents, axes) in [
        (&[300_001][..], &[0][..]),
        (&[3, 100_000], &[1]),
        (&[3000, 100], &[0]),
        (&[2, 700, 600], &[1]),
        (&[50, 20, 300], &[0, 2]),
        (&[1000, 300], &[1]),
    ] {
        for dtype in [DType::F32, DType::Bf16] {
            for op in [Reduce::Sum, Reduce::Mean, Reduce::Var { correction: 1 }, Reduce::Max] {
                runs.push(check(op, positive(dtype, Layout::contiguous(shape(extents))), axes, None));
            }
        }
    }
    assert!(runs.iter().all(|&runs| runs >= 3), "{runs:?}");
}

#[test]
fn a_large_mean_leaves_the_variance_alone() {
    let row = Layout::contiguous(shape(&[5000]));
    let x = Numbers::new(DType::F32, row, |i| 10_000.0 + (i % 3) as f64);
    check(Reduce::Var { correction: 0 }, x, &[0], None);
    let columns = Layout::contiguous(shape(&[1000, 20]));
    let x = Numbers::new(DType::F32, columns, |i| 10_000.0 + (i % 3) as f64);
    check(Reduce::Var { correction: 0 }, x, &[0], None);
}

#[test]
fn positions_agree_with_the_reference() {
    let cases = [
        (&[5][..], 0),
        (&[1], 0),
        (&[3, 0], 0),
        (&[7, 300], 1),
        (&[300, 7], 0),
        (&[4, 30, 9], 1),
        (&[90, 500], 1),
        (&[90, 500], 0),
    ];
    for op in ArgReduce::ALL {
        for dtype in DType::ALL {
            for (extents, axis) in cases {
                let kept = kept_shape(&shape(extents), &[axis]).unwrap();
                for x in layouts(extents, true) {
                    for out in layouts(&kept, false) {
                        let (x, out) = (Numbers::arbitrary(dtype, x, 4), Numbers::room(DType::I64, out));
                        compare(op.name(), &[x], &[out], 0.0, &|b, x, mut out| {
                            b.arg_reduce(op, x[0], axis, out.remove(0))
                        });
                    }
                }
            }
        }
    }
}

#[test]
fn running_sums_agree_with_the_reference() {
    let cases =
        [(&[5][..], 0), (&[1], 0), (&[0, 3], 1), (&[7, 300], 1), (&[300, 7], 0), (&[4, 30, 9], 1), (&[90, 500], 0)];
    for dtype in DType::ALL {
        let to = Reduce::Sum.result(dtype).unwrap();
        for (extents, axis) in cases {
            for x in layouts(extents, true) {
                for out in layouts(extents, false) {
                    let (x, out) = (numbers(Reduce::Sum, dtype, x), Numbers::room(to, out));
                    compare("cumsum", &[x], &[out], 0.0, &|b, x, mut out| b.cumsum(x[0], axis, out.remove(0)));
                }
            }
        }
    }
}

#[test]
fn mistakes_of_direct_callers_are_errors() {
    let cpu = CpuBackend::new(1).unwrap();
    let cpu: &dyn attentia_backend::Backend = &cpu;
    let (layout, row) = (Layout::contiguous(shape(&[4, 5])), Layout::contiguous(shape(&[1, 5])));
    let (x, mut out) = (cpu.alloc(DType::F32, 20).unwrap(), cpu.alloc(DType::F32, 20).unwrap());
    let x = View::new(&x, &layout).unwrap();
    let mut refused = |layout: &Layout, call: &dyn Fn(ViewMut) -> Result<()>, kind: ErrorKind| {
        assert_eq!(call(ViewMut::new(&mut out, layout).unwrap()).unwrap_err().kind(), kind);
    };
    refused(&layout, &|out| cpu.reduce(Reduce::Sum, x, &[0], out), ErrorKind::Shape);
    refused(&row, &|out| cpu.reduce(Reduce::Sum, x, &[2], out), ErrorKind::Shape);
    refused(&row, &|out| cpu.reduce(Reduce::Sum, x, &[1, 0], out), ErrorKind::Argument);
    refused(&row, &|out| cpu.reduce(Reduce::Sum, x, &[0, 0], out), ErrorKind::Argument);
    refused(&row, &|out| cpu.arg_reduce(ArgReduce::Max, x, 0, out), ErrorKind::DType);
    refused(&row, &|out| cpu.arg_reduce(ArgReduce::Max, x, 5, out), ErrorKind::Shape);
    refused(&row, &|out| cpu.cumsum(x, 0, out), ErrorKind::Shape);
    refused(&layout, &|out| cpu.cumsum(x, 2, out), ErrorKind::Shape);
}
