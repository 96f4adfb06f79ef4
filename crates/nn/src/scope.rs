//! Parameters registered by path.

use crate::{Initialise, Precision, Weight};
use attentia_tensor::{Device, Error, ErrorKind, Result, RngKey, Tensor, Var};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Div,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Where a module registers its parameters: a path, and what every parameter below it shares.
///
/// `&scope / "encoder" / 0 / "self"` is the scope `encoder.0.self`. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Scope {
    registry: Arc<Mutex<BTreeMap<String, Var>>>,
    path: Arc<str>,
    device: Device,
    precision: Precision,
    seed: u64,
}

impl Scope {
    /// The root: parameters on `device`, initialised from `seed`. The precision may be one dtype for everything.
    pub fn new(device: &Device, precision: impl Into<Precision>, seed: u64) -> Scope {
        let precision = precision.into();
        Scope { registry: Arc::default(), path: Arc::from(""), device: device.clone(), precision, seed }
    }

    /// The dotted path; empty at the root.
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// The device of its parameters.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The dtype of its parameters, and the one that its layers compute in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The path of a name below this scope.
    fn join(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Creates and registers a parameter. Its initial value depends on the seed and its path, not on what else exists.
    pub fn parameter(&self, name: &str, shape: &[usize], initialise: Initialise) -> Result<Var> {
        let path = self.join(name);
        let key = RngKey::new(self.seed).path(&path);
        let var = Var::new(initialise.tensor(key, shape, self.precision.parameters, &self.device)?)?;
        match self.lock().entry(path) {
            Entry::Vacant(place) => Ok(place.insert(var).clone()),
            Entry::Occupied(taken) => {
                Err(Error::new(ErrorKind::Argument, "parameter", format!("{} is registered twice", taken.key()))
                    .help("give each module a scope of its own: &scope / \"name\""))
            }
        }
    }

    /// [`Scope::parameter`] for a layer, which uses it in the dtype that the model computes in.
    pub fn weight(&self, name: &str, shape: &[usize], initialise: Initialise) -> Result<Weight> {
        Ok(Weight { var: self.parameter(name, shape, initialise)?, compute: self.precision.compute })
    }

    /// Everything registered from the root, now.
    pub fn parameters(&self) -> Parameters {
        Parameters(self.lock().iter().map(|(path, var)| (path.clone(), var.clone())).collect())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Var>> {
        // An insert is one step: a panic elsewhere leaves the map whole.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Div<&str> for &Scope {
    type Output = Scope;
    fn div(self, name: &str) -> Scope {
        Scope { path: Arc::from(self.join(name)), ..self.clone() }
    }
}
impl Div<&str> for Scope {
    type Output = Scope;
    fn div(self, name: &str) -> Scope {
        &self / name
    }
}
impl Div<usize> for &Scope {
    type Output = Scope;
    fn div(self, index: usize) -> Scope {
        self / index.to_string().as_str()
    }
}
impl Div<usize> for Scope {
    type Output = Scope;
    fn div(self, index: usize) -> Scope {
        &self / index
    }
}

/// Parameters of a model by path, in the order of their paths.
#[derive(Clone, Debug, Default)]
pub struct Parameters(Vec<(String, Var)>);

impl Parameters {
    /// Path and parameter, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Var)> {
        self.0.iter().map(|(path, var)| (path.as_str(), var))
    }

    /// The parameter at a path.
    pub fn get(&self, path: &str) -> Option<&Var> {
        let found = self.0.binary_search_by(|(p, _)| p.as_str().cmp(path)).ok()?;
        Some(&self.0[found].1)
    }

    /// Number of parameters (tensors).
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of numbers in all of them.
    pub fn count(&self) -> usize {
        self.0.iter().map(|(_, var)| var.tensor().count()).sum()
    }

    /// The parameters whose path satisfies `keep`: for an optimiser's groups, or to freeze a part.
    pub fn filter(&self, keep: impl Fn(&str) -> bool) -> Parameters {
        Parameters(self.0.iter().filter(|(path, _)| keep(path)).cloned().collect())
    }

    /// Freezes or thaws all of them: a frozen parameter gets no gradient, and optimisers pass it by.
    pub fn set_requires_grad(&self, required: bool) {
        self.iter().for_each(|(_, var)| var.set_requires_grad(required));
    }

    /// The values by path.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.iter().map(|(path, var)| (path.to_owned(), var.value())).collect()
    }

    /// Replaces every value; errors, and changes nothing, when a path is missing, unknown or of another shape or dtype.
    pub fn load(&self, values: &BTreeMap<String, Tensor>) -> Result<()> {
        let refuse = |what: String| Error::new(ErrorKind::Argument, "load", what);
        if let Some(unknown) = values.keys().find(|path| self.get(path).is_none()) {
            return Err(refuse(format!("the model has no parameter {unknown}"))
                .help("was the file made by a model of another configuration?"));
        }
        for (path, var) in self.iter() {
            let value = values.get(path).ok_or_else(|| {
                refuse(format!("parameter {path} is missing")).help("was the file made by a smaller model?")
            })?;
            let own = var.tensor();
            if value.shape() != own.shape() || value.dtype() != own.dtype() {
                let (found, expected) = (value.shape(), own.shape());
                return Err(refuse(format!(
                    "parameter {path} is {found} {}, the model's is {expected} {}",
                    value.dtype(),
                    own.dtype()
                )));
            }
        }
        for (path, var) in self.iter() {
            var.set(&values[path])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use attentia_tensor::DType;

    fn root() -> Scope {
        Scope::new(&Device::new(attentia_reference::ReferenceBackend::new()), DType::F64, 1)
    }

    #[test]
    fn a_value_depends_on_its_own_path_only() {
        let (alone, together) = (root(), root());
        let initialise = Initialise::Normal { deviation: 1.0 };
        let a = (&alone / "a").parameter("weight", &[3], initialise).unwrap();
        (&together / "other").parameter("weight", &[3], initialise).unwrap();
        let b = (&together / "a").parameter("weight", &[3], initialise).unwrap();
        assert_eq!(a.tensor().to_vec::<f64>().unwrap(), b.tensor().to_vec::<f64>().unwrap());
        assert_eq!(together.parameters().iter().map(|(p, _)| p).collect::<Vec<_>>(), ["a.weight", "other.weight"]);
    }

    #[test]
    fn the_same_path_twice_is_an_error() {
        let scope = &root() / "layer" / 0;
        scope.parameter("weight", &[1], Initialise::Zeros).unwrap();
        let first = scope.parameters();
        let error = scope.parameter("weight", &[1], Initialise::Ones).unwrap_err();
        assert!(error.to_string().contains("layer.0.weight"), "{error}");
        let kept = scope.parameters().get("layer.0.weight").unwrap().id();
        assert_eq!(kept, first.get("layer.0.weight").unwrap().id(), "the first one stays");
    }
}
