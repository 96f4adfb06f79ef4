//! Dropout: an element stays, scaled, where its random word reaches the threshold.
//!
//! ```text
//! out = word(row, column) ≥ threshold(p) ? x / (1 − p) : 0
//! ```
//!
//! 64 words are made and used at a time, so that nothing is written but the result. A dropped element is 0 whatever it
//! was, NaN too.

use crate::{
    CpuBackend, check,
    isa::{self, Kernel, Machine},
    math::Real,
    random::{Piece, Places, WORDS, words},
    rows::{Floats, LANES, PIECE, in_f64, put, source_dtype, take},
};
use attentia_backend::{Dropout, Error, ErrorKind, Philox, Result, Source, ViewMut};
use std::ops::Range;

pub(crate) fn dropout(cpu: &CpuBackend, spec: &Dropout, x: Source, out: ViewMut) -> Result<()> {
    match in_f64(&[source_dtype(&x, &out), out.dtype()]) {
        true => typed::<f64>(cpu, spec, x, out),
        false => typed::<f32>(cpu, spec, x, out),
    }
}

fn typed<A: Real>(cpu: &CpuBackend, spec: &Dropout, x: Source, out: ViewMut) -> Result<()> {
    let op = "dropout";
    if !(0.0..1.0).contains(&spec.p) {
        return Err(Error::new(ErrorKind::Argument, op, format!("p is {}", spec.p)).help("p lies in [0, 1)"));
    }
    let out = Floats::<A>::output(op, out)?;
    let x = Floats::source(op, x, out)?;
    check::shape(op, "x", x.layout(), out.layout().shape())?;
    let Some(places) = Places::new([out.layout(), out.layout(), x.layout()]) else { return Ok(()) };
    let (key, threshold) = (spec.key.generator().key(), Philox::drop_threshold(spec.p));
    let factor = A::from_f64(1.0 / (1.0 - spec.p));
    cpu.threads.chunks(places.len(), places.grain(), |range| {
        isa::run(cpu.isa, Gate { key, threshold, factor, places: &places, range, x, out });
    });
    Ok(())
}

/// Some pieces of a destination.
struct Gate<'a, A> {
    key: [u32; 2],
    threshold: u32,
    factor: A,
    places: &'a Places<3>,
    range: Range<usize>,
    x: Floats<'a, A>,
    out: Floats<'a, A>,
}

impl<A: Real> Kernel for Gate<'_, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Gate { key, threshold, factor, places, range, x, out } = self;
        let mut scratch = [A::ZERO; PIECE];
        let scratch = scratch.as_mut_ptr();
        for Piece { row, first, tiles: [_, to, from] } in places.pieces(range) {
            // SAFETY: the places stay within the operands, whose shapes agree; tasks have different pieces. Source and
            // destination are the same memory or apart.
            unsafe {
                let x = x.read::<M>(from, scratch).row(0).cast_const();
                let y = out.place(to, scratch).row(0);
                let mut at = 0;
                while at < to.columns {
                    let words = words(key, row, ((first + at) / 4) as u64);
                    let (groups, _) = words.as_chunks::<LANES>();
                    for (i, words) in groups.iter().enumerate() {
                        let at = at + i * LANES;
                        if at >= to.columns {
                            break;
                        }
                        let mut block = take(x.add(at), to.columns - at, A::ZERO);
                        for l in 0..LANES {
                            block[l] = if words[l] >= threshold { block[l] * factor } else { A::ZERO };
                        }
                        put(block, y.add(at), to.columns - at);
                    }
                    at += WORDS;
                }
                out.store::<M>(to, scratch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{Lie, Sample, check, scattered};
    use attentia_backend::{Backend, DType, RngKey};

    #[test]
    fn agrees_with_the_oracle() {
        for dtype in DType::FLOATS {
            for (lie, to) in Lie::ALL.into_iter().zip(Lie::WRITABLE.into_iter().cycle()) {
                for p in [0.0, 0.3, 0.999] {
                    check(&format!("dropout {dtype} {lie:?} to {to:?} {p}"), |b| {
                        let spec = Dropout { p, key: RngKey::new(5).path("a") };
                        let value =
                            |place: usize| if place.is_multiple_of(11) { f64::NAN } else { scattered(1, place) };
                        let x = Sample::new(b, dtype, &[3, 5, 70], lie, value);
                        let mut out = Sample::room(b, dtype, &[3, 5, 70], to);
                        let mut in_place = Sample::new(b, dtype, &[3, 5, 70], to, value);
                        b.dropout(&spec, x.source(), out.view_mut()).unwrap();
                        b.dropout(&spec, Source::Destination, in_place.view_mut()).unwrap();
                        vec![out, in_place]
                    });
                }
            }
        }
    }

    #[test]
    fn edge_shapes_and_long_rows() {
        for extents in
            [&[][..], &[0], &[1], &[3, 0], &[0, 3], &[5, 1], &[7, 3], &[2, 1024], &[2, 1025], &[50_000], &[3, 20_001]]
        {
            check(&format!("{extents:?}"), |b| {
                let mut x = Sample::floats(b, DType::F32, extents, Lie::Contiguous, 1);
                b.dropout(&Dropout { p: 0.5, key: RngKey::new(7) }, Source::Destination, x.view_mut()).unwrap();
                vec![x]
            });
        }
        let parallel = check("many short rows", |b| {
            let mut x = Sample::floats(b, DType::F32, &[9000, 5], Lie::Transposed, 1);
            b.dropout(&Dropout { p: 0.5, key: RngKey::new(7) }, Source::Destination, x.view_mut()).unwrap();
            vec![x]
        });
        assert!(parallel > 0);
    }

    #[test]
    fn p_is_checked() {
        let cpu = CpuBackend::new(1).unwrap();
        let mut x = Sample::room(&cpu, DType::F32, &[2], Lie::Contiguous);
        for p in [1.0, -0.1, f64::NAN] {
            let spec = Dropout { p, key: RngKey::new(0) };
            let error = cpu.dropout(&spec, Source::Destination, x.view_mut()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Argument);
        }
    }
}
