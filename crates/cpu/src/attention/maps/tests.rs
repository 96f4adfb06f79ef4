//! Ranges, blocks and their edges; lists of equals; what is asked for alone.

use crate::oracle::{Lie, Sample, check, scattered};
use attentia_backend::{
    Alignment, AttentionMap, AttentionOperands, AttentionOut, AttentionSpec, Backend, Causal, DType, Dropout,
    ErrorKind, MaskKind, RngKey, ScoreExpr,
};

/// B, H, H_kv, T, S, D.
type Sizes = [usize; 6];

struct Call {
    spec: AttentionSpec,
    sizes: Sizes,
    dtype: DType,
    /// Keys before padding, which is NaN.
    lengths: Vec<i64>,
    /// Queries and keys of a block.
    block: usize,
    /// Queries and keys that follow each other in a segment.
    run: usize,
    rows: Vec<usize>,
    only_rows: bool,
    /// Width of values, if maps are of the weights times their gradients.
    gradients: Option<usize>,
}

impl Call {
    fn new(sizes: Sizes, dtype: DType) -> Call {
        let t = sizes[3];
        let rows = if t == 0 { Vec::new() } else { vec![t - 1, t / 2, 0, t / 2] };
        let spec = AttentionSpec::default();
        Call { spec, sizes, dtype, lengths: Vec::new(), block: 50, run: 40, rows, only_rows: false, gradients: None }
    }

    fn operands<T>(&self, b: &dyn Backend, with: impl FnOnce(&AttentionOperands) -> T) -> T {
        let [batch, heads, groups, t, s, d] = self.sizes;
        let q = Sample::floats(b, self.dtype, &[batch, heads, t, d], Lie::Transposed, 1);
        let k = Sample::new(b, self.dtype, &[batch, groups, s, d], Lie::Contiguous, |at| {
            let (sequence, key) = (at / (groups * s * d).max(1), at / d.max(1) % s.max(1));
            let padding = self.lengths.get(sequence).is_some_and(|&length| key >= length as usize);
            if padding { f64::NAN } else { scattered(2, at) }
        });
        let width = self.gradients.unwrap_or(d);
        let v = Sample::new(b, self.dtype, &[batch, groups, s, width], Lie::Transposed, |at| {
            let (sequence, key) = (at / (groups * s * width).max(1), at / width.max(1) % s.max(1));
            let padding = self.lengths.get(sequence).is_some_and(|&length| key >= length as usize);
            if padding { f64::NAN } else { scattered(3, at) }
        });
        let mask = Sample::new(b, DType::Bool, &[batch, heads, t, s], Lie::Contiguous, |at| {
            f64::from(u8::from(scattered(4, at) > -0.5))
        });
        let lengths = Sample::new(b, DType::I64, &[batch], Lie::Contiguous, |at| {
            self.lengths.get(at).map_or(0.0, |&length| length as f64)
        });
        let starts = Sample::new(b, DType::I64, &[batch], Lie::Contiguous, |at| (at % 3 * s / 4) as f64);
        let sinks = Sample::floats(b, self.dtype, &[heads], Lie::Sliced, 8);
        let bias = Sample::floats(b, self.dtype, &[batch, heads, t, s], Lie::Transposed, 7);
        let biases: Vec<_> = (0..self.spec.biases).map(|_| bias.view()).collect();
        let slopes = Sample::new(b, self.dtype, &[heads], Lie::Sliced, |at| -0.01 - 0.01 * (at % 7) as f64);
        with(&AttentionOperands {
            q: q.view(),
            k: k.view(),
            v: if self.gradients.is_some() { v.view() } else { k.view() },
            scale: 0.2,
            mask: (self.spec.mask == MaskKind::Boolean).then(|| mask.view()),
            biases: &biases,
            key_lengths: self.spec.key_lengths.then(|| lengths.view()),
            key_starts: self.spec.key_starts.then(|| starts.view()),
            segments: None,
            scalars: &[],
            head_scalars: &[slopes.view()],
            sinks: self.spec.sinks.then(|| sinks.view()),
            dropout: self.spec.dropout.then(|| Dropout { p: 0.25, key: RngKey::new(5) }),
            tokens: None,
        })
    }

    /// All maps, after a forward.
    fn run(&self, b: &dyn Backend) -> Vec<Sample> {
        let [batch, heads, _, t, s, d] = self.sizes;
        let statistics = self.dtype.statistics();
        let room = |dtype, shape: &[usize], lie| Sample::room(b, dtype, shape, lie);
        let (mut out, mut lse) = (
            room(self.dtype, &[batch, heads, t, self.gradients.unwrap_or(d)], Lie::Contiguous),
            room(statistics, &[batch, heads, t], Lie::Transposed),
        );
        let dout =
            self.gradients.map(|width| Sample::floats(b, self.dtype, &[batch, heads, t, width], Lie::Sliced, 12));
        let of_rows = Sample::floats(b, statistics, &[batch, heads, t], Lie::Transposed, 9);
        let ids = |extent: usize, seed: u64| {
            Sample::new(b, DType::I64, &[batch, extent], Lie::Contiguous, move |at| {
                scattered(seed, at / self.run).round() // −3 to 3, of which 0 to 2 are segments
            })
        };
        let (from, to) = (ids(t, 10), ids(s, 11));
        let (tall, wide) = (t.div_ceil(self.block), s.div_ceil(self.block));
        let diagonals = AttentionMap::diagonals(t, s);
        let mut results: Vec<Sample> = [
            (Lie::Contiguous, vec![batch, heads, s]),
            (Lie::Transposed, vec![batch, heads, s]),
            (Lie::Transposed, vec![batch, heads, diagonals]),
            (Lie::Sliced, vec![batch, heads, tall, wide]),
            (Lie::Contiguous, vec![batch, heads, tall, wide]),
            (Lie::Transposed, vec![batch, heads, 3, 3]),
            (Lie::Flipped, vec![batch, heads, t, 5]),
            (Lie::Transposed, vec![batch, heads, self.rows.len(), s]),
            (Lie::Transposed, vec![batch, heads, t]),
            (Lie::Sliced, vec![batch, heads, t]),
        ]
        .iter()
        .map(|(lie, shape)| room(statistics, shape, *lie))
        .collect();
        let mut keys = room(DType::I64, &[batch, heads, t, 5], Lie::Transposed);
        self.operands(b, |operands| {
            let results = AttentionOut { out: out.view_mut(), lse: lse.view_mut(), statistics: Vec::new() };
            b.attention(&self.spec, operands, results).unwrap();
        });
        let [columns, weighted, diagonal, mean, greatest, segments, top, rows, sum, magnitude] = &mut results[..]
        else {
            unreachable!("ten of them")
        };
        let whole = AttentionMap::Rows { queries: &self.rows, weights: rows.view_mut() };
        let mut maps = match self.only_rows {
            true => vec![whole],
            false => vec![
                AttentionMap::Totals { sum: sum.view_mut(), magnitude: magnitude.view_mut() },
                AttentionMap::Columns { weights: None, mass: columns.view_mut() },
                AttentionMap::Columns { weights: Some(of_rows.view()), mass: weighted.view_mut() },
                AttentionMap::Diagonals { mass: diagonal.view_mut() },
                AttentionMap::Blocks { size: self.block, mean: mean.view_mut(), greatest: greatest.view_mut() },
                AttentionMap::Segments { queries: from.view(), keys: to.view(), mass: segments.view_mut() },
                whole,
            ],
        };
        if !self.only_rows && self.gradients.is_none() {
            maps.push(AttentionMap::Top { weights: top.view_mut(), keys: keys.view_mut() });
        }
        self.operands(b, |operands| {
            assert!(b.attention_maps_support(&self.spec, operands, dout.is_some()).is_kernel());
            b.attention_maps(&self.spec, operands, lse.view(), dout.as_ref().map(Sample::view), maps).unwrap();
        });
        results.push(keys);
        results
    }

    fn check(&self, what: &str) -> usize {
        check(&format!("{what} {:?} {}", self.sizes, self.dtype), |b| self.run(b))
    }
}

const RIGHT: Causal = Causal::Yes(Alignment::BottomRight);

#[test]
fn ranges_and_blocks() {
    let mut parallel = 0;
    for dtype in [DType::F32, DType::F64, DType::Bf16] {
        for (sizes, causal) in [
            ([1, 1, 1, 200, 560, 20], Causal::No),
            ([1, 2, 1, 131, 1050, 8], RIGHT),
            ([2, 4, 2, 65, 129, 16], RIGHT),
            ([1, 2, 2, 90, 40, 8], RIGHT), // the first fifty queries stand before the first key
            ([2, 2, 1, 3, 1100, 8], Causal::No),
        ] {
            let mut call = Call::new(sizes, dtype);
            call.spec.causal = causal;
            parallel += call.check("maps");
        }
    }
    assert!(parallel > 0);
}

#[test]
fn blocks_and_segments_of_any_size() {
    for (block, run) in [(1, 1), (7, 3), (64, 1000), (300, 5), (usize::MAX, 256)] {
        let mut call = Call::new([1, 2, 1, 70, 560, 8], DType::F32);
        (call.block, call.run, call.spec.causal) = (block, run, RIGHT);
        call.check(&format!("blocks of {block}, segments of {run}"));
    }
}

#[test]
fn everything_that_acts_on_scores() {
    const SIZES: Sizes = [2, 4, 2, 70, 530, 8];
    let with = |edit: fn(&mut AttentionSpec)| {
        let mut call = Call::new(SIZES, DType::F32);
        edit(&mut call.spec);
        call
    };
    with(|spec| spec.window = Some(40)).check("window");
    with(|spec| (spec.window, spec.causal) = (Some(130), RIGHT)).check("causal window");
    with(|spec| spec.mask = MaskKind::Boolean).check("mask");
    with(|spec| spec.biases = 1).check("bias");
    with(|spec| (spec.key_starts, spec.causal) = (true, RIGHT)).check("padding before the keys");
    with(|spec| spec.sinks = true).check("sinks");
    let mut call = with(|spec| {
        let cap = ScoreExpr::constant(2.0) * (ScoreExpr::Score * ScoreExpr::constant(0.5)).tanh();
        spec.modifier = Some(cap + ScoreExpr::HeadScalar(0) * ScoreExpr::Distance.abs());
        (spec.biases, spec.causal, spec.key_lengths) = (1, RIGHT, true);
    });
    call.lengths = vec![200, 0];
    call.check("modifier, bias and padding that is NaN");
}

#[test]
fn whole_rows_alone() {
    for (rows, sizes) in [
        (vec![199], [1, 1, 1, 200, 560, 20]),
        (vec![5, 6, 7, 150, 5], [1, 4, 2, 200, 560, 8]),
        ((0..65).rev().collect(), [2, 2, 1, 65, 530, 8]),
        (Vec::new(), [1, 2, 1, 10, 10, 4]),
    ] {
        let mut call = Call::new(sizes, DType::F32);
        (call.rows, call.only_rows, call.spec.causal) = (rows, true, RIGHT);
        call.check("rows");
    }
}

#[test]
fn weights_times_their_gradients() {
    let mut parallel = 0;
    for dtype in [DType::F32, DType::F64, DType::Bf16, DType::F16] {
        for (sizes, causal) in [
            ([1, 2, 1, 131, 1050, 8], RIGHT),
            ([2, 4, 2, 65, 129, 16], Causal::No),
            ([1, 2, 2, 90, 40, 8], RIGHT), // the first fifty queries stand before the first key
        ] {
            let mut call = Call::new(sizes, dtype);
            (call.gradients, call.spec.causal, call.spec.dropout) = (Some(12), causal, sizes[0] == 1);
            parallel += call.check("gradients");
        }
    }
    assert!(parallel > 0);
    const SIZES: Sizes = [2, 4, 2, 70, 530, 8];
    let with = |edit: fn(&mut Call)| {
        let mut call = Call::new(SIZES, DType::F32);
        call.gradients = Some(5);
        edit(&mut call);
        call
    };
    with(|call| (call.spec.window, call.spec.causal) = (Some(130), RIGHT)).check("causal window");
    with(|call| (call.spec.mask, call.spec.dropout) = (MaskKind::Boolean, true)).check("mask and dropout");
    with(|call| (call.spec.key_starts, call.spec.sinks) = (true, true)).check("padding before the keys, and sinks");
    with(|call| {
        let cap = ScoreExpr::constant(2.0) * (ScoreExpr::Score * ScoreExpr::constant(0.5)).tanh();
        (call.spec.modifier, call.spec.biases, call.spec.key_lengths) = (Some(cap), 1, true);
        call.lengths = vec![200, 0];
    })
    .check("modifier, bias and padding that is NaN");
    for (block, run) in [(1, 1), (7, 3), (usize::MAX, 256)] {
        let mut call = with(|call| call.spec.causal = RIGHT);
        (call.block, call.run) = (block, run);
        call.check(&format!("blocks of {block}, segments of {run}"));
    }
    with(|call| (call.rows, call.only_rows, call.spec.dropout) = (vec![5, 6, 69, 5], true, true)).check("rows alone");
    for sizes in [[1, 2, 1, 5, 300, 0], [2, 2, 1, 5, 0, 4], [2, 2, 1, 0, 5, 4]] {
        let mut call = Call::new(sizes, DType::F32);
        for width in [0, 3] {
            call.gradients = Some(width);
            call.check("empty");
        }
    }
}

/// A query of four keys of equal weight, whose gradients are given, in blocks of two: means and maxima.
fn blocks_of(gradients: [f64; 4], spec: &AttentionSpec) -> [Vec<f64>; 2] {
    let b = crate::CpuBackend::new(1).unwrap();
    let operand = |shape: &[usize], of: &dyn Fn(usize) -> f64| Sample::new(&b, DType::F64, shape, Lie::Contiguous, of);
    let (q, k) = (operand(&[1; 4], &|_| 0.0), operand(&[1, 1, 4, 1], &|_| 1.0));
    let (v, dout) =
        (operand(&[1, 1, 4, 1], &|at| gradients.get(at).copied().unwrap_or(0.0)), operand(&[1; 4], &|_| 1.0));
    let room = |shape: &[usize]| Sample::room(&b, DType::F64, shape, Lie::Contiguous);
    let (mut out, mut lse) = (room(&[1; 4]), room(&[1; 3]));
    let (mut mean, mut greatest) = (room(&[1, 1, 1, 2]), room(&[1, 1, 1, 2]));
    let operands = super::super::tests::plain(&q, &k, &v);
    let results = AttentionOut { out: out.view_mut(), lse: lse.view_mut(), statistics: Vec::new() };
    b.attention(spec, &operands, results).unwrap();
    let map = AttentionMap::Blocks { size: 2, mean: mean.view_mut(), greatest: greatest.view_mut() };
    b.attention_maps(spec, &operands, lse.view(), Some(dout.view()), vec![map]).unwrap();
    [mean, greatest].map(|map| map.values(&b)[..2].to_vec())
}

#[test]
fn a_maximum_may_be_negative_and_hidden_keys_count_as_nothing() {
    let all = AttentionSpec::default();
    let [mean, greatest] = blocks_of([-4.0, -8.0, 4.0, -8.0], &all);
    assert_eq!((mean, greatest), (vec![-1.5, -0.5], vec![-1.0, 1.0]));
    // The query stands at key 0: of the first block one key is hidden, of the second both.
    let first = AttentionSpec { causal: Causal::Yes(Alignment::TopLeft), ..all };
    assert_eq!(blocks_of([-4.0, 8.0, 8.0, 8.0], &first), [vec![-2.0, 0.0], vec![0.0, 0.0]]);
}

#[test]
fn what_is_asked_for_beside_does_not_matter() {
    let b = crate::CpuBackend::new(2).unwrap();
    let mut call = Call::new([1, 2, 1, 131, 560, 20], DType::F32);
    let all = call.run(&b);
    call.only_rows = true;
    let alone = call.run(&b);
    let values = |sample: &Sample| sample.values(&b).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(values(&all[7]) == values(&alone[7]));
}

#[test]
fn extents_of_zero() {
    for sizes in [[1, 2, 1, 5, 300, 0], [2, 2, 1, 5, 0, 4], [2, 2, 1, 0, 5, 4], [0, 2, 1, 3, 3, 2], [1, 0, 1, 3, 3, 2]]
    {
        Call::new(sizes, DType::F32).check("empty");
    }
    let mut call = Call::new([1, 1, 1, 9, 9, 4], DType::F32);
    call.spec.window = Some(0);
    call.check("a window of nothing");
}

/// Weights and keys of a head whose scores are those of one query of width 1.
fn top(keys: &[f64], k: usize) -> (Vec<f64>, Vec<f64>) {
    let b = crate::CpuBackend::new(1).unwrap();
    let operand = |shape: &[usize], of: &dyn Fn(usize) -> f64| Sample::new(&b, DType::F32, shape, Lie::Contiguous, of);
    let q = operand(&[1; 4], &|_| 1.0);
    let of_keys = operand(&[1, 1, keys.len(), 1], &|at| keys.get(at).copied().unwrap_or(0.0));
    let operands = super::super::tests::plain(&q, &of_keys, &of_keys);
    let room = |dtype, shape: &[usize]| Sample::room(&b, dtype, shape, Lie::Contiguous);
    let (mut out, mut lse) = (room(DType::F32, &[1; 4]), room(DType::F32, &[1; 3]));
    let (mut weights, mut keys) = (room(DType::F32, &[1, 1, 1, k]), room(DType::I64, &[1, 1, 1, k]));
    let spec = AttentionSpec::default();
    let results = AttentionOut { out: out.view_mut(), lse: lse.view_mut(), statistics: Vec::new() };
    b.attention(&spec, &operands, results).unwrap();
    let map = AttentionMap::Top { weights: weights.view_mut(), keys: keys.view_mut() };
    b.attention_maps(&spec, &operands, lse.view(), None, vec![map]).unwrap();
    (weights.values(&b)[..k].to_vec(), keys.values(&b)[..k].to_vec())
}

#[test]
fn of_equal_keys_the_first_comes_first() {
    let mut keys = vec![0.0; 600];
    for at in [150, 170, 299, 500] {
        keys[at] = 2.0;
    }
    for at in [3, 400] {
        keys[at] = 1.0;
    }
    assert_eq!(top(&keys, 8).1, [150., 170., 299., 500., 3., 400., 0., 1.]);
    let (weights, keys) = top(&[0.0, f64::NEG_INFINITY, 0.0], 4);
    assert_eq!(keys, [0., 2., -1., -1.]);
    assert_eq!((weights[2], weights[3]), (0.0, 0.0));
    assert!((weights[0] - 0.5).abs() < 1e-6 && weights[0] == weights[1]);
    let rising: Vec<f64> = (0..300).map(|at| at as f64 * 0.01).collect();
    let expected: Vec<f64> = (0..32).map(|i| 299.0 - i as f64).collect();
    assert_eq!(top(&rising, 32).1, expected);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let b = crate::CpuBackend::new(1).unwrap();
    let call = Call::new([1, 2, 1, 6, 9, 4], DType::F32);
    let room = |dtype, shape: &[usize]| Sample::room(&b, dtype, shape, Lie::Contiguous);
    let refused = |map: AttentionMap, kind: ErrorKind, part: &str| {
        let lse = room(DType::F32, &[1, 2, 6]);
        let error = call
            .operands(&b, |operands| b.attention_maps(&call.spec, operands, lse.view(), None, vec![map]))
            .expect_err("it does not fit");
        assert!(error.kind() == kind && error.to_string().contains(part), "{error}");
    };
    let (q, d) = ([1, 2, 6, 4], [1, 2, 6, 3]);
    let gradients = |dtype, shape: &[usize], map: AttentionMap, kind: ErrorKind, part: &str| {
        let (lse, dout) = (room(DType::F32, &[1, 2, 6]), room(dtype, shape));
        let error = call
            .operands(&b, |operands| b.attention_maps(&call.spec, operands, lse.view(), Some(dout.view()), vec![map]))
            .expect_err("it does not fit");
        assert!(error.kind() == kind && error.to_string().contains(part), "{error}");
    };
    let (mut sum, mut magnitude) = (room(DType::F32, &[1, 2, 6]), room(DType::F32, &[1, 2, 6]));
    let totals = AttentionMap::Totals { sum: sum.view_mut(), magnitude: magnitude.view_mut() };
    gradients(DType::F32, &d, totals, ErrorKind::Shape, "dout");
    let totals = AttentionMap::Totals { sum: sum.view_mut(), magnitude: magnitude.view_mut() };
    gradients(DType::F64, &q, totals, ErrorKind::DType, "f64");
    let (mut weights, mut keys) = (room(DType::F32, &[1, 2, 6, 4]), room(DType::I64, &[1, 2, 6, 4]));
    let top = AttentionMap::Top { weights: weights.view_mut(), keys: keys.view_mut() };
    gradients(DType::F32, &q, top, ErrorKind::Argument, "greatest keys");
    let mut wrong = room(DType::F32, &[1, 2, 6]);
    refused(AttentionMap::Columns { weights: None, mass: wrong.view_mut() }, ErrorKind::Shape, "column mass");
    let mut halves = room(DType::Bf16, &[1, 2, 9]);
    refused(AttentionMap::Columns { weights: None, mass: halves.view_mut() }, ErrorKind::DType, "column mass");
    refused(AttentionMap::Diagonals { mass: wrong.view_mut() }, ErrorKind::Shape, "[1, 2, 14]");
    let (mut mean, mut greatest) = (room(DType::F32, &[1, 2, 1, 1]), room(DType::F32, &[1, 2, 1, 1]));
    let blocks = AttentionMap::Blocks { size: 0, mean: mean.view_mut(), greatest: greatest.view_mut() };
    refused(blocks, ErrorKind::Argument, "0 queries");
    let (mut weights, mut keys) = (room(DType::F32, &[1, 2, 6, 33]), room(DType::I64, &[1, 2, 6, 33]));
    refused(AttentionMap::Top { weights: weights.view_mut(), keys: keys.view_mut() }, ErrorKind::Argument, "1 to 32");
    let mut rows = room(DType::F32, &[1, 2, 1, 9]);
    refused(AttentionMap::Rows { queries: &[6], weights: rows.view_mut() }, ErrorKind::Argument, "query 6");
    let (from, to) = (room(DType::I64, &[1, 6]), room(DType::I64, &[1, 8]));
    let mut mass = room(DType::F32, &[1, 2, 3, 3]);
    let segments = AttentionMap::Segments { queries: from.view(), keys: to.view(), mass: mass.view_mut() };
    refused(segments, ErrorKind::Shape, "key segments");
}
