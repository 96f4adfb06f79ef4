//! The functions that a call becomes, forward and backward: the roles of their inputs, and the way to the device.

use super::{
    Fallback, OP, Tokens,
    chunks::{self, ByRows, Chunk},
    compose,
};
use crate::{Backward, Data, Function, Saver, Tensor, function::run, fused::kernels_enabled, graph::records};
use attentia_backend::{
    AttentionCotangents, AttentionGrads, AttentionOperands, AttentionOut, AttentionSaved, AttentionSpec, Dropout,
    Error, ErrorKind, MaskKind, Result, Shape, Support, TokenIds, View, rules,
};

/// `out`, `lse` and the statistics.
#[derive(Clone, Debug)]
pub(crate) struct AttentionFunction {
    pub(crate) spec: AttentionSpec,
    pub(crate) scale: f64,
    pub(crate) scalars: Vec<f64>,
    pub(crate) dropout: Option<Dropout>,
}

/// The inputs by their roles.
pub(super) struct Given<'a> {
    pub(super) q: &'a Tensor,
    pub(super) k: &'a Tensor,
    pub(super) v: &'a Tensor,
    pub(super) mask: Option<&'a Tensor>,
    pub(super) key_lengths: Option<&'a Tensor>,
    pub(super) key_starts: Option<&'a Tensor>,
    pub(super) segments: Option<[&'a Tensor; 2]>,
    pub(super) tokens: Option<Tokens<'a>>,
    pub(super) sinks: Option<&'a Tensor>,
    pub(super) biases: &'a [&'a Tensor],
    pub(super) head_scalars: &'a [&'a Tensor],
}

impl AttentionFunction {
    pub(super) fn given<'a>(&self, inputs: &'a [&'a Tensor]) -> Given<'a> {
        let (q, k, v, mut rest) = (inputs[0], inputs[1], inputs[2], &inputs[3..]);
        let mut next = |there: bool| match rest.split_first() {
            Some((first, others)) if there => {
                rest = others;
                Some(*first)
            }
            _ => None,
        };
        let (mask, key_lengths) = (next(self.spec.mask == MaskKind::Boolean), next(self.spec.key_lengths));
        let key_starts = next(self.spec.key_starts);
        let segments = next(self.spec.segments).zip(next(self.spec.segments)).map(|(queries, keys)| [queries, keys]);
        let tokens = next(self.spec.needs_tokens()).zip(next(self.spec.needs_tokens()));
        let tokens = tokens.map(|(queries, keys)| Tokens { queries, keys });
        let sinks = next(self.spec.sinks);
        let (biases, head_scalars) = rest.split_at(usize::from(self.spec.biases).min(rest.len()));
        Given { q, k, v, mask, key_lengths, key_starts, segments, tokens, sinks, biases, head_scalars }
    }

    /// Where the sinks, biases and values per head begin among the inputs.
    fn first_learned(&self) -> usize {
        let spec = &self.spec;
        let tables = 2 * (usize::from(spec.segments) + usize::from(spec.needs_tokens()));
        let before = [spec.mask == MaskKind::Boolean, spec.key_lengths, spec.key_starts];
        3 + before.into_iter().map(usize::from).sum::<usize>() + tables
    }

    /// Which of `count` inputs a kernel can be asked for the gradients of: q, k, v, sinks, biases and values per head.
    fn places(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        (0..3).chain(self.first_learned()..count)
    }

    pub(super) fn support(&self, inputs: &[&Tensor]) -> Result<Support> {
        if !kernels_enabled() {
            return Ok(Support::Compose { why: "kernels are switched off in this thread".to_owned() });
        }
        self.with_operands(inputs, |operands| {
            Ok(inputs[0].device().attention_support(&self.spec, operands, records(inputs)))
        })
    }

    /// The kernel if there is one, else the composition.
    pub(crate) fn run(&self, inputs: &[&Tensor], fallback: Fallback) -> Result<Vec<Tensor>> {
        match self.support(inputs)? {
            Support::Kernel { .. } => run(self, inputs),
            Support::Compose { .. } if fallback == Fallback::Allow => self.compose(inputs),
            Support::Compose { why } => Err(Error::new(ErrorKind::Unsupported, OP, why)
                .operand(inputs[0].data.operand("q"))
                .help("Fallback::Allow composes it from primitives, in chunks of query rows")),
        }
    }

    pub(super) fn with_operands<T>(
        &self,
        inputs: &[&Tensor],
        use_them: impl FnOnce(&AttentionOperands) -> Result<T>,
    ) -> Result<T> {
        let given = self.given(inputs);
        let scores = Shape::new(&[given.q.shape()[0], given.q.shape()[1], given.q.shape()[2], given.k.shape()[2]])?;
        // Masks and biases are read as if they had the scores' shape: no copy is made.
        let whole = |t: &Tensor| rules::broadcast_to(t.meta("operand"), &scores);
        let mask_layout = given.mask.map(whole).transpose()?;
        let bias_layouts = given.biases.iter().map(|bias| whole(bias)).collect::<Result<Vec<_>>>()?;
        let mask = given.mask.zip(mask_layout.as_ref()).map(|(mask, layout)| mask.data.view_as(layout)).transpose()?;
        let biases = given.biases.iter().zip(&bias_layouts).map(|(bias, layout)| bias.data.view_as(layout));
        let biases = biases.collect::<Result<Vec<View>>>()?;
        let head_scalars = given.head_scalars.iter().map(|values| values.view()).collect::<Result<Vec<View>>>()?;
        use_them(&AttentionOperands {
            q: given.q.view()?,
            k: given.k.view()?,
            v: given.v.view()?,
            scale: self.scale,
            mask,
            biases: &biases,
            key_lengths: given.key_lengths.map(|lengths| lengths.view()).transpose()?,
            key_starts: given.key_starts.map(|starts| starts.view()).transpose()?,
            segments: match given.segments {
                Some([queries, keys]) => Some([queries.view()?, keys.view()?]),
                None => None,
            },
            scalars: &self.scalars,
            head_scalars: &head_scalars,
            sinks: given.sinks.map(|sinks| sinks.view()).transpose()?,
            dropout: self.dropout,
            tokens: match given.tokens {
                Some(Tokens { queries, keys }) => Some(TokenIds { queries: queries.view()?, keys: keys.view()? }),
                None => None,
            },
        })
    }
}

impl Function for AttentionFunction {
    fn name(&self) -> &'static str {
        OP
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (q, v) = (inputs[0], inputs[2]);
        let [b, h, t, _] = q.dims()?;
        let (rows, device, statistics) = (Shape::new(&[b, h, t])?, q.device(), q.dtype().statistics());
        let mut results = vec![q.data.alloc_like(q.dtype(), Shape::new(&[b, h, t, v.shape()[3]])?)?];
        for _ in 0..1 + self.spec.statistics.len() {
            results.push(Data::alloc(device, statistics, rows)?);
        }
        self.with_operands(inputs, |operands| {
            let mut views = results.iter_mut().map(Data::view_mut).collect::<Result<Vec<_>>>()?.into_iter();
            let (Some(out), Some(lse)) = (views.next(), views.next()) else { return Ok(()) };
            device.attention(&self.spec, operands, AttentionOut { out, lse, statistics: views.collect() })
        })?;
        (0..inputs.len()).for_each(|i| save.input(i));
        save.output(0);
        save.output(1);
        Ok(results)
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let mut gradients = vec![None; b.needs.len()];
        if b.grads.iter().skip(2).any(Option::is_some) {
            // No kernel carries gradients of statistics.
            b.saved.truncate(b.needs.len());
            return chunks::backward(self, b.saved, b.grads, b.needs);
        }
        let (dout, dlse) = (b.take_grad(0), b.take_grad(1));
        let count = b.needs.len();
        let wants: Vec<bool> = self.places(count).map(|i| b.wants(i)).collect();
        if (dout.is_none() && dlse.is_none()) || !wants.contains(&true) {
            return Ok(gradients);
        }
        let backward = AttentionBackward { attention: self.clone(), wants, dout: dout.is_some(), dlse: dlse.is_some() };
        let operands: Vec<&Tensor> = b.saved.iter().chain(&dout).chain(&dlse).collect();
        let mut results = run(&backward, &operands)?.into_iter();
        for (place, _) in self.places(count).zip(&backward.wants).filter(|(_, wanted)| **wanted) {
            gradients[place] = results.next();
        }
        Ok(gradients)
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        chunks::compose(self, inputs)
    }
}

impl ByRows for AttentionFunction {
    fn attention(&self) -> &AttentionFunction {
        self
    }

    fn input_axes(&self, inputs: &[&Tensor]) -> Vec<Option<usize>> {
        let given = self.given(inputs);
        let queries = given.q.shape()[2];
        // A mask or a bias that repeats along the rows is whole in each chunk.
        let broadcast = |x: &Tensor| x.rank().checked_sub(2).filter(|&axis| x.shape()[axis] == queries);
        let mut axes = vec![Some(2), None, None];
        axes.extend(given.mask.map(broadcast));
        axes.extend([given.key_lengths, given.key_starts].into_iter().flatten().map(|_| None));
        axes.extend(given.segments.iter().flat_map(|_| [Some(1), None]));
        axes.extend(given.tokens.iter().flat_map(|_| [Some(1), None]));
        axes.extend(given.sinks.map(|_| None));
        axes.extend(given.biases.iter().map(|bias| broadcast(bias)));
        axes.extend(given.head_scalars.iter().map(|_| None));
        axes
    }

    fn output_axes(&self, _: &[&Tensor]) -> Vec<Option<usize>> {
        vec![Some(2); 2 + self.spec.statistics.len()]
    }

    fn compose_rows(&self, inputs: &[&Tensor], chunk: Chunk) -> Result<Vec<Tensor>> {
        compose::forward(self, &self.given(inputs), chunk)
    }
}

/// The gradients of q, k, v, sinks, biases and values per head that are wanted, from the inputs, `out`, `lse`, and the
/// cotangents of the two that there are.
#[derive(Clone, Debug)]
pub(crate) struct AttentionBackward {
    attention: AttentionFunction,
    wants: Vec<bool>,
    dout: bool,
    dlse: bool,
}

impl AttentionBackward {
    /// The attention's inputs, `[out, lse]`, and the cotangents.
    fn parts<'a, 'b>(&self, inputs: &'b [&'a Tensor]) -> (&'b [&'a Tensor], [&'a Tensor; 2], [Option<&'a Tensor>; 2]) {
        let cotangents = usize::from(self.dout) + usize::from(self.dlse);
        let (operands, rest) = inputs.split_at(inputs.len() - cotangents - 2);
        let dout = self.dout.then(|| rest[2]);
        let dlse = self.dlse.then(|| rest[rest.len() - 1]);
        (operands, [rest[0], rest[1]], [dout, dlse])
    }
}

impl Function for AttentionBackward {
    fn name(&self) -> &'static str {
        "attention_backward"
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (operands, [out, lse], [dout, dlse]) = self.parts(inputs);
        let device = out.device();
        let mut results: Vec<Option<Data>> = Vec::new();
        for (place, &wanted) in self.attention.places(operands.len()).zip(&self.wants) {
            let like = operands[place];
            results.push(wanted.then(|| like.data.alloc_like(like.dtype(), *like.shape())).transpose()?);
        }
        self.attention.with_operands(operands, |given| {
            let views = results.iter_mut().map(|result| result.as_mut().map(Data::view_mut).transpose());
            let mut views = views.collect::<Result<Vec<_>>>()?.into_iter();
            let mut next = || views.next().flatten();
            let (q, k, v) = (next(), next(), next());
            let sinks = if self.attention.spec.sinks { next() } else { None };
            let biases = views.by_ref().take(usize::from(self.attention.spec.biases)).collect();
            let grads = AttentionGrads { q, k, v, biases, head_scalars: views.collect(), sinks };
            let saved = AttentionSaved { out: out.view()?, lse: lse.view()? };
            let (dout, dlse) = (dout.map(Tensor::view).transpose()?, dlse.map(Tensor::view).transpose()?);
            let cotangents = AttentionCotangents { out: dout, lse: dlse };
            device.attention_backward(&self.attention.spec, given, &saved, &cotangents, grads)
        })?;
        (0..inputs.len()).for_each(|i| save.input(i));
        Ok(results.into_iter().flatten().collect())
    }

    fn backward(&self, b: Backward) -> Result<Vec<Option<Tensor>>> {
        chunks::backward(self, b.saved, b.grads, b.needs)
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        chunks::compose(self, inputs)
    }
}

impl ByRows for AttentionBackward {
    fn attention(&self) -> &AttentionFunction {
        &self.attention
    }

    fn input_axes(&self, inputs: &[&Tensor]) -> Vec<Option<usize>> {
        let (operands, ..) = self.parts(inputs);
        let mut axes = self.attention.input_axes(operands);
        axes.resize(inputs.len(), Some(2)); // out, lse, and their cotangents
        axes
    }

    fn output_axes(&self, inputs: &[&Tensor]) -> Vec<Option<usize>> {
        let (operands, ..) = self.parts(inputs);
        let axes = self.attention.input_axes(operands);
        let wanted = self.attention.places(operands.len()).zip(&self.wants).filter(|(_, wanted)| **wanted);
        wanted.map(|(place, _)| axes[place]).collect()
    }

    fn compose_rows(&self, inputs: &[&Tensor], chunk: Chunk) -> Result<Vec<Tensor>> {
        let (operands, _, cotangents) = self.parts(inputs);
        compose::backward(&self.attention, &self.attention.given(operands), cotangents, &self.wants, chunk)
    }
}
