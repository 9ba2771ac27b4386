//! wip
#![allow(missing_docs)]
mod model; mod rollout; mod sampler; mod task; mod train;
use policy_loss::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let preset: Preset = a[1].parse().unwrap();
    let seed: u64 = a[2].parse().unwrap();
    let n: usize = a[3].parse().unwrap();
    let lr: f64 = a[4].parse().unwrap();
    let config = preset.config().with_rollout_correction(RolloutCorrection::Truncate { low: 0.5, high: 2.0 });
    let device = policy_loss_flex::device().unwrap();
    let mut t = train::Trainer::new(&device, &config, lr, seed).unwrap();
    let start = std::time::Instant::now();
    for i in 0..n {
        let s = t.iterate().unwrap();
        if i % 10 == 0 || i + 1 == n { println!("{i:4} {:.3} loss {:+.4} clip {:.3} kl {:+.5} rkl {:+.6} ratio {:.2} {:.2}  {:.1}s", s.reward, s.loss, s.clip_ratio, s.ppo_kl, s.rollout_kl, s.ratio_min, s.ratio_max, start.elapsed().as_secs_f64()); }
    }
}
