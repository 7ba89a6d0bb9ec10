//! What the end of a turn means, and what it cost.

use errand_common::domain::{FailureClass, Usage};

use super::frames::{ModelUsage, Outcome, Tokens};
use crate::engine::{TurnFailure, code, text::excerpt};

/// Most of the program's own words in a failure, in bytes.
const WORDS_LIMIT: usize = 500;

/// What the program's error names and statuses mean. `named`: what its last error text was marked with.
pub(super) fn failure(outcome: &Outcome, named: &str) -> TurnFailure {
    let (class, code) = classify(outcome, named);
    let words = match code {
        // Its own words about an interruption are for its makers.
        code::EXECUTION_ERROR if outcome.terminal_reason.starts_with("aborted") => "the turn was interrupted",
        code::BUDGET_EXCEEDED => {
            "the run has spent what the budgets of its task, session and tenant left for it; submit the task again with a \
             larger one, or have those of the settings (`budgets`) raised"
        }
        _ if outcome.text.trim().is_empty() => [outcome.terminal_reason.as_str(), &outcome.subtype]
            .into_iter()
            .find(|words| !words.is_empty())
            .unwrap_or("no reason was given"),
        _ => outcome.text.trim(),
    };
    TurnFailure::new(class, code, crate::engine::text::without_nul(excerpt(words, WORDS_LIMIT)))
}

/// Whether a conversation that was to be resumed is not there.
pub(super) fn is_unknown_conversation(outcome: &Outcome) -> bool {
    outcome.is_error && outcome.text.contains("No conversation found")
}

fn classify(outcome: &Outcome, named: &str) -> (FailureClass, &'static str) {
    match outcome.subtype.as_str() {
        "error_max_turns" => return (FailureClass::Fatal, code::MAX_TURNS),
        "error_max_budget_usd" => return (FailureClass::Fatal, code::BUDGET_EXCEEDED),
        _ => {}
    }
    let by_name = [outcome.api_error_type.as_str(), named].into_iter().find_map(by_name);
    by_name
        .or_else(|| outcome.api_error_status.and_then(by_status))
        .or_else(|| by_reason(outcome))
        .unwrap_or((FailureClass::Fatal, code::EXECUTION_ERROR))
}

fn by_name(name: &str) -> Option<(FailureClass, &'static str)> {
    Some(match name {
        "authentication_failed" | "authentication_error" | "permission_error" | "oauth_org_not_allowed" => {
            (FailureClass::Auth, code::ENGINE_AUTH)
        }
        "billing_error" => (FailureClass::Fatal, code::QUOTA_EXHAUSTED),
        "rate_limit" | "rate_limit_error" => (FailureClass::RateLimited, code::RATE_LIMITED),
        "overloaded" | "overloaded_error" | "server_error" | "api_error" => {
            (FailureClass::Transient, code::EXECUTION_ERROR)
        }
        "timeout_error" => (FailureClass::Transient, code::ENGINE_TIMEOUT),
        "invalid_request" | "invalid_request_error" | "model_not_found" | "not_found_error" | "request_too_large" => {
            (FailureClass::Invalid, code::INVALID_REQUEST)
        }
        "max_output_tokens" => (FailureClass::Fatal, code::OUTPUT_LIMIT),
        _ => return None,
    })
}

fn by_status(status: u64) -> Option<(FailureClass, &'static str)> {
    Some(match status {
        401 | 403 => (FailureClass::Auth, code::ENGINE_AUTH),
        402 => (FailureClass::Fatal, code::QUOTA_EXHAUSTED),
        429 => (FailureClass::RateLimited, code::RATE_LIMITED),
        408 | 409 | 425 | 500.. => (FailureClass::Transient, code::EXECUTION_ERROR),
        400..=499 => (FailureClass::Invalid, code::INVALID_REQUEST),
        _ => return None,
    })
}

fn by_reason(outcome: &Outcome) -> Option<(FailureClass, &'static str)> {
    Some(match (outcome.stop_reason.as_str(), outcome.terminal_reason.as_str()) {
        ("refusal", _) => (FailureClass::Fatal, code::CONTENT_FILTERED),
        ("max_tokens", _) => (FailureClass::Fatal, code::OUTPUT_LIMIT),
        (_, "prompt_too_long" | "image_error") => (FailureClass::Invalid, code::INVALID_REQUEST),
        (_, "budget_exhausted") => (FailureClass::Fatal, code::BUDGET_EXCEEDED),
        // No status: the network, or a server that broke off.
        (_, "api_error" | "model_error" | "blocking_limit" | "rapid_refill_breaker") => {
            (FailureClass::Transient, code::EXECUTION_ERROR)
        }
        (_, "aborted_streaming" | "aborted_tools" | "turn_setup_failed") => {
            (FailureClass::Transient, code::EXECUTION_ERROR)
        }
        _ => return None,
    })
}

/// What the process spent in all. It ran one turn, and nothing was spent before it.
pub(super) fn usage(outcome: &Outcome) -> Usage {
    let whole = outcome.models.iter().fold(Tokens::default(), |sum, model| sum.plus(model.tokens));
    let tokens = if outcome.models.is_empty() { outcome.tokens } else { whole };
    let guessed = outcome.models.iter().any(|model| model.cost_guessed);
    let cost = outcome.cost_usd.filter(|_| !guessed).map(nano);
    let by_cost = |a: &&ModelUsage, b: &&ModelUsage| a.cost_usd.total_cmp(&b.cost_usd);
    Usage {
        cost_nano_usd: cost,
        cost_basis: cost.map(|_| "engine".to_owned()),
        model: outcome.models.iter().max_by(by_cost).map(|model| model.model.clone()),
        ..tokens.usage()
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an amount of money, clamped")]
fn nano(usd: f64) -> u64 {
    (usd.clamp(0.0, 1e9) * 1e9).round() as u64
}

impl Tokens {
    /// The sum; what neither knows stays unknown.
    pub(super) fn plus(self, other: Self) -> Self {
        let sum = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.saturating_add(b)),
            (a, b) => a.or(b),
        };
        Self {
            input: sum(self.input, other.input),
            cache_read: sum(self.cache_read, other.cache_read),
            cache_write: sum(self.cache_write, other.cache_write),
            output: sum(self.output, other.output),
        }
    }

    /// Later counts of the same answer take the place of earlier ones.
    pub(super) fn updated(self, later: Self) -> Self {
        Self {
            input: later.input.or(self.input),
            cache_read: later.cache_read.or(self.cache_read),
            cache_write: later.cache_write.or(self.cache_write),
            output: later.output.or(self.output),
        }
    }

    /// Without a cost or a model.
    pub(super) fn usage(self) -> Usage {
        let count = |tokens: Option<u64>| tokens.unwrap_or(0);
        let (read, write) = (count(self.cache_read), count(self.cache_write));
        Usage {
            input_tokens: count(self.input).saturating_add(read).saturating_add(write),
            output_tokens: count(self.output),
            cache_read_tokens: read,
            cache_write_tokens: write,
            ..Usage::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: Option<u64>, kind: &str) -> Outcome {
        Outcome {
            is_error: true,
            subtype: "success".into(),
            api_error_status: status,
            api_error_type: kind.into(),
            text: "API Error".into(),
            ..Outcome::default()
        }
    }

    #[test]
    fn errors_have_their_classes_by_name_and_by_status() {
        for (status, name, class) in [
            (Some(401), "", FailureClass::Auth),
            (None, "authentication_failed", FailureClass::Auth),
            (Some(402), "", FailureClass::Fatal),
            (Some(404), "", FailureClass::Invalid),
            (None, "rate_limit", FailureClass::RateLimited),
            (Some(429), "", FailureClass::RateLimited),
            (Some(529), "overloaded_error", FailureClass::Transient),
            (None, "something_new", FailureClass::Fatal),
        ] {
            assert_eq!(failure(&error(status, name), "").class, class, "{status:?} {name}");
            assert_eq!(failure(&error(status, ""), name).class, class, "{status:?} {name}, told by the answer");
        }
    }

    #[test]
    fn ends_without_an_error_of_the_server_are_told_by_their_reason() {
        let ended = |subtype: &str, reason: &str| {
            let outcome = Outcome { subtype: subtype.into(), terminal_reason: reason.into(), ..error(None, "") };
            let failed = failure(&outcome, "");
            (failed.class, failed.code)
        };
        assert_eq!(ended("error_max_turns", "max_turns"), (FailureClass::Fatal, code::MAX_TURNS));
        assert_eq!(ended("error_max_budget_usd", "budget_exhausted"), (FailureClass::Fatal, code::BUDGET_EXCEEDED));
        assert_eq!(ended("success", "api_error"), (FailureClass::Transient, code::EXECUTION_ERROR));
        assert_eq!(ended("success", "prompt_too_long"), (FailureClass::Invalid, code::INVALID_REQUEST));
        let aborted =
            Outcome { terminal_reason: "aborted_tools".into(), text: "[ede_diagnostic]".into(), ..error(None, "") };
        assert_eq!(failure(&aborted, "").message, "the turn was interrupted");
    }

    #[test]
    fn a_guessed_cost_is_no_cost() {
        let model = |name: &str, cost_usd, cost_guessed| ModelUsage {
            model: name.into(),
            tokens: Tokens { input: Some(10), cache_read: Some(5), cache_write: None, output: Some(2) },
            cost_usd,
            cost_guessed,
        };
        let outcome = |models| Outcome { cost_usd: Some(0.000_4), models, ..Outcome::default() };
        let known = usage(&outcome(vec![model("small", 0.000_1, false), model("large", 0.000_3, false)]));
        assert_eq!((known.input_tokens, known.output_tokens, known.cache_read_tokens), (30, 4, 10));
        assert_eq!((known.cost_nano_usd, known.model.as_deref()), (Some(400_000), Some("large")));
        assert_eq!(usage(&outcome(vec![model("new", 0.000_4, true)])).cost_nano_usd, None);
    }
}
