//! Who is asking. A principal is signed by an issuer and verified by every tier for itself.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize};

use crate::{Clock, Code, Problem, clock::Ms};

/// What someone may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Works the data centre: everything, from Projects down.
    Ops,
    /// Asks for contracts in the name of one owner, and sees only that owner's things.
    Tenant,
    /// A tier that calls another: asks in its own name, and reads events.
    Service,
}

impl Role {
    /// The word, as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Ops => "ops",
            Role::Tenant => "tenant",
            Role::Service => "service",
        }
    }

    /// Reads the word.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        match text {
            "ops" => Ok(Role::Ops),
            "tenant" => Ok(Role::Tenant),
            "service" => Ok(Role::Service),
            _ => Err(Problem::invalid(format!("`{}` is not a role: expected ops or tenant", crate::name::shown(text)))),
        }
    }
}

/// Who is asking, in which role, in whose name, and until when that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// For logs and histories, such as `user:alice` or `service:components`.
    pub subject: String,
    /// What it may do.
    pub role: Role,
    /// The owner label that it acts for: contracts it makes carry it. Empty for ops without a project.
    pub owner: String,
    /// When it ends.
    pub expires_ms: Ms,
    /// The id of the token that it was traded for; a principal of a tier has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<uuid::Uuid>,
}

/// How long a principal of a tier holds, and how long one of a user: a revoked token works at most so long.
pub const LIFETIME_MS: i64 = 60_000;

impl Principal {
    /// Refuses everyone but ops.
    pub fn require_ops(&self) -> Result<(), Problem> {
        match self.role {
            Role::Ops => Ok(()),
            Role::Tenant | Role::Service => Err(Problem::new(
                Code::PermissionDenied,
                format!("{} has the role {}: this needs the role ops", self.subject, self.role.as_str()),
            )),
        }
    }

    /// Refuses everyone but ops and the tiers themselves.
    pub fn require_service(&self) -> Result<(), Problem> {
        match self.role {
            Role::Ops | Role::Service => Ok(()),
            Role::Tenant => Err(Problem::new(
                Code::PermissionDenied,
                format!("{} has the role tenant: this needs the role ops or service", self.subject),
            )),
        }
    }

    /// Whether it may see and change what carries this owner label.
    pub fn may_touch(&self, owner: &str) -> bool {
        match self.role {
            Role::Ops => true,
            Role::Tenant | Role::Service => !self.owner.is_empty() && self.owner == owner,
        }
    }

    /// The owner label that something made by this principal carries; `invalid_argument` where it acts for nobody.
    pub fn owner(&self) -> Result<&str, Problem> {
        if self.owner.is_empty() {
            return Err(Problem::invalid(format!("{} acts for no project: use a token of a project", self.subject)));
        }
        Ok(&self.owner)
    }
}

const PREFIX: &str = "yqp1";

/// Signs principals for one issuer.
#[derive(Clone)]
pub struct Signer {
    issuer: Arc<str>,
    key: Arc<Ed25519KeyPair>,
}

/// The public keys by issuer: what a tier trusts. `projects` may vouch for anyone; any other issuer only for itself,
/// as `service:<issuer>`.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Keyring {
    issuers: BTreeMap<String, String>,
}

/// The issuer that may vouch for users.
pub const PROJECTS: &str = "projects";

impl Signer {
    /// A fresh key, and its PKCS#8 document for a file that only its tier can read.
    pub fn generate(issuer: &str) -> Result<(Self, Vec<u8>), Problem> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(Problem::internal)?;
        Ok((Self::from_pkcs8(issuer, document.as_ref())?, document.as_ref().to_vec()))
    }

    /// Takes the key from its PKCS#8 document.
    pub fn from_pkcs8(issuer: &str, document: &[u8]) -> Result<Self, Problem> {
        let key = Ed25519KeyPair::from_pkcs8(document)
            .map_err(|_| Problem::invalid(format!("the key of {issuer} is not an Ed25519 key in PKCS#8")))?;
        Ok(Self { issuer: issuer.into(), key: Arc::new(key) })
    }

    /// The public half, for a [`Keyring`].
    pub fn public(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.key.public_key().as_ref())
    }

    /// The signed text: `yqp1.<issuer>.<claims>.<signature>`, both in URL-safe base64.
    pub fn sign(&self, principal: &Principal) -> String {
        let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(principal).unwrap_or_default());
        let body = format!("{PREFIX}.{}.{claims}", self.issuer);
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(body.as_bytes()).as_ref());
        format!("{body}.{signature}")
    }

    /// A principal of the tier itself, in the name of its own owner label `tier:<issuer>`.
    pub fn service(&self, clock: &Clock) -> String {
        self.sign(&Principal {
            subject: format!("service:{}", self.issuer),
            role: Role::Service,
            owner: format!("tier:{}", self.issuer),
            expires_ms: clock.now() + LIFETIME_MS,
            token: None,
        })
    }
}

impl Keyring {
    /// Trusts an issuer's public key.
    pub fn trust(&mut self, issuer: &str, public: String) {
        self.issuers.insert(issuer.to_owned(), public);
    }

    /// Reads the JSON file that [`Keyring::save`] wrote.
    pub fn load(path: &Path) -> std::io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }

    /// Writes it as JSON; it holds nothing secret.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        std::fs::write(path, serde_json::to_vec_pretty(self)?)
    }

    /// Whether a bearer text claims to be a signed principal rather than an API token.
    pub fn is_principal(text: &str) -> bool {
        text.starts_with("yqp1.")
    }

    /// The principal of a signed text; `unauthenticated` if it is malformed, forged, expired, or vouches for more than
    /// its issuer may.
    pub fn verify(&self, text: &str, now: Ms) -> Result<Principal, Problem> {
        let refuse = |why: &str| Problem::new(Code::Unauthenticated, format!("the principal is refused: {why}"));
        let mut parts = text.split('.');
        let (Some(PREFIX), Some(issuer), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(refuse("it is malformed"));
        };
        let public = self.issuers.get(issuer).ok_or_else(|| refuse("its issuer is not trusted"))?;
        let body = &text[..text.len() - signature.len() - 1];
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| refuse("it is malformed"));
        UnparsedPublicKey::new(&ED25519, decode(public)?)
            .verify(body.as_bytes(), &decode(signature)?)
            .map_err(|_| refuse("its signature is wrong"))?;
        let principal: Principal = serde_json::from_slice(&decode(claims)?).map_err(|_| refuse("it is malformed"))?;
        if principal.expires_ms <= now {
            return Err(refuse("it has expired"));
        }
        let only_itself = principal.role == Role::Service
            && principal.subject == format!("service:{issuer}")
            && principal.owner == format!("tier:{issuer}");
        if issuer != PROJECTS && !only_itself {
            return Err(refuse("its issuer may vouch for itself only"));
        }
        Ok(principal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_trusted() {
        let clock = Clock::manual(1_000);
        let (projects, _) = Signer::generate(PROJECTS).unwrap();
        let (components, _) = Signer::generate("components").unwrap();
        let (stranger, _) = Signer::generate(PROJECTS).unwrap();
        let mut ring = Keyring::default();
        ring.trust(PROJECTS, projects.public());
        ring.trust("components", components.public());
        let ops = Principal {
            subject: "user:o".into(),
            role: Role::Ops,
            owner: String::new(),
            expires_ms: 2_000,
            token: Some(uuid::Uuid::from_u128(1)),
        };

        let good = projects.sign(&ops);
        assert_eq!(ring.verify(&good, 1_999).unwrap(), ops);
        assert!(ring.verify(&components.service(&clock), 1_000).is_ok());

        let mut flipped = good.clone().into_bytes();
        let at = good.rfind('.').unwrap() - 3;
        flipped[at] = if flipped[at] == b'A' { b'B' } else { b'A' };
        let forged_role = components.sign(&ops);
        for (what, text, now) in [
            ("expired", good.as_str(), 2_000),
            ("foreign key", stranger.sign(&ops).as_str(), 1_000),
            ("changed claims", std::str::from_utf8(&flipped).unwrap(), 1_000),
            ("a tier that calls itself ops", forged_role.as_str(), 1_000),
            ("not one", "yqp1.projects.x", 1_000),
            ("empty", "", 1_000),
        ] {
            assert_eq!(ring.verify(text, now).unwrap_err().code, Code::Unauthenticated, "{what}");
        }
    }

    #[test]
    fn tenants_touch_their_own_only() {
        let tenant = Principal {
            subject: "user:t".into(),
            role: Role::Tenant,
            owner: "project:1".into(),
            expires_ms: 0,
            token: None,
        };
        assert!(tenant.may_touch("project:1"));
        assert!(!tenant.may_touch("project:2"));
        assert!(!Principal { owner: String::new(), ..tenant.clone() }.may_touch(""));
        assert_eq!(tenant.require_ops().unwrap_err().code, Code::PermissionDenied);
    }
}
