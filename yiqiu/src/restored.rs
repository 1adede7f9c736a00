//! `yiqiu restored`: what has to be said once after databases were restored from a backup.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use yiqiu_base::{Clock, database::Database, outbox, telemetry};

use crate::{
    roles::Role,
    up::{lock, sqlite},
};

/// Flags of `yiqiu restored`.
#[derive(Debug, Args)]
pub struct Restored {
    /// The data folder of `yiqiu up`, which must not run.
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "database_resources",
        conflicts_with = "database_resources"
    )]
    data_dir: Option<PathBuf>,
    /// The database of Resources, of processes apart: stop them first.
    #[arg(
        long,
        env = "YIQIU_DATABASE_RESOURCES",
        value_name = "URL",
        hide_env_values = true,
        requires = "database_projects"
    )]
    database_resources: Option<String>,
    /// The database of Projects.
    #[arg(long, env = "YIQIU_DATABASE_PROJECTS", value_name = "URL", hide_env_values = true)]
    database_projects: Option<String>,
}

/// Gives Resources' history a new name, and tells the meter to follow it. Cut off in the middle, it is run again.
pub async fn run(restored: Restored) -> anyhow::Result<()> {
    telemetry::logs();
    let Restored { data_dir, database_resources, database_projects } = restored;
    let (_lock, resources, projects) = match (data_dir, database_resources, database_projects) {
        (Some(data), _, _) => {
            let data = data.canonicalize().with_context(|| data.display().to_string())?;
            let urls = [Role::Resources, Role::Projects].map(|role| {
                let file = data.join(format!("{}.sqlite", role.as_str()));
                anyhow::ensure!(file.exists(), "there is no {}: restore the databases first", file.display());
                Ok(sqlite(&data, role))
            });
            let [resources, projects] = urls;
            (Some(lock(&data)?), resources?, projects?)
        }
        (None, Some(resources), Some(projects)) => (None, resources, projects),
        (None, _, _) => {
            anyhow::bail!("say where the databases are: --data-dir, or --database-resources and --database-projects")
        }
    };
    let database = Database::connect(&resources).await.context("--database-resources")?;
    let followers = Database::connect(&projects).await.context("--database-projects")?;
    let before = outbox::epoch(&database).await?;
    let epoch = outbox::epoch_raise(&database, Clock::system().now()).await?;
    yiqiu_projects::follow_restored(&followers, Role::Resources.as_str(), epoch).await?;
    println!(
        "Resources goes on as epoch {epoch} (it was {before}), and the meter follows it. Start, then see `yiqiu audit`"
    );
    Ok(())
}
