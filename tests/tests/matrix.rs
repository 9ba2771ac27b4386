//! Every part of the suite, on every backend, in every mode.

use policy_loss_tests::{for_each_backend, matrix};

/// Every formula; with autodiff its gradient, too.
macro_rules! formulas {
    ($mode:ident) => {
        policy_loss_tests::tests! { policy_loss_tests::run, policy_loss_tests::suite, $mode;
            golden: openrlhf_cases, framework_cases, rollout_corrections, roll_weights, real_rollout,
                rollout_diagnostics, sums_of_losses, second_moment_masks;
            objectives: every_objective, fused_coverage, on_policy, packed_sequences, sequence_ids,
                rollout_diagnostics_of_nothing, jensen_shannon;
            garbage: in_every_input, of_each_kind, in_token_losses, in_advantages_of_masked_rows,
                everywhere, in_half_types, in_what_is_not_read;
        }
    };
}

/// What else there is to values; with autodiff these parts look at gradients, too.
macro_rules! values {
    ($mode:ident) => {
        policy_loss_tests::tests! { policy_loss_tests::run, policy_loss_tests::suite, $mode;
            clipping: clipping, advantages_per_sequence, small_and_empty_batches, dual_clipping,
                extreme_ratios, of_certain_tokens;
            exact_bounds: ties, thresholds, whole_shares, off_policy_masks, largest_of_either_sign;
            sequence_ratio: shared_by_its_tokens, against_rollout, with_padding, of_segments,
                of_segments_with_ids, of_a_segment_is_one_number;
            second_moments: masks, clips, limits, action_masks;
            future_weight: positions, bounds, what_is_weighed;
            rollout_weights: weights, rejected_weights, only_moving_away, of_segments,
                of_segments_at_a_bound, of_certain_tokens, open_sides;
            masks: every_form, other_values_are_refused, only_valid_tokens_count, no_mask;
            entropy_mask: quantiles, all_of_many, what_is_dropped, thresholds;
            missing_rollout: tokens_are_dropped_or_stood_in_for, tokens_stay_missing,
                diagnostics_are_of_the_others;
            non_finite: values_are_seen, are_not_clipped, large_values_are_finite, dropped_values;
            tensors: views, expanded, strided_leaf, mixed_types;
            shards: shards_add_up, metrics_add_up, other_metrics_are_not_merged, totals,
                inspections_add_up;
            shapes: of_every_size, the_same_bits_again;
            errors: shapes, missing, prompts, totals, devices, dtypes, implementations;
            inspection: counts_and_masses, every_size, many_tokens, nothing_is_counted;
            outputs: read_in_parts, small_divergences, details_add_up, in_a_model;
            properties: agrees_with_the_oracle, masked_content_changes_nothing,
                sequences_have_no_order;
        }
    };
}

/// The parts that are about gradients.
macro_rules! gradients {
    ($mode:ident) => {
        policy_loss_tests::tests! { policy_loss_tests::run, policy_loss_tests::suite, $mode;
            gradients: constants_receive_none, contexts_may_differ, through_log_softmax,
                combined_losses;
        }
    };
}

for_each_backend! { matrix {
    mod plain {
        formulas!(Plain);
        values!(Plain);
    }

    mod autodiff {
        formulas!(Autodiff);
        values!(Autodiff);
        gradients!(Autodiff);
    }

    // It differs in what the backward pass keeps, which values do not see.
    mod checkpointed {
        formulas!(Checkpointed);
        gradients!(Checkpointed);
    }
} }
