//! `policy-loss bench`: the library beside what it could cost at the least, interleaved in one run
//! on the user's own device.

mod errors;
mod log_probs;
mod loss;

pub use log_probs::Contestant;

use std::time::Instant;

use burn::tensor::Device;
use peak_alloc::PeakAlloc;

use crate::args::{BenchArguments, Subject};
use crate::backends::Backend;
use crate::output::Failure;

/// Counts what the program allocates on the host, which is where the CPU backends keep tensors.
#[global_allocator]
static HOST: PeakAlloc = PeakAlloc;

/// Measures and prints the report.
pub fn run(arguments: &BenchArguments) -> Result<(), Failure> {
    refuse_unread(arguments)?;
    let machine = Machine {
        device: arguments.device.device()?,
        on_host: match arguments.device {
            Backend::Flex | Backend::Ndarray => true,
            Backend::Wgpu | Backend::Cuda => false,
        },
    };
    match arguments.what {
        Subject::Loss => loss::run(arguments, &machine),
        Subject::LogProbs => log_probs::run(arguments, &machine),
    }
}

/// A number for the wrong subject would be measured by nobody.
fn refuse_unread(arguments: &BenchArguments) -> Result<(), Failure> {
    let (what, other) = match arguments.what {
        Subject::Loss => ("loss", "log-probs"),
        Subject::LogProbs => ("log-probs", "loss"),
    };
    let of_the_loss = [
        ("--batch", arguments.batch.is_some()),
        ("--objective", arguments.objective.is_some()),
        ("--config", arguments.config.is_some()),
    ];
    let of_log_probs = [
        ("--hidden", arguments.hidden.is_some()),
        ("--vocab", arguments.vocab.is_some()),
        ("--memory-budget", arguments.memory_budget.is_some()),
        ("--dtype", arguments.dtype.is_some()),
        ("--contestants", arguments.contestants.is_some()),
        ("--errors", arguments.errors),
    ];
    let unread: &[_] = match arguments.what {
        Subject::Loss => &of_log_probs,
        Subject::LogProbs => &of_the_loss,
    };
    match unread.iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => Err(Failure::Usage(format!(
            "{flag} has no effect on --what {what}; leave it out, or write --what {other}"
        ))),
        None => Ok(()),
    }
}

/// The device that is measured on.
struct Machine {
    device: Device,
    /// Whether its tensors are in the memory of the host.
    on_host: bool,
}

impl Machine {
    /// Nanoseconds until the device is done with `work`.
    fn time<T>(&self, work: impl FnOnce() -> Result<T, Failure>) -> Result<f64, Failure> {
        let start = Instant::now();
        let kept = self.finish(work)?;
        let nanoseconds = start.elapsed().as_nanos() as f64;
        drop(kept);
        Ok(nanoseconds)
    }

    /// The bytes that `work` needed at its peak above what was in use before it.
    ///
    /// On a device with memory of its own that is the growth of its pools; `None` where a device
    /// does not report them.
    fn peak_extra_bytes<T>(
        &self,
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<Option<u64>, Failure> {
        if self.on_host {
            HOST.reset_peak_usage();
            let before = HOST.current_usage();
            drop(self.finish(work)?);
            return Ok(Some(HOST.peak_usage().saturating_sub(before) as u64));
        }
        self.device.memory_cleanup();
        let before = self.device.memory_pool_usage();
        drop(self.finish(work)?);
        let after = self.device.memory_pool_usage();
        Ok(before
            .zip(after)
            .map(|(before, after)| after.bytes_reserved.saturating_sub(before.bytes_in_use)))
    }

    /// What `work` returns lives until the device is done: a lazy backend computes nothing for a
    /// tensor that nobody holds.
    fn finish<T>(&self, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let kept = work()?;
        let failed = |error| Failure::computing("the device", error);
        self.device.sync().map_err(failed)?;
        Ok(kept)
    }
}

#[derive(Clone, Copy)]
struct Quartiles {
    median: f64,
    /// Between the first and the third quartile.
    spread: f64,
}

impl Quartiles {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        // Between two times where the share falls between them.
        let at = |share: f64| {
            let place = (times.len() - 1) as f64 * share;
            let [low, high] = [place.floor(), place.ceil()].map(|place| times[place as usize]);
            low + (high - low) * place.fract()
        };
        Self {
            median: at(0.5),
            spread: at(0.75) - at(0.25),
        }
    }
}

/// `, 1.5 MiB at the peak`, where the device says.
fn at_the_peak(bytes: Option<u64>) -> String {
    bytes.map_or(String::new(), |bytes| {
        format!(", {:.1} MiB at the peak", mebibytes(bytes))
    })
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_lies_between_two() {
        let of = |times: &[f64]| Quartiles::of(times.to_vec());
        assert_eq!(of(&[3.0, 1.0]).median, 2.0);
        let five = of(&[5.0, 1.0, 2.0, 4.0, 3.0]);
        assert_eq!((five.median, five.spread), (3.0, 2.0));
    }
}
