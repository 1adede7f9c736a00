//! Streams of a node that the server asks for: its output, or a command in it. Each is a call of its own.
//!
//! Nothing is read from the node before what was read is on its way: a slow reader holds the node's output back, not
//! the agent's memory. When the server lets go of a stream, what feeds it ends.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use yiqiu_base::Code;
use yiqiu_proto::{
    agent::{
        EndOfInput, Exec as ExecWish, Exited, FromNode, Logs, Open, Opened, Piece as WirePiece, Refused, ToNode,
        Window, agents_client::AgentsClient, from_node::What as Say, open::What, to_node::What as Hear,
    },
    link::{Link, MESSAGE_MOST},
};

use crate::{
    driver::{DriverError, Exec, ExecWanted, LogsWanted, NodeId, Piece, Pieces},
    host::Host,
    session::bearer,
};

/// Frames on their way to the server.
const AHEAD: usize = 4;
/// The largest piece, in bytes.
const PIECE_MOST: usize = 64 << 10;
/// How many streams an agent serves at once.
pub(crate) const STREAMS_MOST: usize = 128;
/// How long the server may take to answer the call.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

type Frames = mpsc::Sender<FromNode>;

/// The other side has gone.
struct Left;

async fn say(frames: &Frames, what: Say) -> Result<(), Left> {
    frames.send(FromNode { what: Some(what) }).await.map_err(|_| Left)
}

impl Host {
    /// Serves a stream that the server asked for, in a task of its own.
    pub(crate) fn open_stream(self: &Arc<Self>, open: Open, link: Link) {
        let host = Arc::clone(self);
        self.tasks.spawn(async move {
            let stop = host.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = host.serve_stream(open, link) => {}
            }
        });
    }

    async fn serve_stream(&self, open: Open, link: Link) {
        let Open { stream_id, node_id, request_id, what } = open;
        let (frames, receiver) = mpsc::channel(AHEAD);
        let mut client = AgentsClient::new(link).max_decoding_message_size(MESSAGE_MOST);
        if say(&frames, Say::StreamId(stream_id)).await.is_err() {
            return;
        }
        let call = client.attach(bearer(ReceiverStream::new(receiver), &self.identity.credential));
        let mut told = match tokio::time::timeout(ANSWER_WITHIN, call).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => {
                tracing::debug!(request_id, why = status.message(), "a stream is not wanted any more");
                return;
            }
            Err(_) => return,
        };
        // What comes in is read in a task of its own: that the server let go shows there first.
        let gone = CancellationToken::new();
        let (inputs, mut hears) = mpsc::channel(AHEAD);
        let ends = gone.clone().drop_guard();
        let reader = tokio::spawn(async move {
            let _ends = ends;
            while let Ok(Some(ToNode { what })) = told.message().await {
                if let Some(what) = what {
                    let _ = inputs.send(what).await; // what ended takes no more; the server is still heard to its end
                }
            }
        });
        let Ok(_one) = self.streams.try_acquire() else {
            let many = format!("the host serves {STREAMS_MOST} streams already: try again later");
            let _ = refuse(&frames, &DriverError::Unavailable(many)).await;
            drop((frames, hears));
            let _ = reader.await;
            return;
        };
        let node = NodeId::parse(&node_id).ok();
        tracing::debug!(node = node_id, request_id, "a stream begins");
        let served = match (node, what) {
            (Some(node), Some(What::Logs(logs))) => self.serve_logs(node, logs, &frames, &gone).await,
            (Some(node), Some(What::Exec(exec))) => self.serve_exec(node, exec, &frames, &mut hears, &gone).await,
            (None, _) | (_, None) => {
                refuse(&frames, &DriverError::Refused("the agent does not know what is asked for".to_owned())).await
            }
        };
        tracing::debug!(node = node_id, request_id, left = served.is_err(), "a stream ended");
        // Letting go of the answers would take back what is still on its way: the server ends them when it has it all.
        drop((frames, hears));
        let _ = reader.await;
    }

    async fn serve_logs(
        &self,
        node: NodeId,
        logs: Logs,
        frames: &Frames,
        gone: &CancellationToken,
    ) -> Result<(), Left> {
        let Logs { follow, since_ms, tail } = logs;
        let pieces = match self.driver_of(node) {
            Ok(driver) => driver.logs(node, LogsWanted { follow, since_ms, tail }).await,
            Err(error) => Err(error),
        };
        let mut pieces = match pieces {
            Ok(pieces) => pieces,
            Err(error) => return refuse(frames, &error).await,
        };
        say(frames, Say::Opened(Opened {})).await?;
        tokio::select! {
            () = gone.cancelled() => Err(Left),
            passed = pass(&mut pieces, frames) => passed,
        }
    }

    async fn serve_exec(
        &self,
        node: NodeId,
        wish: ExecWish,
        frames: &Frames,
        hears: &mut mpsc::Receiver<Hear>,
        gone: &CancellationToken,
    ) -> Result<(), Left> {
        let ExecWish { command, tty, input, window } = wish;
        let wanted = ExecWanted { command, tty, input, window: of_window(window.unwrap_or_default()) };
        let running = match self.driver_of(node) {
            Ok(driver) => driver.exec(node, &wanted).await,
            Err(error) => Err(error),
        };
        let Exec { mut output, mut control } = match running {
            Ok(running) => running,
            Err(error) => return refuse(frames, &error).await,
        };
        let talk = {
            // Both ways at once: a command may wait to be read before it reads on.
            let way = &mut control;
            let feed = async move {
                loop {
                    match hears.recv().await {
                        Some(Hear::Input(data)) => {
                            if way.input(&data).await.is_err() {
                                way.end_input().await; // it may end without reading all
                            }
                        }
                        Some(Hear::EndOfInput(EndOfInput {})) => way.end_input().await,
                        Some(Hear::Window(window)) => {
                            let (columns, rows) = of_window(window);
                            way.window(columns, rows).await;
                        }
                        None => return Left,
                    }
                }
            };
            match say(frames, Say::Opened(Opened {})).await {
                Ok(()) => tokio::select! {
                    passed = pass(&mut output, frames) => passed,
                    () = gone.cancelled() => Err(Left),
                    left = feed => Err(left),
                },
                Err(left) => Err(left),
            }
        };
        if talk.is_err() {
            control.end().await;
            return talk;
        }
        match control.exit_code().await {
            Ok(code) => say(frames, Say::Exited(Exited { code })).await,
            Err(error) => refuse(frames, &error).await,
        }
    }

    fn driver_of(&self, node: NodeId) -> Result<Arc<dyn crate::driver::Driver>, DriverError> {
        let node_type = self.with(node, |n| n.node_type()).flatten();
        let driver = node_type.and_then(|t| self.driver(t)).cloned();
        driver.ok_or_else(|| DriverError::Refused("nothing of the node is on its host".to_owned()))
    }
}

fn of_window(window: Window) -> (u16, u16) {
    let short = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    (short(window.columns), short(window.rows))
}

async fn refuse(frames: &Frames, error: &DriverError) -> Result<(), Left> {
    let code = match error {
        DriverError::Unavailable(_) => Code::Unavailable,
        DriverError::Failed(_) | DriverError::Refused(_) => Code::WrongState,
    };
    let refused = Refused { code: code.as_str().to_owned(), detail: error.detail().to_owned() };
    say(frames, Say::Refused(refused)).await
}

/// Passes pieces on until there are no more.
async fn pass(pieces: &mut Pieces, frames: &Frames) -> Result<(), Left> {
    while let Some(piece) = pieces.next().await {
        let Piece { error, at_ms, mut data } = match piece {
            Ok(piece) => piece,
            Err(error) => return refuse(frames, &error).await.and(Err(Left)),
        };
        while !data.is_empty() {
            let data = data.split_to(data.len().min(PIECE_MOST)).to_vec();
            say(frames, Say::Piece(WirePiece { error, at_ms, data })).await?;
        }
    }
    Ok(())
}
