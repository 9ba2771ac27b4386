//! The action mask, checked and counted on the host.

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::batch_file::BatchFile;
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
        let Some(read) = zeros_and_ones(&view) else {
            return Err(file.bad(format!(
                "`{ACTION_MASK}` is {}; expected BOOL, an integer, or F64, F32, F16, BF16",
                view.dtype()
            )));
        };
        let valid = read.map_err(|Weight { index, value }| {
            let place = match shape[1] {
                0 => [0, 0],
                tokens => [index / tokens, index % tokens],
            };
            file.bad(format!(
                "`{ACTION_MASK}` holds {value} at {place:?}; accepted: 0 and 1 (a weight is no mask)"
            ))
        })?;
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

/// The first value that is neither 0 nor 1.
struct Weight {
    index: usize,
    value: String,
}

/// The mask's values, or `None` where the type is none that a mask has.
///
/// BOOL is read as bytes: a file can hold any byte there, and a Rust `bool` must not.
fn zeros_and_ones(view: &TensorView) -> Option<Result<Vec<bool>, Weight>> {
    let bytes = view.data();
    Some(match view.dtype() {
        Dtype::BOOL | Dtype::U8 => convert(bytes, u8::from_le_bytes, (0, 1)),
        Dtype::I8 => convert(bytes, i8::from_le_bytes, (0, 1)),
        Dtype::U16 => convert(bytes, u16::from_le_bytes, (0, 1)),
        Dtype::I16 => convert(bytes, i16::from_le_bytes, (0, 1)),
        Dtype::U32 => convert(bytes, u32::from_le_bytes, (0, 1)),
        Dtype::I32 => convert(bytes, i32::from_le_bytes, (0, 1)),
        Dtype::U64 => convert(bytes, u64::from_le_bytes, (0, 1)),
        Dtype::I64 => convert(bytes, i64::from_le_bytes, (0, 1)),
        Dtype::F16 => convert(bytes, f16::from_le_bytes, (f16::ZERO, f16::ONE)),
        Dtype::BF16 => convert(bytes, bf16::from_le_bytes, (bf16::ZERO, bf16::ONE)),
        Dtype::F32 => convert(bytes, f32::from_le_bytes, (0.0, 1.0)),
        Dtype::F64 => convert(bytes, f64::from_le_bytes, (0.0, 1.0)),
        _ => return None,
    })
}

fn convert<T: PartialEq + ToString, const SIZE: usize>(
    bytes: &[u8],
    from_le_bytes: fn([u8; SIZE]) -> T,
    (zero, one): (T, T),
) -> Result<Vec<bool>, Weight> {
    let (values, _) = bytes.as_chunks::<SIZE>();
    let mut valid = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let value = from_le_bytes(*value);
        if value != zero && value != one {
            let value = value.to_string();
            return Err(Weight { index, value });
        }
        valid.push(value == one);
    }
    Ok(valid)
}
