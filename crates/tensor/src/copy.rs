//! Copies that were asked for: to fresh storage, another dtype, another device.

use crate::{Backward, Data, Function, Saver, Tensor, function::run_one};
use attentia_backend::{DType, Device, Element, Result};
use half::{bf16, f16};

/// A row-major copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy;

impl Function for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn forward(&self, inputs: &[&Tensor], _: &mut Saver) -> Result<Vec<Data>> {
        Ok(vec![inputs[0].data().copied()?])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![b.take_grad(0)])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![run_one(self, inputs)?])
    }
}

/// Conversion to another dtype.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cast {
    pub from: DType,
    pub to: DType,
}

impl Function for Cast {
    fn name(&self) -> &'static str {
        "to_dtype"
    }

    fn forward(&self, inputs: &[&Tensor], _: &mut Saver) -> Result<Vec<Data>> {
        Ok(vec![inputs[0].data().cast(self.to)?])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![b.take_grad(0).map(|g| g.to_dtype(self.from)).transpose()?])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![inputs[0].to_dtype(self.to)?])
    }
}

/// A copy on another device, by way of the host.
#[derive(Clone, Debug)]
pub(crate) struct ToDevice {
    pub from: Device,
    pub to: Device,
}

impl Function for ToDevice {
    fn name(&self) -> &'static str {
        "to_device"
    }

    fn forward(&self, inputs: &[&Tensor], _: &mut Saver) -> Result<Vec<Data>> {
        let x = inputs[0].data();
        fn through<T: Element>(x: &Data, to: &Device) -> Result<Data> {
            Data::from_slice(&x.to_vec::<T>()?, *x.shape(), to)
        }
        let moved = match x.dtype() {
            DType::F64 => through::<f64>(x, &self.to),
            DType::F32 => through::<f32>(x, &self.to),
            DType::Bf16 => through::<bf16>(x, &self.to),
            DType::F16 => through::<f16>(x, &self.to),
            DType::I64 => through::<i64>(x, &self.to),
            DType::U32 => through::<u32>(x, &self.to),
            DType::U8 => through::<u8>(x, &self.to),
            DType::Bool => through::<bool>(x, &self.to),
        };
        Ok(vec![moved?])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![b.take_grad(0).map(|g| g.to_device(&self.from)).transpose()?])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![inputs[0].to_device(&self.to)?])
    }
}

impl Tensor {
    /// A row-major copy with storage of its own.
    pub fn copy(&self) -> Result<Tensor> {
        run_one(&Copy, &[self])
    }

    /// This tensor when it is row-major, else a row-major copy.
    pub fn contiguous(&self) -> Result<Tensor> {
        if self.is_contiguous() { Ok(self.clone()) } else { self.copy() }
    }

    /// The values as another dtype: floats round to even, float to integer truncates and saturates (NaN to 0), anything
    /// to bool is `x ≠ 0`. Gradients flow between float dtypes only; itself when it has that dtype.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        if self.dtype() == dtype {
            return Ok(self.clone());
        }
        run_one(&Cast { from: self.dtype(), to: dtype }, &[self])
    }

    /// The values on another device; itself when it is there.
    pub fn to_device(&self, device: &Device) -> Result<Tensor> {
        if self.device().same(device) {
            return Ok(self.clone());
        }
        run_one(&ToDevice { from: self.device().clone(), to: device.clone() }, &[self])
    }
}
