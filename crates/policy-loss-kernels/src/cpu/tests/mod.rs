//! The kernels against a naive f64 loop, on every vector unit of the machine.

mod accuracy;
mod alike;
mod convert;
mod edge_cases;
mod exponential;
mod invariants;
mod log_probs;
mod objectives;
mod oracle;
mod shapes;
mod vector_unit;

use std::mem::MaybeUninit;

use half::{bf16, f16};
use pulp::Arch;

use crate::{Objective, Summary};

use super::batch::{Advantages, Batch, Floats, Mask};
use super::drive;
use super::element::Element;
use super::kernel::OutputKind;
use super::vector_unit::units;
use objectives::{TOKEN, objectives, sequence_mask};

/// Every vector unit that the machine has, and the portable loop.
fn levels() -> Vec<Arch> {
    units().into_iter().filter_map(|(_, unit)| unit).collect()
}

/// A reproducible stream of numbers.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In `[0, 1)`.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.uniform() * bound as f64) as usize
    }
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    F64,
    F32,
    F16,
    Bf16,
}

const KINDS: [Kind; 4] = [Kind::F64, Kind::F32, Kind::F16, Kind::Bf16];

/// A column that owns its memory.
#[derive(Clone, Debug)]
enum Column {
    F64(Vec<f64>),
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Column {
    fn new(kind: Kind, values: &[f64]) -> Self {
        match kind {
            Kind::F64 => Self::F64(values.to_vec()),
            Kind::F32 => Self::F32(values.iter().map(|&value| value as f32).collect()),
            Kind::F16 => Self::F16(values.iter().map(|&value| f16::from_f64(value)).collect()),
            Kind::Bf16 => Self::Bf16(values.iter().map(|&value| bf16::from_f64(value)).collect()),
        }
    }

    fn floats(&self) -> Floats<'_> {
        match self {
            Self::F64(values) => values.as_slice().into(),
            Self::F32(values) => values.as_slice().into(),
            Self::F16(values) => values.as_slice().into(),
            Self::Bf16(values) => values.as_slice().into(),
        }
    }

    /// The values as rounded to the column's type.
    fn to_f64(&self) -> Vec<f64> {
        match self {
            Self::F64(values) => values.clone(),
            Self::F32(values) => values.iter().map(|&value| value.into()).collect(),
            Self::F16(values) => values.iter().map(|&value| value.into()).collect(),
            Self::Bf16(values) => values.iter().map(|&value| value.into()).collect(),
        }
    }
}

/// A batch that owns its memory.
#[derive(Clone, Debug)]
struct Data {
    sequences: usize,
    tokens: usize,
    log_probs: Column,
    old_log_probs: Column,
    rollout_log_probs: Column,
    advantages: Column,
    per_sequence: bool,
    mask: Option<Vec<bool>>,
}

impl Data {
    /// Realistic values, with enough spread to reach every branch.
    fn random(
        random: &mut Random,
        (sequences, tokens): (usize, usize),
        kinds: [Kind; 4],
        per_sequence: bool,
        masked: bool,
    ) -> Self {
        let total = sequences * tokens;
        let old: Vec<f64> = (0..total).map(|_| random.between(-4.0, 0.0)).collect();
        // A drift for each row, so that ratios of sequences leave the clip range too.
        let drift: Vec<f64> = (0..sequences).map(|_| random.between(-0.4, 0.4)).collect();
        let near = |random: &mut Random, spread: f64, drift_factor: f64| -> Vec<f64> {
            (0..total)
                .map(|index| {
                    let drift = drift_factor * drift[index / tokens];
                    old[index] + drift + random.between(-spread, spread)
                })
                .collect()
        };
        let mut log_probs = near(random, 0.5, 1.0);
        let rollout = near(random, 0.6, -1.0);
        for value in &mut log_probs {
            if random.below(40) == 0 {
                *value += random.between(-30.0, 30.0);
            }
        }
        let count = if per_sequence { sequences } else { total };
        let advantages: Vec<f64> = (0..count)
            .map(|_| match random.below(12) {
                0 => 0.0,
                _ => random.between(-2.0, 2.0),
            })
            .collect();
        let mask = masked.then(|| {
            let share: Vec<usize> = (0..sequences).map(|_| random.below(5)).collect();
            (0..total)
                .map(|index| random.below(4) < share[index / tokens])
                .collect()
        });
        Self {
            sequences,
            tokens,
            log_probs: Column::new(kinds[0], &log_probs),
            old_log_probs: Column::new(kinds[1], &old),
            rollout_log_probs: Column::new(kinds[2], &rollout),
            advantages: Column::new(kinds[3], &advantages),
            per_sequence,
            mask,
        }
    }

    /// One row of f64, without a mask.
    fn row(log_probs: &[f64], old_log_probs: &[f64], rollout: &[f64], advantages: &[f64]) -> Self {
        Self {
            sequences: 1,
            tokens: log_probs.len(),
            log_probs: Column::new(Kind::F64, log_probs),
            old_log_probs: Column::new(Kind::F64, old_log_probs),
            rollout_log_probs: Column::new(Kind::F64, rollout),
            advantages: Column::new(Kind::F64, advantages),
            per_sequence: false,
            mask: None,
        }
    }

    fn batch<'a, E: Element>(&'a self, log_probs: &'a [E]) -> Batch<'a, E> {
        let advantages = self.advantages.floats();
        Batch {
            sequences: self.sequences,
            tokens: self.tokens,
            log_probs,
            old_log_probs: self.old_log_probs.floats(),
            rollout_log_probs: Some(self.rollout_log_probs.floats()),
            weights: None,
            ref_log_probs: None,
            advantages: if self.per_sequence {
                Advantages::PerSequence(advantages)
            } else {
                Advantages::PerToken(advantages)
            },
            mask: self.mask.as_deref().map(Mask::from),
        }
    }

    /// The summary, and the gradient or token losses.
    fn run(&self, arch: Arch, objective: &Objective, kind: OutputKind) -> (Summary, Vec<f64>) {
        match &self.log_probs {
            Column::F64(values) => self.run_as(arch, objective, kind, values),
            Column::F32(values) => self.run_as(arch, objective, kind, values),
            Column::F16(values) => self.run_as(arch, objective, kind, values),
            Column::Bf16(values) => self.run_as(arch, objective, kind, values),
        }
    }

    fn run_as<E: Element>(
        &self,
        arch: Arch,
        objective: &Objective,
        kind: OutputKind,
        log_probs: &[E],
    ) -> (Summary, Vec<f64>) {
        let length = match kind {
            OutputKind::Nothing => 0,
            _ => log_probs.len(),
        };
        // Filled with a value that no result has, so that what is not written shows.
        let mut output: Vec<_> = std::iter::repeat_with(|| MaybeUninit::new(E::from_f64(-777.0)))
            .take(length)
            .collect();
        let batch = self.batch(log_probs);
        let summary = drive::run(arch, objective, &batch, kind, &mut output)
            .unwrap_or_else(|error| panic!("{error}"));
        #[allow(unsafe_code)]
        let output = output
            .into_iter()
            // SAFETY: every element was initialised above.
            .map(|value| unsafe { value.assume_init() }.to_f64())
            .collect();
        (summary, output)
    }
}
