//! How a conversation becomes text: ChatML, and whether a model expects it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{ModelError, read};

const START: &str = "<|im_start|>";
/// What ends a message, and so an answer.
pub const END: &str = "<|im_end|>";
/// What a template may write besides: where a text ends.
const END_OF_TEXT: &str = "<|endoftext|>";

/// A file of its own, which comes before the other.
const TEMPLATE: &str = "chat_template.jinja";
/// With the template in a field.
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Where Hugging Face looks for the template of a model; there may be none.
pub const FILES: [&str; 2] = [TEMPLATE, TOKENIZER_CONFIG];

/// A message of `who`.
pub fn message(who: &str, text: &str) -> String {
    format!("{START}{who}\n{text}{END}\n")
}

/// What an answer follows.
pub fn answer_begins() -> String {
    format!("{START}assistant\n")
}

/// Checks that the template of the model in `directory`, if it has one, is ChatML.
///
/// # Errors
///
/// A file cannot be read, or the template is another one.
pub fn check(directory: &Path) -> Result<(), ModelError> {
    let Some((path, template)) = find(directory)? else {
        return Ok(());
    };
    match difference(&template) {
        None => Ok(()),
        Some(difference) => {
            let problem = format!(
                "the chat template is not ChatML, which the prompts here are written in: \
                 {difference}; accepted is a template with {START} before each message, {END} after it \
                 and nothing else of this kind, or none"
            );
            Err(ModelError::new(&path, problem))
        }
    }
}

/// The template, and the file that it is in.
fn find(directory: &Path) -> Result<Option<(PathBuf, String)>, ModelError> {
    let path = directory.join(TEMPLATE);
    if path.exists() {
        let text = String::from_utf8(read(&path)?);
        let text = text.map_err(|error| ModelError::new(&path, error))?;
        return Ok(Some((path, text)));
    }
    let path = directory.join(TOKENIZER_CONFIG);
    if !path.exists() {
        return Ok(None);
    }
    let fields: Value =
        serde_json::from_slice(&read(&path)?).map_err(|error| ModelError::new(&path, error))?;
    let field = match &fields["chat_template"] {
        // Several, by their names; this one is for conversations.
        Value::Array(several) => several
            .iter()
            .find(|one| one["name"] == "default")
            .map_or(&Value::Null, |one| &one["template"]),
        field => field,
    };
    match field {
        Value::Null => Ok(None),
        Value::String(template) => Ok(Some((path, template.clone()))),
        _ => Err(ModelError::new(
            &path,
            "`chat_template` is no text; accepted is a template, or a list of some with their names",
        )),
    }
}

/// What a template has that ChatML does not have, or the other way round.
///
/// A template is a program. Its marks tell those apart that models come with, so that it need not be run.
fn difference(template: &str) -> Option<String> {
    if let Some(missing) = [START, END].iter().find(|mark| !template.contains(**mark)) {
        return Some(format!("it has no {missing}"));
    }
    if template.contains("bos_token") {
        return Some("it has `bos_token`".into());
    }
    let marks = template.match_indices("<|").filter_map(|(from, _)| {
        let length = template[from..].find("|>")?;
        Some(&template[from..from + length + "|>".len()])
    });
    let mut others = marks.filter(|mark| ![START, END, END_OF_TEXT].contains(mark));
    others.next().map(|other| format!("it has {other}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    /// That of SmolLM2.
    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != \
        'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by \
        Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + \
        message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ \
        '<|im_start|>assistant\n' }}{% endif %}";
    /// That of Phi-4, whose weights are found in the layout of Llama, too.
    const PHI: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + \
        '<|im_sep|>' + message['content'] + '<|im_end|>'}}{% endfor %}";
    const LLAMA: &str = "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}";
    const MISTRAL: &str = "{{ '[INST] ' + message['content'] + ' [/INST]' }}";

    fn checked(files: &[(&str, String)]) -> Result<(), String> {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            fs::write(directory.path().join(name), text).expect("it is written");
        }
        check(directory.path()).map_err(|error| error.to_string())
    }

    fn in_config(field: Value) -> (&'static str, String) {
        let config = json!({"model_max_length": 8192, "chat_template": field});
        (TOKENIZER_CONFIG, config.to_string())
    }

    #[test]
    fn chatml_and_no_template_are_accepted() {
        let file = (TEMPLATE, CHATML.to_string());
        let named = |name: &str, template: &str| json!({"name": name, "template": template});
        let several = json!([named("tool_use", LLAMA), named("default", CHATML)]);
        for files in [
            vec![],
            vec![(TOKENIZER_CONFIG, "{}".into())],
            vec![in_config(Value::Null)],
            vec![in_config(json!(CHATML))],
            vec![in_config(json!(format!("{CHATML}<|endoftext|>")))],
            vec![in_config(several)],
            vec![file.clone()],
            // The file comes first.
            vec![file, in_config(json!(LLAMA))],
        ] {
            checked(&files).expect("it is accepted");
        }
    }

    #[test]
    fn other_templates_are_refused() {
        let several = json!([{"name": "default", "template": LLAMA}]);
        for (files, said) in [
            (vec![(TEMPLATE, LLAMA.into())], "it has no <|im_start|>"),
            (vec![in_config(json!(LLAMA))], "it has no <|im_start|>"),
            (vec![in_config(json!(MISTRAL))], "it has no <|im_start|>"),
            (vec![in_config(json!(PHI))], "it has <|im_sep|>"),
            (
                vec![in_config(json!(format!("{{{{ bos_token }}}}{CHATML}")))],
                "it has `bos_token`",
            ),
            (vec![in_config(several)], "it has no <|im_start|>"),
            (
                vec![(TEMPLATE, LLAMA.into()), in_config(json!(CHATML))],
                "it has no <|im_start|>",
            ),
            (vec![in_config(json!(3))], "`chat_template` is no text"),
            (vec![(TOKENIZER_CONFIG, "hello".into())], "line 1"),
        ] {
            let error = checked(&files).expect_err("refused");
            assert!(error.contains(said), "{error}");
            assert!(error.contains(files[0].0), "{error}");
        }
    }
}
