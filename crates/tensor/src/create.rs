//! Tensors from the host, from numbers and from random streams.

use crate::{Data, Tensor};
use attentia_backend::{DType, Device, Element, Error, ErrorKind, Layout, Result, RngKey, Scalar, Shape, rules};

impl Tensor {
    /// Host elements in row-major order. Errors when their number is not the product of the extents.
    pub fn from_slice<T: Element>(values: &[T], shape: &[usize], device: &Device) -> Result<Tensor> {
        Ok(Tensor::from_data(Data::from_slice(values, Shape::new(shape)?, device)?))
    }

    /// [`Tensor::from_slice`] of a vector.
    pub fn from_vec<T: Element>(values: Vec<T>, shape: &[usize], device: &Device) -> Result<Tensor> {
        Tensor::from_slice(&values, shape, device)
    }

    /// One number, of rank 0.
    pub fn scalar(value: impl Into<Scalar>, dtype: DType, device: &Device) -> Result<Tensor> {
        Tensor::full(&[], value, dtype, device)
    }

    /// Zeros.
    pub fn zeros(shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        Tensor::full(shape, 0, dtype, device)
    }

    /// Ones.
    pub fn ones(shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        Tensor::full(shape, 1, dtype, device)
    }

    /// One value everywhere.
    pub fn full(shape: &[usize], value: impl Into<Scalar>, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut data = Data::alloc(device, dtype, Shape::new(shape)?)?;
        device.full(value.into(), data.view_mut()?)?;
        Ok(Tensor::from_data(data))
    }

    /// Zeros of this shape, dtype and device.
    pub fn zeros_like(&self) -> Result<Tensor> {
        Tensor::zeros(self.shape(), self.dtype(), self.device())
    }

    /// Ones of this shape, dtype and device.
    pub fn ones_like(&self) -> Result<Tensor> {
        Tensor::ones(self.shape(), self.dtype(), self.device())
    }

    /// `start, start + step, …` before `end`.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// use attentia_tensor::{DType, Tensor};
    /// assert_eq!(Tensor::arange(1, 10, 3, DType::I64, &device)?.to_vec::<i64>()?, [1, 4, 7]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn arange(
        start: impl Into<Scalar>,
        end: impl Into<Scalar>,
        step: impl Into<Scalar>,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let (start, end, step) = (start.into(), end.into(), step.into());
        let count = range_count(start, end, step).ok_or_else(|| {
            let [start, end, step] = [start, end, step].map(Scalar::to_f64);
            Error::new(ErrorKind::Argument, "arange", format!("no range from {start} to {end} by {step}"))
                .help("bounds and step are finite, and the step is not 0")
        })?;
        let mut data = Data::alloc(device, dtype, Shape::new(&[count])?)?;
        device.iota(start, step, data.view_mut()?)?;
        Ok(Tensor::from_data(data))
    }

    /// The identity matrix `[n, n]`.
    pub fn eye(n: usize, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut data = Data::alloc(device, dtype, Shape::new(&[n, n])?)?;
        device.full(Scalar::Int(0), data.view_mut()?)?;
        let stride = isize::try_from(n).unwrap_or(isize::MAX).saturating_add(1);
        if let Some(diagonal) = Layout::from_parts(Shape::new(&[n])?, &[stride], 0) {
            device.full(Scalar::Int(1), data.view_mut_as(&diagonal)?)?;
        }
        Ok(Tensor::from_data(data))
    }

    /// Uniform in [0, 1). The same key gives the same bits on every device.
    pub fn rand(key: RngKey, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        Tensor::rand_uniform(key, 0.0, 1.0, shape, dtype, device)
    }

    /// Uniform in [low, high).
    pub fn rand_uniform(
        key: RngKey,
        low: f64,
        high: f64,
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let mut data = Data::alloc(device, dtype, Shape::new(shape)?)?;
        rules::float("rand_uniform", data.meta("out"))?;
        if !(low.is_finite() && high.is_finite() && low <= high) {
            return Err(Error::new(ErrorKind::Argument, "rand_uniform", format!("no interval from {low} to {high}"))
                .help("bounds are finite, and low ≤ high"));
        }
        device.uniform(key, low, high, data.view_mut()?)?;
        Ok(Tensor::from_data(data))
    }

    /// Standard normal deviates. The same key gives the same draws on every device.
    pub fn randn(key: RngKey, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let mut data = Data::alloc(device, dtype, Shape::new(shape)?)?;
        rules::float("randn", data.meta("out"))?;
        device.normal(key, 0.0, 1.0, data.view_mut()?)?;
        Ok(Tensor::from_data(data))
    }

    /// Bool `[rows, columns]`, true where `column ≤ row + diagonal`: the lower triangle.
    pub fn tril_mask(rows: usize, columns: usize, diagonal: i64, device: &Device) -> Result<Tensor> {
        let i = Tensor::arange(diagonal, diagonal.saturating_add(bounded(rows)), 1, DType::I64, device)?;
        let j = Tensor::arange(0, bounded(columns), 1, DType::I64, device)?;
        j.le(&i.unsqueeze(1)?)
    }

    /// Bool `[rows, columns]`, true where `column ≥ row + diagonal`: the upper triangle.
    pub fn triu_mask(rows: usize, columns: usize, diagonal: i64, device: &Device) -> Result<Tensor> {
        Tensor::tril_mask(rows, columns, diagonal.saturating_sub(1), device)?.logical_not()
    }

    /// The lower triangle of the last two axes, up to and with a diagonal (0 is the main one); 0 elsewhere.
    pub fn tril(&self, diagonal: i64) -> Result<Tensor> {
        let [rows, columns] = self.last_two("tril")?;
        self.where_or_zero(&Tensor::tril_mask(rows, columns, diagonal, self.device())?)
    }

    /// The upper triangle of the last two axes, from a diagonal on (0 is the main one); 0 elsewhere.
    pub fn triu(&self, diagonal: i64) -> Result<Tensor> {
        let [rows, columns] = self.last_two("triu")?;
        self.where_or_zero(&Tensor::triu_mask(rows, columns, diagonal, self.device())?)
    }

    fn last_two(&self, op: &'static str) -> Result<[usize; 2]> {
        match self.shape().as_slice() {
            [.., rows, columns] => Ok([*rows, *columns]),
            _ => Err(Error::new(ErrorKind::Shape, op, format!("has rank {}", self.rank()))
                .operand(self.data().operand("x").expected("at least two axes"))),
        }
    }
}

fn bounded(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// How many elements a range has; `None` when that is no number of elements.
fn range_count(start: Scalar, end: Scalar, step: Scalar) -> Option<usize> {
    if let (Scalar::Int(start), Scalar::Int(end), Scalar::Int(step)) = (start, end, step) {
        let (distance, step) = (end as i128 - start as i128, step as i128);
        let towards = match step {
            0 => return None,
            _ if distance.signum() != step.signum() => 0,
            _ => (distance.abs() + step.abs() - 1) / step.abs(),
        };
        return usize::try_from(towards).ok();
    }
    let count = ((end.to_f64() - start.to_f64()) / step.to_f64()).ceil();
    // Any whole f64 below 2⁶³ converts.
    (count.is_finite() && step.to_f64() != 0.0 && count < 9e18).then_some(count.max(0.0) as usize)
}
