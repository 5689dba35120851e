//! A file tree as a list: what will be in the sealed root or the initrd, before a byte of it is written. Pure; the
//! archives are made from it, so no property of the build machine's file system (owner, umask, order, time) can
//! reach the image.
//!
//! Invariant: every entry's parent is a directory entry, every path is absolute, plain and in the list once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Where the bytes of a file come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file on the build machine, read when the archive is written.
    Host(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(String),
    /// A regular file.
    File(Source),
}

/// One entry; the owner is root and the time the source epoch, always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Permission bits.
    pub mode: u32,
    /// What it is.
    pub content: Content,
}

/// Entries by absolute path, without the root directory itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

/// Why something cannot be put into a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Not absolute, or with empty, `.` or `..` parts.
    #[error("{0:?} is not a plain absolute path")]
    Path(String),
    /// Two different things at one place.
    #[error("{0} would be in the image twice, with different content")]
    Twice(String),
    /// A path below something that is no directory.
    #[error("{path} lies below {parent}, which is not a directory in the image")]
    Parent {
        /// The path.
        path: String,
        /// What is in the way.
        parent: String,
    },
}

/// Why an entry must not be in a sealed root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The entry.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

impl Tree {
    /// Adds a directory and its parents (mode 0755).
    pub fn directory(&mut self, path: &str) -> Result<(), TreeError> {
        self.put(path, Entry { mode: 0o755, content: Content::Directory })
    }

    /// Adds a directory with another mode.
    pub fn directory_with_mode(&mut self, path: &str, mode: u32) -> Result<(), TreeError> {
        self.put(path, Entry { mode, content: Content::Directory })
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), TreeError> {
        self.put(path, Entry { mode: 0o777, content: Content::Symlink(target.to_owned()) })
    }

    /// Adds a file that is not executable.
    pub fn file(&mut self, path: &str, source: Source) -> Result<(), TreeError> {
        self.put(path, Entry { mode: 0o644, content: Content::File(source) })
    }

    /// Adds a small file made here.
    pub fn text(&mut self, path: &str, text: impl Into<Vec<u8>>) -> Result<(), TreeError> {
        self.file(path, Source::Bytes(text.into()))
    }

    /// Adds an executable file.
    pub fn program(&mut self, path: &str, source: Source) -> Result<(), TreeError> {
        self.put(path, Entry { mode: 0o755, content: Content::File(source) })
    }

    fn put(&mut self, path: &str, entry: Entry) -> Result<(), TreeError> {
        if !is_plain(path) {
            return Err(TreeError::Path(path.to_owned()));
        }
        for (at, _) in path.match_indices('/').skip(1) {
            let parent = &path[..at];
            match self.entries.get(parent) {
                None => {
                    let directory = Entry { mode: 0o755, content: Content::Directory };
                    self.entries.insert(parent.to_owned(), directory);
                }
                Some(Entry { content: Content::Directory, .. }) => {}
                Some(_) => {
                    return Err(TreeError::Parent { path: path.to_owned(), parent: parent.to_owned() });
                }
            }
        }
        match self.entries.get(path) {
            Some(present) if *present == entry => Ok(()),
            // A directory that came as somebody's parent gets the mode that it is asked to have.
            Some(Entry { content: Content::Directory, mode: 0o755 })
                if entry.content == Content::Directory =>
            {
                self.entries.insert(path.to_owned(), entry);
                Ok(())
            }
            Some(_) => Err(TreeError::Twice(path.to_owned())),
            None => {
                self.entries.insert(path.to_owned(), entry);
                Ok(())
            }
        }
    }

    /// All entries, sorted by path, so parents come before what they hold.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// The entry at a path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// Where a path ends up when symbolic links are followed inside the tree; `None` when it leads nowhere.
    #[must_use]
    pub fn resolve(&self, path: &str) -> Option<String> {
        let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut here: Vec<String> = Vec::new();
        let mut followed = 0;
        while let Some(part) = todo.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    here.pop();
                    continue;
                }
                _ => here.push(part),
            }
            let at = format!("/{}", here.join("/"));
            match &self.entries.get(&at)?.content {
                Content::Symlink(target) => {
                    followed += 1;
                    if followed > MAX_LINKS {
                        return None;
                    }
                    if target.starts_with('/') {
                        here.clear();
                    } else {
                        here.pop();
                    }
                    todo.extend(target.split('/').rev().map(str::to_owned));
                }
                Content::Directory | Content::File(_) => {}
            }
        }
        Some(format!("/{}", here.join("/")))
    }
}

/// As many links as Linux follows in one path.
const MAX_LINKS: usize = 40;

fn is_plain(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|rest| {
        !rest.contains('\0') && rest.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
    })
}

/// Names of programs that a sealed root never holds, whoever brings them: whoever can run one of them can do what the
/// release does not say. A version behind the name ("python3.13") changes nothing.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "a shell",
        &[
            "sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "csh", "tcsh", "fish", "busybox", "toybox",
            "rbash", "nu", "elvish", "xonsh", "pwsh", "sash", "yash",
        ],
    ),
    (
        "an interpreter",
        &[
            "python",
            "pypy",
            "perl",
            "ruby",
            "irb",
            "node",
            "nodejs",
            "deno",
            "bun",
            "lua",
            "luajit",
            "tclsh",
            "awk",
            "gawk",
            "mawk",
            "nawk",
            "original-awk",
            "sed",
            "ed",
            "m4",
            "php",
            "guile",
            "java",
            "gdb",
            "erl",
            "ocaml",
            "rscript",
            "env",
            "qjs",
            "jq",
            "bpftrace",
        ],
    ),
    (
        "a package manager",
        &[
            "dpkg", "dpkg-deb", "apt", "apt-get", "aptitude", "rpm", "dnf", "yum", "apk", "pacman", "snap",
            "flatpak", "pip", "npm", "cargo", "gem", "nix", "opkg", "zypper",
        ],
    ),
    (
        "a login",
        &[
            "getty",
            "agetty",
            "mingetty",
            "login",
            "sulogin",
            "su",
            "sudo",
            "doas",
            "pkexec",
            "sshd",
            "dropbear",
            "telnetd",
            "newgrp",
            "passwd",
            "chsh",
            "run0",
            "machinectl",
        ],
    ),
];

/// What kind of forbidden program a file name is, when it is one. Versions behind the name do not hide it.
#[must_use]
pub fn forbidden(file_name: &str) -> Option<&'static str> {
    let name = file_name.to_ascii_lowercase();
    let bare = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    FORBIDDEN
        .iter()
        .find(|(_, names)| names.contains(&name.as_str()) || names.contains(&bare))
        .map(|(kind, _)| *kind)
}

/// What is wrong with a file of a sealed root, from its path, mode and first bytes.
#[must_use]
pub fn refuse_file(path: &str, mode: u32, head: &[u8]) -> Option<Refusal> {
    let refusal = |reason: String| Some(Refusal { path: path.to_owned(), reason });
    let name = path.rsplit('/').next().unwrap_or_default();
    if mode & 0o6000 != 0 {
        return refusal(format!("setuid or setgid (mode {mode:o})"));
    }
    if mode & 0o022 != 0 {
        return refusal(format!("writable by others than root (mode {mode:o})"));
    }
    let executable = mode & 0o111 != 0;
    if executable && let Some(kind) = forbidden(name) {
        return refusal(format!("{kind}: a sealed image has none"));
    }
    if head.starts_with(b"#!") && executable {
        return refusal("a script: there is no interpreter in a sealed image that could run it".to_owned());
    }
    None
}

/// Everything that is wrong with the links of a tree: those named like a forbidden program, and those that lead
/// nowhere.
#[must_use]
pub fn refuse_links(tree: &Tree) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for (path, entry) in tree.iter() {
        let Content::Symlink(target) = &entry.content else { continue };
        let name = path.rsplit('/').next().unwrap_or_default();
        // The links of the file system layout itself: /bin, /sbin, /lib.
        if let (Some(kind), true) = (forbidden(name), path.contains("bin/")) {
            refusals
                .push(Refusal { path: path.to_owned(), reason: format!("{kind}: a sealed image has none") });
        }
        let outside = ["/proc/", "/run/", "/dev/", "/sys/"].iter().any(|p| target.starts_with(p))
            || target.contains("../run/")
            || target.contains("../proc/");
        if !outside && tree.resolve(path).is_none() {
            refusals.push(Refusal {
                path: path.to_owned(),
                reason: format!("a link to {target}, which leads nowhere"),
            });
        }
    }
    refusals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.program("/usr/bin/a", Source::Bytes(vec![1])).expect("new");
        tree.symlink("/bin", "usr/bin").expect("new");
        tree
    }

    #[test]
    fn parents_appear_and_sort_first() {
        let tree = tree();
        let paths: Vec<_> = tree.iter().map(|(p, _)| p).collect();
        assert_eq!(paths, ["/bin", "/usr", "/usr/bin", "/usr/bin/a"]);
    }

    #[test]
    fn paths_that_are_not_plain_are_refused() {
        for path in ["a", "/", "", "/a//b", "/a/../b", "/a/.", "/a\0b"] {
            assert_eq!(Tree::default().text(path, ""), Err(TreeError::Path(path.to_owned())), "{path:?}");
        }
    }

    #[test]
    fn one_place_holds_one_thing() {
        let mut tree = tree();
        assert_eq!(tree.program("/usr/bin/a", Source::Bytes(vec![1])), Ok(()));
        assert_eq!(tree.text("/usr/bin/a", "2"), Err(TreeError::Twice("/usr/bin/a".to_owned())));
        assert!(matches!(tree.text("/bin/b", "x"), Err(TreeError::Parent { .. })));
    }

    #[test]
    fn links_are_followed_inside_the_tree() {
        let mut tree = tree();
        assert_eq!(tree.resolve("/bin/a").as_deref(), Some("/usr/bin/a"));
        assert_eq!(tree.resolve("/bin/b"), None);
        tree.symlink("/x", "y").expect("new");
        tree.symlink("/y", "x").expect("new");
        assert_eq!(tree.resolve("/x"), None);
        tree.symlink("/up", "../../usr").expect("new");
        assert_eq!(tree.resolve("/up").as_deref(), Some("/usr"));
    }

    #[test]
    fn forbidden_programs_are_known_by_any_version() {
        for name in [
            "sh",
            "bash",
            "python3",
            "python3.13",
            "perl5.40.1",
            "apt-get",
            "agetty",
            "su",
            "lua5.4",
            "BusyBox",
        ] {
            assert!(forbidden(name).is_some(), "{name}");
        }
        for name in ["pillar-init", "hello", "share", "libssl.so.3", "shim"] {
            assert!(forbidden(name).is_none(), "{name}");
        }
    }

    #[test]
    fn files_are_refused_for_their_reason() {
        let reason =
            |path, mode, head: &[u8]| refuse_file(path, mode, head).map(|r| r.reason).unwrap_or_default();
        assert!(reason("/usr/bin/x", 0o4755, b"").contains("setuid"));
        assert!(reason("/usr/bin/x", 0o775, b"").contains("writable"));
        assert!(reason("/usr/bin/sh", 0o755, b"").contains("a shell"));
        assert!(reason("/usr/lib/pillar/workload/run", 0o755, b"#!/bin/sh").contains("a script"));
        assert_eq!(reason("/usr/share/zoneinfo/x", 0o644, b"#!"), "");
        assert_eq!(reason("/usr/bin/hello", 0o755, b"\x7fELF"), "");
    }

    #[test]
    fn dangling_links_are_refused_but_run_is_made_later() {
        let mut tree = tree();
        tree.symlink("/etc/a", "nowhere").expect("new");
        tree.symlink("/etc/mtab", "../proc/self/mounts").expect("new");
        let refused: Vec<_> = refuse_links(&tree).into_iter().map(|r| r.path).collect();
        assert_eq!(refused, ["/etc/a"]);
    }
}
