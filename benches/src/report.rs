//! What is printed.

use serde::Serialize;

use crate::{burst::Burst, lag::Lag};

/// One store's figures.
#[derive(Serialize, Debug)]
pub(crate) struct Report {
    /// `sqlite` or `postgres`.
    pub(crate) store: String,
    /// Many at once.
    pub(crate) burst: Burst,
    /// The server's highest resident set up to the end of the burst, in MiB.
    pub(crate) peak_rss_mib: f64,
    /// Scheduled ones.
    pub(crate) lag: Lag,
}

/// The value that `percent` of 100 don't exceed; 0 if there is none.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank between 0 and a length that a float counts exactly"
)]
pub(crate) fn percentile(values: &mut [f64], percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * percent / 100.0).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// A table for people.
pub(crate) fn print(reports: &[Report]) {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    println!("Client and server share {cores} cores; every commit is on the disk; `echo` runs without its pauses.");
    for Report { store, burst, peak_rss_mib, lag } in reports {
        println!("\n{store}");
        println!("  {} echo tasks over {} connections, each ran exactly once", burst.jobs, burst.connections);
        println!("    submitted        {:>9.0} /s", burst.submissions_per_second);
        println!("    one submission   {:>9.1} ms p50  {:.1} ms p99", burst.submission_p50_ms, burst.submission_p99_ms);
        println!(
            "    completed        {:>9.0} /s  from the first request to the last end",
            burst.completions_per_second
        );
        println!("    peak memory      {peak_rss_mib:>9.1} MiB of the whole server");
        println!("  {} tasks scheduled ahead, from their time to their start", lag.jobs);
        println!("    lag              {:>9.1} ms p50  {:.1} ms p99  {:.1} ms max", lag.p50_ms, lag.p99_ms, lag.max_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        for (percent, wanted) in [(50.0, 50.0), (99.0, 99.0), (100.0, 100.0), (0.0, 1.0)] {
            assert!((percentile(&mut values, percent) - wanted).abs() < f64::EPSILON, "{percent}");
        }
        assert!(percentile(&mut [], 50.0).abs() < f64::EPSILON);
    }
}
