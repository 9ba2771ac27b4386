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
    /// Weights that were moved to a bound.
    TruncatedWeight,
    /// Weights that were set to 0.
    ZeroedWeight,
    /// Tokens that were dropped with their sequence.
    Dropped,
    /// The penalty, before its coefficient.
    Kl,
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
                | Slot::TruncatedWeight
                | Slot::ZeroedWeight
                | Slot::Dropped
        )
    }
}

/// Vectors that a unit adds up in one go.
///
/// A sum is rounded at most 3 times in a vector of 4 tokens, `STRETCH` times in a stretch, once
/// for each stretch of the unit, 7 times among the 128 units of a cube, and 14 times where up to
/// 1024 cubes are added up. Addends of one sign, alike or not, then have a relative error of at
/// most `(STRETCH + stretches + 24) * 2^-24` in f32. There is no f64 on every device that could end
/// a stretch, so that the number of stretches counts: 8 at 67 million tokens, 13 in one sequence of
/// a hundred thousand. That bound is 48 and 53 there, against 36 on a CPU; with 32 vectors it
/// would be 60 and 63, with 8 it would be 48 and 57.
const STRETCH: usize = 16;

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
    pub truncated_weight: A,
    pub zeroed_weight: A,
    pub dropped: A,
    pub kl: A,
    /// Derivatives of token losses with respect to the ratio of their sequence. It stays within
    /// the sequence, and has no slot.
    pub slope: A,
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
            truncated_weight: zero,
            zeroed_weight: zero,
            dropped: zero,
            kl: zero,
            slope: zero,
        }
    }

    /// Adds the sums of a stretch of tokens.
    pub fn add(&mut self, stretch: &Sums<A>) {
        self.loss += stretch.loss;
        self.log_ratio += stretch.log_ratio;
        self.squared_log_ratio += stretch.squared_log_ratio;
        self.k3 += stretch.k3;
        self.ratio += stretch.ratio;
        self.squared_ratio += stretch.squared_ratio;
        self.min_ratio = combine::<A>(Slot::MinRatio, self.min_ratio, stretch.min_ratio);
        self.max_ratio = combine::<A>(Slot::MaxRatio, self.max_ratio, stretch.max_ratio);
        self.clipped_above += stretch.clipped_above;
        self.clipped_below += stretch.clipped_below;
        self.non_finite += stretch.non_finite;
        self.valid_tokens += stretch.valid_tokens;
        self.dual_clipped += stretch.dual_clipped;
        self.log_weight += stretch.log_weight;
        self.weight += stretch.weight;
        self.squared_weight += stretch.squared_weight;
        self.truncated_weight += stretch.truncated_weight;
        self.zeroed_weight += stretch.zeroed_weight;
        self.dropped += stretch.dropped;
        self.kl += stretch.kl;
    }

    /// Counts one more sequence where `valid`.
    pub fn count_sequence(&mut self, valid: bool) {
        self.valid_sequences += select(valid, A::new(1.0), A::new(0.0));
    }

    /// Adds the ratio that `tokens` tokens share.
    pub fn add_sequence_ratio(&mut self, ratio: A, tokens: A) {
        self.ratio += ratio * tokens;
        self.squared_ratio += ratio * ratio * tokens;
        let some = tokens > A::new(0.0);
        let smallest = select(some, ratio, above_every_ratio::<A>());
        let largest = select(some, ratio, A::new(0.0));
        self.min_ratio = combine::<A>(Slot::MinRatio, self.min_ratio, smallest);
        self.max_ratio = combine::<A>(Slot::MaxRatio, self.max_ratio, largest);
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
            Slot::TruncatedWeight => self.truncated_weight,
            Slot::ZeroedWeight => self.zeroed_weight,
            Slot::Dropped => self.dropped,
            Slot::Kl => self.kl,
        }
    }
}

/// The end of the stretch that begins at `index` and of which a unit takes every `step`-th vector.
///
/// Sums are made of the sums of stretches, because rounding errors grow with the number of
/// addends, and one sequence can have a hundred thousand tokens.
#[cube]
pub fn end_of_stretch(index: usize, end: usize, step: usize) -> usize {
    let stop = index + STRETCH * step;
    select(stop < end, stop, end)
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
