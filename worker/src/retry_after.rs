//! When a server wants to be asked again.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// A server that asks for a longer wait is asked again after this one.
const LONGEST: Duration = Duration::from_secs(3_600);

/// When the server wants to be asked again: `retry-after-ms`, or `retry-after` in seconds or as a date.
pub(crate) fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    // More than a duration can hold is no reason to come at once.
    let is_endless = |number: f64| number > LONGEST.as_secs_f64();
    let seconds =
        |number: f64| if is_endless(number) { Some(LONGEST) } else { Duration::try_from_secs_f64(number).ok() };
    let millis = text("retry-after-ms").and_then(|text| text.parse::<f64>().ok()).and_then(|ms| seconds(ms / 1_000.0));
    let wait = millis.or_else(|| {
        let text = text(RETRY_AFTER.as_str())?;
        if let Ok(number) = text.parse::<f64>() {
            return seconds(number);
        }
        let date = DateTime::parse_from_rfc2822(text).ok()?;
        Some((date.with_timezone(&Utc) - now).to_std().unwrap_or_default())
    });
    wait.map(|wait| wait.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(
            reqwest::header::HeaderName::from_static(name),
            reqwest::header::HeaderValue::from_static(value),
        )])
    }

    #[test]
    fn every_form_of_retry_after_is_understood() {
        let now = DateTime::parse_from_rfc3339("2026-11-21T10:00:00Z").expect("a time").to_utc();
        let cases = [
            ("retry-after-ms", "1500", Some(1_500)),
            ("retry-after", "2", Some(2_000)),
            ("retry-after", "0.5", Some(500)),
            ("retry-after", "Sat, 21 Nov 2026 10:00:07 GMT", Some(7_000)),
            ("retry-after", "Sat, 21 Nov 2026 09:00:00 GMT", Some(0)),
            ("retry-after", "999999999", Some(3_600_000)),
            ("retry-after", "18446744073709551615", Some(3_600_000)),
            ("retry-after-ms", "1e300", Some(3_600_000)),
            ("retry-after", "-1", None),
            ("retry-after", "NaN", None),
            ("retry-after", "soon", None),
        ];
        for (name, value, millis) in cases {
            assert_eq!(retry_after(&headers(name, value), now), millis.map(Duration::from_millis), "{name}: {value}");
        }
    }
}
