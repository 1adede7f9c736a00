//! `node`: what runs on a host under a contract.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use yiqiu_base::{
    Id,
    id::{self, Command},
};

use super::{
    Session,
    client::Tier,
    failure::{Failure, Outcome},
    noun::Noun,
    output::{As, Column},
    owned::{self, InProject},
    rcontract,
    runtime::ms,
    stream,
    time::parse_span,
    wait::{self, Progress},
};

pub(super) const NODE: Noun = Noun {
    word: "node",
    tier: Tier::Resources,
    path: "nodes",
    columns: &[
        Column("NAME", &["/name"], As::Text),
        Column("HOST", &["/host"], As::Text),
        Column("POWER", &["/power"], As::Text),
        Column("STATE", &[""], As::StateOnHost),
        Column("HEALTH", &["/health"], As::Text),
        Column("SIZE", &["/spec/size"], As::Size),
        Column("PORTS", &["/ports"], As::Ports),
        Column("ID", &["/id"], As::Text),
        Column("DETAIL", &["/detail"], As::Text),
    ],
};

/// Verbs of `yiqiu node`.
#[derive(Debug, Subcommand)]
pub enum Node {
    /// Lists the nodes.
    List(InProject),
    /// Shows one.
    Get {
        /// Name or id.
        node: String,
        #[command(flatten)]
        within: InProject,
    },
    /// Starts a node.
    PowerOn(Power),
    /// Stops a node; its claim stays. It is asked to end, and killed after a while.
    PowerOff(Stop),
    /// Gives a node another size, running or not: its limits change without a restart.
    Resize(rcontract::Resize),
    /// Gives a node another name.
    Rename(rcontract::Rename),
    /// Stops a node if it runs, and starts it: once.
    Reboot(Stop),
    /// Shows what a node wrote to its standard output and error; with -o json a JSON object a line.
    Logs(stream::Logs),
    /// Runs a command in a node that runs. Ends with its exit code. Who ran what is in the events.
    Exec(stream::Exec),
}

/// Which node, and how long it may take to stop.
#[derive(Debug, Args)]
pub struct Stop {
    #[command(flatten)]
    power: Power,
    /// How long it may take to end before it is killed, 0s to 10m; as its contract says if not said.
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    grace: Option<Duration>,
}

/// Which node, and whether to wait.
#[derive(Debug, Args)]
pub struct Power {
    /// Name or id.
    name: String,
    #[command(flatten)]
    within: InProject,
    /// Wait until it is done.
    #[arg(long)]
    wait: bool,
}

/// Carries out `yiqiu node …`.
pub async fn node(session: &Session, verb: Node) -> Outcome {
    match verb {
        Node::List(within) => owned::list(session, &NODE, &[], &within).await,
        Node::Get { node, within } => NODE.get(session, &node_id(session, node, &within).await?).await,
        Node::PowerOn(power) => power_node(session, power, "power", json!({"power": "on"})).await,
        Node::PowerOff(Stop { power, grace }) => {
            power_node(session, power, "power", with_grace(json!({"power": "off"}), grace)).await
        }
        Node::Resize(asked) => rcontract::resize_node(session, asked).await,
        Node::Rename(asked) => rcontract::rename_node(session, asked).await,
        Node::Logs(ask) => {
            let id = node_id(session, ask.node.clone(), &ask.within).await?;
            stream::logs(session, &id, &ask).await
        }
        Node::Exec(ask) => {
            let id = node_id(session, ask.node.clone(), &ask.within).await?;
            stream::exec(session, &id, ask).await
        }
        Node::Reboot(Stop { power, grace }) => power_node(session, power, "reboot", with_grace(json!({}), grace)).await,
    }
}

fn with_grace(mut body: Value, grace: Option<Duration>) -> Value {
    if let Some(grace) = grace {
        body["grace_ms"] = json!(ms(grace));
    }
    body
}

async fn power_node(session: &Session, mut ask: Power, verb: &str, mut body: Value) -> Outcome {
    ask.name = node_id(session, ask.name, &ask.within).await?;
    ask.within = InProject::default();
    // Resources knows a repeated request by this, Components by the idempotency key.
    body["command_id"] = json!(Id::<Command>::new());
    wish(session, &NODE, ask, verb, body).await
}

/// The API knows nodes by id: names are unique in their contract only. A name that only one node has is as good.
pub(super) async fn node_id(session: &Session, name: String, within: &InProject) -> Outcome<String> {
    if name.parse::<Id<id::Node>>().is_ok() {
        return Ok(name);
    }
    let nodes = owned::all(session, &NODE, &[], within).await?;
    let named: Vec<&Value> = nodes.iter().filter(|node| text(node, "name") == name).collect();
    match named.as_slice() {
        [node] => id_of(node),
        [] => Err(Failure::Refused(json!({"code": "not_found", "detail": format!("there is no node `{name}`")}))),
        several => {
            let ids: Vec<&str> = several.iter().map(|node| text(node, "id")).collect();
            Err(Failure::Usage(format!("several nodes are called `{name}`: take one of the ids {}", ids.join(", "))))
        }
    }
}

/// Asks for a power state of a component; it answers in the same words as a node.
pub async fn set_power(session: &Session, noun: &Noun, ask: Power, power: &str) -> Outcome {
    wish(session, noun, ask, "power", json!({"power": power})).await
}

async fn wish(session: &Session, noun: &Noun, ask: Power, verb: &str, body: Value) -> Outcome {
    let name = owned::find(session, noun, ask.name.clone(), &ask.within).await?;
    let asked = session.client.post(noun.tier, &[noun.path, &name, verb], &[], &body).await?;
    if !ask.wait {
        return noun.show(session, &asked);
    }
    let id = id_of(&asked)?;
    let goal = if body["power"] == "off" { "off" } else { "running" };
    let done = wait::until(session.timeout, || async {
        let seen = noun.fetch(session, &id).await?;
        let state = text(&seen, "state");
        // Right after the request the state is still the one before it; a failure counts once it was carried out.
        let carried =
            match (seen.get("carried").and_then(Value::as_i64), seen.get("generation").and_then(Value::as_i64)) {
                (Some(carried), Some(generation)) => carried >= generation,
                _ => true,
            };
        Ok(match state {
            state if state == goal && carried => Progress::Arrived(seen),
            "failed" if carried => {
                Progress::Lost(format!("{} {} failed: {}", noun.word, ask.name, text(&seen, "detail")))
            }
            state => Progress::Underway(format!("{} {}: {state} {}", noun.word, ask.name, text(&seen, "detail"))),
        })
    })
    .await?;
    noun.show(session, &done)
}

/// Whether every part of a contract runs.
pub fn all_running(contract: Value, parts: &str) -> Progress<Value> {
    let name = text(&contract, "name").to_owned();
    if text(&contract, "state") == "released" {
        let why = contract.pointer("/refusal/detail").and_then(Value::as_str).unwrap_or(text(&contract, "detail"));
        return Progress::Lost(format!("{name} was released: {why}"));
    }
    let list = contract.get(parts).and_then(Value::as_array).cloned().unwrap_or_default();
    if let Some(failed) = list.iter().find(|part| text(part, "state") == "failed") {
        return Progress::Lost(format!("{} of {name} failed: {}", text(failed, "name"), text(failed, "detail")));
    }
    if !list.is_empty() && list.iter().all(|part| text(part, "state") == "running") {
        return Progress::Arrived(contract);
    }
    let parts: Vec<String> = list
        .iter()
        .map(|part| {
            format!("{} {} {}", text(part, "name"), text(part, "state"), text(part, "detail")).trim_end().to_owned()
        })
        .collect();
    Progress::Underway(format!("{name} {}: {}", text(&contract, "state"), parts.join(", ")))
}

/// Releases a contract, and waits until it holds nothing any more.
pub async fn released(session: &Session, noun: &Noun, name: &str, query: &[(&str, &str)]) -> Outcome {
    let id = &id_of(&noun.fetch(session, name).await?)?;
    session.client.delete(noun.tier, &[noun.path, id], query).await?;
    let done = wait::until(session.timeout, || async {
        match noun.fetch(session, id).await {
            Err(refusal) if refusal.code() == Some("not_found") => Ok(Progress::Arrived(Value::Null)),
            Err(failure) => Err(failure),
            Ok(contract) if text(&contract, "state") == "released" => Ok(Progress::Arrived(contract)),
            Ok(contract) => Ok(Progress::Underway(format!("{} {}", text(&contract, "name"), text(&contract, "state")))),
        }
    })
    .await?;
    if done.is_null() {
        super::output::note(format_args!("{} {name}: released", noun.word));
        return Ok(());
    }
    noun.show(session, &done)
}

/// The id of a thing that the API answered with.
pub fn id_of(value: &Value) -> Outcome<String> {
    let id = value.get("id").and_then(Value::as_str);
    id.map(str::to_owned).ok_or_else(|| Failure::Failed("the server's answer has no id".into()))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}
