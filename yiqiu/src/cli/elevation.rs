//! `rack show`: a rack as one stands before it.

use serde_json::Value;
use yiqiu_base::{Size, size::Dimension};

use super::{
    Session,
    client::Tier,
    failure::Outcome,
    output::{self, As, Format},
};

/// How many marks a bar has.
const MARKS: i64 = 10;

/// Carries out `yiqiu rack show`.
pub(super) async fn run(session: &Session, rack: &str) -> Outcome {
    let elevation = session.client.get(Tier::Resources, &["racks", rack, "elevation"], &[]).await?;
    match session.format {
        Format::Table => output::print(&draw(&elevation)),
        Format::Csv | Format::Json | Format::Yaml => output::document(session.format, &elevation),
    }
}

/// A title, and a line for each unit from top to bottom.
fn draw(elevation: &Value) -> String {
    let text = |value: &Value| output::shown(As::Text, value);
    let units = elevation["elevation"].as_array().map_or(&[][..], Vec::as_slice);
    let hosts = units.iter().filter(|unit| unit["host"].is_object()).count();
    let mut drawn = format!(
        "rack {} of zone {}, region {}: {} units, {hosts} hosts\n",
        text(&elevation["rack"]),
        text(&elevation["zone"]),
        text(&elevation["region"]),
        text(&elevation["units"]),
    );
    let rows: Vec<(String, Vec<String>)> =
        units.iter().map(|unit| (text(&unit["unit"]), cells(&unit["host"]))).collect();
    let count = rows.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|(_, cells)| cells.get(at)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|at| width(at).unwrap_or(0)).collect();
    let inner = widths.iter().sum::<usize>() + count.saturating_sub(1) * 2;
    let edge = "─".repeat(inner.max(8) + 2);
    drawn += &format!("┌─────┬{edge}┐\n");
    for (unit, cells) in rows {
        let line: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        drawn += &format!("│ {unit:>3} │ {:<width$} │\n", line.join("  "), width = inner.max(8));
    }
    drawn + &format!("└─────┴{edge}┘\n")
}

/// What a unit shows of its host; nothing where it is empty.
fn cells(host: &Value) -> Vec<String> {
    if !host.is_object() {
        return Vec::new();
    }
    let text = |key: &str| output::shown(As::Text, &host[key]);
    let size = |key: &str| serde_json::from_value::<Size>(host[key].clone()).unwrap_or_default();
    let (used, rentable) = (size("used"), size("rentable"));
    let nodes = match host["nodes"].as_i64() {
        Some(1) => "1 node".to_owned(),
        _ => format!("{} nodes", text("nodes")),
    };
    let bar = |word, d: Dimension| format!("{word} {}", bar(used.get(d), rentable.get(d)));
    vec![
        text("name"),
        text("state"),
        text("node_type"),
        nodes,
        bar("cpu", Dimension::CpuMillicores),
        bar("memory", Dimension::MemoryBytes),
        format!("free {}", output::shown(As::Size, &host["free"])),
    ]
}

/// `███░░░░░░░ 30%`: what is used of what there is, rounded down; full where a host is short.
fn bar(used: i64, rentable: i64) -> String {
    let percent = match (used, rentable) {
        (0, _) => 0,
        (_, ..=0) => 100,
        (used, rentable) => i64::try_from(i128::from(used) * 100 / i128::from(rentable)).unwrap_or(i64::MAX),
    };
    let full = usize::try_from(percent.clamp(0, 100) * MARKS / 100).unwrap_or(0);
    let empty = usize::try_from(MARKS).unwrap_or(0) - full;
    format!("{}{} {percent:>3}%", "█".repeat(full), "░".repeat(empty))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rack_is_drawn_from_top_to_bottom() {
        let size = |cpu: i64, memory: i64| json!({"cpu_millicores": cpu, "memory_bytes": memory});
        let rack = json!({"rack": "a1", "zone": "z1", "region": "r1", "units": 3, "elevation": [
            {"unit": 3, "host": {"name": "h2", "state": "draining", "node_type": "cm", "nodes": 1,
                "used": size(3_000, 1 << 30), "rentable": size(4_000, 4 << 30), "free": size(1_000, 3 << 30)}},
            {"unit": 2},
            {"unit": 1, "host": {"name": "spare", "state": "joining", "node_type": null, "nodes": 0,
                "used": size(0, 0), "rentable": size(0, 0), "free": size(0, 0)}},
        ]});
        assert_eq!(
            draw(&rack),
            "rack a1 of zone z1, region r1: 3 units, 2 hosts\n\
             ┌─────┬─────────────────────────────────────────────────────────────────────────────────────────────────────┐\n\
             │   3 │ h2     draining  cm  1 node   cpu ███████░░░  75%  memory ██░░░░░░░░  25%  free 1 cpu, 3 GiB memory │\n\
             │   2 │                                                                                                     │\n\
             │   1 │ spare  joining   -   0 nodes  cpu ░░░░░░░░░░   0%  memory ░░░░░░░░░░   0%  free nothing             │\n\
             └─────┴─────────────────────────────────────────────────────────────────────────────────────────────────────┘\n"
        );
        let empty = json!({"rack": "a1", "zone": "z1", "region": "r1", "units": 1, "elevation": [{"unit": 1}]});
        assert!(draw(&empty).contains("│   1 │          │\n"), "{}", draw(&empty));
    }

    #[test]
    fn bars_hold_at_the_edges() {
        assert_eq!(bar(i64::MAX, 1), format!("{} {}%", "█".repeat(10), i64::MAX));
        assert_eq!(bar(5, -1), format!("{} 100%", "█".repeat(10)));
        assert_eq!(bar(1 << 57, 1 << 57), format!("{} 100%", "█".repeat(10)));
    }
}
