//! Shape and dtype rules of every operation: what a call gives, or which operand is wrong and why.
//!
//! Pure functions over [`Meta`], so that a tensor library, a graph and a test agree on them.

mod index;

pub use index::{embedding, gather, outside, scatter_add};

use crate::{ArgReduce, Binary, Compare, DType, Error, ErrorKind, Layout, Operand, Reduce, Result, Shape, Unary};

/// What a rule has to know of an operand.
#[derive(Clone, Copy, Debug)]
pub struct Meta<'a> {
    /// Its name in the operation's documentation.
    pub role: &'static str,
    /// Shape and strides.
    pub layout: &'a Layout,
    /// Element type.
    pub dtype: DType,
    /// Name of the device.
    pub device: &'a str,
}

impl Meta<'_> {
    /// As an error shows it.
    pub fn operand(&self) -> Operand {
        Operand::new(self.role, *self.layout, self.dtype).on(self.device)
    }

    fn shape(&self) -> &Shape {
        self.layout.shape()
    }
}

fn error(kind: ErrorKind, op: &'static str, what: impl Into<String>, operands: &[Meta]) -> Error {
    Error::new(kind, op, what).operands(operands.iter().map(Meta::operand))
}

/// All operands have one dtype and one device.
pub fn alike(op: &'static str, operands: &[Meta]) -> Result<()> {
    same_device(op, operands)?;
    let Some(first) = operands.first() else { return Ok(()) };
    match operands.iter().find(|m| m.dtype != first.dtype) {
        None => Ok(()),
        Some(other) => Err(error(
            ErrorKind::DType,
            op,
            format!("{} is {} and {} is {}", first.role, first.dtype, other.role, other.dtype),
            operands,
        )
        .help(format!("nothing is promoted silently; convert one with to_dtype(DType::{:?})", first.dtype))),
    }
}

/// All operands are on one device.
pub fn same_device(op: &'static str, operands: &[Meta]) -> Result<()> {
    let Some(first) = operands.first() else { return Ok(()) };
    match operands.iter().find(|m| m.device != first.device) {
        None => Ok(()),
        Some(other) => Err(error(
            ErrorKind::Device,
            op,
            format!("{} is on {} and {} on {}", first.role, first.device, other.role, other.device),
            operands,
        )
        .help("move one with to_device")),
    }
}

/// The operand is of a float dtype.
pub fn float(op: &'static str, x: Meta) -> Result<()> {
    if x.dtype.is_float() {
        return Ok(());
    }
    Err(error(ErrorKind::DType, op, format!("{} is not defined for {}", op, x.dtype), &[x])
        .help("convert it with to_dtype(DType::F32)"))
}

/// The operand has exactly this dtype.
pub fn dtype(op: &'static str, x: Meta, expected: DType) -> Result<()> {
    if x.dtype == expected {
        return Ok(());
    }
    Err(Error::new(ErrorKind::DType, op, format!("{} must be {expected}", x.role))
        .operand(x.operand().expected(expected.name()))
        .help(format!("convert it with to_dtype(DType::{expected:?})")))
}

/// An axis counted from either end.
pub fn axis(op: &'static str, x: Meta, axis: isize) -> Result<usize> {
    let rank = x.layout.rank();
    let resolved = if axis < 0 { axis + rank as isize } else { axis };
    if (0..rank as isize).contains(&resolved) {
        return Ok(resolved as usize);
    }
    let help = match rank {
        0 => "a scalar has no axes".to_owned(),
        _ => format!("axes of a tensor of rank {rank} are {}..={}", -(rank as isize), rank - 1),
    };
    Err(error(ErrorKind::Shape, op, format!("there is no axis {axis}"), &[x]).help(help))
}

/// Axes counted from either end, sorted, none twice.
pub fn axes(op: &'static str, x: Meta, wanted: &[isize]) -> Result<Vec<usize>> {
    let mut all = wanted.iter().map(|&a| axis(op, x, a)).collect::<Result<Vec<_>>>()?;
    all.sort_unstable();
    match all.windows(2).find(|w| w[0] == w[1]) {
        Some(twice) => Err(error(ErrorKind::Shape, op, format!("axis {} is named twice", twice[0]), &[x])),
        None => Ok(all),
    }
}

/// Rule of [`Unary`].
pub fn unary(op: Unary, x: Meta) -> Result<Shape> {
    if op.accepts(x.dtype) {
        return Ok(*x.shape());
    }
    Err(error(ErrorKind::DType, op.name(), format!("not defined for {}", x.dtype), &[x]).help(if op == Unary::Not {
        "compare with 0 first"
    } else {
        "convert it with to_dtype(DType::F32)"
    }))
}

/// The broadcast shape of operands of any dtype.
pub fn broadcast(op: &'static str, operands: &[Meta]) -> Result<Shape> {
    let mut shape = Shape::SCALAR;
    for operand in operands {
        shape = shape.broadcast(operand.shape()).ok_or_else(|| {
            error(ErrorKind::Shape, op, "shapes do not broadcast", operands)
                .help("axes are matched from the right; two extents agree when they are equal or one of them is 1")
        })?;
    }
    Ok(shape)
}

/// Rule of [`Binary`].
pub fn binary(op: Binary, a: Meta, b: Meta) -> Result<Shape> {
    alike(op.name(), &[a, b])?;
    if !op.accepts(a.dtype) {
        return Err(error(ErrorKind::DType, op.name(), format!("not defined for {}", a.dtype), &[a, b]));
    }
    broadcast(op.name(), &[a, b])
}

/// Rule of [`Compare`]; the result is bool.
pub fn compare(op: Compare, a: Meta, b: Meta) -> Result<Shape> {
    alike(op.name(), &[a, b])?;
    broadcast(op.name(), &[a, b])
}

/// Rule of select; the result has the dtype of `a`.
pub fn select(condition: Meta, a: Meta, b: Meta) -> Result<Shape> {
    dtype("select", condition, DType::Bool)?;
    alike("select", &[a, b])?;
    same_device("select", &[condition, a, b])?;
    broadcast("select", &[condition, a, b])
}

/// Rule of [`Reduce`]: the shape with reduced axes of extent 1, and the dtype.
pub fn reduce(op: Reduce, x: Meta, axes: &[usize]) -> Result<(Shape, DType)> {
    let Some(result) = op.result(x.dtype) else {
        return Err(error(ErrorKind::DType, op.name(), format!("not defined for {}", x.dtype), &[x])
            .help("convert it with to_dtype(DType::F32)"));
    };
    if matches!(op, Reduce::Max | Reduce::Min) {
        not_empty(op.name(), x, axes)?;
    }
    let mut extents = x.shape().to_vec();
    for &axis in axes {
        extents[axis] = 1;
    }
    Ok((Shape::new(&extents)?, result))
}

fn not_empty(op: &'static str, x: Meta, axes: &[usize]) -> Result<()> {
    match axes.iter().find(|&&a| x.shape()[a] == 0) {
        Some(a) => Err(error(ErrorKind::Shape, op, format!("axis {a} is empty and has no {op}"), &[x])),
        None => Ok(()),
    }
}

/// Rule of [`ArgReduce`]: the shape with the axis of extent 1; the dtype is i64.
pub fn arg_reduce(op: ArgReduce, x: Meta, axis: usize) -> Result<Shape> {
    not_empty(op.name(), x, &[axis])?;
    Ok(x.shape().with(axis, 1))
}

/// Rule of cumsum: x's shape, and the dtype of a sum.
pub fn cumsum(x: Meta) -> (Shape, DType) {
    (*x.shape(), Reduce::Sum.result(x.dtype).unwrap_or(x.dtype))
}

/// Rule of sort and top-k: x's shape with `k` elements along the axis. Indices are i64.
pub fn top_k(op: &'static str, x: Meta, axis: usize, k: usize) -> Result<Shape> {
    if k > x.shape()[axis] {
        return Err(error(ErrorKind::Index, op, format!("k is {k}, and axis {axis} has {}", x.shape()[axis]), &[x]));
    }
    Ok(x.shape().with(axis, k))
}

/// Rule of matmul: `[.., M, K] × [.., K, N] → [.., M, N]`, leading axes broadcast.
pub fn matmul(a: Meta, b: Meta) -> Result<Shape> {
    alike("matmul", &[a, b])?;
    if !a.dtype.is_float() {
        return Err(error(ErrorKind::DType, "matmul", format!("not defined for {}", a.dtype), &[a, b])
            .help("convert both with to_dtype(DType::F32)"));
    }
    for operand in [a, b] {
        if operand.layout.rank() < 2 {
            return Err(error(
                ErrorKind::Shape,
                "matmul",
                format!("{} has rank {}", operand.role, operand.layout.rank()),
                &[a, b],
            )
            .help("a product needs matrices; add an axis with unsqueeze"));
        }
    }
    let (ra, rb) = (a.layout.rank(), b.layout.rank());
    let (m, k, n) = (a.shape()[ra - 2], a.shape()[ra - 1], b.shape()[rb - 1]);
    if b.shape()[rb - 2] != k {
        return Err(Error::new(ErrorKind::Shape, "matmul", "inner extents differ")
            .operand(a.operand())
            .operand(b.operand().expected(format!("[.., {k}, {n}]")))
            .help("the last axis of a is summed with the last but one of b; was a transpose forgotten?"));
    }
    let lead = |s: &Shape| Shape::new(&s[..s.rank() - 2]);
    let Some(batch) = lead(a.shape())?.broadcast(&lead(b.shape())?) else {
        return Err(error(ErrorKind::Shape, "matmul", "leading axes do not broadcast", &[a, b]));
    };
    let mut extents = batch.to_vec();
    extents.extend([m, n]);
    Shape::new(&extents)
}

/// Rule of reshape: one extent may be -1 and is inferred.
pub fn reshape(x: Meta, wanted: &[isize]) -> Result<Shape> {
    let refuse = |what: String| error(ErrorKind::Shape, "reshape", what, &[x]);
    let (mut known, mut inferred) = (1usize, None);
    for (i, &extent) in wanted.iter().enumerate() {
        match extent {
            -1 if inferred.is_none() => inferred = Some(i),
            e if e < 0 => return Err(refuse(format!("{wanted:?} has more than one extent to infer, or one below -1"))),
            e => {
                known =
                    known.checked_mul(e as usize).ok_or_else(|| refuse(format!("{wanted:?} has too many elements")))?;
            }
        }
    }
    let count = x.layout.count();
    let mut extents: Vec<usize> = wanted.iter().map(|&e| e.max(0) as usize).collect();
    match inferred {
        Some(i) if known != 0 && count.is_multiple_of(known) => extents[i] = count / known,
        None if known == count => {}
        _ => {
            return Err(refuse(format!("{count} elements do not fit {wanted:?}"))
                .help(format!("the product of the extents must be {count}")));
        }
    }
    Shape::new(&extents)
}

/// Rule of permute.
pub fn permute(x: Meta, order: &[isize]) -> Result<Vec<usize>> {
    let resolved = order.iter().map(|&a| axis("permute", x, a)).collect::<Result<Vec<_>>>()?;
    let mut sorted = resolved.clone();
    sorted.sort_unstable();
    if sorted.len() == x.layout.rank() && sorted.iter().enumerate().all(|(i, &a)| i == a) {
        return Ok(resolved);
    }
    Err(error(ErrorKind::Shape, "permute", format!("{order:?} does not name every axis once"), &[x]))
}

/// Rule of broadcast_to.
pub fn broadcast_to(x: Meta, shape: &Shape) -> Result<Layout> {
    x.layout.broadcast_to(shape).ok_or_else(|| {
        error(ErrorKind::Shape, "broadcast_to", format!("cannot broadcast to {shape}"), &[x])
            .help("axes are matched from the right; only an extent of 1 can grow")
    })
}

/// Rule of narrow: `len` elements of an axis from `start`.
pub fn narrow(x: Meta, axis: usize, start: usize, len: usize) -> Result<Layout> {
    x.layout.narrow(axis, start, len).ok_or_else(|| {
        let what = format!("{start}..{} of axis {axis} with {} elements", start.saturating_add(len), x.shape()[axis]);
        error(ErrorKind::Index, "narrow", what, &[x])
    })
}

/// Rule of cat along an axis; operands agree everywhere else.
pub fn cat(operands: &[Meta], axis: usize) -> Result<Shape> {
    let Some((first, rest)) = operands.split_first() else {
        return Err(Error::new(ErrorKind::Argument, "cat", "no tensors").help("pass at least one"));
    };
    alike("cat", operands)?;
    let mut total = first.shape()[axis];
    for other in rest {
        let agrees = other.shape().rank() == first.shape().rank()
            && (0..first.shape().rank()).all(|i| i == axis || other.shape()[i] == first.shape()[i]);
        if !agrees {
            return Err(error(ErrorKind::Shape, "cat", format!("shapes differ outside axis {axis}"), operands));
        }
        total = total
            .checked_add(other.shape()[axis])
            .ok_or_else(|| error(ErrorKind::Shape, "cat", "too many elements", operands))?;
    }
    Shape::new(first.shape().with(axis, total).as_slice())
}

/// Rule of the softmax family along the last axis.
pub fn softmax(op: &'static str, x: Meta, mask: Option<Meta>) -> Result<()> {
    float(op, x)?;
    let Some(mask) = mask else { return Ok(()) };
    dtype(op, mask, DType::Bool)?;
    same_device(op, &[x, mask])?;
    match mask.layout.broadcast_to(x.shape()) {
        Some(_) => Ok(()),
        None => Err(Error::new(ErrorKind::Shape, op, "the mask does not broadcast to x")
            .operand(x.operand())
            .operand(mask.operand().expected(format!("something that broadcasts to {}", x.shape())))
            .help("true means: keep")),
    }
}

/// Rule of layer norm and RMS norm: weight and bias are `[C]`, C the last extent of x. Gives the statistics' shape.
pub fn norm(op: &'static str, x: Meta, parameters: &[Meta]) -> Result<Shape> {
    float(op, x)?;
    let Some(&width) = x.shape().last() else {
        return Err(error(ErrorKind::Shape, op, "a scalar has no last axis", &[x]));
    };
    for p in parameters {
        alike(op, &[x, *p])?;
        if p.shape().as_slice() != [width] {
            return Err(Error::new(ErrorKind::Shape, op, format!("{} does not fit x", p.role))
                .operand(x.operand())
                .operand(p.operand().expected(format!("[{width}]"))));
        }
    }
    Ok(x.shape().with(x.layout.rank() - 1, 1))
}

/// Rule of cross-entropy: logits `[N, C]`, targets `[N]` i64 → loss `[N]`.
pub fn cross_entropy(logits: Meta, targets: Meta) -> Result<Shape> {
    float("cross_entropy", logits)?;
    dtype("cross_entropy", targets, DType::I64)?;
    same_device("cross_entropy", &[logits, targets])?;
    if logits.layout.rank() == 2 && logits.shape()[1] > 0 && targets.shape().as_slice() == [logits.shape()[0]] {
        return Ok(*targets.shape());
    }
    let rows = logits.shape().first().copied().unwrap_or(0);
    Err(Error::new(ErrorKind::Shape, "cross_entropy", "logits and targets do not fit")
        .operand(logits.operand().expected("[N, C] with C > 0"))
        .operand(targets.operand().expected(format!("[{rows}]")))
        .help("flatten batch and time first: logits.reshape(&[-1, classes]), targets.reshape(&[-1])"))
}

/// Rule of dropout: a float, and a probability in [0, 1).
pub fn dropout(x: Meta, p: f64) -> Result<()> {
    float("dropout", x)?;
    if (0.0..1.0).contains(&p) {
        return Ok(());
    }
    Err(error(ErrorKind::Argument, "dropout", format!("p is {p}"), &[x]).help("p lies in [0, 1)"))
}

/// Rule of attention: `q [B, H, T, D]`, `k [B, H_kv, S, D]`, `v [B, H_kv, S, D_v]` → `out [B, H, T, D_v]`.
pub fn attention(q: Meta, k: Meta, v: Meta) -> Result<Shape> {
    let op = "attention";
    alike(op, &[q, k, v])?;
    float(op, q)?;
    let all = [q, k, v];
    if let Some(bad) = all.iter().find(|m| m.layout.rank() != 4) {
        return Err(error(ErrorKind::Shape, op, format!("{} has rank {}", bad.role, bad.layout.rank()), &all)
            .help("operands are [batch, heads, positions, width]"));
    }
    let (qs, ks, vs) = (q.shape(), k.shape(), v.shape());
    let wrong = |what: &str, operand: usize, expected: String| {
        let shown = all.iter().enumerate().map(|(i, m)| match i == operand {
            true => m.operand().expected(expected.clone()),
            false => m.operand(),
        });
        Err(Error::new(ErrorKind::Shape, op, what).operands(shown))
    };
    if vs[2] != ks[2] {
        return wrong("key and value disagree on sequence length", 2, format!("[{}, {}, {}, *]", ks[0], ks[1], ks[2]))
            .map_err(|e| e.help("did the KV cache append to k but not to v?"));
    }
    if ks[0] != qs[0] || vs[0] != qs[0] {
        let at = if ks[0] != qs[0] { 1 } else { 2 };
        return wrong("batch extents differ", at, format!("[{}, *, *, *]", qs[0]));
    }
    if vs[1] != ks[1] {
        return wrong("key and value disagree on heads", 2, format!("[*, {}, *, *]", ks[1]));
    }
    if ks[3] != qs[3] {
        return wrong("query and key disagree on head dimension", 1, format!("[*, *, *, {}]", qs[3]));
    }
    if !qs[1].is_multiple_of(ks[1]) {
        return wrong("query heads are no multiple of key heads", 1, format!("a divisor of {} heads", qs[1]))
            .map_err(|e| e.help("grouped queries share one key head among H / H_kv query heads"));
    }
    Shape::new(&[qs[0], qs[1], qs[2], vs[3]])
}
