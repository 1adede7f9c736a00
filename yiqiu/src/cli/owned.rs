//! What belongs to a project: ops see that of all projects, and may say which one they mean.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};

use super::{
    Session,
    client::Tier,
    failure::{Failure, Outcome},
    noun::Noun,
    output::{self, As, Column, Format},
};

/// Which project is meant.
#[derive(Debug, Default, Args)]
pub struct InProject {
    /// Only what belongs to this project, by name or id.
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
}

/// How an owner label names a project.
pub const LABEL: &str = "project:";

impl InProject {
    /// The owner label of the project, if one was named.
    pub async fn label(&self, session: &Session) -> Outcome<Option<String>> {
        let Some(project) = &self.project else { return Ok(None) };
        let project = session.client.get(Tier::Projects, &["projects", project], &[]).await?;
        Ok(Some(format!("{LABEL}{}", super::node::id_of(&project)?)))
    }
}

/// The owner label of a project, and its name.
pub fn label_and_name(project: &Value) -> Option<(String, String)> {
    Some((format!("{LABEL}{}", project["id"].as_str()?), project["name"].as_str()?.to_owned()))
}

/// Everything of a noun, or what of it belongs to the project.
pub async fn all(session: &Session, noun: &Noun, query: &[(&str, &str)], within: &InProject) -> Outcome<Vec<Value>> {
    let mut items = session.client.all(noun.tier, &[noun.path], query).await?;
    if let Some(label) = within.label(session).await? {
        items.retain(|item| item["owner"] == label.as_str());
    }
    Ok(items)
}

/// Prints them. For ops the table says whose each is.
pub async fn list(session: &Session, noun: &Noun, query: &[(&str, &str)], within: &InProject) -> Outcome {
    let mut items = all(session, noun, query, within).await?;
    if matches!(session.format, Format::Json | Format::Yaml) {
        return output::list(session.format, noun.columns, &items);
    }
    let me = session.client.get(Tier::Projects, &["whoami"], &[]).await?;
    if me["role"] != "ops" {
        return output::list(session.format, noun.columns, &items);
    }
    let projects = session.client.all(Tier::Projects, &["projects"], &[]).await?;
    name_owners(&mut items, &projects);
    let mut columns = noun.columns.to_vec();
    columns.insert(1, Column("PROJECT", &["/project_name"], As::Text));
    output::list(session.format, &columns, &items)
}

/// The name of the project whose label each item carries; the label itself if there is no such project (any more).
pub(super) fn name_owners(items: &mut [Value], projects: &[Value]) {
    let names: BTreeMap<&str, &Value> =
        projects.iter().filter_map(|project| Some((project["id"].as_str()?, &project["name"]))).collect();
    for item in items {
        let owner = item["owner"].as_str().unwrap_or_default();
        let name = owner.strip_prefix(LABEL).and_then(|id| names.get(id));
        let name = name.map_or_else(|| json!(owner), |name| (*name).clone());
        item["project_name"] = name;
    }
}

/// What the API is to be asked for: the name as it is, or the id of the one that has it in the project.
pub async fn find(session: &Session, noun: &Noun, name: String, within: &InProject) -> Outcome<String> {
    let Some(project) = &within.project else { return Ok(name) };
    let items = all(session, noun, &[], within).await?;
    let mut named = items.iter().filter(|item| item["name"] == name.as_str() || item["id"] == name.as_str());
    match (named.next(), named.next()) {
        (Some(item), None) => super::node::id_of(item),
        (None, _) => Err(Failure::Refused(json!({
            "code": "not_found", "detail": format!("there is no {} `{name}` in project `{project}`", noun.word),
        }))),
        (Some(_), Some(_)) => {
            Err(Failure::Usage(format!("project `{project}` has several called `{name}`: take an id from the list")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_have_the_names_of_their_projects() {
        let mut items = ["project:1", "project:2", "tier:components"].map(|owner| json!({"owner": owner}));
        name_owners(&mut items, &[json!({"id": "1", "name": "shop"})]);
        let names = items.map(|item| item["project_name"].as_str().unwrap().to_owned());
        assert_eq!(names, ["shop", "project:2", "tier:components"]);
    }
}
