//! What is summed over tokens, and how a cube adds it up.

use cubecl::prelude::*;

use super::blueprint::Blueprint;

/// The place of a sum among the partial sums that a cube hands over.
#[derive_cube_comptime]
pub enum Slot {
    /// `-surrogate * weight`, times the row's part of the reduction's factor.
    Loss,
    /// `log_probs - old_log_probs`.
    LogRatio,
    SquaredLogRatio,
    K3,
    Ratio,
    SquaredRatio,
    MinRatio,
    MaxRatio,
    ClippedAbove,
    ClippedBelow,
    NonFinite,
    ValidTokens,
    ValidSequences,
    DualClipped,
    /// `old_log_probs - rollout_log_probs`.
    LogWeight,
    Weight,
    SquaredWeight,
    /// Weights that were moved to a bound, or set to 0.
    ChangedWeight,
}

impl Slot {
    /// Counts are added up as integers: f32 loses them above 2^24.
    pub fn is_count(self) -> bool {
        matches!(
            self,
            Slot::ClippedAbove
                | Slot::ClippedBelow
                | Slot::NonFinite
                | Slot::ValidTokens
                | Slot::ValidSequences
                | Slot::DualClipped
                | Slot::ChangedWeight
        )
    }
}

/// The sums of a unit. Those that the objective does not need are never touched, and are gone
/// when the kernel is compiled.
///
/// Counts are floats here: a unit sees far fewer than 2^24 tokens, so that they are exact.
#[derive(CubeType)]
pub struct Sums<A: Float> {
    pub loss: A,
    pub log_ratio: A,
    pub squared_log_ratio: A,
    pub k3: A,
    pub ratio: A,
    pub squared_ratio: A,
    pub min_ratio: A,
    pub max_ratio: A,
    pub clipped_above: A,
    pub clipped_below: A,
    pub non_finite: A,
    pub valid_tokens: A,
    pub valid_sequences: A,
    pub dual_clipped: A,
    pub log_weight: A,
    pub weight: A,
    pub squared_weight: A,
    pub changed_weight: A,
}

#[cube]
impl<A: Float> Sums<A> {
    pub fn new() -> Self {
        let zero = A::new(0.0);
        Sums::<A> {
            loss: zero,
            log_ratio: zero,
            squared_log_ratio: zero,
            k3: zero,
            ratio: zero,
            squared_ratio: zero,
            min_ratio: above_every_ratio::<A>(),
            max_ratio: zero,
            clipped_above: zero,
            clipped_below: zero,
            non_finite: zero,
            valid_tokens: zero,
            valid_sequences: zero,
            dual_clipped: zero,
            log_weight: zero,
            weight: zero,
            squared_weight: zero,
            changed_weight: zero,
        }
    }

    /// Counts one more sequence where `valid`.
    pub fn count_sequence(&mut self, valid: bool) {
        self.valid_sequences += select(valid, A::new(1.0), A::new(0.0));
    }

    fn get(&self, #[comptime] slot: Slot) -> A {
        match slot {
            Slot::Loss => self.loss,
            Slot::LogRatio => self.log_ratio,
            Slot::SquaredLogRatio => self.squared_log_ratio,
            Slot::K3 => self.k3,
            Slot::Ratio => self.ratio,
            Slot::SquaredRatio => self.squared_ratio,
            Slot::MinRatio => self.min_ratio,
            Slot::MaxRatio => self.max_ratio,
            Slot::ClippedAbove => self.clipped_above,
            Slot::ClippedBelow => self.clipped_below,
            Slot::NonFinite => self.non_finite,
            Slot::ValidTokens => self.valid_tokens,
            Slot::ValidSequences => self.valid_sequences,
            Slot::DualClipped => self.dual_clipped,
            Slot::LogWeight => self.log_weight,
            Slot::Weight => self.weight,
            Slot::SquaredWeight => self.squared_weight,
            Slot::ChangedWeight => self.changed_weight,
        }
    }
}

/// Where the smallest ratio starts: no ratio exceeds e^20, which is 4.9e8. Not infinity, which
/// WGSL has no way to write.
#[cube]
pub fn above_every_ratio<A: Float>() -> A {
    A::new(1.0e9)
}

/// What changes nothing when it is combined.
#[cube]
pub fn neutral<A: Float>(#[comptime] slot: Slot) -> A {
    match slot {
        Slot::MinRatio => above_every_ratio::<A>(),
        _ => A::new(0.0),
    }
}

/// One sum of two. Comparisons with NaN are false, so that NaN is left out of the extremes.
#[cube]
pub fn combine<A: Float>(#[comptime] slot: Slot, left: A, right: A) -> A {
    match slot {
        Slot::MinRatio => select(right < left, right, left),
        Slot::MaxRatio => select(right > left, right, left),
        _ => left + right,
    }
}

/// Adds up the sums of a cube's units, always in the same order, and writes them to the cube's
/// column of the partial sums `[slots, cubes]`.
#[cube]
pub fn write_partials<A: Float>(
    sums: &Sums<A>,
    partials: &mut [A],
    #[comptime] cube_size: u32,
    #[comptime] blueprint: Blueprint,
) {
    let slots = comptime!(blueprint.slots());
    let count = comptime!(slots.len());
    let size = comptime!(cube_size as usize);
    let unit = UNIT_POS as usize;
    let mut shared = Shared::<[A]>::new_slice(comptime!(count * size));

    #[unroll]
    for k in 0..count {
        shared[k * size + unit] = sums.get(comptime!(slots[k]));
    }
    sync_cube();
    #[unroll]
    for step in 0..comptime!(cube_size.ilog2()) {
        let half = comptime!(size >> (step + 1));
        if unit < half {
            #[unroll]
            for k in 0..count {
                let left = shared[k * size + unit];
                let right = shared[k * size + unit + half];
                shared[k * size + unit] = combine::<A>(comptime!(slots[k]), left, right);
            }
        }
        sync_cube();
    }
    if unit == 0 {
        #[unroll]
        for k in 0..count {
            partials[k * CUBE_COUNT + CUBE_POS] = shared[k * size];
        }
    }
}
