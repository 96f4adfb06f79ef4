//! The oracle: every operation of [`Backend`] as a plain `f64` loop over `ndarray`, written to be read.
//!
//! ```text
//! elementwise  reduce  sort  matmul  index  random  transfer      primitives
//! softmax  norm  cross_entropy  activation  dropout  adamw        fused operations, by their formulas
//! attention                                                       a row of scores at a time, forward and backward
//! storage  number  arithmetic  check                              what they stand on
//! ```
//!
//! Every float is kept as an `f64` that its dtype holds exactly. [`ReferenceBackend::new`] computes in `f64` and rounds
//! each result once. [`ReferenceBackend::rounding`] is the naive composition that fused kernels are measured against:
//! it rounds to the operands' dtype after every primitive, and adds up in the dtype of
//! [`Accumulation`](attentia_backend::Accumulation), one rounded sum after the other.
//!
//! ```
//! use attentia_backend::{Backend, DType, HostSlice, HostSliceMut, Layout, Shape, SoftmaxKind, Source, View, ViewMut};
//! use attentia_reference::ReferenceBackend;
//!
//! let backend = ReferenceBackend::new();
//! let layout = Layout::contiguous(Shape::new(&[3])?);
//! let mut x = backend.alloc(DType::F32, 3)?;
//! backend.upload(HostSlice::F32(&[0.0, 0.0, f32::NEG_INFINITY]), ViewMut::new(&mut x, &layout)?)?;
//!
//! let mut y = backend.alloc(DType::F32, 3)?;
//! let source = Source::View(View::new(&x, &layout)?);
//! backend.softmax(SoftmaxKind::Softmax, source, None, ViewMut::new(&mut y, &layout)?)?;
//!
//! let mut host = [0f32; 3];
//! backend.download(View::new(&y, &layout)?, HostSliceMut::F32(&mut host))?;
//! assert_eq!(host, [0.5, 0.5, 0.0]);
//! # Ok::<(), attentia_backend::Error>(())
//! ```

#![forbid(unsafe_code)]

mod activation;
mod adamw;
mod arithmetic;
mod attention;
mod check;
mod cross_entropy;
mod dropout;
mod elementwise;
mod index;
mod matmul;
mod norm;
mod number;
mod random;
mod reduce;
#[cfg(test)]
mod sample;
mod softmax;
mod sort;
mod storage;
#[cfg(test)]
mod tests;
mod transfer;

use arithmetic::Arithmetic;
use attentia_backend::{
    Activation, AdamW, ArgReduce, AttentionCotangents, AttentionGrads, AttentionMap, AttentionOperands, AttentionOut,
    AttentionSaved, AttentionSpec, Backend, Binary, Buffer, ByteOwner, Compare, CrossEntropy, DType, Dropout, Epilogue,
    FusedOp, HostSlice, HostSliceMut, MemoryUse, Reduce, Result, RngKey, Scalar, SoftmaxKind, Source, Support, Unary,
    View, ViewMut,
};
use norm::Norm;
use std::{any::Any, sync::Arc};
use storage::{Meter, ReferenceStorage};

/// The reference implementation of every operation. Buffers of one may be used with another.
#[derive(Clone, Debug, Default)]
pub struct ReferenceBackend {
    rounding: bool,
    meter: Arc<Meter>,
}

impl ReferenceBackend {
    /// The oracle: computes in `f64`, rounds each result once. Its name is `reference`.
    pub fn new() -> ReferenceBackend {
        ReferenceBackend::default()
    }

    /// The naive composition: rounds after every primitive. Its name is `reference-rounding`.
    pub fn rounding() -> ReferenceBackend {
        ReferenceBackend { rounding: true, ..ReferenceBackend::default() }
    }

    /// How an operation on operands of this dtype is computed.
    fn arithmetic(&self, dtype: DType) -> Arithmetic {
        if self.rounding { Arithmetic::rounding(dtype) } else { Arithmetic::EXACT }
    }

    fn of_source(&self, x: Source, out: &ViewMut) -> Arithmetic {
        self.arithmetic(check::source("x", x, out).dtype)
    }

    fn float_kernel(&self, dtype: DType) -> Support {
        if dtype.is_float() {
            return Support::Kernel { name: "reference", workspace: 0 };
        }
        Support::Compose { why: format!("not defined for {dtype}") }
    }
}

impl Backend for ReferenceBackend {
    fn name(&self) -> &str {
        if self.rounding { "reference-rounding" } else { "reference" }
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        Ok(Buffer::new(ReferenceStorage::new(dtype, len, &self.meter)?))
    }

    /// Always `None`: elements are kept as `f64` and `i64`, so that bytes of another dtype can't be read in place.
    fn adopt(&self, _owner: Arc<dyn ByteOwner>, _dtype: DType) -> Result<Option<Buffer>> {
        Ok(None)
    }

    fn upload(&self, host: HostSlice, out: ViewMut) -> Result<()> {
        transfer::upload(host, out)
    }

    fn download(&self, x: View, host: HostSliceMut) -> Result<()> {
        transfer::download(x, host)
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn memory(&self) -> MemoryUse {
        self.meter.read()
    }

    fn unary(&self, op: Unary, x: Source, out: ViewMut) -> Result<()> {
        elementwise::unary(op, x, out)
    }

    fn binary(&self, op: Binary, a: Source, b: View, out: ViewMut) -> Result<()> {
        elementwise::binary(op, a, b, out)
    }

    fn compare(&self, op: Compare, a: View, b: View, out: ViewMut) -> Result<()> {
        elementwise::compare(op, a, b, out)
    }

    fn select(&self, condition: View, a: View, b: View, out: ViewMut) -> Result<()> {
        elementwise::select(condition, a, b, out)
    }

    fn reduce(&self, op: Reduce, x: View, axes: &[usize], out: ViewMut) -> Result<()> {
        reduce::reduce(self.arithmetic(x.dtype()), op, x, axes, out)
    }

    fn arg_reduce(&self, op: ArgReduce, x: View, axis: usize, out: ViewMut) -> Result<()> {
        reduce::arg_reduce(op, x, axis, out)
    }

    fn cumsum(&self, x: View, axis: usize, out: ViewMut) -> Result<()> {
        reduce::cumsum(self.arithmetic(x.dtype()), x, axis, out)
    }

    fn sort(&self, x: View, axis: usize, descending: bool, values: ViewMut, indices: ViewMut) -> Result<()> {
        sort::sort(x, axis, descending, values, indices)
    }

    fn matmul(&self, a: View, b: View, epilogue: Epilogue, out: ViewMut) -> Result<()> {
        matmul::matmul(self.arithmetic(a.dtype()), a, b, epilogue, out)
    }

    fn copy(&self, x: View, out: ViewMut) -> Result<()> {
        elementwise::copy(x, out)
    }

    fn gather(&self, x: View, index: View, axis: usize, out: ViewMut) -> Result<()> {
        index::gather(x, index, axis, out)
    }

    fn scatter_add(&self, index: View, src: View, axis: usize, out: ViewMut) -> Result<()> {
        index::scatter_add(self.arithmetic(src.dtype()), index, src, axis, out)
    }

    fn iota(&self, start: Scalar, step: Scalar, out: ViewMut) -> Result<()> {
        transfer::iota(start, step, out)
    }

    fn full(&self, value: Scalar, out: ViewMut) -> Result<()> {
        transfer::full(value, out)
    }

    fn uniform(&self, key: RngKey, low: f64, high: f64, out: ViewMut) -> Result<()> {
        random::uniform(key, low, high, out)
    }

    fn normal(&self, key: RngKey, mean: f64, deviation: f64, out: ViewMut) -> Result<()> {
        random::normal(key, mean, deviation, out)
    }

    fn support(&self, op: FusedOp, dtype: DType) -> Support {
        match op {
            FusedOp::Embedding => Support::Kernel { name: "reference", workspace: 0 },
            _ => self.float_kernel(dtype),
        }
    }

    fn softmax(&self, kind: SoftmaxKind, x: Source, mask: Option<View>, out: ViewMut) -> Result<()> {
        softmax::softmax(self.of_source(x, &out), kind, x, mask, out)
    }

    fn softmax_backward(&self, kind: SoftmaxKind, y: View, dy: Source, dx: ViewMut) -> Result<()> {
        softmax::softmax_backward(self.arithmetic(y.dtype()), kind, y, dy, dx)
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
        let operands = norm::Operands { x, weight, bias, epsilon };
        norm::forward(self.arithmetic(x.dtype()), &operands, out, Norm::Layer { mean }, rstd)
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
        let gradients = norm::Gradients { x: dx, weight: dweight, bias: dbias };
        norm::backward(self.arithmetic(x.dtype()), x, weight, Norm::Layer { mean }, rstd, dy, gradients)
    }

    fn rms_norm(&self, x: View, weight: Option<View>, epsilon: f64, out: ViewMut, rstd: ViewMut) -> Result<()> {
        let operands = norm::Operands { x, weight, bias: None, epsilon };
        norm::forward(self.arithmetic(x.dtype()), &operands, out, Norm::Rms, rstd)
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
        let gradients = norm::Gradients { x: dx, weight: dweight, bias: None };
        norm::backward(self.arithmetic(x.dtype()), x, weight, Norm::Rms, rstd, dy, gradients)
    }

    fn cross_entropy(
        &self,
        spec: &CrossEntropy,
        logits: View,
        targets: View,
        loss: ViewMut,
        lse: ViewMut,
    ) -> Result<()> {
        cross_entropy::forward(self.arithmetic(logits.dtype()), spec, logits, targets, loss, lse)
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
        cross_entropy::backward(self.arithmetic(logits.dtype()), spec, logits, targets, lse, dloss, dlogits)
    }

    fn activation(&self, f: Activation, x: Source, out: ViewMut) -> Result<()> {
        activation::forward(self.of_source(x, &out), f, x, out)
    }

    fn activation_backward(&self, f: Activation, x: View, dy: Source, dx: ViewMut) -> Result<()> {
        activation::backward(self.arithmetic(x.dtype()), f, x, dy, dx)
    }

    fn embedding(&self, table: View, index: View, out: ViewMut) -> Result<()> {
        index::embedding(table, index, out)
    }

    fn embedding_backward(&self, index: View, dy: View, dtable: ViewMut) -> Result<()> {
        index::embedding_backward(self.arithmetic(dy.dtype()), index, dy, dtable)
    }

    fn dropout(&self, spec: &Dropout, x: Source, out: ViewMut) -> Result<()> {
        dropout::dropout(self.of_source(x, &out), spec, x, out)
    }

    fn adamw(
        &self,
        spec: &AdamW,
        gradient: View,
        parameter: ViewMut,
        first_moment: ViewMut,
        second_moment: ViewMut,
    ) -> Result<()> {
        let a = self.arithmetic(parameter.dtype().statistics());
        adamw::adamw(a, spec, gradient, parameter, first_moment, second_moment)
    }

    fn attention_support(
        &self,
        _spec: &AttentionSpec,
        operands: &AttentionOperands,
        _needs_gradients: bool,
    ) -> Support {
        self.float_kernel(operands.q.dtype())
    }

    fn attention(&self, spec: &AttentionSpec, operands: &AttentionOperands, out: AttentionOut) -> Result<()> {
        attention::forward(self.arithmetic(operands.q.dtype()), spec, operands, out)
    }

    fn attention_backward(
        &self,
        spec: &AttentionSpec,
        operands: &AttentionOperands,
        saved: &AttentionSaved,
        cotangents: &AttentionCotangents,
        grads: AttentionGrads,
    ) -> Result<()> {
        attention::backward(self.arithmetic(operands.q.dtype()), spec, operands, saved, cotangents, grads)
    }

    fn attention_maps_support(&self, _spec: &AttentionSpec, operands: &AttentionOperands, _gradients: bool) -> Support {
        self.float_kernel(operands.q.dtype())
    }

    fn attention_maps(
        &self,
        spec: &AttentionSpec,
        operands: &AttentionOperands,
        lse: View,
        dout: Option<View>,
        maps: Vec<AttentionMap>,
    ) -> Result<()> {
        attention::maps(self.arithmetic(operands.q.dtype()), spec, operands, lse, dout, maps)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
