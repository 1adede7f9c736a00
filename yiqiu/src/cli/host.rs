//! `host`: physical machines, and where they stand.

mod drain;
mod list;
mod update;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use yiqiu_base::size::{Dimension, parse_bytes, parse_thousandths};

use super::{
    Session,
    client::Tier,
    failure::{Failure, Outcome},
    noun::Noun,
    output::{self, As, Column, Format},
};

/// The collection of hosts.
pub const HOST: Noun = Noun {
    word: "host",
    tier: Tier::Resources,
    path: "hosts",
    columns: &[
        Column("NAME", &["/name"], As::Text),
        Column("STATE", &["/state"], As::Text),
        Column("TYPE", &["/node_type"], As::Text),
        Column("ZONE", &["/zone"], As::Text),
        Column("RACK", &["/rack"], As::Text),
        Column("UNIT", &["/unit"], As::Text),
        Column("POOL", &["/pool"], As::Text),
        Column("NODES", &["/nodes"], As::Text),
        Column("FREE", &["/free"], As::Size),
        Column("REFUSES", &["/refuses"], As::Text),
    ],
};

/// Verbs of `yiqiu host`.
#[derive(Debug, Subcommand)]
pub enum Host {
    /// Makes a host, and prints the one-time token with which its agent joins.
    Create(Create),
    /// Lists the hosts: all, or those that pass every filter.
    List(Box<list::List>),
    /// Shows one.
    Get {
        /// Name or id.
        host: String,
    },
    /// Says where a host stands and how it is cut.
    Place {
        /// Name or id.
        host: String,
        /// The rack, by name or id.
        #[arg(long)]
        rack: String,
        /// The unit of the rack.
        #[arg(long)]
        unit: u32,
        /// How it is cut: cm (containers), vm (virtual machines) or bm (whole).
        #[arg(long)]
        node_type: String,
    },
    /// Changes what is said of a host: how much of it may be rented out, its labels, its pool.
    Update(update::Update),
    /// Drains a host: it takes no new claims, and its holders are told. Nothing is moved or stopped by itself.
    Drain(drain::Drain),
    /// Puts a host back in service: takes a drain back, or ends a maintenance.
    #[command(visible_alias = "undrain")]
    Resume(drain::Wish),
    /// Takes a host that carries nothing out of service, so that somebody can work on it.
    Maintain(drain::Wish),
    /// Retires a host that carries nothing, for good: it leaves its rack, and its agent is refused.
    Retire(drain::Wish),
    /// Prints a new one-time token for a host whose agent has to join again.
    JoinToken {
        /// Name or id.
        host: String,
    },
    /// Deletes one that holds no node.
    Delete {
        /// Name or id.
        host: String,
    },
}

/// Flags of `yiqiu host create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Its name, unique.
    name: String,
    /// The rack, by name or id; can be said later by `host place`.
    #[arg(long, requires = "unit")]
    rack: Option<String>,
    /// The unit of the rack.
    #[arg(long, requires = "rack")]
    unit: Option<u32>,
    /// How it is cut: cm, vm or bm.
    #[arg(long)]
    node_type: Option<String>,
    /// Processors that it is taken to have at most, whatever the machine says.
    #[arg(long, value_name = "CORES", value_parser = parse_thousandths)]
    cpu: Option<i64>,
    /// Memory that it is taken to have at most.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memory: Option<i64>,
    /// Disk that it is taken to have at most.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    disk: Option<i64>,
    /// Disk operations a second that it is taken to do at most.
    #[arg(long, value_name = "N")]
    iops: Option<i64>,
}

impl Create {
    fn body(&self) -> Value {
        let mut body = json!({"name": self.name});
        if let (Some(rack), Some(unit)) = (&self.rack, self.unit) {
            body["rack"] = json!(rack);
            body["unit"] = json!(unit);
        }
        if let Some(node_type) = &self.node_type {
            body["node_type"] = json!(node_type);
        }
        let limit = [self.cpu, self.memory, self.disk, self.iops];
        for (dimension, amount) in Dimension::ALL.into_iter().zip(limit) {
            if let Some(amount) = amount {
                body["limit"][dimension.as_str()] = json!(amount);
            }
        }
        body
    }
}

/// Carries out `yiqiu host …`.
pub async fn run(session: &Session, verb: Host) -> Outcome {
    match verb {
        Host::Create(create) => {
            let made = session.client.post(HOST.tier, &[HOST.path], &[], &create.body()).await?;
            join_token(session, &made).await
        }
        Host::List(list) => list::run(session, *list).await,
        Host::Get { host } => HOST.get(session, &host).await,
        Host::Place { host, rack, unit, node_type } => {
            let body = json!({"rack": rack, "unit": unit, "node_type": node_type});
            let placed = session.client.put(HOST.tier, &[HOST.path, &host, "place"], &body).await?;
            HOST.show(session, &placed)
        }
        Host::Update(update) => {
            let body = update.body();
            let changed = session.client.patch(HOST.tier, &[HOST.path, update.host()], &body).await?;
            HOST.show(session, &changed)
        }
        Host::Drain(drain) => drain::run(session, drain).await,
        Host::Resume(drain::Wish { host, why }) => {
            drain::wished(session, &drain::wish(session, &host, "in_service", &why).await?)
        }
        Host::Maintain(drain::Wish { host, why }) => {
            drain::wished(session, &drain::wish(session, &host, "maintenance", &why).await?)
        }
        Host::Retire(drain::Wish { host, why }) => {
            drain::wished(session, &drain::wish(session, &host, "retired", &why).await?)
        }
        Host::JoinToken { host } => {
            let made = session.client.post(HOST.tier, &[HOST.path, &host, "join-token"], &[], &json!({})).await?;
            join_token(session, &made).await
        }
        Host::Delete { host } => HOST.delete(session, &host).await,
    }
}

/// Prints the token alone on standard output, so that it can be piped; what it is for goes to standard error.
async fn join_token(session: &Session, made: &Value) -> Outcome {
    if session.format != Format::Table {
        return output::document(session.format, made);
    }
    let token = made
        .get("join_token")
        .and_then(Value::as_str)
        .ok_or_else(|| Failure::Failed("the server made the host, but sent no join token".into()))?;
    output::note(format_args!(
        "the join token works once and is shown only now; on the machine: yiqiu-agent --server {} --token-file FILE",
        session.client.base(HOST.tier).await?.as_str().trim_end_matches('/')
    ));
    output::print(&format!("{token}\n"))
}
