//! The table and the progress bar of a training run.

use std::io::Write;

use indicatif::{ProgressBar, ProgressStyle};

use policy_loss::Warning;

use crate::train::Iteration;

/// Writes a line to the table every so many iterations.
const EVERY: u64 = 5;

/// A progress bar below a table that grows.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Writes the head of the table.
    pub fn new(iterations: u64) -> Self {
        say!(
            "{:>9} {:>7} {:>8} {:>10} {:>9} {:>10} {:>9} {:>9}",
            "iteration",
            "reward",
            "loss",
            "clip_ratio",
            "ppo_kl",
            "rollout_kl",
            "ratio_min",
            "ratio_max"
        );
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len}  {msg}  {eta} left");
        let bar = ProgressBar::new(iterations);
        Self {
            bar: bar.with_style(style.unwrap_or(ProgressStyle::default_bar())),
        }
    }

    /// Takes note of one more iteration, and of what there is to warn of.
    pub fn iteration(&self, iteration: &Iteration, warnings: &[Warning]) {
        self.bar
            .set_message(format!("reward {:.3}", iteration.reward));
        self.bar.inc(1);
        let done = self.bar.position();
        let last = self.bar.length() == Some(done);
        if done % EVERY == 1 || last {
            // `suspend` and not `println`, which is silent where there is no terminal.
            self.bar.suspend(|| line(done, iteration));
        }
        for warning in warnings {
            self.bar.suspend(|| {
                let _ = writeln!(std::io::stderr(), "warning: {warning}");
            });
        }
        if last {
            self.bar.finish_and_clear();
        }
    }
}

fn line(number: u64, iteration: &Iteration) {
    let Iteration {
        reward,
        loss,
        metrics,
    } = iteration;
    say!(
        "{number:9} {reward:7.3} {loss:8.4} {:10.4} {:9.5} {:10.6} {:9.3} {:9.3}",
        metrics.clip_ratio,
        metrics.ppo_kl,
        metrics.rollout_kl.unwrap_or(0.0),
        metrics.ratio_min,
        metrics.ratio_max,
    );
}
