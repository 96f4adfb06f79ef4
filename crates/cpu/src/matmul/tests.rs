//! Products against plain loops in f64.

use crate::{CpuBackend, Isa};
use attentia_backend::{
    Activation, Apply, Backend, Buffer, DType, Epilogue, ErrorKind, HostSlice, HostSliceMut, Layout, Shape, Source,
    View, ViewMut,
};
use half::{bf16, f16};

/// How an operand lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    Rows,
    Columns,
    Every2nd,
    Flipped,
    /// Rows from the last to the first.
    Upward,
    /// Batch and rows share memory: the caller's broadcast.
    Repeated,
    /// As a window of larger rows, offset by an odd number of elements.
    Window,
}

const LIES: [Lie; 6] = [Lie::Rows, Lie::Columns, Lie::Every2nd, Lie::Flipped, Lie::Repeated, Lie::Window];

fn contiguous(extents: &[usize]) -> Layout {
    Layout::contiguous(Shape::new(extents).unwrap())
}

/// A layout of this shape, and the number of elements of the buffer under it.
fn lay(lie: Lie, extents: &[usize]) -> (Layout, usize) {
    let rank = extents.len();
    let (r, c) = (rank - 2, rank - 1);
    let with = |axis: usize, extent: usize| {
        let mut e = extents.to_vec();
        e[axis] = extent;
        e
    };
    match lie {
        Lie::Rows => (contiguous(extents), extents.iter().product()),
        Lie::Columns => {
            let mut e = extents.to_vec();
            e.swap(r, c);
            (contiguous(&e).transpose(r, c), e.iter().product())
        }
        Lie::Every2nd => {
            let e = with(c, 2 * extents[c]);
            (contiguous(&e).slice(c, 0, 2, extents[c]).unwrap(), e.iter().product())
        }
        Lie::Flipped => (contiguous(extents).flip(r).unwrap().flip(c).unwrap(), extents.iter().product()),
        Lie::Upward => (contiguous(extents).flip(r).unwrap(), extents.iter().product()),
        Lie::Repeated => {
            let e: Vec<usize> = (0..rank).map(|axis| if axis == c { extents[c] } else { 1 }).collect();
            (contiguous(&e).broadcast_to(&Shape::new(extents).unwrap()).unwrap(), extents[c])
        }
        Lie::Window => {
            let e = with(c, extents[c] + 5);
            (contiguous(&e).narrow(c, 3, extents[c]).unwrap(), e.iter().product())
        }
    }
}

/// Numbers between -1 and 1 that any dtype holds to its precision.
fn noise(len: usize, seed: u64) -> Vec<f64> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn put(cpu: &CpuBackend, dtype: DType, values: &[f64]) -> Buffer {
    let mut buffer = cpu.alloc(dtype, values.len()).unwrap();
    let layout = contiguous(&[values.len()]);
    let out = ViewMut::new(&mut buffer, &layout).unwrap();
    match dtype {
        DType::F64 => cpu.upload(HostSlice::F64(values), out),
        DType::F32 => cpu.upload(HostSlice::F32(&values.iter().map(|&x| x as f32).collect::<Vec<_>>()), out),
        DType::Bf16 => cpu.upload(HostSlice::Bf16(&values.iter().map(|&x| bf16::from_f64(x)).collect::<Vec<_>>()), out),
        _ => cpu.upload(HostSlice::F16(&values.iter().map(|&x| f16::from_f64(x)).collect::<Vec<_>>()), out),
    }
    .unwrap();
    buffer
}

fn get(cpu: &CpuBackend, buffer: &Buffer) -> Vec<f64> {
    let (len, layout) = (buffer.len(), contiguous(&[buffer.len()]));
    let view = View::new(buffer, &layout).unwrap();
    macro_rules! read {
        ($t:ty, $variant:ident) => {{
            let mut host = vec![<$t>::default(); len];
            cpu.download(view, HostSliceMut::$variant(&mut host)).unwrap();
            host.into_iter().map(f64::from).collect()
        }};
    }
    match buffer.dtype() {
        DType::F64 => read!(f64, F64),
        DType::F32 => read!(f32, F32),
        DType::Bf16 => read!(bf16, Bf16),
        _ => read!(f16, F16),
    }
}

/// Half a unit in the last place, relative.
fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON / 2.0,
        DType::F32 => f64::from(f32::EPSILON) / 2.0,
        DType::Bf16 => 2f64.powi(-8),
        _ => 2f64.powi(-11),
    }
}

/// Index into the buffer.
fn at(layout: &Layout, batch: usize, row: usize, col: usize) -> usize {
    let (rank, mut rest) = (layout.rank(), batch);
    let mut i = layout.offset() as isize;
    for axis in (0..rank - 2).rev() {
        let extent = layout.shape()[axis];
        i += (rest % extent) as isize * layout.strides()[axis];
        rest /= extent;
    }
    (i + row as isize * layout.strides()[rank - 2] + col as isize * layout.strides()[rank - 1]) as usize
}

struct Case<'a> {
    dtype: DType,
    out: DType,
    batch: &'a [usize],
    extents: [usize; 3],
    lies: [Lie; 3],
    accumulate: bool,
}

/// Runs a case and compares all of out's buffer with plain loops.
fn check(cpu: &CpuBackend, case: &Case) {
    let Case { dtype, out: out_dtype, batch, extents: [m, n, k], lies, accumulate } = *case;
    let Run { la, lb, lc, a: av, b: bv, before, after } = run(cpu, case);
    let mut expected = before.clone();
    let mut bound = vec![0.0; before.len()];
    for i in 0..batch.iter().product() {
        for row in 0..m {
            for col in 0..n {
                let to = at(&lc, i, row, col);
                let mut sum = if accumulate { before[to] } else { 0.0 };
                let mut magnitude = sum.abs();
                let (a, a_step) = (at(&la, i, row, 0) as isize, la.strides()[la.rank() - 1]);
                let (b, b_step) = (at(&lb, i, 0, col) as isize, lb.strides()[lb.rank() - 2]);
                for p in 0..k as isize {
                    let term = av[(a + p * a_step) as usize] * bv[(b + p * b_step) as usize];
                    sum += term;
                    magnitude += term.abs();
                }
                expected[to] = sum;
                // Each of k + 1 roundings loses at most a unit of the magnitude; writing loses one of the result.
                let sums = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
                bound[to] = (k + 1) as f64 * unit(sums) * magnitude + 1.01 * unit(out_dtype) * sum.abs();
                // The smallest f16 steps are absolute.
                bound[to] += if out_dtype == DType::F16 { 2f64.powi(-25) } else { 0.0 };
            }
        }
    }
    for (i, ((&x, &y), &bound)) in after.iter().zip(&expected).zip(&bound).enumerate() {
        let what = format!("{dtype} to {out_dtype} {batch:?} {m} x {k} x {n} {lies:?} {accumulate} {:?}", cpu.isa());
        assert!((x - y).abs() <= bound, "{what}: element {i} is {x}, expected {y} within {bound:e}");
    }
}

/// A case's layouts, operands, and out's buffer before and after.
struct Run {
    la: Layout,
    lb: Layout,
    lc: Layout,
    a: Vec<f64>,
    b: Vec<f64>,
    before: Vec<f64>,
    after: Vec<f64>,
}

fn run(cpu: &CpuBackend, case: &Case) -> Run {
    let Case { dtype, out, batch, extents: [m, n, k], lies, accumulate } = *case;
    let shape = |r: usize, c: usize| [batch, &[r, c]].concat();
    let (la, a_len) = lay(lies[0], &shape(m, k));
    let (lb, b_len) = lay(lies[1], &shape(k, n));
    let (lc, c_len) = lay(lies[2], &shape(m, n));
    let (a, b) = (put(cpu, dtype, &noise(a_len, 1)), put(cpu, dtype, &noise(b_len, 2)));
    let mut c = put(cpu, out, &noise(c_len, 3));
    let (av, bv, before) = (get(cpu, &a), get(cpu, &b), get(cpu, &c));
    let (va, vb) = (View::new(&a, &la).unwrap(), View::new(&b, &lb).unwrap());
    cpu.matmul(
        va,
        vb,
        if accumulate { Epilogue::ACCUMULATE } else { Epilogue::NONE },
        ViewMut::new(&mut c, &lc).unwrap(),
    )
    .unwrap();
    let after = get(cpu, &c);
    Run { la, lb, lc, a: av, b: bv, before, after }
}

fn backends(threads: usize) -> impl Iterator<Item = CpuBackend> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available()).map(move |isa| CpuBackend::with_isa(threads, isa).unwrap())
}

const DTYPES: [(DType, DType); 6] = [
    (DType::F64, DType::F64),
    (DType::F32, DType::F32),
    (DType::Bf16, DType::Bf16),
    (DType::Bf16, DType::F32),
    (DType::F16, DType::F16),
    (DType::F16, DType::F32),
];

#[test]
fn every_layout_of_every_dtype() {
    for cpu in backends(1) {
        for (dtype, out) in DTYPES {
            for extents in [[7, 33, 19], [3, 40, 21], [37, 2, 18]] {
                for a in LIES {
                    for b in LIES {
                        for c in LIES.into_iter().filter(|&c| c != Lie::Repeated) {
                            let accumulate = (c == Lie::Columns) ^ (a == Lie::Rows);
                            let lies = [a, b, c];
                            check(&cpu, &Case { dtype, out, batch: &[2], extents, lies, accumulate });
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn every_edge_of_a_tile() {
    // Around the height (6, 14), the width (8 to 32) and the lanes (4 to 16) of tiles, and few rows or columns.
    let few = [1, 2, 3, 4, 5, 6, 7, 8];
    let more = [9, 12, 13, 14, 15, 16, 17, 27, 28, 29, 31, 32, 33, 47, 64, 65];
    let all: Vec<usize> = few.into_iter().chain(more).collect();
    for cpu in backends(1) {
        for (dtype, out) in [(DType::F64, DType::F64), (DType::F32, DType::F32), (DType::Bf16, DType::F32)] {
            for (i, &m) in all.iter().enumerate() {
                for (j, &n) in all.iter().enumerate() {
                    let k = all[(3 * i + 5 * j) % all.len()];
                    let lies = [LIES[(i + j) % 2], LIES[j % 2], Lie::Rows];
                    let case = Case { dtype, out, batch: &[], extents: [m, n, k], lies, accumulate: j % 3 == 0 };
                    check(&cpu, &case);
                }
            }
        }
    }
}

/// One shape for each way of cutting a product into tasks, and for the edges between them.
const SCHEDULES: [(&[usize], [usize; 3]); 18] = [
    (&[], [131, 257, 129]),   // blocks
    (&[], [231, 190, 224]),   // blocks, on many threads in parts; rows of 16-bit pairs in place
    (&[], [240, 190, 224]),   // the same for tiles
    (&[], [190, 231, 224]),   // blocks where threads keep A
    (&[], [37, 61, 1500]),    // and in two slabs
    (&[], [448, 300, 20]),    // blocks as large as they get
    (&[], [61, 37, 1500]),    // blocks of two slabs
    (&[], [2053, 40, 33]),    // many blocks of rows
    (&[], [30, 2100, 40]),    // many blocks of columns
    (&[3], [67, 101, 37]),    // strips of rows or columns
    (&[], [40, 300, 50]),     // strips of columns
    (&[2], [23, 19, 2500]),   // pieces of K
    (&[], [5, 6, 65_599]),    // as many pieces of K as there can be
    (&[], [3, 17, 14_000]),   // pieces of K for a few rows
    (&[], [1, 1100, 700]),    // matrix and vector
    (&[], [5000, 3, 31]),     // tall and thin
    (&[2, 40], [14, 14, 32]), // heads
    (&[3, 3], [31, 65, 17]),  // larger products in numbers
];

#[test]
fn every_schedule() {
    for cpu in backends(2) {
        for (dtype, out) in DTYPES {
            for (i, (batch, extents)) in SCHEDULES.into_iter().enumerate() {
                for lies in [
                    [Lie::Rows, Lie::Rows, Lie::Rows],
                    [Lie::Rows, Lie::Columns, Lie::Window],
                    [Lie::Columns, Lie::Rows, Lie::Columns],
                ] {
                    check(&cpu, &Case { dtype, out, batch, extents, lies, accumulate: i % 2 == 0 });
                }
            }
        }
    }
}

/// Scratch ends at inaccessible pages; more threads cut large products into more parts.
#[test]
fn scratch_is_not_left() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let cpu = CpuBackend::guarded(7, isa).unwrap();
        for (dtype, out) in DTYPES {
            for (batch, extents) in SCHEDULES.into_iter().filter(|(_, [m, n, _])| m.min(n) > &4) {
                for lies in [[Lie::Rows, Lie::Rows, Lie::Rows], [Lie::Columns, Lie::Columns, Lie::Window]] {
                    check(&cpu, &Case { dtype, out, batch, extents, lies, accumulate: false });
                }
            }
        }
    }
}

/// `(a · b + bias) ⊙ relu'(x) + added`, from the product alone, on every schedule; memory ends at inaccessible pages.
#[test]
fn epilogues_are_what_passes_after_the_product_would_be() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for (dtype, out) in DTYPES {
            for (batch, extents) in SCHEDULES {
                for (accumulates, to) in [(false, Lie::Rows), (true, Lie::Columns), (true, Lie::Window)] {
                    let [m, n, k] = extents;
                    let shape = |r: usize, c: usize| [batch, &[r, c]].concat();
                    let [la, lb, lx, row] = [shape(m, k), shape(k, n), shape(m, n), vec![n]].map(|e| contiguous(&e));
                    let (lc, c_len) = lay(to, &shape(m, n));
                    let ended = |threads: usize, ends: bool| {
                        let cpu = CpuBackend::guarded(threads, isa).unwrap();
                        let filled = |dtype, layout: &Layout, seed| put(&cpu, dtype, &noise(layout.count(), seed));
                        let (a, b) = (filled(dtype, &la, 1), filled(dtype, &lb, 2));
                        let [bias, x, added] = [(&row, 4), (&lx, 5), (&lx, 6)].map(|(l, seed)| filled(out, l, seed));
                        let mut c = put(&cpu, out, &noise(c_len, 3));
                        let before = get(&cpu, &c);
                        let add = match accumulates {
                            true => Source::Destination,
                            false => Source::View(View::new(&added, &lx).unwrap()),
                        };
                        let epilogue = Epilogue {
                            bias: Some(View::new(&bias, &row).unwrap()),
                            apply: Some(Apply::Slope(Activation::Relu, View::new(&x, &lx).unwrap())),
                            add: Some(add),
                        };
                        let epilogue = if ends { epilogue } else { Epilogue::NONE };
                        let (va, vb) = (View::new(&a, &la).unwrap(), View::new(&b, &lb).unwrap());
                        cpu.matmul(va, vb, epilogue, ViewMut::new(&mut c, &lc).unwrap()).unwrap();
                        (get(&cpu, &c), before, [bias, x, added].map(|operand| get(&cpu, &operand)))
                    };
                    let (sums, before, [bias, x, added]) = ended(1, false);
                    let (one, seven) = (ended(1, true).0, ended(7, true).0);
                    assert_eq!(one, seven, "{isa} {dtype} {batch:?} {extents:?}: threads");
                    let sum_dtype = if out == DType::F64 { DType::F64 } else { DType::F32 };
                    for i in 0..lx.count() {
                        let place = at(&lc, i / (m * n), i / n % m, i % n);
                        let slope = if x[i] > 0.0 { 1.0 } else { 0.0 };
                        let sum = sums[place];
                        let linear = (sum + bias[i % n]) * slope;
                        let expected = linear + if accumulates { before[place] } else { added[i] };
                        // The product was rounded once more here; partial sums are as large as the root of their number.
                        let rounded = 2.0 * unit(out) * (sum.abs() + linear.abs() + expected.abs());
                        let bound = rounded + unit(sum_dtype) * k as f64;
                        let got = one[place];
                        assert!(
                            (got - expected).abs() <= bound,
                            "{isa} {dtype} to {out} {batch:?} {extents:?} {to:?} element {i}: {got} and not {expected}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for (dtype, out) in [(DType::F64, DType::F64), (DType::F32, DType::F32), (DType::Bf16, DType::Bf16)] {
            for (batch, extents) in SCHEDULES {
                let lies = [Lie::Rows, Lie::Columns, Lie::Window];
                let case = Case { dtype, out, batch, extents, lies, accumulate: false };
                let bits = |threads: usize| {
                    let cpu = CpuBackend::with_isa(threads, isa).unwrap();
                    let bits: Vec<u64> = run(&cpu, &case).after.into_iter().map(f64::to_bits).collect();
                    assert_eq!(cpu.parallel_runs() > 0, threads > 1, "{batch:?} {extents:?}");
                    bits
                };
                let one = bits(1);
                for threads in [2, 3, 7] {
                    assert_eq!(bits(threads), one, "{isa} {dtype} {batch:?} {extents:?} on {threads} threads");
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_where_operands_lie() {
    // Packed or in place, along rows or columns, upward or downward: the same sums in the same order, but for a few rows.
    const LIES: [Lie; 6] = [Lie::Rows, Lie::Columns, Lie::Every2nd, Lie::Flipped, Lie::Upward, Lie::Window];
    let (m, n) = (64, 64);
    for cpu in backends(2) {
        for (dtype, k) in [(DType::F32, 300), (DType::Bf16, 320), (DType::Bf16, 321)] {
            let place = |lie: Lie, extents: [usize; 2], seed: u64| {
                let ((layout, len), columns) = (lay(lie, &extents), extents[1]);
                let mut values = vec![0.0; len];
                for (i, number) in noise(extents[0] * columns, seed).into_iter().enumerate() {
                    values[at(&layout, 0, i / columns, i % columns)] = number;
                }
                (put(&cpu, dtype, &values), layout)
            };
            let product = |lies: [Lie; 3]| {
                let ((a, la), (b, lb)) = (place(lies[0], [m, k], 1), place(lies[1], [k, n], 2));
                let (lc, len) = lay(lies[2], &[m, n]);
                let mut c = put(&cpu, DType::F32, &vec![0.0; len]);
                let (va, vb) = (View::new(&a, &la).unwrap(), View::new(&b, &lb).unwrap());
                cpu.matmul(va, vb, Epilogue::NONE, ViewMut::new(&mut c, &lc).unwrap()).unwrap();
                let c = get(&cpu, &c);
                (0..m * n).map(|i| c[at(&lc, 0, i / n, i % n)].to_bits()).collect::<Vec<_>>()
            };
            let rows = product([Lie::Rows; 3]);
            for a in LIES {
                for b in LIES {
                    for c in [Lie::Rows, Lie::Window] {
                        assert_eq!(product([a, b, c]), rows, "{} {dtype}: {a:?} {b:?} {c:?}", cpu.isa());
                    }
                }
            }
        }
    }
}

#[test]
fn merged_heads_of_a_layer() {
    // out is [B, T, H, D] seen as [B, H, T, D]; B is shared by the batch.
    let (b, t, h, d) = (2, 9, 3, 8);
    for cpu in backends(2) {
        let lc = contiguous(&[b, t, h, d]).transpose(1, 2);
        let la = contiguous(&[b, h, t, t]);
        let lb = contiguous(&[1, h, t, d]).broadcast_to(&Shape::new(&[b, h, t, d]).unwrap()).unwrap();
        let (av, bv) = (noise(b * h * t * t, 4), noise(h * t * d, 5));
        let (a, x) = (put(&cpu, DType::F64, &av), put(&cpu, DType::F64, &bv));
        let mut c = put(&cpu, DType::F64, &vec![0.0; b * t * h * d]);
        let (va, vb) = (View::new(&a, &la).unwrap(), View::new(&x, &lb).unwrap());
        cpu.matmul(va, vb, Epilogue::ACCUMULATE, ViewMut::new(&mut c, &lc).unwrap()).unwrap();
        let out = get(&cpu, &c);
        for i in 0..b * h * t * d {
            let (ib, ih, it, id) = (i / (h * t * d), i / (t * d) % h, i / d % t, i % d);
            let sum: f64 = (0..t).map(|p| av[((ib * h + ih) * t + it) * t + p] * bv[(ih * t + p) * d + id]).sum();
            assert!((out[((ib * t + it) * h + ih) * d + id] - sum).abs() < 1e-13);
        }
    }
}

#[test]
fn nothing_in_nothing_out() {
    for cpu in backends(2) {
        for (dtype, out) in DTYPES {
            for extents in [[0, 3, 4], [3, 0, 4], [3, 70, 0], [0, 0, 0], [1, 1, 0]] {
                for accumulate in [false, true] {
                    for batch in [&[][..], &[2], &[0]] {
                        let lies = [Lie::Rows, Lie::Columns, Lie::Every2nd];
                        check(&cpu, &Case { dtype, out, batch, extents, lies, accumulate });
                    }
                }
            }
        }
    }
}

#[test]
fn not_a_number_stays_where_it_belongs() {
    // Lanes beyond an operand must not leak into the result, nor old numbers of out when it is overwritten.
    for cpu in backends(1) {
        for extents in [[5, 9, 11], [1, 9, 11], [20, 40, 300]] {
            let [m, n, k] = extents;
            let mut av = noise(m * k, 1);
            av[(m - 1) * k] = f64::NAN;
            let (a, b) = (put(&cpu, DType::F32, &av), put(&cpu, DType::F32, &noise(k * n, 2)));
            let mut c = put(&cpu, DType::F32, &vec![f64::NAN; m * n]);
            let (la, lb, lc) = (contiguous(&[m, k]), contiguous(&[k, n]), contiguous(&[m, n]));
            let (va, vb) = (View::new(&a, &la).unwrap(), View::new(&b, &lb).unwrap());
            cpu.matmul(va, vb, Epilogue::NONE, ViewMut::new(&mut c, &lc).unwrap()).unwrap();
            for (i, x) in get(&cpu, &c).into_iter().enumerate() {
                assert_eq!(x.is_nan(), i / n == m - 1, "{extents:?} element {i}");
            }
        }
    }
}

#[test]
fn wrong_calls_are_errors() {
    let cpu = CpuBackend::new(1).unwrap();
    let outcome = |dtypes: [DType; 3], shapes: [&[usize]; 3]| {
        let buffer = |i: usize| put(&cpu, dtypes[i], &vec![0.0; 64]);
        let (a, b, mut c) = (buffer(0), buffer(1), buffer(2));
        let [la, lb, lc] = shapes.map(contiguous);
        cpu.matmul(
            View::new(&a, &la).unwrap(),
            View::new(&b, &lb).unwrap(),
            Epilogue::NONE,
            ViewMut::new(&mut c, &lc).unwrap(),
        )
        .map_err(|e| e.kind())
    };
    let f32s = [DType::F32; 3];
    assert_eq!(outcome(f32s, [&[2, 3], &[3, 4], &[2, 4]]), Ok(()));
    for shapes in [
        [&[2, 3][..], &[4, 4], &[2, 4]],
        [&[2, 3], &[3, 4], &[2, 5]],
        [&[2, 3], &[3, 4], &[3, 4]],
        [&[3], &[3, 4], &[4]],
        [&[3], &[3], &[]],
        [&[2, 2, 3], &[1, 3, 4], &[2, 2, 4]],
        [&[2, 3], &[3, 4], &[1, 2, 4]],
    ] {
        assert_eq!(outcome(f32s, shapes), Err(ErrorKind::Shape), "{shapes:?}");
    }
    for dtypes in [
        [DType::F32, DType::F64, DType::F32],
        [DType::F32, DType::F32, DType::F64],
        [DType::F32, DType::F32, DType::Bf16],
        [DType::Bf16, DType::F16, DType::F32],
        [DType::Bf16, DType::Bf16, DType::F16],
    ] {
        assert_eq!(outcome(dtypes, [&[2, 3], &[3, 4], &[2, 4]]), Err(ErrorKind::DType), "{dtypes:?}");
    }
}

#[test]
fn steady_state_takes_no_memory_from_the_system() {
    let cpu = CpuBackend::new(2).unwrap();
    let case = |extents| Case {
        dtype: DType::Bf16,
        out: DType::Bf16,
        batch: &[],
        extents,
        lies: [Lie::Rows; 3],
        accumulate: true,
    };
    let step = || {
        for extents in [[300, 200, 100], [40, 40, 2500], [4, 300, 300]] {
            run(&cpu, &case(extents));
        }
    };
    step();
    let before = cpu.memory().system_allocations;
    step();
    assert_eq!(cpu.memory().system_allocations, before);
}
