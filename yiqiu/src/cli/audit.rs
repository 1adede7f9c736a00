//! `audit`: what is claimed beside what is there, and the ledgers of the tiers beside each other.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    Session,
    client::Tier,
    failure::{Failure, Outcome},
    output::{self, As, Column, Format},
    owned,
};

const FINDING: &[Column] = &[
    Column("FINDING", &["/id"], As::Text),
    Column("KIND", &["/kind"], As::Text),
    Column("TIER", &["/tier"], As::Text),
    Column("HOST", &["/host_name"], As::Text),
    Column("PROJECT", &["/project_name"], As::Text),
    Column("WHAT", &["/detail"], As::Text),
    Column("SETTLED", &["/settled"], As::Text),
];

const HOST: &[Column] = &[
    Column("HOST", &["/host_name"], As::Text),
    Column("MATCHED", &["/matched"], As::Text),
    Column("FINDINGS", &["/findings"], As::Text),
    Column("OVERHEAD MODEL", &["/overhead_model"], As::Size),
    Column("MEASURED", &["/overhead_measured"], As::Size),
    Column("ANSWERED", &["/at_ms"], As::Time),
];

/// Flags of `yiqiu audit`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Audit {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Only this host, by name or id.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Show the newest audit of every host that ended, instead of a new one.
    #[arg(long, conflicts_with = "host")]
    latest: bool,
}

/// Verbs of `yiqiu audit`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Makes an orphan the node that it says it is: one that is claimed there and of which nothing else is there.
    Adopt(Orphan),
    /// Takes an orphan away from its host, and verifies that it is gone. What is in it is lost.
    Remove(Orphan),
    /// The audits that are kept, newest first.
    List,
}

/// Which orphan.
#[derive(Debug, Args)]
pub struct Orphan {
    /// The finding, as `yiqiu audit` shows it.
    finding: String,
    /// Why; kept in the event.
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
}

const LISTED: &[Column] = &[
    Column("AUDIT", &["/id"], As::Text),
    Column("STATE", &["/state"], As::Text),
    Column("BEGAN", &["/started_ms"], As::Time),
    Column("ASKED BY", &["/asked_by"], As::Text),
    Column("HOST", &["/host"], As::Text),
    Column("HOSTS", &["/hosts"], As::Text),
    Column("UNKNOWN", &["/unknown"], As::Text),
    Column("MATCHED", &["/matched"], As::Text),
    Column("GHOSTS", &["/ghosts"], As::Text),
    Column("ORPHANS", &["/orphans"], As::Text),
    Column("OVER", &["/over"], As::Text),
    Column("LEDGER", &["/ledger"], As::Text),
];

/// How often a running audit is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Carries out `yiqiu audit …`.
pub async fn run(session: &Session, ask: Audit) -> Outcome {
    let Audit { verb, host, latest } = ask;
    match verb {
        Some(Verb::Adopt(orphan)) => settle(session, "adopt", &orphan).await,
        Some(Verb::Remove(orphan)) => settle(session, "remove", &orphan).await,
        Some(Verb::List) => {
            let audits = session.client.all(Tier::Resources, &["audits"], &[]).await?;
            output::list(session.format, LISTED, &audits)
        }
        None => audit(session, host, latest).await,
    }
}

async fn settle(session: &Session, how: &str, orphan: &Orphan) -> Outcome {
    let path = ["findings", &orphan.finding, "settle"];
    let body = json!({ "settle": how, "why": orphan.why });
    let finding = session.client.post(Tier::Resources, &path, &[], &body).await?;
    output::one(session.format, FINDING, &finding)
}

/// One that ended, with all of its findings and hosts. Fails where it is not clean, so that scripts can rely on it.
async fn audit(session: &Session, host: Option<String>, latest: bool) -> Outcome {
    let id = if latest {
        "latest".to_owned()
    } else {
        let begun = session.client.post(Tier::Resources, &["audits"], &[], &json!({ "host": host })).await?;
        super::node::id_of(&begun)?
    };
    let mut audit = ended(session, &id).await?;
    let id = super::node::id_of(&audit)?;
    let mut findings = Vec::new();
    let mut page = audit["findings"].take();
    loop {
        if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
            findings.extend(more);
        }
        let Some(next) = page["next"].as_str().map(str::to_owned) else { break };
        page = session.client.get(Tier::Resources, &["audits", &id], &[("cursor", &next)]).await?["findings"].take();
    }
    let hosts = session.client.all(Tier::Resources, &["audits", &id, "hosts"], &[]).await?;
    findings.iter_mut().for_each(|finding| finding["tier"] = json!(Tier::Resources.as_str()));
    // Of one host nobody's ledger is a part.
    let ledgers = if audit["host"] == "" { ledgers(session, latest).await } else { Vec::new() };
    for ledger in &ledgers {
        findings.extend(ledger["findings"].as_array().into_iter().flatten().cloned());
    }
    let clean = audit["clean"] == true && ledgers.iter().all(|ledger| ledger["clean"] == true);
    let told = summary(&audit, &ledgers);
    match session.format {
        Format::Json | Format::Yaml => {
            audit["findings"] = Value::Array(findings);
            audit["host_list"] = Value::Array(hosts);
            audit["ledgers"] = Value::Array(ledgers);
            audit["clean"] = json!(clean);
            output::document(session.format, &audit)?;
        }
        Format::Csv => output::list(session.format, FINDING, &findings)?,
        Format::Table => {
            if !findings.is_empty() {
                let projects = session.client.all(Tier::Projects, &["projects"], &[]).await.unwrap_or_default();
                owned::name_owners(&mut findings, &projects);
                output::list(session.format, FINDING, &findings)?;
                output::print("\n")?;
            }
            output::list(session.format, HOST, &hosts)?;
            output::print(&format!("\n{told}\n"))?;
        }
    }
    if clean { Ok(()) } else { Err(Failure::Failed(format!("the audit is not clean: {told}"))) }
}

/// What each tier says of its ledger: of the newest comparison, or of one that is made now. A tier that does not answer
/// hides nothing of what the hosts say.
async fn ledgers(session: &Session, latest: bool) -> Vec<Value> {
    let mut ledgers = Vec::new();
    for tier in [Tier::Components, Tier::Projects] {
        let path = ["ledgers", tier.as_str()];
        let answer = if latest {
            session.client.get(tier, &path, &[]).await
        } else {
            session.client.post(tier, &path, &[], &json!({})).await
        };
        ledgers.push(answer.unwrap_or_else(
            |failure| json!({"tier": tier.as_str(), "clean": false, "unknown": failure.detail(), "findings": []}),
        ));
    }
    ledgers
}

async fn ended(session: &Session, id: &str) -> Outcome<Value> {
    let deadline = Instant::now() + session.timeout;
    loop {
        let audit = session.client.get(Tier::Resources, &["audits", id], &[]).await?;
        if audit["state"] != "running" {
            return Ok(audit);
        }
        if Instant::now() > deadline {
            let done = format!("{} of {} hosts were asked", audit["done"], audit["hosts"]);
            return Err(Failure::TimedOut(format!("audit {id} still runs: {done}")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// `3 hosts, 1 unknown: 12 matched, 1 ghost, 0 orphans, 2 over`.
fn summary(audit: &Value, ledgers: &[Value]) -> String {
    let number = |key: &str| audit[key].as_i64().unwrap_or_default();
    let counted = |key: &str, noun: &str| {
        let n = number(key);
        format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
    };
    let mut told = format!(
        "{}: {} matched, {}, {}, {} over",
        counted("hosts", "host"),
        number("matched"),
        counted("ghosts", "ghost"),
        counted("orphans", "orphan"),
        number("over"),
    );
    if number("unknown") > 0 {
        told += &format!(", {} unknown", counted("unknown", "host"));
    }
    if number("ledger") > 0 {
        told += &format!(", {} of the books", counted("ledger", "fault"));
    }
    for ledger in ledgers {
        let tier = ledger["tier"].as_str().unwrap_or_default();
        let differ = ledger["findings"].as_array().map_or(0, Vec::len);
        if differ > 0 {
            let s = if differ == 1 { "" } else { "s" };
            told += &format!(", {differ} difference{s} in the ledger of {tier}");
        }
        let unknown = ledger["unknown"].as_str().unwrap_or_default();
        if !unknown.is_empty() {
            told += &format!("; the ledger of {tier} was not compared: {unknown}");
        }
    }
    if audit["state"] == "interrupted" {
        told += "; it was interrupted, so this is not all";
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_what_is_amiss() {
        let audit = json!({"hosts": 3, "unknown": 1, "matched": 12, "ghosts": 1, "orphans": 0, "over": 2, "ledger": 0});
        let told = "3 hosts: 12 matched, 1 ghost, 0 orphans, 2 over, 1 host unknown";
        let well = json!({"tier": "components", "unknown": "", "findings": []});
        assert_eq!(summary(&audit, &[well]), told);
        let ledgers = [
            json!({"tier": "components", "unknown": "", "findings": [{}, {}]}),
            json!({"tier": "projects", "unknown": "it sleeps", "findings": []}),
        ];
        let more = ", 2 differences in the ledger of components; the ledger of projects was not compared: it sleeps";
        assert_eq!(summary(&audit, &ledgers), format!("{told}{more}"));
    }
}
