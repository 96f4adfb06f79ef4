//! Criterion groups: products, softmax, norms, elementwise. `cargo bench -p attentia-benches -- softmax`

use attentia::backend::{Activation, Binary, DType, Device, Epilogue, Result, SoftmaxKind, Source, Unary};
use attentia_benches::operands::{Operand, cpu};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const THREADS: usize = 2;

/// Runs work that cannot fail on valid operands; an error ends the benchmark with its message.
fn run(work: impl FnOnce() -> Result<()>) {
    if let Err(error) = work() {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("products");
    run(|| {
        let device = cpu(THREADS)?;
        for dtype in [DType::F32, DType::Bf16] {
            for (batch, m, n, k) in
                [(1, 256, 256, 256), (1, 512, 512, 512), (1, 1024, 1024, 1024), (1, 1, 3072, 768), (64, 128, 128, 64)]
            {
                let (a, b) = (normal(&device, dtype, &[batch, m, k])?, normal(&device, dtype, &[batch, k, n])?);
                let mut out = normal(&device, dtype, &[batch, m, n])?;
                group.throughput(Throughput::Elements(2 * (batch * m * n * k) as u64));
                let id = BenchmarkId::new(dtype.name(), format!("{batch}x{m}x{n}x{k}"));
                group.bench_function(id, |bencher| {
                    bencher.iter(|| run(|| device.matmul(a.view()?, b.view()?, Epilogue::NONE, out.view_mut()?)));
                });
            }
        }
        Ok(())
    });
    group.finish();
}

fn normal(device: &Device, dtype: DType, shape: &[usize]) -> Result<Operand> {
    Operand::normal(device, dtype, shape)
}

fn softmax(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("softmax");
    run(|| {
        let device = cpu(THREADS)?;
        for (rows, columns) in [(256, 512), (4096, 4096)] {
            let x = normal(&device, DType::F32, &[rows, columns])?;
            let mut out = normal(&device, DType::F32, &[rows, columns])?;
            group.throughput(Throughput::Bytes(8 * (rows * columns) as u64));
            group.bench_function(format!("{rows}x{columns}"), |bencher| {
                bencher.iter(|| {
                    run(|| device.softmax(SoftmaxKind::Softmax, Source::View(x.view()?), None, out.view_mut()?))
                });
            });
        }
        Ok(())
    });
    group.finish();
}

fn norms(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("norms");
    run(|| {
        let device = cpu(THREADS)?;
        let (rows, columns) = (16384, 768);
        let x = normal(&device, DType::F32, &[rows, columns])?;
        let (weight, bias) = (normal(&device, DType::F32, &[columns])?, normal(&device, DType::F32, &[columns])?);
        let mut out = normal(&device, DType::F32, &[rows, columns])?;
        let (mut mean, mut rstd) = (normal(&device, DType::F32, &[rows, 1])?, normal(&device, DType::F32, &[rows, 1])?);
        group.throughput(Throughput::Bytes(8 * (rows * columns) as u64));
        group.bench_function("layer_norm", |bencher| {
            bencher.iter(|| {
                run(|| {
                    let (weight, bias) = (Some(weight.view()?), Some(bias.view()?));
                    let (mean, rstd) = (mean.view_mut()?, rstd.view_mut()?);
                    device.layer_norm(x.view()?, weight, bias, 1e-5, out.view_mut()?, mean, rstd)
                })
            });
        });
        group.bench_function("rms_norm", |bencher| {
            bencher.iter(|| {
                run(|| device.rms_norm(x.view()?, Some(weight.view()?), 1e-5, out.view_mut()?, rstd.view_mut()?))
            });
        });
        Ok(())
    });
    group.finish();
}

fn elementwise(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("elementwise");
    run(|| {
        let device = cpu(THREADS)?;
        for len in [128 << 10, 16 << 20] {
            let x = normal(&device, DType::F32, &[len])?;
            let mut out = normal(&device, DType::F32, &[len])?;
            group.throughput(Throughput::Bytes(8 * len as u64));
            group.bench_function(BenchmarkId::new("exp", len), |bencher| {
                bencher.iter(|| run(|| device.unary(Unary::Exp, Source::View(x.view()?), out.view_mut()?)));
            });
            group.bench_function(BenchmarkId::new("add", len), |bencher| {
                bencher
                    .iter(|| run(|| device.binary(Binary::Add, Source::View(x.view()?), x.view()?, out.view_mut()?)));
            });
            for f in Activation::ALL {
                group.bench_function(BenchmarkId::new(f.name(), len), |bencher| {
                    bencher.iter(|| run(|| device.activation(f, Source::View(x.view()?), out.view_mut()?)));
                });
            }
        }
        Ok(())
    });
    group.finish();
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(2));
    targets = products, softmax, norms, elementwise
}
criterion_main!(kernels);
