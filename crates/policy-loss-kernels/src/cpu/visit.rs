//! The loops over a block of tokens, composed at compile time of the parts that an objective asks
//! for.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::{Arch, Scalar, Simd, WithSimd};

use super::lanes::{Lanes, Real};
use super::specialization::{ANY, specialized, specialized_surrogate};
use super::stage::{Staged, Term};
use super::vector_unit::dispatch_to_vectors;
use super::words::{
    Flags, Values, constant, count, count_non_finite, greater, is_non_finite, splat,
};
use crate::blueprint::{Blueprint, FILTERS_WITHIN_SEQUENCES};
use crate::columns::Columns;
use crate::formula::rollout::cpu::kept_weight;
use crate::formula::row::cpu::{
    Row, TokenInputs, gather as gather_tokens, share, stand_in, unshared,
};
use crate::formula::row_sums::RowSums;
use crate::formula::row_sums::cpu::{RowSums as LaneRowSums, RowTotals};
use crate::formula::token::cpu::{
    TokenGradient, TokenTerm, corrected_term, objective, policy_term, regularized,
    surrogate_inputs, token, token_gradient,
};
use crate::numbers::Numbers;
use crate::objective::{
    Behavior, KlEstimator, KlGradient, MissingRolloutLogProbs, RatioLevel, SurrogateKind,
    WeightLevel,
};
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
    /// The ratio that its tokens share, known when they have been visited.
    pub ratio: f64,
    /// The derivative of the ratio's logarithm with respect to a log-prob, known then, too.
    pub log_ratio_slope: f64,
    /// Derivatives of the losses of tokens with respect to the logarithm of that ratio.
    pub loss_slope: f64,
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
}

impl<T> Block<'_, T> {
    /// The rows, with their part of the block.
    #[inline(always)]
    fn rows(&mut self) -> impl Iterator<Item = (&mut RowState, Range<usize>)> {
        let length = self.staged.mask.len();
        let row_length = self.row_length;
        let mut start = self.start;
        let mut first = 0;
        self.rows.iter_mut().map(move |state| {
            let last = length.min(first + (row_length - start));
            let tokens = first..last;
            first = last;
            start = 0;
            (state, tokens)
        })
    }
}

/// What a pass writes for each token: as long as the block, or empty where it is not wanted.
type Outputs<'a, T> = [&'a mut [MaybeUninit<T>]; 3];

/// The gradients of log-probs, of entropies and of the log-ratios of segments.
#[derive(Default)]
pub struct Gradients<'a, T> {
    pub log_probs: &'a mut [MaybeUninit<T>],
    pub entropies: &'a mut [MaybeUninit<T>],
    pub segment_log_ratios: &'a mut [MaybeUninit<T>],
}

impl<'a, T> Gradients<'a, T> {
    /// The first elements, as far as there are any, which are taken off.
    pub fn take(&mut self, count: usize) -> Gradients<'a, T> {
        Gradients {
            log_probs: take(&mut self.log_probs, count),
            entropies: take(&mut self.entropies, count),
            segment_log_ratios: take(&mut self.segment_log_ratios, count),
        }
    }

    /// The same memory, for a shorter time.
    pub fn reborrow(&mut self) -> Gradients<'_, T> {
        Gradients {
            log_probs: &mut *self.log_probs,
            entropies: &mut *self.entropies,
            segment_log_ratios: &mut *self.segment_log_ratios,
        }
    }

    /// What the last pass writes. Where a row has one gradient, it is written when the row has been
    /// visited.
    fn outputs(self, blueprint: &Blueprint) -> Outputs<'a, T> {
        let log_probs = match blueprint.gradient_is_of_row() {
            true => &mut [],
            false => self.log_probs,
        };
        [log_probs, self.entropies, self.segment_log_ratios]
    }
}

#[inline(always)]
fn take<'a, T>(memory: &mut &'a mut [T], count: usize) -> &'a mut [T] {
    // Not in one expression: what has been taken is empty.
    let count = count.min(memory.len());
    let (taken, rest) = std::mem::take(memory).split_at_mut(count);
    *memory = rest;
    taken
}

/// Memory for the losses of a block's tokens between passes.
#[derive(Debug, Default)]
pub struct Terms<T> {
    policy: Term<Vec<T>>,
    corrected: Term<Vec<T>>,
}

/// The loops of one objective.
#[derive(Clone, Copy)]
pub struct Kernels<T> {
    /// Adds a block to the sums of its rows.
    pub gather: fn(Arch, &Plan, &mut Block<'_, T>),
    /// Adds the kept weights of a block to its rows.
    pub add_kept_weights: fn(Arch, &Plan, &mut Block<'_, T>),
    /// Adds a block to the sums of the batch, and writes every element of the gradients, but for those
    /// of log-probs where they are one number for a row.
    #[allow(clippy::type_complexity)]
    pub visit: fn(Arch, &Plan, &mut Block<'_, T>, Gradients<'_, T>, &mut Terms<T>, &mut Sums),
}

/// The loops of an objective.
///
/// `Only` is the pass where the loss is nothing but the surrogate, `First` the one that others follow.
pub fn kernels<T: Real, Only: Pass, First: Pass>() -> Kernels<T> {
    Kernels {
        gather,
        add_kept_weights: |arch, plan, block| arch.dispatch(AddKeptWeights { plan, block }),
        visit: visit::<T, Only, First>,
    }
}

/// Visits a block: at once where the loss is nothing but the surrogate, else in passes. A pass has a
/// few choices, which can be constants in it; the surrogates times the corrections times the
/// penalties would be too many loops to compile, and one loop for all is slow.
fn visit<T: Real, Only: Pass, First: Pass>(
    arch: Arch,
    plan: &Plan,
    block: &mut Block<'_, T>,
    gradients: Gradients<'_, T>,
    terms: &mut Terms<T>,
    sums: &mut Sums,
) {
    let staged = block.staged;
    let gradients = gradients.outputs(&plan.blueprint);
    let is_finite = match plan.blueprint.has_extras() {
        true => {
            let outputs = terms.policy.outputs(staged.mask.len());
            let is_finite = pass::<T, First>(arch, plan, block, outputs, sums);
            let mut block = Block {
                staged: Staged {
                    term: terms.policy.read(staged.mask.len()),
                    ..staged
                },
                rows: &mut *block.rows,
                ..*block
            };
            let corrected = &mut terms.corrected;
            is_finite & add_extras(arch, plan, &mut block, gradients, corrected, sums)
        }
        false => pass::<T, Only>(arch, plan, block, gradients, sums),
    };
    if !is_finite {
        sums.non_finite += arch.dispatch(CountNonFinite { plan, staged });
    }
}

/// The passes for all that is not the surrogate.
fn add_extras<T: Real>(
    arch: Arch,
    plan: &Plan,
    block: &mut Block<'_, T>,
    gradients: Outputs<'_, T>,
    corrected: &mut Term<Vec<T>>,
    sums: &mut Sums,
) -> bool {
    let blueprint = plan.blueprint;
    let has_weights_alone = has_weights_alone(blueprint) == blueprint;
    if blueprint.corrects() && !blueprint.penalized && !blueprint.entropy {
        return match has_weights_alone {
            true => pass::<T, Correction<true, true>>(arch, plan, block, gradients, sums),
            false => pass::<T, Correction<false, true>>(arch, plan, block, gradients, sums),
        };
    }
    let length = block.staged.mask.len();
    let mut block = Block {
        rows: &mut *block.rows,
        ..*block
    };
    let mut is_finite = true;
    if blueprint.corrects() {
        let block = &mut block;
        let outputs = corrected.outputs(length);
        is_finite = match has_weights_alone {
            true => pass::<T, Correction<true, false>>(arch, plan, block, outputs, sums),
            false => pass::<T, Correction<false, false>>(arch, plan, block, outputs, sums),
        };
        block.staged.term = corrected.read(length);
    }
    let block = &mut block;
    is_finite
        & match (penalty_of(&blueprint), blueprint.entropy) {
            (NONE, _) => pass::<T, Penalties<NONE, true>>(arch, plan, block, gradients, sums),
            (K3, false) => pass::<T, Penalties<K3, false>>(arch, plan, block, gradients, sums),
            (K3, true) => pass::<T, Penalties<K3, true>>(arch, plan, block, gradients, sums),
            (_, false) => pass::<T, Penalties<OTHER, false>>(arch, plan, block, gradients, sums),
            (_, true) => pass::<T, Penalties<OTHER, true>>(arch, plan, block, gradients, sums),
        }
}

/// A pass over the tokens of a block.
pub trait Pass {
    /// Whether it writes gradients, and not what the next pass reads.
    const IS_LAST: bool;

    /// Runs a loop on a vector unit.
    #[inline(always)]
    fn dispatch<Loop: WithSimd>(arch: Arch, tokens: Loop) -> Loop::Output {
        arch.dispatch(tokens)
    }

    /// The blueprint, with constants in the place of what is known when the pass is compiled.
    fn choices(blueprint: Blueprint) -> Blueprint;

    /// Adds a vector of tokens to the sums, and returns what is written for them. The term is what
    /// the pass before has written.
    fn visit<L: Lanes>(
        numbers: &Numbers,
        blueprint: Blueprint,
        row: &Row<L>,
        inputs: &TokenInputs<L>,
        term: TokenTerm<L>,
        sums: &mut LaneSums<L>,
    ) -> TokenGradient<L>;
}

/// The surrogates of [`specialized`] objectives, on vectors, or, of [`ANY`], all others. Writes gradients
/// if it is the last pass, else slopes and values.
pub struct Surrogates<const INDEX: usize, const IS_LAST: bool>;

impl<const INDEX: usize, const IS_LAST: bool> Pass for Surrogates<INDEX, IS_LAST> {
    const IS_LAST: bool = IS_LAST;

    #[inline(always)]
    fn dispatch<Loop: WithSimd>(arch: Arch, tokens: Loop) -> Loop::Output {
        if const { INDEX == ANY } {
            arch.dispatch(tokens)
        } else {
            dispatch_to_vectors(arch, tokens)
        }
    }

    #[inline(always)]
    fn choices(blueprint: Blueprint) -> Blueprint {
        without_extras(specialized::<INDEX>(blueprint))
    }

    #[inline(always)]
    fn visit<L: Lanes>(
        numbers: &Numbers,
        blueprint: Blueprint,
        row: &Row<L>,
        inputs: &TokenInputs<L>,
        _: TokenTerm<L>,
        sums: &mut LaneSums<L>,
    ) -> TokenGradient<L> {
        let inputs_of_surrogate = surrogate_inputs(row, inputs, sums, blueprint);
        let surrogate =
            specialized_surrogate::<L, INDEX>(numbers, row, &inputs_of_surrogate, sums, blueprint);
        let term = policy_term(inputs, &inputs_of_surrogate, surrogate);
        written::<L, IS_LAST>(row, inputs, term, sums, blueprint)
    }
}

/// The surrogate, and nothing else.
#[inline(always)]
fn without_extras(blueprint: Blueprint) -> Blueprint {
    Blueprint {
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
        weighs_future: false,
        penalized: false,
        entropy: false,
        ..blueprint
    }
}

/// The future weights, the rollout correction, and the masks of tokens. Writes gradients if it is the
/// last pass, else slopes and values.
struct Correction<const HAS_WEIGHTS_ALONE: bool, const IS_LAST: bool>;

impl<const HAS_WEIGHTS_ALONE: bool, const IS_LAST: bool> Pass
    for Correction<HAS_WEIGHTS_ALONE, IS_LAST>
{
    const IS_LAST: bool = IS_LAST;

    #[inline(always)]
    fn choices(blueprint: Blueprint) -> Blueprint {
        let blueprint = match HAS_WEIGHTS_ALONE {
            true => has_weights_alone(blueprint),
            false => blueprint,
        };
        match IS_LAST {
            true => Blueprint {
                penalized: false,
                entropy: false,
                ..blueprint
            },
            // The ratio is for the next pass.
            false => Blueprint {
                ratio_level: RatioLevel::Token,
                ..blueprint
            },
        }
    }

    #[inline(always)]
    fn visit<L: Lanes>(
        numbers: &Numbers,
        blueprint: Blueprint,
        row: &Row<L>,
        inputs: &TokenInputs<L>,
        term: TokenTerm<L>,
        sums: &mut LaneSums<L>,
    ) -> TokenGradient<L> {
        let term = corrected_term(numbers, row, inputs, term, sums, blueprint);
        written::<L, IS_LAST>(row, inputs, term, sums, blueprint)
    }
}

/// A correction that asks nothing of a token but its weight. What it asks of a sequence is known before.
#[inline(always)]
fn has_weights_alone(blueprint: Blueprint) -> Blueprint {
    Blueprint {
        corrected: true,
        weighted: true,
        normalizes: false,
        filter_bits: blueprint.filter_bits & !FILTERS_WITHIN_SEQUENCES,
        only_moving_away: false,
        off_policy: false,
        masks_entropy: false,
        weighs_future: false,
        missing: MissingRolloutLogProbs::Propagate,
        ..blueprint
    }
}

/// No penalty.
const NONE: usize = 0;
/// The penalty that nearly everyone has: k3, with its own gradient, within no bounds.
const K3: usize = 1;
/// Any other.
const OTHER: usize = 2;

fn penalty_of(blueprint: &Blueprint) -> usize {
    let estimator = (blueprint.kl_estimator, blueprint.kl_gradient);
    match estimator == (KlEstimator::K3, KlGradient::Estimator) && !blueprint.bounds_kl {
        _ if !blueprint.penalized => NONE,
        true => K3,
        false => OTHER,
    }
}

/// The penalty, the bonus and the loss. Writes gradients.
struct Penalties<const PENALTY: usize, const HAS_BONUS: bool>;

impl<const PENALTY: usize, const HAS_BONUS: bool> Pass for Penalties<PENALTY, HAS_BONUS> {
    const IS_LAST: bool = true;

    #[inline(always)]
    fn choices(blueprint: Blueprint) -> Blueprint {
        let blueprint = Blueprint {
            // Earlier passes have dealt with these.
            surrogate: SurrogateKind::Clip,
            weighted: false,
            filter_bits: 0,
            vetoes: false,
            off_policy: false,
            penalized: PENALTY != NONE,
            entropy: HAS_BONUS,
            ..blueprint
        };
        match PENALTY {
            K3 => Blueprint {
                kl_estimator: KlEstimator::K3,
                kl_gradient: KlGradient::Estimator,
                bounds_kl: false,
                ..blueprint
            },
            _ => blueprint,
        }
    }

    #[inline(always)]
    fn visit<L: Lanes>(
        numbers: &Numbers,
        blueprint: Blueprint,
        row: &Row<L>,
        inputs: &TokenInputs<L>,
        term: TokenTerm<L>,
        sums: &mut LaneSums<L>,
    ) -> TokenGradient<L> {
        let alone = objective(term, blueprint);
        let regularized = regularized(numbers, row, inputs, alone, sums, blueprint);
        token_gradient(row, inputs, regularized, sums, blueprint)
    }
}

/// What a pass writes: the gradients of an objective that is nothing but a term, or the term itself,
/// in their places, for the next pass.
#[inline(always)]
fn written<L: Lanes, const IS_LAST: bool>(
    row: &Row<L>,
    inputs: &TokenInputs<L>,
    term: TokenTerm<L>,
    sums: &mut LaneSums<L>,
    blueprint: Blueprint,
) -> TokenGradient<L> {
    if const { IS_LAST } {
        return token_gradient(row, inputs, objective(term, blueprint), sums, blueprint);
    }
    sums.non_finite += count_non_finite(term.probe);
    TokenGradient {
        log_probs: term.slope,
        log_ratio_slope: constant(term.value, 0.0),
        entropy: term.value,
    }
}

/// Runs a pass. Returns whether what stands for numbers that are not finite is finite itself.
fn pass<T: Real, P: Pass>(
    arch: Arch,
    plan: &Plan,
    block: &mut Block<'_, T>,
    outputs: Outputs<'_, T>,
    sums: &mut Sums,
) -> bool {
    let tokens = Visit {
        plan,
        block,
        outputs,
        sums,
        pass: PhantomData::<P>,
    };
    P::dispatch(arch, tokens)
}

struct Visit<'a, 'b, T, P> {
    plan: &'a Plan,
    block: &'a mut Block<'b, T>,
    outputs: Outputs<'a, T>,
    sums: &'a mut Sums,
    pass: PhantomData<P>,
}

impl<T: Real, P: Pass> WithSimd for Visit<'_, '_, T, P> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        let lanes = T::lanes(simd);
        let Self {
            plan,
            block,
            outputs: [mut first_output, mut second_output, mut third_output],
            sums: total,
            ..
        } = self;
        // A copy, which nothing that is written can change: it is converted once.
        let numbers = plan.numbers;
        let blueprint = Blueprint {
            // They are counted before.
            masked: false,
            ..P::choices(plan.blueprint)
        };
        // Else it is written when the row has been visited.
        let writes_first = !(P::IS_LAST && blueprint.gradient_is_of_row());
        let writes_second = !P::IS_LAST || blueprint.entropy;
        let writes_third = P::IS_LAST && blueprint.segment_ratio();
        let mut sums = LaneSums::new(lanes);
        let mut pending = 0;
        // What is not wanted is written here: cheaper than to ask for each vector.
        let mut unwanted = [[MaybeUninit::uninit(); STRETCH]; 3];
        let staged = block.staged;
        for (state, tokens) in block.rows() {
            let row = row(lanes, plan, state);
            let first = T::Lanes::<S>::split_output(take(&mut first_output, tokens.len()));
            let second = T::Lanes::<S>::split_output(take(&mut second_output, tokens.len()));
            let third = T::Lanes::<S>::split_output(take(&mut third_output, tokens.len()));
            let (vectors, rest) = split::<T::Lanes<S>>(staged.map(|it| &it[tokens.clone()]));
            // The rest is a vector of its own, whose lanes beyond it are 0: masked. Both take the
            // same loop, so that the formulas are compiled once.
            let rest_vectors = [rest.map(|column| lanes.load_rest(column))];
            let rest_vectors = rest_vectors[0].as_slices();
            let has_rest = !rest.mask.is_empty();
            let mut first_rest = [MaybeUninit::uninit()];
            let mut second_rest = [MaybeUninit::uninit()];
            let mut third_rest = [MaybeUninit::uninit()];
            let parts = [
                (vectors, vectors.mask.len(), [first.0, second.0, third.0]),
                (
                    rest_vectors,
                    usize::from(has_rest),
                    [
                        &mut first_rest[..],
                        &mut second_rest[..],
                        &mut third_rest[..],
                    ],
                ),
            ];
            let mut log_ratio_slope = Values(lanes, lanes.zero());
            for (vectors, count, [first, second, third]) in parts {
                let mut index = 0;
                while index < count {
                    let stop = count.min(index + (STRETCH - pending));
                    pending += stop - index;
                    // One length for all, which the compiler can see: no bounds are checked inside.
                    let stretch = vectors.map(|column| &column[index..stop]);
                    let length = stretch.mask.len();
                    let stretch = stretch.map(|column| &column[..length]);
                    let [no_first, no_second, no_third] = &mut unwanted;
                    let first = &mut wanted(first, index..stop, no_first)[..length];
                    let second = &mut wanted(second, index..stop, no_second)[..length];
                    let third = &mut wanted(third, index..stop, no_third)[..length];
                    for place in 0..length {
                        let inputs = inputs(lanes, &stretch, place, blueprint);
                        let term = TokenTerm {
                            value: Values(lanes, stretch.term.value[place]),
                            slope: Values(lanes, stretch.term.slope[place]),
                            probe: Values(lanes, lanes.zero()),
                        };
                        let written = P::visit(&numbers, blueprint, &row, &inputs, term, &mut sums);
                        if writes_first {
                            first[place].write(written.log_probs.1);
                        }
                        if writes_second {
                            second[place].write(written.entropy.1);
                        }
                        if writes_third {
                            third[place].write(written.log_ratio_slope.1);
                        }
                        if blueprint.shares_gradient() {
                            log_ratio_slope += written.log_ratio_slope;
                        }
                    }
                    index = stop;
                    if pending == STRETCH {
                        pending = 0;
                        sums.flush(lanes, total);
                    }
                    if blueprint.shares_gradient() {
                        state.loss_slope += lanes.sum(log_ratio_slope.1);
                        log_ratio_slope = Values(lanes, lanes.zero());
                    }
                }
            }
            if has_rest {
                store_rest(lanes, first_rest[0], first.1);
                if writes_second {
                    store_rest(lanes, second_rest[0], second.1);
                }
                if writes_third {
                    store_rest(lanes, third_rest[0], third.1);
                }
            }
        }
        let stands_for_non_finite = lanes.sum(sums.non_finite.1);
        sums.non_finite = Values(lanes, lanes.zero());
        sums.finish(total);
        stands_for_non_finite.is_finite()
    }
}

/// A part of an output, or of what takes its place where there is none.
#[inline(always)]
fn wanted<'a, V>(output: &'a mut [V], range: Range<usize>, unwanted: &'a mut [V]) -> &'a mut [V] {
    match output.is_empty() {
        false => &mut output[range],
        true => &mut unwanted[..range.len()],
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

/// Adds a block to the sums of its rows, for the ratio and for the rollout weight apart: each needs few
/// sums, and a loop that asks for each of all sums is slow.
fn gather<T: Real>(arch: Arch, plan: &Plan, block: &mut Block<'_, T>) {
    let blueprint = &plan.blueprint;
    if blueprint.gathers_ratios() {
        match blueprint.gathers_only_log_ratios() {
            true => arch.dispatch(Gather::<T, ONLY_LOG_RATIOS> { plan, block }),
            false => arch.dispatch(Gather::<T, RATIOS> { plan, block }),
        }
    }
    if blueprint.weight_is_of_row() {
        match blueprint.gathers_only_gaps() {
            true => arch.dispatch(Gather::<T, ONLY_GAPS> { plan, block }),
            false => arch.dispatch(Gather::<T, ESTIMATES> { plan, block }),
        }
    }
}

/// What is gathered for the ratio, where it is the sum of the log-ratios against the old policy.
const ONLY_LOG_RATIOS: usize = 0;
/// What is gathered for the ratio, where the surrogate asks for more, or it is against the sampler.
const RATIOS: usize = 1;
/// What is gathered for the rollout weight, where it is the sum of the gaps.
const ONLY_GAPS: usize = 2;
/// What is gathered for the rollout weight, where filters ask for more.
const ESTIMATES: usize = 3;

struct Gather<'a, 'b, T, const WHAT: usize> {
    plan: &'a Plan,
    block: &'a mut Block<'b, T>,
}

impl<T: Real, const WHAT: usize> WithSimd for Gather<'_, '_, T, WHAT> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = T::lanes(simd);
        let Plan {
            blueprint, numbers, ..
        } = *self.plan;
        let of_weight = Blueprint {
            ratio_level: RatioLevel::Token,
            surrogate: SurrogateKind::Clip,
            off_policy: false,
            ..blueprint
        };
        let blueprint = match WHAT {
            ONLY_LOG_RATIOS => without_extras(Blueprint {
                ratio_level: RatioLevel::Sequence,
                surrogate: SurrogateKind::Clip,
                against: Behavior::Old,
                ..blueprint
            }),
            RATIOS => Blueprint {
                off_policy: blueprint.off_policy,
                ..without_extras(blueprint)
            },
            ONLY_GAPS => Blueprint {
                weighted: true,
                weight_level: WeightLevel::Sequence,
                filter_bits: 0,
                vetoes: false,
                ..of_weight
            },
            _ => of_weight,
        };
        let blueprint = Blueprint {
            // They are counted before.
            masked: false,
            ..blueprint
        };
        let staged = self.block.staged;
        for (state, tokens) in self.block.rows() {
            let (vectors, rest) = split::<T::Lanes<S>>(staged.map(|it| &it[tokens.clone()]));
            let mut sums = LaneRowSums::new(lanes);
            let mut index = 0;
            while index < vectors.mask.len() {
                let stop = vectors.mask.len().min(index + STRETCH);
                let stretch = vectors.map(|column| &column[index..stop]);
                let length = stretch.mask.len();
                let stretch = stretch.map(|column| &column[..length]);
                for place in 0..length {
                    let inputs = inputs(lanes, &stretch, place, blueprint);
                    gather_tokens(&numbers, &inputs, &mut sums, blueprint);
                }
                sums.flush(lanes, &mut state.sums);
                index = stop;
            }
            if !rest.mask.is_empty() {
                let rest = rest.map(|column| lanes.load_rest(column));
                let inputs = inputs(lanes, &rest.as_slices(), 0, blueprint);
                gather_tokens(&numbers, &inputs, &mut sums, blueprint);
            }
            sums.finish(&mut state.sums);
        }
    }
}

struct AddKeptWeights<'a, 'b, T> {
    plan: &'a Plan,
    block: &'a mut Block<'b, T>,
}

impl<T: Real> WithSimd for AddKeptWeights<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = T::lanes(simd);
        let Plan {
            blueprint, numbers, ..
        } = *self.plan;
        let staged = self.block.staged;
        for (state, tokens) in self.block.rows() {
            let row = row(lanes, self.plan, state);
            let (vectors, rest) = split::<T::Lanes<S>>(staged.map(|it| &it[tokens.clone()]));
            let rest_vectors = [rest.map(|column| lanes.load_rest(column))];
            let has_rest = usize::from(!rest.mask.is_empty());
            let parts = [
                (vectors, vectors.mask.len()),
                (rest_vectors[0].as_slices(), has_rest),
            ];
            for (vectors, count) in parts {
                for place in 0..count {
                    let inputs = inputs(lanes, &vectors, place, blueprint);
                    let kept = kept_weight(&numbers, &row, &inputs, blueprint);
                    state.kept_weight += lanes.sum(kept.1);
                }
            }
        }
    }
}

/// What the tokens of a row share, computed on one lane and out of line: within each loop it would be
/// most of what there is to compile.
#[inline(never)]
fn shared<T: Real>(plan: &Plan, state: &mut RowState) -> Row<T::Lanes<Scalar>> {
    let lanes = T::lanes(Scalar);
    let blueprint = plan.blueprint;
    let totals = RowTotals::new(lanes, &state.sums);
    let like = Values(lanes, lanes.zero());
    let mut row = share(&plan.numbers, &totals, like, blueprint);
    if blueprint.adds_weights() {
        let mean_weight = state.kept_weight / state.sums.tokens.max(1.0);
        row.mean_slope = row.mean_surrogate * splat(lanes, mean_weight);
    }
    if blueprint.has_sequence_weights() {
        row.factor = splat(lanes, state.weight);
    }
    row.gradient_factor = row.factor * splat(lanes, plan.scale);
    state.ratio = number_of(row.ratio);
    state.log_ratio_slope = number_of(row.log_ratio_slope);
    row
}

/// What the tokens of a row share, in every lane.
#[inline(always)]
fn row<L: Lanes>(lanes: L, plan: &Plan, state: &mut RowState) -> Row<L> {
    let mut row = unshared(Values(lanes, lanes.zero()));
    row.gradient_factor = splat(lanes, plan.scale);
    if plan.blueprint.by_rows() {
        let of_one = shared::<L::Real>(plan, state);
        row = Row {
            ratio: splat(lanes, number_of(of_one.ratio)),
            log_ratio_slope: splat(lanes, number_of(of_one.log_ratio_slope)),
            saturated: everywhere(lanes, holds(of_one.saturated)),
            drops_negative: everywhere(lanes, holds(of_one.drops_negative)),
            gamma_of_positive: splat(lanes, number_of(of_one.gamma_of_positive)),
            gamma_of_negative: splat(lanes, number_of(of_one.gamma_of_negative)),
            mean_surrogate: splat(lanes, number_of(of_one.mean_surrogate)),
            mean_slope: splat(lanes, number_of(of_one.mean_slope)),
            weight: splat(lanes, number_of(of_one.weight)),
            rejected: everywhere(lanes, holds(of_one.rejected)),
            factor: splat(lanes, number_of(of_one.factor)),
            gradient_factor: splat(lanes, number_of(of_one.gradient_factor)),
            ..row
        };
    }
    row.weight_mean = splat(lanes, plan.weight_mean);
    row.entropy_threshold = splat(lanes, plan.entropy_threshold);
    row
}

/// The same condition in every lane.
#[inline(always)]
fn everywhere<L: Lanes>(lanes: L, holds: bool) -> Flags<L> {
    let size = splat(lanes, f64::from(u8::from(holds)));
    greater(size, Values(lanes, lanes.zero()))
}

/// The number in the only lane.
#[inline(always)]
fn number_of<L: Lanes>(one: Values<L>) -> f64 {
    one.0.sum(one.1)
}

/// The condition in the only lane.
#[inline(always)]
fn holds<L: Lanes>(one: Flags<L>) -> bool {
    number_of(count(one)) > 0.0
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
                future_weights,
                segment_log_ratios,
                segment_rejections,
            },
        mask,
        ..
    } = *vectors;
    let read = TokenInputs {
        log_probs: Values(lanes, log_probs[place]),
        old_log_probs: Values(lanes, old_log_probs[place]),
        rollout_log_probs: Values(lanes, rollout_log_probs[place]),
        ref_log_probs: Values(lanes, ref_log_probs[place]),
        entropy: Values(lanes, entropies[place]),
        advantage: Values(lanes, advantages[place]),
        future_weight: Values(lanes, future_weights[place]),
        segment_log_ratio: Values(lanes, segment_log_ratios[place]),
        segment_rejection: Values(lanes, segment_rejections[place]),
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
