//! A whole number with its range in its type, so that refusals and the OpenAPI document name the same limits.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, de};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ObjectBuilder, Type},
    },
};

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Int<const MIN: i64, const MAX: i64>(i64);

impl<const MIN: i64, const MAX: i64> Int<MIN, MAX> {
    pub(crate) const fn get(self) -> i64 {
        self.0
    }

    /// For ranges that fit.
    pub(crate) fn as_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    /// For ranges that fit.
    pub(crate) fn as_u64(self) -> u64 {
        u64::try_from(self.0).unwrap_or_default()
    }
}

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Int<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Range::<MIN, MAX>)
    }
}

struct Range<const MIN: i64, const MAX: i64>;

impl<const MIN: i64, const MAX: i64> Range<MIN, MAX> {
    fn check<E: de::Error>(number: Option<i64>, shown: impl fmt::Display) -> Result<Int<MIN, MAX>, E> {
        number
            .filter(|number| (MIN..=MAX).contains(number))
            .map(Int)
            .ok_or_else(|| E::custom(format_args!("{shown} is not a whole number from {MIN} to {MAX}")))
    }
}

impl<const MIN: i64, const MAX: i64> de::Visitor<'_> for Range<MIN, MAX> {
    type Value = Int<MIN, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {MIN} to {MAX}")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        Self::check(Some(number), number)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        Self::check(i64::try_from(number).ok(), number)
    }

    /// JSON has one sort of number: `10.0` is the whole number 10.
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
        #[expect(clippy::cast_possible_truncation, reason = "a cast saturates, and no range reaches that far")]
        let whole = (number.fract() == 0.0).then_some(number as i64);
        Self::check(whole, number)
    }
}

impl<const MIN: i64, const MAX: i64> PartialSchema for Int<MIN, MAX> {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(MIN)).maximum(Some(MAX)).build().into()
    }
}

impl<const MIN: i64, const MAX: i64> ToSchema for Int<MIN, MAX> {
    fn name() -> Cow<'static, str> {
        format!("Int{MIN}To{MAX}").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_their_range_are_refused_with_the_range() {
        for text in ["0", "-1", "11", "2.5", "1e30", "99999999999999999999"] {
            let error = serde_json::from_str::<Int<1, 10>>(text).expect_err(text);
            assert!(error.to_string().contains("from 1 to 10"), "{error}");
        }
        for text in ["10", "10.0", "1e1"] {
            assert_eq!(serde_json::from_str::<Int<1, 10>>(text).expect("in range").get(), 10);
        }
    }
}
