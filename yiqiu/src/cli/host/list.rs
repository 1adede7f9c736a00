//! `host list`: which hosts, and in which order.

use clap::Args;
use yiqiu_base::size::{parse_bytes, parse_thousandths};

use super::HOST;
use crate::cli::{
    Session,
    failure::Outcome,
    output::{self, As, Column},
};

/// Flags of `yiqiu host list`.
#[derive(Debug, Args)]
pub struct List {
    /// Only in this state, such as online or draining.
    #[arg(long)]
    state: Option<String>,
    /// Only in this region, by name or id.
    #[arg(long)]
    region: Option<String>,
    /// Only in this zone, by name or id.
    #[arg(long)]
    zone: Option<String>,
    /// Only in this rack, by name or id.
    #[arg(long)]
    rack: Option<String>,
    /// Only in this pool, by name or id.
    #[arg(long)]
    pool: Option<String>,
    /// Only what is cut like this: cm, vm or bm.
    #[arg(long)]
    node_type: Option<String>,
    /// Only with all of these labels, such as env=prod,ssd.
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Option<String>,
    /// Only with all of these features, such as kvm,arch=x86_64.
    #[arg(long, value_name = "KEY[=VALUE]")]
    feature: Option<String>,
    /// Only with at least so many processors free.
    #[arg(long, value_name = "CORES", value_parser = parse_thousandths)]
    free_cpu: Option<i64>,
    /// Only with at least so much memory free.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    free_memory: Option<i64>,
    /// Only with at least so much disk free.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    free_disk: Option<i64>,
    /// Only with at least so many disk operations a second free.
    #[arg(long, value_name = "N")]
    free_iops: Option<i64>,
    /// By what to order: name, free_cpu, free_memory, free_disk, free_iops, nodes or created.
    #[arg(long, value_name = "WHAT", default_value = "name")]
    sort: String,
    /// The greatest first.
    #[arg(long)]
    descending: bool,
    /// Shows labels as well.
    #[arg(long)]
    show_labels: bool,
}

/// Carries out `yiqiu host list`.
pub(super) async fn run(session: &Session, list: List) -> Outcome {
    let List {
        state,
        region,
        zone,
        rack,
        pool,
        node_type,
        label,
        feature,
        free_cpu,
        free_memory,
        free_disk,
        free_iops,
        sort,
        descending,
        show_labels,
    } = list;
    let number = |n: Option<i64>| n.map(|n| n.to_string());
    let asked: Vec<(&str, String)> = [
        ("state", state),
        ("region", region),
        ("zone", zone),
        ("rack", rack),
        ("pool", pool),
        ("node_type", node_type),
        ("label", label),
        ("feature", feature),
        ("free_cpu_millicores", number(free_cpu)),
        ("free_memory_bytes", number(free_memory)),
        ("free_disk_bytes", number(free_disk)),
        ("free_disk_iops", number(free_iops)),
        ("sort", Some(sort)),
        ("descending", descending.then(|| "true".to_owned())),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key, value?)))
    .collect();
    let query: Vec<(&str, &str)> = asked.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let hosts = session.client.all(HOST.tier, &[HOST.path], &query).await?;
    let mut columns = HOST.columns.to_vec();
    if show_labels {
        columns.push(Column("LABELS", &["/labels"], As::Pairs));
    }
    output::list(session.format, &columns, &hosts)
}
