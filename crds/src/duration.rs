//! Durations as the Gateway API writes them: `5s`, `300ms`, `1h30m`.
//!
//! The text is kept as the user wrote it, because a write of the object must not change what the user said;
//! `90s` and `1m30s` are the same time and different texts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// A length of time as text; parsed when it is used.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(pub String);

/// The text is not a duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write one to four numbers with h, m, s or ms, such as 5s or 1h30m")]
pub struct DurationError(String);

impl Duration {
    /// The duration of this many seconds, in the shortest text.
    pub fn from_secs(seconds: u32) -> Self {
        match (seconds / 3600, seconds % 3600 / 60, seconds % 60) {
            (hours, 0, 0) if hours > 0 => Self(format!("{hours}h")),
            (0, minutes, 0) if minutes > 0 => Self(format!("{minutes}m")),
            _ if seconds <= 99_999 => Self(format!("{seconds}s")),
            (hours, minutes, seconds) => Self(format!("{hours}h{minutes}m{seconds}s")),
        }
    }

    /// The length of time.
    ///
    /// # Errors
    /// When the text is not of the Gateway API's form; the schema keeps such texts out of the API.
    pub fn parse(&self) -> Result<std::time::Duration, DurationError> {
        let wrong = || DurationError(self.0.clone());
        let mut rest = self.0.as_str();
        let mut millis: u64 = 0;
        let mut parts = 0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            if !(1..=5).contains(&digits) {
                return Err(wrong());
            }
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let (unit, length) = match rest.as_bytes() {
                [b'm', b's', ..] => (1, 2),
                [b'h', ..] => (3_600_000, 1),
                [b'm', ..] => (60_000, 1),
                [b's', ..] => (1000, 1),
                _ => return Err(wrong()),
            };
            rest = &rest[length..];
            millis += number * unit;
            parts += 1;
        }
        if (1..=4).contains(&parts) { Ok(std::time::Duration::from_millis(millis)) } else { Err(wrong()) }
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schema::DurationText::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(text: &str) -> Option<u128> {
        Duration(text.to_owned()).parse().ok().map(|duration| duration.as_millis())
    }

    #[test]
    fn durations_of_the_gateway_api_are_read() {
        assert_eq!(millis("5s"), Some(5000));
        assert_eq!(millis("300ms"), Some(300));
        assert_eq!(millis("1h30m"), Some(5_400_000));
        assert_eq!(millis("1h2m3s4ms"), Some(3_723_004));
        assert_eq!(millis("0s"), Some(0));
        assert_eq!(millis("99999h99999h99999h99999h"), Some(4 * 99_999 * 3_600_000));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "5", "s", "-5s", "1.5s", "5 s", "100000s", "1h1h1h1h1h", "5d", "5sx"] {
            assert_eq!(millis(text), None, "{text:?}");
        }
    }

    #[test]
    fn seconds_become_the_shortest_text_that_reads_back() {
        for (seconds, text) in
            [(0, "0s"), (5, "5s"), (300, "5m"), (7200, "2h"), (90, "90s"), (100_001, "27h46m41s")]
        {
            let duration = Duration::from_secs(seconds);
            assert_eq!(duration.0, text);
            assert_eq!(duration.parse(), Ok(std::time::Duration::from_secs(seconds.into())));
        }
    }
}
