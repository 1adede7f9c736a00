//! The tables of Components.

use sea_orm_migration::{prelude::*, schema::*, sea_orm::ConnectionTrait};

use crate::shared;

/// The history of this tier's tables.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migration_table_name() -> DynIden {
        "components_migrations".into_iden()
    }

    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(First)]
    }
}

struct First;

impl MigrationName for First {
    fn name(&self) -> &'static str {
        "components_0001_first"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for First {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        shared::up(manager).await?;
        ccontracts(manager).await?;
        components(manager).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        shared::drop_tables(manager, &["component", "ccontract"]).await?;
        shared::down(manager).await
    }
}

async fn ccontracts(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            Table::create()
                .table("ccontract")
                .col(uuid("id").primary_key())
                .col(text("owner"))
                .col(text("name"))
                .col(text("component_type"))
                .col(big_integer("count"))
                .col(text("need"))
                .col(text_null("region"))
                .col(text_null("zone"))
                .col(text("spread"))
                .col(text("state"))
                .col(big_integer("generation"))
                .col(big_integer("created_ms"))
                .col(text("created_by"))
                .col(big_integer("touched_ms"))
                .col(uuid("rcontract_id"))
                .col(text("image_id"))
                .col(text("detail"))
                .col(text_null("refusal"))
                .to_owned(),
        )
        .await?;
    // A name is free again once its contract is released. (The schema builder's partial index names the table in its
    // condition, which SQLite refuses.)
    let connection = manager.get_connection();
    connection
        .execute_unprepared("CREATE UNIQUE INDEX ccontract_name ON ccontract (owner, name) WHERE state <> 'released'")
        .await?;
    connection
        .execute_unprepared(
            "CREATE INDEX ccontract_open ON ccontract (touched_ms) WHERE state IN ('placing', 'releasing')",
        )
        .await?;
    manager
        .create_index(
            Index::create().name("ccontract_rcontract").table("ccontract").col("rcontract_id").unique().to_owned(),
        )
        .await
}

async fn components(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            Table::create()
                .table("component")
                .col(uuid("id").primary_key())
                .col(uuid("ccontract_id"))
                .col(text("owner"))
                .col(big_integer("ordinal"))
                .col(text("name"))
                .col(uuid("line_id").unique_key())
                .col(uuid_null("node_id"))
                .col(uuid("host_id"))
                .col(text("host_name"))
                .col(text("host_state"))
                .col(text("power"))
                .col(big_integer("generation"))
                .col(big_integer("asked"))
                .col(big_integer("carried"))
                .col(text("state"))
                .col(text("detail"))
                .col(text("ports"))
                .col(big_integer("version"))
                .foreign_key(
                    ForeignKey::create()
                        .from("component", "ccontract_id")
                        .to("ccontract", "id")
                        .on_delete(ForeignKeyAction::Restrict),
                )
                .index(Index::create().unique().name("component_name").col("owner").col("name"))
                .to_owned(),
        )
        .await?;
    for (name, column) in [("component_ccontract", "ccontract_id"), ("component_host", "host_id")] {
        manager.create_index(Index::create().name(name).table("component").col(column).to_owned()).await?;
    }
    Ok(())
}
