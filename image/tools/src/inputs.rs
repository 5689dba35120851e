//! The inputs that outlive a build: each kept in the cache under its digest, and compared with it before every use.
//!
//! Invariant: a path that leaves this module names bytes that have the digest that was asked for.

use crate::lock::{InputDigest, Locked};
use crate::{Error, apt, cache_dir, file_error};
use ring::digest::{Context, SHA256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Whether inputs that are not kept may be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// From the host's Debian mirror.
    Allowed,
    /// Only what is kept.
    Forbidden,
}

/// The kept inputs.
#[derive(Debug, Clone)]
pub struct Inputs {
    folder: PathBuf,
}

impl Inputs {
    /// Those in the user's cache.
    #[must_use]
    pub fn open() -> Self {
        Self::at(cache_dir().join("inputs"))
    }

    /// Those in another folder.
    #[must_use]
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where an input is kept, or would be.
    #[must_use]
    pub fn place(&self, digest: &InputDigest) -> PathBuf {
        self.folder.join("sha256").join(digest.to_string())
    }

    /// The files of all these packages, in their order, each checked. What is not kept yet is fetched, if it may be;
    /// `note` is told before.
    pub fn ensure(
        &self,
        packages: &[&Locked],
        network: Network,
        note: &dyn Fn(&str),
    ) -> Result<Vec<PathBuf>, Error> {
        let missing: Vec<&Locked> =
            packages.iter().copied().filter(|p| !self.place(&p.sha256).exists()).collect();
        if !missing.is_empty() {
            if network == Network::Forbidden {
                return Err(self.missing(&missing, Vec::new()));
            }
            let mib = missing.iter().map(|p| p.size).sum::<u64>() >> 20;
            note(&format!(
                "fetching {} locked packages ({mib} MiB) from the host's Debian mirror",
                missing.len()
            ));
            self.fetch(&missing)?;
        }
        packages.iter().map(|package| self.checked(package)).collect()
    }

    /// The kept file of a package, compared with the lock just now.
    fn checked(&self, package: &Locked) -> Result<PathBuf, Error> {
        let path = self.place(&package.sha256);
        let found = digest_of(&path).map_err(file_error("read", &path))?;
        if found == package.sha256 {
            return Ok(path);
        }
        Err(Error::InputDamaged { path, package: label(package), found })
    }

    fn fetch(&self, missing: &[&Locked]) -> Result<(), Error> {
        let kept = self.folder.join("sha256");
        let partial = self.folder.join(format!("partial-{}", std::process::id()));
        crate::remove(&partial)?;
        for folder in [&kept, &partial] {
            fs::create_dir_all(folder).map_err(file_error("create", folder))?;
        }
        let mut left = missing.to_vec();
        let mut looked = Vec::new();
        for archive in apt::archives()? {
            if left.is_empty() {
                break;
            }
            let wanted: Vec<(String, PathBuf)> = left
                .iter()
                .map(|p| (format!("{archive}{}", p.path), partial.join(p.sha256.to_string())))
                .collect();
            apt::fetch(&wanted, &partial)?;
            let mut still = Vec::new();
            for package in left {
                match self.keep(package, &partial) {
                    Ok(true) => continue,
                    Ok(false) => looked.push(format!("{archive}{}: not there", package.path)),
                    Err(found) => looked.push(format!("{archive}{}: other bytes ({found})", package.path)),
                }
                still.push(package);
            }
            left = still;
        }
        crate::remove(&partial)?;
        if left.is_empty() {
            return Ok(());
        }
        looked.retain(|line| left.iter().any(|p| line.contains(&p.path)));
        Err(self.missing(&left, looked))
    }

    /// Takes a fetched file in when its digest is right; `false` when there is none, the digest when it is another.
    fn keep(&self, package: &Locked, partial: &Path) -> Result<bool, InputDigest> {
        let fetched = partial.join(package.sha256.to_string());
        let Ok(found) = digest_of(&fetched) else { return Ok(false) };
        if found != package.sha256 {
            let _ = fs::remove_file(&fetched);
            return Err(found);
        }
        Ok(fs::rename(&fetched, self.place(&package.sha256)).is_ok())
    }

    fn missing(&self, packages: &[&Locked], archives: Vec<String>) -> Error {
        const SHOWN: usize = 5;
        let mut names: Vec<String> =
            packages.iter().take(SHOWN).map(|p| format!("{} sha256:{}", label(p), p.sha256)).collect();
        if packages.len() > SHOWN {
            names.push(format!("… and {} more", packages.len() - SHOWN));
        }
        let kept = format!("{}/sha256", self.folder.display());
        let looked = std::iter::once(kept).chain(archives.into_iter().take(2 * SHOWN)).collect();
        Error::InputMissing { names, looked }
    }
}

fn label(package: &Locked) -> String {
    format!("{} {}", package.name, package.version)
}

/// SHA-256 of a file, read in pieces.
pub fn digest_of(path: &Path) -> io::Result<InputDigest> {
    let mut file = File::open(path)?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        context.update(&buffer[..n]);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    Ok(InputDigest(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::tests::package;

    fn kept(inputs: &Inputs, package: &Locked, bytes: &[u8]) {
        let path = inputs.place(&package.sha256);
        fs::create_dir_all(path.parent().expect("a folder")).expect("new");
        fs::write(path, bytes).expect("new");
    }

    #[test]
    fn a_kept_input_is_found_and_a_missing_one_is_named_with_where_it_was_looked_for() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let inputs = Inputs::at(dir.path().to_owned());
        let (a, b) = (package("a", "1", b"a"), package("b", "2-3", b"b"));
        kept(&inputs, &a, b"a");
        let ensure = |packages: &[&Locked]| inputs.ensure(packages, Network::Forbidden, &|_| {});
        assert_eq!(ensure(&[&a]).expect("kept"), [inputs.place(&a.sha256)]);
        let error = ensure(&[&a, &b]).expect_err("b is not there");
        let text = error.to_string();
        assert!(text.contains("b 2-3 sha256:3e23") && !text.contains("a 1"), "{text}");
        assert!(text.contains(&format!("{}/sha256", dir.path().display())), "{text}");
        assert!(error.hint().is_some_and(|hint| hint.contains("./just lock")));
    }

    #[test]
    fn a_damaged_input_is_never_used() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let inputs = Inputs::at(dir.path().to_owned());
        let a = package("a", "1", b"a");
        kept(&inputs, &a, b"A");
        let error = inputs.ensure(&[&a], Network::Allowed, &|_| {}).expect_err("damaged");
        let text = error.to_string();
        assert!(matches!(error, Error::InputDamaged { .. }));
        assert!(text.contains("a 1") && text.contains("559aead08264d579"), "{text}");
        assert!(error.hint().is_some_and(|hint| hint.contains("remove")));
    }
}
