//! The binary `yiqiu-agent`: a machine joins and is served.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use yiqiu_agent::{AgentConfig, drivers::sim::Behaviour, fleet};
use yiqiu_base::{NodeType, Size, size, telemetry};
use yiqiu_proto::link;

/// Most of what a request costs beside its statements is allocation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many simulated hosts share a connection.
const HOSTS_A_CONNECTION: usize = 100;

/// Cuts this machine into nodes as the Yiqiu control plane assigns them.
///
/// The first start needs --token-file with the one-time token that `yiqiu host create` prints; later starts use the
/// credential that was saved in the data folder. Nodes keep running when the agent or the server stops.
#[derive(Parser)]
#[command(name = "yiqiu-agent", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Sub>,
    #[command(flatten)]
    agent: Option<AgentArgs>,
}

#[derive(Args)]
struct AgentArgs {
    /// Where the control plane takes agents, such as http://10.0.0.1:7070
    #[arg(long, env = "YIQIU_SERVER", value_name = "URL")]
    server: String,
    /// A file with a one-time join token; neither it nor the file is needed once this machine has joined
    #[arg(long, env = "YIQIU_JOIN_TOKEN_FILE", value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// The token itself: other users of this machine can read it in the list of processes
    #[arg(long, env = "YIQIU_JOIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Where the credential, the journal and images on their way are kept
    #[arg(long, env = "YIQIU_AGENT_DATA", value_name = "FOLDER", default_value = "/var/lib/yiqiu-agent")]
    data_dir: PathBuf,
    /// The Docker socket, a path or URL [default: $DOCKER_HOST, else /var/run/docker.sock]
    #[arg(long, value_name = "SOCKET")]
    docker: Option<String>,
    /// Which nodes this machine offers: vm (virtual machines), cm (containers), bm (the whole machine)
    #[arg(long, value_name = "TYPE", value_delimiter = ',', default_values = ["vm", "cm", "bm"])]
    node_types: Vec<NodeType>,
}

#[derive(Subcommand)]
enum Sub {
    /// Simulates hosts: the real agent above hardware that is not there
    Sim(SimArgs),
}

#[derive(Args)]
struct SimArgs {
    /// Where the control plane takes agents
    #[arg(long, env = "YIQIU_SERVER", value_name = "URL")]
    server: String,
    /// A file with one join token a line: a host for each
    #[arg(long, value_name = "FILE")]
    tokens_file: PathBuf,
    /// Decides timings and faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What the hosts offer: cm, vm or bm
    #[arg(long, default_value = "cm", value_name = "TYPE")]
    node_type: NodeType,
    /// Processors of each host, such as 64 or 1.5
    #[arg(long, default_value = "64", value_parser = size::parse_thousandths, value_name = "CORES")]
    cpu: i64,
    /// Memory of each host
    #[arg(long, default_value = "256GiB", value_parser = size::parse_bytes, value_name = "BYTES")]
    memory: i64,
    /// Disk of each host
    #[arg(long, default_value = "4TiB", value_parser = size::parse_bytes, value_name = "BYTES")]
    disk: i64,
    /// Disk operations a second of each host
    #[arg(long, default_value_t = 100_000)]
    iops: i64,
    /// Processor clock in MHz
    #[arg(long, default_value_t = 2_500)]
    clock_mhz: i64,
    /// The longest time that making and starting a node each take, in milliseconds
    #[arg(long, default_value_t = 0)]
    start_ms: u64,
    /// Of a thousand starts, how many fail
    #[arg(long, default_value_t = 0)]
    start_fails: u32,
    /// Of a thousand runs, how many end by themselves within a minute
    #[arg(long, default_value_t = 0)]
    dies: u32,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = yiqiu_agent::supervise_main(&args) {
        return code;
    }
    let cli = Cli::parse();
    telemetry::logs();
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("yiqiu-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(stop_on_signal(stop.clone()));
        match (cli.command, cli.agent) {
            (Some(Sub::Sim(sim)), _) => simulate(sim, stop).await,
            (None, Some(AgentArgs { server, token_file, token, data_dir, docker, node_types })) => {
                let token = match token_file {
                    Some(file) => token_in(&file)?,
                    None => token,
                };
                let config = AgentConfig { docker, token, node_types, ..AgentConfig::new(data_dir) };
                yiqiu_agent::run(config, link::remote(&server)?, stop).await
            }
            (None, None) => anyhow::bail!("--server is missing: see yiqiu-agent --help"),
        }
    })
}

/// The token in a file. `None` if there is no such file: who has joined may throw it away.
fn token_in(file: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(file) {
        Ok(text) if text.trim().is_empty() => anyhow::bail!("there is no token in {}", file.display()),
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tracing::info!(file = %file.display(), "there is no token file: only the saved credential serves");
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

async fn simulate(args: SimArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&args.tokens_file)
        .with_context(|| format!("cannot read {}", args.tokens_file.display()))?;
    let tokens: Vec<String> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
    let connections = tokens.len().div_ceil(HOSTS_A_CONNECTION).max(1);
    let links = (0..connections).map(|_| link::remote(&args.server)).collect::<Result<_, _>>()?;
    tracing::info!(hosts = tokens.len(), connections, "simulating");
    let behaviour = Behaviour {
        node_type: args.node_type,
        create_ms: (0, args.start_ms),
        start_ms: (0, args.start_ms),
        start_fails_permille: args.start_fails,
        dies_permille: args.dies,
        ..Behaviour::default()
    };
    let capacity =
        Size { cpu_millicores: args.cpu, memory_bytes: args.memory, disk_bytes: args.disk, disk_iops: args.iops };
    let config = fleet::FleetConfig { links, tokens, seed: args.seed, capacity, clock_mhz: args.clock_mhz, behaviour };
    fleet::run(config, stop).await
}

async fn stop_on_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminated) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
    tracing::info!("stopping; nodes keep running");
    stop.cancel();
}
