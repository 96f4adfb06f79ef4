//! Conversions to and from `ndarray`, by copy: its arrays are not storage here.

use crate::Tensor;
use attentia_backend::{Device, Element, Error, ErrorKind, Result};
use ndarray::{Array, ArrayBase, ArrayD, Data, Dimension, IxDyn};

impl Tensor {
    /// The elements of an array of any layout.
    pub fn from_array<T: Element, S: Data<Elem = T>, D: Dimension>(
        array: &ArrayBase<S, D>,
        device: &Device,
    ) -> Result<Tensor> {
        match array.as_slice() {
            Some(values) => Tensor::from_slice(values, array.shape(), device),
            None => Tensor::from_vec(array.iter().copied().collect(), array.shape(), device),
        }
    }

    /// The elements as an array. Errors when they are not of type `T`.
    pub fn to_array<T: Element>(&self) -> Result<ArrayD<T>> {
        Array::from_shape_vec(IxDyn(self.shape()), self.to_vec()?)
            .map_err(|e| Error::new(ErrorKind::Shape, "to_array", e.to_string()).operand(self.data().operand("x")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{counted, device};
    use ndarray::{Array2, arr2};

    #[test]
    fn arrays_come_and_go() {
        let device = device();
        let array: Array2<f64> = arr2(&[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]);
        let x = Tensor::from_array(&array, &device).unwrap();
        assert_eq!(x.to_array::<f64>().unwrap(), array.clone().into_dyn());
        let t = Tensor::from_array(&array.t(), &device).unwrap();
        assert_eq!(t.to_vec::<f64>().unwrap(), counted(&[2, 3], &device).t().unwrap().to_vec::<f64>().unwrap());
        assert_eq!(counted(&[2, 3], &device).t().unwrap().to_array::<f64>().unwrap(), array.t().into_dyn());
        assert!(x.to_array::<f32>().is_err());
    }
}
