//! HTTP/1.1 over one connection, with as little work as can be: requests are built by hand, of answers only the status
//! and the length are read. The load shares the machine with what is measured.

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A connection that is kept.
pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| address.to_owned())?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::with_capacity(16 << 10) })
    }

    /// Sends a whole request, and waits for the whole answer: its status and body.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<(u16, &[u8])> {
        self.stream.write_all(request).await?;
        self.received.clear();
        let (status, head, length) = loop {
            self.more().await?;
            if let Some(head) = head_end(&self.received) {
                let text = std::str::from_utf8(&self.received[..head])?;
                break (status(text)?, head, length(text)?);
            }
        };
        while self.received.len() < head + length {
            self.more().await?;
        }
        Ok((status, &self.received[head..head + length]))
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        let read = self.stream.read_buf(&mut self.received).await?;
        ensure!(read > 0, "the server closed the connection");
        Ok(())
    }
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

fn status(head: &str) -> anyhow::Result<u16> {
    head.get(9..12).and_then(|code| code.parse().ok()).with_context(|| format!("no status in {head:?}"))
}

fn length(head: &str) -> anyhow::Result<usize> {
    for line in head.lines() {
        if let Some((name, value)) = line.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                return Ok(value.trim().parse()?);
            }
            ensure!(!name.eq_ignore_ascii_case("transfer-encoding"), "an answer of unknown length");
        }
    }
    Ok(0)
}

/// Someone who asks: an address and a token.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) address: String,
    pub(crate) token: String,
}

impl Api {
    /// The bytes of a request with a body of this type.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        let Self { address, token } = self;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n{headers}\
             content-length: {length}\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    }

    /// One call over a connection that is there; an answer that is a refusal is an error.
    pub(crate) async fn call_over(
        &self,
        connection: &mut Connection,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let request = self.request(method, path, "content-type: application/json\r\n", &body);
        let (status, answer) = connection.exchange(&request).await.with_context(|| format!("{method} {path}"))?;
        if status >= 400 {
            bail!("{method} {path}: {status} {}", String::from_utf8_lossy(answer));
        }
        if answer.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_slice(answer)?) }
    }

    /// One call over a connection of its own.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        self.call_over(&mut Connection::open(&self.address).await?, method, path, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call("GET", path, None).await
    }

    /// An answer that is text.
    pub(crate) async fn text(&self, path: &str) -> anyhow::Result<String> {
        let mut connection = Connection::open(&self.address).await?;
        let (status, answer) = connection.exchange(&self.request("GET", path, "", &[])).await?;
        ensure!(status == 200, "GET {path}: {status}");
        Ok(String::from_utf8_lossy(answer).into_owned())
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call("POST", path, Some(&body)).await
    }
}
