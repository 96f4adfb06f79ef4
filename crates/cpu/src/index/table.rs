//! Rows of a table by index, and the gradient of the table.

use super::{check, same_dtype, valid};
use crate::{
    CpuBackend, check as rules,
    isa::{self, Kernel, Machine},
    math::Real,
    nest::Nest,
    rows::{Floats, GRAIN, LANES, Scratch, Tile, in_f64, leading_axes, try_chunks},
    storage::{Input, Output, Raw, with_element},
};
use attentia_backend::{Error, ErrorKind, Layout, Result, View, ViewMut};

/// `[V, C]` of a table, and that `rows` has the index's shape and C columns.
fn checked(op: &'static str, table: &Layout, index: &Layout, rows: &Layout) -> Result<(usize, usize)> {
    let &[entries, columns] = table.shape().as_slice() else {
        return Err(Error::new(ErrorKind::Shape, op, format!("the table is {}, expected [V, C]", table.shape())));
    };
    let mut expected = index.shape().to_vec();
    expected.push(columns);
    rules::shape(op, "the operand beside the index", rows, &expected)?;
    Ok((entries, columns))
}

pub(crate) fn embedding(cpu: &CpuBackend, table: View, index: View, out: ViewMut) -> Result<()> {
    same_dtype("embedding", "out", out.dtype(), table.dtype())?;
    with_element!(table.dtype(), T => embedding_as::<T>(cpu, table, index, out))
}

fn embedding_as<T: Raw>(cpu: &CpuBackend, table: View, index: View, out: ViewMut) -> Result<()> {
    let (op, dtype) = ("embedding", table.dtype());
    let (table, index, out) = (Input::<T>::new(op, table)?, Input::<i64>::new(op, index)?, Output::<T>::new(op, out)?);
    let (entries, columns) = checked(op, table.layout(), index.layout(), out.layout())?;
    check(cpu, op, rules::operand(cpu, "table", table.layout(), dtype), 0, "index", &index, None)?;
    if out.layout().count() == 0 {
        return Ok(());
    }
    let column_strides = [out.layout(), table.layout()].map(|l| l.strides()[l.rank() - 1]);
    let row_stride = table.layout().strides()[0];
    let rows = leading_axes(out.layout());
    let nest = Nest::new([&rows, index.layout()]);
    cpu.threads.chunks(nest.count(), (GRAIN / columns).max(1), |range| {
        for run in nest.runs(range) {
            for row in 0..run.len as isize {
                // SAFETY: the nest stays within the layouts; indices lie within the table; tasks write different rows.
                unsafe {
                    let value = *index.start().offset(run.offsets[1] + row * run.strides[1]);
                    let Some(entry) = valid(value, entries) else { continue };
                    let to = out.start().offset(run.offsets[0] + row * run.strides[0]);
                    let from = table.start().offset(entry as isize * row_stride);
                    if column_strides == [1, 1] {
                        std::ptr::copy_nonoverlapping(from, to, columns);
                        continue;
                    }
                    for column in 0..columns as isize {
                        *to.offset(column * column_strides[0]) = *from.offset(column * column_strides[1]);
                    }
                }
            }
        }
    });
    Ok(())
}

pub(crate) fn embedding_backward(cpu: &CpuBackend, index: View, dy: View, dtable: ViewMut) -> Result<()> {
    match in_f64(&[dy.dtype(), dtable.dtype()]) {
        true => backward::<f64>(cpu, index, dy, dtable),
        false => backward::<f32>(cpu, index, dy, dtable),
    }
}

/// Columns of a task, so that one table row that many positions name is still several tasks' work.
const COLUMNS: usize = 256;

fn backward<A: Real>(cpu: &CpuBackend, index: View, dy: View, dtable: ViewMut) -> Result<()> {
    let (op, dtype) = ("embedding_backward", dtable.dtype());
    let (table, dy) = (Floats::<A>::output(op, dtable)?, Floats::<A>::input(op, dy)?);
    let index = Input::<i64>::new(op, index)?;
    let (entries, columns) = checked(op, table.layout(), index.layout(), dy.layout())?;
    check(cpu, op, rules::operand(cpu, "dtable", table.layout(), dtype), 0, "index", &index, None)?;
    let count = index.layout().count();
    if count == 0 || columns == 0 {
        return Ok(());
    }
    // Entry, position and offset in dy of each row, sorted: ascending positions for each entry.
    let mut memory = Scratch::<i64>::new(&cpu.pool, 3 * count)?;
    let (order, _) = memory.as_mut_slice().as_chunks_mut::<3>();
    let (flat, rows) = (Layout::contiguous(*index.layout().shape()), leading_axes(dy.layout()));
    let nest = Nest::new([&flat, index.layout(), &rows]);
    for run in nest.runs(0..count) {
        for i in 0..run.len as isize {
            let [position, at, offset] = std::array::from_fn(|n| run.offsets[n] + i * run.strides[n]);
            // SAFETY: the nest stays within the layout.
            let entry = unsafe { *index.start().offset(at) };
            order[position as usize] = [entry, position as i64, offset as i64];
        }
    }
    order.sort_unstable();
    let order = &*order;
    let column_chunks = columns.div_ceil(COLUMNS);
    let grain = (GRAIN / COLUMNS.min(columns)).max(1);
    try_chunks(&cpu.threads, count.div_ceil(grain) * column_chunks, 1, |task| {
        let (start, first) = (task.start / column_chunks * grain, task.start % column_chunks * COLUMNS);
        let mut memory = Scratch::<A>::new(&cpu.pool, 2 * (COLUMNS + 2 * LANES))?;
        let (totals, terms) = memory.as_mut_slice().split_at_mut(COLUMNS + 2 * LANES);
        let (totals, terms) = (totals.as_mut_ptr(), terms.as_mut_ptr());
        let width = COLUMNS.min(columns - first);
        isa::run(cpu.isa, Backward { order, start, grain, table, entries, dy, first, width, totals, terms });
        Ok(())
    })
}

/// Adds up the rows of entries whose first position is among `order[start..start + grain]`, in some columns.
struct Backward<'a, A> {
    order: &'a [[i64; 3]],
    start: usize,
    grain: usize,
    table: Floats<'a, A>,
    entries: usize,
    dy: Floats<'a, A>,
    first: usize,
    width: usize,
    totals: *mut A,
    terms: *mut A,
}

impl<A: Real> Kernel for Backward<'_, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Backward { order, start, grain, table, entries, dy, first, width, totals, terms } = self;
        let tile = |operand: &Floats<A>, offset: isize| {
            let stride = operand.layout().strides()[operand.layout().rank() - 1];
            let column_stride = if width == 1 { 1 } else { stride };
            Tile { offset: offset + first as isize * stride, rows: 1, row_stride: 0, columns: width, column_stride }
        };
        let end = order.len().min(start + grain);
        let mut at = start;
        while at < end {
            let entry = order[at][0];
            let group = order[at..].iter().take_while(|row| row[0] == entry).count();
            let begins_here = at == 0 || order[at - 1][0] != entry;
            if let Some(entry) = valid(entry, entries).filter(|_| begins_here) {
                let to = tile(&table, entry as isize * table.layout().strides()[0]);
                // SAFETY: entries lie within the table, offsets are the nest's, and only this task has this entry's columns.
                unsafe {
                    let total = table.read::<M>(to, totals).row(0);
                    for row in &order[at..at + group] {
                        let term = dy.read::<M>(tile(&dy, row[2] as isize), terms).row(0).cast_const();
                        add_row(total, term, width);
                    }
                    table.store::<M>(to, totals);
                }
            }
            at += group;
        }
    }
}

/// `total += term`
///
/// # Safety
///
/// `width` elements at both pointers, which are apart.
#[inline(always)]
unsafe fn add_row<A: Real>(total: *mut A, term: *const A, width: usize) {
    // SAFETY: the caller's promise.
    let (total, term) =
        unsafe { (std::slice::from_raw_parts_mut(total, width), std::slice::from_raw_parts(term, width)) };
    total.iter_mut().zip(term).for_each(|(total, &term)| *total += term);
}
