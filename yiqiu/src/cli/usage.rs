//! `usage report`: what a project reserved and really used.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    Session,
    client::Tier,
    failure::{Failure, Outcome},
    output::{self, As, Column, Format},
    time,
};

const ROW: &[Column] = &[
    Column("NAME", &["/name"], As::Text),
    Column("CONTRACT", &["/contract"], As::Text),
    Column("ON", &["/on_ms"], As::Span),
    Column("OFF", &["/off_ms"], As::Span),
    Column("CPU PRESET", &["/reserved/cpu_millicore_ms"], As::CoreTime),
    Column("ACTUAL", &["/actual/cpu_ns"], As::CpuTime),
    Column("MEMORY PRESET", &["/reserved/memory_byte_ms"], As::ByteTime),
    Column("ACTUAL", &["/actual/memory_byte_ms"], As::ByteTime),
    Column("NET IN", &["/actual/net_rx_bytes"], As::Bytes),
    Column("NET OUT", &["/actual/net_tx_bytes"], As::Bytes),
    Column("DISK READ", &["/actual/block_read_bytes"], As::Bytes),
    Column("WRITTEN", &["/actual/block_write_bytes"], As::Bytes),
];

/// What is known to be amiss with what the report is about.
const FINDING: &[Column] = &[
    Column("NAME", &["/name"], As::Text),
    Column("KIND", &["/kind"], As::Text),
    Column("TIER", &["/tier"], As::Text),
    Column("FOUND", &["/at_ms"], As::Time),
    Column("WHAT", &["/detail"], As::Text),
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
    if session.format == Format::Csv {
        query.push(("format", "csv"));
        return output::print(&session.client.get_text(Tier::Projects, &path, &query).await?);
    }
    query.push(("format", "json"));
    let answer = session.client.get(Tier::Projects, &path, &query).await?;
    match session.format {
        Format::Json | Format::Yaml | Format::Csv => output::document(session.format, &answer),
        Format::Table => {
            let at = |key: &str| answer.get(key).and_then(Value::as_i64).map(time::shown).unwrap_or_default();
            let project = answer.pointer("/project/name").and_then(Value::as_str).unwrap_or_default();
            output::note(format_args!("project {project}, {} to {}", at("from_ms"), at("to_ms")));
            output::list(session.format, ROW, &rows(&answer))?;
            let found = found(&answer);
            if !found.is_empty() {
                output::print("\n")?;
                output::list(session.format, FINDING, &found)?;
            }
            match answer.pointer("/audit/unknown").and_then(Value::as_str).unwrap_or_default() {
                "" => {}
                unknown => output::note(format_args!("what is amiss may not be all: {unknown}")),
            }
            Ok(())
        }
    }
}

/// The findings of all items, each with the name of what it is about.
fn found(report: &Value) -> Vec<Value> {
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut all = Vec::new();
    for item in list(report, "items") {
        for mut finding in list(&item, "findings") {
            finding["name"] = item["name"].clone();
            all.push(finding);
        }
    }
    all
}

/// A row for each component and one for all; what was reserved in every power state is added up.
fn rows(report: &Value) -> Vec<Value> {
    let items = report.get("items").and_then(Value::as_array).into_iter().flatten().cloned();
    let mut totals = report.get("totals").cloned().unwrap_or_default();
    totals["name"] = json!("TOTAL");
    items
        .chain([totals])
        .map(|mut row| {
            for key in ["cpu_millicore_ms", "memory_byte_ms"] {
                let of = |power: &str| row.pointer(&format!("/preset/{power}/{key}"))?.as_str()?.parse::<i128>().ok();
                let sum: i128 = ["on", "off", "hibernated"].into_iter().filter_map(of).sum();
                row["reserved"][key] = json!(sum.to_string());
            }
            row
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reserved_adds_up_over_power_states() {
        let reserved = |n: &str| json!({"cpu_millicore_ms": n, "memory_byte_ms": "0"});
        let preset = json!({"on": reserved("7"), "off": reserved("99999999999999999999"), "hibernated": reserved("1")});
        let report = json!({"items": [{"name": "web-0", "preset": preset}], "totals": {}});
        let rows = rows(&report);
        assert_eq!(rows[0]["reserved"]["cpu_millicore_ms"], "100000000000000000007");
        assert_eq!(rows[1]["name"], "TOTAL");
    }
}
