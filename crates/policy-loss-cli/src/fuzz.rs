//! What fuzzing checks of the program, as functions of bytes. The targets in `fuzz/` call them, and so
//! do tests, with every input that was once found.

use std::path::Path;
use std::sync::OnceLock;

use burn::tensor::Tensor;
use clap::Parser;
use policy_loss::{
    EntropyBonus, EntropyMask, KlPenalty, PolicyBatch, PolicyLossConfig, Reduction, presets,
};
use policy_loss_report::Report;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::args::{Arguments, Command, EvalArguments, ReportArguments};
use crate::backends::Backend;
use crate::objective::{Objective, as_json, from_bytes, from_openrlhf};
use crate::output::Failure;
use crate::requested::Requested;
use crate::{eval, pictures};

/// Does with the bytes of a batch what `eval --inspect --grad-out` and `report` do, under an objective that reads
/// little and one that reads everything. Whether the first one took it.
///
/// # Panics
///
/// The program would panic, fail for another reason than its input, or say what is no JSON.
pub fn batch_file(bytes: &[u8]) -> bool {
    static SETUP: OnceLock<(EvalArguments, ReportArguments, [Objective; 2])> = OnceLock::new();
    let (eval, report, objectives) = SETUP.get_or_init(|| {
        let arguments = |all: &str| Arguments::parse_from(all.split(' ')).command;
        let eval = "policy-loss eval batch.safetensors --inspect --grad-out gradient.safetensors";
        let report = "policy-loss report batch.safetensors --out page.html";
        match (arguments(eval), arguments(report)) {
            (Command::Eval(eval), Command::Report(report)) => (eval, report, objectives()),
            other => unreachable!("other commands: {other:?}"),
        }
    });
    let taken = objectives.each_ref().map(|objective| {
        let result = eval::evaluate(eval, objective, bytes);
        let Some((said, gradient)) = taken(result) else {
            return false;
        };
        assert!(said.table().contains("loss"));
        let json = serde_json::to_string(&said).expect("a report is JSON");
        assert!(matches!(serde_json::from_str(&json), Ok(Value::Object(_))));
        let gradient = gradient.expect("it was asked for");
        let file = SafeTensors::deserialize(&gradient).expect("a gradient is a safetensors file");
        let gradient = file.tensor("grad_log_probs").expect("its one tensor");
        assert_eq!(gradient.shape(), said.shape);
        let page = Report::new("page");
        let path = Path::new("batch.safetensors");
        let objective = std::slice::from_ref(objective);
        // It shows more than is evaluated, and may refuse more.
        if let Some(page) = taken(pictures::with_batch(page, report, path, bytes, objective)) {
            assert!(page.to_html().contains("</html>"));
        }
        true
    });
    taken[0]
}

/// What came of an input, or nothing where it was refused.
fn taken<T>(result: Result<T, Failure>) -> Option<T> {
    match result {
        Ok(result) => Some(result),
        Err(Failure::BadInput(what)) => {
            assert!(!what.is_empty());
            None
        }
        Err(failure) => panic!("{failure:?} of an input"),
    }
}

fn objectives() -> [Objective; 2] {
    let everything = PolicyLossConfig::new()
        .with_rollout_correction(presets::tis(0.5, 2.0))
        .with_kl_penalty(KlPenalty::new(0.1))
        .with_entropy_mask(EntropyMask::new(0.5))
        .with_entropy_bonus(EntropyBonus::new(0.1))
        .with_reduction(Reduction::PromptMean);
    [PolicyLossConfig::new(), everything].map(|config| Objective {
        loss: config.init().expect("an objective with a meaning"),
        requested: Requested::Default,
    })
}

/// Reads text as `--config` and as `--openrlhf` do. An objective is printed and read again; one that
/// has a meaning is computed, with its gradient. Whether there was one.
///
/// # Panics
///
/// The program would panic, or refuse what it printed itself.
pub fn objective(bytes: &[u8]) -> bool {
    let openrlhf = str::from_utf8(bytes).ok().map(from_openrlhf);
    let read = [Some(from_bytes(bytes)), openrlhf].into_iter().flatten();
    let mut is_any = false;
    for config in read {
        match config {
            Ok(config) => is_any |= has_a_meaning(&config),
            Err(what) => assert!(!what.is_empty()),
        }
    }
    is_any
}

fn has_a_meaning(config: &PolicyLossConfig) -> bool {
    let printed = as_json(config);
    assert_eq!(from_bytes(printed.as_bytes()).as_ref(), Ok(config));
    let loss = match config.init() {
        Ok(loss) => loss,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    assert_eq!(loss.config(), config);
    let device = Backend::Flex.device().expect("every machine has it");
    let device = device.autodiff();
    let floats = |rows: [[f32; 3]; 2]| Tensor::<2>::from_floats(rows, &device);
    let log_probs = floats([[-1.2, -0.4, -2.0], [-0.9, -1.5, -0.1]]).require_grad();
    let old_log_probs = floats([[-1.0, -0.5, -2.0], [-1.2, -1.5, -0.7]]);
    let rollout_log_probs = floats([[-1.1, -0.5, f32::NAN], [-1.2, -1.4, -3.0]]);
    let advantages = Tensor::<1>::from_floats([1.0, -0.5], &device);
    let batch = PolicyBatch::new(log_probs.clone(), old_log_probs, advantages)
        .with_rollout_log_probs(rollout_log_probs)
        .with_ref_log_probs(floats([[-1.0; 3]; 2]))
        .with_entropies(floats([[0.5, 1.0, 2.0]; 2]).require_grad())
        .with_prompt_ids([1, 1]);
    let output = loss.forward(batch).expect("a batch that has everything");
    let values = output.read().expect("it can be read");
    assert_eq!(values.metrics.valid_tokens, 6.0);
    let gradients = output.loss.backward();
    assert!(log_probs.grad(&gradients).is_some());
    true
}
