//! The token in a callback's URL: which dispatch it may speak of, signed.
//!
//! `1.{key's id}.{tenant, job and ordinal as JSON in base64url}.{HMAC-SHA256 of all before it in base64url}`. The first key signs
//! and all verify, so that a key can be replaced without losing what is under way. With the same key a dispatch has the same token
//! for ever: what is stored of it is the part that says nothing secret.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{domain::JobId, vault::Vault};

/// The form of a token.
const FORM: &str = "1";
/// Where callbacks go.
pub const PATH: &str = "/api/v1/agent/instances/openclaw-app-callback";

/// One dispatch of one job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dispatch {
    /// Whose.
    pub tenant: String,
    /// Which job.
    pub job_id: JobId,
    /// Which of its dispatches.
    pub ordinal: u32,
}

impl Dispatch {
    /// The token without its signature, by the key that signs now.
    #[must_use]
    pub fn unsigned(&self, vault: &Vault) -> String {
        let named = serde_json::json!([self.tenant, self.job_id, self.ordinal]).to_string();
        format!("{FORM}.{}.{}", vault.signing_key(), URL_SAFE_NO_PAD.encode(named))
    }

    /// What a token names, if it was signed by a key that is there. Takes the same time however much of a signature is right.
    #[must_use]
    pub fn verified(token: &str, vault: &Vault) -> Option<Self> {
        let (unsigned, signature) = token.rsplit_once('.')?;
        let mut parts = unsigned.splitn(3, '.');
        let (Some(FORM), Some(key), Some(named)) = (parts.next(), parts.next(), parts.next()) else { return None };
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        if !vault.verifies(key, unsigned, &signature) {
            return None;
        }
        let named = URL_SAFE_NO_PAD.decode(named).ok()?;
        let (tenant, job_id, ordinal) = serde_json::from_slice(&named).ok()?;
        Some(Self { tenant, job_id, ordinal })
    }
}

/// The whole token, signed by the key that its first part names. `None`: that key is gone.
#[must_use]
pub fn signed(unsigned: &str, vault: &Vault) -> Option<String> {
    let key = unsigned.split('.').nth(1)?;
    let signature = vault.sign(key, unsigned)?;
    Some(format!("{unsigned}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::vault::SealingKey;

    fn key(id: &str, byte: u8) -> SealingKey {
        SealingKey::parse(&format!("{id}:{}", STANDARD.encode([byte; 32]))).expect("a key")
    }

    fn dispatch() -> Dispatch {
        Dispatch { tenant: "acme".into(), job_id: JobId::new(), ordinal: 2 }
    }

    #[test]
    fn a_token_names_what_it_was_made_for_and_is_the_same_each_time() {
        let vault = Vault::new(key("a-1", 1), vec![]);
        let dispatch = dispatch();
        let token = signed(&dispatch.unsigned(&vault), &vault).expect("the key is there");
        assert_eq!(Dispatch::verified(&token, &vault), Some(dispatch.clone()));
        assert_eq!(signed(&dispatch.unsigned(&vault), &vault), Some(token));
    }

    #[test]
    fn a_token_with_one_bit_changed_is_none() {
        let vault = Vault::new(key("a", 1), vec![]);
        let token = signed(&dispatch().unsigned(&vault), &vault).expect("the key is there");
        for place in 0..token.len() {
            for bit in 0..8 {
                let mut bytes = token.clone().into_bytes();
                bytes[place] ^= 1 << bit;
                let Ok(changed) = String::from_utf8(bytes) else { continue };
                assert_eq!(Dispatch::verified(&changed, &vault), None, "bit {bit} of byte {place}");
            }
        }
        for text in ["", ".", "1.a", "1.a.e30", "1.a.e30.", "1..."] {
            assert_eq!(Dispatch::verified(text, &vault), None, "{text}");
        }
    }

    #[test]
    fn keys_are_replaced_one_after_the_other() {
        let (old, dispatch) = (Vault::new(key("old", 1), vec![]), dispatch());
        let unsigned = dispatch.unsigned(&old);
        let token = signed(&unsigned, &old).expect("the key is there");
        let both = Vault::new(key("new", 2), vec![key("old", 1)]);
        assert_eq!(Dispatch::verified(&token, &both), Some(dispatch.clone()));
        assert_eq!(signed(&unsigned, &both), Some(token.clone()), "a resend is what was sent");
        assert_ne!(dispatch.unsigned(&both), unsigned, "the first key signs");
        let new = Vault::new(key("new", 2), vec![]);
        assert_eq!((Dispatch::verified(&token, &new), signed(&unsigned, &new)), (None, None));
        let impostor = Vault::new(key("old", 3), vec![]);
        assert_eq!(Dispatch::verified(&token, &impostor), None, "another key of that name");
    }
}
