//! Gradients of the norms.
//!
//! ```text
//! x̂ = (x − mean) · rstd,  g = dy · weight
//! dx = rstd · (g − Σ g / C − x̂ · Σ (g · x̂) / C)              RMS norm: mean = 0, and no term Σ g / C
//! dweight = Σ over rows of dy · x̂,   dbias = Σ over rows of dy
//!
//! rows ──blocks, by shape──► f32 sums of ≤ 64 rows ──► f64 sums of the block ──► added up in the order of the blocks
//! ```

use super::{columns_of, parameter};
use crate::{
    CpuBackend, check,
    isa::{self, Kernel, Machine},
    math::Real,
    rows::{
        Floats, GRAIN, LANES, RowPlan, Scratch, Vector, blocks, in_f64, put, statistics_shape, store_vector, sum, take,
        try_chunks,
    },
};
use attentia_backend::{DType, Result, View, ViewMut};
use std::ops::Range;

/// Most blocks of rows, each of which has sums of its own.
const BLOCKS: usize = 64;
/// Fewest rows in a block: below, adding up the blocks would cost as much as the rows.
const BLOCK_ROWS: usize = 8;
/// Most numbers in the blocks' sums together, unless one block has more.
const SUMS: usize = 2 << 20;
/// Rows that are added up in the compute type before they go to the block's f64 sums.
const FLUSH_ROWS: usize = 64;

pub(crate) fn layer_norm_backward(
    cpu: &CpuBackend,
    x: View,
    weight: Option<View>,
    mean: View,
    rstd: View,
    dy: View,
    dx: Option<ViewMut>,
    dweight: Option<ViewMut>,
    dbias: Option<ViewMut>,
) -> Result<()> {
    let op = "layer_norm";
    match in_f64(&[x.dtype(), dy.dtype()]) || any_f64(&[&dx, &dweight, &dbias]) {
        true => backward::<f64, true>(cpu, op, x, weight, Some(mean), rstd, dy, dx, dweight, dbias),
        false => backward::<f32, true>(cpu, op, x, weight, Some(mean), rstd, dy, dx, dweight, dbias),
    }
}

pub(crate) fn rms_norm_backward(
    cpu: &CpuBackend,
    x: View,
    weight: Option<View>,
    rstd: View,
    dy: View,
    dx: Option<ViewMut>,
    dweight: Option<ViewMut>,
) -> Result<()> {
    let op = "rms_norm";
    match in_f64(&[x.dtype(), dy.dtype()]) || any_f64(&[&dx, &dweight]) {
        true => backward::<f64, false>(cpu, op, x, weight, None, rstd, dy, dx, dweight, None),
        false => backward::<f32, false>(cpu, op, x, weight, None, rstd, dy, dx, dweight, None),
    }
}

fn any_f64(gradients: &[&Option<ViewMut>]) -> bool {
    gradients.iter().any(|gradient| gradient.as_ref().is_some_and(|g| g.dtype() == DType::F64))
}

fn backward<A: Real, const CENTRED: bool>(
    cpu: &CpuBackend,
    op: &'static str,
    x: View,
    weight: Option<View>,
    mean: Option<View>,
    rstd: View,
    dy: View,
    dx: Option<ViewMut>,
    dweight: Option<ViewMut>,
    dbias: Option<ViewMut>,
) -> Result<()> {
    let dtype = x.dtype();
    let x = Floats::<A>::input(op, x)?;
    let columns = columns_of(op, x.layout())?;
    let statistics = statistics_shape(x.layout().shape());
    let dy = Floats::input(op, dy)?;
    let dx = dx.map(|dx| Floats::output(op, dx)).transpose()?;
    for (role, operand) in [("dy", Some(dy)), ("dx", dx)] {
        let Some(operand) = operand else { continue };
        check::shape(op, role, operand.layout(), x.layout().shape())?;
    }
    let weight = parameter(op, "weight", weight, columns, dtype)?;
    let rstd = Floats::<A>::input(op, rstd)?;
    let mean = mean.map(|m| Floats::<A>::input(op, m)).transpose()?;
    for (role, operand) in [("mean", mean), ("rstd", Some(rstd))] {
        let Some(operand) = operand else { continue };
        operand.expect(op, role, &statistics, dtype.statistics())?;
    }
    let mut gradients = [("dweight", dweight), ("dbias", dbias)].map(|(role, view)| (role, view, None));
    for (role, view, floats) in &mut gradients {
        let Some(view) = view.take() else { continue };
        let gradient = Floats::<A>::output(op, view)?;
        check::shape(op, role, gradient.layout(), &[columns])?;
        *floats = Some(gradient);
    }
    let gradients = gradients.map(|(_, _, floats)| floats);
    let wants_sums = gradients.iter().any(Option::is_some);

    let layouts = [dx.unwrap_or(dy).layout(), x.layout(), dy.layout(), mean.unwrap_or(rstd).layout(), rstd.layout()];
    let plan = RowPlan::new(layouts, columns);
    let rows = plan.as_ref().map_or(0, RowPlan::rows);
    let tile_rows = plan.as_ref().map_or(1, RowPlan::tile_rows);
    let most = (SUMS / columns.max(1)).clamp(1, BLOCKS);
    let block_rows = rows.div_ceil(most).max(BLOCK_ROWS).max(GRAIN / columns.max(1)).next_multiple_of(tile_rows);
    let blocks = rows.div_ceil(block_rows);
    let sums_len = if wants_sums { 2 * columns } else { 0 };
    let mut sums = Scratch::<f64>::new(&cpu.pool, blocks * sums_len)?;
    sums.as_mut_slice().fill(0.0);
    let all_sums = Shared(sums.start());

    if let Some(plan) = plan {
        let weight = Vector::new(cpu, weight, columns, A::ONE)?;
        try_chunks(&cpu.threads, rows, block_rows, |range| {
            let mut x_scratch = Scratch::<A>::new(&cpu.pool, plan.scratch(1, &x))?;
            let dx_room = dx.map_or(0, |dx| plan.scratch(0, &dx));
            let mut scratch = Scratch::<A>::new(&cpu.pool, plan.scratch(2, &dy).max(dx_room))?;
            let padded = columns.next_multiple_of(LANES);
            let mut running = Scratch::<A>::new(&cpu.pool, if wants_sums { 2 * padded } else { 0 })?;
            running.as_mut_slice().fill(A::ZERO);
            let block = range.start / block_rows;
            // SAFETY: each block has `sums_len` numbers of its own.
            let block_sums = unsafe { std::slice::from_raw_parts_mut(all_sums.at(block * sums_len), sums_len) };
            let task = Backward::<A, CENTRED> {
                plan: &plan,
                range,
                x,
                dy,
                weight: weight.start(),
                mean,
                rstd,
                dx,
                x_scratch: x_scratch.start(),
                scratch: scratch.start(),
                running: wants_sums.then(|| running.as_mut_slice()),
                block_sums,
            };
            isa::run(cpu.isa, task);
            Ok(())
        })?;
    }

    // The sums of the first block become the totals, block after block: one column of all blocks lies pages apart.
    if let Some((totals, others)) = sums.as_mut_slice().split_at_mut_checked(sums_len) {
        for sums in others.chunks_exact(sums_len.max(1)) {
            totals.iter_mut().zip(sums).for_each(|(total, &sum)| *total += sum);
        }
    }
    let mut rounded = Scratch::<A>::new(&cpu.pool, if wants_sums { columns } else { 0 })?;
    for (which, gradient) in gradients.into_iter().enumerate() {
        let Some(gradient) = gradient else { continue };
        // Without rows there are no blocks, and nothing was added up.
        let totals = sums.as_mut_slice().get(which * columns..(which + 1) * columns).unwrap_or(&[]);
        let rounded = rounded.as_mut_slice();
        rounded.fill(A::ZERO);
        rounded.iter_mut().zip(totals).for_each(|(rounded, &total)| *rounded = A::from_f64(total));
        store_vector(cpu, gradient, rounded);
    }
    Ok(())
}

/// The start of memory whose parts belong to different tasks.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);

// SAFETY: each task makes references to its own part only.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn at(&self, offset: usize) -> *mut T {
        self.0.wrapping_add(offset)
    }
}

/// The backward of some rows.
struct Backward<'a, A, const CENTRED: bool> {
    plan: &'a RowPlan<5>,
    range: Range<usize>,
    x: Floats<'a, A>,
    dy: Floats<'a, A>,
    weight: *const A,
    mean: Option<Floats<'a, A>>,
    rstd: Floats<'a, A>,
    dx: Option<Floats<'a, A>>,
    x_scratch: *mut A,
    scratch: *mut A,
    /// Sums of dy · x̂ and of dy over a few rows, each padded to whole blocks of lanes.
    running: Option<&'a mut [A]>,
    block_sums: &'a mut [f64],
}

impl<A: Real, const CENTRED: bool> Kernel for Backward<'_, A, CENTRED> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Backward { plan, range, x, dy, weight, mean, rstd, dx, x_scratch, scratch, mut running, block_sums } = self;
        let mut unflushed = 0;
        for [to, of_x, of_dy, of_mean, of_rstd] in plan.tiles(range) {
            // SAFETY: the plan stays within the operands, whose shapes agree; tasks have different rows.
            let (xs, dys) = unsafe { (x.read::<M>(of_x, x_scratch), dy.read::<M>(of_dy, scratch)) };
            let results = dx.map(|dx| dx.place(to, scratch));
            for row in 0..to.rows {
                let (x, dy, columns) = (xs.row(row).cast_const(), dys.row(row).cast_const(), to.columns);
                // SAFETY: rows and vectors have `columns` elements, the running sums whole blocks; dx lies apart, or in
                // dy's scratch memory.
                unsafe {
                    let scale = rstd.get(of_rstd.of_row(row));
                    let centre = mean.map_or(A::ZERO, |m| m.get(of_mean.of_row(row)));
                    if let Some(running) = &mut running {
                        add_to_sums::<M, A>(x, centre, scale, dy, running, columns);
                    }
                    if let Some(results) = results {
                        gradient_row::<M, A, CENTRED>(x, centre, scale, weight, dy, results.row(row), columns);
                    }
                }
                unflushed += 1;
                if unflushed == FLUSH_ROWS {
                    flush(&mut running, block_sums);
                    unflushed = 0;
                }
            }
            if let Some(dx) = &dx {
                // SAFETY: as above.
                unsafe { dx.store::<M>(to, scratch) };
            }
        }
        flush(&mut running, block_sums);
    }
}

/// Moves the running sums to the block's.
#[inline(always)]
fn flush<A: Real>(running: &mut Option<&mut [A]>, block_sums: &mut [f64]) {
    let Some(running) = running else { return };
    let (padded, columns) = (running.len() / 2, block_sums.len() / 2);
    for which in 0..2 {
        let to = &mut block_sums[which * columns..(which + 1) * columns];
        for (to, from) in to.iter_mut().zip(&mut running[which * padded..][..columns]) {
            *to += from.to_f64();
            *from = A::ZERO;
        }
    }
}

/// # Safety
///
/// `columns` elements at `x` and `dy`; `running` has two times `columns`, padded to whole blocks.
#[inline(always)]
unsafe fn add_to_sums<M: Machine, A: Real>(
    x: *const A,
    centre: A,
    scale: A,
    dy: *const A,
    running: &mut [A],
    columns: usize,
) {
    let padded = running.len() / 2;
    let running = running.as_mut_ptr();
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        unsafe {
            let (x, dy) = (take(x.add(at), len, centre), take(dy.add(at), len, A::ZERO));
            let weights = &mut *running.add(at).cast::<[A; LANES]>();
            for l in 0..LANES {
                weights[l] = A::mul_add::<M>((x[l] - centre) * scale, dy[l], weights[l]);
            }
            let biases = &mut *running.add(padded + at).cast::<[A; LANES]>();
            for l in 0..LANES {
                biases[l] += dy[l];
            }
        }
    });
}

/// # Safety
///
/// `columns` elements at each pointer; `dx` may be `dy`.
#[inline(always)]
unsafe fn gradient_row<M: Machine, A: Real, const CENTRED: bool>(
    x: *const A,
    centre: A,
    scale: A,
    weight: *const A,
    dy: *const A,
    dx: *mut A,
    columns: usize,
) {
    let (mut sums, mut products) = ([A::ZERO; LANES], [A::ZERO; LANES]);
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let (x, weight, dy) = unsafe {
            (take(x.add(at), len, centre), take(weight.add(at), len, A::ZERO), take(dy.add(at), len, A::ZERO))
        };
        for l in 0..LANES {
            let g = dy[l] * weight[l];
            sums[l] += g;
            products[l] = A::mul_add::<M>(g, (x[l] - centre) * scale, products[l]);
        }
    });
    let mean = |lanes| A::from_f64(sum::<A>(lanes).to_f64() / columns as f64);
    let shift = if CENTRED { mean(sums) } else { A::ZERO };
    let slope = mean(products);
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let (x, weight, mut block) = unsafe {
            (take(x.add(at), len, centre), take(weight.add(at), len, A::ZERO), take(dy.add(at), len, A::ZERO))
        };
        for l in 0..LANES {
            let normal = (x[l] - centre) * scale;
            block[l] = scale * A::mul_add::<M>(-normal, slope, block[l] * weight[l] - shift);
        }
        // SAFETY: the caller's promise.
        unsafe { put(block, dx.add(at), len) };
    });
}
