// SPDX-License-Identifier: GPL-2.0

//! Transfers between two ends, with a window that both agree on.
//!
//! The client opens a TCP connection and sends its request as a line; then
//!
//! * `stream`: the client sends messages,
//! * `receive`: the server sends messages,
//! * `rr`: both send one message in turn,
//! * `udp`: the client sends datagrams in bursts, each answered by one.
//!
//! With `verify`, each message is a sequence that its number determines, and
//! whoever receives it compares every byte.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::hook;
use crate::soak::Soak;

/// Datagrams in flight before the sender waits for an answer; few enough for
/// the receiver's socket to hold them all.
const BURST: u64 = 32;

/// Nothing takes that long, unless something was lost.
const PATIENCE: Duration = Duration::from_secs(120);

/// The largest message.
const MAX_SIZE: usize = 1 << 20;

type Outcome = Result<(), Box<dyn Error>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Stream,
    Receive,
    RequestResponse,
    Udp,
}

/// What the client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    kind: Kind,
    size: usize,
    count: u64,
    warmup: u64,
    verify: bool,
}

impl Request {
    /// Parses the words of a command line.
    pub fn parse(
        kind: &str,
        size: &str,
        count: &str,
        warmup: &str,
        rest: &[&str],
    ) -> Result<Self, Box<dyn Error>> {
        let kind = match kind {
            "stream" => Kind::Stream,
            "receive" => Kind::Receive,
            "rr" => Kind::RequestResponse,
            "udp" => Kind::Udp,
            other => return Err(format!("unknown workload `{other}`").into()),
        };
        let verify = match rest {
            [] => false,
            ["verify"] => true,
            _ => return Err("the last word can only be `verify`".into()),
        };
        let request = Self {
            kind,
            size: size.parse().map_err(|_| "SIZE is not a number")?,
            count: count.parse().map_err(|_| "COUNT is not a number")?,
            warmup: warmup.parse().map_err(|_| "WARMUP is not a number")?,
            verify,
        };
        if !(8..=MAX_SIZE).contains(&request.size) {
            return Err(format!("SIZE has to be from 8 to {MAX_SIZE}").into());
        }
        if request.kind == Kind::Udp && request.size > 1472 {
            return Err("a datagram has at most 1472 bytes".into());
        }
        Ok(request)
    }

    fn line(&self) -> String {
        let kind = match self.kind {
            Kind::Stream => "stream",
            Kind::Receive => "receive",
            Kind::RequestResponse => "rr",
            Kind::Udp => "udp",
        };
        let verify = if self.verify { " verify" } else { "" };
        format!(
            "{kind} {} {} {}{verify}\n",
            self.size, self.count, self.warmup
        )
    }

    fn from_line(line: &str) -> Result<Self, Box<dyn Error>> {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            [kind, size, count, warmup, rest @ ..] => Self::parse(kind, size, count, warmup, rest),
            _ => Err("not a request".into()),
        }
    }
}

/// Messages to send, or to compare with.
struct Messages {
    buffer: Vec<u8>,
    expected: Vec<u8>,
    next: u64,
    verify: bool,
}

impl Messages {
    fn new(request: &Request) -> Self {
        Self {
            buffer: vec![0x5a; request.size],
            expected: vec![0; request.size],
            next: 0,
            verify: request.verify,
        }
    }

    fn fill(number: u64, bytes: &mut [u8]) {
        let mut state = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for chunk in bytes.chunks_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^= word >> 31;
            let length = chunk.len();
            chunk.copy_from_slice(&word.to_le_bytes()[..length]);
        }
    }

    /// The next message to send.
    fn outgoing(&mut self) -> &[u8] {
        if self.verify {
            Self::fill(self.next, &mut self.buffer);
            self.next += 1;
        }
        &self.buffer
    }

    /// Where to receive the next message.
    fn incoming(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// Judges what was received.
    fn received(&mut self) -> Outcome {
        if self.verify {
            Self::fill(self.next, &mut self.expected);
            if self.buffer != self.expected {
                return Err(format!("message {} arrived damaged", self.next).into());
            }
            self.next += 1;
        }
        Ok(())
    }
}

/// Where datagrams of all clients arrive.
struct Datagrams {
    socket: UdpSocket,
    /// Of the request that they are for.
    turn: Mutex<()>,
}

/// Answers requests until killed: those over TCP at once, those for datagrams one after the other.
pub fn serve(port: &str) -> Outcome {
    let port: u16 = port.parse().map_err(|_| "PORT is not a number")?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    let datagrams = Datagrams {
        socket: UdpSocket::bind(("0.0.0.0", port))?,
        turn: Mutex::new(()),
    };

    datagrams.socket.set_read_timeout(Some(PATIENCE))?;
    thread::scope(|scope| {
        for stream in listener.incoming() {
            let datagrams = &datagrams;

            scope.spawn(move || {
                let answered = stream.map_err(Into::into);

                if let Err(error) = answered.and_then(|stream| answer(stream, datagrams)) {
                    eprintln!("pdio-load: serve: {error}");
                }
            });
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream, datagrams: &Datagrams) -> Outcome {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    // The client waits for the answer to its request, so nothing else is in the buffer.
    BufReader::new(&stream).read_line(&mut line)?;
    let request = Request::from_line(&line)?;
    let _turn = match request.kind {
        Kind::Udp => Some(datagrams.turn.lock().map_err(|_| "another has failed")?),
        _ => None,
    };
    stream.set_nodelay(request.kind == Kind::RequestResponse)?;
    stream.write_all(b"k")?;

    let mut messages = Messages::new(&request);
    match request.kind {
        Kind::Stream => {
            for count in [request.warmup, request.count] {
                for _ in 0..count {
                    stream.read_exact(messages.incoming())?;
                    messages.received()?;
                }
                stream.write_all(b"k")?;
            }
        }
        Kind::Receive => {
            for count in [request.warmup, request.count] {
                stream.read_exact(&mut [0])?;
                for _ in 0..count {
                    stream.write_all(messages.outgoing())?;
                }
                push(&stream)?;
            }
        }
        Kind::RequestResponse => {
            for _ in 0..request.warmup + request.count {
                stream.read_exact(messages.incoming())?;
                messages.received()?;
                stream.write_all(messages.incoming())?;
            }
        }
        Kind::Udp => {
            for count in [request.warmup, request.count] {
                for number in 0..count {
                    let (length, sender) = datagrams.socket.recv_from(messages.incoming())?;
                    if length != request.size {
                        return Err(format!("a datagram of {length} bytes arrived").into());
                    }
                    messages.received()?;
                    if ends_burst(number, count) {
                        datagrams.socket.send_to(b"k", sender)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Sends what TCP holds back because it might be joined by more: at the end of
/// a pass nothing comes, and the window would end with a delayed acknowledgement.
fn push(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nodelay(false)
}

fn ends_burst(number: u64, count: u64) -> bool {
    (number + 1) % BURST == 0 || number + 1 == count
}

/// Runs `request` against the server at `address` and prints what it took.
pub fn run(address: &str, request: &Request) -> Outcome {
    let address: SocketAddr = address
        .parse()
        .map_err(|_| format!("`{address}` is not an address and a port"))?;
    let soak = Soak::start()?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(request.kind == Kind::RequestResponse)?;
    stream.write_all(request.line().as_bytes())?;
    stream.read_exact(&mut [0])?;

    let mut client = Client::new(stream, address, request)?;
    client.pass(request.warmup)?;
    hook::run("start")?;
    let from = soak.mark();
    client.pass(request.count)?;
    let to = soak.mark();
    hook::run("stop")?;

    let window = soak.window(from, to);
    println!(
        "ops={} bytes={} elapsed_ns={} idle_ns={}",
        request.count,
        request.count * request.size as u64,
        window.elapsed.as_nanos(),
        window.idle.as_nanos()
    );
    Ok(())
}

struct Client {
    kind: Kind,
    stream: TcpStream,
    datagrams: UdpSocket,
    messages: Messages,
}

impl Client {
    fn new(stream: TcpStream, address: SocketAddr, request: &Request) -> io::Result<Self> {
        let datagrams = UdpSocket::bind(("0.0.0.0", 0))?;
        datagrams.set_read_timeout(Some(PATIENCE))?;
        datagrams.connect(address)?;
        Ok(Self {
            kind: request.kind,
            stream,
            datagrams,
            messages: Messages::new(request),
        })
    }

    /// Transfers `count` messages and returns when the last one has arrived.
    fn pass(&mut self, count: u64) -> Outcome {
        match self.kind {
            Kind::Stream => {
                for _ in 0..count {
                    self.stream.write_all(self.messages.outgoing())?;
                }
                push(&self.stream)?;
                self.stream.read_exact(&mut [0])?;
            }
            Kind::Receive => {
                self.stream.write_all(b"g")?;
                for _ in 0..count {
                    self.stream.read_exact(self.messages.incoming())?;
                    self.messages.received()?;
                }
            }
            Kind::RequestResponse => {
                for _ in 0..count {
                    let number = self.messages.next;
                    self.stream.write_all(self.messages.outgoing())?;
                    // The answer has to be what was sent.
                    self.messages.next = number;
                    self.stream.read_exact(self.messages.incoming())?;
                    self.messages.received()?;
                }
            }
            Kind::Udp => {
                for number in 0..count {
                    self.datagrams.send(self.messages.outgoing())?;
                    if ends_burst(number, count) {
                        let lost = |error| format!("after datagram {number}: {error}");
                        self.datagrams.recv(&mut [0]).map_err(lost)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn request(kind: &str) -> Request {
        Request::parse(kind, "100", "70", "5", &["verify"]).unwrap()
    }

    #[test]
    fn a_request_survives_the_line() {
        for kind in ["stream", "receive", "rr", "udp"] {
            let request = request(kind);
            assert_eq!(Request::from_line(&request.line()).unwrap(), request);
        }
    }

    #[test]
    fn wrong_requests_are_refused() {
        for words in [
            ["none", "64", "1", "1"],
            ["rr", "4", "1", "1"],
            ["rr", "x", "1", "1"],
            ["udp", "65536", "1", "1"],
            ["rr", "64", "-1", "1"],
        ] {
            let [kind, size, count, warmup] = words;
            assert!(Request::parse(kind, size, count, warmup, &[]).is_err());
        }
        assert!(Request::parse("rr", "64", "1", "1", &["check"]).is_err());
    }

    #[test]
    fn damage_is_noticed() {
        let mut sender = Messages::new(&request("rr"));
        let mut receiver = Messages::new(&request("rr"));
        let sent = sender.outgoing().to_vec();
        receiver.incoming().copy_from_slice(&sent);
        receiver.received().unwrap();

        let mut sent = sender.outgoing().to_vec();
        sent[99] ^= 1;
        receiver.incoming().copy_from_slice(&sent);
        assert!(receiver.received().is_err());
    }

    #[test]
    fn every_kind_gets_through_with_verified_content() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let datagrams = Datagrams {
            socket: UdpSocket::bind(address).unwrap(),
            turn: Mutex::new(()),
        };
        for kind in ["stream", "receive", "rr", "udp"] {
            thread::scope(|scope| {
                let server = scope.spawn(|| {
                    let (stream, _) = listener.accept().unwrap();
                    answer(stream, &datagrams).map_err(|error| error.to_string())
                });
                let request = request(kind);
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(request.line().as_bytes()).unwrap();
                stream.read_exact(&mut [0]).unwrap();
                let mut client = Client::new(stream, address, &request).unwrap();
                client.pass(request.warmup).unwrap();
                client.pass(request.count).unwrap();
                server.join().unwrap().unwrap();
            });
        }
    }
}
