//! One file per mechanism.

pub(crate) mod multi_head;
pub(crate) mod pooling;
pub(crate) mod scaled_dot_product;
