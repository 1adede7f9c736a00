//! "Once and no more" for POST: the key of a request is kept in the transaction that carries it out.
//!
//! Table (made by each tier's migrations): `idempotency(scope, key, digest, result, at_ms)`, unique by (scope, key).
//! The scope is who asked and for what kind of thing, so that one caller's keys never meet another's.

use sea_orm::{ConnectionTrait, DbErr, Value};
use sha2::{Digest, Sha256};

use crate::{Code, Problem, clock::Ms, database::sql, secret::hex};

/// The key of one request, with a digest of what it asked for.
#[derive(Debug, Clone)]
pub struct Key {
    /// Who asked, and for what.
    pub scope: String,
    /// What the caller chose, at most 200 characters.
    pub key: String,
    /// SHA-256 of the request.
    pub digest: String,
}

/// What is kept under a key.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Which key.
    pub scope: String,
    /// Which key.
    pub key: String,
    digest: String,
    /// The id of what the first request made.
    pub result: String,
}

impl Key {
    /// A key for a request of `subject` to make a `noun` as `body` says.
    pub fn new(subject: &str, noun: &str, key: &str, body: &impl serde::Serialize) -> Result<Self, Problem> {
        if key.is_empty() || key.len() > 200 || !key.chars().all(|c| c.is_ascii_graphic()) {
            return Err(Problem::invalid("an Idempotency-Key has 1 to 200 printable ASCII characters without spaces"));
        }
        let body = serde_json::to_vec(body).map_err(Problem::internal)?;
        Ok(Self { scope: format!("{subject} {noun}"), key: key.to_owned(), digest: hex(&Sha256::digest(body)) })
    }
}

impl Kept {
    /// The result of the first request, if this is the same request again; `idempotency_key_reused` if it is not.
    pub fn replay(&self, key: &Key) -> Result<&str, Problem> {
        if self.digest == key.digest {
            return Ok(&self.result);
        }
        Err(Problem::new(
            Code::IdempotencyKeyReused,
            format!("the Idempotency-Key `{}` was used for another request: choose a new one", key.key),
        ))
    }
}

/// What is kept under any of these keys.
pub async fn kept(connection: &impl ConnectionTrait, keys: &[&Key]) -> Result<Vec<Kept>, DbErr> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let places = vec!["(scope = ? AND key = ?)"; keys.len()].join(" OR ");
    let values = keys.iter().flat_map(|k| [k.scope.as_str().into(), k.key.as_str().into()]);
    let rows = connection
        .query_all_raw(sql(
            connection.get_database_backend(),
            &format!("SELECT scope, key, digest, result FROM idempotency WHERE {places}"),
            values,
        ))
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Kept {
                scope: row.try_get("", "scope")?,
                key: row.try_get("", "key")?,
                digest: row.try_get("", "digest")?,
                result: row.try_get("", "result")?,
            })
        })
        .collect()
}

/// Keeps results under their keys where the keys are new, in one statement; returns which were, in the order given.
/// What a key that is not new holds, [`kept`] tells.
pub async fn keep_new(
    connection: &impl ConnectionTrait,
    results: &[(&Key, String)],
    now: Ms,
) -> Result<Vec<bool>, DbErr> {
    if results.is_empty() {
        return Ok(Vec::new());
    }
    let places = vec!["(?, ?, ?, ?, ?)"; results.len()].join(", ");
    let text = format!(
        "INSERT INTO idempotency (scope, key, digest, result, at_ms) VALUES {places} \
         ON CONFLICT DO NOTHING RETURNING scope, key"
    );
    let rows = connection.query_all_raw(sql(connection.get_database_backend(), &text, values(results, now))).await?;
    let mut new = std::collections::HashSet::with_capacity(rows.len());
    for row in rows {
        let scope: String = row.try_get("", "scope")?;
        let key: String = row.try_get("", "key")?;
        new.insert((scope, key));
    }
    // A key twice in one call is new once: `remove` tells the first from the others.
    Ok(results.iter().map(|(k, _)| new.remove(&(k.scope.clone(), k.key.clone()))).collect())
}

/// Forgets a key whose request was refused after all.
pub async fn forget(connection: &impl ConnectionTrait, key: &Key) -> Result<(), DbErr> {
    let text = "DELETE FROM idempotency WHERE scope = ? AND key = ?";
    let values = [key.scope.as_str().into(), key.key.as_str().into()];
    connection.execute_raw(sql(connection.get_database_backend(), text, values)).await?;
    Ok(())
}

/// Keeps results under their keys. A key that is kept already fails the transaction: ask [`kept`] first.
pub async fn keep(connection: &impl ConnectionTrait, results: &[(&Key, String)], now: Ms) -> Result<(), DbErr> {
    if results.is_empty() {
        return Ok(());
    }
    let places = vec!["(?, ?, ?, ?, ?)"; results.len()].join(", ");
    connection
        .execute_raw(sql(
            connection.get_database_backend(),
            &format!("INSERT INTO idempotency (scope, key, digest, result, at_ms) VALUES {places}"),
            values(results, now),
        ))
        .await?;
    Ok(())
}

fn values<'a>(results: &'a [(&'a Key, String)], now: Ms) -> impl Iterator<Item = Value> + 'a {
    results.iter().flat_map(move |(k, result)| {
        [k.scope.as_str().into(), k.key.as_str().into(), k.digest.as_str().into(), result.as_str().into(), now.into()]
    })
}
