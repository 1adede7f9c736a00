//! `yiqiu up`: everything in one process, on SQLite, with an agent for this machine.

use std::{
    fs::{File, TryLockError},
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use tokio_util::sync::CancellationToken;
use yiqiu_base::{Code, Principal, principal, secret::Secret, telemetry};
use yiqiu_resources::{model::Limit, service::host::HostRequest};

use crate::{
    cli::{parse_span, write_private},
    keys::{Keys, private_dir},
    roles::{self, Deployment, Role, Running},
    server,
};

/// Flags of `yiqiu up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Where everything is kept: databases, keys, images, the agent's journal.
    #[arg(long, env = "YIQIU_DATA_DIR", value_name = "DIR", default_value = ".yiqiu/data")]
    data_dir: PathBuf,
    /// The address of the API, for people and for agents.
    #[arg(long, env = "YIQIU_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
    /// Without an agent for this machine.
    #[arg(long)]
    no_agent: bool,
    /// The Docker socket, a path or a URL; DOCKER_HOST or /var/run/docker.sock if not said.
    #[arg(long, value_name = "SOCKET")]
    docker: Option<String>,
    /// The name of this machine as a host; its host name if not said. Counts on the first start only.
    #[arg(long, value_name = "NAME")]
    host_name: Option<String>,
    #[command(flatten)]
    limits: Limits,
}

/// What every server can be told.
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// Requests a second that one user may make in one project; twice as many at once.
    #[arg(long, env = "YIQIU_RATE_LIMIT", value_name = "N", default_value = "500")]
    pub rate_limit: NonZeroU32,
    /// How often agents send what they measured.
    #[arg(long, env = "YIQIU_USAGE_INTERVAL", value_name = "SPAN", value_parser = parse_span, default_value = "10s")]
    pub usage_interval: Duration,
    /// How long after its end a contract can be renewed, where it does not say so itself.
    #[arg(long, env = "YIQIU_GRACE", value_name = "SPAN", value_parser = parse_span, default_value = "1h")]
    pub grace: Duration,
    /// How often every claim is compared with what the hosts themselves say, and the ledgers of the tiers.
    #[arg(long, env = "YIQIU_AUDIT_INTERVAL", value_name = "SPAN", value_parser = parse_span, default_value = "5m")]
    pub audit_interval: Duration,
}

/// Runs it until a signal.
pub async fn run(up: Up) -> anyhow::Result<()> {
    telemetry::logs();
    let Up { data_dir, listen, no_agent, docker, host_name, limits } = up;
    private_dir(&data_dir)?;
    let data = data_dir.canonicalize().with_context(|| data_dir.display().to_string())?;
    let _lock = lock(&data)?;
    let listener = server::bind(listen).await?;
    let listen = listener.local_addr()?;

    let stop = CancellationToken::new();
    let metrics = server::metrics(stop.clone());
    let deployment = Deployment {
        roles: Role::TIERS.into(),
        databases: Role::TIERS.map(|role| (role, sqlite(&data, role))).into(),
        keys: Keys::open_or_init(&data.join("keys"))?,
        elsewhere: [].into(),
        images: data.join("images"),
        rate_limit: limits.rate_limit,
        usage_interval: limits.usage_interval,
        grace: limits.grace,
        audit_interval: limits.audit_interval,
    };
    deployment.check()?;
    let Running { site, resources, projects, agents } = roles::start(&deployment, stop.clone()).await?;
    let (Some(resources), Some(projects), Some(agents)) = (resources, projects, agents) else {
        bail!("a role did not start");
    };
    let token_file = data.join("ops.token");
    first_token(&projects, &token_file).await?;

    let agent = if no_agent {
        None
    } else {
        let mut config = yiqiu_agent::AgentConfig::new(data.join("agent"));
        config.docker = docker;
        if !config.data_dir.join("identity.json").exists() {
            let name = host_name.map_or_else(machine_name, Ok)?;
            config.token = Some(join_token(&resources, &name).await?.reveal().to_owned());
        }
        Some(tokio::spawn(run_agent(config, agents, stop.clone())))
    };

    let router = site.router(metrics)?;
    println!("{}", greeting(listen, &token_file));
    let signal = stop.clone();
    tokio::spawn(async move {
        match server::asked_to_stop().await {
            Ok(()) => tracing::info!("stopping; nodes keep running"),
            Err(error) => tracing::error!(%error, "signals cannot be received: stopping"),
        }
        signal.cancel();
    });
    let served = server::serve(listener, router, stop.clone()).await;
    stop.cancel();
    if let Some(agent) = agent {
        // It finishes the step it is at; what it does not finish, its journal carries on at the next start.
        let _ = tokio::time::timeout(Duration::from_secs(10), agent).await;
    }
    served
}

async fn run_agent(config: yiqiu_agent::AgentConfig, link: yiqiu_proto::link::Link, stop: CancellationToken) {
    if let Err(error) = yiqiu_agent::run(config, link, stop).await {
        tracing::error!("the agent of this machine ended, the platform goes on without it: {error:#}");
    }
}

pub(crate) fn sqlite(data: &Path, role: Role) -> String {
    format!("sqlite:{}", data.join(format!("{}.sqlite", role.as_str())).display())
}

/// One process at a time on a data directory.
pub(crate) fn lock(data: &Path) -> anyhow::Result<File> {
    let path = data.join("lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("{} is in use by another `yiqiu up`: stop it, or take another --data-dir", data.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Sees to it that somebody can act as ops, with a token in a file. The file comes first: a token in the database whose
/// text nobody has would lock everyone out.
pub async fn first_token(projects: &yiqiu_projects::Service, file: &Path) -> anyhow::Result<()> {
    let told = || format!("the ops token {}", file.display());
    let (secret, fresh) = match std::fs::read_to_string(file) {
        Ok(text) => (Secret::from_text(text.trim()), false),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let secret = Secret::generate("yqt_");
            write_private(file, format!("{}\n", secret.reveal())).with_context(told)?;
            (secret, true)
        }
        Err(error) => return Err(error).with_context(told),
    };
    let made = projects.bootstrap(Some(secret)).await.with_context(told)?;
    if made.is_none() && fresh {
        // Somebody can act as ops already, and removed the file on purpose.
        std::fs::remove_file(file).with_context(told)?;
    }
    Ok(())
}

/// A join token for the host that this machine is: a new one, or one that was made before and has not joined.
async fn join_token(resources: &yiqiu_resources::Service, name: &str) -> anyhow::Result<Secret> {
    let ops = Principal {
        subject: "service:up".into(),
        role: principal::Role::Ops,
        owner: String::new(),
        expires_ms: i64::MAX,
        token: None,
    };
    let request =
        HostRequest { name: name.to_owned(), rack: None, unit: None, node_type: None, limit: Limit::default() };
    let made = match resources.host_create(&ops, &request, None).await {
        Err(problem) if problem.code == Code::AlreadyExists => resources.host_join_token(&ops, name).await,
        other => other,
    };
    Ok(made.with_context(|| format!("this machine as the host `{name}` (--host-name)"))?.1)
}

/// The host name up to the first dot, as far as the platform takes it as a name.
fn machine_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("this machine has no host name: give one with --host-name")?;
    Ok(host_name(&name.to_string_lossy()))
}

fn host_name(name: &str) -> String {
    let short = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let kept: String =
        short.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).take(63).collect();
    match kept.trim_matches('-') {
        "" => "this-machine".to_owned(),
        kept => kept.to_owned(),
    }
}

fn greeting(listen: SocketAddr, token_file: &Path) -> String {
    let token = match token_file.exists() {
        true => format!(" YIQIU_TOKEN_FILE={}", token_file.display()),
        false => String::new(),
    };
    format!(
        "Yiqiu is up at http://{listen}\n\
         \x20 API          http://{listen}/docs\n\
         \x20 health       http://{listen}/readyz\n\
         \x20 to use it    export YIQIU_SERVER=http://{listen}{token}\n\
         \x20 then         yiqiu host list, and yiqiu host place NAME --rack RACK --unit 1 --node-type cm"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_names_become_names_of_hosts() {
        for (machine, name) in
            [("web1", "web1"), ("Web_1.example.org", "web-1"), ("", "this-machine"), ("--", "this-machine")]
        {
            assert_eq!(host_name(machine), name, "{machine}");
            assert!(yiqiu_base::name::check("host", name).is_ok());
        }
    }
}
