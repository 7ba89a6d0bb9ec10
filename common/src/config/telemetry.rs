//! `[telemetry]`: spans, on their way to a collector.

use serde::{Deserialize, Serialize};

use super::Secret;

/// `[telemetry]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// A collector that takes OTLP over HTTP with protobuf bodies, without `/v1/traces`: `http://otel-collector:4318`. Unset: no
    /// spans are recorded; what traces clients bring is handed on all the same.
    pub otlp_endpoint: Option<String>,
    /// Sent with each batch: `name=value`, with commas between them, as in `authorization=Bearer …`.
    pub otlp_headers: Option<Secret>,
    /// Which part of the traces that begin here is recorded: 0 none, 1 all. Of traces that clients bring, those are that the
    /// client records.
    pub sample_ratio: f64,
    /// What traces know this installation by.
    pub service_name: String,
    /// Spans that wait for the collector, at most; beyond it they are lost.
    pub queue_spans: u32,
    /// Spans that are sent together, at most.
    pub batch_spans: u32,
    /// Longest time that a span waits for others, in milliseconds.
    pub export_interval_ms: u32,
    /// Longest time that the collector may take for a request, in seconds. So long a batch that may be taken later is sent again;
    /// after that it is lost.
    pub export_timeout_seconds: u32,
    /// How long a process that stops goes on to send what waits, in seconds, after all else has ended.
    pub flush_seconds: u32,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            otlp_headers: None,
            sample_ratio: 1.0,
            service_name: "errand".to_owned(),
            queue_spans: 8_192,
            batch_spans: 512,
            export_interval_ms: 1_000,
            export_timeout_seconds: 10,
            flush_seconds: 3,
        }
    }
}

impl Telemetry {
    /// Names and values of the headers. `None`: they can't be read.
    pub(crate) fn header_pairs(&self) -> Option<Vec<(&str, &str)>> {
        self.otlp_headers.as_ref().map_or_else(|| Some(Vec::new()), |headers| pairs(headers.expose()))
    }
}

/// Reads `name=value,name=value`.
pub(super) fn pairs(text: &str) -> Option<Vec<(&str, &str)>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=')?;
            let (name, value) = (name.trim(), value.trim());
            let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            let is_value = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            (is_name && is_value).then_some((name, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_pairs_and_nothing_else() {
        let read = pairs("authorization=Bearer a=b, x-scope-orgid = 7,").expect("pairs");
        assert_eq!(read, [("authorization", "Bearer a=b"), ("x-scope-orgid", "7")]);
        assert_eq!(pairs(""), Some(Vec::new()));
        for wrong in ["authorization", "=value", "na me=x", "a=b,c", "a=é"] {
            assert_eq!(pairs(wrong), None, "{wrong}");
        }
    }
}
