//! The command line. `key=value` words mean the same as `--key value`, because that is how `./just image` passes them.

use crate::error::Error;
use clap::{Args, Parser, Subcommand, ValueEnum};
use pillar_flash::install::Rule;
use pillar_keys::KeySource;
use std::path::{Path, PathBuf};

/// What is built when no flavour is named.
pub const DEFAULT_FLAVOUR: &str = "virt";

/// Where that goes.
const OUT: &str = "out";

/// Builds sealed Pillar images and shows what is in them.
#[derive(Debug, Parser)]
#[command(name = "pillar-image", version, after_help = EXIT_CODES)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Action,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 the image was not built (nothing was changed), 2 wrong usage, \
                          2 also when `repro` or `compare` found a difference, \
                          129, 130, 143 interrupted by SIGHUP, SIGINT, SIGTERM (nothing was changed).";

const INSTALLER_EXIT_CODES: &str = "Exit codes: 0 built, 1 failed, 2 wrong usage, 3 there is no whole release to \
                                    install; whenever it is not 0, nothing was changed.";

const FLASH_EXIT_CODES: &str = "Exit codes: 0 written and compared, 1 failed (the disk does not boot), 2 wrong usage, \
                                3 refused (nothing was written), 130 interrupted (the disk does not boot).";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Build an image into out/
    Build(BuildOptions),
    /// List the files of a sealed root: mode, owner, size, path
    List(ListOptions),
    /// Resolve the Debian packages anew, write the lock files, show what changed
    Lock(LockOptions),
    /// Build a USB image that writes the image in out/ to a machine's disk
    #[command(after_help = INSTALLER_EXIT_CODES)]
    Installer(InstallerOptions),
    /// Write an image to a disk, read it back, and make it bootable last of all
    #[command(after_help = FLASH_EXIT_CODES)]
    Flash(FlashOptions),
    /// Make sure of the Debian trees that a build needs, from the locked packages
    Trees(TreesOptions),
    /// Build twice, as differently as this host allows, and compare every output
    Repro(ReproOptions),
    /// Compare two output folders, signatures aside
    Compare(CompareOptions),
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Options of `build`.
#[derive(Debug, Clone, Args)]
pub struct BuildOptions {
    /// Kind of machine: a file of image/flavours
    #[arg(long, default_value = DEFAULT_FLAVOUR)]
    pub flavour: String,
    /// Folder with the workload's pillar.toml
    #[arg(long, default_value = "image/workloads/hello")]
    pub workload: PathBuf,
    /// Folder with keys as `./just keys` makes them
    #[arg(long, default_value = pillar_keys::DEFAULT_DIR)]
    pub keys: PathBuf,
    /// Secure Boot signing key instead of db.key: a PEM file or a pkcs11: URI
    #[arg(long, value_name = "FILE|URI")]
    pub db_key: Option<KeySource>,
    /// Key that signs PCR policies instead of pcr.key: a PEM file or a pkcs11: URI
    #[arg(long, value_name = "FILE|URI")]
    pub pcr_key: Option<KeySource>,
    /// Certificate (PEM) of a --pcr-key that is a pkcs11: URI; its public key goes into the image
    #[arg(long, value_name = "FILE")]
    pub pcr_certificate: Option<PathBuf>,
    /// Where the files go [default: out, for another flavour than virt out/FLAVOUR]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Image version [default: the workspace's]
    #[arg(long)]
    pub version: Option<String>,
    /// Security epoch of the release
    #[arg(long, default_value_t = 1)]
    pub epoch: u64,
    /// Use only the kept inputs: no network, no fetching
    #[arg(long)]
    pub offline: bool,
    /// Make the Debian tree anew from the locked packages, even when the cache has it
    #[arg(long)]
    pub refresh: bool,
    /// Also keep the UKI as it was before it was signed (pillar_VERSION_FLAVOUR.unsigned.efi)
    #[arg(long)]
    pub unsigned: bool,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

impl BuildOptions {
    /// Where the files go. Each flavour has a folder of its own, so that every `release.json` is beside what it
    /// describes and one flavour's build leaves the others' files alone.
    #[must_use]
    pub fn out(&self) -> PathBuf {
        match &self.out {
            Some(out) => out.clone(),
            None if self.flavour == DEFAULT_FLAVOUR => OUT.into(),
            None => Path::new(OUT).join(&self.flavour),
        }
    }
}

/// Options of `lock`.
#[derive(Debug, Clone, Args)]
pub struct LockOptions {
    /// Which locks: `tools`, or flavours [default: all]
    pub names: Vec<String>,
    /// How to print what changed
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Options of `trees`.
#[derive(Debug, Clone, Args)]
pub struct TreesOptions {
    /// Kind of machine: a file of image/flavours
    #[arg(long, default_value = DEFAULT_FLAVOUR)]
    pub flavour: String,
    /// Use only the kept inputs: no network, no fetching
    #[arg(long)]
    pub offline: bool,
}

/// Options of `repro`.
#[derive(Debug, Clone, Args)]
pub struct ReproOptions {
    /// Kind of machine: a file of image/flavours
    #[arg(long, default_value = DEFAULT_FLAVOUR)]
    pub flavour: String,
    /// Folder with the workload's pillar.toml
    #[arg(long, default_value = "image/workloads/hello")]
    pub workload: PathBuf,
    /// Folder with keys as `./just keys` makes them
    #[arg(long, default_value = pillar_keys::DEFAULT_DIR)]
    pub keys: PathBuf,
    /// Image version [default: the workspace's]
    #[arg(long)]
    pub version: Option<String>,
    /// Security epoch of the release
    #[arg(long, default_value_t = 1)]
    pub epoch: u64,
    /// Use only the kept inputs in the first build too
    #[arg(long)]
    pub offline: bool,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Options of `compare`.
#[derive(Debug, Clone, Args)]
pub struct CompareOptions {
    /// One output folder
    pub first: PathBuf,
    /// The other one
    pub second: PathBuf,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Options of `list`.
#[derive(Debug, Clone, Args)]
pub struct ListOptions {
    /// A sealed root (pillar_VERSION_FLAVOUR.root)
    pub file: PathBuf,
    /// How to print the list
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Options of `installer`.
#[derive(Debug, Clone, Args)]
pub struct InstallerOptions {
    /// Kind of machine: the release in its output folder is what will be installed
    #[arg(long, default_value = "virt")]
    pub flavour: String,
    /// Which disk: serial=NUMBER, model=NAME, smallest or only; it must fit exactly one [default: ask on the console]
    #[arg(long)]
    pub rule: Option<Rule>,
    /// With a rule: overwrite a disk that holds something
    #[arg(long, requires = "rule")]
    pub overwrite: bool,
    /// Folder with keys as `./just keys` makes them
    #[arg(long, default_value = pillar_keys::DEFAULT_DIR)]
    pub keys: PathBuf,
    /// Secure Boot signing key instead of db.key: a PEM file or a pkcs11: URI
    #[arg(long, value_name = "FILE|URI")]
    pub db_key: Option<KeySource>,
    /// Where the release is and the installer goes [default: out, for another flavour than virt out/FLAVOUR]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Use only what is in the caches
    #[arg(long)]
    pub offline: bool,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Options of `flash`.
#[derive(Debug, Clone, Args)]
pub struct FlashOptions {
    /// The disk's node (/dev/sdb), or an existing file of the wanted size
    pub device: Option<PathBuf>,
    /// Show this machine's disks, and which of them may be overwritten
    #[arg(long, conflicts_with_all = ["device", "image", "yes"])]
    pub list: bool,
    /// The image [default: the newest in --out that is made for the disk's sectors]
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Where images are looked for
    #[arg(long, default_value = "out")]
    pub out: PathBuf,
    /// Do not ask for the disk's name
    #[arg(long)]
    pub yes: bool,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

impl InstallerOptions {
    /// What building an image with the same keys, flavour and folder would be asked for.
    #[must_use]
    pub fn as_build(&self) -> BuildOptions {
        BuildOptions {
            flavour: self.flavour.clone(),
            workload: PathBuf::new(),
            keys: self.keys.clone(),
            db_key: self.db_key.clone(),
            pcr_key: None,
            pcr_certificate: None,
            out: self.out.clone(),
            version: None,
            epoch: 1,
            offline: self.offline,
            refresh: false,
            unsigned: false,
            output: self.output,
        }
    }
}

/// Words of `build` that take a value.
const BUILD_KEYS: [&str; 10] = [
    "flavour",
    "workload",
    "keys",
    "db-key",
    "pcr-key",
    "pcr-certificate",
    "out",
    "version",
    "epoch",
    "output",
];
/// Words of `build` that are `yes` or `no`.
const BUILD_SWITCHES: [&str; 3] = ["offline", "refresh", "unsigned"];
/// Words of `repro` that take a value.
const REPRO_KEYS: [&str; 6] = ["flavour", "workload", "keys", "version", "epoch", "output"];
/// Words of `repro` that are `yes` or `no`.
const REPRO_SWITCHES: [&str; 1] = ["offline"];
/// Words of `installer` that take a value.
const INSTALLER_KEYS: [&str; 6] = ["flavour", "rule", "keys", "db-key", "out", "output"];
/// Words of `installer` that are `yes` or `no`.
const INSTALLER_SWITCHES: [&str; 2] = ["offline", "overwrite"];

/// Rewrites `key=value` words behind `build`, `installer` and `repro` to flags; everything else stays. `offline=yes` and
/// the like are the switches. What clap would then call an unknown flag is named here as the word that the person typed.
pub fn words_to_flags(arguments: impl IntoIterator<Item = String>) -> Result<Vec<String>, Error> {
    let arguments: Vec<String> = arguments.into_iter().collect();
    let (keys, switches) = match arguments.get(1).map(String::as_str) {
        Some("build") => (&BUILD_KEYS[..], &BUILD_SWITCHES[..]),
        Some("repro") => (&REPRO_KEYS[..], &REPRO_SWITCHES[..]),
        Some("installer") => (&INSTALLER_KEYS[..], &INSTALLER_SWITCHES[..]),
        _ => return Ok(arguments),
    };
    let mut out: Vec<String> = Vec::new();
    for argument in arguments {
        // The value of the flag before it may hold a `=` of its own: `--db-key pkcs11:token=x`.
        let is_value = out.last().is_some_and(|flag| {
            flag == "-o" || flag.strip_prefix("--").is_some_and(|name| keys.contains(&name))
        });
        let is_word = out.len() > 1 && !is_value && !argument.starts_with('-');
        let Some((key, value)) = argument.split_once('=').filter(|_| is_word) else {
            out.push(argument);
            continue;
        };
        let key = key.replace('_', "-");
        if keys.contains(&key.as_str()) {
            out.push(format!("--{key}={value}"));
        } else if switches.contains(&key.as_str()) {
            match value {
                "yes" | "true" | "1" => out.push(format!("--{key}")),
                "no" | "false" | "0" => {}
                _ => return Err(Error::Usage(format!("{argument}: say {key}=yes or {key}=no"))),
            }
        } else {
            return Err(Error::Usage(format!(
                "{argument}: unknown word; known are {}",
                [keys, switches].concat().join("=, ") + "="
            )));
        }
    }
    Ok(out)
}

/// A version goes into file names, os-release and the boot loader's sorting: letters, digits, `.`, `-` and `~`,
/// beginning with a digit. `_` and `+` have meanings in the UKI's file name.
pub fn check_version(version: &str) -> Result<(), Error> {
    let good = version.len() <= 40
        && version.starts_with(|c: char| c.is_ascii_digit())
        && version.chars().all(|c| c.is_ascii_alphanumeric() || ".-~".contains(c));
    if good {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "{version:?} cannot be a version: up to 40 letters, digits, `.`, `-` and `~`, beginning with a digit"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<BuildOptions, String> {
        let words = words_to_flags(line.split(' ').map(str::to_owned)).map_err(|e| e.to_string())?;
        match Options::try_parse_from(words).map_err(|e| e.to_string())?.command {
            Action::Build(options) => Ok(options),
            _ => Err("not build".to_owned()),
        }
    }

    #[test]
    fn words_and_flags_mean_the_same() {
        let words = parse(
            "pillar-image build flavour=metal workload=a/b=c offline=yes db_key=pkcs11:token=x;object=db",
        );
        let flags = parse(
            "pillar-image build --flavour metal --workload=a/b=c --offline --db-key pkcs11:token=x;object=db",
        );
        let (words, flags) = (words.expect("good"), flags.expect("good"));
        assert_eq!(format!("{words:?}"), format!("{flags:?}"));
        assert_eq!(words.workload, PathBuf::from("a/b=c"));
        assert_eq!(words.db_key, Some(KeySource::Pkcs11("pkcs11:token=x;object=db".to_owned())));
    }

    #[test]
    fn each_flavour_has_its_folder() {
        for (line, folder) in [
            ("pillar-image build", "out"),
            ("pillar-image build flavour=metal", "out/metal"),
            ("pillar-image build flavour=metal out=elsewhere", "elsewhere"),
        ] {
            assert_eq!(parse(line).expect(line).out(), PathBuf::from(folder), "{line}");
        }
    }

    #[test]
    fn the_installer_has_words_of_its_own() {
        let words = |line: &str| {
            words_to_flags(line.split(' ').map(str::to_owned))
                .map_err(|e| e.to_string())
                .and_then(|words| Options::try_parse_from(words).map_err(|e| e.to_string()))
        };
        let options = words("pillar-image installer rule=serial=A=1 overwrite=yes").expect("good");
        let Action::Installer(options) = options.command else { panic!("another action") };
        assert!(options.overwrite && options.rule == Some(Rule::Serial("A=1".to_owned())));
        assert!(words("pillar-image installer rule=largest").expect_err("no rule").contains("is no rule"));
        assert!(words("pillar-image installer overwrite=yes").is_err(), "a person is asked anyway");
        assert!(words("pillar-image build rule=only").expect_err("not here").contains("unknown word"));
    }

    #[test]
    fn unknown_words_are_named() {
        assert!(
            parse("pillar-image build flavor=virt").expect_err("typo").contains("flavor=virt: unknown word")
        );
        assert!(parse("pillar-image build offline=maybe").expect_err("neither").contains("offline=yes"));
        assert!(parse("pillar-image build virt").is_err());
    }

    #[test]
    fn versions_fit_into_file_names() {
        for good in ["0.1.0", "1.2.3-rc1", "2~beta"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["", "v1", "1+3", "1_2", "1/2", "1 2", &"1".repeat(41)] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }
}
