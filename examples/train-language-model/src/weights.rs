//! `model.safetensors`: the weights of a model, read and written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::config::LlamaConfig;
use crate::error::ModelError;
use crate::model::Llama;

/// Reads the model in `directory`.
///
/// # Errors
///
/// A file is missing or damaged, the configuration is not supported, or a tensor is missing, of
/// another shape or type, or without a place in the model.
pub fn load(directory: &Path, device: &Device) -> Result<Llama, ModelError> {
    let config = LlamaConfig::read(&directory.join("config.json"))?;
    let path = directory.join("model.safetensors");
    let bytes = fs::read(&path).map_err(|source| ModelError::File {
        path: path.clone(),
        source,
    })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| ModelError::Format {
        path: path.clone(),
        problem: format!("not a safetensors file: {error}"),
    })?;
    let mut loader = Loader {
        tensors: file.iter().collect(),
        path,
        at: At::default(),
        device: device.clone(),
        error: None,
    };
    let model = Llama::new(config, device).map(&mut loader);
    loader.finish(model)
}

/// Writes the weights to `path`, in f32.
///
/// # Errors
///
/// The device failed to deliver them, or the file cannot be written.
pub fn save(model: &Llama, path: &Path) -> Result<(), ModelError> {
    let mut saver = Saver::default();
    model.visit(&mut saver);
    let bad = |problem: String| ModelError::Format {
        path: path.into(),
        problem,
    };
    if let Some(problem) = saver.problem {
        return Err(bad(problem));
    }
    let views = saver.tensors.iter().map(|(name, data)| {
        let view = TensorView::new(Dtype::F32, data.shape().to_vec(), data.as_bytes());
        view.map(|view| (name, view))
    });
    let views: Vec<_> = views
        .collect::<Result<_, _>>()
        .map_err(|error| bad(error.to_string()))?;
    let metadata = Some([("format".to_string(), "pt".to_string())].into());
    safetensors::serialize_to_file(views, metadata, path).map_err(|error| bad(error.to_string()))
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

    /// The name of a parameter in the file.
    fn name(&self) -> String {
        let names: Vec<_> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        let name = names.join(".");
        match name.strip_suffix(".gamma") {
            Some(norm) => format!("{norm}.weight"),
            None => name,
        }
    }

    /// Whether the file holds the transpose: PyTorch's linear layers are `[to, from]`, those of
    /// Burn `[from, to]`.
    fn is_transposed(&self) -> bool {
        self.0
            .last()
            .is_some_and(|(_, container)| container == "Struct:Linear")
    }
}

struct Loader<'a> {
    /// What has not found its place yet.
    tensors: BTreeMap<&'a str, TensorView<'a>>,
    path: PathBuf,
    at: At,
    device: Device,
    error: Option<ModelError>,
}

impl Loader<'_> {
    fn read<const D: usize>(&mut self, shape: [usize; D]) -> Result<Tensor<D>, ModelError> {
        let (name, path) = (self.at.name(), self.path.clone());
        let Some(view) = self.tensors.remove(name.as_str()) else {
            let holds = some(self.tensors.keys());
            return Err(ModelError::MissingTensor { path, name, holds });
        };
        let is_transposed = self.at.is_transposed();
        let mut expected = shape.to_vec();
        if is_transposed {
            expected.reverse();
        }
        if view.shape() != expected {
            let got = view.shape().to_vec();
            return Err(ModelError::Shape {
                path,
                name,
                expected,
                got,
            });
        }
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                let got = other.to_string();
                return Err(ModelError::Dtype { path, name, got });
            }
        };
        // The copy also aligns the bytes, which may begin anywhere in the file.
        let data = TensorData::try_from_bytes_vec(view.data().to_vec(), view.shape(), dtype)
            .map_err(|error| ModelError::Format {
                path,
                problem: format!("`{name}`: {error}"),
            })?
            .convert::<f32>();
        let data = match is_transposed {
            true => transposed(&data),
            false => data,
        };
        Ok(Tensor::from_data(data, &self.device))
    }

    fn finish(self, model: Llama) -> Result<Llama, ModelError> {
        match self.error {
            Some(error) => Err(error),
            None if self.tensors.is_empty() => Ok(model),
            None => Err(ModelError::UnknownTensors {
                names: some(self.tensors.keys()),
                path: self.path,
            }),
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
        if self.error.is_some() {
            return param;
        }
        match self.read(param.lazy_shape().dims()) {
            Ok(tensor) => Param::from_tensor(tensor),
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

#[derive(Default)]
struct Saver {
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
        match param.val().try_into_data() {
            Ok(data) => {
                let data = data.convert::<f32>();
                let data = match self.at.is_transposed() {
                    true => transposed(&data),
                    false => data,
                };
                self.tensors.insert(self.at.name(), data);
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
