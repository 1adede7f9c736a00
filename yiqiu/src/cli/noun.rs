//! What most nouns share: the same four verbs over a collection of the API, each with a table of its own.

use serde_json::Value;

use super::{
    Session,
    client::Tier,
    failure::Outcome,
    output::{self, Column},
};

/// A collection of the API.
pub struct Noun {
    /// The word in sentences.
    pub word: &'static str,
    /// Who answers for it.
    pub tier: Tier,
    /// The last part of `/v1/<path>`.
    pub path: &'static str,
    /// What a table of it shows.
    pub columns: &'static [Column],
}

impl Noun {
    /// Fetches one by name or id.
    pub async fn fetch(&self, session: &Session, name: &str) -> Outcome<Value> {
        session.client.get(self.tier, &[self.path, name], &[]).await
    }

    /// Prints one.
    pub async fn get(&self, session: &Session, name: &str) -> Outcome {
        self.show(session, &self.fetch(session, name).await?)
    }

    /// Prints all, page after page.
    pub async fn list(&self, session: &Session, query: &[(&str, &str)]) -> Outcome {
        let items = session.client.all(self.tier, &[self.path], query).await?;
        output::list(session.format, self.columns, &items)
    }

    /// Makes one and prints it.
    pub async fn create(&self, session: &Session, body: &Value) -> Outcome {
        let made = session.client.post(self.tier, &[self.path], &[], body).await?;
        self.show(session, &made)
    }

    /// Deletes one. What is deleted at once has nothing to print; what takes time answers with its state.
    pub async fn delete(&self, session: &Session, name: &str) -> Outcome {
        self.end(session, name, "deleted").await
    }

    /// The same, where another word says what came of it.
    pub async fn end(&self, session: &Session, name: &str, done: &str) -> Outcome {
        let answer = session.client.delete(self.tier, &[self.path, name], &[]).await?;
        if answer.is_null() {
            output::note(format_args!("{} {name}: {done}", self.word));
            return Ok(());
        }
        self.show(session, &answer)
    }

    /// Prints what the server answered.
    pub fn show(&self, session: &Session, value: &Value) -> Outcome {
        output::one(session.format, self.columns, value)
    }
}
