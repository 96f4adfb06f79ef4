use super::*;
use crate::oracle::{Numbers, compare as check, layouts, shape};
use attentia_backend::Scalar;
use std::slice::from_ref;

const SHAPES: [&[usize]; 6] = [&[], &[1], &[0, 3], &[2, 3, 5], &[13, 37], &[2, 300]];

fn tolerance(op: Unary) -> f64 {
    match op {
        Unary::Rsqrt => 1.0,
        op if row::grain(op) != GRAIN => 2.5,
        // One operation, correctly rounded.
        _ => 0.0,
    }
}

#[test]
fn unary_functions_agree_with_the_reference() {
    let scalars = [2.0, -1.0, 0.5, 0.1, 3.0, 0.0].map(Unary::PowScalar);
    let whole = [Unary::AddScalar(-3.0), Unary::MulScalar(7.9), Unary::MaxScalar(-2.0), Unary::MinScalar(1e30)];
    for op in Unary::ALL.into_iter().chain(scalars).chain(whole) {
        for dtype in DType::ALL.into_iter().filter(|&d| op.accepts(d)) {
            for extents in SHAPES {
                for x in layouts(extents, true) {
                    let out = Layout::contiguous(shape(extents));
                    let (x, out) = (Numbers::arbitrary(dtype, x, 1), Numbers::room(dtype, out));
                    check(op.name(), &[x], &[out], tolerance(op), &|b, x, mut out| {
                        b.unary(op, Source::View(x[0]), out.remove(0))
                    });
                }
            }
            for out in layouts(&[13, 37], false) {
                let x = Numbers::arbitrary(dtype, Layout::contiguous(shape(&[13, 37])), 2);
                check(op.name(), &[x], &[Numbers::room(dtype, out)], tolerance(op), &|b, x, mut out| {
                    b.unary(op, Source::View(x[0]), out.remove(0))
                });
                check(op.name(), &[], &[Numbers::arbitrary(dtype, out, 3)], tolerance(op), &|b, _, mut out| {
                    b.unary(op, Source::Destination, out.remove(0))
                });
            }
        }
    }
}

#[test]
fn binary_functions_agree_with_the_reference() {
    for op in Binary::ALL {
        let tolerance = if op == Binary::Pow { 2.5 } else { 0.0 };
        for dtype in DType::ALL.into_iter().filter(|&d| op.accepts(d)) {
            for extents in SHAPES {
                for a in layouts(extents, true) {
                    for b in layouts(extents, true) {
                        let out = Numbers::room(dtype, Layout::contiguous(shape(extents)));
                        let (a, b) = (Numbers::arbitrary(dtype, a, 4), Numbers::arbitrary(dtype, b, 5));
                        check(op.name(), &[a, b], &[out], tolerance, &|backend, x, mut out| {
                            backend.binary(op, Source::View(x[0]), x[1], out.remove(0))
                        });
                    }
                }
            }
            for out in layouts(&[13, 37], false) {
                for b in layouts(&[13, 37], true) {
                    let (b, out) = (Numbers::arbitrary(dtype, b, 6), Numbers::arbitrary(dtype, out, 7));
                    check(op.name(), &[b], &[out], tolerance, &|backend, x, mut out| {
                        backend.binary(op, Source::Destination, x[0], out.remove(0))
                    });
                }
            }
        }
    }
}

#[test]
fn comparisons_and_choices_agree_with_the_reference() {
    for dtype in DType::ALL {
        for extents in SHAPES {
            for a in layouts(extents, true) {
                for b in layouts(extents, true) {
                    let samples = [Numbers::arbitrary(dtype, a, 8), Numbers::arbitrary(dtype, b, 9)];
                    for op in Compare::ALL {
                        let out = Numbers::room(DType::Bool, Layout::contiguous(shape(extents)));
                        check(op.name(), &samples, &[out], 0.0, &|backend, x, mut out| {
                            backend.compare(op, x[0], x[1], out.remove(0))
                        });
                    }
                    let [a, b] = samples;
                    for condition in [a.layout, Layout::contiguous(shape(extents))] {
                        let out = Numbers::room(dtype, Layout::contiguous(shape(extents)));
                        let operands = [Numbers::arbitrary(DType::Bool, condition, 10), a.clone(), b.clone()];
                        check("select", &operands, &[out], 0.0, &|backend, x, mut out| {
                            backend.select(x[0], x[1], x[2], out.remove(0))
                        });
                    }
                }
            }
        }
        for out in layouts(&[13, 37], false) {
            let plain = Layout::contiguous(shape(&[13, 37]));
            let operands = [(DType::Bool, 11), (dtype, 12), (dtype, 13)].map(|(d, s)| Numbers::arbitrary(d, plain, s));
            check("select", &operands, &[Numbers::room(dtype, out)], 0.0, &|b, x, mut out| {
                b.select(x[0], x[1], x[2], out.remove(0))
            });
            check("le", &operands[1..], &[Numbers::room(DType::Bool, out)], 0.0, &|b, x, mut out| {
                b.compare(Compare::Le, x[0], x[1], out.remove(0))
            });
        }
    }
}

fn check_copy(from: DType, x: Layout, to: DType, out: Layout) {
    let (x, out) = (Numbers::arbitrary(from, x, 14), Numbers::room(to, out));
    check("copy", &[x], &[out], 0.0, &|b, x, mut out| b.copy(x[0], out.remove(0)));
}

#[test]
fn casts_agree_with_the_reference() {
    for from in DType::ALL {
        for to in DType::ALL {
            for extents in SHAPES {
                let contiguous = Layout::contiguous(shape(extents));
                layouts(extents, true).into_iter().for_each(|x| check_copy(from, x, to, contiguous));
                layouts(extents, false).into_iter().for_each(|out| check_copy(from, contiguous, to, out));
            }
        }
    }
}

#[test]
fn copies_between_all_layouts_agree_with_the_reference() {
    // One dtype of each size, and one pair that is cast.
    for (from, to) in
        [DType::F64, DType::F32, DType::Bf16, DType::U8].map(|d| (d, d)).into_iter().chain([(DType::F16, DType::F32)])
    {
        for extents in [&[70, 33, 2][..], &[33, 66], &[2, 40, 3, 17]] {
            for x in layouts(extents, true) {
                for out in layouts(extents, false) {
                    check_copy(from, x, to, out);
                }
            }
        }
    }
}

#[test]
fn casts_round_once() {
    let layout = Layout::contiguous(shape(&[8]));
    let tie = 1.0 + 2f64.powi(-8);
    let values =
        [tie + 2f64.powi(-40), tie - 2f64.powi(-40), -tie - 2f64.powi(-40), 65519.99, 65520.0, 1e-8, 3e-8, 1e39];
    let x = Numbers::new(DType::F64, layout, |i| values[i % 8]);
    let whole = Numbers::new(DType::I64, layout, |i| (1i64 << (62 - i) | 1 << (54 - i)) as f64);
    for to in [DType::F32, DType::Bf16, DType::F16] {
        for x in [&x, &whole] {
            let out = Numbers::room(to, layout);
            check("copy", from_ref(x), from_ref(&out), 0.0, &|b, x, mut out| b.copy(x[0], out.remove(0)));
            check("copy", from_ref(x), &[out], 0.0, &|b, x, mut out| {
                let mut whole = b.alloc(DType::I64, 8)?;
                let layout = Layout::contiguous(shape(&[8]));
                b.copy(x[0], ViewMut::new(&mut whole, &layout)?)?;
                // One more than a tie, in bits that an f64 has no room for.
                b.unary(Unary::AddScalar(1.0), Source::Destination, ViewMut::new(&mut whole, &layout)?)?;
                b.copy(View::new(&whole, &layout)?, out.remove(0))
            });
        }
    }
}

#[test]
fn destinations_may_be_of_another_float_dtype() {
    let layout = Layout::contiguous(shape(&[300]));
    for from in DType::FLOATS {
        for to in DType::FLOATS {
            let (x, out) = (Numbers::arbitrary(from, layout, 15), Numbers::room(to, layout));
            check("neg", from_ref(&x), from_ref(&out), 0.0, &|b, x, mut out| {
                b.unary(Unary::Neg, Source::View(x[0]), out.remove(0))
            });
            check("exp", &[Numbers::finite(from, layout, 16)], from_ref(&out), 2.5, &|b, x, mut out| {
                b.unary(Unary::Exp, Source::View(x[0]), out.remove(0))
            });
            check("maximum", &[x.clone(), Numbers::arbitrary(from, layout, 17)], &[out], 0.0, &|b, x, mut out| {
                b.binary(Binary::Max, Source::View(x[0]), x[1], out.remove(0))
            });
        }
    }
}

#[test]
fn fills_and_progressions_agree_with_the_reference() {
    for dtype in DType::ALL {
        for extents in SHAPES {
            for out in layouts(extents, false) {
                for value in [Scalar::Float(2.7), Scalar::Float(-1.5), Scalar::Int(-3), Scalar::Int((1 << 60) + 1)] {
                    let out = Numbers::room(dtype, out);
                    check("full", &[], from_ref(&out), 0.0, &|b, _, mut out| b.full(value, out.remove(0)));
                    check("iota", &[], &[out], 0.0, &|b, _, mut out| b.iota(value, Scalar::Float(1.25), out.remove(0)));
                }
            }
        }
    }
}

#[test]
fn large_operations_run_in_parallel() {
    let (long, square) = (Layout::contiguous(shape(&[3, 50_000])), Layout::contiguous(shape(&[300, 500])));
    let transposed = Layout::contiguous(shape(&[500, 300])).transpose(0, 1);
    let row = Layout::contiguous(shape(&[1, 50_000])).broadcast_to(&shape(&[3, 50_000])).unwrap();
    let f32s = |layout, seed| Numbers::arbitrary(DType::F32, layout, seed);
    let out = |layout| Numbers::room(DType::F32, layout);
    let runs = [
        check("erf", &[f32s(long, 1)], &[out(long)], 2.5, &|b, x, mut out| {
            b.unary(Unary::Erf, Source::View(x[0]), out.remove(0))
        }),
        check("add", &[f32s(long, 2), f32s(row, 3)], &[out(long)], 0.0, &|b, x, mut out| {
            b.binary(Binary::Add, Source::View(x[0]), x[1], out.remove(0))
        }),
        check("lt", &[f32s(long, 4), f32s(row, 5)], &[Numbers::room(DType::Bool, long)], 0.0, &|b, x, mut out| {
            b.compare(Compare::Lt, x[0], x[1], out.remove(0))
        }),
        check("copy", &[f32s(transposed, 6)], &[out(square)], 0.0, &|b, x, mut out| b.copy(x[0], out.remove(0))),
        check("copy", &[f32s(square, 7)], &[out(transposed)], 0.0, &|b, x, mut out| b.copy(x[0], out.remove(0))),
        check("copy", &[f32s(transposed, 6)], &[Numbers::room(DType::Bf16, square)], 0.0, &|b, x, mut out| {
            b.copy(x[0], out.remove(0))
        }),
        check("full", &[], &[out(long)], 0.0, &|b, _, mut out| b.full(Scalar::Int(3), out.remove(0))),
        check("iota", &[], &[out(long)], 0.0, &|b, _, mut out| b.iota(0.into(), 1.into(), out.remove(0))),
    ];
    // Three of the four numbers of threads, at each instruction set.
    assert!(runs.iter().all(|&runs| runs >= 3), "{runs:?}");
}

#[test]
fn mistakes_of_direct_callers_are_errors() {
    let cpu = CpuBackend::new(1).unwrap();
    let cpu: &dyn attentia_backend::Backend = &cpu;
    let (small, large) = (Layout::contiguous(shape(&[2])), Layout::contiguous(shape(&[2000])));
    let floats = cpu.alloc(DType::F32, 2000).unwrap();
    let bytes = cpu.alloc(DType::U8, 2000).unwrap();
    let view = |buffer, layout| View::new(buffer, layout).unwrap();
    let (two, all, whole) = (view(&floats, &small), view(&floats, &large), view(&bytes, &large));
    let mut buffer = cpu.alloc(DType::F32, 2000).unwrap();
    let mut refused = |call: &dyn Fn(ViewMut) -> Result<()>, kind: ErrorKind| {
        assert_eq!(call(ViewMut::new(&mut buffer, &large).unwrap()).unwrap_err().kind(), kind);
    };
    refused(&|out| cpu.unary(Unary::Exp, Source::View(two), out), ErrorKind::Shape);
    refused(&|out| cpu.unary(Unary::Not, Source::Destination, out), ErrorKind::DType);
    refused(&|out| cpu.unary(Unary::Neg, Source::View(whole), out), ErrorKind::DType);
    refused(&|out| cpu.binary(Binary::Add, Source::Destination, two, out), ErrorKind::Shape);
    refused(&|out| cpu.binary(Binary::Add, Source::View(all), whole, out), ErrorKind::DType);
    refused(&|out| cpu.binary(Binary::And, Source::View(all), all, out), ErrorKind::DType);
    refused(&|out| cpu.compare(Compare::Eq, all, all, out), ErrorKind::DType);
    refused(&|out| cpu.compare(Compare::Eq, all, two, out), ErrorKind::Shape);
    refused(&|out| cpu.select(all, all, all, out), ErrorKind::DType);
    refused(&|out| cpu.select(two, all, all, out), ErrorKind::Shape);
    refused(&|out| cpu.copy(two, out), ErrorKind::Shape);
}
