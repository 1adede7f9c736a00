//! `host drain` and its like: hosts out of service and back.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::HOST;
use crate::cli::{
    Session,
    client::Tier,
    failure::{Failure, Outcome},
    output::{self, As, Column, Format},
    owned, time,
};

const LEFT: &[Column] = &[
    Column("NODE", &["/name"], As::Text),
    Column("OWNER", &["/project_name", "/owner"], As::Text),
    Column("RCONTRACT", &["/rcontract"], As::Text),
    Column("STATE", &["/state"], As::Text),
    Column("POWER", &["/power"], As::Text),
    Column("STOPPED", &["/stopped"], As::Text),
    Column("RELEASING", &["/removed"], As::Text),
    Column("SIZE", &["/size"], As::Size),
    Column("ID", &["/node_id"], As::Text),
];

/// `yiqiu host drain HOST`, and the verbs of a drain that is under way.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Drain {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Name or id of the host to drain.
    #[arg(required = true)]
    host: Option<String>,
    /// Why: holders are told.
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows what is left on a host, and whose; also of a host that is not drained yet.
    Status {
        /// Name or id.
        host: String,
    },
    /// Stops nodes of a host that is draining; they stay off there, with their claims.
    Stop {
        /// Name or id.
        host: String,
        /// Nodes, by id: all of them, or none.
        #[arg(required = true)]
        nodes: Vec<String>,
        /// Why: holders are told.
        #[arg(long, value_name = "TEXT", default_value = "")]
        why: String,
    },
}

/// Flags of the other verbs that say what is wished of a host.
#[derive(Debug, Args)]
pub struct Wish {
    /// Name or id.
    pub host: String,
    /// Why; it is shown at the host.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub why: String,
}

/// Wishes something of a host, and prints it. What ops should know goes to standard error.
pub(super) async fn wish(session: &Session, host: &str, wish: &str, why: &str) -> Outcome<Value> {
    let body = json!({"wish": wish, "why": why});
    let answer = session.client.put(HOST.tier, &[HOST.path, host, "wish"], &body).await?;
    for warning in answer["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        output::note(format_args!("warning: {warning}"));
    }
    Ok(answer)
}

/// Prints the host of an answer, or the whole of it as a document.
pub(super) fn wished(session: &Session, answer: &Value) -> Outcome {
    match session.format {
        Format::Json | Format::Yaml => output::document(session.format, answer),
        Format::Table | Format::Csv => HOST.show(session, &answer["host"]),
    }
}

/// Carries out `yiqiu host drain …`.
pub(super) async fn run(session: &Session, drain: Drain) -> Outcome {
    let Drain { verb, host, why } = drain;
    match verb {
        None => {
            let host = host.ok_or_else(|| Failure::Usage("which host?".into()))?;
            let answer = wish(session, &host, "draining", &why).await?;
            wished(session, &answer)?;
            if session.format == Format::Table {
                let left = nodes(&answer["host"]["nodes"]);
                output::note(format_args!("left: {left}; yiqiu host drain status {host} shows whose"));
            }
            Ok(())
        }
        Some(Verb::Status { host }) => status(session, &host).await,
        Some(Verb::Stop { host, nodes, why }) => {
            let body = json!({"nodes": nodes, "why": why});
            session.client.post(HOST.tier, &[HOST.path, &host, "drain", "stop"], &[], &body).await?;
            status(session, &host).await
        }
    }
}

async fn status(session: &Session, host: &str) -> Outcome {
    let path = [HOST.path, host, "drain"];
    let mut status = session.client.get(HOST.tier, &path, &[("limit", "1000")]).await?;
    let mut cursor = status["next"].as_str().map(str::to_owned);
    while let Some(after) = cursor {
        let mut more = session.client.get(HOST.tier, &path, &[("limit", "1000"), ("cursor", &after)]).await?;
        if let (Some(left), Value::Array(more)) = (status["left"].as_array_mut(), more["left"].take()) {
            left.extend(more);
        }
        cursor = more["next"].as_str().map(str::to_owned);
    }
    if let Some(status) = status.as_object_mut() {
        status.remove("next");
    }
    if matches!(session.format, Format::Json | Format::Yaml) {
        return output::document(session.format, &status);
    }
    if session.format == Format::Table {
        output::note(sentence(&status));
    }
    let mut left = status["left"].as_array().cloned().unwrap_or_default();
    let projects = session.client.all(Tier::Projects, &["projects"], &[]).await?;
    owned::name_owners(&mut left, &projects);
    output::list(session.format, LEFT, &left)
}

fn nodes(count: &Value) -> String {
    match count.as_i64().unwrap_or_default() {
        1 => "1 node".to_owned(),
        n => format!("{n} nodes"),
    }
}

/// `host h1 is draining; draining since 2026-11-21 …Z, by user:ops: new memory; left: 3 nodes, owners: 2`
fn sentence(status: &Value) -> String {
    let text = |key: &str| status[key].as_str().unwrap_or_default();
    let mut sentence = format!("host {} is {}", text("host"), text("state"));
    if let Some(since) = status["since_ms"].as_i64().filter(|since| *since > 0) {
        sentence += &format!("; {} since {}, by {}", text("wish").replace('_', " "), time::shown(since), text("by"));
    }
    if !text("why").is_empty() {
        sentence += &format!(": {}", text("why"));
    }
    let holders = status["holders"].as_array().map_or(0, Vec::len);
    sentence += &format!("; left: {}, owners: {holders}", nodes(&status["nodes"]));
    sentence.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        drain: Drain,
    }

    #[test]
    fn a_drain_and_its_verbs_read() {
        let read = |args: &[&str]| Cli::try_parse_from(["x"].iter().chain(args)).map(|cli| cli.drain);
        assert_eq!(read(&["h1", "--why", "new memory"]).unwrap().host.as_deref(), Some("h1"));
        assert!(matches!(read(&["status", "h1"]).unwrap().verb, Some(Verb::Status { host }) if host == "h1"));
        let stop = read(&["stop", "h1", "a", "b"]).unwrap().verb;
        assert!(matches!(stop, Some(Verb::Stop { nodes, .. }) if nodes == ["a", "b"]));
        assert!(read(&[]).is_err() && read(&["stop", "h1"]).is_err() && read(&["status"]).is_err());
    }

    #[test]
    fn a_drain_reads_as_a_sentence() {
        let status = json!({"host": "h1", "state": "unreachable", "wish": "draining", "since_ms": 0, "by": "user:ops",
            "why": "", "nodes": 3, "holders": [{}, {}]});
        assert_eq!(sentence(&status), "host h1 is unreachable; left: 3 nodes, owners: 2");
        let status = json!({"host": "h1", "state": "draining", "wish": "draining", "since_ms": 1, "by": "user:ops",
            "why": "new memory", "nodes": 1, "holders": [{}]});
        let expected = "host h1 is draining; draining since 1970-01-01 00:00:00.001Z, by user:ops: new memory; \
                        left: 1 node, owners: 1";
        assert_eq!(sentence(&status), expected);
    }
}
