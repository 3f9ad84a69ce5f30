//! The HTTP probe: one `GET` of HTTP/1.1 on a connection of its own.
//!
//! Redirects are not followed: what they lead to is another place, and a status like any other says whether it is
//! wanted. Of the body as much is read as kubelet reads, so that a server that gets stuck while it answers is found out;
//! what is longer is good without being read to its end. No TLS: the API has no field for it.

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{USER_AGENT, whole};
use crate::verdict::Failure;

/// As much of a body is read.
const MAX_BODY: usize = 10 << 10;

/// As much of a head is read.
const MAX_HEAD: usize = 64 << 10;

pub(super) async fn ask(stream: TcpStream, path: &str, host: &str, statuses: &[u16]) -> Result<(), Failure> {
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| {
            Failure::not_made(format!(
                "path {path:?} with host {host:?} cannot be asked for: {error}; correct the check"
            ))
        })?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failure(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| failure(&error))?;
        wanted(response.status(), statuses)?;
        read(response.into_body()).await
    };
    tokio::pin!(exchange);
    tokio::select! {
        result = &mut exchange => result,
        // What the server sent before it closed is still to be read.
        _ = connection => exchange.await,
    }
}

fn wanted(status: StatusCode, statuses: &[u16]) -> Result<(), Failure> {
    let wanted = if statuses.is_empty() { &[200][..] } else { statuses };
    if wanted.contains(&status.as_u16()) {
        return Ok(());
    }
    let wanted: Vec<_> = wanted.iter().map(u16::to_string).collect();
    Err(Failure::wrong(format!("answers {}, wanted is {}", status.as_u16(), wanted.join(" or "))))
}

async fn read(mut body: Incoming) -> Result<(), Failure> {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| failure(&error))?;
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > MAX_BODY {
            break;
        }
    }
    Ok(())
}

fn failure(error: &hyper::Error) -> Failure {
    if error.is_parse() {
        return Failure::wrong(format!("does not answer by HTTP/1.1: {}", whole(error)));
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return Failure::silent("closes the connection before it has answered");
    }
    Failure::silent(format!("does not answer: {}", whole(error)))
}
