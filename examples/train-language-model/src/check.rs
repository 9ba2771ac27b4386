//! Compares the model with log-probs that another implementation computed.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use policy_loss::LogProbsConfig;
use safetensors::{Dtype, SafeTensors};

use crate::adapters;
use crate::batch::{Sequence, TokenBatch};
use crate::config::LlamaConfig;
use crate::weights;

/// The largest difference that the rounding of f32 explains, with room to spare.
const TOLERANCE: f64 = 2e-3;
/// Sequences in one forward pass.
const BATCH: usize = 8;

/// An answer of a rollout, with the log-probs that it should have.
struct Reference {
    prompt: Vec<u32>,
    answer: Vec<u32>,
    log_probs: Vec<f32>,
}

/// Prints the largest difference between the model in `directory`, with the adapters in another, and
/// the `ref_log_probs` of the rollout in `file`.
///
/// # Errors
///
/// The model, the adapters or the rollout cannot be read, or they differ by more than rounding.
pub fn check(
    directory: &Path,
    adapters: Option<&Path>,
    file: &Path,
    device: &Device,
) -> Result<(), Box<dyn Error>> {
    let bad = |problem: String| format!("{}: {problem}", file.display());
    let references = read(file).map_err(|problem| bad(problem.to_string()))?;
    let start = Instant::now();
    let mut model = weights::load(directory, device)?;
    if let Some(adapters) = adapters {
        let rank = adapters::rank(adapters)?;
        model = weights::load_adapters(adapters::attach(model, rank), adapters, device)?;
    }
    say!("loaded in {:.1} s", start.elapsed().as_secs_f64());
    for (row, reference) in references.iter().enumerate() {
        reference.fits(row, model.config()).map_err(bad)?;
    }
    let start = Instant::now();
    let log_probs = LogProbsConfig::new().with_check_targets(true).init()?;
    let (mut worst, mut tokens) = (0.0_f64, 0);
    for references in references.chunks(BATCH) {
        let sequences: Vec<_> = references.iter().map(Reference::sequence).collect();
        let batch = TokenBatch::new(&sequences, device);
        let rows = batch.log_prob_rows(&model, &log_probs)?;
        for (reference, row) in references.iter().zip(rows) {
            tokens += reference.log_probs.len();
            for (value, expected) in row.iter().zip(&reference.log_probs) {
                let difference = f64::from((value - expected).abs());
                // A NaN is the largest of all differences.
                worst = match difference > worst || difference.is_nan() {
                    true => difference,
                    false => worst,
                };
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    say!(
        "{} sequences, {tokens} tokens, {seconds:.1} s; largest difference {worst:.2e}",
        references.len()
    );
    match worst <= TOLERANCE {
        true => Ok(()),
        false => Err(format!("the largest difference is above {TOLERANCE:.0e}").into()),
    }
}

impl Reference {
    fn sequence(&self) -> Sequence<'_> {
        Sequence {
            prompt: &self.prompt,
            answer: &self.answer,
        }
    }

    /// Whether the model has the tokens of this row, and a context for them.
    fn fits(&self, row: usize, config: &LlamaConfig) -> Result<(), String> {
        let length = self.prompt.len() + self.answer.len();
        let context = config.max_position_embeddings;
        if length > context {
            return Err(format!(
                "row {row} has {length} tokens with its prompt; the model has a context of {context}"
            ));
        }
        let mut ids = self.prompt.iter().chain(&self.answer);
        match ids.find(|id| **id as usize >= config.vocab_size) {
            Some(id) => Err(format!(
                "row {row} has the token {id}; accepted: 0 to {}",
                config.vocab_size - 1
            )),
            None => Ok(()),
        }
    }
}

fn read(file: &Path) -> Result<Vec<Reference>, Box<dyn Error>> {
    let bytes = fs::read(file)?;
    let (_, header) = SafeTensors::read_metadata(&bytes)?;
    let prompts = header
        .metadata()
        .as_ref()
        .and_then(|metadata| metadata.get("prompt_token_ids"))
        .ok_or("its metadata has no `prompt_token_ids`, the tokens of each group's prompt")?;
    let prompts: Vec<Vec<u32>> = serde_json::from_str(prompts)
        .map_err(|error| format!("`prompt_token_ids` in its metadata: {error}"))?;
    let file = SafeTensors::deserialize(&bytes)?;
    let (tokens, columns) = words(&file, "tokens", Dtype::I32, i32::from_le_bytes)?;
    let (mask, _) = words(&file, "action_mask", Dtype::F32, f32::from_le_bytes)?;
    let (log_probs, _) = words(&file, "ref_log_probs", Dtype::F32, f32::from_le_bytes)?;
    let (groups, _) = words(&file, "group_id", Dtype::I32, i32::from_le_bytes)?;
    if [mask.len(), log_probs.len(), groups.len() * columns] != [tokens.len(); 3] || columns == 0 {
        return Err(
            "`tokens`, `action_mask`, `ref_log_probs` and `group_id` differ in shape".into(),
        );
    }
    let row = |(row, group): (usize, &i32)| {
        let range = row * columns..(row + 1) * columns;
        let (tokens, mask) = (&tokens[range.clone()], &mask[range.clone()]);
        let length = mask.iter().take_while(|valid| **valid != 0.0).count();
        if length == 0 || mask[length..].iter().any(|valid| *valid != 0.0) {
            return Err(format!(
                "`action_mask` of row {row} is not one run of tokens from the first column on"
            ));
        }
        let prompt = usize::try_from(*group)
            .ok()
            .and_then(|group| prompts.get(group));
        let prompt = prompt.filter(|prompt| !prompt.is_empty()).ok_or_else(|| {
            format!("`group_id` of row {row} is {group}, which has no prompt in the metadata")
        })?;
        let answer = tokens[..length].iter().map(|id| id.cast_unsigned());
        Ok(Reference {
            prompt: prompt.clone(),
            answer: answer.collect(),
            log_probs: log_probs[range][..length].to_vec(),
        })
    };
    let rows: Result<Vec<_>, String> = groups.iter().enumerate().map(row).collect();
    let rows = rows?;
    match rows.is_empty() {
        true => Err("it has no rows".into()),
        false => Ok(rows),
    }
}

/// A tensor whose elements have four bytes, and the length of its rows.
fn words<T>(
    file: &SafeTensors,
    name: &str,
    dtype: Dtype,
    value: fn([u8; 4]) -> T,
) -> Result<(Vec<T>, usize), Box<dyn Error>> {
    let view = file
        .tensor(name)
        .map_err(|error| format!("`{name}`: {error}"))?;
    if view.dtype() != dtype {
        return Err(format!("`{name}` is {}; expected {dtype}", view.dtype()).into());
    }
    let (chunks, _) = view.data().as_chunks::<4>();
    let columns = view.shape().last().copied().unwrap_or(1);
    Ok((chunks.iter().map(|chunk| value(*chunk)).collect(), columns))
}
