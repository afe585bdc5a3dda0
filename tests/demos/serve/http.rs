//! As much of HTTP/1.1 as a service of GETs needs, over a blocking stream.

use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use httparse::{EMPTY_HEADER, Status};

/// How long a client may say nothing, take to receive an answer, and take to close after the last one.
const IDLE: Duration = Duration::from_secs(30);
const SENDING: Duration = Duration::from_secs(3);
const CLOSING: Duration = Duration::from_secs(1);

/// The most bytes of the head of a request, and of what a client sends after the last one that is answered.
const HEAD: usize = 8 * 1024;
const REST: usize = 64 * 1024;

/// Our end of a connection: requests and answers in turn.
pub(crate) struct Connection {
    stream: Arc<TcpStream>,
    /// What follows the last request.
    received: Vec<u8>,
    /// Whether the request being answered is the last one.
    is_last: bool,
    /// Whether it is for the head of an answer alone: a body would be read as the beginning of the next answer.
    is_for_head: bool,
}

pub(crate) enum Request {
    Get(Target),
    Other,
    Malformed,
}

/// What a request is about: `/path?query`.
pub(crate) struct Target(String);

pub(crate) struct Response {
    status: &'static str,
    body: String,
}

impl Connection {
    pub(crate) fn new(stream: Arc<TcpStream>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(IDLE))?;
        stream.set_write_timeout(Some(SENDING))?;
        Ok(Self {
            stream,
            received: Vec::new(),
            is_last: false,
            is_for_head: false,
        })
    }

    /// Waits for the next request; `None` if there is none, or none that would be answered.
    pub(crate) fn receive(&mut self) -> io::Result<Option<Request>> {
        let mut block = [0; 1024];
        while !self.is_last {
            if let Some(request) = self.parse() {
                return Ok(Some(request));
            }
            match (&*self.stream).read(&mut block) {
                Ok(0) => break,
                Ok(length) => self.received.extend_from_slice(&block[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// `None` if only the beginning of a request is there.
    fn parse(&mut self) -> Option<Request> {
        let mut headers = [EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut headers);
        let parsed = head.parse(&self.received);
        self.is_for_head = head.method == Some("HEAD");
        let length = match parsed {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) if self.received.len() < HEAD => return None,
            _ => {
                self.is_last = true;
                return Some(Request::Malformed);
            }
        };
        self.is_last = is_last(&head);
        let request = match (head.method, head.path) {
            (Some("GET"), Some(target)) => Request::Get(Target(target.to_owned())),
            _ => Request::Other,
        };
        self.received.drain(..length);
        Some(request)
    }

    /// Has the client told that the next answer is the last one.
    pub(crate) fn let_this_be_the_last(&mut self) {
        self.is_last = true;
    }

    /// Sends an answer whole, or fails; to a HEAD without its body.
    pub(crate) fn send(&mut self, Response { status, body }: &Response) -> io::Result<()> {
        let length = body.len();
        let body = if self.is_for_head { "" } else { body };
        let connection = if self.is_last { "close" } else { "keep-alive" };
        let text = format!(
            "HTTP/1.1 {status}\r\n\
             Content-Type: text/plain\r\n\
             Content-Length: {length}\r\n\
             Connection: {connection}\r\n\r\n{body}"
        );
        (&*self.stream).write_all(text.as_bytes())
    }

    /// Closes the connection so that the last answer arrives: with bytes unread it would be reset, and that can overtake
    /// the answer.
    pub(crate) fn close(self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        let deadline = Instant::now() + CLOSING;
        let (mut block, mut rest) = ([0; 1024], REST);
        while rest > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break; // the client has had its time, even if it goes on byte by byte
            }
            self.stream.set_read_timeout(Some(left))?;
            match (&*self.stream).read(&mut block) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
                Ok(length) => rest = rest.saturating_sub(length),
            }
        }
        Ok(())
    }
}

/// Whether the client wants no more, or sends a body: that is not read, so nothing behind it can be.
fn is_last(head: &httparse::Request<'_, '_>) -> bool {
    let is_old = head.version != Some(1);
    is_old
        || head.headers.iter().any(|header| {
            let (name, value) = (header.name.to_ascii_lowercase(), header.value);
            match name.as_str() {
                "connection" => !value.eq_ignore_ascii_case(b"keep-alive"),
                "content-length" => value != b"0",
                "transfer-encoding" => true,
                _ => false,
            }
        })
}

impl Target {
    pub(crate) fn path(&self) -> &str {
        self.parts().0
    }

    pub(crate) fn query(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once('?').unwrap_or((&self.0, ""))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Response {
    pub(crate) fn new(status: &'static str, body: impl Into<String>) -> Self {
        let body = body.into();
        Self { status, body }
    }

    pub(crate) fn ok(body: impl Into<String>) -> Self {
        Self::new("200 OK", body)
    }
}
