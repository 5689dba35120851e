//! A lab: machines of one run folder in one private network. Who is in it, with which number, and what each machine
//! is told of the network; its frames are carried by a [`Switch`].
//!
//! A machine's settings are measured into its PCR 13. So they are decided once, when it joins, and kept in `lab.json`:
//! they stay the same over its restarts, and when others join later.

use crate::error::{Error, Result, file_error, tail};
use crate::machine::{GUEST_ADDRESS, GUEST_GATEWAY, check_name};
use crate::process::ProcessId;
use crate::record::LabFacts;
use crate::switch::{Control, Switch, socket_name};
use pillar_layout::{NODE_SETTINGS_MAX_BYTES, PEER_PORT};
use pillar_model::{NetworkSettings, NodeSettings};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The lab's folder in a run folder: no machine can have this name.
const DIR: &str = "_lab";
/// Who is in the lab.
const FILE: &str = "lab.json";
/// Held by who changes the lab.
const LOCK: &str = "lab.lock";
/// What the switch's process says.
const SWITCH_LOG: &str = "switch.log";
/// The name of a run folder's lab.
const NAME: &str = "lab";
/// The highest number: that of an IPv4 address in a /24.
const NUMBER_MAX: u8 = 254;
/// The switch has nothing to write out.
const SWITCH_DEADLINE: Duration = Duration::from_secs(5);

/// A machine's place in a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// The machine.
    pub name: String,
    /// From 1; card and addresses follow from it.
    pub number: u8,
    /// The address of its card on the lab's network.
    pub mac: String,
    /// What it is told when it boots.
    pub settings: NodeSettings,
    /// The switch's socket for its QEMU.
    pub socket: PathBuf,
    /// The lab's folder.
    pub lab: PathBuf,
}

impl Seat {
    /// Where other machines of the lab reach its agent.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::from((address(self.number), PEER_PORT))
    }

    /// What `machine.json` says of it.
    #[must_use]
    pub fn facts(&self) -> LabFacts {
        LabFacts { name: NAME.to_owned(), dir: self.lab.clone(), number: self.number, peer: self.peer() }
    }
}

/// A machine as the file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    name: String,
    number: u8,
    settings: NodeSettings,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Contents {
    /// What the switch's chance begins with.
    seed: u64,
    /// The background process that carries the frames, as it was last started.
    switch: Option<ProcessId>,
    members: Vec<Member>,
}

/// Who is in a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lab {
    dir: PathBuf,
    contents: Contents,
}

impl Lab {
    /// The folder of the lab of a run folder.
    #[must_use]
    pub fn dir_in(run_dir: &Path) -> PathBuf {
        run_dir.join(DIR)
    }

    /// A new lab in that folder, or the one that is there. Without a seed, chance begins with any.
    pub fn make(dir: &Path, seed: Option<u64>) -> Result<Self> {
        if let Some(mut lab) = Self::open(dir)? {
            if let Some(seed) = seed.filter(|seed| *seed != lab.contents.seed) {
                lab.contents.seed = seed;
                lab.write()?;
            }
            return Ok(lab);
        }
        fs::create_dir_all(dir).map_err(file_error("create", dir))?;
        let dir = dir.canonicalize().map_err(file_error("find", dir))?;
        // Short, because people type it again to repeat a run.
        let seed = seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
        let lab = Self { dir, contents: Contents { seed, switch: None, members: Vec::new() } };
        lab.write()?;
        Ok(lab)
    }

    /// The lab in that folder; none when there was never one.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error("read", &path)(error)),
        };
        let dir = dir.canonicalize().map_err(file_error("find", dir))?;
        let malformed =
            |e: serde_json::Error| Error::Malformed { path, what: "a lab", reason: e.to_string() };
        let contents = serde_json::from_slice(&bytes).map_err(malformed)?;
        Ok(Some(Self { dir, contents }))
    }

    /// Waits until nobody else changes the lab; until it is dropped, nobody else does.
    pub fn lock(dir: &Path) -> Result<File> {
        fs::create_dir_all(dir).map_err(file_error("create", dir))?;
        let path = dir.join(LOCK);
        let file = File::create(&path).map_err(file_error("create", &path))?;
        file.lock().map_err(file_error("lock", &path))?;
        Ok(file)
    }

    fn write(&self) -> Result<()> {
        let path = self.dir.join(FILE);
        let work = self.dir.join("lab.json.tmp");
        let bytes =
            serde_json::to_vec_pretty(&self.contents).map_err(|e| file_error("write", &path)(e.into()))?;
        fs::write(&work, bytes).map_err(file_error("write", &work))?;
        fs::rename(&work, &path).map_err(file_error("rename", &work))
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the switch's chance begins with.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.contents.seed
    }

    /// Its machines, in the order they joined.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.contents.members.iter().map(|member| member.name.as_str())
    }

    /// Whether that machine is in it.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    /// Gives these machines a number and settings that name all machines of the lab. Those that have them keep them.
    pub fn join(&mut self, names: &[&str]) -> Result<()> {
        let members = &mut self.contents.members;
        for name in names {
            check_name(name)?;
            if members.iter().any(|member| member.name == *name) {
                continue;
            }
            let number = (1..=NUMBER_MAX)
                .find(|number| members.iter().all(|member| member.number != *number))
                .ok_or(Error::LabFull(NUMBER_MAX.into()))?;
            let settings = NodeSettings::default();
            members.push(Member { name: (*name).to_owned(), number, settings });
        }
        let all: Vec<(String, u8)> =
            members.iter().map(|member| (member.name.clone(), member.number)).collect();
        for member in members.iter_mut().filter(|member| member.settings == NodeSettings::default()) {
            member.settings = settings(&member.name, member.number, &all);
        }
        self.write()
    }

    /// Forgets machines: their numbers become free, and who joins later does not hear of them.
    pub fn forget(&mut self, gone: impl Fn(&str) -> bool) -> Result<()> {
        self.contents.members.retain(|member| !gone(&member.name));
        self.write()
    }

    /// The place of a machine that has joined.
    pub fn seat(&self, name: &str) -> Result<Seat> {
        let member = self.contents.members.iter().find(|member| member.name == name);
        let member = member.ok_or_else(|| Error::NotInLab(name.to_owned()))?;
        Ok(Seat {
            name: name.to_owned(),
            number: member.number,
            mac: mac(member.number),
            settings: member.settings.clone(),
            socket: self.dir.join(socket_name(name)),
            lab: self.dir.clone(),
        })
    }

    /// A switch for the lab in this process, as tests have it.
    pub fn switch(&self) -> Result<Switch> {
        Switch::start(&self.dir, &self.names().collect::<Vec<_>>(), self.seed())
    }

    /// Sees to it that a switch with a place for every machine runs; `program` is what runs one in the background, and
    /// writes a line when it does. True when it was started.
    pub fn ensure_switch(&mut self, program: &mut Command) -> Result<bool> {
        if let Some(mut control) = Control::find(&self.dir)? {
            for name in self.names() {
                control.add(name)?;
            }
            return Ok(false);
        }
        let log = self.dir.join(SWITCH_LOG);
        let errors = File::create(&log).map_err(file_error("create", &log))?;
        program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).process_group(0);
        let failed = |source| Error::Spawn { program: "the lab's switch".to_owned(), source };
        let mut child = program.spawn().map_err(failed)?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line).map_err(failed)?;
        }
        if line.is_empty() {
            let status = child.wait().map_err(failed)?.to_string();
            return Err(Error::Program {
                program: "the lab's switch".to_owned(),
                status,
                tail: tail(&log),
                log,
            });
        }
        self.contents.switch = ProcessId::of(child.id());
        self.write()?;
        Ok(true)
    }

    /// Ends the switch that runs in the background. False when there was none.
    pub fn end_switch(&self) -> Result<bool> {
        let Some(control) = Control::find(&self.dir)? else { return Ok(false) };
        control.stop();
        if let Some(process) = self.contents.switch {
            // Killed when it does not end by itself; there is nothing to lose.
            let _ = process.wait_gone(SWITCH_DEADLINE) || process.kill(SWITCH_DEADLINE);
        }
        Ok(true)
    }
}

/// A locally administered address that QEMU's own do not meet: "pl" and the number.
fn mac(number: u8) -> String {
    format!("52:54:00:70:6c:{number:02x}")
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

fn address_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into())
}

/// What a machine is told: its first card as every machine has it, its card on the lab's network, and as many machines
/// to call first as there is room for.
fn settings(name: &str, number: u8, all: &[(String, u8)]) -> NodeSettings {
    let mut settings = NodeSettings {
        name: Some(name.to_owned()),
        address: Some(GUEST_ADDRESS.to_owned()),
        gateway: Some(GUEST_GATEWAY.to_owned()),
        networks: vec![NetworkSettings {
            card: mac(number),
            addresses: vec![format!("{}/24", address(number)), format!("{}/64", address_v6(number))],
            ..NetworkSettings::default()
        }],
        ..NodeSettings::default()
    };
    for (peer, number) in all {
        settings.peers.push(format!("{peer}={}:{PEER_PORT}", address(*number)));
        if serde_json::to_vec(&settings).map_or(0, |text| text.len()) > NODE_SETTINGS_MAX_BYTES {
            settings.peers.pop();
            break;
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab() -> (tempfile::TempDir, Lab) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let lab = Lab::make(&dir.path().join(DIR), Some(7)).expect("a lab");
        (dir, lab)
    }

    #[test]
    fn a_machine_keeps_number_and_settings_when_others_join() {
        let (_dir, mut lab) = lab();
        lab.join(&["p1", "p2"]).expect("joined");
        let first = lab.seat("p1").expect("it joined");
        assert_eq!(
            serde_json::to_string(&first.settings).expect("JSON"),
            concat!(
                r#"{"name":"p1","address":"10.0.2.15/24","gateway":"10.0.2.2","#,
                r#""networks":[{"card":"52:54:00:70:6c:01","addresses":["10.77.0.1/24","fd77::1/64"]}],"#,
                r#""peers":["p1=10.77.0.1:7444","p2=10.77.0.2:7444"]}"#
            )
        );
        assert_eq!(first.peer().to_string(), "10.77.0.1:7444");
        let mut lab = Lab::open(lab.dir()).expect("read").expect("written");
        lab.join(&["p1", "p5"]).expect("joined");
        assert_eq!(lab.seat("p1").expect("still there"), first);
        let fifth = lab.seat("p5").expect("it joined");
        assert_eq!((fifth.number, fifth.settings.peers.len()), (3, 3));
        assert_eq!(Lab::open(lab.dir()).expect("read"), Some(lab));
    }

    #[test]
    fn who_is_forgotten_joins_anew() {
        let (_dir, mut lab) = lab();
        lab.join(&["p1"]).expect("joined");
        lab.join(&["p2"]).expect("joined");
        assert_eq!(lab.seat("p1").expect("it joined").settings.peers.len(), 1);
        lab.forget(|name| name == "p1").expect("written");
        assert!(matches!(lab.seat("p1"), Err(Error::NotInLab(_))));
        lab.join(&["p1"]).expect("joined");
        let again = lab.seat("p1").expect("it joined");
        assert_eq!((again.number, again.settings.peers.len()), (1, 2));
    }

    #[test]
    fn settings_of_a_large_lab_fit() {
        let (_dir, mut lab) = lab();
        let names: Vec<String> = (1..=NUMBER_MAX).map(|n| format!("p{n}")).collect();
        lab.join(&names.iter().map(String::as_str).collect::<Vec<_>>()).expect("joined");
        let last = lab.seat("p254").expect("it joined");
        let text = serde_json::to_vec(&last.settings).expect("JSON");
        assert!(text.len() <= NODE_SETTINGS_MAX_BYTES && last.settings.peers.len() > 20, "{}", text.len());
        assert!(matches!(lab.join(&["one-more"]), Err(Error::LabFull(254))));
    }

    #[test]
    fn no_machine_can_have_the_name_of_the_labs_folder() {
        assert!(check_name(DIR).is_err());
    }
}
