//! The frames between TLS and HTTP/2, as a member sends them who wants the other end to read too much, too little, or
//! something else than it says; and the messages in them.

use crate::HEAP;
use crate::input::Input;
use pillar_model::Evidence;
use pillar_session::frame::{FrameError, read, write};
use pillar_session::limit::{EVIDENCE_FRAME_BYTES, HELLO_FRAME_BYTES, VERDICT_FRAME_BYTES};
use pillar_wire::proto::{PeerEvidence, PeerHello, PeerVerdict};
use prost::Message;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, ReadBuf};

/// The length in front.
const HEAD: usize = 4;
/// What reading a frame may take on the heap for each byte that came: a buffer that grows by doubling, the message's
/// copy, and its growth.
const HEAP_PER_BYTE: usize = 4;
/// What it may take besides.
const HEAP_BASE: usize = 16 << 10;

/// Input: a byte that says which message is due, four that say how the network cuts the rest into pieces, the rest.
pub(crate) fn frame(bytes: &[u8]) -> bool {
    let mut input = Input::new(bytes);
    let (which, pieces) = (input.byte(), input.take(4));
    let bytes = input.rest();
    match which % 3 {
        0 => due::<PeerHello>(bytes, pieces, HELLO_FRAME_BYTES).is_some(),
        1 => due::<PeerVerdict>(bytes, pieces, VERDICT_FRAME_BYTES).is_some(),
        _ => {
            due::<PeerEvidence>(bytes, pieces, EVIDENCE_FRAME_BYTES).is_some_and(|message| evidence(&message))
        }
    }
}

/// The message, if there is one; the same however it is cut into pieces.
fn due<M: Message + Default + PartialEq>(bytes: &[u8], pieces: &[u8], limit: usize) -> Option<M> {
    let mut network = Network::new(bytes, pieces);
    HEAP.reset_peak_usage();
    let before = HEAP.current_usage();
    let cut = now(read::<M>(&mut network, limit));
    let heap = HEAP.peak_usage().saturating_sub(before);
    let announced = bytes.first_chunk().map(|head| u32::from_be_bytes(*head) as usize);
    let may_be_read = match announced {
        Some(len) if len <= limit => bytes.len().min(HEAD + len),
        _ => bytes.len().min(HEAD),
    };
    assert!(heap <= HEAP_BASE + HEAP_PER_BYTE * may_be_read, "{heap} bytes for {may_be_read} that came");
    assert_eq!(network.taken(), may_be_read, "bytes of somebody else were read, or too few");

    let whole = now(read::<M>(&mut &*bytes, limit));
    match (cut, whole) {
        (Ok(message), Ok(same)) => {
            assert!(message == same, "another message when it comes in pieces");
            assert_eq!(Some(message.encoded_len()), announced, "another length than was announced");
            sent_again(&message, limit);
            Some(message)
        }
        (Err(error), Err(same)) => {
            assert_eq!(error.to_string(), same.to_string(), "another error when it comes in pieces");
            told_apart(&error, bytes.len(), announced, limit);
            None
        }
        _ => panic!("in pieces it is something else than whole"),
    }
}

/// A frame that ends early, one that is too long, and one that holds no message are three things.
fn told_apart(error: &FrameError, came: usize, announced: Option<usize>, limit: usize) {
    let is_right = match (error, announced) {
        (FrameError::TooLarge { len, .. }, Some(announced)) => *len == announced && announced > limit,
        (FrameError::Io(error), None) => error.kind() == io::ErrorKind::UnexpectedEof,
        (FrameError::Io(error), Some(announced)) => {
            error.kind() == io::ErrorKind::UnexpectedEof && came < HEAD + announced
        }
        (FrameError::Garbage(_) | FrameError::Padded { .. }, Some(announced)) => came >= HEAD + announced,
        _ => false,
    };
    assert!(is_right, "{error} of {came} bytes that announced {announced:?}");
}

/// What was understood is the same when it is sent on.
fn sent_again<M: Message + Default + PartialEq>(message: &M, limit: usize) {
    let mut sent = Vec::new();
    now(write(&mut sent, message)).expect("memory takes all");
    let mut rest = sent.as_slice();
    let again = now(read::<M>(&mut rest, limit)).expect("a frame of our own");
    assert!(again == *message && rest.is_empty(), "written and read again it is something else");
}

/// What the verifier gets to see.
fn evidence(message: &PeerEvidence) -> bool {
    let Ok(evidence) = Evidence::try_from(message.clone()) else { return false };
    let none: [&[u8]; 2] = [&evidence.ak_public, &evidence.ek_certificate];
    assert!(none.iter().all(|field| field.is_empty()), "a peer named its own keys");
    assert!(PeerEvidence::from(evidence) == *message, "what is judged is not what came");
    true
}

/// Bytes that come in pieces, with waits between them.
struct Network<'a> {
    bytes: &'a [u8],
    taken: usize,
    pieces: &'a [u8],
    reads: usize,
}

impl<'a> Network<'a> {
    fn new(bytes: &'a [u8], pieces: &'a [u8]) -> Self {
        Self { bytes, taken: 0, pieces, reads: 0 }
    }

    fn taken(&self) -> usize {
        self.taken
    }
}

impl AsyncRead for Network<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let turn = self.reads;
        self.reads += 1;
        let piece = match self.pieces.len() {
            0 => usize::MAX,
            len => usize::from(self.pieces[turn % len]),
        };
        // A byte of nothing is a wait, but not for ever.
        if piece == 0 && !turn.is_multiple_of(self.pieces.len() + 1) {
            return Poll::Pending;
        }
        let rest = &self.bytes[self.taken..];
        let len = piece.max(1).min(rest.len()).min(buf.remaining());
        buf.put_slice(&rest[..len]);
        self.taken += len;
        Poll::Ready(Ok(()))
    }
}

/// A future that waits for nothing but the reader above, which need not be waited for.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
}
