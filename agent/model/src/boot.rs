//! What a running pillar says about itself. Self-description, not proof: proof is [`crate::Evidence`].

use crate::RootHash;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One of the two places for an image on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// The first pair of partitions.
    A,
    /// The second pair.
    B,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Slot::A => "a",
            Slot::B => "b",
        })
    }
}

/// What init knows about this boot; it writes it to `layout::run::BOOT` and replaces it whenever it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The pillar's name from the node settings; "pillar" when there are none.
    pub name: String,
    /// `IMAGE_VERSION` of the sealed root.
    pub version: String,
    /// `VARIANT_ID` of the sealed root, for example "virt".
    pub flavour: String,
    /// The slot whose partitions carry the root hash.
    pub slot: Slot,
    /// The root hash from the measured command line.
    pub root_hash: RootHash,
    /// `uname -r`.
    pub kernel: String,
    /// True until the boot entry lost its tries counter (the boot was blessed).
    pub trial: bool,
    /// Phases reached so far, oldest first.
    pub phases: Vec<Phase>,
    /// What became of the TPM.
    pub tpm: Tpm,
    /// The workload.
    pub workload: WorkloadHealth,
    /// How often the agent was started.
    pub agent_starts: u32,
}

/// A point that boot passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// For example "enter-initrd", "root-mounted", "ready", "workload-healthy".
    pub name: String,
    /// Microseconds on the boot-time clock (`CLOCK_BOOTTIME`), which starts with the kernel.
    pub at_us: u64,
}

/// What init found when it extended the first phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "reason")]
pub enum Tpm {
    /// Phases were extended and logged.
    Present,
    /// No TPM device appeared; the machine runs, and no verifier accepts it.
    Absent,
    /// A TPM is there and refused; why.
    Failed(String),
}

/// What became of the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadState {
    /// The image carries none.
    None,
    /// Started, not yet healthy.
    Starting,
    /// The health check passes.
    Healthy,
    /// It was healthy, or should be by now, and the check fails.
    Unhealthy,
    /// It ended and waits to be started again.
    Restarting,
    /// It was stopped by us.
    Stopped,
}

/// The workload and why it is in that state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadHealth {
    /// Its name from `pillar.toml`; empty when there is none.
    pub name: String,
    /// The state.
    pub state: WorkloadState,
    /// Why, in words: the last failed check, the exit status. Empty when healthy.
    pub reason: String,
    /// How often it was started again.
    pub restarts: u32,
}

/// Settings of one machine that come from outside the sealed image. Hints: they cannot change what runs, and are
/// measured into PCR 13 before use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSettings {
    /// The pillar's name: a host name label, 1 to 63 of `a-z`, `0-9` and `-`.
    pub name: Option<String>,
    /// Static address of the first network interface in CIDR form, for example "10.0.2.15/24".
    pub address: Option<String>,
    /// Default gateway.
    pub gateway: Option<String>,
    /// Further cards, or all of them when `address` is not used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkSettings>,
    /// Peers to call first: `NAME=HOST:PORT` or `HOST:PORT`; HOST is a name or an address, IPv6 in brackets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
    /// Name servers, when DHCP gives none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    /// Time servers: `HOST` (NTP, by name or address) or `nts://HOST[:PORT]#KEY[,KEY]` (NTS; [`crate::TimeServer`]). The
    /// time is for people and certificates' dates; no decision rests on it. When any is named here, nobody else is asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub time: Vec<String>,
}

/// What one network card is set to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSettings {
    /// Which card: its MAC address, or its number from 1 in the order of the kernel's interface numbers.
    pub card: String,
    /// Static addresses in CIDR form, IPv4 or IPv6.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Ask a DHCPv4 server. (IPv6 configures itself by router advertisements, always.)
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dhcp: bool,
    /// Default gateway, in the network of one of the addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}
