//! A small batch, and what must come of it, by hand.

use policy_loss::{PolicyLossConfig, RolloutCorrection};

use crate::case::{Case, HostAdvantages};
use crate::compare::{Tolerance, assert_all_near, assert_is_answer, assert_near};
use crate::runner::{Outcome, Runner};

/// One sequence unless said otherwise; `old = 0`, `A = 1`, every token valid, clip 0.2 / 0.2.
#[derive(Debug, Clone)]
pub struct Row {
    /// The input.
    pub case: Case,
    loss: Option<f64>,
    gradient: Option<Vec<f64>>,
    metrics: Vec<(&'static str, f64)>,
}

/// The expectations are written with about six digits.
const DIGITS: Tolerance = Tolerance {
    relative: 1e-5,
    absolute: 1e-6,
};

impl Row {
    /// A row with these log-ratios; `name` is for failure messages.
    pub fn new(name: &str, log_ratios: &[f64]) -> Self {
        let mut case = Case::new(name, [1, log_ratios.len()]);
        case.log_probs = log_ratios.to_vec();
        Self::of(case)
    }

    /// A batch of any shape.
    pub fn of(case: Case) -> Self {
        Self {
            case,
            loss: None,
            gradient: None,
            metrics: Vec::new(),
        }
    }

    /// The same advantage for every token.
    pub fn advantage(self, advantage: f64) -> Self {
        let length = self.case.log_probs.len();
        self.advantages(HostAdvantages::Token(vec![advantage; length]))
    }

    /// Any advantages.
    pub fn advantages(mut self, advantages: HostAdvantages) -> Self {
        self.case.advantages = advantages;
        self
    }

    /// Which tokens are valid.
    pub fn mask(mut self, mask: &[bool]) -> Self {
        self.case.action_mask = Some(mask.to_vec());
        self
    }

    /// The objective.
    pub fn config(mut self, config: PolicyLossConfig) -> Self {
        self.case.config = config;
        self
    }

    /// `old - rollout`, with a correction for it.
    pub fn gaps(mut self, gaps: &[f64], correction: RolloutCorrection) -> Self {
        let old = self.case.old_log_probs.iter();
        let rollout = old.zip(gaps).map(|(old, gap)| old - gap).collect();
        self.case.rollout_log_probs = Some(rollout);
        self.case.config.objective.rollout_correction = Some(correction);
        self
    }

    /// Expects this loss.
    pub fn loss(mut self, loss: f64) -> Self {
        self.loss = Some(loss);
        self
    }

    /// Expects this gradient.
    pub fn gradient(mut self, gradient: &[f64]) -> Self {
        self.gradient = Some(gradient.to_vec());
        self
    }

    /// Expects this metric.
    pub fn metric(mut self, name: &'static str, value: f64) -> Self {
        self.metrics.push((name, value));
        self
    }

    /// Fails unless everything expected came, and everything else is what the oracle says.
    ///
    /// # Panics
    ///
    /// It did not.
    pub fn check(&self, runner: &Runner) {
        if !runner.covers(&self.case.config) {
            return;
        }
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {}", self.case.name);
            let outcome = runner.outcome(&self.case, dtype);
            self.assert_expected(&what, &outcome);
            let token_losses = runner.token_losses(&self.case, dtype);
            assert_is_answer(&what, &self.case, dtype, &outcome, &token_losses);
        }
    }

    fn assert_expected(&self, what: &str, outcome: &Outcome) {
        if let Some(loss) = self.loss {
            assert_near(DIGITS, &format!("{what}: loss"), outcome.loss, loss);
        }
        if let (Some(expected), Some(actual)) = (&self.gradient, &outcome.gradient) {
            assert_all_near(DIGITS, &format!("{what}: gradient"), actual, expected);
        }
        let metrics = outcome.metrics.named();
        for (name, expected) in &self.metrics {
            let found = metrics.iter().find(|(known, _)| known == name);
            let actual = found.and_then(|(_, value)| *value);
            let what = format!("{what}: {name}");
            assert_near(DIGITS, &what, actual.expect(&what), *expected);
        }
    }
}
