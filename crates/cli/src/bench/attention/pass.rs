//! What is timed.

use attentia::{backend::Statistic, tensor::WeightMap};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Forward,
    /// The forward with [`STATISTICS`], and with [`ALL_STATISTICS`].
    Statistics,
    AllStatistics,
    /// [`MAPS`] after a forward: of its weights, and of these times their gradients.
    Maps,
    GradientMaps,
    /// The forward and the gradients of q, k and v.
    Gradients,
}

/// The usual statistics, and all that there are.
const STATISTICS: [Statistic; 3] = [Statistic::Entropy, Statistic::MaxWeight, Statistic::MeanDistance];
const ALL_STATISTICS: [Statistic; 12] = [
    Statistic::Entropy,
    Statistic::EffectiveKeys,
    Statistic::MaxWeight,
    Statistic::ArgMax,
    Statistic::MeanDistance,
    Statistic::MeanLogDistance,
    Statistic::SinkMass(4),
    Statistic::SelfMass,
    Statistic::PreviousMass,
    Statistic::NextMass,
    Statistic::DuplicateMass,
    Statistic::InductionMass,
];

/// Queries and keys of a block of the map.
const BLOCK: usize = 64;

/// What a second pass over the weights is asked for.
pub(super) const MAPS: [WeightMap; 3] =
    [WeightMap::Columns { weights: None }, WeightMap::Diagonals, WeightMap::Blocks { size: BLOCK }];

impl Pass {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Pass::Forward => "forward",
            Pass::Statistics => "forward + statistics",
            Pass::AllStatistics => "forward + all statistics",
            Pass::Maps => "maps",
            Pass::GradientMaps => "gradient maps",
            Pass::Gradients => "forward + gradients",
        }
    }

    pub(super) const fn statistics(self) -> &'static [Statistic] {
        match self {
            Pass::Statistics => &STATISTICS,
            Pass::AllStatistics => &ALL_STATISTICS,
            Pass::Forward | Pass::Maps | Pass::GradientMaps | Pass::Gradients => &[],
        }
    }

    /// Useful work as a multiple of a forward's, which has two products: maps have one, or two with gradients; the backward
    /// has five more.
    pub(super) const fn forwards(self) -> f64 {
        match self {
            Pass::Maps => 0.5,
            Pass::Gradients => 3.5,
            Pass::Forward | Pass::Statistics | Pass::AllStatistics | Pass::GradientMaps => 1.0,
        }
    }
}
