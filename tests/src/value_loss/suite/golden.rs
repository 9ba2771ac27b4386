//! The value loss that verl computes.

use burn::tensor::DType;
use policy_loss::ValueLossConfig;

use crate::compare::{Tolerance, assert_all_near, assert_near};
use crate::golden::{Directory, frameworks};
use crate::runner::Runner;
use crate::value_loss::case::Case;

/// Loss, gradient and clipped fraction.
pub fn framework_cases(runner: &Runner) {
    let directory = Directory::of_environment();
    let all = frameworks::file_cases(&directory).into_iter();
    let of_values = all.filter(|file| file.params["mode"] == "value_loss");
    let files: Vec<_> = of_values.collect();
    directory.assert_count(frameworks::FILE, files.len(), 2);
    for file in files {
        let (name, params, inputs) = (&file.name, &file.params, &file.inputs);
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
        for dtype in runner.exact_dtypes() {
            let what = format!("{runner}, {dtype:?}, {name}");
            let actual = case.run(runner, dtype);
            // verl adds 1e-8 to the count that it divides by.
            let tolerance = match dtype {
                DType::F64 => Tolerance::of(2e-8),
                _ => Tolerance::value(dtype),
            };
            let near = |actual: f64, name: &str| {
                let what = format!("{what}: {name}");
                assert_near(tolerance, &what, actual, file.expected(name));
            };
            near(actual.loss, "loss");
            near(actual.metrics[0].1, "clip_frac");
            if runner.is_tracked() {
                let tolerance = Tolerance::gradient(dtype).at_least(tolerance.relative);
                let expected = file.gradient("grad_values");
                assert_all_near(tolerance, &what, &actual.gradient, &expected);
            }
        }
    }
}
