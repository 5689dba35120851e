//! Frames: what goes over TLS before HTTP/2. One is a length (u32, big endian) and one protobuf message.
//!
//! A length over the limit ends the connection before anything is allocated for it; below the limit memory grows with
//! what really arrives. Not one byte behind the frame is read, wherever the network cuts it in pieces.

use prost::Message;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The transport failed or ended.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// More than may ever come.
    #[error("a frame of {len} bytes, at most {limit} are allowed")]
    TooLarge {
        /// As announced.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// No such message.
    #[error("not the message that is due: {0}")]
    Garbage(#[from] prost::DecodeError),
    /// Fields that are unknown, repeated or written longer than needed.
    #[error("{len} bytes for a message of {needed}")]
    Padded {
        /// As announced.
        len: usize,
        /// What the message takes.
        needed: usize,
    },
}

/// Writes one frame.
pub async fn write(io: &mut (impl AsyncWrite + Unpin), message: &impl Message) -> io::Result<()> {
    let length = message.encoded_len();
    let announced = u32::try_from(length).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(size_of::<u32>() + length);
    frame.extend_from_slice(&announced.to_be_bytes());
    message.encode(&mut frame).map_err(io::Error::other)?;
    io.write_all(&frame).await?;
    io.flush().await
}

/// Reads one frame of at most `limit` bytes behind the length.
pub async fn read<M: Message + Default>(
    io: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<M, FrameError> {
    let announced = io.read_u32().await?;
    let len = usize::try_from(announced).unwrap_or(usize::MAX);
    if len > limit {
        return Err(FrameError::TooLarge { len, limit });
    }
    let mut bytes = Vec::new();
    io.take(announced.into()).read_to_end(&mut bytes).await?;
    if bytes.len() < len {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let message = M::decode(bytes.as_slice())?;
    match message.encoded_len() {
        needed if needed == len => Ok(message),
        needed => Err(FrameError::Padded { len, needed }),
    }
}
