//! `rcontract amend`, and the two that people do most to one node: `node resize` and `node rename`.

use clap::Args;
use serde_json::{Map, Value, json};
use yiqiu_base::size::{parse_bytes, parse_thousandths};

use super::{RCONTRACT, Why, show_forecast};
use crate::cli::{
    Session,
    failure::{Failure, Outcome},
    node,
    output::{self, As, Column, Format},
    owned::{self, InProject},
    workload::read_file,
};

/// Flags of `yiqiu rcontract amend`: all of it is done, or nothing.
#[derive(Debug, Args)]
pub struct Amend {
    /// Name or id.
    rcontract: String,
    #[command(flatten)]
    within: InProject,
    /// A JSON or YAML file with `add`, `remove`, `change` and `name`, as the API takes them; `-` reads standard input.
    #[arg(long)]
    file: Option<String>,
    /// A JSON or YAML file with one new line, such as {name, host, image, size}. May be given again.
    #[arg(long, value_name = "FILE")]
    add: Vec<String>,
    /// A line that goes, by name or id. May be given again.
    #[arg(long, value_name = "LINE")]
    remove: Vec<String>,
    /// Another size for a line, such as web:cpu=2,memory=1GiB; what is not named stays. May be given again.
    #[arg(long, value_name = "LINE:SIZE", value_parser = resize)]
    resize: Vec<(String, Value)>,
    /// Another name for a line. May be given again.
    #[arg(long, value_name = "LINE=NAME", value_parser = rename)]
    rename: Vec<(String, String)>,
    /// Another name for the contract.
    #[arg(long)]
    name: Option<String>,
    /// Only if this is still its generation.
    #[arg(long, value_name = "N")]
    if_generation: Option<i64>,
    #[command(flatten)]
    why: Why,
    /// Only say what would be claimed where.
    #[arg(long)]
    dry_run: bool,
}

/// Flags of `yiqiu node resize`.
#[derive(Debug, Args)]
pub struct Resize {
    /// Name or id.
    node: String,
    #[command(flatten)]
    within: InProject,
    /// Processors, such as 0.5 or 2.
    #[arg(long, value_name = "CORES", value_parser = parse_thousandths)]
    cpu: Option<i64>,
    /// Memory, such as 512MiB.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memory: Option<i64>,
    /// Disk, such as 10GiB.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    disk: Option<i64>,
    /// Disk operations a second.
    #[arg(long, value_name = "N")]
    iops: Option<i64>,
    #[command(flatten)]
    why: Why,
}

/// Flags of `yiqiu node rename`.
#[derive(Debug, Args)]
pub struct Rename {
    /// Name or id.
    node: String,
    /// Its new name.
    name: String,
    #[command(flatten)]
    within: InProject,
    #[command(flatten)]
    why: Why,
}

fn resize(text: &str) -> Result<(String, Value), String> {
    let bad = || format!("`{text}`: expected LINE:SIZE, such as web:cpu=2,memory=1GiB");
    let (line, parts) = text.split_once(':').ok_or_else(bad)?;
    let mut size = Map::new();
    for part in parts.split(',') {
        let (what, amount) = part.split_once('=').ok_or_else(bad)?;
        let (field, amount) = match what {
            "cpu" => ("cpu_millicores", parse_thousandths(amount)?),
            "memory" => ("memory_bytes", parse_bytes(amount)?),
            "disk" => ("disk_bytes", parse_bytes(amount)?),
            "iops" => ("disk_iops", amount.parse().map_err(|_| bad())?),
            _ => return Err(format!("`{what}` is not part of a size: expected cpu, memory, disk or iops")),
        };
        size.insert(field.to_owned(), json!(amount));
    }
    Ok((line.to_owned(), Value::Object(size)))
}

fn rename(text: &str) -> Result<(String, String), String> {
    let (line, name) = text.split_once('=').ok_or_else(|| format!("`{text}`: expected LINE=NAME"))?;
    Ok((line.to_owned(), name.to_owned()))
}

impl Amend {
    fn body(&self) -> Outcome<Value> {
        let mut body = match &self.file {
            Some(file) => read_file(file)?,
            None => json!({}),
        };
        let object = body.as_object_mut().ok_or_else(|| Failure::Usage("the file has no object in it".to_owned()))?;
        let mut more = |field: &str, items: Vec<Value>| -> Outcome {
            if items.is_empty() {
                return Ok(());
            }
            match object.entry(field).or_insert_with(|| json!([])) {
                Value::Array(list) => list.extend(items),
                _ => return Err(Failure::Usage(format!("`{field}` of the file is not a list"))),
            }
            Ok(())
        };
        more("add", self.add.iter().map(|file| read_file(file)).collect::<Outcome<_>>()?)?;
        more("remove", self.remove.iter().map(|line| json!(line)).collect())?;
        // What is said of one line is one change of it.
        let mut changes: Vec<Value> = self.resize.iter().map(|(l, size)| json!({"line": l, "size": size})).collect();
        for (line, name) in &self.rename {
            match changes.iter_mut().find(|change| change["line"] == line.as_str()) {
                Some(change) => change["name"] = json!(name),
                None => changes.push(json!({"line": line, "name": name})),
            }
        }
        more("change", changes)?;
        if let Some(name) = &self.name {
            body["name"] = json!(name);
        }
        if let Some(reason) = &self.why.reason {
            body["reason"] = json!(reason);
        }
        Ok(body)
    }
}

/// Carries out `yiqiu rcontract amend`.
pub(super) async fn amend(session: &Session, asked: Amend) -> Outcome {
    let body = asked.body()?;
    let rcontract = owned::find(session, &RCONTRACT, asked.rcontract, &asked.within).await?;
    let path = [RCONTRACT.path, &rcontract];
    let query: &[(&str, &str)] = if asked.dry_run { &[("dry_run", "true")] } else { &[] };
    let answer = session.client.patch_seen(RCONTRACT.tier, &path, query, &body, asked.if_generation).await?;
    if asked.dry_run {
        return show_forecast(session, &answer);
    }
    show_whole(session, &answer)
}

/// A contract with its nodes below.
pub(super) fn show_whole(session: &Session, contract: &Value) -> Outcome {
    RCONTRACT.show(session, contract)?;
    match contract.get("nodes").and_then(Value::as_array) {
        Some(nodes) if session.format == Format::Table && !nodes.is_empty() => {
            output::print("\n")?;
            output::list(session.format, node::NODE.columns, nodes)?;
        }
        _ => return Ok(()),
    }
    match contract.get("usage").and_then(Value::as_array) {
        Some(usage) if !usage.is_empty() => {
            output::print("\n")?;
            output::list(session.format, USAGE, usage)
        }
        _ => Ok(()),
    }
}

/// Preset and actual of each line.
const USAGE: &[Column] = &[
    Column("LINE", &["/name"], As::Text),
    Column("HOLDS", &["/held"], As::Size),
    Column("ON", &["/on/ms"], As::Span),
    Column("OFF", &["/off/ms"], As::Span),
    Column("CPU PRESET ON", &["/on/cpu_millicore_ms"], As::CoreTime),
    Column("CPU ACTUAL", &["/actual/cpu_ns"], As::CpuTime),
    Column("MEMORY PRESET ON", &["/on/memory_byte_ms"], As::ByteTime),
    Column("MEMORY ACTUAL", &["/actual/memory_byte_ms"], As::ByteTime),
];

/// Carries out `yiqiu node resize`.
pub async fn resize_node(session: &Session, asked: Resize) -> Outcome {
    let Resize { node, within, cpu, memory, disk, iops, why } = asked;
    let mut size = Map::new();
    for (field, amount) in
        [("cpu_millicores", cpu), ("memory_bytes", memory), ("disk_bytes", disk), ("disk_iops", iops)]
    {
        if let Some(amount) = amount {
            size.insert(field.to_owned(), json!(amount));
        }
    }
    if size.is_empty() {
        return Err(Failure::Usage("say what of its size changes: --cpu, --memory, --disk or --iops".to_owned()));
    }
    change_node(session, node, &within, json!({"size": size}), why).await
}

/// Carries out `yiqiu node rename`.
pub async fn rename_node(session: &Session, asked: Rename) -> Outcome {
    let Rename { node, name, within, why } = asked;
    change_node(session, node, &within, json!({"name": name}), why).await
}

async fn change_node(session: &Session, name: String, within: &InProject, mut change: Value, why: Why) -> Outcome {
    let id = node::node_id(session, name, within).await?;
    let node = node::NODE.fetch(session, &id).await?;
    let text = |key: &str| node[key].as_str().unwrap_or_default().to_owned();
    change["line"] = json!(text("line_id"));
    let body = json!({"change": [change], "reason": why.reason.unwrap_or_default()});
    session.client.patch_seen(RCONTRACT.tier, &[RCONTRACT.path, &text("rcontract_id")], &[], &body, None).await?;
    node::NODE.get(session, &id).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_lines() {
        assert_eq!(
            resize("web:cpu=1.5,memory=1GiB"),
            Ok(("web".into(), json!({"cpu_millicores": 1500, "memory_bytes": 1 << 30})))
        );
        for text in ["web", "web:", "web:cpu", "web:cpu=x", "web:gpu=1", ":memory=-1"] {
            assert!(resize(text).is_err(), "{text}");
        }
        assert!(rename("a").is_err());
    }
}
