//! Images: what is known of them. Their bytes are files, kept by the service.

use sea_orm::{
    ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Set,
    sea_query::{Expr, ExprTrait},
};
use yiqiu_base::{
    Code, Id, Problem,
    clock::Ms,
    database::{Transaction, is_duplicate, is_reference, stored},
    http::Paging,
    id::Image,
    idempotency::{self, Key},
    outbox::NewEvent,
};
use yiqiu_proto::resources::ImageChanged;

use super::Store;
use crate::model::{ImageModel, ImageState};

mod entity {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "image")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub name: String,
        pub owner: String,
        pub sha256: String,
        pub bytes: i64,
        pub state: String,
        pub generation: i64,
        pub created_ms: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

impl TryFrom<entity::Model> for ImageModel {
    type Error = sea_orm::DbErr;
    fn try_from(row: entity::Model) -> Result<Self, Self::Error> {
        let entity::Model { id, name, owner, sha256, bytes, state, generation, created_ms } = row;
        Ok(Self { id: id.into(), name, owner, sha256, bytes, state: stored(&state)?, generation, created_ms })
    }
}

impl Store {
    /// Adds an image without bytes; `already_exists` if its owner has one of that name.
    pub async fn image_insert(&self, new: &ImageModel, key: Option<&Key>) -> Result<ImageModel, Problem> {
        let mut transaction = self.database.begin().await?;
        if let Some(key) = key
            && let Some(kept) = idempotency::kept(&*transaction, &[key]).await?.first()
        {
            let first = Id::<Image>::parse(kept.replay(key)?)?;
            drop(transaction);
            return self.image_get(first).await;
        }
        let ImageModel { id, name, owner, sha256, bytes, state, generation, created_ms } = new.clone();
        let row = entity::ActiveModel {
            id: Set(id.uuid()),
            name: Set(name.clone()),
            owner: Set(owner),
            sha256: Set(sha256),
            bytes: Set(bytes),
            state: Set(state.as_str().to_owned()),
            generation: Set(generation),
            created_ms: Set(created_ms),
        };
        match entity::Entity::insert(row).exec_without_returning(&*transaction).await {
            Ok(_) => {}
            Err(error) if is_duplicate(&error) => {
                return Err(Problem::new(Code::AlreadyExists, format!("there is already an image `{name}`")));
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(key) = key {
            idempotency::keep(&*transaction, &[(key, id.to_string())], created_ms).await?;
        }
        emit(&mut transaction, "image.created", new, created_ms);
        transaction.commit().await?;
        Ok(new.clone())
    }

    /// By id; `not_found` otherwise.
    pub async fn image_get(&self, id: Id<Image>) -> Result<ImageModel, Problem> {
        let found = entity::Entity::find_by_id(id.uuid()).one(self.database.read()).await?;
        Ok(found.ok_or_else(|| Problem::not_found("image", id))?.try_into()?)
    }

    /// By name or id among an owner's own and everyone's; the owner's own come first. `None`: any
    /// owner's, everyone's first; a name that only several tenants have is refused.
    pub async fn image_find(&self, name_or_id: &str, owner: Option<&str>) -> Result<ImageModel, Problem> {
        let mut query = entity::Entity::find().filter(match name_or_id.parse::<uuid::Uuid>() {
            Ok(id) => entity::Column::Id.eq(id),
            Err(_) => entity::Column::Name.eq(name_or_id),
        });
        query = match owner {
            Some(owner) => query.filter(visible(owner)).order_by_desc(entity::Column::Owner),
            None => query.order_by_asc(entity::Column::Owner),
        };
        let mut found = query.limit(2).all(self.database.read()).await?;
        if owner.is_none() && found.len() > 1 && !found[0].owner.is_empty() {
            return Err(super::ambiguous("image", name_or_id));
        }
        found.truncate(1);
        Ok(found.pop().ok_or_else(|| Problem::not_found("image", name_or_id))?.try_into()?)
    }

    /// In the order of making, as a name may be of several owners; `owner` as in [`Store::image_find`].
    pub async fn image_list(&self, paging: &Paging, owner: Option<&str>) -> Result<Vec<ImageModel>, Problem> {
        let mut query = entity::Entity::find().order_by_asc(entity::Column::Id).limit(paging.limit());
        if let Some(cursor) = &paging.cursor {
            query = query.filter(entity::Column::Id.gt(Id::<Image>::parse(cursor)?.uuid()));
        }
        if let Some(owner) = owner {
            query = query.filter(visible(owner));
        }
        Ok(super::rows::models(query.all(self.database.read()).await?)?)
    }

    /// Says that the bytes are here.
    pub async fn image_ready(&self, model: &ImageModel, now: Ms) -> Result<(), Problem> {
        let mut transaction = self.database.begin().await?;
        let updated = entity::Entity::update_many()
            .col_expr(entity::Column::State, Expr::value(ImageState::Ready.as_str()))
            .col_expr(entity::Column::Generation, Expr::col(entity::Column::Generation).add(1))
            .filter(entity::Column::Id.eq(model.id.uuid()))
            .filter(entity::Column::State.eq(ImageState::Pending.as_str()))
            .exec(&*transaction)
            .await?;
        if updated.rows_affected == 1 {
            emit(&mut transaction, "image.ready", &ImageModel { state: ImageState::Ready, ..model.clone() }, now);
        }
        Ok(transaction.commit().await?)
    }

    /// Takes an image away that no node uses, and says whether another image still has the same bytes.
    pub async fn image_delete(&self, model: &ImageModel, now: Ms) -> Result<bool, Problem> {
        let mut transaction = self.database.begin().await?;
        let users = super::node::count_of_image(&transaction, model.id).await?;
        if users > 0 {
            return Err(Problem::new(
                Code::InUse,
                format!("image {} is what {users} nodes start from: release them first", model.name),
            ));
        }
        let deleted =
            entity::Entity::delete_many().filter(entity::Column::Id.eq(model.id.uuid())).exec(&*transaction).await;
        let deleted = deleted.map_err(|error| match is_reference(&error) {
            true => Problem::new(Code::InUse, format!("image {} was taken for a node just now", model.name)),
            false => error.into(),
        })?;
        let shared = entity::Entity::find()
            .filter(entity::Column::Sha256.eq(model.sha256.as_str()))
            .one(&*transaction)
            .await?
            .is_some();
        if deleted.rows_affected == 1 {
            emit(&mut transaction, "image.deleted", model, now);
        }
        transaction.commit().await?;
        Ok(shared)
    }
}

fn emit(transaction: &mut Transaction, kind: &'static str, image: &ImageModel, now: Ms) {
    let state = image.state.as_str().to_owned();
    let told = ImageChanged { image_id: image.id.to_string(), name: image.name.clone(), state };
    transaction.emit(NewEvent::new(now, kind, &image.owner, image.id, &told));
}

fn visible(owner: &str) -> Condition {
    Condition::any().add(entity::Column::Owner.eq("")).add(entity::Column::Owner.eq(owner))
}
