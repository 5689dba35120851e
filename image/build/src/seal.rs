//! From lists to sealed files: erofs, dm-verity tree, UKI, signatures. Each function runs one program of the tools tree.

use crate::error::{Error, file};
use crate::run::run;
use crate::sealed::Contents;
use crate::{archive, digest};
use pillar_keys::KeySource;
use pillar_layout::phase;
use pillar_model::RootHash;
use pillar_tools::Tools;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// PCR banks that the UKI's signed policies cover.
const PCR_BANKS: &str = "sha256,sha384";

/// OpenSSL's provider for keys on a token.
pub const TOKEN_PROVIDER: &str = "pkcs11";

/// Compression of the sealed root. LZ4 unpacks several times faster than zstd or lzma, which is boot time on a slow
/// machine; level 12 costs only the builder. 64 KiB clusters: read amplification against size.
const COMPRESSION: [&str; 2] = ["-zlz4hc,level=12", "-C65536"];

/// Size of the state volume's first file system, in mke2fs's words: all of it is written at first boot.
const STATE_TEMPLATE_SIZE: &str = "12M";

/// Blocks of 4 KiB for which its tables have room: 1 TiB. Beyond, the kernel places tables elsewhere (`meta_bg`) by itself;
/// more room here would need a larger journal, and that more time at first boot.
const STATE_BLOCKS: u64 = 268_435_456;

/// The tools and what all of them must agree on.
#[derive(Debug)]
pub struct Sealer<'a> {
    /// The tools tree.
    pub tools: &'a Tools,
    /// Seconds since 1970 for everything that carries a time.
    pub epoch: u64,
    /// What GUIDs, salts and serial numbers are derived from.
    pub seed: &'a str,
}

/// A key and its certificate for Secure Boot.
#[derive(Debug, Clone)]
pub struct SigningKey {
    /// The private key.
    pub key: KeySource,
    /// The certificate, PEM.
    pub certificate: PathBuf,
}

/// What goes into a UKI.
#[derive(Debug)]
pub struct UkiParts<'a> {
    /// The kernel.
    pub kernel: &'a Path,
    /// `uname -r`.
    pub kernel_release: &'a str,
    /// The initrd.
    pub initrd: &'a Path,
    /// The command line.
    pub cmdline: &'a str,
    /// os-release(5).
    pub os_release: &'a Path,
    /// systemd-stub.
    pub stub: &'a Path,
    /// Image version, for `.sbat`.
    pub version: &'a str,
    /// The PCR policies.
    pub policies: UkiPolicies<'a>,
}

/// Where a UKI's policy signatures come from.
#[derive(Debug, Clone, Copy)]
pub enum UkiPolicies<'a> {
    /// systemd's are made with this key.
    Make {
        /// The private key.
        key: &'a KeySource,
        /// Its public key, PEM; for a key on a token, its certificate.
        public: &'a Path,
    },
    /// There are none, and what is sealed to such policies stays closed to it.
    None,
    /// They are in these files: the sections `.pcrpkey` and `.pcrsig`.
    Made {
        /// The public key, PEM.
        public: &'a Path,
        /// The signatures, JSON.
        signatures: &'a Path,
    },
}

impl Sealer<'_> {
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = self.tools.command(program);
        command.env("SOURCE_DATE_EPOCH", self.epoch.to_string()).env("TZ", "UTC").env("LC_ALL", "C.UTF-8");
        command
    }

    /// Makes the sealed root from its list.
    pub fn erofs(&self, contents: &Contents, scratch: &Path, output: &Path) -> Result<(), Error> {
        let tar = scratch.join("root.tar");
        archive::write_tar(&contents.tree, self.epoch, &tar)?;
        let mut command = self.command("mkfs.erofs");
        command.args(["--quiet", "--tar=f", "--all-root", "--workers=1"]).args(COMPRESSION);
        command
            .arg(format!("-T{}", self.epoch))
            .arg(format!("-U{}", digest::guid(self.seed, "root file system")));
        command.args(["-L", "pillar"]);
        run("mkfs.erofs", command.arg(output).arg(&tar))?;
        fs::remove_file(&tar).map_err(file("remove", &tar))
    }

    /// Makes the file system that a new state volume begins with. Nothing is left for later to be written ("lazy"): what
    /// was never written cannot be read on a volume with integrity. It has room in its tables to be grown to terabytes.
    pub fn state_template(&self, output: &Path) -> Result<(), Error> {
        let mut command = self.command("mkfs.ext4");
        command.args(["-q", "-F", "-b", "4096", "-m", "1", "-L", "pillar-state"]);
        // The number of inodes is for each 128 MiB of the grown file system too.
        // Without checksums of its own: growing would read bitmaps that were never written, to sum them up. On a volume
        // with integrity every sector has an authentication code anyway.
        command.args(["-O", "64bit,^metadata_csum,^uninit_bg"]);
        command.args(["-I", "256", "-N", "1024", "-J", "size=4", "-E"]);
        command.arg(format!(
            "lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0,resize={STATE_BLOCKS},hash_seed={}",
            digest::guid(self.seed, "state directories")
        ));
        command.args(["-U", &digest::guid(self.seed, "state file system")]);
        // SOURCE_DATE_EPOCH is obeyed by mke2fs 1.47.1 and later.
        run("mkfs.ext4", command.arg(output).arg(STATE_TEMPLATE_SIZE))?;
        Ok(())
    }

    /// Makes the hash tree over a sealed root.
    pub fn verity(&self, root: &Path, output: &Path) -> Result<RootHash, Error> {
        let content = digest::file(root).map_err(file("read", root))?;
        let salt = hex::encode(digest::of(&[b"verity salt", &content]));
        let hash = output.with_extension("roothash");
        let mut command = self.command("veritysetup");
        command.args(["format", "--hash=sha256", "--data-block-size=4096", "--hash-block-size=4096"]);
        command.arg(format!("--salt={salt}"));
        command.arg(format!("--uuid={}", digest::guid(&salt, "verity tree")));
        command.arg("--root-hash-file").arg(&hash);
        run("veritysetup", command.arg(root).arg(output))?;
        let text = fs::read_to_string(&hash).map_err(file("read", &hash))?;
        fs::remove_file(&hash).map_err(file("remove", &hash))?;
        text.trim().parse().map_err(|error| Error::Output {
            program: "veritysetup",
            problem: format!("root hash {text:?}: {error}"),
        })
    }

    /// Makes the UKI, not signed for Secure Boot yet.
    pub fn uki(&self, parts: &UkiParts<'_>, output: &Path) -> Result<(), Error> {
        let mut command = self.command("ukify");
        command.arg("build");
        command.arg("--linux").arg(parts.kernel).arg("--initrd").arg(parts.initrd);
        command.arg("--stub").arg(parts.stub);
        command.arg("--cmdline").arg(parts.cmdline).arg("--uname").arg(parts.kernel_release);
        command.arg("--os-release").arg(format!("@{}", parts.os_release.display()));
        command.arg("--sbat").arg(sbat(parts.version));
        match parts.policies {
            UkiPolicies::Make { key, public } => sign_policies(&mut command, key, public),
            UkiPolicies::None => {}
            UkiPolicies::Made { public, signatures } => {
                command.arg(format!("--pcrpkey={}", public.display()));
                command.arg(format!("--section=.pcrsig:@{}", signatures.display()));
            }
        }
        run("ukify", command.arg("--output").arg(output))?;
        Ok(())
    }

    /// Signs a PE file for Secure Boot.
    pub fn sign(&self, input: &Path, key: &SigningKey, output: &Path) -> Result<(), Error> {
        let mut command = self.command("/usr/lib/systemd/systemd-sbsign");
        command.arg("sign").arg("--certificate").arg(&key.certificate);
        match &key.key {
            KeySource::File(path) => command.arg("--private-key").arg(path),
            KeySource::Pkcs11(uri) => command
                .arg(format!("--private-key-source=provider:{TOKEN_PROVIDER}"))
                .arg(format!("--private-key={uri}")),
        };
        run("systemd-sbsign", command.arg("--output").arg(output).arg(input))?;
        Ok(())
    }
}

fn sign_policies(ukify: &mut Command, key: &KeySource, public: &Path) {
    ukify.args(["--pcr-banks", PCR_BANKS]);
    match key {
        KeySource::File(path) => ukify.arg("--pcr-private-key").arg(path),
        // ukify takes the public key from the certificate then.
        KeySource::Pkcs11(uri) => ukify
            .args(["--signtool=systemd-sbsign", "--signing-provider", TOKEN_PROVIDER])
            .arg("--pcr-private-key")
            .arg(uri),
    };
    ukify.arg("--pcr-public-key").arg(public);
    // In the argument's own words: paths of phases, each one step longer.
    let paths: Vec<String> = (1..=phase::ALL.len()).map(|n| phase::ALL[..n].join(":")).collect();
    ukify.arg("--phases").arg(paths.join(" "));
}

/// Generation numbers for revocation by the boot chain (SBAT specification): ours beside the stub's own.
fn sbat(version: &str) -> String {
    format!(
        "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n\
         pillar,1,Pillar,pillar,{version},urn:pillar\n"
    )
}

/// The whole command line.
#[must_use]
pub fn cmdline(root_hash: &RootHash, words: &[String]) -> String {
    format!("{}={root_hash} {}", pillar_layout::cmdline::ROOT_HASH, words.join(" "))
}
