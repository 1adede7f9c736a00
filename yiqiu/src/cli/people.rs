//! `user`, `project`, `token`: who asks, in whose name.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Session,
    client::Tier,
    failure::{Failure, Outcome},
    noun::Noun,
    output::{self, As, Column, Format},
    time,
};

const USER: Noun = Noun {
    word: "user",
    tier: Tier::Projects,
    path: "users",
    columns: &[
        Column("NAME", &["/name"], As::Text),
        Column("ROLE", &["/role"], As::Text),
        Column("CREATED", &["/created_ms"], As::Time),
        Column("ID", &["/id"], As::Text),
    ],
};

const PROJECT: Noun = Noun {
    word: "project",
    tier: Tier::Projects,
    path: "projects",
    columns: &[
        Column("NAME", &["/name"], As::Text),
        Column("STATE", &["/state"], As::Text),
        Column("CREATED", &["/created_ms"], As::Time),
        Column("ID", &["/id"], As::Text),
    ],
};

const MEMBER: &[Column] = &[
    Column("USER", &["/user"], As::Text),
    Column("ROLE", &["/role"], As::Text),
    Column("SINCE", &["/created_ms"], As::Time),
];

const TOKEN: Noun = Noun {
    word: "token",
    tier: Tier::Projects,
    path: "tokens",
    columns: &[
        Column("NAME", &["/name"], As::Text),
        Column("USER", &["/user"], As::Text),
        Column("ROLE", &["/role"], As::Text),
        Column("PROJECT", &["/project"], As::Text),
        Column("STATE", &["/state"], As::Text),
        Column("EXPIRES", &["/expires_ms"], As::Time),
        Column("ID", &["/id"], As::Text),
    ],
};

/// Verbs of `yiqiu user`.
#[derive(Debug, Subcommand)]
pub enum User {
    /// Makes a user.
    Create {
        /// The name, unique.
        name: String,
        /// What the user may do: tenant, or ops for those who run the data centre.
        #[arg(long, default_value = "tenant", value_parser = ["ops", "tenant"])]
        role: String,
    },
    /// Lists the users.
    List,
    /// Shows one.
    Get {
        /// Name or id.
        user: String,
    },
    /// Deletes one, with its tokens.
    Delete {
        /// Name or id.
        user: String,
    },
}

/// Verbs of `yiqiu project`.
#[derive(Debug, Subcommand)]
pub enum Project {
    /// Makes a project: whom a bill is for.
    Create {
        /// Its name, unique.
        name: String,
    },
    /// Lists the projects.
    List,
    /// Shows one.
    Get {
        /// Name or id.
        project: String,
    },
    /// Deletes one that holds nothing any more.
    Delete {
        /// Name or id.
        project: String,
    },
    /// Lets a user act for a project.
    AddMember {
        /// The project, by name or id.
        project: String,
        /// The user, by name or id.
        user: String,
    },
    /// Ends that.
    RemoveMember {
        /// The project, by name or id.
        project: String,
        /// The user, by name or id.
        user: String,
    },
    /// Lists who may act for a project.
    Members {
        /// The project, by name or id.
        project: String,
    },
}

/// Verbs of `yiqiu token`.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Makes a token, and prints it: the only time that it is shown.
    Create {
        /// A name to tell it from others.
        name: String,
        /// Whose it is; your own if not said.
        #[arg(long)]
        user: Option<String>,
        /// The project that it acts for.
        #[arg(long)]
        project: Option<String>,
        /// What it may do; tenant with a project and ops without, if not said.
        #[arg(long, value_parser = ["ops", "tenant"])]
        role: Option<String>,
        /// How long it works, such as 30d.
        #[arg(long, value_name = "SPAN", value_parser = time::parse_span)]
        expires_in: Option<Duration>,
        /// Write it to this new file, which only you can read, rather than print it.
        #[arg(long, value_name = "FILE")]
        save: Option<PathBuf>,
    },
    /// Lists tokens, without the secrets: nobody has them any more.
    List,
    /// Shows one, without the secret.
    Get {
        /// Name or id.
        token: String,
    },
    /// Ends a token within seconds.
    #[command(alias = "delete")]
    Revoke {
        /// Name or id.
        token: String,
    },
}

/// Carries out `yiqiu user …`.
pub async fn user(session: &Session, verb: User) -> Outcome {
    match verb {
        User::Create { name, role } => USER.create(session, &json!({"name": name, "role": role})).await,
        User::List => USER.list(session, &[]).await,
        User::Get { user } => USER.get(session, &user).await,
        User::Delete { user } => USER.delete(session, &user).await,
    }
}

/// Carries out `yiqiu project …`.
pub async fn project(session: &Session, verb: Project) -> Outcome {
    match verb {
        Project::Create { name } => PROJECT.create(session, &json!({"name": name})).await,
        Project::List => PROJECT.list(session, &[]).await,
        Project::Get { project } => PROJECT.get(session, &project).await,
        Project::Delete { project } => PROJECT.delete(session, &project).await,
        Project::AddMember { project, user } => {
            let path = [PROJECT.path, &project, "members"];
            session.client.post(PROJECT.tier, &path, &[], &json!({"user": user})).await?;
            output::note(format_args!("{user} may act for {project}"));
            Ok(())
        }
        Project::RemoveMember { project, user } => {
            session.client.delete(PROJECT.tier, &[PROJECT.path, &project, "members", &user], &[]).await?;
            output::note(format_args!("{user} may no longer act for {project}"));
            Ok(())
        }
        Project::Members { project } => {
            let members = session.client.all(PROJECT.tier, &[PROJECT.path, &project, "members"], &[]).await?;
            output::list(session.format, MEMBER, &members)
        }
    }
}

/// Carries out `yiqiu token …`.
pub async fn token(session: &Session, verb: Token) -> Outcome {
    match verb {
        Token::Create { name, user, project, role, expires_in, save } => {
            let mut body = json!({"name": name});
            for (key, value) in [("user", user), ("project", project), ("role", role)] {
                if let Some(value) = value {
                    body[key] = json!(value);
                }
            }
            if let Some(span) = expires_in {
                body["expires_ms"] = json!(session.now_ms() + i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 2));
            }
            let Some(path) = save else {
                let made = session.client.post(TOKEN.tier, &[TOKEN.path], &[], &body).await?;
                return made_token(session, &made);
            };
            // The file comes first: a token that cannot be kept is not made.
            let file = new_private(&path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
            let saved = save_token(session, &body, file, &path).await;
            if saved.is_err() {
                let _ = std::fs::remove_file(&path); // it is empty or of no use; the failure says the rest
            }
            saved
        }
        Token::List => TOKEN.list(session, &[]).await,
        Token::Get { token } => TOKEN.get(session, &token).await,
        Token::Revoke { token } => TOKEN.end(session, &token, "revoked").await,
    }
}

/// Prints the secret alone on standard output, so that it can be piped.
fn made_token(session: &Session, made: &Value) -> Outcome {
    let secret = secret_of(made)?;
    if session.format != Format::Table {
        return output::document(session.format, made);
    }
    output::note("the token is shown only now");
    output::print(&format!("{secret}\n"))
}

/// Makes a token, puts its secret into the file, and prints the rest.
async fn save_token(session: &Session, body: &Value, mut file: File, path: &Path) -> Outcome {
    let mut made = session.client.post(TOKEN.tier, &[TOKEN.path], &[], body).await?;
    let secret = secret_of(&made)?;
    writeln!(file, "{secret}")
        .and_then(|()| file.sync_all())
        .map_err(|error| Failure::Failed(format!("{}: {error}; revoke the token", path.display())))?;
    if let Some(object) = made.as_object_mut() {
        object.remove("secret");
    }
    TOKEN.show(session, &made)
}

fn secret_of(made: &Value) -> Outcome<String> {
    made.get("secret").and_then(Value::as_str).map(str::to_owned).ok_or_else(|| {
        Failure::Failed(
            "the token was made, but the answer that had it got lost, and it is not kept anywhere: revoke it (yiqiu \
             token revoke) and make another"
                .into(),
        )
    })
}

/// Writes a new file that only its owner can read. An existing one stays as it is.
pub fn write_private(path: &Path, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
    let mut file = new_private(path)?;
    file.write_all(bytes.as_ref())?;
    file.sync_all()
}

fn new_private(path: &Path) -> std::io::Result<File> {
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
