//! Keys and values: of a memory, and of what was written so far.

use attentia_tensor::{DType, Device, Error, ErrorKind, Result, Tensor, no_grad};

/// Keys and values of one attention.
#[derive(Clone, Debug)]
pub struct KeyValue {
    /// `[B, H, S, D]`
    pub key: Tensor,
    /// `[B, H, S, D_v]`
    pub value: Tensor,
}

impl KeyValue {
    /// Those of some of the B sequences, by index `[n]` (i64).
    pub fn index_select(&self, index: &Tensor) -> Result<KeyValue> {
        Ok(KeyValue { key: self.key.index_select(0, index)?, value: self.value.index_select(0, index)? })
    }
}

/// A KV cache: room for `capacity` positions of B sequences, contiguous per head, filled from the left.
///
/// ```text
/// key, value  [B, H, capacity, D]    positions 0 .. length are filled; append writes behind them in place
/// ```
///
/// It serves decoding: gradients do not flow through it.
#[derive(Debug)]
pub struct Cache {
    room: KeyValue,
    length: usize,
}

impl Cache {
    /// An empty cache. Errors when memory runs out.
    pub fn new([batch, heads, capacity, dim]: [usize; 4], dtype: DType, device: &Device) -> Result<Cache> {
        let room = || Tensor::zeros(&[batch, heads, capacity, dim], dtype, device);
        Ok(Cache { room: KeyValue { key: room()?, value: room()? }, length: 0 })
    }

    /// Number of filled positions.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends keys and values `[B, H, T, D]`. Errors when the capacity is exceeded, or while somebody still holds
    /// [`Cache::filled`].
    pub fn append(&mut self, more: &KeyValue) -> Result<()> {
        let [_, _, capacity, _] = self.room.key.dims()?;
        let [_, _, t, _] = more.key.dims()?;
        if self.length + t > capacity {
            let what = format!("{} positions and {t} more exceed the capacity of {capacity}", self.length);
            return Err(Error::new(ErrorKind::Argument, "append", what).help("make the cache with a larger capacity"));
        }
        no_grad(|| {
            self.room.key.write_narrow(2, self.length, &more.key.detach())?;
            self.room.value.write_narrow(2, self.length, &more.value.detach())
        })?;
        self.length += t;
        Ok(())
    }

    /// The filled part `[B, H, len, D]`, a view.
    pub fn filled(&self) -> Result<KeyValue> {
        Ok(KeyValue {
            key: self.room.key.narrow(2, 0, self.length)?,
            value: self.room.value.narrow(2, 0, self.length)?,
        })
    }

    /// Makes sequence i that which was `index[i]` (`[n]`, i64); n may differ from B: hypotheses that go on, in their
    /// new order. Only filled positions are copied.
    pub fn reorder(&mut self, index: &Tensor) -> Result<()> {
        let [_, h, capacity, d] = self.room.key.dims()?;
        let chosen = self.filled()?.index_select(index)?;
        let device = self.room.key.device().clone();
        let mut next = Cache::new([index.count(), h, capacity, d], self.room.key.dtype(), &device)?;
        next.append(&chosen)?;
        *self = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use attentia_tensor::RngKey;

    #[test]
    fn appends_in_place_and_follows_an_order() {
        let device = Device::new(attentia_reference::ReferenceBackend::new());
        let pair = |seed, t| {
            let normal = |key| Tensor::randn(key, &[2, 1, t, 3], DType::F32, &device).unwrap();
            KeyValue { key: normal(RngKey::new(seed)), value: normal(RngKey::new(seed).call(1)) }
        };
        let mut cache = Cache::new([2, 1, 3, 3], DType::F32, &device).unwrap();
        let (first, second) = (pair(1, 2), pair(2, 1));
        cache.append(&first).unwrap();
        let held = cache.filled().unwrap();
        assert!(cache.append(&second).is_err(), "somebody reads it");
        drop(held);
        cache.append(&second).unwrap();
        let expected = Tensor::cat(&[&first.key, &second.key], 2).unwrap();
        let values = |t: &Tensor| t.to_vec::<f32>().unwrap();
        assert_eq!(values(&cache.filled().unwrap().key), values(&expected));
        let error = cache.append(&second).unwrap_err().to_string();
        assert!(error.contains("capacity of 3"), "{error}");

        let index = Tensor::from_slice(&[1i64, 1, 0], &[3], &device).unwrap();
        cache.reorder(&index).unwrap();
        assert_eq!(values(&cache.filled().unwrap().key), values(&expected.index_select(0, &index).unwrap()));
        assert_eq!(cache.len(), 3);
    }
}
