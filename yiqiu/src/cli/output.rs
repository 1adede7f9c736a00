//! How answers are printed: tables from a list of columns for each noun, or the JSON that came, as JSON or YAML.

use std::io::Write;

use comfy_table::{Table, presets};
use serde_json::Value;
use yiqiu_base::size;

use super::{
    failure::{Failure, Outcome},
    time,
};

/// In which form answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For scripts.
    Json,
    /// For files.
    Yaml,
    /// For spreadsheets.
    Csv,
}

/// How a value of a column is shown.
#[derive(Debug, Clone, Copy)]
pub enum As {
    /// As it is: text, numbers, booleans; lists with commas.
    Text,
    /// The state of what is on a host, of the whole item; with that of the host where it is not online.
    StateOnHost,
    /// Bytes in the largest unit.
    Bytes,
    /// Millicores as cores.
    Cpu,
    /// A `Size` in words.
    Size,
    /// A point in time.
    Time,
    /// Milliseconds as a span.
    Span,
    /// The pairs of an object: `env=prod,ssd=`.
    Pairs,
    /// How many elements a list has.
    Count,
    /// Published ports: `127.0.0.1:32768->8080`.
    Ports,
    /// Millicores times milliseconds as seconds of a core.
    CoreTime,
    /// Nanoseconds of processor time as seconds.
    CpuTime,
    /// Bytes times milliseconds as bytes times seconds.
    ByteTime,
}

/// A column of a noun's table: its title, where its value is (JSON pointers, the first that is there), and how it is
/// shown.
#[derive(Debug, Clone, Copy)]
pub struct Column(pub &'static str, pub &'static [&'static str], pub As);

/// Prints one thing.
pub fn one(format: Format, columns: &[Column], value: &Value) -> Outcome {
    match format {
        Format::Table => print(&rows(columns, std::slice::from_ref(value))),
        Format::Csv => print(&csv(columns, std::slice::from_ref(value))),
        Format::Json | Format::Yaml => document(format, value),
    }
}

/// Prints a list. As JSON and YAML it is the bare list.
pub fn list(format: Format, columns: &[Column], items: &[Value]) -> Outcome {
    match format {
        Format::Table if items.is_empty() => {
            eprintln!("none");
            Ok(())
        }
        Format::Table => print(&rows(columns, items)),
        Format::Csv => print(&csv(columns, items)),
        Format::Json | Format::Yaml => document(format, &Value::Array(items.to_vec())),
    }
}

/// Prints a document whole. Where it has no columns, it is YAML: that reads best.
pub fn document(format: Format, value: &Value) -> Outcome {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|e| e.to_string()),
        Format::Table | Format::Csv | Format::Yaml => serde_norway::to_string(value).map_err(|e| e.to_string()),
    };
    print(&text.map_err(|error| Failure::Failed(format!("the answer cannot be shown: {error}")))?)
}

/// Writes to standard output. A reader that went away, such as `head`, is no failure.
pub fn print(text: &str) -> Outcome {
    print_while_read(text).map(drop)
}

/// The same, for what has no end: false if nobody reads any more.
pub fn print_while_read(text: &str) -> Outcome<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Failed(format!("standard output: {error}"))),
    }
}

/// Says on standard error what was done, where standard output has nothing to say.
pub fn note(text: impl std::fmt::Display) {
    eprintln!("{text}");
}

fn rows(columns: &[Column], items: &[Value]) -> String {
    let titles: Vec<&str> = columns.iter().map(|column| column.0).collect();
    grid(&titles, items.iter().map(|item| columns.iter().map(|column| cell(*column, item)).collect()))
}

/// The columns of a table as comma-separated values (RFC 4180).
fn csv(columns: &[Column], items: &[Value]) -> String {
    let quoted = |cell: String| match cell.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell,
    };
    let line = |cells: Vec<String>| cells.into_iter().map(quoted).collect::<Vec<_>>().join(",") + "\n";
    let titles = columns.iter().flat_map(|column| parts(*column, &Value::Null)).map(|(title, _)| title).collect();
    let rows = items
        .iter()
        .map(|item| line(columns.iter().flat_map(|column| parts(*column, item)).map(|(_, cell)| cell).collect()));
    std::iter::once(line(titles)).chain(rows).collect()
}

/// A column for programs: each of its parts by a name with the base unit.
fn parts(column: Column, item: &Value) -> Vec<(String, String)> {
    let Column(title, _, shape) = column;
    let value = value_of(column, item);
    let name = title.to_lowercase().replace(' ', "_");
    let unit = |unit: &str| vec![(format!("{name}_{unit}"), raw(value))];
    match shape {
        As::Text => vec![(name, raw(value))],
        As::Pairs => vec![(name, if raw(value) == "{}" { String::new() } else { shown(shape, value) })],
        As::Count | As::Ports => vec![(name, if raw(value).is_empty() { String::new() } else { shown(shape, value) })],
        As::StateOnHost => vec![(name, raw(&value["state"])), ("host_state".into(), host_state(value).to_owned())],
        As::Bytes => unit("bytes"),
        As::Cpu => unit("millicores"),
        As::Time | As::Span => unit("ms"),
        As::CoreTime => unit("millicore_ms"),
        As::CpuTime => unit("ns"),
        As::ByteTime => unit("byte_ms"),
        As::Size => ["cpu_millicores", "memory_bytes", "disk_bytes", "disk_iops"]
            .map(|part| (format!("{name}_{part}"), raw(&value[part])))
            .into(),
    }
}

/// A value for programs: nothing where there is nothing.
fn raw(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if text.is_empty() => String::new(),
        Value::Array(list) if list.is_empty() => String::new(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(_) | Value::Array(_) | Value::Object(_) => plain(value),
    }
}

/// Columns without borders, two spaces apart.
pub fn grid(titles: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(titles.iter().copied()).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn cell(column: Column, item: &Value) -> String {
    shown(column.2, value_of(column, item))
}

fn value_of(Column(_, pointers, _): Column, item: &Value) -> &Value {
    pointers.iter().find_map(|pointer| item.pointer(pointer)).unwrap_or(&Value::Null)
}

/// A value as a cell; `-` for what is not there.
pub fn shown(shape: As, value: &Value) -> String {
    let number = |f: fn(i64) -> String| amount(value).map_or_else(|| plain(value), |n| f(clamped(n)));
    match shape {
        As::Text => plain(value),
        As::StateOnHost => {
            let parked = if value["hold"] == "parked" { ", parked" } else { "" };
            match host_state(value) {
                "" | "online" => plain(&value["state"]) + parked,
                host => format!("{}{parked} (host {host})", plain(&value["state"])),
            }
        }
        As::CoreTime => amount(value).map_or_else(|| plain(value), |n| seconds(n / 1_000)),
        As::CpuTime => amount(value).map_or_else(|| plain(value), |n| seconds(n / 1_000_000)),
        As::ByteTime => {
            amount(value).map_or_else(|| plain(value), |n| format!("{} s", size::bytes_shown(clamped(n / 1_000))))
        }
        As::Bytes => number(size::bytes_shown),
        As::Cpu => number(size::thousandths),
        As::Time => number(time::shown),
        As::Span => number(time::span),
        As::Count => value.as_array().map_or_else(|| plain(value), |list| list.len().to_string()),
        As::Size => {
            serde_json::from_value::<size::Size>(value.clone()).map_or_else(|_| plain(value), |s| s.to_string())
        }
        As::Pairs => match value.as_object() {
            Some(pairs) if !pairs.is_empty() => pairs
                .iter()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
                .collect::<Vec<_>>()
                .join(","),
            _ => "-".into(),
        },
        As::Ports => match value.as_array() {
            Some(ports) if !ports.is_empty() => ports.iter().map(port).collect::<Vec<_>>().join(","),
            _ => "-".into(),
        },
    }
}

/// Of a node, or of a component.
fn host_state(item: &Value) -> &str {
    ["/host_state", "/actual/host_state"].iter().find_map(|at| item.pointer(at)?.as_str()).unwrap_or_default()
}

/// A whole number; large ones come as strings of digits.
fn amount(value: &Value) -> Option<i128> {
    value.as_i64().map(i128::from).or_else(|| value.as_str()?.parse().ok())
}

fn clamped(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

fn seconds(ms: i128) -> String {
    format!("{} s", size::thousandths(clamped(ms)))
}

fn port(port: &Value) -> String {
    let number = |key: &str| port.get(key).and_then(Value::as_u64).unwrap_or(0);
    let address = port.get("host_address").and_then(Value::as_str).filter(|a| !a.is_empty()).unwrap_or("127.0.0.1");
    match number("host_port") {
        0 => format!("{} (not published yet)", number("node_port")),
        host => format!("{address}:{host}->{}", number("node_port")),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        // What a person sees on a terminal must not steer it.
        Value::String(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Number(number) => number.to_string(),
        Value::Array(list) if list.is_empty() => "-".into(),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        use serde_json::json;
        for (shape, value, text) in [
            (As::Text, json!("a\u{1b}[31m"), "a [31m"),
            (As::Text, json!(null), "-"),
            (As::Text, json!(["a", "b"]), "a,b"),
            (As::Bytes, json!(64 << 20), "64 MiB"),
            (As::Cpu, json!(100), "0.1"),
            (As::Size, json!({"cpu_millicores": 1500, "memory_bytes": 1 << 30}), "1.5 cpu, 1 GiB memory"),
            (As::Ports, json!([{"node_port": 80, "host_port": 32768, "host_address": ""}]), "127.0.0.1:32768->80"),
            (As::Ports, json!([]), "-"),
            (As::Pairs, json!({"env": "prod", "ssd": ""}), "env=prod,ssd="),
            (As::Pairs, json!({}), "-"),
            (As::Count, json!([1, 2]), "2"),
            (As::CoreTime, json!("12500000"), "12.5 s"),
            (As::CpuTime, json!("1500000000"), "1.5 s"),
            (As::ByteTime, json!("68719476736000"), "64 GiB s"),
            (As::Bytes, json!("1024"), "1 KiB"),
        ] {
            assert_eq!(shown(shape, &value), text);
        }
    }

    #[test]
    fn csv_is_in_base_units_and_has_no_dashes() {
        use serde_json::json;
        let columns = [
            Column("NAME", &["/name"], As::Text),
            Column("STATE", &[""], As::StateOnHost),
            Column("EACH", &["/size"], As::Size),
            Column("LAST PASS", &["/at"], As::Time),
            Column("PORTS", &["/ports"], As::Ports),
            Column("NODES", &["/nodes"], As::Count),
        ];
        let items = [
            json!({"name": "a", "state": "running", "actual": {"host_state": "unreachable"}, "at": 5,
                "size": {"cpu_millicores": 1500, "memory_bytes": 1024}, "nodes": [1, 2],
                "ports": [{"node_port": 80, "host_port": 9, "host_address": ""}]}),
            json!({"name": "b", "ports": []}),
        ];
        assert_eq!(
            csv(&columns, &items),
            "name,state,host_state,each_cpu_millicores,each_memory_bytes,each_disk_bytes,each_disk_iops,last_pass_ms,\
             ports,nodes\n\
             a,running,unreachable,1500,1024,,,5,127.0.0.1:9->80,2\n\
             b,,,,,,,,,\n"
        );
        assert_eq!(shown(As::StateOnHost, &items[0]), "running (host unreachable)");
        assert_eq!(shown(As::StateOnHost, &json!({"state": "off", "host_state": "online"})), "off");
    }

    #[test]
    fn a_table_has_its_columns_two_apart() {
        let columns = [Column("NAME", &["/name"], As::Text), Column("CPU", &["/x/cpu", "/cpu"], As::Cpu)];
        let items = [serde_json::json!({"name": "long-name", "cpu": 250}), serde_json::json!({"name": "b"})];
        assert_eq!(rows(&columns, &items), "NAME       CPU\nlong-name  0.25\nb          -\n");
        assert_eq!(csv(&columns, &[serde_json::json!({"name": "a,\"b"})]), "name,cpu_millicores\n\"a,\"\"b\",\n");
    }
}
