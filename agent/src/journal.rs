//! What survives the agent: one redb database a process, keyed by host and node.
//!
//! Everything is read once at the start and kept in memory by the worker; this writes it through. Writes that arrive
//! together are one commit, and [`Journal::write`] returns after the disk has them. A fleet of simulated hosts keeps
//! nothing ([`Journal::volatile`]): its hosts end with the process.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use prost::Message;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::{mpsc, oneshot};

use crate::{driver::NodeId, meter::Meter, record::Record};

/// Key: `host/node`.
const NODES: TableDefinition<&str, &[u8]> = TableDefinition::new("nodes");
/// Key: `host/node/boot`, the boot with leading zeros.
const METERS: TableDefinition<&str, &[u8]> = TableDefinition::new("meters");
/// Key: host.
const EPOCHS: TableDefinition<&str, u64> = TableDefinition::new("epochs");

/// One change.
#[derive(Debug, Clone)]
pub enum Write {
    /// Keep this record of a node.
    Node(NodeId, Box<Record>),
    /// Forget the record of a node.
    Forget(NodeId),
    /// Keep these counters.
    Meter(NodeId, Box<Meter>),
    /// The server has the last counters of a boot.
    MeterDone(NodeId, i64),
    /// The greatest server epoch obeyed.
    Epoch(u64),
}

/// Everything kept of a host.
#[derive(Debug, Default)]
pub struct Kept {
    /// Each node's record.
    pub nodes: Vec<(NodeId, Record)>,
    /// Counters that run, or that the server has not acknowledged.
    pub meters: Vec<(NodeId, Meter)>,
    /// The greatest server epoch obeyed.
    pub epoch: u64,
}

type Batch = (Vec<Write>, oneshot::Sender<Result<(), String>>);

/// The journal of one host.
#[derive(Clone)]
pub struct Journal {
    host: Arc<str>,
    disk: Option<Disk>,
}

#[derive(Clone)]
struct Disk {
    database: Arc<Database>,
    writer: mpsc::UnboundedSender<Batch>,
}

impl Journal {
    /// Opens (or begins) the journal in `file` for a host.
    pub fn open(file: &Path, host: &str) -> anyhow::Result<Self> {
        let database = create(file)
            .with_context(|| format!("cannot open the journal {}: is another agent using it?", file.display()))?;
        let transaction = database.begin_write()?;
        transaction.open_table(NODES)?;
        transaction.open_table(METERS)?;
        transaction.open_table(EPOCHS)?;
        transaction.commit()?;
        let database = Arc::new(database);
        let (writer, batches) = mpsc::unbounded_channel();
        let (shared, name) = (Arc::clone(&database), Arc::<str>::from(host));
        let host = Arc::clone(&name);
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || write_all(&shared, &name, batches))?;
        Ok(Self { host, disk: Some(Disk { database, writer }) })
    }

    /// A journal that keeps nothing.
    pub fn volatile(host: &str) -> Self {
        Self { host: host.into(), disk: None }
    }

    /// Reads everything.
    pub fn load(&self) -> anyhow::Result<Kept> {
        let Some(disk) = &self.disk else { return Ok(Kept::default()) };
        let transaction = disk.database.begin_read()?;
        let mut kept = Kept::default();
        let prefix = format!("{}/", self.host);
        let mine = |key: &str| -> Option<NodeId> {
            let rest = key.strip_prefix(&prefix)?;
            NodeId::parse(rest.split('/').next().unwrap_or(rest)).ok()
        };
        for row in transaction.open_table(NODES)?.range(prefix.as_str()..)? {
            let (key, value) = row?;
            let Some(node) = mine(key.value()) else { break };
            kept.nodes.push((node, Record::decode(value.value()).context("a record of the journal is broken")?));
        }
        for row in transaction.open_table(METERS)?.range(prefix.as_str()..)? {
            let (key, value) = row?;
            let Some(node) = mine(key.value()) else { break };
            kept.meters.push((node, Meter::decode(value.value()).context("a meter of the journal is broken")?));
        }
        kept.epoch = transaction.open_table(EPOCHS)?.get(&*self.host)?.map_or(0, |v| v.value());
        Ok(kept)
    }

    /// Queues these as one; they reach the disk in the order of the calls, whether or not the answer is awaited.
    pub fn submit(&self, writes: Vec<Write>) -> Written {
        let Some(disk) = &self.disk else { return Written(None) };
        let (done, wait) = oneshot::channel();
        drop(disk.writer.send((writes, done))); // a closed writer shows in the answer
        Written(Some(wait))
    }

    /// Writes these together; returns when the disk has them.
    pub async fn write(&self, writes: Vec<Write>) -> Result<(), String> {
        self.submit(writes).done().await
    }
}

/// The answer to a write.
#[must_use]
pub struct Written(Option<oneshot::Receiver<Result<(), String>>>);

impl Written {
    /// Returns when the disk has it.
    pub async fn done(self) -> Result<(), String> {
        match self.0 {
            Some(wait) => wait.await.unwrap_or_else(|_| Err("the journal is closed".to_owned())),
            None => Ok(()),
        }
    }
}

/// Opens the database. The agent before this one may be about to let go of it: that is waited for, a few seconds.
fn create(file: &Path) -> Result<Database, DatabaseError> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match Database::builder().set_cache_size(4 << 20).create(file) {
            Err(DatabaseError::DatabaseAlreadyOpen) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

/// The writer: takes what has gathered since the last commit, and commits it as one.
fn write_all(database: &Database, host: &str, mut batches: mpsc::UnboundedReceiver<Batch>) {
    while let Some(first) = batches.blocking_recv() {
        let mut together = vec![first];
        while let Ok(more) = batches.try_recv() {
            together.push(more);
        }
        let result = commit(database, host, together.iter().flat_map(|(writes, _)| writes)).map_err(|e| e.to_string());
        if let Err(error) = &result {
            tracing::error!(%error, "the journal cannot be written");
        }
        for (_, done) in together {
            let _ = done.send(result.clone()); // who asked may have gone
        }
    }
}

fn commit<'a>(database: &Database, host: &str, writes: impl Iterator<Item = &'a Write>) -> anyhow::Result<()> {
    let transaction = database.begin_write()?;
    {
        let mut nodes = transaction.open_table(NODES)?;
        let mut meters = transaction.open_table(METERS)?;
        let mut epochs = transaction.open_table(EPOCHS)?;
        for write in writes {
            match write {
                Write::Node(node, record) => {
                    nodes.insert(format!("{host}/{node}").as_str(), record.encode_to_vec().as_slice())?;
                }
                Write::Forget(node) => {
                    nodes.remove(format!("{host}/{node}").as_str())?;
                }
                Write::Meter(node, meter) => {
                    let key = meter_key(host, *node, meter.boot());
                    meters.insert(key.as_str(), meter.encode_to_vec().as_slice())?;
                }
                Write::MeterDone(node, boot) => {
                    meters.remove(meter_key(host, *node, *boot).as_str())?;
                }
                Write::Epoch(epoch) => {
                    let floor = epochs.get(host)?.map_or(0, |v| v.value());
                    epochs.insert(host, floor.max(*epoch))?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn meter_key(host: &str, node: NodeId, boot: i64) -> String {
    format!("{host}/{node}/{boot:020}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Reading;

    #[tokio::test]
    async fn what_was_written_is_there_after_a_restart_and_apart_by_host() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("journal.redb");
        let node = NodeId::new();
        {
            let journal = Journal::open(&file, "h1")?;
            let meter = Meter::begin(node, 3, &Reading::default(), 5);
            let record = Record { carried: 7, ..Record::default() };
            let writes =
                vec![Write::Node(node, Box::new(record)), Write::Meter(node, Box::new(meter)), Write::Epoch(4)];
            journal.write(writes).await.map_err(anyhow::Error::msg)?;
            journal.write(vec![Write::Epoch(2)]).await.map_err(anyhow::Error::msg)?;
        }
        let journal = Journal::open(&file, "h1")?;
        let kept = journal.load()?;
        assert_eq!(kept.nodes.len(), 1);
        assert_eq!((kept.nodes[0].0, kept.nodes[0].1.carried, kept.epoch), (node, 7, 4));
        assert_eq!(kept.meters[0].1.boot(), 3);
        journal.write(vec![Write::Forget(node), Write::MeterDone(node, 3)]).await.map_err(anyhow::Error::msg)?;
        assert!(journal.load()?.nodes.is_empty() && journal.load()?.meters.is_empty());
        drop(journal);
        let other = Journal::open(&file, "h0")?.load()?;
        assert!(other.nodes.is_empty() && other.epoch == 0);
        Ok(())
    }
}
