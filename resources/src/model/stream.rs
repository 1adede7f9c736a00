//! Streams between whoever asks and a node: its output, or a command in it.

use bytes::Bytes;
use yiqiu_base::{
    Id, Problem,
    clock::Ms,
    id::{Node, Stream},
};

/// Which output of a node is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogsWanted {
    /// Go on with what it writes, until it ends.
    pub follow: bool,
    /// Only what was written from then on; 0: all.
    pub since_ms: Ms,
    /// Only so many of the last lines.
    pub tail: Option<u32>,
}

/// Which command is to be run in a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecWanted {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input is open.
    pub input: bool,
    /// Columns and rows of its terminal.
    pub window: (u16, u16),
}

impl ExecWanted {
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), Problem> {
        let text: usize = self.command.iter().map(String::len).sum();
        let first = self.command.first().is_some_and(|word| !word.is_empty());
        if !first || self.command.len() > 256 || text > 64 << 10 || self.command.iter().any(|w| w.contains('\0')) {
            return Err(Problem::invalid("a command has 1 to 256 words without NUL, 64 KiB in all, and a first word"));
        }
        Ok(())
    }
}

/// What an agent is asked to open.
#[derive(Debug, Clone)]
pub struct Open {
    /// Under which id it is waited for.
    pub id: Id<Stream>,
    /// Of which node.
    pub node_id: Id<Node>,
    /// The request behind it.
    pub request_id: String,
    /// What.
    pub wanted: Wanted,
}

/// What a stream is of.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// Output.
    Logs(LogsWanted),
    /// A command.
    Exec(ExecWanted),
}

/// What comes from a node.
#[derive(Debug, Clone, PartialEq)]
pub enum FromNode {
    /// It is there, and pieces follow.
    Opened,
    /// It could not be opened, or broke off; nothing follows.
    Refused(Problem),
    /// Something was written.
    Piece {
        /// To standard error.
        error: bool,
        /// When; 0 where that is not kept.
        at_ms: Ms,
        /// What.
        data: Bytes,
    },
    /// The command ended with this exit code; nothing follows.
    Exited(i64),
}

/// What goes to a node.
#[derive(Debug, Clone, PartialEq)]
pub enum ToNode {
    /// For the standard input of the command.
    Input(Bytes),
    /// Its standard input ends.
    EndOfInput,
    /// Its terminal has so many columns and rows.
    Window(u16, u16),
}
