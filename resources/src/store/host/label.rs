//! Labels that ops set on hosts, and features that agents found.

use std::collections::HashMap;

use sea_orm::{ConnectionTrait, FromQueryResult};
use yiqiu_base::{
    Id, Problem,
    database::{Transaction, insert_rows, places, sql},
    id::Host,
};

use crate::{model::Labels, store::Store};

#[derive(FromQueryResult)]
struct LabelRow {
    host_id: uuid::Uuid,
    found: bool,
    key: String,
    value: String,
}

/// The labels and the features of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostLabels {
    /// What ops set.
    pub labels: Labels,
    /// What its agent found.
    pub features: Labels,
}

impl Store {
    /// Labels and features of these hosts; a host without any is left out.
    pub async fn host_labels(&self, hosts: &[Id<Host>]) -> Result<HashMap<Id<Host>, HostLabels>, Problem> {
        let mut all: HashMap<Id<Host>, HostLabels> = HashMap::with_capacity(hosts.len());
        for chunk in hosts.chunks(1_000) {
            let text =
                format!("SELECT host_id, found, key, value FROM host_label WHERE host_id IN ({})", places(chunk.len()));
            let statement = sql(self.database.backend(), &text, chunk.iter().map(|id| id.uuid().into()));
            for LabelRow { host_id, found, key, value } in
                LabelRow::find_by_statement(statement).all(self.database.read()).await?
            {
                let of = all.entry(host_id.into()).or_default();
                if found { &mut of.features } else { &mut of.labels }.insert(key, value);
            }
        }
        Ok(all)
    }
}

/// The labels of a host (`found`: its features), as a transaction sees them.
pub(super) async fn labels_of(transaction: &Transaction, host: Id<Host>, found: bool) -> Result<Labels, Problem> {
    let text = "SELECT host_id, found, key, value FROM host_label WHERE host_id = ? AND found = ?";
    let statement = sql(transaction.get_database_backend(), text, [host.uuid().into(), found.into()]);
    let rows = LabelRow::find_by_statement(statement).all(&**transaction).await?;
    Ok(rows.into_iter().map(|LabelRow { host_id: _, found: _, key, value }| (key, value)).collect())
}

/// Makes these the labels of a host (`found`: its features).
pub(super) async fn labels_set(
    transaction: &Transaction,
    host: Id<Host>,
    found: bool,
    labels: &Labels,
) -> Result<(), Problem> {
    let text = "DELETE FROM host_label WHERE host_id = ? AND found = ?";
    transaction.execute_raw(sql(transaction.get_database_backend(), text, [host.uuid().into(), found.into()])).await?;
    let row = |(key, value): (&String, &String)| {
        vec![host.uuid().into(), found.into(), key.as_str().into(), value.as_str().into()]
    };
    let rows = labels.iter().map(row).collect();
    Ok(insert_rows(transaction, "host_label", &["host_id", "found", "key", "value"], rows).await?)
}
