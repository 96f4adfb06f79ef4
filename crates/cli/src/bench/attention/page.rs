//! The measurements as a page: charts over the length, and all numbers.

use super::report::{Measurement, Report};
use anyhow::Result;
use attentia::picture::{self, Chart};

pub(super) fn of(report: &Report) -> Result<String> {
    let head = [
        "tokens",
        "pass",
        "ms, median",
        "ms, best",
        "GFLOP/s, median",
        "GFLOP/s, best",
        "% of peak, median",
        "% of peak, best",
        "times forward",
        "bytes, most",
        "bytes, workspace",
        "repetitions",
        "path",
    ];
    let rows: Vec<Vec<String>> = report.measurements.iter().map(row).collect();
    let page = picture::Report::new("Attention over its length")
        .fact("call and machine", report.setting())
        .fact("peak", report.peak())
        .fact("program", format!("attentia {}, device {}, seed {}", report.version, report.device, report.seed))
        .chart(chart(report, "Useful work", "GFLOP/s, median of the rounds", |m| m.gflops)?)
        .chart(chart(report, "Share of the peak", "%, median of the rounds", |m| m.percent_of_peak)?)
        .note(
            "GFLOP/s count useful work: 4 operations for each query, visible key, head and element of the head \
             dimension; gradients count 2.5 times as much again, maps half as much, those of gradients as much. The peak is that of multiply-adds \
             in f32, half of it for f64, and of bf16 in pairs where kernels multiply those. Bytes are the most that the device's pool held during a call beyond queries, keys and values; the \
             workspace is the part that the kernel tells of itself.",
        )
        .table(&head, &rows)?;
    Ok(page.to_html())
}

/// A line for each pass.
fn chart(report: &Report, title: &str, axis: &str, value: fn(&Measurement) -> f64) -> Result<Chart> {
    let all = &report.measurements;
    let mut passes: Vec<&str> = all.iter().map(|m| m.pass).collect();
    passes.truncate(all.iter().filter(|m| m.tokens == all[0].tokens).count());
    let of = |pass: &str| all.iter().filter(move |m| m.pass == pass).collect::<Vec<_>>();
    let points: Vec<f64> = of(passes[0]).iter().map(|m| m.tokens as f64).collect();
    let mut chart = Chart::new(&points)?.title(title).x_axis("keys, tokens").y_axis(axis);
    for pass in passes {
        let values: Vec<f64> = of(pass).into_iter().map(value).collect();
        chart = chart.line(pass, &values)?;
    }
    Ok(chart)
}

fn row(m: &Measurement) -> Vec<String> {
    vec![
        m.tokens.to_string(),
        m.pass.to_owned(),
        format!("{:.4}", m.median_milliseconds),
        format!("{:.4}", m.best_milliseconds),
        format!("{:.1}", m.gflops),
        format!("{:.1}", m.best_gflops),
        format!("{:.1}", m.percent_of_peak),
        format!("{:.1}", m.best_percent_of_peak),
        format!("{:.2}", m.of_forward),
        m.peak_bytes.to_string(),
        m.workspace_bytes.map_or(String::new(), |bytes| bytes.to_string()),
        m.repetitions.to_string(),
        m.path(),
    ]
}
