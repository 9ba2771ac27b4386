//! The surrogates that have a loop of their own on the CPU.

use pulp::Arch;

use super::lanes::{Lanes, Real};
use super::vector_unit::has_vectors;
use super::visit::{Kernels, Surrogates, kernels};
use crate::blueprint::Blueprint;
use crate::formula::row::cpu::Row;
use crate::formula::surrogate::cpu::*;
use crate::numbers::Numbers;
use crate::objective::{Behavior, Divergence, RatioLevel, SurrogateChoices, SurrogateKind};
use crate::sums::cpu::Sums;

/// What the loops of an objective are compiled for: their choices are constants.
#[derive(Clone, Copy, PartialEq)]
pub struct Specialization {
    surrogate: SurrogateKind,
    choices: SurrogateChoices,
    ratio_level: RatioLevel,
    against: Behavior,
}

impl Specialization {
    const fn new(surrogate: SurrogateKind) -> Self {
        Self {
            surrogate,
            choices: SurrogateChoices::NONE,
            ratio_level: RatioLevel::Token,
            against: Behavior::Old,
        }
    }

    const fn with(self, choices: SurrogateChoices) -> Self {
        Self { choices, ..self }
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
            choices: blueprint.choices,
            ratio_level: blueprint.ratio_level,
            against: blueprint.against,
        }
    }

    /// The blueprint, with constants in the place of what is known when the loop is compiled.
    #[inline(always)]
    pub fn apply(self, blueprint: Blueprint) -> Blueprint {
        Blueprint {
            surrogate: self.surrogate,
            choices: self.choices,
            ratio_level: self.ratio_level,
            against: self.against,
            ..blueprint
        }
    }
}

const CLIP: Specialization = Specialization::new(SurrogateKind::Clip);
const DUAL_CLIP: Specialization = CLIP.with(SurrogateChoices {
    dual_clip: true,
    ..SurrogateChoices::NONE
});
const POLICY_GRADIENT: Specialization = Specialization::new(SurrogateKind::PolicyGradient);
const WEIGHS_NEGATIVE: SurrogateChoices = SurrogateChoices {
    weighs_negative: true,
    ..SurrogateChoices::NONE
};
const WEIGHS_ALL: SurrogateChoices = SurrogateChoices {
    weighs_others: true,
    ..WEIGHS_NEGATIVE
};
const TRUST_REGION: Specialization = Specialization::new(SurrogateKind::TrustRegion);

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
    POLICY_GRADIENT.with(WEIGHS_ALL),
    POLICY_GRADIENT.with(WEIGHS_NEGATIVE),
    Specialization::new(SurrogateKind::SigmoidGate),
    Specialization::new(SurrogateKind::GeometricMean),
    Specialization::new(SurrogateKind::GammaWeight),
    TRUST_REGION,
    TRUST_REGION.with(SurrogateChoices {
        divergence: Divergence::Kl,
        ..SurrogateChoices::NONE
    }),
    Specialization::new(SurrogateKind::SquaredLogRatio),
    Specialization::new(SurrogateKind::DynamicClip),
    Specialization::new(SurrogateKind::GradientPreservingClip),
    Specialization {
        against: Behavior::Rollout,
        ..POLICY_GRADIENT.with(SurrogateChoices {
            drops_outside: true,
            ..WEIGHS_ALL
        })
    },
];

/// The place of the loop that looks everything up.
pub const ANY: usize = SPECIALIZED.len();

/// The blueprint, with constants in the place of what is known when the loop is compiled.
#[inline(always)]
pub fn specialized<const INDEX: usize>(blueprint: Blueprint) -> Blueprint {
    if const { INDEX == ANY } {
        blueprint
    } else {
        SPECIALIZED[INDEX].apply(blueprint)
    }
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
        // Any, or a kind without a line here.
        surrogate(numbers, row, inputs, sums, blueprint)
    }
}

const fn is<const INDEX: usize>(surrogate: SurrogateKind) -> bool {
    INDEX < ANY && SPECIALIZED[INDEX].surrogate as u8 == surrogate as u8
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
                    _ => kernels::<f32, Surrogates<ANY, true>, Surrogates<ANY, false>>(),
                }
            }
        }

        // Few batches are computed in f64: what has extras looks everything up.
        impl Arithmetic for f64 {
            fn kernels(arch: Arch, blueprint: &Blueprint) -> Kernels<f64> {
                match place(arch, blueprint) {
                    $(Some($index) => {
                        kernels::<f64, Surrogates<$index, true>, Surrogates<ANY, false>>()
                    })*
                    _ => kernels::<f64, Surrogates<ANY, true>, Surrogates<ANY, false>>(),
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
