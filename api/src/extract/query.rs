//! Query parameters, read one by one so that each fault names its parameter, and the cursors of lists.

use std::{ops::RangeInclusive, str::FromStr};

use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    limit,
    problem::{Faults, Problem},
};

/// The query of a request. Take what is known out of it, then [`Params::finish`].
#[derive(Debug, Default)]
pub(crate) struct Params {
    pairs: Vec<(String, String)>,
    faults: Faults,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|_| Problem::field("query:*", "the query must be name=value pairs in percent-encoded UTF-8"))?;
        Ok(Self { pairs, faults: Faults::default() })
    }
}

impl Params {
    /// The parameter's text, if it is there. An empty one is a fault: as a rule it is a variable that was not set, and
    /// would widen what was asked for.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let text = self.text_or_empty(name)?;
        if text.is_empty() {
            self.faults.add(format!("query:{name}"), "must not be empty; leave it out");
            return None;
        }
        Some(text)
    }

    /// The text of a parameter without which there is no answer.
    pub(crate) fn required(&mut self, name: &str) -> String {
        let text = self.text_or_empty(name).unwrap_or_default();
        if text.is_empty() {
            self.faults.add(format!("query:{name}"), "must be given, and not be empty");
        }
        text
    }

    fn text_or_empty(&mut self, name: &str) -> Option<String> {
        let found = self.pairs.iter().position(|(key, _)| key == name)?;
        let (_, value) = self.pairs.remove(found);
        if value.contains('\0') {
            self.faults.add(format!("query:{name}"), "must not contain U+0000");
            return None;
        }
        if self.pairs.iter().any(|(key, _)| key == name) {
            self.faults.add(format!("query:{name}"), "must be given once");
            return None;
        }
        Some(value)
    }

    /// A whole number in a range.
    pub(crate) fn number(&mut self, name: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        let number: Option<i64> = self.parse(name, &wanted);
        if number.is_some_and(|number| !range.contains(&number)) {
            self.faults.add(format!("query:{name}"), format!("must be {wanted}"));
            return None;
        }
        number
    }

    /// Whatever parses; `wanted` completes "must be".
    pub(crate) fn parse<T: FromStr>(&mut self, name: &str, wanted: &str) -> Option<T> {
        let text = self.text(name)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.faults.add(format!("query:{name}"), format!("must be {wanted}"));
        }
        parsed
    }

    /// Whether a switch is there: `?all`, or `?all=true`.
    pub(crate) fn switch(&mut self, name: &str) -> bool {
        match self.text_or_empty(name).as_deref() {
            Some("" | "true") => true,
            None | Some("false") => false,
            Some(_) => {
                self.fault(name, "must be true or false, or stand alone");
                false
            }
        }
    }

    /// Records a fault that the handler found.
    pub(crate) fn fault(&mut self, name: &str, detail: impl Into<String>) {
        self.faults.add(format!("query:{name}"), detail);
    }

    /// `limit` and `cursor`.
    pub(crate) fn page<T: FromStr>(&mut self) -> Page<T> {
        let limit = self.number("limit", 1..=i64::from(limit::PAGE_MAX));
        // Empty at the first page of those who keep it in a variable.
        let cursor = self.text_or_empty("cursor").filter(|cursor| !cursor.is_empty());
        let after = cursor.and_then(|cursor| {
            let decoded = decode_cursor(&cursor);
            if decoded.is_none() {
                self.fault("cursor", "must be a next_cursor of this list");
            }
            decoded
        });
        let limit = limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(limit::PAGE_DEFAULT);
        Page { limit, after }
    }

    /// All faults at once, those of unknown parameters included.
    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.pairs) {
            self.faults.add(format!("query:{name}"), "is not a parameter of this route");
        }
        self.faults.finish()
    }

    /// As [`Params::finish`], for routes that ignore what they don't know.
    pub(crate) fn finish_ignoring_unknown(self) -> Result<(), Problem> {
        self.faults.finish()
    }
}

/// Which part of a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page<T> {
    /// At most so many entries.
    pub(crate) limit: u32,
    /// The last entry of the page before.
    pub(crate) after: Option<T>,
}

impl<T> Page<T> {
    /// One more than the page holds: whether there is a next page is seen by it.
    pub(crate) const fn probe(&self) -> u32 {
        self.limit + 1
    }

    /// The page's part, and the probe, of a list that is at hand as a whole; `follows` says whether an entry comes after
    /// the position.
    pub(crate) fn of<I>(&self, whole: impl IntoIterator<Item = I>, follows: impl Fn(&I, &T) -> bool) -> Vec<I> {
        let rest = whole.into_iter().filter(|item| self.after.as_ref().is_none_or(|after| follows(item, after)));
        rest.take(self.probe() as usize).collect()
    }

    /// Cuts the probe off and gives the cursor of the next page.
    pub(crate) fn cut<I, C: ToString>(&self, items: &mut Vec<I>, cursor: impl Fn(&I) -> C) -> Option<String> {
        let limit = self.limit as usize;
        if items.len() <= limit {
            return None;
        }
        items.truncate(limit);
        items.last().map(|last| encode_cursor(&cursor(last).to_string()))
    }
}

/// Opaque to clients.
pub(crate) fn encode_cursor(position: &str) -> String {
    URL_SAFE_NO_PAD.encode(position)
}

/// `None`: no cursor of ours.
pub(crate) fn decode_cursor<T: FromStr>(cursor: &str) -> Option<T> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    std::str::from_utf8(&bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Params { pairs, faults: Faults::default() }
    }

    #[test]
    fn all_faults_of_a_query_are_reported_at_once() {
        let mut query = params(&[("limit", "201"), ("cursor", "!"), ("colour", "red")]);
        let _: Page<i64> = query.page();
        let problem = query.finish().expect_err("three faults");
        let pointers: Vec<_> = problem.errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, ["query:limit", "query:cursor", "query:colour"]);
        assert!(problem.errors[0].detail.contains("from 1 to 200"));
    }

    #[test]
    fn a_full_page_gives_a_cursor_that_leads_to_the_next() {
        let page = Page::<i64> { limit: 2, after: None };
        let mut items = vec![9, 8, 7];
        let cursor = page.cut(&mut items, |item| *item).expect("a next page");
        assert_eq!((items, decode_cursor::<i64>(&cursor)), (vec![9, 8], Some(8)));
        assert_eq!(page.cut(&mut vec![7], |item| *item), None);
        let next = Page::<i64> { limit: 2, after: Some(8) };
        assert_eq!(next.of([9, 8, 7, 6, 5, 4], |item, after| item < after), [7, 6, 5], "two, and one to see the next");
    }
}
