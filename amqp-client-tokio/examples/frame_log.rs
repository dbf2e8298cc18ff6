//! Prints each frame that is sent and received: a stream around the socket decodes them as they pass.
//!
//! ```text
//! cargo run --example frame_log
//! ```

use std::env;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use amqp_client_tokio::proto::frame::{Frame, FrameKind, PROTOCOL_HEADER};
use amqp_client_tokio::proto::method::Method;
use amqp_client_tokio::{QueueOptions, Target, connect_over};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let target: Target = uri.parse()?;
    let node = target.get_endpoints().first().ok_or("the URI names no host")?;
    let socket = TcpStream::connect((node.host.as_str(), node.port)).await?;
    let stream = Logged { socket, sent: BytesMut::new(), received: BytesMut::new() };
    let (connection, driver) = connect_over(stream, target.get_config().clone());
    let driver = tokio::spawn(driver);
    connection.ready().await?;

    let channel = connection.open_channel().await?;
    channel.queue_declare("", QueueOptions::temporary()).await?;
    connection.close().await?;
    driver.await?;
    Ok(())
}

struct Logged {
    socket: TcpStream,
    sent: BytesMut,
    received: BytesMut,
}

/// Prints the frames that are complete. They may come in pieces of any size.
fn log(direction: &str, frames: &mut BytesMut) {
    if frames.starts_with(&PROTOCOL_HEADER) {
        println!("{direction} protocol header");
        let _ = frames.split_to(PROTOCOL_HEADER.len());
    }
    while let Ok(Some(frame)) = Frame::decode(frames, u32::MAX) {
        let name = match (frame.kind, Method::decode(&frame.payload)) {
            // Only its name: a method may contain credentials.
            (FrameKind::Method, Ok(method)) => method.facts().name,
            _ => "",
        };
        println!("{direction} {frame:?} {name}");
    }
}

impl AsyncRead for Logged {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        self.received.extend_from_slice(buffer.filled().get(before..).unwrap_or_default());
        log("<-", &mut self.received);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Logged {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes))?;
        self.sent.extend_from_slice(bytes.get(..written).unwrap_or_default());
        log("->", &mut self.sent);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
