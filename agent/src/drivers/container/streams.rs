//! What a container writes, and commands beside it.

use std::{pin::Pin, time::Duration};

use async_trait::async_trait;
use bollard::{
    Docker,
    container::LogOutput,
    exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults},
    query_parameters::LogsOptions,
};
use bytes::Bytes;
use futures::StreamExt;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{ContainerDriver, is_in_container, shape::container_name};
use crate::{
    driver::{DriverError, Exec, ExecControl, ExecWanted, LogsWanted, NodeId, Piece, Pieces, Presence},
    instant::milliseconds,
};

/// How long a command whose client has gone may take to end by a hang-up before it is killed.
const HANG_UP: Duration = Duration::from_secs(2);

impl ContainerDriver {
    pub(super) async fn logs_of(&self, node: NodeId, wanted: LogsWanted) -> Result<Pieces, DriverError> {
        let engine = self.engine.get().await?;
        if self.look(&engine, node).await?.presence == Presence::Absent {
            return Err(DriverError::Refused("there is no output: nothing of the node is on its host".to_owned()));
        }
        let LogsWanted { follow, since_ms, tail } = wanted;
        let options = LogsOptions {
            follow,
            stdout: true,
            stderr: true,
            since: i32::try_from(since_ms / 1000).unwrap_or(i32::MAX), // to the second here, to the millisecond below
            timestamps: true,
            tail: tail.map_or_else(|| "all".to_owned(), |n| n.to_string()),
            ..LogsOptions::default()
        };
        let docker = engine.docker.clone();
        let reader = self.engine.clone();
        // Owned by the stream, so that it ends with it.
        let lines = docker.logs(&container_name(node), Some(options));
        let pieces = lines.filter_map(move |line| {
            let piece = match line {
                Ok(line) => stamped(line).filter(|p| p.at_ms >= since_ms).map(Ok),
                Err(error) => Some(Err(reader.error("the output cannot be read", error))),
            };
            std::future::ready(piece)
        });
        Ok(pieces.boxed())
    }

    pub(super) async fn exec_in(&self, node: NodeId, wanted: &ExecWanted) -> Result<Exec, DriverError> {
        let engine = self.engine.get().await?;
        if self.look(&engine, node).await?.presence != Presence::Running {
            return Err(DriverError::Refused("the node does not run: power it on first".to_owned()));
        }
        let container = self.known().get(&node).map(|k| k.container.clone()).unwrap_or_default();
        let ExecWanted { command, tty, input, window } = wanted.clone();
        let options = CreateExecOptions {
            attach_stdin: Some(input),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(tty),
            env: tty.then(|| vec!["TERM=xterm".to_owned()]),
            cmd: Some(command),
            ..CreateExecOptions::default()
        };
        let doing = "the command cannot be run";
        let made = engine.docker.create_exec(&container_name(node), options).await;
        let id = made.map_err(|error| self.engine.error(doing, error))?.id;
        let options = StartExecOptions { detach: false, tty, ..StartExecOptions::default() };
        let started = engine.docker.start_exec(&id, Some(options)).await;
        let StartExecResults::Attached { output, input } = started.map_err(|error| self.engine.error(doing, error))?
        else {
            return Err(DriverError::Failed(format!("{doing}: the engine does not attach to it")));
        };
        let reader = self.engine.clone();
        let output = output.map(move |piece| match piece {
            Ok(piece) => Ok(plain(piece)),
            Err(error) => Err(reader.error("the output of the command cannot be read", error)),
        });
        let mut control = Running { docker: engine.docker.clone(), id, container, input: Some(input) };
        if tty {
            control.window(window.0, window.1).await;
        }
        Ok(Exec { output: output.boxed(), control: Box::new(control) })
    }
}

/// A line with the time before it.
fn stamped(line: LogOutput) -> Option<Piece> {
    let Piece { error, at_ms: _, data } = plain(line);
    let space = data.iter().position(|b| *b == b' ')?;
    let at_ms = std::str::from_utf8(&data[..space]).ok().and_then(milliseconds)?;
    Some(Piece { error, at_ms, data: data.slice(space + 1..) })
}

fn plain(piece: LogOutput) -> Piece {
    let (error, data): (bool, Bytes) = match piece {
        LogOutput::StdErr { message } => (true, message),
        LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
            (false, message)
        }
    };
    Piece { error, at_ms: 0, data }
}

struct Running {
    docker: Docker,
    id: String,
    container: String,
    input: Option<Pin<Box<dyn AsyncWrite + Send>>>,
}

/// The number of a command on this machine, while it runs in its container.
async fn pid_of(docker: &Docker, id: &str, container: &str) -> Option<Pid> {
    let seen = docker.inspect_exec(id).await.ok()?;
    let pid = seen.pid.filter(|pid| *pid > 0 && seen.running == Some(true))?;
    is_in_container(pid, container).then_some(Pid::from_raw(i32::try_from(pid).ok()?))
}

#[async_trait]
impl ExecControl for Running {
    async fn input(&mut self, data: &[u8]) -> Result<(), DriverError> {
        let Some(input) = &mut self.input else { return Ok(()) };
        let failed = |error| DriverError::Failed(format!("the command takes no input: {error}"));
        input.write_all(data).await.map_err(failed)?;
        input.flush().await.map_err(failed)
    }

    async fn end_input(&mut self) {
        if let Some(mut input) = self.input.take() {
            let _ = input.shutdown().await; // it may have ended
        }
    }

    async fn window(&mut self, columns: u16, rows: u16) {
        if columns > 0 && rows > 0 {
            let options = ResizeExecOptions { height: rows, width: columns };
            let _ = self.docker.resize_exec(&self.id, options).await; // it may have ended
        }
    }

    async fn exit_code(&mut self) -> Result<i64, DriverError> {
        let failed = |why: String| DriverError::Failed(format!("how the command ended is not known: {why}"));
        // Its output may end a moment before the engine knows that it did.
        for _ in 0..100 {
            let seen = self.docker.inspect_exec(&self.id).await.map_err(|error| failed(error.to_string()))?;
            if let Some(code) = seen.exit_code.filter(|_| seen.running != Some(true)) {
                return Ok(code);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(failed("it still runs without output".to_owned()))
    }

    async fn end(&mut self) {
        self.end_input().await;
        let (docker, id, container) = (self.docker.clone(), self.id.clone(), self.container.clone());
        let Some(pid) = pid_of(&docker, &id, &container).await else { return };
        let _ = kill(pid, Signal::SIGHUP); // it may have ended just now
        tokio::time::sleep(HANG_UP).await;
        if pid_of(&docker, &id, &container).await == Some(pid) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}
