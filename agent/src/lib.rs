//! The agent: the one program that runs on machines. As a host agent it cuts its host into nodes as the control plane
//! assigns them, and says what is true of each.
//!
//! Read in this order: [`driver`] (the one seam), [`lifecycle`] and [`record`] (what to do, pure), `worker` (does it),
//! `watch` (keeps what is seen true), `host` (what is known), [`journal`], [`meter`], `session` (the stream), and
//! [`drivers`].
//!
//! *Invariants*
//! - A power-on is carried out at most once a generation, also over a crash of the agent at any point: an intent is on
//!   disk before a start, and what is there decides afterwards.
//! - Absence never deletes: only a tombstone removes a node, and `gone` is said after it was verified.
//! - An assignment is obeyed only if it is newer, by (server epoch, revision), than the last one of that node; a server
//!   of an older epoch is not obeyed at all.
//! - Counters of a boot never fall, and a (node, boot, sequence) is used once.
//! - Nodes keep running when the server, this agent or its connection is gone.
//!
//! *Does not*: schedule, restart what died, know of users or contracts, or touch anything on the machine that does not
//! carry the mark of its host.

mod cgroup;
pub mod config;
pub mod driver;
pub mod drivers;
mod facts;
mod features;
mod files;
pub mod fleet;
mod host;
mod images;
mod instant;
mod inventory;
pub mod journal;
pub mod lifecycle;
pub mod meter;
mod processes;
pub mod record;
mod resize;
mod session;
mod streams;
mod watch;
mod worker;

use std::{os::unix::fs::DirBuilderExt, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;
use yiqiu_base::{Clock, Code};
use yiqiu_proto::{agent::Facts, link::Link};

pub use crate::{config::AgentConfig, drivers::supervisor::supervise_main, session::Identity};
use crate::{host::Host, journal::Journal};

/// How long an agent that stops waits for actions under way.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Runs the agent of this machine over a link to the server until `stop`. Returns early only if it cannot begin: no
/// credential and no good token, or a folder that cannot be written. Nodes keep running when it returns.
pub async fn run(config: AgentConfig, link: Link, stop: CancellationToken) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data_dir)
        .with_context(|| format!("cannot make the folder {}", config.data_dir.display()))?;
    let file = config.data_dir.join("identity.json");
    let mut facts = facts::facts(&config.data_dir, &config.drivers(""), &config.node_types).await?;
    if let Some(boot_id) = &config.boot_id {
        facts.boot_id.clone_from(boot_id);
    }
    let mut saved = Identity::load(&file)?;
    loop {
        let identity = match saved.take() {
            Some(identity) => identity,
            None => {
                let Some(identity) = join(&config, &link, &facts, &stop).await? else { return Ok(()) };
                identity.save(&file)?;
                tracing::info!(host = identity.host_name, id = identity.host_id, "joined");
                identity
            }
        };
        let another_token = config.token.as_deref().is_some_and(|t| !identity.came_from(t));
        let journal = Journal::open(&config.data_dir.join("journal.redb"), &identity.host_id)?;
        let drivers = config.drivers(&identity.host_id);
        let images = (config.data_dir.join("images"), link.clone());
        let ended = stop.child_token();
        let host = Host::new(identity, Clock::system(), drivers, journal, images, facts.clone(), ended.clone())?;
        let refused = serve(&host, &link, another_token).await;
        drop(host);
        if !refused {
            return Ok(());
        }
    }
}

/// Trades the token, and tries again while the server does not answer. `None`: told to stop meanwhile.
async fn join(
    config: &AgentConfig,
    link: &Link,
    facts: &Facts,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Identity>> {
    let Some(token) = &config.token else {
        bail!(
            "this machine has not joined yet: make a host with `yiqiu host create` and give its join token with --token-file"
        );
    };
    let mut back_off = session::BackOff::new();
    loop {
        match Identity::join(link.clone(), token, facts.clone()).await {
            Ok(identity) => return Ok(Some(identity)),
            Err(problem) if problem.code == Code::Unavailable => {
                tracing::warn!(why = problem.detail, "cannot join yet");
            }
            Err(problem) => bail!("the server does not let this machine join: {problem}"),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(back_off.next()) => {}
        }
    }
}

/// Serves a host until it stops; true if the server refused the credential and another can be had.
pub(crate) async fn serve(host: &Arc<Host>, link: &Link, leave_when_refused: bool) -> bool {
    host.begin().await;
    let refused = session::keep(host, link, leave_when_refused).await;
    host.stop.cancel();
    host.tasks.close();
    // An action under way is let finish, but not for long: the journal tells the next start about one that was cut off.
    if tokio::time::timeout(STOP_WITHIN, host.tasks.wait()).await.is_err() {
        tracing::warn!("an action is cut off: the next start decides it by what is there");
    }
    refused
}
