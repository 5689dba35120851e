//! A lock file: which Debian packages, byte for byte, a tree is made of. Pure: text in, packages out.
//!
//! Invariant: what parses is safe to use. Names, versions and paths hold no character that a shell, apt or a file name
//! could take for something else, and no mirror is named: a path is relative to the root of whatever archive has it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// The only format there is so far.
const FORMAT: u32 = 1;

/// More packages than any tree of ours has; protects against a file that is no lock.
const PACKAGES_MAX: usize = 5_000;

/// Said at the top of each file.
const HEADER: &str =
    "# Made by `./just lock`; `./just lock` renews it and shows what changed. Not for editing by hand.\n";

/// SHA-256 of an input.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InputDigest(pub [u8; 32]);

impl fmt::Display for InputDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for InputDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for InputDigest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| format!("{text:?} is no SHA-256 (64 hexadecimal digits)"))?;
        Ok(Self(bytes))
    }
}

impl Serialize for InputDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for InputDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One package, as the archive's index described it when the lock was made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// "amd64" or "all".
    pub arch: String,
    /// Bytes.
    pub size: u64,
    /// Digest of the whole .deb.
    pub sha256: InputDigest,
    /// Where it lies in the archive.
    pub path: String,
}

impl Locked {
    /// The .deb's own name.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Its package URL.
    #[must_use]
    pub fn purl(&self) -> String {
        // In a package URL, `+` and `:` of a version are escaped; `~` and `.` are not.
        let version = self.version.replace('+', "%2B").replace(':', "%3A");
        format!("pkg:deb/debian/{}@{version}?arch={}&distro={}", self.name, self.arch, crate::apt::SUITE)
    }

    fn check(&self) -> Result<(), String> {
        let plain = |text: &str, more: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        let refuse = |what: &str, text: &str| Err(format!("{text:?} cannot be the {what} of a package"));
        if !plain(&self.name, "+-.") || self.name.starts_with(['-', '.']) {
            return refuse("name", &self.name);
        }
        if !plain(&self.version, "+-.:~") || self.version.starts_with('-') {
            return refuse("version", &self.version);
        }
        if !["amd64", "all"].contains(&self.arch.as_str()) {
            return refuse("architecture", &self.arch);
        }
        let good = self.path.starts_with("pool/")
            && self.path.ends_with(".deb")
            && plain(&self.path, "+-._~%/")
            && self.path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if good { Ok(()) } else { refuse("path", &self.path) }
    }
}

/// The packages of one tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// The packages that were asked for; the others came as their dependencies.
    pub wanted: BTreeSet<String>,
    /// Every package that is installed, by name.
    pub packages: BTreeMap<String, Locked>,
    /// Packages that are used on the host without being installed into the tree.
    pub host: BTreeMap<String, Locked>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    wanted: Vec<String>,
    #[serde(default)]
    host: Vec<Locked>,
    packages: Vec<Locked>,
}

impl Lock {
    /// Reads a lock file's text; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        if file.format != FORMAT {
            return Err(format!("format {} is not known here; format {FORMAT} is", file.format));
        }
        if file.packages.is_empty() || file.packages.len() > PACKAGES_MAX {
            return Err(format!("{} packages; 1 to {PACKAGES_MAX} make sense", file.packages.len()));
        }
        let lock = Self {
            wanted: file.wanted.into_iter().collect(),
            packages: by_name(file.packages)?,
            host: by_name(file.host)?,
        };
        match lock.wanted.iter().find(|name| !lock.packages.contains_key(*name)) {
            Some(name) => Err(format!("{name} is asked for and not among the packages")),
            None => Ok(lock),
        }
    }

    /// The file's text: one line per package, sorted, so that a change is a line in a diff.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!("{HEADER}format = {FORMAT}\nwanted = [\n");
        for name in &self.wanted {
            text.push_str(&format!("  \"{name}\",\n"));
        }
        text.push_str("]\n");
        for (title, packages) in [("host", &self.host), ("packages", &self.packages)] {
            if packages.is_empty() {
                continue;
            }
            text.push_str(&format!("{title} = [\n"));
            for Locked { name, version, arch, size, sha256, path } in packages.values() {
                text.push_str(&format!(
                    "  {{ name = \"{name}\", version = \"{version}\", arch = \"{arch}\", size = {size}, \
                     sha256 = \"{sha256}\", path = \"{path}\" }},\n"
                ));
            }
            text.push_str("]\n");
        }
        text
    }

    /// Every package, those for the host too.
    pub fn all(&self) -> impl Iterator<Item = &Locked> {
        self.packages.values().chain(self.host.values())
    }

    /// What is different in a newer lock.
    #[must_use]
    pub fn changes(&self, newer: &Self) -> Changes {
        let here: BTreeMap<&str, &Locked> = self.all().map(|p| (p.name.as_str(), p)).collect();
        let there: BTreeMap<&str, &Locked> = newer.all().map(|p| (p.name.as_str(), p)).collect();
        let one = |p: &Locked| Change { name: p.name.clone(), version: p.version.clone() };
        let mut changes = Changes::default();
        for (name, new) in &there {
            match here.get(name) {
                None => changes.added.push(one(new)),
                Some(old) if old.version != new.version => changes.updated.push(Update {
                    name: new.name.clone(),
                    from: old.version.clone(),
                    to: new.version.clone(),
                }),
                Some(old) if old.sha256 != new.sha256 => changes.other_bytes.push(one(new)),
                Some(_) => {}
            }
        }
        changes.removed =
            here.values().filter(|p| !there.contains_key(p.name.as_str())).map(|p| one(p)).collect();
        changes
    }
}

fn by_name(list: Vec<Locked>) -> Result<BTreeMap<String, Locked>, String> {
    let mut packages = BTreeMap::new();
    for package in list {
        package.check()?;
        if let Some(twice) = packages.insert(package.name.clone(), package) {
            return Err(format!("{} is in it twice", twice.name));
        }
    }
    Ok(packages)
}

/// A package that came or went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
}

/// A package whose version changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Update {
    /// Name.
    pub name: String,
    /// Old version.
    pub from: String,
    /// New version.
    pub to: String,
}

/// What is different between two locks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Only in the newer one.
    pub added: Vec<Change>,
    /// Only in the older one.
    pub removed: Vec<Change>,
    /// In both, at different versions.
    pub updated: Vec<Update>,
    /// In both at the same version, with different bytes: an archive does not do that by itself.
    pub other_bytes: Vec<Change>,
}

impl Changes {
    /// Whether the two are the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.added {
            writeln!(f, "  + {} {}", change.name, change.version)?;
        }
        for change in &self.removed {
            writeln!(f, "  - {} {}", change.name, change.version)?;
        }
        for update in &self.updated {
            writeln!(f, "  ~ {} {} → {}", update.name, update.from, update.to)?;
        }
        for change in &self.other_bytes {
            writeln!(
                f,
                "  ! {} {}: same version, other bytes; find out why before you use it",
                change.name, change.version
            )?;
        }
        Ok(())
    }
}

/// The packages that a mkosi configuration asks for (`Packages=` with its continuation lines).
#[must_use]
pub fn packages_of(configuration: &str) -> BTreeSet<String> {
    let mut packages = BTreeSet::new();
    let mut inside = false;
    for line in configuration.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let rest = line.strip_prefix("Packages=");
        inside = rest.is_some() || inside && line.starts_with(char::is_whitespace);
        if inside {
            packages.extend(rest.unwrap_or(line).split_whitespace().map(str::to_owned));
        }
    }
    packages
}

/// The packages among stanzas of an archive's index (`apt-cache show`); what is no whole stanza is an error.
pub(crate) fn from_index(stanzas: &str) -> Result<Vec<Locked>, String> {
    let mut found: Vec<Locked> = Vec::new();
    for stanza in stanzas.split("\n\n").filter(|s| !s.trim().is_empty()) {
        let field = |name: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .map(str::to_owned)
                .ok_or_else(|| {
                    format!("a stanza without {name}: {}", stanza.lines().next().unwrap_or_default())
                })
        };
        let size = field("Size")?;
        let package = Locked {
            name: field("Package")?,
            version: field("Version")?,
            arch: field("Architecture")?,
            size: size.parse().map_err(|_| format!("Size: {size}"))?,
            sha256: field("SHA256")?.parse()?,
            path: field("Filename")?,
        };
        package.check()?;
        // The same package in two suites of the archive is one package.
        if !found.iter().any(|p| (&p.name, &p.version) == (&package.name, &package.version)) {
            found.push(package);
        }
    }
    Ok(found)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn package(name: &str, version: &str, bytes: &[u8]) -> Locked {
        let mut digest = [0; 32];
        digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
        Locked {
            name: name.to_owned(),
            version: version.to_owned(),
            arch: "amd64".to_owned(),
            size: bytes.len() as u64,
            sha256: InputDigest(digest),
            path: format!("pool/main/x/{name}/{name}_{version}_amd64.deb"),
        }
    }

    pub(crate) fn lock(packages: &[Locked]) -> Lock {
        Lock {
            wanted: packages.iter().take(1).map(|p| p.name.clone()).collect(),
            packages: packages.iter().map(|p| (p.name.clone(), p.clone())).collect(),
            host: BTreeMap::new(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut lock = lock(&[package("libc6", "2.41-12+deb13u4", b"a"), package("tzdata", "2025b-4", b"b")]);
        lock.host.insert("mkosi".to_owned(), package("mkosi", "25.3-4", b"c"));
        assert_eq!(Lock::parse(&lock.render()), Ok(lock));
    }

    #[test]
    fn damage_is_named() {
        let good = lock(&[package("libc6", "2.41-12", b"a")]).render();
        for (from, to, reason) in [
            ("format = 1", "format = 2", "format 2 is not known here"),
            ("sha256 = \"c", "sha256 = \"x", "no SHA-256"),
            ("size = 1", "size = -1", "invalid value"),
            ("name = \"libc6\"", "name = \"lib c6\"", "cannot be the name"),
            ("name = \"libc6\"", "name = \"--force\"", "cannot be the name"),
            ("pool/main/x", "pool/../x", "cannot be the path"),
            ("pool/main/x", "http://mirror.invalid/x", "cannot be the path"),
            ("arch = \"amd64\"", "arch = \"arm64\"", "cannot be the architecture"),
            ("arch =", "architecture =", "unknown field"),
            ("  \"libc6\",", "  \"libc7\",", "libc7 is asked for and not among the packages"),
            ("packages = [", "packages = [[", ""),
        ] {
            assert!(good.contains(from), "{from} is not in {good}");
            let error = Lock::parse(&good.replacen(from, to, 1)).expect_err(to);
            assert!(error.contains(reason), "{from} -> {to}: {error}");
        }
        let cut = &good[..good.len() / 2];
        assert!(Lock::parse(cut).is_err());
        let line = good.lines().find(|l| l.contains("sha256")).expect("a package");
        let twice = good.replace(line, &format!("{line}\n{line}"));
        assert!(Lock::parse(&twice).expect_err("twice").contains("libc6 is in it twice"));
    }

    #[test]
    fn changes_are_told_apart() {
        let old = lock(&[package("a", "1", b"1"), package("b", "1", b"1"), package("c", "1", b"1")]);
        let new = lock(&[package("a", "2", b"2"), package("b", "1", b"other"), package("d", "1", b"1")]);
        let changes = old.changes(&new);
        assert_eq!(
            changes.to_string(),
            "  + d 1\n  - c 1\n  ~ a 1 → 2\n  ! b 1: same version, other bytes; find out why before you use it\n"
        );
        assert!(old.changes(&old).is_empty() && !changes.is_empty());
    }

    #[test]
    fn the_packages_of_a_configuration_are_its_own() {
        let text =
            "[Content]\nWithDocs=no\nPackages=\n        a\n        # why b\n        b c\n[Other]\nd=e\n  f\n";
        assert_eq!(packages_of(text), ["a", "b", "c"].map(str::to_owned).into());
        assert!(packages_of(crate::CONFIGURATION).contains("systemd-ukify"));
    }

    #[test]
    fn stanzas_of_an_index_become_packages_once() {
        let stanza = "Package: a\nArchitecture: all\nVersion: 1:2-3\nFilename: pool/main/a/a/a_2-3_all.deb\nSize: 5\n\
                      SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\nDescription: x\n y\n";
        let found = from_index(&format!("{stanza}\n{stanza}")).expect("whole stanzas");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].purl(), "pkg:deb/debian/a@1%3A2-3?arch=all&distro=trixie");
        assert!(
            from_index(&stanza.replace("SHA256", "MD5sum"))
                .expect_err("no digest")
                .contains("without SHA256")
        );
    }
}
