//! Finding the operation in which the first NaN or infinity appeared.

use crate::{Data, Tensor};
use attentia_backend::{DType, Error, ErrorKind, Reduce, Result, Source, Unary};
use std::cell::Cell;

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
}

pub(crate) fn is_on() -> bool {
    ON.get()
}

/// Runs `f` while every operation of this thread, forward and backward, is checked: one whose result has a NaN that no
/// operand had, or an infinity although all operands were finite, is an error of kind [`ErrorKind::NotFinite`] that
/// names it. Each check waits for the device, so this is for finding a mistake, not for training.
///
/// ```
/// # fn main() -> attentia_tensor::Result<()> {
/// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
/// use attentia_tensor::{Tensor, Var, detect_anomaly};
/// let x = Var::new(Tensor::from_slice(&[0.0], &[1], &device)?)?;
/// let error = detect_anomaly(|| x.tensor().sqrt()?.sum_all()?.backward()).unwrap_err();
/// assert!(error.to_string().contains("backward of sqrt"));
/// # Ok(())
/// # }
/// ```
pub fn detect_anomaly<T>(f: impl FnOnce() -> T) -> T {
    with(true, f)
}

fn with<T>(on: bool, f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ON.set(self.0);
        }
    }
    let _restore = Restore(ON.replace(on));
    f()
}

/// The worst that some values hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    Finite,
    Infinite,
    NaN,
}

impl Health {
    fn of(data: &Data) -> Result<Health> {
        if !data.dtype().is_float() || data.layout().count() == 0 {
            return Ok(Health::Finite);
        }
        // The greatest magnitude tells: NaN and infinities win a maximum.
        let device = data.device();
        let mut magnitude = Data::alloc(device, data.dtype(), *data.shape())?;
        device.unary(Unary::Abs, Source::View(data.view()?), magnitude.view_mut()?)?;
        let ones = vec![1; data.shape().rank()];
        let axes: Vec<usize> = (0..ones.len()).collect();
        let mut greatest = Data::alloc(device, data.dtype(), attentia_backend::Shape::new(&ones)?)?;
        device.reduce(Reduce::Max, magnitude.view()?, &axes, greatest.view_mut()?)?;
        let mut wide = Data::alloc(device, DType::F64, *greatest.shape())?;
        device.copy(greatest.view()?, wide.view_mut()?)?;
        Ok(match wide.to_vec::<f64>()?.first() {
            Some(x) if x.is_nan() => Health::NaN,
            Some(x) if x.is_infinite() => Health::Infinite,
            _ => Health::Finite,
        })
    }

    fn worst<'a>(all: impl IntoIterator<Item = &'a Data>) -> Result<Health> {
        all.into_iter().try_fold(Health::Finite, |worst, data| Ok(worst.max(Health::of(data)?)))
    }

    pub fn of_cotangents(grads: &[Option<Tensor>]) -> Result<Health> {
        Health::worst(grads.iter().flatten().map(Tensor::data))
    }

    pub fn check_backward(self, name: &'static str, gradients: &[Option<Tensor>]) -> Result<()> {
        let after = Health::of_cotangents(gradients)?;
        if after > self { Err(found(&format!("backward of {name}"), after)) } else { Ok(()) }
    }
}

pub(crate) fn check_forward(name: &'static str, inputs: &[&Tensor], outputs: &[Data]) -> Result<()> {
    let after = Health::worst(outputs)?;
    if after == Health::Finite || after <= Health::worst(inputs.iter().map(|t| t.data()))? {
        return Ok(());
    }
    let error = found(name, after);
    Err(error.operands(inputs.iter().map(|t| t.data().operand("operand"))))
}

fn found(op: &str, health: Health) -> Error {
    let what = if health == Health::NaN { "the first NaN appeared here" } else { "the first infinity appeared here" };
    Error::new(ErrorKind::NotFinite, op.to_owned(), what)
}
