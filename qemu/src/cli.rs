//! The command line.

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use pillar_model::Bank;
use pillar_qemu::{DiskBus, Hardware, Nic, SECTOR_4K, SECTOR_USUAL, TpmInterface};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// The flavour whose images are in out/ itself; another one's are in out/FLAVOUR.
const DEFAULT_FLAVOUR: &str = "virt";

/// How many machines one `up` starts at most: each takes half a gigabyte.
const MACHINES_MAX: usize = 32;

/// Virtual machines with a TPM that boot the sealed image
#[derive(Debug, Parser)]
#[command(name = "pillar-qemu", version, max_term_width = 100)]
pub struct Cli {
    /// Where the machines' folders are
    #[arg(
        long = "run-dir",
        value_name = "DIR",
        env = "PILLAR_RUN_DIR",
        default_value = "out/run",
        global = true
    )]
    pub run_dir: PathBuf,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text, global = true)]
    pub output: Output,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start machines and wait until their agents answer
    Up(Up),
    /// Print a machine's console and follow it
    Console {
        /// The machine; not needed when there is one
        name: Option<String>,
        /// Print what there is and end
        #[arg(long)]
        no_follow: bool,
    },
    /// Stop machines; all that run when none is named
    Down {
        /// The machines
        names: Vec<String>,
        /// All that run
        #[arg(long, conflicts_with = "names")]
        all: bool,
        /// Press the power button and wait so many seconds before QEMU is ended
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        grace: u64,
    },
    /// Show and disturb the network between machines that were started together
    #[command(after_help = LAB_HELP)]
    Lab {
        #[command(subcommand)]
        command: Lab,
    },
    /// Carry the frames between the machines of a lab; `up` starts it in the background
    #[command(hide = true)]
    Switch,
    /// List the machines
    List,
    /// Press a machine's reset button
    Reset {
        /// The machine; not needed when there is one
        name: Option<String>,
    },
}

/// What the words of `lab` mean.
const LAB_HELP: &str = "\
WHERE:
  p1 p2   both directions between two machines
  p1:p2   from p1 to p2 alone
  p1      all that p1 sends and receives
  all     all directions between all machines
TIME is a number with us, ms, s or m (200ms); SHARE is a percentage (20%).
Each fault stays until it is set to 0, or until `reset`. Chance is repeatable: `reset --seed N`.";

/// The words of `lab`, which are those of a script's lines too.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Lab {
    /// Print machines, partitions, and directions with faults
    Show {
        /// Every direction with the counts of its frames
        #[arg(long)]
        all: bool,
    },
    /// Let frames take so much longer, in their order
    #[command(after_help = LAB_HELP, override_usage = "pillar-qemu lab delay WHERE TIME [--jitter TIME]")]
    Delay {
        /// Which directions, and how long
        #[arg(value_name = "WHERE TIME", num_args = 2..=3, required = true)]
        words: Vec<String>,
        /// And up to so much more or less
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
        jitter: Duration,
    },
    /// Lose a share of the frames
    #[command(after_help = LAB_HELP, override_usage = "pillar-qemu lab loss WHERE SHARE")]
    Loss {
        /// Which directions, and how many
        #[arg(value_name = "WHERE SHARE", num_args = 2..=3, required = true)]
        words: Vec<String>,
    },
    /// Deliver a share of the frames twice
    #[command(after_help = LAB_HELP, override_usage = "pillar-qemu lab dup WHERE SHARE")]
    Dup {
        /// Which directions, and how many
        #[arg(value_name = "WHERE SHARE", num_args = 2..=3, required = true)]
        words: Vec<String>,
    },
    /// Hold a share of the frames back by 20 ms, so that others overtake them
    #[command(after_help = LAB_HELP, override_usage = "pillar-qemu lab reorder WHERE SHARE")]
    Reorder {
        /// Which directions, and how many
        #[arg(value_name = "WHERE SHARE", num_args = 2..=3, required = true)]
        words: Vec<String>,
    },
    /// Let so many kilobits pass in a second; 0 is no limit
    #[command(after_help = LAB_HELP, override_usage = "pillar-qemu lab rate WHERE KBIT")]
    Rate {
        /// Which directions, and how many
        #[arg(value_name = "WHERE KBIT", num_args = 2..=3, required = true)]
        words: Vec<String>,
    },
    /// Keep groups of machines apart: `partition p1,p2 p3,p4`; machines in none are one more group
    Partition {
        /// Names with commas between them
        #[arg(value_name = "GROUP", required = true)]
        groups: Vec<String>,
    },
    /// End the partition
    Heal,
    /// End all faults and the partition
    Reset {
        /// Begin chance anew with this number
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
    },
    /// Do nothing for a while: for scripts
    Wait {
        /// How long
        #[arg(value_name = "TIME", value_parser = duration)]
        time: Duration,
    },
    /// Run the lines of a file, each of which is one of these commands; # begins a comment
    Script {
        /// The file; - is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Run it so many times
        #[arg(long, value_name = "N", default_value_t = 1)]
        repeat: u32,
    },
}

/// A time as people write it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0)];
    let wrong = || format!("{text:?} is not a time: a number with us, ms, s or m, for example 200ms");
    let (digits, unit) = units
        .iter()
        .find_map(|(word, unit)| Some((text.strip_suffix(word)?, unit)))
        .filter(|(digits, _)| digits.ends_with(|c: char| c.is_ascii_digit()))
        .ok_or_else(wrong)?;
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * unit).map_err(|_| wrong())
}

#[derive(Debug, Args)]
pub struct Up {
    /// Names, or how many (p1, p2 …); default: p1
    #[arg(value_name = "N|NAME")]
    pub machines: Vec<String>,
    /// Disk image; it is copied, never written. Default: the newest of the flavour in out/
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Take the newest image of this flavour
    #[arg(long, default_value = DEFAULT_FLAVOUR, conflicts_with = "image")]
    pub flavour: String,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u32).range(128..=65536))]
    pub memory: u32,
    /// Processors
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,
    /// What the disk hangs on: virtio-blk, virtio-scsi, nvme, ahci, usb or sd
    #[arg(long, value_name = "BUS", default_value_t = DiskBus::VirtioBlk)]
    pub disk_bus: DiskBus,
    /// Bytes of the disk's sectors: 512, or 4096 (takes the flavour's image for such disks)
    #[arg(long, value_name = "BYTES", default_value_t = SECTOR_USUAL)]
    pub sector_size: u32,
    /// The network card: virtio, e1000e, igb or vmxnet3
    #[arg(long, value_name = "CARD", default_value_t = Nic::Virtio)]
    pub nic: Nic,
    /// The TPM's interface: crb or tis
    #[arg(long, value_name = "INTERFACE", default_value_t = TpmInterface::Crb, conflicts_with = "no_tpm")]
    pub tpm: TpmInterface,
    /// The banks that are active in the PCRs of a new TPM: sha1, sha256, sha384, sha512
    #[arg(long, value_name = "BANK", value_delimiter = ',', default_values = ["sha256", "sha384"], value_parser = bank)]
    pub tpm_banks: Vec<Bank>,
    /// A graphics card, so that there is a framebuffer console
    #[arg(long)]
    pub display: bool,
    /// Forward a port of 127.0.0.1 (a free one when left out) to a port of the machine
    #[arg(long, value_name = "[HOST:]GUEST", default_values = ["8080"])]
    pub forward: Vec<Forward>,
    /// Port of 127.0.0.1 for the agent; default: a free one
    #[arg(long, value_name = "PORT")]
    pub agent_port: Option<u16>,
    /// Begin with a new disk, a new TPM and firmware as from the factory
    #[arg(long)]
    pub fresh: bool,
    /// Without the network that several machines have in common
    #[arg(long)]
    pub alone: bool,
    /// What chance begins with on the network between machines; default: any number, which is printed
    #[arg(long, value_name = "N", conflicts_with = "alone")]
    pub lab_seed: Option<u64>,
    /// Stay, print the console, and take the machine along when this command ends
    #[arg(long)]
    pub foreground: bool,
    /// Without a TPM (it boots, and no verifier accepts it)
    #[arg(long)]
    pub no_tpm: bool,
    /// Without Secure Boot (it boots, and no verifier accepts it)
    #[arg(long)]
    pub no_secure_boot: bool,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub timeout: u64,
}

/// A PCR bank by its name.
fn bank(text: &str) -> Result<Bank, String> {
    let known = [Bank::Sha1, Bank::Sha256, Bank::Sha384, Bank::Sha512];
    known.into_iter().find(|bank| bank.to_string() == text).ok_or_else(|| format!("{text:?} is no PCR bank"))
}

impl Up {
    /// The devices that are meant.
    pub fn hardware(&self) -> Hardware {
        let Self { disk_bus, sector_size, nic, tpm, display, .. } = *self;
        Hardware { disk_bus, sector_bytes: sector_size, nic, tpm, display }
    }

    /// What the file name of a disk image for these sectors ends in.
    pub fn image_extension(&self) -> &'static str {
        if self.sector_size == SECTOR_4K { "4k.raw" } else { "raw" }
    }

    /// Where `./just image` puts the images of that flavour.
    pub fn images(&self) -> PathBuf {
        let out = Path::new("out");
        if self.flavour == DEFAULT_FLAVOUR { out.to_owned() } else { out.join(&self.flavour) }
    }

    /// The machines that are meant.
    pub fn names(&self) -> Result<Vec<String>> {
        let names = match self.machines.as_slice() {
            [] => vec!["p1".to_owned()],
            [count] if count.bytes().all(|b| b.is_ascii_digit()) => {
                let count: usize =
                    count.parse().with_context(|| format!("{count} is not a number of machines"))?;
                if !(1..=MACHINES_MAX).contains(&count) {
                    bail!("{count} machines: 1 to {MACHINES_MAX} can be started at once");
                }
                (1..=count).map(|n| format!("p{n}")).collect()
            }
            names => names.to_vec(),
        };
        let mut seen = names.clone();
        seen.sort();
        seen.dedup();
        if seen.len() != names.len() {
            bail!("a machine is named twice");
        }
        for name in &names {
            pillar_qemu::check_name(name)?;
        }
        if names.len() > 1 && self.foreground {
            bail!("--foreground takes one machine");
        }
        if names.len() > 1 && (self.agent_port.is_some() || self.forward.iter().any(|f| f.host != 0)) {
            bail!(
                "a port of the host can be given to one machine only: leave it out to have one picked for each"
            );
        }
        Ok(names)
    }
}

/// A port of the host (0: any) and one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    pub host: u16,
    pub guest: u16,
}

impl FromStr for Forward {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(format!("{text:?} is not a port (1 to 65535)")),
        };
        match text.split_once(':') {
            Some((host, guest)) => Ok(Self { host: port(host)?, guest: port(guest)? }),
            None => Ok(Self { host: 0, guest: port(text)? }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &[&str]) -> Result<Vec<String>, String> {
        let cli = Cli::try_parse_from([&["pillar-qemu", "up"], words].concat()).map_err(|e| e.to_string())?;
        let Command::Up(up) = cli.command else { return Err("not up".to_owned()) };
        up.names().map_err(|e| e.to_string())
    }

    #[test]
    fn machines_by_number_and_by_name() {
        assert_eq!(names(&[]), Ok(vec!["p1".to_owned()]));
        assert_eq!(names(&["2"]), Ok(vec!["p1".to_owned(), "p2".to_owned()]));
        assert_eq!(names(&["a", "b"]), Ok(vec!["a".to_owned(), "b".to_owned()]));
        for wrong in
            [&["0"][..], &["33"], &["a", "a"], &["../x"], &["2", "--foreground"], &["2", "--agent-port", "1"]]
        {
            assert!(names(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn times() {
        for (text, us) in
            [("200ms", 200_000), ("1.5s", 1_500_000), ("7us", 7), ("2m", 120_000_000), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_micros(us)), "{text}");
        }
        for wrong in ["200", "ms", "-1s", "1h", "infs", "nans", "1 s", ""] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn forwards() {
        assert_eq!("8080".parse(), Ok(Forward { host: 0, guest: 8080 }));
        assert_eq!("1:2".parse(), Ok(Forward { host: 1, guest: 2 }));
        for wrong in ["", "0", "a", "1:", "70000", "1:2:3"] {
            assert!(wrong.parse::<Forward>().is_err(), "{wrong}");
        }
    }
}
