//! The learning curves as a picture.

use std::error::Error;
use std::fs::File;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::train::Iteration;

/// One curve: its name, what it says, how to draw it, and its value in an iteration.
struct Curve {
    name: &'static str,
    meaning: &'static str,
    color: RGBColor,
    legend: SeriesLabelPosition,
    value: fn(&Iteration) -> f64,
}

const CURVES: [Curve; 4] = [
    Curve {
        name: "reward",
        meaning: "mean reward of the rollout",
        color: RGBColor(0, 114, 178),
        legend: SeriesLabelPosition::LowerRight,
        value: |iteration| iteration.reward,
    },
    Curve {
        name: "clip_ratio",
        meaning: "fraction of clipped tokens",
        color: RGBColor(213, 94, 0),
        legend: SeriesLabelPosition::UpperRight,
        value: |iteration| iteration.metrics.clip_ratio,
    },
    Curve {
        name: "ppo_kl",
        meaning: "old policy against trained policy",
        color: RGBColor(0, 158, 115),
        legend: SeriesLabelPosition::UpperRight,
        value: |iteration| iteration.metrics.ppo_kl,
    },
    Curve {
        name: "rollout_kl",
        meaning: "sampler against trainer",
        color: RGBColor(170, 80, 140),
        legend: SeriesLabelPosition::UpperRight,
        value: |iteration| iteration.metrics.rollout_kl.unwrap_or(0.0),
    },
];

/// Makes sure that `path` can be written.
///
/// # Errors
///
/// It cannot.
pub fn prepare(path: &Path) -> Result<(), Box<dyn Error>> {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    folder
        .and_then(|()| File::options().append(true).create(true).open(path))
        .map_err(|error| format!("cannot write the plot to {}: {error}", path.display()))?;
    Ok(())
}

/// Draws the curves into an SVG file.
///
/// # Errors
///
/// The file cannot be written.
pub fn draw(path: &Path, title: &str, history: &[Iteration]) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, (1000, 720)).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(title, ("sans-serif", 24))?;
    for (area, curve) in root.split_evenly((2, 2)).iter().zip(&CURVES) {
        panel(area, curve, history)?;
    }
    Ok(root.present()?)
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    curve: &Curve,
    history: &[Iteration],
) -> Result<(), Box<dyn Error>> {
    let points: Vec<(f64, f64)> = history
        .iter()
        .enumerate()
        .map(|(index, iteration)| ((index + 1) as f64, (curve.value)(iteration)))
        .collect();
    let last = points.len().max(2) as f64;
    let (low, high) = range(&points);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .caption(curve.name, ("sans-serif", 18))
        .x_label_area_size(38)
        .y_label_area_size(64)
        .build_cartesian_2d(1.0..last, low..high)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_desc("iteration")
        .y_desc(curve.meaning)
        .x_labels(8)
        .y_labels(6)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| tick(*y))
        .label_style(("sans-serif", 13))
        .draw()?;
    let color = curve.color;
    chart
        .draw_series(LineSeries::new(points, color.stroke_width(2)))?
        .label(curve.name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    chart
        .configure_series_labels()
        .position(curve.legend.clone())
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}

/// Zero and every value, with room for the legend above them.
fn range(points: &[(f64, f64)]) -> (f64, f64) {
    let values = || points.iter().map(|point| point.1).filter(|y| y.is_finite());
    let low = values().fold(0.0, f64::min);
    let high = values().fold(0.0, f64::max);
    let room = 0.05 * (high - low);
    match (low < 0.0, high > low) {
        (true, _) => (low - room, high + 3.0 * room),
        (false, true) => (0.0, high + 3.0 * room),
        (false, false) => (0.0, 1.0),
    }
}

/// A number on the vertical axis; small ones would need more digits than there is room for.
fn tick(y: f64) -> String {
    match y.abs() {
        size if size < 1e-12 => "0".into(),
        size if size < 1e-3 => format!("{y:.1e}"),
        _ => format!("{}", (y * 1e4).round() / 1e4),
    }
}
