//! What ops wish of hosts: in service, draining, maintenance, retired.

use std::collections::HashMap;

use sea_orm::{ConnectionTrait, FromQueryResult};
use yiqiu_base::{
    Code, Id, Problem,
    database::{places, sql},
    id::Host,
};

use super::{
    changed,
    drain::{Told, lines_told, stops_forgotten},
    host_locked,
};
use crate::{
    lifecycle::{Turn, host_turn},
    model::{Area, HostModel, HostWish, Wished},
    store::{Store, stale},
};

#[derive(FromQueryResult)]
struct WishedRow {
    id: uuid::Uuid,
    wish_by: String,
    wish_why: String,
    wish_ms: i64,
}

impl Store {
    /// Wishes something of a host; `in_use` if it would have to be empty, `wrong_state` where there is no way. Returns
    /// it as it was before and as it is then. The same wish again changes nothing.
    pub async fn host_wish(
        &self,
        id: Id<Host>,
        if_generation: Option<i64>,
        asked: HostWish,
        wished: &Wished,
    ) -> Result<(HostModel, HostModel), Problem> {
        let now = wished.since_ms;
        let mut transaction = self.database.begin().await?;
        let before = host_locked(&transaction, &[id]).await?.pop().ok_or_else(|| Problem::not_found("host", id))?;
        if let Some(seen) = if_generation.filter(|seen| *seen != before.generation) {
            return Err(stale("host", &before.name, seen, before.generation));
        }
        match host_turn(before.wish, asked, before.nodes == 0) {
            Turn::Stays => return Ok((before.clone(), before)),
            Turn::Goes => {}
            Turn::CarriesNodes => return Err(carries_nodes(&before, asked)),
            Turn::NoWay(why) => {
                let detail = format!("host {} cannot become {asked}: {why}", before.name);
                return Err(Problem::new(Code::WrongState, detail));
            }
        }
        let mut after = HostModel { wish: asked, generation: before.generation + 1, ..before.clone() };
        if asked == HostWish::Retired {
            // It leaves its rack and its pool, and nobody joins as it any more.
            (after.area, after.pool_id) = (None, None);
            let text = "UPDATE join_token SET used_ms = ? WHERE host_id = ? AND used_ms IS NULL";
            let values = [now.into(), id.uuid().into()];
            transaction.execute_raw(sql(self.database.backend(), text, values)).await?;
        }
        let updated = transaction
            .execute_raw(sql(
                self.database.backend(),
                "UPDATE host SET wish = ?, wish_by = ?, wish_why = ?, wish_ms = ?, rack_id = ?, unit = ?, pool_id = ?, \
                 generation = generation + 1 WHERE id = ? AND generation = ? AND nodes = ?",
                [
                    asked.as_str().into(),
                    wished.by.as_str().into(),
                    wished.why.as_str().into(),
                    now.into(),
                    after.area.map(|Area { rack_id, unit: _ }| rack_id.uuid()).into(),
                    after.area.map(|area| area.unit).into(),
                    after.pool_id.map(Id::uuid).into(),
                    id.uuid().into(),
                    before.generation.into(),
                    before.nodes.into(),
                ],
            ))
            .await?;
        if updated.rows_affected() != 1 {
            return Err(Problem::internal("a locked host changed"));
        }
        changed(&mut transaction, now, id, &before.name, after.state(), &wished.why);
        match (before.wish, asked) {
            (_, HostWish::Draining) => lines_told(&mut transaction, &after, Told::Draining, wished).await?,
            (HostWish::Draining, _) => {
                stops_forgotten(&transaction, id).await?;
                lines_told(&mut transaction, &after, Told::Undrained, wished).await?;
            }
            (HostWish::InService | HostWish::Maintenance | HostWish::Retired, _) => {}
        }
        transaction.commit().await?;
        Ok((before, after))
    }

    /// Since when, by whom and why ops wish something of these hosts; those that were never asked for are left out.
    pub async fn host_wished(&self, hosts: &[Id<Host>]) -> Result<HashMap<Id<Host>, Wished>, Problem> {
        let mut all = HashMap::new();
        for chunk in hosts.chunks(1_000) {
            let text = format!(
                "SELECT id, wish_by, wish_why, wish_ms FROM host WHERE wish_ms > 0 AND id IN ({})",
                places(chunk.len())
            );
            let statement = sql(self.database.backend(), &text, chunk.iter().map(|id| id.uuid().into()));
            for WishedRow { id, wish_by, wish_why, wish_ms } in
                WishedRow::find_by_statement(statement).all(self.database.read()).await?
            {
                all.insert(id.into(), Wished { by: wish_by, why: wish_why, since_ms: wish_ms });
            }
        }
        Ok(all)
    }

    /// How many other hosts of the same zone take claims.
    pub async fn host_others_online(&self, host: Id<Host>, area: Area) -> Result<i64, Problem> {
        let text = "SELECT COUNT(*) AS n FROM host WHERE id <> ? AND state = 'online' AND rack_id IN \
                    (SELECT other.id FROM rack JOIN rack AS other ON other.zone_id = rack.zone_id WHERE rack.id = ?)";
        let values = [host.uuid().into(), area.rack_id.uuid().into()];
        let row = self.database.read().query_one_raw(sql(self.database.backend(), text, values)).await?;
        Ok(row.map_or(Ok(0), |row| row.try_get("", "n"))?)
    }
}

fn carries_nodes(host: &HostModel, asked: HostWish) -> Problem {
    let HostModel { name, nodes, .. } = host;
    let next = match host.wish {
        HostWish::Draining => format!("`yiqiu host drain status {name}` shows whose"),
        HostWish::InService | HostWish::Maintenance | HostWish::Retired => {
            format!("drain it first (`yiqiu host drain {name}`)")
        }
    };
    Problem::new(Code::InUse, format!("host {name} carries {nodes} nodes and cannot become {asked} under them: {next}"))
        .with_data(serde_json::json!({ "nodes": nodes }))
}
