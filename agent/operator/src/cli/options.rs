//! Options that several commands share.

use crate::signer::Opened;
use clap::{Args, ValueEnum};
use pillar_model::Bank;
use pillar_signer::{PassphraseFrom, Source, Which};
use std::path::{Path, PathBuf};

/// The key that `./just keys` makes first.
pub const DEFAULT_KEY: &str = "keys/dev/operator-1.key";

/// Options of one kind stand together, behind those of the command itself.
const WHO_ASKS: &str = "Who asks, and where the machines are";
const COMPARED: &str = "What evidence is compared with";
const CLUSTER: &str = "Which cluster";
const SIGNATURE: &str = "Signature";

/// Which pillar, and who asks.
#[derive(Debug, Args)]
pub struct Target {
    /// A machine of `./just up` by name, HOST:PORT, or NAME=HOST:PORT; without it, the one that runs
    #[arg(value_name = "NAME|HOST:PORT", conflicts_with = "addr")]
    pub name: Option<String>,
    /// The pillar's agent at HOST:PORT
    #[arg(long, value_name = "HOST:PORT")]
    pub addr: Option<String>,
    #[command(flatten)]
    pub caller: Caller,
}

/// Who asks, and where the machines are.
#[derive(Debug, Clone, Args)]
pub struct Caller {
    /// Operator's private key (PKCS#8, PEM; perhaps encrypted)
    #[arg(help_heading = WHO_ASKS, long, value_name = "FILE", env = "PILLAR_KEY", default_value = DEFAULT_KEY)]
    pub key: PathBuf,
    /// Operator's certificate (PEM) [default: the file beside the key whose name ends in .crt]
    #[arg(help_heading = WHO_ASKS, long, value_name = "FILE", env = "PILLAR_CERT")]
    pub cert: Option<PathBuf>,
    /// Where the passphrase of an encrypted key comes from: the first line of a file, or fd:N [default: the terminal]
    #[arg(help_heading = WHO_ASKS, long, value_name = "FILE|fd:N")]
    pub passphrase_from: Option<PassphraseFrom>,
    /// Keys that were opened already.
    #[arg(skip)]
    pub opened: Opened,
    #[command(flatten)]
    pub run: Run,
}

impl Caller {
    /// The certificate that goes with the key.
    pub fn cert(&self) -> PathBuf {
        self.cert.clone().unwrap_or_else(|| beside(&self.key))
    }
}

/// `operator-2.crt` for `operator-2.key`; the development certificate where there is no such file.
fn beside(key: &Path) -> PathBuf {
    let own = key.with_extension("crt");
    if own.is_file() { own } else { Path::new(DEFAULT_KEY).with_extension("crt") }
}

/// Where the machines of `./just up` keep their files.
#[derive(Debug, Clone, Args)]
pub struct Run {
    /// Folder with one folder per machine
    #[arg(help_heading = WHO_ASKS, long = "run-dir", value_name = "DIR", env = "PILLAR_RUN_DIR", default_value = "out/run")]
    pub dir: PathBuf,
}

/// What evidence is compared with.
#[derive(Debug, Clone, Default, Args)]
pub struct Judge {
    /// The release that must run [default: the machine's own record, else out/release.json]
    #[arg(help_heading = COMPARED, long, value_name = "FILE", env = "PILLAR_RELEASE")]
    pub release: Option<PathBuf>,
    /// PEM certificates of the authorities that may have certified the TPM [default: the machine's own record]
    #[arg(help_heading = COMPARED, long, value_name = "FILE", env = "PILLAR_EK_CA")]
    pub ek_ca: Option<PathBuf>,
    /// What was learnt about this machine [default: pins.json in its run folder]
    #[arg(help_heading = COMPARED, long, value_name = "FILE")]
    pub pins: Option<PathBuf>,
}

/// Whose view of the cluster is asked for.
#[derive(Debug, Clone, Default, Args)]
pub struct Viewer {
    /// The pillar whose view it is [default: the first machine that answers]
    #[arg(long, value_name = "NAME|HOST:PORT")]
    pub from: Option<String>,
}

/// Which member of the cluster takes a statement.
#[derive(Debug, Clone, Default, Args)]
pub struct Via {
    /// The member that is asked and told [default: the first machine that answers and belongs to a cluster]
    #[arg(help_heading = CLUSTER, long, value_name = "NAME|HOST:PORT")]
    pub via: Option<String>,
    /// PEM certificates of the operators who may found a cluster [default: operator-*.crt beside the certificate]
    #[arg(help_heading = CLUSTER, long, value_name = "FILE", num_args = 1..)]
    pub operators: Vec<PathBuf>,
}

/// What signs a statement.
#[derive(Debug, Clone, Default, Args)]
pub struct Signing {
    /// Sign with an Ed25519 key of the ssh-agent instead of the key file: by comment, fingerprint or public key
    #[arg(help_heading = SIGNATURE, long, value_name = "WHICH")]
    pub ssh_agent: Option<Which>,
    /// Sign although this key signed another decision for the same place in the chain, which was given up
    #[arg(help_heading = SIGNATURE, long)]
    pub instead: bool,
}

/// Which of the TPM's banks.
#[derive(Debug, Clone, Copy, Args)]
pub struct BankChoice {
    /// The bank of PCRs that is quoted and judged
    #[arg(long, value_name = "BANK", default_value = "sha256")]
    pub bank: QuotedBank,
}

/// A bank that may be quoted. What a pillar seals, it seals to SHA-256: a machine without that bank is no whole pillar,
/// and is refused unless it is asked for another one by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuotedBank {
    /// SHA-256
    Sha256,
    /// SHA-384
    Sha384,
}

impl From<BankChoice> for Bank {
    fn from(choice: BankChoice) -> Bank {
        match choice.bank {
            QuotedBank::Sha256 => Bank::Sha256,
            QuotedBank::Sha384 => Bank::Sha384,
        }
    }
}

/// How to print.
#[derive(Debug, Clone, Copy, Args)]
pub struct Form {
    /// Form of the output
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// How to print a verdict.
#[derive(Debug, Clone, Args)]
pub struct VerdictForm {
    /// Form of the output
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    pub output: VerdictOutput,
    /// Sign the attestation result with an operator's key (a file, or agent:WHICH): prints a JWS (EdDSA, compact)
    #[arg(long, value_name = "KEY")]
    pub sign_with: Option<Source>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VerdictOutput {
    /// For people
    Text,
    /// For programs
    Json,
    /// An attestation result for other programs (EAR, draft-ietf-rats-ear), in JSON
    Ear,
}
