//! The books of Components: contracts and their components, in SQLite or PostgreSQL.
//!
//! Whoever changes a contract loads it whole, makes another of it, and saves the difference. Every row is written only
//! if it is still as it was loaded; else nothing is, and the caller loads and decides again.

mod row;

use std::collections::{BTreeSet, HashMap};

use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, Value};
use yiqiu_base::{
    Id, Problem,
    clock::Ms,
    database::{Database, Transaction, insert_rows, is_duplicate, places, sql},
    id::{CContract, Component, Host, Line, RContract},
    idempotency::{self, Kept, Key},
    outbox,
};

use self::row::{ComponentRow, ContractRow};
use crate::{
    model::{CContractModel, ComponentModel, Whole},
    whole::events,
};

/// The name of Resources' outbox among the cursors, and of its epoch.
const EVENTS: &str = "resources";
const EPOCH: &str = "resources.epoch";

/// The tables of this tier.
#[derive(Clone)]
pub(crate) struct Store {
    database: Database,
}

/// A contract that was, and what it is to be.
pub(crate) type Change = (Whole, Whole);

/// What became of an insert.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Inserted {
    Yes,
    /// Its id, its name or its idempotency key is taken.
    Taken,
}

impl Store {
    pub(crate) fn new(database: Database) -> Self {
        Self { database }
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// Records a contract with its components and the key of its request.
    pub(crate) async fn whole_insert(&self, whole: &Whole, key: Option<&Key>, now: Ms) -> Result<Inserted, Problem> {
        let mut tx = self.database.begin().await?;
        let written = async {
            if let Some(key) = key {
                idempotency::keep(&*tx, &[(key, whole.contract.id.to_string())], now).await?;
            }
            let mut contract = row::contract_values(&whole.contract)?;
            contract.push(now.into());
            let columns = [&row::CONTRACT[..], &["touched_ms"]].concat();
            insert_rows(&tx, "ccontract", &columns, vec![contract]).await?;
            let components = whole.components.iter().map(row::component_values).collect::<Result<_, _>>()?;
            insert_rows(&tx, "component", &row::COMPONENT, components).await
        };
        match written.await {
            Ok(()) => {}
            Err(error) if is_duplicate(&error) => return Ok(Inserted::Taken),
            Err(error) => return Err(error.into()),
        }
        events(None, whole, now).into_iter().for_each(|event| tx.emit(event));
        tx.commit().await?;
        Ok(Inserted::Yes)
    }

    /// Saves a change; false if someone was first.
    pub(crate) async fn whole_save(&self, old: &Whole, new: &Whole, now: Ms) -> Result<bool, Problem> {
        self.save(&[(old.clone(), new.clone())], None, None, now).await
    }

    /// Saves a change with the key of its request; false if someone was first.
    pub(crate) async fn whole_save_once(
        &self,
        old: &Whole,
        new: &Whole,
        key: Option<(&Key, String)>,
        now: Ms,
    ) -> Result<bool, Problem> {
        self.save(&[(old.clone(), new.clone())], key, None, now).await
    }

    /// Saves what events of Resources led to, together with how far they were read; false if someone was first.
    pub(crate) async fn observed_save(&self, changes: &[Change], cursor: (i64, i64), now: Ms) -> Result<bool, Problem> {
        self.save(changes, None, Some(cursor), now).await
    }

    async fn save(
        &self,
        changes: &[Change],
        key: Option<(&Key, String)>,
        cursor: Option<(i64, i64)>,
        now: Ms,
    ) -> Result<bool, Problem> {
        let mut tx = self.database.begin().await?;
        if let Some(key) = key {
            match idempotency::keep(&*tx, &[key], now).await {
                Ok(()) => {}
                Err(error) if is_duplicate(&error) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        for (old, new) in changes {
            if !whole_update(&tx, old, new, now).await? {
                return Ok(false);
            }
            events(Some(old), new, now).into_iter().for_each(|event| tx.emit(event));
        }
        if let Some((from, to)) = cursor {
            match outbox::cursor_move(&*tx, EVENTS, from, to).await {
                Ok(()) => {}
                Err(DbErr::RecordNotUpdated) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        tx.commit().await?;
        Ok(true)
    }

    /// A contract by its id.
    pub(crate) async fn whole_get(&self, id: Id<CContract>) -> Result<Option<Whole>, Problem> {
        Ok(self.wholes("WHERE id = ?", [id.uuid().into()]).await?.pop())
    }

    /// Contracts of this name that are not released; of one owner, or of all.
    pub(crate) async fn whole_named(&self, owner: Option<&str>, name: &str) -> Result<Vec<Whole>, Problem> {
        let of = if owner.is_some() { "AND owner = ?" } else { "" };
        let values = [name.into()].into_iter().chain(owner.map(Value::from));
        self.wholes(&format!("WHERE name = ? AND state <> 'released' {of}"), values).await
    }

    /// The last contract of this name that was released.
    pub(crate) async fn whole_released(&self, owner: &str, name: &str) -> Result<Option<Whole>, Problem> {
        let text = "WHERE name = ? AND owner = ? AND state = 'released' ORDER BY created_ms DESC, id DESC LIMIT 1";
        Ok(self.wholes(text, [name.into(), owner.into()]).await?.pop())
    }

    /// Contracts that hold, or are to hold, these RContracts.
    pub(crate) async fn whole_list_by_rcontract(&self, ids: &[Id<RContract>]) -> Result<Vec<Whole>, Problem> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let text = format!("WHERE state <> 'released' AND rcontract_id IN ({})", places(ids.len()));
        self.wholes(&text, ids.iter().map(|id| id.uuid().into())).await
    }

    /// Contracts with a component on this host.
    pub(crate) async fn whole_list_by_host(&self, host: Id<Host>) -> Result<Vec<Whole>, Problem> {
        let text = "WHERE id IN (SELECT ccontract_id FROM component WHERE host_id = ?)";
        self.wholes(text, [host.uuid().into()]).await
    }

    /// Contracts on their way that nobody touched since `before`, the longest untouched first.
    pub(crate) async fn whole_list_open(&self, before: Ms, limit: u32) -> Result<Vec<Whole>, Problem> {
        let text = "WHERE state IN ('placing', 'releasing') AND touched_ms <= ? ORDER BY touched_ms LIMIT ?";
        self.wholes(text, [before.into(), i64::from(limit).into()]).await
    }

    /// Placed contracts with a wish that Resources has not answered.
    pub(crate) async fn whole_list_wishing(&self, limit: u32) -> Result<Vec<Whole>, Problem> {
        let text = "WHERE state = 'placed' AND id IN \
                    (SELECT ccontract_id FROM component WHERE asked < generation AND node_id IS NOT NULL) LIMIT ?";
        self.wholes(text, [i64::from(limit).into()]).await
    }

    /// Placed contracts after an id, made before a time: those whose lease below should be there.
    pub(crate) async fn whole_list_placed(
        &self,
        after: Option<Id<CContract>>,
        created_before: Ms,
        limit: u32,
    ) -> Result<Vec<Whole>, Problem> {
        let text = "WHERE state = 'placed' AND created_ms < ? AND id > ? ORDER BY id LIMIT ?";
        let after = after.map_or(uuid::Uuid::nil(), Id::uuid);
        self.wholes(text, [created_before.into(), after.into(), i64::from(limit).into()]).await
    }

    /// Contracts that are not released, in the order of their ids: of one owner or of all.
    pub(crate) async fn contract_list_by_id(
        &self,
        owner: Option<&str>,
        created_before: Ms,
        after: Option<Id<CContract>>,
        limit: u32,
    ) -> Result<Vec<CContractModel>, Problem> {
        let of = if owner.is_some() { "AND owner = ?" } else { "" };
        let text = format!("WHERE state <> 'released' AND created_ms < ? AND id > ? {of} ORDER BY id LIMIT ?");
        let after = after.map_or(uuid::Uuid::nil(), Id::uuid);
        let values: Vec<Value> = [created_before.into(), after.into()]
            .into_iter()
            .chain(owner.map(Value::from))
            .chain([i64::from(limit).into()])
            .collect();
        self.contracts(&text, values).await
    }

    /// A page of contracts that are not released, in the order of (name, id).
    pub(crate) async fn contract_list(
        &self,
        owner: Option<&str>,
        after: Option<(String, Id<CContract>)>,
        limit: u64,
    ) -> Result<Vec<CContractModel>, Problem> {
        let (text, values) = page("WHERE state <> 'released'", owner, after.map(|(n, id)| (n, id.uuid())), limit);
        self.contracts(&text, values).await
    }

    /// A page of components, in the order of (name, id).
    pub(crate) async fn component_list(
        &self,
        owner: Option<&str>,
        contract: Option<Id<CContract>>,
        after: Option<(String, Id<Component>)>,
        limit: u64,
    ) -> Result<Vec<ComponentModel>, Problem> {
        // A uuid cannot carry SQL with it.
        let of = contract.map_or(("WHERE 1 = 1", None), |id| ("WHERE ccontract_id = ?", Some(Value::from(id.uuid()))));
        let (text, values) = page(of.0, owner, after.map(|(n, id)| (n, id.uuid())), limit);
        self.components(&text, of.1.into_iter().chain(values)).await
    }

    /// Components of an id or a name; of one owner, or of all.
    pub(crate) async fn component_find(
        &self,
        owner: Option<&str>,
        name_or_id: &str,
    ) -> Result<Vec<ComponentModel>, Problem> {
        let of = if owner.is_some() { "AND owner = ?" } else { "" };
        let (column, value) = match Id::<Component>::parse(name_or_id) {
            Ok(id) => ("id", Value::from(id.uuid())),
            Err(_) => ("name", name_or_id.into()),
        };
        let values = [value].into_iter().chain(owner.map(Value::from));
        self.components(&format!("WHERE {column} = ? {of} ORDER BY name"), values).await
    }

    /// Components with their contracts, in the order of their lines, after one and up to one.
    pub(crate) async fn bound_list(
        &self,
        after: Option<Id<Line>>,
        up_to: Option<Id<Line>>,
        limit: u32,
    ) -> Result<Vec<(CContractModel, ComponentModel)>, Problem> {
        let after = after.map_or(uuid::Uuid::nil(), Id::uuid);
        let up_to = up_to.map_or(uuid::Uuid::max(), Id::uuid);
        let text = "WHERE line_id > ? AND line_id <= ? ORDER BY line_id LIMIT ?";
        let components = self.components(text, [after.into(), up_to.into(), i64::from(limit).into()]).await?;
        if components.is_empty() {
            return Ok(Vec::new());
        }
        let of: BTreeSet<Id<CContract>> = components.iter().map(|component| component.ccontract_id).collect();
        let text = format!("WHERE id IN ({})", places(of.len()));
        let contracts = self.contracts(&text, of.iter().map(|id| id.uuid().into())).await?;
        let contracts: HashMap<_, _> = contracts.into_iter().map(|contract| (contract.id, contract)).collect();
        let with = |component: ComponentModel| Some((contracts.get(&component.ccontract_id)?.clone(), component));
        Ok(components.into_iter().filter_map(with).collect())
    }

    /// Says that someone is at work on these contracts now.
    pub(crate) async fn contract_touch(&self, ids: &[Id<CContract>], now: Ms) -> Result<(), Problem> {
        if ids.is_empty() {
            return Ok(());
        }
        let tx = self.database.begin().await?;
        let text = format!("UPDATE ccontract SET touched_ms = ? WHERE id IN ({})", places(ids.len()));
        let values = [now.into()].into_iter().chain(ids.iter().map(|id| id.uuid().into()));
        tx.execute_raw(sql(self.database.backend(), &text, values)).await?;
        Ok(tx.commit().await?)
    }

    /// What is kept under the key of a request.
    pub(crate) async fn kept(&self, key: &Key) -> Result<Option<Kept>, Problem> {
        Ok(idempotency::kept(self.database.read(), &[key]).await?.pop())
    }

    /// How far the events of Resources were read, and of which history.
    pub(crate) async fn cursor(&self) -> Result<(i64, i64), Problem> {
        Ok((outbox::cursor(&self.database, EVENTS).await?, outbox::cursor(&self.database, EPOCH).await?))
    }

    /// Begins to read another history of Resources from its start; false if someone was first.
    pub(crate) async fn epoch_enter(&self, cursor: i64, from: i64, to: i64) -> Result<bool, Problem> {
        let tx = self.database.begin().await?;
        let moved = async {
            outbox::cursor_move(&*tx, EPOCH, from, to).await?;
            if cursor != 0 { outbox::cursor_move(&*tx, EVENTS, cursor, 0).await } else { Ok(()) }
        };
        match moved.await {
            Ok(()) => {}
            Err(DbErr::RecordNotUpdated) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        tx.commit().await?;
        Ok(true)
    }

    async fn contracts(
        &self,
        clause: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<CContractModel>, Problem> {
        let text = format!("SELECT {} FROM ccontract {clause}", row::CONTRACT.join(", "));
        let statement = sql(self.database.backend(), &text, values);
        let rows = ContractRow::find_by_statement(statement).all(self.database.read()).await?;
        rows.into_iter().map(|row| Ok(CContractModel::try_from(row)?)).collect()
    }

    async fn components(
        &self,
        clause: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<ComponentModel>, Problem> {
        let text = format!("SELECT {} FROM component {clause}", row::COMPONENT.join(", "));
        let statement = sql(self.database.backend(), &text, values);
        let rows = ComponentRow::find_by_statement(statement).all(self.database.read()).await?;
        rows.into_iter().map(|row| Ok(ComponentModel::try_from(row)?)).collect()
    }

    async fn wholes(&self, clause: &str, values: impl IntoIterator<Item = Value>) -> Result<Vec<Whole>, Problem> {
        let contracts = self.contracts(clause, values).await?;
        let mut wholes: Vec<Whole> =
            contracts.into_iter().map(|contract| Whole { contract, components: Vec::new() }).collect();
        for chunk in wholes.chunks_mut(500) {
            let of: Vec<Value> = chunk.iter().map(|whole| whole.contract.id.uuid().into()).collect();
            let text = format!("WHERE ccontract_id IN ({}) ORDER BY ordinal", places(of.len()));
            let mut by_contract = HashMap::<Id<CContract>, Vec<ComponentModel>>::new();
            for component in self.components(&text, of).await? {
                by_contract.entry(component.ccontract_id).or_default().push(component);
            }
            for whole in chunk {
                whole.components = by_contract.remove(&whole.contract.id).unwrap_or_default();
            }
        }
        Ok(wholes)
    }
}

/// A page in the order of (name, id), after a row.
fn page(clause: &str, owner: Option<&str>, after: Option<(String, uuid::Uuid)>, limit: u64) -> (String, Vec<Value>) {
    let mut text = clause.to_owned();
    let mut values: Vec<Value> = Vec::new();
    if let Some(owner) = owner {
        text += " AND owner = ?";
        values.push(owner.into());
    }
    if let Some((name, id)) = after {
        text += " AND (name > ? OR (name = ? AND id > ?))";
        values.extend([name.clone().into(), name.into(), id.into()]);
    }
    values.push(i64::try_from(limit).unwrap_or(i64::MAX).into());
    (text + " ORDER BY name, id LIMIT ?", values)
}

/// Writes the difference; false if a row is not as it was loaded.
async fn whole_update(tx: &Transaction, old: &Whole, new: &Whole, now: Ms) -> Result<bool, DbErr> {
    if old.contract != new.contract && !contract_update(tx, &old.contract, &new.contract, now).await? {
        return Ok(false);
    }
    for before in &old.components {
        let written = match new.components.iter().find(|c| c.id == before.id) {
            Some(component) if component == before => true,
            Some(component) => component_update(tx, before, component).await?,
            None => component_delete(tx, before.id).await?,
        };
        if !written {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn contract_update(tx: &Transaction, old: &CContractModel, new: &CContractModel, now: Ms) -> Result<bool, DbErr> {
    let text = "UPDATE ccontract SET generation = generation + 1, state = ?, rcontract_id = ?, detail = ?, refusal = ?, \
                touched_ms = ? WHERE id = ? AND generation = ?";
    let values = [
        new.state.as_str().into(),
        new.rcontract_id.uuid().into(),
        new.detail.as_str().into(),
        new.refusal.as_ref().map(row::json).transpose()?.into(),
        now.into(),
        old.id.uuid().into(),
        old.generation.into(),
    ];
    Ok(tx.execute_raw(sql(tx.get_database_backend(), text, values)).await?.rows_affected() == 1)
}

async fn component_update(tx: &Transaction, old: &ComponentModel, new: &ComponentModel) -> Result<bool, DbErr> {
    let text = "UPDATE component SET version = version + 1, line_id = ?, node_id = ?, host_id = ?, host_name = ?, \
                host_state = ?, power = ?, generation = ?, asked = ?, carried = ?, state = ?, detail = ?, ports = ? \
                WHERE id = ? AND version = ?";
    let values = [
        new.line_id.uuid().into(),
        new.node_id.map(Id::uuid).into(),
        new.host_id.uuid().into(),
        new.host_name.as_str().into(),
        new.host_state.as_str().into(),
        new.power.as_str().into(),
        new.generation.into(),
        new.asked.into(),
        new.carried.into(),
        new.state.as_str().into(),
        new.detail.as_str().into(),
        row::json(&new.ports)?.into(),
        old.id.uuid().into(),
        old.version.into(),
    ];
    Ok(tx.execute_raw(sql(tx.get_database_backend(), text, values)).await?.rows_affected() == 1)
}

/// Deletes it whatever it has become since: its contract, which is guarded, has ended.
async fn component_delete(tx: &Transaction, id: Id<Component>) -> Result<bool, DbErr> {
    let statement = sql(tx.get_database_backend(), "DELETE FROM component WHERE id = ?", [id.uuid().into()]);
    Ok(tx.execute_raw(statement).await?.rows_affected() == 1)
}
