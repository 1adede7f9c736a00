//! The usage report, as JSON and as CSV.

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use yiqiu_base::{Principal, Problem, http::Params, name::shown};

use super::people::ProjectView;
use crate::{
    Service, instant,
    model::Actual,
    report::{ByPower, Figures, Finding, Holder, Item, Report, Reserved, csv},
    service::{Audited, Period, ProjectReport},
};

/// Which report.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReportQuery {
    /// The project, by name or id; that of the token if not said.
    project: Option<String>,
    /// The first moment: milliseconds since 1970 or RFC 3339; the minute in which the project was made if not said.
    from: Option<String>,
    /// The moment after the last; now if not said.
    to: Option<String>,
    /// `json` (if not said) or `csv`.
    format: Option<String>,
}

/// What a project reserved and used in a period.
///
/// What may be more than 2^53 is a string of decimal digits. Time in power states and what was reserved are exact to
/// the millisecond. What was measured is exact to the minute: a sample counts in the minute that its end lies in, a
/// minute in the period that its first millisecond lies in.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReportView {
    project: ProjectView,
    /// The first millisecond, since 1970.
    from_ms: i64,
    /// The first millisecond after it.
    to_ms: i64,
    /// When the report was made: what is open counts up to here.
    now_ms: i64,
    /// Each component, and each node that the project leased itself.
    items: Vec<ItemView>,
    /// The sums.
    totals: FiguresView,
    /// What the findings of the items rest on.
    audit: AuditedView,
}

/// How far the findings of a report can be relied on.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditedView {
    /// When the newest audit of every host ended; absent if none has, or if it could not be asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    at_ms: Option<i64>,
    /// Why findings may be missing; empty if none are.
    unknown: String,
}

/// What is known to be amiss now with the line that a component or node has.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageFinding)]
pub(super) struct FindingView {
    /// `ghost` (claimed, not there), `over` (uses more than its claim), `unknown` (its host did not answer), `ledger`
    /// (two ledgers differ).
    kind: String,
    /// Which tier says it.
    tier: &'static str,
    /// When it was found.
    at_ms: i64,
    /// On which host; empty where it is not about a host.
    host_name: String,
    /// What is wrong, in a sentence.
    detail: String,
}

impl From<Finding> for FindingView {
    fn from(finding: Finding) -> Self {
        let Finding { kind, tier, at_ms, host_name, detail } = finding;
        Self { kind, tier, at_ms, host_name, detail }
    }
}

/// One component or node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ItemView {
    /// `component`, or `node` for a node that the project leased itself.
    kind: &'static str,
    /// Of the component, or of the line that holds the node.
    id: Uuid,
    name: String,
    /// The name of the CContract; empty for a node.
    contract: String,
    /// Of the CContract or the RContract.
    contract_id: Uuid,
    #[serde(flatten)]
    figures: FiguresView,
    /// What is known to be amiss with it now.
    findings: Vec<FindingView>,
}

/// Preset and actual, side by side.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FiguresView {
    /// Milliseconds of claims while on.
    on_ms: i64,
    /// Milliseconds of claims while off.
    off_ms: i64,
    /// Milliseconds of claims while hibernated.
    hibernated_ms: i64,
    /// What was reserved, by power state.
    preset: PresetView,
    /// What was measured.
    actual: ActualView,
}

/// What was reserved, by power state.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PresetView {
    on: ReservedView,
    off: ReservedView,
    hibernated: ReservedView,
}

/// Amounts times milliseconds; each a string of decimal digits.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReservedView {
    cpu_millicore_ms: String,
    memory_byte_ms: String,
    disk_byte_ms: String,
    disk_iops_ms: String,
}

/// What was measured; each a string of decimal digits.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ActualView {
    /// Nanoseconds of processor time.
    cpu_ns: String,
    /// Memory in use over time.
    memory_byte_ms: String,
    net_rx_bytes: String,
    net_tx_bytes: String,
    block_read_bytes: String,
    block_write_bytes: String,
}

impl From<Reserved> for ReservedView {
    fn from(reserved: Reserved) -> Self {
        let Reserved { cpu_millicore_ms, memory_byte_ms, disk_byte_ms, disk_iops_ms } = reserved;
        Self {
            cpu_millicore_ms: cpu_millicore_ms.to_string(),
            memory_byte_ms: memory_byte_ms.to_string(),
            disk_byte_ms: disk_byte_ms.to_string(),
            disk_iops_ms: disk_iops_ms.to_string(),
        }
    }
}

impl From<Actual> for ActualView {
    fn from(actual: Actual) -> Self {
        let Actual { cpu_ns, memory_byte_ms, net_rx_bytes, net_tx_bytes, block_read_bytes, block_write_bytes } = actual;
        Self {
            cpu_ns: cpu_ns.to_string(),
            memory_byte_ms: memory_byte_ms.to_string(),
            net_rx_bytes: net_rx_bytes.to_string(),
            net_tx_bytes: net_tx_bytes.to_string(),
            block_read_bytes: block_read_bytes.to_string(),
            block_write_bytes: block_write_bytes.to_string(),
        }
    }
}

impl From<Figures> for FiguresView {
    fn from(figures: Figures) -> Self {
        let Figures { power_ms, preset, actual } = figures;
        // Claims times time: 2^63 ms would be millions of lines for a century.
        let ms = |ms: i128| i64::try_from(ms).unwrap_or(i64::MAX);
        let ByPower { on, off, hibernated } = power_ms;
        let (on_ms, off_ms, hibernated_ms) = (ms(on), ms(off), ms(hibernated));
        let ByPower { on, off, hibernated } = preset;
        let preset = PresetView { on: on.into(), off: off.into(), hibernated: hibernated.into() };
        Self { on_ms, off_ms, hibernated_ms, preset, actual: actual.into() }
    }
}

impl From<Item> for ItemView {
    fn from(item: Item) -> Self {
        let Item { holder, figures, findings } = item;
        let Holder { kind, id, name, contract, contract_name } = holder;
        let kind = kind.as_str();
        Self {
            kind,
            id,
            name,
            contract: contract_name,
            contract_id: contract,
            figures: figures.into(),
            findings: findings.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<ProjectReport> for ReportView {
    fn from(report: ProjectReport) -> Self {
        let ProjectReport { project, report, audited: Audited { at_ms, unknown } } = report;
        let Report { from_ms, to_ms, now_ms, items, totals } = report;
        let items = items.into_iter().map(Into::into).collect();
        Self {
            project: project.into(),
            from_ms,
            to_ms,
            now_ms,
            items,
            totals: totals.into(),
            audit: AuditedView { at_ms, unknown },
        }
    }
}

/// Report the usage of a project
///
/// Each component with preset and actual side by side. Ops may ask for any project, a tenant for its own.
#[utoipa::path(get, path = "/v1/usage/report", tag = "projects", params(ReportQuery),
    responses((status = 200, content((ReportView = "application/json"), (String = "text/csv"))),
        (status = "4XX", body = Problem)))]
pub(super) async fn usage_report(
    State(service): State<Service>,
    who: Principal,
    Params(query): Params<ReportQuery>,
) -> Result<Response, Problem> {
    let ReportQuery { project, from, to, format } = query;
    let as_csv = match format.as_deref() {
        None | Some("json") => false,
        Some("csv") => true,
        Some(other) => {
            return Err(Problem::invalid(format!("`{}` is not a format: expected json or csv", shown(other))));
        }
    };
    let moment = |field: &str, text: Option<String>| text.map(|text| instant::parse(field, &text)).transpose();
    let period = Period { from_ms: moment("from", from)?, to_ms: moment("to", to)? };
    let report = service.usage_report(&who, project.as_deref(), period).await?;
    if !as_csv {
        return Ok(Json(ReportView::from(report)).into_response());
    }
    let text = csv::csv(&report.project.name, &report.report)?;
    let file = format!("attachment; filename=\"usage-{}.csv\"", report.project.name);
    let headers = [(header::CONTENT_TYPE, "text/csv; charset=utf-8"), (header::CONTENT_DISPOSITION, file.as_str())];
    Ok((headers, text).into_response())
}
