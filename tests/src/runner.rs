//! One way to compute the loss: a device, a mode and an implementation.

use std::fmt;

use burn::tensor::{Bool, DType, Device, Gradients, Int, Tensor, TensorData};
use policy_loss::device::Hardware;
use policy_loss::{
    Advantages, BatchError, Implementation, MetricValues, PolicyBatch, PolicyLoss,
    PolicyLossConfig, PolicyLossOutput, RolloutDiagnosticValues,
};

use crate::Probe;
use crate::case::{Case, HostAdvantages};
use crate::configs::describe;

/// How automatic differentiation is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// None: values only.
    Plain,
    /// As usual.
    Autodiff,
    /// With gradient checkpointing: memory-bound operations are recomputed.
    Checkpointed,
}

/// One way to compute the loss.
#[derive(Debug, Clone)]
pub struct Runner {
    /// The name of the backend.
    pub backend: &'static str,
    /// The device in its mode.
    pub device: Device,
    /// What it computes on.
    pub hardware: Hardware,
    /// How automatic differentiation is set up.
    pub mode: Mode,
    /// The path inside the library.
    pub implementation: Implementation,
}

impl fmt::Display for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = self.mode;
        write!(f, "{}, {mode:?}, {}", self.backend, self.implementation)
    }
}

/// Every implementation of the library. The whole suite runs each of them.
pub const IMPLEMENTATIONS: [Implementation; 2] = [Implementation::Composed, Implementation::Fused];

/// The implementations that the library has for a device.
///
/// # Panics
///
/// The smallest batch is refused.
#[must_use]
pub fn implementations(device: &Device) -> Vec<Implementation> {
    let log_probs = Tensor::<2>::zeros([1, 1], device);
    let has = |implementation: &Implementation| {
        let loss = PolicyLossConfig::new()
            .with_implementation(*implementation)
            .init()
            .expect("the default is valid");
        let batch = PolicyBatch::new(log_probs.clone(), log_probs.clone(), log_probs.clone());
        match loss.forward(batch) {
            Ok(_) => true,
            Err(BatchError::NotFused { .. }) => false,
            Err(error) => panic!("the smallest batch was refused: {error}"),
        }
    };
    IMPLEMENTATIONS.into_iter().filter(has).collect()
}

/// Runs a part of the suite with every implementation that the device has of the loss, or skips it
/// where the backend is absent.
///
/// # Panics
///
/// The part fails, or the environment requires a backend that is absent.
pub fn run(probe: &Probe, mode: Mode, part: fn(&Runner)) {
    run_with(probe, mode, implementations, part);
}

/// As [`run`], with every implementation: of a part that has both on every device.
///
/// # Panics
///
/// As [`run`].
pub fn run_with_each(probe: &Probe, mode: Mode, part: fn(&Runner)) {
    run_with(probe, mode, |_| IMPLEMENTATIONS.to_vec(), part);
}

/// As [`run`], once: of a part that has one implementation, in plain tensor operations.
///
/// # Panics
///
/// As [`run`].
pub fn run_once(probe: &Probe, mode: Mode, part: fn(&Runner)) {
    run_with(probe, mode, |_| vec![Implementation::Composed], part);
}

fn run_with(
    probe: &Probe,
    mode: Mode,
    implementations: fn(&Device) -> Vec<Implementation>,
    part: fn(&Runner),
) {
    let Some(device) = probe.device_or_skip() else {
        return;
    };
    let device = match mode {
        Mode::Plain => device,
        Mode::Autodiff => device.autodiff(),
        Mode::Checkpointed => device.autodiff().gradient_checkpointing(),
    };
    for implementation in implementations(&device) {
        part(&Runner {
            backend: probe.backend,
            device: device.clone(),
            hardware: probe.hardware(),
            mode,
            implementation,
        });
    }
}

/// Everything that came out of one forward pass, and of its backward pass where there is one.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The reduced loss.
    pub loss: f64,
    /// The type of loss and metrics.
    pub dtype: DType,
    /// Every metric.
    pub metrics: MetricValues,
    /// Row by row; absent without autodiff.
    pub gradient: Option<Vec<f64>>,
    /// Row by row; absent without autodiff, and where the objective does not read entropies.
    pub entropy_gradient: Option<Vec<f64>>,
    /// The type of the entropies.
    pub entropy_dtype: DType,
}

impl Runner {
    /// The loss of a configuration by this runner's implementation: the one place that knows how
    /// to ask for it.
    ///
    /// # Panics
    ///
    /// The configuration has no meaning.
    pub fn init(&self, config: &PolicyLossConfig) -> PolicyLoss {
        config
            .with_implementation(self.implementation)
            .init()
            .unwrap_or_else(|error| panic!("{self}: {} was refused: {error}", describe(config)))
    }

    /// One forward pass.
    ///
    /// # Panics
    ///
    /// The library refuses the batch.
    pub fn forward(&self, what: &str, loss: &PolicyLoss, batch: PolicyBatch) -> PolicyLossOutput {
        let output = loss
            .forward(batch)
            .unwrap_or_else(|error| panic!("{self}: {what} was refused: {error}"));
        assert_eq!(output.implementation, self.implementation, "{self}: {what}");
        output
    }

    /// The types in which values are compared with the oracle, the widest first.
    pub fn exact_dtypes(&self) -> Vec<DType> {
        self.dtypes(&[DType::F64, DType::F32])
    }

    /// The types of half the width that this device computes.
    pub fn half_dtypes(&self) -> Vec<DType> {
        self.dtypes(&[DType::F16, DType::BF16])
    }

    /// The types that this device does not compute, whatever its driver claims. NdArray cannot even
    /// hold a tensor of those.
    pub fn refused_dtypes(&self) -> Vec<DType> {
        match self.backend {
            "flex" | "cuda" => vec![],
            "ndarray" => vec![DType::F16, DType::BF16],
            // f16 is up to the adapter.
            _ => vec![DType::F64, DType::BF16],
        }
    }

    fn dtypes(&self, wanted: &[DType]) -> Vec<DType> {
        let computes = |dtype: &DType| policy_loss::device::computes(&self.device, *dtype);
        wanted.iter().copied().filter(computes).collect()
    }

    /// Whether there is a backward pass.
    pub fn is_tracked(&self) -> bool {
        self.mode != Mode::Plain
    }

    /// Runs a case with every input in one type.
    ///
    /// # Panics
    ///
    /// The library refuses the case.
    pub fn outcome(&self, case: &Case, dtype: DType) -> Outcome {
        self.outcome_mixed(case, dtype, dtype)
    }

    /// Runs a case with `log_probs` in one type and all other inputs in another.
    ///
    /// # Panics
    ///
    /// The library refuses the case.
    pub fn outcome_mixed(&self, case: &Case, log_probs: DType, others: DType) -> Outcome {
        let leaf = self.leaf(case, log_probs);
        let mut batch = self.batch(case, leaf.clone(), others);
        let has_bonus = case.config.objective.entropy_bonus.is_some();
        let entropies = case.entropies.as_ref().filter(|_| has_bonus);
        let shape = [case.sequences, case.tokens];
        let entropies = entropies.map(|values| self.tracked(values, shape, others));
        if let Some(entropies) = &entropies {
            batch = batch.with_entropies(entropies.clone());
        }
        let output = self.forward(&case.name, &self.init(&case.config), batch);
        self.read(&output, &leaf, entropies.as_ref())
    }

    /// What a case is refused for.
    ///
    /// # Panics
    ///
    /// The library accepts it.
    pub fn refusal(&self, case: &Case) -> BatchError {
        let dtype = self.exact_dtypes()[0];
        let batch = self.batch(case, self.leaf(case, dtype), dtype);
        let output = self.init(&case.config).forward(batch);
        output.expect_err("the case is refused")
    }

    /// Runs a case without reducing it.
    ///
    /// # Panics
    ///
    /// The library refuses the case.
    pub fn token_losses(&self, case: &Case, dtype: DType) -> Vec<f64> {
        let batch = self.batch(case, self.leaf(case, dtype), dtype);
        let token_losses = self
            .init(&case.config)
            .forward_no_reduction(batch)
            .unwrap_or_else(|error| panic!("{self}: {} was refused: {error}", case.name));
        assert_eq!(token_losses.dims(), [case.sequences, case.tokens]);
        values(token_losses)
    }

    /// Reads an output back, with the gradient of `leaf`, and that of entropies where they are
    /// tracked.
    ///
    /// # Panics
    ///
    /// It cannot be read, or a gradient is not like its tensor.
    pub fn read(
        &self,
        output: &PolicyLossOutput,
        leaf: &Tensor<2>,
        entropies: Option<&Tensor<2>>,
    ) -> Outcome {
        let read = output.read().expect("the output can be read");
        let mut outcome = Outcome {
            loss: read.loss,
            dtype: output.loss.dtype(),
            metrics: read.metrics,
            gradient: None,
            entropy_gradient: None,
            entropy_dtype: entropies.map_or(output.loss.dtype(), Tensor::dtype),
        };
        if self.is_tracked() {
            let gradients = output.loss.backward();
            outcome.gradient = Some(gradient(leaf, &gradients));
            outcome.entropy_gradient =
                entropies.and_then(|entropies| any_gradient(entropies, &gradients));
        }
        outcome
    }

    /// What the mismatch between sampler and trainer is.
    ///
    /// # Panics
    ///
    /// The library refuses the case.
    pub fn diagnostics(&self, case: &Case, dtype: DType) -> RolloutDiagnosticValues {
        let batch = self.batch(case, self.leaf(case, dtype), dtype);
        let diagnostics = batch.rollout_diagnostics().expect("it is a batch");
        diagnostics.read().expect("they can be read")
    }

    /// The same device, outside of autodiff.
    pub fn plain(&self) -> Self {
        Self {
            device: self.device.clone().without_autodiff(),
            mode: Mode::Plain,
            ..self.clone()
        }
    }

    /// A device of another backend.
    ///
    /// # Panics
    ///
    /// There is none, although every machine has it.
    pub fn elsewhere(&self) -> Device {
        let device = match self.backend {
            "flex" => policy_loss_ndarray::device(),
            _ => policy_loss_flex::device(),
        };
        device.expect("every machine has it")
    }

    /// The `log_probs` of a case, tracked where the mode tracks.
    pub fn leaf(&self, case: &Case, dtype: DType) -> Tensor<2> {
        self.tracked(&case.log_probs, [case.sequences, case.tokens], dtype)
    }

    /// The batch of a case around given `log_probs`.
    pub fn batch(&self, case: &Case, log_probs: Tensor<2>, dtype: DType) -> PolicyBatch {
        self.batch_of(case, log_probs, |_, values, shape| {
            self.tensor(values, shape, dtype)
        })
    }

    /// The batch of a case around given `log_probs`, or without them, of tensors that are made of a
    /// name, numbers and a shape.
    pub fn batch_of(
        &self,
        case: &Case,
        log_probs: impl Into<Option<Tensor<2>>>,
        mut make: impl FnMut(&'static str, &[f64], [usize; 2]) -> Tensor<2>,
    ) -> PolicyBatch {
        let shape = [case.sequences, case.tokens];
        let column = [case.sequences, 1];
        let advantages: Advantages = match &case.advantages {
            HostAdvantages::Token(values) => make("advantages", values, shape).into(),
            HostAdvantages::Column(values) => make("advantages", values, column).into(),
            HostAdvantages::Sequence(values) => make("advantages", values, column)
                .reshape([case.sequences])
                .into(),
        };
        let mut old = || make("old_log_probs", &case.old_log_probs, shape);
        let mut batch = match (log_probs.into(), case.on_policy) {
            (Some(log_probs), false) => PolicyBatch::new(log_probs, old(), advantages),
            (Some(log_probs), true) => PolicyBatch::on_policy(log_probs, advantages),
            (None, false) => PolicyBatch::without_log_probs(old(), advantages),
            (None, true) => PolicyBatch::on_policy_without_log_probs(advantages),
        };
        if let Some(reference) = &case.ref_log_probs {
            batch = batch.with_ref_log_probs(make("ref_log_probs", reference, shape));
        }
        if let Some(entropies) = &case.entropies {
            batch = batch.with_entropies(make("entropies", entropies, shape));
        }
        if let Some(mask) = &case.action_mask {
            batch = batch.with_action_mask(self.mask(mask, shape));
        }
        if let Some(rollout) = &case.rollout_log_probs {
            batch = batch.with_rollout_log_probs(make("rollout_log_probs", rollout, shape));
        }
        if let Some(ids) = &case.segment_ids {
            batch = batch.with_segment_ids(self.integers(ids, shape));
        }
        if let Some(ids) = &case.prompt_ids {
            batch = batch.with_prompt_ids(ids.clone());
        }
        if let Some(tokens) = &case.prompt_tokens {
            batch = batch.with_prompt_tokens(tokens.clone());
        }
        if let Some(threshold) = case.entropy_threshold {
            batch = batch.with_entropy_threshold(threshold);
        }
        if let Some(limit) = case.second_moment_limit {
            batch = batch.with_second_moment_limit(limit);
        }
        match case.totals {
            Some(totals) => batch.with_totals(totals),
            None => batch,
        }
    }

    /// Whole numbers on this runner's device.
    pub fn integers(&self, values: &[i64], shape: [usize; 2]) -> Tensor<2, Int> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &self.device)
    }

    /// A mask on this runner's device.
    pub fn mask<const D: usize>(&self, mask: &[bool], shape: [usize; D]) -> Tensor<D, Bool> {
        Tensor::from_data(TensorData::new(mask.to_vec(), shape), &self.device)
    }

    /// As [`tensor`](Self::tensor), a leaf that is tracked where the mode tracks.
    pub fn tracked<const D: usize>(
        &self,
        values: &[f64],
        shape: [usize; D],
        dtype: DType,
    ) -> Tensor<D> {
        let leaf = self.tensor(values, shape, dtype);
        match self.is_tracked() {
            true => leaf.require_grad(),
            false => leaf,
        }
    }

    /// A leaf of zeros, for what is refused whatever the numbers are.
    pub fn zeros<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        self.tracked(&vec![0.0; shape.iter().product()], shape, DType::F32)
    }

    /// Numbers on this runner's device.
    pub fn tensor<const D: usize>(
        &self,
        values: &[f64],
        shape: [usize; D],
        dtype: DType,
    ) -> Tensor<D> {
        let data = TensorData::new(values.to_vec(), shape).convert_dtype(dtype);
        Tensor::from_data(data, (&self.device, dtype))
    }
}

/// Reads a tensor back, row by row.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor
        .without_autodiff()
        .try_into_vec_as::<f64>()
        .expect("the tensor can be read")
}

/// The gradient of a leaf, row by row.
///
/// # Panics
///
/// There is none, or it is not like the leaf.
pub fn gradient<const D: usize>(leaf: &Tensor<D>, gradients: &Gradients) -> Vec<f64> {
    any_gradient(leaf, gradients).expect("the leaf has a gradient")
}

/// As [`gradient`], of a leaf that may have none.
///
/// # Panics
///
/// It is not like the leaf.
pub fn any_gradient<const D: usize>(leaf: &Tensor<D>, gradients: &Gradients) -> Option<Vec<f64>> {
    let gradient = leaf.grad(gradients)?;
    assert_eq!(gradient.dims(), leaf.dims());
    assert_eq!(gradient.dtype(), leaf.dtype());
    Some(values(gradient))
}
