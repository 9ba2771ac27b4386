//! How near any number came to where a formula changes its branch: as near, rounding may decide
//! otherwise, and a slope may be taken over a kink.

use std::cell::Cell;

#[derive(Debug)]
pub struct Margin(Cell<f64>);

impl Margin {
    pub fn new() -> Self {
        Self(Cell::new(f64::INFINITY))
    }

    /// Notes that `value` is compared with `bound`.
    pub fn meet(&self, value: f64, bound: f64) {
        self.0.set(self.0.get().min((value - bound).abs()));
    }

    pub fn least(&self) -> f64 {
        self.0.get()
    }

    /// Whether `value` is greater.
    pub fn exceeds(&self, value: f64, bound: f64) -> bool {
        self.meet(value, bound);
        value > bound
    }
}
