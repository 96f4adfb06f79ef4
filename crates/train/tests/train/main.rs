//! Whole trainings: what they learn, what they remember, and what killing them costs.

mod child;
mod crash;
mod learning;
mod memory;
mod resume;
mod setting;
