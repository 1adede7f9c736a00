//! What Components does for whoever asks: contracts made, shown and ended, components powered.
//!
//! Every change is recorded before Resources is asked, and carried on by [`Service::carry_on`] from wherever it
//! stopped: in the request that made it, or later in a reconcile loop.

mod check;
mod place;
mod power;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use yiqiu_base::{
    Clock, Code, Id, Principal, Problem,
    clock::Ms,
    database::Database,
    http::{Page, Paging},
    id::CContract,
    idempotency::Key,
    outbox::{self, Event},
    principal::Role,
    reconcile::Waker,
};

use crate::{
    lifecycle::{self, Step},
    model::{CContractModel, ComponentModel, ComponentType, ComponentTypeInfo, NewCContract, State, Whole},
    pool::{LeaseState, Pool},
    scheduler::Wish,
    store::{Inserted, Store},
    whole::Chosen,
};

/// How patient the tier is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How often contracts on their way and wishes without an answer are looked at.
    pub period: Duration,
    /// How long whoever works on a contract is left alone with it.
    pub patience: Duration,
    /// How long one question for events waits.
    pub events_wait: Duration,
    /// How often leases that nobody holds are looked for.
    pub sweep_period: Duration,
    /// How old such a lease has to be.
    pub sweep_grace: Duration,
    /// How often a placement is planned anew after others were faster.
    pub attempts: u32,
    /// How many hosts an explanation names.
    pub listed: NonZeroUsize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(5),
            patience: Duration::from_secs(5),
            events_wait: Duration::from_secs(10),
            sweep_period: Duration::from_secs(60),
            sweep_grace: Duration::from_secs(120),
            attempts: 5,
            listed: NonZeroUsize::MIN.saturating_add(99),
        }
    }
}

/// Components as its edges and loops see it. Cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    store: Store,
    pool: Pool,
    clock: Clock,
    settings: Settings,
    waker: Waker,
}

/// How often a change is decided again when someone else was first.
const TRIES: usize = 8;

/// What became of a contract that was carried on.
pub(crate) enum Carried {
    /// Nothing is left to do but to wait.
    Settled(Whole),
    /// Resources could not be asked; it will be asked again.
    Later(Whole, Problem),
}

impl Service {
    pub(crate) fn new(database: Database, pool: Pool, clock: Clock, settings: Settings) -> Self {
        let store = Store::new(database);
        Self(Arc::new(Inner { store, pool, clock, settings, waker: Waker::default() }))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.0.pool
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(crate) fn waker(&self) -> &Waker {
        &self.0.waker
    }

    pub(crate) fn now(&self) -> Ms {
        self.0.clock.now()
    }

    /// Whether the database answers.
    pub async fn ready(&self) -> Result<(), Problem> {
        self.store().database().ping().await
    }

    /// The kinds of components there are.
    pub fn component_types(&self) -> Vec<ComponentTypeInfo> {
        ComponentType::ALL.iter().map(|t| t.info()).collect()
    }

    /// Chooses hosts as [`Service::create`] would, and records nothing.
    pub async fn dry_run(&self, who: &Principal, ask: &NewCContract) -> Result<Vec<(String, Chosen)>, Problem> {
        let owner = who.owner()?;
        check::new_contract(ask)?;
        self.0.pool.image(&ask.need.image, owner).await?;
        let chosen = self.chosen(&wish(ask)).await?;
        Ok((0..).zip(chosen).map(|(ordinal, host): (u32, _)| (format!("{}-{ordinal}", ask.name), host)).collect())
    }

    /// Makes a contract: its components are placed when this returns, or are being placed while Resources cannot be
    /// asked. `no_placement` with an explanation where nothing fits; then nothing is recorded.
    pub async fn create(&self, who: &Principal, ask: NewCContract, key: Option<&str>) -> Result<Whole, Problem> {
        let owner = who.owner()?;
        check::new_contract(&ask)?;
        let scope = format!("{} {owner}", who.subject);
        let key = key.map(|key| Key::new(&scope, "ccontract", key, &ask)).transpose()?;
        if let Some(whole) = self.made_before(owner, &ask, key.as_ref()).await? {
            return self.outcome(whole).await;
        }
        if !self.store().whole_named(Some(owner), &ask.name).await?.is_empty() {
            return self.taken(owner, &ask, key.as_ref()).await;
        }
        let image_id = self.0.pool.image(&ask.need.image, owner).await?;
        let chosen = self.chosen(&wish(&ask)).await?;
        let whole = Whole::recorded(self.contract(owner, &who.subject, image_id, ask.clone()), chosen);
        match self.store().whole_insert(&whole, key.as_ref(), self.now()).await? {
            Inserted::Yes => self.outcome(whole).await,
            Inserted::Taken => self.taken(owner, &ask, key.as_ref()).await,
        }
    }

    /// Someone was faster: the same request, or another of the same name.
    async fn taken(&self, owner: &str, ask: &NewCContract, key: Option<&Key>) -> Result<Whole, Problem> {
        match self.made_before(owner, ask, key).await? {
            Some(whole) => self.outcome(whole).await,
            None => Err(Problem::new(
                Code::AlreadyExists,
                format!("there is already a ccontract `{}`: choose another name, or delete it", ask.name),
            )),
        }
    }

    /// The contract that an earlier request of the same key or id made.
    async fn made_before(&self, owner: &str, ask: &NewCContract, key: Option<&Key>) -> Result<Option<Whole>, Problem> {
        if let Some(key) = key
            && let Some(kept) = self.store().kept(key).await?
        {
            let id = Id::parse(kept.replay(key)?)?;
            return self.store().whole_get(id).await;
        }
        let Some(id) = ask.id else { return Ok(None) };
        let Some(whole) = self.store().whole_get(id).await? else { return Ok(None) };
        if whole.contract.owner == owner && asked_by(ask, &whole.contract) {
            return Ok(Some(whole));
        }
        Err(Problem::new(Code::AlreadyExists, format!("there is another ccontract with the id {id}")))
    }

    /// Carries a contract on as far as it goes now, and shows it; the refusal where it cannot be had.
    async fn outcome(&self, whole: Whole) -> Result<Whole, Problem> {
        let whole = match self.carry_on(whole).await? {
            Carried::Settled(whole) => whole,
            Carried::Later(whole, problem) => {
                tracing::warn!(ccontract = %whole.contract.id, %problem, "Resources could not be asked; it will be again");
                whole
            }
        };
        match &whole.contract.refusal {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(whole),
        }
    }

    /// Does what is to be done about a contract now. Safe to be done by many at once, and again after a crash.
    pub(crate) async fn carry_on(&self, whole: Whole) -> Result<Carried, Problem> {
        match lifecycle::step(whole.contract.state) {
            Step::Ask => self.place(whole).await,
            Step::Release => self.release_below(whole).await,
            Step::Done => Ok(Carried::Settled(whole)),
        }
    }

    /// Ends a contract. Ending it again is the same as once.
    pub async fn release(&self, who: &Principal, name_or_id: &str) -> Result<Whole, Problem> {
        let whole = match self.find(who, name_or_id).await {
            Ok(whole) => whole,
            // By its name, a contract that was just released is still the one meant.
            Err(problem) if problem.code == Code::NotFound && !who.owner.is_empty() => {
                self.store().whole_released(&who.owner, name_or_id).await?.ok_or(problem)?
            }
            Err(problem) => return Err(problem),
        };
        self.end(whole.contract.id).await
    }

    /// Ends a contract of whoever it is: for the tier that granted it.
    pub async fn release_any(&self, who: &Principal, id: Id<CContract>) -> Result<Whole, Problem> {
        who.require_service()?;
        self.end(id).await
    }

    async fn end(&self, id: Id<CContract>) -> Result<Whole, Problem> {
        for _ in 0..TRIES {
            let whole = self.whole(id).await?;
            let ending = whole.end_asked();
            if ending == whole || self.store().whole_save(&whole, &ending, self.now()).await? {
                let whole = self.whole(id).await?;
                return Ok(match self.carry_on(whole).await? {
                    Carried::Settled(whole) | Carried::Later(whole, _) => whole,
                });
            }
        }
        Err(busy())
    }

    /// Asks Resources to let go of what a contract holds.
    async fn release_below(&self, whole: Whole) -> Result<Carried, Problem> {
        let lease = match self.0.pool.lease_release(whole.contract.rcontract_id).await {
            Ok(lease) => lease,
            Err(problem) => return Ok(Carried::Later(whole, problem)),
        };
        let released = match lease {
            None => whole.let_go(""),
            Some(lease) if lease.state == LeaseState::Released => whole.let_go(""),
            Some(lease) => whole.seen(&lease.nodes),
        };
        // Where someone was first, they did the same.
        self.store().whole_save(&whole, &released, self.now()).await?;
        Ok(Carried::Settled(self.whole(whole.contract.id).await?))
    }

    /// A contract by name or id; `not_found` also where it is another owner's.
    pub async fn find(&self, who: &Principal, name_or_id: &str) -> Result<Whole, Problem> {
        let missing = || Problem::not_found("ccontract", name_or_id);
        let mut found = match Id::parse(name_or_id) {
            Ok(id) => self.store().whole_get(id).await?.into_iter().collect(),
            Err(_) => self.store().whole_named(only(who)?, name_or_id).await?,
        };
        found.retain(|whole| who.may_touch(&whole.contract.owner));
        if found.len() > 1 {
            return Err(Problem::invalid(format!(
                "{} projects have a ccontract `{}`: name it by its id",
                found.len(),
                yiqiu_base::name::shown(name_or_id)
            )));
        }
        found.pop().ok_or_else(missing)
    }

    /// A page of the contracts that are not released: one's own, or every owner's for ops.
    pub async fn list(&self, who: &Principal, paging: &Paging) -> Result<Page<CContractModel>, Problem> {
        let rows = self.store().contract_list(only(who)?, after(paging)?, paging.limit()).await?;
        Ok(Page::of(rows, paging, |c| format!("{}/{}", c.name, c.id)))
    }

    /// Contracts of every owner that are not released, oldest ids first: for whoever sweeps what nobody holds.
    pub async fn list_all(
        &self,
        who: &Principal,
        created_before: Option<Ms>,
        after: Option<Id<CContract>>,
        limit: u32,
        owner: Option<&str>,
    ) -> Result<Vec<CContractModel>, Problem> {
        who.require_service()?;
        let before = created_before.unwrap_or(Ms::MAX);
        self.store().contract_list_by_id(owner, before, after, limit.clamp(1, 1000)).await
    }

    /// A component by name or id, with its contract.
    pub async fn component(&self, who: &Principal, name_or_id: &str) -> Result<(Whole, ComponentModel), Problem> {
        let missing = || Problem::not_found("component", name_or_id);
        let mut found = self.store().component_find(only(who)?, name_or_id).await?;
        found.retain(|component| who.may_touch(&component.owner));
        if found.len() > 1 {
            return Err(Problem::invalid(format!(
                "{} projects have a component `{}`: name it by its id",
                found.len(),
                yiqiu_base::name::shown(name_or_id)
            )));
        }
        let component = found.pop().ok_or_else(missing)?;
        let whole = self.store().whole_get(component.ccontract_id).await?.ok_or_else(missing)?;
        // As it is in the whole: the two were read at different times.
        let component = whole.components.iter().find(|c| c.id == component.id).cloned().ok_or_else(missing)?;
        Ok((whole, component))
    }

    /// A page of components, of one contract or of all, each with its contract.
    pub async fn components(
        &self,
        who: &Principal,
        contract: Option<&str>,
        paging: &Paging,
    ) -> Result<Page<(CContractModel, ComponentModel)>, Problem> {
        let of = match contract {
            Some(name_or_id) => Some(self.find(who, name_or_id).await?.contract.id),
            None => None,
        };
        let rows = self.store().component_list(only(who)?, of, after(paging)?, paging.limit()).await?;
        let page = Page::of(rows, paging, |c| format!("{}/{}", c.name, c.id));
        let mut contracts = std::collections::HashMap::new();
        for component in &page.items {
            let id = component.ccontract_id;
            if !contracts.contains_key(&id)
                && let Some(whole) = self.store().whole_get(id).await?
            {
                contracts.insert(id, whole.contract);
            }
        }
        let Page { items, next } = page;
        let items = items.into_iter().filter_map(|c| Some((contracts.get(&c.ccontract_id)?.clone(), c))).collect();
        Ok(Page { items, next })
    }

    /// Events after a position: one's own, or every owner's for ops and tiers. With them the position up to which was
    /// read, and the epoch of this history.
    pub async fn events(
        &self,
        who: &Principal,
        after: i64,
        limit: u32,
        wait: Duration,
    ) -> Result<(Vec<Event>, i64, i64), Problem> {
        let all = matches!(who.role, Role::Ops | Role::Service);
        if !all {
            who.owner()?;
        }
        let database = self.store().database();
        let deadline = tokio::time::Instant::now() + wait.min(yiqiu_base::http::WAIT_MOST);
        let mut read_to = after;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let mut events = outbox::read(database, read_to, limit, left).await?;
            let nothing = events.is_empty();
            read_to = events.last().map_or(read_to, |event| event.position);
            events.retain(|event| all || event.owner == who.owner);
            if nothing || !events.is_empty() {
                return Ok((events, read_to, outbox::epoch(database).await?));
            }
        }
    }

    pub(crate) async fn whole(&self, id: Id<CContract>) -> Result<Whole, Problem> {
        self.store().whole_get(id).await?.ok_or_else(|| Problem::not_found("ccontract", id))
    }

    fn contract(&self, owner: &str, subject: &str, image_id: String, ask: NewCContract) -> CContractModel {
        let NewCContract { id, name, component_type, count, need, region, zone, spread } = ask;
        CContractModel {
            id: id.unwrap_or_else(Id::new),
            owner: owner.to_owned(),
            name,
            component_type,
            count,
            need,
            region,
            zone,
            spread,
            state: State::Placing,
            generation: 1,
            created_ms: self.now(),
            created_by: subject.to_owned(),
            rcontract_id: Id::new(),
            image_id,
            detail: String::new(),
            refusal: None,
        }
    }
}

/// Whose things someone sees: `None` is everyone's.
fn only(who: &Principal) -> Result<Option<&str>, Problem> {
    match who.role {
        Role::Ops => Ok(None),
        Role::Tenant | Role::Service => who.owner().map(Some),
    }
}

/// The cursor `<name>/<id>` of a page.
fn after<K: yiqiu_base::id::Kind>(paging: &Paging) -> Result<Option<(String, Id<K>)>, Problem> {
    let Some(cursor) = &paging.cursor else { return Ok(None) };
    let (name, id) =
        cursor.split_once('/').ok_or_else(|| Problem::invalid("the cursor is not one that a page gave"))?;
    Ok(Some((name.to_owned(), Id::parse(id)?)))
}

/// Whether a request asks for what a contract is.
fn asked_by(ask: &NewCContract, contract: &CContractModel) -> bool {
    let NewCContract { id: _, name, component_type, count, need, region, zone, spread } = ask;
    *name == contract.name
        && *component_type == contract.component_type
        && *count == contract.count
        && *need == contract.need
        && *region == contract.region
        && *zone == contract.zone
        && *spread == contract.spread
}

fn wish(ask: &NewCContract) -> Wish {
    let NewCContract { id: _, name: _, component_type, count, need, region, zone, spread } = ask;
    Wish {
        count: *count,
        size: need.size,
        node_type: component_type.node_type(),
        min_clock_mhz: need.min_clock_mhz,
        region: region.clone(),
        zone: zone.clone(),
        spread: *spread,
        held: std::collections::HashMap::new(),
    }
}

fn busy() -> Problem {
    let detail = "others change the same thing all the time; try the same request again";
    Problem { retry_after_s: Some(1), ..Problem::new(Code::Unavailable, detail) }
}
