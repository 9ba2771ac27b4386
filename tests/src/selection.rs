//! How much of a table a runner goes through.

use burn::tensor::Tensor;
use policy_loss::device::Hardware;
use policy_loss::{BatchError, Implementation, PolicyBatch, PolicyLossConfig};

use crate::configs::describe;
use crate::runner::{Mode, Runner};

impl Runner {
    /// The configurations that tables of cases go through: every one, or a part of them in which
    /// every setting still occurs.
    pub fn configs(&self) -> Vec<PolicyLossConfig> {
        match self.is_slow() {
            true => self.covered(self.share_of_configs(crate::configs::covering_clips())),
            false => self.covered(crate::configs::all()),
        }
    }

    /// Every objective once: on a slow device, where each one is compiled for, this is for a
    /// single test.
    pub fn objectives(&self) -> Vec<PolicyLossConfig> {
        match self.is_slow() {
            true => self.covered(self.share_of_configs(crate::configs::covering())),
            false => self.covered(crate::configs::all()),
        }
    }

    fn covered(&self, mut configs: Vec<PolicyLossConfig>) -> Vec<PolicyLossConfig> {
        configs.retain(|config| self.covers(config));
        configs
    }

    /// Whether this implementation covers an objective. The composed one covers every one; which
    /// ones the fused one has to cover is a test of its own.
    ///
    /// # Panics
    ///
    /// The empty batch is refused for another reason.
    pub fn covers(&self, config: &PolicyLossConfig) -> bool {
        if self.implementation != Implementation::Fused {
            return true;
        }
        // Without a token, so that nothing is compiled or launched for the answer.
        let none = || Tensor::<2>::zeros([0, 1], &self.device);
        let batch = PolicyBatch::new(none(), none(), none())
            .with_rollout_log_probs(none())
            .with_ref_log_probs(none())
            .with_entropies(none())
            .with_prompt_ids(Vec::new());
        match self.init(config).forward(batch) {
            Ok(_) => true,
            Err(BatchError::PartNotFused { .. }) => false,
            Err(error) => panic!("{self}: {} was refused: {error}", describe(config)),
        }
    }

    /// A third of [`configs`](Self::configs), where the configuration is not what is tested.
    pub fn some_configs(&self) -> Vec<PolicyLossConfig> {
        self.configs().into_iter().step_by(3).collect()
    }

    /// All of `cases`, but on a slow device every third, and every twelfth outside of plain
    /// autodiff: there, the other modes launch the same operations over again, and nearly every
    /// case is one more kernel to compile.
    pub fn share<T>(&self, cases: Vec<T>) -> Vec<T> {
        let step = match (self.is_slow(), self.mode) {
            (false, _) => 1,
            (true, Mode::Autodiff) => 3,
            (true, _) => 12,
        };
        cases.into_iter().step_by(step).collect()
    }

    /// As [`share`](Self::share), but under autodiff all of them.
    fn share_of_configs(&self, configs: Vec<PolicyLossConfig>) -> Vec<PolicyLossConfig> {
        let step = match self.is_slow() && self.mode != Mode::Autodiff {
            true => 4,
            false => 1,
        };
        configs.into_iter().step_by(step).collect()
    }

    /// Whether every batch takes tens of milliseconds, and every objective, type or shape that is
    /// new a second or more, because kernels are compiled for it.
    pub fn is_slow(&self) -> bool {
        self.hardware != Hardware::Cpu
    }
}
