//! Elements from and to the host.

use crate::{
    CpuBackend,
    nest::Nest,
    storage::{Input, Output, Raw},
};
use attentia_backend::{Error, ErrorKind, HostSlice, HostSliceMut, Layout, Result, View, ViewMut};

fn count(op: &'static str, host: usize, layout: &Layout) -> Result<()> {
    if host == layout.count() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, op, format!("{host} host elements for shape {}", layout.shape())))
}

pub(crate) fn upload(_cpu: &CpuBackend, host: HostSlice, out: ViewMut) -> Result<()> {
    match host {
        HostSlice::F64(x) => write(x, out),
        HostSlice::F32(x) => write(x, out),
        HostSlice::Bf16(x) => write(x, out),
        HostSlice::F16(x) => write(x, out),
        HostSlice::I64(x) => write(x, out),
        HostSlice::U32(x) => write(x, out),
        HostSlice::U8(x) => {
            if out.dtype() == attentia_backend::DType::Bool {
                return Err(Error::new(ErrorKind::DType, "upload", "u8 into bool").help("upload a slice of bool"));
            }
            write(x, out)
        }
        HostSlice::Bool(x) => {
            if out.dtype() != attentia_backend::DType::Bool {
                return Err(Error::new(ErrorKind::DType, "upload", format!("bool into {}", out.dtype())));
            }
            write(bytemuck::cast_slice::<bool, u8>(x), out)
        }
    }
}

fn write<T: Raw>(host: &[T], out: ViewMut) -> Result<()> {
    count("upload", host.len(), out.layout())?;
    let out = Output::<T>::new("upload", out)?;
    // The host is row-major: a nest led by it keeps that order.
    let rows = Layout::contiguous(*out.layout().shape());
    let nest = Nest::new([&rows, out.layout()]);
    for run in nest.runs(0..nest.count()) {
        for i in 0..run.len as isize {
            let [from, to] = std::array::from_fn(|n| run.offsets[n] + i * run.strides[n]);
            // SAFETY: the nest stays within both layouts, whose counts agree.
            unsafe { *out.start().offset(to) = host[from as usize] };
        }
    }
    Ok(())
}

pub(crate) fn download(_cpu: &CpuBackend, x: View, host: HostSliceMut) -> Result<()> {
    match host {
        HostSliceMut::F64(host) => read(x, host),
        HostSliceMut::F32(host) => read(x, host),
        HostSliceMut::Bf16(host) => read(x, host),
        HostSliceMut::F16(host) => read(x, host),
        HostSliceMut::I64(host) => read(x, host),
        HostSliceMut::U32(host) => read(x, host),
        HostSliceMut::U8(host) => read(x, host),
        HostSliceMut::Bool(host) => {
            let mut bytes = vec![0u8; host.len()];
            read(x, &mut bytes)?;
            host.iter_mut().zip(bytes).for_each(|(h, b)| *h = b != 0);
            Ok(())
        }
    }
}

fn read<T: Raw>(x: View, host: &mut [T]) -> Result<()> {
    count("download", host.len(), x.layout())?;
    let x = Input::<T>::new("download", x)?;
    if let Some(all) = x.as_slice() {
        host.copy_from_slice(all);
        return Ok(());
    }
    let rows = Layout::contiguous(*x.layout().shape());
    let nest = Nest::new([&rows, x.layout()]);
    for run in nest.runs(0..nest.count()) {
        for i in 0..run.len as isize {
            let [to, from] = std::array::from_fn(|n| run.offsets[n] + i * run.strides[n]);
            // SAFETY: the nest stays within both layouts, whose counts agree.
            host[to as usize] = unsafe { *x.start().offset(from) };
        }
    }
    Ok(())
}
