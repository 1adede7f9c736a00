//! Secrets: made here, shown once, kept as a hash.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

/// A secret in the clear. It prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A fresh one of 256 random bits behind `prefix`, which tells people and scanners what it is.
    pub fn generate(prefix: &str) -> Self {
        let mut bytes = [0_u8; 32];
        #[allow(clippy::expect_used)] // without random numbers nothing here can be safe
        SystemRandom::new().fill(&mut bytes).expect("the system gives random numbers");
        Self(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Takes one that came from outside.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The clear text: for the one who may see it, never for a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored. The secrets are random and long, so a plain SHA-256 (hex) is enough: there is nothing to guess.
    pub fn hash(&self) -> String {
        hex(&Sha256::digest(self.0.as_bytes()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}
