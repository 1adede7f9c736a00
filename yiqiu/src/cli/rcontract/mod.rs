//! `rcontract`: contracts of exact resources on named hosts.

mod amend;

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use yiqiu_base::size::{parse_bytes, parse_thousandths};

use super::{
    Session,
    client::Tier,
    failure::{Failure, Outcome},
    node::{all_running, id_of, released},
    noun::Noun,
    output::{self, As, Column, Format},
    owned::{self, InProject},
    runtime::RuntimeArgs,
    time, wait,
    workload::{SizeArgs, WorkloadArgs, read_file},
};

pub use amend::{Rename, Resize, rename_node, resize_node};

const RCONTRACT: Noun = Noun {
    word: "rcontract",
    tier: Tier::Resources,
    path: "rcontracts",
    columns: &[
        Column("NAME", &["/name"], As::Text),
        Column("STATE", &["/state"], As::Text),
        Column("NODES", &["/lines", "/nodes"], As::Count),
        Column("CREATED", &["/created_ms"], As::Time),
        Column("STARTS", &["/starts_ms"], As::Time),
        Column("ENDS", &["/ends_ms"], As::Time),
        Column("ID", &["/id"], As::Text),
    ],
};

/// Why something is done.
#[derive(Debug, Args)]
pub struct Why {
    /// Why, for the history of the contract.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

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
    /// Changes it in place: lines come, go, and change size or name in one step.
    Amend(Box<amend::Amend>),
    /// Moves its end; in the grace after its end, its nodes are powered on again.
    #[command(group(clap::ArgGroup::new("end").required(true)))]
    Renew {
        /// Name or id.
        rcontract: String,
        #[command(flatten)]
        within: InProject,
        /// The new end, such as 2026-12-31, or +7d for so long from now.
        #[arg(long, value_name = "WHEN", group = "end")]
        ends: Option<String>,
        /// Without an end.
        #[arg(long, group = "end")]
        open: bool,
        #[command(flatten)]
        why: Why,
    },
    /// Shows every change of one: when, who, why and what.
    History {
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
        #[command(flatten)]
        why: Why,
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
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// Leave the node off.
    #[arg(long)]
    off: bool,
    /// Give back cpu and memory while it is off; powering it on can be refused then. With a file: `release_while_off`.
    #[arg(long, conflicts_with = "file")]
    release_while_off: bool,
    /// When its nodes start, such as 2026-12-24T18:00:00Z or +2h; its claims are held from now on.
    #[arg(long, value_name = "WHEN")]
    starts: Option<String>,
    /// When it ends and its nodes are switched off, such as 2026-12-31 or +7d; never if not said.
    #[arg(long, value_name = "WHEN")]
    ends: Option<String>,
    /// How long after its end it can be renewed, such as 12h.
    #[arg(long, value_name = "SPAN", value_parser = time::parse_span)]
    grace: Option<Duration>,
    #[command(flatten)]
    why: Why,
    /// Only say what would be claimed.
    #[arg(long)]
    dry_run: bool,
    /// Wait until every node runs.
    #[arg(long)]
    wait: bool,
}

impl CreateRContract {
    fn body(&self, now_ms: i64) -> Outcome<Value> {
        let mut body = self.lines()?;
        for (field, when) in [("starts_ms", &self.starts), ("ends_ms", &self.ends)] {
            if let Some(when) = when {
                body[field] = json!(point(when, now_ms)?);
            }
        }
        if let Some(grace) = self.grace {
            body["grace_ms"] = json!(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        }
        if let Some(reason) = &self.why.reason {
            body["reason"] = json!(reason);
        }
        Ok(body)
    }

    fn lines(&self) -> Outcome<Value> {
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
        if self.release_while_off {
            line["release_while_off"] = json!(true);
        }
        if let Some(image) = &self.image {
            line["image"] = json!(image);
        }
        self.workload.add_to(&mut line);
        self.runtime.add_to(&mut line);
        Ok(json!({"name": self.name, "lines": [line]}))
    }
}

/// Carries out `yiqiu rcontract …`.
pub async fn run(session: &Session, verb: RContract) -> Outcome {
    match verb {
        RContract::Create(asked) => create(session, *asked).await,
        RContract::List(within) => owned::list(session, &RCONTRACT, &[], &within).await,
        RContract::Get { rcontract, within } => {
            let rcontract = owned::find(session, &RCONTRACT, rcontract, &within).await?;
            amend::show_whole(session, &RCONTRACT.fetch(session, &rcontract).await?)
        }
        RContract::Amend(asked) => amend::amend(session, *asked).await,
        RContract::Renew { rcontract, within, ends, open: _, why } => {
            let rcontract = owned::find(session, &RCONTRACT, rcontract, &within).await?;
            let ends = ends.map(|ends| point(&ends, session.now_ms())).transpose()?;
            let body = json!({"ends_ms": ends, "reason": why.reason.unwrap_or_default()});
            let path = [RCONTRACT.path, &rcontract, "renew"];
            let renewed = session.client.post(RCONTRACT.tier, &path, &[], &body).await?;
            RCONTRACT.show(session, &renewed)
        }
        RContract::History { rcontract, within } => {
            let rcontract = owned::find(session, &RCONTRACT, rcontract, &within).await?;
            let path = [RCONTRACT.path, &rcontract, "history"];
            history(session, session.client.all(RCONTRACT.tier, &path, &[]).await?)
        }
        RContract::Delete { rcontract, within, why, wait } => {
            let rcontract = owned::find(session, &RCONTRACT, rcontract, &within).await?;
            let reason = why.reason.unwrap_or_default();
            let query: &[(&str, &str)] = if reason.is_empty() { &[] } else { &[("reason", &reason)] };
            if wait {
                released(session, &RCONTRACT, &rcontract, query).await
            } else {
                let answer = session.client.delete(RCONTRACT.tier, &[RCONTRACT.path, &rcontract], query).await?;
                RCONTRACT.show(session, &answer)
            }
        }
    }
}

async fn create(session: &Session, asked: CreateRContract) -> Outcome {
    let query: &[(&str, &str)] = if asked.dry_run { &[("dry_run", "true")] } else { &[] };
    let body = asked.body(session.now_ms())?;
    let made = session.client.post(RCONTRACT.tier, &[RCONTRACT.path], query, &body).await?;
    if asked.dry_run {
        return show_forecast(session, &made);
    }
    if made["state"] == "scheduled" {
        let starts = output::shown(As::Time, &made["starts_ms"]);
        output::note(format_args!("held from now on; its nodes start at {starts}"));
    }
    if !asked.wait {
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

const FORECAST: &[Column] = &[
    Column("HOST", &["/host"], As::Text),
    Column("NODES", &["/nodes"], As::Text),
    Column("ASKED", &["/asked"], As::Size),
    Column("OVERHEAD", &["/overhead"], As::Size),
    Column("FREE BEFORE", &["/free_before"], As::Size),
    Column("FREE AFTER", &["/free_after"], As::Size),
    Column("RETURNS LATER", &["/returns"], As::Size),
];

/// What would be claimed where.
fn show_forecast(session: &Session, forecast: &Value) -> Outcome {
    output::list(session.format, FORECAST, forecast["hosts"].as_array().map_or(&[], Vec::as_slice))?;
    if session.format == Format::Table {
        output::note("nothing was claimed");
    }
    Ok(())
}

fn point(text: &str, now_ms: i64) -> Outcome<i64> {
    time::parse_point(text, now_ms).map_err(Failure::Usage)
}

const CHANGE: &[Column] = &[
    Column("GENERATION", &["/generation"], As::Text),
    Column("WHEN", &["/at_ms"], As::Time),
    Column("WHO", &["/who"], As::Text),
    Column("WHAT", &["/what"], As::Text),
    Column("WHY", &["/reason"], As::Text),
];

fn history(session: &Session, mut changes: Vec<Value>) -> Outcome {
    if matches!(session.format, Format::Table | Format::Csv) {
        for change in &mut changes {
            change["what"] = json!(in_words(change));
        }
    }
    output::list(session.format, CHANGE, &changes)
}

/// A change as a person tells it.
fn in_words(change: &Value) -> String {
    let kind = change["kind"].as_str().unwrap_or_default();
    let time = |key: &str| match &change[key] {
        Value::Null => "no end".to_owned(),
        at => output::shown(As::Time, at),
    };
    let nodes = || match change["nodes"].as_i64().unwrap_or_default() {
        0 => String::new(),
        1 => ", 1 node".to_owned(),
        n => format!(", {n} nodes"),
    };
    match kind {
        "created" => {
            let lines = change["lines"].as_array().into_iter().flatten();
            let lines: Vec<String> = lines.map(line).collect();
            format!("created: {}", lines.join("; "))
        }
        "started" => format!("started{}", nodes()),
        "renewed" => format!("renewed: {} instead of {}{}", time("to_ms"), time("from_ms"), nodes()),
        "ending" => format!("ended{}; released at {} unless renewed", nodes(), time("release_ms")),
        "amended" => amended(change),
        kind => kind.to_owned(),
    }
}

fn amended(change: &Value) -> String {
    let list = |key: &str| change[key].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let size = |value: &Value| output::shown(As::Size, value);
    let mut words = Vec::new();
    if let Value::Object(_) = &change["name"] {
        words.push(format!("renamed to {}", text(&change["name"]["to"])));
    }
    words.extend(list("added").iter().map(|l| format!("+ {}", line(l))));
    words.extend(list("removed").iter().map(|l| format!("- {}", line(l))));
    let resized = list("resized");
    words.extend(
        resized.iter().map(|l| format!("{}: {} instead of {}", text(&l["line"]), size(&l["to"]), size(&l["from"]))),
    );
    let renamed = list("renamed");
    words.extend(renamed.iter().map(|l| format!("{} is now {}", text(&l["from"]), text(&l["to"]))));
    format!("amended: {}", words.join("; "))
}

fn line(line: &Value) -> String {
    let text = |key: &str| line[key].as_str().unwrap_or_default();
    format!("{} on {} ({})", text("name"), text("host"), output::shown(As::Size, &line["size"]))
}
