//! Every check of what goes in. None but those of the values of targets and temperatures touches the
//! device's queue.

use burn::tensor::{Bool, Tensor};

use super::{LinearHead, LogProbsTokens, VocabularyShard};
use crate::BatchError;
use crate::alike::Alike;
use crate::device::read_back;

/// Fails unless the shape is the expected one.
pub fn shape(tensor: &'static str, got: &[usize], expected: &[usize]) -> Result<(), BatchError> {
    if got == expected {
        return Ok(());
    }
    Err(BatchError::Shape {
        tensor,
        expected: format!("{expected:?}"),
        got: got.to_vec(),
    })
}

/// What belongs to logits or hidden states: the same without their last dimension.
pub fn rows<const D: usize, const E: usize>(
    name: &'static str,
    rows: &Tensor<D>,
) -> Result<Alike<E>, BatchError> {
    let dims = rows.dims();
    let alike = Alike {
        reference: name,
        shape: std::array::from_fn(|dim| dims[dim]),
        device: rows.device(),
    };
    alike.place(name, &alike.device, rows.dtype())?;
    Ok(alike)
}

/// Fails unless the head fits hidden states of `width`, to which it belongs.
pub fn head<const D: usize>(
    head: &LinearHead,
    width: usize,
    alike: &Alike<D>,
) -> Result<(), BatchError> {
    let [got, vocabulary] = head.dims();
    if got != width || vocabulary == 0 {
        let expected = match head.transposed {
            true => format!("[V, {width}], with V above 0"),
            false => format!("[{width}, V], with V above 0"),
        };
        return Err(BatchError::Shape {
            tensor: "weight",
            expected,
            got: head.weight.dims().to_vec(),
        });
    }
    alike.place("weight", &head.weight.device(), head.weight.dtype())?;
    if let Some(bias) = &head.bias {
        shape("bias", &bias.dims(), &[vocabulary])?;
        alike.place("bias", &bias.device(), bias.dtype())?;
    }
    Ok(())
}

/// How many words a vocabulary has, of which there are `here`.
pub fn vocabulary(shard: Option<VocabularyShard>, here: usize) -> Result<usize, BatchError> {
    let Some(VocabularyShard { first, vocabulary }) = shard else {
        return Ok(here);
    };
    match vocabulary.checked_sub(here) {
        Some(last) if first <= last => Ok(vocabulary),
        _ => Err(BatchError::OutOfRange {
            field: "shard.vocabulary",
            value: vocabulary.to_string(),
            accepted: format!(
                "{} and more, since this shard has {here} words from {first} on",
                first.saturating_add(here)
            ),
        }),
    }
}

/// The indices of the valid tokens, read back from the device; absent where all are valid.
pub fn valid_tokens(mask: Option<&Tensor<1, Bool>>) -> Result<Option<Vec<usize>>, BatchError> {
    let Some(mask) = mask else {
        return Ok(None);
    };
    let data = read_back("action_mask", mask.clone())?;
    let valid: Vec<usize> = data
        .iter::<bool>()
        .enumerate()
        .filter_map(|(index, valid)| valid.then_some(index))
        .collect();
    Ok((valid.len() < mask.dims()[0]).then_some(valid))
}

/// Reads targets and temperatures back, and fails where a valid token has a target that is not in the
/// vocabulary, or a temperature that is not finite or not above 0.
pub fn values(
    tokens: &LogProbsTokens<1>,
    valid: Option<&[usize]>,
    vocabulary: usize,
) -> Result<(), BatchError> {
    let is_valid = |index: usize| valid.is_none_or(|valid| valid.binary_search(&index).is_ok());
    let targets = read_back("targets", tokens.targets.clone())?;
    for (index, value) in targets.iter::<i64>().enumerate() {
        let known = usize::try_from(value).is_ok_and(|value| value < vocabulary);
        if !known && is_valid(index) {
            return Err(BatchError::Target {
                value,
                index,
                vocabulary,
            });
        }
    }
    let Some(temperatures) = &tokens.temperatures else {
        return Ok(());
    };
    let temperatures = read_back("temperatures", temperatures.clone())?;
    // Logits are multiplied by the reciprocal.
    let in_f32 = |x: f64| (x as f32).is_finite();
    for (index, value) in temperatures.iter::<f64>().enumerate() {
        let holds = value > 0.0 && in_f32(value) && in_f32(value.recip());
        if !holds && is_valid(index) {
            return Err(BatchError::OutOfRange {
                field: "temperatures",
                value: format!("{value} at flat index {index}"),
                accepted: "numbers above 0 that are finite in f32, as their reciprocals are".into(),
            });
        }
    }
    Ok(())
}
