//! The parts of an objective: what is refused, and why; what JSON looks like. No device is needed.

use burn::config::Config;
use policy_loss::{
    Behavior, Bounds, Cispo, Clip, ClipCov, ConfigError, Dppo, EntropyBonus, Filter,
    FilterEstimator, FilterLevel, GeometricMean, KlCov, KlEstimator, KlGradient, KlPenalty,
    OffPolicyMask, PolicyLossConfig, Preset, Ratio, RatioLevel, Reduction, Reinforce,
    RolloutCorrection, RolloutWeight, Sapo, SquaredLogRatio, Surrogate, Topr, TruncatedImportance,
    Vespo, WeightLevel,
};
use policy_loss_tests::configs;

fn refused(config: PolicyLossConfig, parts: &[&str]) -> ConfigError {
    let error = config.init().expect_err("the configuration is refused");
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not name {part:?}");
    }
    error
}

fn surrogate(surrogate: impl Into<Surrogate>) -> PolicyLossConfig {
    PolicyLossConfig::new().with_surrogate(surrogate)
}

#[test]
fn ratios_of_sequences_in_surrogates_of_tokens() {
    let surrogates: [Surrogate; 10] = [
        Cispo::default().into(),
        GeometricMean::default().into(),
        Reinforce::default().into(),
        TruncatedImportance::default().into(),
        Topr::default().into(),
        Vespo::default().into(),
        Dppo::default().into(),
        ClipCov::default().into(),
        KlCov::default().into(),
        SquaredLogRatio::default().into(),
    ];
    for part in surrogates {
        assert!(surrogate(part).init().is_ok(), "{}", part.name());
        for ratio in [Ratio::SEQUENCE, Ratio::SEQUENCE_TOKEN, Ratio::SEQUENCE_SUM] {
            let error = refused(surrogate(part).with_ratio(ratio), &["ratio.level", "ratio"]);
            assert!(matches!(error, ConfigError::Combination { .. }));
        }
    }
    for part in [Surrogate::from(Clip::default()), Sapo::default().into()] {
        for ratio in [Ratio::SEQUENCE, Ratio::SEQUENCE_TOKEN, Ratio::SEQUENCE_SUM] {
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
    refused(surrogate(low), &["surrogate.delta", "1.3", "1 + high"]);
    let filter = RolloutCorrection::filter(Filter::token_k1(Bounds::new(0.5, 2.0)));
    refused(
        PolicyLossConfig::new()
            .with_ratio(Ratio::TOKEN.against(Behavior::Rollout))
            .with_rollout_correction(filter),
        &["ratio.against = rollout", "rollout_correction", "twice"],
    );
    let corrected = |correction| PolicyLossConfig::new().with_rollout_correction(correction);
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
    for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let text = value.to_string();
        for (config, field) in [
            (surrogate(Cispo::new(value)), "surrogate.max"),
            (surrogate(Sapo::new(value, 1.0)), "positive_temperature"),
            (surrogate(Sapo::new(1.0, value)), "negative_temperature"),
            (surrogate(GeometricMean::new(0.4, value)), "surrogate.high"),
            (
                surrogate(SquaredLogRatio { coefficient: value }),
                "coefficient",
            ),
            (
                surrogate(Vespo {
                    negative_k: value,
                    ..Vespo::default()
                }),
                "negative_k",
            ),
            (
                surrogate(Dppo {
                    max_ratio: value,
                    ..Dppo::default()
                }),
                "max_ratio",
            ),
            (
                PolicyLossConfig::new().with_off_policy_mask(OffPolicyMask::new(value)),
                "off_policy_mask.delta",
            ),
            (
                PolicyLossConfig::new().with_rollout_correction(
                    RolloutCorrection::weigh(RolloutWeight::raw()).with_veto(value),
                ),
                "rollout_correction.veto",
            ),
        ] {
            refused(config, &[field, &text, "above 0"]);
        }
    }
    for value in [-0.1, f64::NAN, f64::INFINITY] {
        let new = PolicyLossConfig::new;
        refused(
            new().with_kl_penalty(KlPenalty::new(value)),
            &["kl_penalty.coefficient", "0 or above"],
        );
        refused(
            new().with_entropy_bonus(EntropyBonus::new(value)),
            &["entropy_bonus.coefficient", "0 or above"],
        );
    }
    for share in [0.0, 1.5, f64::NAN] {
        let coefficient = 1.0;
        refused(
            surrogate(KlCov { share, coefficient }),
            &["surrogate.share"],
        );
    }
    let inverted = ClipCov {
        min_covariance: 5.0,
        ..ClipCov::default()
    };
    refused(surrogate(inverted), &["min_covariance", "max_covariance"]);
    let none = Reduction::FixedLength { length: 0 };
    refused(
        PolicyLossConfig::new().with_reduction(none),
        &["length", "above 0"],
    );
}

#[test]
fn filters_are_one_for_each_statistic() {
    let wide = Filter::token_k1(Bounds::new(0.1, 9.0));
    let narrow = Filter::token_k1(Bounds::new(0.5, 2.0));
    let correction = RolloutCorrection::filter(wide).with_filter(narrow);
    assert_eq!(correction, RolloutCorrection::filter(narrow));
    let twice = r#"{"rollout_correction": {"filters": [
        {"level": "token", "estimator": "k1", "bounds": {"high": 2}},
        {"level": "token", "estimator": "k1", "bounds": {"low": 0.5}}]}}"#;
    let error = serde_json::from_str::<PolicyLossConfig>(twice).expect_err("twice");
    assert!(error.to_string().contains("intersection"), "{error}");
    let mut all = RolloutCorrection::filter(wide);
    for level in [
        FilterLevel::Token,
        FilterLevel::SequenceSum,
        FilterLevel::SequenceMean,
        FilterLevel::SequenceMax,
    ] {
        for estimator in [
            FilterEstimator::K1,
            FilterEstimator::K2,
            FilterEstimator::K3,
        ] {
            all = all.with_filter(Filter::new(level, estimator, Bounds::at_most(2.0)));
        }
    }
    assert_eq!(all.filters.iter().count(), 12);
    let config = PolicyLossConfig::new().with_rollout_correction(all);
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(
        serde_json::from_str::<PolicyLossConfig>(&json).unwrap(),
        config
    );
}

#[test]
fn json_of_the_parts() {
    let json = r#"{
        "ratio": {"level": "sequence_token"},
        "surrogate": {"type": "clip", "high": 0.28, "delta": 4},
        "off_policy_mask": {"delta": 0.01},
        "rollout_correction": {
            "weight": {"level": "geometric", "mode": {"type": "mask", "low": 0.5}},
            "normalize": true,
            "filters": [{"level": "sequence_max", "estimator": "k2", "bounds": {"high": 0.2}}],
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
    let expected = PolicyLossConfig::new()
        .with_ratio(Ratio::SEQUENCE_TOKEN)
        .with_surrogate(Clip::new(0.2, 0.28).with_delta(4.0))
        .with_off_policy_mask(OffPolicyMask::new(0.01))
        .with_rollout_correction(
            RolloutCorrection::weigh(weight)
                .with_normalization()
                .with_filter(filter)
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
    assert_eq!(config.ratio.level, RatioLevel::SequenceToken);
    assert!(config.init().is_ok());
    assert!(!config.is_exact_over_shards());
}

/// The table of the README is that of the library.
#[test]
fn every_preset_is_in_the_readme() {
    let readme = include_str!("../../README.md");
    for preset in Preset::ALL {
        let row = format!(
            "| `{preset}` | {} |",
            preset.summary().replace("|d|", "abs(d)")
        );
        assert!(readme.contains(&row), "{row}");
        assert!(!preset.source().is_empty());
    }
    let rows = readme
        .lines()
        .filter(|line| line.starts_with("| `") && line.contains(" | "));
    assert!(rows.count() > Preset::ALL.len());
}

#[test]
fn saved_and_loaded() {
    let path = std::env::temp_dir().join(format!("policy-loss-{}.json", std::process::id()));
    for config in configs::all() {
        config.save(&path).unwrap();
        assert_eq!(PolicyLossConfig::load(&path).unwrap(), config);
    }
    std::fs::remove_file(path).unwrap();
}
