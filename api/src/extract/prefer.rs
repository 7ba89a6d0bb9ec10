//! `Prefer: wait=N`: the client would rather wait for the end than come again.

use std::time::Duration;

use axum::{extract::FromRequestParts, http::request::Parts};

use crate::{limit, problem::Problem};

/// How long the client is willing to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Prefer(pub(crate) Option<Duration>);

impl<S: Send + Sync> FromRequestParts<S> for Prefer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        for value in parts.headers.get_all("prefer") {
            // A preference that is not understood is ignored, as RFC 7240 asks.
            let Ok(text) = value.to_str() else { continue };
            if let Some(wait) = wait_in(text)? {
                return Ok(Self(Some(wait)));
            }
        }
        Ok(Self(None))
    }
}

fn wait_in(header: &str) -> Result<Option<Duration>, Problem> {
    for preference in header.split([',', ';']) {
        let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
        if !name.trim().eq_ignore_ascii_case("wait") {
            continue;
        }
        let seconds = value.trim().trim_matches('"').parse::<u64>().ok();
        return match seconds.filter(|n| (1..=limit::WAIT_SECONDS).contains(n)) {
            Some(seconds) => Ok(Some(Duration::from_secs(seconds))),
            None => Err(Problem::field("header:Prefer", format!("wait must be 1 to {} seconds", limit::WAIT_SECONDS))),
        };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_found_among_other_preferences() {
        assert_eq!(wait_in("respond-async, wait=5").expect("valid"), Some(Duration::from_secs(5)));
        assert_eq!(wait_in("return=minimal").expect("valid"), None);
    }

    #[test]
    fn a_wait_outside_its_range_names_the_header() {
        for text in ["wait=0", "wait=61", "wait=-1", "wait=soon", "wait", "wait=1.5"] {
            let problem = wait_in(text).expect_err(text);
            assert_eq!(problem.errors[0].pointer, "header:Prefer", "{text}");
        }
    }
}
