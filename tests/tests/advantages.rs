//! Advantage estimators and the KL in the reward on every backend, plain and under autodiff; and
//! what needs no backend: configurations and controllers.

use std::fmt::Debug;

use policy_loss::ConfigError;
use policy_loss_tests::compare::assert_names;
use policy_loss_tests::{for_each_backend, matrix};
use serde::Serialize;
use serde::de::DeserializeOwned;

macro_rules! parts {
    ($mode:ident) => {
        policy_loss_tests::tests! { policy_loss_tests::run_once, policy_loss_tests::advantages::suite, $mode;
            laws: agrees_with_the_oracle, masked_content_changes_nothing,
                non_finite_values_are_seen, no_gradient_flows, accuracy, several_rewards;
            golden: verl_estimators;
            features: golden_cases_of_trainers;
            by_hand: groups, divisors, lengths, groups_of_one, equal_scores, ties, sequences_have_no_order,
                gaps, token_baselines, sequence_rewards, whitening;
            errors: shapes, missing, dtypes, devices, kl_reward;
            kl_reward: estimates, sequence_rewards, nothing;
            teacher: agrees_with_the_oracle, masked_content_changes_nothing, sequence_advantages,
                no_gradient_flows, missing_log_probs, errors, nothing;
        }
    };
}

for_each_backend! { matrix {
    mod plain {
        parts!(Plain);
    }

    mod autodiff {
        parts!(Autodiff);
    }
} }

/// Fails unless a number is refused, by the name of its field.
#[track_caller]
fn out_of_range<T: Debug>(result: Result<T, ConfigError>, name: &str) {
    match result {
        Err(ConfigError::OutOfRange { field, .. }) => assert_eq!(field, name),
        other => panic!("{name}: {other:?}"),
    }
}

/// What is read of what is written of a value: the same.
#[track_caller]
fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) -> T {
    let text = serde_json::to_string(value).unwrap();
    let read: T = serde_json::from_str(&text).unwrap();
    assert_eq!(read, *value, "{text}");
    read
}

/// Fails unless a text is refused, by the name of what it should not hold.
#[track_caller]
fn unknown<T: DeserializeOwned + Debug>(text: &str, name: &str) {
    assert_names(serde_json::from_str::<T>(text).unwrap_err(), &[name]);
}

mod configurations {
    use policy_loss::{
        AdvantageEstimatorConfig as Config, AdvantagePreset, ConfigError, Deviation,
        GeneralizedAdvantage, GroupBaseline, GroupRelative, KlEstimator, KlReward, MeanScale,
        ReturnToGo, TokenBaseline,
    };

    use super::{assert_names, out_of_range, round_trip, unknown};

    #[test]
    fn numbers_are_checked() {
        let gae = GeneralizedAdvantage::new;
        let adaptive = gae(1.0, 1.0).with_length_adaptive(0.0);
        let returns = gae(1.0, 1.0).with_return_lambda(1.1);
        let token_baseline = TokenBaseline::new().with_epsilon(0.0);
        let token_baseline = ReturnToGo::new(1.0).with_token_baseline(token_baseline);
        let cases: Vec<(Config, &str)> = vec![
            (gae(1.01, 0.5).into(), "generalized.gamma"),
            (gae(f64::NAN, 0.5).into(), "generalized.gamma"),
            (gae(0.5, -0.1).into(), "generalized.lambda"),
            (gae(0.5, f64::INFINITY).into(), "generalized.lambda"),
            (adaptive.into(), "generalized.length_adaptive"),
            (returns.into(), "generalized.return_lambda"),
            (ReturnToGo::new(-1e-9).into(), "return_to_go.gamma"),
            (token_baseline.into(), "return_to_go.token_baseline.epsilon"),
            (epsilon(0.0), "group_relative.deviation.epsilon"),
            (epsilon(f64::NAN), "group_relative.deviation.epsilon"),
            (epsilon(-1e-6), "group_relative.deviation.epsilon"),
            (mean_scale(-1e-6), "group_relative.mean_scale.epsilon"),
            (mean_scale(f64::NAN), "group_relative.mean_scale.epsilon"),
        ];
        for (config, name) in cases {
            out_of_range(config.init(), name);
        }
        for gamma in [0.0, 1.0] {
            assert!(Config::from(gae(gamma, gamma)).init().is_ok());
        }
    }

    fn epsilon(epsilon: f64) -> Config {
        let relative = GroupRelative::new(GroupBaseline::Mean);
        let deviation = Deviation {
            epsilon,
            ..Deviation::default()
        };
        relative.with_deviation(deviation).into()
    }

    fn mean_scale(epsilon: f64) -> Config {
        let relative = GroupRelative::new(GroupBaseline::Mean);
        relative.with_mean_scale(MeanScale { epsilon }).into()
    }

    #[test]
    fn one_scale_is_enough() {
        let relative = GroupRelative::new(GroupBaseline::Mean)
            .with_deviation(Deviation::default())
            .with_mean_scale(MeanScale::default());
        let error = Config::from(relative).init().unwrap_err();
        assert!(
            matches!(error, ConfigError::Combination { .. }),
            "{error:?}"
        );
        assert_names(error, &["deviation", "mean_scale"]);
        assert!(mean_scale(0.0).init().is_ok());
    }

    #[test]
    fn one_baseline_is_enough() {
        let two = ReturnToGo::new(1.0)
            .with_subtract_baseline(true)
            .with_token_baseline(TokenBaseline::new());
        let error = Config::from(two).init().unwrap_err();
        assert!(
            matches!(error, ConfigError::Combination { .. }),
            "{error:?}"
        );
        assert_names(error, &["subtract_baseline", "token_baseline"]);
    }

    #[test]
    fn presets_survive_json_and_names() {
        for preset in AdvantagePreset::ALL {
            let config = preset.config();
            round_trip(&config);
            assert_eq!(preset.to_string().parse(), Ok(preset));
            assert_eq!(*config.init().unwrap().config(), config);
        }
        let error = "grppo".parse::<AdvantagePreset>().unwrap_err();
        assert_names(error, &["grppo", "dr_grpo"]);
    }

    #[test]
    fn unknown_fields_are_refused_by_name() {
        for (text, name) in [
            (r#"{"generalized":{"lam":0.9}}"#, "lam"),
            (r#"{"return_to_go":{"lambda":0.9}}"#, "lambda"),
            (r#"{"return_to_go":{"token_baseline":{"mean":1}}}"#, "mean"),
            (r#"{"group_relative":{"gamma":0.9}}"#, "gamma"),
            (r#"{"group_relative":{"deviation":{"eps":1e-6}}}"#, "eps"),
            (
                r#"{"group_relative":{"deviation":{"among":"pairs"}}}"#,
                "pairs",
            ),
            (r#"{"group_relative":{"mean_scale":{"eps":0}}}"#, "eps"),
            (r#"{"group_relative":{"single":"one"}}"#, "one"),
            (r#"{"generalized":{"whitening":{"mean":true}}}"#, "mean"),
            (r#"{"group_relative":{"baseline":"median"}}"#, "median"),
            (r#"{"gae":{}}"#, "gae"),
        ] {
            unknown::<Config>(text, name);
        }
        assert!(serde_json::from_str::<KlReward>(r#""k4""#).is_err());
        assert_eq!(
            serde_json::from_str::<KlReward>(r#""k3""#).unwrap(),
            KlReward::new(KlEstimator::K3)
        );
    }
}

mod kl_controllers {
    use policy_loss::{BatchError, KlControllerConfig as Config};

    use super::{out_of_range, round_trip, unknown};

    #[test]
    fn a_fixed_one_stays() {
        let mut controller = Config::fixed(0.05).init().unwrap();
        controller.update(100.0, 1_000_000).unwrap();
        assert_eq!(controller.coefficient(), 0.05);
        assert!(controller.update(f64::NAN, 1).is_err());
        assert_eq!(Config::fixed(0.0).init().unwrap().coefficient(), 0.0);
    }

    #[test]
    fn an_adaptive_one_follows() {
        // The numbers of the definition: the error is clamped at a fifth.
        for (kl, steps, factor) in [
            (6.0, 256, 1.0),
            (6.6, 256, 1.0 + 0.1 * 0.0256),
            (5.4, 256, 1.0 - 0.1 * 0.0256),
            (600.0, 256, 1.0 + 0.2 * 0.0256),
            (-600.0, 256, 1.0 - 0.2 * 0.0256),
            (600.0, 0, 1.0),
        ] {
            let mut controller = Config::adaptive(0.2, 6.0, 10_000.0).init().unwrap();
            controller.update(kl, steps).unwrap();
            let expected = 0.2 * factor;
            let actual = controller.coefficient();
            assert!((actual - expected).abs() < 1e-15, "{kl}, {steps}: {actual}");
        }
    }

    #[test]
    fn it_finds_the_target() {
        // A policy whose KL falls with the price of it.
        let mut controller = Config::adaptive(0.01, 6.0, 1_000.0).init().unwrap();
        for _ in 0..2_000 {
            let kl = 3.0 / controller.coefficient();
            controller.update(kl, 100).unwrap();
        }
        assert!((controller.coefficient() - 0.5).abs() < 1e-3);
    }

    #[test]
    fn what_would_break_it_is_refused() {
        let mut controller = Config::adaptive(0.2, 6.0, 100.0).init().unwrap();
        for (kl, steps, name) in [
            (f64::NAN, 1, "kl"),
            (f64::INFINITY, 1, "kl"),
            (1.0, 500, "steps"),
            (1.0, usize::MAX, "steps"),
        ] {
            match controller.update(kl, steps) {
                Err(BatchError::OutOfRange { field, .. }) => assert_eq!(field, name),
                other => panic!("{kl}, {steps}: {other:?}"),
            }
            assert_eq!(controller.coefficient(), 0.2);
        }
        controller.update(0.0, 499).unwrap();
        assert!(controller.coefficient() > 0.0);
    }

    #[test]
    fn it_never_gets_stuck() {
        let mut controller = Config::adaptive(1e-30, 6.0, 100.0).init().unwrap();
        for _ in 0..100 {
            controller.update(0.0, 499).unwrap();
        }
        let low = controller.coefficient();
        assert!(low > 0.0);
        assert!(controller.config().init().is_ok());
        for _ in 0..10_000 {
            controller.update(100.0, 499).unwrap();
        }
        assert!(controller.coefficient().is_finite());
        assert!(controller.coefficient() > low);
        assert!(controller.config().init().is_ok());
    }

    #[test]
    fn configurations_are_checked() {
        for (config, name) in [
            (Config::fixed(-0.1), "fixed.coefficient"),
            (Config::fixed(f64::INFINITY), "fixed.coefficient"),
            (Config::adaptive(0.0, 6.0, 1.0), "adaptive.initial"),
            (Config::adaptive(0.1, f64::NAN, 1.0), "adaptive.target"),
            (Config::adaptive(0.1, 6.0, 0.0), "adaptive.horizon"),
        ] {
            out_of_range(config.init(), name);
        }
    }

    #[test]
    fn a_checkpoint_continues() {
        let mut controller = Config::adaptive(0.2, 6.0, 1_000.0).init().unwrap();
        controller.update(12.0, 100).unwrap();
        let config = round_trip(controller.config());
        assert_eq!(config.init().unwrap(), controller);
        let text = r#"{"fixed":{"coefficient":0.1,"horizon":1.0}}"#;
        unknown::<Config>(text, "horizon");
    }
}

mod teacher_signals {
    use policy_loss::{ReverseKlAdvantage, TeacherFactor, TeacherSignalConfig as Config};

    use super::{out_of_range, round_trip, unknown};

    #[test]
    fn numbers_are_checked() {
        let new = ReverseKlAdvantage::new;
        let factor = TeacherFactor::default();
        let cases: [(Config, &str); 10] = [
            (new(-1.0).into(), "reverse_kl.coefficient"),
            (new(f64::NAN).into(), "reverse_kl.coefficient"),
            (new(1.0).with_clamp(0.0).into(), "reverse_kl.clamp"),
            (
                new(1.0).with_clamp(f64::INFINITY).into(),
                "reverse_kl.clamp",
            ),
            (new(1.0).with_discount(1.1).into(), "reverse_kl.discount"),
            (
                new(1.0).with_early_weight(-0.1).into(),
                "reverse_kl.early_weight",
            ),
            (factor.with_mix(1.1).into(), "factor.mix"),
            (factor.with_mix(f64::NAN).into(), "factor.mix"),
            (factor.with_clip(0.0).into(), "factor.clip"),
            (factor.with_clip(1.1).into(), "factor.clip"),
        ];
        for (config, name) in cases {
            out_of_range(config.init(), name);
        }
    }

    #[test]
    fn json() {
        let add = ReverseKlAdvantage::new(0.5)
            .with_clamp(2.0)
            .with_discount(0.9)
            .with_early_weight(0.5);
        for config in [add.into(), TeacherFactor::default().with_mix(0.1).into()] {
            let read: Config = round_trip(&config);
            assert_eq!(*read.init().unwrap().config(), config);
        }
        for (text, name) in [
            (r#"{"reverse_kl":{"clip":1.0}}"#, "clip"),
            (r#"{"factor":{"lambda":1.0}}"#, "lambda"),
            (r#"{"forward_kl":{}}"#, "forward_kl"),
        ] {
            unknown::<Config>(text, name);
        }
    }
}

mod entropy_controllers {
    use policy_loss::{BatchError, EntropyControllerConfig as Config};

    use super::{out_of_range, round_trip, unknown};

    #[test]
    fn it_follows() {
        let config = Config::new(0.2).with_delta(0.25).with_limits(0.0, 0.5);
        let mut controller = config.init().unwrap();
        let mut seen = Vec::new();
        // A target that is met exactly counts as too low.
        for entropy in [0.1, 0.2, 0.05, 0.3, 0.1, 0.9, 0.9, 0.9] {
            seen.push(controller.coefficient());
            controller.update(entropy).unwrap();
        }
        assert_eq!(seen, [0.0, 0.25, 0.5, 0.5, 0.0, 0.5, 0.0, 0.0]);
        assert_eq!(controller.config().initial, 0.0);
    }

    #[test]
    fn what_would_break_it_is_refused() {
        let mut controller = Config::new(0.2).init().unwrap();
        controller.update(0.1).unwrap();
        for entropy in [f64::NAN, f64::INFINITY] {
            match controller.update(entropy) {
                Err(BatchError::OutOfRange { field, .. }) => assert_eq!(field, "mean_entropy"),
                other => panic!("{other:?}"),
            }
            assert_eq!(controller.coefficient(), 0.005);
        }
    }

    #[test]
    fn configurations_are_checked() {
        let config = Config::new(0.2);
        let unknown_past = Config {
            last_entropy: Some(f64::NAN),
            ..config
        };
        for (config, name) in [
            (Config::new(-0.1), "target"),
            (Config::new(f64::NAN), "target"),
            (config.with_delta(0.0), "delta"),
            (config.with_limits(-0.1, 1.0), "minimum"),
            (config.with_limits(0.5, 0.1), "maximum"),
            (config.with_limits(0.0, f64::INFINITY), "maximum"),
            (config.with_initial(1.1), "initial"),
            (config.with_initial(f64::NAN), "initial"),
            (unknown_past, "last_entropy"),
        ] {
            out_of_range(config.init(), name);
        }
    }

    #[test]
    fn a_checkpoint_continues() {
        let mut controller = Config::new(0.2).init().unwrap();
        for entropy in [0.1, 0.1] {
            let config = round_trip(controller.config());
            assert_eq!(config.init().unwrap(), controller);
            controller.update(entropy).unwrap();
        }
        assert_eq!(controller.coefficient(), 0.01);
        unknown::<Config>(r#"{"goal":0.1}"#, "goal");
    }
}
