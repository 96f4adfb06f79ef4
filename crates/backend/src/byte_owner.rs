//! Bytes that a backend reads where they lie.

use std::fmt::Debug;

/// Bytes that live elsewhere, such as a mapped file, which a backend may read in place.
///
/// # Safety
///
/// From the first call of [`bytes`](ByteOwner::bytes) until the owner is moved or dropped, every call returns the same
/// address and the same length, and no byte changes. A backend keeps the owner in its [`Arc`](std::sync::Arc), where it
/// cannot move, and kernels read at that address without asking again: an owner that grows its memory, or that lets
/// somebody write to it, makes them read freed or changing memory.
// Declared here because the promise belongs to the vocabulary; it is given, and relied on, elsewhere. A safe trait could
// not carry it: safe code could break it, and a kernel would pay.
#[allow(unsafe_code)]
pub unsafe trait ByteOwner: Debug + Send + Sync + 'static {
    /// The bytes.
    fn bytes(&self) -> &[u8];
}
