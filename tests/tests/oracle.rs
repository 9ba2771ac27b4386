//! The oracle itself, against what others compute and against slopes. No device is needed.

use burn::tensor::DType;
use policy_loss_tests::case::Case;
use policy_loss_tests::compare::{Tolerance, assert_all_near, assert_near};
use policy_loss_tests::golden::{
    Directory, frameworks, openrlhf, peers, real_rollout, verl_rollout,
};
use policy_loss_tests::{busy::busy, configs};

#[test]
fn golden_openrlhf_cases() {
    for golden in openrlhf::cases(&Directory::of_environment()) {
        let (case, expected) = (&golden.case, &golden.expected);
        let [tolerance, _] = openrlhf::tolerances(case, DType::F64);
        let answer = case.answer();
        let reference = &expected.reference;
        reference.check(tolerance, &case.name, answer.loss, &answer.metrics);
        let gradient = expected.gradient();
        assert_all_near(tolerance, &case.name, &answer.gradient, &gradient);
    }
}

#[test]
fn golden_real_rollout() {
    for (case, expected) in real_rollout::cases(&Directory::of_environment()) {
        let [tolerance, _] = openrlhf::tolerances(&case, DType::F64);
        let answer = case.answer();
        let reference = &expected.reference;
        reference.check(tolerance, &case.name, answer.loss, &answer.metrics);
        let squares: f64 = answer.gradient.iter().map(|g| g * g).sum();
        assert_near(tolerance, &case.name, squares.sqrt(), expected.grad_l2);
        let nonzero = answer.gradient.iter().filter(|g| **g != 0.0).count();
        assert_eq!(nonzero, expected.grad_nonzero, "{}", case.name);
    }
}

/// Everything that a formula takes as a constant is held at the point where the slope is taken.
#[test]
fn gradients_are_slopes() {
    const STEP: f64 = 1e-6;
    for seed in 0..4 {
        for config in configs::all() {
            let case = busy(seed).with_config(config);
            let answer = case.answer();
            let what = format!("busy {seed}, {}", configs::describe(&config));
            assert!(answer.margin > STEP, "{what} lies on a kink");
            let slope = |values: fn(&mut Case) -> &mut Vec<f64>, i: usize| {
                let loss_at = |offset: f64| {
                    let mut moved = case.clone();
                    values(&mut moved)[i] += offset;
                    moved.answer_around(&case.log_probs).loss
                };
                (loss_at(STEP) - loss_at(-STEP)) / (2.0 * STEP)
            };
            for i in 0..case.log_probs.len() {
                let what = format!("{what}, [{i}]");
                let expected = slope(|case| &mut case.log_probs, i);
                assert_near(Tolerance::of(1e-7), &what, answer.gradient[i], expected);
                let expected = slope(|case| case.entropies.as_mut().expect("busy has some"), i);
                let actual = answer.entropy_gradient[i];
                assert_near(Tolerance::of(1e-7), &what, actual, expected);
            }
        }
    }
}

/// Where the oracle differs from a framework, the reason is listed; where a reason is listed, it
/// differs.
#[test]
fn golden_framework_cases() {
    let mut wrong = Vec::new();
    let directory = Directory::of_environment();
    let mut cases = frameworks::cases(&directory);
    cases.extend(peers::cases(&directory));
    for golden in cases {
        let tolerance = Tolerance::of(1e-7);
        let answer = golden.case.answer();
        let agrees = tolerance.accepts(answer.loss, golden.loss)
            && std::iter::zip(&answer.gradient, &golden.gradient)
                .all(|(actual, expected)| tolerance.accepts(*actual, *expected));
        if agrees != golden.departure.is_none() {
            wrong.push(format!(
                "{}: loss {} for {}, gradient {:?} for {:?}",
                golden.case.name,
                answer.loss,
                golden.loss,
                &answer.gradient[..answer.gradient.len().min(4)],
                &golden.gradient[..golden.gradient.len().min(4)]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn golden_rollout_corrections() {
    let mut wrong = Vec::new();
    for golden in verl_rollout::rollout_cases(&Directory::of_environment()) {
        let answer = golden.case.answer();
        // verl adds 1e-8 to the mean that it divides by.
        let tolerance = match golden.name.ends_with("batchnorm") {
            true => Tolerance::of(2e-8),
            false => Tolerance::of(1e-12),
        };
        for (i, expected) in golden.weights.iter().enumerate() {
            let actual = answer.token_losses[i];
            if !tolerance.accepts(actual, *expected) {
                wrong.push(format!("{}[{i}]: {actual} for {expected}", golden.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Another directory takes the place of this one, whole.
mod other_directories {
    use std::path::Path;
    use std::process::{Command, Output};

    use policy_loss_tests::golden::DIRECTORY;

    const FILE: &str = "openrlhf_policy_loss.json";

    /// Runs a golden test of this very program.
    fn run(directory: &Path) -> (bool, String) {
        let program = std::env::current_exe().expect("it is running");
        let Output {
            status,
            stdout,
            stderr,
        } = Command::new(program)
            .args(["--exact", "golden_openrlhf_cases"])
            .env(DIRECTORY, directory)
            .output()
            .expect("it can be started");
        let output = [stdout, stderr].concat();
        let output = String::from_utf8(output).expect("it writes text");
        assert!(output.contains("running 1 test"), "{output}");
        (status.success(), output)
    }

    #[test]
    fn are_read() {
        let directory = tempfile::tempdir().expect("it can be made");
        let path = directory.path().join(FILE);
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/data/");
        let text = std::fs::read_to_string(format!("{own}{FILE}")).expect("it can be read");
        let mut file: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        // One case is as good as many.
        let cases = file["cases"].as_array_mut().expect("a list");
        cases.truncate(1);
        std::fs::write(&path, file.to_string()).expect("it can be written");
        let (succeeds, output) = run(directory.path());
        assert!(succeeds, "{output}");

        let loss = &mut file["cases"][0]["expected_f64"]["loss"];
        *loss = (loss.as_f64().expect("a number") + 1e-6).into();
        std::fs::write(&path, file.to_string()).expect("it can be written");
        let (succeeds, output) = run(directory.path());
        assert!(!succeeds && output.contains("loss is"), "{output}");

        file["cases"] = serde_json::json!([]);
        std::fs::write(&path, file.to_string()).expect("it can be written");
        let (succeeds, output) = run(directory.path());
        assert!(!succeeds && output.contains("holds no case"), "{output}");
    }

    #[test]
    fn what_is_missing_is_a_failure() {
        let directory = tempfile::tempdir().expect("it can be made");
        for missing in [directory.path(), &directory.path().join("absent")] {
            let (succeeds, output) = run(missing);
            assert!(!succeeds, "{output}");
            for part in [DIRECTORY, FILE, &missing.display().to_string()] {
                assert!(output.contains(part), "{output} does not name {part}");
            }
        }
        std::fs::write(directory.path().join(FILE), "{}").expect("it can be written");
        let (succeeds, output) = run(directory.path());
        let named = output.contains("does not hold golden values") && output.contains(FILE);
        assert!(!succeeds && named, "{output}");
    }
}
