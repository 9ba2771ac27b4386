//! Objectives and other configurations: what is refused, and why; how they are written down. No
//! device is needed.

use burn::config::Config;
use policy_loss::{
    Behavior, Bounds, Clip, ConfigError, CovarianceClip, CovariancePenalty, EntropyBonus,
    EntropyMask, Filter, FilterEstimator, FilterLevel, FutureGuard, FutureWeight, GammaWeight,
    GeometricMean, KlEstimator, KlGradient, KlPenalty, OffPolicyMask, OpenRlhfPolicyLoss,
    PolicyGradient, PolicyLossConfig, Preset, Ratio, Reduction, RolloutCorrection, RolloutWeight,
    SecondMomentClip, SecondMomentMask, SigmoidGate, SquaredLogRatio, Surrogate, TrustRegion,
    WeightLevel, WeightMode, presets,
};
use policy_loss_tests::compare::assert_names;
use policy_loss_tests::configs;
use proptest::prelude::*;

/// Fails unless the configuration is refused, with a message that names every part.
fn refused(config: PolicyLossConfig, parts: &[&str]) -> ConfigError {
    let error = config.init().expect_err("the configuration is refused");
    assert_eq!(config.validate(), Err(error.clone()));
    assert_names(&error, parts);
    error
}

fn surrogate(surrogate: impl Into<Surrogate>) -> PolicyLossConfig {
    PolicyLossConfig::new().with_surrogate(surrogate)
}

fn corrected(correction: RolloutCorrection) -> PolicyLossConfig {
    PolicyLossConfig::new().with_rollout_correction(correction)
}

#[test]
fn ratios_of_sequences_in_surrogates_of_tokens() {
    let ratios = [Ratio::SEQUENCE, Ratio::SEQUENCE_TOKEN, Ratio::SEQUENCE_SUM];
    let at_most = Bounds::at_most(1.28);
    let surrogates: [Surrogate; 11] = [
        PolicyGradient::new().into(),
        PolicyGradient::weighted(at_most).into(),
        PolicyGradient::weighted_where_negative(at_most).into(),
        GeometricMean::default().into(),
        GammaWeight::default().into(),
        TrustRegion::default().into(),
        CovarianceClip::default().into(),
        CovariancePenalty::default().into(),
        SquaredLogRatio::default().into(),
        SecondMomentMask::default().into(),
        SecondMomentClip::default().into(),
    ];
    for part in surrogates {
        for ratio in ratios {
            let error = refused(surrogate(part).with_ratio(ratio), &["ratio.level", "ratio"]);
            assert!(matches!(error, ConfigError::Combination { .. }));
        }
    }
    for part in [
        Surrogate::from(Clip::default()),
        SigmoidGate::default().into(),
    ] {
        for ratio in ratios {
            assert!(surrogate(part).with_ratio(ratio).init().is_ok());
        }
    }
}

#[test]
fn parts_that_have_no_meaning_together() {
    let same = KlPenalty::new(0.1)
        .with_estimator(KlEstimator::K2)
        .with_gradient(KlGradient::StraightThrough);
    refused(
        PolicyLossConfig::new().with_kl_penalty(same),
        &["k2", "straight_through", "same result"],
    );
    let both = Clip::new(0.2, 0.2).with_dual_clip(3.0).with_delta(3.0);
    refused(surrogate(both), &["dual_clip", "delta"]);
    let low = Clip::new(0.2, 0.4).with_delta(1.3);
    refused(surrogate(low), &["surrogate.clip.delta", "1.3", "1 + high"]);
    let filter = RolloutCorrection::filter(Filter::token_k1(Bounds::new(0.5, 2.0)));
    for ratio in [Ratio::TOKEN, Ratio::SEQUENCE] {
        for correction in [filter, presets::icepop(0.5, 2.0)] {
            let error = refused(
                corrected(correction).with_ratio(ratio.against(Behavior::Rollout)),
                &["ratio.against = rollout", "rollout_correction", "twice"],
            );
            assert!(matches!(error, ConfigError::Combination { .. }));
        }
    }
    refused(
        corrected(filter.with_normalization()),
        &["normalize", "weight"],
    );
    refused(
        corrected(RolloutCorrection::default()),
        &["rollout_correction.weight", "leave"],
    );
}

#[test]
fn numbers_out_of_range() {
    let new = PolicyLossConfig::new;
    for value in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let text = value.to_string();
        let at_most = Bounds::at_most(value);
        for (config, field) in [
            (surrogate(Clip::new(value, 0.2)), "surrogate.clip.low"),
            (surrogate(Clip::new(0.2, value)), "surrogate.clip.high"),
            (
                surrogate(PolicyGradient::weighted(at_most)),
                "surrogate.policy_gradient.weight.ratio.high",
            ),
            (
                surrogate(PolicyGradient::weighted_where_negative(at_most)),
                "surrogate.policy_gradient.weight.ratio_where_negative.high",
            ),
            (
                surrogate(SigmoidGate::new(value, 1.0)),
                "surrogate.sigmoid_gate.positive_temperature",
            ),
            (
                surrogate(SigmoidGate::new(1.0, value)),
                "surrogate.sigmoid_gate.negative_temperature",
            ),
            (
                surrogate(GeometricMean::new(0.4, value)),
                "surrogate.geometric_mean.high",
            ),
            (
                surrogate(SquaredLogRatio::new(value)),
                "surrogate.squared_log_ratio.coefficient",
            ),
            (
                surrogate(GammaWeight {
                    negative_k: value,
                    ..GammaWeight::default()
                }),
                "surrogate.gamma_weight.negative_k",
            ),
            (
                surrogate(TrustRegion {
                    max_ratio: value,
                    ..TrustRegion::default()
                }),
                "surrogate.trust_region.max_ratio",
            ),
            (
                surrogate(SecondMomentMask::new(value)),
                "surrogate.second_moment_mask.threshold",
            ),
            (
                surrogate(SecondMomentClip::new(value, 0.0, 0.0)),
                "surrogate.second_moment_clip.threshold",
            ),
            (
                new().with_future_weight(FutureWeight::default().with_bounds(at_most)),
                "future_weight.bounds.high",
            ),
            (
                new().with_future_weight(FutureWeight::default().with_guard(FutureGuard {
                    ratio: value,
                    ..FutureGuard::default()
                })),
                "future_weight.guard.ratio",
            ),
            (
                new().with_off_policy_mask(OffPolicyMask::new(value)),
                "off_policy_mask.delta",
            ),
            (
                corrected(RolloutCorrection::weigh(RolloutWeight::raw()).with_veto(value)),
                "rollout_correction.veto",
            ),
        ] {
            refused(config, &[field, &text, "above 0"]);
        }
    }
    for value in [1.0, 0.5, 0.0, -1.0, f64::NAN, f64::INFINITY] {
        let clip = Clip::new(0.2, 0.2).with_dual_clip(value);
        refused(
            surrogate(clip),
            &["surrogate.clip.dual_clip", &value.to_string(), "above 1"],
        );
    }
    let least = Clip::new(0.2, 0.2).with_dual_clip(1.0 + f64::EPSILON);
    assert!(surrogate(least).init().is_ok());
    for value in [-0.1, f64::NAN, f64::INFINITY] {
        refused(
            new().with_kl_penalty(KlPenalty::new(value)),
            &["kl_penalty.coefficient", "0 or above"],
        );
        refused(
            new().with_entropy_bonus(EntropyBonus::new(value)),
            &["entropy_bonus.coefficient", "0 or above"],
        );
    }
    for value in [-0.1, f64::NAN, f64::INFINITY] {
        for (clip, field) in [
            (SecondMomentClip::new(0.1, value, 0.0), "min_low"),
            (SecondMomentClip::new(0.1, 0.0, value), "min_high"),
        ] {
            refused(
                surrogate(clip),
                &["surrogate.second_moment_clip", field, "0 or above"],
            );
        }
    }
    for value in [-0.1, 1.1, f64::NAN] {
        refused(
            new().with_future_weight(FutureWeight::new(value)),
            &["future_weight.discount", &value.to_string(), "from 0 to 1"],
        );
    }
    let most = FutureWeight::default().with_max_ratio(1.0);
    refused(
        new().with_future_weight(most),
        &["future_weight.max_ratio", "above 1"],
    );
    let low = FutureWeight::default().with_bounds(Bounds::new(2.0, 1.0));
    refused(
        new().with_future_weight(low),
        &["future_weight.bounds.low", "low <= high"],
    );
    for share in [0.0, 1.5, f64::NAN] {
        let penalty = CovariancePenalty {
            share,
            ..CovariancePenalty::default()
        };
        refused(surrogate(penalty), &["surrogate.covariance_penalty.share"]);
        let mask = new().with_entropy_mask(EntropyMask::new(share));
        refused(mask, &["entropy_mask.share", "above 0, 1 at most"]);
    }
    let inverted = CovarianceClip {
        min_covariance: 5.0,
        ..CovarianceClip::default()
    };
    refused(surrogate(inverted), &["min_covariance", "max_covariance"]);
    let none = Reduction::FixedLength { length: 0 };
    refused(
        new().with_reduction(none),
        &["reduction.fixed_length.length", "above 0"],
    );
}

/// A weight that f32 does not hold would be infinite, and times an advantage of 0 not a number.
#[test]
fn gamma_weights_that_are_too_large() {
    let largest = |k, lambda| GammaWeight {
        negative_k: k,
        negative_lambda: lambda,
        ..GammaWeight::default()
    };
    // exp(lambda - 1) / lambda and exp(k ln k - k + 1) are the largest weights.
    for (k, lambda) in [(1.0, 84.0), (29.0, 1.0)] {
        assert!(
            surrogate(largest(k, lambda)).init().is_ok(),
            "{k}, {lambda}"
        );
    }
    for (k, lambda, value) in [(1.0, 86.0, "86"), (1.0, 120.0, "120"), (40.0, 1.0, "1")] {
        let field = "surrogate.gamma_weight.negative_lambda";
        refused(surrogate(largest(k, lambda)), &[field, value, "e^80"]);
    }
}

#[test]
fn thresholds_of_corrections() {
    let kinds: [fn(f64, f64) -> RolloutCorrection; 3] =
        [presets::tis, presets::icepop, presets::seq_mask_tis];
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
            refused(corrected(kind(low, high)), &["rollout_correction", named]);
        }
        let equal = corrected(kind(1.0, 1.0));
        assert!(equal.init().is_ok(), "low = high is a range");
    }
}

#[test]
fn filters_are_one_for_each_statistic() {
    let wide = Filter::token_k1(Bounds::new(0.1, 9.0));
    let narrow = Filter::token_k1(Bounds::new(0.5, 2.0));
    let correction = RolloutCorrection::filter(wide).with_filter(narrow);
    assert_eq!(correction, RolloutCorrection::filter(narrow));
    let mut all = RolloutCorrection::filter(wide);
    for level in FilterLevel::ALL {
        for estimator in FilterEstimator::ALL {
            all = all.with_filter(Filter::new(level, estimator, Bounds::at_most(2.0)));
        }
    }
    assert_eq!(all.filters.iter().count(), 30);
    let config = corrected(all);
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(
        serde_json::from_str::<PolicyLossConfig>(&json).unwrap(),
        config
    );
}

/// A difference of probabilities may be of either sign; what no filter judges spares nothing.
#[test]
fn filters_of_differences() {
    let of = |estimator, bounds| {
        let filter = Filter::new(FilterLevel::Token, estimator, bounds);
        corrected(RolloutCorrection::filter(filter))
    };
    let difference = FilterEstimator::Difference;
    for bounds in [
        Bounds::new(-0.2, 0.2),
        Bounds::at_most(-0.1),
        Bounds::at_least(0.0),
    ] {
        assert!(of(difference, bounds).init().is_ok(), "{bounds:?}");
        let low = bounds.low.or(bounds.high).unwrap().to_string();
        let refusal = of(FilterEstimator::RatioDistance, bounds);
        refused(
            refusal,
            &["rollout_correction.filters[].bounds", &low, "above 0"],
        );
    }
    let bounds = "rollout_correction.filters[].bounds";
    refused(
        of(difference, Bounds::new(0.2, -0.2)),
        &[bounds, "low <= high"],
    );
    refused(
        of(difference, Bounds::at_most(f64::NAN)),
        &[bounds, "NaN", "finite"],
    );
    let none = Bounds {
        low: None,
        high: None,
    };
    refused(of(difference, none), &[bounds, "is missing"]);
    let weight = RolloutCorrection::weigh(RolloutWeight::raw());
    refused(
        corrected(weight.with_only_moving_away()),
        &["rollout_correction.filters", "only_moving_away"],
    );
    let spared = weight.with_veto(0.1).with_only_moving_away();
    assert!(corrected(spared).init().is_ok());
    let json = serde_json::to_string(&corrected(spared)).unwrap();
    assert!(json.contains(r#""only_moving_away":true"#), "{json}");
    let read: PolicyLossConfig = serde_json::from_str(&json).unwrap();
    assert_eq!(read, corrected(spared));
}

#[test]
fn json_of_the_parts() {
    let json = r#"{
        "ratio": {"level": "sequence_token"},
        "surrogate": {"clip": {"high": 0.28, "delta": 4}},
        "off_policy_mask": {"delta": 0.01},
        "entropy_mask": {"share": 0.3},
        "future_weight": {"discount": 0.9, "bounds": {"low": 1}, "guard": {}},
        "rollout_correction": {
            "weight": {"level": "geometric", "mode": {"mask": {"low": 0.5}}},
            "normalize": true,
            "filters": [
                {"level": "sequence_max", "estimator": "k2", "bounds": {"high": 0.2}},
                {"level": "segment_mean", "estimator": "k3", "bounds": {"high": 0.1}}
            ],
            "veto": 1e-4
        },
        "kl_penalty": {"coefficient": 0.001, "estimator": "k1", "gradient": "straight_through"},
        "entropy_bonus": {"coefficient": 0.01},
        "reduction": {"fixed_length": {"length": 512}}
    }"#;
    let config: PolicyLossConfig = serde_json::from_str(json).unwrap();
    let weight = RolloutWeight::mask(Bounds::at_least(0.5)).of_level(WeightLevel::Geometric);
    let filter = Filter::new(
        FilterLevel::SequenceMax,
        FilterEstimator::K2,
        Bounds::at_most(0.2),
    );
    let of_segments = Filter::new(
        FilterLevel::SegmentMean,
        FilterEstimator::K3,
        Bounds::at_most(0.1),
    );
    let expected = PolicyLossConfig::new()
        .with_ratio(Ratio::SEQUENCE_TOKEN)
        .with_surrogate(Clip::new(0.2, 0.28).with_delta(4.0))
        .with_off_policy_mask(OffPolicyMask::new(0.01))
        .with_entropy_mask(EntropyMask::new(0.3))
        .with_future_weight(
            FutureWeight::new(0.9)
                .with_bounds(Bounds::at_least(1.0))
                .with_guard(FutureGuard::default()),
        )
        .with_rollout_correction(
            RolloutCorrection::weigh(weight)
                .with_normalization()
                .with_filter(filter)
                .with_filter(of_segments)
                .with_veto(1e-4),
        )
        .with_kl_penalty(
            KlPenalty::new(0.001)
                .with_estimator(KlEstimator::K1)
                .with_gradient(KlGradient::StraightThrough),
        )
        .with_entropy_bonus(EntropyBonus::new(0.01))
        .with_reduction(Reduction::FixedLength { length: 512 });
    assert_eq!(config, expected);
    assert!(config.init().is_ok());
    assert!(!config.objective.is_exact_over_shards());
    let weighted: PolicyLossConfig = serde_json::from_str(
        r#"{
            "surrogate": {"policy_gradient": {"weight": {"ratio": {"high": 1.28}}}},
            "rollout_correction": {"weight": {"mode": "raw"}}
        }"#,
    )
    .unwrap();
    let expected = surrogate(PolicyGradient::weighted(Bounds::at_most(1.28)))
        .with_rollout_correction(RolloutCorrection::weigh(RolloutWeight::raw()));
    assert_eq!(weighted, expected);
}

#[test]
fn unknown_and_misplaced_fields_are_refused() {
    for json in [
        r#"{"clip": 0.2}"#,
        r#"{"implementation": "fused"}"#,
        r#"{"surrogate": {"clip": {"lo": 0.2}}}"#,
        r#"{"surrogate": {"clap": {}}}"#,
        r#"{"surrogate": {"clip": {}, "policy_gradient": {}}}"#,
        r#"{"ratio": {"level": "word"}}"#,
        r#"{"ratio": {"level": "token", "clip": 1}}"#,
        r#"{"reduction": "sum"}"#,
        r#"{"rollout_correction": {"mode": "truncate"}}"#,
        r#"{"rollout_correction": {"weight": {"mode": {"cut": {}}}}}"#,
        r#"{"rollout_correction": {"weight": {"mode": {"mask": {"cap": 3}}}}}"#,
        r#"{"rollout_correction": {"weight": {"mode": {"raw": {"low": 0.5}}}}}"#,
        r#"{"rollout_correction": {"filters": [{"level": "token", "estimator": "k4"}]}}"#,
        r#"{"surrogate": {"policy_gradient": {"low": 0.2}}}"#,
        r#"{"surrogate": {"policy_gradient": {"weight": {"ratio": {"max": 5.0}}}}}"#,
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

#[test]
fn saved_and_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    for config in configs::all() {
        config.save(&path).unwrap();
        assert_eq!(PolicyLossConfig::load(&path).unwrap(), config);
    }
}

#[test]
fn presets_are_valid_and_known_by_name() {
    for preset in Preset::ALL {
        assert!(preset.config().init().is_ok(), "{preset}");
        assert_eq!(preset.name().parse::<Preset>(), Ok(preset));
    }
    let error = "a2c".parse::<Preset>().expect_err("unknown");
    assert_names(&error, &["a2c", "ppo", "gspo"]);
}

/// The table of the page on objectives is that of the library.
#[test]
fn every_preset_is_on_the_page_of_objectives() {
    let page = include_str!("../../docs/OBJECTIVES.md");
    for preset in Preset::ALL {
        let row = format!(
            "| `{preset}` | {} |",
            preset
                .summary()
                .replace("|d|", "abs(d)")
                .replace("|r - 1|", "abs(r - 1)")
        );
        assert!(page.contains(&row), "{row}");
        assert!(!preset.source().is_empty());
    }
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| `") && line.contains(" | "));
    assert!(rows.count() > Preset::ALL.len());
}

#[test]
fn openrlhf_arguments_are_refused_by_their_names() {
    let refused = |change: fn(&mut OpenRlhfPolicyLoss), parts: &[&str]| {
        let mut arguments = OpenRlhfPolicyLoss::default();
        change(&mut arguments);
        let error = PolicyLossConfig::try_from(arguments).expect_err("refused");
        assert_names(&error, parts);
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
    refused(
        |a| a.enable_vllm_is_correction = true,
        &["vllm_is_truncated_threshold", "enable_vllm_is_correction"],
    );
    // Thresholds are checked even where nothing uses them, as with GSPO.
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
            assert_names(&error, &["vllm_is_truncated_threshold"]);
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
    assert_eq!(gspo.objective.reduction, Reduction::SequenceMean);
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
    let correction = config.objective.rollout_correction.map(|correction| {
        let bounds = Bounds::new(from, to);
        let mode = correction.weight.map(|weight| weight.mode);
        match mode {
            Some(WeightMode::Truncate(_)) => presets::tis(from, to),
            Some(WeightMode::Mask(_)) => presets::icepop(from, to),
            Some(WeightMode::Raw) => presets::seq_mask_tis(from, to),
            None => RolloutCorrection::filter(Filter::token_k1(bounds)).with_veto(from),
        }
    });
    config
        .with_surrogate(clip)
        .with_rollout_correction(correction)
}

/// Configurations with a meaning, their numbers of any size.
fn valid_config() -> impl Strategy<Value = PolicyLossConfig> {
    let positive = any::<f32>().prop_map(|x| match x.is_normal() {
        true => f64::from(x.abs()),
        false => 0.2,
    });
    let index = 0..configs::all().len();
    let numbers = prop::array::uniform5(positive);
    (index, numbers).prop_map(|(index, [low, high, dual_clip, one, other])| {
        let above_one = (1.0 + dual_clip).clamp(1.5, f64::from(f32::MAX));
        let numbers = [low, high, above_one, one.min(other), one.max(other)];
        with_numbers(index, numbers)
    })
}

fn is_valid(config: &PolicyLossConfig) -> bool {
    let in_f32 = f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX);
    let positive = |x: f64| in_f32.contains(&x);
    let Surrogate::Clip(clip) = config.objective.surrogate else {
        panic!("`with_numbers` takes the clip");
    };
    let ordered = config
        .objective
        .rollout_correction
        .is_none_or(|correction| {
            let mode = correction.weight.map(|weight| weight.mode);
            let of_the_weight = match mode {
                Some(WeightMode::Truncate(bounds) | WeightMode::Mask(bounds)) => Some(bounds),
                Some(WeightMode::Raw) | None => None,
            };
            let of_filters = correction.filters.iter().map(|filter| filter.bounds);
            of_filters.chain(of_the_weight).all(|bounds| {
                let (low, high) = (bounds.low.unwrap(), bounds.high.unwrap());
                positive(low) && positive(high) && low <= high
            })
        });
    let dual_clip = clip.dual_clip.is_none_or(|c| positive(c) && c > 1.0);
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
