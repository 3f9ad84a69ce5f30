//! `epic-lb`: the load-balancing control plane as a program of its own.
//!
//! Sources write tables, health checks write verdicts, the reconciler writes maps: all as on a node, but for the maps, which
//! are in memory and forward nothing. A prompt looks in. It serves to try a state file or a cluster's Services before an agent
//! has them, and to see what the control plane makes of them.
//!
//! | module | |
//! | --- | --- |
//! | [`args`] | what can be said on the command line |
//! | [`program`] | the parts, put together |
//! | [`live`] | what the prompt looks into |
//! | [`prompt`] | commands from standard input or from `--run` |
//!
//! Threads: a runtime of two for sources, probes and health check ports; one for the reconciler; one that reads standard input.

mod args;
mod live;
mod program;
mod prompt;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use args::Args;
use clap::Parser as _;

fn main() -> ExitCode {
    let args = Args::parse();
    epic_ops::logging::install_or("warn");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = match runtime {
        Err(error) => Err(format!("cannot start: {error}")),
        Ok(runtime) => {
            let done = runtime.block_on(run(args));
            // A thread may wait for a line that never comes.
            runtime.shutdown_timeout(Duration::from_secs(1));
            done
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("epic-lb: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), String> {
    let (commands, output, wait) = (args.run.clone(), args.output.clone(), args.wait);
    let interactive = commands.is_empty() && std::io::stdin().is_terminal();
    let program = program::Program::start(args).await.map_err(|error| error.to_string())?;
    let mut prompt = prompt::Prompt::new(program.live(), output);
    let done = async {
        if !interactive {
            match program.live().wait_until_ready(wait).await {
                Ok(None) => {}
                Ok(Some(note)) => eprintln!("epic-lb: {note}"),
                // Commands from a pipe may be those that find out why.
                Err(why) if commands.is_empty() => eprintln!("epic-lb: {why}"),
                Err(why) => return Err(why),
            }
        }
        let failed = if commands.is_empty() {
            prompt.read_lines(interactive.then_some("epic-lb> ")).await
        } else {
            prompt.run(&commands).await
        };
        match failed.map_err(|error| format!("cannot print: {error}"))? {
            0 => Ok(()),
            1 if commands.len() == 1 => {
                Err("the command was not answered; the line above says why".to_owned())
            }
            failed => {
                Err(format!("{failed} commands were not answered; the lines that begin with error say why"))
            }
        }
    };
    let done = done.await;
    program.stop().await;
    done
}
