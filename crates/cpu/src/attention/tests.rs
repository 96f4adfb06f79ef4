//! Blocks and their edges: more queries and keys than a block has, few key heads, padding that holds anything.

use super::problem::KEYS;
use crate::{
    CpuBackend,
    oracle::{Lie, Sample, check, scattered},
};
use attentia_backend::{
    Alignment, AttentionCotangents, AttentionGrads, AttentionOperands, AttentionOut, AttentionSaved, AttentionSpec,
    Backend, Causal, DType, Dropout, MaskKind, RngKey, ScoreExpr, Statistic, Support, TokenIds,
};
use std::ops::Range;

/// B, H, H_kv, T, S, D, D_v.
type Sizes = [usize; 7];

/// Ids of queries and of keys, by sequence and position.
type Segments = [fn(usize, usize) -> i64; 2];

struct Call {
    spec: AttentionSpec,
    sizes: Sizes,
    dtype: DType,
    /// Keys before padding, which is NaN in k and v.
    lengths: Vec<i64>,
    /// Keys of padding before the others, NaN too.
    starts: Vec<i64>,
    /// Segments of queries and of keys, by sequence and position.
    segments: Option<Segments>,
    /// Keys that are NaN in k and v.
    poisoned: Range<usize>,
    /// A query that is NaN.
    nan: Option<usize>,
    /// Whether `out` and `lse` have cotangents.
    cotangents: [bool; 2],
    /// Which gradients are wanted.
    wants: [bool; 3],
    /// Shapes of the biases' gradients, which broadcast to the scores'.
    biases: Vec<Vec<usize>>,
    /// How many vectors of values per head there are.
    head_scalars: usize,
    /// First keys that biases hide with the least finite number.
    lowest: usize,
    /// A sink of each head.
    sinks: Vec<f64>,
    /// How the mask lies, if there is one.
    mask: Lie,
}

impl Call {
    fn new(sizes: Sizes, dtype: DType) -> Call {
        let spec = AttentionSpec::default();
        Call {
            spec,
            sizes,
            dtype,
            lengths: Vec::new(),
            starts: Vec::new(),
            segments: None,
            poisoned: 0..0,
            nan: None,
            cotangents: [true; 2],
            wants: [true; 3],
            biases: Vec::new(),
            head_scalars: 0,
            lowest: 0,
            sinks: Vec::new(),
            mask: Lie::Contiguous,
        }
    }

    /// Output, lse and, but for 16 bits, the three gradients, which start from this backend's own output.
    fn run(&self, b: &dyn Backend) -> Vec<Sample> {
        let [batch, heads, groups, t, s, d, width] = self.sizes;
        let statistics = self.dtype.statistics();
        let operand = |shape: &[usize], lie, seed| Sample::new(b, self.dtype, shape, lie, |at| scattered(seed, at));
        let padded = |extent: usize, seed: u64| {
            move |at: usize| {
                let (sequence, key) = (at / (groups * s * extent).max(1), at / extent.max(1) % s.max(1));
                let padding = self.lengths.get(sequence).is_some_and(|&length| key as i64 >= length)
                    || self.poisoned.contains(&key)
                    || self.starts.get(sequence).is_some_and(|&start| (key as i64) < start);
                if padding { f64::NAN } else { scattered(seed, at) }
            }
        };
        let q = Sample::new(b, self.dtype, &[batch, heads, t, d], Lie::Transposed, |at| {
            if self.nan.is_some_and(|query| at / d.max(1) % t.max(1) == query) { f64::NAN } else { scattered(1, at) }
        });
        let k = Sample::new(b, self.dtype, &[batch, groups, s, d], Lie::Contiguous, padded(d, 2));
        let v = Sample::new(b, self.dtype, &[batch, groups, s, width], Lie::Contiguous, padded(width, 3));
        let mask = Sample::new(b, DType::Bool, &[batch, heads, t, s], self.mask, |at| {
            f64::from(u8::from(scattered(4, at) > -0.5))
        });
        let lengths = Sample::new(b, DType::I64, &[batch], Lie::Contiguous, |at| {
            self.lengths.get(at).map_or(0.0, |&length| length as f64)
        });
        let starts = Sample::new(b, DType::I64, &[batch], Lie::Contiguous, |at| {
            self.starts.get(at).map_or(0.0, |&start| start as f64)
        });
        let ids: Vec<Sample> = ([t, s].into_iter().enumerate())
            .map(|(i, extent)| {
                Sample::new(b, DType::I64, &[batch, extent], Lie::Contiguous, |at| {
                    let (sequence, position) = (at / extent.max(1), at % extent.max(1));
                    self.segments.map_or(0.0, |of| of[i](sequence, position) as f64)
                })
            })
            .collect();
        let lies = [Lie::Contiguous, Lie::Transposed, Lie::RepeatedRows];
        let bias = |i: usize| {
            Sample::new(b, self.dtype, &[batch, heads, t, s], lies[i % 3], |at| match at % s.max(1) < self.lowest {
                true => f64::from(f32::MIN),
                false => scattered(7 + i as u64, at),
            })
        };
        let biases: Vec<Sample> = (0..self.biases.len()).map(bias).collect();
        let values = |i: usize| Sample::new(b, self.dtype, &[heads], Lie::Sliced, |at| scattered(11 + i as u64, at));
        let head_scalars: Vec<Sample> = (0..self.head_scalars).map(values).collect();
        // Five tokens, so that every row meets its own.
        let tokens = [(t, 21), (s, 22)].map(|(extent, seed)| {
            Sample::new(b, DType::I64, &[batch, extent], Lie::Transposed, |at| scattered(seed, at).round())
        });
        let sinks = Sample::new(b, self.dtype, &[heads], Lie::Sliced, |at| self.sinks.get(at).copied().unwrap_or(0.0));
        let bias_views: Vec<_> = biases.iter().map(Sample::view).collect();
        let value_views: Vec<_> = head_scalars.iter().map(Sample::view).collect();
        let operands = AttentionOperands {
            q: q.view(),
            k: k.view(),
            v: v.view(),
            scale: 0.3,
            mask: (self.spec.mask == MaskKind::Boolean).then(|| mask.view()),
            biases: &bias_views,
            key_lengths: self.spec.key_lengths.then(|| lengths.view()),
            key_starts: self.spec.key_starts.then(|| starts.view()),
            segments: self.spec.segments.then(|| [ids[0].view(), ids[1].view()]),
            scalars: &[0.6],
            head_scalars: &value_views,
            sinks: self.spec.sinks.then(|| sinks.view()),
            dropout: self.spec.dropout.then(|| Dropout { p: 0.3, key: RngKey::new(9) }),
            tokens: self.spec.needs_tokens().then(|| TokenIds { queries: tokens[0].view(), keys: tokens[1].view() }),
        };
        let mut out = Sample::room(b, self.dtype, &[batch, heads, t, width], Lie::Transposed);
        let mut lse = Sample::room(b, statistics, &[batch, heads, t], Lie::Contiguous);
        let room = |_: &Statistic| Sample::room(b, statistics, &[batch, heads, t], Lie::Transposed);
        let mut of_rows: Vec<Sample> = self.spec.statistics.iter().map(room).collect();
        let to_rows = of_rows.iter_mut().map(|to| to.view_mut()).collect();
        let results = AttentionOut { out: out.view_mut(), lse: lse.view_mut(), statistics: to_rows };
        b.attention(&self.spec, &operands, results).unwrap();
        if self.dtype.is_half() {
            // The gradients start from an output of 16 bits, and the oracle from one of 64: the conformance suite measures
            // how far that may lead.
            return [out, lse].into_iter().chain(of_rows).collect();
        }
        let dout = operand(&[batch, heads, t, width], Lie::Contiguous, 5);
        let dlse = Sample::new(b, statistics, &[batch, heads, t], Lie::Contiguous, |at| scattered(6, at));
        let mut dq = Sample::room(b, self.dtype, &[batch, heads, t, d], Lie::Contiguous);
        let mut dk = Sample::room(b, self.dtype, &[batch, groups, s, d], Lie::Transposed);
        let mut dv = Sample::room(b, self.dtype, &[batch, groups, s, width], Lie::Contiguous);
        let mut dbiases: Vec<Sample> =
            self.biases.iter().map(|shape| Sample::room(b, self.dtype, shape, Lie::Transposed)).collect();
        let mut dvalues: Vec<Sample> =
            head_scalars.iter().map(|_| Sample::room(b, self.dtype, &[heads], Lie::Sliced)).collect();
        let mut dsinks = Sample::room(b, self.dtype, &[heads], Lie::Sliced);
        let grads = AttentionGrads {
            q: self.wants[0].then(|| dq.view_mut()),
            k: self.wants[1].then(|| dk.view_mut()),
            v: self.wants[2].then(|| dv.view_mut()),
            biases: dbiases.iter_mut().map(|to| Some(to.view_mut())).collect(),
            head_scalars: dvalues.iter_mut().map(|to| Some(to.view_mut())).collect(),
            sinks: self.spec.sinks.then(|| dsinks.view_mut()),
        };
        let saved = AttentionSaved { out: out.view(), lse: lse.view() };
        let [of_out, of_lse] = self.cotangents;
        let cotangents = AttentionCotangents { out: of_out.then(|| dout.view()), lse: of_lse.then(|| dlse.view()) };
        b.attention_backward(&self.spec, &operands, &saved, &cotangents, grads).unwrap();
        let wanted = [dq, dk, dv].into_iter().zip(self.wants).filter(|(_, wanted)| *wanted).map(|(grad, _)| grad);
        let summed = dbiases.into_iter().chain(dvalues).chain(self.spec.sinks.then_some(dsinks));
        [out, lse].into_iter().chain(of_rows).chain(wanted).chain(summed).collect()
    }

    fn check(&self, what: &str) -> usize {
        check(&format!("{what} {:?} {}", self.sizes, self.dtype), |b| self.run(b))
    }
}

/// A call of nothing but q, k and v.
pub(super) fn plain<'a>(q: &'a Sample, k: &'a Sample, v: &'a Sample) -> AttentionOperands<'a> {
    AttentionOperands {
        q: q.view(),
        k: k.view(),
        v: v.view(),
        scale: 1.0,
        mask: None,
        biases: &[],
        key_lengths: None,
        key_starts: None,
        segments: None,
        scalars: &[],
        head_scalars: &[],
        sinks: None,
        dropout: None,
        tokens: None,
    }
}

const RIGHT: Causal = Causal::Yes(Alignment::BottomRight);

#[test]
fn several_blocks_of_queries_and_keys() {
    let mut parallel = 0;
    for dtype in [DType::F32, DType::F64, DType::Bf16] {
        for (sizes, causal) in [
            ([1, 2, 1, 131, 560, 20, 24], Causal::No),
            ([1, 1, 1, 150, 150, 33, 7], RIGHT),
            ([2, 4, 2, 65, 129, 16, 16], RIGHT),
            // Many blocks of queries: of one head, and of a large group.
            ([1, 1, 1, 1200, 40, 8, 8], Causal::No),
            ([1, 40, 1, 5, 70, 8, 8], Causal::No),
        ] {
            let mut call = Call::new(sizes, dtype);
            call.spec.causal = causal;
            parallel += call.check("blocks");
        }
    }
    assert!(parallel > 0);
}

#[test]
fn masks_windows_and_dropout_across_blocks() {
    const SIZES: Sizes = [1, 2, 1, 70, 530, 8, 8];
    let with = |edit: fn(&mut AttentionSpec)| {
        let mut spec = AttentionSpec::default();
        edit(&mut spec);
        Call { spec, lengths: Vec::new(), ..Call::new(SIZES, DType::F32) }
    };
    with(|spec| spec.window = Some(40)).check("window");
    with(|spec| (spec.window, spec.causal) = (Some(130), RIGHT)).check("causal window");
    for lie in [Lie::Contiguous, Lie::Transposed, Lie::Flipped, Lie::RepeatedColumns, Lie::RepeatedRows] {
        Call { mask: lie, ..with(|spec| spec.mask = MaskKind::Boolean) }.check(&format!("mask, {lie:?}"));
    }
    with(|spec| (spec.dropout, spec.causal) = (true, RIGHT)).check("dropout");
}

#[test]
fn biases_and_modifiers_across_blocks() {
    use ScoreExpr as S;
    const SIZES: Sizes = [2, 4, 2, 70, 530, 8, 8];
    let with = |modifier: Option<ScoreExpr>, biases: &[&[usize]], head_scalars: usize, dtype: DType| {
        let mut call = Call::new(SIZES, dtype);
        call.spec.modifier = modifier;
        call.spec.biases = biases.len() as u8;
        call.biases = biases.iter().map(|shape| shape.to_vec()).collect();
        call.head_scalars = head_scalars;
        call.spec.causal = RIGHT;
        call
    };
    let cap = S::constant(2.0) * (S::Score * S::constant(0.5)).tanh();
    let slopes = S::Score + S::HeadScalar(0) * S::Distance.abs() * S::constant(0.01);
    let named = S::Score * (S::Bias(0) * S::constant(0.1)).exp()
        + S::Scalar(0) * S::Bias(1)
        + S::HeadScalar(0) * S::Distance * S::constant(0.01);
    // Each kind of repetition: nothing, batches, heads, queries, keys, everything.
    let shapes: [&[usize]; 6] = [&[2, 4, 70, 530], &[4, 70, 530], &[2, 1, 70, 530], &[2, 4, 1, 530], &[70, 1], &[1]];
    let parallel: usize = shapes.iter().map(|shape| with(None, &[shape], 0, DType::F32).check("bias")).sum();
    assert!(parallel > 0);
    with(None, &shapes[..2], 0, DType::Bf16).check("biases");
    with(None, &[], 2, DType::F32).check("values per head without a modifier");
    for sizes in [[1, 2, 2, 40, 600, 8, 8], [1, 2, 2, 2, 600, 8, 8]] {
        // Whole blocks of keys at the bottom of the range.
        let mut call = with(None, &[&[1]], 0, DType::F32);
        (call.sizes, call.lowest, call.spec.statistics) = (sizes, 300, STATISTICS.to_vec());
        call.check("lowest biases");
    }
    for dtype in [DType::F32, DType::F64] {
        with(Some(cap.clone()), &[], 0, dtype).check("cap");
        with(Some(cap.clone()), &[&[1, 4, 70, 530]], 0, dtype).check("cap and bias");
        with(Some(slopes.clone()), &[], 1, dtype).check("slopes");
        let mut call = with(Some(named.clone()), &[&[4, 1, 530], &[2, 4, 70, 530], &[70, 530]], 2, dtype);
        call.spec.dropout = true;
        call.check("named");
    }
    let mut call = with(Some(slopes), &[&[530]], 1, DType::F32);
    (call.sizes, call.biases) = ([1, 1, 1, 200, 600, 8, 8], vec![vec![600]]); // ranges of keys
    call.check("one head");
}

#[test]
fn sinks_across_blocks_and_ranges() {
    let mut parallel = 0;
    for dtype in [DType::F32, DType::F64, DType::Bf16] {
        // Blocks, one head in ranges of keys, few queries in ranges, no keys.
        for sizes in
            [[2, 4, 2, 70, 530, 8, 8], [1, 1, 1, 40, 600, 8, 8], [1, 2, 1, 3, 600, 7, 9], [2, 2, 2, 5, 0, 4, 4]]
        {
            let mut call = Call::new(sizes, dtype);
            call.spec.sinks = true;
            // Below, among and above the log-sum-exp of the keys, and none.
            call.sinks = vec![-3.0, 5.5, 40.0, f64::NEG_INFINITY];
            call.spec.statistics = STATISTICS.to_vec();
            parallel += call.check("sinks");
            (call.spec.causal, call.spec.dropout, call.spec.mask) = (RIGHT, true, MaskKind::Boolean);
            call.spec.key_lengths = true;
            call.lengths = vec![sizes[4] as i64 / 3, 0]; // rows without a key
            call.check("sinks of what is seen");
            call.cotangents = [false, true];
            call.check("sinks by lse alone");
            call.cotangents = [true, false];
            call.check("sinks by the output alone");
        }
    }
    assert!(parallel > 0);
}

const STATISTICS: [Statistic; 14] = [
    Statistic::MeanDistance,
    Statistic::ArgMax,
    Statistic::Entropy,
    Statistic::MaxWeight,
    Statistic::EffectiveKeys,
    Statistic::MeanLogDistance,
    Statistic::SinkMass(2),
    Statistic::SinkMass(300),
    Statistic::SelfMass,
    Statistic::PreviousMass,
    Statistic::NextMass,
    Statistic::DuplicateMass,
    Statistic::InductionMass,
    Statistic::SelfMass, // twice
];

#[test]
fn statistics_across_blocks() {
    for dtype in [DType::F32, DType::F64, DType::Bf16] {
        let mut call = Call::new([2, 4, 2, 70, 530, 8, 8], dtype);
        call.spec.statistics = STATISTICS.to_vec();
        assert!(call.check("statistics") > 0);
        (call.spec.causal, call.spec.dropout, call.spec.mask) = (RIGHT, true, MaskKind::Boolean);
        call.check("statistics of what is seen, before dropout");
        call.spec.modifier = Some(ScoreExpr::Score * ScoreExpr::constant(3.0));
        call.spec.key_lengths = true;
        call.lengths = vec![200, 0];
        call.check("statistics of padding");
    }
    let mut call = Call::new([1, 1, 1, 3, 0, 4, 4], DType::F32);
    call.spec.statistics = STATISTICS.to_vec();
    call.check("statistics of nothing");
}

#[test]
fn statistics_leave_the_output_as_it_is() {
    let b = crate::CpuBackend::new(2).unwrap();
    let mut call = Call::new([1, 2, 1, 131, 560, 20, 24], DType::F32);
    let plain = call.run(&b);
    call.spec.statistics = STATISTICS.to_vec();
    let with = call.run(&b);
    let bits = |sample: &Sample| sample.values(&b).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(&plain[0]) == bits(&with[0]) && bits(&plain[1]) == bits(&with[1]));
    for (statistic, of_all) in STATISTICS.into_iter().zip(&with[2..]) {
        call.spec.statistics = vec![statistic];
        let alone = call.run(&b);
        assert!(bits(&plain[0]) == bits(&alone[0]) && bits(&plain[1]) == bits(&alone[1]), "{statistic:?}");
        assert!(bits(&alone[2]) == bits(of_all), "{statistic:?} depends on what else is asked for");
    }
}

#[test]
fn the_first_of_equals_is_the_greatest() {
    let b = CpuBackend::new(1).unwrap();
    let operand = |shape: &[usize], of: &dyn Fn(usize) -> f64| Sample::new(&b, DType::F32, shape, Lie::Contiguous, of);
    // Keys 150, 170 and 559 have the greatest score, in two blocks.
    let (q, v) = (operand(&[1, 1, 1, 1], &|_| 1.0), operand(&[1, 1, 560, 1], &|_| 1.0));
    let k = operand(&[1, 1, 560, 1], &|at| f64::from(u8::from([150, 170, 559].contains(&at))));
    let operands = plain(&q, &k, &v);
    let room = |shape: &[usize]| Sample::room(&b, DType::F32, shape, Lie::Contiguous);
    let (mut out, mut lse, mut first) = (room(&[1; 4]), room(&[1; 3]), room(&[1; 3]));
    let to = AttentionOut { out: out.view_mut(), lse: lse.view_mut(), statistics: vec![first.view_mut()] };
    let spec = AttentionSpec { statistics: vec![Statistic::ArgMax], ..AttentionSpec::default() };
    b.attention(&spec, &operands, to).unwrap();
    assert_eq!(first.values(&b)[0], 150.0);
}

#[test]
fn a_modifier_that_is_too_deep_is_composed() {
    let b = CpuBackend::new(1).unwrap();
    let x = Sample::floats(&b, DType::F32, &[1, 1, 2, 2], Lie::Contiguous, 1);
    let operands = plain(&x, &x, &x);
    let mut deep = ScoreExpr::Score;
    for _ in 0..16 {
        deep = deep.clone() + deep;
    }
    let spec = AttentionSpec { modifier: Some(deep), ..AttentionSpec::default() };
    let Support::Compose { why } = b.attention_support(&spec, &operands, true) else { panic!("it is not too deep") };
    assert!(why.contains("intermediate results"), "{why}");
}

#[test]
fn padding_may_hold_anything() {
    let mut call = Call::new([3, 2, 2, 20, 200, 8, 12], DType::F32);
    call.spec.key_lengths = true;
    call.lengths = vec![130, 0, 200];
    // The oracle passes over keys of weight 0, and so must a kernel that multiplies blocks of them.
    call.check("padding");
}

#[test]
fn padding_before_the_keys_may_hold_anything() {
    let mut parallel = 0;
    for dtype in [DType::F32, DType::F64, DType::Bf16] {
        // Blocks, one head in ranges of keys, few queries in ranges.
        for sizes in
            [[4, 4, 2, 70, 600, 8, 12], [1, 1, 1, 40, 600, 33, 7], [4, 2, 1, 3, 600, 7, 9], [4, 1, 1, 90, 90, 8, 8]]
        {
            let keys = sizes[4] as i64;
            let mut call = Call::new(sizes, dtype);
            call.spec.key_starts = true;
            call.starts = vec![keys / 2 + 1, -5, keys, 1000];
            parallel += call.check("padding on the left");
            call.spec.statistics = STATISTICS.to_vec();
            call.spec.causal = RIGHT;
            call.spec.key_lengths = true;
            call.lengths = vec![keys - 7, keys * 2 / 3, keys / 2, keys];
            call.check("padding on both sides");
            call.spec.window = Some(300);
            call.check("padding and a window");
        }
    }
    assert!(parallel > 0);
}

#[test]
fn segments_in_order_and_in_none() {
    const PACKED: fn(usize, usize) -> i64 = |b, s| (s / (61 + b)) as i64;
    let ids: [(&str, Segments); 4] = [
        ("packed", [PACKED, PACKED]),
        ("packed, with queries and keys of none", [|_, t| t as i64 / 9 * 2, |_, s| s as i64 / 50]),
        ("in turns", [|_, t| t as i64 % 3, |_, s| s as i64 % 4 - 1]),
        ("falling", [|b, t| -(t as i64) / 40 - b as i64, |_, s| -(s as i64) / 60]),
    ];
    let mut parallel = 0;
    for dtype in [DType::F32, DType::F64, DType::Bf16] {
        // One in order and one in none serve to tell the other dtypes' blocks.
        let ids = if dtype == DType::F32 { &ids[..] } else { &ids[1..3] };
        for &(name, ids) in ids {
            // Blocks, one head in ranges of keys, few queries in ranges.
            for sizes in [[2, 2, 1, 530, 530, 8, 12], [1, 1, 1, 40, 600, 33, 7], [2, 2, 1, 3, 600, 7, 9]] {
                let mut call = Call::new(sizes, dtype);
                call.spec.segments = true;
                call.segments = Some(ids);
                parallel += call.check(name);
                (call.spec.causal, call.spec.dropout, call.spec.key_starts) = (RIGHT, true, true);
                call.starts = vec![20, 0];
                call.spec.statistics = STATISTICS.to_vec();
                call.check(&format!("{name}, with causality and padding"));
            }
        }
    }
    assert!(parallel > 0);
}

#[test]
fn blocks_of_other_segments_are_not_touched() {
    // NaN in a block that is only hidden would reach its neighbours, as 0 · NaN.
    for queries in [70, 3] {
        let mut call = Call::new([1, 2, 1, queries, 3 * KEYS + 100, 8, 8], DType::F32);
        call.spec.segments = true;
        call.poisoned = KEYS..2 * KEYS;
        call.segments = Some([|_, t| t as i64 / 1000, |_, s| if (KEYS..2 * KEYS).contains(&s) { 1 } else { 0 }]);
        call.check("between keys of the segment");
        call.segments = Some([|_, _| 3, |_, s| if s < 2 * KEYS { 2 } else { 3 }]);
        call.check("before them");
        call.segments = Some([|_, _| 3, |_, s| if s < 200 { 3 } else { 4 }]);
        call.check("behind them");
    }
}

#[test]
fn one_query_and_one_key() {
    for sizes in [[2, 2, 1, 1, 140, 16, 16], [1, 1, 1, 3, 1, 1, 1], [1, 2, 2, 60, 1, 4, 4]] {
        Call::new(sizes, DType::F32).check("one");
    }
}

#[test]
fn a_few_queries_read_ranges_of_keys_in_place() {
    let mut parallel = 0;
    for dtype in [DType::F32, DType::F64, DType::Bf16] {
        for sizes in
            [[1, 1, 1, 1, 2100, 16, 20], [1, 2, 1, 3, 1300, 7, 33], [2, 4, 2, 4, 600, 8, 8], [1, 1, 1, 2, 5, 4, 1]]
        {
            let mut call = Call::new(sizes, dtype);
            parallel += call.check("few queries");
            call.spec.statistics = STATISTICS.to_vec();
            call.spec.causal = RIGHT;
            call.check("few causal queries with statistics");
            call.spec.key_lengths = true;
            call.lengths = vec![sizes[4] as i64 / 3; sizes[0]]; // some ranges see nothing
            call.check("few queries and padding");
        }
    }
    assert!(parallel > 0);
}

#[test]
fn extents_of_zero_and_windows_of_zero() {
    for sizes in [[1, 2, 1, 5, 300, 0, 4], [1, 2, 1, 70, 300, 4, 0], [2, 2, 1, 5, 0, 4, 4], [1, 0, 0, 3, 3, 2, 2]] {
        Call::new(sizes, DType::F32).check("empty");
    }
    Call::new([1, 0, 2, 3, 3, 2, 2], DType::F32).check("no heads on two of keys");
    let mut call = Call::new([2, 2, 1, 5, 0, 4, 4], DType::F32);
    call.spec.biases = 3;
    call.biases = vec![vec![5, 1], vec![2, 2, 5, 0], vec![1]];
    call.check("biases of no keys");
    let mut call = Call::new([1, 1, 1, 90, 40, 4, 4], DType::F32);
    call.spec.causal = RIGHT; // the first fifty queries stand before the first key
    call.check("more queries than keys");
    call.spec.window = Some(0);
    call.check("a window of nothing");
}

#[test]
fn one_cotangent_and_some_gradients() {
    for (cotangents, wants) in [
        ([true, false], [true, false, false]),
        ([false, true], [true, true, true]),
        ([true, true], [false, true, true]),
        ([true, true], [false, false, true]),
    ] {
        let call = Call { cotangents, wants, ..Call::new([1, 2, 1, 70, 140, 8, 8], DType::F32) };
        call.check("some");
    }
}

#[test]
fn a_query_that_is_nan_leaves_hidden_keys_alone() {
    let mut call = Call::new([1, 1, 1, 6, 6, 4, 4], DType::F64);
    call.spec.causal = RIGHT;
    call.nan = Some(2);
    call.check("NaN");
}

#[test]
fn operands_that_do_not_fit_are_errors() {
    let b = CpuBackend::new(1).unwrap();
    let sample = |shape: &[usize]| Sample::floats(&b, DType::F32, shape, Lie::Contiguous, 1);
    let (whole, flat, mask) = (sample(&[1, 1, 3, 4]), sample(&[1, 3, 4]), sample(&[1, 1, 3, 3]));
    let operands = |wrong: &'static str| AttentionOperands {
        mask: (wrong == "mask").then(|| mask.view()),
        ..plain(&whole, if wrong == "flat" { &flat } else { &whole }, &whole)
    };
    let call = |wrong: &'static str, spec: AttentionSpec| {
        let (mut out, mut lse) = (sample(&[1, 1, 3, 4]), sample(&[1, 1, 3]));
        let results = AttentionOut { out: out.view_mut(), lse: lse.view_mut(), statistics: Vec::new() };
        assert!(b.attention_support(&spec, &operands(wrong), true).is_kernel());
        b.attention(&spec, &operands(wrong), results).unwrap_err().to_string()
    };
    let default = AttentionSpec::default;
    assert!(call("flat", default()).contains("k has rank 3"));
    assert!(call("mask", default()).contains("disagree on mask"));
    assert!(call("", AttentionSpec { dropout: true, ..default() }).contains("disagree on dropout"));
    assert!(call("", AttentionSpec { key_lengths: true, ..default() }).contains("disagree on key_lengths"));
    assert!(call("", AttentionSpec { key_starts: true, ..default() }).contains("disagree on key_starts"));
    assert!(call("", AttentionSpec { segments: true, ..default() }).contains("disagree on segments"));
    assert!(call("", AttentionSpec { sinks: true, ..default() }).contains("disagree on sinks"));
}
