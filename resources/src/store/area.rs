//! Regions, zones and racks.

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Set};
use yiqiu_base::{
    Code, Id, Problem,
    clock::Ms,
    database::{is_duplicate, is_reference},
    http::Paging,
    id::{Kind, Rack, Region, Zone},
    idempotency::{self, Key},
    outbox::NewEvent,
};
use yiqiu_proto::resources::PlaceChanged;

use super::Store;
use crate::model::{RackModel, RegionModel, ZoneModel};

mod region {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "region")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub name: String,
        pub generation: i64,
        pub created_ms: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

mod zone {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "zone")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub name: String,
        pub region_id: Uuid,
        pub generation: i64,
        pub created_ms: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

mod rack {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "rack")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub name: String,
        pub zone_id: Uuid,
        pub units: i64,
        pub generation: i64,
        pub created_ms: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

impl From<region::Model> for RegionModel {
    fn from(region::Model { id, name, generation, created_ms }: region::Model) -> Self {
        Self { id: id.into(), name, generation, created_ms }
    }
}

impl From<zone::Model> for ZoneModel {
    fn from(zone::Model { id, name, region_id, generation, created_ms }: zone::Model) -> Self {
        Self { id: id.into(), name, region_id: region_id.into(), generation, created_ms }
    }
}

impl From<rack::Model> for RackModel {
    fn from(rack::Model { id, name, zone_id, units, generation, created_ms }: rack::Model) -> Self {
        Self { id: id.into(), name, zone_id: zone_id.into(), units, generation, created_ms }
    }
}

/// The store functions of a noun that is named and otherwise never changed: the three differ in nothing but names.
macro_rules! place {
    ($noun:ident, $kind:ident, $model:ident, $insert:ident, $get:ident, $list:ident, $delete:ident, $children:literal) => {
        impl Store {
            /// Adds one; `already_exists` if the name is taken. The same key again gives the first one.
            pub async fn $insert(&self, new: &$model, key: Option<&Key>) -> Result<$model, Problem> {
                let mut transaction = self.database.begin().await?;
                if let Some(key) = key
                    && let Some(kept) = idempotency::kept(&*transaction, &[key]).await?.first()
                {
                    let first = Id::<$kind>::parse(kept.replay(key)?)?;
                    drop(transaction);
                    return self.$get(&first.to_string()).await;
                }
                let inserted =
                    $noun::Entity::insert($noun::ActiveModel::from(new)).exec_without_returning(&*transaction).await;
                match inserted {
                    Ok(_) => {}
                    Err(error) if is_duplicate(&error) => {
                        return Err(Problem::new(
                            Code::AlreadyExists,
                            format!("there is already a {} `{}`", $kind::NOUN, new.name),
                        ));
                    }
                    Err(error) => return Err(error.into()),
                }
                if let Some(key) = key {
                    idempotency::keep(&*transaction, &[(key, new.id.to_string())], new.created_ms).await?;
                }
                let told = PlaceChanged { id: new.id.to_string(), name: new.name.clone() };
                let kind = concat!(stringify!($noun), ".created");
                transaction.emit(NewEvent::new(new.created_ms, kind, "", new.id, &told));
                transaction.commit().await?;
                Ok(new.clone())
            }

            /// By name or id; `not_found` otherwise.
            pub async fn $get(&self, name_or_id: &str) -> Result<$model, Problem> {
                let filter = match name_or_id.parse::<uuid::Uuid>() {
                    Ok(id) => $noun::Column::Id.eq(id),
                    Err(_) => $noun::Column::Name.eq(name_or_id),
                };
                let found = $noun::Entity::find().filter(filter).one(self.database.read()).await?;
                found.map($model::from).ok_or_else(|| Problem::not_found($kind::NOUN, name_or_id))
            }

            /// In the order of names.
            pub async fn $list(&self, paging: &Paging) -> Result<Vec<$model>, Problem> {
                let mut query = $noun::Entity::find().order_by_asc($noun::Column::Name).limit(paging.limit());
                if let Some(cursor) = &paging.cursor {
                    query = query.filter($noun::Column::Name.gt(cursor.as_str()));
                }
                Ok(query.all(self.database.read()).await?.into_iter().map($model::from).collect())
            }

            /// Takes it away, if its generation is still the one seen; `in_use` while something stands in it.
            pub async fn $delete(&self, model: &$model, now: Ms) -> Result<(), Problem> {
                let mut transaction = self.database.begin().await?;
                let deleted = $noun::Entity::delete_many()
                    .filter($noun::Column::Id.eq(model.id.uuid()))
                    .filter($noun::Column::Generation.eq(model.generation))
                    .exec(&*transaction)
                    .await;
                match deleted {
                    Ok(result) if result.rows_affected == 1 => {
                        let told = PlaceChanged { id: model.id.to_string(), name: model.name.clone() };
                        let kind = concat!(stringify!($noun), ".deleted");
                        transaction.emit(NewEvent::new(now, kind, "", model.id, &told));
                        Ok(transaction.commit().await?)
                    }
                    Ok(_) => Err(Problem::not_found($kind::NOUN, &model.name)),
                    Err(error) if is_reference(&error) => Err(Problem::new(
                        Code::InUse,
                        format!(
                            concat!("{} {} still has ", $children, ": take them away first"),
                            $kind::NOUN,
                            model.name
                        ),
                    )),
                    Err(error) => Err(error.into()),
                }
            }
        }
    };
}

impl From<&RegionModel> for region::ActiveModel {
    fn from(model: &RegionModel) -> Self {
        let RegionModel { id, name, generation, created_ms } = model.clone();
        Self { id: Set(id.uuid()), name: Set(name), generation: Set(generation), created_ms: Set(created_ms) }
    }
}

impl From<&ZoneModel> for zone::ActiveModel {
    fn from(model: &ZoneModel) -> Self {
        let ZoneModel { id, name, region_id, generation, created_ms } = model.clone();
        Self {
            id: Set(id.uuid()),
            name: Set(name),
            region_id: Set(region_id.uuid()),
            generation: Set(generation),
            created_ms: Set(created_ms),
        }
    }
}

impl From<&RackModel> for rack::ActiveModel {
    fn from(model: &RackModel) -> Self {
        let RackModel { id, name, zone_id, units, generation, created_ms } = model.clone();
        Self {
            id: Set(id.uuid()),
            name: Set(name),
            zone_id: Set(zone_id.uuid()),
            units: Set(units),
            generation: Set(generation),
            created_ms: Set(created_ms),
        }
    }
}

pub(super) use place;

place!(region, Region, RegionModel, region_insert, region_get, region_list, region_delete, "zones");
place!(zone, Zone, ZoneModel, zone_insert, zone_get, zone_list, zone_delete, "racks");
place!(rack, Rack, RackModel, rack_insert, rack_get, rack_list, rack_delete, "hosts");
