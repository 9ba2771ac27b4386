//! What changes over the steps of a run.

use std::collections::HashMap;

use policy_loss::{MetricValues, RolloutDiagnosticValues};
use serde::Serialize;

/// Points of a curve; of longer ones some are left out.
const POINTS: usize = 1000;

/// Named numbers over the steps of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Curves {
    /// What a step is called.
    steps: Vec<String>,
    curves: Vec<Curve>,
    /// The place of each curve by its name.
    #[serde(skip)]
    places: HashMap<String, usize>,
    /// Of how many steps in a row one is shown.
    every: usize,
    /// How many steps there were, and the name of the last.
    count: usize,
    last: String,
}

/// One number over the steps.
#[derive(Debug, Clone, Serialize)]
struct Curve {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sentence: Option<&'static str>,
    /// `None` where a step does not have it, or it is no number. Until the page is drawn, steps behind
    /// the last number have none.
    values: Vec<Option<f64>>,
}

impl Curves {
    /// No step yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a step with its numbers. A number that other steps have may be missing.
    pub fn push<'names>(
        &mut self,
        step: impl Into<String>,
        values: impl IntoIterator<Item = (&'names str, f64)>,
    ) {
        let before = self.steps.len();
        self.steps.push(step.into());
        for (name, value) in values {
            let place = self.places.get(name).copied().unwrap_or_else(|| {
                let place = self.curves.len();
                self.places.insert(name.to_owned(), place);
                self.curves.push(Curve {
                    name: name.to_owned(),
                    sentence: sentence(name),
                    values: Vec::new(),
                });
                place
            });
            let curve = &mut self.curves[place].values;
            curve.resize(before, None);
            curve.push(value.is_finite().then_some(value));
        }
    }

    /// The number of steps.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is no step.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The same with so few steps that a page can hold them.
    pub(crate) fn thinned(mut self) -> Self {
        self.count = self.steps.len();
        self.last = self.steps.last().cloned().unwrap_or_default();
        self.every = self.count.div_ceil(POINTS).max(1);
        let every = self.every;
        self.steps = self.steps.into_iter().step_by(every).collect();
        for curve in &mut self.curves {
            curve.values.resize(self.count, None);
            // What few steps have, such as the numbers of a whole epoch, stays.
            let parts = curve.values.chunks(every);
            curve.values = parts.map(|part| part.iter().find_map(|it| *it)).collect();
        }
        self
    }
}

/// What a metric of the library is; a name may have a prefix, such as `metrics.`.
fn sentence(name: &str) -> Option<&'static str> {
    let last = name.rsplit(['.', '/']).next()?;
    let sentences = MetricValues::SENTENCES
        .iter()
        .chain(RolloutDiagnosticValues::SENTENCES);
    let mut found = sentences.filter(|(metric, _)| *metric == last);
    found.next().map(|(_, sentence)| *sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_missing_leaves_a_gap() {
        let mut curves = Curves::new();
        curves.push("1", [("loss", 1.0)]);
        curves.push("2", [("metrics.clip_ratio", 0.1), ("loss", f64::NAN)]);
        curves.push("3", [("metrics.clip_ratio", 0.2)]);
        let curves = curves.thinned();
        assert_eq!(curves.curves[0].values, [Some(1.0), None, None]);
        assert_eq!(curves.curves[1].values, [None, Some(0.1), Some(0.2)]);
        assert!(curves.curves[0].sentence.is_none());
        assert!(curves.curves[1].sentence.is_some());
    }

    #[test]
    fn a_long_run_is_thinned() {
        let mut curves = Curves::new();
        for step in 0..2500 {
            curves.push(step.to_string(), [("loss", f64::from(step))]);
            if step == 2000 {
                curves.push("epoch 1", [("reward", 0.5)]);
            }
        }
        let thinned = curves.thinned();
        assert_eq!((thinned.count, thinned.last.as_str()), (2501, "2499"));
        let known: Vec<f64> = thinned.curves[1].values.iter().copied().flatten().collect();
        assert_eq!(known, [0.5]);
        assert_eq!(thinned.every, 3);
        assert_eq!(thinned.len(), 834);
        assert_eq!(thinned.curves[0].values[1], Some(3.0));
    }
}
