//! The command line: a client of the public HTTP API and nothing else.

pub mod audit;
pub mod client;
pub mod component;
mod elevation;
pub mod events;
pub mod failure;
pub mod host;
pub mod image;
pub mod node;
pub mod noun;
pub mod output;
pub mod owned;
pub mod people;
pub mod place;
pub mod pool;
pub mod rcontract;
pub mod runtime;
pub mod stream;
pub mod time;
pub mod usage;
pub mod wait;
pub mod workload;

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use yiqiu_base::secret::Secret;

use self::{
    client::{Client, Tier},
    failure::{Failure, Outcome},
    output::{As, Column, Format},
};

pub use self::{people::write_private, time::parse_span};

/// Flags that every client command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Of every command")]
pub struct Global {
    /// The server.
    #[arg(long, global = true, env = "YIQIU_SERVER", value_name = "URL", default_value = "http://127.0.0.1:7070")]
    server: String,
    /// A file with the token. The token itself can be in YIQIU_TOKEN; it has no place on a command line.
    #[arg(long, global = true, env = "YIQIU_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<String>,
    /// In which form answers are printed.
    #[arg(short, long, global = true, value_name = "FORM", default_value = "table")]
    output: Format,
    /// How long --wait waits, such as 90s or 5m.
    #[arg(long, global = true, value_name = "SPAN", value_parser = time::parse_span, default_value = "2m")]
    timeout: Duration,
    /// The same key again makes the same request once and no more; a fresh one if not said.
    #[arg(long, global = true, value_name = "KEY")]
    idempotency_key: Option<String>,
}

/// What a client command works with.
pub struct Session {
    client: Client,
    server: String,
    format: Format,
    timeout: Duration,
}

/// The nouns.
#[derive(Debug, Subcommand)]
pub enum Noun {
    /// Regions: places of many data centres.
    #[command(subcommand)]
    Region(place::Region),
    /// Zones: independent engineering areas of a region.
    #[command(subcommand)]
    Zone(place::Zone),
    /// Racks of a zone.
    #[command(subcommand)]
    Rack(place::Rack),
    /// Pools: groups of hosts.
    #[command(subcommand)]
    Pool(pool::Pool),
    /// Hosts: physical machines.
    #[command(subcommand)]
    Host(host::Host),
    /// Images that nodes start from.
    #[command(subcommand)]
    Image(image::Image),
    /// Contracts of exact resources on named hosts.
    #[command(subcommand, name = "rcontract")]
    RContract(rcontract::RContract),
    /// Nodes: what runs on a host under a contract.
    #[command(subcommand)]
    Node(node::Node),
    /// Contracts of components by need.
    #[command(subcommand, name = "ccontract")]
    CContract(component::CContract),
    /// Components: the instances that a ccontract keeps.
    #[command(subcommand)]
    Component(component::Component),
    /// Users.
    #[command(subcommand)]
    User(people::User),
    /// Projects: whom a bill is for.
    #[command(subcommand)]
    Project(people::Project),
    /// Tokens for the API.
    #[command(subcommand)]
    Token(people::Token),
    /// What a project reserved and really used.
    #[command(subcommand)]
    Usage(usage::Usage),
    /// Compares every claim with what the hosts themselves say, and the ledgers of the tiers.
    Audit(audit::Audit),
    /// What changed.
    Events(events::Events),
    /// Who the token says you are.
    Whoami,
    /// Whether the server is up, and each of its parts ready.
    Health,
}

const PART: &[Column] = &[
    Column("PART", &["/part"], As::Text),
    Column("STATE", &["/state"], As::Text),
    Column("LAST PASS", &["/last_ms"], As::Time),
];

const WHOAMI: &[Column] = &[
    Column("SUBJECT", &["/subject"], As::Text),
    Column("ROLE", &["/role"], As::Text),
    Column("PROJECT", &["/project/name", "/owner"], As::Text),
];

/// Carries out a client command, and tells what came of it.
pub async fn run(global: Global, noun: Noun) -> ExitCode {
    let format = global.output;
    match carry_out(global, noun).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(format),
    }
}

async fn carry_out(global: Global, noun: Noun) -> Outcome {
    let session = Session::new(global)?;
    match noun {
        Noun::Region(verb) => place::region(&session, verb).await,
        Noun::Zone(verb) => place::zone(&session, verb).await,
        Noun::Rack(verb) => place::rack(&session, verb).await,
        Noun::Pool(verb) => pool::run(&session, verb).await,
        Noun::Host(verb) => host::run(&session, verb).await,
        Noun::Image(verb) => image::run(&session, verb).await,
        Noun::RContract(verb) => rcontract::run(&session, verb).await,
        Noun::Node(verb) => node::node(&session, verb).await,
        Noun::CContract(verb) => component::ccontract(&session, verb).await,
        Noun::Component(verb) => component::component(&session, verb).await,
        Noun::User(verb) => people::user(&session, verb).await,
        Noun::Project(verb) => people::project(&session, verb).await,
        Noun::Token(verb) => people::token(&session, verb).await,
        Noun::Usage(verb) => usage::run(&session, verb).await,
        Noun::Audit(ask) => audit::run(&session, ask).await,
        Noun::Events(ask) => events::run(&session, ask).await,
        Noun::Whoami => {
            let me = session.client.get(Tier::Projects, &["whoami"], &[]).await?;
            output::one(session.format, WHOAMI, &me)
        }
        Noun::Health => health(&session).await,
    }
}

/// The databases and the loops of a server as rows.
fn parts(document: &Value) -> Vec<Value> {
    let of = |key: &str| document.get(key).and_then(Value::as_object).into_iter().flatten();
    let databases = of("databases").map(|(name, said)| json!({"part": format!("database {name}"), "state": said}));
    let loops = of("loops").map(|(name, status)| {
        let error = status.get("error").and_then(Value::as_str).unwrap_or_default();
        let starting = status.get("reason").and_then(Value::as_str) == Some("starting");
        let state = match error {
            "" if starting => "starting",
            "" => "well",
            error => error,
        };
        json!({"part": format!("loop {name}"), "state": state, "last_ms": status.get("last_ms")})
    });
    databases.chain(loops).collect()
}

/// The server's own account of itself. Not ready is a failure, so that scripts can wait for it.
async fn health(session: &Session) -> Outcome {
    let (status, body) = session.client.open("/readyz").await?;
    let document = serde_json::from_str::<Value>(&body).unwrap_or(Value::String(body));
    match session.format {
        Format::Json | Format::Yaml => output::document(session.format, &document)?,
        Format::Table | Format::Csv => output::list(session.format, PART, &parts(&document))?,
    }
    if status.is_success() { Ok(()) } else { Err(Failure::Failed(format!("{} is not ready", session.server))) }
}

impl Session {
    fn new(global: Global) -> Outcome<Self> {
        let Global { server, token_file, output, timeout, idempotency_key } = global;
        // A variable that is set to nothing is as good as none.
        let token = match token_file.filter(|path| !path.is_empty()) {
            Some(path) => {
                let text = std::fs::read_to_string(&path)
                    .map_err(|error| Failure::Usage(format!("the token file {path}: {error}")))?;
                Some(Secret::from_text(text.trim()))
            }
            None => std::env::var("YIQIU_TOKEN").ok().filter(|text| !text.is_empty()).map(Secret::from_text),
        };
        Ok(Self { client: Client::new(&server, token, idempotency_key)?, server, format: output, timeout })
    }

    fn now_ms(&self) -> i64 {
        yiqiu_base::Clock::system().now()
    }
}
