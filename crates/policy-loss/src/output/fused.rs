//! Metrics that a kernel has packed.

use burn::tensor::Tensor;

use super::{PolicyLossMetrics, Positions};
use crate::groups::Groups;

impl PolicyLossMetrics {
    /// Metrics that a kernel has packed, in the order of this type's methods.
    pub(crate) fn from_packed(packed: Tensor<1>, groups: Groups) -> Self {
        Self { packed, groups }
    }

    /// With other fractions of weights that were cut, and set to 0.
    pub(crate) fn with_weight_fractions(self, truncated: Tensor<1>, zeroed: Tensor<1>) -> Self {
        match Positions::of(self.groups).weight_truncated {
            Some(position) => self.with(position, vec![truncated, zeroed]),
            None => self,
        }
    }

    /// With another count of what is not finite, and the mean of entropies, which is the last.
    pub(crate) fn with_entropy(self, mean: Tensor<1>, non_finite: Tensor<1>) -> Self {
        let Positions {
            non_finite: position,
            length,
            ..
        } = Positions::of(self.groups);
        let mut metrics = self
            .with(position, vec![non_finite])
            .with(length, vec![mean]);
        metrics.groups.entropy_bonus = true;
        metrics
    }

    /// With other values from a position on.
    fn with(self, position: usize, values: Vec<Tensor<1>>) -> Self {
        let [length] = self.packed.dims();
        let rest = position + values.len();
        let mut packed = vec![self.packed.clone().narrow(0, 0, position)];
        packed.extend(values);
        if rest < length {
            packed.push(self.packed.narrow(0, rest, length - rest));
        }
        Self {
            packed: Tensor::cat(packed, 0),
            groups: self.groups,
        }
    }
}
