//! What is seen of hosts: their agents come and go, and say what their machines have.

use sea_orm::{ConnectionTrait, FromQueryResult};
use yiqiu_base::{
    Id, NodeType, Problem, Size,
    clock::Ms,
    database::{Transaction, sql},
    id::Host,
};

use super::{
    changed, host_locked,
    label::{labels_of, labels_set},
};
use crate::{
    lifecycle::{agent_refused, seen_after},
    model::{DriverStatus, HostModel, HostSeen, HostState, HostWish, Labels},
    store::{
        Store,
        rows::{HOST, HostRow, models},
    },
};

impl Store {
    /// Records that an agent connected or was lost, and what it said; `permission_denied` to that of a retired host.
    pub async fn host_seen(
        &self,
        id: Id<Host>,
        connected: bool,
        facts: Option<&HostFacts>,
        now: Ms,
    ) -> Result<(), Problem> {
        let mut transaction = self.database.begin().await?;
        let backend = self.database.backend();
        // Read here: what ops wish and how they cut it may have been decided after this agent connected.
        let Some(host) = host_locked(&transaction, &[id]).await?.pop() else { return Ok(()) };
        if connected && host.wish == HostWish::Retired {
            return Err(agent_refused(&host));
        }
        if let Some(facts) = facts {
            let drivers = serde_json::to_string(&facts.drivers).map_err(Problem::internal)?;
            transaction
                .execute_raw(sql(
                    backend,
                    "UPDATE host SET boot_id = ?, drivers = ?, clock_mhz = ? WHERE id = ?",
                    [facts.boot_id.as_str().into(), drivers.into(), facts.clock_mhz.into(), host.id.uuid().into()],
                ))
                .await?;
            let capacity = facts.capacity;
            transaction
                .execute_raw(sql(
                    backend,
                    "UPDATE host SET machine_cpu = ?, machine_memory = ?, machine_disk = ?, machine_iops = ? \
                     WHERE id = ?",
                    [
                        capacity.cpu_millicores.into(),
                        capacity.memory_bytes.into(),
                        capacity.disk_bytes.into(),
                        capacity.disk_iops.into(),
                        host.id.uuid().into(),
                    ],
                ))
                .await?;
            if labels_of(&transaction, host.id, true).await? != facts.features {
                labels_set(&transaction, host.id, true, &facts.features).await?;
            }
            if let Some(node_type) = host.node_type {
                overheads_follow(&transaction, host.id, &facts.drivers, node_type).await?;
            }
        }
        let seen = seen_after(host.seen, connected);
        if seen != host.seen {
            let text = "UPDATE host SET seen = ?, last_seen_ms = ? WHERE id = ?";
            let values = [seen.as_str().into(), now.into(), host.id.uuid().into()];
            transaction.execute_raw(sql(backend, text, values)).await?;
            let detail = if connected { "its agent connected" } else { "its agent is lost" };
            changed(&mut transaction, now, host.id, &host.name, HostState::of(host.wish, seen), detail);
        }
        Ok(transaction.commit().await?)
    }

    /// At start no agent is connected: whoever was online is unreachable until it dials again.
    pub async fn host_all_lost(&self, now: Ms) -> Result<(), Problem> {
        let mut transaction = self.database.begin().await?;
        let text = "UPDATE host SET seen = 'lost' WHERE seen = 'connected' RETURNING id, name, wish";
        for row in transaction.query_all_raw(sql(self.database.backend(), text, [])).await? {
            let (id, name): (uuid::Uuid, String) = (row.try_get("", "id")?, row.try_get("", "name")?);
            let wish = HostWish::parse(&row.try_get::<String>("", "wish")?)?;
            let state = HostState::of(wish, HostSeen::Lost);
            changed(&mut transaction, now, id.into(), &name, state, "the server started anew");
        }
        Ok(transaction.commit().await?)
    }

    /// Every host whose agent is shown as connected.
    pub async fn host_connected(&self) -> Result<Vec<HostModel>, Problem> {
        let text = format!("SELECT {HOST} FROM host WHERE seen = 'connected'");
        let statement = sql(self.database.backend(), &text, []);
        Ok(models(HostRow::find_by_statement(statement).all(self.database.read()).await?)?)
    }
}

/// Takes over what a driver estimates its cut to cost. While nodes stand on a host, the books keep to the old estimate:
/// what their claims were counted with is what their end gives back.
pub(super) async fn overheads_follow(
    transaction: &Transaction,
    host: Id<Host>,
    drivers: &[DriverStatus],
    node_type: NodeType,
) -> Result<(), Problem> {
    let Some(driver) = drivers.iter().find(|d| d.node_type == node_type) else { return Ok(()) };
    let (fixed, per_node) = (driver.overhead_fixed, driver.overhead_per_node);
    transaction
        .execute_raw(sql(
            transaction.get_database_backend(),
            "UPDATE host SET overhead_cpu = ?, overhead_memory = ?, overhead_disk = ?, overhead_iops = ?, \
             node_overhead_cpu = ?, node_overhead_memory = ?, node_overhead_disk = ?, node_overhead_iops = ? \
             WHERE id = ? AND nodes = 0",
            [
                fixed.cpu_millicores.into(),
                fixed.memory_bytes.into(),
                fixed.disk_bytes.into(),
                fixed.disk_iops.into(),
                per_node.cpu_millicores.into(),
                per_node.memory_bytes.into(),
                per_node.disk_bytes.into(),
                per_node.disk_iops.into(),
                host.uuid().into(),
            ],
        ))
        .await?;
    Ok(())
}

/// What an agent says of its machine.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// Changes when the machine boots.
    pub boot_id: String,
    /// What it has.
    pub capacity: Size,
    /// The clock of its processors.
    pub clock_mhz: i64,
    /// What can run on it.
    pub drivers: Vec<DriverStatus>,
    /// What it can, as words.
    pub features: Labels,
}
