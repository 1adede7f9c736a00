//! Pools of hosts.

use std::collections::HashMap;

use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, Set};
use yiqiu_base::{
    Code, Id, Problem, Size,
    clock::Ms,
    database::{is_duplicate, is_reference, places, sql},
    http::Paging,
    id::{Kind, Pool},
    idempotency::{self, Key},
    outbox::NewEvent,
};
use yiqiu_proto::resources::PlaceChanged;

use super::{Store, area::place, stale};
use crate::model::PoolModel;

mod row {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "pool")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub name: String,
        pub generation: i64,
        pub created_ms: i64,
        pub description: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

impl From<row::Model> for PoolModel {
    fn from(row::Model { id, name, generation, created_ms, description }: row::Model) -> Self {
        Self { id: id.into(), name, description, generation, created_ms }
    }
}

impl From<&PoolModel> for row::ActiveModel {
    fn from(model: &PoolModel) -> Self {
        let PoolModel { id, name, description, generation, created_ms } = model.clone();
        Self {
            id: Set(id.uuid()),
            name: Set(name),
            generation: Set(generation),
            created_ms: Set(created_ms),
            description: Set(description),
        }
    }
}

use row as pool; // its events are named by this word
place!(pool, Pool, PoolModel, pool_insert, pool_get, pool_list, pool_delete, "hosts");

/// What the hosts of a pool have together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolSum {
    /// How many there are.
    pub hosts: i64,
    /// How many nodes they carry.
    pub nodes: i64,
    /// What claims could hold in all.
    pub rentable: Size,
    /// What they hold.
    pub used: Size,
}

#[derive(FromQueryResult)]
struct HostOfPool {
    pool_id: uuid::Uuid,
    nodes: i64,
    rentable_cpu: i64,
    rentable_memory: i64,
    rentable_disk: i64,
    rentable_iops: i64,
    used_cpu: i64,
    used_memory: i64,
    used_disk: i64,
    used_iops: i64,
}

impl Store {
    /// Writes a new name or description, if the pool is still at the generation before. Returns it as it is then.
    pub async fn pool_change(&self, after: PoolModel, now: Ms) -> Result<PoolModel, Problem> {
        let mut transaction = self.database.begin().await?;
        let updated = transaction
            .execute_raw(sql(
                self.database.backend(),
                "UPDATE pool SET name = ?, description = ?, generation = generation + 1 WHERE id = ? AND generation = ?",
                [
                    after.name.as_str().into(),
                    after.description.as_str().into(),
                    after.id.uuid().into(),
                    after.generation.into(),
                ],
            ))
            .await;
        match updated {
            Ok(result) if result.rows_affected() == 1 => {
                let told = PlaceChanged { id: after.id.to_string(), name: after.name.clone() };
                transaction.emit(NewEvent::new(now, "pool.changed", "", after.id, &told));
                transaction.commit().await?;
            }
            Ok(_) => {
                drop(transaction); // its connection may be the last one
                let is = self.pool_get(&after.id.to_string()).await?;
                return Err(stale("pool", &is.name, after.generation, is.generation));
            }
            Err(error) if is_duplicate(&error) => {
                return Err(Problem::new(Code::AlreadyExists, format!("there is already a pool `{}`", after.name)));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(PoolModel { generation: after.generation + 1, ..after })
    }

    /// The names of all pools.
    pub async fn pool_names(&self) -> Result<HashMap<Id<Pool>, String>, Problem> {
        let pools = row::Entity::find().all(self.database.read()).await?;
        Ok(pools.into_iter().map(|pool| (pool.id.into(), pool.name)).collect())
    }

    /// What the hosts of these pools have. Summed here, where a sum stays at the edge of 64 bits.
    pub async fn pool_sums(&self, pools: &[Id<Pool>]) -> Result<HashMap<Id<Pool>, PoolSum>, Problem> {
        let mut sums: HashMap<Id<Pool>, PoolSum> = HashMap::with_capacity(pools.len());
        let text = format!(
            "SELECT pool_id, nodes, rentable_cpu, rentable_memory, rentable_disk, rentable_iops, used_cpu, \
             used_memory, used_disk, used_iops FROM host WHERE pool_id IN ({})",
            places(pools.len())
        );
        if pools.is_empty() {
            return Ok(sums);
        }
        let statement = sql(self.database.backend(), &text, pools.iter().map(|id| id.uuid().into()));
        for host in HostOfPool::find_by_statement(statement).all(self.database.read()).await? {
            let HostOfPool {
                pool_id,
                nodes,
                rentable_cpu,
                rentable_memory,
                rentable_disk,
                rentable_iops,
                used_cpu,
                used_memory,
                used_disk,
                used_iops,
            } = host;
            let size = |cpu_millicores, memory_bytes, disk_bytes, disk_iops| Size {
                cpu_millicores,
                memory_bytes,
                disk_bytes,
                disk_iops,
            };
            let sum = sums.entry(pool_id.into()).or_default();
            sum.hosts += 1;
            sum.nodes += nodes;
            sum.rentable = sum.rentable.plus(size(rentable_cpu, rentable_memory, rentable_disk, rentable_iops));
            sum.used = sum.used.plus(size(used_cpu, used_memory, used_disk, used_iops));
        }
        Ok(sums)
    }
}
