//! The value loss that verl computes.

use std::collections::BTreeMap;

use burn::tensor::DType;
use policy_loss::ValueLossConfig;
use serde::Deserialize;
use serde_json::Value;

use crate::compare::{Tolerance, assert_all_near, assert_near};
use crate::golden::{Directory, frameworks};
use crate::runner::Runner;
use crate::value_loss::case::Case;

#[derive(Deserialize)]
struct File {
    objectives: Vec<FileCase>,
}

#[derive(Deserialize)]
struct FileCase {
    name: String,
    params: Value,
    inputs: BTreeMap<String, Vec<Vec<f64>>>,
    expected: Value,
}

/// Loss, gradient and clipped fraction.
pub fn framework_cases(runner: &Runner) {
    let directory = Directory::of_environment();
    let file: File = directory.json(frameworks::FILE);
    let cases: Vec<_> = file
        .objectives
        .into_iter()
        .filter(|case| case.params["mode"] == "value_loss")
        .collect();
    directory.assert_count(frameworks::FILE, cases.len(), 2);
    for FileCase {
        name,
        params,
        inputs,
        expected,
    } in cases
    {
        assert_eq!(params["loss_agg_mode"], "token-mean", "{name}");
        let clip = params["cliprange_value"].as_f64().expect("a number");
        let shape = [inputs["values"].len(), inputs["values"][0].len()];
        let mask = inputs["action_mask"].concat();
        let case = Case {
            values: inputs["values"].concat(),
            returns: inputs["returns"].concat(),
            old_values: inputs["old_values"].concat(),
            mask: Some(mask.iter().map(|valid| *valid == 1.0).collect()),
            ..Case::new(ValueLossConfig::new().with_clip(clip), shape)
        };
        let gradient: Vec<Vec<f64>> =
            serde_json::from_value(expected["grad_values"].clone()).expect("a matrix");
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {name}");
            let actual = case.run(runner, dtype);
            // verl adds 1e-8 to the count that it divides by.
            let tolerance = match dtype {
                DType::F64 => Tolerance::of(2e-8),
                _ => Tolerance::value(dtype),
            };
            let near = |actual: f64, name: &str| {
                let expected = expected[name].as_f64().expect("a number");
                assert_near(tolerance, &format!("{what}: {name}"), actual, expected);
            };
            near(actual.loss, "loss");
            near(actual.metrics[0].1, "clip_frac");
            if runner.is_tracked() {
                let tolerance = Tolerance::gradient(dtype).at_least(tolerance.relative);
                assert_all_near(tolerance, &what, &actual.gradient, &gradient.concat());
            }
        }
    }
}
