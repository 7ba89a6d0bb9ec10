//! What models cost.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Digits after the decimal point of a price: billionths of a dollar.
const DIGITS: usize = 9;

/// The table of prices, by model.
pub type Prices = BTreeMap<String, Price>;

/// `[prices."<model>"]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Tokens in that no cache had, in US dollars a million.
    pub input: UsdPerMillion,
    /// Tokens out, with those of reasoning, in US dollars a million.
    pub output: UsdPerMillion,
    /// Tokens written to a cache for five minutes, in US dollars a million; as `input` if unset.
    #[serde(default)]
    pub cache_write_5m: Option<UsdPerMillion>,
    /// Tokens written to a cache for an hour, in US dollars a million; as `input` if unset.
    #[serde(default)]
    pub cache_write_1h: Option<UsdPerMillion>,
    /// Tokens read from a cache, in US dollars a million; as `input` if unset.
    #[serde(default)]
    pub cache_read: Option<UsdPerMillion>,
}

/// US dollars a million tokens, exact to the billionth: `4`, `0.075` or `"0.075"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UsdPerMillion(u64);

impl UsdPerMillion {
    /// Billionths of a dollar for a million tokens.
    #[must_use]
    pub const fn nano_usd(self) -> u64 {
        self.0
    }

    /// Reads a price.
    ///
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const ALLOWED: &str =
            "allowed: US dollars a million tokens, such as 4 or \"0.075\", up to 1000000, with up to 9 decimals";
        let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > DIGITS || whole.len() > 7 {
            return Err(ALLOWED);
        }
        let nano = format!("{whole}{fraction:0<DIGITS$}").parse::<u64>().map_err(|_| ALLOWED)?;
        if nano > 1_000_000_000_000_000 { Err(ALLOWED) } else { Ok(Self(nano)) }
    }
}

impl Serialize for UsdPerMillion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (whole, fraction) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        let text = format!("{whole}.{fraction:09}");
        serializer.serialize_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl<'de> Deserialize<'de> for UsdPerMillion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// As it may be written.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Whole(u64),
            Number(f64),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::Whole(number) => number.to_string(),
            // Shortest text that reads as this number: what was written, for every price that people write.
            Written::Number(number) => number.to_string(),
        };
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_exact_however_it_is_written() {
        let price =
            |value: serde_json::Value| serde_json::from_value::<UsdPerMillion>(value).map(UsdPerMillion::nano_usd);
        for (written, nano) in [
            (serde_json::json!("0.075"), 75_000_000),
            (serde_json::json!(0.075), 75_000_000),
            (serde_json::json!(4), 4_000_000_000),
            (serde_json::json!("0.000000001"), 1),
            (serde_json::json!(0.1), 100_000_000),
        ] {
            assert_eq!(price(written.clone()).ok(), Some(nano), "{written}");
        }
        for written in ["-1", "", ".5", "1.", "1e3", "0.0000000001", "10000000", "1000000.1"] {
            assert!(UsdPerMillion::parse(written).is_err(), "{written:?}");
        }
        let shown = serde_json::to_value(UsdPerMillion::parse("0.0750").expect("a price")).expect("text");
        assert_eq!(shown, "0.075");
    }
}
