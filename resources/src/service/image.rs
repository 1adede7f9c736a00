//! Images: named first, then filled. The bytes are files named by their SHA-256, so that equal images are one file.

use std::path::PathBuf;

use futures::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tokio::{
    fs::File,
    io::{AsyncSeekExt, AsyncWriteExt},
};
use yiqiu_base::{
    Code, Id, Principal, Problem,
    http::{Page, Paging},
    id::{Host, Image},
    idempotency::Key,
    name,
    principal::Role,
    secret::hex,
};

use super::{Service, scope};
use crate::model::{ImageModel, ImageState};

/// The largest image, in bytes.
const IMAGE_MOST: i64 = 64 << 30;

/// The bytes of an image, opened for reading.
#[derive(Debug)]
pub struct ImageFile {
    /// Positioned at the offset that was asked for.
    pub file: File,
    /// All of its bytes.
    pub bytes: i64,
}

impl Service {
    /// Names an image and says what its bytes will be. One that ops make without a project is everyone's.
    pub async fn image_create(
        &self,
        who: &Principal,
        name: &str,
        sha256: &str,
        bytes: i64,
        key: Option<&str>,
    ) -> Result<ImageModel, Problem> {
        let owner = match who.role {
            Role::Ops => who.owner.clone(),
            Role::Tenant | Role::Service => who.owner()?.to_owned(),
        };
        name::check("image", name)?;
        if sha256.len() != 64 || !sha256.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')) {
            return Err(Problem::invalid("sha256 is the SHA-256 of the tar as 64 lower-case hexadecimal digits"));
        }
        if !(1..=IMAGE_MOST).contains(&bytes) {
            return Err(Problem::invalid(format!("bytes is {bytes}: expected 1 to {IMAGE_MOST}")));
        }
        let scope = format!("{} {owner}", who.subject);
        let key = key.map(|key| Key::new(&scope, "image", key, &(name, sha256, bytes))).transpose()?;
        let new = ImageModel {
            id: Id::new(),
            name: name.to_owned(),
            owner,
            sha256: sha256.to_owned(),
            bytes,
            state: ImageState::Pending,
            generation: 1,
            created_ms: self.now(),
        };
        self.store().image_insert(&new, key.as_ref()).await
    }

    /// Takes the bytes of an image; `checksum_mismatch` if they are not what was said, and then nothing is kept.
    /// Filling an image that is ready changes nothing.
    pub async fn image_fill<E: std::fmt::Display>(
        &self,
        who: &Principal,
        name_or_id: &str,
        mut content: impl Stream<Item = Result<bytes::Bytes, E>> + Unpin,
    ) -> Result<ImageModel, Problem> {
        let image = self.store().image_find(name_or_id, scope(who)).await?;
        if !who.may_touch(&image.owner) {
            return Err(Problem::new(Code::PermissionDenied, format!("image {} is not yours to fill", image.name)));
        }
        if image.state == ImageState::Ready {
            return Ok(image);
        }
        let partial = self.settings().images.join(format!(".partial-{}", uuid::Uuid::new_v4()));
        if let Err(problem) = take(&image, &partial, &mut content).await {
            let _ = tokio::fs::remove_file(&partial).await; // it may not have come to be
            return Err(problem);
        }
        let _files = self.0.image_files.lock().await;
        tokio::fs::rename(&partial, self.image_path(&image)).await.map_err(Problem::file)?;
        sync_folder(&self.settings().images).await?;
        self.store().image_ready(&image, self.now()).await?;
        self.store().image_get(image.id).await
    }

    /// By name or id, among one's own and everyone's; ops find any.
    pub async fn image_get(&self, who: &Principal, name_or_id: &str) -> Result<ImageModel, Problem> {
        self.store().image_find(name_or_id, scope(who)).await
    }

    /// What an owner may start nodes from, by name or id: for a tier that asks in somebody's name. One's own image
    /// comes before everyone's of the same name, so that nobody's name hides another's.
    pub async fn image_for_owner(&self, who: &Principal, name_or_id: &str, owner: &str) -> Result<ImageModel, Problem> {
        who.require_service()?;
        self.store().image_find(name_or_id, Some(owner)).await
    }

    /// In the order of making.
    pub async fn image_list(&self, who: &Principal, paging: &Paging) -> Result<Page<ImageModel>, Problem> {
        Ok(Page::of(self.store().image_list(paging, scope(who)).await?, paging, |i| i.id.to_string()))
    }

    /// Takes an image away that no node starts from.
    pub async fn image_delete(&self, who: &Principal, name_or_id: &str) -> Result<(), Problem> {
        let image = self.store().image_find(name_or_id, scope(who)).await?;
        if !who.may_touch(&image.owner) {
            return Err(Problem::new(Code::PermissionDenied, format!("image {} is not yours to delete", image.name)));
        }
        let _files = self.0.image_files.lock().await;
        let shared = self.store().image_delete(&image, self.now()).await?;
        self.0.images.write().await.remove(&image.id);
        if shared {
            return Ok(());
        }
        match tokio::fs::remove_file(self.image_path(&image)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Problem::internal(error)),
            _ => Ok(()), // an image that was never filled has no file
        }
    }

    /// An image that a line may start from: ready, and visible to whoever asks.
    pub(super) async fn image_for_line(&self, who: &Principal, name_or_id: &str) -> Result<ImageModel, Problem> {
        let any = matches!(who.role, Role::Ops | Role::Service);
        let known = match name_or_id.parse().map(|id: uuid::Uuid| Id::<Image>::from(id)) {
            Ok(id) => self.0.images.read().await.get(&id).cloned(),
            Err(_) => None,
        };
        if let Some(image) = known.filter(|i| any || i.owner.is_empty() || who.may_touch(&i.owner)) {
            return Ok(image);
        }
        // A tier names images by the ids that it was given for its own askers.
        let image = self.store().image_find(name_or_id, if any { None } else { scope(who) }).await?;
        if image.state != ImageState::Ready {
            return Err(Problem::new(
                Code::WrongState,
                format!("image {} has no content yet: upload it first", image.name),
            ));
        }
        let mut images = self.0.images.write().await;
        if images.len() >= 1_000 {
            images.clear();
        }
        images.insert(image.id, image.clone());
        Ok(image)
    }

    /// Opens the bytes of an image for the agent of a host that has a node with it.
    pub async fn image_open(&self, host: Id<Host>, image: Id<Image>, offset: i64) -> Result<ImageFile, Problem> {
        let needed = self.store().node_of_host(host).await?.iter().any(|n| n.spec.image_id == Some(image));
        if !needed {
            return Err(Problem::not_found("image", image));
        }
        let image = self.store().image_get(image).await?;
        if !(0..=image.bytes).contains(&offset) {
            return Err(Problem::invalid(format!("the offset {offset} is not within the {} bytes", image.bytes)));
        }
        let mut file = File::open(self.image_path(&image)).await.map_err(Problem::internal)?;
        let offset = u64::try_from(offset).unwrap_or_default();
        file.seek(std::io::SeekFrom::Start(offset)).await.map_err(Problem::internal)?;
        Ok(ImageFile { file, bytes: image.bytes })
    }

    fn image_path(&self, image: &ImageModel) -> PathBuf {
        // The checksum is 64 hexadecimal digits: safe as a file name.
        self.settings().images.join(&image.sha256)
    }
}

/// Takes away what uploads left that a crash cut off.
pub(super) fn sweep_partial(images: &std::path::Path) {
    let Ok(entries) = std::fs::read_dir(images) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(".partial-")) {
        if let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!(file = %entry.path().display(), %error, "what an upload left cannot be removed");
        }
    }
}

async fn take<E: std::fmt::Display>(
    image: &ImageModel,
    path: &std::path::Path,
    content: &mut (impl Stream<Item = Result<bytes::Bytes, E>> + Unpin),
) -> Result<(), Problem> {
    let mut file = File::create_new(path).await.map_err(Problem::file)?;
    let mut digest = Sha256::new();
    let mut bytes = 0_i64;
    while let Some(chunk) = content.next().await {
        let chunk = chunk.map_err(|error| {
            Problem::new(Code::Unavailable, format!("the upload of image {} broke off: {error}", image.name))
        })?;
        bytes += i64::try_from(chunk.len()).unwrap_or(i64::MAX);
        if bytes > image.bytes {
            return Err(mismatch(image, &format!("it has more than the {} bytes that were said", image.bytes)));
        }
        digest.update(&chunk);
        file.write_all(&chunk).await.map_err(Problem::file)?;
    }
    if bytes != image.bytes {
        return Err(mismatch(image, &format!("it has {bytes} bytes instead of {}", image.bytes)));
    }
    let digest = hex(&digest.finalize());
    if digest != image.sha256 {
        return Err(mismatch(image, &format!("its SHA-256 is {digest}")));
    }
    file.flush().await.map_err(Problem::file)?;
    file.sync_all().await.map_err(Problem::file)
}

fn mismatch(image: &ImageModel, what: &str) -> Problem {
    Problem::new(Code::ChecksumMismatch, format!("the content of image {} is not what was said: {what}", image.name))
}

/// A rename is on disk once its folder is.
async fn sync_folder(path: &std::path::Path) -> Result<(), Problem> {
    let folder = File::open(path).await.map_err(Problem::file)?;
    folder.sync_all().await.map_err(Problem::file)
}
