//! The workload's folder: what of it goes into the image, checked before anything is compiled.

use crate::error::{Error, file};
use crate::tree::{Source, Tree};
use pillar_layout::root::WORKLOAD_FILES;
use pillar_workload::Build;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Files of one workload; more than this is a mistake in the path.
const MAX_FILES: usize = 20_000;

/// What a folder that is also a cargo package holds beside the workload's files.
const CARGO_FILES: [&str; 7] = ["Cargo.toml", "Cargo.lock", "build.rs", "src", "tests", "benches", "target"];

/// A workload as it lies on the build machine.
#[derive(Debug, Clone)]
pub struct Workload {
    folder: PathBuf,
    /// The checked `pillar.toml`.
    pub settings: pillar_workload::Workload,
    /// Packages to compile and where their programs go.
    pub builds: Vec<Build>,
    files: Vec<(String, Item)>,
}

#[derive(Debug, Clone)]
enum Item {
    Directory,
    Link(String),
    File { executable: bool },
}

/// Reads and checks a folder.
pub fn read(folder: &Path) -> Result<Workload, Error> {
    let refused = |source| Error::WorkloadFolder { path: folder.to_owned(), source };
    let path = folder.join("pillar.toml");
    fs::read_dir(folder).map_err(refused)?;
    let mut text = String::new();
    fs::File::open(&path)
        .and_then(|f| f.take(pillar_workload::limit::FILE_BYTES as u64 + 1).read_to_string(&mut text))
        .map_err(|source| Error::WorkloadFolder { path: path.clone(), source })?;
    let (settings, builds) =
        pillar_workload::parse(&text).map_err(|source| Error::WorkloadFile { path: path.clone(), source })?;
    let mut files = Vec::new();
    let cargo_package = folder.join("Cargo.toml").is_file();
    walk(folder, "", cargo_package, &mut files)?;
    let workload = Workload { folder: folder.to_owned(), settings, builds, files };
    workload.check_programs()?;
    Ok(workload)
}

fn walk(
    folder: &Path,
    below: &str,
    cargo_package: bool,
    files: &mut Vec<(String, Item)>,
) -> Result<(), Error> {
    let at = folder.join(below);
    let content = |path: PathBuf, problem: &str| Error::WorkloadContent { path, problem: problem.to_owned() };
    let mut entries = fs::read_dir(&at)
        .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
        .map_err(|source| Error::WorkloadFolder { path: at.clone(), source })?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            return Err(content(path, "file names must be UTF-8"));
        };
        let top = below.is_empty();
        if top
            && (name == "pillar.toml"
                || name == ".git"
                || cargo_package && CARGO_FILES.contains(&name.as_str()))
        {
            continue;
        }
        let inside = if top { name } else { format!("{below}/{name}") };
        if files.len() >= MAX_FILES {
            return Err(content(folder.to_owned(), "more than 20000 files"));
        }
        let metadata = fs::symlink_metadata(&path).map_err(file("read", &path))?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            files.push((inside.clone(), Item::Directory));
            walk(folder, &inside, cargo_package, files)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).map_err(file("read", &path))?;
            match target.to_str() {
                Some(target) => files.push((inside, Item::Link(target.to_owned()))),
                None => return Err(content(path, "link targets must be UTF-8")),
            }
        } else if kind.is_file() {
            let mode = metadata.permissions().mode();
            if mode & 0o6000 != 0 {
                return Err(content(path, "is setuid or setgid; a sealed image has no such file"));
            }
            fs::File::open(&path).map_err(|source| Error::WorkloadFolder { path: path.clone(), source })?;
            files.push((inside, Item::File { executable: mode & 0o100 != 0 }));
        } else {
            return Err(content(path, "is neither a file, a folder nor a link"));
        }
    }
    Ok(())
}

impl Workload {
    /// Every command must name a program that the image will have: a typing mistake is found here, not at boot.
    fn check_programs(&self) -> Result<(), Error> {
        let mut commands = vec![&self.settings.command];
        if let pillar_workload::Check::Command { argv } = &self.settings.health.check {
            commands.push(argv);
        }
        for command in commands {
            let Some(program) = command.first() else { continue };
            let prefix = format!("{WORKLOAD_FILES}/");
            let inside =
                if program.starts_with('/') { program.strip_prefix(&prefix) } else { Some(program.as_str()) };
            let Some(inside) = inside else { continue };
            let built = self.builds.iter().any(|build| build.to == inside);
            let problem = match self.files.iter().find(|(path, _)| path == inside) {
                _ if built => continue,
                Some((_, Item::File { executable: true } | Item::Link(_))) => continue,
                Some((_, Item::File { executable: false })) => "is not executable (chmod +x)",
                Some((_, Item::Directory)) => "is a folder",
                None => "is neither among its files nor built by a [[build]]",
            };
            let path = self.folder.join("pillar.toml");
            return Err(Error::WorkloadContent { path, problem: format!("program {program:?} {problem}") });
        }
        Ok(())
    }

    /// Puts the files, the compiled programs (in the order of [`Self::builds`]) and the writable directories into a
    /// tree.
    pub fn add_to(&self, tree: &mut Tree, programs: &[PathBuf]) -> Result<(), Error> {
        tree.directory(WORKLOAD_FILES)?;
        for (inside, item) in &self.files {
            let path = format!("{WORKLOAD_FILES}/{inside}");
            let source = || Source::Host(self.folder.join(inside));
            match item {
                Item::Directory => tree.directory(&path)?,
                Item::Link(target) => tree.symlink(&path, target)?,
                Item::File { executable: true } => tree.program(&path, source())?,
                Item::File { executable: false } => tree.file(&path, source())?,
            }
        }
        for (build, program) in self.builds.iter().zip(programs) {
            tree.program(&format!("{WORKLOAD_FILES}/{}", build.to), Source::Host(program.clone()))?;
        }
        // Mount points: the sealed root is read only.
        for path in &self.settings.writable {
            tree.directory(path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = "name = \"x\"\ncommand = [\"run\"]\n[health]\ntcp = { port = 80 }\n";

    fn folder(toml: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::write(dir.path().join("pillar.toml"), toml).expect("new");
        dir
    }

    fn program(path: &Path, mode: u32) {
        fs::write(path, b"\x7fELF").expect("new");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    }

    #[test]
    fn files_keep_only_whether_they_run() {
        let dir = folder(TOML);
        program(&dir.path().join("run"), 0o700);
        fs::write(dir.path().join("data"), "x").expect("new");
        let mut tree = Tree::default();
        read(dir.path()).expect("good").add_to(&mut tree, &[]).expect("fits");
        assert_eq!(tree.get("/usr/lib/pillar/workload/run").map(|e| e.mode), Some(0o755));
        assert_eq!(tree.get("/usr/lib/pillar/workload/data").map(|e| e.mode), Some(0o644));
        assert!(tree.get("/usr/lib/pillar/workload/pillar.toml").is_none());
    }

    #[test]
    fn a_program_that_will_not_be_there_is_found_now() {
        let dir = folder(TOML);
        assert!(read(dir.path()).expect_err("no run").to_string().contains("\"run\" is neither"));
        program(&dir.path().join("run"), 0o644);
        assert!(read(dir.path()).expect_err("not executable").to_string().contains("is not executable"));
        program(&dir.path().join("run"), 0o4755);
        assert!(read(dir.path()).expect_err("setuid").to_string().contains("setuid"));
    }

    #[test]
    fn an_unreadable_folder_and_a_bad_file_are_told_apart() {
        assert!(matches!(read(Path::new("/nonexistent")), Err(Error::WorkloadFolder { .. })));
        let dir = folder("name = 3");
        assert!(matches!(read(dir.path()), Err(Error::WorkloadFile { .. })));
    }

    #[test]
    fn a_socket_is_refused() {
        let dir = folder(TOML);
        program(&dir.path().join("run"), 0o755);
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).expect("new");
        assert!(read(dir.path()).expect_err("socket").to_string().contains("neither a file"));
    }

    #[test]
    fn the_example_of_the_project_is_good_and_its_source_stays_out() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../workloads/hello");
        let workload = read(&example).expect("good");
        assert!(workload.files.iter().all(|(path, _)| !path.starts_with("src") && path != "Cargo.toml"));
    }
}
