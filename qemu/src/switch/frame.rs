//! Ethernet frames as QEMU's `-netdev stream` carries them: the length as 32 bits, big-endian, then the frame.

use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Destination, source and type.
const HEADER_BYTES: usize = 14;
/// QEMU's own limit (`NET_BUFSIZE`): 64 KiB of payload and room for headers.
const FRAME_MAX_BYTES: usize = 4096 + 65536;
/// Bytes of the length before each frame.
const LENGTH_BYTES: usize = 4;

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// One frame with its length before it: what is read from one machine is written to others as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame(Arc<[u8]>);

impl Frame {
    /// A frame of these bytes; none when no machine could have sent them.
    #[cfg(test)]
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let length = check(bytes.len()).ok()?;
        Some(Self(length.to_be_bytes().iter().chain(bytes).copied().collect()))
    }

    /// The next frame; none at the end of the stream.
    pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let mut length = [0; LENGTH_BYTES];
        match stream.read_exact(&mut length).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        };
        let bytes = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        check(bytes)?;
        let mut wire = vec![0; LENGTH_BYTES + bytes];
        wire[..LENGTH_BYTES].copy_from_slice(&length);
        stream.read_exact(&mut wire[LENGTH_BYTES..]).await?;
        Ok(Some(Self(wire.into())))
    }

    /// As it goes over the stream.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.0
    }

    /// The frame's own bytes: what a cable would carry.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len() - LENGTH_BYTES
    }

    pub(crate) fn destination(&self) -> Mac {
        self.address(0)
    }

    pub(crate) fn source(&self) -> Mac {
        self.address(6)
    }

    fn address(&self, at: usize) -> Mac {
        std::array::from_fn(|byte| self.0[LENGTH_BYTES + at + byte])
    }
}

/// Broadcast and multicast addresses have this bit (IEEE 802.3, clause 3.2.3); none of them is one machine's.
pub(crate) fn is_group(mac: Mac) -> bool {
    mac[0] & 1 == 1
}

fn check(bytes: usize) -> io::Result<u32> {
    match u32::try_from(bytes) {
        Ok(length) if (HEADER_BYTES..=FRAME_MAX_BYTES).contains(&bytes) => Ok(length),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {bytes} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut wire: &[u8]) -> io::Result<Option<Frame>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(Frame::read(&mut wire))
    }

    #[test]
    fn a_frame_is_read_as_it_is_written() {
        let frame = Frame::of(&[&[0xff; 6][..], &[2; 6], &[8, 0], b"text"].concat()).expect("a frame");
        assert_eq!(frame.wire()[..4], [0, 0, 0, 18]);
        assert_eq!((frame.destination(), frame.source(), frame.bytes()), ([0xff; 6], [2; 6], 18));
        assert!(is_group(frame.destination()) && !is_group(frame.source()));
        assert_eq!(read(frame.wire()).expect("read"), Some(frame));
    }

    #[test]
    fn lengths_are_limited_and_an_end_is_an_end() {
        assert_eq!(read(&[]).expect("an end"), None);
        for wire in [&[0, 0, 0, 13][..], &[0, 1, 16, 1], &[0xff; 4], &[0, 0, 0, 20, 1, 2]] {
            assert!(read(wire).is_err(), "{wire:?}");
        }
        assert!(Frame::of(&[0; 13]).is_none());
    }
}
