//! Founding a cluster and deciding who belongs to it, as types.

use super::options::{Caller, Form, Judge, Run, Signing, Via};
use clap::{Args, Subcommand};
use pillar_model::{DbxEntry, DeniedTpmFirmware};
use pillar_signer::{PassphraseFrom, Source};
use std::path::PathBuf;

/// See [`super::Action::Found`].
#[derive(Debug, Args)]
pub struct Found {
    /// Machines of `./just up` by name, or NAME=HOST:PORT [default: all that run]
    #[arg(value_name = "NAME|NAME=HOST:PORT")]
    pub names: Vec<String>,
    /// Name of the cluster
    #[arg(long, value_name = "NAME", default_value = "lab")]
    pub cluster: String,
    /// Keys of the operators who sign: files, or agent:WHICH; the first file also asks the machines [default:
    /// keys/dev/operator-*.key]
    #[arg(long, value_name = "KEY", num_args = 1..)]
    pub key: Vec<Source>,
    /// Where the passphrases of encrypted keys come from: the first line of a file, or fd:N [default: the terminal]
    #[arg(long, value_name = "FILE|fd:N")]
    pub passphrase_from: Option<PassphraseFrom>,
    /// Operator's certificate for the connections [default: the file beside the first key whose name ends in .crt]
    #[arg(long, value_name = "FILE", env = "PILLAR_CERT")]
    pub cert: Option<PathBuf>,
    /// Certificates of all operators of the constitution [default: those beside the keys]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub operators: Vec<PathBuf>,
    /// How many operators must sign what comes later [default: more than half of them]
    #[arg(long, value_name = "K")]
    pub threshold: Option<u32>,
    /// Days until the constitution expires; it must be amended before
    #[arg(long, value_name = "DAYS", default_value_t = 3650)]
    pub days: u32,
    /// Where a machine is called by the others [default: from its measured settings]
    #[arg(long, value_name = "NAME=HOST:PORT")]
    pub peer: Vec<String>,
    /// Print nothing when there is nothing to do: for scripts
    #[arg(long)]
    pub if_several: bool,
    #[command(flatten)]
    pub judge: Judge,
    #[command(flatten)]
    pub run: Run,
}

/// See [`super::Action::Enroll`].
#[derive(Debug, Args)]
pub struct Enroll {
    /// The machine: by name, or NAME=HOST:PORT
    #[arg(value_name = "NAME|NAME=HOST:PORT")]
    pub name: String,
    /// It takes the place of the member of that name: TPM, firmware or state volume changed
    #[arg(long)]
    pub replace: bool,
    /// Propose without a signature
    #[arg(long)]
    pub no_sign: bool,
    /// Where the machine is called by the others [default: from its measured settings]
    #[arg(long, value_name = "HOST:PORT")]
    pub peer: Vec<String>,
    #[command(flatten)]
    pub via: Via,
    #[command(flatten)]
    pub signing: Signing,
    #[command(flatten)]
    pub judge: Judge,
    #[command(flatten)]
    pub caller: Caller,
    #[command(flatten)]
    pub form: Form,
}

/// See [`super::Action::Admit`].
#[derive(Debug, Args)]
pub struct Admit {
    /// The machine that was proposed: by name, or NAME=HOST:PORT
    #[arg(value_name = "NAME|NAME=HOST:PORT")]
    pub name: String,
    /// Sign without asking the machine: when it cannot be reached from here, and the proposal was compared otherwise
    #[arg(long)]
    pub trust_proposal: bool,
    #[command(flatten)]
    pub via: Via,
    #[command(flatten)]
    pub signing: Signing,
    #[command(flatten)]
    pub judge: Judge,
    #[command(flatten)]
    pub caller: Caller,
    #[command(flatten)]
    pub form: Form,
}

/// See [`super::Action::Revoke`].
#[derive(Debug, Args)]
pub struct Revoke {
    /// The member
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Why, for those who read the log later; needed for a new proposal
    #[arg(long, value_name = "WORDS")]
    pub reason: Option<String>,
    #[command(flatten)]
    pub via: Via,
    #[command(flatten)]
    pub signing: Signing,
    #[command(flatten)]
    pub caller: Caller,
    #[command(flatten)]
    pub form: Form,
}

/// What to do about the constitution.
#[derive(Debug, Subcommand)]
pub enum ConstitutionAction {
    /// Print the constitution that is in force
    ///
    /// Who the operators are, how many of them decide, which TPM makers are trusted, what is demanded of each machine, and
    /// until when it holds. With -o json it is the document that `propose` takes.
    Show {
        #[command(flatten)]
        via: Via,
        #[command(flatten)]
        caller: Caller,
        #[command(flatten)]
        form: Form,
    },
    /// Propose the next version, with this operator's signature
    ///
    /// The present constitution with the changes that the options name; or a whole new document in a file: print the present
    /// one with `show -o json`, raise its version by one, change what is to change. It is in force when the threshold of the
    /// present version and that of the new one have signed; until then nothing changes (exit code 8). Before anything is
    /// signed, it is said which members would not be trusted any more. In force, it is handed to every member that runs.
    Propose(Box<Propose>),
    /// Sign the version that was proposed, after a look at what changes
    ///
    /// Shows what is added, what is taken away and which members it would cost, then asks. With enough signatures it is in
    /// force at once; with fewer, more operators must sign (exit code 8).
    Sign {
        #[command(flatten)]
        via: Via,
        #[command(flatten)]
        signing: Signing,
        #[command(flatten)]
        caller: Caller,
        /// Do not ask whether the changes are meant
        #[arg(long)]
        yes: bool,
        /// Sign although no member would be trusted any more; see `propose`
        #[arg(long)]
        even_all: bool,
        /// Sign although no pillar would serve your own key any more
        #[arg(long)]
        even_me: bool,
        #[command(flatten)]
        form: Form,
    },
}

/// See [`ConstitutionAction::Propose`].
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub struct Propose {
    /// The whole new document, JSON [default: the present one, with its version raised by one]
    #[arg(group = "change")]
    pub file: Option<PathBuf>,
    /// Take in the operators whose certificates are in this file (PEM, Ed25519)
    #[arg(long, value_name = "FILE", num_args = 1.., group = "change")]
    pub add_operator: Vec<PathBuf>,
    /// Take out the operator of this name: pillars stop to serve the key when it is in force
    #[arg(long, value_name = "NAME", num_args = 1.., group = "change")]
    pub remove_operator: Vec<String>,
    /// Let so many operators decide: more than half of them
    #[arg(long, value_name = "K", group = "change")]
    pub threshold: Option<u32>,
    /// Believe no TPM with this firmware: its maker and a version, or the first and the last one, such as
    /// IFX:4.0.0.0-4.33.65535.65535. `pillar attest` prints both of a machine
    #[arg(long, value_name = "MAKER:VERSION[-VERSION]", num_args = 1.., group = "change")]
    pub deny_tpm_firmware: Vec<DeniedTpmFirmware>,
    /// Demand that each machine's Secure Boot forbids this: image: and the SHA-256 of an image (Authenticode), or
    /// certificate: and that of a certificate (DER)
    #[arg(long, value_name = "KIND:SHA256", num_args = 1.., group = "change")]
    pub require_dbx: Vec<DbxEntry>,
    /// Let it expire in so many days
    #[arg(long, value_name = "DAYS", group = "change")]
    pub days: Option<u32>,
    /// Sign although no member would be trusted any more. The pillars then part from each other: to undo it, amend again and
    /// run `pillar found`, which gives the entries to each machine by itself
    #[arg(long)]
    pub even_all: bool,
    /// Sign although no pillar would serve your own key any more, because the new version does not name you
    #[arg(long)]
    pub even_me: bool,
    #[command(flatten)]
    pub via: Via,
    #[command(flatten)]
    pub signing: Signing,
    #[command(flatten)]
    pub caller: Caller,
    #[command(flatten)]
    pub form: Form,
}
