//! The tables of Projects.

use sea_orm_migration::{prelude::*, schema::*, sea_orm::ConnectionTrait};

use crate::shared;

/// The history of this tier's tables.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migration_table_name() -> DynIden {
        "projects_migrations".into_iden()
    }

    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(First)]
    }
}

struct First;

impl MigrationName for First {
    fn name(&self) -> &'static str {
        "projects_0001_first"
    }
}

/// The tables of this migration; what refers to another stands before it, so that they go in this order.
const TABLES: [&str; 9] = [
    "usage_minutes",
    "usage_marks",
    "bindings",
    "segments",
    "metering_sources",
    "tokens",
    "members",
    "projects",
    "users",
];

#[async_trait::async_trait]
impl MigrationTrait for First {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        shared::up(manager).await?;
        people(manager).await?;
        metering(manager).await?;
        let connection = manager.get_connection();
        for index in [
            // A deleted project keeps its row, for the reports of its past; its name is free again.
            "CREATE UNIQUE INDEX projects_name ON projects (name) WHERE deleted_ms IS NULL",
            "CREATE INDEX members_user ON members (user_id)",
            "CREATE INDEX tokens_project ON tokens (project_id)",
            // A name is unique among the good tokens of a user only; whoever makes one holds the user's row.
            "CREATE INDEX tokens_user_name ON tokens (user_id, name)",
            "CREATE INDEX tokens_parent ON tokens (parent_id)",
            "CREATE INDEX segments_owner ON segments (owner)",
            "CREATE INDEX bindings_owner ON bindings (owner)",
            "CREATE INDEX segments_open ON segments (line_id) WHERE to_ms IS NULL",
            "CREATE INDEX bindings_open ON bindings (line_id) WHERE to_ms IS NULL",
        ] {
            connection.execute_unprepared(index).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        shared::drop_tables(manager, &TABLES).await?;
        shared::down(manager).await
    }
}

async fn people(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            Table::create()
                .table("users")
                .col(uuid("id").primary_key())
                .col(text("name").unique_key())
                .col(boolean("ops"))
                .col(big_integer("created_ms"))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            Table::create()
                .table("projects")
                .col(uuid("id").primary_key())
                .col(text("name"))
                .col(big_integer("created_ms"))
                .col(big_integer_null("deleted_ms"))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            Table::create()
                .table("members")
                .col(uuid("project_id"))
                .col(uuid("user_id"))
                .col(text("role"))
                .col(big_integer("created_ms"))
                .primary_key(Index::create().col("project_id").col("user_id"))
                .foreign_key(ForeignKey::create().from("members", "project_id").to("projects", "id"))
                .foreign_key(ForeignKey::create().from("members", "user_id").to("users", "id"))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            Table::create()
                .table("tokens")
                .col(uuid("id").primary_key())
                .col(text("hash").unique_key())
                .col(text("name"))
                .col(uuid("user_id"))
                .col(text("role"))
                .col(uuid_null("project_id"))
                .col(big_integer("created_ms"))
                .col(big_integer("expires_ms"))
                .col(big_integer_null("revoked_ms"))
                .col(uuid_null("parent_id"))
                .foreign_key(ForeignKey::create().from("tokens", "user_id").to("users", "id"))
                .foreign_key(ForeignKey::create().from("tokens", "project_id").to("projects", "id"))
                .to_owned(),
        )
        .await
}

async fn metering(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    // Which history of a tier's outbox the cursor of the same name counts in.
    manager
        .create_table(
            Table::create()
                .table("metering_sources")
                .col(text("source").primary_key())
                .col(big_integer("epoch"))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            Table::create()
                .table("segments")
                .col(uuid("line_id"))
                .col(big_integer("from_ms"))
                .col(big_integer_null("to_ms"))
                .col(uuid("rcontract_id"))
                .col(text("owner"))
                .col(text("node_name"))
                .col(text("power"))
                .col(big_integer("cpu_millicores"))
                .col(big_integer("memory_bytes"))
                .col(big_integer("disk_bytes"))
                .col(big_integer("disk_iops"))
                .primary_key(Index::create().col("line_id").col("from_ms"))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            Table::create()
                .table("bindings")
                .col(uuid("line_id"))
                .col(big_integer("from_ms"))
                .col(big_integer_null("to_ms"))
                .col(uuid("component_id"))
                .col(text("component_name"))
                .col(uuid("ccontract_id"))
                .col(text("ccontract_name"))
                .col(text("owner"))
                .primary_key(Index::create().col("line_id").col("from_ms"))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            Table::create()
                .table("usage_marks")
                .col(uuid("line_id"))
                .col(big_integer("boot"))
                .col(big_integer("seq"))
                .primary_key(Index::create().col("line_id").col("boot"))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            Table::create()
                .table("usage_minutes")
                .col(uuid("line_id"))
                .col(big_integer("minute_ms"))
                .col(big_integer("cpu_ns"))
                // Byte-milliseconds leave 64 bits within hours: whole GiB-milliseconds and the rest.
                .col(big_integer("memory_gib_ms"))
                .col(big_integer("memory_rest_byte_ms"))
                .col(big_integer("net_rx_bytes"))
                .col(big_integer("net_tx_bytes"))
                .col(big_integer("block_read_bytes"))
                .col(big_integer("block_write_bytes"))
                .primary_key(Index::create().col("line_id").col("minute_ms"))
                .to_owned(),
        )
        .await
}
