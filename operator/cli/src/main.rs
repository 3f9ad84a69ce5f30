//! The `epicctl` process; what it does begins in [`epicctl::command`].

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use epicctl::command::{self, Arguments};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // kubectl finds plug-ins by the name `kubectl-epic`; a link of that name is enough.
    let plug_in = std::env::args_os()
        .next()
        .is_some_and(|name| std::path::Path::new(&name).file_stem() == Some("kubectl-epic".as_ref()));
    let mut clap = Arguments::command();
    if plug_in {
        clap = clap.name("kubectl-epic").bin_name("kubectl epic");
    }
    let arguments = Arguments::from_arg_matches(&clap.get_matches()).unwrap_or_else(|error| error.exit());
    match command::run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("epicctl: {error}");
            ExitCode::FAILURE
        }
    }
}
