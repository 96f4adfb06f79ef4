//! Masks as predicates: bool tensors that broadcast to `[B, H, T, S]`; true means: may attend.

use attentia_tensor::{DType, Device, Error, ErrorKind, Result, Tensor};

/// `[T, S]`: a query sees the keys at or before its own position. The last query stands at the last key
/// (bottom-right aligned), so that a decoder with a cache may pass fewer queries than keys.
///
/// ```
/// # use attentia_tensor::Device;
/// # let device = Device::new(attentia_reference::ReferenceBackend::new());
/// let mask = attentia_attention::mask::causal(2, 3, &device)?;
/// assert_eq!(mask.to_vec::<bool>()?, [true, true, false, true, true, true]);
/// # Ok::<(), attentia_tensor::Error>(())
/// ```
pub fn causal(queries: usize, keys: usize, device: &Device) -> Result<Tensor> {
    let shift = keys as i64 - queries as i64;
    let query = Tensor::arange(shift, shift + queries as i64, 1, DType::I64, device)?.unsqueeze(1)?; // [T, 1]
    let key = Tensor::arange(0, keys as i64, 1, DType::I64, device)?; // [S]
    key.le(&query)
}

/// `[B, 1, 1, S]`: keys before each sequence's length.
pub fn key_padding(lengths: &[usize], keys: usize, device: &Device) -> Result<Tensor> {
    if let Some(long) = lengths.iter().find(|&&length| length > keys) {
        return Err(Error::new(ErrorKind::Argument, "key_padding", format!("length {long} of {keys} keys")));
    }
    let lengths: Vec<i64> = lengths.iter().map(|&n| n as i64).collect();
    let lengths = Tensor::from_slice(&lengths, &[lengths.len(), 1, 1, 1], device)?;
    Tensor::arange(0, keys as i64, 1, DType::I64, device)?.lt(&lengths)
}
