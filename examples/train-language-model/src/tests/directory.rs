//! Everything that can be wrong with a directory is said by name.

use std::fs;

use burn::tensor::Device;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::tiny::{HostTensor, Tiny};
use crate::tokens::Tokenizer;
use crate::weights;

#[track_caller]
fn assert_refused(tiny: &Tiny, said: &[&str]) {
    let directory = tiny.write();
    let error = weights::load(directory.path(), &Device::flex()).expect_err("refused");
    assert_says(&error.to_string(), said);
}

#[track_caller]
fn assert_says(message: &str, said: &[&str]) {
    for words in said {
        assert!(message.contains(words), "{words:?} is not in: {message}");
    }
}

#[test]
fn a_file_that_is_missing() {
    for file in ["config.json", "model.safetensors"] {
        let directory = Tiny::new(0, true).write();
        fs::remove_file(directory.path().join(file)).expect("it was there");
        let error = weights::load(directory.path(), &Device::flex()).expect_err("refused");
        assert_says(&error.to_string(), &[file, "Hugging Face"]);
    }
    let directory = Tiny::new(0, true).write();
    let model = weights::load(directory.path(), &Device::flex()).expect("it is whole");
    fs::remove_file(directory.path().join("tokenizer.json")).expect("it was there");
    let error = Tokenizer::load(directory.path(), model.config()).err();
    assert_says(&error.expect("refused").to_string(), &["tokenizer.json"]);
}

#[test]
fn a_file_that_is_damaged() {
    for file in ["config.json", "model.safetensors"] {
        let directory = Tiny::new(0, true).write();
        fs::write(directory.path().join(file), "hello").expect("it is written");
        let error = weights::load(directory.path(), &Device::flex()).expect_err("refused");
        assert_says(&error.to_string(), &[file]);
    }
}

#[test]
fn tensors_that_do_not_fit() {
    let name = "model.layers.1.self_attn.k_proj.weight";
    let mut tiny = Tiny::new(0, true);
    let tensor = tiny.tensors.remove(name).expect("it was there");
    assert_refused(&tiny, &[name, "is missing"]);

    tiny.tensors
        .insert("model.layers.1.self_attn.key.weight".into(), tensor.clone());
    assert_refused(&tiny, &[name, "is missing"]);

    tiny.tensors.insert(name.into(), tensor.clone());
    assert_refused(
        &tiny,
        &["no place for `model.layers.1.self_attn.key.weight`"],
    );

    let mut tiny = Tiny::new(0, true);
    let mut shape = tensor.shape.clone();
    shape.reverse();
    let values = tensor.values;
    tiny.tensors
        .insert(name.into(), HostTensor { shape, values });
    assert_refused(&tiny, &[name, "[20, 12]", "[12, 20]"]);

    let mut tiny = Tiny::new(0, true);
    tiny.dtype = Dtype::I32;
    assert_refused(&tiny, &["is I32", "BF16"]);

    // A head of its own in a model that is said to be tied.
    let mut tiny = Tiny::new(0, false);
    tiny.config["tie_word_embeddings"] = json!(true);
    assert_refused(&tiny, &["lm_head.weight"]);
}

#[test]
fn configurations_that_are_not_computed() {
    let cases: [(&str, Value, &[&str]); 13] = [
        ("model_type", json!("mamba"), &["\"mamba\"", "\"llama\""]),
        ("hidden_act", json!("gelu"), &["\"gelu\"", "\"silu\""]),
        ("rope_scaling", json!({"factor": 2.0}), &["factor", "null"]),
        (
            "attention_bias",
            json!(true),
            &["true", "accepted is false"],
        ),
        ("mlp_bias", json!(true), &["true", "accepted is false"]),
        ("quantization_config", json!({"bits": 4}), &["null"]),
        ("num_key_value_heads", json!(3), &["is 3", "a divisor"]),
        ("num_hidden_layers", json!(0), &["is 0", "above 0"]),
        ("head_dim", json!(5), &["is 5", "even"]),
        ("rms_norm_eps", json!(0.0), &["is 0", "above 0"]),
        ("eos_token_id", json!([2, 23]), &["is 23", "vocab_size"]),
        ("eos_token_id", json!([]), &["is []", "one or more"]),
        ("hidden_size", json!(null), &["expected usize"]),
    ];
    for (field, value, said) in cases {
        let mut tiny = Tiny::new(0, true);
        tiny.config[field] = value;
        assert_refused(&tiny, said);
        if said != ["expected usize"] {
            assert_refused(&tiny, &[&format!("`{field}`")]);
        }
    }
}

#[test]
fn rotations_as_newer_versions_write_them() {
    let mut tiny = Tiny::new(0, true);
    tiny.config["rope_theta"] = json!(null);
    tiny.config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 500.0});
    let model = weights::load(tiny.write().path(), &Device::flex()).expect("it is read");
    assert_eq!(model.config().rope_theta(), 500.0);
    tiny.config["rope_parameters"]["rope_type"] = json!("yarn");
    assert_refused(
        &tiny,
        &["`rope_parameters.rope_type`", "\"yarn\"", "\"default\""],
    );
}

#[test]
fn weights_that_are_not_finite_are_not_saved() {
    let name = "model.layers.1.self_attn.k_proj.weight";
    let mut tiny = Tiny::new(0, true);
    tiny.tensors.get_mut(name).expect("it is there").values[3] = f32::NAN;
    let model = weights::load(tiny.write().path(), &Device::flex()).expect("it is read");
    let out = tempfile::tempdir().expect("a directory");
    let error = weights::save(&model, out.path()).expect_err("refused");
    assert_says(&error.to_string(), &[name, "not finite"]);
}

#[test]
fn weights_in_several_files() {
    let directory = Tiny::new(0, true).write();
    let path = directory.path();
    fs::remove_file(path.join("model.safetensors")).expect("it was there");
    fs::write(path.join("model.safetensors.index.json"), "{}").expect("it is written");
    let error = weights::load(path, &Device::flex()).expect_err("refused");
    assert_says(&error.to_string(), &["several files", "index.json"]);
}

#[test]
fn a_tokenizer_of_another_model() {
    let refused = |tiny: &Tiny, said: &[&str]| {
        let directory = tiny.write();
        let model = weights::load(directory.path(), &Device::flex()).expect("it is whole");
        let error = Tokenizer::load(directory.path(), model.config()).err();
        assert_says(&error.expect("refused").to_string(), said);
    };
    let mut tiny = Tiny::new(0, true);
    tiny.tokenizer["model"]["vocab"]["more"] = json!(23);
    refused(&tiny, &["largest token is 23", "23 tokens"]);

    let mut tiny = Tiny::new(0, true);
    tiny.tokenizer["model"]["vocab"]
        .as_object_mut()
        .expect("an object")
        .remove("t2");
    refused(&tiny, &["no token 2", "eos_token_id"]);

    let mut tiny = Tiny::new(0, true);
    tiny.tokenizer = json!({"hello": 1});
    refused(&tiny, &["not a tokenizer"]);
}

/// Files of tokenizers keep what was set where they were saved.
#[test]
fn prompts_are_neither_cut_nor_padded() {
    let mut tiny = Tiny::new(0, true);
    tiny.tokenizer["truncation"] = json!({
        "max_length": 1, "direction": "Right", "strategy": "LongestFirst", "stride": 0,
    });
    tiny.tokenizer["padding"] = json!({
        "strategy": { "Fixed": 8 }, "direction": "Left", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "t0",
    });
    let directory = tiny.write();
    let model = weights::load(directory.path(), &Device::flex()).expect("it is whole");
    let tokenizer = Tokenizer::load(directory.path(), model.config()).expect("it fits");
    assert_eq!(tokenizer.encode("t4 t17").expect("it has tokens"), [4, 17]);
}

#[test]
fn another_token_may_end_an_answer() {
    let directory = Tiny::new(0, true).write();
    let mut model = weights::load(directory.path(), &Device::flex()).expect("it is whole");
    let before = model.config().end_tokens().to_vec();
    model.add_end_token(before[0]);
    assert_eq!(model.config().end_tokens(), before);
    model.add_end_token(7);
    assert_eq!(model.config().end_tokens(), [&before[..], &[7]].concat());
}

#[test]
fn text_comes_back() {
    let directory = Tiny::new(0, true).write();
    let model = weights::load(directory.path(), &Device::flex()).expect("it is whole");
    let tokenizer = Tokenizer::load(directory.path(), model.config()).expect("it fits");
    let tokens = tokenizer.encode("t4 t17").expect("it has tokens");
    assert_eq!(tokens, [4, 17]);
    assert_eq!(tokenizer.decode(&tokens).expect("it has text"), "t4 t17");
}
