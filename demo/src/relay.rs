//! Carries connections between TCP ports and Unix sockets: the one way out of an agent's network namespace, and the
//! door of the embedded broker.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;

use rustix::net::sockopt;

use crate::{Error, Programs};

/// Printed on standard output once connections are accepted.
pub const READY: &str = "ready";

/// So much is carried at a time, bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// One end of a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `tcp:host:port`.
    Tcp(String),
    /// `unix:/path`.
    Unix(PathBuf),
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("tcp", address)) if address.contains(':') => Ok(Self::Tcp(address.to_string())),
            Some(("unix", path)) if Path::new(path).is_absolute() => Ok(Self::Unix(path.into())),
            _ => Err(format!("{text:?} is no end of a relay: write tcp:host:port or unix:/path")),
        }
    }
}

/// A connection to an [`Endpoint`].
pub enum Stream {
    /// Over TCP, without Nagle's algorithm.
    Tcp(TcpStream),
    /// Through a Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Connects to the broker.
    ///
    /// # Errors
    /// What the system says.
    pub fn connect(to: &Endpoint) -> io::Result<Self> {
        match to {
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address.as_str())?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            Endpoint::Unix(path) => UnixStream::connect(path).map(Self::Unix),
        }
    }

    /// Another handle of the same connection.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
        }
    }

    /// Ends it in both directions, for all handles.
    pub fn shutdown(&self) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => {
                let bytes = stream.read(buffer)?;
                // The embedded broker leaves Nagle's algorithm on: without this, its second small message in a row
                // waits 40 ms for the delayed acknowledgement of the first. The kernel forgets the option (tcp(7)).
                let _ = sockopt::set_tcp_quickack(&*stream, true);
                Ok(bytes)
            }
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies until either end closes, then closes both: half-open connections mean nothing to MQTT.
fn carry(mut from: Stream, mut to: Stream) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(bytes) = from.read(&mut buffer)
        && bytes > 0
        && to.write_all(&buffer[..bytes]).is_ok()
    {}
    from.shutdown();
    to.shutdown();
}

fn serve(client: Stream, to: &Endpoint) {
    // A broker that is down shows as a closed connection, as it would without a relay.
    let Ok(server) = Stream::connect(to) else {
        return client.shutdown();
    };
    if let (Ok(client_in), Ok(server_in)) = (client.try_clone(), server.try_clone()) {
        thread::spawn(move || carry(server_in, client_in));
        thread::spawn(move || carry(client, server));
    }
}

/// The command that runs a relay as a process of its own; `from` and `to` are written as for [`Endpoint`].
pub fn command(programs: &Programs, from: &str, to: &str) -> Vec<OsString> {
    vec![programs.demo.clone().into(), "relay".into(), "--from".into(), from.into(), "--to".into(), to.into()]
}

/// Accepts on `from` and connects each to `to`, until the process ends. Prints `ready` first.
///
/// # Errors
/// [`Error::File`] or [`Error::Broker`] if `from` cannot be listened on.
pub fn run(from: &Endpoint, to: &Endpoint) -> Result<(), Error> {
    let say_ready = || {
        let mut out = io::stdout();
        let _ = writeln!(out, "{READY}").and_then(|()| out.flush());
    };
    match from {
        Endpoint::Tcp(address) => {
            let refused = |e: io::Error| Error::Broker { url: format!("tcp:{address}"), why: e.to_string() };
            let listener = TcpListener::bind(address.as_str()).map_err(refused)?;
            say_ready();
            for stream in listener.incoming().flatten() {
                let _ = stream.set_nodelay(true);
                serve(Stream::Tcp(stream), to);
            }
        }
        Endpoint::Unix(path) => {
            let listener = UnixListener::bind(path).map_err(|e| Error::file(path, e))?;
            say_ready();
            for stream in listener.incoming().flatten() {
                serve(Stream::Unix(stream), to);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn endpoints_are_read_or_refused() {
        assert_eq!("tcp:127.0.0.1:1".parse(), Ok(Endpoint::Tcp("127.0.0.1:1".into())));
        assert_eq!("unix:/run/x".parse(), Ok(Endpoint::Unix("/run/x".into())));
        for text in ["", "tcp:1", "unix:x", "udp:1:2"] {
            assert!(text.parse::<Endpoint>().unwrap_err().contains("tcp:host:port"), "{text}");
        }
    }

    #[test]
    fn bytes_cross_two_relays_and_an_end_closes_both_sides() {
        let dir = tempfile::tempdir().unwrap();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let outer = Endpoint::Tcp(server.local_addr().unwrap().to_string());
        let socket = dir.path().join("socket");
        let middle = Endpoint::Unix(socket.clone());
        let from = middle.clone();
        thread::spawn(move || run(&from, &outer));
        let until = Instant::now() + Duration::from_secs(10);
        let mut client = loop {
            match Stream::connect(&middle) {
                Ok(Stream::Unix(client)) => break client,
                Ok(Stream::Tcp(_)) => unreachable!("a Unix socket was asked for"),
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
        };
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.write_all(b"hello").unwrap();
        let (mut served, _) = server.accept().unwrap();
        let mut bytes = [0; 5];
        served.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        served.write_all(b"world").unwrap();
        drop(served);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"world");
    }
}
