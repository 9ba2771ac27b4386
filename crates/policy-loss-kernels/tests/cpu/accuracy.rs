//! Sums over many tokens.

use policy_loss_kernels::Columns;
use policy_loss_kernels::cpu::{Batch, evaluate_on};
use policy_loss_oracle::Random;

use crate::levels;
use crate::objectives::token;

#[test]
fn sums_of_many_tokens_stay_exact() {
    // Exact integers end at 2^24 in f32.
    const TOKENS: usize = 20_000_000;
    let mut random = Random(1);
    let log_probs: Vec<f32> = (0..TOKENS)
        .map(|_| random.between(-0.5, 0.5) as f32)
        .collect();
    let old = vec![0.0_f32; TOKENS];
    let advantages = vec![0.7_f32; TOKENS];
    let batch = Batch {
        sequences: 2,
        tokens: TOKENS / 2,
        columns: Columns {
            log_probs: Some(log_probs.as_slice().into()),
            old_log_probs: Some(old.as_slice().into()),
            advantages: Some(advantages.as_slice().into()),
            ..Columns::default()
        },
        mask: None,
        weight_mean: 1.0,
        entropy_threshold: 0.0,
        sequence_weights: None,
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
        let found = evaluate_on::<f32>(arch, &token(), &batch, None, false).expect("a batch");
        let sums = found.sums;
        let error = relative(found.loss, loss / TOKENS as f64);
        let k3_error = relative(sums.k3, k3);
        println!("{arch:?}: loss: {error:e}, k3: {k3_error:e}");
        assert!(error < 1e-7, "{error:e}, {arch:?}");
        assert!(k3_error < 1e-6, "{k3_error:e}, {arch:?}");
        assert!((sums.log_ratio - log_ratio).abs() < 1e-7 * TOKENS as f64);
        assert_eq!(sums.valid_tokens, TOKENS as f64);
        // Rounding decides for a handful of ratios next to the bound.
        assert!((sums.clipped_above - clipped).abs() < 20.0, "{arch:?}");
    }
}
