//! The surrogates that have a loop of their own on the CPU.

use pulp::Arch;

use super::lanes::{Lanes, Real};
use super::vector_unit::has_vectors;
#[cfg(not(test))]
use super::visit::Surrogates;
use super::visit::{AnySurrogates, Kernels, kernels};
use crate::blueprint::Blueprint;
use crate::formula::row::cpu::Row;
use crate::formula::surrogate::cpu::*;
use crate::numbers::Numbers;
use crate::objective::{Behavior, Divergence, RatioLevel, SurrogateKind};
use crate::sums::cpu::Sums;

/// What the loops of an objective are compiled for: their choices are constants.
#[derive(Clone, Copy, PartialEq)]
pub struct Specialization {
    surrogate: SurrogateKind,
    dual_clip: bool,
    weighs_negative: bool,
    weighs_others: bool,
    drops_outside: bool,
    divergence: Divergence,
    multiplies_ratio: bool,
    ratio_level: RatioLevel,
    against: Behavior,
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
        }
    }

    /// The blueprint, with constants in the place of what is known when the loop is compiled.
    #[inline(always)]
    pub fn apply(self, blueprint: Blueprint) -> Blueprint {
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
        } = self;
        Blueprint {
            surrogate,
            dual_clip,
            weighs_negative,
            weighs_others,
            drops_outside,
            divergence,
            multiplies_ratio,
            ratio_level,
            against,
            ..blueprint
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

/// The surrogates that have a loop of their own. All others share one that looks everything up.
const SPECIALIZED: [Specialization; 18] = [
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
];

/// The blueprint, with constants in the place of what is known when the loop is compiled.
#[inline(always)]
pub fn specialized<const INDEX: usize>(blueprint: Blueprint) -> Blueprint {
    SPECIALIZED[INDEX].apply(blueprint)
}

/// The surrogate of these objectives. The condition is known before code is generated, so that no
/// other surrogate is compiled, which the compiler would only find out in the end.
#[inline(always)]
pub fn specialized_surrogate<L: Lanes, const INDEX: usize>(
    numbers: &Numbers,
    row: &Row<L>,
    inputs: &SurrogateInputs<L>,
    sums: &mut Sums<L>,
    blueprint: Blueprint,
) -> SurrogateOutput<L> {
    if const { is::<INDEX>(SurrogateKind::Clip) } {
        clip(numbers, inputs, sums, blueprint)
    } else if const { is::<INDEX>(SurrogateKind::PolicyGradient) } {
        policy_gradient(numbers, inputs, sums, blueprint)
    } else if const { is::<INDEX>(SurrogateKind::SigmoidGate) } {
        sigmoid_gate(numbers, inputs)
    } else if const { is::<INDEX>(SurrogateKind::TrustRegion) } {
        trust_region(numbers, inputs, sums, blueprint)
    } else if const { is::<INDEX>(SurrogateKind::GeometricMean) } {
        geometric_mean(numbers, row, inputs, sums)
    } else if const { is::<INDEX>(SurrogateKind::GammaWeight) } {
        gamma_weight(row, inputs)
    } else if const { is::<INDEX>(SurrogateKind::SquaredLogRatio) } {
        squared_log_ratio(numbers, inputs)
    } else if const { is::<INDEX>(SurrogateKind::DynamicClip) } {
        dynamic_clip(numbers, inputs, sums, blueprint)
    } else if const { is::<INDEX>(SurrogateKind::GradientPreservingClip) } {
        gradient_preserving_clip(numbers, inputs, sums)
    } else {
        // A kind without a line here.
        surrogate(numbers, row, inputs, sums, blueprint)
    }
}

const fn is<const INDEX: usize>(surrogate: SurrogateKind) -> bool {
    SPECIALIZED[INDEX].surrogate as u8 == surrogate as u8
}

/// A type that a batch is computed in, f32 or f64.
pub trait Arithmetic: Real {
    /// The loops of an objective: not generic, so that they are compiled in this crate and not once
    /// more in every crate that calls them.
    #[doc(hidden)]
    fn kernels(arch: Arch, blueprint: &Blueprint) -> Kernels<Self>;
}

macro_rules! implement_arithmetic {
    ($($index:literal)*) => {
        impl Arithmetic for f32 {
            fn kernels(arch: Arch, blueprint: &Blueprint) -> Kernels<f32> {
                match place(arch, blueprint) {
                    $(Some($index) => {
                        kernels::<f32, Surrogates<$index, true>, Surrogates<$index, false>>()
                    })*
                    _ => kernels::<f32, AnySurrogates<true>, AnySurrogates<false>>(),
                }
            }
        }

        // Few batches are computed in f64: what has extras looks everything up.
        impl Arithmetic for f64 {
            fn kernels(arch: Arch, blueprint: &Blueprint) -> Kernels<f64> {
                match place(arch, blueprint) {
                    $(Some($index) => {
                        kernels::<f64, Surrogates<$index, true>, AnySurrogates<false>>()
                    })*
                    _ => kernels::<f64, AnySurrogates<true>, AnySurrogates<false>>(),
                }
            }
        }
    };
}

/// The place of the loop for an objective, which is for vectors.
fn place(arch: Arch, blueprint: &Blueprint) -> Option<usize> {
    let wanted = Specialization::of(blueprint);
    let place = SPECIALIZED.iter().position(|it| *it == wanted);
    place.filter(|_| has_vectors(arch))
}

#[cfg(not(test))]
implement_arithmetic!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17);
// They take minutes to compile, and the tests within this library call none of them.
#[cfg(test)]
implement_arithmetic!();
