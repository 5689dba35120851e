//! `./just repro`: builds twice, as differently as this host allows, and compares every output.
//!
//! The first build is made here, as `./just image` makes it. The second plays another machine: a copy of the sources
//! elsewhere, another user, home, cache, host name, umask, locale, time zone, clock, order of directory entries and
//! number of jobs, no network, and Debian trees of its own, made there from the kept inputs. Its trees and its compiled
//! dependencies stay in the cache for the next run: they were made under the same differences, never by the first build.

use crate::assembly;
use crate::compare::{self, Compared, Verdict};
use crate::error::{Error, file};
use crate::options::{BuildOptions, ReproOptions};
use crate::progress::Progress;
use crate::run::run;
use pillar_tools::Tools;
use serde::Serialize;
use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The other user and group; nobody has them.
const OTHER_USER: &str = "31415";

/// How far the tools' clock is ahead in the second build.
const LATER: &str = "+400d";

/// Within a tools tree.
const CLOCK: &str = "usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// Shows the folders before the word `--` with their entries in random order to the command behind it, which another user
/// runs. The words before: where to write what could not be done, the other user, and how disorderfs is started (its
/// loader, where its libraries are, the program).
const SCRIPT: &str = r#"
notes=$1 user=$2 loader=$3 libraries=$4 disorderfs=$5; shift 5
IFS='
'
mounted=''
trap 'for m in $mounted; do umount -l "$m"; done' EXIT
trap 'exit 143' TERM INT HUP
echo elsewhere >/proc/sys/kernel/hostname || echo "host name: it cannot be set here" >>"$notes"
while [ "$1" != -- ]; do
	mkdir -p "$1.plain"
	if said=$({ mount --bind "$1" "$1.plain" && "$loader" --library-path "$libraries" "$disorderfs" \
		--shuffle-dirents=yes --reverse-dirents=no -o nonempty "$1.plain" "$1"; } 2>&1); then
		mounted="$mounted
$1"
	else
		echo "order of directory entries: $(echo "$said" | tr '\n' ' ')" >>"$notes"
	fi
	shift
done
shift
cd "$PWD" || exit 1
umask 077
unshare --user --map-user="$user" --map-group="$user" "$@"
"#;

/// How two builds compare.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Whether nothing but signatures differs.
    pub same: bool,
    /// What was different about the second build.
    pub varied: Vec<String>,
    /// What this host does not let us vary, and why.
    pub not_varied: Vec<String>,
    /// Every file.
    pub files: Vec<Compared>,
    /// Where the two builds are.
    pub folders: [PathBuf; 2],
    /// What diffoscope has to say about the first file that differs, where it is installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diffoscope: Option<String>,
}

/// Builds twice and compares.
pub fn repro(project: &Path, options: &ReproOptions, progress: &Progress) -> Result<Outcome, Error> {
    let base = pillar_tools::cache_dir().join("repro");
    fs::create_dir_all(&base).map_err(file("create", &base))?;
    let lock = File::open(&base).map_err(file("open", &base))?;
    if lock.try_lock().is_err() {
        return Err(Error::Busy(base));
    }
    let (first, second) = (base.join("first"), base.join("second"));
    for folder in [&first, &second] {
        remove(folder)?;
    }
    progress.note("the first build: here");
    let build = first_build(options, &first);
    assembly::build(project, &build, progress)?;

    let elsewhere = Elsewhere::new(project, &base, Tools::open()?)?;
    elsewhere.build(&build, &second, progress)?;

    progress.step("comparing");
    let files = compare::folders(&first, &second)?;
    let different = files.iter().find(|f| f.differs());
    let diffoscope = different.and_then(|f| explain(&first.join(&f.name), &second.join(&f.name)));
    let outcome = Outcome {
        same: different.is_none(),
        varied: elsewhere.varied(),
        not_varied: elsewhere.not_varied(),
        diffoscope,
        files,
        folders: [first, second],
    };
    progress.finish();
    Ok(outcome)
}

fn first_build(options: &ReproOptions, out: &Path) -> BuildOptions {
    BuildOptions {
        flavour: options.flavour.clone(),
        workload: options.workload.clone(),
        keys: options.keys.clone(),
        db_key: None,
        pcr_key: None,
        pcr_certificate: None,
        out: Some(out.to_owned()),
        version: options.version.clone(),
        epoch: options.epoch,
        offline: options.offline,
        refresh: false,
        unsigned: true,
        output: crate::options::Format::Text,
    }
}

/// The other machine that the second build believes to be on.
struct Elsewhere {
    project: PathBuf,
    /// Everything of the second build is below this.
    folder: PathBuf,
    source: PathBuf,
    notes: PathBuf,
    tools: Tools,
    jobs: usize,
    /// Namespaces of its own; `None` with the reason when they cannot be had.
    apart: Result<Vec<&'static str>, String>,
    /// Whether a library that moves the clock can be put before the tools.
    clock: Result<(), String>,
}

impl Elsewhere {
    fn new(project: &Path, base: &Path, tools: Tools) -> Result<Self, Error> {
        let folder = base.join("elsewhere");
        // mkosi takes no spaces in the cache's path; the sources may lie anywhere.
        let source = folder.join("a copy of the sources");
        for name in ["home", "cache/pillar", "target"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(file("create", &path))?;
        }
        let (kept, seen) = (pillar_tools::cache_dir().join("inputs"), folder.join("cache/pillar/inputs"));
        fs::create_dir_all(&kept).map_err(file("create", &kept))?;
        if !seen.exists() {
            symlink(&kept, &seen).map_err(file("link", &seen))?;
        }
        let notes = folder.join("notes");
        fs::write(&notes, "").map_err(file("write", &notes))?;
        copy_sources(project, &source)?;
        let clock = clock_moves(&tools);
        let jobs = 1 + std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { project: project.to_owned(), folder, source, notes, tools, jobs, apart: apart(), clock })
    }

    fn build(&self, options: &BuildOptions, out: &Path, progress: &Progress) -> Result<(), Error> {
        progress.step("Debian trees of the second build, from the kept inputs, without a network (kept for the next run)");
        let flavour = format!("--flavour={}", options.flavour);
        let output =
            run("the second build's trees", self.command(&[]).args(["trees", "--offline", &flavour]))?;
        let workshop = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        self.set_clock()?;
        progress.step("the second build: elsewhere, later, as somebody else");
        let mut command = self.command(&[&self.source, &workshop]);
        command.args(["build", "--offline", "--unsigned", &flavour]);
        command.arg(format!("--epoch={}", options.epoch));
        command.args(options.version.iter().map(|version| format!("--version={version}")));
        command.arg("--out").arg(out).arg("--keys").arg(assembly::under(&self.project, &options.keys));
        // A workload of the project is taken from the copy, another from where it is.
        let workload = assembly::under(&self.project, &options.workload);
        let workload = match workload.strip_prefix(&self.project) {
            Ok(inside) => self.source.join(inside),
            Err(_) => workload,
        };
        run("the second build", command.arg("--workload").arg(workload))?;
        Ok(())
    }

    /// Puts the clock into the second build's tools tree.
    fn set_clock(&self) -> Result<(), Error> {
        let name = self.tools.path("").file_name().map(OsString::from).unwrap_or_default();
        if self.clock.is_ok() {
            let preload = self.folder.join("cache/pillar").join(name).join("etc/ld.so.preload");
            fs::write(&preload, format!("/{CLOCK}\n")).map_err(file("write", &preload))?;
        }
        Ok(())
    }

    /// This program under the other machine's conditions, with these folders in disorder.
    fn command(&self, disorder: &[&PathBuf]) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if let Ok(namespaces) = &self.apart {
            words.push("unshare".into());
            words.extend(namespaces.iter().map(OsString::from));
            words.extend(["sh", "-c", SCRIPT, "sh"].map(OsString::from));
            words.extend([self.notes.clone().into(), OTHER_USER.into()]);
            // Of the tools tree, but outside the tools' sandbox, where its mount would not be seen by the build.
            let program =
                ["usr/lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu", "usr/bin/disorderfs"];
            words.extend(program.map(|path| self.tools.path(path).into_os_string()));
            words.extend(disorder.iter().map(|folder| folder.as_os_str().to_owned()));
            words.push("--".into());
        } else {
            words.extend(["sh", "-c", "umask 077; exec \"$@\"", "sh"].map(OsString::from));
        }
        words.push(env::current_exe().unwrap_or_else(|_| "pillar-image".into()).into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(&self.source);
        let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        // Cargo and the compiler are the host's.
        for (variable, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            command.env(variable, env::var_os(variable).unwrap_or_else(|| home.join(folder).into()));
        }
        command.env("HOME", self.folder.join("home")).env("XDG_CACHE_HOME", self.folder.join("cache"));
        command.env("CARGO_TARGET_DIR", self.folder.join("target"));
        command.env("CARGO_BUILD_JOBS", self.jobs.to_string());
        command.env("SOURCE_DATE_EPOCH", assembly::source_date_epoch(&self.project).to_string());
        command.env("TZ", "Pacific/Kiritimati").env("LC_ALL", "tr_TR.UTF-8").env("LANG", "tr_TR.UTF-8");
        command.env("USER", "somebody").env("LOGNAME", "somebody");
        command.env("CFLAGS", "-g").env("RUSTFLAGS", "-Cdebuginfo=1");
        command.env("FAKETIME", LATER).env("NO_FAKE_STAT", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    }

    fn varied(&self) -> Vec<String> {
        let mut varied = vec![
            "folder of the sources, of the compiled programs and of the cache; home".to_owned(),
            "umask 077, LC_ALL=tr_TR.UTF-8, TZ=Pacific/Kiritimati, CFLAGS, RUSTFLAGS, USER".to_owned(),
            format!("{} jobs instead of {}", self.jobs, self.jobs - 1),
            "Debian trees of its own, made from the kept inputs".to_owned(),
        ];
        if self.apart.is_ok() {
            varied.push(format!("user and group {OTHER_USER}, host name, no network"));
        }
        if self.clock.is_ok() {
            varied.push(format!(
                "the tools' clock {LATER}; the compiler's is only as much later as the builds are apart"
            ));
        }
        if self.apart.is_ok() && !self.noted().iter().any(|note| note.starts_with("order")) {
            varied.push("order of directory entries (disorderfs) of sources and Debian tree".to_owned());
        }
        varied
    }

    fn not_varied(&self) -> Vec<String> {
        let mut missing = self.noted();
        if let Err(why) = &self.apart {
            missing.push(format!("user, host name, network, order of directory entries: {why}"));
        }
        if let Err(why) = &self.clock {
            missing.push(format!("clock: {why}"));
        }
        missing
    }

    fn noted(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.notes).unwrap_or_default();
        // The same thing may have failed in both steps.
        text.lines().map(|line| line.trim().to_owned()).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// The namespaces that this user may have.
fn apart() -> Result<Vec<&'static str>, String> {
    let mut flags = vec!["--mount", "--uts", "--net"];
    if !rustix::process::geteuid().is_root() {
        flags.extend(["--user", "--map-root-user"]);
    }
    let mut probe = Command::new("unshare");
    probe.args(&flags).args(["unshare", "--user", &format!("--map-user={OTHER_USER}"), "true"]);
    succeeds(&mut probe).map(|()| flags)
}

fn clock_moves(tools: &Tools) -> Result<(), String> {
    let mut probe = Command::new(tools.path("usr/lib64/ld-linux-x86-64.so.2"));
    probe.arg("--library-path").arg(tools.path("usr/lib/x86_64-linux-gnu"));
    probe.arg("--preload").arg(tools.path(CLOCK)).arg(tools.path("usr/bin/date")).arg("+%s");
    let seconds = |command: &mut Command| {
        let output = command.output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse::<u64>().ok()
    };
    let now = seconds(Command::new("date").arg("+%s"));
    match (now, seconds(probe.env("FAKETIME", LATER))) {
        (Some(now), Some(then)) if then > now + 86_400 => Ok(()),
        _ => Err("libfaketime does not work here".to_owned()),
    }
}

fn succeeds(command: &mut Command) -> Result<(), String> {
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A clone with the files as they are here, changed and new ones too. What is the same as last time is not written, so that
/// what was compiled from it there is not compiled again.
fn copy_sources(project: &Path, to: &Path) -> Result<(), Error> {
    let git = |folder: &Path, words: &[&str]| {
        let mut command = Command::new("git");
        run("git", command.arg("-C").arg(folder).args(words))
    };
    let listed = |folder: &Path| {
        let words = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let output = git(folder, &words)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok::<Vec<String>, Error>(text.split_terminator('\0').map(str::to_owned).collect())
    };
    let plain = to.with_extension("plain");
    for folder in [to, &plain] {
        fs::create_dir_all(folder).map_err(file("create", folder))?;
    }
    // The history too: the time of the last commit and its name are inputs.
    let history = to.join(".git");
    remove(&history)?;
    let mut clone = Command::new("git");
    clone.args(["clone", "--quiet", "--bare"]).arg(project).arg(&history);
    run("git clone", &mut clone)?;
    git(to, &["config", "core.bare", "false"])?;
    git(to, &["reset", "--quiet"])?;
    let wanted = listed(project)?;
    for name in listed(to)?.into_iter().filter(|name| !wanted.contains(name)) {
        let _ = fs::remove_file(to.join(name));
    }
    for name in wanted {
        let (from, to) = (project.join(&name), to.join(&name));
        let Ok(metadata) = fs::symlink_metadata(&from) else {
            let _ = fs::remove_file(&to);
            continue;
        };
        let same = fs::read(&from).ok().is_some_and(|bytes| fs::read(&to).is_ok_and(|b| b == bytes));
        if same || !metadata.is_file() {
            continue;
        }
        let copy = || {
            fs::create_dir_all(to.parent().unwrap_or(&to))?;
            fs::copy(&from, &to)
        };
        copy().map_err(file("copy", &from))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// What diffoscope says, where somebody installed it.
fn explain(first: &Path, second: &Path) -> Option<String> {
    let output = Command::new("diffoscope")
        .args(["--max-text-report-size=20000", "--text=-"])
        .args([first, second])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// For people.
#[must_use]
pub fn summary(outcome: &Outcome) -> String {
    let mut text = String::new();
    for (title, lines) in [("varied", &outcome.varied), ("not varied here", &outcome.not_varied)] {
        for line in lines {
            text.push_str(&format!("{title}: {line}\n"));
        }
    }
    text.push_str(&table(&outcome.files));
    if let Some(words) = &outcome.diffoscope {
        text.push_str(&format!("{words}\n"));
    } else if !outcome.same {
        text.push_str("diffoscope, where it is installed, is asked what the difference is\n");
    }
    if !outcome.same {
        let [first, second] = &outcome.folders;
        text.push_str(&format!("the two builds: {} and {}\n", first.display(), second.display()));
    }
    text.trim_end().to_owned()
}

/// A line per file, and the first that differs with both versions.
#[must_use]
pub fn table(files: &[Compared]) -> String {
    let mut text = String::new();
    for compared in files {
        let (verdict, version) = match compared.verdict {
            Verdict::Same => ("same", &compared.first),
            Verdict::SameButSignatures => ("same but for signatures", &compared.first),
            Verdict::Different => ("DIFFERENT", &None),
            Verdict::OnlyFirst => ("ONLY IN THE FIRST", &compared.first),
            Verdict::OnlySecond => ("ONLY IN THE SECOND", &compared.second),
        };
        let digest = version.as_ref().map(|v| format!("  sha256:{}", &v.sha256[..16])).unwrap_or_default();
        text.push_str(&format!("{:34} {verdict}{digest}\n", compared.name));
    }
    match files.iter().find(|f| f.differs()) {
        None => text.push_str("the two builds are the same\n"),
        Some(different) => {
            text.push_str(&format!("the first file that differs is {}\n", different.name));
            for (which, version) in [("first", &different.first), ("second", &different.second)] {
                match version {
                    Some(v) => {
                        text.push_str(&format!("  {which:6} {:>10} bytes  sha256:{}\n", v.size, v.sha256));
                    }
                    None => text.push_str(&format!("  {which:6} has none\n")),
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Version;

    #[test]
    fn the_first_difference_is_named_with_both_versions() {
        let version = |c: char| Some(Version { size: 5, sha256: c.to_string().repeat(64) });
        let one = |name: &str, verdict, second| Compared {
            name: name.to_owned(),
            verdict,
            first: version('a'),
            second,
        };
        let files = [one("a.root", Verdict::Same, version('a')), one("b", Verdict::Different, version('b'))];
        let text = table(&files);
        assert!(text.contains("a.root") && text.contains("same  sha256:aaaaaaaaaaaaaaaa\n"), "{text}");
        assert!(text.contains("the first file that differs is b\n"), "{text}");
        assert!(text.contains(&format!("  second          5 bytes  sha256:{}\n", "b".repeat(64))), "{text}");
        assert!(table(&files[..1]).ends_with("the two builds are the same\n"));
    }

    #[test]
    fn a_copy_has_what_is_here_and_loses_what_is_gone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (project, to) = (dir.path().join("project"), dir.path().join("a copy"));
        fs::create_dir(&project).expect("new");
        let git = |words: &[&str]| {
            let mut command = Command::new("git");
            command.arg("-C").arg(&project).args(["-c", "user.name=x", "-c", "user.email=x@y.invalid"]);
            run("git", command.args(words)).expect("git works");
        };
        git(&["init", "--quiet"]);
        for name in ["kept", "changed", "gone"] {
            fs::write(project.join(name), "old").expect("new");
        }
        git(&["add", "."]);
        git(&["commit", "--quiet", "--message", "x"]);
        copy_sources(&project, &to).expect("copied");
        fs::write(project.join("changed"), "new").expect("written");
        fs::write(project.join("added"), "new").expect("written");
        fs::remove_file(project.join("gone")).expect("there");
        copy_sources(&project, &to).expect("copied again");
        let read = |name: &str| fs::read_to_string(to.join(name)).ok();
        assert_eq!(
            ["kept", "changed", "added"].map(read).map(Option::unwrap_or_default),
            ["old", "new", "new"]
        );
        assert_eq!(read("gone"), None);
        assert!(to.join(".git").is_dir());
    }
}
