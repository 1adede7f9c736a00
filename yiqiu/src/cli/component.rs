//! `ccontract` and `component`: components by need, and the instances that are kept for it.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    Session,
    client::Tier,
    failure::Outcome,
    node::{Power, all_running, id_of, released, set_power},
    noun::Noun,
    output::{self, As, Column, Format},
    owned::{self, InProject},
    wait,
    workload::{SizeArgs, WorkloadArgs},
};

const CCONTRACT: Noun = Noun {
    word: "ccontract",
    tier: Tier::Components,
    path: "ccontracts",
    columns: &[
        Column("NAME", &["/name"], As::Text),
        Column("STATE", &["/state"], As::Text),
        Column("COUNT", &["/count"], As::Text),
        Column("EACH", &["/need/size"], As::Size),
        Column("CREATED", &["/created_ms"], As::Time),
        Column("ID", &["/id"], As::Text),
        Column("DETAIL", &["/detail"], As::Text),
    ],
};

const COMPONENT: Noun = Noun {
    word: "component",
    tier: Tier::Components,
    path: "components",
    columns: &[
        Column("NAME", &["/name"], As::Text),
        Column("POWER", &["/power"], As::Text),
        Column("STATE", &[""], As::StateOnHost),
        Column("HOST", &["/host"], As::Text),
        Column("PORTS", &["/ports"], As::Ports),
        Column("ID", &["/id"], As::Text),
        Column("DETAIL", &["/detail"], As::Text),
    ],
};

const PLACEMENT: &[Column] = &[Column("COMPONENT", &["/component"], As::Text), Column("HOST", &["/host"], As::Text)];

/// Verbs of `yiqiu ccontract`.
#[derive(Debug, Subcommand)]
pub enum CContract {
    /// Asks for components of a size; where they go is the scheduler's choice.
    Create(Box<Create>),
    /// Lists the contracts.
    List(InProject),
    /// Shows one.
    Get {
        /// Name or id.
        ccontract: String,
        #[command(flatten)]
        within: InProject,
    },
    /// Releases one: its components are stopped and removed.
    Delete {
        /// Name or id.
        ccontract: String,
        #[command(flatten)]
        within: InProject,
        /// Wait until it is released.
        #[arg(long)]
        wait: bool,
    },
}

/// Flags of `yiqiu ccontract create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Its name, unique in the project.
    name: String,
    /// How many components.
    #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
    count: u32,
    /// What kind of component.
    #[arg(long = "type", value_name = "TYPE", default_value = "container")]
    component_type: String,
    /// The image that each starts from, by name or id.
    #[arg(long, value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    size: SizeArgs,
    #[command(flatten)]
    workload: WorkloadArgs,
    /// The least processor clock, in MHz.
    #[arg(long, value_name = "MHZ")]
    min_clock_mhz: Option<i64>,
    /// Apart by what: each component on another host, rack or zone as far as can be had.
    #[arg(long, value_parser = ["host", "rack", "zone"])]
    spread: Option<String>,
    /// Refuse rather than put two together.
    #[arg(long, requires = "spread")]
    require_spread: bool,
    /// Only in this zone, by name or id.
    #[arg(long)]
    zone: Option<String>,
    /// Only in this region, by name or id.
    #[arg(long)]
    region: Option<String>,
    /// Only say where they would go.
    #[arg(long)]
    dry_run: bool,
    /// Wait until every component runs.
    #[arg(long)]
    wait: bool,
}

impl Create {
    fn body(&self) -> Value {
        let mut need = json!({"size": self.size.json(), "image": self.image});
        self.workload.add_to(&mut need);
        if let Some(mhz) = self.min_clock_mhz {
            need["min_clock_mhz"] = json!(mhz);
        }
        let mut body = json!({
            "name": self.name, "component_type": self.component_type, "count": self.count, "need": need,
        });
        if let Some(across) = &self.spread {
            body["spread"] = json!({"across": across, "required": self.require_spread});
        }
        if let Some(zone) = &self.zone {
            body["zone"] = json!(zone);
        }
        if let Some(region) = &self.region {
            body["region"] = json!(region);
        }
        body
    }
}

/// Verbs of `yiqiu component`.
#[derive(Debug, Subcommand)]
pub enum Component {
    /// Lists the components.
    List {
        /// Only of this contract, by name or id.
        #[arg(long)]
        ccontract: Option<String>,
        #[command(flatten)]
        within: InProject,
    },
    /// Shows one.
    Get {
        /// Name or id.
        component: String,
        #[command(flatten)]
        within: InProject,
    },
    /// Starts a component.
    PowerOn(Power),
    /// Stops a component; what it claims stays claimed.
    PowerOff(Power),
}

/// Carries out `yiqiu ccontract …`.
pub async fn ccontract(session: &Session, verb: CContract) -> Outcome {
    match verb {
        CContract::Create(create) => {
            let query: &[(&str, &str)] = if create.dry_run { &[("dry_run", "true")] } else { &[] };
            let made = session.client.post(CCONTRACT.tier, &[CCONTRACT.path], query, &create.body()).await?;
            if create.dry_run {
                let placements = made.get("placements").and_then(Value::as_array).cloned().unwrap_or_default();
                return output::list(session.format, PLACEMENT, &placements);
            }
            if !create.wait {
                return CCONTRACT.show(session, &made);
            }
            let id = id_of(&made)?;
            let done = wait::until(session.timeout, || async {
                let contract = CCONTRACT.fetch(session, &id).await?;
                Ok(all_running(contract, "components"))
            })
            .await?;
            show_whole(session, &done)
        }
        CContract::List(within) => owned::list(session, &CCONTRACT, &[], &within).await,
        CContract::Get { ccontract, within } => {
            let ccontract = owned::find(session, &CCONTRACT, ccontract, &within).await?;
            let contract = CCONTRACT.fetch(session, &ccontract).await?;
            show_whole(session, &contract)
        }
        CContract::Delete { ccontract, within, wait } => {
            let ccontract = owned::find(session, &CCONTRACT, ccontract, &within).await?;
            if wait {
                released(session, &CCONTRACT, &ccontract, &[]).await
            } else {
                CCONTRACT.delete(session, &ccontract).await
            }
        }
    }
}

/// A contract with its components below.
fn show_whole(session: &Session, contract: &Value) -> Outcome {
    CCONTRACT.show(session, contract)?;
    match contract.get("components").and_then(Value::as_array) {
        Some(components) if session.format == Format::Table && !components.is_empty() => {
            output::print("\n")?;
            output::list(session.format, COMPONENT.columns, components)
        }
        _ => Ok(()),
    }
}

/// Carries out `yiqiu component …`.
pub async fn component(session: &Session, verb: Component) -> Outcome {
    match verb {
        Component::List { ccontract: Some(contract), within } => {
            let contract = owned::find(session, &CCONTRACT, contract, &within).await?;
            owned::list(session, &COMPONENT, &[("ccontract", &contract)], &within).await
        }
        Component::List { ccontract: None, within } => owned::list(session, &COMPONENT, &[], &within).await,
        Component::Get { component, within } => {
            COMPONENT.get(session, &owned::find(session, &COMPONENT, component, &within).await?).await
        }
        Component::PowerOn(power) => set_power(session, &COMPONENT, power, "on").await,
        Component::PowerOff(power) => set_power(session, &COMPONENT, power, "off").await,
    }
}
