//! The CPU backend at each instruction set of this machine, forced.

use attentia_backend::{Device, Result};
use attentia_cpu::{CpuBackend, Isa};
use attentia_tests::suite::{Target, run};
use std::process::ExitCode;

fn main() -> Result<ExitCode> {
    let available = Isa::ALL.into_iter().filter(|isa| isa.is_available());
    let target = |isa: Isa| {
        let device = Device::new(CpuBackend::with_isa(2, isa)?);
        Ok(Target { device, label: isa.name().to_owned(), unsupported: |_| None })
    };
    Ok(run(available.map(target).collect::<Result<_>>()?))
}
