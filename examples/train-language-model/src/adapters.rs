//! What is learned: all weights, or low-rank adapters beside them.

use std::fs;
use std::path::Path;

use burn::module::{Lora, Module, ModuleMapper, Param, ParamGroup, ParamId};
use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::json;

use crate::checkpoint::json;
use crate::error::ModelError;
use crate::model::Llama;

/// What `alpha / rank` is, by which the adapters' product is multiplied.
const SCALE: usize = 2;
/// The linear layers of every layer, all of which get adapters.
const ADAPTED: [&str; 7] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

/// Where PEFT says what the adapters are.
const CONFIG: &str = "adapter_config.json";

/// What has to be known of it.
#[derive(Deserialize)]
struct Config {
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
}

/// Freezes a model and adds adapters of this rank to it, which change nothing yet.
pub fn attach(model: Llama, rank: usize) -> Llama {
    let layers = 0..model.config().num_hidden_layers;
    let paths = layers.flat_map(|layer| {
        ADAPTED.map(|name| {
            let part = match name {
                "gate_proj" | "up_proj" | "down_proj" => "mlp",
                _ => "self_attn",
            };
            format!("model.layers.{layer}.{part}.{name}.weight")
        })
    });
    let group = ParamGroup::from_paths(paths.collect());
    let lora = Lora::new(rank, (SCALE * rank) as f64).set_param_group(group);
    model.apply_lora(lora)
}

/// Writes `adapter_config.json`, by which PEFT reads adapters of this rank.
///
/// # Errors
///
/// The file cannot be written.
pub fn write_config(directory: &Path, rank: usize, base: &Path) -> Result<(), ModelError> {
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        // JSON holds no path that is not UTF-8; PEFT is then to be given the base.
        "base_model_name_or_path": base.to_str(),
        "r": rank,
        "lora_alpha": SCALE * rank,
        "lora_dropout": 0.0,
        "target_modules": ADAPTED,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
    });
    let path = directory.join(CONFIG);
    fs::write(&path, format!("{config:#}\n")).map_err(|error| ModelError::new(&path, error))
}

/// The rank of the adapters in `directory`, by its `adapter_config.json`.
///
/// # Errors
///
/// The file cannot be read, or has another scale than [`write_config`] gives.
pub fn rank(directory: &Path) -> Result<usize, String> {
    let path = directory.join(CONFIG);
    let Config {
        r,
        lora_alpha,
        use_rslora,
        use_dora,
    } = json(&path)?;
    let refused = |problem: String| Err(format!("{}: {problem}", path.display()));
    if use_rslora || use_dora {
        return refused(format!(
            "`use_rslora` is {use_rslora} and `use_dora` is {use_dora}; accepted: false"
        ));
    }
    match r > 0 && r as f64 * SCALE as f64 == lora_alpha {
        true => Ok(r),
        false => refused(format!(
            "`r` is {r} and `lora_alpha` is {lora_alpha}; accepted are a positive `r` and {SCALE} \
             times as much"
        )),
    }
}

/// Numbers the parameters in their order, so that the state of an optimizer finds those that it
/// belongs to in another run.
pub fn numbered(model: Llama) -> Llama {
    model.map(&mut Numbers(0))
}

struct Numbers(u64);

impl ModuleMapper for Numbers {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0 += 1;
        let (_, tensor, mapper) = param.consume();
        Param::from_mapped_value(ParamId::from(self.0), tensor, mapper)
    }
}
