//! The `epic-operator` process; what it does begins in [`epic_controllers::run`].

use std::process::ExitCode;

use clap::Parser;
use epic_controllers::run;
use epic_controllers::settings::{Command, Settings};

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    epic_ops::logging::install();
    let ended = match settings.command.clone() {
        None => run::operator(settings).await,
        Some(Command::Uninstall(arguments)) => run::uninstall(settings, arguments).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, source = ?std::error::Error::source(&error), "cannot go on");
            ExitCode::FAILURE
        }
    }
}
