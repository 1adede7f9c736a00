//! The one place where roles are wired: each gets its database, its key and its links to the others.
//!
//! Between roles there is one way only, the generated client over a [`Link`]: straight into the service when it runs in
//! this process, over the network when it does not. Nothing else here depends on which.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};
use utoipa_axum::router::OpenApiRouter;
use yiqiu_base::{Clock, Environment, database::Database, http::Gate, reconcile::Loops};
use yiqiu_proto::{
    call::{Callee, Caller},
    link::{self, Link, MESSAGE_MOST},
};

use crate::{exchange::Exchange, keys::Keys, server::Site};

/// A role that a process can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Role {
    /// Tier 1.
    Resources,
    /// Tier 2.
    Components,
    /// Tier 3.
    Projects,
    /// Programs, deployed: not there yet.
    Paas,
}

impl Role {
    /// The tiers.
    pub const TIERS: [Role; 3] = [Role::Resources, Role::Components, Role::Projects];

    /// Its name: in flags, as issuer of principals, in `/v1/endpoints`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Resources => "resources",
            Role::Components => "components",
            Role::Projects => "projects",
            Role::Paas => "paas",
        }
    }

    /// The tiers that it calls. Every tier asks Projects who holds a token.
    fn calls(self) -> &'static [Role] {
        match self {
            Role::Resources => &[Role::Projects],
            Role::Components => &[Role::Projects, Role::Resources],
            Role::Projects => &[Role::Resources, Role::Components],
            Role::Paas => &[],
        }
    }
}

/// What one process is to be.
pub struct Deployment {
    /// Its roles.
    pub roles: BTreeSet<Role>,
    /// The database of each of them.
    pub databases: BTreeMap<Role, String>,
    /// The keys: the private ones of its roles are read, and no others.
    pub keys: Keys,
    /// Where the tiers are that run elsewhere.
    pub elsewhere: BTreeMap<Role, String>,
    /// Where Resources keeps the bytes of images.
    pub images: PathBuf,
    /// Requests a second that one principal may make.
    pub rate_limit: NonZeroU32,
    /// How often agents send what they measured.
    pub usage_interval: Duration,
    /// How long contracts of Resources can be renewed after their end.
    pub grace: Duration,
    /// How often every claim is compared with what the hosts say.
    pub audit_interval: Duration,
}

/// Roles that run.
pub struct Running {
    /// What they serve.
    pub site: Site,
    /// Resources, if it is here.
    pub resources: Option<yiqiu_resources::Service>,
    /// Projects, if it is here.
    pub projects: Option<yiqiu_projects::Service>,
    /// The way of an agent of this process to Resources, if that is here.
    pub agents: Option<Link>,
}

/// What the roles of a process share while they start.
struct Wiring<'a> {
    deployment: &'a Deployment,
    environment: Environment,
    credentials: Clock,
    callee: Callee,
    links: BTreeMap<Role, Link>,
    api: OpenApiRouter,
    grpc: RoutesBuilder,
    databases: BTreeMap<&'static str, Database>,
}

/// Starts the roles. They run until `stop`.
pub async fn start(deployment: &Deployment, stop: CancellationToken) -> anyhow::Result<Running> {
    // Credentials are checked by a clock of their own: the books' clock may be moved on to where the books are.
    let credentials = Clock::system();
    let environment = Environment { clock: Clock::system(), loops: Loops::default(), stop };
    let keyring = deployment.keys.keyring()?;
    let mut wiring = Wiring {
        deployment,
        environment: environment.clone(),
        callee: Callee::new(keyring.clone(), credentials.clone()),
        credentials: credentials.clone(),
        links: BTreeMap::new(),
        api: OpenApiRouter::new(),
        grpc: Routes::builder(),
        databases: BTreeMap::new(),
    };
    // Upwards: a tier's links are there when it starts. What runs elsewhere need not be up yet: links connect when
    // used.
    let (mut resources, mut projects, mut agents) = (None, None, None);
    if deployment.roles.contains(&Role::Resources) {
        let (service, agents_link) = wiring.resources().await?;
        (resources, agents) = (Some(service), Some(agents_link));
    }
    if deployment.roles.contains(&Role::Components) {
        wiring.components().await?;
    }
    if deployment.roles.contains(&Role::Projects) {
        projects = Some(wiring.projects().await?);
    }
    let first = deployment.roles.iter().find(|role| Role::TIERS.contains(role)).context("no role is there to start")?;
    let exchange = Exchange::new(wiring.link(Role::Projects)?, wiring.caller(*first)?);
    let gate = Gate::new(keyring, credentials, Arc::new(exchange), deployment.rate_limit);
    let Wiring { api, grpc, databases, .. } = wiring;
    let endpoints = Role::TIERS.map(|role| (role.as_str(), deployment.elsewhere.get(&role).cloned())).into();
    let site = Site { api, grpc: grpc.routes(), gate, databases, loops: environment.loops, endpoints };
    Ok(Running { site, resources, projects, agents })
}

impl Deployment {
    /// Refuses a process that could not do its work: a database or the way to another tier is missing.
    pub fn check(&self) -> anyhow::Result<()> {
        for role in &self.roles {
            if *role != Role::Paas && !self.databases.contains_key(role) {
                anyhow::bail!("the role {0} needs --database-{0}", role.as_str());
            }
            for other in role.calls() {
                if !self.roles.contains(other) && !self.elsewhere.contains_key(other) {
                    anyhow::bail!(
                        "the role {} needs --{}-url, or that role in this process",
                        role.as_str(),
                        other.as_str()
                    );
                }
            }
        }
        Ok(())
    }
}

impl Wiring<'_> {
    async fn resources(&mut self) -> anyhow::Result<(yiqiu_resources::Service, Link)> {
        let database = self.database(Role::Resources).await?;
        let settings = yiqiu_resources::Settings {
            usage: self.deployment.usage_interval,
            grace: self.deployment.grace,
            audit: self.deployment.audit_interval,
            ..yiqiu_resources::Settings::new(self.deployment.images.clone())
        };
        let service = yiqiu_resources::start(database, self.environment.clone(), settings).await?;
        let server =
            yiqiu_resources::rpc::server(service.clone(), self.callee.clone()).max_decoding_message_size(MESSAGE_MOST);
        let agents = yiqiu_resources::rpc::agents_server(service.clone()).max_decoding_message_size(MESSAGE_MOST);
        self.links.insert(Role::Resources, link::local(server.clone()));
        let agents_link = link::local(agents.clone());
        self.grpc.add_service(server).add_service(agents);
        self.serve(yiqiu_resources::http::router(service.clone()));
        Ok((service, agents_link))
    }

    async fn components(&mut self) -> anyhow::Result<()> {
        let database = self.database(Role::Components).await?;
        let service = yiqiu_components::start(
            database,
            self.environment.clone(),
            yiqiu_components::Settings {
                ledger_period: self.deployment.audit_interval,
                ..yiqiu_components::Settings::default()
            },
            self.link(Role::Resources)?,
            self.caller(Role::Components)?,
        )
        .await?;
        let server =
            yiqiu_components::rpc::server(service.clone(), self.callee.clone()).max_decoding_message_size(MESSAGE_MOST);
        self.links.insert(Role::Components, link::local(server.clone()));
        self.grpc.add_service(server);
        self.serve(yiqiu_components::http::router(service));
        Ok(())
    }

    async fn projects(&mut self) -> anyhow::Result<yiqiu_projects::Service> {
        let database = self.database(Role::Projects).await?;
        let service = yiqiu_projects::start(
            database,
            self.environment.clone(),
            yiqiu_projects::Settings {
                ledger_period: self.deployment.audit_interval,
                ..yiqiu_projects::Settings::default()
            },
            self.deployment.keys.signer(Role::Projects.as_str())?,
            self.link(Role::Resources)?,
            self.link(Role::Components)?,
            self.caller(Role::Projects)?,
        )
        .await?;
        let server =
            yiqiu_projects::rpc::server(service.clone(), self.callee.clone()).max_decoding_message_size(MESSAGE_MOST);
        self.links.insert(Role::Projects, link::local(server.clone()));
        self.grpc.add_service(server);
        self.serve(yiqiu_projects::http::router(service.clone()));
        Ok(service)
    }

    fn serve(&mut self, api: OpenApiRouter) {
        self.api = std::mem::take(&mut self.api).merge(api);
    }

    async fn database(&mut self, role: Role) -> anyhow::Result<Database> {
        let url = self.deployment.databases.get(&role).context("a role without a database")?;
        let database = Database::connect(url).await.with_context(|| format!("--database-{}", role.as_str()))?;
        self.databases.insert(role.as_str(), database.clone());
        Ok(database)
    }

    fn caller(&self, role: Role) -> anyhow::Result<Caller> {
        Ok(Caller::new(self.deployment.keys.signer(role.as_str())?, self.credentials.clone()))
    }

    fn link(&self, role: Role) -> anyhow::Result<Link> {
        if let Some(link) = self.links.get(&role) {
            return Ok(link.clone());
        }
        let url =
            self.deployment.elsewhere.get(&role).with_context(|| format!("--{}-url is missing", role.as_str()))?;
        Ok(link::remote(url)?)
    }
}
