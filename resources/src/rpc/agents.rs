//! The agents' protocol: join, one session a host, the bytes of images.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use yiqiu_base::{Code, Id, Problem, secret::Secret};
use yiqiu_proto::{
    agent::{
        AgentMessage, FetchImageRequest, FromNode, FullSet, Heartbeat, ImageChunk, Inventory, InventoryRequest,
        JoinRequest, JoinResponse, OrphanDone, ServerMessage, ToNode, UsageAck, UsageBlock, Welcome,
        agent_message::Message as Said,
        agents_server::{Agents, AgentsServer},
        from_node,
        server_message::Message as Told,
    },
    status::to_status,
};

use super::wire;
use crate::{
    model::HostModel,
    service::{Answer, Attached, Connected, Hello, Push, Service},
};

/// The server of the agents' protocol.
pub fn agents_server(service: Service) -> AgentsServer<impl Agents> {
    AgentsServer::new(Rpc { service })
}

struct Rpc {
    service: Service,
}

fn credential<T>(request: &Request<T>) -> Result<Secret, Status> {
    let text = request.metadata().get("authorization").and_then(|v| v.to_str().ok());
    text.and_then(|t| t.strip_prefix("Bearer ")).map(Secret::from_text).ok_or_else(|| {
        to_status(Problem::new(Code::Unauthenticated, "the agent sends no credential: join with a token first"))
    })
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Agents for Rpc {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let JoinRequest { token, facts } = request.into_inner();
        let facts = wire::facts(facts.unwrap_or_default()).map_err(to_status)?;
        let (host, credential) = self.service.agent_join(&Secret::from_text(token), &facts).await.map_err(to_status)?;
        Ok(Response::new(JoinResponse {
            host_id: host.id.to_string(),
            host_name: host.name,
            credential: credential.reveal().to_owned(),
        }))
    }

    type SessionStream = Answers<ServerMessage>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let credential = credential(&request)?;
        // Before anything is read of a stream, its credential has to belong to a host.
        self.service.agent_host(&credential).await.map_err(to_status)?;
        let (answers, receiver) = mpsc::channel(16);
        let service = self.service.clone();
        let said = request.into_inner();
        tokio::spawn(async move {
            if let Err(problem) = session(service, credential, said, answers.clone()).await {
                let _ = answers.send(Err(to_status(problem))).await; // the agent may have gone
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type FetchImageStream = Answers<ImageChunk>;

    async fn fetch_image(
        &self,
        request: Request<FetchImageRequest>,
    ) -> Result<Response<Self::FetchImageStream>, Status> {
        let credential = credential(&request)?;
        let host = self.service.agent_host(&credential).await.map_err(to_status)?;
        let FetchImageRequest { image_id, offset } = request.into_inner();
        let id = Id::parse(&image_id).map_err(to_status)?;
        let image = self.service.image_open(host.id, id, offset).await.map_err(to_status)?;
        let chunks = tokio_util::io::ReaderStream::with_capacity(image.file, 256 << 10).map(|chunk| match chunk {
            Ok(data) => Ok(ImageChunk { data: data.into() }),
            Err(error) => Err(to_status(Problem::internal(error))),
        });
        Ok(Response::new(Box::pin(chunks)))
    }

    type AttachStream = Answers<ToNode>;

    async fn attach(&self, request: Request<Streaming<FromNode>>) -> Result<Response<Self::AttachStream>, Status> {
        let credential = credential(&request)?;
        let host = self.service.agent_host(&credential).await.map_err(to_status)?;
        let mut said = request.into_inner();
        let first = tokio::time::timeout(self.service.settings().lost_after, said.message()).await;
        let Ok(Ok(Some(FromNode { what: Some(from_node::What::StreamId(id)) }))) = first else {
            return Err(to_status(Problem::invalid("a stream begins with its id")));
        };
        let id = Id::parse(&id).map_err(to_status)?;
        let (pieces, from) = mpsc::channel(STREAM_AHEAD);
        let (to, tells) = mpsc::channel(STREAM_AHEAD);
        self.service.stream_attach(host.id, id, Attached { from, to }).map_err(to_status)?;
        let stop = self.service.environment().stop.clone();
        // Where nobody reads any more, or this process ends, both directions end.
        let (alive, ended) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(async move {
            let _alive = alive;
            tokio::select! {
                () = stop.cancelled() => {}
                () = pieces.closed() => {}
                () = pass(said, &pieces) => {}
            }
        });
        let tells = ReceiverStream::new(tells).map(|told| Ok(wire::to_node(told)));
        Ok(Response::new(Box::pin(tells.take_until(ended))))
    }
}

/// How many frames of a stream wait for a slow reader before the node is held back.
const STREAM_AHEAD: usize = 4;

/// Passes on what a node says, as fast as it is read.
async fn pass(mut said: Streaming<FromNode>, pieces: &mpsc::Sender<crate::model::FromNode>) {
    while let Ok(Some(FromNode { what })) = said.message().await {
        if let Some(what) = what.and_then(wire::from_node)
            && pieces.send(what).await.is_err()
        {
            return;
        }
    }
}

async fn session(
    service: Service,
    credential: Secret,
    mut said: Streaming<AgentMessage>,
    answers: mpsc::Sender<Result<ServerMessage, Status>>,
) -> Result<(), Problem> {
    let first = tokio::time::timeout(service.settings().lost_after, said.message()).await;
    let Ok(Ok(Some(AgentMessage { message: Some(Said::Hello(hello)) }))) = first else {
        return Err(Problem::invalid("a session begins with Hello"));
    };
    let hello = Hello {
        host_id: Id::parse(&hello.host_id)?,
        facts: wire::facts(hello.facts.unwrap_or_default())?,
        epoch: hello.epoch,
        nodes: hello.nodes.into_iter().map(wire::report).collect::<Result<_, _>>()?,
    };
    let Connected { host, number, full_set, mut pushes } = service.agent_connect(&credential, hello).await?;
    tracing::info!(host = host.name, nodes = full_set.len(), "an agent connected");
    let result = converse(&service, &host, number, full_set, &mut pushes, &mut said, &answers).await;
    service.agent_lost(&host, number).await;
    result
}

/// Passes messages both ways until the stream ends, the agent falls silent or a newer session takes over.
async fn converse(
    service: &Service,
    host: &HostModel,
    number: u64,
    full_set: Vec<crate::model::NodeModel>,
    pushes: &mut mpsc::Receiver<Push>,
    said: &mut Streaming<AgentMessage>,
    answers: &mpsc::Sender<Result<ServerMessage, Status>>,
) -> Result<(), Problem> {
    let settings = service.settings();
    let millis = |d: Duration| u32::try_from(d.as_millis()).unwrap_or(u32::MAX);
    let grace = millis(settings.stop_grace);
    // A peer that vanished takes nothing, and says nothing: neither is waited for longer than this.
    let tell = async |message: Told| {
        let sent = answers.send(Ok(ServerMessage { message: Some(message) }));
        matches!(tokio::time::timeout(settings.lost_after, sent).await, Ok(Ok(())))
    };
    let welcome =
        Welcome { epoch: service.epoch(), heartbeat_ms: millis(settings.heartbeat), usage_ms: millis(settings.usage) };
    let assignments = full_set.into_iter().map(|n| wire::assignment(n, grace)).collect();
    if !tell(Told::Welcome(welcome)).await || !tell(Told::FullSet(FullSet { assignments })).await {
        return Ok(());
    }
    let mut silence = std::pin::pin!(tokio::time::sleep(settings.lost_after));
    loop {
        tokio::select! {
            () = service.environment().stop.cancelled() => return Ok(()), // it dials again
            () = &mut silence => return Err(Problem::new(Code::Unavailable, "the agent was silent for too long")),
            push = pushes.recv() => match push {
                Some(Push::Assign(node)) => {
                    if !tell(Told::Assignment(wire::assignment(*node, grace))).await {
                        return Ok(());
                    }
                }
                Some(Push::Open(open)) => {
                    if !tell(Told::Open(wire::open(*open))).await {
                        return Ok(());
                    }
                }
                Some(Push::Inventory { id }) => {
                    if !tell(Told::Inventory(InventoryRequest { id: id.to_string() })).await {
                        return Ok(());
                    }
                }
                Some(Push::Orphan { id, node_type, handle, adopt_as }) => {
                    if !tell(Told::Orphan(wire::orphan(id, node_type, handle, adopt_as))).await {
                        return Ok(());
                    }
                }
                None => return Err(Problem::new(Code::Unavailable, "another session of this host took over, or this one fell behind")),
            },
            message = said.message() => {
                let Ok(Some(AgentMessage { message })) = message else { return Ok(()) };
                silence.as_mut().reset(tokio::time::Instant::now() + settings.lost_after);
                if !service.agent_is_current(host, number) {
                    return Err(Problem::new(Code::Unavailable, "another session of this host took over"));
                }
                match message {
                    None | Some(Said::Heartbeat(Heartbeat { at_ms: _ })) => {}
                    Some(Said::Hello(_)) => return Err(Problem::invalid("Hello comes once")),
                    Some(Said::Report(report)) => service.agent_report(host, wire::report(report)?).await?,
                    Some(Said::Facts(facts)) => service.agent_facts(host, &wire::facts(facts)?).await?,
                    Some(Said::Inventory(Inventory { id, drivers })) => {
                        let answer = Answer::Inventory(wire::inventory(drivers)?);
                        service.agent_answers(host, wire::question(&id)?, answer);
                    }
                    Some(Said::OrphanDone(OrphanDone { id, failed })) => {
                        service.agent_answers(host, wire::question(&id)?, Answer::Orphan(wire::sentence(&failed)));
                    }
                    Some(Said::Usage(UsageBlock { id, samples })) => {
                        let samples = samples.into_iter().map(wire::sample).collect::<Result<Vec<_>, _>>()?;
                        service.agent_usage(host, &samples).await?;
                        if !tell(Told::UsageAck(UsageAck { id })).await {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}
