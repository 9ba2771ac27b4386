//! A batch and a training run as one HTML page that opens in any browser, without a network.
//!
//! A [`Report`] is made of up to three parts: [warnings](Report::with_warnings), a
//! [batch](BatchPicture) under one or more objectives, and [curves](Curves) over the steps of a run.
//!
//! ```
//! use burn::tensor::Tensor;
//! use policy_loss::{PolicyBatch, PolicyLossConfig};
//! use policy_loss_report::{BatchPicture, Report};
//!
//! let device = policy_loss_flex::device()?.autodiff();
//! let log_probs = Tensor::<2>::from_floats([[-1.2, -0.4, -2.0]], &device).require_grad();
//! let old_log_probs = Tensor::<2>::from_floats([[-1.0, -0.5, -2.0]], &device);
//! let advantages = Tensor::<1>::from_floats([1.0], &device);
//! let batch = PolicyBatch::new(log_probs.clone(), old_log_probs, advantages);
//!
//! let objectives = [("dapo".to_owned(), PolicyLossConfig::dapo().init()?)];
//! let picture = BatchPicture::new(&batch, &log_probs, &objectives)?;
//! let page = Report::new("My batch").with_batch(picture).to_html();
//! assert!(page.starts_with("<!doctype html>"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Every number comes from the library: losses, metrics and token details of a
//! [`PolicyLoss`](policy_loss::PolicyLoss), and gradients by autodiff. Where a batch has more tokens
//! than a page can show, cells of the map stand for several tokens, and the page says so.

mod batch;
mod curves;
mod gradient;
mod histogram;
mod map;
mod objective;

use serde::Serialize;

pub use batch::{BatchPicture, ReportError};
pub use curves::Curves;
pub use gradient::{cosine, norm};
use policy_loss::Warning;

/// A page. See [the crate](crate).
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    title: String,
    facts: Vec<(String, String)>,
    warnings: Vec<WarningOf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<BatchPicture>,
    #[serde(skip_serializing_if = "Option::is_none")]
    curves: Option<Curves>,
}

/// A warning, and what it was said of.
#[derive(Debug, Clone, Serialize)]
struct WarningOf {
    of: String,
    warning: Warning,
}

impl Report {
    /// A page without content.
    #[must_use]
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            facts: Vec::new(),
            warnings: Vec::new(),
            batch: None,
            curves: None,
        }
    }

    /// Adds a line to what stands under the title.
    #[must_use]
    pub fn with_fact(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.facts.push((name.into(), value.into()));
        self
    }

    /// Adds warnings, which stand on top, with what they were said of: an objective, or a step.
    #[must_use]
    pub fn with_warnings(mut self, of: &str, warnings: &[Warning]) -> Self {
        self.warnings
            .extend(warnings.iter().map(|warning| WarningOf {
                of: of.to_owned(),
                warning: *warning,
            }));
        self
    }

    /// Sets the batch.
    #[must_use]
    pub fn with_batch(mut self, batch: BatchPicture) -> Self {
        self.batch = Some(batch);
        self
    }

    /// Sets the curves.
    #[must_use]
    pub fn with_curves(mut self, curves: Curves) -> Self {
        self.curves = (!curves.is_empty()).then(|| curves.thinned());
        self
    }

    /// The page.
    #[must_use]
    pub fn to_html(&self) -> String {
        let data = serde_json::to_string(self).unwrap_or_else(|error| {
            // Plain strings and numbers: there is nothing that JSON cannot hold.
            unreachable!("a report is plain data: {error}")
        });
        // Nothing in a string may end the element that it stands in.
        let data = data.replace('<', "\\u003c");
        include_str!("page.html")
            .replace("/* style */", include_str!("page.css"))
            .replace("/* script */", include_str!("page.js"))
            .replace("/* data */", &data)
    }
}
