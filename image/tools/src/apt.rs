//! The host's own Debian mirror, pointed at trixie. No mirror is named in this project: it comes from the host's apt
//! configuration, or from `PILLAR_DEBIAN_MIRROR`.

use crate::{Error, cache_dir, file_error, run};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release that images and tools are made of.
const SUITE: &str = "trixie";

/// Debian's archive keys; the host's package `debian-archive-keyring` has them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A tree for mkosi's `SandboxTrees=` with the host's mirror (and proxies) for trixie. Written anew each time.
pub fn apt_sandbox_tree() -> Result<PathBuf, Error> {
    let tree = cache_dir().join("apt");
    let sources = tree.join("etc/apt/sources.list.d");
    let conf = tree.join("etc/apt/apt.conf.d");
    for folder in [&sources, &conf] {
        fs::create_dir_all(folder).map_err(file_error("create", folder))?;
    }
    let targets = output("apt-get", &["indextargets", "--format", "$(LABEL)\t$(REPO_URI)"])?;
    let text =
        sources_text(&targets, env::var("PILLAR_DEBIAN_MIRROR").ok().as_deref()).ok_or(Error::NoMirror)?;
    write(&sources.join("mkosi.sources"), &text)?;
    write(&conf.join("60proxy.conf"), &proxies(&output("apt-config", &["dump"])?))?;
    Ok(tree)
}

/// Downloads one package of [`SUITE`] into `folder`; returns its file.
pub(crate) fn download(package: &str, folder: &Path) -> Result<PathBuf, Error> {
    let tree = apt_sandbox_tree()?;
    let lists = folder.join("lists/partial");
    let archives = folder.join("cache/archives/partial");
    for path in [&lists, &archives] {
        fs::create_dir_all(path).map_err(file_error("create", path))?;
    }
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-q", "-o", "APT::Sandbox::User=root"]);
        command.arg("-o").arg(format!("Dir::Etc={}", tree.join("etc/apt").display()));
        command.arg("-o").arg(format!("Dir::State::lists={}", folder.join("lists").display()));
        command.arg("-o").arg(format!("Dir::Cache={}", folder.join("cache").display()));
        command.args(words).current_dir(folder);
        run(&mut command, "apt-get", &cache_dir().join("apt.log"), crate::HINT_NETWORK)
    };
    apt(&["update"])?;
    apt(&["download", package])?;
    let entries = fs::read_dir(folder).map_err(file_error("list", folder))?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .ok_or_else(|| Error::Missing(folder.join(package)))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(file_error("write", path))
}

fn output(program: &str, words: &[&str]) -> Result<String, Error> {
    let output = Command::new(program)
        .args(words)
        .output()
        .map_err(|source| Error::Start { program: program.to_owned(), source })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The sources in deb822 form; `None` when no Debian mirror is known. `targets` has a line `label TAB uri` per index.
fn sources_text(targets: &str, named: Option<&str>) -> Option<String> {
    let of = |wanted: &str| {
        targets
            .lines()
            .filter_map(|l| l.split_once('\t'))
            .find(|(label, _)| *label == wanted)
            .map(|(_, uri)| uri)
    };
    let main = named.or_else(|| of("Debian"))?;
    let mut text = stanza(main, &format!("{SUITE} {SUITE}-updates"));
    if let Some(security) = of("Debian-Security") {
        text.push('\n');
        text.push_str(&stanza(security, &format!("{SUITE}-security")));
    }
    Some(text)
}

fn stanza(uri: &str, suites: &str) -> String {
    format!("Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {KEYRING}\n")
}

/// The proxy settings among `apt-config dump`'s lines.
fn proxies(dump: &str) -> String {
    dump.lines()
        .filter(|l| l.starts_with("Acquire::http::Proxy") || l.starts_with("Acquire::https::Proxy"))
        .map(|l| format!("{l}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_hosts_own() {
        let targets = "Other\thttp://other.invalid/\nDebian\thttp://mirror.invalid/debian/\n\
                       Debian-Security\thttp://mirror.invalid/security/\n";
        let text = sources_text(targets, None).expect("a Debian mirror is listed");
        assert!(
            text.starts_with(
                "Types: deb\nURIs: http://mirror.invalid/debian/\nSuites: trixie trixie-updates\n"
            )
        );
        assert!(text.contains("URIs: http://mirror.invalid/security/\nSuites: trixie-security\n"));
        assert!(!text.contains("other.invalid"));
    }

    #[test]
    fn no_mirror_is_said_and_a_named_one_wins() {
        assert_eq!(sources_text("Ubuntu\thttp://mirror.invalid/\n", None), None);
        let text =
            sources_text("Debian\thttp://a.invalid/\n", Some("http://b.invalid/debian")).expect("named");
        assert!(text.contains("URIs: http://b.invalid/debian\n"));
    }

    #[test]
    fn only_proxies_are_taken_over() {
        let dump =
            "Acquire \"\";\nAcquire::http::Proxy \"http://127.0.0.1:3142\";\nAcquire::Retries \"3\";\n";
        assert_eq!(proxies(dump), "Acquire::http::Proxy \"http://127.0.0.1:3142\";\n");
    }
}
