use super::*;
use crate::oracle::{Lie, Sample, check, scattered};
use attentia_backend::Backend;

/// Indices below `extent`, with many repetitions.
fn indices(b: &dyn Backend, extents: &[usize], lie: Lie, extent: usize) -> Sample {
    Sample::new(b, DType::I64, extents, lie, |place| ((scattered(8, place) + 3.0) / 6.0 * extent as f64).floor())
}

fn numbers(b: &dyn Backend, dtype: DType, extents: &[usize], lie: Lie, seed: u64) -> Sample {
    Sample::new(b, dtype, extents, lie, |place| match dtype.is_float() {
        true => scattered(seed, place),
        false => ((scattered(seed, place) + 3.0) * 30.0).floor(),
    })
}

#[test]
fn gather_and_scatter_agree_with_the_oracle() {
    for dtype in DType::ALL {
        for (lie, to) in Lie::ALL.into_iter().zip(Lie::WRITABLE.into_iter().cycle()) {
            for axis in 0..3 {
                check(&format!("gather and scatter {dtype} {lie:?} to {to:?} axis {axis}"), |b| {
                    let (extents, mut of_index) = ([6, 5, 9], [4, 5, 8]);
                    of_index[axis] = 11;
                    let x = numbers(b, dtype, &extents, lie, 1);
                    let index = indices(b, &of_index, lie, extents[axis]);
                    let mut out = numbers(b, dtype, &of_index, to, 2);
                    b.gather(x.view(), index.view(), axis, out.view_mut()).unwrap();
                    if dtype == DType::Bool {
                        return vec![out];
                    }
                    let src = numbers(b, dtype, &of_index, lie, 3);
                    let mut sums = numbers(b, dtype, &extents, to, 4);
                    b.scatter_add(index.view(), src.view(), axis, sums.view_mut()).unwrap();
                    vec![out, sums]
                });
            }
        }
    }
}

#[test]
fn tables_agree_with_the_oracle() {
    for dtype in DType::ALL {
        for (lie, to) in Lie::ALL.into_iter().zip(Lie::WRITABLE.into_iter().cycle()) {
            check(&format!("embedding {dtype} {lie:?} to {to:?}"), |b| {
                let table = numbers(b, dtype, &[7, 21], lie, 1);
                let index = indices(b, &[3, 5], lie, 7);
                let mut out = numbers(b, dtype, &[3, 5, 21], to, 2);
                b.embedding(table.view(), index.view(), out.view_mut()).unwrap();
                if !dtype.is_float() {
                    return vec![out];
                }
                let dy = numbers(b, dtype, &[3, 5, 21], lie, 3);
                let mut gradient = numbers(b, dtype, &[7, 21], to, 4);
                b.embedding_backward(index.view(), dy.view(), gradient.view_mut()).unwrap();
                vec![out, gradient]
            });
        }
    }
}

#[test]
fn large_calls_run_in_parallel_with_the_same_bits() {
    for dtype in [DType::F32, DType::Bf16] {
        let parallel = check("gather and scatter", |b| {
            let index = indices(b, &[60, 700], Lie::Contiguous, 50);
            let src = numbers(b, dtype, &[60, 700], Lie::Contiguous, 1);
            let mut out = numbers(b, dtype, &[50, 700], Lie::Contiguous, 2);
            b.scatter_add(index.view(), src.view(), 0, out.view_mut()).unwrap();
            vec![out]
        });
        assert!(parallel > 0);
        let parallel = check("embedding", |b| {
            let index = indices(b, &[200], Lie::Contiguous, 20);
            let dy = numbers(b, dtype, &[200, 600], Lie::Contiguous, 1);
            let mut gradient = numbers(b, dtype, &[20, 600], Lie::Contiguous, 2);
            b.embedding_backward(index.view(), dy.view(), gradient.view_mut()).unwrap();
            let mut out = numbers(b, dtype, &[200, 600], Lie::Contiguous, 3);
            b.embedding(gradient.view(), index.view(), out.view_mut()).unwrap();
            vec![gradient, out]
        });
        assert!(parallel > 0);
    }
}

#[test]
fn one_index_for_a_whole_row() {
    for dtype in DType::ALL {
        for to in Lie::WRITABLE {
            check(&format!("rows of {dtype} to {to:?}"), |b| {
                let index = indices(b, &[9, 130], Lie::RepeatedColumns, 4);
                let x = numbers(b, dtype, &[4, 130], Lie::Contiguous, 1);
                let mut out = numbers(b, dtype, &[9, 130], to, 2);
                b.gather(x.view(), index.view(), 0, out.view_mut()).unwrap();
                if dtype == DType::Bool {
                    return vec![out];
                }
                let src = numbers(b, dtype, &[9, 130], Lie::Contiguous, 3);
                let mut sums = numbers(b, dtype, &[4, 130], to, 4);
                b.scatter_add(index.view(), src.view(), 0, sums.view_mut()).unwrap();
                vec![out, sums]
            });
        }
    }
}

#[test]
fn nothing_to_do() {
    for (extents, of_index) in [([3, 4], [0, 4]), ([0, 4], [0, 4]), ([3, 0], [5, 0]), ([3, 4], [2, 0])] {
        check("empty", |b| {
            let (x, index) =
                (numbers(b, DType::F32, &extents, Lie::Contiguous, 1), indices(b, &of_index, Lie::Contiguous, 3));
            let mut out = Sample::room(b, DType::F32, &of_index, Lie::Contiguous);
            b.gather(x.view(), index.view(), 0, out.view_mut()).unwrap();
            let mut sums = numbers(b, DType::F32, &extents, Lie::Contiguous, 1);
            b.scatter_add(index.view(), out.view(), 0, sums.view_mut()).unwrap();
            vec![out, sums]
        });
    }
    check("empty tables", |b| {
        let (table, index) =
            (numbers(b, DType::F32, &[3, 0], Lie::Contiguous, 1), indices(b, &[2], Lie::Contiguous, 3));
        let mut out = Sample::room(b, DType::F32, &[2, 0], Lie::Contiguous);
        b.embedding(table.view(), index.view(), out.view_mut()).unwrap();
        let mut gradient = Sample::room(b, DType::F32, &[3, 0], Lie::Contiguous);
        b.embedding_backward(index.view(), out.view(), gradient.view_mut()).unwrap();
        vec![out]
    });
}

#[test]
fn an_index_outside_is_named_and_nothing_is_written() {
    let cpu = CpuBackend::new(2).unwrap();
    let x = numbers(&cpu, DType::F32, &[2, 3], Lie::Contiguous, 1);
    for bad in [3.0, -1.0, -9e18] {
        let index = Sample::new(&cpu, DType::I64, &[2, 2], Lie::Contiguous, |p| if p >= 2 { bad } else { 0.0 });
        let mut out = Sample::room(&cpu, DType::F32, &[2, 2], Lie::Contiguous);
        let mut sums = Sample::room(&cpu, DType::F32, &[2, 3], Lie::Contiguous);
        let mut rows = Sample::room(&cpu, DType::F32, &[2, 2, 2], Lie::Contiguous);
        let mut table = Sample::room(&cpu, DType::F32, &[3, 2], Lie::Contiguous);
        let errors = [
            ("gather", "1 of x", cpu.gather(x.view(), index.view(), 1, out.view_mut())),
            ("scatter_add", "1 of out", cpu.scatter_add(index.view(), out.view(), 1, sums.view_mut())),
            ("embedding", "0 of table", cpu.embedding(table.view(), index.view(), rows.view_mut())),
            ("embedding_backward", "0 of dtable", cpu.embedding_backward(index.view(), rows.view(), table.view_mut())),
        ];
        for (op, axis, result) in errors {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Index);
            let text = format!("{op}: {bad} at position [1, 0] of index lies outside axis {axis}\n");
            assert!(error.to_string().starts_with(&text), "{error}");
            assert!(error.to_string().contains("[2, 2] i64 cpu   <- expected elements in 0..3"), "{error}");
        }
        for untouched in [out, sums, rows, table] {
            assert!(untouched.values(&cpu).iter().all(|&x| x == 77.0));
        }
    }
    let index = indices(&cpu, &[2, 2], Lie::Contiguous, 2);
    let mut out = Sample::room(&cpu, DType::F64, &[2, 2], Lie::Contiguous);
    assert_eq!(cpu.gather(x.view(), index.view(), 1, out.view_mut()).unwrap_err().kind(), ErrorKind::DType);
    let mut out = Sample::room(&cpu, DType::F32, &[2, 2], Lie::Contiguous);
    assert_eq!(cpu.gather(x.view(), index.view(), 2, out.view_mut()).unwrap_err().kind(), ErrorKind::Shape);
}
