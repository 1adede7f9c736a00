//! `region`, `zone`, `rack`: where hosts stand.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Session,
    client::Tier,
    elevation,
    failure::Outcome,
    noun::Noun,
    output::{self, As, Column, Format},
};

const REGION: Noun = Noun {
    word: "region",
    tier: Tier::Resources,
    path: "regions",
    columns: &[Column("NAME", &["/name"], As::Text), Column("ID", &["/id"], As::Text)],
};

const ZONE: Noun = Noun {
    word: "zone",
    tier: Tier::Resources,
    path: "zones",
    columns: &[
        Column("NAME", &["/name"], As::Text),
        Column("REGION", &["/region", "/region_id"], As::Text),
        Column("ID", &["/id"], As::Text),
    ],
};

const RACK: Noun = Noun {
    word: "rack",
    tier: Tier::Resources,
    path: "racks",
    columns: &[
        Column("NAME", &["/name"], As::Text),
        Column("ZONE", &["/zone", "/zone_id"], As::Text),
        Column("UNITS", &["/units"], As::Text),
        Column("ID", &["/id"], As::Text),
    ],
};

/// Verbs of `yiqiu region`.
#[derive(Debug, Subcommand)]
pub enum Region {
    /// Makes a region.
    Create {
        /// Its name, unique.
        name: String,
    },
    /// Lists the regions.
    List,
    /// Shows one.
    Get {
        /// Name or id.
        region: String,
    },
    /// Deletes one that has no zone.
    Delete {
        /// Name or id.
        region: String,
    },
}

/// Verbs of `yiqiu zone`.
#[derive(Debug, Subcommand)]
pub enum Zone {
    /// Makes a zone of a region.
    Create {
        /// Its name, unique.
        name: String,
        /// The region, by name or id.
        #[arg(long)]
        region: String,
    },
    /// Lists the zones.
    List,
    /// Shows one.
    Get {
        /// Name or id.
        zone: String,
    },
    /// Deletes one that has no rack.
    Delete {
        /// Name or id.
        zone: String,
    },
}

/// Verbs of `yiqiu rack`.
#[derive(Debug, Subcommand)]
pub enum Rack {
    /// Makes a rack of a zone.
    Create {
        /// Its name, unique.
        name: String,
        /// The zone, by name or id.
        #[arg(long)]
        zone: String,
        /// How many units it has, counted from 1 at the bottom.
        #[arg(long, default_value_t = 42)]
        units: u32,
    },
    /// Lists the racks.
    List,
    /// Shows one.
    Get {
        /// Name or id.
        rack: String,
    },
    /// Draws what stands in one, unit by unit from top to bottom.
    Show {
        /// Name or id.
        rack: String,
    },
    /// Deletes one that has no host.
    Delete {
        /// Name or id.
        rack: String,
    },
}

/// The places with the name of the one around each, which the API gives by id. Only for people: documents stay as they
/// came.
async fn within(session: &Session, around: &Noun, mut places: Vec<Value>) -> Outcome<Vec<Value>> {
    if matches!(session.format, Format::Json | Format::Yaml) || places.is_empty() {
        return Ok(places);
    }
    let names = session.client.all(around.tier, &[around.path], &[]).await?;
    for place in &mut places {
        let id = place.get(format!("{}_id", around.word));
        let name = names.iter().find(|other| other.get("id") == id).and_then(|other| other.get("name")).cloned();
        if let Some(name) = name {
            place[around.word] = name;
        }
    }
    Ok(places)
}

/// Carries out `yiqiu region …`.
pub async fn region(session: &Session, verb: Region) -> Outcome {
    match verb {
        Region::Create { name } => REGION.create(session, &json!({"name": name})).await,
        Region::List => REGION.list(session, &[]).await,
        Region::Get { region } => REGION.get(session, &region).await,
        Region::Delete { region } => REGION.delete(session, &region).await,
    }
}

/// Carries out `yiqiu zone …`.
pub async fn zone(session: &Session, verb: Zone) -> Outcome {
    match verb {
        Zone::Create { name, region } => {
            let body = json!({"name": name, "region": region});
            let made = session.client.post(ZONE.tier, &[ZONE.path], &[], &body).await?;
            ZONE.show(session, &within(session, &REGION, vec![made]).await?[0])
        }
        Zone::List => {
            let zones = session.client.all(ZONE.tier, &[ZONE.path], &[]).await?;
            output::list(session.format, ZONE.columns, &within(session, &REGION, zones).await?)
        }
        Zone::Get { zone } => {
            let zone = ZONE.fetch(session, &zone).await?;
            ZONE.show(session, &within(session, &REGION, vec![zone]).await?[0])
        }
        Zone::Delete { zone } => ZONE.delete(session, &zone).await,
    }
}

/// Carries out `yiqiu rack …`.
pub async fn rack(session: &Session, verb: Rack) -> Outcome {
    match verb {
        Rack::Create { name, zone, units } => {
            let body = json!({"name": name, "zone": zone, "units": units});
            let made = session.client.post(RACK.tier, &[RACK.path], &[], &body).await?;
            RACK.show(session, &within(session, &ZONE, vec![made]).await?[0])
        }
        Rack::List => {
            let racks = session.client.all(RACK.tier, &[RACK.path], &[]).await?;
            output::list(session.format, RACK.columns, &within(session, &ZONE, racks).await?)
        }
        Rack::Get { rack } => {
            let rack = RACK.fetch(session, &rack).await?;
            RACK.show(session, &within(session, &ZONE, vec![rack]).await?[0])
        }
        Rack::Show { rack } => elevation::run(session, &rack).await,
        Rack::Delete { rack } => RACK.delete(session, &rack).await,
    }
}
