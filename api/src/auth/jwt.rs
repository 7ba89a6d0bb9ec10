//! Tokens of users: JWTs that somebody else makes, and Errand verifies.

use std::time::Duration;

use errand_common::{
    config::{Auth, Config},
    port::store::Scope,
    wire::task::TaskUser,
};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header, errors::ErrorKind};
use serde_json::{Map, Value};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Caller, Unverified, crypto,
    jwks::{Jwks, Missing, NoClient},
};
use crate::{limit, problem::Problem};

/// Whether a text looks like a token: three parts.
pub(super) fn has_its_form(text: &str) -> bool {
    text.split('.').count() == 3
}

/// Whether a token is good.
pub(super) struct Tokens {
    source: Source,
    /// All but the algorithm, which the key decides.
    validation: Validation,
    tenant_claim: String,
}

/// Where the keys come from that tokens are verified with.
enum Source {
    /// One secret, shared with who makes the tokens.
    Secret(DecodingKey),
    /// The public keys of who makes them.
    Set(Jwks),
}

type Claims = Map<String, Value>;

impl Tokens {
    /// `None`: users have no tokens here.
    pub(super) fn start(
        config: &Config,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Option<Self>, NoClient> {
        let auth = &config.auth;
        let source = match (&auth.jwt_secret, &auth.jwks_url) {
            (Some(secret), _) => Source::Secret(DecodingKey::from_secret(secret.expose().as_bytes())),
            (None, Some(url)) => Source::Set(Jwks::start(url, config, tasks, stop)?),
            (None, None) => return Ok(None),
        };
        crypto::install();
        Ok(Some(Self { source, validation: validation(auth), tenant_claim: auth.tenant_claim.clone() }))
    }

    /// Who calls with this token.
    pub(super) async fn verify(&self, token: &str) -> Result<Caller, Unverified> {
        if token.len() > limit::TOKEN_BYTES {
            return Err(Unverified::refused("The token is longer than 8 KiB"));
        }
        let header = decode_header(token)
            .map_err(|_| Unverified::refused("The token's header can't be read, or its alg is none that is known"))?;
        if header.crit.is_some() {
            return Err(Unverified::refused("The token asks for extensions (crit) that are not known"));
        }
        let key = self.key(&header).await?;
        let validation = Validation { algorithms: vec![header.alg], ..self.validation.clone() };
        let claims = decode::<Claims>(token, &key, &validation).map_err(|error| why(error.kind()))?.claims;
        self.caller(&claims)
    }

    /// The key that must have signed the token. What a token says of itself only chooses among those that are trusted, and
    /// each of them knows one algorithm.
    async fn key(&self, header: &Header) -> Result<DecodingKey, Unverified> {
        match &self.source {
            Source::Secret(key) if header.alg == Algorithm::HS256 => Ok(key.clone()),
            Source::Secret(_) => Err(Unverified::refused("The token's alg must be HS256")),
            Source::Set(_) if !matches!(header.alg, Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA) => {
                Err(Unverified::refused("The token's alg must be RS256, ES256 or EdDSA"))
            }
            Source::Set(keys) => {
                let kid = header.kid.as_deref();
                let kid = kid.ok_or(Unverified::refused("The token does not name its key: its header lacks kid"))?;
                keys.find(kid, header.alg).await.map_err(|missing| match missing {
                    Missing::Unknown => {
                        Unverified::refused("The token's key (kid) is not among those that are trusted for its alg")
                    }
                    Missing::Unavailable => Unverified::Unknown(Problem::unavailable(
                        "keys_unavailable",
                        "The keys that users' tokens are verified with could not be fetched yet",
                    )),
                })
            }
        }
    }

    fn caller(&self, claims: &Claims) -> Result<Caller, Unverified> {
        let tenant = text(claims, &self.tenant_claim, limit::NAME_CHARS)?;
        let tenant = tenant.ok_or_else(|| Unverified::Refused(no_claim(&self.tenant_claim, limit::NAME_CHARS)))?;
        let id = text(claims, "sub", limit::USER_CHARS)?;
        let id = id.ok_or_else(|| Unverified::Refused(no_claim("sub", limit::USER_CHARS)))?;
        let email = text(claims, "email", limit::USER_CHARS)?;
        let until = Instant::now() + self.remaining(claims)?;
        Ok(Caller::user(tenant, TaskUser { id, email }, scopes(claims)?, until))
    }

    /// How long the token is good: up to its `exp`, and the patience with clocks.
    fn remaining(&self, claims: &Claims) -> Result<Duration, Unverified> {
        let exp = claims.get("exp").and_then(Value::as_f64).filter(|exp| exp.is_finite() && *exp >= 0.0);
        let exp = exp.ok_or(Unverified::refused("The token's exp can't be read"))?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "seconds of this age of the world are exact")]
        let left = exp + self.validation.leeway as f64 - now.as_secs_f64();
        // The library counts whole seconds, and takes a token in the one that begins with its exp.
        if left <= 0.0 {
            return Err(why(&ErrorKind::ExpiredSignature));
        }
        Ok(Duration::from_secs_f64(left.min(limit::FARTHEST_AHEAD.as_secs_f64())))
    }
}

fn validation(auth: &Auth) -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = auth.leeway_seconds.into();
    validation.validate_nbf = true;
    let mut required = vec!["exp", "sub"];
    if let Some(issuer) = &auth.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    // Without one, a token that names an audience is made for somebody else.
    if let Some(audience) = &auth.audience {
        validation.set_audience(&[audience]);
        required.push("aud");
    }
    validation.set_required_spec_claims(&required);
    validation
}

fn why(kind: &ErrorKind) -> Unverified {
    Unverified::refused(match kind {
        ErrorKind::ExpiredSignature => "The token has expired",
        ErrorKind::ImmatureSignature => "The token is not valid yet (nbf)",
        ErrorKind::InvalidIssuer => "The token comes from an issuer (iss) that is not trusted",
        ErrorKind::InvalidAudience => "The token is made for another audience (aud)",
        ErrorKind::InvalidSignature => "The token's signature is wrong",
        ErrorKind::MissingRequiredClaim(claim) => {
            return Unverified::Refused(format!("The token lacks the claim {claim}, or it can't be read").into());
        }
        ErrorKind::InvalidClaimFormat(claim) => {
            return Unverified::Refused(format!("The token's claim {claim} can't be read").into());
        }
        _ => "The token can't be read",
    })
}

/// A claim that is text. It becomes part of rows and prompts, so it is short and of one line.
fn text(claims: &Claims, name: &str, most: usize) -> Result<Option<String>, Unverified> {
    let fits =
        |text: &str| !text.trim().is_empty() && text.chars().count() <= most && !text.chars().any(char::is_control);
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if fits(text) => Ok(Some(text.clone())),
        Some(_) => Err(Unverified::Refused(no_claim(name, most))),
    }
}

fn no_claim(name: &str, most: usize) -> std::borrow::Cow<'static, str> {
    format!("The token's claim {name} must be text of 1 to {most} characters in one line").into()
}

/// What the token grants beyond what all users may: `scope`, separated by spaces, or as a list. Words that mean nothing
/// here are other programs'.
fn scopes(claims: &Claims) -> Result<Vec<Scope>, Unverified> {
    let words: Vec<&str> = match claims.get("scope") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => text.split_whitespace().collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        Some(_) => return Err(Unverified::refused("The token's claim scope must be text or a list of texts")),
    };
    Ok(words.into_iter().filter_map(|word| word.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: &Value) -> Claims {
        value.as_object().expect("claims").clone()
    }

    fn granted(scope: &Value) -> Vec<Scope> {
        scopes(&claims(&json!({"scope": scope}))).unwrap_or_default()
    }

    #[test]
    fn scopes_come_as_text_or_as_a_list_and_strange_words_are_ignored() {
        assert_eq!(granted(&json!("openid admin  email")), [Scope::Admin]);
        assert_eq!(granted(&json!(["jobs:read", "profile", 7])), [Scope::JobsRead]);
        assert_eq!(granted(&Value::Null), []);
        assert!(scopes(&claims(&json!({"scope": 7}))).is_err());
    }

    #[test]
    fn a_claim_that_would_not_fit_a_row_or_a_prompt_is_refused() {
        for sub in [json!(""), json!(" "), json!("a\nb"), json!("a\u{0}"), json!(7), json!("x".repeat(256))] {
            assert!(text(&claims(&json!({"sub": sub})), "sub", limit::USER_CHARS).is_err(), "{sub}");
        }
        assert_eq!(text(&claims(&json!({})), "email", 9).ok(), Some(None));
        assert_eq!(text(&claims(&json!({"email": "ä"})), "email", 1).ok().flatten().as_deref(), Some("ä"));
    }

    #[test]
    fn a_token_has_three_parts() {
        assert!(has_its_form("a.b.c"));
        assert!(!has_its_form("a.b") && !has_its_form("errand_x") && !has_its_form("a.b.c.d.e"));
    }
}
