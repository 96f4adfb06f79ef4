use super::*;
use crate::{
    ReferenceBackend,
    sample::{Sample, assert_close, check_gradient, weighted},
};
use ScoreExpr as S;
use attentia_backend::{
    AttentionCotangents, AttentionGrads, AttentionSaved, Backend, DType, Dropout, ErrorKind, MaskKind, RngKey, Shape,
    TokenIds,
};

const INF: f64 = f64::INFINITY;

/// A call of attention in f64, with everything that it may have.
struct Call {
    spec: AttentionSpec,
    q: Sample,
    k: Sample,
    v: Sample,
    mask: Option<Sample>,
    biases: Vec<Sample>,
    key_lengths: Option<Sample>,
    key_starts: Option<Sample>,
    segments: Option<[Sample; 2]>,
    scalars: Vec<f64>,
    head_scalars: Vec<Sample>,
    sinks: Option<Sample>,
    dropout: Option<Dropout>,
    tokens: Option<[Sample; 2]>,
    scale: f64,
}

struct Forward {
    out: Sample,
    lse: Sample,
    statistics: Vec<Sample>,
}

/// Gradients of q, k, v, then of each bias, then of the values of each head, then of the sinks.
struct Gradients(Vec<Sample>);

impl Call {
    fn new(q: Sample, k: Sample, v: Sample) -> Call {
        Call {
            spec: AttentionSpec::default(),
            q,
            k,
            v,
            mask: None,
            biases: Vec::new(),
            key_lengths: None,
            key_starts: None,
            segments: None,
            scalars: Vec::new(),
            head_scalars: Vec::new(),
            sinks: None,
            dropout: None,
            tokens: None,
            scale: 1.0,
        }
    }

    /// One head of one batch whose scores are the biases alone, with the identity as values.
    fn of_scores(queries: usize, keys: usize, scores: &[f64]) -> Call {
        let identity: Vec<f64> = (0..keys * keys).map(|i| (i / keys == i % keys) as u8 as f64).collect();
        let mut call = Call::new(
            Sample::floats(DType::F64, &[1, 1, queries, 1], &vec![0.0; queries]),
            Sample::floats(DType::F64, &[1, 1, keys, 1], &vec![0.0; keys]),
            Sample::floats(DType::F64, &[1, 1, keys, keys], &identity),
        );
        call.biases = vec![Sample::floats(DType::F64, &[1, 1, queries, keys], scores)];
        call.spec.biases = 1;
        call
    }

    fn with<R>(&self, run: impl FnOnce(&AttentionOperands) -> R) -> R {
        let biases: Vec<_> = self.biases.iter().map(Sample::view).collect();
        let head_scalars: Vec<_> = self.head_scalars.iter().map(Sample::view).collect();
        run(&AttentionOperands {
            q: self.q.view(),
            k: self.k.view(),
            v: self.v.view(),
            scale: self.scale,
            mask: self.mask.as_ref().map(Sample::view),
            biases: &biases,
            key_lengths: self.key_lengths.as_ref().map(Sample::view),
            key_starts: self.key_starts.as_ref().map(Sample::view),
            segments: self.segments.as_ref().map(|ids| ids.each_ref().map(Sample::view)),
            scalars: &self.scalars,
            head_scalars: &head_scalars,
            sinks: self.sinks.as_ref().map(Sample::view),
            dropout: self.dropout,
            tokens: self.tokens.as_ref().map(|[q, k]| TokenIds { queries: q.view(), keys: k.view() }),
        })
    }

    fn forward_on(&self, backend: &ReferenceBackend) -> Result<Forward> {
        let (q, v) = (self.q.extents(), self.v.extents());
        let rows = &q[..3];
        let empty = |extents: &[usize]| Sample::empty(DType::F64, extents);
        let statistics = self.spec.statistics.iter().map(|_| empty(rows)).collect();
        let mut f = Forward {
            out: Sample::empty(self.q.view().dtype(), &[q[0], q[1], q[2], v[3]]),
            lse: Sample::empty(self.q.view().dtype().statistics(), rows),
            statistics,
        };
        let destinations = AttentionOut {
            out: f.out.view_mut(),
            lse: f.lse.view_mut(),
            statistics: f.statistics.iter_mut().map(Sample::view_mut).collect(),
        };
        self.with(|operands| backend.attention(&self.spec, operands, destinations))?;
        Ok(f)
    }

    fn forward(&self) -> Forward {
        self.forward_on(&ReferenceBackend::new()).unwrap()
    }

    fn backward(&self, dout: &Sample, dlse: &Sample) -> Gradients {
        let like = |x: &Sample| Sample::empty(DType::F64, &x.extents());
        let operands =
            [&self.q, &self.k, &self.v].into_iter().chain(&self.biases).chain(&self.head_scalars).chain(&self.sinks);
        let mut all: Vec<Sample> = operands.map(like).collect();
        let (first, rest) = all.split_at_mut(3);
        let (biases, rest) = rest.split_at_mut(self.biases.len());
        let (head_scalars, sinks) = rest.split_at_mut(self.head_scalars.len());
        let [q, k, v] = first else { unreachable!("three of them") };
        let grads = AttentionGrads {
            q: Some(q.view_mut()),
            k: Some(k.view_mut()),
            v: Some(v.view_mut()),
            biases: biases.iter_mut().map(|b| Some(b.view_mut())).collect(),
            head_scalars: head_scalars.iter_mut().map(|x| Some(x.view_mut())).collect(),
            sinks: sinks.first_mut().map(Sample::view_mut),
        };
        let f = self.forward();
        let saved = AttentionSaved { out: f.out.view(), lse: f.lse.view() };
        let cotangents = AttentionCotangents { out: Some(dout.view()), lse: Some(dlse.view()) };
        let backend = ReferenceBackend::new();
        self.with(|operands| backend.attention_backward(&self.spec, operands, &saved, &cotangents, grads)).unwrap();
        Gradients(all)
    }

    /// Compares every gradient with differences of `Σ out · dout + Σ lse · dlse`.
    fn check(mut self, what: &str) {
        let f = self.forward();
        let (dout, dlse) = (Sample::scattered(&f.out.extents(), 21), Sample::scattered(&f.lse.extents(), 22));
        let gradients = self.backward(&dout, &dlse).0;
        let finite_lse = |f: &Forward| -> f64 {
            f.lse.to_floats().iter().zip(dlse.to_floats()).filter(|(l, _)| l.is_finite()).map(|(l, d)| l * d).sum()
        };
        for (i, gradient) in gradients.iter().enumerate() {
            let x = self.operand(i).seen(|l| *l);
            let call = std::cell::RefCell::new(&mut self);
            check_gradient(&format!("{what}, operand {i}"), &x, gradient, |x| {
                let mut call = call.borrow_mut();
                let before = std::mem::replace(call.operand(i), x.seen(|l| *l));
                let f = call.forward();
                *call.operand(i) = before;
                weighted(&f.out, &dout) + finite_lse(&f)
            });
        }
    }

    fn operand(&mut self, i: usize) -> &mut Sample {
        match i {
            0 => &mut self.q,
            1 => &mut self.k,
            2 => &mut self.v,
            i if i < 3 + self.biases.len() => &mut self.biases[i - 3],
            i => {
                let all = self.head_scalars.iter_mut().chain(&mut self.sinks);
                all.into_iter().nth(i - 3 - self.biases.len()).unwrap()
            }
        }
    }
}

/// Two batches, four query heads on two key heads, three queries, five keys, widths 2 and 3.
fn general() -> Call {
    let mut call = Call::new(
        Sample::scattered(&[2, 4, 3, 2], 1),
        Sample::scattered(&[2, 2, 5, 2], 2),
        Sample::scattered(&[2, 2, 5, 3], 3),
    );
    call.scale = 0.7;
    call
}

#[test]
fn one_row_by_hand() {
    let call = Call::of_scores(1, 3, &[1f64.ln(), 2f64.ln(), 5f64.ln()]);
    let f = call.forward();
    assert_close(&f.out, &[0.125, 0.25, 0.625], 1e-15);
    assert_close(&f.lse, &[8f64.ln()], 1e-15);
    // q = 2, k = (ln 3) / 2, 0: scores ln 3 and 0 with scale 1.
    let q = Sample::floats(DType::F64, &[1, 1, 1, 1], &[2.0]);
    let k = Sample::floats(DType::F64, &[1, 1, 2, 1], &[3f64.ln() / 2.0, 0.0]);
    let v = Sample::floats(DType::F64, &[1, 1, 2, 2], &[4., 8., 0., 4.]);
    assert_close(&Call::new(q, k, v).forward().out, &[3., 7.], 1e-14);
}

#[test]
fn masks_hide_what_they_say() {
    // Equal scores: a row's weights are 1/n where it sees, so that the output shows the mask.
    let seen = |queries, keys, change: &dyn Fn(&mut Call)| {
        let mut call = Call::of_scores(queries, keys, &vec![0.0; queries * keys]);
        change(&mut call);
        let out = call.forward().out.to_floats();
        out.chunks(keys)
            .map(|row| row.iter().map(|p| if *p > 0.0 { 'x' } else { '.' }).collect())
            .collect::<Vec<String>>()
    };
    let causal = |alignment| move |call: &mut Call| call.spec.causal = Causal::Yes(alignment);
    assert_eq!(seen(2, 4, &causal(Alignment::BottomRight)), ["xxx.", "xxxx"]);
    assert_eq!(seen(2, 4, &causal(Alignment::TopLeft)), ["x...", "xx.."]);
    assert_eq!(seen(3, 2, &causal(Alignment::BottomRight)), ["..", "x.", "xx"]);
    assert_eq!(seen(3, 3, &|call| call.spec.window = Some(2)), ["xx.", "xxx", ".xx"]);
    assert_eq!(seen(2, 4, &|call| call.spec.window = Some(1)), ["..x.", "...x"]);
    assert_eq!(seen(2, 2, &|call| call.spec.window = Some(0)), ["..", ".."]);
    let windowed = |call: &mut Call| {
        causal(Alignment::BottomRight)(call);
        call.spec.window = Some(2);
    };
    assert_eq!(seen(3, 3, &windowed), ["x..", "xx.", ".xx"]);
    let padded = |call: &mut Call| {
        call.spec.key_lengths = true;
        call.key_lengths = Some(Sample::integers(DType::I64, &[1], &[2]));
    };
    assert_eq!(seen(2, 3, &padded), ["xx.", "xx."]);
    let ids = |call: &mut Call, ids: [&[i64]; 2]| {
        call.spec.segments = true;
        call.segments = Some(ids.map(|ids| Sample::integers(DType::I64, &[1, ids.len()], ids)));
    };
    assert_eq!(seen(3, 4, &|call| ids(call, [&[7, 3, 9], &[3, 7, 3, 3]])), [".x..", "x.xx", "...."]);
    let packed = |call: &mut Call| {
        ids(call, [&[0, 0, 1, 1], &[0, 0, 1, 1]]);
        causal(Alignment::BottomRight)(call);
    };
    assert_eq!(seen(4, 4, &packed), ["x...", "xx..", "..x.", "..xx"]);
    let padded_left = |call: &mut Call| {
        call.spec.key_starts = true;
        call.key_starts = Some(Sample::integers(DType::I64, &[1], &[1]));
        causal(Alignment::BottomRight)(call);
    };
    assert_eq!(seen(3, 3, &padded_left), ["...", ".x.", ".xx"], "positions are those of all keys");
    let masked = |call: &mut Call| {
        call.spec.mask = MaskKind::Boolean;
        call.mask = Some(Sample::integers(DType::Bool, &[3], &[0, 1, 0]));
    };
    assert_eq!(seen(2, 3, &masked), [".x.", ".x."]);
}

#[test]
fn hidden_keys_may_hold_anything() {
    let mut call = Call::of_scores(1, 3, &[0.0, f64::NAN, INF]);
    call.v = Sample::floats(DType::F64, &[1, 1, 3, 1], &[2.0, f64::NAN, INF]);
    call.spec.key_lengths = true;
    call.key_lengths = Some(Sample::integers(DType::I64, &[1], &[1]));
    assert_eq!(call.forward().out.to_floats(), [2.0]);
    let ones = |extents: &[usize]| Sample::floats(DType::F64, extents, &[1.0]);
    let gradients = call.backward(&ones(&[1, 1, 1, 1]), &ones(&[1, 1, 1])).0;
    assert_eq!(gradients[2].to_floats(), [1.0, 0.0, 0.0]);
    assert_eq!(gradients[3].to_floats(), [1.0, 0.0, 0.0], "of the bias, by lse alone");
    call.spec.key_lengths = false;
    call.key_lengths = None;
    assert!(call.forward().out.to_floats()[0].is_nan(), "a visible NaN is not hidden");
}

#[test]
fn rows_with_nothing_to_see_are_zero() {
    for key_length in [None, Some(0)] {
        let mut call = Call::of_scores(1, 2, &[if key_length.is_none() { -INF } else { 0.0 }; 2]);
        if let Some(length) = key_length {
            call.spec.key_lengths = true;
            call.key_lengths = Some(Sample::integers(DType::I64, &[1], &[length]));
        }
        call.spec.statistics = vec![
            Statistic::Entropy,
            Statistic::EffectiveKeys,
            Statistic::MaxWeight,
            Statistic::ArgMax,
            Statistic::MeanDistance,
            Statistic::SinkMass(2),
        ];
        let f = call.forward();
        assert_eq!(f.out.to_floats(), [0.0, 0.0]);
        assert_eq!(f.lse.to_floats(), [-INF]);
        assert!(f.statistics.iter().all(|s| s.to_floats() == [0.0]));
        let (dout, dlse) = (Sample::scattered(&[1, 1, 1, 2], 1), Sample::scattered(&[1, 1, 1], 2));
        assert!(call.backward(&dout, &dlse).0.iter().all(|g| g.to_floats().iter().all(|x| *x == 0.0)));
    }
}

#[test]
fn extents_may_be_zero() {
    let empty = |extents: &[usize]| Sample::floats(DType::F64, extents, &[]);
    let no_keys = Call::new(Sample::scattered(&[1, 2, 2, 3], 1), empty(&[1, 1, 0, 3]), empty(&[1, 1, 0, 2]));
    assert_eq!(no_keys.forward().out.to_floats(), [0.0; 8]);
    assert_eq!(no_keys.forward().lse.to_floats(), [-INF; 4]);
    no_keys.check("no keys");
    let no_queries =
        Call::new(empty(&[1, 2, 0, 3]), Sample::scattered(&[1, 1, 2, 3], 1), Sample::scattered(&[1, 1, 2, 2], 2));
    assert_eq!(no_queries.forward().out.extents(), [1, 2, 0, 2]);
    no_queries.check("no queries");
    let no_width =
        Call::new(empty(&[1, 1, 2, 0]), empty(&[1, 1, 2, 0]), Sample::floats(DType::F64, &[1, 1, 2, 1], &[1., 3.]));
    assert_eq!(no_width.forward().out.to_floats(), [2., 2.]);
    Call::new(empty(&[0, 2, 2, 3]), empty(&[0, 1, 2, 3]), empty(&[0, 1, 2, 2])).forward();
}

#[test]
fn gradients_agree_with_differences() {
    general().check("plain");
    let mut causal = general();
    causal.spec.causal = Causal::Yes(Alignment::TopLeft);
    causal.spec.window = Some(2);
    causal.check("causal window");
    let mut dropped = general();
    dropped.spec.dropout = true;
    dropped.dropout = Some(Dropout { p: 0.4, key: RngKey::new(9) });
    dropped.check("dropout");
    let mut padded = general();
    padded.spec.key_lengths = true;
    padded.key_lengths = Some(Sample::integers(DType::I64, &[2], &[3, 0]));
    padded.check("padded");
    let mut both = general();
    (both.spec.key_starts, both.spec.key_lengths) = (true, true);
    both.key_starts = Some(Sample::integers(DType::I64, &[2], &[1, -3]));
    both.key_lengths = Some(Sample::integers(DType::I64, &[2], &[3, 4]));
    both.check("padded on both sides");
    let mut packed = general();
    packed.spec.segments = true;
    packed.segments = Some([
        Sample::integers(DType::I64, &[2, 3], &[0, 0, 1, 5, 4, 5]),
        Sample::integers(DType::I64, &[2, 5], &[0, 0, 0, 1, 1, 5, 4, 5, 6, 5]),
    ]);
    packed.check("segments");
}

#[test]
fn a_sink_takes_weight_and_gives_no_value() {
    // Weights 1, 2 and 5 beside a sink of 8.
    let mut call = Call::of_scores(2, 3, &[1f64.ln(), 2f64.ln(), 5f64.ln(), -INF, -INF, -INF]);
    call.spec.sinks = true;
    call.sinks = Some(Sample::floats(DType::F64, &[1], &[8f64.ln()]));
    call.spec.statistics = vec![Statistic::Entropy, Statistic::MaxWeight, Statistic::ArgMax, Statistic::MeanDistance];
    let f = call.forward();
    assert_close(&f.out, &[1. / 16., 2. / 16., 5. / 16., 0., 0., 0.], 1e-15);
    assert_close(&f.lse, &[16f64.ln(), 8f64.ln()], 1e-15);
    let entropy = -[1., 2., 5.].iter().map(|w: &f64| w / 16. * (w / 16.).ln()).sum::<f64>();
    assert_close(&f.statistics[0], &[entropy, 0.], 1e-15);
    assert_close(&f.statistics[1], &[5. / 16., 0.], 1e-15);
    assert_eq!(f.statistics[2].to_floats(), [2., 0.]);
    // Query 0 stands at key 1.
    assert_close(&f.statistics[3], &[6. / 16., 0.], 1e-15);
    // −p_sink · (Σ p dp − dlse): the second row has no p, and a p_sink of 1.
    let (dout, dlse) = (
        Sample::floats(DType::F64, &[1, 1, 2, 3], &[4., 0., 8., 1., 1., 1.]),
        Sample::floats(DType::F64, &[1, 1, 2], &[0.25, 3.]),
    );
    assert_close(&call.backward(&dout, &dlse).0[4], &[-0.5 * (44. / 16. - 0.25) + 3.], 1e-15);
    // A sink of −∞ is none.
    call.sinks = Some(Sample::floats(DType::F64, &[1], &[-INF]));
    let none = call.forward();
    assert_close(&none.out, &[0.125, 0.25, 0.625, 0., 0., 0.], 1e-15);
    assert_close(&none.lse, &[8f64.ln(), -INF], 1e-15);
    assert_eq!(call.backward(&dout, &dlse).0[4].to_floats(), [0.0]);
}

#[test]
fn gradients_of_sinks_agree_with_differences() {
    let mut call = general();
    call.spec.sinks = true;
    call.sinks = Some(Sample::scattered(&[4], 8));
    call.spec.key_lengths = true;
    call.key_lengths = Some(Sample::integers(DType::I64, &[2], &[3, 0]));
    call.spec.dropout = true;
    call.dropout = Some(Dropout { p: 0.4, key: RngKey::new(9) });
    call.spec.modifier = Some(S::constant(2.0) * (S::Score * S::HeadScalar(0)).tanh());
    call.head_scalars = vec![Sample::scattered(&[4], 7)];
    call.check("sinks");
}

#[test]
fn gradients_of_modifiers_and_biases_agree_with_differences() {
    let mut capped = general();
    capped.spec.causal = Causal::Yes(Alignment::BottomRight);
    // 2 · tanh((score + bias 1) / 2) + bias 0 · score + slope · distance
    capped.spec.modifier = Some(
        S::constant(2.0) * (S::Score * S::constant(0.5)).tanh()
            + S::Bias(0) * S::Score
            + S::HeadScalar(0) * S::Distance.abs()
            + S::Scalar(0) * S::Score.abs(),
    );
    capped.spec.biases = 2;
    capped.biases = vec![Sample::scattered(&[4, 1, 5], 5), Sample::scattered(&[2, 1, 3, 5], 6)];
    capped.scalars = vec![0.3];
    capped.head_scalars = vec![Sample::scattered(&[4], 7)];
    capped.check("modifier");
    let mut plain = general();
    plain.spec.biases = 2;
    plain.biases = vec![Sample::scattered(&[2, 4, 3, 5], 5), Sample::scattered(&[1], 6)];
    plain.check("biases");
}

#[test]
fn an_unnamed_bias_is_added_behind_the_modifier() {
    let mut call = Call::of_scores(1, 2, &[0.0, 3.0]);
    call.spec.modifier = Some(S::Score.exp());
    assert_close(&call.forward().lse, &[(1f64.exp() + 4f64.exp()).ln()], 1e-14);
    call.spec.modifier = Some((S::Score + S::Bias(0)).exp());
    assert_close(&call.forward().lse, &[(1f64.exp() + 3f64.exp().exp()).ln()], 1e-14);
}

#[test]
fn statistics_by_hand() {
    let mut call = Call::of_scores(2, 3, &[0.0, 2f64.ln(), 0.0, 0.0, 0.0, -INF]);
    call.spec.statistics = vec![Statistic::Entropy, Statistic::MaxWeight, Statistic::ArgMax, Statistic::MeanDistance];
    let f = call.forward();
    assert_close(&f.statistics[0], &[1.5 * 2f64.ln(), 2f64.ln()], 1e-15);
    assert_close(&f.statistics[1], &[0.5, 0.5], 1e-15);
    assert_eq!(f.statistics[2].to_floats(), [1.0, 0.0], "the first of equals");
    // The queries stand at keys 1 and 2.
    assert_close(&f.statistics[3], &[0.5, 1.5], 1e-15);
    call.spec.statistics = vec![
        Statistic::EffectiveKeys,
        Statistic::MeanLogDistance,
        Statistic::SinkMass(0),
        Statistic::SinkMass(2),
        Statistic::SinkMass(9),
        Statistic::SelfMass,
        Statistic::PreviousMass,
        Statistic::NextMass,
    ];
    let f = call.forward();
    assert_close(&f.statistics[0], &[8f64.sqrt(), 2.0], 1e-15);
    assert_close(&f.statistics[1], &[0.5, 0.5 * (3f64.log2() + 1.0)], 1e-15);
    assert_close(&f.statistics[2], &[0.0, 0.0], 0.0);
    assert_close(&f.statistics[3], &[0.75, 1.0], 1e-15);
    assert_close(&f.statistics[4], &[1.0, 1.0], 1e-15);
    assert_close(&f.statistics[5], &[0.5, 0.0], 1e-15);
    assert_close(&f.statistics[6], &[0.25, 0.5], 1e-15);
    assert_close(&f.statistics[7], &[0.25, 0.0], 1e-15);
}

#[test]
fn statistics_of_tokens_by_hand() {
    // Keys a b a b, weights 1/10 to 4/10; the queries b and a stand at keys 2 and 3.
    let scores: Vec<f64> = (0..8).map(|i| (1.0 + f64::from(i % 4)).ln()).collect();
    let mut call = Call::of_scores(2, 4, &scores);
    let ids = |extents: &[usize], ids: &[i64]| Sample::integers(DType::I64, extents, ids);
    call.tokens = Some([ids(&[1, 2], &[7, -3]), ids(&[1, 4], &[-3, 7, -3, 7])]);
    call.spec.statistics = vec![Statistic::DuplicateMass, Statistic::InductionMass];
    let f = call.forward();
    // b before key 2; a before key 3.
    assert_close(&f.statistics[0], &[0.2, 0.1 + 0.3], 1e-15);
    // Behind b, up to key 2; behind a, up to key 3.
    assert_close(&f.statistics[1], &[0.3, 0.2 + 0.4], 1e-15);
}

#[test]
fn dropout_acts_on_normalised_weights_and_leaves_lse_alone() {
    let mut call = Call::new(
        Sample::floats(DType::F64, &[1, 2, 3, 1], &[0.0; 6]),
        Sample::floats(DType::F64, &[1, 1, 5, 1], &[0.0; 5]),
        Sample::floats(DType::F64, &[1, 1, 5, 1], &[1., 10., 100., 1e3, 1e4]),
    );
    let key = RngKey::new(4);
    call.spec.dropout = true;
    call.dropout = Some(Dropout { p: 0.5, key });
    let f = call.forward();
    for (row, out) in f.out.to_floats().into_iter().enumerate() {
        let kept = (0..5).filter(|s| key.generator().word(row as u64, *s) >= 1 << 31);
        let expected: f64 = kept.map(|s| 10f64.powi(s as i32) * 2.0 / 5.0).sum();
        assert!((out - expected).abs() < 1e-9, "row {row}: {out} {expected}");
    }
    assert_close(&f.lse, &[5f64.ln(); 6], 1e-15);
}

#[test]
fn operands_may_have_any_layout() {
    let call = general();
    let expected = call.forward().out.to_floats();
    let mut other = general();
    other.q = Sample::empty(DType::F64, &[2, 3, 4, 2]).seen(|l| l.transpose(1, 2).flip(3).unwrap());
    ReferenceBackend::new().copy(call.q.view(), other.q.view_mut()).unwrap();
    assert_eq!(other.forward().out.to_floats(), expected);
    let one = Sample::scattered(&[1, 1, 5, 2], 8);
    let repeated = one.seen(|l| l.broadcast_to(&Shape::new(&[2, 2, 5, 2]).unwrap()).unwrap());
    let [mut a, mut b] = [general(), general()];
    b.k = Sample::floats(DType::F64, &[2, 2, 5, 2], &repeated.to_floats());
    a.k = repeated;
    assert_eq!(a.forward().out.to_floats(), b.forward().out.to_floats());
}

#[test]
fn the_naive_composition_is_near_the_oracle_and_not_on_it() {
    let call = general();
    let cast = |x: &Sample| Sample::floats(DType::Bf16, &x.extents(), &x.to_floats());
    let mut halves = general();
    (halves.q, halves.k, halves.v) = (cast(&call.q), cast(&call.k), cast(&call.v));
    let exact = halves.forward().out.to_floats();
    let naive = halves.forward_on(&ReferenceBackend::rounding()).unwrap().out.to_floats();
    let error = exact.iter().zip(&naive).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(0.0 < error && error < 0.02, "{error}");
}

#[test]
fn disagreements_are_errors() {
    fn tokens(dtype: DType, keys: usize) -> [Sample; 2] {
        [3, keys].map(|extent| Sample::integers(dtype, &[2, extent], &vec![0; 2 * extent]))
    }
    type Mistake = (&'static str, fn(&mut Call), ErrorKind);
    let mistakes: [Mistake; 17] = [
        ("biases", |c| c.spec.biases = 1, ErrorKind::Argument),
        ("mask", |c| c.spec.mask = MaskKind::Boolean, ErrorKind::Argument),
        ("dropout", |c| c.spec.dropout = true, ErrorKind::Argument),
        ("key lengths", |c| c.spec.key_lengths = true, ErrorKind::Argument),
        ("key starts", |c| c.spec.key_starts = true, ErrorKind::Argument),
        ("segments", |c| c.spec.segments = true, ErrorKind::Argument),
        (
            "segments of another shape",
            |c| {
                let ids = |n| Sample::integers(DType::I64, &[2, n], &vec![0; 2 * n]);
                (c.spec.segments, c.segments) = (true, Some([ids(3), ids(4)]));
            },
            ErrorKind::Shape,
        ),
        ("sinks", |c| c.spec.sinks = true, ErrorKind::Argument),
        (
            "sinks of another shape",
            |c| (c.spec.sinks, c.sinks) = (true, Some(Sample::scattered(&[2], 1))),
            ErrorKind::Shape,
        ),
        ("scalar", |c| c.spec.modifier = Some(S::Scalar(0)), ErrorKind::Argument),
        ("head scalar", |c| c.spec.modifier = Some(S::HeadScalar(3)), ErrorKind::Argument),
        ("no tokens", |c| c.spec.statistics = vec![Statistic::DuplicateMass], ErrorKind::Argument),
        ("tokens", |c| c.tokens = Some(tokens(DType::I64, 5)), ErrorKind::Argument),
        (
            "their number",
            |c| {
                c.spec.statistics = vec![Statistic::InductionMass];
                c.tokens = Some(tokens(DType::I64, 4));
            },
            ErrorKind::Shape,
        ),
        (
            "their dtype",
            |c| {
                c.spec.statistics = vec![Statistic::InductionMass];
                c.tokens = Some(tokens(DType::U32, 5));
            },
            ErrorKind::DType,
        ),
        ("k", |c| c.k = Sample::scattered(&[2, 2, 5, 3], 1), ErrorKind::Shape),
        ("q", |c| c.q = Sample::floats(DType::F32, &[2, 4, 3, 2], &[0.0; 48]), ErrorKind::DType),
    ];
    for (what, mistake, kind) in mistakes {
        let mut call = general();
        mistake(&mut call);
        assert_eq!(call.forward_on(&ReferenceBackend::new()).err().map(|e| e.kind()), Some(kind), "{what}");
    }
    let mut call = general();
    call.spec.biases = 1;
    call.biases = vec![Sample::scattered(&[4, 5], 1)];
    let error = call.forward_on(&ReferenceBackend::new()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Shape);
}
