//! The value loss on every backend, plain, under autodiff and under gradient checkpointing.

use policy_loss::{ConfigError, Reduction, ValueLossConfig};
use policy_loss_tests::compare::assert_names;
use policy_loss_tests::{for_each_backend, matrix};

/// The parts that need values only; with autodiff they look at gradients, too.
macro_rules! parts {
    ($mode:ident) => {
        policy_loss_tests::tests! { policy_loss_tests::run_once, policy_loss_tests::value_loss::suite, $mode;
            golden: framework_cases;
            laws: agrees_with_the_oracle, masked_content_changes_nothing, nothing_valid,
                shards_add_up, non_finite_values_are_seen, metrics_one_by_one, errors;
        }
    };
}

/// The parts that are about gradients.
macro_rules! gradient_parts {
    ($mode:ident) => {
        policy_loss_tests::tests! { policy_loss_tests::run_once, policy_loss_tests::value_loss::suite, $mode;
            gradients: gradient_is_the_slope, branches, roundings_do_not_clip,
                constants_receive_none;
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
    }

    mod checkpointed {
        parts!(Checkpointed);
        gradient_parts!(Checkpointed);
    }
} }

#[test]
fn configurations_are_checked() {
    for clip in [0.0, -0.2, f64::NAN, f64::INFINITY] {
        let error = ValueLossConfig::new().with_clip(clip).init().unwrap_err();
        let expected = ConfigError::OutOfRange {
            field: "clip",
            value: clip.to_string(),
            accepted: "a finite number above 0",
        };
        assert_eq!(error, expected);
    }
}

#[test]
fn a_mean_over_prompts_is_refused() {
    let config = ValueLossConfig::new().with_reduction(Reduction::PromptMean);
    assert_names(config.init().unwrap_err(), &["prompt_mean", "`token_mean`"]);
}

#[test]
fn configurations_survive_json() {
    let parse = |text: &str| serde_json::from_str::<ValueLossConfig>(text);
    assert_eq!(parse("{}").unwrap(), ValueLossConfig::new());
    assert_eq!(parse(r#"{"clip":null}"#).unwrap().clip, None);
    assert_names(parse(r#"{"clip_range":0.2}"#).unwrap_err(), &["clip_range"]);
    let config = ValueLossConfig::new()
        .with_clip(None)
        .with_reduction(Reduction::SequenceMean);
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(parse(&text).unwrap(), config, "{text}");
    assert_eq!(*config.init().unwrap().config(), config);
}
