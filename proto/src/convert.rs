//! Between the words of `base` and their wire form. Both directions name every field, so that a new one breaks here.

use yiqiu_base::{
    Health, NodeState, NodeType, Power, Problem, Size,
    outbox::{Event, Reading},
};

use crate::common;

impl From<Size> for common::Size {
    fn from(size: Size) -> Self {
        let Size { cpu_millicores, memory_bytes, disk_bytes, disk_iops } = size;
        Self { cpu_millicores, memory_bytes, disk_bytes, disk_iops }
    }
}

impl From<common::Size> for Size {
    fn from(size: common::Size) -> Self {
        let common::Size { cpu_millicores, memory_bytes, disk_bytes, disk_iops } = size;
        Self { cpu_millicores, memory_bytes, disk_bytes, disk_iops }
    }
}

impl From<Event> for common::Event {
    fn from(event: Event) -> Self {
        let Event { position, at_ms, kind, owner, subject, request_id, payload } = event;
        Self { position, at_ms, kind, owner, subject, request_id, payload_json: payload }
    }
}

impl From<Reading> for common::EventsResponse {
    fn from(reading: Reading) -> Self {
        let Reading { events, next: _, head, epoch } = reading; // a tier sees every event: the last one is where it stands
        let epoch = u64::try_from(epoch).unwrap_or_default();
        Self { events: events.into_iter().map(Into::into).collect(), epoch, head }
    }
}

impl From<Health> for common::Health {
    fn from(health: Health) -> Self {
        match health {
            Health::None => Self::Unspecified,
            Health::Starting => Self::Starting,
            Health::Healthy => Self::Healthy,
            Health::Unhealthy => Self::Unhealthy,
        }
    }
}

impl From<common::Health> for Health {
    fn from(health: common::Health) -> Self {
        match health {
            common::Health::Unspecified => Self::None,
            common::Health::Starting => Self::Starting,
            common::Health::Healthy => Self::Healthy,
            common::Health::Unhealthy => Self::Unhealthy,
        }
    }
}

macro_rules! words {
    ($domain:ident, $wire:ident, $noun:literal, { $($variant:ident,)* }) => {
        impl From<$domain> for common::$wire {
            fn from(word: $domain) -> Self {
                match word { $($domain::$variant => common::$wire::$variant,)* }
            }
        }

        impl TryFrom<common::$wire> for $domain {
            type Error = Problem;
            fn try_from(word: common::$wire) -> Result<Self, Problem> {
                match word {
                    $(common::$wire::$variant => Ok($domain::$variant),)*
                    common::$wire::Unspecified => Err(Problem::invalid(concat!("the message has no ", $noun))),
                }
            }
        }
    };
}

words!(NodeType, NodeType, "node type", { Vm, Cm, Bm, });
words!(Power, Power, "power state", { On, Off, Hibernated, });
words!(NodeState, NodeState, "node state", {
    Pending, Preparing, Starting, Running, Stopping, Off, Failed, Hibernated, Removing, Gone,
});
