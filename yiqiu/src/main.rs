use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Most of what a request costs beside its statements is allocation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused by the platform, or it went wrong there
  2  wrong usage
  3  the server cannot be reached
  4  --wait ran out of time

Every POST carries an idempotency key, so a request whose connection broke is repeated without doing things twice.
The token is taken from --token-file, YIQIU_TOKEN_FILE or YIQIU_TOKEN.";

/// A resource platform: hosts, the containers cut from them, who uses them, and what it came to.
#[derive(Debug, Parser)]
#[command(name = "yiqiu", version, after_help = EXIT_CODES, max_term_width = 120)]
struct Yiqiu {
    #[command(flatten)]
    global: yiqiu::cli::Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything in one process, on SQLite, with an agent for this machine.
    Up(yiqiu::up::Up),
    /// Some of the roles in a process of their own.
    Serve(Box<yiqiu::serve::Serve>),
    /// Tells the platform that its databases were restored from a backup, before it is started on them.
    ///
    /// Agents and the meter followed what came after the backup: they refuse or stop without this. Restore all three
    /// databases, run this once, then start, and look at `yiqiu audit`.
    Restored(yiqiu::restored::Restored),
    /// The keys that separate processes need.
    #[command(subcommand)]
    Keys(yiqiu::serve::KeysVerb),
    /// Prints the shell completion script.
    Completion {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    #[command(flatten)]
    Noun(Box<yiqiu::cli::Noun>),
}

fn main() -> ExitCode {
    // The agent of `yiqiu up` starts this program again to mind the processes of a node.
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    if let Some(code) = yiqiu_agent::supervise_main(&arguments) {
        return code;
    }
    let Yiqiu { global, command } = Yiqiu::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads can be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    match command {
        Command::Up(up) => told(runtime.block_on(yiqiu::up::run(up))),
        Command::Serve(serve) => told(runtime.block_on(yiqiu::serve::run(*serve))),
        Command::Restored(restored) => told(runtime.block_on(yiqiu::restored::run(restored))),
        Command::Keys(verb) => told(yiqiu::serve::keys(verb)),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Yiqiu::command(), "yiqiu", &mut script);
            told(
                yiqiu::cli::output::print(&String::from_utf8_lossy(&script))
                    .map_err(|_| anyhow::anyhow!("standard output")),
            )
        }
        Command::Noun(noun) => runtime.block_on(yiqiu::cli::run(global, *noun)),
    }
}

fn told(ended: anyhow::Result<()>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
