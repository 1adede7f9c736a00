//! `yiqiu serve`: some of the roles in a process of their own, and `yiqiu keys`, which they need.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use anyhow::ensure;
use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;
use yiqiu_base::telemetry;

use crate::{
    keys::Keys,
    roles::{self, Deployment, Role},
    server,
    up::{Limits, first_token},
};

/// Flags of `yiqiu serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// What this process is.
    #[arg(long, env = "YIQIU_ROLES", value_name = "ROLE", value_delimiter = ',', required = true)]
    roles: Vec<Role>,
    /// The address of its API.
    #[arg(long, env = "YIQIU_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
    /// The keys that `yiqiu keys init` made: keyring.json, and the private keys of these roles.
    #[arg(long, env = "YIQIU_KEYS_DIR", value_name = "DIR")]
    keys_dir: PathBuf,
    /// The database of Resources: postgres://… or sqlite:PATH.
    #[arg(long, env = "YIQIU_DATABASE_RESOURCES", value_name = "URL", hide_env_values = true)]
    database_resources: Option<String>,
    /// The database of Components.
    #[arg(long, env = "YIQIU_DATABASE_COMPONENTS", value_name = "URL", hide_env_values = true)]
    database_components: Option<String>,
    /// The database of Projects.
    #[arg(long, env = "YIQIU_DATABASE_PROJECTS", value_name = "URL", hide_env_values = true)]
    database_projects: Option<String>,
    /// Where Resources is, if elsewhere.
    #[arg(long, env = "YIQIU_RESOURCES_URL", value_name = "URL")]
    resources_url: Option<String>,
    /// Where Components is, if elsewhere.
    #[arg(long, env = "YIQIU_COMPONENTS_URL", value_name = "URL")]
    components_url: Option<String>,
    /// Where Projects is, if elsewhere.
    #[arg(long, env = "YIQIU_PROJECTS_URL", value_name = "URL")]
    projects_url: Option<String>,
    /// Where Resources keeps the bytes of images.
    #[arg(long, env = "YIQIU_IMAGES_DIR", value_name = "DIR", default_value = "/var/lib/yiqiu/images")]
    images_dir: PathBuf,
    /// Where Projects writes the first ops token, while nobody can act as ops.
    #[arg(long, env = "YIQIU_OPS_TOKEN_FILE", value_name = "FILE")]
    ops_token_file: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
}

/// Verbs of `yiqiu keys`.
#[derive(Debug, Subcommand)]
pub enum KeysVerb {
    /// Makes a private key for each tier, and the keyring with the public halves.
    ///
    /// Give each process keyring.json and the .key files of its own roles.
    Init {
        /// The directory; must have no keys yet.
        dir: PathBuf,
    },
}

/// Carries out `yiqiu keys …`.
pub fn keys(verb: KeysVerb) -> anyhow::Result<()> {
    let KeysVerb::Init { dir } = verb;
    Keys::init(&dir)?;
    println!("{}: keyring.json for every process, and the .key file of each role for that role only", dir.display());
    Ok(())
}

/// Runs the roles until a signal.
pub async fn run(serve: Serve) -> anyhow::Result<()> {
    telemetry::logs();
    let mut roles: std::collections::BTreeSet<Role> = serve.roles.into_iter().collect();
    if roles.remove(&Role::Paas) {
        tracing::warn!("the role paas is not there yet: this process goes on without it");
    }
    ensure!(!roles.is_empty(), "the role paas is not there yet: expected resources, components or projects");
    let present = |pairs: [(Role, Option<String>); 3]| -> BTreeMap<Role, String> {
        pairs.into_iter().filter_map(|(role, value)| Some((role, value?))).collect()
    };
    let mut elsewhere = present([
        (Role::Resources, serve.resources_url),
        (Role::Components, serve.components_url),
        (Role::Projects, serve.projects_url),
    ]);
    elsewhere.retain(|role, _| !roles.contains(role)); // one set of variables for every process
    let deployment = Deployment {
        databases: present([
            (Role::Resources, serve.database_resources),
            (Role::Components, serve.database_components),
            (Role::Projects, serve.database_projects),
        ]),
        roles,
        keys: Keys::open(&serve.keys_dir)?,
        elsewhere,
        images: serve.images_dir,
        rate_limit: serve.limits.rate_limit,
        usage_interval: serve.limits.usage_interval,
        grace: serve.limits.grace,
        audit_interval: serve.limits.audit_interval,
    };
    deployment.check()?;
    let listener = server::bind(serve.listen).await?;
    let listen = listener.local_addr()?;
    let stop = CancellationToken::new();
    let metrics = server::metrics(stop.clone());
    let running = roles::start(&deployment, stop.clone()).await?;
    if let (Some(projects), Some(file)) = (&running.projects, &serve.ops_token_file) {
        first_token(projects, file).await?;
    }
    let router = running.site.router(metrics)?;
    let names: Vec<&str> = deployment.roles.iter().map(|role| role.as_str()).collect();
    println!("Yiqiu serves {} at http://{listen}", names.join(", "));
    let signal = stop.clone();
    tokio::spawn(async move {
        if let Err(error) = server::asked_to_stop().await {
            tracing::error!(%error, "signals cannot be received: stopping");
        }
        signal.cancel();
    });
    let served = server::serve(listener, router, stop.clone()).await;
    stop.cancel();
    served
}
