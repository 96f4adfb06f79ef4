//! Counter-based random bits: Philox4x32-10 (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011).
//!
//! ```text
//! key     = mix(seed, path, step, call)                      one stream per use
//! counter = (row, column / 4)                                 one block of four words per four columns
//! word    = block[column mod 4]
//! ```
//!
//! A draw depends on where it lands and on nothing else: not on threads, not on the order of the draws, not on
//! whether a kernel was fused. Dropout therefore stores its key, not a mask.

/// Names a stream of random bits: seed of the run, module path, training step, and number of the call in that module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct RngKey {
    /// Seed of the run.
    pub seed: u64,
    /// Hash of the module path, see [`RngKey::path`].
    pub path: u64,
    /// Training step.
    pub step: u64,
    /// How many streams the module has drawn in this step before.
    pub call: u64,
}

impl RngKey {
    /// The stream of `seed` for nothing in particular.
    pub const fn new(seed: u64) -> RngKey {
        RngKey { seed, path: 0, step: 0, call: 0 }
    }

    /// The same seed's stream for a module path (FNV-1a of its bytes).
    pub fn path(mut self, path: &str) -> RngKey {
        self.path = path.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3));
        self
    }

    /// The same module's stream at a step.
    pub const fn step(mut self, step: u64) -> RngKey {
        self.step = step;
        self
    }

    /// The module's next stream in the same step.
    pub const fn call(mut self, call: u64) -> RngKey {
        self.call = call;
        self
    }

    /// The generator of this stream.
    pub fn generator(&self) -> Philox {
        // SplitMix64's finaliser between the parts: nearby steps and calls give unrelated keys.
        let mix = |mut z: u64| {
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let key =
            [self.seed, self.path, self.step, self.call].into_iter().fold(0x9e37_79b9_7f4a_7c15u64, |state, part| {
                mix(state.wrapping_add(part).wrapping_add(0x9e37_79b9_7f4a_7c15))
            });
        Philox { key: [key as u32, (key >> 32) as u32] }
    }
}

/// The generator of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Philox {
    key: [u32; 2],
}

impl Philox {
    /// A generator with the raw 64-bit key, for known-answer tests.
    pub const fn from_key(key: [u32; 2]) -> Philox {
        Philox { key }
    }

    /// The raw key, for kernels that run the rounds themselves.
    pub const fn key(&self) -> [u32; 2] {
        self.key
    }

    /// Ten rounds over a counter.
    #[inline]
    pub fn rounds(&self, mut counter: [u32; 4]) -> [u32; 4] {
        let mut key = self.key;
        for _ in 0..10 {
            let product0 = counter[0] as u64 * 0xd251_1f53;
            let product1 = counter[2] as u64 * 0xcd9e_8d57;
            counter = [
                (product1 >> 32) as u32 ^ counter[1] ^ key[0],
                product1 as u32,
                (product0 >> 32) as u32 ^ counter[3] ^ key[1],
                product0 as u32,
            ];
            key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
        }
        counter
    }

    /// The four words of columns `4 · block .. 4 · block + 4` of a row.
    ///
    /// A tensor's row is the flat index over all axes but the last; its column is the index along the last.
    #[inline]
    pub fn block(&self, row: u64, block: u64) -> [u32; 4] {
        self.rounds([block as u32, (block >> 32) as u32, row as u32, (row >> 32) as u32])
    }

    /// The word of one element.
    pub fn word(&self, row: u64, column: u64) -> u32 {
        self.block(row, column / 4)[(column % 4) as usize]
    }

    /// A word as a number in [0, 1), on the grid that `f32` holds exactly.
    #[inline]
    pub fn unit_f32(word: u32) -> f32 {
        (word >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// A word as a number in [0, 1), on a grid of 2⁻³².
    #[inline]
    pub fn unit_f64(word: u32) -> f64 {
        word as f64 * (1.0 / 4_294_967_296.0)
    }

    /// Four standard normal deviates from the four words of a block (Box and Muller, 1958), computed in `f64`.
    pub fn normals(words: [u32; 4]) -> [f64; 4] {
        let pair = |u: u32, v: u32| {
            // 1 − u lies in (0, 1], so the logarithm is finite.
            let radius = (-2.0 * (1.0 - Philox::unit_f64(u)).ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * Philox::unit_f64(v)).sin_cos();
            (radius * cos, radius * sin)
        };
        let ((a, b), (c, d)) = (pair(words[0], words[1]), pair(words[2], words[3]));
        [a, b, c, d]
    }

    /// An element is dropped with probability `p` when its word lies below this. `p` must lie in [0, 1).
    pub fn drop_threshold(p: f64) -> u32 {
        (p * 4_294_967_296.0).round() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123 (`kat_vectors`, philox4x32 10).
    #[test]
    fn known_answers() {
        let run = |counter, key| Philox::from_key(key).rounds(counter);
        assert_eq!(run([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(run([u32::MAX; 4], [u32::MAX; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            run([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn parts_of_the_key_make_different_streams() {
        let base = RngKey::new(1);
        let keys = [base, base.path("enc.0"), base.path("enc.1"), base.step(1), base.call(1), RngKey::new(2)];
        for (i, a) in keys.iter().enumerate() {
            for b in &keys[i + 1..] {
                assert_ne!(a.generator(), b.generator());
            }
        }
    }

    #[test]
    fn normals_have_unit_variance() {
        let generator = RngKey::new(7).generator();
        let all: Vec<f64> = (0..20_000).flat_map(|i| Philox::normals(generator.block(0, i))).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / all.len() as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
