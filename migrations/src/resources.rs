//! The tables of Resources. Sizes are four columns each: `*_cpu` millicores, `*_memory` and `*_disk` bytes, `*_iops`.

use sea_orm_migration::{prelude::*, schema::*, sea_orm::ConnectionTrait};

use crate::shared;

/// The history of this tier's tables.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migration_table_name() -> DynIden {
        "resources_migrations".into_iden()
    }

    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(First)]
    }
}

struct First;

impl MigrationName for First {
    fn name(&self) -> &'static str {
        "resources_0001_first"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for First {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        shared::up(manager).await?;
        places(manager).await?;
        hosts(manager).await?;
        contracts(manager).await?;
        meters(manager).await?;
        audits(manager).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let tables = [
            "finding",
            "audit_host",
            "audit",
            "usage_counter",
            "segment",
            "command",
            "node",
            "claim",
            "line",
            "contract_history",
            "rcontract",
            "image",
            "join_token",
            "host_label",
            "host",
            "pool",
            "rack",
            "zone",
            "region",
        ];
        shared::drop_tables(manager, &tables).await?;
        shared::down(manager).await
    }
}

/// A table whose rows people name: id, unique name, generation, time of creation.
fn named(table: &'static str) -> TableCreateStatement {
    Table::create()
        .table(table)
        .col(uuid("id").primary_key())
        .col(text("name").unique_key())
        .col(big_integer("generation"))
        .col(big_integer("created_ms"))
        .to_owned()
}

const DIMENSIONS: [&str; 4] = ["cpu", "memory", "disk", "iops"];

fn size(table: &mut TableCreateStatement, prefix: &str) {
    for dimension in DIMENSIONS {
        let column = if prefix.is_empty() { dimension.to_owned() } else { format!("{prefix}_{dimension}") };
        table.col(big_integer(Alias::new(column)));
    }
}

/// What of a host may be claimed, kept by the database itself, so that it is never out of step with what it follows
/// from: the least of the machine's word and the limit, times the overcommit in thousandths, less the overhead. Divided
/// before it is multiplied, and the rest apart, which is exact and stays within 64 bits.
fn rentable(dimension: &str) -> ColumnDef {
    let capacity = format!(
        "(CASE WHEN limit_{dimension} < machine_{dimension} THEN limit_{dimension} ELSE machine_{dimension} END)"
    );
    let promised =
        format!("{capacity} / 1000 * overcommit_{dimension} + {capacity} % 1000 * overcommit_{dimension} / 1000");
    let mut column = big_integer(Alias::new(format!("rentable_{dimension}")));
    column.generated(Expr::cust(format!("{promised} - overhead_{dimension}")), true);
    column
}

/// The state of a host as people read it, from what is wished and what is seen; the same as `HostModel::state`.
fn host_state() -> ColumnDef {
    let mut column = text("state");
    let state = "CASE WHEN wish IN ('retired', 'maintenance') THEN wish WHEN seen = 'never' THEN 'joining' \
                 WHEN seen = 'lost' THEN 'unreachable' WHEN wish = 'draining' THEN 'draining' ELSE 'online' END";
    column.generated(Expr::cust(state), true);
    column
}

fn reference(from: &'static str, column: &'static str, to: &'static str) -> ForeignKeyCreateStatement {
    ForeignKey::create().from(from, column).to(to, "id").to_owned()
}

async fn places(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager.create_table(named("region")).await?;
    manager
        .create_table(
            named("zone").col(uuid("region_id")).foreign_key(&mut reference("zone", "region_id", "region")).to_owned(),
        )
        .await?;
    manager
        .create_table(
            named("rack")
                .col(uuid("zone_id"))
                .col(big_integer("units"))
                .foreign_key(&mut reference("rack", "zone_id", "zone"))
                .to_owned(),
        )
        .await
}

async fn hosts(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager.create_table(named("pool").col(text("description")).to_owned()).await?;
    let mut host = named("host");
    host.col(uuid_null("pool_id"))
        .col(uuid_null("rack_id"))
        .col(big_integer_null("unit"))
        .col(text_null("node_type"))
        .col(text("wish"))
        .col(text("wish_by"))
        .col(text("wish_why"))
        .col(big_integer("wish_ms"))
        .col(text("seen"))
        .col(host_state())
        .col(big_integer("clock_mhz"))
        .col(big_integer("last_seen_ms"));
    for prefix in ["machine", "overcommit", "overhead", "node_overhead", "used"] {
        size(&mut host, prefix);
    }
    for dimension in DIMENSIONS {
        host.col(big_integer_null(Alias::new(format!("limit_{dimension}"))));
        host.col(rentable(dimension));
    }
    host.col(big_integer("nodes"))
        .col(text_null("credential_hash"))
        .col(text("boot_id"))
        .col(text("drivers"))
        .foreign_key(&mut reference("host", "rack_id", "rack"))
        .foreign_key(&mut reference("host", "pool_id", "pool"))
        .check(Expr::col("used_cpu").gte(0))
        .check(Expr::col("used_memory").gte(0))
        .check(Expr::col("nodes").gte(0));
    manager.create_table(host).await?;
    manager
        .create_index(Index::create().name("host_place").table("host").col("rack_id").col("unit").unique().to_owned())
        .await?;
    // Found by at the start of every session.
    manager
        .create_index(Index::create().name("host_credential").table("host").col("credential_hash").unique().to_owned())
        .await?;
    manager.create_index(Index::create().name("host_pool").table("host").col("pool_id").to_owned()).await?;
    // `found`: a feature that the agent found, rather than a label that ops set.
    manager
        .create_table(
            Table::create()
                .table("host_label")
                .col(uuid("host_id"))
                .col(boolean("found"))
                .col(text("key"))
                .col(text("value"))
                .primary_key(Index::create().col("host_id").col("found").col("key"))
                .foreign_key(
                    ForeignKey::create()
                        .from("host_label", "host_id")
                        .to("host", "id")
                        .on_delete(ForeignKeyAction::Cascade),
                )
                .to_owned(),
        )
        .await?;
    manager
        .create_index(Index::create().name("host_label_key").table("host_label").col("key").col("value").to_owned())
        .await?;
    manager
        .create_table(
            Table::create()
                .table("join_token")
                .col(text("hash").primary_key())
                .col(uuid("host_id"))
                .col(big_integer("expires_ms"))
                .col(big_integer_null("used_ms"))
                .foreign_key(
                    ForeignKey::create()
                        .from("join_token", "host_id")
                        .to("host", "id")
                        .on_delete(ForeignKeyAction::Cascade),
                )
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            Table::create()
                .table("image")
                .col(uuid("id").primary_key())
                .col(text("name"))
                .col(text("owner"))
                .col(text("sha256"))
                .col(big_integer("bytes"))
                .col(text("state"))
                .col(big_integer("generation"))
                .col(big_integer("created_ms"))
                .index(Index::create().unique().name("image_name").col("owner").col("name"))
                .to_owned(),
        )
        .await
}

async fn contracts(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    shared::create_keyed(
        manager,
        Table::create()
            .table("rcontract")
            .col(uuid("id").primary_key())
            .col(text("name"))
            .col(text("owner"))
            .col(text("state"))
            .col(big_integer("lines"))
            .col(big_integer("generation"))
            .col(big_integer("created_ms"))
            .col(text("created_by"))
            .col(text("reason"))
            .col(big_integer_null("starts_ms"))
            .col(big_integer_null("ends_ms"))
            .col(big_integer("grace_ms"))
            // When time alone changes it next. Null: never.
            .col(big_integer_null("due_ms"))
            .col(big_integer_null("released_ms"))
            .to_owned(),
    )
    .await?;
    // A name is taken until its contract is released. (The schema builder has no partial index.)
    let connection = manager.get_connection();
    connection
        .execute_unprepared("CREATE UNIQUE INDEX rcontract_name ON rcontract (owner, name) WHERE state <> 'released'")
        .await?;

    connection.execute_unprepared("CREATE INDEX rcontract_due ON rcontract (due_ms) WHERE due_ms IS NOT NULL").await?;
    shared::create_keyed(
        manager,
        Table::create()
            .table("contract_history")
            .col(uuid("rcontract_id"))
            // The generation that the change led to: each change has one of its own.
            .col(big_integer("generation"))
            .col(big_integer("at_ms"))
            .col(text("who"))
            .col(text("reason"))
            .col(text("request_id"))
            .col(text("change"))
            .primary_key(Index::create().col("rcontract_id").col("generation"))
            .foreign_key(&mut reference("contract_history", "rcontract_id", "rcontract"))
            .to_owned(),
    )
    .await?;

    let mut line = Table::create()
        .table("line")
        .col(uuid("id").primary_key())
        .col(uuid("rcontract_id"))
        .col(uuid("host_id"))
        .col(text("name"))
        .foreign_key(&mut reference("line", "rcontract_id", "rcontract"))
        .to_owned();
    size(&mut line, "");
    shared::create_keyed(manager, line).await?;
    manager.create_index(Index::create().name("line_rcontract").table("line").col("rcontract_id").to_owned()).await?;

    let mut claim = Table::create()
        .table("claim")
        .col(uuid("line_id").primary_key())
        .col(uuid("host_id"))
        .foreign_key(&mut reference("claim", "line_id", "line"))
        .foreign_key(&mut reference("claim", "host_id", "host"))
        .to_owned();
    size(&mut claim, "");
    shared::create_keyed(manager, claim).await?;

    manager
        .create_table(
            Table::create()
                .table("node")
                .col(uuid("id").primary_key())
                .col(uuid("line_id").unique_key())
                .col(uuid("rcontract_id"))
                .col(uuid("host_id"))
                .col(uuid_null("image_id"))
                .col(text("owner"))
                .col(text("name"))
                .col(text("spec"))
                .col(text("power"))
                .col(big_integer("generation"))
                .col(text("state"))
                .col(big_integer("carried"))
                .col(big_integer("boot"))
                .col(text("detail"))
                .col(text("ports"))
                .col(text("health"))
                .col(boolean("reboot"))
                .col(big_integer_null("grace_ms"))
                .col(boolean("removed"))
                .col(boolean("drain_stopped").default(false))
                .col(boolean("resumes"))
                .col(text("hold"))
                .col(big_integer_null("resizing"))
                .col(big_integer("revision"))
                .col(text("request_id"))
                .col(big_integer("changed_ms"))
                .foreign_key(&mut reference("node", "image_id", "image"))
                .to_owned(),
        )
        .await?;
    for (name, column) in [("node_host", "host_id"), ("node_rcontract", "rcontract_id")] {
        manager.create_index(Index::create().name(name).table("node").col(column).to_owned()).await?;
    }
    shared::create_keyed(
        manager,
        Table::create()
            .table("command")
            .col(text("id").primary_key())
            .col(uuid("node_id"))
            .col(text("power"))
            .col(big_integer("generation"))
            .col(big_integer("at_ms"))
            .to_owned(),
    )
    .await
}

async fn meters(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let mut segment = Table::create()
        .table("segment")
        .col(uuid("line_id"))
        .col(big_integer("ordinal"))
        .col(big_integer("from_ms"))
        .col(big_integer_null("to_ms"))
        .col(text("power"))
        .primary_key(Index::create().col("line_id").col("ordinal"))
        .to_owned();
    size(&mut segment, "");
    shared::create_keyed(manager, segment).await?;
    let connection = manager.get_connection();
    connection.execute_unprepared("CREATE UNIQUE INDEX segment_open ON segment (line_id) WHERE to_ms IS NULL").await?;
    shared::create_keyed(
        manager,
        Table::create()
            .table("usage_counter")
            .col(uuid("line_id"))
            .col(big_integer("boot"))
            .col(big_integer("seq"))
            .col(big_integer("at_ms"))
            .col(big_integer("cpu_ns"))
            .col(big_integer("memory_byte_ms"))
            .col(big_integer("net_rx_bytes"))
            .col(big_integer("net_tx_bytes"))
            .col(big_integer("block_read_bytes"))
            .col(big_integer("block_write_bytes"))
            // In use at the time of the newest sample.
            .col(big_integer("memory_bytes"))
            .primary_key(Index::create().col("line_id").col("boot"))
            .to_owned(),
    )
    .await
}

/// What audits found. Names are kept as they were: what a finding is about may be gone.
async fn audits(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let mut audit = Table::create()
        .table("audit")
        .col(uuid("id").primary_key())
        .col(text("state"))
        .col(text("asked_by"))
        .col(text("host"))
        .col(big_integer("started_ms"))
        .col(big_integer_null("ended_ms"))
        .to_owned();
    for count in ["hosts", "done", "unknown", "matched", "ghosts", "orphans", "over", "ledger"] {
        audit.col(big_integer(count));
    }
    manager.create_table(audit).await?;
    let mut host = Table::create()
        .table("audit_host")
        .col(uuid("audit_id"))
        .col(uuid("host_id"))
        .col(text("host_name"))
        .col(big_integer("at_ms"))
        .col(text("unknown"))
        .col(big_integer("matched"))
        .col(big_integer("findings"))
        .primary_key(Index::create().col("audit_id").col("host_id"))
        .to_owned();
    size(&mut host, "model");
    size(&mut host, "measured");
    manager.create_table(host).await?;
    manager
        .create_table(
            Table::create()
                .table("finding")
                .col(uuid("id").primary_key())
                .col(uuid("audit_id"))
                .col(text("kind"))
                .col(big_integer("at_ms"))
                .col(uuid_null("host_id"))
                .col(text("host_name"))
                .col(text("node_type"))
                .col(uuid_null("node_id"))
                .col(uuid_null("line_id"))
                .col(uuid_null("rcontract_id"))
                .col(text("owner"))
                .col(text("name"))
                .col(text("handle"))
                .col(text("labelled"))
                .col(text("detail"))
                .col(text("settled"))
                .to_owned(),
        )
        .await?;
    manager.create_index(Index::create().name("finding_audit").table("finding").col("audit_id").to_owned()).await
}
