//! A client of an HTTP service, to whom no missing byte is lost.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::program::Patience;

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

/// A complete answer: as many bytes as it says, and nothing behind the last one of a connection.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// Whether it is the last one of its connection.
    pub(crate) is_last: bool,
}

/// Why there is no complete answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Refused, closed or reset before the first byte of an answer, as it says: the request was never read.
    Refused(String),
    /// Something came, and not all of it.
    Truncated(String),
}

impl Client {
    pub(crate) fn connect(address: &str) -> Result<Self, Lost> {
        let stream = TcpStream::connect(address).map_err(|error| refused(&error))?;
        Ok(Self {
            stream,
            received: Vec::new(),
        })
    }

    /// One request and its answer.
    pub(crate) fn get(&mut self, target: &str) -> Result<Answer, Lost> {
        self.ask(target)?;
        self.answer()
    }

    pub(crate) fn ask(&mut self, target: &str) -> Result<(), Lost> {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }

    /// A request that finds no room for so long is not sent.
    pub(crate) fn give_up_sending_after(&self, limit: Duration) {
        let limited = self.stream.set_write_timeout(Some(limit));
        limited.expect("the limit is not zero");
    }

    pub(crate) fn send(&mut self, text: &str) -> Result<(), Lost> {
        let sent = self.stream.write_all(text.as_bytes());
        sent.map_err(|error| refused(&error))
    }

    pub(crate) fn answer(&mut self) -> Result<Answer, Lost> {
        let (status, length, head) = self.head()?;
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        while self.received.len() < length {
            // What is missing now is a truncation, whatever the reason.
            self.receive().map_err(|_| self.truncated(&head))?;
        }
        let body = self.take(length);
        let is_last = header("Connection:").is_some_and(|value| value.trim() == "close");
        if is_last && !self.is_at_end() {
            return Err(self.truncated(&head));
        }
        Ok(Answer {
            status,
            body,
            is_last,
        })
    }

    /// The status of an answer, how long it says its body is, and all of its head: the whole answer to a HEAD.
    pub(crate) fn head(&mut self) -> Result<(u16, usize, String), Lost> {
        let head = loop {
            if let Some(end) = find(&self.received, b"\r\n\r\n") {
                break self.take(end + 4);
            }
            self.receive()?;
        };
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        let number = |text: Option<&str>| text.and_then(|text| text.trim().parse().ok());
        let (Some(status), Some(length)) = (
            number(head.get(9..12)).and_then(|status| u16::try_from(status).ok()),
            number(header("Content-Length:")),
        ) else {
            return Err(Lost::Truncated(head));
        };
        Ok((status, length, head))
    }

    /// Whether the service has closed the connection in order, with nothing left to read.
    pub(crate) fn is_at_end(&mut self) -> bool {
        self.received.is_empty() && matches!(self.read(&mut [0]), Ok(0))
    }

    /// What comes next. An answer that takes too long is none, and the test says so.
    fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        let mut patience = Patience::new();
        loop {
            let (read, goes_on) = patience.wait(|limit| {
                self.stream.set_read_timeout(Some(limit))?;
                self.stream.read(block)
            });
            match read {
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    assert!(goes_on, "no answer, and no end of it");
                }
                read => return read,
            }
        }
    }

    fn receive(&mut self) -> Result<(), Lost> {
        let mut block = [0; 4096];
        let lost = match self.read(&mut block) {
            Ok(0) => "closed".to_owned(),
            Ok(length) => {
                self.received.extend_from_slice(&block[..length]);
                return Ok(());
            }
            Err(error) => error.to_string(),
        };
        Err(if self.received.is_empty() {
            Lost::Refused(lost)
        } else {
            self.truncated(&lost)
        })
    }

    fn take(&mut self, length: usize) -> String {
        let bytes: Vec<u8> = self.received.drain(..length).collect();
        String::from_utf8(bytes).expect("the service speaks UTF-8")
    }

    fn truncated(&self, what: &str) -> Lost {
        Lost::Truncated(format!("{what}{}", String::from_utf8_lossy(&self.received)))
    }
}

fn refused(error: &io::Error) -> Lost {
    Lost::Refused(error.to_string())
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}

// ---- the client notices what is missing ----

#[test]
fn half_a_head_half_a_body_and_a_byte_too_many_are_truncations() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1234",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n123456",
        "HTTP/1.1 200 OK\r\n\r\n12345",
    ] {
        let lost = answer_to(bytes).expect_err(bytes);
        assert!(matches!(lost, Lost::Truncated(_)), "{bytes:?}: {lost:?}");
    }
}

#[test]
fn no_byte_at_all_is_a_refusal_and_all_bytes_are_an_answer() {
    assert!(matches!(answer_to(""), Err(Lost::Refused(_))));
    let answer = answer_to("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12345");
    assert_eq!(answer.expect("it is complete").body, "12345");
}

/// What the client makes of a service that sends these bytes and closes.
#[cfg(test)]
fn answer_to(bytes: &'static str) -> Result<Answer, Lost> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it has one").to_string();
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        drop(stream.read(&mut [0; 1024]));
        stream.write_all(bytes.as_bytes()).expect("it is sent");
    });
    let answer = Client::connect(&address)?.get("/");
    service.join().expect("it has sent");
    answer
}
