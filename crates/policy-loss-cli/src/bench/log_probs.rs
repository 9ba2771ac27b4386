//! `policy-loss bench --what log-probs`: from hidden states to log-probs and their gradients, with
//! and without the logits, beside the bare matrix products, interleaved in one run.

mod setup;

use std::time::Instant;

use burn::tensor::Device;
use serde::Serialize;

use super::{Quartiles, sync};
use crate::args::BenchArguments;
use crate::backends::Backend;
use crate::failure::Failure;
use crate::memory::peak_extra_bytes;
use crate::output;
use crate::report::{flush_left, plain};
use setup::{Contestant, Setup};

#[derive(Debug, Serialize)]
struct Report {
    device: &'static str,
    tokens: usize,
    hidden: usize,
    vocabulary: usize,
    rounds: usize,
    memory_budget: usize,
    /// In `peak_extra_bytes` of every contestant.
    weight_gradient_bytes: usize,
    contestants: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    median_ms: f64,
    spread_ms: f64,
    peak_extra_bytes: Option<u64>,
}

/// Measures and prints the report.
pub fn run(arguments: &BenchArguments, device: &Device) -> Result<(), Failure> {
    let setup = Setup::new(arguments, device)?;
    let rounds = arguments.rounds.map_or(5, |rounds| rounds.get());
    let on_host = matches!(arguments.device, Backend::Flex | Backend::Ndarray);
    let logits = setup
        .tokens
        .saturating_mul(setup.vocabulary)
        .saturating_mul(4);
    let contestants: Vec<Contestant> = Contestant::ALL
        .into_iter()
        .filter(|contestant| contestant.takes_part(logits))
        .collect();
    let mut times = vec![Vec::new(); contestants.len()];
    // The first round is not timed: it fills pools and compiles kernels.
    for round in 0..=rounds {
        for (contestant, times) in contestants.iter().zip(&mut times) {
            let start = Instant::now();
            let kept = setup.step(*contestant)?;
            sync(device)?;
            let milliseconds = start.elapsed().as_secs_f64() * 1e3;
            drop(kept);
            if round > 0 {
                times.push(milliseconds);
            }
        }
    }
    let mut lines = Vec::new();
    for (contestant, mut times) in contestants.into_iter().zip(times) {
        let quartiles = Quartiles::of(&mut times);
        lines.push(Line {
            name: contestant.name(),
            median_ms: quartiles.median,
            spread_ms: quartiles.spread,
            peak_extra_bytes: peak_extra_bytes(device, on_host, || {
                let kept = setup.step(contestant)?;
                sync(device)?;
                drop(kept);
                Ok(())
            })?,
        });
    }
    let report = Report {
        device: arguments.device.name(),
        tokens: setup.tokens,
        hidden: setup.width,
        vocabulary: setup.vocabulary,
        rounds,
        memory_budget: setup.log_probs.memory_budget,
        weight_gradient_bytes: setup.width * setup.vocabulary * 4,
        contestants: lines,
    };
    match arguments.json {
        true => output::json(&report),
        false => output::result(&report.table()),
    }
}

impl Report {
    fn table(&self) -> String {
        let mut table = plain();
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        table.add_row(["device".into(), self.device.to_owned()]);
        table.add_row([
            "head".into(),
            format!(
                "{} tokens, hidden {}, vocabulary {}, {} rounds",
                self.tokens, self.hidden, self.vocabulary, self.rounds
            ),
        ]);
        table.add_row([
            "weight gradient".into(),
            format!(
                "{:.1} MiB of each peak",
                mebibytes(self.weight_gradient_bytes as u64)
            ),
        ]);
        for line in &self.contestants {
            let memory = line.peak_extra_bytes.map_or(String::new(), |bytes| {
                format!(", {:.1} MiB at the peak", mebibytes(bytes))
            });
            table.add_row([
                line.name.to_owned(),
                format!(
                    "{:.1} ms (spread {:.1}){memory}",
                    line.median_ms, line.spread_ms
                ),
            ]);
        }
        flush_left(table)
    }
}
