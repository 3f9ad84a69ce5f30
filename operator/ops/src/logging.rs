//! Structured logs on standard error, one JSON object a line.
//!
//! `EPIC_LOG` holds a filter in the syntax of `tracing_subscriber::EnvFilter` (`info`, `epic_agent=debug,info`).
//! Keys, tokens and certificates are never logged; types that hold them do not implement `Debug` with content.

use tracing_subscriber::EnvFilter;

/// Environment variable that holds the filter.
pub const FILTER: &str = "EPIC_LOG";

/// Installs the subscriber of this process. A filter that does not parse falls back to `info` and says so.
pub fn install() {
    install_or("info");
}

/// The same with another filter where none is given: a program with a prompt says less.
pub fn install_or(default: &str) {
    let (filter, refused) = match std::env::var(FILTER) {
        Err(_) => (EnvFilter::new(default), None),
        Ok(text) => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(default), Some(error)),
        },
    };
    // A second call (tests run several processes' entry points in one) keeps the first subscriber.
    let _ = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
    if let Some(error) = refused {
        tracing::warn!(%error, "{FILTER} does not parse; using `{default}`");
    }
}
