//! Which hosts, and in which order.

use sea_orm::{FromQueryResult, Value};
use yiqiu_base::{
    Id, NodeType, Problem, Size,
    database::sql,
    http::Paging,
    id::{Pool, Rack, Region, Zone},
    size::Dimension,
    words,
};

use crate::{
    model::{HostModel, HostState, Selector},
    store::{
        Store,
        rows::{HOST, HostRow, models},
    },
};

/// Which hosts to list: what is `None`, zero or empty does not matter.
#[derive(Debug, Clone, Default)]
pub struct HostFilter {
    /// In this state.
    pub state: Option<HostState>,
    /// In this region.
    pub region: Option<Id<Region>>,
    /// In this zone.
    pub zone: Option<Id<Zone>>,
    /// In this rack.
    pub rack: Option<Id<Rack>>,
    /// In this pool.
    pub pool: Option<Id<Pool>>,
    /// Cut like this.
    pub node_type: Option<NodeType>,
    /// With all of these labels.
    pub labels: Vec<Selector>,
    /// With all of these features.
    pub features: Vec<Selector>,
    /// With at least this much free.
    pub free: Size,
}

words! {
    /// What hosts are ordered by.
    HostSort, "order of hosts" {
        /// Their names.
        Name = "name",
        /// Free processors.
        FreeCpu = "free_cpu",
        /// Free memory.
        FreeMemory = "free_memory",
        /// Free disk.
        FreeDisk = "free_disk",
        /// Free disk operations.
        FreeIops = "free_iops",
        /// How many nodes they carry.
        Nodes = "nodes",
        /// When they were made.
        Created = "created",
    }
}

/// In which order.
#[derive(Debug, Clone, Copy)]
pub struct HostOrder {
    /// By what. Hosts that are equal in it are in the order of their names.
    pub by: HostSort,
    /// The greatest first.
    pub descending: bool,
}

impl HostOrder {
    /// The number that it goes by; `None`: the name.
    fn column(self) -> Option<&'static str> {
        match self.by {
            HostSort::Name => None,
            HostSort::FreeCpu => Some("(host.rentable_cpu - host.used_cpu)"),
            HostSort::FreeMemory => Some("(host.rentable_memory - host.used_memory)"),
            HostSort::FreeDisk => Some("(host.rentable_disk - host.used_disk)"),
            HostSort::FreeIops => Some("(host.rentable_iops - host.used_iops)"),
            HostSort::Nodes => Some("host.nodes"),
            HostSort::Created => Some("host.created_ms"),
        }
    }

    /// Where a page that ends with this host ends: the next one begins after it, wherever it stands by then.
    pub fn cursor(self, host: &HostModel) -> String {
        let free = host.free();
        let number = match self.by {
            HostSort::Name => return host.name.clone(),
            HostSort::FreeCpu => free.cpu_millicores,
            HostSort::FreeMemory => free.memory_bytes,
            HostSort::FreeDisk => free.disk_bytes,
            HostSort::FreeIops => free.disk_iops,
            HostSort::Nodes => host.nodes,
            HostSort::Created => host.created_ms,
        };
        format!("{number}.{}", host.name)
    }

    fn after(self, cursor: &str) -> Result<(Option<i64>, &str), Problem> {
        let wrong = || Problem::invalid("the cursor is not of a list of hosts in this order: begin without one");
        match (self.column(), cursor.split_once('.')) {
            (None, None) => Ok((None, cursor)),
            (Some(_), Some((number, name))) => Ok((Some(number.parse().map_err(|_| wrong())?), name)),
            (None, Some(_)) | (Some(_), None) => Err(wrong()),
        }
    }
}

/// Conditions with their values, in order.
#[derive(Default)]
struct Conditions {
    texts: Vec<String>,
    values: Vec<Value>,
}

impl Conditions {
    fn add(&mut self, text: impl Into<String>, values: impl IntoIterator<Item = Value>) {
        self.texts.push(text.into());
        self.values.extend(values);
    }

    fn of(filter: &HostFilter) -> Self {
        let HostFilter { state, region, zone, rack, pool, node_type, labels, features, free } = filter;
        let mut all = Self::default();
        if let Some(state) = state {
            all.add("host.state = ?", [state.as_str().into()]);
        }
        if let Some(region) = region {
            let racks = "host.rack_id IN (SELECT rack.id FROM rack JOIN zone ON zone.id = rack.zone_id \
                         WHERE zone.region_id = ?)";
            all.add(racks, [region.uuid().into()]);
        }
        if let Some(zone) = zone {
            all.add("host.rack_id IN (SELECT id FROM rack WHERE zone_id = ?)", [zone.uuid().into()]);
        }
        if let Some(rack) = rack {
            all.add("host.rack_id = ?", [rack.uuid().into()]);
        }
        if let Some(pool) = pool {
            all.add("host.pool_id = ?", [pool.uuid().into()]);
        }
        if let Some(node_type) = node_type {
            all.add("host.node_type = ?", [node_type.as_str().into()]);
        }
        for (found, selectors) in [(false, labels), (true, features)] {
            for Selector { key, value } in selectors {
                let also = if value.is_some() { " AND value = ?" } else { "" };
                let text = format!("host.id IN (SELECT host_id FROM host_label WHERE found = ? AND key = ?{also})");
                all.add(text, [found.into(), key.as_str().into()]);
                all.values.extend(value.as_deref().map(Value::from));
            }
        }
        for (d, column) in Dimension::ALL.into_iter().zip(["cpu", "memory", "disk", "iops"]) {
            if free.get(d) > 0 {
                all.add(format!("host.rentable_{column} - host.used_{column} >= ?"), [free.get(d).into()]);
            }
        }
        all
    }
}

impl Store {
    /// A page of those that pass, in order.
    pub async fn host_list(
        &self,
        filter: &HostFilter,
        order: HostOrder,
        paging: &Paging,
    ) -> Result<Vec<HostModel>, Problem> {
        let mut conditions = Conditions::of(filter);
        let (beyond, direction) = if order.descending { ("<", "DESC") } else { (">", "ASC") };
        if let Some(cursor) = &paging.cursor {
            match (order.column(), order.after(cursor)?) {
                (Some(column), (Some(number), name)) => conditions.add(
                    format!("({column} {beyond} ? OR ({column} = ? AND host.name > ?))"),
                    [number.into(), number.into(), name.into()],
                ),
                (_, (_, name)) => conditions.add(format!("host.name {beyond} ?"), [name.into()]),
            }
        }
        let order = match order.column() {
            Some(column) => format!("{column} {direction}, host.name"),
            None => format!("host.name {direction}"),
        };
        let Conditions { texts, mut values } = conditions;
        let which = if texts.is_empty() { String::new() } else { format!("WHERE {} ", texts.join(" AND ")) };
        values.push(i64::try_from(paging.limit()).unwrap_or(i64::MAX).into());
        let text = format!("SELECT {HOST} FROM host {which}ORDER BY {order} LIMIT ?");
        let statement = sql(self.database.backend(), &text, values);
        Ok(models(HostRow::find_by_statement(statement).all(self.database.read()).await?)?)
    }
}
