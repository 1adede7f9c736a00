//! What can be asked of Resources. Every method takes who asks, decides whether they may, and answers with a model or
//! a refusal; HTTP and gRPC only translate.

mod agent;
mod amend;
mod audit;
mod contract;
pub mod drain;
pub mod host;
mod image;
mod line;
mod node;
pub mod place;
mod pool;
mod questions;
mod sessions;
mod streams;
mod term;

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::{Mutex, RwLock};
use yiqiu_base::{
    Code, Environment, Id, Power, Principal, Problem,
    database::Database,
    group_commit::GroupCommit,
    id::Image,
    outbox::{self, Reading},
    principal::Role,
    reconcile::Waker,
};

pub use agent::{Connected, Hello};
pub use amend::AmendRequest;
pub use audit::Settle;
pub use contract::{ContractRequest, LineRequest};
pub use image::ImageFile;
pub use questions::Answer;
pub use sessions::Push;
pub use streams::{Attached, NodeStream};

use crate::{
    model::{ImageModel, NodeModel},
    reconcile,
    store::{Admission, Admitted, Books, Reported, Store},
};
use questions::Questions;
use sessions::Sessions;
use streams::Streams;

/// How Resources runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the bytes of images are kept.
    pub images: PathBuf,
    /// How often an agent says that it is there.
    pub heartbeat: Duration,
    /// How long an agent may be silent before its host is shown as unreachable.
    pub lost_after: Duration,
    /// How often agents send usage.
    pub usage: Duration,
    /// How long a join token holds.
    pub join_token: Duration,
    /// How long a node may take to follow a wish before its agent is told again.
    pub resend_after: Duration,
    /// How long a node may take to stop before it is killed.
    pub stop_grace: Duration,
    /// How long a contract can be renewed after its end, where it does not say so itself.
    pub grace: Duration,
    /// How often every claim is compared with what the hosts say.
    pub audit: Duration,
}

impl Settings {
    /// The usual times, with images under `images`.
    pub fn new(images: PathBuf) -> Self {
        Self {
            images,
            heartbeat: Duration::from_secs(5),
            lost_after: Duration::from_secs(15),
            usage: Duration::from_secs(10),
            join_token: Duration::from_secs(3600),
            resend_after: Duration::from_secs(20),
            stop_grace: Duration::from_secs(10),
            grace: Duration::from_secs(3600),
            audit: Duration::from_secs(300),
        }
    }
}

/// Tier 1. Cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    store: Store,
    environment: Environment,
    settings: Settings,
    sessions: Sessions,
    streams: Streams,
    questions: Questions,
    admissions: GroupCommit<Admission, Admitted>,
    reports: GroupCommit<Reported, ()>,
    /// Images that are ready, by id: what a claim needs to know of them never changes until they are deleted.
    images: RwLock<HashMap<Id<Image>, ImageModel>>,
    /// Held while a file of an image comes or goes, so that one that came just now is not taken for one that may go.
    image_files: Mutex<()>,
    /// Wakes the loop of terms.
    terms: Waker,
    epoch: u64,
}

/// The most contracts, and the most reports, that one transaction carries.
const GROUP_MOST: usize = 256;

/// Brings the tables up to date, and starts the loops of the tier.
pub async fn start(database: Database, environment: Environment, settings: Settings) -> Result<Service, Problem> {
    let store = Store::open(database).await?;
    environment.clock.not_before(store.newest_ms().await?);
    store.host_all_lost(environment.clock.now()).await?;
    store.audit_interrupted(None, environment.clock.now()).await?;
    let epoch = u64::try_from(outbox::epoch(store.database()).await?).unwrap_or_default();
    std::fs::create_dir_all(&settings.images).map_err(|error| {
        Problem::new(
            Code::Unavailable,
            format!("cannot make the folder of images {}: {error}", settings.images.display()),
        )
    })?;
    image::sweep_partial(&settings.images);
    let sessions = Sessions::default();
    let admissions = {
        let (store, clock, sessions) = (store.clone(), environment.clock.clone(), sessions.clone());
        let at_a_time = store.database().changes_at_a_time();
        GroupCommit::start(GROUP_MOST, at_a_time, move |group: Arc<Vec<Admission>>| {
            let (store, clock, sessions) = (store.clone(), clock.clone(), sessions.clone());
            async move {
                let verdicts = contract::admit_group(&store, &group, &clock).await;
                // Here and not where the caller waits: a caller may be gone by now, its claim is not.
                // A new node that shall be off is nothing yet: its host learns of it with its first start.
                for admitted in verdicts.iter().flatten() {
                    sessions.assign(admitted.nodes.iter().filter(|node| node.power != Power::Off));
                }
                Ok(verdicts)
            }
        })
    };
    let reports = {
        let (store, clock, sessions) = (store.clone(), environment.clock.clone(), sessions.clone());
        // One at a time: what is said of a node keeps its order.
        GroupCommit::start(GROUP_MOST, 1, move |group: Arc<Vec<Reported>>| {
            let (store, clock, sessions) = (store.clone(), clock.clone(), sessions.clone());
            async move { Ok(agent::observe_group(&store, &group, &clock, &sessions).await) }
        })
    };
    let service = Service(Arc::new(Inner {
        store,
        environment,
        settings,
        sessions,
        streams: Streams::default(),
        questions: Questions::default(),
        admissions,
        reports,
        images: RwLock::default(),
        image_files: Mutex::default(),
        terms: Waker::default(),
        epoch,
    }));
    reconcile::start(&service);
    Ok(service)
}

impl Service {
    /// Whether the database answers.
    pub async fn ready(&self) -> Result<(), Problem> {
        self.0.store.database().ping().await
    }

    /// What everything of this process shares.
    pub fn environment(&self) -> &Environment {
        &self.0.environment
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Wakes the loop of terms.
    pub(crate) fn terms_waker(&self) -> Waker {
        self.0.terms.clone()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    fn now(&self) -> i64 {
        self.0.environment.clock.now()
    }

    /// The history that assignments and events belong to: grows when the database is restored from a backup.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Checks the books now.
    pub async fn books(&self, principal: &Principal) -> Result<Books, Problem> {
        principal.require_service()?;
        self.0.store.books().await
    }

    /// Events after a position. Ops and tiers read all of them; a tenant those of its own contracts.
    pub async fn events(
        &self,
        principal: &Principal,
        after: i64,
        limit: u32,
        wait: Duration,
    ) -> Result<Reading, Problem> {
        outbox::read_as(self.0.store.database(), principal, after, limit, wait).await
    }

    /// Tells the agents of these nodes what is wished.
    pub(crate) fn push(&self, nodes: &[NodeModel]) {
        self.0.sessions.assign(nodes);
    }
}

/// Whose things a principal sees: `None` is everyone's.
fn scope(principal: &Principal) -> Option<&str> {
    match principal.role {
        Role::Ops => None,
        Role::Tenant | Role::Service => Some(&principal.owner),
    }
}
