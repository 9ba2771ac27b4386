//! The surrogates.

use super::formulas;

formulas! {
    use [parts, row, sums];

    /// What a surrogate is made of. All of it is 0 at masked tokens, but for the ratio: 1, or that of the
    /// sequence where its tokens share one with its gradient.
    #[derive(CubeType, Clone, Copy)]
    pub struct SurrogateInputs<E: Elements> {
        pub log_probs: Values<E>,
        /// What the ratio of the token is taken against.
        pub base_log_probs: Values<E>,
        /// The logarithm of the token's own ratio, not clamped.
        pub log_ratio: Values<E>,
        pub ratio: Values<E>,
        /// The logarithm of the ratio reached a bound: no gradient passes.
        pub saturated: Flags<E>,
        pub advantage: Values<E>,
        /// NaN or infinite where an input is that was read.
        pub probe: Values<E>,
    }

    /// The surrogate of a token.
    #[derive(CubeType, Clone, Copy)]
    pub struct SurrogateOutput<E: Elements> {
        pub value: Values<E>,
        /// Its slope against the logarithm of the ratio, or against `log_probs` where it is no function
        /// of a ratio.
        pub slope: Values<E>,
    }

    /// The surrogate that the blueprint asks for.
    #[cube]
    pub fn surrogate<E: Elements>(
        numbers: &Numbers,
        row: &Row<E>,
        inputs: &SurrogateInputs<E>,
        sums: &mut Sums<E>,
        #[comptime] blueprint: Blueprint,
    ) -> SurrogateOutput<E> {
        match blueprint.surrogate {
            SurrogateKind::Clip => clip::<E>(numbers, inputs, sums, blueprint),
            SurrogateKind::DynamicClip => dynamic_clip::<E>(numbers, inputs, sums, blueprint),
            SurrogateKind::GradientPreservingClip => {
                gradient_preserving_clip::<E>(numbers, inputs, sums)
            }
            SurrogateKind::PolicyGradient => policy_gradient::<E>(numbers, inputs, sums, blueprint),
            SurrogateKind::SigmoidGate => sigmoid_gate::<E>(numbers, inputs),
            SurrogateKind::GeometricMean => geometric_mean::<E>(numbers, row, inputs, sums),
            SurrogateKind::GammaWeight => gamma_weight::<E>(row, inputs),
            SurrogateKind::TrustRegion => trust_region::<E>(numbers, inputs, sums, blueprint),
            SurrogateKind::SquaredLogRatio => squared_log_ratio::<E>(numbers, inputs),
        }
    }

    /// `min(s1, s2)` of `s1 = r * A` and `s2 = clamp(r, low, high) * A`; where they are equal the
    /// unclipped branch is taken. With a dual clip, `dual_clip * A` at least where `A < 0`.
    #[cube]
    pub fn clip<E: Elements>(
        numbers: &Numbers,
        inputs: &SurrogateInputs<E>,
        sums: &mut Sums<E>,
        #[comptime] blueprint: Blueprint,
    ) -> SurrogateOutput<E> {
        let low = number::<E>(inputs.ratio, &numbers.low);
        let high = number::<E>(inputs.ratio, &numbers.high);
        clip_between::<E>(numbers, inputs, low, high, sums, blueprint)
    }

    /// The clip, of which `low` and `high` are the bounds of the ratio.
    #[cube]
    pub fn clip_between<E: Elements>(
        numbers: &Numbers,
        inputs: &SurrogateInputs<E>,
        low: Values<E>,
        high: Values<E>,
        sums: &mut Sums<E>,
        #[comptime] blueprint: Blueprint,
    ) -> SurrogateOutput<E> {
        let advantage = inputs.advantage;
        let zero = constant::<E>(advantage, 0.0);
        let unclipped = inputs.ratio * advantage;
        let bounded = clamped::<E>(inputs.ratio, low, high) * advantage;
        let clipped = less::<E>(bounded, unclipped);
        // A clipped token has A > 0 or A < 0, so that a masked one is never counted.
        let positive = greater::<E>(advantage, zero);
        sums.clipped_above += count::<E>(both::<E>(clipped, positive));
        sums.clipped_below += count::<E>(both::<E>(clipped, !positive));
        let mut value = choose::<E>(clipped, bounded, unclipped);
        let mut constant_branch = either::<E>(inputs.saturated, clipped);
        if comptime!(blueprint.choices.dual_clip) {
            let floor = advantage * number::<E>(advantage, &numbers.dual_clip);
            let raised = both::<E>(less::<E>(value, floor), less::<E>(advantage, zero));
            sums.dual_clipped += count::<E>(raised);
            constant_branch = either::<E>(constant_branch, raised);
            value = choose::<E>(raised, floor, value);
        }
        SurrogateOutput::<E> {
            value,
            slope: choose::<E>(constant_branch, zero, unclipped),
        }
    }

    /// The clip, with bounds that depend on the probability in the base of the ratio.
    #[cube]
    pub fn dynamic_clip<E: Elements>(
        numbers: &Numbers,
        inputs: &SurrogateInputs<E>,
        sums: &mut Sums<E>,
        #[comptime] blueprint: Blueprint,
    ) -> SurrogateOutput<E> {
        let zero = constant::<E>(inputs.ratio, 0.0);
        let one = constant::<E>(inputs.ratio, 1.0);
        let half = constant::<E>(inputs.ratio, 0.5);
        let four = constant::<E>(inputs.ratio, 4.0);
        // Smaller ones underflow in f32, and their bounds are never met.
        let least_log_prob = constant::<E>(inputs.ratio, LEAST_BASE_LOG_PROB);
        let q = exponential::<E>(raised::<E>(inputs.base_log_probs, least_log_prob));
        let lost = four * number::<E>(q, &numbers.low) / q;
        let won = four * number::<E>(q, &numbers.high) / q;
        let low = half + half * square_root::<E>(raised::<E>(one - lost, zero));
        let high = half + half * square_root::<E>(one + won);
        let most = number::<E>(q, &numbers.max_ratio);
        let high = choose::<E>(greater::<E>(high, most), most, high);
        clip_between::<E>(numbers, inputs, low, high, sums, blueprint)
    }

    /// `r * A`; beyond the bound that `A` meets, a part of the gradient at the bound, and that value.
    #[cube]
    pub fn gradient_preserving_clip<E: Elements>(
        numbers: &Numbers,
        inputs: &SurrogateInputs<E>,
        sums: &mut Sums<E>,
    ) -> SurrogateOutput<E> {
        let advantage = inputs.advantage;
        let zero = constant::<E>(advantage, 0.0);
        let low = number::<E>(advantage, &numbers.low);
        let high = number::<E>(advantage, &numbers.high);
        let above = both::<E>(
            greater::<E>(inputs.ratio, high),
            greater::<E>(advantage, zero),
        );
        let below = both::<E>(less::<E>(inputs.ratio, low), less::<E>(advantage, zero));
        sums.clipped_above += count::<E>(above);
        sums.clipped_below += count::<E>(below);
        let left_above = number::<E>(advantage, &numbers.high_gradient) * high;
        let left_below = number::<E>(advantage, &numbers.low_gradient) * low;
        let factor = choose::<E>(below, left_below, inputs.ratio);
        let value = choose::<E>(above, left_above, factor) * advantage;
        SurrogateOutput::<E> {
            value,
            slope: choose::<E>(inputs.saturated, zero, value),
        }
    }

    /// `w * A * log_probs`, the constant `w` the ratio in `[low, high]`, or 0 or 1.
    #[cube]
    pub fn policy_gradient<E: Elements>(
        numbers: &Numbers,
        inputs: &SurrogateInputs<E>,
        sums: &mut Sums<E>,
        #[comptime] blueprint: Blueprint,
    ) -> SurrogateOutput<E> {
        let advantage = inputs.advantage;
        let mut slope = advantage;
        if comptime!(blueprint.choices.weighs_negative) {
            let zero = constant::<E>(advantage, 0.0);
            let low = number::<E>(inputs.ratio, &numbers.low);
            let high = number::<E>(inputs.ratio, &numbers.high);
            // A NaN lies on neither side, and goes on.
            let outside =
                either::<E>(less::<E>(inputs.ratio, low), greater::<E>(inputs.ratio, high));
            let mut weight = clamped::<E>(inputs.ratio, low, high);
            if comptime!(blueprint.choices.drops_outside) {
                weight = drop_where::<E>(outside, inputs.ratio);
            }
            let weighted = weight * advantage;
            // Not where A is 0: such a token, or a masked one, has nothing to lose.
            let negative = less::<E>(advantage, zero);
            sums.clipped_below += count::<E>(both::<E>(outside, negative));
            if comptime!(blueprint.choices.weighs_others) {
                let positive = greater::<E>(advantage, zero);
                sums.clipped_above += count::<E>(both::<E>(outside, positive));
                slope = weighted;
            } else {
                slope = choose::<E>(negative, weighted, advantage);
            }
        }
        of_log_probs::<E>(inputs, slope)
    }

    /// A surrogate that is proportional to `log_probs`.
    #[cube]
    pub fn of_log_probs<E: Elements>(
        inputs: &SurrogateInputs<E>,
        slope: Values<E>,
    ) -> SurrogateOutput<E> {
        SurrogateOutput::<E> {
            value: slope * inputs.log_probs,
            slope,
        }
    }

    /// `A * p * 4 / t` with `p = sigmoid(t * (r - 1))`, and the temperature `t` by the sign of `A`.
    #[cube]
    pub fn sigmoid_gate<E: Elements>(
        numbers: &Numbers,
        inputs: &SurrogateInputs<E>,
    ) -> SurrogateOutput<E> {
        let advantage = inputs.advantage;
        let zero = constant::<E>(advantage, 0.0);
        let one = constant::<E>(advantage, 1.0);
        let four = constant::<E>(advantage, 4.0);
        let positive = greater::<E>(advantage, zero);
        let of_positive = number::<E>(advantage, &numbers.positive_temperature);
        let of_others = number::<E>(advantage, &numbers.negative_temperature);
        let temperature = choose::<E>(positive, of_positive, of_others);
        // Chosen after the division, so that it is one of the objective and not one of each token.
        let height = choose::<E>(positive, four / of_positive, four / of_others);
        // Beyond ±80 the gate is shut, or open, to the last digit, and the exponential finite.
        let x = clamped::<E>(
            temperature * (one - inputs.ratio),
            constant::<E>(advantage, -80.0),
            constant::<E>(advantage, 80.0),
        );
        let falling = exponential::<E>(x);
        let open = one / (one + falling);
        let closed = falling * open;
        let slope = four * open * closed * advantage * inputs.ratio;
        SurrogateOutput::<E> {
            value: open * advantage * height,
            slope: choose::<E>(inputs.saturated, zero, slope),
        }
    }

    /// `A * log_probs - coefficient / 2 * d^2`.
    #[cube]
    pub fn squared_log_ratio<E: Elements>(
        numbers: &Numbers,
        inputs: &SurrogateInputs<E>,
    ) -> SurrogateOutput<E> {
        let half = constant::<E>(inputs.log_ratio, 0.5);
        let slope = number::<E>(half, &numbers.coefficient) * inputs.log_ratio;
        SurrogateOutput::<E> {
            value: inputs.advantage * inputs.log_probs - half * slope * inputs.log_ratio,
            slope: inputs.advantage - slope,
        }
    }

    /// `min(r, max_ratio) * A * log_probs`, or `min(r, max_ratio) * A`; 0 where the probability has
    /// moved by more than `low` while `A < 0`, or by more than `high` while `A > 0`, to the side that
    /// `A` asks for, or to either.
    #[cube]
    pub fn trust_region<E: Elements>(
        numbers: &Numbers,
        inputs: &SurrogateInputs<E>,
        sums: &mut Sums<E>,
        #[comptime] blueprint: Blueprint,
    ) -> SurrogateOutput<E> {
        let advantage = inputs.advantage;
        let zero = constant::<E>(advantage, 0.0);
        let low = number::<E>(advantage, &numbers.low);
        let high = number::<E>(advantage, &numbers.high);
        let p = exponential::<E>(inputs.log_probs);
        let q = exponential::<E>(inputs.base_log_probs);
        let moved = match blueprint.choices.divergence {
            Divergence::TotalVariation => moved_by_difference::<E>(p, q, low, high),
            Divergence::SymmetricTotalVariation => {
                either_way::<E>(moved_by_difference::<E>(p, q, low, high))
            }
            Divergence::Kl => moved_by_kl::<E>(inputs, p, q, low, high),
        };
        let up = both::<E>(moved.up, greater::<E>(advantage, zero));
        let down = both::<E>(moved.down, less::<E>(advantage, zero));
        sums.clipped_above += count::<E>(up);
        sums.clipped_below += count::<E>(down);
        let dropped = either::<E>(up, down);
        let most = number::<E>(advantage, &numbers.max_ratio);
        let weight = lowered::<E>(inputs.ratio, most);
        let mut value = weight * advantage;
        let mut slope = value;
        if comptime!(blueprint.choices.multiplies_ratio) {
            let constant_ratio = either::<E>(inputs.saturated, greater::<E>(inputs.ratio, most));
            slope = drop_where::<E>(constant_ratio, slope);
        } else {
            value = value * inputs.log_probs;
        }
        SurrogateOutput::<E> {
            value: drop_where::<E>(dropped, value),
            slope: drop_where::<E>(dropped, slope),
        }
    }

    /// Where a probability has moved up, and down, beyond a bound.
    #[derive(CubeType, Clone, Copy)]
    pub struct Moved<E: Elements> {
        pub up: Flags<E>,
        pub down: Flags<E>,
    }

    /// Beyond a bound to either side, whatever the advantage asks for.
    #[cube]
    pub fn either_way<E: Elements>(moved: Moved<E>) -> Moved<E> {
        let out = either::<E>(moved.up, moved.down);
        Moved::<E> { up: out, down: out }
    }

    /// By `p - q`.
    #[cube]
    pub fn moved_by_difference<E: Elements>(
        p: Values<E>,
        q: Values<E>,
        low: Values<E>,
        high: Values<E>,
    ) -> Moved<E> {
        let change = p - q;
        Moved::<E> {
            up: greater::<E>(change, high),
            down: less::<E>(change, constant::<E>(low, 0.0) - low),
        }
    }

    /// By `q ln(q / p) + (1 - q) ln((1 - q) / (1 - p))`, where `1 - p` and `1 - q` under the
    /// logarithm are 1e-8 at least.
    #[cube]
    pub fn moved_by_kl<E: Elements>(
        inputs: &SurrogateInputs<E>,
        p: Values<E>,
        q: Values<E>,
        low: Values<E>,
        high: Values<E>,
    ) -> Moved<E> {
        let one = constant::<E>(p, 1.0);
        let least = constant::<E>(p, LEAST_PROBABILITY);
        let rest_of_p = choose::<E>(less::<E>(one - p, least), least, one - p);
        let rest_of_q = choose::<E>(less::<E>(one - q, least), least, one - q);
        let of_the_token = q * (inputs.base_log_probs - inputs.log_probs);
        let of_the_rest = (one - q) * logarithm_of_quotient::<E>(rest_of_q, rest_of_p);
        let divergence = of_the_token + of_the_rest;
        Moved::<E> {
            up: both::<E>(greater::<E>(divergence, high), greater::<E>(p, q)),
            down: both::<E>(greater::<E>(divergence, low), less::<E>(p, q)),
        }
    }

    /// The weight of the sequence for the sign of `A`, times `A * log_probs`.
    #[cube]
    pub fn gamma_weight<E: Elements>(
        row: &Row<E>,
        inputs: &SurrogateInputs<E>,
    ) -> SurrogateOutput<E> {
        let advantage = inputs.advantage;
        let negative = less::<E>(advantage, constant::<E>(advantage, 0.0));
        let weight = choose::<E>(negative, row.gamma_of_negative, row.gamma_of_positive);
        of_log_probs::<E>(inputs, weight * advantage)
    }

    /// One value for the sequence, with a gradient where the log-ratio is not clipped.
    #[cube]
    pub fn geometric_mean<E: Elements>(
        numbers: &Numbers,
        row: &Row<E>,
        inputs: &SurrogateInputs<E>,
        sums: &mut Sums<E>,
    ) -> SurrogateOutput<E> {
        let clipped = clipped_log_ratio::<E>(numbers, inputs.log_ratio, inputs.advantage);
        // A clipped token has A > 0 or A < 0, so that a masked one is never counted.
        sums.clipped_above += count::<E>(clipped.above);
        sums.clipped_below += count::<E>(clipped.below);
        let constant_branch = either::<E>(clipped.is_constant, inputs.saturated);
        SurrogateOutput::<E> {
            value: row.mean_surrogate,
            slope: drop_where::<E>(constant_branch, row.mean_slope),
        }
    }
}
