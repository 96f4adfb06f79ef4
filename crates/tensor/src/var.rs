//! Variables: shared handles on values that optimisers replace.

use crate::{
    Data, Tensor,
    graph::{Edge, Node, Spec},
};
use attentia_backend::{Error, ErrorKind, Result, Shape, ViewMut, rules};
use std::{
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

static COPIES: AtomicU64 = AtomicU64::new(0);

/// How often since the start of the program an update found its storage shared and had to copy it first. A training
/// loop keeps it at 0 by dropping tensors of the last step, the loss among them, before the optimiser runs.
pub fn copy_on_write_count() -> u64 {
    COPIES.load(Ordering::Relaxed)
}

/// The identity of a variable, unique within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VarId(u64);

impl VarId {
    pub(crate) fn of(node: u64) -> VarId {
        VarId(node)
    }
}

impl fmt::Display for VarId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// A value that gradients are taken with respect to, and that only an optimiser replaces. Cloning shares it.
///
/// A tensor taken before an update keeps the old value. Shape, dtype and device never change.
///
/// ```
/// # fn main() -> attentia_tensor::Result<()> {
/// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
/// use attentia_tensor::{Tensor, Var};
/// let w = Var::new(Tensor::from_slice(&[3.0], &[1], &device)?)?;
/// let mut grads = w.tensor().square()?.backward()?;
/// let step = grads.remove(&w).unwrap().mul_scalar(0.5)?;
/// w.set(&w.tensor().detach().sub(&step)?)?;
/// assert_eq!(w.tensor().to_vec::<f64>()?, [0.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Var(Arc<Inner>);

struct Inner {
    value: RwLock<Data>,
    leaf: Arc<Node>,
    frozen: AtomicBool,
}

impl Var {
    /// A variable with this value, cut from its graph. Errors for a dtype that carries no gradient.
    pub fn new(value: Tensor) -> Result<Var> {
        if !value.dtype().is_float() {
            return Err(Error::new(ErrorKind::Gradient, "var", format!("{} carries no gradient", value.dtype()))
                .operand(value.data().operand("value").expected("a float"))
                .help("keep integers and bools as plain tensors"));
        }
        let value = value.into_data();
        let leaf = Node::leaf(Spec::of(&value));
        Ok(Var(Arc::new(Inner { value: RwLock::new(value), leaf, frozen: AtomicBool::new(false) })))
    }

    /// Its identity, the key of its gradient in [`crate::Grads`].
    pub fn id(&self) -> VarId {
        VarId(self.0.leaf.id)
    }

    /// Its value now, as a tensor that requires a gradient unless the variable is frozen.
    pub fn tensor(&self) -> Tensor {
        let data = self.0.value.read().unwrap_or_else(PoisonError::into_inner).clone();
        Tensor { data, edge: self.requires_grad().then(|| Edge::new(self.0.leaf.clone(), 0)) }
    }

    /// Whether gradients are taken with respect to it; true until somebody freezes it.
    pub fn requires_grad(&self) -> bool {
        !self.0.frozen.load(Ordering::Relaxed)
    }

    /// Freezes or thaws it, for every handle. What was recorded before keeps its gradient.
    pub fn set_requires_grad(&self, required: bool) {
        self.0.frozen.store(!required, Ordering::Relaxed);
    }

    /// Its value now, without a gradient.
    pub fn value(&self) -> Tensor {
        Tensor::from_data(self.0.value.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Its extents.
    pub fn shape(&self) -> Shape {
        *self.0.value.read().unwrap_or_else(PoisonError::into_inner).shape()
    }

    /// Replaces the value by one of the same shape, dtype and device. Shares the new value's storage.
    pub fn set(&self, value: &Tensor) -> Result<()> {
        let mut mine = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        rules::alike("set", &[mine.meta("var"), value.meta("value")])?;
        if mine.shape() != value.shape() || !mine.device().same(value.device()) {
            return Err(Error::new(ErrorKind::Shape, "set", "a variable keeps its shape and its device")
                .operand(mine.operand("var"))
                .operand(value.data().operand("value").expected(mine.shape().to_string())));
        }
        *mine = value.data().clone();
        self.0.leaf.replaced();
        Ok(())
    }

    /// Overwrites the value in place. Storage that a tensor still holds is copied first, which
    /// [`copy_on_write_count`] counts. `f` must not use this variable: it would wait for itself.
    pub fn update<R>(&self, f: impl FnOnce(ViewMut) -> Result<R>) -> Result<R> {
        self.update_with([], |value, []| f(value))
    }

    /// [`Var::update`] together with tensors of the optimiser's own, such as moments, which are overwritten under the
    /// same rule.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// use attentia_tensor::{AdamW, Backend, Tensor, Var};
    /// # let w = Var::new(Tensor::from_slice(&[3.0], &[1], &device)?)?;
    /// # let gradient = Tensor::from_slice(&[1.0], &[1], &device)?;
    /// let (mut m, mut v) = (gradient.zeros_like()?, gradient.zeros_like()?);
    /// let spec = AdamW {
    ///     learning_rate: 0.1, betas: (0.9, 0.99), epsilon: 1e-8, weight_decay: 0.0, step: 1, gradient_scale: 1.0,
    /// };
    /// w.update_with([&mut m, &mut v], |p, [m, v]| device.adamw(&spec, gradient.view()?, p, m, v))?;
    /// assert!((w.tensor().item::<f64>()? - 2.9).abs() < 1e-6);
    /// # Ok(())
    /// # }
    /// ```
    pub fn update_with<R, const N: usize>(
        &self,
        state: [&mut Tensor; N],
        f: impl FnOnce(ViewMut, [ViewMut; N]) -> Result<R>,
    ) -> Result<R> {
        let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        own(&mut value)?;
        let mut views: [Option<ViewMut>; N] = [const { None }; N];
        for (view, tensor) in views.iter_mut().zip(state) {
            tensor.edge = None;
            own(&mut tensor.data)?;
            *view = Some(tensor.data.view_mut()?);
        }
        let Some(views) = all(views) else {
            return Err(Error::new(ErrorKind::Argument, "update_with", "a tensor of the state is missing"));
        };
        // Also after an error: nobody knows what was written before it.
        self.0.leaf.replaced();
        f(value.view_mut()?, views)
    }
}

fn all<T, const N: usize>(values: [Option<T>; N]) -> Option<[T; N]> {
    let values: Vec<T> = values.into_iter().collect::<Option<_>>()?;
    values.try_into().ok()
}

fn own(data: &mut Data) -> Result<()> {
    if !data.is_writable() {
        COPIES.fetch_add(1, Ordering::Relaxed);
        *data = data.copied()?;
    }
    Ok(())
}

impl fmt::Debug for Var {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // Not blocking: a variable may be printed while it is updated.
        match self.0.value.try_read() {
            Ok(value) => write!(f, "Var({} {:?})", self.id(), *value),
            Err(_) => write!(f, "Var({})", self.id()),
        }
    }
}
