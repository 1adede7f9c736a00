//! One event as one line: when, which tier, what, whose, and a sentence.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use yiqiu_base::size::Size;

use crate::cli::{Session, client::Tier, owned, time};

/// Writes lines. It remembers what it told of each thing, to say from what state it came.
pub(super) struct Teller {
    /// Names of projects by owner label.
    names: BTreeMap<String, String>,
    colours: bool,
    /// State, and what else was told, by the id of the thing.
    last: HashMap<String, Last>,
}

#[derive(Default)]
struct Last {
    state: String,
    power: String,
    hold: String,
}

impl Teller {
    pub(super) fn new(names: BTreeMap<String, String>, colours: bool) -> Self {
        Self { names, colours, last: HashMap::new() }
    }

    /// Looks up the name of a project that came later than this command.
    pub(super) async fn learn(&mut self, session: &Session, event: &Value) {
        let owner = event["owner"].as_str().unwrap_or_default();
        let Some(id) = owner.strip_prefix(owned::LABEL).filter(|_| !self.names.contains_key(owner)) else { return };
        let project = session.client.get(Tier::Projects, &["projects", id], &[]).await;
        let name = project.ok().and_then(|p| Some(p["name"].as_str()?.to_owned())).unwrap_or_else(|| owner.to_owned());
        self.names.insert(owner.to_owned(), name);
    }

    /// `2026-11-21 13:14:15.250Z  resources   node.changed    shop    node web-1 on host h1: starting -> running`
    pub(super) fn line(&mut self, tier: Tier, event: &Value) -> String {
        let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default();
        let at = event.get("at_ms").and_then(Value::as_i64).map(time::shown).unwrap_or_default();
        let owner = text("owner");
        let whose = match self.names.get(owner) {
            Some(name) => name.clone(),
            None if owner.is_empty() => "-".to_owned(),
            None => owner.to_owned(),
        };
        let (sentence, mood) = self.sentence(text("kind"), text("subject"), &event["payload"]);
        let (kind, tier) = (clean(text("kind")), tier.as_str());
        let (whose, sentence) = (clean(&whose), clean(&sentence));
        if !self.colours {
            return format!("{at}  {tier:<10}  {kind:<19}  {whose:<12}  {sentence}").trim_end().to_owned();
        }
        let colour = match mood {
            Mood::Good => "32",
            Mood::Bad => "31",
            Mood::Underway => "33",
            Mood::Plain => "0",
        };
        format!(
            "\x1b[2m{at}  {tier:<10}\x1b[0m  \x1b[36m{kind:<19}\x1b[0m  {whose:<12}  \x1b[{colour}m{sentence}\x1b[0m"
        )
    }

    /// What happened, as a person would say it.
    fn sentence(&mut self, kind: &str, subject: &str, payload: &Value) -> (String, Mood) {
        let field = |key: &str| payload.get(key).and_then(Value::as_str).unwrap_or_default();
        let count = |key: &str| payload.get(key).and_then(Value::as_array).map_or(0, Vec::len);
        let (noun, what) = kind.split_once('.').unwrap_or((kind, ""));
        let name = name_in(payload).unwrap_or(subject);
        match (noun, what) {
            ("node", "changed") => {
                self.change(subject, &format!("node {name} on host {}", field("host_name")), payload)
            }
            ("node", "exec") => {
                let (host, by, command) = (field("host_name"), field("by"), field("command"));
                (format!("node {name} on host {host}: {by} runs `{command}` in it"), Mood::Plain)
            }
            ("host" | "component", "changed") => self.change(subject, &format!("{noun} {name}"), payload),
            ("rcontract" | "ccontract", _) => {
                let lines = payload.get("lines").and_then(Value::as_i64).filter(|_| what == "created");
                let lines = lines.map(|n| format!(" with {}", counted(n, "line"))).unwrap_or_default();
                let state = Some(field("state")).filter(|state| *state != what && !state.is_empty());
                let state = state.map(|state| format!(", {state}")).unwrap_or_default();
                (format!("{noun} {name}: {what}{lines}{state}"), mood(field("state")))
            }
            ("segment", "opened") => {
                let size = serde_json::from_value::<Size>(payload["size"].clone()).map(|size| format!(" at {size}"));
                let size = size.unwrap_or_default();
                (format!("node {} is metered as {}{size}", field("node_name"), field("power")), Mood::Plain)
            }
            ("segment", "closed") => {
                let length = payload["to_ms"].as_i64().zip(payload["from_ms"].as_i64()).map(|(to, from)| to - from);
                (format!("line {subject} was metered so for {}", time::span(length.unwrap_or_default())), Mood::Plain)
            }
            ("line", "draining" | "undrained" | "stopped") => {
                let (node, host) = (field("name"), field("host_name"));
                let told = match what {
                    "draining" => format!("node {node} has to leave host {host}, which is draining"),
                    "undrained" => format!("node {node} may stay on host {host}, which is not draining any more"),
                    _ => format!("node {node} was stopped by ops, as host {host} is draining"),
                };
                let why = if field("detail").is_empty() { String::new() } else { format!(": {}", field("detail")) };
                (told + &why, if what == "undrained" { Mood::Plain } else { Mood::Underway })
            }
            ("usage", "recorded") => {
                let measured = i64::try_from(count("deltas")).unwrap_or(i64::MAX);
                (format!("{} measured on host {subject}", counted(measured, "node")), Mood::Plain)
            }
            ("component", "bound") => {
                let sentence =
                    format!("component {name} is line {} of rcontract {}", field("line_id"), field("rcontract_id"));
                (sentence, Mood::Plain)
            }
            ("component", "unbound") => {
                (format!("component {subject} has let go of line {}", field("line_id")), Mood::Plain)
            }
            ("audit", "finished") => {
                let counts = ["ghosts", "orphans", "over", "unknown", "ledger"].map(|key| (key, payload[key].as_i64()));
                let amiss = counts.iter().filter_map(|(key, n)| n.filter(|n| *n > 0).map(|n| format!("{n} {key}")));
                let amiss = amiss.collect::<Vec<_>>().join(", ");
                let of =
                    Some(field("host_name")).filter(|host| !host.is_empty()).map(|host| format!(" of host {host}"));
                let matched = payload["matched"].as_i64().unwrap_or_default();
                let told = if amiss.is_empty() { "clean".to_owned() } else { amiss };
                let of = of.unwrap_or_default();
                (format!("audit{of}: {told}; {matched} matched"), mood(field("state")))
            }
            ("orphan", _) => {
                let mut sentence = format!("orphan {name} on host {}: {what}", field("host_name"));
                for (key, before) in [("node_id", " as node "), ("by", " by "), ("why", ", because "), ("detail", ": ")]
                {
                    if !field(key).is_empty() {
                        sentence += &format!("{before}{}", field(key));
                    }
                }
                (sentence, mood(if what == "refused" { "failed" } else { what }))
            }
            ("member", _) => {
                let to = if what == "added" { "added as" } else { "removed, was" };
                (format!("user {} {to} {}", field("user_name"), field("role")), Mood::Plain)
            }
            ("token", _) => {
                (format!("token {name} of user {} {what} ({})", field("user_name"), field("role")), Mood::Plain)
            }
            _ => {
                let detail = Some(field("detail")).filter(|detail| !detail.is_empty());
                let detail = detail.map(|detail| format!(": {detail}")).unwrap_or_default();
                (format!("{noun} {name} {what}{detail}"), mood(what))
            }
        }
    }

    /// `node web-1 on host h1: starting -> running`.
    fn change(&mut self, subject: &str, what: &str, payload: &Value) -> (String, Mood) {
        let field = |key: &str| payload.get(key).and_then(Value::as_str).unwrap_or_default();
        let (state, power, detail, hold) = (field("state"), field("power"), field("detail"), field("hold"));
        let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
        let last = self.last.entry(subject.to_owned()).or_default();
        let known = !last.state.is_empty();
        let told = match (last.state == state, last.power == power) {
            (false, _) if known => format!("{} -> {state}", last.state),
            (true, false) if !last.power.is_empty() => format!("{state}, power {power} is wished"),
            _ => state.to_owned(),
        };
        let told = match (last.hold.as_str(), hold) {
            ("parked", "parked") | (_, "") => told,
            (_, "parked") => format!("{told}; its cpu and memory are released"),
            ("parked", _) => format!("{told}; its cpu and memory are claimed again"),
            (_, _) => told,
        };
        (last.state, last.power, last.hold) = (state.to_owned(), power.to_owned(), hold.to_owned());
        if state == "gone" {
            self.last.remove(subject);
        }
        (format!("{what}: {told}{detail}"), mood(state))
    }
}

/// How a line is coloured.
enum Mood {
    Good,
    Bad,
    Underway,
    Plain,
}

fn mood(state: &str) -> Mood {
    match state {
        "running" | "online" | "placed" | "ready" | "active" | "clean" => Mood::Good,
        "failed" | "unreachable" | "unclean" => Mood::Bad,
        "pending" | "preparing" | "starting" | "stopping" | "removing" | "releasing" | "placing" | "joining"
        | "draining" => Mood::Underway,
        _ => Mood::Plain,
    }
}

/// What people call the thing that an event is about.
pub(super) fn name(event: &Value) -> Option<&str> {
    name_in(event.get("payload")?)
}

fn name_in(payload: &Value) -> Option<&str> {
    let field = |key: &&str| payload.get(*key).and_then(Value::as_str).filter(|text| !text.is_empty());
    ["name", "component_name", "node_name", "user_name"].iter().find_map(field)
}

fn counted(n: i64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// What a person sees on a terminal must not steer it.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_reads_like_a_log_line() {
        let mut teller = Teller::new([("project:1".to_owned(), "shop".to_owned())].into(), false);
        let mut line = |tier, at_ms: i64, owner: &str, kind: &str, payload: Value| {
            let event = json!({"position": 17, "at_ms": at_ms, "kind": kind, "subject": "x", "owner": owner,
                "payload": payload});
            let line = teller.line(tier, &event);
            line.strip_prefix("1970-01-01 00:00:00.").unwrap().to_owned()
        };
        let node = |state: &str, power: &str, detail: &str| json!({"name": "web-1", "state": state, "power": power, "host_name": "r1-h3", "detail": detail});
        for (tier, owner, kind, payload, told) in [
            (
                Tier::Resources,
                "project:1",
                "node.changed",
                node("starting", "on", ""),
                "000Z  resources   node.changed         shop          node web-1 on host r1-h3: starting",
            ),
            (
                Tier::Resources,
                "project:1",
                "node.changed",
                node("running", "on", ""),
                "000Z  resources   node.changed         shop          node web-1 on host r1-h3: starting -> running",
            ),
            (
                Tier::Resources,
                "project:1",
                "node.changed",
                node("running", "off", ""),
                "000Z  resources   node.changed         shop          node web-1 on host r1-h3: running, power off is \
                 wished",
            ),
            (
                Tier::Resources,
                "project:1",
                "node.changed",
                node("failed", "off", "exited with\u{1b} code 3"),
                "000Z  resources   node.changed         shop          node web-1 on host r1-h3: running -> failed \
                 (exited with  code 3)",
            ),
            (
                Tier::Resources,
                "project:1",
                "node.changed",
                json!({"name": "web-1", "state": "off", "power": "off", "host_name": "r1-h3", "hold": "parked"}),
                "000Z  resources   node.changed         shop          node web-1 on host r1-h3: failed -> off; its cpu \
                 and memory are released",
            ),
            (
                Tier::Resources,
                "project:1",
                "node.changed",
                json!({"name": "web-1", "state": "off", "power": "on", "host_name": "r1-h3", "hold": "whole"}),
                "000Z  resources   node.changed         shop          node web-1 on host r1-h3: off, power on is wished; \
                 its cpu and memory are claimed again",
            ),
            (
                Tier::Resources,
                "tier:components",
                "rcontract.created",
                json!({"name": "cc-1", "state": "active", "lines": 2}),
                "000Z  resources   rcontract.created    tier:components  rcontract cc-1: created with 2 lines, active",
            ),
            (
                Tier::Resources,
                "project:2",
                "line.draining",
                json!({"name": "web", "host_name": "h1", "detail": "new memory"}),
                "000Z  resources   line.draining        project:2     node web has to leave host h1, which is draining: \
                 new memory",
            ),
            (
                Tier::Resources,
                "",
                "image.ready",
                json!({"name": "web", "state": "ready"}),
                "000Z  resources   image.ready          -             image web ready",
            ),
            (
                Tier::Projects,
                "project:2",
                "token.revoked",
                json!({"name": "ci", "user_name": "eve", "role": "tenant"}),
                "000Z  projects    token.revoked        project:2     token ci of user eve revoked (tenant)",
            ),
        ] {
            assert_eq!(line(tier, 0, owner, kind, payload), told);
        }
    }
}
