//! The CPU backend at each instruction set with guarded memory: every operand, result and scratch ends at an inaccessible page.
//!
//! A kernel that reaches further ends the process. `-- --test-threads 1 --format pretty` names the case in which that happens.

use attentia_backend::{Device, Result};
use attentia_cpu::{CpuBackend, Isa};
use attentia_tests::suite::{Target, run};
use std::process::ExitCode;

fn main() -> Result<ExitCode> {
    if !cfg!(unix) {
        println!("skipped: this system has no pages that can be made inaccessible");
        return Ok(ExitCode::SUCCESS);
    }
    let available = Isa::ALL.into_iter().filter(|isa| isa.is_available());
    let target = |isa: Isa| {
        let device = Device::new(CpuBackend::guarded(2, isa)?);
        Ok(Target { device, label: format!("{isa}-guarded"), unsupported: |_| None })
    };
    Ok(run(available.map(target).collect::<Result<_>>()?))
}
