//! A safetensors file, and what is wrong with it where it is none.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;

use crate::output::Failure;

/// How alike two names must be for one to be suggested for the other.
const ALIKE: f64 = 0.8;

/// Reads the whole file.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let bad = |what: &str| Failure::BadInput(format!("{}: {what}", path.display()));
    if path.is_dir() {
        return Err(bad("is a directory; expected a safetensors file"));
    }
    fs::read(path).map_err(|error| bad(&error.to_string()))
}

/// A safetensors file that was read and checked.
pub struct BatchFile<'bytes> {
    name: String,
    tensors: SafeTensors<'bytes>,
}

impl<'bytes> BatchFile<'bytes> {
    /// Parses the bytes of the file at `path`.
    pub fn parse(path: &Path, bytes: &'bytes [u8]) -> Result<Self, Failure> {
        let name = path.display().to_string();
        if let Some(what) = foreign(bytes).or_else(|| incomplete(bytes)) {
            return Err(Failure::BadInput(format!("{name}: {what}")));
        }
        match SafeTensors::deserialize(bytes) {
            Ok(tensors) => Ok(Self { name, tensors }),
            Err(error) => Err(Failure::BadInput(format!(
                "{name}: not a valid safetensors file: {error}"
            ))),
        }
    }

    /// The tensor of this name, if there is one.
    pub fn find(&self, tensor: &str) -> Option<TensorView<'bytes>> {
        self.tensors.tensor(tensor).ok()
    }

    /// The tensor of this name, or what the file holds instead.
    pub fn require(&self, tensor: &str) -> Result<TensorView<'bytes>, Failure> {
        self.find(tensor).ok_or_else(|| self.missing(tensor, ""))
    }

    /// A failure that concerns this file.
    pub fn bad(&self, what: impl std::fmt::Display) -> Failure {
        Failure::BadInput(format!("{}: {what}", self.name))
    }

    /// The failure of a tensor that is not there; `why` is put behind `is missing`.
    pub fn missing(&self, tensor: &str, why: &str) -> Failure {
        let names = self.names();
        let holds = match names.is_empty() {
            true => "no tensor at all".to_owned(),
            false => list(&names),
        };
        let hint = match nearest(tensor, &names) {
            Some(name) => format!("; rename `{name}`, if that is it"),
            None => String::new(),
        };
        self.bad(format!(
            "`{tensor}` is missing{why}; the file holds {holds}{hint}"
        ))
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names = self.tensors.names();
        names.sort_unstable();
        names
    }
}

/// Names on one line: a checkpoint that is given by mistake holds hundreds.
pub fn list(names: &[&str]) -> String {
    const SHOWN: usize = 16;
    let mut text: Vec<_> = names
        .iter()
        .take(SHOWN)
        .map(|name| (*name).to_owned())
        .collect();
    if let Some(more @ 1..) = names.len().checked_sub(SHOWN) {
        text.push(format!("and {more} more"));
    }
    text.join(", ")
}

/// The candidate that is most like `name`, if any is like it at all.
pub fn nearest<'name>(name: &str, candidates: &[&'name str]) -> Option<&'name str> {
    let scored = candidates
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), *candidate));
    let (score, best) = scored.max_by(|(left, _), (right, _)| left.total_cmp(right))?;
    (score >= ALIKE).then_some(best)
}

/// Recognizes files that people have in the place of a safetensors file.
fn foreign(bytes: &[u8]) -> Option<String> {
    let kind = match bytes {
        [] => return Some("is empty; expected a safetensors file".into()),
        [b'P', b'K', 3, 4, ..] => "a zip archive, such as torch.save or numpy.savez write",
        // A safetensors file may begin like one: with the size of its header, and `{` behind that.
        [0x80, 2..=5, ..] if bytes.get(8) != Some(&b'{') => "a Python pickle",
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => "a NumPy file",
        [b'G', b'G', b'U', b'F', ..] => "a GGUF file",
        _ => return None,
    };
    Some(format!(
        "is {kind}; expected a safetensors file, such as safetensors.torch.save_file writes"
    ))
}

/// Says what a file lacks to be complete.
///
/// The parser would say only that something does not fit, and adds offsets without a check for
/// overflow, so the sizes are looked at here first. Whatever else is wrong is left to the parser.
fn incomplete(bytes: &[u8]) -> Option<String> {
    let Some((size, rest)) = bytes.split_first_chunk::<8>() else {
        return Some(format!(
            "holds {} bytes only; a safetensors file begins with 8 bytes for the size of its header",
            bytes.len()
        ));
    };
    let size = u64::from_le_bytes(*size);
    let Some(header) = usize::try_from(size).ok().and_then(|size| rest.get(..size)) else {
        return Some(format!(
            "its first 8 bytes announce a header of {size} bytes, and {} follow: it is truncated, \
             or no safetensors file",
            rest.len()
        ));
    };
    let held = rest.len() - header.len();
    let header: Value = serde_json::from_slice(header).ok()?;
    let tensors = header.as_object()?;
    let ends = tensors
        .values()
        .filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64());
    let announced = ends.max().unwrap_or(0);
    match usize::try_from(announced) {
        Ok(announced) if announced <= held => None,
        _ => Some(format!(
            "is truncated: its header announces {announced} bytes of data, and {held} follow"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_header_is_no_pickle() {
        for size in [0x280, 0x380, 0x480, 0x580_u64] {
            let mut bytes = size.to_le_bytes().to_vec();
            bytes.extend(format!("{:<1$}", "{}", size as usize).bytes());
            let file = BatchFile::parse(Path::new("batch.safetensors"), &bytes);
            assert!(file.is_ok(), "{:?}", file.err());
        }
    }
}
