//! The trait that a compute engine implements.

use crate::{
    Activation, AdamW, ArgReduce, AttentionCotangents, AttentionGrads, AttentionMap, AttentionOperands, AttentionOut,
    AttentionSaved, AttentionSpec, Binary, Buffer, ByteOwner, Compare, CrossEntropy, DType, Dropout, Epilogue, Error,
    ErrorKind, FusedOp, HostSlice, HostSliceMut, Reduce, Result, RngKey, Scalar, SoftmaxKind, Source, Support, Unary,
    View, ViewMut,
};
use std::{any::Any, fmt, fmt::Debug, ops::Deref, sync::Arc};

/// Figures of a backend's memory, in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Held by buffers now.
    pub live: usize,
    /// The most that was ever held by buffers.
    pub peak: usize,
    /// Kept by the pool for the next allocation.
    pub cached: usize,
    /// How often the pool had to ask the system, since the start.
    pub system_allocations: usize,
}

/// Where buffers live and kernels run.
///
/// Shapes and gradients belong to the tensor library, which has validated the call with [`crate::rules`]: a backend
/// computes, or says what it can't. It never returns wrong numbers for a layout that it dislikes, and never copies an
/// operand to make it contiguous. Work is asynchronous until `synchronize` or `download`.
///
/// Conventions, which the conformance suite checks for every backend:
/// - the caller allocates: dtype, strides and place of a result are the caller's;
/// - elementwise operands have been broadcast (by stride 0) to the destination's shape;
/// - a reduced axis stays in the destination with extent 1;
/// - axes are below the rank; everything "along the last axis" is permuted there by the caller;
/// - a destination that is narrower than the accumulation dtype ([`crate::Accumulation`]) is rounded once, at the end.
pub trait Backend: Debug + Send + Sync + 'static {
    /// `reference`, `cpu`, `cuda:0` …
    fn name(&self) -> &str;

    // Memory.

    /// Room for `len` elements of any content.
    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer>;
    /// A read-only buffer over bytes that live elsewhere, or `None` when they must be uploaded
    /// (wrong place, not aligned to 8 bytes, or no whole number of elements). The owner is asked for them once.
    fn adopt(&self, owner: Arc<dyn ByteOwner>, dtype: DType) -> Result<Option<Buffer>>;
    /// Host elements, row-major, into a destination of the same dtype and count.
    fn upload(&self, host: HostSlice, out: ViewMut) -> Result<()>;
    /// Elements of a view, row-major, to the host: same dtype and count.
    fn download(&self, x: View, host: HostSliceMut) -> Result<()>;
    /// Waits for all work that was started before.
    fn synchronize(&self) -> Result<()>;
    /// What its memory holds.
    fn memory(&self) -> MemoryUse;

    // Primitives.

    /// `out = op(x)`
    fn unary(&self, op: Unary, x: Source, out: ViewMut) -> Result<()>;
    /// `out = op(a, b)`
    fn binary(&self, op: Binary, a: Source, b: View, out: ViewMut) -> Result<()>;
    /// `out = a op b`, bool
    fn compare(&self, op: Compare, a: View, b: View, out: ViewMut) -> Result<()>;
    /// `out = condition ? a : b`
    fn select(&self, condition: View, a: View, b: View, out: ViewMut) -> Result<()>;
    /// `out = op over axes of x`; `axes` is sorted and may be empty. A float result may be written to any float dtype.
    fn reduce(&self, op: Reduce, x: View, axes: &[usize], out: ViewMut) -> Result<()>;
    /// Position of the extreme along an axis, i64.
    fn arg_reduce(&self, op: ArgReduce, x: View, axis: usize, out: ViewMut) -> Result<()>;
    /// Running sum along an axis.
    fn cumsum(&self, x: View, axis: usize, out: ViewMut) -> Result<()>;
    /// Stable sort along an axis, with the positions (i64) that the values came from; NaN counts as greatest. The
    /// destinations may be shorter than x along the axis: then only the first ones are kept (top-k).
    fn sort(&self, x: View, axis: usize, descending: bool, values: ViewMut, indices: ViewMut) -> Result<()>;
    /// `out = epilogue(a · b)`: `[.., M, K] × [.., K, N] → [.., M, N]`, leading axes broadcast by the caller. All of one
    /// float dtype, but that a product of 16-bit operands may be written to f32; what the epilogue reads is of out's. Every
    /// epilogue is computed, also with activations that `support` knows no kernel of their own for.
    fn matmul(&self, a: View, b: View, epilogue: Epilogue, out: ViewMut) -> Result<()>;
    /// Copies, casting where dtypes differ: floats round to even, float to integer truncates and saturates (NaN to 0),
    /// anything to bool is `x ≠ 0`.
    fn copy(&self, x: View, out: ViewMut) -> Result<()>;
    /// `out[.., i, ..] = x[.., index[.., i, ..], ..]`; index is i64 with out's shape and x's rank. An index outside
    /// the axis is an error.
    fn gather(&self, x: View, index: View, axis: usize, out: ViewMut) -> Result<()>;
    /// `out[.., index[.., i, ..], ..] += src[.., i, ..]`, in ascending order of i: the same bits every time.
    fn scatter_add(&self, index: View, src: View, axis: usize, out: ViewMut) -> Result<()>;
    /// `out[i] = start + i · step`, row-major.
    fn iota(&self, start: Scalar, step: Scalar, out: ViewMut) -> Result<()>;
    /// `out = value`
    fn full(&self, value: Scalar, out: ViewMut) -> Result<()>;
    /// Uniform in [low, high): `low + unit · (high − low)` of each element's word of the stream.
    fn uniform(&self, key: RngKey, low: f64, high: f64, out: ViewMut) -> Result<()>;
    /// Normal deviates, [`crate::Philox::normals`] of each block of the stream.
    fn normal(&self, key: RngKey, mean: f64, deviation: f64, out: ViewMut) -> Result<()>;

    // Fused kernels. Each is called only when `support` has promised it.

    /// Whether `op` has a kernel for operands of this dtype.
    fn support(&self, op: FusedOp, dtype: DType) -> Support;
    /// One of the softmax family along the last axis; `mask` (bool, x's shape) is given for `Masked` only.
    fn softmax(&self, kind: SoftmaxKind, x: Source, mask: Option<View>, out: ViewMut) -> Result<()>;
    /// `dx` from the forward's result `y` and the cotangent `dy`. In place when `dy` is the destination.
    fn softmax_backward(&self, kind: SoftmaxKind, y: View, dy: Source, dx: ViewMut) -> Result<()>;
    /// `out = (x − mean) · rstd · weight + bias` along the last axis; `mean` and `rstd` have x's shape with last
    /// extent 1 and dtype [`DType::statistics`]; variance is the population's, `rstd = 1/√(variance + epsilon)`.
    fn layer_norm(
        &self,
        x: View,
        weight: Option<View>,
        bias: Option<View>,
        epsilon: f64,
        out: ViewMut,
        mean: ViewMut,
        rstd: ViewMut,
    ) -> Result<()>;
    /// Gradients of `layer_norm`; those of weight and bias have its shape `[C]` and are overwritten.
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
    ) -> Result<()>;
    /// `out = x · rstd · weight`, `rstd = 1/√(mean(x²) + epsilon)` along the last axis.
    fn rms_norm(&self, x: View, weight: Option<View>, epsilon: f64, out: ViewMut, rstd: ViewMut) -> Result<()>;
    /// Gradients of `rms_norm`.
    fn rms_norm_backward(
        &self,
        x: View,
        weight: Option<View>,
        rstd: View,
        dy: View,
        dx: Option<ViewMut>,
        dweight: Option<ViewMut>,
    ) -> Result<()>;
    /// Loss `[N]` of logits `[N, C]` and targets `[N]` (i64), and their `lse` `[N]`; both of dtype
    /// [`DType::statistics`]. A target that is neither a class nor ignored is an error.
    fn cross_entropy(
        &self,
        spec: &CrossEntropy,
        logits: View,
        targets: View,
        loss: ViewMut,
        lse: ViewMut,
    ) -> Result<()>;
    /// `dlogits` from `lse` and the cotangent of the loss.
    fn cross_entropy_backward(
        &self,
        spec: &CrossEntropy,
        logits: View,
        targets: View,
        lse: View,
        dloss: View,
        dlogits: ViewMut,
    ) -> Result<()>;
    /// `out = f(x)`
    fn activation(&self, f: Activation, x: Source, out: ViewMut) -> Result<()>;
    /// `dx = f'(x) · dy`. In place when `dy` is the destination.
    fn activation_backward(&self, f: Activation, x: View, dy: Source, dx: ViewMut) -> Result<()>;
    /// `out[.., :] = table[index[..], :]`: table `[V, C]`, index i64. An index outside the table is an error.
    fn embedding(&self, table: View, index: View, out: ViewMut) -> Result<()>;
    /// `dtable[index[..], :] += dy[.., :]`, in ascending order; the same bits every time.
    fn embedding_backward(&self, index: View, dy: View, dtable: ViewMut) -> Result<()>;
    /// Dropout; its own backward.
    fn dropout(&self, spec: &Dropout, x: Source, out: ViewMut) -> Result<()>;
    /// Updates a parameter and its moments in place; the moments' dtype is [`DType::statistics`].
    fn adamw(
        &self,
        spec: &AdamW,
        gradient: View,
        parameter: ViewMut,
        first_moment: ViewMut,
        second_moment: ViewMut,
    ) -> Result<()>;

    // Attention.

    /// Whether this attention has a kernel, forward and (with `needs_gradients`) backward.
    fn attention_support(&self, spec: &AttentionSpec, operands: &AttentionOperands, needs_gradients: bool) -> Support;
    /// The forward.
    fn attention(&self, spec: &AttentionSpec, operands: &AttentionOperands, out: AttentionOut) -> Result<()>;
    /// The backward.
    fn attention_backward(
        &self,
        spec: &AttentionSpec,
        operands: &AttentionOperands,
        saved: &AttentionSaved,
        cotangents: &AttentionCotangents,
        grads: AttentionGrads,
    ) -> Result<()>;
    /// Whether [`attention_maps`](Self::attention_maps) has a kernel for this attention, and (with `gradients`) one that
    /// takes `dout`. Not every backend has one.
    fn attention_maps_support(
        &self,
        _spec: &AttentionSpec,
        _operands: &AttentionOperands,
        _gradients: bool,
    ) -> Support {
        Support::Compose { why: format!("{} has no kernel for maps of attention weights", self.name()) }
    }
    /// Maps of the weights of an attention that has left its `lse` `[B, H, T]`; see [`AttentionMap`]. With `dout`
    /// `[B, H, T, D_v]`, of q's dtype, the gradient of a loss by the output, they are of the weights times the loss's
    /// gradients by them. `operands` are those of the forward; without `dout` v is not read, and may be k, and there is no
    /// dropout to be drawn.
    fn attention_maps(
        &self,
        _spec: &AttentionSpec,
        _operands: &AttentionOperands,
        _lse: View,
        _dout: Option<View>,
        _maps: Vec<AttentionMap>,
    ) -> Result<()> {
        let what = format!("{} has no kernel for maps of attention weights", self.name());
        Err(Error::new(ErrorKind::Unsupported, "attention_maps", what)
            .help("ask `attention_maps_support` first, and compose the operation from primitives"))
    }

    /// A user's own kernels reach the concrete backend through this.
    fn as_any(&self) -> &dyn Any;
}

/// A shared handle on a backend; cloning it is cheap.
#[derive(Clone)]
pub struct Device(Arc<dyn Backend>);

impl Device {
    /// Wraps a backend.
    pub fn new(backend: impl Backend) -> Device {
        Device(Arc::new(backend))
    }

    /// Whether two handles mean the same backend.
    pub fn same(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Deref for Device {
    type Target = dyn Backend;
    fn deref(&self) -> &dyn Backend {
        &*self.0
    }
}

impl Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Device({})", self.name())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}
