//! Users, and the first of them.

use yiqiu_base::{
    Code, Principal, Problem,
    database::{Transaction, problem},
    idempotency::Key,
    outbox::NewEvent,
    principal::Role,
    secret::Secret,
};

use super::{Made, Service, check_name, in_use, key};
use crate::{
    lifecycle::TTL_MOST_MS,
    model::{Token, TokenId, User, UserChanged, UserId},
    store::{exists, keep, kept, taken, token, user},
};

/// The name of the user that [`Service::bootstrap`] makes.
const FIRST: &str = "ops";

impl Service {
    /// Where nobody can act as ops, which is so on an empty database and after the last ops token ended: sees to it that
    /// there is a user `ops`, makes an ops token for it that holds a year, and returns the secret for a file that only
    /// the operator can read. `None` where somebody can. `given` is taken as the secret instead of a random one.
    pub async fn bootstrap(&self, given: Option<Secret>) -> Result<Option<Secret>, Problem> {
        let now = self.now();
        let mut change = self.begin().await?;
        if token::token_ops_count(&*change, now).await.map_err(problem)? > 0 {
            return Ok(None);
        }
        if let Some(secret) = &given
            && (!secret.reveal().starts_with(super::tokens::PREFIX) || secret.reveal().len() < 24)
        {
            return Err(Problem::invalid(
                "a given first token begins with `yqt_` and has at least 20 random characters behind it",
            ));
        }
        let first = match user::user_lock(&*change, FIRST).await.map_err(problem)? {
            Some(user) if user.ops => user,
            Some(_) => {
                return Err(Problem::new(
                    Code::AlreadyExists,
                    format!("nobody can act as ops, and the user `{FIRST}` is an ordinary one: it cannot be the first"),
                ));
            }
            None => {
                let user = User { id: UserId::new(), name: FIRST.to_owned(), ops: true, created_ms: now };
                user_insert(&mut change, &user).await?;
                user
            }
        };
        let secret = given.unwrap_or_else(|| Secret::generate(super::tokens::PREFIX));
        let id = TokenId::new();
        let made = Token {
            id,
            name: format!("bootstrap-{id}"),
            user: first.id,
            user_name: first.name,
            role: Role::Ops,
            project: None,
            project_name: None,
            created_ms: now,
            expires_ms: now + TTL_MOST_MS,
            revoked_ms: None,
            parent: None,
        };
        token::token_insert(&*change, &made, &secret.hash()).await.map_err(|error| {
            let told = "the given first token was used before, and is expired or revoked: give another";
            match taken(error, "token", "") {
                duplicate if duplicate.code == Code::AlreadyExists => Problem::new(Code::AlreadyExists, told),
                other => other,
            }
        })?;
        super::tokens::tell(&mut change, "token.created", &made, now);
        change.commit().await.map_err(problem)?;
        Ok(Some(secret))
    }

    /// A new user, whose tokens may have at most this role; by ops.
    pub async fn user_create(
        &self,
        principal: &Principal,
        given: Option<&str>,
        name: &str,
        role: Role,
    ) -> Result<User, Problem> {
        principal.require_ops()?;
        super::check_role(role)?;
        let ops = role == Role::Ops;
        check_name("user", name)?;
        let key = key(principal, "user", given, &(name, ops))?;
        let made = self.user_make(key.as_ref(), name, ops).await;
        match self.settle(key.as_ref(), made).await? {
            Made::Now(user) => Ok(user),
            Made::Before(id) => self.user_get(principal, &id).await,
        }
    }

    async fn user_make(&self, key: Option<&Key>, name: &str, ops: bool) -> Result<Made<User>, Problem> {
        let now = self.now();
        let mut change = self.begin().await?;
        if let Some(before) = kept(&*change, key).await? {
            return Ok(Made::Before(before));
        }
        if user::user_get(&*change, name).await.map_err(problem)?.is_some() {
            return Err(exists("user", name));
        }
        let made = User { id: UserId::new(), name: name.to_owned(), ops, created_ms: now };
        user_insert(&mut change, &made).await?;
        keep(&change, key, made.id.to_string(), now).await?;
        change.commit().await.map_err(problem)?;
        Ok(Made::Now(made))
    }

    /// One user; by ops.
    pub async fn user_get(&self, principal: &Principal, text: &str) -> Result<User, Problem> {
        principal.require_ops()?;
        let found = user::user_get(self.0.database.read(), text).await.map_err(problem)?;
        found.ok_or_else(|| Problem::not_found("user", text))
    }

    /// Users by name; by ops.
    pub async fn user_list(&self, principal: &Principal, after: &str, limit: u64) -> Result<Vec<User>, Problem> {
        principal.require_ops()?;
        user::user_list(self.0.database.read(), after, limit).await.map_err(problem)
    }

    /// Takes a user away; by ops. `in_use` while it is in a project or has a good token.
    pub async fn user_delete(&self, principal: &Principal, text: &str) -> Result<(), Problem> {
        principal.require_ops()?;
        let now = self.now();
        let mut change = self.begin().await?;
        let user = user::user_lock(&*change, text).await.map_err(problem)?;
        let user = user.ok_or_else(|| Problem::not_found("user", text))?;
        let memberships = user::user_memberships(&*change, user.id).await.map_err(problem)?;
        let tokens = user::user_tokens(&*change, user.id, now).await.map_err(problem)?;
        let hint = "take it out of its projects and revoke its tokens first";
        in_use("user", &user.name, &[("memberships", memberships), ("tokens", tokens)], hint)?;
        user::user_delete(&*change, user.id).await.map_err(problem)?;
        change.emit(NewEvent::new(now, "user.deleted", "", user.id, &changed(&user)));
        change.commit().await.map_err(problem)
    }
}

async fn user_insert(change: &mut Transaction, user: &User) -> Result<(), Problem> {
    user::user_insert(&**change, user).await.map_err(|error| taken(error, "user", &user.name))?;
    change.emit(NewEvent::new(user.created_ms, "user.created", "", user.id, &changed(user)));
    Ok(())
}

fn changed(user: &User) -> UserChanged {
    let User { id, name, ops, created_ms: _ } = user;
    UserChanged { user_id: id.to_string(), name: name.clone(), ops: *ops }
}
