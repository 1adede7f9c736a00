//! What Components does for whoever asks: contracts made, shown and ended, components powered.
//!
//! Every change is recorded before Resources is asked, and carried on by [`Service::carry_on`] from wherever it
//! stopped: in the request that made it, or later in a reconcile loop.

mod check;
mod flight;
mod place;
mod power;
mod read;

use std::{
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use yiqiu_base::{
    Code, Environment, Id, Principal, Problem, clock::Ms, database::Database, id::CContract, idempotency::Key,
    ledger::Ledger, reconcile::Waker,
};

use self::flight::Flights;
use crate::{
    lifecycle::{self, Step},
    model::{CContractModel, ComponentType, ComponentTypeInfo, NewCContract, State, Whole},
    pool::{LeaseState, Pool},
    store::{Inserted, Store},
    whole::{Chosen, ENDED},
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
    /// How old such a lease has to be, and for how long this process has to have run.
    pub sweep_grace: Duration,
    /// How often this ledger is compared with that of Resources.
    pub ledger_period: Duration,
    /// After how long what differs is looked at again.
    pub ledger_grace: Duration,
    /// For how long a placement is planned anew when others were faster.
    pub racing: Duration,
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
            ledger_period: Duration::from_secs(300),
            ledger_grace: Duration::from_secs(1),
            racing: Duration::from_secs(10),
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
    environment: Environment,
    settings: Settings,
    waker: Waker,
    flights: Flights,
    ledger: Ledger,
    started: Instant,
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
    pub(crate) fn new(database: Database, pool: Pool, environment: Environment, settings: Settings) -> Self {
        let store = Store::new(database);
        let ledger = Ledger::new("components", settings.ledger_grace);
        Self(Arc::new(Inner {
            store,
            pool,
            environment,
            settings,
            waker: Waker::default(),
            flights: Flights::default(),
            ledger,
            started: Instant::now(),
        }))
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

    fn flights(&self) -> &Flights {
        &self.0.flights
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// What everything of this process shares.
    pub(crate) fn environment(&self) -> &Environment {
        &self.0.environment
    }

    /// For how long this process has run.
    pub(crate) fn running(&self) -> Duration {
        self.0.started.elapsed()
    }

    pub(crate) fn now(&self) -> Ms {
        self.0.environment.clock.now()
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
        let image_id = self.0.pool.image(&ask.need.image, owner).await?;
        let contract = self.contract(owner, &who.subject, image_id, ask.clone());
        let _flight = self.flights().enter(contract.id);
        let chosen = self.chosen(contract.id, &contract.wish()).await?;
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
        let contract = self.contract(owner, &who.subject, image_id, ask.clone());
        let _flight = self.flights().enter(contract.id);
        let chosen = self.chosen(contract.id, &contract.wish()).await?;
        let whole = Whole::recorded(contract, chosen);
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
            None => whole.let_go(ENDED),
            Some(lease) if lease.state == LeaseState::Released => whole.let_go(ENDED),
            Some(lease) => whole.seen(&lease.nodes),
        };
        // Where someone was first, they did the same.
        self.store().whole_save(&whole, &released, self.now()).await?;
        Ok(Carried::Settled(self.whole(whole.contract.id).await?))
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

fn busy() -> Problem {
    let detail = "others change the same thing all the time; try the same request again";
    Problem { retry_after_s: Some(1), ..Problem::new(Code::Unavailable, detail) }
}
