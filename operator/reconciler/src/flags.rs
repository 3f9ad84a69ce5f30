//! The settings as flags of a program, and as environment variables.

use std::time::Duration;

use clap::Args;
use jiff::fmt::friendly::SpanParser;

use crate::backoff::Backoff;
use crate::settings::{Budget, Settings};

/// How the reconciler works. The defaults are those of [`Settings`].
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "Reconciler")]
pub struct Flags {
    /// Before a map operation that failed is tried again; it doubles with each failure.
    #[arg(long, env = "EPIC_BACKOFF_MIN", value_name = "TIME", default_value = "50ms", value_parser = time)]
    backoff_min: Duration,
    /// At most so long.
    #[arg(long, env = "EPIC_BACKOFF_MAX", value_name = "TIME", default_value = "60s", value_parser = time)]
    backoff_max: Duration,
    /// Rows that one round renders.
    #[arg(long, env = "EPIC_BUDGET_ROWS", value_name = "NUMBER", default_value_t = Budget::default().rows as u64, value_parser = clap::value_parser!(u64).range(1..))]
    budget_rows: u64,
    /// Map operations that one round tries.
    #[arg(long, env = "EPIC_BUDGET_OPERATIONS", value_name = "NUMBER", default_value_t = Budget::default().operations as u64, value_parser = clap::value_parser!(u64).range(1..))]
    budget_operations: u64,
    /// Map operations that are given to the maps at once.
    #[arg(long, env = "EPIC_BATCH", value_name = "NUMBER", default_value_t = Settings::default().batch as u64, value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// A change of at most so many rows goes before all greater ones.
    #[arg(long, env = "EPIC_SMALL_CHANGE", value_name = "NUMBER", default_value_t = Settings::default().small_change as u64)]
    small_change: u64,
    /// While somebody is asked about a removal, up to so many further entries may go.
    #[arg(long, env = "EPIC_FREE_REMOVALS", value_name = "NUMBER", default_value_t = Settings::default().free_removals as u64)]
    free_removals: u64,
    /// Between full passes that read the maps back.
    #[arg(long, env = "EPIC_REFRESH", value_name = "TIME", default_value = "5m", value_parser = time)]
    refresh: Duration,
    /// Between two questions whether a big removal is meant.
    #[arg(long, env = "EPIC_ASK_AGAIN", value_name = "TIME", default_value = "5s", value_parser = time)]
    ask_again: Duration,
}

fn time(text: &str) -> Result<Duration, &'static str> {
    SpanParser::new().parse_unsigned_duration(text).map_err(|_| "write for example 50ms, 5s or 5m")
}

impl Flags {
    /// The settings.
    ///
    /// # Errors
    /// What does not fit together, and what to give instead.
    pub fn settings(&self) -> Result<Settings, String> {
        if self.backoff_min > self.backoff_max {
            return Err(format!(
                "--backoff-min {:?} is more than --backoff-max {:?}; give them the other way round",
                self.backoff_min, self.backoff_max
            ));
        }
        if [self.refresh, self.backoff_min, self.ask_again].iter().any(Duration::is_zero) {
            return Err(
                "--refresh, --backoff-min and --ask-again are more than nothing; give for example 5m, 50ms and 5s"
                    .to_owned(),
            );
        }
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Ok(Settings {
            backoff: Backoff { min: self.backoff_min, max: self.backoff_max },
            budget: Budget { rows: count(self.budget_rows), operations: count(self.budget_operations) },
            batch: count(self.batch),
            small_change: count(self.small_change),
            free_removals: count(self.free_removals),
            refresh: self.refresh,
            ask_again: self.ask_again,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        flags: Flags,
    }

    fn parse(words: &str) -> Result<Flags, clap::Error> {
        let words = format!("program {words}");
        Program::try_parse_from(words.split_whitespace()).map(|program| program.flags)
    }

    #[test]
    fn without_flags_the_settings_are_the_defaults() {
        assert_eq!(parse("").unwrap().settings(), Ok(Settings::default()));
    }

    #[test]
    fn every_setting_has_a_flag() {
        let flags = parse(
            "--backoff-min 1s --backoff-max 2m --budget-rows 3 --budget-operations 4 --batch 5 --small-change 6 \
             --free-removals 8 --refresh 7s --ask-again 9s",
        );
        let wanted = Settings {
            backoff: Backoff { min: Duration::from_secs(1), max: Duration::from_secs(120) },
            budget: Budget { rows: 3, operations: 4 },
            batch: 5,
            small_change: 6,
            free_removals: 8,
            refresh: Duration::from_secs(7),
            ask_again: Duration::from_secs(9),
        };
        assert_eq!(flags.unwrap().settings(), Ok(wanted));
    }

    #[test]
    fn what_would_never_get_on_is_refused_with_what_to_give_instead() {
        let refused = |words| parse(words).unwrap().settings().unwrap_err();
        assert!(refused("--backoff-min 2s --backoff-max 1s").contains("other way round"));
        assert!(refused("--refresh 0s").contains("for example 5m"));
        for words in ["--batch 0", "--budget-rows 0"] {
            parse(words).unwrap_err();
        }
        for words in ["--refresh soon", "--refresh 5", "--refresh=-5s"] {
            let refusal = parse(words).unwrap_err().to_string();
            assert!(refusal.contains("write for example 50ms, 5s or 5m"), "{words}: {refusal}");
        }
    }
}
