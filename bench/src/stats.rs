//! Rounds of ours and a baseline → min, median, max, and their ratio round by round.

use serde::Serialize;

/// Smallest, middle and largest of some rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// None of no values, or of one that is no number.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        if sorted.iter().any(|v| v.is_nan()) {
            return None;
        }
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            *sorted.get(middle)?
        } else {
            f64::midpoint(*sorted.get(middle.checked_sub(1)?)?, *sorted.get(middle)?)
        };
        Some(Self {
            min: *sorted.first()?,
            median,
            max: *sorted.last()?,
        })
    }
}

/// The value below which a share (0.0 … 1.0) of the sorted values lies.
pub fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list"
    )]
    let at = (last as f64 * share.clamp(0.0, 1.0)).round() as usize;
    sorted.get(at).copied()
}

/// What a row has to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// Shown for comparison only.
    None,
    /// ours / baseline, median of the rounds.
    RatioAtLeast(f64),
    RatioAtMost(f64),
    /// ours − baseline, in the row's unit, median against median.
    MoreByAtMost(f64),
    /// Ours alone, in the row's unit.
    AtLeast(f64),
    AtMost(f64),
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    pub name: String,
    pub unit: &'static str,
    pub goal: Goal,
    /// One value a round; `baseline` of the same round stands in the same place.
    pub ours: Vec<f64>,
    /// Empty when there is nothing to compare with.
    pub baseline: Vec<f64>,
    /// What the baseline is.
    pub against: &'static str,
    /// Other figures of the same rounds, e.g. CPU time a message.
    pub note: String,
    /// Figures that the list has and the table has not.
    pub details: serde_json::Value,
}

impl Row {
    /// ours / baseline of each round. Not of the medians: what disturbed a round disturbed both.
    pub fn ratios(&self) -> Option<Spread> {
        if self.baseline.len() != self.ours.len() || self.baseline.contains(&0.0) {
            return None;
        }
        Spread::of(self.ours.iter().zip(&self.baseline).map(|(o, b)| o / b))
    }

    /// None: the row has no goal, or nothing was measured.
    pub fn met(&self) -> Option<bool> {
        let ours = Spread::of(self.ours.iter().copied())?.median;
        let ratio = || self.ratios().map(|r| r.median);
        match self.goal {
            Goal::None => None,
            Goal::RatioAtLeast(bound) => Some(ratio()? >= bound),
            Goal::RatioAtMost(bound) => Some(ratio()? <= bound),
            Goal::MoreByAtMost(bound) => {
                let base = Spread::of(self.baseline.iter().copied())?.median;
                Some(ours - base <= bound)
            }
            Goal::AtLeast(bound) => Some(ours >= bound),
            Goal::AtMost(bound) => Some(ours <= bound),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn row(goal: Goal, ours: &[f64], baseline: &[f64]) -> Row {
        Row {
            name: "r".into(),
            unit: "msg/s",
            goal,
            ours: ours.to_vec(),
            baseline: baseline.to_vec(),
            against: "b",
            note: String::new(),
            details: serde_json::Value::Null,
        }
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.5, 4.0));
        assert_eq!(Spread::of([7.0]).unwrap().median, 7.0);
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([1.0, f64::NAN]), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The second round ran on half a machine; the ratio does not care.
        let r = row(Goal::RatioAtLeast(0.85), &[90.0, 45.0], &[100.0, 50.0]);
        let ratios = r.ratios().unwrap();
        assert_eq!((ratios.min, ratios.max), (0.9, 0.9));
        assert_eq!(r.met(), Some(true));
    }

    #[test]
    fn goals_are_met_at_the_bound_and_missed_beyond() {
        let met = |goal| row(goal, &[80.0], &[100.0]).met();
        assert_eq!(met(Goal::RatioAtLeast(0.8)), Some(true));
        assert_eq!(met(Goal::RatioAtLeast(0.81)), Some(false));
        assert_eq!(met(Goal::RatioAtMost(0.8)), Some(true));
        assert_eq!(met(Goal::RatioAtMost(0.79)), Some(false));
        assert_eq!(met(Goal::AtLeast(80.0)), Some(true));
        assert_eq!(met(Goal::AtLeast(80.1)), Some(false));
        assert_eq!(met(Goal::AtMost(80.0)), Some(true));
        assert_eq!(met(Goal::AtMost(79.9)), Some(false));
        assert_eq!(met(Goal::MoreByAtMost(-20.0)), Some(true));
        assert_eq!(met(Goal::MoreByAtMost(-21.0)), Some(false));
        assert_eq!(met(Goal::None), None);
    }

    #[test]
    fn a_round_without_its_baseline_has_no_ratio_and_no_verdict() {
        let r = row(Goal::RatioAtLeast(0.5), &[1.0, 2.0], &[1.0]);
        assert_eq!((r.ratios(), r.met()), (None, None));
        let r = row(Goal::RatioAtMost(0.5), &[1.0], &[0.0]);
        assert_eq!((r.ratios(), r.met()), (None, None));
    }

    #[test]
    fn percentiles_stay_inside_the_list() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), Some(50.0));
        assert_eq!(percentile(&values, 0.99), Some(99.0));
        assert_eq!(percentile(&values, 7.0), Some(100.0));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
