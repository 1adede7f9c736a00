//! Root file systems on their way from the server into a driver: streamed to a file, verified, imported once.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use yiqiu_base::secret::hex;
use yiqiu_proto::{
    agent::{FetchImageRequest, agents_client::AgentsClient},
    link::{Link, MESSAGE_MOST},
};

use crate::{
    driver::{Driver, DriverError},
    session::bearer,
};

/// How often a fetch tells how far it is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The images of one agent.
pub(crate) struct Images {
    dir: PathBuf,
    link: Link,
    credential: String,
    present: Mutex<HashSet<String>>,
    /// One lock an image: nodes that need it at once fetch and import it once.
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Images {
    pub(crate) fn new(dir: PathBuf, link: Link, credential: String) -> Self {
        Self { dir, link, credential, present: Mutex::default(), locks: Mutex::default() }
    }

    /// Sees to it that `driver` has the image. `fetched` hears now and then how many bytes are here.
    pub(crate) async fn ensure(
        &self,
        driver: &dyn Driver,
        image_id: &str,
        sha256: &str,
        fetched: &(dyn Fn(i64) + Sync),
    ) -> Result<(), DriverError> {
        if self.known(sha256) {
            return Ok(());
        }
        if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(DriverError::Refused(format!(
                "`{sha256}` is not the sha256 of an image: expected 64 hex digits"
            )));
        }
        let lock = self.lock(sha256);
        let _one = lock.lock().await;
        if self.known(sha256) {
            return Ok(());
        }
        if !driver.image_present(sha256).await? {
            let file = self.fetch(image_id, sha256, fetched).await?;
            let imported = driver.image_import(sha256, &file).await;
            if imported.is_ok() {
                let _ = tokio::fs::remove_file(&file).await; // the driver has its own copy
            }
            imported?;
        }
        self.present.lock().unwrap_or_else(PoisonError::into_inner).insert(sha256.to_owned());
        Ok(())
    }

    /// The driver lost it: look again next time.
    pub(crate) fn forget(&self, sha256: &str) {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).remove(sha256);
    }

    /// Takes an image away from `driver`, with what was fetched of it, unless `needed` says that a node needs it (again).
    pub(crate) async fn remove(
        &self,
        driver: &dyn Driver,
        sha256: &str,
        needed: impl FnOnce() -> bool,
    ) -> Result<(), DriverError> {
        let lock = self.lock(sha256);
        let _one = lock.lock().await;
        self.forget(sha256); // before it is asked: who needs it from here on looks for it, and waits for the lock
        if needed() {
            return Ok(());
        }
        for kind in ["tar", "part"] {
            let _ = tokio::fs::remove_file(self.dir.join(format!("{sha256}.{kind}"))).await; // mostly not there
        }
        driver.image_remove(sha256).await?;
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, lock| Arc::strong_count(lock) > 1);
        Ok(())
    }

    fn lock(&self, sha256: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.locks.lock().unwrap_or_else(PoisonError::into_inner).entry(sha256.to_owned()).or_default())
    }

    fn known(&self, sha256: &str) -> bool {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).contains(sha256)
    }

    /// The verified file. What an earlier attempt left is gone on with.
    async fn fetch(
        &self,
        image_id: &str,
        sha256: &str,
        fetched: &(dyn Fn(i64) + Sync),
    ) -> Result<PathBuf, DriverError> {
        let file = self.dir.join(format!("{sha256}.tar"));
        if tokio::fs::try_exists(&file).await.unwrap_or(false) {
            return Ok(file); // renamed only after it was verified
        }
        let disk = |error: std::io::Error| {
            DriverError::Failed(format!("cannot keep the image in {}: {error}", self.dir.display()))
        };
        tokio::fs::create_dir_all(&self.dir).await.map_err(disk)?;
        let part = self.dir.join(format!("{sha256}.part"));
        let mut out = tokio::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&part)
            .await
            .map_err(disk)?;
        let mut hash = Sha256::new();
        let mut offset = 0_i64;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = out.read(&mut buffer).await.map_err(disk)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            offset += i64::try_from(n).unwrap_or_default();
        }
        let request = FetchImageRequest { image_id: image_id.to_owned(), offset };
        let away = |status: tonic::Status| {
            DriverError::Unavailable(format!("the image {image_id} cannot be fetched: {}", status.message()))
        };
        let mut client = AgentsClient::new(self.link.clone()).max_decoding_message_size(MESSAGE_MOST);
        let mut chunks = client.fetch_image(bearer(request, &self.credential)).await.map_err(away)?.into_inner();
        tracing::info!(image = image_id, sha256, offset, "fetching an image");
        let mut told = Instant::now();
        while let Some(chunk) = chunks.message().await.map_err(away)? {
            hash.update(&chunk.data);
            out.write_all(&chunk.data).await.map_err(disk)?;
            offset += i64::try_from(chunk.data.len()).unwrap_or_default();
            if told.elapsed() >= TELL_EVERY {
                fetched(offset);
                told = Instant::now();
            }
        }
        out.flush().await.map_err(disk)?;
        let got = hex(&hash.finalize());
        if !got.eq_ignore_ascii_case(sha256) {
            let _ = tokio::fs::remove_file(&part).await; // nothing of it can be trusted
            return Err(DriverError::Failed(format!(
                "the image {image_id} came with sha256 {got} ({offset} bytes) instead of {sha256}: upload it again"
            )));
        }
        tokio::fs::rename(&part, &file).await.map_err(disk)?;
        Ok(file)
    }
}
