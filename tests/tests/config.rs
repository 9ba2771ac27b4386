//! Configurations: what is refused, and how they are written down. No device is needed.

use policy_loss::{
    Behavior, Bounds, Clip, ConfigError, Filter, OpenRlhfPolicyLoss, PolicyLossConfig, Preset,
    Ratio, Reduction, RolloutCorrection, Surrogate, WeightMode,
};
use policy_loss_tests::configs;
use proptest::prelude::*;

fn refused(config: PolicyLossConfig) -> ConfigError {
    let error = config.init().expect_err("the configuration is refused");
    assert_eq!(config.validate(), Err(error.clone()));
    error
}

fn assert_names(id: &str, error: &ConfigError, parts: &[&str]) {
    let message = error.to_string();
    for part in parts {
        assert!(
            message.contains(part),
            "{id}: {message:?} does not name {part:?}"
        );
    }
}

#[test]
fn b3_dual_clip() {
    for value in [1.0, 0.5, 0.0, -1.0, f64::NAN, f64::INFINITY] {
        let clip = Clip::new(0.2, 0.2).with_dual_clip(value);
        let error = refused(PolicyLossConfig::new().with_surrogate(clip));
        assert_names("B3", &error, &["dual_clip", &value.to_string(), "above 1"]);
    }
    let least = Clip::new(0.2, 0.2).with_dual_clip(1.0 + f64::EPSILON);
    assert!(PolicyLossConfig::new().with_surrogate(least).init().is_ok());
}

#[test]
fn bounds() {
    for value in [0.0, -0.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let low = PolicyLossConfig::new().with_surrogate(Clip::new(value, 0.2));
        assert_names(
            "low",
            &refused(low),
            &["low", &value.to_string(), "above 0"],
        );
        let high = PolicyLossConfig::new().with_surrogate(Clip::new(0.2, value));
        assert_names(
            "high",
            &refused(high),
            &["high", &value.to_string(), "above 0"],
        );
    }
}

#[test]
fn h4_thresholds() {
    let kinds: [fn(f64, f64) -> RolloutCorrection; 3] = [
        |low, high| RolloutCorrection::tis(low, high),
        |low, high| RolloutCorrection::icepop(low, high),
        |low, high| RolloutCorrection::seq_mask_tis(low, high),
    ];
    for kind in kinds {
        for (low, high, named) in [
            (5.0, 0.5, "low"),
            (0.0, 5.0, "low"),
            (-1.0, 5.0, "low"),
            (f64::NAN, 5.0, "low"),
            (0.5, f64::INFINITY, "high"),
            (0.5, f64::NAN, "high"),
            (0.5, 0.0, "high"),
        ] {
            let config = PolicyLossConfig::new().with_rollout_correction(kind(low, high));
            assert_names("H4", &refused(config), &["rollout_correction", named]);
        }
        let equal = PolicyLossConfig::new().with_rollout_correction(kind(1.0, 1.0));
        assert!(equal.init().is_ok(), "H4: low = high is a range");
    }
}

#[test]
fn a_weight_on_a_ratio_against_rollout() {
    for ratio in [Ratio::TOKEN, Ratio::SEQUENCE] {
        let config = PolicyLossConfig::new()
            .with_ratio(ratio.against(Behavior::Rollout))
            .with_rollout_correction(RolloutCorrection::icepop(0.5, 2.0));
        let error = refused(config);
        assert!(matches!(error, ConfigError::Combination { .. }));
        assert_names(
            "combination",
            &error,
            &["ratio.against", "rollout_correction", "twice"],
        );
    }
}

#[test]
fn openrlhf_arguments_are_refused_by_their_names() {
    let refused = |change: fn(&mut OpenRlhfPolicyLoss), parts: &[&str]| {
        let mut arguments = OpenRlhfPolicyLoss::default();
        change(&mut arguments);
        let error = PolicyLossConfig::try_from(arguments).expect_err("refused");
        assert_names("OpenRLHF", &error, parts);
    };
    refused(|a| a.clip_eps_low = 0.0, &["clip_eps_low"]);
    refused(|a| a.clip_eps_high = f64::NAN, &["clip_eps_high"]);
    refused(|a| a.dual_clip = Some(1.0), &["dual_clip"]);
    refused(
        |a| a.policy_loss_type = "dpo".into(),
        &["policy_loss_type", "dpo", "gspo"],
    );
    refused(
        |a| a.vllm_is_correction_type = "is".into(),
        &["vllm_is_correction_type", "icepop", "seq-mask-tis"],
    );
    // H4, and G3: thresholds are validated even where nothing uses them.
    refused(
        |a| a.enable_vllm_is_correction = true,
        &["vllm_is_truncated_threshold", "enable_vllm_is_correction"],
    );
    for kind in ["ppo", "gspo"] {
        for thresholds in [
            [5.0, 0.5],
            [0.0, 1.0],
            [0.5, f64::INFINITY],
            [f64::NAN, 1.0],
        ] {
            let arguments = OpenRlhfPolicyLoss {
                policy_loss_type: kind.into(),
                enable_vllm_is_correction: true,
                vllm_is_truncated_threshold: Some(thresholds),
                ..OpenRlhfPolicyLoss::default()
            };
            let error = PolicyLossConfig::try_from(arguments).expect_err("refused");
            assert_names("H4, G3", &error, &["vllm_is_truncated_threshold"]);
        }
    }
}

#[test]
fn openrlhf_names_and_defaults() {
    let json = serde_json::to_value(OpenRlhfPolicyLoss::default()).unwrap();
    let expected = serde_json::json!({
        "clip_eps_low": 0.2,
        "clip_eps_high": 0.2,
        "dual_clip": null,
        "token_level_loss": true,
        "policy_loss_type": "ppo",
        "enable_vllm_is_correction": false,
        "vllm_is_truncated_threshold": null,
        "vllm_is_correction_type": "tis",
    });
    assert_eq!(json, expected);
    let empty: OpenRlhfPolicyLoss = serde_json::from_str("{}").unwrap();
    assert_eq!(
        PolicyLossConfig::try_from(empty),
        Ok(PolicyLossConfig::new())
    );
    let unknown = serde_json::from_str::<OpenRlhfPolicyLoss>(r#"{"clip_eps": 0.2}"#);
    assert!(unknown.is_err(), "an unknown argument is not ignored");
    // `gspo` forces the sequence mean.
    let gspo = serde_json::from_str::<OpenRlhfPolicyLoss>(r#"{"policy_loss_type": "gspo"}"#);
    let gspo = PolicyLossConfig::try_from(gspo.unwrap()).unwrap();
    assert_eq!(gspo.reduction, Reduction::SequenceMean);
}

#[test]
fn presets_are_valid_and_known_by_name() {
    for preset in Preset::ALL {
        assert!(preset.config().init().is_ok(), "{preset}");
        assert_eq!(preset.name().parse::<Preset>(), Ok(preset));
    }
    let error = "a2c".parse::<Preset>().expect_err("unknown");
    assert_names("preset", &error, &["a2c", "ppo", "gspo"]);
}

#[test]
fn unknown_and_misplaced_fields_are_refused() {
    for json in [
        r#"{"clip": 0.2}"#,
        r#"{"surrogate": {"type": "clip", "lo": 0.2}}"#,
        r#"{"surrogate": {"type": "clap"}}"#,
        r#"{"ratio": {"level": "word"}}"#,
        r#"{"ratio": {"level": "token", "clip": 1}}"#,
        r#"{"reduction": "sum"}"#,
        r#"{"rollout_correction": {"mode": "truncate"}}"#,
        r#"{"rollout_correction": {"weight": {"mode": {"type": "cut"}}}}"#,
        r#"{"rollout_correction": {"weight": {"mode": {"type": "mask", "cap": 3}}}}"#,
        r#"{"rollout_correction": {"weight": {"mode": {"type": "raw", "low": 0.5}}}}"#,
        r#"{"rollout_correction": {"filters": [{"level": "token", "estimator": "k4"}]}}"#,
        r#"{"surrogate": {"type": "reinforce", "low": 0.2}}"#,
        r#"{"surrogate": {"type": "cispo", "high": 5.0}}"#,
        r#"{"kl_penalty": {"estimator": "k3"}}"#,
        r#"{"kl_penalty": {"coefficient": 0.1, "kind": "k3"}}"#,
        r#"{"entropy_bonus": {"coefficient": 0.1, "low": 1}}"#,
        r#"{"reduction": {"fixed_length": {"size": 3}}}"#,
    ] {
        let parsed = serde_json::from_str::<PolicyLossConfig>(json);
        assert!(parsed.is_err(), "{json} became {parsed:?}");
    }
    let empty: PolicyLossConfig = serde_json::from_str("{}").unwrap();
    assert_eq!(empty, PolicyLossConfig::new());
}

/// Any number at all, the strange ones often.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => 1e-6..10.0,
        1 => any::<f64>(),
        1 => proptest::sample::select(vec![0.0, 1.0, -1.0, f64::NAN, f64::INFINITY]),
    ]
}

fn config() -> impl Strategy<Value = PolicyLossConfig> {
    let index = 0..configs::all().len();
    let numbers = prop::array::uniform5(number());
    (index, numbers).prop_map(|(index, numbers)| with_numbers(index, numbers))
}

fn with_numbers(index: usize, [low, high, dual_clip, from, to]: [f64; 5]) -> PolicyLossConfig {
    let config = configs::all()[index];
    let mut clip = Clip::new(low, high);
    clip.dual_clip = (!index.is_multiple_of(3)).then_some(dual_clip);
    let correction = config.rollout_correction.map(|correction| {
        let bounds = Bounds::new(from, to);
        let mode = correction.weight.map(|weight| weight.mode);
        match mode {
            Some(WeightMode::Truncate(_)) => RolloutCorrection::tis(from, to),
            Some(WeightMode::Mask(_)) => RolloutCorrection::icepop(from, to),
            Some(WeightMode::Raw(_)) => RolloutCorrection::seq_mask_tis(from, to),
            None => RolloutCorrection::filter(Filter::token_k1(bounds)).with_veto(from),
        }
    });
    config
        .with_surrogate(clip)
        .with_rollout_correction(correction)
}

/// Configurations with a meaning, their numbers of any size.
fn valid_config() -> impl Strategy<Value = PolicyLossConfig> {
    let positive = any::<f64>().prop_map(|x| match x.is_normal() {
        true => x.abs(),
        false => 0.2,
    });
    let index = 0..configs::all().len();
    let numbers = prop::array::uniform5(positive);
    (index, numbers).prop_map(|(index, [low, high, dual_clip, one, other])| {
        let above_one = (1.0 + dual_clip).clamp(1.5, f64::MAX);
        let numbers = [low, high, above_one, one.min(other), one.max(other)];
        with_numbers(index, numbers)
    })
}

fn is_valid(config: &PolicyLossConfig) -> bool {
    let positive = |x: f64| x.is_finite() && x > 0.0;
    let Surrogate::Clip(clip) = config.surrogate else {
        panic!("`with_numbers` takes the clip");
    };
    let ordered = config.rollout_correction.is_none_or(|correction| {
        let mode = correction.weight.map(|weight| weight.mode);
        let of_the_weight = match mode {
            Some(WeightMode::Truncate(bounds) | WeightMode::Mask(bounds)) => Some(bounds),
            _ => None,
        };
        let of_filters = correction.filters.iter().map(|filter| filter.bounds);
        of_filters.chain(of_the_weight).all(|bounds| {
            let (low, high) = (bounds.low.unwrap(), bounds.high.unwrap());
            positive(low) && positive(high) && low <= high
        })
    });
    let dual_clip = clip.dual_clip.is_none_or(|c| c.is_finite() && c > 1.0);
    positive(clip.low) && positive(clip.high) && dual_clip && ordered
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_configuration_is_accepted_exactly_where_it_has_a_meaning(config in config()) {
        prop_assert_eq!(config.init().is_ok(), is_valid(&config));
    }

    #[test]
    fn json_round_trip(config in valid_config()) {
        prop_assert!(is_valid(&config));
        let json = serde_json::to_string(&config).unwrap();
        prop_assert_eq!(serde_json::from_str::<PolicyLossConfig>(&json).unwrap(), config);
    }
}
