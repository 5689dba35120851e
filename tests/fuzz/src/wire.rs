//! Protobuf messages as they come from the other end.

use crate::input::Input;
use pillar_model::Evidence;
use pillar_wire::proto::{EvidenceReply, EvidenceRequest, IdentityReply, StatusReply};
use pillar_wire::{Challenge, Identity, Status};
use prost::Message;
use std::fmt::Debug;

/// Input: a byte that says which message, then the message.
pub(crate) fn message(bytes: &[u8]) -> bool {
    let mut input = Input::new(bytes);
    let which = input.byte();
    let bytes = input.rest();
    match which % 4 {
        0 => survives::<StatusReply, Status>(bytes),
        1 => survives::<IdentityReply, Identity>(bytes),
        2 => survives::<EvidenceRequest, Challenge>(bytes),
        _ => survives::<EvidenceReply, Evidence>(bytes),
    }
}

/// What was understood, sent back, is understood alike.
fn survives<M, T>(bytes: &[u8]) -> bool
where
    M: Message + Default + From<T>,
    T: TryFrom<M> + Clone + PartialEq + Debug,
    T::Error: Debug,
{
    let Ok(message) = M::decode(bytes) else { return false };
    let Ok(value) = T::try_from(message) else { return false };
    let sent = M::from(value.clone()).encode_to_vec();
    let again = T::try_from(M::decode(sent.as_slice()).expect("our own message"));
    assert_eq!(again.expect("our own message"), value, "written and read again it is something else");
    true
}
