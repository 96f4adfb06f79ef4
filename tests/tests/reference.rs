//! The oracle itself: strided, broadcast and reversed operands give what row-major ones give in f64.

use attentia_backend::Device;
use attentia_reference::ReferenceBackend;
use attentia_tests::suite::{Target, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let device = Device::new(ReferenceBackend::new());
    run(vec![Target { device, label: String::new(), unsupported: |_| None }])
}
