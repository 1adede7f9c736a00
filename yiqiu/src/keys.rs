//! The keys of the tiers: a private key for each in a file of its own, and one keyring with the public halves.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use yiqiu_base::principal::{Keyring, PROJECTS, Signer};

use crate::cli::write_private;

/// Who signs: each tier for itself, and Projects for people too.
pub const ISSUERS: [&str; 3] = [PROJECTS, "components", "resources"];

const KEYRING: &str = "keyring.json";

/// A directory with `<issuer>.key` (PKCS#8, mode 0600) and `keyring.json`.
#[derive(Debug, Clone)]
pub struct Keys(PathBuf);

impl Keys {
    /// Makes the keys in a directory that has none.
    pub fn init(dir: &Path) -> anyhow::Result<Self> {
        ensure!(!dir.join(KEYRING).exists(), "{} has keys already: they are not replaced", dir.display());
        private_dir(dir)?;
        let mut keyring = Keyring::default();
        for issuer in ISSUERS {
            let (signer, document) = Signer::generate(issuer)?;
            let path = dir.join(format!("{issuer}.key"));
            write_private(&path, &document).with_context(|| path.display().to_string())?;
            keyring.trust(issuer, signer.public());
        }
        // Last: a directory without it is one that was not finished.
        keyring.save(&dir.join(KEYRING)).context("the keyring cannot be written")?;
        Ok(Self(dir.to_owned()))
    }

    /// The keys of a directory; makes them if it is new.
    pub fn open_or_init(dir: &Path) -> anyhow::Result<Self> {
        if dir.join(KEYRING).exists() {
            return Ok(Self(dir.to_owned()));
        }
        for issuer in ISSUERS {
            // Cut short the first time: nothing trusts these yet.
            match std::fs::remove_file(dir.join(format!("{issuer}.key"))) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Self::init(dir)
    }

    /// The keys that were made before.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        ensure!(dir.join(KEYRING).exists(), "{} has no {KEYRING}: `yiqiu keys init` makes the keys", dir.display());
        Ok(Self(dir.to_owned()))
    }

    /// Whom everyone trusts.
    pub fn keyring(&self) -> anyhow::Result<Keyring> {
        let path = self.0.join(KEYRING);
        Keyring::load(&path).with_context(|| path.display().to_string())
    }

    /// One tier's private key. Refuses a file that others can read.
    pub fn signer(&self, issuer: &str) -> anyhow::Result<Signer> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.join(format!("{issuer}.key"));
        let mode = std::fs::metadata(&path).with_context(|| path.display().to_string())?.permissions().mode();
        if mode & 0o077 != 0 {
            bail!("{} can be read by others (mode {:o}): chmod 600 it", path.display(), mode & 0o777);
        }
        let document = std::fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(Signer::from_pkcs8(issuer, &document)?)
    }
}

/// A directory that only its owner may enter.
pub fn private_dir(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .and_then(|()| std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)))
        .with_context(|| format!("the directory {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use yiqiu_base::{Clock, principal::Principal, principal::Role};

    use super::*;

    #[test]
    fn keys_are_private_made_once_and_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("keys");
        let keys = Keys::open_or_init(&dir).unwrap();
        let ring = keys.keyring().unwrap();
        let clock = Clock::manual(0);
        let principal = Principal {
            subject: "user:a".into(),
            role: Role::Ops,
            owner: String::new(),
            expires_ms: 1_000,
            token: None,
        };
        assert!(ring.verify(&keys.signer(PROJECTS).unwrap().sign(&principal), 0).is_ok());
        assert!(ring.verify(&keys.signer("components").unwrap().service(&clock), 0).is_ok());
        assert!(Keys::init(&dir).is_err());
        assert!(Keys::open(&dir.join("none")).is_err());

        let file = dir.join("projects.key");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(keys.signer(PROJECTS).is_err());
    }
}
