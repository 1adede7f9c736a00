//! `usage report`: what a project reserved and really used.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{
    Session,
    client::Tier,
    failure::{Failure, Outcome},
    output::{self, As, Column, Format},
    time,
};

const ROW: &[Column] = &[
    Column("COMPONENT", &["/component_name", "/component", "/name"], As::Text),
    Column("CONTRACT", &["/ccontract_name", "/ccontract", "/contract"], As::Text),
    Column("ON", &["/preset/on_ms", "/on_ms"], As::Span),
    Column("OFF", &["/preset/off_ms", "/off_ms"], As::Span),
];

/// Verbs of `yiqiu usage`.
#[derive(Debug, Subcommand)]
pub enum Usage {
    /// Each component of a project with preset and actual side by side.
    Report(Report),
}

/// Flags of `yiqiu usage report`.
#[derive(Debug, Args)]
pub struct Report {
    /// The project, by name or id; that of the token if not said.
    #[arg(long)]
    project: Option<String>,
    /// From when: 2026-11-01, 2026-11-01T10:00:00Z, or -24h for so long ago.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// Until when, exclusive; now if not said.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to: Option<String>,
    /// Comma-separated values, for spreadsheets; takes the place of -o.
    #[arg(long)]
    csv: bool,
}

/// Carries out `yiqiu usage …`.
pub async fn run(session: &Session, verb: Usage) -> Outcome {
    let Usage::Report(report) = verb;
    let now = session.now_ms();
    let point = |text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => time::parse_point(text, now).map(|ms| Some(ms.to_string())).map_err(Failure::Usage),
    };
    let (from, to) = (point(&report.from)?, point(&report.to)?);
    let mut query: Vec<(&str, &str)> = Vec::new();
    for (key, value) in [("project", &report.project), ("from", &from), ("to", &to)] {
        if let Some(value) = value {
            query.push((key, value));
        }
    }
    let path = ["usage", "report"];
    if report.csv {
        query.push(("format", "csv"));
        return output::print(&session.client.get_text(Tier::Projects, &path, &query).await?);
    }
    query.push(("format", "json"));
    let answer = session.client.get(Tier::Projects, &path, &query).await?;
    match session.format {
        Format::Json | Format::Yaml => output::document(session.format, &answer),
        Format::Table => output::list(session.format, ROW, &rows(&answer)),
    }
}

fn rows(report: &Value) -> Vec<Value> {
    ["rows", "components", "items"].iter().find_map(|key| report.get(*key)?.as_array().cloned()).unwrap_or_default()
}
