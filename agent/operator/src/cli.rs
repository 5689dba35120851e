//! The command line as types. Every help text is here.

use clap::{Args, Parser, Subcommand, ValueEnum};
use pillar_model::Bank;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  pillar status                        the pillar that runs, as it describes itself
  pillar attest p1                     prove what p1 booted, check by check
  pillar evidence p1 -o p1.cbor        save evidence, to judge it elsewhere
  pillar verify p1.cbor                judge saved evidence without a network
  pillar logs p1 -n 20 -f              the last 20 records, then all that follow
  pillar state status p1               is its state volume open, and who can recover it
  pillar attest --addr 192.0.2.7:7443 --ek-ca roots.pem --pins p7.json

Exit codes:
  0  done; for attest and verify: verified
  1  wrong arguments, an unreadable file, or another error
  2  refused: the evidence does not prove what the release says
  3  unreachable: no pillar answers there
  4  denied: the pillar does not serve this key, or could not do what was asked";

/// Talk to pillars and judge what they prove.
///
/// A pillar is a machine booted from the sealed image. `status` shows what one says about itself; `attest` proves it: a
/// fresh challenge, answered by its TPM, checked here against a release, an EK root and what was pinned before.
#[derive(Debug, Parser)]
#[command(name = "pillar", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Arguments {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Show what a pillar says about itself (not proof)
    ///
    /// Name, version, slot, root hash, boot phases with their times, TPM and workload health, in the pillar's own words.
    Status {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        form: Form,
    },
    /// Have a pillar prove what it booted, and print every check
    ///
    /// Draws a fresh nonce, has the pillar's TPM quote its PCRs over it and over this very connection, replays both event
    /// logs, and compares with the release. Firmware PCRs and the attestation key are learnt at the first success and
    /// pinned; a later difference is refused.
    Attest {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        judge: Judge,
        #[command(flatten)]
        bank: BankChoice,
        /// Learn this machine anew, whatever was pinned (after a firmware update that you made yourself)
        #[arg(long)]
        forget: bool,
        #[command(flatten)]
        form: Form,
    },
    /// Save a pillar's evidence to a file, to be judged by `verify`
    ///
    /// The file holds no secret: quote, keys, certificate, event logs, and the challenge that they answer.
    Evidence {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        bank: BankChoice,
        /// File to write; it must not exist yet
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Judge saved evidence without a network
    ///
    /// That the attestation key lives in the same TPM as the endorsement key can only be proved to someone who asks the
    /// TPM: so the key must be pinned by an earlier `attest`. Saved evidence says what was true when it was made.
    Verify {
        /// File that `evidence` wrote
        file: PathBuf,
        #[command(flatten)]
        judge: Judge,
        #[command(flatten)]
        bank: BankChoice,
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        form: Form,
    },
    /// Print a pillar's log: kernel, init, agent and workload
    Logs {
        #[command(flatten)]
        target: Target,
        /// At most so many records from the past; 0 is all that is kept
        #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
        lines: u32,
        /// Go on with what comes, until interrupted
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        form: Form,
    },
    /// Show, recover or erase a pillar's state volume
    State {
        #[command(subcommand)]
        action: StateAction,
    },
    /// Shut a pillar down in order, then start it again
    Reboot {
        #[command(flatten)]
        target: Target,
        /// Power off instead
        #[arg(long)]
        power_off: bool,
    },
    /// Print a completion script for a shell
    ///
    /// For example: pillar completions bash > ~/.local/share/bash-completion/completions/pillar
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    ///
    /// For example: pillar man | man -l -
    Man,
}

/// What to do about a state volume.
#[derive(Debug, Subcommand)]
pub enum StateAction {
    /// Show what became of the state volume in this boot
    ///
    /// Open or not and why, UUID, size, integrity, the least security epoch that opens it, and which operators can recover
    /// it.
    Status {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        form: Form,
    },
    /// Give your share of the recovery key to a pillar whose TPM does not open its volume
    ///
    /// The pillar is attested first: a share goes only to one that runs the release, whatever its volume. When enough
    /// operators have given theirs (within ten minutes), the pillar seals the volume to its TPM anew and reboots.
    Recover {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        judge: Judge,
    },
    /// Destroy the keys of the state volume and everything on it, then make a new one
    ///
    /// Not to be undone. The workload's data is gone; the pillar reboots with an empty volume, which has to be learnt anew
    /// (`pillar attest --forget`).
    Erase {
        #[command(flatten)]
        target: Target,
        /// Do not ask for the pillar's name first
        #[arg(long)]
        yes: bool,
    },
}

/// Which pillar, and who asks.
#[derive(Debug, Args)]
pub struct Target {
    /// A machine of `./just up` by name, or HOST:PORT; without it, the one that runs
    #[arg(value_name = "NAME|HOST:PORT", conflicts_with = "addr")]
    pub name: Option<String>,
    /// The pillar's agent at HOST:PORT
    #[arg(long, value_name = "HOST:PORT")]
    pub addr: Option<String>,
    /// Operator's private key (PKCS#8, PEM)
    #[arg(long, value_name = "FILE", env = "PILLAR_KEY", default_value = "keys/dev/operator-1.key")]
    pub key: PathBuf,
    /// Operator's certificate (PEM)
    #[arg(long, value_name = "FILE", env = "PILLAR_CERT", default_value = "keys/dev/operator-1.crt")]
    pub cert: PathBuf,
    #[command(flatten)]
    pub run: Run,
}

/// Where the machines of `./just up` keep their files.
#[derive(Debug, Args)]
pub struct Run {
    /// Folder with one folder per machine
    #[arg(long = "run-dir", value_name = "DIR", env = "PILLAR_RUN_DIR", default_value = "out/run")]
    pub dir: PathBuf,
}

/// What evidence is compared with.
#[derive(Debug, Args)]
pub struct Judge {
    /// The release that must run [default: the machine's own record, else out/release.json]
    #[arg(long, value_name = "FILE", env = "PILLAR_RELEASE")]
    pub release: Option<PathBuf>,
    /// PEM certificates of the authorities that may have certified the TPM [default: the machine's own record]
    #[arg(long, value_name = "FILE", env = "PILLAR_EK_CA")]
    pub ek_ca: Option<PathBuf>,
    /// What was learnt about this machine [default: pins.json in its run folder]
    #[arg(long, value_name = "FILE")]
    pub pins: Option<PathBuf>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn lines_people_type_are_understood() {
        for line in [
            "pillar status",
            "pillar status p1 -o json",
            "pillar status 127.0.0.1:7443",
            "pillar attest --addr 127.0.0.1:7443 --release r.json --pins p.json --ek-ca ca.pem -o json",
            "pillar attest p2 --forget",
            "pillar attest p2 --bank sha384",
            "pillar evidence p2 -o p2.cbor",
            "pillar verify p2.cbor --release r.json --ek-ca ca.pem --pins p.json",
            "pillar logs -n 5 -f",
            "pillar reboot p1 --power-off",
            "pillar state status p1 -o json",
            "pillar state recover p1 --key k.pem --cert c.pem",
            "pillar state erase p1 --yes",
            "pillar completions bash",
            "pillar man",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "pillar",
            "pillar status p1 --addr 127.0.0.1:1",
            "pillar evidence p1",
            "pillar verify",
            "pillar sell",
            "pillar attest --bank sha1",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
