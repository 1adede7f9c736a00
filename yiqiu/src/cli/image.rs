//! `image`: root file systems that nodes start from.

use std::{
    io::{IsTerminal, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use clap::Subcommand;
use futures::stream;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use yiqiu_base::{secret::hex, size::bytes_shown};

use super::{
    Session,
    client::Tier,
    failure::{Failure, Outcome},
    noun::Noun,
    output::{self, As, Column},
};

const IMAGE: Noun = Noun {
    word: "image",
    tier: Tier::Resources,
    path: "images",
    columns: &[
        Column("NAME", &["/name"], As::Text),
        Column("STATE", &["/state"], As::Text),
        Column("SIZE", &["/bytes"], As::Bytes),
        Column("SHA256", &["/sha256"], As::Text),
        Column("ID", &["/id"], As::Text),
    ],
};

/// How much is read and sent at once, in bytes.
const CHUNK: usize = 1 << 20;

/// Verbs of `yiqiu image`.
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Uploads a root file system tar under a name.
    Upload {
        /// Its name, unique.
        name: String,
        /// The tar.
        file: PathBuf,
    },
    /// Lists the images.
    List,
    /// Shows one.
    Get {
        /// Name or id.
        image: String,
    },
    /// Deletes one that no node uses.
    Delete {
        /// Name or id.
        image: String,
    },
}

/// Carries out `yiqiu image …`.
pub async fn run(session: &Session, verb: Image) -> Outcome {
    match verb {
        Image::Upload { name, file } => upload(session, &name, &file).await,
        Image::List => IMAGE.list(session, &[]).await,
        Image::Get { image } => IMAGE.get(session, &image).await,
        Image::Delete { image } => IMAGE.delete(session, &image).await,
    }
}

/// Announces the image with its checksum, then streams the bytes. Run again after a lost connection, it takes up the
/// same image: it was announced, but is not ready.
async fn upload(session: &Session, name: &str, file: &Path) -> Outcome {
    let path = file.to_owned();
    let (sha256, bytes) = tokio::task::spawn_blocking(move || digest(&path))
        .await
        .map_err(|error| Failure::Failed(error.to_string()))?
        .map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    let body = json!({"name": name, "sha256": sha256, "bytes": bytes});
    let announced = match session.client.post(IMAGE.tier, &[IMAGE.path], &[], &body).await {
        Err(refusal) if refusal.code() == Some("already_exists") => {
            let there = IMAGE.fetch(session, name).await?;
            let same = there.get("sha256").and_then(Value::as_str) == Some(sha256.as_str());
            let ready = there.get("state").and_then(Value::as_str) == Some("ready");
            if !same {
                return Err(refusal);
            }
            if ready {
                output::note("the same bytes are there already");
                return IMAGE.show(session, &there);
            }
            there
        }
        other => other?,
    };
    let id = announced.get("id").and_then(Value::as_str).unwrap_or(name);
    let handle =
        tokio::fs::File::open(file).await.map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    let body = reqwest::Body::wrap_stream(chunks(handle, bytes));
    let sent = session.client.upload(IMAGE.tier, &[IMAGE.path, id, "content"], bytes, body).await;
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    let answer = sent?;
    let image = if answer.get("name").is_some() { answer } else { IMAGE.fetch(session, id).await? };
    IMAGE.show(session, &image)
}

/// The SHA-256 of a file in hex, and its length.
fn digest(path: &Path) -> std::io::Result<(String, u64)> {
    let mut file = std::fs::File::open(path)?;
    let mut sha = Sha256::new();
    let mut buffer = vec![0_u8; CHUNK];
    let mut total = 0_u64;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((hex(&sha.finalize()), total));
        }
        sha.update(&buffer[..n]);
        total += n as u64;
    }
}

/// The bytes of a file in pieces, with the percentage on a terminal.
fn chunks(file: tokio::fs::File, total: u64) -> impl futures::Stream<Item = std::io::Result<Bytes>> {
    let terminal = std::io::stderr().is_terminal();
    stream::try_unfold((file, 0_u64), move |(mut file, sent)| async move {
        let mut buffer = bytes::BytesMut::with_capacity(CHUNK);
        if file.read_buf(&mut buffer).await? == 0 {
            return Ok(None);
        }
        let sent = sent + buffer.len() as u64;
        if terminal {
            let shown = bytes_shown(i64::try_from(sent).unwrap_or(i64::MAX));
            eprint!("\r{:>3} % {shown}   ", sent * 100 / total.max(1));
        }
        Ok(Some((buffer.freeze(), (file, sent))))
    })
}
