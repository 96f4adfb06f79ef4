//! Whole trainings: what they learn, what they remember, and what killing them costs.

mod child;
mod crash;
mod determinism;
mod learning;
mod memory;
mod resume;
mod run;
mod setting;
