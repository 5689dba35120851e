//! Compiles what goes into the image, so that the folder, the user, the time zone and earlier builds leave no trace in
//! the bytes.

use crate::error::Error;
use crate::run::run;
use crate::sbom::{Crate, Origin};
use cargo_metadata::{Metadata, MetadataCommand, Package, TargetKind};
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`, where paths may hold spaces.
const FLAG_SEPARATOR: &str = "\x1f";

/// What of the environment reaches the compiler and is nobody's business in an image.
const FORGOTTEN: [&str; 12] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "CARGO_INCREMENTAL",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CFLAGS",
    "CXXFLAGS",
    "LDFLAGS",
    "LD_LIBRARY_PATH",
];

/// How a program is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linking {
    /// Everything inside: PID 1, which must run where there is no library.
    Static,
    /// Against the C library of the image.
    Dynamic,
}

/// The workspace and how to build from it.
#[derive(Debug)]
pub struct Compiler {
    project: PathBuf,
    metadata: Metadata,
    offline: bool,
}

impl Compiler {
    /// Reads the workspace.
    pub fn new(project: &Path, offline: bool) -> Result<Self, Error> {
        let mut command = MetadataCommand::new();
        command.current_dir(project);
        let mut options = vec!["--filter-platform".to_owned(), TARGET.to_owned()];
        if offline {
            options.push("--offline".to_owned());
        }
        let metadata = command.other_options(options).exec()?;
        Ok(Self { project: project.to_owned(), metadata, offline })
    }

    /// The workspace's packages and their dependencies.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The name of a package's one program.
    pub fn program_of(&self, package: &str) -> Result<String, Error> {
        let refused = |problem| Error::Package { package: package.to_owned(), problem };
        let found = self
            .metadata
            .workspace_packages()
            .into_iter()
            .find(|p| p.name.as_str() == package)
            .ok_or_else(|| refused("is not in this workspace"))?;
        let mut programs = programs(found);
        match (programs.next(), programs.next()) {
            (Some(name), None) => Ok(name),
            (None, _) => Err(refused("has no program")),
            (Some(_), Some(_)) => Err(refused("has several programs")),
        }
    }

    /// What the compiler links in beside crates: its standard library, and into static programs the host's C library.
    pub fn runtime(&self, is_static: bool) -> Result<Vec<Crate>, Error> {
        let version = |program: &str, arguments: &[&str]| {
            let output = run(program, Command::new(program).args(arguments).current_dir(&self.project))?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok::<_, Error>(text.split_whitespace().nth(1).unwrap_or("unknown").to_owned())
        };
        let part = |name: &str, version: String, licence: &str| Crate {
            name: name.to_owned(),
            version,
            licence: Some(licence.to_owned()),
            origin: Origin::Toolchain,
        };
        let mut parts = vec![part("rust-std", version("rustc", &["--version"])?, "MIT OR Apache-2.0")];
        if is_static {
            let version = version("getconf", &["GNU_LIBC_VERSION"])?;
            parts.push(part("glibc-static", version, "LGPL-2.1-or-later"));
        }
        Ok(parts)
    }

    /// Builds packages; the paths of their programs, in the same order.
    pub fn build(&self, packages: &[&str], linking: Linking) -> Result<Vec<PathBuf>, Error> {
        let names = packages.iter().map(|p| self.program_of(p)).collect::<Result<Vec<_>, _>>()?;
        let target = self.target_dir(linking);
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        for name in FORGOTTEN {
            command.env_remove(name);
        }
        command.current_dir(&self.project);
        command.args(["build", "--quiet", "--locked", "--profile", "image", "--target", TARGET]);
        if self.offline {
            command.arg("--offline");
        }
        command.arg("--target-dir").arg(&target);
        for (package, program) in packages.iter().zip(&names) {
            command.args(["--package", package, "--bin", program]);
        }
        command.env("CARGO_INCREMENTAL", "0").env("TZ", "UTC").env("LC_ALL", "C.UTF-8");
        command.env("SOURCE_DATE_EPOCH", "0").env("ZERO_AR_DATE", "1");
        command.env("CARGO_ENCODED_RUSTFLAGS", self.rust_flags(&target, linking));
        // The `cc` crate splits at spaces unless told that the flags are quoted.
        command.env("CC_SHELL_ESCAPED_FLAGS", "1").env("CFLAGS", self.c_flags(&target));
        run("cargo build", &mut command)?;
        Ok(names.iter().map(|name| target.join(TARGET).join("image").join(name)).collect())
    }

    fn target_dir(&self, linking: Linking) -> PathBuf {
        let name = match linking {
            Linking::Static => "image-static",
            Linking::Dynamic => "image-dynamic",
        };
        self.metadata.target_directory.as_std_path().join(name)
    }

    /// Folders of this machine and what they are called in the image. The last match wins. The workspace is not among
    /// them: cargo names its files relative to it, and the flags stay the same in every clone, so that libraries that
    /// were built once for one clone serve the next.
    fn renames(&self, target: &Path) -> Vec<(PathBuf, &'static str)> {
        let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let cargo_home = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
        let rustup_home = env::var_os("RUSTUP_HOME").map_or_else(|| home.join(".rustup"), PathBuf::from);
        vec![(rustup_home, "/rust"), (cargo_home, "/cargo"), (target.to_owned(), "/target")]
    }

    fn rust_flags(&self, target: &Path, linking: Linking) -> OsString {
        let mut flags = OsString::from(match linking {
            Linking::Static => "-Ctarget-feature=+crt-static",
            Linking::Dynamic => "-Ctarget-feature=-crt-static",
        });
        for (from, to) in self.renames(target) {
            flags.push(FLAG_SEPARATOR);
            flags.push("--remap-path-prefix=");
            flags.push(from);
            flags.push("=");
            flags.push(to);
        }
        // A build id would be a digest of all of this, and is of no use without debug files.
        flags.push(FLAG_SEPARATOR);
        flags.push("-Clink-arg=-Wl,--build-id=none");
        flags
    }

    fn c_flags(&self, target: &Path) -> OsString {
        let mut flags = OsString::from("-O2");
        for (from, to) in self.renames(target) {
            flags.push(" '-ffile-prefix-map=");
            flags.push(from);
            flags.push("=");
            flags.push(to);
            flags.push("'");
        }
        flags
    }
}

fn programs(package: &Package) -> impl Iterator<Item = String> {
    package.targets.iter().filter(|t| t.kind.contains(&TargetKind::Bin)).map(|t| t.name.clone())
}
