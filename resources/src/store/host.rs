//! Hosts, their join tokens and what their agents say of them.

mod drain;
mod label;
mod list;
mod seen;
mod wish;

use sea_orm::{ConnectionTrait, FromQueryResult};
use yiqiu_base::{
    Code, Id, NodeType, Problem,
    clock::Ms,
    database::{Transaction, is_duplicate, is_reference, places, sql},
    id::{Host, Rack},
    idempotency::{self, Key},
    outbox::NewEvent,
    secret::Secret,
};
use yiqiu_proto::resources::HostChanged;

pub use self::{
    drain::{DrainLeft, Holder},
    label::HostLabels,
    list::{HostFilter, HostOrder, HostSort},
    seen::HostFacts,
};
use self::{
    label::{labels_of, labels_set},
    seen::overheads_follow,
};
use super::{
    Store,
    rows::{HOST, HostRow, models},
    stale,
};
use crate::{
    lifecycle::host_changed,
    model::{Area, HostChange, HostModel, HostState, Labels, Limit, labels_changed},
};

/// A host to add.
#[derive(Debug, Clone)]
pub struct NewHost {
    /// Its id.
    pub id: Id<Host>,
    /// Unique among hosts.
    pub name: String,
    /// Where it stands, if that is known.
    pub area: Option<Area>,
    /// How it is cut, if that is known.
    pub node_type: Option<NodeType>,
    /// What ops lower its capacity to, whatever its agent will say.
    pub limit: Limit,
}

/// A host with the names of where it stands, for lists and the scheduler.
#[derive(FromQueryResult)]
struct PlaceRow {
    rack_id: uuid::Uuid,
    rack: String,
    zone_id: uuid::Uuid,
    zone: String,
    region_id: uuid::Uuid,
    region: String,
}

/// The names of a place, from the rack up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Name and id of the rack.
    pub rack: (String, String),
    /// Name and id of the zone.
    pub zone: (String, String),
    /// Name and id of the region.
    pub region: (String, String),
}

impl Store {
    /// Adds a host with a join token; `already_exists` if the name or the unit is taken.
    pub async fn host_insert(
        &self,
        new: &NewHost,
        token: &Secret,
        token_expires_ms: Ms,
        now: Ms,
        key: Option<&Key>,
    ) -> Result<Id<Host>, Problem> {
        let mut transaction = self.database.begin().await?;
        if let Some(key) = key
            && let Some(kept) = idempotency::kept(&*transaction, &[key]).await?.first()
        {
            let first = Id::parse(kept.replay(key)?)?;
            join_token_insert(&transaction, first, token, token_expires_ms).await?;
            transaction.commit().await?;
            return Ok(first);
        }
        let Limit { cpu_millicores, memory_bytes, disk_bytes, disk_iops } = new.limit;
        let backend = self.database.backend();
        let inserted = transaction
            .execute_raw(sql(
                backend,
                "INSERT INTO host (id, name, rack_id, unit, node_type, wish, wish_by, wish_why, wish_ms, seen, clock_mhz, limit_cpu, limit_memory, \
                 limit_disk, limit_iops, created_ms, machine_cpu, machine_memory, machine_disk, machine_iops, \
                 overcommit_cpu, overcommit_memory, overcommit_disk, overcommit_iops, overhead_cpu, overhead_memory, \
                 overhead_disk, overhead_iops, node_overhead_cpu, node_overhead_memory, node_overhead_disk, \
                 node_overhead_iops, used_cpu, used_memory, used_disk, used_iops, nodes, boot_id, drivers, last_seen_ms, \
                 generation) VALUES (?, ?, ?, ?, ?, 'in_service', '', '', 0, 'never', 0, ?, ?, ?, ?, ?, 0, 0, 0, 0, 1000, 1000, 1000, 1000, \
                 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '', '[]', 0, 1)",
                [
                    new.id.uuid().into(),
                    new.name.as_str().into(),
                    new.area.map(|a| a.rack_id.uuid()).into(),
                    new.area.map(|a| a.unit).into(),
                    new.node_type.map(NodeType::as_str).into(),
                    cpu_millicores.into(),
                    memory_bytes.into(),
                    disk_bytes.into(),
                    disk_iops.into(),
                    now.into(),
                ],
            ))
            .await;
        match inserted {
            Ok(_) => {}
            Err(error) if is_duplicate(&error) => return Err(taken(&new.name, new.area)),
            Err(error) => return Err(error.into()),
        }
        join_token_insert(&transaction, new.id, token, token_expires_ms).await?;
        if let Some(key) = key {
            idempotency::keep(&*transaction, &[(key, new.id.to_string())], now).await?;
        }
        changed(&mut transaction, now, new.id, &new.name, HostState::Joining, "added");
        transaction.commit().await?;
        Ok(new.id)
    }

    /// Adds another join token: for a host whose first one expired, or whose agent is set up anew.
    pub async fn host_join_token(&self, host: Id<Host>, token: &Secret, expires_ms: Ms) -> Result<(), Problem> {
        let transaction = self.database.begin().await?;
        join_token_insert(&transaction, host, token, expires_ms).await?;
        Ok(transaction.commit().await?)
    }

    /// The host of a join token that still holds.
    pub async fn host_by_join_token(&self, token: &Secret, now: Ms) -> Result<Option<HostModel>, Problem> {
        let statement = sql(
            self.database.backend(),
            &format!(
                "SELECT {HOST} FROM host JOIN join_token ON join_token.host_id = host.id \
                 WHERE join_token.hash = ? AND join_token.used_ms IS NULL AND join_token.expires_ms > ?"
            ),
            [token.hash().into(), now.into()],
        );
        let row = HostRow::find_by_statement(statement).one(self.database.read()).await?;
        Ok(row.map(TryInto::try_into).transpose()?)
    }

    /// Uses a join token up and gives its host a credential; `join_token_invalid` if it is unknown, used or expired.
    pub async fn host_join(&self, token: &Secret, credential: &Secret, now: Ms) -> Result<HostModel, Problem> {
        let transaction = self.database.begin().await?;
        let row = transaction
            .query_one_raw(sql(
                self.database.backend(),
                "UPDATE join_token SET used_ms = ? WHERE hash = ? AND used_ms IS NULL AND expires_ms > ? \
                 RETURNING host_id",
                [now.into(), token.hash().into(), now.into()],
            ))
            .await?
            .ok_or_else(|| {
                Problem::new(
                    Code::JoinTokenInvalid,
                    "the join token is unknown, was used, or has expired: ask ops for a new one (`yiqiu host join-token`)",
                )
            })?;
        let id: uuid::Uuid = row.try_get("", "host_id")?;
        transaction
            .execute_raw(sql(
                self.database.backend(),
                "UPDATE host SET credential_hash = ? WHERE id = ?",
                [credential.hash().into(), id.into()],
            ))
            .await?;
        // A host that has joined needs no other token that was given out for it.
        transaction
            .execute_raw(sql(
                self.database.backend(),
                "UPDATE join_token SET used_ms = ? WHERE host_id = ? AND used_ms IS NULL",
                [now.into(), id.into()],
            ))
            .await?;
        let host = host_locked(&transaction, &[id.into()]).await?.into_iter().next();
        transaction.commit().await?;
        host.ok_or_else(|| Problem::not_found("host", id))
    }

    /// The host that a credential belongs to; `unauthenticated` if to none.
    pub async fn host_by_credential(&self, credential: &Secret) -> Result<HostModel, Problem> {
        let statement = sql(
            self.database.backend(),
            &format!("SELECT {HOST} FROM host WHERE credential_hash = ?"),
            [credential.hash().into()],
        );
        let row = HostRow::find_by_statement(statement).one(self.database.read()).await?;
        let row =
            row.ok_or_else(|| Problem::new(Code::Unauthenticated, "the agent's credential belongs to no host"))?;
        Ok(row.try_into()?)
    }

    /// By name or id; `not_found` otherwise.
    pub async fn host_get(&self, name_or_id: &str) -> Result<HostModel, Problem> {
        let (column, value): (_, sea_orm::Value) = match name_or_id.parse::<uuid::Uuid>() {
            Ok(id) => ("id", id.into()),
            Err(_) => ("name", name_or_id.into()),
        };
        let text = format!("SELECT {HOST} FROM host WHERE {column} = ?");
        let statement = sql(self.database.backend(), &text, [value]);
        let row = HostRow::find_by_statement(statement).one(self.database.read()).await?;
        Ok(row.ok_or_else(|| Problem::not_found("host", name_or_id))?.try_into()?)
    }

    /// All of them, for the scheduler's snapshot.
    pub async fn host_all(&self) -> Result<Vec<HostModel>, Problem> {
        let statement = sql(self.database.backend(), &format!("SELECT {HOST} FROM host ORDER BY name"), []);
        Ok(models(HostRow::find_by_statement(statement).all(self.database.read()).await?)?)
    }

    /// The place of every rack, by rack.
    pub async fn place_all(&self) -> Result<std::collections::HashMap<Id<Rack>, Place>, Problem> {
        let statement = sql(
            self.database.backend(),
            "SELECT rack.id AS rack_id, rack.name AS rack, zone.id AS zone_id, zone.name AS zone, \
             region.id AS region_id, region.name AS region FROM rack \
             JOIN zone ON zone.id = rack.zone_id JOIN region ON region.id = zone.region_id",
            [],
        );
        let rows = PlaceRow::find_by_statement(statement).all(self.database.read()).await?;
        let places = rows.into_iter().map(|PlaceRow { rack_id, rack, zone_id, zone, region_id, region }| {
            let place = Place {
                rack: (rack, rack_id.to_string()),
                zone: (zone, zone_id.to_string()),
                region: (region, region_id.to_string()),
            };
            (Id::from(rack_id), place)
        });
        Ok(places.collect())
    }

    /// Puts a host in its place, guarded by the generation seen.
    pub async fn host_place(&self, host: &HostModel, area: Area, node_type: NodeType, now: Ms) -> Result<(), Problem> {
        let mut transaction = self.database.begin().await?;
        let updated = transaction
            .execute_raw(sql(
                self.database.backend(),
                "UPDATE host SET rack_id = ?, unit = ?, node_type = ?, generation = generation + 1 \
                 WHERE id = ? AND generation = ? AND (nodes = 0 OR node_type = ?)",
                [
                    area.rack_id.uuid().into(),
                    area.unit.into(),
                    node_type.as_str().into(),
                    host.id.uuid().into(),
                    host.generation.into(),
                    node_type.as_str().into(),
                ],
            ))
            .await;
        match updated {
            Ok(result) if result.rows_affected() == 1 => {}
            Ok(_) => {
                drop(transaction); // its connection may be the last one
                return Err(self.host_not_updated(host).await);
            }
            Err(error) if is_duplicate(&error) => return Err(taken(&host.name, Some(area))),
            Err(error) => return Err(error.into()),
        }
        overheads_follow(&transaction, host.id, &host.drivers, node_type).await?;
        changed(&mut transaction, now, host.id, &host.name, host.state(), "placed");
        Ok(transaction.commit().await?)
    }

    async fn host_not_updated(&self, seen: &HostModel) -> Problem {
        match self.host_get(&seen.id.to_string()).await {
            Ok(is) if is.generation != seen.generation => stale("host", &seen.name, seen.generation, is.generation),
            Ok(is) => Problem::new(
                Code::InUse,
                format!("host {} carries {} nodes: its cut cannot change under them", is.name, is.nodes),
            ),
            Err(problem) => problem,
        }
    }

    /// Takes a host away that carries nothing; `in_use` while it does.
    pub async fn host_delete(&self, host: &HostModel, now: Ms) -> Result<(), Problem> {
        let mut transaction = self.database.begin().await?;
        let backend = self.database.backend();
        let deleted = transaction
            .execute_raw(sql(
                backend,
                "DELETE FROM host WHERE id = ? AND generation = ? AND nodes = 0",
                [host.id.uuid().into(), host.generation.into()],
            ))
            .await;
        match deleted {
            Ok(result) if result.rows_affected() == 1 => {
                changed(&mut transaction, now, host.id, &host.name, host.state(), "deleted");
                Ok(transaction.commit().await?)
            }
            Ok(_) => {
                drop(transaction); // its connection may be the last one
                Err(self.host_not_updated(host).await)
            }
            Err(error) if is_reference(&error) => {
                Err(Problem::new(Code::InUse, format!("host {} still carries claims: release them first", host.name)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Changes what ops say of a host, if it is still at the generation they saw. Returns it as it is then.
    pub async fn host_change(
        &self,
        id: Id<Host>,
        if_generation: Option<i64>,
        change: &HostChange,
        now: Ms,
    ) -> Result<HostModel, Problem> {
        let mut transaction = self.database.begin().await?;
        let before = host_locked(&transaction, &[id]).await?.pop().ok_or_else(|| Problem::not_found("host", id))?;
        if let Some(seen) = if_generation.filter(|seen| *seen != before.generation) {
            return Err(stale("host", &before.name, seen, before.generation));
        }
        let mut after = host_changed(&before, change)?;
        let labels = if change.labels.is_empty() { Labels::new() } else { labels_of(&transaction, id, false).await? };
        let relabelled = labels_changed(&labels, &change.labels)?;
        if after == before && relabelled == labels {
            return Ok(before);
        }
        if relabelled != labels {
            labels_set(&transaction, id, false, &relabelled).await?;
        }
        after.generation += 1;
        let (limit, overcommit) = (after.limit, after.overcommit);
        transaction
            .execute_raw(sql(
                self.database.backend(),
                "UPDATE host SET generation = ?, pool_id = ?, limit_cpu = ?, limit_memory = ?, limit_disk = ?, limit_iops = ?, \
                 overcommit_cpu = ?, overcommit_memory = ?, overcommit_disk = ?, overcommit_iops = ? WHERE id = ?",
                [
                    after.generation.into(),
                    after.pool_id.map(Id::uuid).into(),
                    limit.cpu_millicores.into(),
                    limit.memory_bytes.into(),
                    limit.disk_bytes.into(),
                    limit.disk_iops.into(),
                    overcommit.cpu_millicores.into(),
                    overcommit.memory_bytes.into(),
                    overcommit.disk_bytes.into(),
                    overcommit.disk_iops.into(),
                    id.uuid().into(),
                ],
            ))
            .await
            .map_err(|error| match is_reference(&error) {
                true => Problem::new(Code::NotFound, "the pool was deleted just now"),
                false => error.into(),
            })?;
        changed(&mut transaction, now, id, &after.name, after.state(), "changed by ops");
        transaction.commit().await?;
        Ok(after)
    }
}

/// Rows of hosts, locked until the transaction ends, in the order of ids.
pub(super) async fn host_locked(transaction: &Transaction, ids: &[Id<Host>]) -> Result<Vec<HostModel>, Problem> {
    let backend = transaction.get_database_backend();
    // SQLite's transaction holds the one write lock already.
    let lock = if backend == sea_orm::DbBackend::Postgres { " FOR UPDATE" } else { "" };
    let mut hosts = Vec::with_capacity(ids.len());
    for chunk in ids.chunks(10_000) {
        let text = format!("SELECT {HOST} FROM host WHERE id IN ({}) ORDER BY id{lock}", places(chunk.len()));
        let statement = sql(backend, &text, chunk.iter().map(|id| id.uuid().into()));
        hosts.extend(models::<_, HostModel>(HostRow::find_by_statement(statement).all(&**transaction).await?)?);
    }
    Ok(hosts)
}

async fn join_token_insert(
    connection: &Transaction,
    host: Id<Host>,
    token: &Secret,
    expires_ms: Ms,
) -> Result<(), Problem> {
    connection
        .execute_raw(sql(
            connection.get_database_backend(),
            "INSERT INTO join_token (hash, host_id, expires_ms) VALUES (?, ?, ?)",
            [token.hash().into(), host.uuid().into(), expires_ms.into()],
        ))
        .await?;
    Ok(())
}

fn taken(name: &str, area: Option<Area>) -> Problem {
    let unit = area.map_or_else(String::new, |a| format!(", or unit {} of its rack is taken", a.unit));
    Problem::new(Code::AlreadyExists, format!("there is already a host `{name}`{unit}"))
}

pub(super) fn changed(
    transaction: &mut Transaction,
    now: Ms,
    id: Id<Host>,
    name: &str,
    state: HostState,
    detail: &str,
) {
    let payload = HostChanged {
        host_id: id.to_string(),
        name: name.to_owned(),
        state: state.as_str().to_owned(),
        detail: detail.to_owned(),
    };
    transaction.emit(NewEvent::new(now, "host.changed", "", id, &payload));
}
