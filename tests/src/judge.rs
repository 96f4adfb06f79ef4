//! Running a case and judging what came out.
//!
//! ```text
//!            inputs as rounded to their dtype
//!     ┌───────────────┬───────────────┬──────────────────┐
//!  device        reference f64   reference f64,     reference, rounding after
//!     │           (oracle)       on magnitudes      every primitive (naive)
//!     │               │          (for sums)         (for fused operations)
//!     └───── Accept::check(oracle, ...) ─────┘
//! ```
//!
//! What lies in a buffer outside an operand's layout is NaN, or an odd number, so that a kernel which strays reads it; what
//! lies outside a destination's layout must still be there afterwards.

use crate::{
    case::{Call, Case, Destination, Expect, Operand, Outcome, Views},
    number::{self, Values, indices, position, round},
    tolerance::{Accept, F64_SCALE, Naive, Yardstick},
};
use attentia_backend::{Backend, Buffer, DType, ErrorKind, Layout, Result, Support, View, ViewMut};
use attentia_reference::ReferenceBackend;
use std::fmt::Write;

/// An operand that has been filled.
struct Held {
    dtype: DType,
    layout: Layout,
    values: Values,
}

impl Held {
    /// The greatest finite magnitude that its layout names.
    fn greatest(&self) -> f64 {
        match self.values.through(&self.layout) {
            Values::Floats(x) => x.iter().filter(|x| x.is_finite()).fold(0f64, |m, x| m.max(x.abs())),
            Values::Integers(_) => 0.0,
        }
    }
}

/// Which operands a run sees. Only the device gets their layouts: everything that it is compared with gets row-major
/// copies made on the host, so that no mistake about a layout can be made twice.
#[derive(Clone, Copy, PartialEq)]
enum Sight {
    /// As they lie in memory.
    Placed,
    /// Row-major.
    Plain,
    /// Row-major, floats as f64.
    Wide,
    /// Row-major, floats as f64, without their signs.
    Magnitudes,
    /// Row-major, f64 as f32.
    Narrow,
    /// Row-major, f64 rounded to f32 and kept as f64.
    Rounded,
}

impl Sight {
    fn of(self, x: &Held) -> (DType, Layout, Values) {
        if self == Sight::Placed {
            return (x.dtype, x.layout, x.values.clone());
        }
        let (layout, values) = (Layout::contiguous(*x.layout.shape()), x.values.through(&x.layout));
        let wide = if x.dtype.is_float() { DType::F64 } else { x.dtype };
        let (dtype, values) = match self {
            Sight::Placed | Sight::Plain => (x.dtype, values),
            Sight::Wide => (wide, values),
            Sight::Magnitudes => (wide, values.magnitudes()),
            Sight::Narrow if x.dtype == DType::F64 => (DType::F32, values.rounded(DType::F32)),
            Sight::Narrow => (x.dtype, values),
            Sight::Rounded => (wide, values.rounded(if x.dtype == DType::F64 { DType::F32 } else { x.dtype })),
        };
        (dtype, layout, values)
    }
}

impl Operand {
    fn held(&self, seed: u64) -> Held {
        let mut values = Values::poison(self.dtype, self.len);
        self.fill.write(self.dtype, seed, &mut values, &indices(&self.layout));
        Held { dtype: self.dtype, layout: self.layout, values }
    }
}

impl Case {
    /// Runs on a device and compares with the oracle. The error says everything.
    pub fn check(&self, device: &dyn Backend) -> std::result::Result<Outcome, String> {
        // FNV-1a of the id: every case has its own numbers, and always the same ones.
        let seed =
            self.id.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3));
        let inputs: Vec<Held> = self.inputs.iter().enumerate().map(|(i, x)| x.held(seed ^ i as u64)).collect();
        let step = Step { case: self, name: self.operation, inputs: &inputs, outputs: &self.outputs, call: &self.run };
        let oracle = match step.check(device, seed)? {
            Some(oracle) => oracle,
            None if matches!(self.expect, Expect::Values) => return Ok(Outcome::Composed),
            None => return Ok(Outcome::Right),
        };
        let Some(gradient) = &self.grad else { return Ok(Outcome::Right) };
        let saved = gradient.saved.iter().map(|&i| {
            let Operand { dtype, layout, len, .. } = self.outputs[i].operand;
            let mut values = Values::poison(dtype, len);
            if let (Values::Floats(all), Values::Floats(saved)) = (&mut values, &oracle[i]) {
                indices(&layout).into_iter().zip(saved).for_each(|(i, x)| all[i] = round(dtype, *x));
            }
            Held { dtype, layout, values }
        });
        let cotangents = gradient.cotangents.iter().enumerate().map(|(i, x)| x.held(!seed ^ i as u64));
        let inputs: Vec<Held> = inputs
            .iter()
            .map(|x| Held { dtype: x.dtype, layout: x.layout, values: x.values.clone() })
            .chain(saved)
            .chain(cotangents)
            .collect();
        Step { case: self, name: gradient.operation, inputs: &inputs, outputs: &gradient.outputs, call: &gradient.run }
            .check(device, !seed)?;
        Ok(Outcome::Right)
    }
}

/// The forward or the backward of a case.
struct Step<'a> {
    case: &'a Case,
    name: &'a str,
    inputs: &'a [Held],
    outputs: &'a [Destination],
    call: &'a Call,
}

/// A run's buffers after the call, in the order of memory.
struct Ran {
    buffers: Vec<Values>,
    answer: Option<Support>,
}

impl Step<'_> {
    /// The oracle's results, row-major, when all went well; nothing when the call was rightly refused.
    fn check(&self, device: &dyn Backend, seed: u64) -> std::result::Result<Option<Vec<Values>>, String> {
        let case = self.case;
        let starts: Vec<Held> =
            self.outputs.iter().enumerate().map(|(i, out)| out.operand.held(seed ^ 0x5bd1_e995 ^ i as u64)).collect();
        let (sight, exact) = (if case.widen { Sight::Wide } else { Sight::Plain }, ReferenceBackend::new());
        let actual = self.run(device, &starts, Sight::Placed);
        if let Some(Support::Compose { why }) = actual.as_ref().ok().and_then(|ran| ran.answer.as_ref()) {
            return Err(self.failure(format!("runs, and `support` had said that it has no kernel: {why}")));
        }
        let actual = match (actual, case.expect) {
            (Err((error, Some(Support::Compose { .. }))), _) if error.kind() == ErrorKind::Unsupported => {
                return Ok(None);
            }
            (Err((error, _)), Expect::Refusal(kind)) if error.kind() == kind => {
                return match self.run(&exact, &starts, sight) {
                    Err((error, _)) if error.kind() == kind => Ok(None),
                    _ => Err(self.failure("is refused by the device and not by the oracle".to_owned())),
                };
            }
            (Err((error, _)), _) => return Err(self.failure(format!("is refused: {error:?}"))),
            (Ok(_), Expect::Refusal(kind)) => {
                return Err(self.failure(format!("is not refused with an error of kind {kind:?}")));
            }
            (Ok(ran), Expect::Values) => ran.buffers,
        };
        let oracle = self
            .run(&exact, &starts, sight)
            .map_err(|(error, _)| self.failure(format!("is refused by the oracle: {error:?}")))?
            .buffers;
        for (i, out) in self.outputs.iter().enumerate() {
            self.margin(i, &starts[i], &actual[i])?;
            let layout = &out.operand.layout;
            self.compare(i, &starts, &oracle[i], &actual[i].through(layout))?;
        }
        Ok(Some(oracle))
    }

    fn run(
        &self,
        backend: &dyn Backend,
        starts: &[Held],
        sight: Sight,
    ) -> std::result::Result<Ran, (attentia_backend::Error, Option<Support>)> {
        let before = |error| (error, None);
        let made = |x: &Held| {
            let (dtype, layout, values) = sight.of(x);
            Ok((number::buffer(backend, dtype, &values)?, layout))
        };
        let inputs = self.inputs.iter().map(made).collect::<Result<Vec<_>>>().map_err(before)?;
        let mut outputs = starts.iter().map(made).collect::<Result<Vec<_>>>().map_err(before)?;
        let inputs = inputs.iter().map(|(buffer, layout)| View::new(buffer, layout));
        let inputs = inputs.collect::<Result<Vec<_>>>().map_err(before)?;
        let answer = self.case.ask.as_ref().map(|ask| ask(backend, self.case.dtype, &inputs));
        let after = |error| (error, answer.clone());
        let views = outputs.iter_mut().map(|(buffer, layout)| ViewMut::new(buffer, layout));
        let views = views.collect::<Result<Vec<_>>>().map_err(after)?;
        (self.call)(backend, Views { inputs, outputs: views }).map_err(after)?;
        let all =
            |(buffer, _): &(Buffer, Layout)| number::read(backend, View::new(buffer, &number::whole(buffer.len())?)?);
        let buffers = outputs.iter().map(all).collect::<Result<Vec<_>>>().map_err(after)?;
        Ok(Ran { buffers, answer })
    }

    /// Nothing outside the destination's layout has changed.
    fn margin(&self, output: usize, start: &Held, actual: &Values) -> std::result::Result<(), String> {
        let mut outside = vec![true; start.values.len()];
        indices(&start.layout).into_iter().for_each(|i| outside[i] = false);
        match (0..outside.len()).find(|&i| outside[i] && !start.values.same(actual, i)) {
            None => Ok(()),
            Some(i) => {
                let role = self.outputs[output].operand.role;
                let (was, is) = (start.values.float(i), actual.float(i));
                Err(self.failure(format!("writes outside {role}: element {i} of its buffer was {was} and is {is}")))
            }
        }
    }

    fn compare(
        &self,
        output: usize,
        starts: &[Held],
        expected: &Values,
        actual: &Values,
    ) -> std::result::Result<(), String> {
        let Destination { operand, accept } = &self.outputs[output];
        if let (Values::Integers(e), Values::Integers(a)) = (expected, actual) {
            // Compared as integers: beyond 2⁵³ floats would not see a difference.
            return match (0..e.len()).find(|&i| e[i] != a[i]) {
                None => Ok(()),
                Some(i) => {
                    let (role, at) = (operand.role, position(operand.layout.shape(), i));
                    let count = e.iter().zip(a).filter(|(e, a)| e != a).count();
                    let what = format!("{role}{at:?} is {}, expected {}; {count} of {} differ", a[i], e[i], e.len());
                    Err(self.failure(what))
                }
            };
        }
        let oracle = |backend: &dyn Backend, sight: Sight| {
            let ran = self.run(backend, starts, sight).map_err(|(error, _)| {
                self.failure(format!("has no yardstick: {} refuses it: {error:?}", backend.name()))
            })?;
            Ok::<_, String>(floats(&ran.buffers[output]))
        };
        let (expected, actual) = (floats(expected), floats(actual));
        let dtypes = self.inputs.iter().map(|x| x.dtype).chain(starts.iter().map(|x| x.dtype));
        let of_operands = dtypes.into_iter().find(|d| d.is_float()).unwrap_or(operand.dtype);
        let (mut naive, mut magnitudes) = (None, None);
        match accept {
            Accept::Naive(_) | Accept::NaiveKeepingZeros(_) | Accept::NaiveBesideOperands(_) => {
                let rounding = ReferenceBackend::rounding();
                naive = Some(match of_operands {
                    DType::F64 => {
                        let exact = oracle(&ReferenceBackend::new(), Sight::Rounded)?;
                        Naive::measured(&oracle(&rounding, Sight::Narrow)?, &exact, F64_SCALE)
                    }
                    _ => Naive::measured(&oracle(&rounding, Sight::Plain)?, &expected, 1.0),
                });
            }
            Accept::Sum { .. } => magnitudes = Some(oracle(&ReferenceBackend::new(), Sight::Magnitudes)?),
            _ => {}
        }
        let scale = self.inputs.iter().chain(starts).map(Held::greatest).fold(0f64, f64::max);
        let yardstick = Yardstick {
            dtype: operand.dtype,
            operand: of_operands,
            expected: &expected,
            scale,
            naive: naive.as_ref(),
            magnitudes: magnitudes.as_deref(),
        };
        accept.check(&yardstick, &actual).map_err(|miss| {
            let i = miss.index;
            let mut what = format!(
                "{}{:?} is {:e}, expected {:e}: {:.2} ulp off, allowed {:.2} by {accept}; {} of {} differ",
                operand.role,
                position(operand.layout.shape(), i),
                actual[i],
                expected[i],
                miss.ulps,
                miss.allowed,
                miss.count,
                actual.len(),
            );
            if let Some(naive) = naive {
                let _ = write!(what, "; the naive composition is at most {:e} off", naive.error);
            }
            self.failure(what)
        })
    }

    /// A message with everything that is needed to repeat the call.
    fn failure(&self, what: String) -> String {
        let mut message = format!("{}\n{} {what}", self.case.id, self.name);
        for x in self.inputs {
            let _ = write!(message, "\n  input  {} {:?}", x.dtype, x.layout);
        }
        for out in self.outputs {
            let _ = write!(message, "\n  output {} {} {:?}", out.operand.role, out.operand.dtype, out.operand.layout);
        }
        message
    }
}

fn floats(values: &Values) -> Vec<f64> {
    match values {
        Values::Floats(x) => x.clone(),
        Values::Integers(x) => x.iter().map(|&x| x as f64).collect(),
    }
}
