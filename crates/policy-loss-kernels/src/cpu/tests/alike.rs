//! Sums of exponentials that are all the same: each is rounded the same way, so that their errors add
//! up. The sums of the loss are compared in `tests/cpu/alike.rs`.

use pulp::Arch;

use crate::cpu::log_probs::Softmax;
use crate::cpu::log_probs::statistics::Moments;
use crate::cpu::visit::STRETCH;

use super::{Random, levels};

/// Several blocks, and a rest that fills no vector.
const TOKENS: usize = 10_007;

/// Logits: enough for some of the addends to be rounded as badly as can be.
fn logits() -> impl Iterator<Item = f32> {
    let mut random = Random(1);
    (0..64).map(move |_| -(random.between(0.01, 0.9) as f32))
}

/// The relative error that a sum of addends that are alike may have: half of what addends of one sign
/// may have in a stretch, and what adding up 16 lanes and a rounded product add to it.
const BOUND: f64 = (STRETCH as f64 / 2.0 + 4.0 + 2.0) / (1_u64 << 24) as f64;

/// The sums of exponentials of a row whose first logit is 0: `exp(z)`, `exp(z) * z`, and
/// `exp(z)^2`.
fn exponentials(arch: Arch, logit: f32, others: usize) -> [f64; 3] {
    let softmax = Softmax {
        entropy: true,
        squares: true,
    };
    let mut logits = vec![logit; others + 1];
    logits[0] = 0.0;
    let mut moments = Moments::new();
    moments.visit(arch, softmax, 1.0, &logits, Some(0));
    let statistics = moments.statistics(softmax);
    let sum = statistics.log_sum.exp();
    let weighted = (statistics.log_sum - statistics.entropy) * sum;
    [sum, weighted, statistics.squares * sum * sum]
}

#[test]
fn sums_of_a_softmax() {
    for arch in levels() {
        for logit in logits() {
            let [sum, weighted, squared] = exponentials(arch, logit, TOKENS);
            let [of_two, _, _] = exponentials(arch, logit, 1);
            let exponential = of_two - 1.0;
            let sums = [
                // The one is that of the first logit.
                ("exponential", sum - 1.0, exponential),
                (
                    "weighted exponential",
                    weighted,
                    exponential * f64::from(logit),
                ),
                (
                    "squared exponential",
                    squared - 1.0,
                    exponential * exponential,
                ),
            ];
            for (name, sum, addend) in sums {
                let expected: f64 = addend * TOKENS as f64;
                let error = ((sum - expected) / expected).abs();
                assert!(error <= BOUND, "{name} of {logit}: {error:e}, {arch:?}");
            }
        }
    }
}
