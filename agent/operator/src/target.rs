//! From a name to an address: the records that machines of `./just up` leave in their run folders.

use crate::cli::{Judge, Run, Target};
use crate::failure::{Failure, Kind, Outcome};
use crate::file;
use crate::paint::harmless;
use pillar_model::PillarId;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};

/// The machine that `./just up` starts when none is named.
const DEFAULT_NAME: &str = "p1";
/// A machine's record is a few hundred bytes.
const RECORD_MAX_BYTES: u64 = 64 * 1024;
/// The release when the machine's record names none.
const DEFAULT_RELEASE: &str = "out/release.json";

/// What of `machine.json` we need. Its other fields are the harness's own.
#[derive(Debug, Deserialize)]
struct Record {
    agent: String,
    processes: Processes,
    release: Option<PathBuf>,
    ek_ca: Option<PathBuf>,
    #[serde(default)]
    lab: Option<Lab>,
}

/// Its place in a network with other machines.
#[derive(Debug, Deserialize)]
struct Lab {
    peer: String,
}

#[derive(Debug, Deserialize)]
struct Processes {
    qemu: ProcessId,
}

/// A process number and when it started, because numbers are used again.
#[derive(Debug, Deserialize)]
struct ProcessId {
    pid: u32,
    started_ticks: u64,
}

impl ProcessId {
    fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // proc_pid_stat(5): the command in parentheses may hold anything; field 3 follows the last one.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ended = matches!(fields.next(), None | Some("Z" | "X"));
        !ended && fields.nth(18).and_then(|f| f.parse().ok()) == Some(self.started_ticks)
    }
}

/// A pillar to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Machine's name, or the address when that is all we have.
    pub name: String,
    /// HOST:PORT of the agent.
    pub addr: String,
    /// What its record says about judging it.
    pub files: Files,
}

/// Files that belong to a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// The release it was started with.
    pub release: Option<PathBuf>,
    /// Roots of its endorsement key.
    pub ek_ca: Option<PathBuf>,
    /// Where its pins are.
    pub pins: Option<PathBuf>,
    /// Where other machines of its network call it, HOST:PORT.
    pub peer: Option<String>,
}

impl Place {
    /// The pillar that the arguments mean.
    pub fn find(target: &Target) -> Outcome<Place> {
        let run = &target.caller.run;
        match (&target.addr, &target.name) {
            (Some(addr), _) => at(addr),
            (None, Some(name)) => Place::named(name, run),
            (None, None) => Place::named(&the_running_one(&run.dir)?, run),
        }
    }

    /// The pillar that a text means: NAME, HOST:PORT or NAME=HOST:PORT.
    pub fn named(text: &str, run: &Run) -> Outcome<Place> {
        if let Some((name, addr)) = text.split_once('=') {
            check_name(name)?;
            check_addr(addr)?;
            return Ok(Place { name: name.to_owned(), addr: addr.to_owned(), files: files_of(run, name) });
        }
        if text.contains(':') {
            return at(text);
        }
        let record = record(&run.dir, text)?;
        if !record.processes.qemu.is_alive() {
            let failure = Failure::new(format!("{text} does not run")).kind(Kind::Unreachable);
            return Err(failure.hint(format!("start it with `./just up {text}`")));
        }
        check_addr(&record.agent)?;
        let addr = record.agent.clone();
        Ok(Place { addr, files: files(&run.dir, text, record), name: text.to_owned() })
    }

    /// Every machine that runs, by name.
    pub fn running(run: &Run) -> Vec<Place> {
        names(&run.dir).iter().filter_map(|name| Place::named(name, run).ok()).collect()
    }

    /// The name as that of a pillar; an address alone is none.
    pub fn id(&self) -> Outcome<PillarId> {
        self.name.parse().map_err(|_| {
            Failure::new(format!("which pillar is at {}?", harmless(&self.addr)))
                .hint(format!("say NAME={}", harmless(&self.addr)))
        })
    }
}

fn at(addr: &str) -> Outcome<Place> {
    check_addr(addr)?;
    Ok(Place { name: addr.to_owned(), addr: addr.to_owned(), files: Files::default() })
}

/// The files of the machine of that name; none when there is no such machine.
pub fn files_of(run: &Run, name: &str) -> Files {
    record(&run.dir, name).map(|record| files(&run.dir, name, record)).unwrap_or_default()
}

impl Files {
    /// The release to judge by.
    pub fn release(&self, judge: &Judge) -> PathBuf {
        let named = judge.release.clone().or_else(|| self.release.clone());
        named.unwrap_or_else(|| DEFAULT_RELEASE.into())
    }

    /// The EK roots to judge by.
    pub fn ek_ca(&self, judge: &Judge) -> Outcome<PathBuf> {
        judge.ek_ca.clone().or_else(|| self.ek_ca.clone()).ok_or_else(|| {
            Failure::new("no endorsement key roots are given, so no TPM can be believed")
                .hint("--ek-ca FILE with the PEM certificates of the TPM maker's (or swtpm's) authority")
        })
    }

    /// Where the pins are, when anywhere.
    pub fn pins(&self, judge: &Judge) -> Option<PathBuf> {
        judge.pins.clone().or_else(|| self.pins.clone())
    }
}

/// HOST:PORT, as far as it can be told without asking anybody.
pub fn check_addr(addr: &str) -> Outcome {
    let good = addr
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0));
    if good {
        Ok(())
    } else {
        Err(Failure::new(format!("\"{addr}\" is not HOST:PORT")).hint("for example 127.0.0.1:7443"))
    }
}

/// A name becomes a folder's name, so it must be a host name label.
fn check_name(name: &str) -> Outcome {
    if name.parse::<PillarId>().is_ok() {
        return Ok(());
    }
    Err(Failure::new(format!("\"{}\" is not a machine's name", harmless(name)))
        .kind(Kind::Unknown)
        .hint("a name is 1 to 63 of a-z, 0-9 and -; an address is HOST:PORT"))
}

fn record(run: &Path, name: &str) -> Outcome<Record> {
    check_name(name)?;
    let path = run.join(name).join("machine.json");
    if !path.exists() {
        let known = names(run).join(", ");
        let hint = if known.is_empty() {
            "`./just up` starts one".to_owned()
        } else {
            format!("known are: {known}")
        };
        return Err(Failure::new(format!("there is no machine {name} in {}", run.display()))
            .kind(Kind::Unknown)
            .hint(hint));
    }
    let bytes = file::read(&path, RECORD_MAX_BYTES)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::because(format!("cannot understand {}", path.display()), &error)
            .hint(format!("`./just down {name}`, then `./just up {name}`"))
    })
}

fn files(run: &Path, name: &str, record: Record) -> Files {
    Files {
        release: record.release,
        ek_ca: record.ek_ca,
        pins: Some(run.join(name).join("pins.json")),
        peer: record.lab.map(|lab| lab.peer),
    }
}

fn names(run: &Path) -> Vec<String> {
    let entries = fs::read_dir(run).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|e| e.path().join("machine.json").is_file())
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn the_running_one(run: &Path) -> Outcome<String> {
    let runs = |name: &String| record(run, name).is_ok_and(|r| r.processes.qemu.is_alive());
    let running: Vec<String> = names(run).into_iter().filter(runs).collect();
    match running.as_slice() {
        [] => Err(Failure::new("no machine runs")
            .kind(Kind::Unreachable)
            .hint("`./just up` starts one; --addr HOST:PORT reaches any other pillar")),
        [only] => Ok(only.clone()),
        several if several.iter().any(|n| n == DEFAULT_NAME) => Ok(DEFAULT_NAME.to_owned()),
        several => {
            Err(Failure::new("several machines run").hint(format!("name one of {}", several.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Caller;
    use crate::signer::Opened;

    fn me() -> (u32, u64) {
        let stat = fs::read_to_string("/proc/self/stat").expect("proc");
        let ticks = stat.rsplit(')').next().expect("fields").split_whitespace().nth(19).expect("field 22");
        (std::process::id(), ticks.parse().expect("a number"))
    }

    fn machine(run: &Path, name: &str, alive: bool) {
        let (pid, ticks) = me();
        let ticks = if alive { ticks } else { ticks + 1 };
        fs::create_dir_all(run.join(name)).expect("created");
        let text = format!(
            r#"{{"name":"{name}","agent":"127.0.0.1:4711","workload":{{"8080":1}},"processes":{{"qemu":{{"pid":{pid},"started_ticks":{ticks}}},"swtpm":null}},
            "accel":"tcg","accel_reason":"","image":null,"release":"/r.json","ek_ca":"/ca.pem"}}"#
        );
        fs::write(run.join(name).join("machine.json"), text).expect("written");
    }

    fn find(run: &Path, name: Option<&str>, addr: Option<&str>) -> Result<Place, String> {
        let target = Target {
            name: name.map(str::to_owned),
            addr: addr.map(str::to_owned),
            caller: Caller {
                key: "k".into(),
                cert: None,
                passphrase_from: None,
                opened: Opened::default(),
                run: Run { dir: run.to_owned() },
            },
        };
        Place::find(&target).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_name_is_found_in_its_run_folder() {
        let run = tempfile::tempdir().expect("folder");
        machine(run.path(), "p2", true);
        let place = find(run.path(), None, None).expect("the only one");
        assert_eq!((place.name.as_str(), place.addr.as_str()), ("p2", "127.0.0.1:4711"));
        assert_eq!(place.files.ek_ca, Some("/ca.pem".into()));
        assert_eq!(place.files.pins, Some(run.path().join("p2/pins.json")));
        machine(run.path(), "p3", true);
        let error = find(run.path(), None, None).expect_err("two");
        assert!(error.contains("several machines run") && error.contains("p2, p3"), "{error}");
        machine(run.path(), "p1", true);
        assert_eq!(find(run.path(), None, None).expect("p1 goes first").name, "p1");
    }

    #[test]
    fn what_is_not_there_is_said() {
        let run = tempfile::tempdir().expect("folder");
        for (name, addr, want) in [
            (None, None, "error: no machine runs\n  hint: `./just up` starts one"),
            (Some("p9"), None, "error: there is no machine p9 in"),
            (Some("../x"), None, "error: \"../x\" is not a machine's name"),
            (Some("P1=host:1"), None, "error: \"P1\" is not a machine's name"),
            (Some("p1=host"), None, "error: \"host\" is not HOST:PORT"),
            (None, Some("localhost"), "error: \"localhost\" is not HOST:PORT"),
            (Some("localhost:0"), None, "error: \"localhost:0\" is not HOST:PORT"),
        ] {
            let error = find(run.path(), name, addr).expect_err(want);
            assert!(error.contains(want), "{error}");
        }
        machine(run.path(), "p1", false);
        assert!(find(run.path(), Some("p1"), None).expect_err("dead").contains("p1 does not run"));
        fs::write(run.path().join("p1/machine.json"), "{").expect("written");
        assert!(find(run.path(), Some("p1"), None).expect_err("half").contains("cannot understand"));
        assert_eq!(find(run.path(), None, Some("host:1")).expect("direct").name, "host:1");
        let both = find(run.path(), Some("p7=host:1"), None).expect("name and address");
        assert_eq!((both.name.as_str(), both.addr.as_str()), ("p7", "host:1"));
        assert!(both.id().is_ok() && find(run.path(), None, Some("host:1")).expect("direct").id().is_err());
    }
}
