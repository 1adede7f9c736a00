//! `pool`: groups of hosts.

use clap::Subcommand;
use serde_json::json;

use super::{
    Session,
    client::Tier,
    failure::Outcome,
    noun::Noun,
    output::{As, Column},
};

const POOL: Noun = Noun {
    word: "pool",
    tier: Tier::Resources,
    path: "pools",
    columns: &[
        Column("NAME", &["/name"], As::Text),
        Column("HOSTS", &["/hosts"], As::Text),
        Column("NODES", &["/nodes"], As::Text),
        Column("RENTABLE", &["/rentable"], As::Size),
        Column("USED", &["/used"], As::Size),
        Column("DESCRIPTION", &["/description"], As::Text),
    ],
};

/// Verbs of `yiqiu pool`.
#[derive(Debug, Subcommand)]
pub enum Pool {
    /// Makes a pool without hosts; `yiqiu host update HOST --pool POOL` puts a host into it.
    Create {
        /// Its name, unique.
        name: String,
        /// What it is for.
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
    },
    /// Lists the pools, with what their hosts have together.
    List,
    /// Shows one.
    Get {
        /// Name or id.
        pool: String,
    },
    /// Gives one another name or description.
    Update {
        /// Name or id.
        pool: String,
        /// Its new name.
        #[arg(long)]
        name: Option<String>,
        /// What it is for.
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Deletes one that has no hosts.
    Delete {
        /// Name or id.
        pool: String,
    },
}

/// Carries out `yiqiu pool …`.
pub async fn run(session: &Session, verb: Pool) -> Outcome {
    match verb {
        Pool::Create { name, description } => {
            POOL.create(session, &json!({"name": name, "description": description})).await
        }
        Pool::List => POOL.list(session, &[]).await,
        Pool::Get { pool } => POOL.get(session, &pool).await,
        Pool::Update { pool, name, description } => {
            let mut body = json!({});
            if let Some(name) = name {
                body["name"] = json!(name);
            }
            if let Some(description) = description {
                body["description"] = json!(description);
            }
            let changed = session.client.patch(POOL.tier, &[POOL.path, &pool], &body).await?;
            POOL.show(session, &changed)
        }
        Pool::Delete { pool } => POOL.delete(session, &pool).await,
    }
}
