//! The loops over a block of tokens, composed at compile time of the parts that an objective asks
//! for.

use std::mem::MaybeUninit;

use pulp::{Arch, Simd, WithSimd};

use super::lanes::{Lanes, Real};
use super::stage::Staged;
use super::words::{Flags, Values, count, is_non_finite, splat};
use crate::blueprint::Blueprint;
use crate::columns::Columns;
use crate::formula::rollout::cpu::kept_weight;
use crate::formula::row::cpu::{Row, TokenInputs, gather, share, stand_in, unshared};
use crate::formula::row_sums::RowSums;
use crate::formula::row_sums::cpu::{RowSums as LaneRowSums, RowTotals};
use crate::formula::token::cpu::token;
use crate::numbers::Numbers;
use crate::objective::{Behavior, Divergence, MissingRolloutLogProbs, RatioLevel, SurrogateKind};
use crate::sums::Sums;
use crate::sums::cpu::Sums as LaneSums;

/// Vectors that are added up in lanes before they move into f64.
///
/// A fixed number of vectors, not of tokens: the error of a sum of numbers of one sign is then the
/// same for every vector unit, `(STRETCH + log2(lanes)) * 2^-24` in f32 at most.
pub const STRETCH: usize = 64;

/// What a batch is computed with.
#[derive(Clone, Copy)]
pub struct Plan {
    pub blueprint: Blueprint,
    pub numbers: Numbers,
    /// The batch's part of the reduction's factor.
    pub scale: f64,
    /// What rollout weights are divided by, where they are normalized.
    pub weight_mean: f64,
    /// The least entropy of a token that is kept, where there is an entropy mask.
    pub entropy_threshold: f64,
}

/// A row of the batch: what is gathered over its tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowState {
    pub sums: RowSums,
    /// The weights of tokens that are kept.
    pub kept_weight: f64,
    /// Derivatives of the losses of tokens with respect to the ratio that they share.
    pub log_ratio_slope: f64,
    /// What its tokens count for, where the batch says so.
    pub weight: f64,
}

/// Consecutive tokens, and the rows that they belong to.
pub struct Block<'a, T> {
    pub staged: Staged<&'a [T]>,
    pub rows: &'a mut [RowState],
    /// Number of tokens in a row.
    pub row_length: usize,
    /// The place, within the first of the rows, of the block's first token.
    pub start: usize,
    /// The gradients of log-probs and of entropies: as long as the block, or empty where they are
    /// not wanted.
    pub gradients: Gradients<'a, T>,
}

/// Memory for gradients.
#[derive(Default)]
pub struct Gradients<'a, T> {
    pub log_probs: &'a mut [MaybeUninit<T>],
    pub entropies: &'a mut [MaybeUninit<T>],
}

impl<'a, T> Gradients<'a, T> {
    /// The first elements, as far as there are any, which are taken off.
    pub fn take(&mut self, count: usize) -> Gradients<'a, T> {
        let take = |memory: &mut &'a mut [MaybeUninit<T>]| {
            // Not in one expression: what has been taken is empty.
            let count = count.min(memory.len());
            let (taken, rest) = std::mem::take(memory).split_at_mut(count);
            *memory = rest;
            taken
        };
        Gradients {
            log_probs: take(&mut self.log_probs),
            entropies: take(&mut self.entropies),
        }
    }

    /// The same memory, for a shorter time.
    pub fn reborrow(&mut self) -> Gradients<'_, T> {
        Gradients {
            log_probs: &mut *self.log_probs,
            entropies: &mut *self.entropies,
        }
    }
}

/// The loops of one objective.
#[derive(Clone, Copy)]
pub struct Kernels<T> {
    /// Adds a block to the sums of its rows.
    pub gather: fn(Arch, &Plan, Block<'_, T>),
    /// Adds the kept weights of a block to its rows.
    pub add_kept_weights: fn(Arch, &Plan, Block<'_, T>),
    /// Adds a block to the sums of the batch, and writes every element of the gradients, but for those
    /// of log-probs where they are one number for a row.
    pub visit: fn(Arch, &Plan, Block<'_, T>, &mut Sums),
}

/// What the loops of an objective are compiled for: their choices are constants.
#[derive(Clone, Copy, PartialEq)]
struct Specialization {
    surrogate: SurrogateKind,
    dual_clip: bool,
    weighs_negative: bool,
    weighs_others: bool,
    drops_outside: bool,
    divergence: Divergence,
    multiplies_ratio: bool,
    ratio_level: RatioLevel,
    against: Behavior,
    /// There is a correction, a mask of tokens, a penalty, a bonus, or something to do about missing
    /// log-probs; which one is looked up for each vector.
    has_extras: bool,
}

impl Specialization {
    const fn new(surrogate: SurrogateKind) -> Self {
        Self {
            surrogate,
            dual_clip: false,
            weighs_negative: false,
            weighs_others: false,
            drops_outside: false,
            divergence: Divergence::TotalVariation,
            multiplies_ratio: false,
            ratio_level: RatioLevel::Token,
            against: Behavior::Old,
            has_extras: false,
        }
    }

    const fn with_extras(self) -> Self {
        Self {
            has_extras: true,
            ..self
        }
    }

    const fn at(self, ratio_level: RatioLevel) -> Self {
        Self {
            ratio_level,
            ..self
        }
    }

    fn of(blueprint: &Blueprint) -> Self {
        Self {
            surrogate: blueprint.surrogate,
            dual_clip: blueprint.dual_clip,
            weighs_negative: blueprint.weighs_negative,
            weighs_others: blueprint.weighs_others,
            drops_outside: blueprint.drops_outside,
            divergence: blueprint.divergence,
            multiplies_ratio: blueprint.multiplies_ratio,
            ratio_level: blueprint.ratio_level,
            against: blueprint.against,
            has_extras: blueprint.corrected
                || blueprint.off_policy
                || blueprint.masks_entropy
                || blueprint.penalized
                || blueprint.entropy
                || blueprint.missing != MissingRolloutLogProbs::Propagate,
        }
    }

    /// The blueprint, with constants in the place of what is known when the loop is compiled.
    #[inline(always)]
    fn apply(self, blueprint: Blueprint) -> Blueprint {
        let Self {
            surrogate,
            dual_clip,
            weighs_negative,
            weighs_others,
            drops_outside,
            divergence,
            multiplies_ratio,
            ratio_level,
            against,
            has_extras,
        } = self;
        let blueprint = Blueprint {
            surrogate,
            dual_clip,
            weighs_negative,
            weighs_others,
            drops_outside,
            divergence,
            multiplies_ratio,
            ratio_level,
            against,
            // They are counted before.
            masked: false,
            ..blueprint
        };
        match has_extras {
            true => blueprint,
            false => Blueprint {
                missing: MissingRolloutLogProbs::Propagate,
                corrected: false,
                weighted: false,
                normalizes: false,
                truncates: false,
                masks: false,
                filter_bits: 0,
                vetoes: false,
                only_moving_away: false,
                off_policy: false,
                masks_entropy: false,
                penalized: false,
                entropy: false,
                ..blueprint
            },
        }
    }
}

const CLIP: Specialization = Specialization::new(SurrogateKind::Clip);
const DUAL_CLIP: Specialization = Specialization {
    dual_clip: true,
    ..CLIP
};
const POLICY_GRADIENT: Specialization = Specialization::new(SurrogateKind::PolicyGradient);
const WEIGHTED: Specialization = Specialization {
    weighs_negative: true,
    weighs_others: true,
    ..POLICY_GRADIENT
};
const WEIGHTED_WHERE_NEGATIVE: Specialization = Specialization {
    weighs_negative: true,
    ..POLICY_GRADIENT
};
const KL_REGION: Specialization = Specialization {
    divergence: Divergence::Kl,
    ..Specialization::new(SurrogateKind::TrustRegion)
};

/// The objectives that have loops of their own. All others share one that looks everything up. Those
/// without extras stand first.
const SPECIALIZED: [Specialization; 28] = [
    CLIP,
    DUAL_CLIP,
    Specialization {
        against: Behavior::Rollout,
        ..CLIP
    },
    CLIP.at(RatioLevel::Sequence),
    CLIP.at(RatioLevel::SequenceToken),
    CLIP.at(RatioLevel::SequenceSum),
    POLICY_GRADIENT,
    WEIGHTED,
    WEIGHTED_WHERE_NEGATIVE,
    Specialization::new(SurrogateKind::SigmoidGate),
    Specialization::new(SurrogateKind::GeometricMean),
    Specialization::new(SurrogateKind::GammaWeight),
    Specialization::new(SurrogateKind::TrustRegion),
    KL_REGION,
    Specialization::new(SurrogateKind::SquaredLogRatio),
    Specialization::new(SurrogateKind::DynamicClip),
    Specialization::new(SurrogateKind::GradientPreservingClip),
    Specialization {
        drops_outside: true,
        against: Behavior::Rollout,
        ..WEIGHTED
    },
    CLIP.with_extras(),
    DUAL_CLIP.with_extras(),
    CLIP.at(RatioLevel::Sequence).with_extras(),
    POLICY_GRADIENT.with_extras(),
    WEIGHTED.with_extras(),
    WEIGHTED_WHERE_NEGATIVE.with_extras(),
    Specialization::new(SurrogateKind::SigmoidGate).with_extras(),
    Specialization::new(SurrogateKind::GeometricMean).with_extras(),
    Specialization::new(SurrogateKind::TrustRegion).with_extras(),
    Specialization::new(SurrogateKind::SquaredLogRatio).with_extras(),
];

/// Stands for an objective without loops of its own.
const ANY: usize = usize::MAX;

#[inline(always)]
fn specialized<const INDEX: usize>(blueprint: Blueprint) -> Blueprint {
    match INDEX {
        ANY => Blueprint {
            masked: false,
            ..blueprint
        },
        _ => SPECIALIZED[INDEX % SPECIALIZED.len()].apply(blueprint),
    }
}

/// A type that a batch is computed in, f32 or f64.
pub trait Arithmetic: Real {
    /// The loops of an objective: not generic, so that they are compiled in this crate and not once
    /// more in every crate that calls them.
    #[doc(hidden)]
    fn kernels(blueprint: &Blueprint) -> Kernels<Self>;
}

macro_rules! implement_arithmetic {
    ($real:ident: $($index:literal)*) => {
        impl Arithmetic for $real {
            fn kernels(blueprint: &Blueprint) -> Kernels<$real> {
                let wanted = Specialization::of(blueprint);
                match SPECIALIZED.iter().position(|it| *it == wanted) {
                    $(Some($index) => kernels::<$real, $index>(),)*
                    _ => kernels::<$real, ANY>(),
                }
            }
        }
    };
}
#[cfg(not(test))]
implement_arithmetic!(f32: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27);
// Few batches are computed in f64: what has extras looks everything up.
#[cfg(not(test))]
implement_arithmetic!(f64: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17);
// They take minutes to compile, and the tests within this library call none of them.
#[cfg(test)]
implement_arithmetic!(f32:);
#[cfg(test)]
implement_arithmetic!(f64:);

fn kernels<T: Real, const INDEX: usize>() -> Kernels<T> {
    Kernels {
        gather: |arch, plan, block| arch.dispatch(Gather::<T, INDEX> { plan, block }),
        add_kept_weights: |arch, plan, block| arch.dispatch(AddKeptWeights { plan, block }),
        visit: |arch, plan, block, sums| {
            let staged = block.staged;
            if !arch.dispatch(Visit::<T, INDEX> { plan, block, sums }) {
                sums.non_finite += arch.dispatch(CountNonFinite { plan, staged });
            }
        },
    }
}

struct Visit<'a, T, const INDEX: usize> {
    plan: &'a Plan,
    block: Block<'a, T>,
    sums: &'a mut Sums,
}

impl<T: Real, const INDEX: usize> WithSimd for Visit<'_, T, INDEX> {
    /// Whether all inputs are finite.
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        let lanes = T::lanes(simd);
        let blueprint = specialized::<INDEX>(self.plan.blueprint);
        let numbers = self.plan.numbers;
        let mut sums = LaneSums::new(lanes);
        let mut pending = 0;
        let Block {
            staged,
            rows,
            row_length,
            mut start,
            mut gradients,
        } = self.block;
        let mut first = 0;
        // Where a gradient is not wanted it is written here: cheaper than to ask for each vector.
        let mut unwanted = [MaybeUninit::uninit(); STRETCH];
        for state in rows {
            let last = staged.mask.len().min(first + (row_length - start));
            let row = row(lanes, &blueprint, self.plan, self.plan.scale, state);
            let own = gradients.take(last - first);
            // Where a row has one gradient, it is written when the row has been visited.
            let own_log_probs = match blueprint.gradient_is_of_row() {
                true => &mut [],
                false => own.log_probs,
            };
            let (output, output_rest) = T::Lanes::<S>::split_output(own_log_probs);
            let (entropy_output, entropy_rest) = T::Lanes::<S>::split_output(own.entropies);
            let (vectors, rest) = split::<T::Lanes<S>>(staged.map(|it| &it[first..last]));
            let mut log_ratio_slope = Values(lanes, lanes.zero());

            // The rest is a vector of its own, whose lanes beyond it are 0: masked. Both take the
            // same loop, so that the formulas are compiled once.
            let rest_vectors = [rest.map(|column| lanes.load_rest(column))];
            let rest_vectors = rest_vectors[0].as_slices();
            let has_rest = usize::from(!rest.mask.is_empty());
            let mut rest_output = [MaybeUninit::uninit()];
            let mut rest_entropy_output = [MaybeUninit::uninit()];
            let writes = !output.is_empty() || !output_rest.is_empty();
            let writes_entropies =
                blueprint.entropy && !(entropy_output.is_empty() && entropy_rest.is_empty());
            let parts = [
                (vectors, vectors.mask.len(), output, entropy_output),
                (
                    rest_vectors,
                    has_rest,
                    &mut rest_output[..],
                    &mut rest_entropy_output[..],
                ),
            ];
            for (vectors, count, output, entropy_output) in parts {
                let mut index = 0;
                while index < count {
                    let stop = count.min(index + (STRETCH - pending));
                    pending += stop - index;
                    // One length for all, which the compiler can see: no bounds are checked inside.
                    let stretch = vectors.map(|column| &column[index..stop]);
                    let length = stretch.mask.len();
                    let stretch = stretch.map(|column| &column[..length]);
                    let output = match writes {
                        true => &mut output[index..stop],
                        false => &mut unwanted[..stop - index],
                    };
                    let output = &mut output[..length];
                    let entropy_output = match writes_entropies {
                        true => &mut entropy_output[index..stop],
                        false => &mut [],
                    };
                    for place in 0..length {
                        let inputs = inputs(lanes, &stretch, place, blueprint);
                        let gradient = token(&numbers, &row, &inputs, &mut sums, blueprint);
                        if !blueprint.gradient_is_of_row() {
                            output[place].write(gradient.log_probs.1);
                        }
                        if let Some(output) = entropy_output.get_mut(place) {
                            output.write(gradient.entropy.1);
                        }
                        if blueprint.shares_gradient() {
                            log_ratio_slope += gradient.log_ratio_slope;
                        }
                    }
                    index = stop;
                    if pending == STRETCH {
                        pending = 0;
                        sums.flush(lanes, self.sums);
                    }
                    if blueprint.shares_gradient() {
                        state.log_ratio_slope += lanes.sum(log_ratio_slope.1);
                        log_ratio_slope = Values(lanes, lanes.zero());
                    }
                }
            }
            if has_rest == 1 {
                store_rest(lanes, rest_output[0], output_rest);
                store_rest(lanes, rest_entropy_output[0], entropy_rest);
            }
            first = last;
            start = 0;
        }
        let stands_for_non_finite = lanes.sum(sums.non_finite.1);
        sums.non_finite = Values(lanes, lanes.zero());
        sums.finish(self.sums);
        stands_for_non_finite.is_finite()
    }
}

/// Counts the tokens of a block at which an input is NaN or infinite. Few blocks hold any: there is
/// one loop for all objectives.
struct CountNonFinite<'a, T> {
    plan: &'a Plan,
    staged: Staged<&'a [T]>,
}

impl<T: Real> WithSimd for CountNonFinite<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let lanes = T::lanes(simd);
        let Plan {
            blueprint, numbers, ..
        } = *self.plan;
        let (vectors, rest) = split::<T::Lanes<S>>(self.staged);
        let rest_vectors = [rest.map(|column| lanes.load_rest(column))];
        let row = unshared(Values(lanes, lanes.zero()));
        let mut total = 0.0;
        for vectors in [vectors, rest_vectors[0].as_slices()] {
            for place in 0..vectors.mask.len() {
                // Of one vector, and nothing else of it is used.
                let mut sums = LaneSums::new(lanes);
                let inputs = inputs(lanes, &vectors, place, blueprint);
                token(&numbers, &row, &inputs, &mut sums, blueprint);
                total += lanes.sum(count(is_non_finite(sums.non_finite)).1);
            }
        }
        total
    }
}

/// Writes the lanes of a vector that are wanted; it was written itself if there are any.
#[inline(always)]
fn store_rest<L: Lanes>(
    lanes: L,
    vector: MaybeUninit<L::Vector>,
    output: &mut [MaybeUninit<L::Real>],
) {
    if output.is_empty() {
        return;
    }
    // SAFETY: where an output has a rest, the loop over the last vector has written it.
    #[allow(unsafe_code)]
    let vector = unsafe { vector.assume_init() };
    lanes.store_rest(vector, output);
}

struct Gather<'a, T, const INDEX: usize> {
    plan: &'a Plan,
    block: Block<'a, T>,
}

impl<T: Real, const INDEX: usize> WithSimd for Gather<'_, T, INDEX> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = T::lanes(simd);
        let blueprint = specialized::<INDEX>(self.plan.blueprint);
        if !blueprint.gathers() {
            // Known when it is compiled, for most: there is nothing to compile.
            return;
        }
        let numbers = self.plan.numbers;
        let Block {
            staged,
            rows,
            row_length,
            mut start,
            ..
        } = self.block;
        let mut first = 0;
        for state in rows {
            let last = staged.mask.len().min(first + (row_length - start));
            let (vectors, rest) = split::<T::Lanes<S>>(staged.map(|it| &it[first..last]));
            let mut sums = LaneRowSums::new(lanes);
            let mut index = 0;
            while index < vectors.mask.len() {
                let stop = vectors.mask.len().min(index + STRETCH);
                let stretch = vectors.map(|column| &column[index..stop]);
                let length = stretch.mask.len();
                let stretch = stretch.map(|column| &column[..length]);
                for place in 0..length {
                    let inputs = inputs(lanes, &stretch, place, blueprint);
                    gather(&numbers, &inputs, &mut sums, blueprint);
                }
                sums.flush(lanes, &mut state.sums);
                index = stop;
            }
            if !rest.mask.is_empty() {
                let rest = rest.map(|column| lanes.load_rest(column));
                let inputs = inputs(lanes, &rest.as_slices(), 0, blueprint);
                gather(&numbers, &inputs, &mut sums, blueprint);
            }
            sums.finish(&mut state.sums);
            first = last;
            start = 0;
        }
    }
}

struct AddKeptWeights<'a, T> {
    plan: &'a Plan,
    block: Block<'a, T>,
}

impl<T: Real> WithSimd for AddKeptWeights<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = T::lanes(simd);
        let Plan {
            blueprint, numbers, ..
        } = *self.plan;
        let Block {
            staged,
            rows,
            row_length,
            mut start,
            ..
        } = self.block;
        let mut first = 0;
        for state in rows {
            let last = staged.mask.len().min(first + (row_length - start));
            let row = row(lanes, &blueprint, self.plan, self.plan.scale, state);
            let (vectors, rest) = split::<T::Lanes<S>>(staged.map(|it| &it[first..last]));
            for place in 0..vectors.mask.len() {
                let inputs = inputs(lanes, &vectors, place, blueprint);
                state.kept_weight += lanes.sum(kept_weight(&numbers, &row, &inputs, blueprint).1);
            }
            if !rest.mask.is_empty() {
                let rest = rest.map(|column| lanes.load_rest(column));
                let inputs = inputs(lanes, &rest.as_slices(), 0, blueprint);
                state.kept_weight += lanes.sum(kept_weight(&numbers, &row, &inputs, blueprint).1);
            }
            first = last;
            start = 0;
        }
    }
}

/// What the tokens of a row share.
#[inline(always)]
fn row<L: Lanes>(
    lanes: L,
    blueprint: &Blueprint,
    plan: &Plan,
    scale: f64,
    state: &RowState,
) -> Row<L> {
    let like = Values(lanes, lanes.zero());
    let mut row = match blueprint.by_rows() {
        true => share(
            &plan.numbers,
            &RowTotals::new(lanes, &state.sums),
            like,
            *blueprint,
        ),
        false => unshared(like),
    };
    if blueprint.adds_weights() {
        let mean_weight = state.kept_weight / state.sums.tokens.max(1.0);
        row.mean_slope = row.mean_surrogate * splat(lanes, mean_weight);
    }
    if blueprint.weighs_sequences {
        row.factor = splat(lanes, state.weight);
    }
    row.gradient_factor = row.factor * splat(lanes, scale);
    row.weight_mean = splat(lanes, plan.weight_mean);
    row.entropy_threshold = splat(lanes, plan.entropy_threshold);
    row
}

/// The ratio that the tokens of a row share, and its derivative with respect to a log-prob.
pub struct RowRatio<'a, T> {
    pub plan: &'a Plan,
    pub state: &'a RowState,
    pub arithmetic: std::marker::PhantomData<T>,
}

impl<T: Real> WithSimd for RowRatio<'_, T> {
    type Output = (f64, f64);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f64, f64) {
        let lanes = T::lanes(simd);
        let row = row(lanes, &self.plan.blueprint, self.plan, 1.0, self.state);
        (first_lane(row.ratio), first_lane(row.log_ratio_slope))
    }
}

/// Any lane of a vector whose lanes are all the same.
#[inline(always)]
fn first_lane<L: Lanes>(values: Values<L>) -> f64 {
    let mut lane = [MaybeUninit::new(L::Real::from_f64(0.0))];
    values.0.store_rest(values.1, &mut lane);
    // SAFETY: it was initialised above.
    #[allow(unsafe_code)]
    let lane = unsafe { lane[0].assume_init() };
    lane.to_f64()
}

/// One vector of tokens.
#[inline(always)]
fn inputs<L: Lanes>(
    lanes: L,
    vectors: &Staged<&[L::Vector]>,
    place: usize,
    blueprint: Blueprint,
) -> TokenInputs<L> {
    let Staged {
        columns:
            Columns {
                log_probs,
                old_log_probs,
                rollout_log_probs,
                ref_log_probs,
                entropies,
                advantages,
            },
        mask,
    } = *vectors;
    let read = TokenInputs {
        log_probs: Values(lanes, log_probs[place]),
        old_log_probs: Values(lanes, old_log_probs[place]),
        rollout_log_probs: Values(lanes, rollout_log_probs[place]),
        ref_log_probs: Values(lanes, ref_log_probs[place]),
        entropy: Values(lanes, entropies[place]),
        advantage: Values(lanes, advantages[place]),
        valid: Flags(lanes, lanes.greater(mask[place], lanes.zero())),
        missing: Flags(lanes, lanes.never()),
    };
    stand_in(read, blueprint)
}

/// Whole vectors, and the tokens that do not fill one.
#[inline(always)]
#[allow(clippy::type_complexity)]
fn split<L: Lanes>(staged: Staged<&[L::Real]>) -> (Staged<&[L::Vector]>, Staged<&[L::Real]>) {
    (
        staged.map(|column| L::split(column).0),
        staged.map(|column| L::split(column).1),
    )
}
