//! The one stream to the server: who this host is, what it is told, what it tells.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use rand::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};
use yiqiu_base::{Code, Problem, secret::hex};
use yiqiu_proto::{
    agent::{
        AgentMessage, Facts, FullSet, Heartbeat, JoinRequest, ServerMessage, UsageAck, Welcome, agent_message,
        agents_client::AgentsClient, server_message,
    },
    link::{Link, MESSAGE_MOST},
    status::from_status,
};

use crate::host::Host;

const BACK_OFF_LEAST: Duration = Duration::from_millis(100);
const BACK_OFF_MOST: Duration = Duration::from_secs(5);
/// How long a usage block waits for its acknowledgement before it is sent again.
const RESEND: Duration = Duration::from_secs(10);
/// How long the server may leave what is sent untaken before the stream counts as broken.
const SEND_WITHIN: Duration = Duration::from_secs(20);

/// Who this host is to the server. Kept in a file that only its owner can read.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    /// The host's id.
    pub host_id: String,
    /// Its name, for people.
    pub host_name: String,
    /// What the host shows to the server.
    pub credential: String,
    /// Which token was traded for it, as a hash, so that another token later means another join.
    #[serde(default)]
    pub token_hash: String,
}

impl Identity {
    /// The saved one, if there is one.
    pub fn load(file: &Path) -> anyhow::Result<Option<Self>> {
        match std::fs::read(file) {
            Ok(bytes) => {
                Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("{} is broken", file.display()))?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// Saves it, whole or not at all, for its owner only.
    pub fn save(&self, file: &Path) -> anyhow::Result<()> {
        crate::files::write_private(file, &serde_json::to_vec(self)?)
            .with_context(|| format!("cannot save the credential in {}", file.display()))
    }

    /// Whether it came from this token.
    pub fn came_from(&self, token: &str) -> bool {
        self.token_hash == token_hash(token)
    }

    /// Trades a one-time token.
    pub async fn join(link: Link, token: &str, facts: Facts) -> Result<Self, Problem> {
        let request = JoinRequest { token: token.to_owned(), facts: Some(facts) };
        let joined = AgentsClient::new(link).join(request).await.map_err(from_status)?.into_inner();
        let yiqiu_proto::agent::JoinResponse { host_id, host_name, credential } = joined;
        Ok(Self { host_id, host_name, credential, token_hash: token_hash(token) })
    }
}

fn token_hash(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

/// A request that shows the host's credential.
pub(crate) fn bearer<T>(message: T, credential: &str) -> Request<T> {
    let mut request = Request::new(message);
    if let Ok(value) = format!("Bearer {credential}").parse() {
        request.metadata_mut().insert("authorization", value);
    }
    request
}

/// A growing pause between attempts, with jitter, so that thousands of hosts do not come back at once.
pub(crate) struct BackOff(u32);

impl BackOff {
    pub(crate) fn new() -> Self {
        Self(0)
    }

    pub(crate) fn reset(&mut self) {
        self.0 = 0;
    }

    pub(crate) fn next(&mut self) -> Duration {
        let most = (BACK_OFF_LEAST * 2_u32.saturating_pow(self.0.min(16))).min(BACK_OFF_MOST);
        self.0 += 1;
        rand::rng().random_range(BACK_OFF_LEAST.min(most / 2)..=most)
    }
}

/// Why a session ended.
enum End {
    /// The agent stops.
    Stopped,
    /// The stream broke, or the server let go.
    Lost(String),
    /// The server does not know the credential.
    Refused(String),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        let problem = from_status(status);
        match problem.code {
            Code::Unauthenticated | Code::PermissionDenied => End::Refused(problem.detail),
            _ => End::Lost(problem.detail),
        }
    }
}

/// Keeps a session until the host stops, or until the server refuses the credential and `leave` says that something
/// else can be tried. Returns whether it left for that.
pub(crate) async fn keep(host: &Arc<Host>, link: &Link, leave_when_refused: bool) -> bool {
    let mut back_off = BackOff::new();
    let mut quiet = false;
    loop {
        let end = once(host, link, &mut back_off).await;
        host.disconnect();
        let why = match end {
            End::Stopped => return false,
            End::Refused(why) if leave_when_refused => {
                tracing::warn!(why, "the server refuses the saved credential");
                return true;
            }
            End::Refused(why) => format!(
                "the server refuses this host: {why}; if it is to join anew, start the agent with a new join token"
            ),
            End::Lost(why) => why,
        };
        quiet &= back_off.0 > 0; // there was a session since
        if quiet {
            tracing::debug!(why, "still no session");
        } else {
            tracing::warn!(host = host.identity.host_name, why, "no session with the server; nodes keep running");
            quiet = true;
        }
        tokio::select! {
            () = host.stop.cancelled() => return false,
            () = tokio::time::sleep(back_off.next()) => {}
        }
    }
}

async fn once(host: &Arc<Host>, link: &Link, back_off: &mut BackOff) -> End {
    match talk(host, link, back_off).await {
        Ok(never) => never,
        Err(end) => end,
    }
}

async fn send(out: &mpsc::Sender<AgentMessage>, message: agent_message::Message) -> Result<(), End> {
    match timeout(SEND_WITHIN, out.send(AgentMessage { message: Some(message) })).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Lost("the server ended the stream".to_owned())),
        Err(_) => Err(End::Lost("the server does not take what is sent".to_owned())),
    }
}

async fn talk(host: &Arc<Host>, link: &Link, back_off: &mut BackOff) -> Result<End, End> {
    use agent_message::Message;
    // Small: what waits here is known to the host already, and thousands of sessions share a process.
    let (out, messages) = mpsc::channel(4);
    send(&out, Message::Hello(host.connect())).await?;
    let request = bearer(ReceiverStream::new(messages), &host.identity.credential);
    let mut client =
        AgentsClient::new(link.clone()).max_decoding_message_size(MESSAGE_MOST).max_encoding_message_size(MESSAGE_MOST);
    let mut inbound = tokio::select! {
        () = host.stop.cancelled() => return Ok(End::Stopped),
        answer = client.session(request) => answer?.into_inner(),
    };
    let mut epoch = None;
    let mut heartbeat = tokio::time::interval(Duration::from_secs(10));
    let mut resend = tokio::time::interval(RESEND);
    heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = host.stop.cancelled() => {
                tell(host, &out, false).await?; // what stopping changed
                return Ok(End::Stopped);
            }
            message = inbound.message() => {
                let Some(message) = message? else { return Err(End::Lost("the server ended the stream".to_owned())) };
                if let Some(every) = hear(host, link, message, &mut epoch).await? {
                    back_off.reset();
                    heartbeat = tokio::time::interval(every);
                    tracing::info!(host = host.identity.host_name, epoch, "in session");
                    tell(host, &out, true).await?;
                }
            }
            () = host.outgoing.notified(), if epoch.is_some() => tell(host, &out, false).await?,
            _ = heartbeat.tick() => send(&out, Message::Heartbeat(Heartbeat { at_ms: host.clock.now() })).await?,
            _ = resend.tick(), if epoch.is_some() => tell(host, &out, true).await?,
        }
    }
}

/// Sends whatever is there for the server.
async fn tell(host: &Arc<Host>, out: &mpsc::Sender<AgentMessage>, resend: bool) -> Result<(), End> {
    use agent_message::Message;
    if let Some(facts) = host.take_facts() {
        send(out, Message::Facts(facts)).await?;
    }
    for report in host.take_reports() {
        send(out, Message::Report(report)).await?;
    }
    for answer in host.take_answers() {
        send(out, answer).await?;
    }
    if let Some(block) = host.usage_block(resend) {
        send(out, Message::Usage(block)).await?;
    }
    Ok(())
}

/// Does what a message says. The interval of heartbeats if it was the greeting.
async fn hear(
    host: &Arc<Host>,
    link: &Link,
    message: ServerMessage,
    epoch: &mut Option<u64>,
) -> Result<Option<Duration>, End> {
    use server_message::Message;
    let unwelcome = || End::Lost("the server assigned before it greeted".to_owned());
    match message.message {
        Some(Message::Welcome(Welcome { epoch: greeted, heartbeat_ms, usage_ms })) => {
            match host.greet(greeted, usage_ms).await {
                Ok(true) => {}
                Ok(false) => {
                    return Err(End::Lost(format!(
                        "the server is of epoch {greeted}, but this host obeyed epoch {} already: it may run on an old \
                         copy of its database; nothing it assigns is obeyed",
                        host.epoch()
                    )));
                }
                Err(error) => return Err(End::Lost(format!("the journal cannot be written: {error}"))),
            }
            *epoch = Some(greeted);
            Ok(Some(Duration::from_millis(u64::from(heartbeat_ms).max(100))))
        }
        Some(Message::FullSet(FullSet { assignments })) => {
            let epoch = epoch.ok_or_else(unwelcome)?;
            host.obey_all(assignments, epoch);
            Ok(None)
        }
        Some(Message::Assignment(assignment)) => {
            host.obey(assignment, epoch.ok_or_else(unwelcome)?);
            Ok(None)
        }
        Some(Message::Open(open)) => {
            host.open_stream(open, link.clone());
            Ok(None)
        }
        Some(Message::UsageAck(UsageAck { id })) => {
            host.usage_acknowledged(id);
            Ok(None)
        }
        Some(Message::Inventory(request)) => {
            host.take_stock(request);
            Ok(None)
        }
        Some(Message::Orphan(command)) => {
            epoch.ok_or_else(unwelcome)?;
            host.settle_orphan(command);
            Ok(None)
        }
        None => Ok(None), // a message of a newer server
    }
}
