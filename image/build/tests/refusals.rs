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
        let wanted = name == "mkosi" || name.to_string_lossy().starts_with("tools-");
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
    assert!(run.text.contains("packages could not be fetched"), "{}", run.text);
    assert!(run.text.contains("hint: see that the mirror is reachable"), "{}", run.text);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    let run = finish(command(&[&out, "offline=yes"]).env("XDG_CACHE_HOME", cache.path()));
    assert!(run.text.contains("--offline forbids to fetch packages"), "{}", run.text);
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
