//! `policy-loss bench --what log-probs`: from hidden states to log-probs and their gradients, with
//! and without the logits, beside the bare matrix products.

use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, Distribution, Int, Tensor};
use clap::ValueEnum;
use policy_loss::device::{computes, dtypes};
use policy_loss::{LinearHead, LogProbsConfig, PolicyBatch, PolicyLossConfig};
use serde::Serialize;

use super::errors::{Errors, Exact};
use super::{Machine, Quartiles, at_the_peak, mebibytes};
use crate::args::{BenchArguments, FloatType};
use crate::output::{self, Failure, note};
use crate::report::{flush_left, plain};

#[derive(Debug, Serialize)]
struct Report {
    device: &'static str,
    tokens: usize,
    hidden: usize,
    vocabulary: usize,
    dtype: &'static str,
    rounds: usize,
    /// Absent where it is what fits the device.
    memory_budget: Option<usize>,
    /// In `peak_extra_bytes` of every contestant.
    weight_gradient_bytes: usize,
    contestants: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    median_ms: f64,
    spread_ms: f64,
    /// Of the products that this needs at the least: one, or three with gradients.
    teraflops_per_second: f64,
    peak_extra_bytes: Option<u64>,
    /// Where they were asked for, and the gradients are those of the mean of log-probs.
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Errors>,
}

/// Measures and prints the report.
pub fn run(arguments: &BenchArguments, machine: &Machine) -> Result<(), Failure> {
    let setup = Setup::new(arguments, &machine.device)?;
    let rounds = arguments.rounds.map_or(5, |rounds| rounds.get() as usize);
    let logits = setup
        .tokens
        .saturating_mul(setup.vocabulary)
        .saturating_mul(setup.dtype.size());
    let contestants: Vec<Contestant> = match &arguments.contestants {
        Some(chosen) => chosen.clone(),
        None => Contestant::value_variants()
            .iter()
            .copied()
            .filter(|contestant| contestant.takes_part(logits))
            .collect(),
    };
    let mut times = vec![Vec::new(); contestants.len()];
    // The first round is not timed: it fills pools and compiles kernels.
    for round in 0..=rounds {
        for (contestant, times) in contestants.iter().zip(&mut times) {
            let nanoseconds = machine.time(|| setup.step(*contestant))?;
            if round > 0 {
                times.push(nanoseconds / 1e6);
            }
        }
    }
    let has_errors = contestants.iter().any(|contestant| contestant.has_errors());
    if arguments.errors && !has_errors {
        note("--errors has no effect on these contestants: they have no gradients of log-probs");
    }
    let exact = match arguments.errors && has_errors {
        true => Some(setup.exact()?),
        false => None,
    };
    let mut lines = Vec::new();
    for (contestant, times) in contestants.into_iter().zip(times) {
        let quartiles = Quartiles::of(times);
        lines.push(Line {
            name: contestant.name(),
            median_ms: quartiles.median,
            spread_ms: quartiles.spread,
            teraflops_per_second: contestant.products() * setup.product_flops()
                / quartiles.median
                / 1e9,
            peak_extra_bytes: machine.peak_extra_bytes(|| setup.step(contestant))?,
            errors: match &exact {
                Some(exact) => setup.errors(contestant, exact)?,
                None => None,
            },
        });
    }
    let report = Report {
        device: arguments.device.name(),
        tokens: setup.tokens,
        hidden: setup.width,
        vocabulary: setup.vocabulary,
        dtype: setup.dtype.name(),
        rounds,
        memory_budget: setup.log_probs.memory_budget,
        weight_gradient_bytes: setup.width * setup.vocabulary * setup.dtype.size(),
        contestants: lines,
    };
    output::result(arguments.json, &report, Report::table)
}

impl Report {
    fn table(&self) -> String {
        let mut table = plain();
        table.add_row(["device".into(), self.device.to_owned()]);
        table.add_row([
            "head".into(),
            format!(
                "{} tokens, hidden {}, vocabulary {}, {}, {} rounds",
                self.tokens, self.hidden, self.vocabulary, self.dtype, self.rounds
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
            let memory = at_the_peak(line.peak_extra_bytes);
            let errors = line.errors.map_or(String::new(), |errors| {
                format!(
                    ", off f64 by {:.0e} (log-prob), {:.0e} (hidden gradient), {:.0e} (weight \
                     gradient)",
                    errors.log_prob, errors.hidden_gradient, errors.weight_gradient
                )
            });
            table.add_row([
                line.name.clone(),
                format!(
                    "{:.1} ms (spread {:.1}), {:.2} TFLOP/s{memory}{errors}",
                    line.median_ms, line.spread_ms, line.teraflops_per_second
                ),
            ]);
        }
        flush_left(table)
    }
}

/// Contestants that hold all logits take part unasked up to this many bytes of them.
const ALL_LOGITS: usize = 1 << 30;

/// What comes out of a contestant; it lives until the device is done.
type Kept = Vec<Tensor<2>>;

/// One way from hidden states to log-probs or gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Contestant {
    /// The product that logits are
    OneProduct,
    /// Log-probs without gradients, as of a reference policy
    ForwardOnly,
    /// The product, and those of the gradients of hidden states and weight
    ThreeProducts,
    /// The same, with the logits computed twice
    FourProducts,
    /// Burn's log-softmax over all logits, and its gradients
    Naive,
    /// Log-probs of all logits, and their gradients
    TokenLogProbs,
    /// Log-probs of hidden states, and their gradients
    LinearLogProbs,
    /// The policy loss of hidden states, and its gradients
    LinearPolicyLoss,
}

impl Contestant {
    /// As the command line has it.
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or(String::new(), |value| value.get_name().to_owned())
    }

    /// How many products this needs at the least.
    fn products(self) -> f64 {
        match self {
            Self::OneProduct | Self::ForwardOnly => 1.0,
            _ => 3.0,
        }
    }

    /// Whether its gradients are those of the mean of log-probs, whose errors are known.
    fn has_errors(self) -> bool {
        matches!(
            self,
            Self::Naive | Self::TokenLogProbs | Self::LinearLogProbs
        )
    }

    fn takes_part(self, logits_bytes: usize) -> bool {
        let without_logits = [
            Self::ForwardOnly,
            Self::LinearLogProbs,
            Self::LinearPolicyLoss,
        ];
        logits_bytes <= ALL_LOGITS || without_logits.contains(&self)
    }
}

/// Inputs, made once.
struct Setup {
    tokens: usize,
    width: usize,
    vocabulary: usize,
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    dtype: DType,
    log_probs: LogProbsConfig,
}

impl Setup {
    fn new(arguments: &BenchArguments, device: &Device) -> Result<Self, Failure> {
        let tokens = arguments.tokens.map_or(2048, |tokens| tokens.get());
        let width = arguments.hidden.map_or(576, |width| width.get());
        let vocabulary = arguments.vocab.map_or(49152, |size| size.get());
        let fits = |a: usize, b: usize| a.checked_mul(b).is_some_and(|n| n <= i32::MAX as usize);
        if !fits(tokens, width) || !fits(width, vocabulary) || vocabulary > i32::MAX as usize {
            return Err(Failure::BadInput(format!(
                "--tokens {tokens}, --hidden {width} and --vocab {vocabulary} are too large; \
                 accepted: matrices of up to 2^31 - 1 numbers"
            )));
        }
        let dtype = match arguments.dtype {
            Some(FloatType::F64) => DType::F64,
            None | Some(FloatType::F32) => DType::F32,
            Some(FloatType::F16) => DType::F16,
            Some(FloatType::Bf16) => DType::BF16,
        };
        if !computes(device, dtype) {
            let accepted: Vec<_> = dtypes(device).iter().map(|dtype| dtype.name()).collect();
            return Err(Failure::BadInput(format!(
                "--dtype {} is not computed on {}; accepted there: {}",
                dtype.name(),
                arguments.device.name(),
                accepted.join(", ")
            )));
        }
        let random = |shape: [usize; 2], deviation: f64| {
            Tensor::<2>::random(shape, Distribution::Normal(0.0, deviation), device).cast(dtype)
        };
        device.seed(1);
        let mut log_probs = LogProbsConfig::new();
        if let Some(bytes) = arguments.memory_budget {
            log_probs = log_probs.with_memory_budget(bytes.get());
        }
        // Logits of a deviation of about 3, as those of a trained head.
        let scale = 3.0 / (width as f64).sqrt();
        let last = vocabulary as f64;
        Ok(Self {
            tokens,
            width,
            vocabulary,
            hidden: random([tokens, width], 1.0),
            weight: random([width, vocabulary], scale),
            targets: Tensor::<1>::random([tokens], Distribution::Uniform(0.0, last), device)
                .int()
                .clamp(0, vocabulary as i64 - 1),
            dtype,
            log_probs,
        })
    }

    /// Log-probs of the library's own way.
    fn forward(&self) -> Result<Tensor<1>, Failure> {
        let log_probs = self.log_probs.init().map_err(bad)?;
        let head = LinearHead::new(self.weight.clone());
        let output = log_probs
            .forward_linear(self.hidden.clone(), &head, self.targets.clone())
            .map_err(bad)?;
        Ok(output.log_probs)
    }

    fn exact(&self) -> Result<Exact, Failure> {
        Exact::of(&self.hidden, &self.weight, &self.targets, &self.forward()?)
    }

    /// Of a contestant whose gradients are those of the mean of log-probs.
    fn errors(&self, contestant: Contestant, exact: &Exact) -> Result<Option<Errors>, Failure> {
        let log_probs = match contestant {
            Contestant::LinearLogProbs => self.forward()?,
            Contestant::Naive | Contestant::TokenLogProbs => {
                let logits = self.hidden.clone().matmul(self.weight.clone());
                let targets = self.targets.clone().reshape([self.tokens, 1]);
                log_softmax(logits, 1).gather(1, targets).squeeze_dim(1)
            }
            _ => return Ok(None),
        };
        let gradients = self.step(contestant)?;
        exact
            .distance(&log_probs, &gradients[0], &gradients[1])
            .map(Some)
    }

    fn step(&self, contestant: Contestant) -> Result<Kept, Failure> {
        match contestant {
            Contestant::OneProduct => Ok(vec![self.hidden.clone().matmul(self.weight.clone())]),
            Contestant::ForwardOnly => Ok(vec![self.forward()?.unsqueeze()]),
            Contestant::ThreeProducts => Ok(self.products(false)),
            Contestant::FourProducts => Ok(self.products(true)),
            Contestant::Naive => {
                let [hidden, weight] = self.leaves();
                let logits = hidden.clone().matmul(weight.clone());
                let targets = self.targets.clone().reshape([self.tokens, 1]);
                let loss = log_softmax(logits, 1).gather(1, targets).mean();
                Ok(gradients(loss, hidden, weight))
            }
            Contestant::TokenLogProbs => {
                let [hidden, weight] = self.leaves();
                let logits = hidden.clone().matmul(weight.clone());
                let log_probs = self.log_probs.init().map_err(bad)?;
                let output = log_probs
                    .forward(logits, self.targets.clone())
                    .map_err(bad)?;
                Ok(gradients(output.log_probs.mean(), hidden, weight))
            }
            Contestant::LinearLogProbs => {
                let [hidden, weight] = self.leaves();
                let log_probs = self.log_probs.init().map_err(bad)?;
                let head = LinearHead::new(weight.clone());
                let output = log_probs
                    .forward_linear(hidden.clone(), &head, self.targets.clone())
                    .map_err(bad)?;
                drop(head);
                Ok(gradients(output.log_probs.mean(), hidden, weight))
            }
            Contestant::LinearPolicyLoss => self.policy_loss(),
        }
    }

    /// The products that any way needs: logits, both gradients, and the logits again.
    fn products(&self, again: bool) -> Kept {
        let (hidden, weight) = (self.hidden.clone(), self.weight.clone());
        if again {
            drop(hidden.clone().matmul(weight.clone()));
        }
        let logits = hidden.clone().matmul(weight.clone());
        vec![
            logits.clone().matmul(weight.transpose()),
            hidden.transpose().matmul(logits),
        ]
    }

    /// Of one product.
    fn product_flops(&self) -> f64 {
        2.0 * self.tokens as f64 * self.width as f64 * self.vocabulary as f64
    }

    fn policy_loss(&self) -> Result<Kept, Failure> {
        let [hidden, weight] = self.leaves();
        let shape = [1, self.tokens];
        let device = self.hidden.device();
        // Of the default type, whatever that of the hidden states is.
        let old_log_probs = Tensor::<2>::full(shape, -(self.vocabulary as f64).ln(), &device);
        let advantages = Tensor::<2>::ones(shape, &device);
        let loss = PolicyLossConfig::new().init().map_err(bad)?;
        let output = loss
            .forward_linear(
                &self.log_probs.init().map_err(bad)?,
                hidden.clone().unsqueeze::<3>(),
                &LinearHead::new(weight.clone()),
                self.targets.clone().reshape(shape),
                PolicyBatch::without_log_probs(old_log_probs, advantages),
            )
            .map_err(bad)?;
        Ok(gradients(output.loss, hidden, weight))
    }

    fn leaves(&self) -> [Tensor<2>; 2] {
        [&self.hidden, &self.weight].map(|tensor| tensor.clone().autodiff().require_grad())
    }
}

fn gradients(loss: Tensor<1>, hidden: Tensor<2>, weight: Tensor<2>) -> Kept {
    let mut gradients = loss.backward();
    [hidden, weight]
        .iter()
        .filter_map(|leaf| leaf.grad_remove(&mut gradients))
        .collect()
}

fn bad(error: impl std::error::Error) -> Failure {
    Failure::Other(error.to_string())
}
