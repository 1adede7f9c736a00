//! Typed ids. `Id<Host>` and `Id<Rack>` are different types, so that one is never taken for the other.

use std::{fmt, hash::Hash, marker::PhantomData, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::{Code, Problem};

/// A 128-bit id of one kind: a UUID of version 7, whose order is the order of minting.
///
/// The text form is the hyphenated lower-case UUID. Ids are minted by whoever asks for the thing, so that asking
/// twice is the same as asking once.
pub struct Id<K> {
    uuid: Uuid,
    kind: PhantomData<fn() -> K>,
}

/// What an id can be of.
pub trait Kind: 'static {
    /// The noun as people read it in errors.
    const NOUN: &'static str;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $noun:literal;)*) => {
        $($(#[$doc])* #[derive(Debug)] pub enum $name {}
        impl Kind for $name { const NOUN: &'static str = $noun; }
        impl utoipa::__dev::ComposeSchema for $name {
            fn compose(_: Vec<utoipa::openapi::RefOr<utoipa::openapi::Schema>>) -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                utoipa::openapi::ObjectBuilder::new().into()
            }
        }
        impl utoipa::ToSchema for $name {})*
    };
}

kinds! {
    /// A place of many data centres.
    Region = "region";
    /// An independent engineering area of a region.
    Zone = "zone";
    /// A rack of a zone, with numbered units.
    Rack = "rack";
    /// A physical machine.
    Host = "host";
    /// A group of hosts under a name; a host is in one at most.
    Pool = "pool";
    /// A root file system that nodes start from.
    Image = "image";
    /// A lease of exact resources on named hosts; not a [`CContract`].
    RContract = "rcontract";
    /// One thing that an [`RContract`] holds; a node's line lives as long as the node.
    Line = "line";
    /// What runs on a host under a line.
    Node = "node";
    /// A lease of components by need; not an [`RContract`].
    CContract = "ccontract";
    /// One instance that a [`CContract`] keeps.
    Component = "component";
    /// Someone with a login.
    User = "user";
    /// Whom a bill is for.
    Project = "project";
    /// A credential of a user for the API.
    Token = "token";
    /// Output of a node on its way, or a command in one.
    Stream = "stream";
    /// One request to change something, for "once and no more".
    Command = "command";
    /// One comparison of what is claimed with what is there.
    Audit = "audit";
    /// One thing that an [`Audit`] found.
    Finding = "finding";
}

impl<K: Kind> Id<K> {
    /// A fresh id.
    #[allow(clippy::new_without_default)] // each call gives another value
    pub fn new() -> Self {
        Self::from(Uuid::now_v7())
    }

    /// The bare UUID, for storage and the wire.
    pub fn uuid(self) -> Uuid {
        self.uuid
    }

    /// Reads the text form; `invalid_argument` otherwise.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        match Uuid::try_parse(text) {
            Ok(uuid) if !uuid.is_nil() => Ok(uuid.into()),
            _ => Err(Problem::new(
                Code::InvalidArgument,
                format!("`{}` is not the id of a {}: expected a UUID", crate::name::shown(text), K::NOUN),
            )),
        }
    }
}

impl<K> From<Uuid> for Id<K> {
    fn from(uuid: Uuid) -> Self {
        Self { uuid, kind: PhantomData }
    }
}

impl<K> From<Id<K>> for Uuid {
    fn from(id: Id<K>) -> Self {
        id.uuid
    }
}

impl<K: Kind> FromStr for Id<K> {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        Self::parse(text)
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.uuid == other.uuid
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.uuid.cmp(&other.uuid)
    }
}
impl<K> Hash for Id<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.uuid.hash(state);
    }
}
impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uuid.fmt(f)
    }
}
impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uuid.fmt(f)
    }
}
impl<K> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.uuid.serialize(serializer)
    }
}
impl<'de, K> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let uuid = Uuid::deserialize(deserializer)?;
        if uuid.is_nil() {
            return Err(serde::de::Error::custom("the nil UUID is nobody's id"));
        }
        Ok(uuid.into())
    }
}
// In the API description every id is a string of format `uuid`. The hidden trait is what derived types implement too;
// there is no other way to describe a generic type that is not an object.
impl<K> utoipa::__dev::ComposeSchema for Id<K> {
    fn compose(
        _: Vec<utoipa::openapi::RefOr<utoipa::openapi::Schema>>,
    ) -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .format(Some(utoipa::openapi::SchemaFormat::Custom("uuid".into())))
            .into()
    }
}
impl<K: Kind> utoipa::ToSchema for Id<K> {
    fn name() -> std::borrow::Cow<'static, str> {
        std::borrow::Cow::Borrowed("Id")
    }
}
