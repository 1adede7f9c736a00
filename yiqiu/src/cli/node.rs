//! `rcontract` and `node`: exact resources on named hosts, and what runs there.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use yiqiu_base::{
    Id,
    id::{self, Command},
    size::{parse_bytes, parse_thousandths},
};

use super::{
    Session,
    client::Tier,
    failure::{Failure, Outcome},
    noun::Noun,
    output::{As, Column},
    owned::{self, InProject},
    wait::{self, Progress},
    workload::{SizeArgs, WorkloadArgs, read_file},
};

const RCONTRACT: Noun = Noun {
    word: "rcontract",
    tier: Tier::Resources,
    path: "rcontracts",
    columns: &[
        Column("NAME", &["/name"], As::Text),
        Column("STATE", &["/state"], As::Text),
        Column("NODES", &["/lines", "/nodes"], As::Count),
        Column("CREATED", &["/created_ms"], As::Time),
        Column("ID", &["/id"], As::Text),
    ],
};

const NODE: Noun = Noun {
    word: "node",
    tier: Tier::Resources,
    path: "nodes",
    columns: &[
        Column("NAME", &["/name"], As::Text),
        Column("HOST", &["/host"], As::Text),
        Column("POWER", &["/power"], As::Text),
        Column("STATE", &[""], As::StateOnHost),
        Column("SIZE", &["/spec/size"], As::Size),
        Column("PORTS", &["/ports"], As::Ports),
        Column("ID", &["/id"], As::Text),
        Column("DETAIL", &["/detail"], As::Text),
    ],
};

/// Verbs of `yiqiu rcontract`.
#[derive(Debug, Subcommand)]
pub enum RContract {
    /// Claims a node of a given size on a given host, or what a file says: all of it, or nothing.
    Create(Box<CreateRContract>),
    /// Lists the contracts.
    List(InProject),
    /// Shows one.
    Get {
        /// Name or id.
        rcontract: String,
        #[command(flatten)]
        within: InProject,
    },
    /// Releases one: its nodes are stopped and removed.
    Delete {
        /// Name or id.
        rcontract: String,
        #[command(flatten)]
        within: InProject,
        /// Wait until it is released.
        #[arg(long)]
        wait: bool,
    },
}

/// Flags of `yiqiu rcontract create`.
#[derive(Debug, Args)]
pub struct CreateRContract {
    /// Its name.
    name: String,
    /// A JSON or YAML file with `lines`, for more than one node; `-` reads standard input.
    #[arg(long, conflicts_with_all = ["host", "cpu", "memory"])]
    file: Option<String>,
    /// The host, by name or id.
    #[arg(long, required_unless_present = "file")]
    host: Option<String>,
    /// Processors, such as 0.5; without a size the whole of a host that is cut as bm.
    #[arg(long, value_name = "CORES", value_parser = parse_thousandths, requires = "memory", allow_hyphen_values = true)]
    cpu: Option<i64>,
    /// Memory, such as 512MiB.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, requires = "cpu", allow_hyphen_values = true)]
    memory: Option<i64>,
    /// Disk, such as 10GiB.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "0", allow_hyphen_values = true)]
    disk: i64,
    /// Disk operations a second.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..), allow_negative_numbers = true)]
    iops: i64,
    /// The image that it starts from, by name or id; a host that is cut as bm needs none.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    #[command(flatten)]
    workload: WorkloadArgs,
    /// Leave the node off.
    #[arg(long)]
    off: bool,
    /// Only say what would be claimed.
    #[arg(long)]
    dry_run: bool,
    /// Wait until every node runs.
    #[arg(long)]
    wait: bool,
}

impl CreateRContract {
    fn body(&self) -> Outcome<Value> {
        if let Some(file) = &self.file {
            let mut body = read_file(file)?;
            let object = body
                .as_object_mut()
                .ok_or_else(|| Failure::Usage(format!("{file}: expected an object with `lines`")))?;
            object.insert("name".into(), json!(self.name));
            return Ok(body);
        }
        let mut line = json!({"name": self.name, "host": self.host});
        if let (Some(cpu), Some(memory)) = (self.cpu, self.memory) {
            line["size"] = SizeArgs { cpu, memory, disk: self.disk, iops: self.iops }.json();
        }
        line["power"] = json!(if self.off { "off" } else { "on" });
        if let Some(image) = &self.image {
            line["image"] = json!(image);
        }
        self.workload.add_to(&mut line);
        Ok(json!({"name": self.name, "lines": [line]}))
    }
}

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
    /// Stops a node; its claim stays.
    PowerOff(Power),
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

/// Carries out `yiqiu rcontract …`.
pub async fn rcontract(session: &Session, verb: RContract) -> Outcome {
    match verb {
        RContract::Create(create) => {
            let query: &[(&str, &str)] = if create.dry_run { &[("dry_run", "true")] } else { &[] };
            let body = create.body()?;
            let made = session.client.post(RCONTRACT.tier, &[RCONTRACT.path], query, &body).await?;
            if create.dry_run && made.is_null() {
                super::output::note("it would be claimed");
                return Ok(());
            }
            if create.dry_run || !create.wait {
                return RCONTRACT.show(session, &made);
            }
            let id = id_of(&made)?;
            let done = wait::until(session.timeout, || async {
                let contract = RCONTRACT.fetch(session, &id).await?;
                Ok(all_running(contract, "nodes"))
            })
            .await?;
            RCONTRACT.show(session, &done)
        }
        RContract::List(within) => owned::list(session, &RCONTRACT, &[], &within).await,
        RContract::Get { rcontract, within } => {
            RCONTRACT.get(session, &owned::find(session, &RCONTRACT, rcontract, &within).await?).await
        }
        RContract::Delete { rcontract, within, wait } => {
            let rcontract = owned::find(session, &RCONTRACT, rcontract, &within).await?;
            if wait {
                released(session, &RCONTRACT, &rcontract).await
            } else {
                RCONTRACT.delete(session, &rcontract).await
            }
        }
    }
}

/// Carries out `yiqiu node …`.
pub async fn node(session: &Session, verb: Node) -> Outcome {
    match verb {
        Node::List(within) => owned::list(session, &NODE, &[], &within).await,
        Node::Get { node, within } => NODE.get(session, &node_id(session, node, &within).await?).await,
        Node::PowerOn(power) => power_node(session, power, "on").await,
        Node::PowerOff(power) => power_node(session, power, "off").await,
    }
}

async fn power_node(session: &Session, mut ask: Power, power: &str) -> Outcome {
    ask.name = node_id(session, ask.name, &ask.within).await?;
    ask.within = InProject::default();
    set_power(session, &NODE, ask, power).await
}

/// The API knows nodes by id: names are unique in their contract only. A name that only one node has is as good.
async fn node_id(session: &Session, name: String, within: &InProject) -> Outcome<String> {
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

/// Asks for a power state, of a node or of a component; both answer in the same words.
pub async fn set_power(session: &Session, noun: &Noun, ask: Power, power: &str) -> Outcome {
    let mut body = json!({"power": power});
    if noun.path == NODE.path {
        // Resources knows a repeated request by this, Components by the idempotency key.
        body["command_id"] = json!(Id::<Command>::new());
    }
    let name = owned::find(session, noun, ask.name.clone(), &ask.within).await?;
    let asked = session.client.post(noun.tier, &[noun.path, &name, "power"], &[], &body).await?;
    if !ask.wait {
        return noun.show(session, &asked);
    }
    let id = id_of(&asked)?;
    let goal = if power == "on" { "running" } else { "off" };
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
            state if state == goal => Progress::Arrived(seen),
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
pub async fn released(session: &Session, noun: &Noun, name: &str) -> Outcome {
    let id = &id_of(&noun.fetch(session, name).await?)?;
    session.client.delete(noun.tier, &[noun.path, id]).await?;
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
