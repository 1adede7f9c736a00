//! A control plane for tests: a real `Agents` server of tonic that says what a test has it say, and remembers.
#![allow(dead_code, unreachable_pub)] // each test binary uses a part of it

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures::Stream;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use yiqiu_agent::driver::NodeId;
use yiqiu_base::{Code, NodeState, Power, Problem, Size, secret::hex};
use yiqiu_proto::{
    agent::{
        AgentMessage, Assignment, FetchImageRequest, FromNode, FullSet, Hello, ImageChunk, JoinRequest, JoinResponse,
        NodeReport, Sample, ServerMessage, ToNode, UsageAck, Welcome,
        agent_message::Message as Said,
        agents_server::{Agents, AgentsServer},
        server_message::Message,
    },
    common::{self, NodeSpec},
    link::{self, Link},
    status::to_status,
};

pub const CREDENTIAL: &str = "yqh_test";

#[derive(Clone)]
pub struct Server(Arc<Mutex<Inner>>);

pub struct Inner {
    pub host: String,
    pub tokens: Vec<String>,
    pub epoch: u64,
    pub usage_ms: u32,
    pub acknowledges: bool,
    pub full_set: Vec<Assignment>,
    pub hellos: Vec<Hello>,
    pub heartbeats: u64,
    pub facts: Vec<yiqiu_proto::agent::Facts>,
    pub inventories: Vec<yiqiu_proto::agent::Inventory>,
    pub orphans_done: Vec<yiqiu_proto::agent::OrphanDone>,
    pub reports: Vec<NodeReport>,
    pub blocks: Vec<i64>,
    pub samples: BTreeMap<(String, i64, i64), Sample>,
    pub images: HashMap<String, Vec<u8>>,
    pub fetches: u64,
    /// Bytes after which a fetch breaks off, once.
    pub break_fetch_after: Option<usize>,
    /// Fetches send half of the image and then nothing.
    pub hold_fetches: bool,
    sessions: Vec<mpsc::UnboundedSender<Result<ServerMessage, Status>>>,
}

impl Server {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            host: yiqiu_base::Id::<yiqiu_base::id::Host>::new().to_string(),
            tokens: vec!["once".to_owned()],
            epoch: 1,
            usage_ms: 200,
            acknowledges: true,
            full_set: Vec::new(),
            hellos: Vec::new(),
            heartbeats: 0,
            facts: Vec::new(),
            inventories: Vec::new(),
            orphans_done: Vec::new(),
            reports: Vec::new(),
            blocks: Vec::new(),
            samples: BTreeMap::new(),
            images: HashMap::new(),
            fetches: 0,
            break_fetch_after: None,
            hold_fetches: false,
            sessions: Vec::new(),
        })))
    }

    pub fn link(&self) -> Link {
        link::local(AgentsServer::new(self.clone()))
    }

    pub fn get(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Sends to the session there is now, and keeps it for the next full set.
    pub fn assign(&self, assignment: &Assignment) {
        let mut inner = self.get();
        inner.full_set.retain(|a| a.node_id != assignment.node_id);
        inner.full_set.push(assignment.clone());
        drop(inner);
        self.send(Message::Assignment(assignment.clone()));
    }

    pub fn send(&self, message: Message) {
        if let Some(session) = self.get().sessions.last() {
            let _ = session.send(Ok(ServerMessage { message: Some(message) }));
        }
    }

    pub fn drop_session(&self) {
        self.get().sessions.clear();
    }

    /// The newest report of a node that is as wished, within a deadline; on a timeout, shows all there were.
    pub async fn report(&self, node: NodeId, within: Duration, wish: impl Fn(&NodeReport) -> bool) -> NodeReport {
        let id = node.to_string();
        let found = wait(within, || self.get().reports.iter().rfind(|r| r.node_id == id).filter(|r| wish(r)).cloned());
        match found.await {
            Some(report) => report,
            None => {
                let all: Vec<String> = self.get().reports.iter().filter(|r| r.node_id == id).map(shown).collect();
                panic!("no such report of {node} within {within:?}; there were:\n{}", all.join("\n"))
            }
        }
    }

    pub async fn state(&self, node: NodeId, state: NodeState) -> NodeReport {
        self.report(node, Duration::from_secs(20), |r| r.state() == common::NodeState::from(state)).await
    }

    pub fn last_sample(&self, node: NodeId) -> Option<Sample> {
        let id = node.to_string();
        self.get().samples.values().filter(|s| s.node_id == id).max_by_key(|s| (s.boot, s.seq)).cloned()
    }
}

pub fn shown(r: &NodeReport) -> String {
    format!("  {:?} generation {} boot {} {}", r.state(), r.generation, r.boot, r.detail)
}

/// Asks until there is an answer, at most for `within`.
pub async fn wait<T>(within: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > deadline {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn until(what: &str, mut ask: impl FnMut() -> bool) {
    assert!(wait(Duration::from_secs(20), || ask().then_some(())).await.is_some(), "not within 20 s: {what}");
}

pub fn assignment(node: NodeId, power: Power, generation: i64, revision: i64, spec: NodeSpec) -> Assignment {
    let mut assignment = Assignment {
        node_id: node.to_string(),
        name: format!("n{generation}"),
        spec: Some(spec),
        generation,
        revision,
        stop_grace_ms: 500,
        request_id: format!("request-{revision}"),
        ..Assignment::default()
    };
    assignment.set_power(power.into());
    assignment.set_node_type(common::NodeType::Cm);
    assignment
}

pub fn size(cpu_millicores: i64, memory_bytes: i64) -> Option<common::Size> {
    Some(Size { cpu_millicores, memory_bytes, ..Size::ZERO }.into())
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn check<T>(request: &Request<T>) -> Result<(), Status> {
    let shown = request.metadata().get("authorization").and_then(|v| v.to_str().ok());
    if shown == Some(&format!("Bearer {CREDENTIAL}")) {
        return Ok(());
    }
    Err(to_status(Problem::new(Code::Unauthenticated, "unknown credential")))
}

#[tonic::async_trait]
impl Agents for Server {
    type SessionStream = Answers<ServerMessage>;
    type FetchImageStream = Answers<ImageChunk>;
    type AttachStream = Answers<ToNode>;

    async fn attach(&self, _: Request<Streaming<FromNode>>) -> Result<Response<Self::AttachStream>, Status> {
        Err(Status::unimplemented("these tests open no streams"))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let token = request.into_inner().token;
        let mut inner = self.get();
        let Some(at) = inner.tokens.iter().position(|t| *t == token) else {
            return Err(to_status(Problem::new(Code::JoinTokenInvalid, "the token is unknown or used")));
        };
        inner.tokens.remove(at);
        Ok(Response::new(JoinResponse {
            host_id: inner.host.clone(),
            host_name: "h1".to_owned(),
            credential: CREDENTIAL.to_owned(),
        }))
    }

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        check(&request)?;
        let (out, answers) = mpsc::unbounded_channel();
        let mut said = request.into_inner();
        let (server, weak) = (self.clone(), out.downgrade());
        self.get().sessions.push(out);
        tokio::spawn(async move {
            while let Ok(Some(message)) = said.message().await {
                let Some(out) = weak.upgrade() else { return };
                let say = |message| drop(out.send(Ok(ServerMessage { message: Some(message) })));
                let mut inner = server.get();
                match message.message.unwrap() {
                    Said::Hello(hello) => {
                        inner.reports.extend(hello.nodes.iter().cloned());
                        inner.hellos.push(hello);
                        let (epoch, usage_ms) = (inner.epoch, inner.usage_ms);
                        say(Message::Welcome(Welcome { epoch, heartbeat_ms: 100, usage_ms }));
                        say(Message::FullSet(FullSet { assignments: inner.full_set.clone() }));
                    }
                    Said::Heartbeat(_) => inner.heartbeats += 1,
                    Said::Report(report) => inner.reports.push(report),
                    Said::Usage(block) => {
                        inner.blocks.push(block.id);
                        if inner.acknowledges {
                            for s in block.samples {
                                let key = (s.node_id.clone(), s.boot, s.seq);
                                inner.samples.insert(key, s);
                            }
                            say(Message::UsageAck(UsageAck { id: block.id }));
                        }
                    }
                    Said::Facts(facts) => inner.facts.push(facts),
                    Said::Inventory(inventory) => inner.inventories.push(inventory),
                    Said::OrphanDone(done) => inner.orphans_done.push(done),
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answers))))
    }

    async fn fetch_image(
        &self,
        request: Request<FetchImageRequest>,
    ) -> Result<Response<Self::FetchImageStream>, Status> {
        check(&request)?;
        let FetchImageRequest { image_id, offset } = request.into_inner();
        let mut inner = self.get();
        inner.fetches += 1;
        let image =
            inner.images.get(&image_id).cloned().ok_or_else(|| to_status(Problem::not_found("image", &image_id)))?;
        let rest = image[usize::try_from(offset).unwrap()..].to_vec();
        let broken = inner.break_fetch_after.take();
        if inner.hold_fetches {
            let half = ImageChunk { data: rest[..rest.len() / 2].to_vec() };
            let held = futures::StreamExt::chain(tokio_stream::iter([Ok(half)]), futures::stream::pending());
            return Ok(Response::new(Box::pin(held)));
        }
        let mut chunks: Vec<Result<ImageChunk, Status>> = Vec::new();
        for chunk in rest[..broken.unwrap_or(rest.len()).min(rest.len())].chunks(64 << 10) {
            chunks.push(Ok(ImageChunk { data: chunk.to_vec() }));
        }
        if broken.is_some() {
            chunks.push(Err(Status::unavailable("broken off")));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }
}

/// A root file system of busybox alone, as a tar, with its sha256.
pub fn root_file_system() -> (Vec<u8>, String) {
    use sha2::{Digest, Sha256};
    let busybox = std::fs::read("/bin/busybox").expect("the test needs /bin/busybox: install busybox-static");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    for folder in ["bin/", "tmp/", "www/"] {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o1777);
        header.set_size(0);
        header.set_cksum();
        tar.append_data(&mut header, folder, std::io::empty()).unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(busybox.len() as u64);
    header.set_cksum();
    tar.append_data(&mut header, "bin/busybox", &*busybox).unwrap();
    for name in ["sh", "sleep", "httpd", "dd", "cat", "nc", "echo"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    // Unlike any other, so that an engine cannot have it already.
    let page = format!("hello from a node {}", NodeId::new()).into_bytes();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(page.len() as u64);
    header.set_cksum();
    tar.append_data(&mut header, "www/index.html", &*page).unwrap();
    let bytes = tar.into_inner().unwrap();
    let sha256 = hex(&Sha256::digest(&bytes));
    (bytes, sha256)
}
