//! Attention with everything that may select a kernel, forward and backward.
//!
//! The list has what other engines got wrong: 64 modulo 128 keys with a mask and scores far below 0, rows with nothing to
//! attend to, a single query, more queries than keys and fewer, both alignments, no keys at all, cotangents that aren't
//! contiguous, grouped heads, windows narrower than any tile.

use crate::{
    case::{Case, Destination, Gradient, Operand, Views},
    fill::Fill,
    layout::Placement,
    tolerance::{Accept, FUSED, FUSED_TRANSCENDENTAL, SAVED_LSE},
};
use attentia_backend::{
    Alignment, AttentionCotangents, AttentionGrads, AttentionOperands, AttentionOut, AttentionSaved, AttentionSpec,
    Backend, Causal, DType, Dropout, MaskKind, Result, RngKey, ScoreExpr, Statistic, Support, TokenIds, View,
};
use std::sync::Arc;

/// A call, apart from what is in `AttentionSpec`.
#[derive(Clone)]
pub(super) struct Form {
    pub(super) spec: AttentionSpec,
    /// B, H, H_kv, T, S, D, D_v.
    pub(super) sizes: [usize; 7],
    pub(super) scores: f64,
    pub(super) mask: Fill,
    pub(super) lengths: Vec<i64>,
    pub(super) starts: Vec<i64>,
    /// Of queries and of keys.
    pub(super) segments: [Vec<i64>; 2],
    /// A sink for each head, over and over.
    pub(super) sinks: Vec<f64>,
    scalars: Vec<f64>,
    pub(super) head_scalars: usize,
}

const SIZES: [usize; 7] = [2, 4, 2, 7, 9, 8, 5];

const SPREAD: [Statistic; 7] = [
    Statistic::EffectiveKeys,
    Statistic::MeanLogDistance,
    Statistic::SinkMass(3),
    Statistic::SelfMass,
    Statistic::PreviousMass,
    Statistic::NextMass,
    Statistic::SinkMass(1000),
];

/// An operand by role, dtype, shape, a number that varies its placement, and content.
pub(super) type MakeOperand<'a> = dyn Fn(&'static str, DType, &[usize], usize, Fill) -> Operand + 'a;

impl Form {
    fn new(sizes: [usize; 7]) -> Form {
        Form {
            spec: AttentionSpec::default(),
            sizes,
            scores: 1.0,
            mask: Fill::Between(0.0, 1.0),
            lengths: Vec::new(),
            starts: Vec::new(),
            segments: Default::default(),
            sinks: Vec::new(),
            scalars: Vec::new(),
            head_scalars: 0,
        }
    }

    fn scale(&self) -> f64 {
        1.0 / (self.sizes[5].max(1) as f64).sqrt()
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (d, dtype) in DType::FLOATS.into_iter().enumerate() {
        for (i, (name, form)) in forms().into_iter().enumerate() {
            let placement = match name {
                _ if form.sizes.iter().all(|&e| e == 1) => Placement::One,
                _ if form.sizes[..6].contains(&0) => Placement::Empty,
                _ => Placement::STRIDED[(i + d) % 5],
            };
            all.push(attention(name, form, dtype, placement, i * 7 + d * 3));
        }
    }
    all
}

pub(super) fn forms() -> Vec<(&'static str, Form)> {
    let with = |edit: &dyn Fn(&mut Form)| {
        let mut form = Form::new(SIZES);
        edit(&mut form);
        form
    };
    let sized = |sizes, causal| {
        let mut form = Form::new(sizes);
        form.spec.causal = causal;
        form
    };
    let with_sinks = |sinks: &[f64], edit: &dyn Fn(&mut Form)| {
        with(&|form| {
            form.spec.sinks = true;
            form.sinks = sinks.to_vec();
            edit(form);
        })
    };
    let with_segments = |ids: [&[i64]; 2], edit: &dyn Fn(&mut Form)| {
        with(&|form| {
            form.spec.segments = true;
            form.segments = ids.map(<[i64]>::to_vec);
            edit(form);
        })
    };
    let packed: Vec<i64> = (0..300).map(|i| i / 110).collect();
    let (left, right) = (Causal::Yes(Alignment::TopLeft), Causal::Yes(Alignment::BottomRight));
    let mut all = vec![
        ("plain", Form::new(SIZES)),
        ("one_head", Form::new([1, 1, 1, 17, 33, 16, 16])),
        ("one", Form::new([1; 7])),
        ("wide_head", Form::new([1, 2, 1, 3, 5, 129, 65])),
        ("single_query", sized([2, 2, 2, 1, 33, 8, 8], right)),
        ("causal_square", sized([1, 2, 2, 17, 17, 8, 8], right)),
        ("causal_left_few_queries", sized([1, 2, 1, 5, 13, 8, 8], left)),
        ("causal_right_few_queries", sized([1, 2, 1, 5, 13, 8, 8], right)),
        // Queries before the first key have nothing to attend to.
        ("causal_right_many_queries", sized([1, 2, 1, 13, 5, 8, 8], right)),
        ("causal_left_many_queries", sized([1, 2, 1, 13, 5, 8, 8], left)),
        ("no_keys", Form::new([2, 2, 1, 3, 0, 8, 4])),
        ("no_queries", Form::new([2, 2, 1, 0, 5, 8, 4])),
        ("no_batch", Form::new([0, 2, 1, 3, 5, 8, 4])),
        ("many_groups", Form::new([1, 8, 2, 3, 6, 4, 4])),
        ("all_groups", Form::new([2, 6, 1, 3, 6, 4, 4])),
        ("large_scores", with(&|form| form.scores = 30.0)),
        ("dropout", with(&|form| form.spec.dropout = true)),
        (
            "statistics",
            with(&|form| {
                form.spec.statistics =
                    vec![Statistic::Entropy, Statistic::MaxWeight, Statistic::ArgMax, Statistic::MeanDistance];
            }),
        ),
        ("bias", with(&|form| form.spec.biases = 1)),
        ("two_biases", with(&|form| form.spec.biases = 2)),
        (
            "key_lengths",
            with(&|form| {
                form.spec.key_lengths = true;
                form.lengths = vec![4, 0];
            }),
        ),
        (
            "key_starts",
            with(&|form| {
                form.spec.key_starts = true;
                form.starts = vec![4, 9];
            }),
        ),
        // More padding than keys of the block, and less than none.
        (
            "key_starts_causal",
            with(&|form| {
                form.sizes = [2, 2, 1, 33, 300, 8, 8];
                form.spec.causal = right;
                form.spec.key_starts = true;
                form.starts = vec![271, -4];
                form.spec.key_lengths = true;
                form.lengths = vec![290, 12];
            }),
        ),
        (
            "key_starts_single_query",
            with(&|form| {
                form.sizes = [2, 2, 2, 1, 33, 8, 8];
                form.spec.key_starts = true;
                form.starts = vec![7, 32];
            }),
        ),
        (
            "segments",
            with_segments([&[0, 0, 0, 1, 1, 2, 2], &[0, 0, 0, 0, 1, 1, 2, 2, 3]], &|form| form.spec.dropout = true),
        ),
        // Ids of several sequences in no order, and queries whose id no key has.
        ("segments_any_order", with_segments([&[4, -1, 7, 4, 9], &[7, 4, 4, 7, 9, 9, 7, -1, -1]], &|_| {})),
        (
            "segments_packed_causal",
            with_segments([&packed, &packed], &|form| {
                form.sizes = [1, 2, 1, 300, 300, 8, 8];
                form.spec.causal = right;
                form.spec.window = Some(60);
            }),
        ),
        (
            "segments_single_query",
            with_segments([&[3, 5], &[3, 3, 3, 4, 5, 5, 5]], &|form| form.sizes = [2, 2, 2, 1, 33, 8, 8]),
        ),
        ("sinks", with_sinks(&[0.5, 3.0, -2.0, f64::NEG_INFINITY], &|_| {})),
        // Rows without a key have the sink alone.
        (
            "sinks_key_lengths",
            with_sinks(&[0.5, 3.0, -2.0, f64::NEG_INFINITY], &|form| {
                form.spec.key_lengths = true;
                form.lengths = vec![4, 0];
                form.spec.dropout = true;
                form.spec.statistics = vec![Statistic::Entropy, Statistic::MaxWeight, Statistic::MeanDistance];
            }),
        ),
        ("sinks_single_query", with_sinks(&[1.0, -1.0], &|form| form.sizes = [2, 2, 2, 1, 33, 8, 8])),
        ("sinks_no_keys", with_sinks(&[1.0, -1.0], &|form| form.sizes = [2, 2, 1, 3, 0, 8, 4])),
        // Of a head's whole weight, and of next to nothing of it.
        ("sinks_large_scores", with_sinks(&[60.0, -60.0, 30.0, 0.0], &|form| form.scores = 30.0)),
        (
            "soft_cap",
            with(&|form| {
                form.spec.modifier =
                    Some(ScoreExpr::constant(5.0) * (ScoreExpr::Score * ScoreExpr::constant(0.2)).tanh());
            }),
        ),
        (
            "slopes",
            with(&|form| {
                form.spec.modifier = Some(ScoreExpr::Score + ScoreExpr::HeadScalar(0) * ScoreExpr::Distance.abs());
                form.head_scalars = 1;
            }),
        ),
        (
            "scaled_bias",
            with(&|form| {
                form.spec.biases = 1;
                form.spec.modifier = Some(ScoreExpr::Score + ScoreExpr::Scalar(0) * ScoreExpr::Bias(0));
                form.scalars = vec![0.5];
            }),
        ),
    ];
    // What the modifier does not name is added behind it.
    let mut capped = with(&|form| form.spec.biases = 1);
    capped.spec.modifier = Some(ScoreExpr::constant(2.0) * (ScoreExpr::Score * ScoreExpr::constant(0.5)).tanh());
    all.push(("capped_and_bias", capped));
    for (name, causal, window) in [
        ("window_of_one", Causal::No, 1),
        ("window", Causal::No, 3),
        ("window_causal", right, 3),
        ("window_causal_left", left, 2),
        ("window_wide", right, 1000),
    ] {
        let mut form = sized([1, 2, 2, 11, 14, 8, 8], causal);
        form.spec.window = Some(window);
        all.push((name, form));
    }
    let masked = |mask: Vec<i64>, sizes| {
        let mut form = Form::new(sizes);
        form.spec.mask = MaskKind::Boolean;
        form.mask = Fill::Whole(mask);
        form
    };
    all.push(("mask_random", Form { mask: Fill::Between(0.0, 1.0), ..masked(vec![1], SIZES) }));
    all.push(("mask_nothing_left", masked(vec![0], SIZES)));
    all.push(("mask_some_rows_full", masked([vec![0; 18], vec![1; 9], vec![0, 1, 1]].concat(), SIZES)));
    // 192 is 64 modulo 128, and lse lies below −88.7, where exp of it is 0 in f32.
    let mut low = masked([vec![0; 192], vec![1; 192 * 2], vec![0, 1, 1, 0]].concat(), [1, 2, 1, 4, 192, 8, 8]);
    low.spec.biases = 1;
    low.scores = -120.0;
    all.push(("mask_low", low));
    let of_tokens = [Statistic::DuplicateMass, Statistic::InductionMass];
    all.push(("statistics_spread", with(&|form| form.spec.statistics = SPREAD.to_vec())));
    all.push(("statistics_tokens", with(&|form| form.spec.statistics = of_tokens.to_vec())));
    let mut everything = sized([1, 2, 1, 9, 12, 8, 8], right);
    everything.spec.key_lengths = true;
    everything.lengths = vec![10];
    everything.spec.window = Some(6);
    everything.spec.statistics = [&SPREAD[..], &of_tokens].concat();
    all.push(("statistics_window", everything));
    all
}

/// Which of the operands beyond q, k and v a form has, in the order of the inputs.
pub(super) struct Given<'a> {
    pub(super) q: View<'a>,
    k: View<'a>,
    v: View<'a>,
    mask: Option<View<'a>>,
    lengths: Option<View<'a>>,
    starts: Option<View<'a>>,
    segments: Option<[View<'a>; 2]>,
    tokens: Option<TokenIds<'a>>,
    sinks: Option<View<'a>>,
    biases: Vec<View<'a>>,
    head_scalars: Vec<View<'a>>,
    /// Saved values and cotangents, in a backward.
    pub(super) rest: Vec<View<'a>>,
}

impl Form {
    pub(super) fn given<'a>(&self, views: &[View<'a>]) -> Given<'a> {
        let mut all = views.iter().copied();
        let mut next = || all.next().unwrap_or_else(|| panic!("the case has too few operands"));
        let (q, k, v) = (next(), next(), next());
        let mask = (self.spec.mask == MaskKind::Boolean).then(&mut next);
        let lengths = self.spec.key_lengths.then(&mut next);
        let starts = self.spec.key_starts.then(&mut next);
        let segments = self.spec.segments.then(|| [next(), next()]);
        let tokens = self.spec.needs_tokens().then(|| TokenIds { queries: next(), keys: next() });
        let sinks = self.spec.sinks.then(&mut next);
        let biases = (0..self.spec.biases).map(|_| next()).collect();
        let head_scalars = (0..self.head_scalars).map(|_| next()).collect();
        Given { q, k, v, mask, lengths, starts, segments, tokens, sinks, biases, head_scalars, rest: all.collect() }
    }

    /// Adds the operands beside q, k and v that there are, in the order in which [`given`](Self::given) takes them.
    pub(super) fn optional(&self, mut case: Case, dtype: DType, operand: &MakeOperand) -> Case {
        let [b, h, _, t, s, ..] = self.sizes;
        let scores = [b, h, t, s];
        if self.spec.mask == MaskKind::Boolean {
            case = case.input(operand("mask", DType::Bool, &scores, 3, self.mask.clone()));
        }
        if self.spec.key_lengths {
            case = case.input(operand("key_lengths", DType::I64, &[b], 4, Fill::Whole(self.lengths.clone())));
        }
        if self.spec.key_starts {
            case = case.input(operand("key_starts", DType::I64, &[b], 10, Fill::Whole(self.starts.clone())));
        }
        if self.spec.segments {
            let [queries, keys] = self.segments.clone().map(Fill::Whole);
            case = case.input(operand("query segments", DType::I64, &[b, t], 9, queries));
            case = case.input(operand("key segments", DType::I64, &[b, s], 10, keys));
        }
        if self.spec.needs_tokens() {
            let ids = Fill::Between(0.0, 3.0);
            case = case.input(operand("query tokens", DType::I64, &[b, t], 7, ids.clone()));
            case = case.input(operand("key tokens", DType::I64, &[b, s], 8, ids));
        }
        if self.spec.sinks {
            case = case.input(operand("sinks", dtype, &[h], 9, Fill::Given(self.sinks.clone())));
        }
        for i in 0..self.spec.biases {
            let low = if self.scores < 0.0 { self.scores } else { -1.0 };
            case = case.input(operand("bias", dtype, &scores, 5 + i as usize, Fill::Between(low, low + 2.0)));
        }
        for _ in 0..self.head_scalars {
            case = case.input(operand("head_scalar", dtype, &[h], 6, Fill::Between(-0.5, 0.0)));
        }
        case
    }

    pub(super) fn with_operands<T>(&self, given: &Given, use_them: impl FnOnce(&AttentionOperands) -> T) -> T {
        use_them(&AttentionOperands {
            q: given.q,
            k: given.k,
            v: given.v,
            scale: self.scale(),
            mask: given.mask,
            biases: &given.biases,
            key_lengths: given.lengths,
            key_starts: given.starts,
            segments: given.segments,
            scalars: &self.scalars,
            head_scalars: &given.head_scalars,
            sinks: given.sinks,
            dropout: self.spec.dropout.then(|| Dropout { p: 0.25, key: RngKey::new(3).path("enc.0.attn") }),
            tokens: given.tokens,
        })
    }

    pub(super) fn support(&self, b: &dyn Backend, views: &[View]) -> Support {
        self.with_operands(&self.given(views), |operands| b.attention_support(&self.spec, operands, true))
    }

    fn forward(&self, b: &dyn Backend, views: Views) -> Result<()> {
        let given = self.given(&views.inputs);
        let mut outputs = views.outputs.into_iter();
        let (Some(out), Some(lse)) = (outputs.next(), outputs.next()) else { panic!("the case lacks destinations") };
        let out = AttentionOut { out, lse, statistics: outputs.collect() };
        self.with_operands(&given, |operands| b.attention(&self.spec, operands, out))
    }

    fn backward(&self, b: &dyn Backend, views: Views) -> Result<()> {
        let given = self.given(&views.inputs);
        let [out, lse, dout, dlse] = given.rest[..] else { panic!("the case has {} saved values", given.rest.len()) };
        let mut outputs = views.outputs.into_iter();
        let (q, k, v) = (outputs.next(), outputs.next(), outputs.next());
        let biases = outputs.by_ref().take(usize::from(self.spec.biases)).map(Some).collect();
        let head_scalars = outputs.by_ref().take(self.head_scalars).map(Some).collect();
        let grads = AttentionGrads { q, k, v, biases, head_scalars, sinks: outputs.next() };
        let cotangents = AttentionCotangents { out: Some(dout), lse: Some(dlse) };
        self.with_operands(&given, |operands| {
            b.attention_backward(&self.spec, operands, &AttentionSaved { out, lse }, &cotangents, grads)
        })
    }
}

fn attention(name: &'static str, form: Form, dtype: DType, placement: Placement, turn: usize) -> Case {
    let [b, h, groups, t, s, d, width] = form.sizes;
    let statistics = dtype.statistics();
    // Operands that are empty or single keep their own kind; others take the case's, each in its turn.
    let fitting = |shape: &[usize], wanted: Placement| match placement {
        _ if shape.contains(&0) => Placement::Empty,
        Placement::Empty => Placement::WRITABLE[turn % 4],
        Placement::One => Placement::One,
        _ => wanted,
    };
    let operand = |role, dtype, shape: &[usize], step: usize, fill| {
        let wanted = if step == 0 { placement } else { placement.other(turn + step) };
        Operand::new(role, dtype, shape, fitting(shape, wanted), turn + step, fill)
    };
    let result = |role, dtype, shape: &[usize], step: usize, accept| {
        Destination::new(role, dtype, shape, fitting(shape, placement.destination(turn + step)), turn + step, accept)
    };
    let [q, k, v] = [[b, h, t, d], [b, groups, s, d], [b, groups, s, width]];
    let (scores, out, rows) = ([b, h, t, s], [b, h, t, width], [b, h, t]);
    let (fused, zeros) = (Accept::Naive(FUSED_TRANSCENDENTAL), Accept::NaiveKeepingZeros(FUSED_TRANSCENDENTAL));
    let size = if form.scores > 0.0 { form.scores } else { 1.0 };

    let (run, ask, back) = (form.clone(), form.clone(), form.clone());
    let mut case = Case::new("attention", name, placement, dtype, move |b, views| run.forward(b, views))
        .input(operand("q", dtype, &q, 0, Fill::Between(-size, size)))
        .input(operand("k", dtype, &k, 1, Fill::Between(-1.5, 1.5)))
        .input(operand("v", dtype, &v, 2, Fill::Between(-1.0, 1.0)));
    case = form.optional(case, dtype, &operand);
    case = case.output(result("out", dtype, &out, 0, zeros)).output(result("lse", statistics, &rows, 1, fused));
    for (i, statistic) in form.spec.statistics.iter().enumerate() {
        let accept = if *statistic == Statistic::ArgMax { Accept::Exact } else { fused };
        case = case.output(result("statistic", statistics, &rows, 2 + i, accept));
    }
    let gradient = Accept::NaiveKeepingZeros(if form.scores.abs() > 1.0 { SAVED_LSE } else { FUSED });
    let mut grads = vec![
        result("dq", dtype, &q, 2, gradient),
        result("dk", dtype, &k, 3, gradient),
        result("dv", dtype, &v, 4, gradient),
    ];
    grads.extend((0..form.spec.biases).map(|i| result("dbias", dtype, &scores, i as usize, gradient)));
    grads.extend((0..form.head_scalars).map(|i| result("dhead_scalar", dtype, &[h], i, gradient)));
    // A sum over all rows, of both signs, in each of which the saved lse's rounding is a relative error.
    let of_sinks = if dtype.is_half() { gradient } else { Accept::NaiveKeepingZeros(SAVED_LSE) };
    grads.extend(form.spec.sinks.then(|| result("dsinks", dtype, &[h], 5, of_sinks)));
    case.cost(b * h * t * s * (d + width))
        .gradient(Gradient {
            operation: "attention_backward",
            saved: vec![0, 1],
            cotangents: vec![
                operand("dout", dtype, &out, 1, Fill::Between(-1.0, 1.0)),
                operand("dlse", statistics, &rows, 2, Fill::Between(-1.0, 1.0)),
            ],
            outputs: grads,
            run: Arc::new(move |b, views| back.backward(b, views)),
        })
        .asking(move |b, _, views| ask.support(b, views))
}
