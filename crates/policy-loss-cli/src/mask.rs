//! The action mask, checked and counted on the host.

use burn::tensor::{DType, TensorData};
use safetensors::Dtype;

use crate::batch_file::BatchFile;
use crate::beside::{burn_dtype, integers};
use crate::output::Failure;
use crate::tensors::shape_of_rank_2;

/// The name of the tensor.
pub const ACTION_MASK: &str = "action_mask";

/// A mask of `[B, T]`.
pub struct Mask {
    /// Row by row.
    pub valid: Vec<bool>,
    /// `[B, T]`.
    pub shape: [usize; 2],
}

impl Mask {
    /// Reads the mask of a batch, if it has one.
    pub fn read(file: &BatchFile) -> Result<Option<Self>, Failure> {
        let Some(view) = file.find(ACTION_MASK) else {
            return Ok(None);
        };
        let shape = shape_of_rank_2(file, ACTION_MASK, &view)?;
        let dtype = match view.dtype() {
            // As bytes: a file can hold any there, and a Rust `bool` must not.
            Dtype::BOOL => Some(DType::U8),
            other => burn_dtype(other),
        };
        let Some(dtype) = dtype else {
            return Err(file.bad(format!(
                "`{ACTION_MASK}` is {}; expected BOOL, an integer, or F64, F32, F16, BF16",
                view.dtype()
            )));
        };
        let data = TensorData::try_from_bytes_vec(view.data().to_vec(), shape, dtype)
            .map_err(|error| file.bad(format!("`{ACTION_MASK}`: {error}")))?;
        let values = data.iter::<f64>().enumerate();
        let valid = values.map(|(index, value)| match value {
            0.0 => Ok(false),
            1.0 => Ok(true),
            _ => {
                // With the digits of its own type.
                let value = match (integers(&view), dtype) {
                    (Some(integers), _) => integers[index].to_string(),
                    (None, DType::F64) => value.to_string(),
                    (None, _) => (value as f32).to_string(),
                };
                let place = [index / shape[1], index % shape[1]];
                Err(file.bad(format!(
                    "`{ACTION_MASK}` holds {value} at {place:?}; accepted: 0 and 1 (a weight is no mask)"
                )))
            }
        });
        let valid = valid.collect::<Result<_, _>>()?;
        Ok(Some(Self { valid, shape }))
    }

    /// The number of valid tokens.
    pub fn tokens(&self) -> usize {
        self.valid.iter().filter(|valid| **valid).count()
    }

    /// The number of sequences that hold a valid token.
    pub fn sequences(&self) -> usize {
        // A row of no token has no chunk, and no valid token either.
        let rows = self.valid.chunks(self.shape[1].max(1));
        rows.filter(|row| row.contains(&true)).count()
    }
}
