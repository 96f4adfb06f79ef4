//! The protocol of `benches/peers/README.md`: one JSON request per line on stdin, one JSON answer per line on stdout.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    io::{BufRead, Write, stdin, stdout},
    time::Instant,
};

/// A sample lasts at least this long; shorter work is repeated within it.
const SAMPLE_NS: f64 = 20_000.0;

/// A call that lasts longer is a sample as it is, after one to warm up: rounds give the repetitions.
const LONG_NS: f64 = 100e6;

/// Operands of so many requests stay warm.
const PREPARED: usize = 6;

/// One call of what a request asks for.
pub type Work = Box<dyn FnMut() -> Result<()>>;

/// `[1, heads, queries, dim]` to as many keys, in f32.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub dim: usize,
    pub causal: bool,
    /// With the gradients of all three operands.
    pub backward: bool,
}

impl Attention {
    fn of(request: &Value) -> Result<Attention> {
        let number = |field: &str| {
            request[field].as_u64().map(|n| n as usize).with_context(|| format!("the request has no number {field:?}"))
        };
        let truth = |field: &str| request[field].as_bool().unwrap_or(false);
        if request["dtype"].as_str().is_some_and(|dtype| dtype != "f32") {
            bail!("this peer computes in f32, not in {}", request["dtype"]);
        }
        let queries = number("queries")?;
        Ok(Attention {
            heads: number("heads")?,
            queries,
            keys: number("keys").unwrap_or(queries),
            dim: number("head_dim")?,
            causal: truth("causal"),
            backward: truth("backward"),
        })
    }
}

/// What is asked of a library.
pub trait Library {
    const NAME: &'static str;
    const VERSION: &'static str;

    /// The ways in which it can compute attention; the fastest is measured.
    fn attention(&self, x: Attention) -> Result<Vec<(&'static str, Work)>>;

    /// So many scalar additions in a chain, forward and backward.
    fn scalar_add(&self, chain: usize) -> Result<Work>;
}

/// Answers requests until stdin ends.
pub fn serve<L: Library>(library: L) -> Result<()> {
    let mut prepared: HashMap<String, (&'static str, Work)> = HashMap::new();
    for line in stdin().lock().lines() {
        let answer = answer(&line?, &library, &mut prepared);
        let answer = answer.unwrap_or_else(|error| json!({"ok": false, "error": format!("{error:#}")}));
        writeln!(stdout(), "{answer}")?;
        stdout().flush()?;
    }
    Ok(())
}

fn answer<L: Library>(line: &str, library: &L, prepared: &mut HashMap<String, (&'static str, Work)>) -> Result<Value> {
    let mut request: Value = serde_json::from_str(line)?;
    let seconds = request["seconds"].as_f64().unwrap_or(0.2);
    match request["op"].as_str() {
        Some("hello") => {
            Ok(json!({"ok": true, "peer": L::NAME, "version": L::VERSION, "ops": ["attention", "scalar_add"]}))
        }
        Some("attention") => {
            request["seconds"].take();
            let key = request.to_string();
            if !prepared.contains_key(&key) {
                if prepared.len() >= PREPARED {
                    prepared.clear();
                }
                let mut ways = library.attention(Attention::of(&request)?)?;
                let mut times = Vec::new();
                for (_, work) in &mut ways {
                    times.push(measure(0.05, work)?[1].min(measure(0.05, work)?[1]));
                }
                let fastest =
                    (0..ways.len()).min_by(|&a, &b| times[a].total_cmp(&times[b])).context("no way at all")?;
                prepared.insert(key.clone(), ways.swap_remove(fastest));
            }
            let (way, work) = prepared.get_mut(&key).context("it was prepared")?;
            let [median, best] = measure(seconds, work)?;
            Ok(json!({"ok": true, "median_ns": median, "best_ns": best, "kernel": way}))
        }
        Some("scalar_add") => {
            if request["mode"].as_str().is_some_and(|mode| mode != "forward_backward") {
                bail!("this peer adds forward and backward, not {}", request["mode"]);
            }
            let chain = request["chain"].as_u64().unwrap_or(1000).max(1) as usize;
            let [median, best] = measure(seconds, &mut library.scalar_add(chain)?)?;
            let each = |ns: f64| ns / chain as f64;
            Ok(json!({"ok": true, "median_ns": each(median), "best_ns": each(best)}))
        }
        _ => bail!("no op {}; there are hello, attention and scalar_add", request["op"]),
    }
}

/// Median and best of samples over `seconds`, in nanoseconds per call; warms up first.
fn measure(seconds: f64, work: &mut Work) -> Result<[f64; 2]> {
    work()?;
    let once = Instant::now();
    work()?;
    let once = once.elapsed().as_nanos().max(1) as f64;
    if once > LONG_NS.max(seconds * 1e9) {
        return Ok([once; 2]);
    }
    let calls = (SAMPLE_NS / once).ceil().max(1.0) as usize;
    let (start, mut samples) = (Instant::now(), Vec::new());
    while start.elapsed().as_secs_f64() < seconds || samples.len() < 3 {
        let sample = Instant::now();
        for _ in 0..calls {
            work()?;
        }
        samples.push(sample.elapsed().as_nanos() as f64 / calls as f64);
    }
    samples.sort_by(f64::total_cmp);
    Ok([samples[samples.len() / 2], samples[0]])
}
