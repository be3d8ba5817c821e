//! Places values on an axis of a plot, and chooses its ticks.

/// About as many ticks has a linear axis.
const TICKS: f64 = 5.0;
/// With fewer powers of ten a logarithmic axis has ticks at their double and fivefold, too.
const FEWEST_POWERS: usize = 3;

/// An axis of a plot: which values it shows, and which of them have a label.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueScale {
    is_logarithmic: bool,
    min: f64,
    max: f64,
    ticks: Vec<f64>,
}

impl ValueScale {
    /// Returns a logarithmic scale if the largest value is `ratio` times the smallest or more, else a linear one.
    pub fn fitting(values: &[f64], ratio: f64) -> Self {
        let (min, max) = range(values);
        if min > 0.0 && max / min >= ratio { Self::logarithmic(min, max) } else { Self::linear(max) }
    }

    /// Returns a linear scale from 0 to a round number that is `max` or more.
    pub fn linear(max: f64) -> Self {
        let step = round_up(max / TICKS);
        let steps = (max / step).ceil().max(1.0);
        let ticks = (0..=steps as u32).map(|tick| f64::from(tick) * step).collect();
        Self { is_logarithmic: false, min: 0.0, max: steps * step, ticks }
    }

    fn logarithmic(min: f64, max: f64) -> Self {
        let numbers: Vec<f64> = (min.log10().floor() as i32..=max.log10().ceil() as i32)
            .flat_map(|power| [1.0, 2.0, 5.0].map(|factor| factor * 10_f64.powi(power)))
            .collect();
        let first = numbers.iter().rposition(|&number| number <= min * 1.000_001).unwrap_or_default();
        let last = numbers.iter().position(|&number| number >= max * 0.999_999).unwrap_or(numbers.len() - 1);
        let shown = &numbers[first..=last];
        let powers: Vec<f64> = shown.iter().copied().filter(|number| number.log10().fract().abs() < 1e-9).collect();
        let ticks = if powers.len() < FEWEST_POWERS { shown.to_vec() } else { powers };
        Self { is_logarithmic: true, min: numbers[first], max: numbers[last], ticks }
    }

    pub fn ticks(&self) -> &[f64] {
        &self.ticks
    }

    /// Returns the place of a value: 0 at the begin of the axis, 1 at its end.
    pub fn place(&self, value: f64) -> f64 {
        let at = |value: f64| if self.is_logarithmic { value.max(self.min).log10() } else { value };
        (at(value) - at(self.min)) / (at(self.max) - at(self.min))
    }
}

fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, 0.0), |(min, max), &value| (min.min(value), max.max(value)))
}

/// Returns the least of 1, 2, 2.5 and 5 times a power of ten that is `value` or more.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let factors = [1.0, 2.0, 2.5, 5.0, 10.0];
    factors.iter().map(|factor| factor * power).find(|&number| number >= value * 0.999_999).unwrap_or(value)
}

/// Returns a short text of a value: `2.5`, `10 k`, `1 M`.
pub fn label(value: f64) -> String {
    let (value, unit) = match value {
        _ if value >= 1e6 => (value / 1e6, " M"),
        _ if value >= 1e3 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = format!("{value:.2}");
    format!("{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_scale_begins_at_zero_and_ends_at_a_round_number() {
        let scale = ValueScale::fitting(&[3.0, 47.0], 20.0);
        assert_eq!(scale.ticks(), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
        assert_eq!((scale.place(0.0), scale.place(25.0), scale.place(50.0)), (0.0, 0.5, 1.0));
        assert_eq!(ValueScale::linear(0.0).place(0.0), 0.0);
        assert_eq!(ValueScale::linear(12.0).ticks(), [0.0, 2.5, 5.0, 7.5, 10.0, 12.5]);
    }

    #[test]
    fn powers_of_ten_are_equally_far_apart() {
        let scale = ValueScale::fitting(&[1_000.0, 10_000.0, 1_000_000.0], 100.0);
        assert_eq!(scale.ticks(), [1e3, 1e4, 1e5, 1e6]);
        let places = scale.ticks().iter().map(|&tick| (scale.place(tick) * 3.0).round()).collect::<Vec<_>>();
        assert_eq!(places, [0.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn a_logarithmic_scale_of_few_powers_has_ticks_between_them() {
        let scale = ValueScale::fitting(&[4.0, 450.0], 100.0);
        assert_eq!(scale.ticks(), [2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0]);
        assert!(scale.place(4.0) > 0.0 && scale.place(450.0) < 1.0);
    }

    #[test]
    fn labels_are_short() {
        let labels = [0.0, 0.25, 2.5, 200.0, 1_000.0, 12_500.0, 1e6, 2.5e6].map(label);
        assert_eq!(labels, ["0", "0.25", "2.5", "200", "1 k", "12.5 k", "1 M", "2.5 M"]);
    }
}
