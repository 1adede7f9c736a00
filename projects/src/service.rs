//! What Projects does for whoever asks. Every call takes the principal that asks and decides here whether it may.

use std::{sync::Arc, time::Duration};

use yiqiu_base::{
    Code, Environment, Principal, Problem,
    clock::Ms,
    database::{Database, Transaction, problem},
    idempotency::Key,
    ledger::{Comparison, Ledger},
    outbox::{self, Reading},
    principal::{Role, Signer},
    reconcile::{Next, Waker},
};
use yiqiu_migrations::MigratorTrait;
use yiqiu_proto::{
    call::Caller, components::components_client::ComponentsClient, link::Link,
    resources::resources_client::ResourcesClient,
};

use crate::{
    ledger::Comparer,
    metering::{Feed, Meter},
    model::{Project, User, Whoami, project_of},
    store::{self, kept},
    sweeper::Sweeper,
};

mod projects;
mod tokens;
mod usage;
mod users;

pub use usage::{Audited, Period, ProjectReport};

/// How often the loops of this tier come round.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long one question for events waits at the other tier for a first one; at most 30 s.
    pub poll: Duration,
    /// How many events are taken in one transaction; at most 1000.
    pub batch: u32,
    /// The longest pause after failures of the meter.
    pub meter_period: Duration,
    /// How often contracts that nobody holds are looked for.
    pub sweep_period: Duration,
    /// How old a contract must be before it is released for want of its project.
    pub sweep_grace: Duration,
    /// How often this ledger is compared with those of the tiers that are metered.
    pub ledger_period: Duration,
    /// After how long what differs is looked at again.
    pub ledger_grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(20),
            batch: 1000,
            meter_period: Duration::from_secs(5),
            sweep_period: Duration::from_secs(60),
            sweep_grace: Duration::from_secs(600),
            ledger_period: Duration::from_secs(300),
            ledger_grace: Duration::from_secs(1),
        }
    }
}

/// Projects. Cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    database: Database,
    environment: Environment,
    signer: Signer,
    comparer: Arc<Comparer>,
}

/// How many graces the meter may take to catch up before what it has not read is given up.
const GRACES: u32 = 10;

/// Brings the tables up to date, starts the meters and the sweeper, and returns the service. The loops run until the
/// environment stops.
pub async fn start(
    database: Database,
    env: Environment,
    settings: Settings,
    signer: Signer,
    resources: Link,
    components: Link,
    caller: Caller,
) -> Result<Service, Problem> {
    yiqiu_migrations::projects::Migrator::up(database.schema(), None).await.map_err(problem)?;
    env.clock.not_before(outbox::newest_ms(&database).await?);
    let size = yiqiu_proto::link::MESSAGE_MOST;
    let components = ComponentsClient::new(components).max_decoding_message_size(size);
    let resources = ResourcesClient::new(resources).max_decoding_message_size(size);
    for (name, source, feed) in [
        ("projects.meter.resources", "resources", Feed::Resources(resources.clone())),
        ("projects.meter.components", "components", Feed::Components(components.clone())),
    ] {
        let meter = Arc::new(Meter {
            database: database.clone(),
            source,
            feed,
            caller: caller.clone(),
            poll: settings.poll,
            batch: settings.batch.clamp(1, 1000),
        });
        let stop = env.stop.clone();
        let pass = move || {
            let (meter, stop) = (meter.clone(), stop.clone());
            async move {
                tokio::select! {
                    () = stop.cancelled() => Ok(Next::Done),
                    next = meter.pass() => next,
                }
            }
        };
        run(&env, name, settings.meter_period, pass);
    }
    let comparer = Arc::new(Comparer {
        database: database.clone(),
        resources,
        components: components.clone(),
        caller: caller.clone(),
        clock: env.clock.clone(),
        ledger: Ledger::new("projects", settings.ledger_grace),
        period: settings.ledger_period,
        patience: settings.ledger_grace * GRACES,
    });
    let (looking, stop) = (comparer.clone(), env.stop.clone());
    let pass = move || {
        let (comparer, stop) = (looking.clone(), stop.clone());
        async move {
            tokio::select! {
                () = stop.cancelled() => Ok(Next::Done),
                next = comparer.pass() => next,
            }
        }
    };
    run(&env, "projects.ledger", settings.ledger_period, pass);
    let sweeper = Arc::new(Sweeper { database: database.clone(), components, caller, grace: settings.sweep_grace });
    let clock = env.clock.clone();
    let pass = move || {
        let (sweeper, now) = (sweeper.clone(), clock.now());
        async move { sweeper.pass(now).await }
    };
    run(&env, "projects.sweep", settings.sweep_period, pass);
    Ok(Service(Arc::new(Inner { database, environment: env, signer, comparer })))
}

/// Spawns a loop that lasts until the environment stops.
fn run<F, Fut>(env: &Environment, name: &'static str, period: Duration, pass: F)
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = Result<Next, Problem>> + Send + 'static,
{
    let env = env.clone();
    tokio::spawn(async move {
        env.loops.run(name, env.clock.clone(), period, Waker::default(), env.stop.clone(), pass).await;
    });
}

/// A thing that was made now, or by the same request before.
enum Made<T> {
    Now(T),
    Before(String),
}

impl Service {
    /// The time of this tier.
    pub fn now(&self) -> Ms {
        self.0.environment.clock.now()
    }

    /// The time by which tokens and principals are good, which the books' time does not move.
    fn credentials_now(&self) -> Ms {
        self.0.environment.clock.unmoved()
    }

    /// What everything of this process shares.
    pub(crate) fn environment(&self) -> &Environment {
        &self.0.environment
    }

    /// What compares this ledger with those below, and asks them.
    pub(crate) fn comparer(&self) -> &Comparer {
        &self.0.comparer
    }

    /// What the newest comparison of this ledger with those of the other tiers said; for ops.
    pub fn ledger_last(&self, principal: &Principal) -> Result<Comparison, Problem> {
        principal.require_ops()?;
        Ok(self.comparer().ledger.last())
    }

    /// Compares this ledger with those of the other tiers now; for ops.
    pub async fn ledger_compare(&self, principal: &Principal) -> Result<Comparison, Problem> {
        principal.require_ops()?;
        Ok(self.comparer().compare().await)
    }

    /// Whether the database answers.
    pub async fn ready(&self) -> Result<(), Problem> {
        self.0.database.ping().await
    }

    /// Who asks, as seen here.
    pub async fn whoami(&self, principal: &Principal) -> Result<Whoami, Problem> {
        let project = match project_of(&principal.owner) {
            Some(id) => store::project::project_get(self.0.database.read(), &id.to_string()).await.map_err(problem)?,
            None => None,
        };
        let Principal { subject, role, owner, expires_ms, token: _ } = principal.clone();
        Ok(Whoami { subject, role, owner, project, expires_ms })
    }

    /// The history of this tier after a position, oldest first; for ops.
    pub async fn events(
        &self,
        principal: &Principal,
        after: i64,
        limit: u32,
        wait: Duration,
    ) -> Result<Reading, Problem> {
        principal.require_ops()?;
        outbox::read_as(&self.0.database, principal, after, limit, wait).await
    }

    async fn begin(&self) -> Result<Transaction, Problem> {
        self.0.database.begin().await.map_err(problem)
    }

    /// The user behind a principal.
    async fn asking_user(&self, principal: &Principal) -> Result<User, Problem> {
        let gone = || Problem::new(Code::Unauthenticated, format!("{} is not a user any more", principal.subject));
        let name = principal.subject.strip_prefix("user:").ok_or_else(gone)?;
        store::user::user_get(self.0.database.read(), name).await.map_err(problem)?.ok_or_else(gone)
    }

    /// The living project of a name or id, if the principal may see it; `not_found` in the same words if not.
    async fn visible_project(&self, principal: &Principal, text: &str) -> Result<Project, Problem> {
        store::project::project_get(self.0.database.read(), text)
            .await
            .map_err(problem)?
            .filter(|project| principal.may_touch(&project.owner()))
            .ok_or_else(|| Problem::not_found("project", text))
    }

    /// The project that the principal acts for.
    async fn own_project(&self, principal: &Principal) -> Result<Project, Problem> {
        let owner = principal.owner()?;
        let gone = || Problem::not_found("project", owner);
        let id = project_of(owner).ok_or_else(gone)?;
        self.visible_project(principal, &id.to_string()).await.map_err(|_| gone())
    }

    /// Turns "there is one already" into what the same request made before, if it was this request that made it.
    async fn settle<T>(&self, key: Option<&Key>, made: Result<Made<T>, Problem>) -> Result<Made<T>, Problem> {
        if let (Err(problem), Some(key)) = (&made, key)
            && problem.code == Code::AlreadyExists
            && let Some(before) = kept(self.0.database.read(), Some(key)).await?
        {
            return Ok(Made::Before(before));
        }
        made
    }
}

/// The key of a request, if it carries one.
fn key(
    principal: &Principal,
    noun: &str,
    given: Option<&str>,
    body: &impl serde::Serialize,
) -> Result<Option<Key>, Problem> {
    let subject = format!("{} {}", principal.subject, principal.owner);
    given.map(|given| Key::new(&subject, noun, given, body)).transpose()
}

/// A name that is well-formed and cannot be taken for an id.
fn check_name(noun: &str, name: &str) -> Result<(), Problem> {
    yiqiu_base::name::check(noun, name)?;
    if uuid::Uuid::try_parse(name).is_ok() {
        return Err(Problem::invalid(format!("`{name}` cannot be the name of a {noun}: it has the form of an id")));
    }
    Ok(())
}

/// What still uses a thing, as one sentence and as data.
fn in_use(noun: &str, name: &str, uses: &[(&str, i64)], hint: &str) -> Result<(), Problem> {
    let left: Vec<_> = uses.iter().filter(|(_, n)| *n > 0).collect();
    if left.is_empty() {
        return Ok(());
    }
    let told: Vec<String> = left
        .iter()
        .map(|(what, n)| format!("{n} {}", if *n == 1 { what.strip_suffix('s').unwrap_or(what) } else { *what }))
        .collect();
    let data: serde_json::Map<_, _> = left.iter().map(|(what, n)| ((*what).replace(' ', "_"), (*n).into())).collect();
    Err(Problem::new(Code::InUse, format!("{noun} `{name}` is in use by {}: {hint}", told.join(", "))).with_data(data))
}

/// Refuses roles that a user cannot have in a project or in a token.
fn check_role(role: Role) -> Result<(), Problem> {
    match role {
        Role::Ops | Role::Tenant => Ok(()),
        Role::Service => Err(Problem::invalid("`service` is not a role of users: expected ops or tenant")),
    }
}
