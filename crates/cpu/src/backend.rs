//! The trait's entries, forwarded to the module of each kernel.

use crate::{
    CpuBackend, activation, adamw, attention, cross_entropy, dropout, elementwise, index, matmul, norm, random, reduce,
    softmax, sort, storage::CpuStorage, transfer,
};
use attentia_backend::{
    Activation, AdamW, ArgReduce, AttentionCotangents, AttentionGrads, AttentionMap, AttentionOperands, AttentionOut,
    AttentionSaved, AttentionSpec, Backend, Binary, Buffer, ByteOwner, Compare, CrossEntropy, DType, Dropout, Epilogue,
    FusedOp, HostSlice, HostSliceMut, MemoryUse, Reduce, Result, RngKey, Scalar, SoftmaxKind, Source, Support, Unary,
    View, ViewMut,
};
use std::{any::Any, sync::Arc};

impl Backend for CpuBackend {
    fn name(&self) -> &str {
        "cpu"
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        Ok(Buffer::new(CpuStorage::alloc(&self.pool, dtype, len)?))
    }

    fn adopt(&self, owner: Arc<dyn ByteOwner>, dtype: DType) -> Result<Option<Buffer>> {
        Ok(CpuStorage::adopt(owner, dtype).map(Buffer::new))
    }

    fn synchronize(&self) -> Result<()> {
        Ok(()) // every entry returns when its work is done
    }

    fn memory(&self) -> MemoryUse {
        self.pool.usage()
    }

    fn support(&self, op: FusedOp, _dtype: DType) -> Support {
        Support::Kernel { name: op.name(), workspace: 0 }
    }

    fn upload(&self, host: HostSlice, out: ViewMut) -> Result<()> {
        transfer::upload(self, host, out)
    }
    fn download(&self, x: View, host: HostSliceMut) -> Result<()> {
        transfer::download(self, x, host)
    }
    fn unary(&self, op: Unary, x: Source, out: ViewMut) -> Result<()> {
        elementwise::unary(self, op, x, out)
    }
    fn binary(&self, op: Binary, a: Source, b: View, out: ViewMut) -> Result<()> {
        elementwise::binary(self, op, a, b, out)
    }
    fn compare(&self, op: Compare, a: View, b: View, out: ViewMut) -> Result<()> {
        elementwise::compare(self, op, a, b, out)
    }
    fn select(&self, condition: View, a: View, b: View, out: ViewMut) -> Result<()> {
        elementwise::select(self, condition, a, b, out)
    }
    fn reduce(&self, op: Reduce, x: View, axes: &[usize], out: ViewMut) -> Result<()> {
        reduce::reduce(self, op, x, axes, out)
    }
    fn arg_reduce(&self, op: ArgReduce, x: View, axis: usize, out: ViewMut) -> Result<()> {
        reduce::arg_reduce(self, op, x, axis, out)
    }
    fn cumsum(&self, x: View, axis: usize, out: ViewMut) -> Result<()> {
        reduce::cumsum(self, x, axis, out)
    }
    fn sort(&self, x: View, axis: usize, descending: bool, values: ViewMut, indices: ViewMut) -> Result<()> {
        sort::sort(self, x, axis, descending, values, indices)
    }
    fn matmul(&self, a: View, b: View, epilogue: Epilogue, out: ViewMut) -> Result<()> {
        matmul::matmul(self, a, b, epilogue, out)
    }
    fn copy(&self, x: View, out: ViewMut) -> Result<()> {
        elementwise::copy(self, x, out)
    }
    fn gather(&self, x: View, index: View, axis: usize, out: ViewMut) -> Result<()> {
        index::gather(self, x, index, axis, out)
    }
    fn scatter_add(&self, index: View, src: View, axis: usize, out: ViewMut) -> Result<()> {
        index::scatter_add(self, index, src, axis, out)
    }
    fn iota(&self, start: Scalar, step: Scalar, out: ViewMut) -> Result<()> {
        elementwise::iota(self, start, step, out)
    }
    fn full(&self, value: Scalar, out: ViewMut) -> Result<()> {
        elementwise::full(self, value, out)
    }
    fn uniform(&self, key: RngKey, low: f64, high: f64, out: ViewMut) -> Result<()> {
        random::uniform(self, key, low, high, out)
    }
    fn normal(&self, key: RngKey, mean: f64, deviation: f64, out: ViewMut) -> Result<()> {
        random::normal(self, key, mean, deviation, out)
    }
    fn softmax(&self, kind: SoftmaxKind, x: Source, mask: Option<View>, out: ViewMut) -> Result<()> {
        softmax::softmax(self, kind, x, mask, out)
    }
    fn softmax_backward(&self, kind: SoftmaxKind, y: View, dy: Source, dx: ViewMut) -> Result<()> {
        softmax::softmax_backward(self, kind, y, dy, dx)
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
        norm::layer_norm(self, x, weight, bias, epsilon, out, mean, rstd)
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
        norm::layer_norm_backward(self, x, weight, mean, rstd, dy, dx, dweight, dbias)
    }
    fn rms_norm(&self, x: View, weight: Option<View>, epsilon: f64, out: ViewMut, rstd: ViewMut) -> Result<()> {
        norm::rms_norm(self, x, weight, epsilon, out, rstd)
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
        norm::rms_norm_backward(self, x, weight, rstd, dy, dx, dweight)
    }
    fn cross_entropy(
        &self,
        spec: &CrossEntropy,
        logits: View,
        targets: View,
        loss: ViewMut,
        lse: ViewMut,
    ) -> Result<()> {
        cross_entropy::cross_entropy(self, spec, logits, targets, loss, lse)
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
        cross_entropy::cross_entropy_backward(self, spec, logits, targets, lse, dloss, dlogits)
    }
    fn activation(&self, f: Activation, x: Source, out: ViewMut) -> Result<()> {
        activation::activation(self, f, x, out)
    }
    fn activation_backward(&self, f: Activation, x: View, dy: Source, dx: ViewMut) -> Result<()> {
        activation::activation_backward(self, f, x, dy, dx)
    }
    fn embedding(&self, table: View, index: View, out: ViewMut) -> Result<()> {
        index::embedding(self, table, index, out)
    }
    fn embedding_backward(&self, index: View, dy: View, dtable: ViewMut) -> Result<()> {
        index::embedding_backward(self, index, dy, dtable)
    }
    fn dropout(&self, spec: &Dropout, x: Source, out: ViewMut) -> Result<()> {
        dropout::dropout(self, spec, x, out)
    }
    fn adamw(
        &self,
        spec: &AdamW,
        gradient: View,
        parameter: ViewMut,
        first_moment: ViewMut,
        second_moment: ViewMut,
    ) -> Result<()> {
        adamw::adamw(self, spec, gradient, parameter, first_moment, second_moment)
    }

    fn attention_support(&self, spec: &AttentionSpec, operands: &AttentionOperands, _: bool) -> Support {
        attention::support(self, spec, operands)
    }

    fn attention(&self, spec: &AttentionSpec, operands: &AttentionOperands, out: AttentionOut) -> Result<()> {
        attention::attention(self, spec, operands, out)
    }

    fn attention_backward(
        &self,
        spec: &AttentionSpec,
        operands: &AttentionOperands,
        saved: &AttentionSaved,
        cotangents: &AttentionCotangents,
        grads: AttentionGrads,
    ) -> Result<()> {
        attention::attention_backward(self, spec, operands, saved, cotangents, grads)
    }

    fn attention_maps_support(&self, spec: &AttentionSpec, operands: &AttentionOperands, gradients: bool) -> Support {
        attention::maps_support(self, spec, operands, gradients)
    }

    fn attention_maps(
        &self,
        spec: &AttentionSpec,
        operands: &AttentionOperands,
        lse: View,
        dout: Option<View>,
        maps: Vec<AttentionMap>,
    ) -> Result<()> {
        attention::attention_maps(self, spec, operands, lse, dout, maps)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
