//! The nouns of Pillar as types. Values that could be swapped by mistake have types of their own; everything that
//! crosses a wire or a disk says its unit in its name. No decisions are made here.
#![forbid(unsafe_code)]

mod boot;
mod dbx;
mod digest;
mod evidence;
mod host;
mod member;
mod policy;
mod release;
mod state;
mod time;
mod tpm;

pub use boot::{Boot, NetworkSettings, NodeSettings, Phase, Slot, Tpm, WorkloadHealth, WorkloadState};
pub use dbx::{DbxEntry, DbxTextError};
pub use digest::{Bank, Digest, HexError, Nonce, PcrIndex, RootHash};
pub use evidence::{Binding, Evidence, Role};
pub use host::{Host, HostError, HostPort, PeerHint};
pub use member::{
    Action, Constitution, Entry, FirmwareEvent, FirmwareReference, Member, NameError, OperatorEntry,
    OperatorKey, PeerState, PillarId,
};
pub use policy::{SIGNED_POLICIES_KEY, SignedPolicies, SignedPolicy};
pub use release::{
    BootApplication, PackageRef, PcrPrediction, Release, ReleasePredicate, SecureBootKeys, Subject,
};
pub use state::{StateOutcome, StateReport, StateSettings};
pub use time::{KeyPin, KeyPinError, NTS_PORT, NtsServer, TimeServer, TimeServerError};
pub use tpm::{DeniedTpmFirmware, TpmMaker, TpmTextError, TpmVersion};
