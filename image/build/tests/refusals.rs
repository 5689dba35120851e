//! Bad input to `pillar-image`: one clear error that names the thing and what to do, a failing exit code, and an
//! output folder that is as it was.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends where its surroundings are broken")]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a build may take to get where a test wants to interrupt it; compiling is part of it.
const DEADLINE: Duration = Duration::from_secs(900);

struct Run {
    code: Option<i32>,
    text: String,
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillar-image"));
    command.current_dir(project()).arg("build").args(arguments).stdin(Stdio::null());
    command
}

fn finish(command: &mut Command) -> Run {
    let output = command.output().unwrap();
    Run { code: output.status.code(), text: String::from_utf8_lossy(&output.stderr).into_owned() }
}

fn word(key: &str, value: &Path) -> String {
    format!("{key}={}", value.display())
}

/// Runs a build that must be refused; what is said must contain all of `wanted`, in the form that we promise, and an
/// output folder with a file in it stays as it is.
fn refused(arguments: &[&str], wanted: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("release.json"), "older").unwrap();
    let out_word = word("out", &out);
    let arguments: Vec<&str> = arguments.iter().copied().chain([out_word.as_str()]).collect();
    let run = finish(&mut command(&arguments));
    assert_eq!(run.code, Some(1), "{}", run.text);
    assert!(run.text.contains("error: ") && run.text.contains("\nhint: "), "{}", run.text);
    assert_eq!(run.text.matches("error: ").count(), 1, "{}", run.text);
    for part in wanted {
        assert!(run.text.contains(part), "{part:?} is not in\n{}", run.text);
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["out"]);
    assert_eq!(fs::read_to_string(out.join("release.json")).unwrap(), "older");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

fn workload(toml: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("pillar.toml"), toml).unwrap();
    dir
}

const GOOD: &str = "name = \"x\"\ncommand = [\"run\"]\n[health]\ntcp = { port = 80 }\n";

#[test]
fn an_unknown_flavour_names_the_known_ones() {
    refused(&["flavour=nosuch"], &["there is no flavour \"nosuch\"", "virt"]);
}

#[test]
fn a_workload_that_is_not_there_or_is_no_folder() {
    refused(
        &["workload=/nonexistent"],
        &["workload /nonexistent cannot be used", "caused by: ", "No such file"],
    );
    refused(&["workload=/etc/passwd"], &["workload /etc/passwd cannot be used"]);
    let empty = tempfile::tempdir().unwrap();
    refused(&[&word("workload", empty.path())], &["pillar.toml cannot be used"]);
}

#[test]
fn a_bad_pillar_toml_names_the_key() {
    let dir = workload(&GOOD.replace("port = 80", "port = 80000"));
    refused(&[&word("workload", dir.path())], &["pillar.toml is refused", "caused by: ", "health.tcp.port"]);
    let dir = workload("name = [");
    refused(&[&word("workload", dir.path())], &["pillar.toml is refused", "line 1"]);
}

#[test]
fn a_program_that_is_missing_in_the_workload() {
    let dir = workload(GOOD);
    refused(&[&word("workload", dir.path())], &["program \"run\" is neither"]);
}

#[test]
fn missing_keys() {
    refused(&["keys=/nonexistent"], &["/nonexistent", "hint: `./just keys`"]);
    refused(&["db-key=/nonexistent/db.key"], &["the Secure Boot key is missing: /nonexistent/db.key"]);
}

#[test]
fn wrong_words_are_wrong_usage() {
    for (words, wanted) in [
        (&["flavor=virt"][..], "flavor=virt: unknown word"),
        (&["version=v1"], "\"v1\" cannot be a version"),
        (&["offline=perhaps"], "offline=yes"),
    ] {
        let run = finish(&mut command(words));
        assert_eq!(run.code, Some(2), "{}", run.text);
        assert!(run.text.contains(wanted), "{}", run.text);
    }
}

#[test]
fn outside_the_project() {
    let dir = tempfile::tempdir().unwrap();
    let run = finish(command(&[]).current_dir(dir.path()));
    assert_eq!(run.code, Some(1));
    assert!(run.text.contains("is not inside the Pillar project"), "{}", run.text);
}

/// A cache with the real tools tree and nothing else in it; `None` when there is no tools tree or there are no keys.
fn bare_cache() -> Option<tempfile::TempDir> {
    if pillar_tools::Tools::open().is_err() || !project().join(pillar_keys::DEFAULT_DIR).is_dir() {
        eprintln!("skipped: needs the tools tree and the development keys (`./just keys`)");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("pillar");
    fs::create_dir(&cache).unwrap();
    for entry in fs::read_dir(pillar_tools::cache_dir()).unwrap().flatten() {
        let name = entry.file_name();
        let wanted = ["mkosi-", "tools-"].iter().any(|start| name.to_string_lossy().starts_with(start));
        if wanted {
            std::os::unix::fs::symlink(entry.path(), cache.join(name)).unwrap();
        }
    }
    Some(dir)
}

#[test]
fn without_a_network_it_says_so() {
    let Some(cache) = bare_cache() else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = word("out", &dir.path().join("out"));
    // Nothing listens on the discard port of this machine.
    let mut build = command(&[&out]);
    build.env("XDG_CACHE_HOME", cache.path()).env("PILLAR_DEBIAN_MIRROR", "http://127.0.0.1:9/debian");
    let run = finish(&mut build);
    assert_eq!(run.code, Some(1), "{}", run.text);
    let kept = cache.path().join("pillar/inputs/sha256");
    let looked = format!("looked in:\n  {}\n  http://127.0.0.1:9/debian/pool/", kept.display());
    assert!(
        run.text.contains("inputs are missing:\n  adduser ") && run.text.contains(&looked),
        "{}",
        run.text
    );
    assert!(run.text.contains("\nhint: mirrors drop old versions: copy the folder"), "{}", run.text);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn offline_a_missing_input_is_named_and_a_damaged_one_is_not_used() {
    let Some(cache) = bare_cache() else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = word("out", &dir.path().join("out"));
    let kept = cache.path().join("pillar/inputs/sha256");
    fs::create_dir_all(&kept).unwrap();
    let locked = fs::read_to_string(project().join("image/lock/virt.lock")).unwrap();
    let locked = pillar_tools::lock::Lock::parse(&locked).unwrap();
    let inputs = pillar_tools::Inputs::open();
    for package in locked.packages.values() {
        let from = inputs.place(&package.sha256);
        if !from.exists() {
            eprintln!("skipped: {} is not kept; `./just image` once", package.name);
            return;
        }
        std::os::unix::fs::symlink(from, kept.join(package.sha256.to_string())).unwrap();
    }
    let run = || {
        let run = finish(command(&[&out, "offline=yes"]).env("XDG_CACHE_HOME", cache.path()));
        assert_eq!(run.code, Some(1), "{}", run.text);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "neither out nor out.partial");
        run.text
    };
    let package = &locked.packages["tzdata"];
    let place = kept.join(package.sha256.to_string());
    fs::remove_file(&place).unwrap();
    let text = run();
    let wanted = format!(
        "error: inputs are missing:\n  tzdata {} sha256:{}\nlooked in:\n  {}\nhint: ",
        package.version,
        package.sha256,
        kept.display()
    );
    assert!(text.contains(&wanted), "{text}");

    fs::write(&place, "something else").unwrap();
    let text = run();
    let wanted = format!("error: the kept input {} (tzdata {}) is damaged", place.display(), package.version);
    assert!(text.contains(&wanted) && text.contains("\nhint: remove that file"), "{text}");
}

#[test]
fn offline_a_missing_crate_is_named() {
    if bare_cache().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let home = tempfile::tempdir().unwrap();
    let out = word("out", &dir.path().join("out"));
    let mut build = command(&[&out, "offline=yes"]);
    // The compiler stays where it is.
    let rustup = std::env::var_os("HOME").map(|home| Path::new(&home).join(".rustup"));
    build.env("CARGO_HOME", home.path());
    if let (None, Some(rustup)) = (std::env::var_os("RUSTUP_HOME"), rustup) {
        build.env("RUSTUP_HOME", rustup);
    }
    let run = finish(&mut build);
    assert_eq!(run.code, Some(1), "{}", run.text);
    assert!(
        run.text.contains("caused by: ") && run.text.contains("no matching package named `"),
        "{}",
        run.text
    );
    assert!(
        run.text.contains("hint: crates come from cargo's own cache: `cargo fetch --locked`"),
        "{}",
        run.text
    );
}

#[test]
fn a_damaged_a_missing_and_an_outdated_lock() {
    if bare_cache().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for folder in ["image/flavours", "image/mkosi", "image/lock", "image/workloads/hello"] {
        let (from, to) = (project().join(folder), dir.path().join(folder));
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(from).unwrap().flatten().filter(|e| e.path().is_file()) {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    fs::write(dir.path().join("Cargo.toml"), "").unwrap();
    let keys = word("keys", &project().join(pillar_keys::DEFAULT_DIR));
    let refused = |wanted: &[&str]| {
        let run = finish(command(&[&keys]).current_dir(dir.path()));
        assert_eq!(run.code, Some(1), "{}", run.text);
        for part in wanted {
            assert!(run.text.contains(part), "{part:?} is not in\n{}", run.text);
        }
        assert!(!dir.path().join("out").exists());
    };
    let path = dir.path().join("image/lock/virt.lock");
    let good = fs::read_to_string(&path).unwrap();
    for (from, to, reason) in [
        ("sha256 = \"", "sha256 = \"x", "is no SHA-256"),
        ("pool/main/a/", "pool/../a/", "cannot be the path of a package"),
        ("format = 1", "format = 9", "format 9 is not known here"),
    ] {
        fs::write(&path, good.replacen(from, to, 1)).unwrap();
        refused(&["image/lock/virt.lock is damaged: ", reason, "hint: take the file from git again"]);
    }
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    refused(&["image/lock/virt.lock is damaged: "]);
    fs::remove_file(&path).unwrap();
    refused(&["there is no lock file ", "virt.lock", "hint: `./just lock` makes it"]);
    fs::write(&path, &good).unwrap();
    let configuration = dir.path().join("image/mkosi/mkosi.conf");
    let text = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, text.replace("        kmod\n", "        kmod\n        e2fsprogs\n")).unwrap();
    refused(&["virt.lock was made for other packages: +e2fsprogs", "hint: `./just lock` renews it"]);
}

#[test]
fn two_builds_into_one_folder_and_an_interrupted_one() {
    if bare_cache().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let out_word = word("out", &out);
    let partial = dir.path().join("out.partial");
    let mut first = command(&[&out_word]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !partial.is_dir() && started.elapsed() < DEADLINE {
        if let Some(status) = first.try_wait().unwrap() {
            panic!("the build ended by itself: {status}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = finish(&mut command(&[&out_word]));
    assert_eq!(second.code, Some(1), "{}", second.text);
    assert!(second.text.contains("another build is writing to"), "{}", second.text);

    let pid = rustix::process::Pid::from_child(&first);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = first.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(143), "signal {:?}: {text}", output.status.signal());
    assert!(text.contains("error: interrupted"), "{text}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "neither out nor out.partial stays");
}

#[test]
fn a_small_disk_is_refused_before_anything_is_written() {
    if bare_cache().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=32m none \"$1\" && exec \"$2\" build out=\"$1/out\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    command.arg(dir.path()).arg(env!("CARGO_BIN_EXE_pillar-image")).current_dir(project());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("unshare") || text.contains("mount:") {
        eprintln!("skipped: this user may not mount in a namespace: {text}");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("MiB free; the build needs"), "{text}");
    assert!(text.contains("hint: make room on that disk"), "{text}");
}
