//! The cases, one file per family.

mod activation;
mod attention;
mod attention_maps;
mod elementwise;
mod fused;
mod index;
mod loss;
mod matmul;
mod memory;
mod movement;
mod norm;
mod reduce;
mod softmax;
mod sort;

use crate::Case;

/// Every case.
pub fn all() -> Vec<Case> {
    let families: [fn() -> Vec<Case>; 14] = [
        memory::cases,
        movement::cases,
        elementwise::cases,
        reduce::cases,
        sort::cases,
        matmul::cases,
        index::cases,
        softmax::cases,
        norm::cases,
        loss::cases,
        activation::cases,
        fused::cases,
        attention::cases,
        attention_maps::cases,
    ];
    families.iter().flat_map(|family| family()).collect()
}
