//! Figures over rounds, and how they grow.

use crate::measure::{Quantity, median};

/// A growth above this is faster than its cause.
pub const LIMIT: f64 = 1.1;

/// One quantity at one point, over all rounds.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// How many there are of what is varied.
    pub cause: f64,
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Cost {
    /// Nothing, if there is no figure.
    pub fn over(cause: u64, mut figures: Vec<f64>) -> Option<Self> {
        if figures.is_empty() {
            return None;
        }
        let median = median(&mut figures);
        let (min, max) = (figures[0], figures[figures.len() - 1]);
        Some(Self { cause: cause as f64, median, min, max })
    }

    /// The whole cost of the cause; of what is counted per command, that of one command for each.
    pub fn total(&self, quantity: Quantity) -> f64 {
        match quantity {
            Quantity::PerCommand => self.median * self.cause,
            _ => self.median,
        }
    }

    /// The cost of each one.
    pub fn each(&self, quantity: Quantity) -> f64 {
        self.total(quantity) / self.cause
    }
}

/// The points that growth is judged by: the upper half.
pub fn upper_half(costs: &[Cost]) -> &[Cost] {
    &costs[costs.len() / 2..]
}

/// The slope of the logarithm of the total cost over that of the cause, by least squares.
/// Nothing, if there are too few points.
pub fn exponent(costs: &[Cost], quantity: Quantity) -> Option<f64> {
    let points: Vec<(f64, f64)> = upper_half(costs)
        .iter()
        .map(|cost| (cost.cause.ln(), cost.total(quantity).ln()))
        .filter(|(_, y)| y.is_finite())
        .collect();
    if points.len() < 2 {
        return None;
    }
    let n = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / n;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / n;
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    (variance > 0.0).then(|| covariance / variance)
}

/// What one more costs, by the last two points; their steps are large, so what is fixed drops out.
pub fn marginal(costs: &[Cost], quantity: Quantity) -> Option<f64> {
    let [.., before, last] = costs else { return None };
    Some((last.total(quantity) - before.total(quantity)) / (last.cause - before.cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(total: impl Fn(f64) -> f64) -> Vec<Cost> {
        let causes = [1_u64, 10, 100, 1_000, 10_000];
        causes.iter().filter_map(|&n| Cost::over(n, vec![total(n as f64)])).collect()
    }

    #[test]
    fn powers_are_found() {
        for power in [0.0, 0.5, 1.0, 2.0] {
            let found = exponent(&costs(|n| 7.0 * n.powf(power)), Quantity::Drain).unwrap();
            assert!((found - power).abs() < 1e-9, "{found} instead of {power}");
        }
    }

    #[test]
    fn a_constant_cost_per_command_grows_with_the_number_of_commands() {
        let found = exponent(&costs(|_| 500.0), Quantity::PerCommand).unwrap();
        assert!((found - 1.0).abs() < 1e-9, "{found}");
    }

    #[test]
    fn one_more_costs_what_it_adds() {
        let found = marginal(&costs(|n| 5_000.0 + 3.0 * n), Quantity::Bytes).unwrap();
        assert!((found - 3.0).abs() < 1e-9, "{found}");
    }
}
