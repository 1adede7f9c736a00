//! `events`: what changed, as a log that a person wants to read.

mod line;
mod stream;

use std::{collections::BTreeMap, io::IsTerminal};

use clap::Args;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use self::{
    line::Teller,
    stream::{Heard, follow},
};
use super::{
    Session,
    client::Tier,
    failure::{Failure, Outcome},
    output::{self, Format},
    owned::{self, InProject},
};

/// Flags of `yiqiu events`.
#[derive(Debug, Args)]
pub struct Events {
    /// Only of this tier.
    #[arg(long)]
    tier: Option<Tier>,
    /// Go on until interrupted, through restarts of the server, without a gap or a repeat.
    #[arg(long, short)]
    follow: bool,
    /// Only what follows this position of the tier.
    #[arg(long, value_name = "POSITION", requires = "tier", default_value_t = 0)]
    after: i64,
    /// Only what happens from now on.
    #[arg(long, requires = "follow", conflicts_with = "after")]
    new: bool,
    /// Only events of these kinds, such as node.changed,host.* (with commas between them).
    #[arg(long, value_name = "KINDS")]
    kind: Option<String>,
    /// Only what is about the thing of this name or id.
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// Only what is about contracts with this owner label, such as tier:components.
    #[arg(long, value_name = "LABEL", conflicts_with = "project")]
    owner: Option<String>,
    #[command(flatten)]
    within: InProject,
}

/// How many events are asked for at once.
const BATCH: &str = "1000";
/// How many events may wait to be printed.
const WAITING_MOST: usize = 1000;

/// What is asked of every tier.
#[derive(Debug, Clone, Default)]
struct Filter {
    kind: Option<String>,
    owner: Option<String>,
    subject: Option<String>,
}

impl Filter {
    /// What the server filters by. The subject it knows by id only, so names are compared here.
    fn query(&self) -> Vec<(&'static str, &str)> {
        let kind = self.kind.as_deref().map(|kind| ("kind", kind));
        kind.into_iter().chain(self.owner.as_deref().map(|owner| ("owner", owner))).collect()
    }

    fn wants(&self, event: &Value) -> bool {
        self.subject.as_deref().is_none_or(|subject| event["subject"] == subject || line::name(event) == Some(subject))
    }
}

/// Where one tier is read from.
#[derive(Debug, Clone, Copy)]
struct Stand {
    tier: Tier,
    after: i64,
    epoch: Option<i64>,
}

/// Carries out `yiqiu events`.
pub async fn run(session: &Session, ask: Events) -> Outcome {
    let Events { tier, follow: going_on, after, new, kind, subject, owner, within } = ask;
    let owner = match within.label(session).await? {
        Some(label) => Some(label),
        None => owner,
    };
    let filter = Filter { kind, owner, subject };
    let tiers = tier.map_or_else(|| vec![Tier::Resources, Tier::Components, Tier::Projects], |tier| vec![tier]);
    let mut teller = Teller::new(names(session).await, colours());
    let (mut stands, mut past) = (Vec::new(), Vec::new());
    for of in tiers {
        match history(session, of, after, &filter).await {
            Ok((stand, events)) => {
                stands.push(stand);
                past.extend(events.into_iter().map(|event| (of, event)));
            }
            // Of the tiers together, show those that may be seen.
            Err(refusal) if tier.is_none() && refusal.code() == Some("permission_denied") => {}
            Err(failure) => return Err(failure),
        }
    }
    // Positions order the events of one tier; between tiers there is only the time. The sort keeps equals in order.
    past.sort_by_key(|(_, event)| event.get("at_ms").and_then(Value::as_i64));
    for (tier, event) in &past {
        let line = teller.line(*tier, event); // also of what is not shown: later lines say from what state
        if !new && !show(session.format, *tier, event, &line)? {
            return Ok(());
        }
    }
    drop(past);
    if !going_on {
        return Ok(());
    }
    go_on(session, stands, &filter, &mut teller).await
}

/// Prints what happens until the reader goes away or a server refuses.
async fn go_on(session: &Session, stands: Vec<Stand>, filter: &Filter, teller: &mut Teller) -> Outcome {
    let (tell, mut heard) = mpsc::channel(WAITING_MOST);
    let following = stands.into_iter().map(|stand| follow(&session.client, stand, filter, tell.clone()));
    let following = futures::future::try_join_all(following);
    drop(tell);
    let printing = async {
        while let Some(heard) = heard.recv().await {
            match heard {
                Heard::Event(tier, event) => {
                    if !filter.wants(&event) {
                        continue;
                    }
                    teller.learn(session, &event).await;
                    let line = teller.line(tier, &event);
                    if !show(session.format, tier, &event, &line)? {
                        return Ok(());
                    }
                }
                Heard::History { tier, before, epoch } => {
                    output::note(format!(
                        "{}: its history is another one ({before} -> {epoch}), as after a restore: it is told from the \
                         beginning",
                        tier.as_str()
                    ));
                    if matches!(session.format, Format::Json) {
                        let told = json!({"tier": tier.as_str(), "kind": "epoch", "payload": {"epoch": epoch}});
                        output::print(&format!("{told}\n"))?;
                    }
                }
            }
        }
        Ok(())
    };
    tokio::select! {
        refused = following => refused.map(drop),
        printed = printing => printed,
    }
}

/// What happened so far, and where to go on.
async fn history(session: &Session, tier: Tier, after: i64, filter: &Filter) -> Outcome<(Stand, Vec<Value>)> {
    let (mut stand, mut all) = (Stand { tier, after, epoch: None }, Vec::new());
    loop {
        let after = stand.after.to_string();
        let mut query = filter.query();
        query.extend([("after", after.as_str()), ("limit", BATCH)]);
        let mut page = session.client.get(tier, &["events", tier.as_str()], &query).await?;
        stand.epoch = page.get("epoch").and_then(Value::as_i64);
        let next = page.get("next").and_then(Value::as_str).and_then(|next| next.parse().ok());
        if let Some(Value::Array(events)) = page.get_mut("items").map(Value::take) {
            all.extend(events.into_iter().filter(|event| filter.wants(event)));
        }
        match next {
            Some(next) if next > stand.after => stand.after = next,
            _ => return Ok((stand, all)),
        }
    }
}

/// The names of projects by owner label, for lines; none where they may not be seen.
async fn names(session: &Session) -> BTreeMap<String, String> {
    let projects = session.client.all(Tier::Projects, &["projects"], &[]).await.unwrap_or_default();
    projects.iter().filter_map(owned::label_and_name).collect()
}

fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints one event; false if nobody reads any more.
fn show(format: Format, tier: Tier, event: &Value, line: &str) -> Outcome<bool> {
    let with_tier = || {
        let mut event = event.clone();
        if let Some(event) = event.as_object_mut() {
            event.insert("tier".to_owned(), json!(tier.as_str()));
        }
        event
    };
    match format {
        Format::Table | Format::Csv => output::print_while_read(&format!("{line}\n")),
        // One object a line, so that a reader can follow.
        Format::Json => output::print_while_read(&format!("{}\n", with_tier())),
        Format::Yaml => {
            let text = serde_norway::to_string(&with_tier());
            let text = text.map_err(|error| Failure::Failed(format!("the event cannot be shown: {error}")))?;
            output::print_while_read(&format!("---\n{text}"))
        }
    }
}
