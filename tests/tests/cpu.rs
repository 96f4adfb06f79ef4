//! The CPU backend at each instruction set of this machine, forced, with guarded memory: every operand, result and scratch is
//! filled with what could pass for an older result, and ends at an inaccessible page.
//!
//! A kernel that reaches further ends the process. `-- --test-threads 1 --format pretty` names the case in which that happens.

use attentia_backend::{Device, Result};
use attentia_cpu::{CpuBackend, Isa};
use attentia_tests::suite::{Target, run};
use std::process::ExitCode;

fn main() -> Result<ExitCode> {
    let available = Isa::ALL.into_iter().filter(|isa| isa.is_available());
    let target = |isa: Isa| {
        // Not every system has pages that can be made inaccessible.
        let cpu = if cfg!(unix) { CpuBackend::guarded(2, isa)? } else { CpuBackend::with_isa(2, isa)? };
        Ok(Target { device: Device::new(cpu), label: isa.name().to_owned(), unsupported: |_| None })
    };
    Ok(run(available.map(target).collect::<Result<_>>()?))
}
