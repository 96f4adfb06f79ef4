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
    causal_from(keys as i64 - queries as i64, queries, keys, device)
}

/// [`causal`] with the first query at this key, which may lie before key 0.
pub(crate) fn causal_from(first: i64, queries: usize, keys: usize, device: &Device) -> Result<Tensor> {
    let query = Tensor::arange(first, first + queries as i64, 1, DType::I64, device)?.unsqueeze(1)?; // [T, 1]
    let key = Tensor::arange(0, keys as i64, 1, DType::I64, device)?; // [S]
    key.le(&query)
}

/// `[B, 1, 1, S]`: keys before each sequence's length; what follows is padding.
pub fn key_padding(lengths: &[usize], keys: usize, device: &Device) -> Result<Tensor> {
    let (keys, lengths) = positions_and_counts("key_padding", lengths, keys, device)?;
    keys.lt(&lengths)
}

/// `[B, 1, 1, S]`: the last keys, as many as each sequence's length; what stands before them is padding.
pub fn left_padding(lengths: &[usize], keys: usize, device: &Device) -> Result<Tensor> {
    let padding: Vec<usize> = lengths.iter().map(|&length| keys.wrapping_sub(length)).collect();
    let (keys, padding) = positions_and_counts("left_padding", &padding, keys, device)?;
    keys.ge(&padding)
}

/// Key positions `[S]`, and a count per sequence `[B, 1, 1, 1]`.
fn positions_and_counts(op: &'static str, counts: &[usize], keys: usize, device: &Device) -> Result<(Tensor, Tensor)> {
    if let Some(i) = counts.iter().position(|&count| count > keys) {
        return Err(Error::new(ErrorKind::Argument, op, format!("the length of sequence {i} exceeds the {keys} keys"))
            .help("lengths count the tokens of a row without its padding"));
    }
    let counts: Vec<i64> = counts.iter().map(|&n| n as i64).collect();
    let counts = Tensor::from_slice(&counts, &[counts.len(), 1, 1, 1], device)?;
    Ok((Tensor::arange(0, keys as i64, 1, DType::I64, device)?, counts))
}

/// Where all of these masks are true; they broadcast against each other.
pub fn all(masks: &[&Tensor]) -> Result<Tensor> {
    let (first, rest) = masks
        .split_first()
        .ok_or_else(|| Error::new(ErrorKind::Argument, "mask", "no mask is given").help("pass at least one"))?;
    rest.iter().try_fold((*first).clone(), |all, mask| all.logical_and(mask))
}
