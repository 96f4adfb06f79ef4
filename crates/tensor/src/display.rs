//! Tensors as text: nested brackets, elided when there are many, and a last line of shape, dtype and device.

use crate::{Tensor, no_grad};
use attentia_backend::{DType, Result};
use std::fmt;

/// Above this many elements only the ends of each axis are shown.
const SHOWN: usize = 1000;
/// Elements at each end of an elided axis.
const ENDS: usize = 3;

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match no_grad(|| self.text()) {
            Ok(text) => f.write_str(&text)?,
            Err(error) => write!(f, "<{error}>")?,
        }
        write!(f, "\n{} {} {}", self.shape(), self.dtype(), self.device())?;
        f.write_str(if self.requires_grad() { " requires grad" } else { "" })
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Tensor({:?}{})", self.data(), if self.requires_grad() { ", requires grad" } else { "" })
    }
}

impl Tensor {
    fn text(&self) -> Result<String> {
        let x = self.detach();
        let elided = self.count() > SHOWN;
        let mut numbers = Vec::new();
        collect(&x, elided, &mut numbers)?;
        let words = words(&numbers, self.dtype());
        let width = words.iter().map(String::len).max().unwrap_or(0);
        let mut text = String::new();
        write(&mut text, self.shape(), elided, 0, width, &mut words.iter());
        Ok(text)
    }
}

/// The indices of an axis that are shown, in two runs.
fn runs(extent: usize, elided: bool) -> [(usize, usize); 2] {
    if elided && extent > 2 * ENDS { [(0, ENDS), (extent - ENDS, ENDS)] } else { [(0, extent), (extent, 0)] }
}

/// What is shown, in row-major order; only that is downloaded.
fn collect(x: &Tensor, elided: bool, numbers: &mut Vec<Number>) -> Result<()> {
    let rank = x.rank();
    let mut kept = x.clone();
    for axis in 0..rank {
        let [(_, head), (tail, len)] = runs(kept.shape()[axis], elided);
        if len > 0 {
            let (head, tail) = (kept.narrow(axis as isize, 0, head)?, kept.narrow(axis as isize, tail, len)?);
            kept = Tensor::cat(&[&head, &tail], axis as isize)?;
        }
    }
    if x.dtype().is_float() {
        numbers.extend(kept.to_dtype(DType::F64)?.to_vec::<f64>()?.into_iter().map(Number::Float));
    } else {
        numbers.extend(kept.to_dtype(DType::I64)?.to_vec::<i64>()?.into_iter().map(Number::Int));
    }
    Ok(())
}

enum Number {
    Float(f64),
    Int(i64),
}

fn words(numbers: &[Number], dtype: DType) -> Vec<String> {
    let floats = || numbers.iter().filter_map(|n| if let Number::Float(x) = n { Some(*x) } else { None });
    let finite = || floats().filter(|x| x.is_finite() && *x != 0.0).map(f64::abs);
    let (low, high) = finite().fold((f64::INFINITY, 0f64), |(low, high), x| (low.min(x), high.max(x)));
    let whole = floats().filter(|x| x.is_finite()).all(|x| x.fract() == 0.0);
    let scientific = high >= 1e8 || low < 1e-4 || high / low > 1e6;
    numbers
        .iter()
        .map(|number| match number {
            Number::Int(i) if dtype == DType::Bool => if *i != 0 { "true" } else { "false" }.to_owned(),
            Number::Int(i) => i.to_string(),
            Number::Float(x) if !x.is_finite() => x.to_string(),
            Number::Float(x) if whole && high < 1e8 => format!("{x:.0}."),
            Number::Float(x) if scientific => format!("{x:.4e}"),
            Number::Float(x) => format!("{x:.4}"),
        })
        .collect()
}

fn write<'a>(
    text: &mut String,
    shape: &[usize],
    elided: bool,
    depth: usize,
    width: usize,
    words: &mut impl Iterator<Item = &'a String>,
) {
    let Some((&extent, inner)) = shape.split_first() else {
        let word = words.next().map_or("", String::as_str);
        text.push_str(&format!("{word:>width$}"));
        return;
    };
    let separator = match inner.len() {
        0 => ", ".to_owned(),
        axes => format!(",{}{}", "\n".repeat(axes), " ".repeat(depth + 1)),
    };
    let [(_, head), (tail, len)] = runs(extent, elided);
    text.push('[');
    for i in (0..head).chain(tail..tail + len) {
        if i > 0 {
            text.push_str(&separator);
        }
        if len > 0 && i == tail {
            text.push_str("...");
            text.push_str(&separator);
        }
        write(text, inner, elided, depth + 1, width, words);
    }
    text.push(']');
}
