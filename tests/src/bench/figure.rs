//! Figures, their bounds, and what many samples amount to.

use serde::{Serialize, Serializer};

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Milliseconds.
    Milliseconds,
    /// Nanoseconds, of one packet.
    Nanoseconds,
    /// 10⁶ bits of payload in a second.
    MegabitsPerSecond,
    /// Packets.
    Packets,
    /// Packets in a second.
    PacketsPerSecond,
    /// Events.
    Count,
    /// Hundredths of what one core can do.
    PercentOfCore,
    /// One value by another.
    Ratio,
}

impl Unit {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Nanoseconds => "ns",
            Self::MegabitsPerSecond => "Mbit/s",
            Self::Packets => "packets",
            Self::PacketsPerSecond => "packets/s",
            Self::Count => "count",
            Self::PercentOfCore => "% of a core",
            Self::Ratio => "ratio",
        }
    }
}

impl Serialize for Unit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What a figure must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Bound {
    /// Whether `value` reaches it.
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::AtLeast(least) => write!(f, "≥ {least}"),
        }
    }
}

/// One line of a benchmark's result. Serialised it is the line of `--json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// The benchmark's name.
    pub bench: &'static str,
    /// What was measured.
    pub metric: String,
    /// To three decimals.
    pub value: f64,
    /// Of what.
    pub unit: Unit,
    /// How many measurements it is made of.
    pub samples: usize,
    /// What it must reach.
    #[serde(skip)]
    pub bound: Option<Bound>,
}

impl Figure {
    /// A figure without a bound.
    pub fn new(bench: &'static str, metric: impl Into<String>, value: f64, unit: Unit, samples: usize) -> Self {
        let value = (value * 1e3).round() / 1e3;
        Self {
            bench,
            metric: metric.into(),
            value,
            unit,
            samples,
            bound: None,
        }
    }

    /// The same with a bound.
    #[must_use]
    pub fn bounded(mut self, bound: Bound) -> Self {
        self.bound = Some(bound);
        self
    }

    /// Whether it reaches its bound, if it has one.
    pub fn is_met(&self) -> Option<bool> {
        self.bound.map(|bound| bound.is_met(self.value))
    }
}

/// What samples of one thing amount to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    /// The middle one; of an even number the mean of the two in the middle.
    pub(crate) median: f64,
    /// The mean of the middle half (the interquartile mean): as deaf to outliers as the median, and not grainy where values are few and apart.
    pub(crate) midmean: f64,
    /// The quartiles below and above the median, to the nearest sample.
    pub(crate) quartiles: [f64; 2],
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
    /// How many there are.
    pub(crate) count: usize,
}

impl Summary {
    /// Of `samples`, in any order; nothing for none.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get(sorted.len().saturating_sub(1) / 2)?;
        let quarter = sorted.len() / 4;
        let middle = sorted.get(quarter..sorted.len() - quarter)?;
        Some(Self {
            median: f64::midpoint(lower, upper),
            midmean: middle.iter().sum::<f64>() / middle.len() as f64,
            quartiles: [*middle.first()?, *middle.last()?],
            min: *sorted.first()?,
            max: *sorted.last()?,
            count: sorted.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_one_object_with_the_promised_keys() {
        let figure =
            Figure::new("programs", "steer_v4_to_floor", 1.234_56, Unit::Ratio, 15).bounded(Bound::AtMost(2.0));
        assert_eq!(
            serde_json::to_string(&figure).expect("plain data"),
            r#"{"bench":"programs","metric":"steer_v4_to_floor","value":1.235,"unit":"ratio","samples":15}"#
        );
    }

    #[test]
    fn a_bound_is_met_up_to_itself_and_no_further() {
        let figure = |value| Figure::new("gap", "p50", value, Unit::Milliseconds, 1);
        assert_eq!(figure(80.0).is_met(), None);
        assert_eq!(figure(80.0).bounded(Bound::AtMost(80.0)).is_met(), Some(true));
        assert_eq!(figure(80.001).bounded(Bound::AtMost(80.0)).is_met(), Some(false));
        assert_eq!(figure(0.97).bounded(Bound::AtLeast(0.97)).is_met(), Some(true));
        assert_eq!(figure(0.969).bounded(Bound::AtLeast(0.97)).is_met(), Some(false));
    }

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        let odd = Summary::of(&[9.0, 1.0, 2.0]).expect("there are samples");
        assert_eq!((odd.median, odd.min, odd.max, odd.count), (2.0, 1.0, 9.0, 3));
        let even = Summary::of(&[4.0, 1.0, 2.0, 9.0]).expect("there are samples");
        assert_eq!((even.median, even.count), (3.0, 4));
        assert_eq!(Summary::of(&[5.0]).map(|one| one.median), Some(5.0));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn the_middle_half_is_without_a_quarter_at_either_end() {
        let eight = Summary::of(&[100.0, 3.0, 2.0, 1.0, 0.0, 4.0, 5.0, 6.0]).expect("there are samples");
        assert_eq!((eight.quartiles, eight.midmean), ([2.0, 5.0], 3.5));
        let few = Summary::of(&[1.0, 2.0, 6.0]).expect("there are samples");
        assert_eq!((few.quartiles, few.midmean), ([1.0, 6.0], 3.0));
    }
}
