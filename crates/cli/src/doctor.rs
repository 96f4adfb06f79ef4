//! `attentia doctor`: what this machine offers, what it can do at most, and whether the kernels are right on it.

use crate::Machine;
use anyhow::{Result, bail};
use attentia::{
    backend::{Backend, FusedOp},
    cpu::{CpuBackend, Isa},
    nn::{AdamW, AdamWConfig, Initialise, Optimizer, Scope},
    reference::ReferenceBackend,
    tensor::{DType, Device, RngKey, Tensor, Var},
};
use serde::Serialize;
use std::io::Write;

#[derive(Serialize)]
struct Report {
    version: &'static str,
    device: String,
    architecture: &'static str,
    cpu_features: Vec<&'static str>,
    isa: &'static str,
    isas_available: Vec<&'static str>,
    threads: usize,
    pool: Pool,
    fma_peak_gflops: f64,
    /// Of bf16 in pairs, where the instruction set has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pair_peak_gflops: Option<f64>,
    copy_gb_per_s: f64,
    kernels: Vec<Kernel>,
    self_test: Vec<Check>,
}

#[derive(Serialize)]
struct Pool {
    live_bytes: usize,
    peak_bytes: usize,
    cached_bytes: usize,
    system_allocations: usize,
}

/// A kernel, and the dtypes that it exists for at each instruction set.
#[derive(Serialize)]
struct Kernel {
    name: &'static str,
    isa: &'static str,
    dtypes: Vec<&'static str>,
}

/// One operation compared with the oracle.
#[derive(Serialize)]
struct Check {
    operation: &'static str,
    isa: &'static str,
    /// Greatest difference over the greatest magnitude of the oracle's result.
    error: f64,
    limit: f64,
}

impl Check {
    fn passed(&self) -> bool {
        self.error <= self.limit
    }
}

pub(crate) fn run(machine: &Machine, json: bool) -> Result<()> {
    machine.device()?; // an unknown device is an error here too
    if machine.device != "cpu" {
        bail!(
            "doctor examines the cpu, and {} was asked for\n  help: leave --device out; {} has no limits to measure",
            machine.device,
            machine.device
        );
    }
    let cpu = CpuBackend::new(machine.threads)?;
    let available: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect();
    let mut self_test = Vec::new();
    for &isa in &available {
        check_all(isa, machine.threads, &mut self_test)?;
    }
    let fma_peak_gflops = cpu.measure_fma_peak();
    let copy_gb_per_s = cpu.measure_copy_bandwidth()?;
    let memory = cpu.memory();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        device: machine.device.clone(),
        architecture: std::env::consts::ARCH,
        cpu_features: cpu_features(),
        isa: cpu.isa().name(),
        isas_available: available.iter().map(|isa| isa.name()).collect(),
        threads: cpu.threads(),
        pool: Pool {
            live_bytes: memory.live,
            peak_bytes: memory.peak,
            cached_bytes: memory.cached,
            system_allocations: memory.system_allocations,
        },
        fma_peak_gflops,
        pair_peak_gflops: cpu.measure_pair_peak(),
        copy_gb_per_s,
        kernels: kernels(&available)?,
        self_test,
    };
    let mut out = std::io::stdout();
    match json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
        false => print(&report, &mut out)?,
    }
    if report.self_test.iter().any(|check| !check.passed()) {
        bail!(
            "the self-test failed: results on this machine are not to be trusted; please report it with the output above"
        );
    }
    Ok(())
}

fn print(report: &Report, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "attentia {} on {}", report.version, report.architecture)?;
    writeln!(out, "  cpu features   {}", report.cpu_features.join(" "))?;
    writeln!(out, "  instructions   {} (available: {})", report.isa, report.isas_available.join(", "))?;
    writeln!(out, "  threads        {}", report.threads)?;
    let Pool { live_bytes, peak_bytes, cached_bytes, system_allocations } = report.pool;
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    writeln!(
        out,
        "  pool           {:.0} MiB live, {:.0} MiB peak, {:.0} MiB cached, {system_allocations} system allocations",
        mib(live_bytes),
        mib(peak_bytes),
        mib(cached_bytes)
    )?;
    writeln!(out, "  FMA peak       {:.0} GFLOP/s, f32, all threads", report.fma_peak_gflops)?;
    if let Some(peak) = report.pair_peak_gflops {
        writeln!(out, "  bf16 peak      {peak:.0} GFLOP/s, multiplied in pairs, all threads")?;
    }
    writeln!(out, "  copy           {:.1} GB/s read + written, 64 MiB, all threads", report.copy_gb_per_s)?;
    writeln!(out, "\nkernels")?;
    for kernel in &report.kernels {
        writeln!(out, "  {:16} {:10} {}", kernel.name, kernel.isa, kernel.dtypes.join(" "))?;
    }
    writeln!(out, "\nself-test against the oracle (f32, error relative to the greatest value)")?;
    for check in &report.self_test {
        let verdict = if check.passed() { "ok" } else { "FAILED" };
        writeln!(
            out,
            "  {:16} {:10} {:.1e} of {:.0e}  {verdict}",
            check.operation, check.isa, check.error, check.limit
        )?;
    }
    Ok(())
}

/// Instruction sets beyond this one have kernels of their own for products of bf16, and share the rest.
const SHARED: Isa = Isa::Avx512;

/// Fused operations by instruction set, as the backend itself answers.
fn kernels(available: &[Isa]) -> Result<Vec<Kernel>> {
    let mut table = Vec::new();
    for op in FusedOp::ALL {
        for &isa in available.iter().filter(|&&isa| isa <= SHARED) {
            let cpu = CpuBackend::with_isa(1, isa)?;
            let dtypes = DType::FLOATS.into_iter().filter(|&dtype| cpu.support(op, dtype).is_kernel());
            table.push(Kernel { name: op.name(), isa: isa.name(), dtypes: dtypes.map(DType::name).collect() });
        }
    }
    Ok(table)
}

type Operation = fn(&Tensor, &Tensor) -> attentia::Result<Tensor>;

/// Operations that together touch every module of the backend. Operands are normal, `[37, 65]` and `[65, 29]`.
const OPERATIONS: &[(&str, f64, Operation)] = &[
    ("matmul", 1e-5, |x, w| x.matmul(w)),
    // Sums in another order may round to the other side: a unit of bf16.
    ("matmul bf16", 1e-2, |x, w| x.to_dtype(DType::Bf16)?.matmul(&w.to_dtype(DType::Bf16)?)?.to_dtype(DType::F32)),
    ("softmax", 1e-6, |x, _| x.softmax(-1)),
    ("log_softmax", 1e-6, |x, _| x.log_softmax(-1)),
    ("layer_norm", 1e-5, |x, _| x.layer_norm(None, None, 1e-5)),
    ("rms_norm", 1e-5, |x, _| x.rms_norm(None, 1e-5)),
    ("gelu", 1e-6, |x, _| x.gelu()),
    ("silu", 1e-6, |x, _| x.silu()),
    ("exp", 1e-6, |x, _| x.exp()),
    ("tanh", 1e-6, |x, _| x.tanh()),
    ("dropout", 1e-6, |x, _| x.dropout(0.3, RngKey::new(9))),
    ("sum", 1e-5, |x, _| x.sum(&[0], false)),
    ("cumsum", 1e-5, |x, _| x.cumsum(0)),
    ("transposed add", 1e-6, |_, w| (w.t()? + 1.0)?.contiguous()),
    ("sort", 0.0, |x, _| Ok(x.sort(-1, true)?.0)),
    ("gather", 0.0, |x, _| x.index_select(1, &x.narrow(1, 0, 9)?.argmax(-1, false)?)),
    ("embedding", 1e-6, |x, w| gradient(x, |x| x.embedding(&w.argmax(-1, false)?.clamp_max(36)?))),
    ("cross_entropy", 1e-5, |x, _| gradient(x, |x| x.cross_entropy(&x.argmin(-1, false)?, Default::default()))),
    ("matmul grad", 1e-5, |x, w| gradient(x, |x| x.matmul(w))),
    ("softmax grad", 1e-5, |x, _| gradient(x, |x| x.softmax(-1))),
    ("layer_norm grad", 1e-4, |x, _| gradient(x, |x| x.layer_norm(None, None, 1e-5)? * x)),
    ("gelu grad", 1e-5, |x, _| gradient(x, Tensor::gelu)),
    ("adamw", 1e-5, adamw),
];

/// The gradient of `Σ f(x)²`.
fn gradient(x: &Tensor, f: impl FnOnce(&Tensor) -> attentia::Result<Tensor>) -> attentia::Result<Tensor> {
    let x = Var::new(x.clone())?;
    let mut grads = f(&x.tensor())?.square()?.sum_all()?.backward()?;
    grads.remove(&x).map_or_else(|| x.value().zeros_like(), Ok)
}

/// x after one step along itself.
fn adamw(x: &Tensor, _: &Tensor) -> attentia::Result<Tensor> {
    let scope = Scope::new(x.device(), x.dtype(), 1);
    let parameter = scope.parameter("x", x.shape(), Initialise::Ones)?;
    let grads = (parameter.tensor() * x)?.sum_all()?.backward()?;
    AdamW::new(scope.parameters(), AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() })?.step(grads, 0.1)?;
    Ok(parameter.value())
}

fn check_all(isa: Isa, threads: usize, checks: &mut Vec<Check>) -> Result<()> {
    let cpu = Device::new(CpuBackend::with_isa(threads, isa)?);
    let oracle = Device::new(ReferenceBackend::new());
    let operands = |device: &Device| -> attentia::Result<[Tensor; 2]> {
        let normal = |seed, shape: &[usize]| Tensor::randn(RngKey::new(seed), shape, DType::F32, device);
        Ok([normal(1, &[37, 65])?, normal(2, &[65, 29])?])
    };
    for &(operation, limit, compute) in OPERATIONS.iter().filter(|op| isa <= SHARED || op.0.starts_with("matmul")) {
        let values = |device: &Device| -> attentia::Result<Vec<f32>> {
            let [x, w] = operands(device)?;
            compute(&x, &w)?.to_vec()
        };
        let (ours, expected) = (values(&cpu)?, values(&oracle)?);
        let scale = expected.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs())) as f64;
        // A NaN is an infinite error: `max` would drop it.
        let differences = ours.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs()));
        let error = differences.fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) }) / scale;
        checks.push(Check { operation, isa: isa.name(), error, limit });
    }
    Ok(())
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    macro_rules! present {
        ($($name:tt)*) => { [$(($name, is_x86_feature_detected!($name)),)*] };
    }
    let known = present!(
        "sse4.2" "avx" "f16c" "fma" "avx2" "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vnni" "avx512bf16"
    );
    known.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect()
}

#[cfg(target_arch = "aarch64")]
fn cpu_features() -> Vec<&'static str> {
    vec!["neon"] // part of the architecture
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}
