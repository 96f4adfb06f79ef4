//! A differentiable function with sample inputs, and everything that must hold there.
//!
//! Each crate that implements [`Function`] lists its own; a test compares the list with the source.

use crate::{
    Function, Tensor, apply,
    fused::without_kernels,
    grad,
    gradcheck::{GradcheckOptions, gradcheck, gradgradcheck, gradients, leaf, weights},
    graph::enable_grad,
};
use attentia_backend::{DType, Device, Error, ErrorKind, Result, RngKey};
use std::{fmt, sync::Arc};

type Inputs = Box<dyn Fn(&Device) -> Result<Vec<Tensor>> + Send + Sync>;
type Run = Box<dyn Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync>;

/// A differentiable function with inputs at which it is smooth.
pub struct Sample {
    /// The name of the type that implements [`Function`].
    pub function: &'static str,
    /// What distinguishes it from other samples, such as `softmax/3x4`.
    pub id: String,
    inputs: Inputs,
    run: Run,
    compose: Run,
}

impl Sample {
    /// A sample of a function; its floating inputs are f64.
    pub fn new(
        name: &'static str,
        id: impl Into<String>,
        function: Arc<dyn Function>,
        inputs: impl Fn(&Device) -> Result<Vec<Tensor>> + Send + Sync + 'static,
    ) -> Sample {
        let same = function.clone();
        Sample::of_closures(
            name,
            id,
            inputs,
            move |x| apply(function.clone(), &x.iter().collect::<Vec<_>>()),
            move |x| same.compose(&x.iter().collect::<Vec<_>>()),
        )
    }

    /// A sample of a function that only another one calls: `run` reaches it, and `compose` does the same without
    /// kernels.
    pub fn of_closures(
        name: &'static str,
        id: impl Into<String>,
        inputs: impl Fn(&Device) -> Result<Vec<Tensor>> + Send + Sync + 'static,
        run: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync + 'static,
        compose: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync + 'static,
    ) -> Sample {
        Sample {
            function: name,
            id: id.into(),
            inputs: Box::new(inputs),
            run: Box::new(run),
            compose: Box::new(compose),
        }
    }

    /// The same function's gradients as a function: a sample of its backward kernel.
    pub(crate) fn of_gradients(self, name: &'static str) -> Sample {
        let (inputs, f, g) = (Arc::new(self.inputs), self.run, self.compose);
        let count = move |x: &[Tensor]| x.len() - 1; // the last is the cotangent of the one output
        let forward = Arc::new(f);
        let run = forward.clone();
        Sample::of_closures(
            name,
            format!("{}/gradients", self.id),
            move |device| {
                let mut all = inputs(device)?;
                let output = (forward)(&all)?;
                all.extend(weights(&output, RngKey::new(77))?.into_iter().flatten());
                Ok(all)
            },
            move |x| gradients(|x| run(x), count(x), x),
            move |x| gradients(|x| g(x), count(x), x),
        )
    }

    /// The inputs on a device.
    pub fn inputs(&self, device: &Device) -> Result<Vec<Tensor>> {
        (self.inputs)(device)
    }

    /// The function.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        (self.run)(inputs)
    }

    /// Its definition in primitives.
    pub fn compose(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        without_kernels(|| (self.compose)(inputs))
    }

    /// Checks on a device that the forward equals the composition, that its gradients equal those of the composition,
    /// and that first and second derivatives agree with differences.
    pub fn check(&self, device: &Device) -> Result<()> {
        self.check_all(device).map_err(|e| e.in_path(format!("sample {}", self.id)))
    }

    fn check_all(&self, device: &Device) -> Result<()> {
        let inputs = self.inputs(device)?;
        let leaves = inputs.iter().map(leaf).collect::<Result<Vec<_>>>()?;
        let (fused, composed) = enable_grad(|| Ok((self.run(&leaves)?, self.compose(&leaves)?)))?;
        agree("forward", &fused, &composed)?;
        let cotangents = weights(&fused, RngKey::new(5))?;
        let wanted: Vec<&Tensor> = leaves.iter().filter(|t| t.requires_grad()).collect();
        let gradients = |outputs: &[Tensor]| {
            let (roots, seeds): (Vec<&Tensor>, Vec<&Tensor>) = outputs
                .iter()
                .zip(&cotangents)
                .filter(|(y, _)| y.requires_grad())
                .filter_map(|(y, w)| Some((y, w.as_ref()?)))
                .unzip();
            let gradients = grad(&roots, Some(&seeds), &wanted, false)?;
            let dense = |(g, x): (Option<Tensor>, &&Tensor)| g.map_or_else(|| x.zeros_like(), Ok);
            gradients.into_iter().zip(&wanted).map(dense).collect::<Result<Vec<_>>>()
        };
        agree("backward", &gradients(&fused)?, &without_kernels(|| gradients(&composed))?)?;
        let options = GradcheckOptions::default();
        gradcheck(|x| self.run(x), &inputs, options)?;
        gradgradcheck(|x| self.run(x), &inputs, options)
    }
}

impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Sample({} of {})", self.id, self.function)
    }
}

/// Fused f64 against composed f64: a few roundings in another order.
const ROUNDING: f64 = 1e-11;

fn agree(what: &str, fused: &[Tensor], composed: &[Tensor]) -> Result<()> {
    let refuse = |what: String| Error::new(ErrorKind::Gradient, "sample", what);
    if fused.len() != composed.len() {
        return Err(refuse(format!("{what} gives {} tensors, its composition {}", fused.len(), composed.len())));
    }
    for (i, (a, b)) in fused.iter().zip(composed).enumerate() {
        if a.shape() != b.shape() || a.dtype() != b.dtype() {
            return Err(refuse(format!("{what} {i} differs from its composition"))
                .operand(a.data().operand("fused"))
                .operand(b.data().operand("composed")));
        }
        let values = |t: &Tensor| t.detach().to_dtype(DType::F64)?.to_vec::<f64>();
        for (x, y) in values(a)?.into_iter().zip(values(b)?) {
            let equal = x == y || (x.is_nan() && y.is_nan());
            let close = (x - y).abs() <= ROUNDING * (1.0 + y.abs());
            if !equal && !close {
                return Err(
                    refuse(format!("{what} {i} is {x:e}, its composition {y:e}")).operand(a.data().operand("fused"))
                );
            }
        }
    }
    Ok(())
}
