//! Errors of a configuration or a batch, said so that they can be mended.

use burn::tensor::DType;
pub use policy_loss_kernels::objective::ConfigError;

/// A batch that does not fit the objective, or that the device cannot compute; found before any
/// device work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// A tensor's shape, or the length of a list, differs from what `log_probs` asks for.
    #[error("`{tensor}` has shape {got:?}; expected {expected}")]
    Shape {
        /// The tensor's name.
        tensor: &'static str,
        /// The shapes that would be accepted.
        expected: String,
        /// The shape that was given.
        got: Vec<usize>,
    },
    /// Two tensors of a batch live on different devices.
    #[error("`{tensor}` is on {got}, but `{reference}` is on {expected}; move it with `to_device`")]
    Device {
        /// The tensor's name.
        tensor: &'static str,
        /// The device that was found.
        got: String,
        /// The tensor that it has to stand beside.
        reference: &'static str,
        /// The device of that one.
        expected: String,
    },
    /// A tensor that the objective needs was not given.
    #[error("`{tensor}` is missing, but {needed_by} needs it; add it with `{add_with}`")]
    Missing {
        /// The tensor's name.
        tensor: &'static str,
        /// The part of the objective that needs it.
        needed_by: &'static str,
        /// The method that adds it to the batch.
        add_with: &'static str,
    },
    /// A tensor was given in two places.
    #[error("`{tensor}` is given twice; accepted: once, with {accepted}")]
    Twice {
        /// The tensor's name.
        tensor: &'static str,
        /// The methods of which one may give it.
        accepted: &'static str,
    },
    /// The device does not compute a tensor's type, whatever its driver claims.
    #[error("`{tensor}` is {got:?}, which {device} does not compute; accepted there: {accepted}")]
    Dtype {
        /// The tensor's name.
        tensor: &'static str,
        /// The type that was given.
        got: DType,
        /// The device.
        device: String,
        /// The types that the device computes.
        accepted: String,
    },
    /// A mask holds something that is neither 0 nor 1.
    #[error("`action_mask` holds {value} at flat index {index}; accepted: 0 and 1, or bool")]
    MaskValue {
        /// The first such value.
        value: f64,
        /// Its index, row by row.
        index: usize,
    },
    /// A target outside of the vocabulary, at a token that is not masked.
    #[error(
        "`targets` holds {value} at flat index {index}; accepted: 0 to {vocabulary}, exclusive"
    )]
    Target {
        /// The first such target.
        value: i64,
        /// Its index, row by row.
        index: usize,
        /// The size of the vocabulary.
        vocabulary: usize,
    },
    /// The global totals do not fit the reduction, or are out of range.
    #[error("`{field}` is {value}, with the reduction `{reduction}`; accepted: {accepted}")]
    Totals {
        /// The field of the totals.
        field: &'static str,
        /// The value that was given.
        value: String,
        /// The values that would be accepted.
        accepted: &'static str,
        /// The reduction, as it is written in JSON.
        reduction: &'static str,
    },
    /// A token of a packed row belongs to a sequence that there cannot be.
    #[error(
        "`sequence_ids` holds {value} at index {index}; accepted: numbers counted from 0, below \
         the {tokens} tokens of the row"
    )]
    SequenceId {
        /// The first such number.
        value: usize,
        /// Its index.
        index: usize,
        /// The length of the row.
        tokens: usize,
    },
    /// The fused implementation was asked for where there is none.
    #[error(
        "`implementation` is fused, which {device} does not have; accepted there: auto, composed"
    )]
    NotFused {
        /// The device.
        device: String,
    },
    /// Hidden states and weight of a half type are to be multiplied as they are, and cannot be.
    #[error(
        "`half_products` is native, which {device} does not do for hidden states of {hidden:?} and \
         a weight of {weight:?} (it needs a GPU, the fused implementation, and one type for both); \
         accepted: auto, widened"
    )]
    NotNative {
        /// The type of the hidden states.
        hidden: DType,
        /// The type of the weight.
        weight: DType,
        /// The device.
        device: String,
    },
    /// The device has fused kernels, and this library was built without them; plain tensor
    /// operations take up to twenty times as long.
    #[error(
        "this build has no fused kernels for {device}; accepted: the feature `{feature}` of \
         policy-loss, which the crate policy-loss-{feature} turns on, or `implementation` composed"
    )]
    FeatureMissing {
        /// The device.
        device: String,
        /// The feature that adds them.
        feature: &'static str,
    },
    /// Metrics of different objectives do not add up.
    #[error("these metrics belong to different objectives; accepted: metrics of one objective")]
    Merge,
    /// Metrics or inspections on different devices do not add up there.
    #[error(
        "`{tensor}` is on {got}, but what it is merged with is on {expected}; add up what is read of \
         them (`sums`, `read`)"
    )]
    MergeDevices {
        /// What was to be merged.
        tensor: &'static str,
        /// The device of what was to be added.
        got: String,
        /// The device of what it was to be added to.
        expected: String,
    },
    /// The fused implementation was asked for an objective that it does not cover.
    #[error(
        "`implementation` is fused, which does not cover `{part}` on {device}; accepted for this \
         objective: auto, composed"
    )]
    PartNotFused {
        /// The part of the configuration.
        part: &'static str,
        /// The device.
        device: String,
    },
    /// A number that comes with each step lies outside its range.
    #[error("`{field}` is {value}; accepted: {accepted}")]
    OutOfRange {
        /// The name of the number.
        field: &'static str,
        /// The value that was given.
        value: String,
        /// The values that would be accepted.
        accepted: String,
    },
    /// A value that may not be missing is not finite at a token that is not masked.
    #[error("`{tensor}` holds {value} at flat index {index}, a valid token; accepted: {accepted}")]
    NotFinite {
        /// The tensor's name.
        tensor: &'static str,
        /// The first such value.
        value: f64,
        /// Its index, row by row.
        index: usize,
        /// The values that would be accepted.
        accepted: &'static str,
    },
    /// The device failed while a tensor was read back for checking.
    #[error("reading `{tensor}` back from {device} failed: {message}")]
    Read {
        /// The tensor's name.
        tensor: &'static str,
        /// The device.
        device: String,
        /// What the backend said.
        message: String,
    },
}
