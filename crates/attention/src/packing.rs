//! Sequences of several lengths in one, without padding.

use attentia_tensor::{Device, Error, ErrorKind, Result, Tensor};

/// Ids of the positions of packed sequences, i64 `[1, length]`, from their cumulative lengths (`cu_seqlens`: 0, and where
/// each sequence ends): 0 in the first sequence, 1 in the second, and so on. What lies behind the last one is padding, with
/// the id that follows.
///
/// They are what [`AttentionOptions::segments`](crate::AttentionOptions::segments) and
/// [`attentia_tensor::Attention::segments`] take, for queries and for keys. Tensors of several rows are made with
/// [`Tensor::cat`].
///
/// # Errors
///
/// When the cumulative lengths do not begin with 0, fall, or exceed `length`.
///
/// ```
/// # use attentia_tensor::Device;
/// # let device = Device::new(attentia_reference::ReferenceBackend::new());
/// let ids = attentia_attention::segment_ids(&[0, 3, 3, 5], 6, &device)?;
/// assert_eq!(ids.shape().as_slice(), [1, 6]);
/// assert_eq!(ids.to_vec::<i64>()?, [0, 0, 0, 2, 2, 3]);
/// # Ok::<(), attentia_tensor::Error>(())
/// ```
pub fn segment_ids(cumulative: &[usize], length: usize, device: &Device) -> Result<Tensor> {
    let wrong = |what: String| {
        Err(Error::new(ErrorKind::Argument, "segment_ids", what)
            .help("cumulative lengths are 0, and the end of each sequence: [0, 3, 5] of lengths 3 and 2"))
    };
    if cumulative.first() != Some(&0) {
        return wrong("the cumulative lengths do not begin with 0".to_owned());
    }
    if let Some(i) = cumulative.windows(2).position(|ends| ends[1] < ends[0]) {
        return wrong(format!("cumulative length {} is {}, below the one before", i + 1, cumulative[i + 1]));
    }
    let last = cumulative[cumulative.len() - 1];
    if last > length {
        return wrong(format!("the sequences have {last} positions, and there are {length}"));
    }
    let lengths = cumulative.windows(2).map(|ends| ends[1] - ends[0]).chain([length - last]);
    let ids: Vec<i64> = lengths.enumerate().flat_map(|(id, n)| std::iter::repeat_n(id as i64, n)).collect();
    Tensor::from_slice(&ids, &[1, length], device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_are_no_cumulative_lengths_is_refused() {
        let device = Device::new(attentia_reference::ReferenceBackend::new());
        let refused = |cumulative: &[usize], length| segment_ids(cumulative, length, &device).unwrap_err().to_string();
        assert!(refused(&[], 0).contains("begin with 0"));
        assert!(refused(&[3, 5], 5).contains("begin with 0"));
        assert!(refused(&[0, 4, 2], 5).contains("length 2 is 2"));
        assert!(refused(&[0, 4], 3).contains("4 positions"));
        assert_eq!(segment_ids(&[0], 2, &device).unwrap().to_vec::<i64>().unwrap(), [0, 0]);
    }
}
