//! One request over a connection of its own, or several over one that is kept.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

/// Who answered, and whom they saw: what the tenants' web server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Host of the lab that the server runs on.
    pub host: String,
    /// Its pod address.
    pub address: String,
    /// The tenant whose application it is.
    pub tenant: String,
    /// The port that was asked, as the server sees it.
    pub port: String,
    /// Address and port of the peer, as the server sees it.
    pub peer: String,
}

/// What to ask, of whom, from where.
#[derive(Clone, Debug)]
pub struct Question {
    /// Address and port.
    pub to: SocketAddr,
    /// Local address and port; absent: the kernel chooses.
    pub from: Option<SocketAddr>,
    /// Path of the URL.
    pub path: String,
    /// Limit for connecting, and for each wait for bytes.
    pub patience: Duration,
}

impl Question {
    /// The identity of whoever serves `to`.
    pub fn new(to: SocketAddr) -> Self {
        Self { to, from: None, path: "/".to_owned(), patience: Duration::from_secs(10) }
    }

    /// Another path.
    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// A fixed source.
    pub fn from(mut self, from: SocketAddr) -> Self {
        self.from = Some(from);
        self
    }

    /// Another limit.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Asks over a new connection.
    ///
    /// # Errors
    /// Refused, reset, timed out, or an answer that is not the web server's.
    pub fn ask(&self) -> io::Result<Answer> {
        let mut connection = self.connect()?;
        let body = connection.exchange(&self.path, true)?;
        serde_json::from_slice(&body)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("strange answer: {error}")))
    }

    /// Opens a connection for several exchanges.
    ///
    /// # Errors
    /// Refused or timed out.
    pub fn connect(&self) -> io::Result<Connection> {
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(from) = self.from {
            socket.set_reuse_address(true)?;
            socket.bind(&from.into())?;
        }
        socket.connect_timeout(&self.to.into(), self.patience)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_write_timeout(Some(self.patience))?;
        Ok(Connection { reader: BufReader::new(stream), host: self.to.to_string() })
    }
}

/// An open connection.
pub struct Connection {
    reader: BufReader<TcpStream>,
    host: String,
}

impl Connection {
    /// Asks for `path` and returns the body. With `last` the server closes the connection behind its answer.
    ///
    /// # Errors
    /// The connection ended or stayed silent too long, or the server did not answer 200.
    pub fn exchange(&mut self, path: &str, last: bool) -> io::Result<Vec<u8>> {
        let close = if last { "Connection: close\r\n" } else { "" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{close}\r\n", self.host);
        self.reader.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        if !status.starts_with("HTTP/1.1 200 ") {
            return Err(io::Error::other(format!("answered {status:?}")));
        }
        let mut length = None;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok();
            }
        }
        let length: usize = length.ok_or_else(|| io::Error::other("no Content-Length"))?;
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body)?;
        Ok(body)
    }

    /// The local address and port.
    ///
    /// # Errors
    /// The kernel's.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.reader.get_ref().local_addr()
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the answer"));
        }
        Ok(line.trim_end().to_owned())
    }
}
