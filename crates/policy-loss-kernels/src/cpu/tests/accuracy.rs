//! Sums over many tokens.

use crate::cpu::kernel::OutputKind;

use super::{Random, TOKEN, levels};
use crate::cpu::batch::{Advantages, Batch};
use crate::cpu::drive;

#[test]
fn sums_of_many_tokens_stay_exact() {
    // Exact integers end at 2^24 in f32.
    const TOKENS: usize = 20_000_000;
    let mut random = Random::new(1);
    let log_probs: Vec<f32> = (0..TOKENS)
        .map(|_| random.between(-0.5, 0.5) as f32)
        .collect();
    let old = vec![0.0_f32; TOKENS];
    let advantages = vec![0.7_f32; TOKENS];
    let batch = Batch {
        sequences: 2,
        tokens: TOKENS / 2,
        log_probs: &log_probs,
        old_log_probs: old.as_slice().into(),
        rollout_log_probs: None,
        weights: None,
        ref_log_probs: None,
        advantages: Advantages::PerToken(advantages.as_slice().into()),
        mask: None,
    };
    let (mut loss, mut k3, mut log_ratio, mut clipped) = (0.0, 0.0, 0.0, 0.0);
    let high = f64::from(1.28_f32);
    for &d in &log_probs {
        let d = f64::from(d);
        loss -= d.exp().min(high) * f64::from(0.7_f32);
        clipped += f64::from(u8::from(d.exp() > high));
        log_ratio += d;
        k3 += d.exp_m1() - d;
    }

    let relative = |got: f64, want: f64| ((got - want) / want).abs();
    for arch in levels() {
        let summary =
            drive::run(arch, &TOKEN, &batch, OutputKind::Nothing, &mut []).expect("a batch");
        let error = relative(summary.loss, loss / TOKENS as f64);
        println!(
            "{arch:?}: loss: {error:e}, k3: {:e}",
            relative(summary.k3, k3)
        );
        assert!(error < 1e-7, "{error:e}, {arch:?}");
        assert!(relative(summary.k3, k3) < 1e-6, "{arch:?}");
        assert!((summary.negative_log_ratio + log_ratio).abs() < 1e-7 * TOKENS as f64);
        assert_eq!(summary.valid_tokens, TOKENS as f64);
        // Rounding decides for a handful of ratios next to the bound.
        assert!((summary.clipped_above - clipped).abs() < 20.0, "{arch:?}");
    }
}
