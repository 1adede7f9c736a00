//! The report as CSV (RFC 4180), for spreadsheets: a row a component or node, and the sums in a last row of the kind
//! `total`.

use yiqiu_base::{Problem, clock::Ms};

use super::{ByPower, Figures, Holder, Report, Reserved};
use crate::model::Actual;

const HEADER: [&str; 30] = [
    "project",
    "from_ms",
    "to_ms",
    "kind",
    "id",
    "name",
    "contract_id",
    "contract_name",
    "on_ms",
    "off_ms",
    "hibernated_ms",
    "on_cpu_millicore_ms",
    "on_memory_byte_ms",
    "on_disk_byte_ms",
    "on_disk_iops_ms",
    "off_cpu_millicore_ms",
    "off_memory_byte_ms",
    "off_disk_byte_ms",
    "off_disk_iops_ms",
    "hibernated_cpu_millicore_ms",
    "hibernated_memory_byte_ms",
    "hibernated_disk_byte_ms",
    "hibernated_disk_iops_ms",
    "actual_cpu_ns",
    "actual_memory_byte_ms",
    "actual_net_rx_bytes",
    "actual_net_tx_bytes",
    "actual_block_read_bytes",
    "actual_block_write_bytes",
    "findings",
];

/// Writes the report of the project of this name.
pub fn csv(project: &str, report: &Report) -> Result<String, Problem> {
    let Report { from_ms, to_ms, now_ms: _, items, totals } = report;
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(HEADER).map_err(Problem::internal)?;
    for item in items {
        let Holder { kind, id, name, contract, contract_name } = &item.holder;
        let named = [kind.as_str(), &id.to_string(), name, &contract.to_string(), contract_name].map(str::to_owned);
        let found: Vec<String> = item.findings.iter().map(|f| format!("{}: {}", f.kind, f.detail)).collect();
        writer
            .write_record(row(project, *from_ms, *to_ms, named, &item.figures, &found.join("; ")))
            .map_err(Problem::internal)?;
    }
    let named = ["total", "", "", "", ""].map(str::to_owned);
    writer.write_record(row(project, *from_ms, *to_ms, named, totals, "")).map_err(Problem::internal)?;
    let bytes = writer.into_inner().map_err(Problem::internal)?;
    String::from_utf8(bytes).map_err(Problem::internal)
}

fn row(project: &str, from_ms: Ms, to_ms: Ms, named: [String; 5], figures: &Figures, found: &str) -> Vec<String> {
    let Figures { power_ms, preset, actual } = figures;
    let mut row = vec![safe(project), from_ms.to_string(), to_ms.to_string()];
    row.extend(named.iter().map(|cell| safe(cell)));
    let ByPower { on, off, hibernated } = power_ms;
    row.extend([on, off, hibernated].map(ToString::to_string));
    let ByPower { on, off, hibernated } = preset;
    for reserved in [on, off, hibernated] {
        let Reserved { cpu_millicore_ms, memory_byte_ms, disk_byte_ms, disk_iops_ms } = reserved;
        row.extend([cpu_millicore_ms, memory_byte_ms, disk_byte_ms, disk_iops_ms].map(ToString::to_string));
    }
    let Actual { cpu_ns, memory_byte_ms, net_rx_bytes, net_tx_bytes, block_read_bytes, block_write_bytes } = actual;
    row.extend(
        [cpu_ns, memory_byte_ms, net_rx_bytes, net_tx_bytes, block_read_bytes, block_write_bytes]
            .map(ToString::to_string),
    );
    row.push(safe(found));
    row
}

/// A text cell that no spreadsheet takes for a formula: one that begins as a formula does gets a `'` in front.
pub fn safe(cell: &str) -> String {
    match cell.chars().next() {
        Some('=' | '+' | '-' | '@' | '\t' | '\r' | '\n') => format!("'{cell}"),
        Some(_) | None => cell.to_owned(),
    }
}
