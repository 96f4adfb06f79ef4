//! A backend written outside the engine: it forwards every entry to another one, counts the calls, and can hide its
//! kernels.
//!
//! That it compiles here, against the public vocabulary alone, is a promise to whoever writes a backend. That it can
//! hide the kernels makes it an oracle: on it, every fused operation is composed from primitives.

use attentia_backend::{
    Activation, AdamW, ArgReduce, AttentionCotangents, AttentionGrads, AttentionMap, AttentionOperands, AttentionOut,
    AttentionSaved, AttentionSpec, Backend, Binary, Buffer, ByteOwner, Compare, CrossEntropy, DType, Device, Dropout,
    Epilogue, FusedOp, HostSlice, HostSliceMut, MemoryUse, Reduce, Result, RngKey, Scalar, SoftmaxKind, Source,
    Support, Unary, View, ViewMut,
};
use std::{
    any::Any,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// How often each entry was called.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl Calls {
    /// Calls of one entry.
    pub fn of(&self, entry: &str) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(entry).copied().unwrap_or(0)
    }

    fn add(&self, entry: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(entry).or_default() += 1;
    }
}

/// The backend: another one, seen through a counter.
#[derive(Debug)]
pub struct Outside {
    inner: Device,
    name: String,
    kernels: bool,
    calls: Calls,
}

impl Outside {
    /// Counts the calls of a backend.
    pub fn counting(inner: Device) -> (Outside, Calls) {
        let calls = Calls::default();
        (Outside { name: format!("{}-counted", inner.name()), inner, kernels: true, calls: calls.clone() }, calls)
    }

    /// Answers that there is a kernel for nothing.
    pub fn compose_only(inner: Device) -> Outside {
        Outside { name: format!("{}-composed", inner.name()), inner, kernels: false, calls: Calls::default() }
    }

    fn count(&self, entry: &'static str) -> &dyn Backend {
        self.calls.add(entry);
        &*self.inner
    }

    fn hidden(&self) -> Support {
        Support::Compose { why: format!("{} composes everything", self.name) }
    }
}

impl Backend for Outside {
    fn name(&self) -> &str {
        &self.name
    }

    fn support(&self, op: FusedOp, dtype: DType) -> Support {
        if self.kernels { self.count("support").support(op, dtype) } else { self.hidden() }
    }

    fn attention_support(&self, spec: &AttentionSpec, operands: &AttentionOperands, needs_gradients: bool) -> Support {
        match self.kernels {
            true => self.count("attention_support").attention_support(spec, operands, needs_gradients),
            false => self.hidden(),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self.inner.as_any()
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        self.count("alloc").alloc(dtype, len)
    }
    fn adopt(&self, owner: Arc<dyn ByteOwner>, dtype: DType) -> Result<Option<Buffer>> {
        self.count("adopt").adopt(owner, dtype)
    }
    fn upload(&self, host: HostSlice, out: ViewMut) -> Result<()> {
        self.count("upload").upload(host, out)
    }
    fn download(&self, x: View, host: HostSliceMut) -> Result<()> {
        self.count("download").download(x, host)
    }
    fn synchronize(&self) -> Result<()> {
        self.count("synchronize").synchronize()
    }
    fn memory(&self) -> MemoryUse {
        self.count("memory").memory()
    }
    fn unary(&self, op: Unary, x: Source, out: ViewMut) -> Result<()> {
        self.count("unary").unary(op, x, out)
    }
    fn binary(&self, op: Binary, a: Source, b: View, out: ViewMut) -> Result<()> {
        self.count("binary").binary(op, a, b, out)
    }
    fn compare(&self, op: Compare, a: View, b: View, out: ViewMut) -> Result<()> {
        self.count("compare").compare(op, a, b, out)
    }
    fn select(&self, condition: View, a: View, b: View, out: ViewMut) -> Result<()> {
        self.count("select").select(condition, a, b, out)
    }
    fn reduce(&self, op: Reduce, x: View, axes: &[usize], out: ViewMut) -> Result<()> {
        self.count("reduce").reduce(op, x, axes, out)
    }
    fn arg_reduce(&self, op: ArgReduce, x: View, axis: usize, out: ViewMut) -> Result<()> {
        self.count("arg_reduce").arg_reduce(op, x, axis, out)
    }
    fn cumsum(&self, x: View, axis: usize, out: ViewMut) -> Result<()> {
        self.count("cumsum").cumsum(x, axis, out)
    }
    fn sort(&self, x: View, axis: usize, descending: bool, values: ViewMut, indices: ViewMut) -> Result<()> {
        self.count("sort").sort(x, axis, descending, values, indices)
    }
    fn matmul(&self, a: View, b: View, epilogue: Epilogue, out: ViewMut) -> Result<()> {
        self.count("matmul").matmul(a, b, epilogue, out)
    }
    fn copy(&self, x: View, out: ViewMut) -> Result<()> {
        self.count("copy").copy(x, out)
    }
    fn gather(&self, x: View, index: View, axis: usize, out: ViewMut) -> Result<()> {
        self.count("gather").gather(x, index, axis, out)
    }
    fn scatter_add(&self, index: View, src: View, axis: usize, out: ViewMut) -> Result<()> {
        self.count("scatter_add").scatter_add(index, src, axis, out)
    }
    fn iota(&self, start: Scalar, step: Scalar, out: ViewMut) -> Result<()> {
        self.count("iota").iota(start, step, out)
    }
    fn full(&self, value: Scalar, out: ViewMut) -> Result<()> {
        self.count("full").full(value, out)
    }
    fn uniform(&self, key: RngKey, low: f64, high: f64, out: ViewMut) -> Result<()> {
        self.count("uniform").uniform(key, low, high, out)
    }
    fn normal(&self, key: RngKey, mean: f64, deviation: f64, out: ViewMut) -> Result<()> {
        self.count("normal").normal(key, mean, deviation, out)
    }
    fn softmax(&self, kind: SoftmaxKind, x: Source, mask: Option<View>, out: ViewMut) -> Result<()> {
        self.count("softmax").softmax(kind, x, mask, out)
    }
    fn softmax_backward(&self, kind: SoftmaxKind, y: View, dy: Source, dx: ViewMut) -> Result<()> {
        self.count("softmax_backward").softmax_backward(kind, y, dy, dx)
    }
    fn layer_norm(
        &self,
        x: View,
        weight: Option<View>,
        bias: Option<View>,
        epsilon: f64,
        out: ViewMut,
        mean: ViewMut,
        rstd: ViewMut,
    ) -> Result<()> {
        self.count("layer_norm").layer_norm(x, weight, bias, epsilon, out, mean, rstd)
    }
    fn layer_norm_backward(
        &self,
        x: View,
        weight: Option<View>,
        mean: View,
        rstd: View,
        dy: View,
        dx: Option<ViewMut>,
        dweight: Option<ViewMut>,
        dbias: Option<ViewMut>,
    ) -> Result<()> {
        self.count("layer_norm_backward").layer_norm_backward(x, weight, mean, rstd, dy, dx, dweight, dbias)
    }
    fn rms_norm(&self, x: View, weight: Option<View>, epsilon: f64, out: ViewMut, rstd: ViewMut) -> Result<()> {
        self.count("rms_norm").rms_norm(x, weight, epsilon, out, rstd)
    }
    fn rms_norm_backward(
        &self,
        x: View,
        weight: Option<View>,
        rstd: View,
        dy: View,
        dx: Option<ViewMut>,
        dweight: Option<ViewMut>,
    ) -> Result<()> {
        self.count("rms_norm_backward").rms_norm_backward(x, weight, rstd, dy, dx, dweight)
    }
    fn cross_entropy(
        &self,
        spec: &CrossEntropy,
        logits: View,
        targets: View,
        loss: ViewMut,
        lse: ViewMut,
    ) -> Result<()> {
        self.count("cross_entropy").cross_entropy(spec, logits, targets, loss, lse)
    }
    fn cross_entropy_backward(
        &self,
        spec: &CrossEntropy,
        logits: View,
        targets: View,
        lse: View,
        dloss: View,
        dlogits: ViewMut,
    ) -> Result<()> {
        self.count("cross_entropy_backward").cross_entropy_backward(spec, logits, targets, lse, dloss, dlogits)
    }
    fn activation(&self, f: Activation, x: Source, out: ViewMut) -> Result<()> {
        self.count("activation").activation(f, x, out)
    }
    fn activation_backward(&self, f: Activation, x: View, dy: Source, dx: ViewMut) -> Result<()> {
        self.count("activation_backward").activation_backward(f, x, dy, dx)
    }
    fn embedding(&self, table: View, index: View, out: ViewMut) -> Result<()> {
        self.count("embedding").embedding(table, index, out)
    }
    fn embedding_backward(&self, index: View, dy: View, dtable: ViewMut) -> Result<()> {
        self.count("embedding_backward").embedding_backward(index, dy, dtable)
    }
    fn dropout(&self, spec: &Dropout, x: Source, out: ViewMut) -> Result<()> {
        self.count("dropout").dropout(spec, x, out)
    }
    fn adamw(
        &self,
        spec: &AdamW,
        gradient: View,
        parameter: ViewMut,
        first_moment: ViewMut,
        second_moment: ViewMut,
    ) -> Result<()> {
        self.count("adamw").adamw(spec, gradient, parameter, first_moment, second_moment)
    }
    fn attention(&self, spec: &AttentionSpec, operands: &AttentionOperands, out: AttentionOut) -> Result<()> {
        self.count("attention").attention(spec, operands, out)
    }
    fn attention_backward(
        &self,
        spec: &AttentionSpec,
        operands: &AttentionOperands,
        saved: &AttentionSaved,
        cotangents: &AttentionCotangents,
        grads: AttentionGrads,
    ) -> Result<()> {
        self.count("attention_backward").attention_backward(spec, operands, saved, cotangents, grads)
    }
    fn attention_maps_support(&self, spec: &AttentionSpec, operands: &AttentionOperands, gradients: bool) -> Support {
        match self.kernels {
            true => self.count("attention_maps_support").attention_maps_support(spec, operands, gradients),
            false => self.hidden(),
        }
    }
    fn attention_maps(
        &self,
        spec: &AttentionSpec,
        operands: &AttentionOperands,
        lse: View,
        dout: Option<View>,
        maps: Vec<AttentionMap>,
    ) -> Result<()> {
        self.count("attention_maps").attention_maps(spec, operands, lse, dout, maps)
    }
}
