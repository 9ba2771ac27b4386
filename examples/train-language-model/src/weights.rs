//! `model.safetensors`, the weights of a model, and `adapter_model.safetensors`, what was learned
//! beside them: read and written.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::config::LlamaConfig;
use crate::error::{ModelError, read};
use crate::model::Llama;

/// The weights of a whole model.
const WEIGHTS: &str = "model.safetensors";
/// Low-rank adapters, as the library PEFT names them.
const ADAPTERS: &str = "adapter_model.safetensors";

/// Reads the model in `directory`.
///
/// # Errors
///
/// A file is missing or damaged, the configuration is not supported, or a tensor is missing, of
/// another shape or type, or without a place in the model.
pub fn load(directory: &Path, device: &Device) -> Result<Llama, ModelError> {
    Ok(load_with_file(directory, device)?.0)
}

/// As [`load`], with a digest of the weights: of their names, types, shapes and numbers, in whatever
/// order the file holds them, and whatever else it says.
///
/// # Errors
///
/// As [`load`].
pub fn load_with_digest(directory: &Path, device: &Device) -> Result<(Llama, String), ModelError> {
    let (model, bytes) = load_with_file(directory, device)?;
    let file = parse(&directory.join(WEIGHTS), &bytes)?;
    let mut hasher = blake3::Hasher::new();
    for (name, view) in file.iter().collect::<BTreeMap<_, _>>() {
        let header = format!("{name} {} {:?}\n", view.dtype(), view.shape());
        hasher.update(header.as_bytes());
        hasher.update(view.data());
    }
    Ok((model, hasher.finalize().to_hex().to_string()))
}

/// The model, and the bytes of the file with its weights.
fn load_with_file(directory: &Path, device: &Device) -> Result<(Llama, Vec<u8>), ModelError> {
    let config = LlamaConfig::read(&directory.join("config.json"))?;
    let path = directory.join(WEIGHTS);
    let bytes = bytes_of(&path)?;
    let model = fill(
        Llama::new(config, device),
        &path,
        &bytes,
        Part::Weights,
        device,
    )?;
    Ok((model, bytes))
}

/// Reads the adapters in `directory` into a model that has some.
///
/// # Errors
///
/// As [`load`].
pub fn load_adapters(model: Llama, directory: &Path, device: &Device) -> Result<Llama, ModelError> {
    let path = directory.join(ADAPTERS);
    fill(model, &path, &bytes_of(&path)?, Part::Adapters, device)
}

/// Writes the weights of a model without adapters, in f32.
///
/// # Errors
///
/// The device failed to deliver them, or the file cannot be written.
pub fn save(model: &Llama, directory: &Path) -> Result<(), ModelError> {
    write(model, &directory.join(WEIGHTS), Part::Weights)
}

/// Writes the adapters of a model, in f32.
///
/// # Errors
///
/// As [`save`].
pub fn save_adapters(model: &Llama, directory: &Path) -> Result<(), ModelError> {
    write(model, &directory.join(ADAPTERS), Part::Adapters)
}

/// Which parameters are in a file.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Weights,
    Adapters,
}

/// The model, with the parameters of a file in their places.
fn fill(
    model: Llama,
    path: &Path,
    bytes: &[u8],
    part: Part,
    device: &Device,
) -> Result<Llama, ModelError> {
    let file = parse(path, bytes)?;
    let mut loader = Loader {
        tensors: file.iter().collect(),
        part,
        at: At::default(),
        device: device.clone(),
        error: None,
    };
    let model = model.map(&mut loader);
    let model = loader.finish(model);
    model.map_err(|problem| ModelError::new(path, problem))
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, ModelError> {
    let index = path.with_extension("safetensors.index.json");
    if !path.exists() && index.exists() {
        let problem = format!(
            "the weights are in several files; accepted is one, {WEIGHTS}: load the model with \
             Hugging Face, and save it with a larger `max_shard_size`"
        );
        return Err(ModelError::new(&index, problem));
    }
    read(path)
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>, ModelError> {
    SafeTensors::deserialize(bytes)
        .map_err(|error| ModelError::new(path, format!("not a safetensors file: {error}")))
}

fn write(model: &Llama, path: &Path, part: Part) -> Result<(), ModelError> {
    let mut saver = Saver {
        part,
        ..Saver::default()
    };
    model.visit(&mut saver);
    if let Some(problem) = saver.problem {
        return Err(ModelError::new(path, problem));
    }
    let views = saver.tensors.iter().map(|(name, data)| {
        let view = TensorView::new(Dtype::F32, data.shape().to_vec(), data.as_bytes());
        view.map(|view| (name, view))
    });
    let metadata = Some([("format".to_string(), "pt".to_string())].into());
    views
        .collect::<Result<Vec<_>, _>>()
        .and_then(|views| safetensors::serialize_to_file(views, metadata, path))
        .map_err(|error| ModelError::new(path, error))
}

/// Where a walk through the modules stands.
#[derive(Default)]
struct At(Vec<(String, String)>);

impl At {
    fn enter(&mut self, name: &str, container: &str) {
        self.0.push((name.into(), container.into()));
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    /// The name of a parameter in the file, if it belongs there.
    fn name(&self, part: Part) -> Option<String> {
        let names: Vec<_> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        match (&names[..], part) {
            ([.., "lora", _], Part::Weights) => None,
            ([layer @ .., "weight", "lora", factor], Part::Adapters) => Some(format!(
                "base_model.model.{}.lora_{}.weight",
                layer.join("."),
                factor.to_uppercase()
            )),
            (_, Part::Adapters) => None,
            ([norm @ .., "gamma"], Part::Weights) => Some(format!("{}.weight", norm.join("."))),
            (names, Part::Weights) => Some(names.join(".")),
        }
    }

    /// Whether the file holds the transpose: PyTorch's linear layers are `[to, from]`, those of
    /// Burn, and the factors of its adapters, `[from, to]`.
    fn is_transposed(&self) -> bool {
        let container = self.0.last().map(|(_, container)| container.as_str());
        matches!(container, Some("Struct:Linear" | "Struct:LoraAdapter"))
    }
}

struct Loader<'a> {
    /// What has not found its place yet.
    tensors: BTreeMap<&'a str, TensorView<'a>>,
    part: Part,
    at: At,
    device: Device,
    error: Option<String>,
}

impl Loader<'_> {
    fn read<const D: usize>(
        &mut self,
        name: String,
        shape: [usize; D],
    ) -> Result<Tensor<D>, String> {
        let Some(view) = self.tensors.remove(name.as_str()) else {
            let holds = some(self.tensors.keys());
            return Err(format!(
                "the tensor `{name}` is missing; the file holds {holds}"
            ));
        };
        let is_transposed = self.at.is_transposed();
        let mut expected = shape.to_vec();
        if is_transposed {
            expected.reverse();
        }
        if view.shape() != expected {
            let got = view.shape();
            return Err(format!(
                "the tensor `{name}` has shape {got:?}; by config.json it is {expected:?}"
            ));
        }
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            got => {
                return Err(format!(
                    "the tensor `{name}` is {got}; accepted are F32, F16 and BF16"
                ));
            }
        };
        // The copy also aligns the bytes, which may begin anywhere in the file.
        let data = TensorData::try_from_bytes_vec(view.data().to_vec(), view.shape(), dtype)
            .map_err(|error| format!("`{name}`: {error}"))?
            .convert::<f32>();
        let data = match is_transposed {
            true => transposed(&data),
            false => data,
        };
        Ok(Tensor::from_data(data, &self.device))
    }

    fn finish(self, model: Llama) -> Result<Llama, String> {
        match self.error {
            Some(problem) => Err(problem),
            None if self.tensors.is_empty() => Ok(model),
            None => Err(format!(
                "the model has no place for {}; is config.json of another model?",
                some(self.tensors.keys())
            )),
        }
    }
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.at.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(name) = self.at.name(self.part) else {
            return param;
        };
        if self.error.is_some() {
            return param;
        }
        match self.read(name, param.lazy_shape().dims()) {
            Ok(tensor) => Param::from_tensor(tensor),
            Err(problem) => {
                self.error = Some(problem);
                param
            }
        }
    }
}

#[derive(Default)]
struct Saver {
    part: Part,
    tensors: BTreeMap<String, TensorData>,
    at: At,
    problem: Option<String>,
}

impl ModuleVisitor for Saver {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.at.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(name) = self.at.name(self.part) else {
            return;
        };
        match param.val().try_into_data() {
            Ok(data) => {
                let data = data.convert::<f32>();
                if data.iter::<f32>().any(|value| !value.is_finite()) {
                    self.problem = Some(format!(
                        "`{name}` has a value that is not finite: the training went astray, and a \
                         smaller --learning-rate may help"
                    ));
                    return;
                }
                let data = match self.at.is_transposed() {
                    true => transposed(&data),
                    false => data,
                };
                self.tensors.insert(name, data);
            }
            Err(error) => self.problem = Some(error.to_string()),
        }
    }
}

/// The transpose of a matrix of f32.
fn transposed(matrix: &TensorData) -> TensorData {
    /// Rows and columns of a block that stays in the cache.
    const BLOCK: usize = 32;
    let [rows, columns] = matrix.shape().dims();
    let from: Vec<f32> = matrix.iter::<f32>().collect();
    let mut to = vec![0.0; from.len()];
    for top in (0..rows).step_by(BLOCK) {
        for left in (0..columns).step_by(BLOCK) {
            for row in top..rows.min(top + BLOCK) {
                for column in left..columns.min(left + BLOCK) {
                    to[column * rows + row] = from[row * columns + column];
                }
            }
        }
    }
    TensorData::new(to, [columns, rows])
}

/// A few names, and how many more there are.
fn some<'a>(names: impl ExactSizeIterator<Item = &'a &'a str>) -> String {
    const SHOWN: usize = 3;
    let more = names.len().saturating_sub(SHOWN);
    let shown: Vec<_> = names.take(SHOWN).map(|name| format!("`{name}`")).collect();
    match (shown.is_empty(), more) {
        (true, _) => "no other tensor".into(),
        (_, 0) => shown.join(", "),
        _ => format!("{} and {more} more", shown.join(", ")),
    }
}
