//! Layer norm (Ba, Kiros and Hinton, 2016) and RMS norm (Zhang and Sennrich, 2019), along the last axis of C elements.
//!
//! ```text
//! layer norm   x̂ = (x − mean(x)) · rstd     rstd = 1/√(mean((x − mean)²) + ε)     y = x̂ · w + b
//! rms norm     x̂ = x · rstd                 rstd = 1/√(mean(x²) + ε)              y = x̂ · w
//!
//! backward, with g = dy · w:
//! layer norm   dx = rstd · (g − mean(g) − x̂ · mean(g · x̂))
//! rms norm     dx = rstd · (g − x̂ · mean(g · x̂))
//! both         dw = Σ_rows dy · x̂                                                  db = Σ_rows dy
//! ```

use crate::{
    arithmetic::Arithmetic,
    check,
    storage::{read, rows, shaped, store},
};
use attentia_backend::{Result, Shape, View, ViewMut, rules, rules::Meta};

/// The forward's operands; RMS norm has no bias.
pub(crate) struct Operands<'a> {
    pub(crate) x: View<'a>,
    pub(crate) weight: Option<View<'a>>,
    pub(crate) bias: Option<View<'a>>,
    pub(crate) epsilon: f64,
}

/// Which norm: the mean that layer norm subtracts goes to, or comes from, `Layer`'s field.
pub(crate) enum Norm<T> {
    Layer { mean: T },
    Rms,
}

impl<T> Norm<T> {
    fn name(&self) -> &'static str {
        match self {
            Norm::Layer { .. } => "layer_norm",
            Norm::Rms => "rms_norm",
        }
    }
}

/// `y`, and the statistics that the backward needs.
pub(crate) fn forward(
    a: Arithmetic,
    operands: &Operands,
    out: ViewMut,
    norm: Norm<ViewMut>,
    rstd: ViewMut,
) -> Result<()> {
    let (op, x) = (norm.name(), check::operand("x", operands.x));
    let parameters = [("weight", operands.weight), ("bias", operands.bias)];
    let statistics = checked(op, x, &parameters)?;
    check::shape(op, check::destination("out", &out), x.layout.shape())?;
    check::result(op, check::destination("out", &out), x.dtype)?;
    is_statistic(op, check::destination("rstd", &rstd), x, &statistics)?;
    if let Norm::Layer { mean } = &norm {
        is_statistic(op, check::destination("mean", mean), x, &statistics)?;
    }
    let (weight, bias) = (row(op, "weight", operands.weight)?, row(op, "bias", operands.bias)?);
    let (mut y, mut means, mut rstds) = (Vec::new(), Vec::new(), Vec::new());
    for x in rows::<f64>(&read(op, "x", operands.x)?)? {
        let mean = match norm {
            Norm::Layer { .. } => a.mean(x.iter().copied()),
            Norm::Rms => 0.0,
        };
        let centred: Vec<f64> = x.iter().map(|x| a.keep(x - mean)).collect();
        let variance = a.mean(centred.iter().map(|x| a.keep(x * x)));
        let rstd = a.keep(1.0 / a.keep(variance + operands.epsilon).sqrt());
        y.extend(centred.iter().enumerate().map(|(c, x)| {
            let mut y = a.keep(x * rstd);
            y = weight.as_ref().map_or(y, |w| a.keep(y * w[c]));
            bias.as_ref().map_or(y, |b| a.keep(y + b[c]))
        }));
        means.push(mean);
        rstds.push(rstd);
    }
    store(op, "out", out, &shaped(y, x.layout.shape())?)?;
    store(op, "rstd", rstd, &shaped(rstds, &statistics)?)?;
    match norm {
        Norm::Layer { mean } => store(op, "mean", mean, &shaped(means, &statistics)?),
        Norm::Rms => Ok(()),
    }
}

/// Where the gradients go; those of weight and bias are `[C]` and are overwritten.
pub(crate) struct Gradients<'a> {
    pub(crate) x: Option<ViewMut<'a>>,
    pub(crate) weight: Option<ViewMut<'a>>,
    pub(crate) bias: Option<ViewMut<'a>>,
}

/// Gradients of [`forward`] from its statistics.
pub(crate) fn backward(
    a: Arithmetic,
    x: View,
    weight: Option<View>,
    norm: Norm<View>,
    rstd: View,
    dy: View,
    gradients: Gradients,
) -> Result<()> {
    let (op, x_meta) = (norm.name(), check::operand("x", x));
    let statistics = checked(op, x_meta, &[("weight", weight)])?;
    is_statistic(op, check::operand("rstd", rstd), x_meta, &statistics)?;
    check::shape(op, check::operand("dy", dy), x.shape())?;
    rules::float(op, check::operand("dy", dy))?;
    let weight = row(op, "weight", weight)?;
    let means = match norm {
        Norm::Layer { mean } => {
            is_statistic(op, check::operand("mean", mean), x_meta, &statistics)?;
            read::<f64>(op, "mean", mean)?.iter().copied().collect()
        }
        Norm::Rms => vec![0.0; statistics.count()],
    };
    let rstds: Vec<f64> = read(op, "rstd", rstd)?.iter().copied().collect();
    let width = x.shape().last().copied().unwrap_or(1);
    let (mut dx, mut dweight, mut dbias) = (Vec::new(), vec![0.0; width], vec![0.0; width]);
    let (all_x, all_dy) = (rows::<f64>(&read(op, "x", x)?)?, rows::<f64>(&read(op, "dy", dy)?)?);
    for (((x, dy), mean), rstd) in all_x.iter().zip(&all_dy).zip(means).zip(rstds) {
        let normalised: Vec<f64> = x.iter().map(|x| a.keep(a.keep(x - mean) * rstd)).collect();
        for c in 0..width {
            dweight[c] = a.add(dweight[c], a.keep(dy[c] * normalised[c]));
            dbias[c] = a.add(dbias[c], dy[c]);
        }
        let g: Vec<f64> = match &weight {
            Some(w) => dy.iter().zip(w).map(|(dy, w)| a.keep(dy * w)).collect(),
            None => dy.clone(),
        };
        let mean_g = match norm {
            Norm::Layer { .. } => a.mean(g.iter().copied()),
            Norm::Rms => 0.0,
        };
        let projection = a.mean(g.iter().zip(&normalised).map(|(g, x)| a.keep(g * x)));
        dx.extend(g.iter().zip(&normalised).map(|(g, x)| {
            let inner = a.keep(a.keep(g - mean_g) - a.keep(x * projection));
            a.keep(rstd * inner)
        }));
    }
    let targets = [("dx", gradients.x, dx), ("dweight", gradients.weight, dweight), ("dbias", gradients.bias, dbias)];
    for (role, target, values) in targets {
        if let Some(target) = target {
            let shape: &[usize] = if role == "dx" { x.shape() } else { &[width] };
            store(op, role, target, &shaped(values, shape)?)?;
        }
    }
    Ok(())
}

fn checked(op: &'static str, x: Meta, parameters: &[(&'static str, Option<View>)]) -> Result<Shape> {
    let given = parameters.iter().filter_map(|(role, view)| view.map(|view| check::operand(role, view)));
    rules::norm(op, x, &given.collect::<Vec<_>>())
}

fn is_statistic(op: &'static str, statistic: Meta, x: Meta, shape: &Shape) -> Result<()> {
    check::shape(op, statistic, shape)?;
    rules::dtype(op, statistic, x.dtype.statistics())
}

fn row(op: &'static str, role: &'static str, parameter: Option<View>) -> Result<Option<Vec<f64>>> {
    parameter.map(|p| Ok(read::<f64>(op, role, p)?.iter().copied().collect())).transpose()
}

#[cfg(test)]
mod tests {
    use crate::{
        ReferenceBackend,
        sample::{Sample, assert_close, check_gradient, weighted},
    };
    use attentia_backend::{Backend, DType, ErrorKind};

    const EPSILON: f64 = 1e-2;

    struct Forward {
        out: Sample,
        mean: Sample,
        rstd: Sample,
    }

    fn layer(x: &Sample, w: Option<&Sample>, b: Option<&Sample>, epsilon: f64) -> Forward {
        let statistics = [&x.extents()[..x.extents().len() - 1], &[1]].concat();
        let empty = |extents: &[usize]| Sample::empty(DType::F64, extents);
        let mut f = Forward { out: empty(&x.extents()), mean: empty(&statistics), rstd: empty(&statistics) };
        let (w, b) = (w.map(Sample::view), b.map(Sample::view));
        let backend = ReferenceBackend::new();
        backend.layer_norm(x.view(), w, b, epsilon, f.out.view_mut(), f.mean.view_mut(), f.rstd.view_mut()).unwrap();
        f
    }

    fn rms(x: &Sample, w: Option<&Sample>, epsilon: f64) -> Forward {
        let statistics = [&x.extents()[..x.extents().len() - 1], &[1]].concat();
        let empty = |extents: &[usize]| Sample::empty(DType::F64, extents);
        let mut f = Forward { out: empty(&x.extents()), mean: empty(&[0]), rstd: empty(&statistics) };
        let backend = ReferenceBackend::new();
        backend.rms_norm(x.view(), w.map(Sample::view), epsilon, f.out.view_mut(), f.rstd.view_mut()).unwrap();
        f
    }

    #[test]
    fn rows_by_hand() {
        let x = Sample::floats(DType::F64, &[2, 2], &[1., 3., 5., 5.]);
        let (w, b) = (Sample::floats(DType::F64, &[2], &[2., 3.]), Sample::floats(DType::F64, &[2], &[10., 20.]));
        let f = layer(&x, Some(&w), Some(&b), 0.0);
        assert_eq!(f.mean.to_floats(), [2., 5.]);
        assert_eq!(f.rstd.to_floats(), [1., f64::INFINITY]);
        assert_close(&f.out, &[8., 23., f64::NAN, f64::NAN], 0.0);
        assert_eq!(layer(&x, None, None, 3.0).out.to_floats(), [-0.5, 0.5, 0., 0.]);
        let f = rms(&Sample::floats(DType::F64, &[1, 2], &[1., 7.]), Some(&w), 0.0);
        assert_close(&f.out, &[0.4, 4.2], 1e-15);
        assert_eq!(f.rstd.to_floats(), [0.2]);
    }

    #[test]
    fn layer_norm_gradients_agree_with_differences() {
        let (x, dy) = (Sample::scattered(&[2, 3, 4], 1), Sample::scattered(&[2, 3, 4], 2));
        let (w, b) = (Sample::scattered(&[4], 3), Sample::scattered(&[4], 4));
        let f = layer(&x, Some(&w), Some(&b), EPSILON);
        let (mut dx, mut dw, mut db) = (Sample::empty(DType::F64, &[2, 3, 4]), w.seen(|l| *l), b.seen(|l| *l));
        let backend = ReferenceBackend::new();
        let (mean, rstd) = (f.mean.view(), f.rstd.view());
        let (to_x, to_w, to_b) = (Some(dx.view_mut()), Some(dw.view_mut()), Some(db.view_mut()));
        backend.layer_norm_backward(x.view(), Some(w.view()), mean, rstd, dy.view(), to_x, to_w, to_b).unwrap();
        check_gradient("x", &x, &dx, |x| weighted(&layer(x, Some(&w), Some(&b), EPSILON).out, &dy));
        check_gradient("w", &w, &dw, |w| weighted(&layer(&x, Some(w), Some(&b), EPSILON).out, &dy));
        check_gradient("b", &b, &db, |b| weighted(&layer(&x, Some(&w), Some(b), EPSILON).out, &dy));
        backend.layer_norm_backward(x.view(), None, mean, rstd, dy.view(), Some(dx.view_mut()), None, None).unwrap();
        check_gradient("x alone", &x, &dx, |x| weighted(&layer(x, None, None, EPSILON).out, &dy));
    }

    #[test]
    fn rms_norm_gradients_agree_with_differences() {
        let (x, dy, w) = (Sample::scattered(&[3, 4], 1), Sample::scattered(&[3, 4], 2), Sample::scattered(&[4], 3));
        let rstd = rms(&x, Some(&w), EPSILON).rstd;
        let (mut dx, mut dw) = (Sample::empty(DType::F64, &[3, 4]), Sample::empty(DType::F64, &[4]));
        let (to_x, to_w) = (Some(dx.view_mut()), Some(dw.view_mut()));
        let backend = ReferenceBackend::new();
        backend.rms_norm_backward(x.view(), Some(w.view()), rstd.view(), dy.view(), to_x, to_w).unwrap();
        check_gradient("x", &x, &dx, |x| weighted(&rms(x, Some(&w), EPSILON).out, &dy));
        check_gradient("w", &w, &dw, |w| weighted(&rms(&x, Some(w), EPSILON).out, &dy));
    }

    #[test]
    fn no_rows_give_zero_gradients_and_wrong_statistics_are_refused() {
        let (x, rstd) = (Sample::floats(DType::Bf16, &[0, 2], &[]), Sample::floats(DType::F32, &[0, 1], &[]));
        let mut dw = Sample::empty(DType::F32, &[2]);
        let backend = ReferenceBackend::new();
        backend.rms_norm_backward(x.view(), None, rstd.view(), x.view(), None, Some(dw.view_mut())).unwrap();
        assert_eq!(dw.to_floats(), [0., 0.]);
        let (mut out, mut narrow) = (Sample::empty(DType::Bf16, &[0, 2]), Sample::empty(DType::Bf16, &[0, 1]));
        let error = backend.rms_norm(x.view(), None, 0.0, out.view_mut(), narrow.view_mut()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DType);
    }
}
