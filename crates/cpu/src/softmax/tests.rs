use super::*;
use crate::oracle::{Lie, Sample, check, scattered};
use attentia_backend::Backend;

const KINDS: [SoftmaxKind; 3] = [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax, SoftmaxKind::Masked];

/// Scattered numbers with an infinity or a NaN here and there.
fn edgy(place: usize) -> f64 {
    match place % 61 {
        7 => f64::NEG_INFINITY,
        23 => f64::NAN,
        41 => f64::INFINITY,
        _ => scattered(3, place),
    }
}

fn keep(place: usize) -> f64 {
    (scattered(9, place) > -1.0) as u8 as f64
}

#[test]
fn agrees_with_the_oracle() {
    for kind in KINDS {
        for dtype in DType::FLOATS {
            for lie in Lie::ALL {
                for to in Lie::WRITABLE {
                    let id = format!("{} {dtype} {lie:?} to {to:?}", kind.name());
                    check(&id, |b| {
                        let x = Sample::floats(b, dtype, &[3, 5, 70], lie, 1);
                        let mask = Sample::new(b, DType::Bool, &[3, 5, 70], lie, keep);
                        let mask = (kind == SoftmaxKind::Masked).then(|| mask.view());
                        let mut out = Sample::room(b, dtype, &[3, 5, 70], to);
                        b.softmax(kind, x.source(), mask, out.view_mut()).unwrap();
                        vec![out]
                    });
                }
            }
        }
    }
}

#[test]
fn edge_rows_and_shapes() {
    for kind in KINDS {
        for extents in [&[][..], &[1], &[0], &[4, 0], &[0, 4], &[40, 1], &[9, 31], &[9, 32], &[9, 33], &[300, 3]] {
            for lie in Lie::WRITABLE {
                check(&format!("{} {extents:?} {lie:?} in place", kind.name()), |b| {
                    let mask = Sample::new(b, DType::Bool, extents, Lie::RepeatedRows, keep);
                    let mask = (kind == SoftmaxKind::Masked).then(|| mask.view());
                    let mut out = Sample::new(b, DType::F32, extents, lie, edgy);
                    b.softmax(kind, Source::Destination, mask, out.view_mut()).unwrap();
                    vec![out]
                });
            }
        }
        for value in [f64::NEG_INFINITY, f64::INFINITY, f64::NAN, 1e30, -1e30] {
            check(&format!("{} of {value}", kind.name()), |b| {
                let x = Sample::new(b, DType::F32, &[2, 40], Lie::Contiguous, |_| value);
                let mask = Sample::new(b, DType::Bool, &[2, 40], Lie::Contiguous, |place| (place < 40) as u8 as f64);
                let mask = (kind == SoftmaxKind::Masked).then(|| mask.view());
                let mut out = Sample::room(b, DType::F32, &[2, 40], Lie::Contiguous);
                b.softmax(kind, x.source(), mask, out.view_mut()).unwrap();
                vec![out]
            });
        }
    }
}

#[test]
fn gradients_agree_with_the_oracle() {
    for kind in KINDS {
        for dtype in DType::FLOATS {
            for (lie, to) in Lie::ALL.into_iter().zip(Lie::WRITABLE.into_iter().cycle()) {
                for in_place in [false, true] {
                    check(&format!("{} backward {dtype} {lie:?} to {to:?} {in_place}", kind.name()), |b| {
                        let y = Sample::new(b, dtype, &[4, 5, 45], lie, |i| (scattered(4, i) / 4.0).max(0.0));
                        let dy = Sample::floats(b, dtype, &[4, 5, 45], lie, 5);
                        let mut dx = Sample::floats(b, dtype, &[4, 5, 45], to, 6);
                        let dy = if in_place { Source::Destination } else { dy.source() };
                        b.softmax_backward(kind, y.view(), dy, dx.view_mut()).unwrap();
                        vec![dx]
                    });
                }
            }
        }
    }
}

#[test]
fn many_rows_run_in_parallel_with_the_same_bits() {
    for lie in [Lie::Contiguous, Lie::Transposed] {
        let parallel = check(&format!("large {lie:?}"), |b| {
            let x = Sample::floats(b, DType::F32, &[331, 257], lie, 1);
            let mut out = Sample::room(b, DType::F32, &[331, 257], lie);
            b.softmax(SoftmaxKind::Softmax, x.source(), None, out.view_mut()).unwrap();
            vec![out]
        });
        assert!(parallel > 0);
    }
}

#[test]
fn mixed_dtypes_are_rounded_once() {
    for (from, to) in [(DType::Bf16, DType::F32), (DType::F32, DType::F64), (DType::F64, DType::F16)] {
        check(&format!("{from} to {to}"), |b| {
            let x = Sample::floats(b, from, &[3, 20], Lie::Transposed, 1);
            let mut out = Sample::room(b, to, &[3, 20], Lie::Contiguous);
            b.softmax(SoftmaxKind::Softmax, x.source(), None, out.view_mut()).unwrap();
            vec![out]
        });
    }
}

#[test]
fn mistakes_are_errors() {
    let cpu = CpuBackend::new(1).unwrap();
    let x = Sample::floats(&cpu, DType::F32, &[2, 3], Lie::Contiguous, 1);
    let mask = Sample::new(&cpu, DType::Bool, &[2, 3], Lie::Contiguous, keep);
    let short = Sample::new(&cpu, DType::Bool, &[2, 1], Lie::Contiguous, keep);
    let mut out = Sample::room(&cpu, DType::F32, &[2, 3], Lie::Contiguous);
    let mut fails = |kind, x: &Sample, mask: Option<&Sample>, expected| {
        let error = cpu.softmax(kind, x.source(), mask.map(Sample::view), out.view_mut()).unwrap_err();
        assert_eq!(error.kind(), expected, "{error}");
    };
    fails(SoftmaxKind::Masked, &x, None, ErrorKind::Argument);
    fails(SoftmaxKind::Softmax, &x, Some(&mask), ErrorKind::Argument);
    fails(SoftmaxKind::Masked, &x, Some(&short), ErrorKind::Shape);
    fails(SoftmaxKind::Masked, &x, Some(&x), ErrorKind::DType);
    fails(SoftmaxKind::Softmax, &mask, None, ErrorKind::DType);
}
