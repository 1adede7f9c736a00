//! A tier on a database of its own, with hosts whose agents the test plays.

use std::{path::PathBuf, time::Duration};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use yiqiu_base::{
    Clock, Environment, Health, Id, NodeState, NodeType, Power, Principal, Size, id::Node, principal::Role,
    reconcile::Loops, secret::Secret, testing::TestDatabase,
};
use yiqiu_resources::{
    Service, Settings,
    model::{DriverStatus, HostModel, Limit, NodeModel, Report, Runtime},
    service::{Connected, Hello, LineRequest, host::HostRequest},
    start,
    store::HostFacts,
};

pub(crate) struct Tier {
    pub(crate) service: Service,
    pub(crate) clock: Clock,
    pub(crate) database: TestDatabase,
    pub(crate) folder: TempDir,
}

impl Tier {
    pub(crate) async fn start(database: TestDatabase) -> Self {
        let clock = Clock::manual(1_700_000_000_000);
        let folder = TempDir::new().unwrap();
        let service = serve(&database, &clock, folder.path().to_owned()).await;
        Self { service, clock, database, folder }
    }

    /// The same books after the process ended and began anew.
    pub(crate) async fn restart(self) -> Self {
        self.service.environment().stop.cancel();
        let Self { clock, database, folder, .. } = self;
        let service = serve(&database, &clock, folder.path().to_owned()).await;
        Self { service, clock, database, folder }
    }

    pub(crate) async fn both() -> [Self; 2] {
        let [sqlite, postgres] = TestDatabase::both().await;
        [Self::start(sqlite).await, Self::start(postgres).await]
    }

    pub(crate) fn tick(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }

    /// A region, a zone and a rack, each of that name.
    pub(crate) async fn place(&self, name: &str) {
        let ops = ops();
        self.service.region_create(&ops, name, None).await.unwrap();
        self.service.zone_create(&ops, name, name, None).await.unwrap();
        self.service.rack_create(&ops, name, name, 100, None).await.unwrap();
    }

    /// A host in the rack `r`, whose agent joined and is connected.
    pub(crate) async fn host(&self, name: &str, unit: i64, node_type: NodeType, capacity: Size) -> Agent {
        let request = HostRequest {
            name: name.to_owned(),
            rack: Some("r".to_owned()),
            unit: Some(unit),
            node_type: Some(node_type),
            limit: Limit::default(),
        };
        let (_, token) = self.service.host_create(&ops(), &request, None).await.unwrap();
        let (host, credential) = self.service.agent_join(&token, &facts(node_type, capacity)).await.unwrap();
        let host = HostModel { node_type: Some(node_type), machine: capacity, ..host };
        self.dial(host, credential).await
    }

    /// The agent of a host dials.
    pub(crate) async fn dial(&self, host: HostModel, credential: Secret) -> Agent {
        let facts = facts(host.node_type.unwrap(), host.machine);
        let hello = Hello { host_id: host.id, facts, epoch: 0, nodes: Vec::new() };
        let Connected { number, pushes, .. } = self.service.agent_connect(&credential, hello).await.unwrap();
        let host = self.service.host_get(&ops(), &host.name).await.unwrap();
        Agent { host, credential, number, pushes }
    }

    pub(crate) async fn books_hold(&self, when: &str) {
        let books = self.service.books(&ops()).await.unwrap();
        assert!(books.hold, "{when} on {}: {:#?}", self.database.name, books.faults);
        // The hosts of these tests lose nothing: one that is short was overfilled.
        assert!(books.short.is_empty(), "{when} on {}: {:?} are short", self.database.name, books.short);
    }
}

async fn serve(database: &TestDatabase, clock: &Clock, images: PathBuf) -> Service {
    let environment = Environment { clock: clock.clone(), loops: Loops::default(), stop: CancellationToken::new() };
    start(database.open().await, environment, Settings::new(images)).await.unwrap()
}

pub(crate) struct Agent {
    pub(crate) host: HostModel,
    pub(crate) credential: Secret,
    pub(crate) number: u64,
    // Kept so that the session stays open.
    pub(crate) pushes: tokio::sync::mpsc::Receiver<yiqiu_resources::service::Push>,
}

pub(crate) fn facts(node_type: NodeType, capacity: Size) -> HostFacts {
    HostFacts {
        boot_id: "boot".to_owned(),
        capacity,
        clock_mhz: 2_000,
        drivers: vec![DriverStatus {
            node_type,
            name: "played".to_owned(),
            ready: true,
            missing: String::new(),
            overhead_fixed: size(100, 1 << 20),
            overhead_per_node: size(5, 1 << 10),
            unbound: String::new(),
        }],
        features: std::collections::BTreeMap::from([("arch".to_owned(), "played".to_owned())]),
    }
}

pub(crate) fn ops() -> Principal {
    Principal {
        subject: "user:ops".into(),
        role: Role::Ops,
        owner: "project:ops".into(),
        expires_ms: i64::MAX,
        token: None,
    }
}

pub(crate) fn tenant(project: &str) -> Principal {
    Principal {
        subject: format!("user:{project}"),
        role: Role::Tenant,
        owner: format!("project:{project}"),
        expires_ms: i64::MAX,
        token: None,
    }
}

pub(crate) fn size(cpu: i64, memory: i64) -> Size {
    Size { cpu_millicores: cpu, memory_bytes: memory, ..Size::ZERO }
}

/// A line that needs no image: for hosts cut as `vm` or `bm`, which the tests play.
pub(crate) fn line(name: &str, host: &HostModel, size: Size) -> LineRequest {
    LineRequest {
        id: None,
        name: name.to_owned(),
        host: host.id.to_string(),
        node_type: None,
        image: None,
        command: vec!["true".to_owned()],
        environment: Vec::new(),
        ports: Vec::new(),
        size: Some(size),
        runtime: Runtime::default(),
        power: Some(Power::On),
        release_while_off: false,
    }
}

pub(crate) fn report(node: &NodeModel, state: NodeState) -> Report {
    report_of(node.id, state, node.generation, 1)
}

pub(crate) fn report_of(node_id: Id<Node>, state: NodeState, generation: i64, boot: i64) -> Report {
    Report {
        node_id,
        state,
        generation,
        boot,
        detail: String::new(),
        ports: Vec::new(),
        health: Health::None,
        // The agents of these tests know the newest wish.
        revision: i64::MAX,
        sized: 0,
    }
}
