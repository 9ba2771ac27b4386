//! Log-probs of logits and of hidden states, on every backend, in every mode.

use policy_loss_tests::{for_each_backend, matrix};

/// The parts that need values only; with autodiff they look at gradients, too.
macro_rules! parts {
    ($mode:ident) => {
        policy_loss_tests::tests! { policy_loss_tests::run_with_each, policy_loss_tests::log_probs::suite, $mode;
            logits: values_and_gradients, shapes_and_chunks, half_types;
            linear: values_and_gradients, chunks, blocks_of_words, half_types, ranks_and_mixed_types;
            targets: are_nan, of_any_integer_type, are_found;
            temperatures: alike_are_one, without_a_meaning_are_nan, refused;
            kept: golden, the_others_have_no_part, refused;
            edges: sizes, no_valid_token, no_token, extreme_logits, impossible_target;
            shards: of_hidden_states, of_logits, extreme_logits, target_in_no_shard,
                target_in_two_shards, no_token, half_types, refused;
            distillation: whole_vocabulary, impossible_words, impossible_words_of_masked_tokens, top_k, far_words,
                shapes, half_types, refused, golden;
            errors: shapes, native_half_products;
            objective: agrees_with_the_long_way, nothing_valid, without_log_probs_is_seen;
        }
    };
}

/// The parts that are about gradients.
macro_rules! gradient_parts {
    ($mode:ident) => {
        policy_loss_tests::tests! { policy_loss_tests::run_with_each, policy_loss_tests::log_probs::suite, $mode;
            gradients: frozen_parts, without_a_gradient_are_ignored, garbage_without_a_gradient,
                garbage_of_a_student;
        }
    };
}

for_each_backend! { matrix {
    mod plain {
        parts!(Plain);
    }

    mod autodiff {
        parts!(Autodiff);
        gradient_parts!(Autodiff);
        // Its products take seconds in a test build: once is enough.
        policy_loss_tests::tests! { policy_loss_tests::run_with_each, policy_loss_tests::log_probs::suite, Autodiff;
            golden: of_hidden_states, of_logits;
        }
    }

    // It differs in what the backward pass keeps, which values do not see.
    mod checkpointed {
        policy_loss_tests::tests! { policy_loss_tests::run_with_each, policy_loss_tests::log_probs::suite, Checkpointed;
            logits: values_and_gradients, half_types;
            linear: values_and_gradients, chunks, blocks_of_words, half_types;
            kept: the_others_have_no_part;
            shards: of_hidden_states, of_logits;
            distillation: whole_vocabulary, top_k;
            objective: agrees_with_the_long_way;
        }
        gradient_parts!(Checkpointed);
    }
} }
