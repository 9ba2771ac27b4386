//! What the program knows of a batch, and the warnings that follow.

use policy_loss::{
    GlobalTotals, MetricValues, Observation, PolicyBatch, RolloutDiagnosticValues, Warning,
    Warnings,
};

use crate::backends::Backend;
use crate::beside::Beside;
use crate::objective::Objective;
use crate::output::Failure;

/// What is known of a batch whatever the objective.
pub struct Known<'run> {
    /// The totals that were given.
    pub totals: Option<GlobalTotals>,
    /// How far sampler and trainer are apart, where the batch tells.
    pub rollout: Option<RolloutDiagnosticValues>,
    /// Rewards and groups.
    pub beside: &'run Beside,
}

impl<'run> Known<'run> {
    /// What a batch without totals tells.
    pub fn of_rollout(
        batch: &PolicyBatch,
        beside: &'run Beside,
        backend: Backend,
    ) -> Result<Self, Failure> {
        // Without rollout log-probs there are none; whatever else is wrong, the loss has said.
        let diagnostics = batch.rollout_diagnostics().ok();
        let rollout = diagnostics.map(|diagnostics| diagnostics.read());
        let rollout = rollout.transpose();
        Ok(Self {
            totals: None,
            rollout: rollout.map_err(|error| Failure::computing(backend.name(), error))?,
            beside,
        })
    }

    /// The warnings of one step.
    pub fn warnings(
        &self,
        objective: &Objective,
        metrics: MetricValues,
    ) -> Result<Vec<Warning>, Failure> {
        let observation = self.observation(metrics)?;
        let objective = &objective.loss.config().objective;
        Ok(Warnings::new(objective).observe(&observation))
    }

    /// All of it, with the metrics of an objective.
    pub fn observation(&self, metrics: MetricValues) -> Result<Observation, Failure> {
        let mut observation = Observation::new(metrics);
        if let Some(totals) = self.totals {
            observation = observation.with_totals(totals);
        }
        if let Some(rollout) = self.rollout {
            observation = observation.with_rollout_diagnostics(rollout);
        }
        if let (Some(rewards), Some(groups)) = (&self.beside.rewards, &self.beside.group_ids) {
            observation = observation
                .with_rewards(rewards, groups)
                .map_err(|error| Failure::BadInput(error.to_string()))?;
        }
        Ok(observation)
    }
}
