//! What the image and the code that runs in it must agree on, and nothing else: names, GUIDs, paths, the PCR
//! plan and the command line keys. No logic lives here, so that every crate may import it.
#![forbid(unsafe_code)]

/// Where things are in the sealed root. It is mounted read only; these paths are part of what dm-verity covers.
pub mod root {
    /// PID 1 on the sealed root; the same bytes are `/init` in the initrd.
    pub const INIT: &str = "/usr/bin/pillar-init";
    /// The agent.
    pub const AGENT: &str = "/usr/bin/pillar-agent";
    /// Opens the state volume; init runs it in the phase `sysinit`, and for recovery.
    pub const STATE: &str = "/usr/bin/pillar-state";
    /// `pillar_model::StateSettings` as JSON: what a state volume is made with, and must be made with to be opened.
    pub const STATE_SETTINGS: &str = "/usr/lib/pillar/state.json";
    /// The small file system that a new state volume begins with; it is grown to the volume's size.
    pub const STATE_TEMPLATE: &str = "/usr/lib/pillar/state.ext4";
    /// Names of modules that stage 2 loads before the state volume is opened.
    pub const STATE_MODULES: &str = "/etc/modules-load.d/pillar-state.conf";
    /// `TPMT_PUBLIC` of the key that signs policies for the TPM.
    pub const POLICY_KEY: &str = "/usr/lib/pillar/policy-key.tpmt";
    /// Where the state volume is mounted.
    pub const STATE_MOUNT: &str = "/var/lib/pillar";
    /// The agent's own folder on the state volume, mode 0700: the cluster's entries.
    pub const AGENT_STATE: &str = "/var/lib/pillar/agent";
    /// Brings up network cards, asks DHCP and time servers.
    pub const NETWORK: &str = "/usr/bin/pillar-network";
    /// In the initrd: the UKI's `.pcrsig` section as systemd-stub hands it over.
    pub const SIGNED_POLICIES: &str = "/.extra/tpm2-pcr-signature.json";
    /// The workload as JSON (`pillar_workload::Workload`), made from its `pillar.toml` and checked at build time.
    pub const WORKLOAD: &str = "/usr/lib/pillar/workload.json";
    /// The workload's files; its command is relative to this directory.
    pub const WORKLOAD_FILES: &str = "/usr/lib/pillar/workload";
    /// PEM certificates of the operators, one after the other; only their keys may call the agent.
    pub const OPERATORS: &str = "/usr/lib/pillar/operators.pem";
    /// os-release(5): `IMAGE_ID=pillar`, `IMAGE_VERSION=`, `VARIANT_ID=` (the flavour).
    pub const OS_RELEASE: &str = "/usr/lib/os-release";
    /// Present in the initrd alone; how init knows that it is in stage 1 (as systemd does).
    pub const INITRD_MARKER: &str = "/etc/initrd-release";
    /// Where stage 1 mounts the sealed root before it switches to it.
    pub const SYSROOT: &str = "/sysroot";
    /// Where the EFI system partition is mounted while init needs it.
    pub const ESP: &str = "/efi";
    /// Names of modules (one a line, dependencies are resolved by init) that stage 1 always loads.
    pub const INITRD_MODULES: &str = "/etc/modules-load.d/pillar-initrd.conf";
    /// An installer's program, in an installer's sealed root alone.
    pub const INSTALLER: &str = "/usr/bin/pillar-installer";
    /// What the installer is to do (`pillar_flash::install::Settings` as JSON); where this is, init starts the
    /// installer instead of agent and workload.
    pub const INSTALLER_SETTINGS: &str = "/usr/lib/pillar/installer.json";
    /// The disk images that the installer carries.
    pub const INSTALLER_IMAGES: &str = "/usr/lib/pillar/images";
    /// Names of modules that stage 2 always loads.
    pub const ROOT_MODULES: &str = "/etc/modules-load.d/pillar.conf";
}

/// Where things are while the machine runs; all of it is on tmpfs.
pub mod run {
    /// Owned by init, readable by the agent.
    pub const DIR: &str = "/run/pillar";
    /// `pillar_model::Boot` as JSON, replaced whole by a rename whenever it changes. Written by init only.
    pub const BOOT: &str = "/run/pillar/boot.json";
    /// Every measurement that we made, as TCG CEL in JSON-SEQ (RS, object, LF): see `pillar_measure::cel`.
    pub const CEL: &str = "/run/pillar/cel.jsonseq";
    /// Datagram socket of init, mode 0600, owned by the agent: takes [`super::request`] words.
    pub const INIT_SOCKET: &str = "/run/pillar/init.sock";
    /// What is valid of the measured node settings (`pillar_model::NodeSettings` as JSON), absent when there are none.
    pub const NODE: &str = "/run/pillar/node.json";
    /// Where the workload's directories below `/run` and `/tmp` live.
    pub const WORKLOAD: &str = "/run/workload";
    /// The UKI's signed policies, copied from the initrd by stage 1.
    pub const SIGNED_POLICIES: &str = "/run/pillar/policies.json";
    /// `pillar_model::StateReport` as JSON: what became of the state volume in this boot. Written by `pillar-state`.
    pub const STATE: &str = "/run/pillar/state.json";
    /// The recovery key from the agent, who removes nothing: `pillar-state recover` takes and removes it.
    pub const RECOVERY_KEY: &str = "/run/pillar/agent/recovery.key";
    /// The agent's own folder.
    pub const AGENT: &str = "/run/pillar/agent";
    /// The network program's own folder, readable by all.
    pub const NETWORK: &str = "/run/network";
    /// Name servers in the form of resolv.conf(5); the sealed root's `/etc/resolv.conf` points here.
    pub const RESOLV_CONF: &str = "/run/network/resolv.conf";
}

/// What the agent may ask of init: one word in one datagram.
pub mod request {
    /// Ordered shutdown, then reboot.
    pub const REBOOT: &str = "reboot";
    /// Ordered shutdown, then power off.
    pub const POWER_OFF: &str = "poweroff";
    /// The recovery key lies in [`super::run::RECOVERY_KEY`]: use it, seal anew, reboot.
    pub const RECOVER: &str = "recover";
    /// Ordered shutdown, the state volume's keys destroyed, then reboot: a new volume is made.
    pub const ERASE: &str = "erase";
}

/// Users of the sealed system; there is no login for any of them.
pub mod user {
    /// The agent's user and group.
    pub const AGENT: u32 = 400;
    /// The workload's user and group.
    pub const WORKLOAD: u32 = 401;
    /// The network program's user and group.
    pub const NETWORK: u32 = 402;
}

/// The agent's TCP port: gRPC and `/metrics`, over TLS with the operators' certificates.
pub const AGENT_PORT: u16 = 7443;

/// The agent's TCP port for other pillars: attested before anything else is said.
pub const PEER_PORT: u16 = 7444;

/// Node settings in a virtual machine: the QEMU fw_cfg file of this name.
pub const FW_CFG_NODE: &str = "opt/org.pillar.node";
/// Node settings on a real machine: this file on the EFI system partition.
pub const ESP_NODE: &str = "pillar/node.json";
/// Node settings larger than this are refused: they come from outside the sealed image.
pub const NODE_SETTINGS_MAX_BYTES: usize = 900;

/// GPT partition type GUIDs (Discoverable Partitions Specification, x86-64) and our labels.
pub mod gpt {
    /// EFI system partition.
    pub const TYPE_ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
    /// Root partition, x86-64. The partition's own GUID is the first half of the root hash.
    pub const TYPE_ROOT: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
    /// Root verity partition, x86-64. The partition's own GUID is the second half of the root hash.
    pub const TYPE_ROOT_VERITY: &str = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5";
    /// State partition: `/var` in the specification's list.
    pub const TYPE_STATE: &str = "4d21b016-b534-45c2-a9fb-5c16e091fd2d";

    /// GUID of a root partition that holds no image.
    pub const EMPTY_ROOT: &str = "70696c6c-6172-8e00-8072-6f6f74000000";
    /// GUID of a verity partition that holds no image.
    pub const EMPTY_VERITY: &str = "70696c6c-6172-8e00-8076-657269747900";

    /// Label of the EFI system partition.
    pub const LABEL_ESP: &str = "esp";
    /// Label of slot A's data partition.
    pub const LABEL_ROOT_A: &str = "root-a";
    /// Label of slot A's hash partition.
    pub const LABEL_VERITY_A: &str = "root-a-verity";
    /// Label of slot B's data partition.
    pub const LABEL_ROOT_B: &str = "root-b";
    /// Label of slot B's hash partition.
    pub const LABEL_VERITY_B: &str = "root-b-verity";
    /// Label of the state partition.
    pub const LABEL_STATE: &str = "state";
}

/// Which PCR holds what (DESIGN section 4; UAPI Linux TPM PCR registry).
pub mod pcr {
    /// Loader, UKI and kernel as the firmware's Authenticode measurements.
    pub const BOOT_APPLICATIONS: u8 = 4;
    /// Secure Boot state.
    pub const SECURE_BOOT: u8 = 7;
    /// Initrd and command line, measured by the kernel's EFI stub.
    pub const KERNEL: u8 = 9;
    /// IMA.
    pub const IMA: u8 = 10;
    /// UKI sections by systemd-stub, then our phases.
    pub const UKI: u8 = 11;
    /// Command line overrides and add-ons: must stay zero.
    pub const OVERRIDES: u8 = 12;
    /// Extension images; the node settings, when there are any.
    pub const NODE: u8 = 13;
    /// What became of the state volume; zero until it was opened, so that it opens once a boot.
    pub const IDENTITY: u8 = 15;
    /// What a verifier asks to have quoted, ascending.
    pub const QUOTED: [u8; 13] = [0, 1, 2, 3, 4, 5, 7, 9, 11, 12, 13, 14, 15];
}

/// The phases that init extends into PCR 11, in this order (systemd-pcrphase(8) has the first three's names).
pub mod phase {
    /// Stage 1 begins.
    pub const ENTER_INITRD: &str = "enter-initrd";
    /// Stage 1 is about to switch root.
    pub const LEAVE_INITRD: &str = "leave-initrd";
    /// Stage 2 begins; the only phase in which the state volume opens.
    pub const SYSINIT: &str = "sysinit";
    /// The agent and the workload are about to start.
    pub const READY: &str = "ready";
    /// All of them in order.
    pub const ALL: [&str; 4] = [ENTER_INITRD, LEAVE_INITRD, SYSINIT, READY];
}

/// Keys of the kernel command line that init obeys.
pub mod cmdline {
    /// The verity root hash, 64 hexadecimal digits.
    pub const ROOT_HASH: &str = "roothash";
}

/// Kernel log lines that tools outside wait for; each is a whole record behind `pillar-init: `.
pub mod console {
    /// Prefix of every record of init.
    pub const INIT_PREFIX: &str = "pillar-init: ";
    /// Stage 2 has made everything ready and starts the agent and the workload.
    pub const READY: &str = "phase ready";
    /// The first time the workload's health check passes.
    pub const WORKLOAD_HEALTHY: &str = "workload healthy";
    /// Behind it init's own resident memory, as `1234 KiB`: once, after the workload became healthy.
    pub const RESIDENT: &str = "resident memory ";
    /// The installer has written and compared the image; what and where follows.
    pub const INSTALLED: &str = "installed: ";
    /// The installer wrote no image, or not all of it; the reason follows.
    pub const NOT_INSTALLED: &str = "not installed: ";
    /// Init gives up; the reason follows behind this word, then the machine reboots.
    pub const FATAL: &str = "fatal: ";
}

/// Owner GUID in the EFI signature lists (PK, KEK, db) of our keys: whose entry it is, nothing more.
pub const SIGNATURE_OWNER: &str = "6f1c52d8-3b7e-4d0a-9a46-c1d7e0b25f93";

/// in-toto predicate type of a release statement.
pub const RELEASE_PREDICATE: &str = "urn:pillar:release:v1";
