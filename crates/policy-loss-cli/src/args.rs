//! The command line.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum};
use policy_loss::{Implementation, Preset};

use crate::backends::Backend;
use crate::bench::Contestant;
use crate::requested::{Objectives, Requested};

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  the output cannot be written, or the device failed while it computed
  2  wrong usage of the command line
  3  bad input: the batch, the objective or the totals
  4  the device is unavailable on this machine, or in this build of the program";

const EVAL_HELP: &str = "\
Computes the policy loss of a batch, with its metrics and its gradient.

The batch is a safetensors file, such as safetensors.torch.save_file writes, with these tensors:

  log_probs          [B, T] float            of the policy being trained
  old_log_probs      [B, T] float            of the policy that the update started from
  advantages         [B, T], [B, 1] or [B]   float
  action_mask        [B, T] optional         bool, or 0 and 1 in any type; absent: all tokens count
  rollout_log_probs  [B, T] float, optional  as the inference engine reported them
  ref_log_probs      [B, T] float, optional  of a frozen reference policy
  entropies          [B, T] float, optional  of the policy's token distributions
  segment_ids        [B, T] integers         optional: equal at tokens of the same turn or tool call
  prompt_ids         [B] integers, optional  equal for sequences that answer the same prompt
  prompt_tokens      [B] integers, optional  how many tokens of a global batch answer that prompt

Floats are F64, F32, F16 or BF16, also mixed. The arithmetic is f64 if log_probs is F64, else f32.
What the device does not compute is widened to f32 (F16, BF16) or, unless it is log_probs,
narrowed to f32 (F64), with a note. Other tensors in the file are ignored.";

const EVAL_MORE: &str = "\
Examples:
  policy-loss eval batch.safetensors
  policy-loss eval batch.safetensors --preset dapo --json
  policy-loss eval batch.safetensors --openrlhf '{\"clip_eps_high\": 0.28, \"dual_clip\": 3.0}'
  policy-loss eval batch.safetensors --config objective.json --grad-out gradient.safetensors

With --json the output is one object: loss, clip_ratio, ppo_kl, rollout_kl, metrics, rollout (how
far sampler and trainer are apart), inspection (with --inspect: counts of tokens by natural
logarithms, below the first edge, from each edge to the next, and from the last edge on; and the
gradient as shares), warnings, tokens, sequences, device and implementation. What the objective or
the batch does not have is null. JSON has no non-finite numbers: they are the strings \"NaN\", \"Infinity\" and \"-Infinity\".";

const REPORT_HELP: &str = "\
Draws a batch under one or more objectives (the default is ppo) into one HTML page, which opens in
any browser, without a network.

Beside what `eval` reads, the batch may hold

  rewards    [B] numbers             for pictures of lengths and for warnings
  group_ids  [B] integers, optional  equal for sequences that are compared (also: group_id)
  tokens     [B, T] integers         as text, with --tokenizer

With --steps, curves: of a directory with a safetensors file for each step, in the order of the
numbers in their names; or of JSON lines (FILE.jsonl, or a directory with one), an object for each
step. Numbers inside objects are called by their path, such as metrics.clip_ratio; what is no number
is left out. A step is called by the line's `step`, `iteration` or `epoch`, else by its number.";

const BENCH_HELP: &str = "\
Measures forward and backward of the loss on this machine, in f32, interleaved in one run.

  fused     one pass over the inputs; absent where the device has none
  composed  plain tensor operations
  copy      copying what the loss reads (on the CPU 13 bytes of a token, into memory that is
            already there): the floor
  repeated  fused steps again, one after the other with nothing in between: what a loop sees whose
            caches are warm and whose allocator keeps its memory

With --what log-probs, from hidden states to the gradients of hidden states and head:

  three_products, four_products  the bare matrix products, without anything between them
  naive                          log_softmax and gather on all logits
  token_log_probs                TokenLogProbs::forward on all logits
  linear_log_probs               TokenLogProbs::forward_linear: four products, no logits
  linear_policy_loss             PolicyLoss::forward_linear: three products, no logits

What holds all logits is left out where they take more than 1 GiB.

Times are medians over the rounds, with the distance between the quartiles as the spread.";

/// The policy losses of reinforcement learning, evaluated on a batch from any trainer
#[derive(Debug, Parser)]
#[command(
    name = "policy-loss",
    version,
    color = ColorChoice::Never,
    after_help = EXIT_CODES,
    arg_required_else_help = true
)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Evaluate a batch: loss, metrics and gradient
    #[command(
        long_about = EVAL_HELP,
        after_help = EXIT_CODES,
        after_long_help = format!("{EVAL_MORE}\n\n{EXIT_CODES}")
    )]
    Eval(EvalArguments),
    /// Compare objectives on a batch: loss, metrics and gradients side by side
    #[command(after_help = EXIT_CODES)]
    Compare(CompareArguments),
    /// Draw a batch, or a run, into one HTML page
    #[command(long_about = REPORT_HELP, after_help = EXIT_CODES)]
    Report(ReportArguments),
    /// List the devices of this machine, and what is missing where there is none
    Devices(ListArguments),
    /// List the named objectives
    Presets(ListArguments),
    /// Measure the loss on this machine: fused, composed, and a plain copy as the floor
    #[command(long_about = BENCH_HELP, after_help = EXIT_CODES)]
    Bench(BenchArguments),
}

/// The arguments of `eval`.
#[derive(Debug, Args)]
pub struct EvalArguments {
    /// The batch, a safetensors file
    #[arg(value_name = "BATCH.safetensors")]
    pub batch: PathBuf,

    #[command(flatten)]
    pub objective: ObjectiveArguments,

    /// The backend to compute on; `policy-loss devices` says which ones this machine has
    #[arg(long, value_enum, default_value_t = Backend::Flex, value_name = "BACKEND")]
    pub device: Backend,

    /// How to compute it; the results agree
    #[arg(long, default_value = "auto", value_name = "HOW", value_parser = implementation())]
    pub implementation: Implementation,

    #[command(flatten)]
    pub totals: TotalsArguments,

    /// Write the gradient here, as the tensor `grad_log_probs` in the type of `log_probs`
    #[arg(long, value_name = "FILE.safetensors")]
    pub grad_out: Option<PathBuf>,

    /// Look closer: histograms of the ratios, the weights and the gap between sampler and trainer, and
    /// what becomes of the gradient; takes several times as long
    #[arg(long)]
    pub inspect: bool,

    /// Print one JSON object, and nothing else, to standard output
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `compare`.
#[derive(Debug, Args)]
pub struct CompareArguments {
    /// The batch, a safetensors file as `eval` takes it
    #[arg(value_name = "BATCH.safetensors")]
    pub batch: PathBuf,

    #[command(flatten)]
    pub objectives: Objectives,

    /// The backend to compute on
    #[arg(long, value_enum, default_value_t = Backend::Flex, value_name = "BACKEND")]
    pub device: Backend,

    /// How to compute them; the results agree
    #[arg(long, default_value = "auto", value_name = "HOW", value_parser = implementation())]
    pub implementation: Implementation,

    /// Print one JSON object, and nothing else, to standard output
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `report`.
#[derive(Debug, Args)]
pub struct ReportArguments {
    /// The batch, a safetensors file as `eval` takes it
    #[arg(value_name = "BATCH.safetensors", required_unless_present = "steps")]
    pub batch: Option<PathBuf>,

    #[command(flatten)]
    pub objectives: Objectives,

    /// The batches of several steps, or the JSON lines of a run: a directory, or a file of lines
    #[arg(long, value_name = "DIR")]
    pub steps: Option<PathBuf>,

    /// Show `tokens` as text, by this tokenizer; needs a program with the feature `tokenizer`
    #[arg(long, value_name = "tokenizer.json", requires = "batch")]
    pub tokenizer: Option<PathBuf>,

    /// Where to write the page
    #[arg(long, value_name = "FILE.html")]
    pub out: PathBuf,

    /// The backend to compute on
    #[arg(long, value_enum, default_value_t = Backend::Flex, value_name = "BACKEND")]
    pub device: Backend,
}

/// What to compute; the default is the preset `ppo`.
#[derive(Debug, Args)]
#[group(required = false, multiple = false)]
pub struct ObjectiveArguments {
    /// The objective as JSON text, in the arguments of OpenRLHF's PolicyLoss
    #[arg(long, value_name = "JSON")]
    pub openrlhf: Option<String>,

    /// The objective as a JSON file; `policy-loss presets --json` shows the format
    #[arg(long, value_name = "FILE.json")]
    pub config: Option<PathBuf>,

    /// The objective by name [default: ppo]
    #[arg(long, value_name = "NAME", value_parser = preset())]
    pub preset: Option<Preset>,
}

impl ObjectiveArguments {
    /// The objective that they name; the parser lets one of them through.
    pub fn requested(&self) -> Requested {
        let openrlhf = self.openrlhf.clone().map(Requested::OpenRlhf);
        let config = self.config.clone().map(Requested::Config);
        let preset = self.preset.map(Requested::Preset);
        openrlhf.or(config).or(preset).unwrap_or(Requested::Default)
    }
}

/// The size of the global batch, of which this one is a shard.
#[derive(Debug, Args)]
pub struct TotalsArguments {
    /// Valid tokens of the global batch; replaces the local count of a token mean
    #[arg(long, value_name = "N")]
    pub global_tokens: Option<usize>,

    /// Sequences of the global batch that hold a valid token; the same for a sequence mean
    #[arg(long, value_name = "N")]
    pub global_sequences: Option<usize>,

    /// Prompts of the global batch; replaces the local count of a mean over prompts, which then needs
    /// `prompt_tokens`
    #[arg(long, value_name = "N")]
    pub global_prompts: Option<usize>,

    /// Least entropy of a token that an entropy mask keeps, of all tokens of the global batch
    #[arg(long, value_name = "NATS", allow_negative_numbers = true)]
    pub entropy_threshold: Option<f64>,

    /// Squared log-ratio from which on a surrogate of second moments drops or clips tokens, of all tokens
    /// of the global batch
    #[arg(long, value_name = "SQUARE", allow_negative_numbers = true)]
    pub second_moment_limit: Option<f64>,

    /// Ranks whose gradients are averaged; needs the total of the objective's reduction
    #[arg(long, value_name = "N")]
    pub world_size: Option<usize>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// The loss, from log-probs on
    Loss,
    /// From hidden states to log-probs, and to the loss
    LogProbs,
}

/// A float type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum FloatType {
    F64,
    F32,
    F16,
    Bf16,
}

/// The arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// What to measure
    #[arg(long, value_enum, default_value_t = Subject::Loss, value_name = "WHAT")]
    pub what: Subject,

    /// The backend to measure on
    #[arg(long, value_enum, default_value_t = Backend::Flex, value_name = "BACKEND")]
    pub device: Backend,

    /// For the loss: sequences [default: 256]
    #[arg(long, value_name = "B")]
    pub batch: Option<NonZeroUsize>,

    /// Tokens of a sequence [default: 4096], or all tokens for log-probs [default: 2048]
    #[arg(long, value_name = "T")]
    pub tokens: Option<NonZeroUsize>,

    /// For the loss: the objective by name [default: ppo]
    #[arg(long, value_name = "NAME", value_parser = preset(), conflicts_with = "config")]
    pub objective: Option<Preset>,

    /// For the loss: the objective as a JSON file
    #[arg(long, value_name = "FILE.json")]
    pub config: Option<PathBuf>,

    /// For log-probs: length of a hidden state [default: 576]
    #[arg(long, value_name = "H")]
    pub hidden: Option<NonZeroUsize>,

    /// For log-probs: size of the vocabulary [default: 49152]
    #[arg(long, value_name = "V")]
    pub vocab: Option<NonZeroUsize>,

    /// For log-probs: bytes that logits and their gradient may take [default: what fits the device]
    #[arg(long, visible_alias = "budget", value_name = "BYTES")]
    pub memory_budget: Option<NonZeroUsize>,

    /// For log-probs: the type of hidden states and weight [default: f32]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub dtype: Option<FloatType>,

    /// For log-probs: what to measure, by name, with commas [default: all that fits]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAMES")]
    pub contestants: Option<Vec<Contestant>>,

    /// For log-probs: measure how far they and their gradients are from f64, on a sample, too
    #[arg(long)]
    pub errors: bool,

    /// Timed rounds; each runs every contestant once [default: 21, for log-probs 5]
    #[arg(long, value_name = "N")]
    pub rounds: Option<NonZeroU32>,

    /// Print one JSON object, and nothing else, to standard output
    #[arg(long)]
    pub json: bool,
}

/// The arguments of the listings.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Print one JSON object, and nothing else, to standard output
    #[arg(long)]
    pub json: bool,
}

const IMPLEMENTATIONS: [(&str, Implementation); 3] = [
    ("auto", Implementation::Auto),
    ("composed", Implementation::Composed),
    ("fused", Implementation::Fused),
];

fn implementation() -> impl TypedValueParser<Value = Implementation> {
    PossibleValuesParser::new(IMPLEMENTATIONS.map(|(name, _)| name)).map(|given| {
        let found = IMPLEMENTATIONS.into_iter().find(|(name, _)| *name == given);
        found.map_or(Implementation::Auto, |(_, implementation)| implementation)
    })
}

/// Lists the names in `--help`, and suggests the nearest one where a name is unknown.
pub fn preset() -> impl TypedValueParser<Value = Preset> {
    PossibleValuesParser::new(Preset::ALL.map(Preset::name)).try_map(|name| name.parse::<Preset>())
}
