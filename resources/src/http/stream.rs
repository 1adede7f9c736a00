//! The output of a node as a body that goes on, and commands in a node over a WebSocket.

use axum::{
    body::Body,
    extract::{
        Path, State,
        ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::header,
    response::{IntoResponse, Response},
};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt, stream::SplitSink};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use yiqiu_base::{
    Code, Id, Principal, Problem, clock::Ms, http::Params, id::Node, telemetry::request_id, telemetry::with_request_id,
};

use crate::{
    model::{ExecWanted, FromNode, LogsWanted, ToNode},
    service::{NodeStream, Service},
};

/// The largest message of a terminal, in bytes.
const MESSAGE_MOST: usize = 256 << 10;
/// How long a client may take to say which command it wants.
const WISH_WITHIN: std::time::Duration = std::time::Duration::from_secs(15);

/// In which form output comes.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Form {
    /// As it was written.
    #[default]
    Text,
    /// A JSON object a piece: `{"at_ms", "stream", "text"}`.
    Json,
}

/// Which output.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct LogsQuery {
    /// Go on with what it writes from now on, until it ends.
    #[serde(default)]
    follow: bool,
    /// Only what was written from this point in time on.
    #[serde(default)]
    since_ms: Ms,
    /// Only so many of the last lines.
    tail: Option<u32>,
    /// `text` (if left out) or `json`.
    #[serde(default)]
    format: Form,
}

#[derive(Serialize)]
struct PieceView {
    at_ms: Ms,
    stream: &'static str,
    text: String,
}

/// Read what a node wrote
///
/// Its standard output and error, oldest first. With `follow` the answer goes on until the node ends or the client
/// goes. A slow reader holds the node's output back; nothing is dropped.
#[utoipa::path(get, path = "/v1/nodes/{node}/logs", tag = "resources",
    params(("node", description = "id"), LogsQuery),
    responses((status = 200, content_type = "text/plain", body = String,
        description = "what it wrote; with `format=json` lines of JSON as `application/x-ndjson`"),
        (status = "4XX", body = Problem)))]
pub(super) async fn logs(
    State(service): State<Service>,
    who: Principal,
    Path(node): Path<String>,
    Params(query): Params<LogsQuery>,
) -> Result<Response, Problem> {
    let LogsQuery { follow, since_ms, tail, format } = query;
    let wanted = LogsWanted { follow, since_ms, tail };
    let stream = service.node_logs(&who, Id::<Node>::parse(&node)?, wanted).await?;
    let kind = match format {
        Form::Text => "text/plain; charset=utf-8",
        Form::Json => "application/x-ndjson",
    };
    let pieces = futures::stream::unfold(stream, move |mut stream| async move {
        let piece = match stream.next().await? {
            FromNode::Piece { error, at_ms, data } => Ok(shown(format, error, at_ms, data)),
            FromNode::Refused(problem) => Err(problem), // the body breaks off: what came is not all
            FromNode::Opened | FromNode::Exited(_) => return None,
        };
        Some((piece, stream))
    });
    Ok(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")], Body::from_stream(pieces)).into_response())
}

fn shown(format: Form, error: bool, at_ms: Ms, data: Bytes) -> Bytes {
    match format {
        Form::Text => data,
        Form::Json => {
            let text = String::from_utf8_lossy(&data).trim_end_matches('\n').to_owned();
            let view = PieceView { at_ms, stream: if error { "stderr" } else { "stdout" }, text };
            let line = serde_json::to_string(&view).unwrap_or_default(); // text and numbers are always JSON
            (line + "\n").into()
        }
    }
}

/// What a client says first.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExecWish {
    /// The program and its arguments.
    command: Vec<String>,
    /// Whether it has a terminal.
    #[serde(default)]
    tty: bool,
    /// Whether its standard input is open.
    #[serde(default)]
    input: bool,
    /// Of its terminal.
    #[serde(default)]
    columns: u16,
    /// Of its terminal.
    #[serde(default)]
    rows: u16,
}

/// What a client says later, as text; its binary messages are for the standard input.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Control {
    EndOfInput(bool),
    Window { columns: u16, rows: u16 },
}

/// Run a command in a node
///
/// Over a WebSocket. The client first sends an `ExecWish` as text; then standard input as binary messages, and as text
/// `{"window": {"columns", "rows"}}` or `{"end_of_input": true}`. The server sends output as binary messages, the first
/// byte of each 1 for standard output or 2 for standard error, and at the end `{"exit_code"}` or `{"problem"}` as text.
/// Who ran what is in the events. When the client goes, the command is ended.
#[utoipa::path(get, path = "/v1/nodes/{node}/exec", tag = "resources", params(("node", description = "id")),
    responses((status = 101, description = "a WebSocket", body = ExecWish), (status = "4XX", body = Problem)))]
pub(super) async fn exec(
    State(service): State<Service>,
    who: Principal,
    Path(node): Path<String>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let id = Id::<Node>::parse(&node)?;
    service.node_exec_check(&who, id).await?;
    let upgrade = upgrade.map_err(|error| {
        Problem::invalid(format!("expected a WebSocket: {}; use `yiqiu node exec`", error.body_text()))
    })?;
    let request = request_id();
    let upgrade = upgrade.max_message_size(MESSAGE_MOST).max_frame_size(MESSAGE_MOST);
    Ok(upgrade.on_upgrade(move |socket| with_request_id(request, terminal(service, who, id, socket))))
}

type Out = SplitSink<WebSocket, Message>;

async fn terminal(service: Service, who: Principal, id: Id<Node>, socket: WebSocket) {
    let (mut out, mut said) = socket.split();
    let wish = match tokio::time::timeout(WISH_WITHIN, said.next()).await {
        Ok(Some(Ok(Message::Text(text)))) => serde_json::from_str::<ExecWish>(&text).map_err(|error| {
            Problem::new(Code::MalformedBody, yiqiu_base::name::shown_to(300, &format!("which command? {error}")))
        }),
        Ok(Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_)))) => {
            Err(Problem::new(Code::MalformedBody, "the first message says which command, as JSON text"))
        }
        Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) | Err(_) => return,
    };
    let opened = match wish {
        Ok(ExecWish { command, tty, input, columns, rows }) => {
            service.node_exec(&who, id, ExecWanted { command, tty, input, window: (columns, rows) }).await
        }
        Err(problem) => Err(problem),
    };
    let mut stream = match opened {
        Ok(stream) => stream,
        Err(problem) => return last(&mut out, json!({ "problem": problem })).await,
    };
    let to = stream.to();
    let feed = async {
        while let Some(Ok(message)) = said.next().await {
            let told = match message {
                Message::Binary(data) => ToNode::Input(data),
                Message::Text(text) => match serde_json::from_str(&text) {
                    Ok(Control::EndOfInput(true)) => ToNode::EndOfInput,
                    Ok(Control::EndOfInput(false)) => continue,
                    Ok(Control::Window { columns, rows }) => ToNode::Window(columns, rows),
                    Err(_) => continue, // of a newer client
                },
                Message::Ping(_) | Message::Pong(_) => continue,
                Message::Close(_) => return,
            };
            if to.send(told).await.is_err() {
                // It ended: what it says last is still on its way.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = feed => {} // the client has gone, and the command is ended
        () = show(&mut stream, &mut out) => {}
    }
}

/// Passes on what the command writes, and how it ended.
async fn show(stream: &mut NodeStream, out: &mut Out) {
    loop {
        match stream.next().await {
            Some(FromNode::Piece { error, at_ms: _, data }) => {
                let mut framed = BytesMut::with_capacity(data.len() + 1);
                framed.put_u8(if error { 2 } else { 1 });
                framed.extend_from_slice(&data);
                if out.send(Message::Binary(framed.freeze())).await.is_err() {
                    return;
                }
            }
            Some(FromNode::Opened) => {}
            Some(FromNode::Exited(code)) => return last(out, json!({ "exit_code": code })).await,
            Some(FromNode::Refused(problem)) => return last(out, json!({ "problem": problem })).await,
            None => {
                let lost = Problem::new(Code::Unavailable, "the host was lost: how the command ended is not known");
                return last(out, json!({ "problem": lost })).await;
            }
        }
    }
}

async fn last(out: &mut Out, word: serde_json::Value) {
    let _ = out.send(Message::Text(word.to_string().into())).await; // the client may have gone
    let _ = out.close().await;
}
