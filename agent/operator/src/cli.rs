//! The command line as types. Every help text is here and in the modules below.

mod cluster;
mod options;
mod state;

pub use cluster::{Admit, ConstitutionAction, Enroll, Found, Propose, Revoke};
pub use options::{
    BankChoice, Caller, DEFAULT_KEY, Form, Judge, Output, Run, Signing, Target, VerdictForm, VerdictOutput,
    Via, Viewer,
};
pub use state::StateAction;

use clap::{Parser, Subcommand};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  pillar status                        every pillar and who vouches for it, or the one that runs
  pillar explain p3                    why p3 is not trusted or not up, and what to do
  pillar attest p1                     prove what p1 booted, check by check
  pillar attest p2 --from p1           the same, by p1's view of p2
  pillar evidence p1 -o p1.cbor        save evidence, to judge it elsewhere
  pillar policy p1 -o p1.policy.json   save what it is judged by
  pillar verify p1.cbor --policy p1.policy.json    judge saved evidence without a network
  pillar eventlog FILE -o json         replay any firmware's event log
  pillar found p1 p2 p3 p4 --cluster lab           make a cluster of machines that run
  pillar enroll p5                     propose a new machine to the cluster
  pillar admit p5 --key operator-2.key the next operator looks at it and signs
  pillar constitution show             who decides, and what is demanded of each machine
  pillar constitution propose --days 400           the same for another 400 days
  pillar logs p1 -n 20 -f              the last 20 records, then all that follow
  pillar state status p1               is its state volume open, and who can recover it
  pillar attest --addr 192.0.2.7:7443 --ek-ca roots.pem --pins p7.json

Exit codes:
  0  done; for attest and verify: verified
  1  wrong arguments, an unreadable file, or another error
  2  refused: what a machine proves is not what it must be, or the operators decided against it
  3  unreachable: no pillar answers there
  4  denied: the pillar does not serve this key, or could not do what was asked
  5  unknown: there is no pillar of that name
  6  expired: the constitution must be amended before anything else is decided
  7  clock: this machine's clock and the pillar's are too far apart, or a certificate is not valid yet
  8  unsigned: done as far as this operator can; more operators must sign
  9  no cluster: the pillar belongs to none, or to another one";

/// Talk to pillars and judge what they prove.
///
/// A pillar is a machine booted from the sealed image. `status` shows what pillars say about themselves and about each
/// other; `attest` proves it: a fresh challenge, answered by a TPM, checked here against a release, an EK root and what was
/// pinned before. Pillars of a cluster attest each other all the time; who belongs to it, operators decide by signing.
#[derive(Debug, Parser)]
#[command(name = "pillar", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Arguments {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Show the pillars of the cluster, or what one pillar says about itself (not proof)
    ///
    /// Without a name: one line for each pillar, as one of them sees it. The state is up, suspect (attested, but its
    /// heartbeats are late), down (nothing comes from it) or untrusted (what it showed was refused). With a name, or when a
    /// single machine without a cluster runs: name, version, slot, root hash, boot phases with their times, TPM and workload
    /// health, in the pillar's own words.
    Status {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        viewer: Viewer,
        #[command(flatten)]
        form: Form,
    },
    /// Say why a pillar is not trusted or not up, and what to do
    ///
    /// The check that failed, the PCR, the event that changed, in words; for one that is suspect or down, since when and
    /// what was tried; for one that is up, who vouches for it. It is the view of one other pillar.
    Explain {
        /// The member that is to be explained
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        viewer: Viewer,
        #[command(flatten)]
        caller: Caller,
        #[command(flatten)]
        form: Form,
    },
    /// Have a pillar prove what it booted, and print every check
    ///
    /// Draws a fresh nonce, has the pillar's TPM quote its PCRs over it and over this very connection, replays both event
    /// logs, and compares with the release. Firmware PCRs and the attestation key are learnt at the first success and
    /// pinned; a later difference is refused. Of a member of a cluster, what its constitution demands is demanded as well,
    /// where its entries can be had and were signed by your operators; where not, a line says so.
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
        /// Have this member of its cluster attest it now, and print what that one found
        #[arg(long, value_name = "NAME|HOST:PORT", conflicts_with_all = ["forget", "addr"], requires = "name")]
        from: Option<String>,
        #[command(flatten)]
        form: VerdictForm,
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
        /// File that `policy` wrote: release, TPM roots and pins in one, so that nothing else is needed
        #[arg(long, value_name = "FILE", conflicts_with_all = ["release", "ek_ca", "pins"])]
        policy: Option<PathBuf>,
        #[command(flatten)]
        judge: Judge,
        #[command(flatten)]
        bank: BankChoice,
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        form: VerdictForm,
    },
    /// Save what a pillar is judged by, for `verify` on another machine
    ///
    /// For a member of a cluster: the releases, TPM roots, demands and row that its operators signed, from the chain of
    /// entries, which is checked here. For another pillar: the release, the roots and the pins that `attest` uses here.
    Policy {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        judge: Judge,
        #[command(flatten)]
        via: Via,
        /// File to write; it must not exist yet
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Replay a firmware's event log: any TCG log, whatever machine it is from
    ///
    /// Prints the PCRs that it leads to in each bank, its events in words, and the Secure Boot state that it tells. Nothing is
    /// proved by it: what was measured, a quote tells. A log that is not whole or not understood is an error.
    Eventlog {
        /// The log, for example /sys/kernel/security/tpm0/binary_bios_measurements
        file: PathBuf,
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
    /// Make a cluster of machines that run
    ///
    /// Attests each machine afresh, then writes the first entries of the chain: the constitution with the operators and the
    /// trusted TPM makers, the release, one row for each machine. All keys that are given sign all of them. Machines that belong
    /// to a cluster already are left alone; a run that was interrupted is taken up where it stopped.
    Found(Found),
    /// Propose a new machine to the cluster
    ///
    /// Attests the machine afresh, shows what is to be signed, and hands the proposal to a member of the cluster, with this
    /// operator's signature. When more must sign, it prints what the next one types (exit code 8).
    Enroll(Enroll),
    /// Look at a machine that was proposed, and sign for it
    ///
    /// Fetches the proposal, attests the machine afresh by itself, compares, signs. With enough signatures the machine
    /// belongs to the cluster and is handed the chain; with fewer, more operators must sign (exit code 8).
    Admit(Admit),
    /// Propose a member anew whose TPM, firmware or state volume changed (the same as `enroll --replace`)
    ///
    /// Another TPM under a known name is what an attacker would bring: this needs the signatures of the whole threshold.
    Readmit(Enroll),
    /// Propose that a member leaves for good, or sign such a proposal
    ///
    /// What is revoked stays revoked: that TPM is never admitted again, under no name. The first operator gives the reason;
    /// the next ones sign the same proposal.
    Revoke(Revoke),
    /// Show what waits for signatures
    Pending {
        #[command(flatten)]
        via: Via,
        #[command(flatten)]
        caller: Caller,
        #[command(flatten)]
        form: Form,
    },
    /// Show or amend the constitution: operators, threshold, trusted TPM makers, demands on machines
    ///
    /// The document that says who decides. A new version is proposed by one operator (`propose`), looked at and signed by
    /// others (`sign`), and in force when the thresholds of the old and of the new one are met. From then on pillars serve
    /// its operators and nobody else. It expires: amend it before, or nothing else can be decided any more.
    Constitution {
        #[command(subcommand)]
        action: ConstitutionAction,
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
            "pillar status p1=127.0.0.1:7443",
            "pillar status --from p1",
            "pillar explain p3 --from p1 -o json",
            "pillar attest p2 --from p1",
            "pillar attest p2 -o ear --sign-with k.pem",
            "pillar attest --addr 127.0.0.1:7443 --release r.json --pins p.json --ek-ca ca.pem -o json",
            "pillar attest p2 --forget",
            "pillar attest p2 --bank sha384",
            "pillar evidence p2 -o p2.cbor",
            "pillar verify p2.cbor --release r.json --ek-ca ca.pem --pins p.json",
            "pillar verify p2.cbor --policy p2.policy.json -o ear",
            "pillar policy p2 -o p2.policy.json",
            "pillar eventlog log.bin -o json",
            "pillar found --if-several",
            "pillar found p1 p2 p3 --cluster lab --key a.key b.key --threshold 2 --ek-ca ca.pem",
            "pillar found p1=192.0.2.1:7443 p2=192.0.2.2:7443 --peer p1=10.0.0.1:7444",
            "pillar enroll p5 --via p1 --no-sign",
            "pillar enroll p5 --replace",
            "pillar readmit p5",
            "pillar admit p5 --key operator-2.key --via p1",
            "pillar admit p5 --ssh-agent me@desk --trust-proposal",
            "pillar revoke p3 --reason stolen",
            "pillar revoke p3 --key operator-2.key",
            "pillar pending --via p1 -o json",
            "pillar constitution show -o json",
            "pillar constitution propose next.json",
            "pillar constitution propose --remove-operator operator-3 --add-operator dora.crt --threshold 2",
            "pillar constitution propose --deny-tpm-firmware IFX:4.0.0.0-4.33.0.0 id:00001014:1.2.3.4 --days 400",
            "pillar constitution sign --key operator-2.key -o json",
            "pillar constitution propose --remove-operator operator-1 --even-me",
            "pillar constitution sign --even-me --even-all",
            "pillar enroll p5 -o json",
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
            "pillar attest --from p1",
            "pillar attest p2 --from p1 --forget",
            "pillar verify p2.cbor --policy p.json --pins q.json",
            "pillar explain",
            "pillar policy p2",
            "pillar enroll",
            "pillar constitution",
            "pillar constitution propose",
            "pillar constitution propose --deny-tpm-firmware 4.0.0.0",
            "pillar constitution propose --require-dbx abcd",
            "pillar constitution propose --require-dbx 5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
