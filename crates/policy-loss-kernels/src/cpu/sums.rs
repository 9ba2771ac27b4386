//! Sums over tokens: in vector lanes for a stretch, which is short enough for f32, then in
//! f64.

use std::ops::Range;

use super::lanes::Lanes;

/// Vectors that are added up in lanes before the lanes move into f64.
///
/// It counts vectors and not tokens, so that a narrow vector unit rounds no more often than a
/// wide one: a sum of addends of one sign has a relative error of at most
/// `(STRETCH + log2(lanes)) * 2^-24` in f32, however many there are. That holds for addends that
/// are all alike too. Each of them is rounded the same way, so that their errors do not cancel,
/// neither within a stretch nor from one stretch to the next.
pub const STRETCH: usize = 32;

/// The stretches of as many vectors.
#[inline(always)]
pub fn stretches(vectors: usize) -> impl Iterator<Item = Range<usize>> {
    (0..vectors)
        .step_by(STRETCH)
        .map(move |start| start..vectors.min(start + STRETCH))
}

/// What is summed up over a stretch, in lanes. Counts, which are exact, extremes and what is only
/// looked at for being finite stay in the lanes for a block.
///
/// A part of the objective that is not in use leaves its fields alone; the compiler then
/// drops them.
#[derive(Clone, Copy)]
pub struct LaneSums<L: Lanes> {
    /// `surrogate * weight`, times the row's factor.
    pub surrogate: L::Vector,
    pub clipped: L::Vector,
    pub clipped_above: L::Vector,
    pub dual_clipped: L::Vector,
    /// `log_probs - old_log_probs`.
    pub log_ratio: L::Vector,
    pub squared_log_ratio: L::Vector,
    pub k3: L::Vector,
    pub ratio: L::Vector,
    pub squared_ratio: L::Vector,
    pub min_ratio: L::Vector,
    pub max_ratio: L::Vector,
    /// `old_log_probs - rollout_log_probs`.
    pub log_weight: L::Vector,
    pub weight: L::Vector,
    pub squared_weight: L::Vector,
    /// Weights that were moved to a bound.
    pub truncated_weight: L::Vector,
    /// Weights that were set to 0.
    pub zeroed_weight: L::Vector,
    /// `log_probs - rollout_log_probs` where the ratio is taken against it.
    pub rollout_difference: L::Vector,
    /// Tokens that the row dropped.
    pub dropped: L::Vector,
    /// Finite if every addend is, whatever becomes of the surrogate.
    pub advantage: L::Vector,
}

impl<L: Lanes> LaneSums<L> {
    #[inline(always)]
    pub fn new(lanes: L) -> Self {
        let zero = lanes.zero();
        Self {
            surrogate: zero,
            clipped: zero,
            clipped_above: zero,
            dual_clipped: zero,
            log_ratio: zero,
            squared_log_ratio: zero,
            k3: zero,
            ratio: zero,
            squared_ratio: zero,
            min_ratio: lanes.splat(super::real::Real::from_f64(f64::INFINITY)),
            max_ratio: lanes.splat(super::real::Real::from_f64(f64::NEG_INFINITY)),
            log_weight: zero,
            weight: zero,
            squared_weight: zero,
            truncated_weight: zero,
            zeroed_weight: zero,
            rollout_difference: zero,
            dropped: zero,
            advantage: zero,
        }
    }

    /// Moves the sums of a stretch into the totals.
    #[inline(always)]
    pub fn flush(&mut self, lanes: L, totals: &mut Totals) {
        let zero = lanes.zero();
        totals.surrogate += lanes.sum(self.surrogate);
        totals.log_ratio += lanes.sum(self.log_ratio);
        totals.squared_log_ratio += lanes.sum(self.squared_log_ratio);
        totals.k3 += lanes.sum(self.k3);
        totals.ratio += lanes.sum(self.ratio);
        totals.squared_ratio += lanes.sum(self.squared_ratio);
        totals.log_weight += lanes.sum(self.log_weight);
        totals.weight += lanes.sum(self.weight);
        totals.squared_weight += lanes.sum(self.squared_weight);
        *self = Self {
            surrogate: zero,
            log_ratio: zero,
            squared_log_ratio: zero,
            k3: zero,
            ratio: zero,
            squared_ratio: zero,
            log_weight: zero,
            weight: zero,
            squared_weight: zero,
            ..*self
        };
    }

    /// Moves what stayed in the lanes for a block into the totals, after the last stretch.
    #[inline(always)]
    pub fn finish(self, lanes: L, totals: &mut Totals) {
        let clipped_above = lanes.sum(self.clipped_above);
        totals.clipped_above += clipped_above;
        totals.clipped_below += lanes.sum(self.clipped) - clipped_above;
        totals.dual_clipped += lanes.sum(self.dual_clipped);
        totals.min_ratio = totals.min_ratio.min(lanes.smallest(self.min_ratio));
        totals.max_ratio = totals.max_ratio.max(lanes.largest(self.max_ratio));
        totals.truncated_weight += lanes.sum(self.truncated_weight);
        totals.zeroed_weight += lanes.sum(self.zeroed_weight);
        totals.rollout_difference += lanes.sum(self.rollout_difference);
        totals.dropped += lanes.sum(self.dropped);
        totals.advantage += lanes.sum(self.advantage);
    }
}

/// The same sums in f64.
#[derive(Clone, Copy, Debug)]
pub struct Totals {
    pub surrogate: f64,
    pub clipped_above: f64,
    pub clipped_below: f64,
    pub dual_clipped: f64,
    pub log_ratio: f64,
    pub squared_log_ratio: f64,
    pub k3: f64,
    pub ratio: f64,
    pub squared_ratio: f64,
    pub min_ratio: f64,
    pub max_ratio: f64,
    pub log_weight: f64,
    pub weight: f64,
    pub squared_weight: f64,
    pub truncated_weight: f64,
    pub zeroed_weight: f64,
    pub rollout_difference: f64,
    pub dropped: f64,
    pub advantage: f64,
    /// The penalty, before its coefficient.
    pub kl: f64,
    /// The same with the row's factor.
    pub kl_loss: f64,
    pub non_finite: f64,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            surrogate: 0.0,
            clipped_above: 0.0,
            clipped_below: 0.0,
            dual_clipped: 0.0,
            log_ratio: 0.0,
            squared_log_ratio: 0.0,
            k3: 0.0,
            ratio: 0.0,
            squared_ratio: 0.0,
            min_ratio: f64::INFINITY,
            max_ratio: f64::NEG_INFINITY,
            log_weight: 0.0,
            weight: 0.0,
            squared_weight: 0.0,
            truncated_weight: 0.0,
            zeroed_weight: 0.0,
            rollout_difference: 0.0,
            dropped: 0.0,
            advantage: 0.0,
            kl: 0.0,
            kl_loss: 0.0,
            non_finite: 0.0,
        }
    }
}

impl Totals {
    /// Adds the totals of a later block.
    pub fn add(&mut self, other: &Self) {
        self.surrogate += other.surrogate;
        self.clipped_above += other.clipped_above;
        self.clipped_below += other.clipped_below;
        self.dual_clipped += other.dual_clipped;
        self.log_ratio += other.log_ratio;
        self.squared_log_ratio += other.squared_log_ratio;
        self.k3 += other.k3;
        self.ratio += other.ratio;
        self.squared_ratio += other.squared_ratio;
        self.min_ratio = self.min_ratio.min(other.min_ratio);
        self.max_ratio = self.max_ratio.max(other.max_ratio);
        self.log_weight += other.log_weight;
        self.weight += other.weight;
        self.squared_weight += other.squared_weight;
        self.truncated_weight += other.truncated_weight;
        self.zeroed_weight += other.zeroed_weight;
        self.rollout_difference += other.rollout_difference;
        self.dropped += other.dropped;
        self.advantage += other.advantage;
        self.kl += other.kl;
        self.kl_loss += other.kl_loss;
        self.non_finite += other.non_finite;
    }

    /// False if an input that takes part is not finite: it is part of one of these sums,
    /// and a sum that has left the finite numbers never comes back.
    pub fn is_finite(&self) -> bool {
        let inputs = self.log_ratio + self.log_weight + self.rollout_difference + self.advantage;
        (self.surrogate + inputs).is_finite()
    }
}
