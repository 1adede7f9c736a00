//! `node logs` and `node exec`: what a node writes, and commands in it, on this terminal.

use std::{
    io::{IsTerminal, Write},
    os::fd::AsFd,
    time::Duration,
};

use clap::Args;
use futures::{SinkExt, StreamExt};
use nix::sys::termios::{self, SetArg, Termios};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio_tungstenite::tungstenite::Message;

use super::{
    Session,
    client::Tier,
    failure::{Failure, Outcome},
    output::Format,
    owned::InProject,
    runtime::ms,
    time::parse_span,
};

/// Flags of `yiqiu node logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// Name or id.
    pub(super) node: String,
    #[command(flatten)]
    pub(super) within: InProject,
    /// Go on with what it writes, until it ends.
    #[arg(short, long)]
    follow: bool,
    /// Only what was written in the last while, such as 10m.
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    since: Option<Duration>,
    /// Only so many of the last lines.
    #[arg(long, value_name = "N")]
    tail: Option<u32>,
}

/// Flags of `yiqiu node exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// Name or id.
    pub(super) node: String,
    #[command(flatten)]
    pub(super) within: InProject,
    /// Give it a terminal, which is this one.
    #[arg(short, long)]
    tty: bool,
    /// Pass standard input on.
    #[arg(short, long)]
    interactive: bool,
    /// What to run, after `--`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Carries out `yiqiu node logs`, of the node of that id.
pub async fn logs(session: &Session, id: &str, ask: &Logs) -> Outcome {
    let since = ask.since.map_or(0, |span| session.now_ms().saturating_sub(ms(span)).max(0)).to_string();
    let tail = ask.tail.map(|n| n.to_string());
    let mut query = vec![("follow", if ask.follow { "true" } else { "false" }), ("since_ms", &*since)];
    if let Some(tail) = &tail {
        query.push(("tail", tail));
    }
    if session.format == Format::Json {
        query.push(("format", "json"));
    }
    let mut answer = session.client.open_ended(Tier::Resources, &["nodes", id, "logs"], &query).await?;
    loop {
        match answer.chunk().await {
            Ok(Some(bytes)) => {
                if written(&mut std::io::stdout().lock(), &bytes)? {
                    return Ok(());
                }
            }
            Ok(None) => return Ok(()),
            Err(_) => return Err(Failure::Failed("the output broke off: the server or the host was lost".into())),
        }
    }
}

/// Writes at once; true if nobody reads any more, as after `| head`.
fn written(out: &mut impl Write, bytes: &[u8]) -> Outcome<bool> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(true),
        Err(error) => Err(Failure::Failed(format!("standard output: {error}"))),
    }
}

/// A terminal that passes every key on; as it was again when this is dropped.
struct Raw(Termios);

impl Raw {
    fn begin() -> Outcome<Self> {
        let failed = |errno| Failure::Failed(format!("this terminal cannot be made raw: {errno}"));
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(stdin.as_fd()).map_err(failed)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &raw).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin().as_fd(), SetArg::TCSADRAIN, &self.0); // it may be gone
    }
}

fn window() -> (u16, u16) {
    terminal_size::terminal_size().map_or((80, 24), |(columns, rows)| (columns.0, rows.0))
}

/// Carries out `yiqiu node exec`, in the node of that id. Ends this process with the exit code of the command.
pub async fn exec(session: &Session, id: &str, ask: Exec) -> Outcome {
    let Exec { node: _, within: _, tty, interactive, command } = ask;
    if tty && interactive && !std::io::stdin().is_terminal() {
        return Err(Failure::Usage("-t takes a terminal, and standard input is none: leave it out".into()));
    }
    let socket = session.client.socket(Tier::Resources, &["nodes", id, "exec"]).await?;
    let raw = (tty && interactive).then(Raw::begin).transpose()?;
    let ended = talk(socket, tty, interactive, command).await;
    drop(raw); // before anything else is written
    let code = ended?;
    // Not by returning: a read of standard input may still wait for a key.
    std::process::exit(i32::try_from(code).unwrap_or(1));
}

async fn talk<S>(socket: S, tty: bool, interactive: bool, command: Vec<String>) -> Outcome<i64>
where
    S: futures::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>>
        + futures::Sink<Message, Error = tokio_tungstenite::tungstenite::Error>,
{
    let lost = || Failure::Unreachable("the connection was lost; the command is ended".into());
    let (mut out, said) = socket.split();
    let mut said = Box::pin(said);
    let (columns, rows) = window();
    let wish = json!({"command": command, "tty": tty, "input": interactive, "columns": columns, "rows": rows});
    out.send(Message::text(wish.to_string())).await.map_err(|_| lost())?;
    let mut resized = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change())
        .map_err(|error| Failure::Failed(format!("signals: {error}")))?;
    let feed = async {
        let (mut stdin, mut buffer, mut open) = (tokio::io::stdin(), vec![0; 32 << 10], interactive);
        loop {
            let message = tokio::select! {
                read = stdin.read(&mut buffer), if open => match read {
                    Ok(n) if n > 0 => Message::binary(buffer[..n].to_vec()),
                    Ok(_) | Err(_) => {
                        open = false;
                        Message::text(json!({"end_of_input": true}).to_string())
                    }
                },
                _ = resized.recv(), if tty => {
                    let (columns, rows) = window();
                    Message::text(json!({"window": {"columns": columns, "rows": rows}}).to_string())
                }
                else => std::future::pending().await,
            };
            if out.send(message).await.is_err() {
                std::future::pending::<()>().await; // what it said last is still to be read
            }
        }
    };
    let hear = async {
        loop {
            match said.next().await {
                Some(Ok(Message::Binary(framed))) => match framed.split_first() {
                    Some((2, data)) => drop(written(&mut std::io::stderr().lock(), data)?),
                    Some((_, data)) => drop(written(&mut std::io::stdout().lock(), data)?),
                    None => {}
                },
                Some(Ok(Message::Text(word))) => {
                    let word: Value = serde_json::from_str(&word).unwrap_or_default();
                    if let Some(code) = word["exit_code"].as_i64() {
                        return Ok(code);
                    }
                    if let Some(problem) = word.get("problem") {
                        return Err(Failure::Refused(problem.clone()));
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(lost()),
            }
        }
    };
    tokio::select! {
        () = feed => Err(lost()),
        ended = hear => ended,
    }
}
