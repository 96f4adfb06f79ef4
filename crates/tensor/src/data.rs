//! A tensor's values, without its place in a graph.

use attentia_backend::{
    Buffer, DType, Device, Element, Error, ErrorKind, Layout, Operand, Result, Shape, View, ViewMut, rules::Meta,
};
use std::fmt;

/// A buffer, the layout that walks over it, and the device that it lives on. Cloning copies no element.
#[derive(Clone)]
pub struct Data {
    buffer: Buffer,
    layout: Layout,
    device: Device,
}

impl Data {
    /// Row-major room of any content, with one owner.
    pub fn alloc(device: &Device, dtype: DType, shape: Shape) -> Result<Data> {
        let buffer = device.alloc(dtype, shape.count())?;
        Ok(Data { buffer, layout: Layout::contiguous(shape), device: device.clone() })
    }

    /// [`alloc`](Data::alloc) with axes nested as those of another tensor's values ([`Layout::nested_like`]): what follows
    /// them through views, such as heads that are merged again, needs no copy.
    pub(crate) fn alloc_like(&self, dtype: DType, shape: Shape) -> Result<Data> {
        let buffer = self.device.alloc(dtype, shape.count())?;
        Ok(Data { buffer, layout: Layout::nested_like(shape, &self.layout), device: self.device.clone() })
    }

    /// From its parts. Errors when the layout reaches past the buffer.
    pub fn from_parts(buffer: Buffer, layout: Layout, device: &Device) -> Result<Data> {
        View::new(&buffer, &layout)?;
        Ok(Data { buffer, layout, device: device.clone() })
    }

    /// Host elements in row-major order.
    pub fn from_slice<T: Element>(values: &[T], shape: Shape, device: &Device) -> Result<Data> {
        if values.len() != shape.count() {
            let what = format!("{} values do not fill {shape}", values.len());
            return Err(Error::new(ErrorKind::Shape, "from_slice", what)
                .help(format!("the product of the extents is {}", shape.count())));
        }
        let mut data = Data::alloc(device, T::DTYPE, shape)?;
        device.upload(T::host(values), data.view_mut()?)?;
        Ok(data)
    }

    /// The elements in row-major order, as values of exactly this dtype.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if T::DTYPE != self.dtype() {
            return Err(Error::new(ErrorKind::DType, "to_vec", format!("read as {}", T::DTYPE))
                .operand(self.meta("x").operand().expected(T::DTYPE.name()))
                .help(format!("convert it with to_dtype(DType::{:?})", T::DTYPE)));
        }
        let mut values = vec![T::zero(); self.layout.count()];
        self.device.download(self.view()?, T::host_mut(&mut values))?;
        Ok(values)
    }

    /// The handle on its storage.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// How it walks over the buffer.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its extents.
    pub fn shape(&self) -> &Shape {
        self.layout.shape()
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.buffer.dtype()
    }

    /// Where it lives.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// To read it.
    pub fn view(&self) -> Result<View<'_>> {
        View::new(&self.buffer, &self.layout)
    }

    /// To read it through another layout, which must stay within the buffer.
    pub fn view_as<'a>(&'a self, layout: &'a Layout) -> Result<View<'a>> {
        View::new(&self.buffer, layout)
    }

    /// To write it. Errors while somebody else holds the storage.
    pub fn view_mut(&mut self) -> Result<ViewMut<'_>> {
        ViewMut::new(&mut self.buffer, &self.layout)
    }

    /// To write a part of it, such as the next positions of a cache, through another layout of the same buffer.
    pub fn view_mut_as<'a>(&'a mut self, layout: &'a Layout) -> Result<ViewMut<'a>> {
        ViewMut::new(&mut self.buffer, layout)
    }

    /// Whether it may be overwritten: nobody else holds the storage, and no element is named twice.
    pub fn is_writable(&mut self) -> bool {
        self.buffer.is_sole_owner() && !self.layout.may_overlap_itself()
    }

    /// The same buffer through another layout.
    pub(crate) fn with_layout(&self, layout: Layout) -> Data {
        Data { buffer: self.buffer.clone(), layout, device: self.device.clone() }
    }

    /// This handle, through another layout.
    pub(crate) fn relayout(mut self, layout: Layout) -> Data {
        self.layout = layout;
        self
    }

    /// A row-major copy with storage of its own.
    pub(crate) fn copied(&self) -> Result<Data> {
        self.cast(self.dtype())
    }

    /// A row-major copy in another dtype.
    pub(crate) fn cast(&self, dtype: DType) -> Result<Data> {
        let mut copy = Data::alloc(&self.device, dtype, *self.shape())?;
        self.device.copy(self.view()?, copy.view_mut()?)?;
        Ok(copy)
    }

    /// As the shape rules want to know it.
    pub fn meta(&self, role: &'static str) -> Meta<'_> {
        Meta { role, layout: &self.layout, dtype: self.dtype(), device: self.device.name() }
    }

    /// As an error shows it.
    pub(crate) fn operand(&self, role: &'static str) -> Operand {
        self.meta(role).operand()
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {} {}", self.shape(), self.dtype(), self.device)
    }
}
