//! Parallel loops whose sums depend on the shape alone.
//!
//! Work is cut into tasks by the caller, from shapes, or in a way that changes no sum; threads only decide who runs which
//! task when. A task writes its own part of the result, and partial results are combined in the order of the tasks, so that
//! the same bits come out of any number of threads.
//!
//! # The pool
//!
//! A transformer's step is thousands of loops of some ten microseconds. Handing each to a pool and sleeping until it is
//! done costs two wake-ups, as much as the loop; so the calling thread takes part, and workers stay awake for a moment:
//!
//! ```text
//! run(tasks)   caller: put the job on the list of open jobs, wake who sleeps
//!                      take tasks, its own first, until there are none
//!                      take the job off the list: nobody can join any more
//!                      wait for the helpers who joined: spin, then park
//! worker       loop:   join the first open job that has tasks left, take tasks as the caller does, leave
//!                      no such job: watch `published` for 50 µs, then sleep on the condition variable
//! ```
//!
//! - Each thread has a range of the tasks as its own, the same in every loop of as many, and takes those first: rows that
//!   it wrote in the loop before are still in its caches. Cores may be far apart (on different dies of a processor a line
//!   takes 200 ns), so that ranges count on cache lines of their own. Then it helps with the others' ranges.
//! - Who joins is counted under the list's lock, so a job (it lives on its caller's stack) can't go while it is in use.
//! - A caller waits only for tasks that have begun, and a task waits only for what it started itself. So loops may nest
//!   and any number of threads may call at once: each makes progress on its own, with or without helpers.
//! - A panic in a task ends the job early and goes on in the caller, after the helpers have left.

use attentia_backend::{Error, ErrorKind, Result};
use std::{
    any::Any,
    cell::Cell,
    fmt,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

/// How long an idle worker watches for the next loop before it sleeps: longer than the serial pieces between two
/// kernels of a step, short against a time slice.
const WATCH: Duration = Duration::from_micros(50);

/// Looks between two offers to let another thread have the core.
const LOOKS: usize = 64;

/// A pool of worker threads.
pub(crate) struct Threads {
    /// One less than `count`: the caller is the other. Empty for one thread: everything runs on the caller's.
    workers: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
    count: usize,
    parallel_runs: AtomicUsize,
}

/// What callers and workers share.
struct Shared {
    open: Mutex<Open>,
    wake: Condvar,
    /// Grows with every job and when the pool closes; a worker that saw the present value has nothing new to look for.
    published: AtomicUsize,
}

struct Open {
    jobs: Vec<JobHandle>,
    sleepers: usize,
    closing: bool,
}

/// A pointer to a job on its caller's stack. Valid while it is on the list, and for those who joined until they leave.
#[derive(Clone, Copy, PartialEq)]
struct JobHandle(*const Job<'static>);

// SAFETY: a job is only used through shared references, and all that it holds is `Sync`.
unsafe impl Send for JobHandle {}

/// Most ranges of a loop; with more threads, some share one.
const RANGES: usize = 16;

thread_local! {
    /// The place of a worker in its pool, from which its range follows. Callers have the first.
    static PLACE: Cell<usize> = const { Cell::new(0) };
}

/// The place of the calling thread in its own pool, which is not always the one whose task it runs.
pub(crate) fn place() -> usize {
    PLACE.get()
}

/// The next task of a range that nobody has taken, on a pair of cache lines (they are fetched together).
#[repr(align(128))]
struct Next(AtomicUsize);

/// One loop.
struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    tasks: usize,
    /// How many of `next` are in use.
    ranges: usize,
    next: [Next; RANGES],
    /// Workers inside.
    helpers: AtomicUsize,
    caller: Thread,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl<'a> Job<'a> {
    fn new(task: &'a (dyn Fn(usize) + Sync), tasks: usize, threads: usize) -> Job<'a> {
        let mut job = Job {
            task,
            tasks,
            ranges: threads.min(RANGES),
            next: [const { Next(AtomicUsize::new(0)) }; RANGES],
            helpers: AtomicUsize::new(0),
            caller: thread::current(),
            panic: Mutex::new(None),
        };
        for range in 1..job.ranges {
            job.next[range] = Next(AtomicUsize::new(job.end(range - 1)));
        }
        job
    }

    /// One past the last task of a range.
    fn end(&self, range: usize) -> usize {
        let (each, more) = (self.tasks / self.ranges, self.tasks % self.ranges);
        (range + 1) * each + more.min(range + 1)
    }

    /// Takes and runs tasks until there are none. Never unwinds.
    fn work(&self) {
        let first = PLACE.get() % self.ranges;
        let all = catch_unwind(AssertUnwindSafe(|| {
            for range in (first..self.ranges).chain(0..first) {
                let end = self.end(range);
                loop {
                    let i = self.next[range].0.fetch_add(1, Relaxed);
                    if i >= end {
                        break;
                    }
                    (self.task)(i);
                }
            }
        }));
        if let Err(payload) = all {
            (0..self.ranges).for_each(|range| self.next[range].0.store(self.end(range), Relaxed));
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
        }
    }

    fn has_tasks(&self) -> bool {
        (0..self.ranges).any(|range| self.next[range].0.load(Relaxed) < self.end(range))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing that is done under the lock can panic half way.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, job: JobHandle, wanted: usize) {
        let mut open = self.lock();
        open.jobs.push(job);
        self.published.fetch_add(1, AcqRel);
        let wakes = open.sleepers.min(wanted);
        drop(open);
        (0..wakes).for_each(|_| self.wake.notify_one());
    }

    fn retract(&self, job: JobHandle) {
        let mut open = self.lock();
        if let Some(at) = open.jobs.iter().position(|&j| j == job) {
            open.jobs.swap_remove(at);
        }
    }

    /// The life of a worker.
    fn serve(&self) {
        loop {
            // Read before the list, so that a job that is missed there shows here.
            let seen = self.published.load(Acquire);
            let open = self.lock();
            if open.closing {
                return;
            }
            // SAFETY: jobs on the list are alive while the list is locked.
            let found = open.jobs.iter().map(|handle| unsafe { &*handle.0 }).find(|job| job.has_tasks());
            match found {
                Some(job) => {
                    // Joined under the lock: from here on the caller waits for this helper.
                    job.helpers.fetch_add(1, Relaxed);
                    drop(open);
                    job.work();
                    // The job may be gone as soon as the count has fallen.
                    let caller = job.caller.clone();
                    if job.helpers.fetch_sub(1, AcqRel) == 1 {
                        caller.unpark();
                    }
                }
                None => {
                    drop(open);
                    if !watch(|| self.published.load(Acquire) != seen) {
                        self.sleep(seen);
                    }
                }
            }
        }
    }

    fn sleep(&self, seen: usize) {
        let mut open = self.lock();
        while self.published.load(Acquire) == seen {
            open.sleepers += 1;
            open = self.wake.wait(open).unwrap_or_else(PoisonError::into_inner);
            open.sleepers -= 1;
        }
    }
}

/// Waits for `done` without sleeping; false when it took too long.
fn watch(done: impl Fn() -> bool) -> bool {
    let mut since = None;
    loop {
        for _ in 0..LOOKS {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        if since.get_or_insert_with(Instant::now).elapsed() > WATCH {
            return false;
        }
        // Where threads outnumber cores, who has work should run.
        thread::yield_now();
    }
}

impl Threads {
    /// `count` workers; 0 means one per core.
    pub(crate) fn new(count: usize) -> Result<Threads> {
        let cores = thread::available_parallelism().map_or(1, |n| n.get());
        let count = if count == 0 { cores } else { count };
        let open = Open { jobs: Vec::new(), sleepers: 0, closing: false };
        let shared = Arc::new(Shared { open: Mutex::new(open), wake: Condvar::new(), published: AtomicUsize::new(0) });
        // Built step by step: when a thread can't be started, dropping it stops those that were.
        let mut threads = Threads { workers: Vec::new(), shared, count, parallel_runs: AtomicUsize::new(0) };
        for i in 1..count {
            let shared = threads.shared.clone();
            let worker = thread::Builder::new().name(format!("attentia-cpu-{i}")).spawn(move || {
                PLACE.set(i);
                shared.serve();
            });
            threads.workers.push(worker.map_err(|e| {
                Error::new(ErrorKind::BackendUnavailable, "cpu", format!("cannot start {count} threads: {e}"))
                    .help("ask for fewer threads")
            })?);
        }
        Ok(threads)
    }

    /// Number of threads that run tasks.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// How many loops of at least two tasks were offered to more than one thread, so that tests of determinism can
    /// tell. Whether a worker came in time to take one depends on how busy the machine is, and is not counted.
    pub(crate) fn parallel_runs(&self) -> usize {
        self.parallel_runs.load(Relaxed)
    }

    /// Runs `task(0)`, …, `task(tasks − 1)`, in any order and on any thread.
    pub(crate) fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        if tasks <= 1 || self.workers.is_empty() {
            return (0..tasks).for_each(task);
        }
        self.parallel_runs.fetch_add(1, Relaxed);
        let job = Job::new(&task, tasks, self.count);
        let handle = JobHandle((&raw const job).cast());
        self.shared.publish(handle, (tasks - 1).min(self.workers.len()));
        job.work();
        self.shared.retract(handle);
        // `work` never unwinds, so the job outlives its helpers: those who joined are counted, and nobody can join now.
        if !watch(|| job.helpers.load(Acquire) == 0) {
            while job.helpers.load(Acquire) != 0 {
                thread::park();
            }
        }
        if let Some(payload) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
    }

    /// Runs `task` over `0..len` in pieces of `grain` elements (the last may be shorter).
    pub(crate) fn chunks(&self, len: usize, grain: usize, task: impl Fn(Range<usize>) + Sync) {
        let grain = grain.max(1);
        self.run(len.div_ceil(grain), |i| task(i * grain..len.min((i + 1) * grain)));
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        {
            // Both under the lock: a worker between its look and its sleep would else miss the news for ever.
            let mut open = self.shared.lock();
            open.closing = true;
            self.shared.published.fetch_add(1, AcqRel);
        }
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A task may hold the last handle on its own pool: a thread can't wait for itself, and ends by itself.
            if worker.thread().id() != thread::current().id() {
                // A worker catches the panics of its tasks.
                let _ = worker.join();
            }
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Threads({})", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn every_task_runs_once() {
        for count in [1, 2, 3, 7] {
            let threads = Threads::new(count).unwrap();
            for tasks in [0, 1, 2, 3, 100] {
                let hits: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                threads.run(tasks, |i| {
                    hits[i].fetch_add(1, Relaxed);
                });
                assert!(hits.iter().all(|h| h.load(Relaxed) == 1), "{count} threads, {tasks} tasks");
            }
            assert_eq!(threads.parallel_runs(), if count == 1 { 0 } else { 3 });
        }
    }

    #[test]
    fn tasks_really_run_side_by_side() {
        let threads = Threads::new(3).unwrap();
        for round in 0..3 {
            let inside = AtomicUsize::new(0);
            // Each waits for the other two: only three threads can finish.
            threads.run(3, |_| {
                inside.fetch_add(1, AcqRel);
                while inside.load(Acquire) < 3 {
                    thread::yield_now();
                }
            });
            // Odd rounds find the workers asleep.
            thread::sleep(Duration::from_millis(round % 2 * 5));
        }
    }

    #[test]
    fn loops_nest_and_callers_do_not_wait_for_each_other() {
        let threads = Threads::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        let blocked = AtomicBool::new(true);
        thread::scope(|scope| {
            // One caller keeps the pool's only worker, or itself, busy until the others are through.
            scope.spawn(|| {
                threads.run(2, |_| {
                    while blocked.load(Acquire) {
                        thread::yield_now();
                    }
                });
            });
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..50 {
                            threads.run(3, |i| {
                                threads.run(4, |j| {
                                    sum.fetch_add(i * 4 + j, Relaxed);
                                })
                            });
                        }
                    })
                })
                .collect();
            callers.into_iter().for_each(|c| c.join().unwrap());
            blocked.store(false, std::sync::atomic::Ordering::Release);
        });
        assert_eq!(sum.load(Relaxed), 4 * 50 * 66);
    }

    #[test]
    fn panics_arrive_and_the_pool_lives_on() {
        let threads = Threads::new(2).unwrap();
        for guilty in [0, 5, 9] {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                threads.run(10, |i| {
                    if i == guilty {
                        resume_unwind(Box::new(guilty))
                    }
                });
            }));
            assert_eq!(outcome.unwrap_err().downcast_ref::<usize>(), Some(&guilty));
        }
        let sum = AtomicUsize::new(0);
        threads.run(10, |i| {
            sum.fetch_add(i, Relaxed);
        });
        assert_eq!(sum.load(Relaxed), 45);
    }

    #[test]
    fn a_task_may_drop_its_own_pool() {
        let threads = Arc::new(Threads::new(2).unwrap());
        let held = Mutex::new(Some(threads.clone()));
        let weak = Arc::downgrade(&threads);
        threads.run(2, |_| drop(held.lock().unwrap().take()));
        drop(threads);
        assert!(weak.upgrade().is_none());
    }
}
