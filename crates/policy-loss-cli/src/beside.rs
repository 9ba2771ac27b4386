//! What a file may hold beside the batch: the loss does not read it, warnings and pictures do.

use burn::tensor::{DType, TensorData};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::batch_file::BatchFile;
use crate::output::note;

const REWARDS: &str = "rewards";
const GROUP_IDS: [&str; 2] = ["group_ids", "group_id"];
const TOKENS: &str = "tokens";

/// The names of all of it.
pub const NAMES: [&str; 4] = [REWARDS, GROUP_IDS[0], GROUP_IDS[1], TOKENS];

/// What the file holds beside a batch of `[B, T]`.
pub struct Beside {
    /// `B` rewards of sequences.
    pub rewards: Option<Vec<f64>>,
    /// `B` numbers, equal for sequences that are compared with one another.
    pub group_ids: Option<Vec<i64>>,
}

impl Beside {
    /// Reads what is there. What has another form is left out, with a note.
    pub fn read(file: &BatchFile, [batch, _]: [usize; 2]) -> Self {
        let sequences = |shape: &[usize]| shape == [batch] || shape == [batch, 1];
        let per_sequence = format!("[{batch}]");
        let rewards = find(file, REWARDS).and_then(|(name, view)| {
            let fits = sequences(view.shape());
            let data = numbers(&view).filter(|_| fits);
            noted(name, data, &format!("{per_sequence} numbers"))
        });
        let mut group_ids = GROUP_IDS.iter().filter_map(|name| find(file, name));
        let (group_ids, another) = (group_ids.next(), group_ids.next());
        if let Some((name, _)) = another {
            note(format!("`{name}` is left out: `{}` is there", GROUP_IDS[0]));
        }
        let group_ids = group_ids.and_then(|(name, view)| {
            let fits = sequences(view.shape());
            let ids = integers(&view).filter(|_| fits);
            noted(name, ids, &format!("{per_sequence} integers"))
        });
        Self {
            rewards: rewards.map(|data| data.iter::<f64>().collect()),
            group_ids: group_ids.map(as_ids),
        }
    }
}

/// `B * T` token ids, row by row, if the file has them.
pub fn token_ids(file: &BatchFile, [batch, tokens]: [usize; 2]) -> Option<Vec<i128>> {
    let (name, view) = find(file, TOKENS)?;
    let fits = view.shape() == [batch, tokens];
    let ids = integers(&view).filter(|_| fits);
    noted(name, ids, &format!("[{batch}, {tokens}] integers"))
}

fn find<'file>(
    file: &BatchFile<'file>,
    name: &'static str,
) -> Option<(&'static str, TensorView<'file>)> {
    file.find(name).map(|view| (name, view))
}

fn noted<T>(name: &str, read: Option<T>, expected: &str) -> Option<T> {
    if read.is_none() {
        note(format!("`{name}` is left out: expected {expected}"));
    }
    read
}

/// Integers, if it holds no other numbers. They are as wide as the widest of a file, of either sign.
pub fn integers(view: &TensorView) -> Option<Vec<i128>> {
    let data = numbers(view)?;
    match data.dtype() {
        DType::U64 => Some(data.iter::<u64>().map(i128::from).collect()),
        dtype if dtype.is_int() || dtype.is_uint() => {
            Some(data.iter::<i64>().map(i128::from).collect())
        }
        _ => None,
    }
}

/// Numbers that only tell sequences apart. Those of u64 above the largest i64 wrap around to
/// negative ones, which no other u64 becomes: different ids stay different.
pub fn as_ids(integers: Vec<i128>) -> Vec<i64> {
    integers.into_iter().map(|id| id as i64).collect()
}

fn numbers(view: &TensorView) -> Option<TensorData> {
    let dtype = burn_dtype(view.dtype())?;
    TensorData::try_from_bytes_vec(view.data().to_vec(), view.shape(), dtype).ok()
}

/// Burn's type for these numbers, if it has one.
pub fn burn_dtype(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        Dtype::U8 => DType::U8,
        _ => return None,
    })
}
