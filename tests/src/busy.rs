//! A small batch in which everything happens at once.

use policy_loss_oracle::Random;

use crate::case::{Case, HostAdvantages};

/// The row of [`busy`] that is masked from end to end.
pub const MASKED_ROW: usize = 2;

/// Ratios on both sides of every bound, advantages of both signs and 0, sampler mismatches on
/// both sides of every threshold; holes in the mask, leading and trailing padding, and a row
/// without a valid token. The masked positions hold 0.
pub fn busy(seed: u64) -> Case {
    let [sequences, tokens] = [4, 6];
    let mut random = Random(seed);
    let mut case = Case::new(format!("busy {seed}"), [sequences, tokens]);
    let mask: Vec<bool> = [
        [true, true, true, true, false, false],
        [false, true, false, true, true, true],
        [false; 6],
        [true; 6],
    ]
    .concat();
    let length = sequences * tokens;
    let mut rollout = vec![0.0; length];
    let mut reference = vec![0.0; length];
    let mut entropies = vec![0.0; length];
    let mut advantages = vec![0.0; length];
    for i in (0..length).filter(|i| mask[*i]) {
        // Rows lean to one side, so that the ratios of sequences are clipped, too.
        let lean = [0.3, -0.4, 0.0, 0.02][i / tokens];
        let noise = random.between(-0.03, 0.03);
        let log_ratio = lean + noise + random.pick(&[0.0, 0.5, -0.5, 0.1, -0.1, 0.9, -0.9]);
        let gap = noise - lean / 2.0 + random.pick(&[0.0, 0.2, -0.2, 1.2, -1.2, 0.05]);
        case.old_log_probs[i] = random.between(-3.0, -0.1);
        case.log_probs[i] = case.old_log_probs[i] + log_ratio;
        rollout[i] = case.old_log_probs[i] - gap;
        advantages[i] = random.pick(&[-1.5, -0.5, 0.0, 0.7, 1.0, 2.0]);
    }
    case.advantages = HostAdvantages::Token(advantages);
    case.rollout_log_probs = Some(rollout);
    // Their own numbers, so that those above stay what they are.
    let mut random = Random(seed + 1000);
    for i in (0..length).filter(|i| mask[*i]) {
        reference[i] =
            case.log_probs[i] - random.pick(&[0.0, 0.5, -0.5]) - random.between(-0.3, 0.3);
        entropies[i] = random.between(0.0, 2.0);
    }
    case.ref_log_probs = Some(reference);
    case.entropies = Some(entropies);
    // One prompt has two answers, one none with a token.
    case.prompt_ids = Some(vec![7, -2, 3, 7]);
    // Turns of one token and of several, one with a hole in it, and one that ends beside the next.
    let turns = [
        [4, 4, 9, 9, 0, 0],
        [0, 1, 0, 1, 5, 5],
        [0; 6],
        [2, 3, 3, 2, 2, 2],
    ];
    case.segment_ids = Some(turns.concat());
    case.action_mask = Some(mask);
    case
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configs;

    #[test]
    fn everything_happens() {
        let answers: Vec<_> = (0..4)
            .flat_map(|seed| {
                configs::all()
                    .into_iter()
                    .map(move |config| busy(seed).with_config(config).answer())
            })
            .collect();
        for metric in [
            "clipped_above",
            "clipped_below",
            "dual_clipped",
            "weight_truncated",
            "weight_zeroed",
        ] {
            let happens = |a: &&policy_loss_oracle::Answer| {
                let value = a.metrics.get(metric).unwrap_or(0.0);
                value > 0.0 && value < 1.0
            };
            assert!(answers.iter().filter(happens).count() >= 8, "{metric}");
        }
    }
}
