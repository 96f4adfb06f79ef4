//! The oracle's attention against the formula in tensor operations, in f64, with the gradients of both.
//!
//! The oracle judges every fused attention kernel; here it is judged itself, by code that shares nothing with it but the
//! definition: masks are built as tensors, the derivative is automatic.

use attentia_backend::{
    Alignment, AttentionCotangents, AttentionGrads, AttentionOperands, AttentionOut, AttentionSaved, AttentionSpec,
    Causal, DType, Device, MaskKind, RngKey, ScoreExpr,
};
use attentia_reference::ReferenceBackend;
use attentia_tensor::{Data, Result, Tensor, Var, grad};

/// f64 against f64: some roundings in another order.
const ROUNDING: f64 = 1e-12;

/// B, H, H_kv, T, S, D, D_v.
type Sizes = [usize; 7];

struct Problem {
    spec: AttentionSpec,
    sizes: Sizes,
    lengths: Vec<i64>,
    starts: Vec<i64>,
    /// Of queries and of keys, over and over.
    segments: [Vec<i64>; 2],
    /// The modifier, as a function of the scores before bias and mask.
    modify: fn(Tensor) -> Result<Tensor>,
    /// All keys of this many first queries are masked.
    hidden_rows: usize,
}

fn problem(sizes: Sizes, edit: impl FnOnce(&mut Problem)) -> Problem {
    let mut problem = Problem {
        spec: AttentionSpec::default(),
        sizes,
        lengths: Vec::new(),
        starts: Vec::new(),
        segments: Default::default(),
        modify: Ok,
        hidden_rows: 0,
    };
    edit(&mut problem);
    problem
}

fn random(seed: u64, shape: &[usize], device: &Device) -> Result<Tensor> {
    Tensor::rand_uniform(RngKey::new(seed), -1.5, 1.5, shape, DType::F64, device)
}

impl Problem {
    /// q, k, v, a bias and sinks.
    fn operands(&self, device: &Device) -> Result<[Tensor; 5]> {
        let [b, h, groups, t, s, d, width] = self.sizes;
        Ok([
            random(1, &[b, h, t, d], device)?,
            random(2, &[b, groups, s, d], device)?,
            random(3, &[b, groups, s, width], device)?,
            random(4, &[b, h, t, s], device)?,
            random(8, &[h], device)?,
        ])
    }

    fn scale(&self) -> f64 {
        1.0 / (self.sizes[5] as f64).sqrt()
    }

    /// Bool `[B, H, T, S]`, the explicit mask.
    fn mask(&self, device: &Device) -> Result<Tensor> {
        let [b, h, _, t, s, ..] = self.sizes;
        let open = random(5, &[b, h, t, s], device)?.gt_scalar(-0.5)?;
        let rows = Tensor::arange(0, t, 1, DType::I64, device)?.unsqueeze(1)?; // [T, 1]
        open.logical_and(&rows.ge_scalar(self.hidden_rows)?)
    }

    /// Segments of queries and of keys; zeros without any.
    fn ids(&self, device: &Device) -> Result<[Tensor; 2]> {
        let [b, _, _, t, s, ..] = self.sizes;
        let ids = |which: usize, extent: usize| {
            let ids: Vec<i64> = self.segments[which].iter().copied().chain([0]).cycle().take(b * extent).collect();
            Tensor::from_slice(&ids, &[b, extent], device)
        };
        Ok([ids(0, t)?, ids(1, s)?])
    }

    /// Bool `[B, H, T, S]`, what a query may attend to, from positions alone.
    fn visible(&self, device: &Device) -> Result<Tensor> {
        let [b, h, _, t, s, ..] = self.sizes;
        let first = match self.spec.causal {
            Causal::Yes(Alignment::TopLeft) => 0,
            _ => s as i64 - t as i64,
        };
        let query = Tensor::arange(first, first + t as i64, 1, DType::I64, device)?.unsqueeze(1)?; // [T, 1]
        let key = Tensor::arange(0, s, 1, DType::I64, device)?; // [S]
        let ahead = (&key - &query)?; // [T, S]
        let mut visible = ahead.le_scalar(i64::MAX)?.broadcast_to(&[b, h, t, s])?;
        if self.spec.causal != Causal::No {
            visible = visible.logical_and(&ahead.le_scalar(0)?)?;
        }
        if let Some(window) = self.spec.window {
            visible = visible.logical_and(&ahead.abs()?.lt_scalar(window as i64)?)?;
        }
        if self.spec.key_lengths {
            let lengths = Tensor::from_slice(&self.lengths, &[b, 1, 1, 1], device)?;
            visible = visible.logical_and(&key.lt(&lengths)?)?;
        }
        if self.spec.key_starts {
            let starts = Tensor::from_slice(&self.starts, &[b, 1, 1, 1], device)?;
            visible = visible.logical_and(&key.ge(&starts)?)?;
        }
        if self.spec.segments {
            let [queries, keys] = self.ids(device)?;
            let own = (queries.unsqueeze(2)? - keys.unsqueeze(1)?)?.eq_scalar(0)?; // [B, T, S]
            visible = visible.logical_and(&own.unsqueeze(1)?)?;
        }
        if self.spec.mask == MaskKind::Boolean {
            visible = visible.logical_and(&self.mask(device)?)?;
        }
        Ok(visible)
    }

    /// `out` and `lse` by the formula.
    fn composed(&self, [q, k, v, bias, sinks]: &[Tensor; 5]) -> Result<[Tensor; 2]> {
        let [b, h, groups, t, s, ..] = self.sizes;
        let repeated = |x: &Tensor| {
            // Grouped heads repeat: query heads 0 .. H / H_kv read key head 0.
            let [_, _, s, width] = x.dims()?;
            x.unsqueeze(2)?.broadcast_to(&[b, groups, h / groups, s, width])?.reshape(&[
                b as isize,
                h as isize,
                s as isize,
                width as isize,
            ])
        };
        let scores = q.matmul(&repeated(k)?.transpose(-1, -2)?)?.mul_scalar(self.scale())?; // [B, H, T, S]
        let visible = self.visible(q.device())?;
        let mut scores = (self.modify)(scores)?;
        if self.spec.biases == 1 {
            scores = (scores + bias)?;
        }
        let v = repeated(v)?;
        if self.spec.sinks {
            // One key more, which all see, and whose value is 0.
            let column = sinks.reshape(&[1, h as isize, 1, 1])?.broadcast_to(&[b, h, t, 1])?;
            scores = Tensor::cat(&[&scores, &column], -1)?;
            let seen = Tensor::full(&[b, h, t, 1], true, DType::Bool, q.device())?;
            let visible = Tensor::cat(&[&visible, &seen], -1)?;
            let weights = scores.masked_softmax(&visible, -1)?;
            let v = Tensor::cat(&[&v, &v.narrow(2, 0, 1)?.zeros_like()?], 2)?;
            let lse = scores.masked_fill(&visible.logical_not()?, f64::NEG_INFINITY)?.logsumexp(-1, false)?;
            return Ok([weights.matmul(&v)?, lse]);
        }
        let weights = scores.masked_softmax(&visible, -1)?;
        let hidden = scores.masked_fill(&visible.logical_not()?, f64::NEG_INFINITY)?;
        let lse = hidden.logsumexp(-1, false)?; // [B, H, T]
        assert_eq!(weights.shape().as_slice(), [b, h, t, s]);
        Ok([weights.matmul(&v)?, lse])
    }

    /// `out`, `lse`, and the gradients of their weighted sum by the backend's two entries.
    fn fused(&self, [q, k, v, bias, sinks]: &[Tensor; 5], [dout, dlse]: [&Tensor; 2]) -> Result<Vec<Tensor>> {
        let device = q.device();
        let room =
            |shape: &[usize]| Data::alloc(device, DType::F64, *Tensor::zeros(shape, DType::F64, device)?.shape());
        let mask = self.mask(device)?;
        let lengths = Tensor::from_slice(&self.lengths, &[self.lengths.len()], device)?;
        let starts = Tensor::from_slice(&self.starts, &[self.starts.len()], device)?;
        let [of_queries, of_keys] = self.ids(device)?;
        let biases = if self.spec.biases == 1 { vec![bias.view()?] } else { Vec::new() };
        let operands = AttentionOperands {
            q: q.view()?,
            k: k.view()?,
            v: v.view()?,
            scale: self.scale(),
            mask: if self.spec.mask == MaskKind::Boolean { Some(mask.view()?) } else { None },
            biases: &biases,
            key_lengths: if self.spec.key_lengths { Some(lengths.view()?) } else { None },
            key_starts: if self.spec.key_starts { Some(starts.view()?) } else { None },
            segments: if self.spec.segments { Some([of_queries.view()?, of_keys.view()?]) } else { None },
            scalars: &[],
            head_scalars: &[],
            sinks: if self.spec.sinks { Some(sinks.view()?) } else { None },
            dropout: None,
            tokens: None,
        };
        assert!(device.attention_support(&self.spec, &operands, true).is_kernel());
        let (mut out, mut lse) = (room(dout.shape())?, room(dlse.shape())?);
        let to = AttentionOut { out: out.view_mut()?, lse: lse.view_mut()?, statistics: Vec::new() };
        device.attention(&self.spec, &operands, to)?;
        let (mut dq, mut dk, mut dv, mut dbias, mut dsinks) =
            (room(q.shape())?, room(k.shape())?, room(v.shape())?, room(bias.shape())?, room(sinks.shape())?);
        let grads = AttentionGrads {
            q: Some(dq.view_mut()?),
            k: Some(dk.view_mut()?),
            v: Some(dv.view_mut()?),
            biases: if self.spec.biases == 1 { vec![Some(dbias.view_mut()?)] } else { Vec::new() },
            head_scalars: Vec::new(),
            sinks: if self.spec.sinks { Some(dsinks.view_mut()?) } else { None },
        };
        let saved = AttentionSaved { out: out.view()?, lse: lse.view()? };
        let cotangents = AttentionCotangents { out: Some(dout.view()?), lse: Some(dlse.view()?) };
        device.attention_backward(&self.spec, &operands, &saved, &cotangents, grads)?;
        let mut all = vec![out, lse, dq, dk, dv];
        all.extend((self.spec.biases == 1).then_some(dbias));
        all.extend(self.spec.sinks.then_some(dsinks));
        Ok(all.into_iter().map(Tensor::from_data).collect())
    }

    fn check(&self, name: &str, device: &Device) -> Result<()> {
        let operands = self.operands(device)?;
        let [b, h, _, t, _, _, width] = self.sizes;
        let (dout, dlse) = (random(6, &[b, h, t, width], device)?, random(7, &[b, h, t], device)?);
        let fused = self.fused(&operands, [&dout, &dlse])?;
        let leaves = operands.map(Var::new);
        let [q, k, v, bias, sinks] = leaves.map(|var| var.map(|var| var.tensor()));
        let leaves = [q?, k?, v?, bias?, sinks?];
        let [out, lse] = self.composed(&leaves)?;
        let mut wanted: Vec<&Tensor> = leaves.iter().take(3 + self.spec.biases as usize).collect();
        wanted.extend(self.spec.sinks.then_some(&leaves[4]));
        let gradients = grad(&[&out, &lse], Some(&[&dout, &dlse]), &wanted, false)?;
        let gradients = gradients.into_iter().zip(wanted).map(|(g, x)| g.map_or_else(|| x.zeros_like(), Ok));
        let composed: Vec<Tensor> =
            [Ok(out.detach()), Ok(lse.detach())].into_iter().chain(gradients).collect::<Result<_>>()?;
        assert_eq!(fused.len(), composed.len());
        let learned = if self.spec.biases == 1 { ["dbias", "dsinks"] } else { ["dsinks", ""] };
        for ((what, a), b) in ["out", "lse", "dq", "dk", "dv"].iter().chain(&learned).zip(&fused).zip(&composed) {
            assert_eq!(a.shape(), b.shape(), "{name} {what}");
            for (i, (x, y)) in a.to_vec::<f64>()?.iter().zip(b.to_vec::<f64>()?).enumerate() {
                let same = *x == y || (x - y).abs() <= ROUNDING * (1.0 + y.abs());
                assert!(same, "{name}: {what}[{i}] is {x:e}, by the formula {y:e}");
            }
        }
        Ok(())
    }
}

#[test]
fn the_oracle_is_the_formula() {
    let device = Device::new(ReferenceBackend::new());
    let plain: Sizes = [2, 4, 2, 5, 7, 8, 3];
    let (left, right) = (Causal::Yes(Alignment::TopLeft), Causal::Yes(Alignment::BottomRight));
    let problems = [
        ("plain", problem(plain, |_| {})),
        ("one head", problem([1, 1, 1, 3, 4, 2, 2], |_| {})),
        ("causal, left", problem(plain, |p| p.spec.causal = left)),
        ("causal, right", problem(plain, |p| p.spec.causal = right)),
        ("causal, more queries than keys", problem([1, 2, 1, 7, 4, 4, 4], |p| p.spec.causal = right)),
        ("window", problem(plain, |p| p.spec.window = Some(2))),
        (
            "causal window",
            problem([1, 2, 2, 9, 9, 4, 4], |p| {
                p.spec.causal = right;
                p.spec.window = Some(3);
            }),
        ),
        (
            "key lengths",
            problem(plain, |p| {
                p.spec.key_lengths = true;
                p.lengths = vec![3, 0];
            }),
        ),
        ("mask", problem(plain, |p| p.spec.mask = MaskKind::Boolean)),
        (
            "mask with full rows",
            problem(plain, |p| {
                p.spec.mask = MaskKind::Boolean;
                p.hidden_rows = 2;
            }),
        ),
        ("bias", problem(plain, |p| p.spec.biases = 1)),
        (
            "key starts",
            problem(plain, |p| {
                p.spec.key_starts = true;
                p.starts = vec![3, 7];
            }),
        ),
        (
            "segments",
            problem(plain, |p| {
                p.spec.segments = true;
                p.segments = [vec![0, 0, 1, 2], vec![1, 0, 1, 1, 3]];
            }),
        ),
        ("sinks", problem(plain, |p| p.spec.sinks = true)),
        (
            "sinks and rows without keys",
            problem(plain, |p| {
                p.spec.sinks = true;
                p.spec.mask = MaskKind::Boolean;
                p.hidden_rows = 2;
            }),
        ),
        (
            "soft cap",
            problem(plain, |p| {
                p.spec.biases = 1;
                p.spec.modifier = Some(ScoreExpr::constant(2.0) * (ScoreExpr::Score * ScoreExpr::constant(0.5)).tanh());
                p.spec.sinks = true;
                p.modify = |scores| scores.mul_scalar(0.5)?.tanh()?.mul_scalar(2.0);
            }),
        ),
        (
            "everything",
            problem(plain, |p| {
                p.spec.causal = right;
                p.spec.window = Some(4);
                p.spec.mask = MaskKind::Boolean;
                p.spec.key_lengths = true;
                p.lengths = vec![6, 5];
                p.spec.key_starts = true;
                p.starts = vec![0, 2];
                p.spec.segments = true;
                p.segments = [vec![0, 1], vec![0, 0, 1]];
                p.spec.biases = 1;
                p.spec.sinks = true;
                p.hidden_rows = 1;
            }),
        ),
    ];
    for (name, problem) in problems {
        problem.check(name, &device).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}
