//! Follows a tier's events as server-sent events, and connects again from where it stood when the connection breaks.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

use super::{Filter, Stand};
use crate::cli::{
    client::{Client, Tier},
    failure::{Failure, Outcome},
    output,
};

/// Longer than the server is ever silent.
const SILENCE_MOST: Duration = Duration::from_secs(30);
/// The pauses between tries to connect.
const PAUSE_LEAST: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(5);
/// The longest event: longer than any that a tier writes.
const EVENT_MOST: usize = 16 << 20;

/// What was heard.
pub(super) enum Heard {
    Event(Tier, Value),
    /// The tier tells another history: from the beginning.
    History {
        tier: Tier,
        before: i64,
        epoch: i64,
    },
}

/// Passes on what happens after where it stands. Ends when a server refuses, or when nobody listens.
pub(super) async fn follow(client: &Client, mut stand: Stand, filter: &Filter, tell: mpsc::Sender<Heard>) -> Outcome {
    let mut pause = PAUSE_LEAST;
    let mut told = false;
    loop {
        let before = stand.after;
        match connection(client, &mut stand, filter, &tell).await {
            Ok(()) if tell.is_closed() => return Ok(()),
            Ok(()) => told = false, // the server ended it in good order, as when it stops
            // The position is known, so nothing is lost while the server is away.
            Err(Failure::Unreachable(why)) => {
                if !std::mem::replace(&mut told, true) {
                    output::note(format!("{why} Connecting again until it does."));
                }
            }
            Err(failure) => return Err(failure),
        }
        pause = if stand.after > before { PAUSE_LEAST } else { (pause * 2).min(PAUSE_MOST) };
        tokio::time::sleep(pause).await;
    }
}

/// One connection, until it ends.
async fn connection(client: &Client, stand: &mut Stand, filter: &Filter, tell: &mpsc::Sender<Heard>) -> Outcome {
    let (after, epoch) = (stand.after.to_string(), stand.epoch.map(|epoch| epoch.to_string()));
    let mut query = filter.query();
    query.push(("after", &after));
    query.extend(epoch.as_deref().map(|epoch| ("epoch", epoch)));
    let mut answer = client.stream(stand.tier, &["events", stand.tier.as_str()], &query).await?;
    let mut parser = Parser::default();
    loop {
        let chunk = match tokio::time::timeout(SILENCE_MOST, answer.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(_)) => return Err(Failure::Unreachable(format!("{} broke off.", stand.tier.as_str()))),
            Err(_) => return Err(Failure::Unreachable(format!("{} is silent.", stand.tier.as_str()))),
        };
        for message in parser.feed(&chunk)? {
            let Message { id, event, data } = message;
            let data: Option<Value> = serde_json::from_str(&data).ok();
            if let (true, Some(data)) = (event == "epoch", &data) {
                let now = data["epoch"].as_i64();
                let anew = data["after"].as_i64().is_some_and(|after| after < stand.after);
                if let (Some(now), true) = (now, anew) {
                    let heard =
                        Heard::History { tier: stand.tier, before: stand.epoch.unwrap_or_default(), epoch: now };
                    if tell.send(heard).await.is_err() {
                        return Ok(());
                    }
                    stand.after = 0;
                }
                stand.epoch = now.or(stand.epoch);
                continue;
            }
            let position = id.and_then(|id| id.parse::<i64>().ok());
            if let (Some(event), Some(position)) = (data, position)
                && position > stand.after
                && tell.send(Heard::Event(stand.tier, event)).await.is_err()
            {
                return Ok(());
            }
            stand.after = position.unwrap_or(stand.after).max(stand.after);
        }
    }
}

/// One block of a stream. Without data it only moves the position on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    id: Option<String>,
    event: String,
    data: String,
}

/// Takes a stream apart, however it is cut into chunks. As in the HTML standard, 9.2.6.
#[derive(Default)]
struct Parser {
    rest: Vec<u8>,
    message: Message,
}

impl Parser {
    fn feed(&mut self, chunk: &[u8]) -> Outcome<Vec<Message>> {
        self.rest.extend_from_slice(chunk);
        let mut messages = Vec::new();
        let mut begin = 0;
        while let Some(length) = self.rest[begin..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.rest[begin..begin + length]);
            let line = line.strip_suffix('\r').unwrap_or(&line);
            begin += length + 1;
            if line.is_empty() {
                let message = std::mem::take(&mut self.message);
                if message != Message::default() {
                    messages.push(message);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => self.message.id = Some(value.to_owned()),
                "event" => value.clone_into(&mut self.message.event),
                "data" => {
                    if !self.message.data.is_empty() {
                        self.message.data.push('\n');
                    }
                    self.message.data.push_str(value);
                }
                _ => {} // a comment, or a field of later times
            }
        }
        self.rest.drain(..begin);
        if self.rest.len() + self.message.data.len() > EVENT_MOST {
            return Err(Failure::Failed("an event has no end; is it a Yiqiu server?".to_owned()));
        }
        Ok(messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let text = ": hello\n\nretry: 1000\nevent: epoch\ndata: {\"epoch\":1}\n\nid: 7\r\nevent: node.changed\r\ndata: \
                    {\"a\":\r\ndata: \"ü\"}\r\n\r\n: keep-alive\nid: 9\n\nid: 10\ndata: cut off";
        let message = |id: Option<&str>, event: &str, data: &str| Message {
            id: id.map(str::to_owned),
            event: event.to_owned(),
            data: data.to_owned(),
        };
        let expected = [
            message(None, "epoch", "{\"epoch\":1}"),
            message(Some("7"), "node.changed", "{\"a\":\n\"ü\"}"),
            message(Some("9"), "", ""),
        ];
        for length in 1..text.len() {
            let mut parser = Parser::default();
            let messages: Vec<Message> =
                text.as_bytes().chunks(length).flat_map(|chunk| parser.feed(chunk).unwrap()).collect();
            assert_eq!(messages, expected, "in chunks of {length}");
        }
    }
}
