//! `events`: what changed, as a log that a person wants to read.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::{
    Session,
    client::Tier,
    failure::{Failure, Outcome},
    output::{self, Format},
    time,
};

/// Flags of `yiqiu events`.
#[derive(Debug, Args)]
pub struct Events {
    /// Only of this tier.
    #[arg(long)]
    tier: Option<Tier>,
    /// Go on until interrupted.
    #[arg(long, short)]
    follow: bool,
    /// Only what follows this position of the tier.
    #[arg(long, value_name = "POSITION", requires = "tier", default_value_t = 0)]
    after: i64,
}

/// How long the server holds a request open for a first event.
const WAIT: Duration = Duration::from_secs(20);
/// How many events are asked for at once.
const BATCH: &str = "500";

/// Carries out `yiqiu events`.
pub async fn run(session: &Session, ask: Events) -> Outcome {
    let chosen = ask.tier.is_some();
    let tiers = ask.tier.map_or_else(|| vec![Tier::Resources, Tier::Components, Tier::Projects], |tier| vec![tier]);
    let mut stands: Vec<(Tier, i64)> = tiers.into_iter().map(|tier| (tier, ask.after)).collect();
    let mut past = Vec::new();
    let mut closed = Vec::new();
    for (tier, after) in &mut stands {
        loop {
            match read(session, *tier, *after, Duration::ZERO).await {
                Ok((events, next)) => {
                    past.extend(events.into_iter().map(|event| (*tier, event)));
                    if next == *after {
                        break;
                    }
                    *after = next;
                }
                // Of the tiers together, show those that may be seen.
                Err(refusal) if !chosen && refusal.code() == Some("permission_denied") => {
                    closed.push(*tier);
                    break;
                }
                Err(failure) => return Err(failure),
            }
        }
    }
    stands.retain(|(tier, _)| !closed.contains(tier));
    // Positions order the events of one tier; between tiers there is only the time. The sort keeps equals in order.
    past.sort_by_key(|(_, event)| event.get("at_ms").and_then(Value::as_i64));
    for (tier, event) in &past {
        show(session.format, *tier, event)?;
    }
    if !ask.follow {
        return Ok(());
    }
    futures::future::try_join_all(stands.into_iter().map(|(tier, after)| follow(session, tier, after))).await?;
    Ok(())
}

async fn follow(session: &Session, tier: Tier, mut after: i64) -> Outcome {
    loop {
        match read(session, tier, after, WAIT).await {
            Ok((events, next)) => {
                for event in &events {
                    show(session.format, tier, event)?;
                }
                after = next;
            }
            // The position is known, so nothing is lost while the server is away.
            Err(Failure::Unreachable(why)) => {
                eprintln!("{why}");
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Events after a position, and the position that was read up to: beyond the last of them where others' events lie in
/// between.
async fn read(session: &Session, tier: Tier, from: i64, wait: Duration) -> Outcome<(Vec<Value>, i64)> {
    let (after, wait_ms) = (from.to_string(), wait.as_millis().to_string());
    let query = [("after", after.as_str()), ("limit", BATCH), ("wait_ms", wait_ms.as_str())];
    let mut page = session.client.get_waiting(tier, &["events", tier.as_str()], &query, wait).await?;
    let next = page.get("next").and_then(Value::as_str).and_then(|next| next.parse().ok());
    let events = match page.get_mut("items").map(Value::take).unwrap_or(page) {
        Value::Array(events) => events,
        _ => Vec::new(),
    };
    let last = events.iter().filter_map(position).max();
    Ok((events, next.or(last).unwrap_or(from).max(from)))
}

fn position(event: &Value) -> Option<i64> {
    event.get("position").and_then(Value::as_i64)
}

fn show(format: Format, tier: Tier, event: &Value) -> Outcome {
    match format {
        Format::Table | Format::Csv => output::print(&format!("{}\n", line(tier, event))),
        // One object a line, so that a reader can follow.
        Format::Json => output::print(&format!("{event}\n")),
        Format::Yaml => {
            output::print("---\n")?;
            output::document(format, event)
        }
    }
}

/// `2026-11-21 13:14:15.250Z components 17  component.changed  web-1 running`
fn line(tier: Tier, event: &Value) -> String {
    let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default();
    let at = event.get("at_ms").and_then(Value::as_i64).map(time::shown).unwrap_or_default();
    let payload = match event.get("payload").or_else(|| event.get("payload_json")) {
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or(Value::Null),
        Some(value) => value.clone(),
        None => Value::Null,
    };
    let position = position(event).unwrap_or_default();
    let told = sentence(text("kind"), &payload, text("subject"));
    let line = format!("{at} {:<10} {position:>5}  {:<20} {told}", tier.as_str(), text("kind"));
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim_end().to_owned()
}

/// The few words of a payload that tell a person what happened.
fn sentence(kind: &str, payload: &Value, subject: &str) -> String {
    if kind == "usage.recorded" {
        let count = payload.get("deltas").and_then(Value::as_array).map_or(0, Vec::len);
        return format!("{count} measured");
    }
    let field = |key: &str| payload.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let name = ["name", "node_name", "component_name", "ccontract_name"].iter().find_map(|key| field(key));
    let mut words = vec![name.unwrap_or(subject).to_owned()];
    for (key, before) in [("state", ""), ("power", "power "), ("host_name", "on "), ("detail", ": ")] {
        if let Some(text) = field(key) {
            words.push(format!("{before}{text}"));
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_like_a_log_line() {
        let event = serde_json::json!({
            "position": 17, "at_ms": 0, "kind": "node.changed", "subject": "x",
            "payload": {"name": "web-1", "state": "running", "power": "on", "host_name": "h1", "detail": ""},
        });
        assert_eq!(
            line(Tier::Resources, &event),
            "1970-01-01 00:00:00.000Z resources     17  node.changed         web-1 running power on on h1"
        );
    }
}
