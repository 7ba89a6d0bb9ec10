//! What is printed.

use std::fmt::Display;

use serde::Serialize;

/// What one drill measured, and what it was promised to hold.
#[derive(Serialize, Debug)]
pub(crate) struct Report {
    title: String,
    figures: Vec<Figure>,
    promises: Vec<Promise>,
}

#[derive(Serialize, Debug)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
}

#[derive(Serialize, Debug)]
struct Promise {
    text: String,
    kept: bool,
    /// What was seen instead, if it was broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<String>,
}

impl Report {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), figures: Vec::new(), promises: Vec::new() }
    }

    /// Adds a measured value.
    pub(crate) fn figure(mut self, name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        self.figures.push(Figure { name: name.into(), value, unit });
        self
    }

    /// Adds a number of things.
    #[expect(clippy::cast_precision_loss, reason = "far fewer than a float counts exactly")]
    pub(crate) fn count(self, name: impl Into<String>, count: usize) -> Self {
        self.figure(name, count as f64, "")
    }

    /// Adds a promise that holds if nothing speaks against it.
    pub(crate) fn promise<T: Display>(mut self, text: impl Into<String>, against: &[T]) -> Self {
        /// Enough to see of what kind they are.
        const SHOWN: usize = 3;
        let examples: Vec<String> = against.iter().take(SHOWN).map(ToString::to_string).collect();
        let seen = (!against.is_empty()).then(|| format!("{} times: {}", against.len(), examples.join("; ")));
        self.promises.push(Promise { text: text.into(), kept: seen.is_none(), seen });
        self
    }

    /// Adds a promise that a value doesn't exceed a limit of the same unit.
    pub(crate) fn at_most(self, text: impl Into<String>, value: f64, limit: f64) -> Self {
        // A value that is no number was not measured and keeps no promise.
        let against = if value <= limit { vec![] } else { vec![format!("{value:.3} instead of at most {limit:.3}")] };
        self.promise(text, &against)
    }

    /// Whether all promises held.
    pub(crate) fn is_kept(&self) -> bool {
        self.promises.iter().all(|promise| promise.kept)
    }
}

/// The value that `percent` of 100 don't exceed; no number if there is none.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank between 0 and a length that a float counts exactly"
)]
pub(crate) fn percentile(values: &mut [f64], percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * percent / 100.0).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Tables for people, or one document for programs.
pub(crate) fn print(reports: &[Report], json: bool) {
    if json {
        println!("{:#}", serde_json::json!(reports));
        return;
    }
    for report in reports {
        println!("{}", report.title);
        for Figure { name, value, unit } in &report.figures {
            let digits =
                if unit.is_empty() { 0 } else { 3 - usize::from(*value >= 10.0) - usize::from(*value >= 100.0) };
            println!("  {name:<58} {value:>11.digits$} {unit}");
        }
        for Promise { text, seen, .. } in &report.promises {
            match seen {
                None => println!("  kept    {text}"),
                Some(seen) => println!("  BROKEN  {text}: {seen}"),
            }
        }
        println!();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        for (percent, wanted) in [(50.0, 50.0), (99.0, 99.0), (100.0, 100.0), (0.0, 1.0)] {
            assert!((percentile(&mut values, percent) - wanted).abs() < f64::EPSILON, "{percent}");
        }
        assert!(percentile(&mut [], 50.0).is_nan());
    }

    #[test]
    fn one_broken_promise_breaks_the_report() {
        let kept = Report::new("a drill").promise::<&str>("nothing is lost", &[]).at_most("it is quick", 1.0, 1.0);
        assert!(kept.is_kept());
        assert!(!kept.at_most("it was measured", f64::NAN, 1.0).is_kept());
        assert!(!Report::new("a drill").promise("nothing is lost", &["job 1"]).is_kept());
    }
}
