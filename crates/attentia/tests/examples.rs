//! The examples run to their end, where they check themselves.

#[path = "../examples/pooling.rs"]
mod pooling;

#[test]
fn attention_pooling_finds_the_word_that_decides() {
    pooling::main().unwrap();
}
