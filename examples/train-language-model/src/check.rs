//! Compares the model with log-probs that another implementation computed.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use policy_loss::{LogProbsConfig, LogProbsTokens};
use safetensors::{Dtype, SafeTensors};

use crate::adapters;
use crate::batch::{Sequence, TokenBatch};
use crate::config::LlamaConfig;
use crate::weights;

/// The largest difference that the rounding of f32 explains, with room to spare.
const TOLERANCE: f64 = 2e-3;
/// Sequences in one forward pass.
const BATCH: usize = 8;

/// Answers of a rollout, with the log-probs that they should have.
struct Reference {
    prompts: Vec<Vec<u32>>,
    answers: Vec<Vec<u32>>,
    log_probs: Vec<Vec<f32>>,
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
    let reference = read(file).map_err(|problem| format!("{}: {problem}", file.display()))?;
    let start = Instant::now();
    let mut model = weights::load(directory, device)?;
    if let Some(adapters) = adapters {
        let rank = adapters::rank(adapters)?;
        model = weights::load_adapters(adapters::attach(model, rank), adapters, device)?;
    }
    println!("loaded in {:.1} s", start.elapsed().as_secs_f64());
    reference
        .fits(model.config())
        .map_err(|problem| format!("{}: {problem}", file.display()))?;
    let start = Instant::now();
    let log_probs = LogProbsConfig::new().with_check_targets(true).init()?;
    let (mut worst, mut tokens) = (0.0_f64, 0);
    let order: Vec<usize> = (0..reference.answers.len()).collect();
    for indices in order.chunks(BATCH) {
        let sequences: Vec<_> = indices
            .iter()
            .map(|index| Sequence {
                prompt: &reference.prompts[*index],
                answer: &reference.answers[*index],
            })
            .collect();
        let batch = TokenBatch::new(&sequences, device);
        let (hidden, targets) = batch.answers(&model);
        let mask = Some(batch.action_mask.clone());
        let given = LogProbsTokens::new(targets).with_action_mask(mask);
        let output = log_probs.forward_linear(hidden, &model.head(), given)?;
        let [_, columns] = output.log_probs.dims();
        let values = output.log_probs.try_into_vec_as::<f32>()?;
        for (index, row) in indices.iter().zip(values.chunks(columns)) {
            let expected = &reference.log_probs[*index];
            tokens += expected.len();
            for (value, expected) in row.iter().zip(expected) {
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
    println!(
        "{} sequences, {tokens} tokens, {seconds:.1} s; largest difference {worst:.2e}",
        order.len()
    );
    match worst <= TOLERANCE {
        true => Ok(()),
        false => Err(format!("the largest difference is above {TOLERANCE:.0e}").into()),
    }
}

impl Reference {
    /// Whether the model has these tokens, and a context for them.
    fn fits(&self, config: &LlamaConfig) -> Result<(), String> {
        for (row, (prompt, answer)) in self.prompts.iter().zip(&self.answers).enumerate() {
            let (length, context) = (prompt.len() + answer.len(), config.max_position_embeddings);
            if length > context {
                return Err(format!(
                    "row {row} has {length} tokens with its prompt; the model has a context of \
                     {context}"
                ));
            }
            let mut ids = prompt.iter().chain(answer);
            if let Some(id) = ids.find(|id| **id as usize >= config.vocab_size) {
                let largest = config.vocab_size - 1;
                return Err(format!(
                    "row {row} has the token {id}; accepted: 0 to {largest}"
                ));
            }
        }
        Ok(())
    }
}

fn read(file: &Path) -> Result<Reference, Box<dyn Error>> {
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
    let mut reference = Reference {
        prompts: Vec::new(),
        answers: Vec::new(),
        log_probs: Vec::new(),
    };
    for (row, group) in groups.iter().enumerate() {
        let range = row * columns..(row + 1) * columns;
        let length = mask[range.clone()]
            .iter()
            .take_while(|valid| **valid != 0.0)
            .count();
        if length == 0
            || mask[range.clone()][length..]
                .iter()
                .any(|valid| *valid != 0.0)
        {
            return Err(format!(
                "`action_mask` of row {row} is not one run of tokens from the first column on"
            )
            .into());
        }
        let range = range.start..range.start + length;
        let prompt = usize::try_from(*group)
            .ok()
            .and_then(|group| prompts.get(group));
        let prompt = prompt.filter(|prompt| !prompt.is_empty()).ok_or_else(|| {
            format!("`group_id` of row {row} is {group}, which has no prompt in the metadata")
        })?;
        reference.prompts.push(prompt.clone());
        reference.answers.push(
            tokens[range.clone()]
                .iter()
                .map(|id| id.cast_unsigned())
                .collect(),
        );
        reference.log_probs.push(log_probs[range].to_vec());
    }
    Ok(reference)
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
