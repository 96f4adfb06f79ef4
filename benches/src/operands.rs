//! Operands on a backend, without a tensor around them: what is timed is the kernel.

use attentia::{
    backend::{Buffer, DType, Device, Layout, Result, RngKey, Shape, View, ViewMut},
    cpu::CpuBackend,
};

/// A buffer and the layout that walks over it.
#[derive(Debug)]
pub struct Operand {
    buffer: Buffer,
    layout: Layout,
}

impl Operand {
    /// Row-major, standard normal.
    pub fn normal(device: &Device, dtype: DType, shape: &[usize]) -> Result<Operand> {
        let layout = Layout::contiguous(Shape::new(shape)?);
        let mut buffer = device.alloc(dtype, layout.count())?;
        device.normal(RngKey::new(1), 0.0, 1.0, ViewMut::new(&mut buffer, &layout)?)?;
        Ok(Operand { buffer, layout })
    }

    /// The last two axes swapped.
    pub fn transposed(mut self) -> Operand {
        let rank = self.layout.rank();
        self.layout = self.layout.transpose(rank - 2, rank - 1);
        self
    }

    /// To read.
    pub fn view(&self) -> Result<View<'_>> {
        View::new(&self.buffer, &self.layout)
    }

    /// To write.
    pub fn view_mut(&mut self) -> Result<ViewMut<'_>> {
        ViewMut::new(&mut self.buffer, &self.layout)
    }
}

/// The CPU with a number of threads.
pub fn cpu(threads: usize) -> Result<Device> {
    Ok(Device::new(CpuBackend::new(threads)?))
}
