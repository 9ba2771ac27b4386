//! The tensors of a batch, from the file's types to those that a device computes.

use std::collections::HashMap;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use policy_loss::device::{computes, dtypes};
use policy_loss::{Advantages, PolicyBatch};
use safetensors::tensor::TensorView;

use crate::batch_file::{BatchFile, list, nearest};
use crate::beside;
use crate::mask::{ACTION_MASK, Mask};
use crate::output::{Failure, note};

const LOG_PROBS: &str = "log_probs";
const OLD_LOG_PROBS: &str = "old_log_probs";
const ADVANTAGES: &str = "advantages";
const ROLLOUT_LOG_PROBS: &str = "rollout_log_probs";
const REF_LOG_PROBS: &str = "ref_log_probs";
const ENTROPIES: &str = "entropies";
const SEGMENT_IDS: &str = "segment_ids";
const PROMPT_IDS: &str = "prompt_ids";
const PROMPT_TOKENS: &str = "prompt_tokens";
const NAMES: [&str; 10] = [
    LOG_PROBS,
    OLD_LOG_PROBS,
    ADVANTAGES,
    ACTION_MASK,
    ROLLOUT_LOG_PROBS,
    REF_LOG_PROBS,
    ENTROPIES,
    SEGMENT_IDS,
    PROMPT_IDS,
    PROMPT_TOKENS,
];

/// The tensors of a batch on the host, in the types of the file.
pub struct HostBatch {
    log_probs: Floats,
    old_log_probs: Floats,
    advantages: Floats,
    rollout_log_probs: Option<Floats>,
    ref_log_probs: Option<Floats>,
    entropies: Option<Floats>,
    action_mask: Option<Mask>,
    segment_ids: Option<TensorData>,
    prompt_ids: Option<Vec<i64>>,
    prompt_tokens: Option<Vec<usize>>,
}

/// One float tensor of the file.
struct Floats {
    name: &'static str,
    data: TensorData,
}

/// A batch on a device, and the tensor that will hold a gradient.
pub struct DeviceBatch {
    /// What the library takes.
    pub batch: PolicyBatch,
    /// `log_probs`, tracked.
    pub log_probs: Tensor<2>,
}

impl HostBatch {
    /// Reads every tensor that a batch can have, and says which ones it leaves out.
    pub fn read(file: &BatchFile) -> Result<Self, Failure> {
        let optional = |name| match file.find(name) {
            Some(view) => Floats::matrix(file, name, &view).map(Some),
            None => Ok(None),
        };
        let required = |name| Floats::matrix(file, name, &file.require(name)?);
        let batch = Self {
            log_probs: required(LOG_PROBS)?,
            old_log_probs: required(OLD_LOG_PROBS)?,
            advantages: Floats::advantages(file, &file.require(ADVANTAGES)?)?,
            rollout_log_probs: optional(ROLLOUT_LOG_PROBS)?,
            ref_log_probs: optional(REF_LOG_PROBS)?,
            entropies: optional(ENTROPIES)?,
            action_mask: Mask::read(file)?,
            segment_ids: segments(file)?,
            prompt_ids: integers(file, PROMPT_IDS)?.map(beside::as_ids),
            prompt_tokens: counts(file, PROMPT_TOKENS)?,
        };
        batch.note_ignored(file);
        Ok(batch)
    }

    /// `[B, T]`.
    pub fn shape(&self) -> [usize; 2] {
        self.log_probs.data.shape().dims()
    }

    /// The type of `log_probs` in the file, which is also that of its gradient.
    pub fn dtype(&self) -> DType {
        self.log_probs.data.dtype()
    }

    /// The type of the arithmetic.
    pub fn arithmetic(&self) -> DType {
        match self.dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        }
    }

    /// The number of valid tokens.
    pub fn tokens(&self) -> usize {
        match &self.action_mask {
            Some(mask) => mask.tokens(),
            None => self.log_probs.data.num_elements(),
        }
    }

    /// The number of sequences that hold a valid token.
    pub fn sequences(&self) -> usize {
        match (&self.action_mask, self.shape()) {
            (Some(mask), _) => mask.sequences(),
            (None, [_, 0]) => 0,
            (None, [sequences, _]) => sequences,
        }
    }

    /// Brings the batch to a device, in types that it computes.
    pub fn move_to(self, file: &BatchFile, device: &Device) -> Result<DeviceBatch, Failure> {
        let backend = device.clone().autodiff();
        if !computes(device, self.arithmetic()) {
            let accepted: Vec<_> = dtypes(device).iter().map(DType::name).collect();
            return Err(file.bad(format!(
                "`{LOG_PROBS}` is {}, which this device does not compute; accepted there: {}; \
                 evaluate it with --device flex, or store it as f32",
                self.dtype().name(),
                accepted.join(", ")
            )));
        }
        let put = |floats: Floats| floats.fit(file, device);
        let log_probs = put(self.log_probs)?.matrix_on(&backend).require_grad();
        let old_log_probs = put(self.old_log_probs)?.matrix_on(&backend);
        let advantages = put(self.advantages)?.advantages_on(&backend);
        let mut batch = PolicyBatch::new(log_probs.clone(), old_log_probs, advantages);
        if let Some(mask) = self.action_mask {
            let data = TensorData::new(mask.valid, mask.shape);
            batch = batch.with_action_mask(Tensor::from_data(data, &backend));
        }
        if let Some(rollout) = self.rollout_log_probs {
            batch = batch.with_rollout_log_probs(put(rollout)?.matrix_on(&backend));
        }
        if let Some(reference) = self.ref_log_probs {
            batch = batch.with_ref_log_probs(put(reference)?.matrix_on(&backend));
        }
        if let Some(entropies) = self.entropies {
            batch = batch.with_entropies(put(entropies)?.matrix_on(&backend));
        }
        if let Some(ids) = self.segment_ids {
            batch = batch.with_segment_ids(Tensor::<2, Int>::from_data(ids, &backend));
        }
        if let Some(ids) = self.prompt_ids {
            batch = batch.with_prompt_ids(ids);
        }
        if let Some(tokens) = self.prompt_tokens {
            batch = batch.with_prompt_tokens(tokens);
        }
        Ok(DeviceBatch { batch, log_probs })
    }

    /// A misspelt name of an optional tensor would otherwise change the result in silence.
    fn note_ignored(&self, file: &BatchFile) {
        if self.action_mask.is_none() {
            note(format!("no `{ACTION_MASK}`: every token counts as valid"));
        }
        let absent: Vec<_> = NAMES
            .into_iter()
            .filter(|name| file.find(name).is_none())
            .collect();
        let mut ignored = file.names();
        ignored.retain(|name| !NAMES.contains(name) && !beside::NAMES.contains(name));
        for name in &ignored {
            if let Some(absent) = nearest(name, &absent) {
                note(format!(
                    "if `{name}` is the `{absent}` of the batch, rename it"
                ));
            }
        }
        if !ignored.is_empty() {
            note(format!("ignored in the file: {}", list(&ignored)));
        }
    }
}

impl Floats {
    fn matrix(file: &BatchFile, name: &'static str, view: &TensorView) -> Result<Self, Failure> {
        shape_of_rank_2(file, name, view)?;
        Self::any_rank(file, name, view)
    }

    fn advantages(file: &BatchFile, view: &TensorView) -> Result<Self, Failure> {
        match view.shape().len() {
            1 | 2 => Self::any_rank(file, ADVANTAGES, view),
            _ => Err(file.bad(format!(
                "`{ADVANTAGES}` has shape {:?}; expected [B, T], [B, 1] or [B]",
                view.shape()
            ))),
        }
    }

    fn any_rank(file: &BatchFile, name: &'static str, view: &TensorView) -> Result<Self, Failure> {
        let dtype = beside::burn_dtype(view.dtype()).filter(DType::is_float);
        let Some(dtype) = dtype else {
            return Err(file.bad(format!(
                "`{name}` is {}; expected a float tensor: F64, F32, F16 or BF16",
                view.dtype()
            )));
        };
        // The copy also aligns the bytes, which may begin anywhere in the file.
        let data = TensorData::try_from_bytes_vec(view.data().to_vec(), view.shape(), dtype)
            .map_err(|error| file.bad(format!("`{name}`: {error}")))?;
        Ok(Self { name, data })
    }

    /// Converts the values on the host where the device does not compute their type.
    ///
    /// f32 holds every f16 and bf16, and is the arithmetic type of an f64 tensor that is not
    /// `log_probs`, so nothing is lost that the device would have kept.
    fn fit(self, file: &BatchFile, device: &Device) -> Result<Self, Failure> {
        let (name, from) = (self.name, self.data.dtype());
        if computes(device, from) {
            return Ok(self);
        }
        let change = match from {
            DType::F64 => "narrowed",
            _ => "widened",
        };
        note(format!(
            "`{name}` is {change} from {} to f32, which this device computes",
            from.name()
        ));
        match self.data.try_cast(DType::F32) {
            Ok(data) => Ok(Self { name, data }),
            Err(error) => Err(file.bad(format!("`{name}`: {error}"))),
        }
    }

    fn matrix_on(self, device: &Device) -> Tensor<2> {
        let dtype = self.data.dtype();
        Tensor::from_data(self.data, (device, dtype))
    }

    fn advantages_on(self, device: &Device) -> Advantages {
        let dtype = self.data.dtype();
        match self.data.rank() {
            1 => Tensor::<1>::from_data(self.data, (device, dtype)).into(),
            _ => self.matrix_on(device).into(),
        }
    }
}

/// Integers, one for each token. A device compares numbers of 32 bits, so that they are renumbered.
fn segments(file: &BatchFile) -> Result<Option<TensorData>, Failure> {
    let Some(view) = file.find(SEGMENT_IDS) else {
        return Ok(None);
    };
    let shape = shape_of_rank_2(file, SEGMENT_IDS, &view)?;
    let Some(values) = beside::integers(&view) else {
        return Err(file.bad(format!(
            "`{SEGMENT_IDS}` is {}; expected [B, T] integers",
            view.dtype()
        )));
    };
    let mut numbers = HashMap::new();
    let renumbered = values.into_iter().map(|id| {
        let next = numbers.len() as i64;
        *numbers.entry(id).or_insert(next)
    });
    Ok(Some(TensorData::new(renumbered.collect::<Vec<_>>(), shape)))
}

/// Integers, one for each sequence.
fn integers(file: &BatchFile, name: &'static str) -> Result<Option<Vec<i128>>, Failure> {
    let Some(view) = file.find(name) else {
        return Ok(None);
    };
    match (view.shape(), beside::integers(&view)) {
        ([_] | [_, 1], Some(values)) => Ok(Some(values)),
        (shape, _) => Err(file.bad(format!(
            "`{name}` is {} of shape {shape:?}; expected [B] integers",
            view.dtype()
        ))),
    }
}

/// Integers from 0 on, one for each sequence.
fn counts(file: &BatchFile, name: &'static str) -> Result<Option<Vec<usize>>, Failure> {
    let Some(values) = integers(file, name)? else {
        return Ok(None);
    };
    let count = |value: i128| match usize::try_from(value) {
        Ok(count) => Ok(count),
        Err(_) => Err(file.bad(format!(
            "`{name}` holds {value}; accepted: integers, 0 or above"
        ))),
    };
    values
        .into_iter()
        .map(count)
        .collect::<Result<_, _>>()
        .map(Some)
}

/// The shape of a tensor that must be `[B, T]`.
pub fn shape_of_rank_2(
    file: &BatchFile,
    name: &str,
    view: &TensorView,
) -> Result<[usize; 2], Failure> {
    <[usize; 2]>::try_from(view.shape()).map_err(|_| {
        file.bad(format!(
            "`{name}` has shape {:?}; expected [B, T]",
            view.shape()
        ))
    })
}
