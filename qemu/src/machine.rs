//! A machine as a value: described by a [`Builder`], running as a [`Machine`], gone when that is dropped.

use crate::accel::{self, Accel, Choice};
use crate::bus::Bus;
use crate::console::{Console, Mark, Match};
use crate::disk::{copy_sparse, extract_esp};
use crate::error::{Error, Result, file_error, tail};
use crate::firmware::Firmware;
use crate::hardware::Hardware;
use crate::lab::Seat;
use crate::plan::{self, DirectKernel, Plan, PlannedDisk};
use crate::ports;
use crate::process::{Lifetime, Process, listener};
use crate::qmp::Qmp;
use crate::record::{Image, Processes, Record};
use crate::swtpm::{self, EkCa, remove_if_there};
use pillar_layout::AGENT_PORT;
use pillar_model::{Bank, NodeSettings};
use pillar_tools::Tools;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// From the start of QEMU's process to its first word on QMP.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How often the start is repeated because somebody else took a port that we had picked.
const PORT_TRIES: usize = 5;
/// How long the TPM may take to end.
const QUIT_DEADLINE: Duration = Duration::from_secs(10);
/// The first guest of QEMU's user network.
pub(crate) const GUEST_ADDRESS: &str = "10.0.2.15/24";
/// The host, seen from there.
pub(crate) const GUEST_GATEWAY: &str = "10.0.2.2";
/// What the firmware starts from when it cannot read the disk.
const BOOT_FILE: &str = "boot.raw";
/// The machine's own disk, when it has one.
const DISK_FILE: &str = "disk.raw";
/// PEM of who certified the TPM's endorsement keys.
const EK_CA_FILE: &str = "ek-ca.pem";
/// Standard output and error of QEMU.
const QEMU_LOG: &str = "qemu.log";

/// What becomes of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskMode {
    /// Writes are kept while the machine runs, and forgotten then. The image is not written.
    Snapshot,
    /// The image itself is the disk.
    InPlace,
    /// The machine gets a copy in its run folder, made at its first start and kept there.
    Copy,
}

/// The TPM of a machine.
#[derive(Debug, Clone)]
pub enum TpmKind {
    /// An emulator with endorsement certificates, manufactured at the machine's first start.
    Swtpm {
        /// Active PCR banks.
        banks: Vec<Bank>,
        /// Who certifies the endorsement keys; none is the authority of the user's cache.
        ca: Option<EkCa>,
    },
    /// No TPM at all.
    None,
}

impl TpmKind {
    /// SHA-256 and SHA-384 banks, certified by the authority of the user's cache.
    #[must_use]
    pub fn swtpm() -> Self {
        Self::Swtpm { banks: vec![Bank::Sha256, Bank::Sha384], ca: None }
    }
}

/// A machine to be.
#[derive(Debug, Clone)]
pub struct Builder {
    name: String,
    dir: Option<PathBuf>,
    disk: Option<(PathBuf, DiskMode)>,
    firmware: Firmware,
    tpm: TpmKind,
    tpm_bus: bool,
    memory_mib: u32,
    cpus: u32,
    hardware: Hardware,
    node: Option<NodeSettings>,
    seat: Option<Seat>,
    /// Guest port to wanted host port, 0 to have one picked.
    forwards: BTreeMap<u16, u16>,
    watchdog: bool,
    stop_at_reboot: bool,
    kernel: Option<DirectKernel>,
    accel: Option<Accel>,
    lifetime: Lifetime,
    extra: Vec<OsString>,
}

impl Builder {
    /// The run folder: TPM, firmware variables, disk copy and every log. A machine that was there before goes on
    /// with what it left. Default: `pillar-<process>/<name>` in the temporary folder.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// The disk.
    #[must_use]
    pub fn disk(mut self, image: impl Into<PathBuf>, mode: DiskMode) -> Self {
        self.disk = Some((image.into(), mode));
        self
    }

    /// The firmware; default: Secure Boot in setup mode.
    #[must_use]
    pub fn firmware(mut self, firmware: Firmware) -> Self {
        self.firmware = firmware;
        self
    }

    /// The TPM; default: [`TpmKind::swtpm`].
    #[must_use]
    pub fn tpm(mut self, tpm: TpmKind) -> Self {
        self.tpm = tpm;
        self
    }

    /// Somebody sits on the bus between machine and TPM: see [`Machine::reset_tpm`].
    #[must_use]
    pub fn tpm_bus(mut self) -> Self {
        self.tpm_bus = true;
        self
    }

    /// Memory; default: 512 MiB.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Processors; default: 1.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Disk bus, sector size, network card, TPM interface; default: [`Hardware::default`], all of it virtio and CRB.
    #[must_use]
    pub fn hardware(mut self, hardware: Hardware) -> Self {
        self.hardware = hardware;
        self
    }

    /// Node settings; default: the machine's name and the address that its network gives it. None: no settings at
    /// all, and PCR 13 stays zero.
    #[must_use]
    pub fn node(mut self, node: Option<NodeSettings>) -> Self {
        self.node = node;
        self
    }

    /// A second card in the network of a lab, and the node settings that go with it: they replace those that were
    /// there. The machine starts and runs whether or not the lab's switch does.
    #[must_use]
    pub fn lab(mut self, seat: &Seat) -> Self {
        self.node = Some(seat.settings.clone());
        self.seat = Some(seat.clone());
        self
    }

    /// Forwards a free port of 127.0.0.1 to this port of the guest (the agent's is always forwarded).
    #[must_use]
    pub fn forward(self, guest_port: u16) -> Self {
        self.forward_from(0, guest_port)
    }

    /// Forwards this port of 127.0.0.1; the start fails when it is in use.
    #[must_use]
    pub fn forward_from(mut self, host_port: u16, guest_port: u16) -> Self {
        self.forwards.insert(guest_port, host_port);
        self
    }

    /// A hardware watchdog (i6300esb) that resets the machine; default: yes.
    #[must_use]
    pub fn watchdog(mut self, watchdog: bool) -> Self {
        self.watchdog = watchdog;
        self
    }

    /// A reboot by the guest ends the machine; default: it boots again.
    #[must_use]
    pub fn stop_at_reboot(mut self, stop: bool) -> Self {
        self.stop_at_reboot = stop;
        self
    }

    /// Starts this kernel directly. With [`Firmware::Bios`] nothing is measured.
    #[must_use]
    pub fn kernel(mut self, kernel: impl Into<PathBuf>, initrd: Option<PathBuf>, command_line: &str) -> Self {
        self.kernel =
            Some(DirectKernel { kernel: kernel.into(), initrd, command_line: command_line.to_owned() });
        self
    }

    /// An accelerator whatever the probe says.
    #[must_use]
    pub fn accel(mut self, accel: Accel) -> Self {
        self.accel = Some(accel);
        self
    }

    /// The machine outlives this process. Default: it dies with it, even when that is killed.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.lifetime = Lifetime::Detached;
        self
    }

    /// Another argument for QEMU, for what only one test needs.
    #[must_use]
    pub fn qemu_argument(mut self, argument: impl Into<OsString>) -> Self {
        self.extra.push(argument.into());
        self
    }

    /// Starts it: returns when QEMU runs and answers, which says nothing about the guest yet.
    pub fn start(self) -> Result<Machine> {
        check_name(&self.name)?;
        self.hardware.check()?;
        let dir = self.dir.clone().unwrap_or_else(|| {
            std::env::temp_dir().join(format!("pillar-{}", std::process::id())).join(&self.name)
        });
        fs::create_dir_all(&dir).map_err(file_error("create", &dir))?;
        let dir = dir.canonicalize().map_err(file_error("find", &dir))?;
        let lock = lock(&self.name, &dir)?;
        if let Some(old) = Record::read(&dir)?.filter(Record::is_running) {
            return Err(Error::AlreadyRunning { name: self.name, pid: old.processes.qemu.pid });
        }
        let tools = Tools::open()?;
        let choice = match self.accel {
            Some(accel) => Choice { accel, reason: "asked for".to_owned() },
            None => accel::choose(&tools)?,
        };
        let image = self.prepare_disk(&dir)?;
        let code = self.prepare_firmware(&tools, &dir)?;
        self.prepare_tpm(&tools, &dir)?;
        self.prepare_node(&dir)?;
        self.prepare_lab(&dir)?;
        for log in [plan::SERIAL_LOG, QEMU_LOG, "swtpm.log", "qmp.log"] {
            let path = dir.join(log);
            File::create(&path).map_err(file_error("create", &path))?;
        }
        for &host in self.forwards.values().filter(|host| **host != 0) {
            ports::must_be_free(host)?;
        }
        let mut tries = 1;
        loop {
            let plan = self.plan(&dir, choice.accel, code.clone(), image.as_ref())?;
            let started = Instant::now();
            match launch(&tools, &plan, &dir, self.lifetime) {
                Ok(running) => return self.finish(dir, lock, running, &plan, choice, image, started),
                Err(error) => match port_taken(&dir, &plan) {
                    Some(port) if self.forwards.values().any(|asked| *asked == port) => {
                        return Err(Error::PortInUse { port, owner: listener(port) });
                    }
                    Some(_) if tries < PORT_TRIES => tries += 1,
                    _ => return Err(error),
                },
            }
        }
    }

    fn prepare_disk(&self, dir: &Path) -> Result<Option<Image>> {
        let Some((path, mode)) = &self.disk else { return Ok(None) };
        let image = Image::of(path)?;
        let own = dir.join(DISK_FILE);
        let bytes = self.hardware.disk_bytes(image.size_bytes);
        if *mode != DiskMode::Copy && bytes != image.size_bytes {
            return Err(Error::SdSize { path: image.path, bytes: image.size_bytes });
        }
        if *mode == DiskMode::Copy && !own.is_file() {
            copy_sparse(&image.path, &own)?;
        }
        if *mode == DiskMode::Copy {
            // Never smaller: what the machine made of its disk stays.
            let grow = |file: File| if file.metadata()?.len() < bytes { file.set_len(bytes) } else { Ok(()) };
            File::options().write(true).open(&own).and_then(grow).map_err(file_error("resize", &own))?;
        }
        let boot = dir.join(BOOT_FILE);
        if !self.hardware.firmware_reads_disk() && !boot.is_file() {
            extract_esp(&image.path, self.hardware.sector_bytes, &boot)?;
        }
        Ok(Some(image))
    }

    fn prepare_firmware(&self, tools: &Tools, dir: &Path) -> Result<Option<PathBuf>> {
        let Some(code) = self.firmware.code(tools)? else { return Ok(None) };
        let own = dir.join(plan::VARS_FILE);
        if !own.is_file() {
            copy_sparse(&self.firmware.vars_template(tools)?, &own)?;
        }
        Ok(Some(code))
    }

    fn prepare_tpm(&self, tools: &Tools, dir: &Path) -> Result<()> {
        let TpmKind::Swtpm { banks, ca } = &self.tpm else { return Ok(()) };
        let ca = match ca {
            Some(ca) => ca.clone(),
            None => EkCa::cached()?,
        };
        swtpm::manufacture(tools, &ca, &dir.join(plan::TPM_DIR), banks)?;
        let path = dir.join(EK_CA_FILE);
        fs::write(&path, ca.chain_pem()?).map_err(file_error("write", &path))
    }

    fn prepare_node(&self, dir: &Path) -> Result<()> {
        let Some(node) = &self.node else { return Ok(()) };
        let path = dir.join(plan::NODE_FILE);
        let text = serde_json::to_vec(node).map_err(|e| file_error("write", &path)(e.into()))?;
        if text.len() > pillar_layout::NODE_SETTINGS_MAX_BYTES {
            return Err(Error::NodeSettings(text.len()));
        }
        fs::write(&path, text).map_err(file_error("write", &path))
    }

    fn prepare_lab(&self, dir: &Path) -> Result<()> {
        let path = dir.join(plan::LAB_SOCKET);
        remove_if_there(&path)?;
        match &self.seat {
            Some(seat) => symlink(&seat.socket, &path).map_err(file_error("link", &path)),
            None => Ok(()),
        }
    }

    fn plan(&self, dir: &Path, accel: Accel, code: Option<PathBuf>, image: Option<&Image>) -> Result<Plan> {
        let mut forwards = Vec::new();
        for (&guest, &host) in &self.forwards {
            forwards.push((if host == 0 { ports::free()? } else { host }, guest));
        }
        let disk = self.disk.as_ref().zip(image).map(|((_, mode), image)| PlannedDisk {
            path: if *mode == DiskMode::Copy { dir.join(DISK_FILE) } else { image.path.clone() },
            snapshot: *mode == DiskMode::Snapshot,
        });
        let boot = (disk.is_some() && !self.hardware.firmware_reads_disk()).then(|| dir.join(BOOT_FILE));
        let kernel = match &self.kernel {
            Some(direct) => Some(DirectKernel {
                kernel: absolute(&direct.kernel)?,
                initrd: direct.initrd.as_deref().map(absolute).transpose()?,
                command_line: direct.command_line.clone(),
            }),
            None => None,
        };
        Ok(Plan {
            name: self.name.clone(),
            accel,
            memory_mib: self.memory_mib,
            cpus: self.cpus,
            hardware: self.hardware,
            code,
            secure: matches!(self.firmware, Firmware::SecureBoot { .. }),
            disk,
            boot,
            kernel,
            tpm: matches!(self.tpm, TpmKind::Swtpm { .. }),
            tpm_bus: self.tpm_bus,
            node: self.node.is_some(),
            watchdog: self.watchdog,
            stop_at_reboot: self.stop_at_reboot,
            forwards,
            lab: self.seat.as_ref().map(|seat| seat.mac.clone()),
            extra: self.extra.clone(),
        })
    }

    #[allow(clippy::too_many_arguments)] // what `start` gathered, handed over once
    fn finish(
        self,
        dir: PathBuf,
        lock: File,
        running: Running,
        plan: &Plan,
        choice: Choice,
        image: Option<Image>,
        started: Instant,
    ) -> Result<Machine> {
        let host_port = |guest| plan.forwards.iter().find(|(_, g)| *g == guest).map_or(0, |(host, _)| *host);
        let release = image.as_ref().map(|i| i.path.with_file_name("release.json")).filter(|p| p.is_file());
        let record = Record {
            name: self.name,
            agent: SocketAddr::from((Ipv4Addr::LOCALHOST, host_port(AGENT_PORT))),
            workload: plan.forwards.iter().filter(|(_, g)| *g != AGENT_PORT).map(|(h, g)| (*g, *h)).collect(),
            processes: Processes { qemu: running.qemu.id(), swtpm: running.swtpm.as_ref().map(Process::id) },
            accel: choice.accel.to_string(),
            accel_reason: choice.reason,
            image,
            release,
            ek_ca: plan.tpm.then(|| dir.join(EK_CA_FILE)),
            lab: self.seat.as_ref().map(Seat::facts),
        };
        record.write(&dir)?;
        let console = Console::follow(
            &dir.join(plan::SERIAL_LOG),
            Some(&dir.join("console.log")),
            running.qemu.descriptor(),
            started,
        )?;
        Ok(Machine { dir, record, accel: choice.accel, started, console, running, _lock: lock })
    }
}

/// The processes of one machine.
#[derive(Debug)]
struct Running {
    qmp: Qmp,
    qemu: Process,
    swtpm: Option<Process>,
    bus: Option<Bus>,
    tpm_dir: PathBuf,
}

/// Starts TPM and QEMU, and waits until QEMU answers.
fn launch(tools: &Tools, plan: &Plan, dir: &Path, lifetime: Lifetime) -> Result<Running> {
    let deadline = Instant::now() + START_DEADLINE;
    let tpm_dir = dir.join(plan::TPM_DIR);
    let swtpm = match plan.tpm {
        true => Some(swtpm::start_for_machine(tools, &tpm_dir, &dir.join("swtpm.log"), lifetime)?),
        false => None,
    };
    let bus = if plan.tpm && plan.tpm_bus { Some(Bus::start(&tpm_dir)?) } else { None };
    for socket in [plan::QMP_SOCKET, plan::CONTROL_QMP_SOCKET] {
        remove_if_there(&dir.join(socket))?;
    }
    let arguments = plan.arguments();
    let command_file = dir.join("command.txt");
    let command = plan::shell_quoted("qemu-system-x86_64", &arguments);
    fs::write(&command_file, command).map_err(file_error("write", &command_file))?;
    let log = dir.join(QEMU_LOG);
    let mut qemu = Process::start(tools, "qemu-system-x86_64", &arguments, dir, &log, lifetime)?;
    // The control socket is the second of the two.
    qemu.wait_for_file(&dir.join(plan::CONTROL_QMP_SOCKET), deadline)?;
    match Qmp::connect(dir, plan::QMP_SOCKET, &dir.join("qmp.log")) {
        Ok(qmp) => Ok(Running { qmp, qemu, swtpm, bus, tpm_dir }),
        // What QEMU wrote before it ended says more than the connection that it closed.
        Err(_) if qemu.wait(Instant::now() + Duration::from_secs(1)).is_some() => Err(qemu.failure()),
        Err(error) => Err(error),
    }
}

/// The host port that QEMU could not have, when that is why it did not start.
fn port_taken(dir: &Path, plan: &Plan) -> Option<u16> {
    let log = tail(&dir.join(QEMU_LOG));
    if !log.contains("Could not set up host forwarding rule") {
        return None;
    }
    plan.forwards.iter().map(|(host, _)| *host).find(|host| log.contains(&format!("127.0.0.1:{host}-")))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(file_error("find", path))
}

/// One start, stop or run of a machine at a time. The lock goes with its holder, however that ends.
pub(crate) fn lock(name: &str, dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(file_error("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::Busy { name: name.to_owned(), lock: path }),
        Err(fs::TryLockError::Error(error)) => Err(file_error("lock", &path)(error)),
    }
}

/// A host name label: it becomes one in the guest, and a folder here.
pub fn check_name(name: &str) -> Result<()> {
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let fits = (1..=63).contains(&name.len()) && !name.starts_with('-') && !name.ends_with('-');
    if letters && fits { Ok(()) } else { Err(Error::BadName(name.to_owned())) }
}

/// A running machine. Dropping it kills QEMU and the TPM; when a test panics, the ends of its logs are printed.
#[derive(Debug)]
pub struct Machine {
    dir: PathBuf,
    record: Record,
    accel: Accel,
    started: Instant,
    running: Running,
    console: Console,
    _lock: File,
}

impl Machine {
    /// Begins the description of a machine; its name becomes the pillar's.
    #[must_use]
    pub fn builder(name: &str) -> Builder {
        Builder {
            name: name.to_owned(),
            dir: None,
            disk: None,
            firmware: Firmware::setup_mode(),
            tpm: TpmKind::swtpm(),
            tpm_bus: false,
            memory_mib: 512,
            cpus: 1,
            hardware: Hardware::default(),
            node: Some(NodeSettings {
                name: Some(name.to_owned()),
                address: Some(GUEST_ADDRESS.to_owned()),
                gateway: Some(GUEST_GATEWAY.to_owned()),
                ..NodeSettings::default()
            }),
            seat: None,
            forwards: BTreeMap::from([(AGENT_PORT, 0)]),
            watchdog: true,
            stop_at_reboot: false,
            kernel: None,
            accel: None,
            lifetime: Lifetime::Bound,
            extra: Vec::new(),
        }
    }

    /// The run folder with every log.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `machine.json` says.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Where the agent is reached from this host.
    #[must_use]
    pub fn agent_addr(&self) -> SocketAddr {
        self.record.agent
    }

    /// Where a forwarded port of the guest is reached from this host.
    pub fn workload_addr(&self, guest_port: u16) -> Result<SocketAddr> {
        let host = self.record.workload.get(&guest_port).ok_or(Error::NotForwarded(guest_port))?;
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, *host)))
    }

    /// PEM of the authorities behind the TPM's endorsement certificates (also in a machine without TPM: absent).
    #[must_use]
    pub fn ek_ca(&self) -> Option<&Path> {
        self.record.ek_ca.as_deref()
    }

    /// What runs the guest.
    #[must_use]
    pub fn accel(&self) -> Accel {
        self.accel
    }

    /// Time since the start.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The console.
    #[must_use]
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Everything on the console so far.
    #[must_use]
    pub fn console_so_far(&self) -> String {
        self.console.so_far()
    }

    /// Waits until this text is on the console, from the machine's start on.
    pub fn wait_console(&self, pattern: &str, deadline: Duration) -> Result<Match> {
        self.console.wait_any(&[pattern], Mark::default(), deadline)
    }

    /// Waits until this text is on the console behind `from`.
    pub fn wait_console_after(&self, from: Mark, pattern: &str, deadline: Duration) -> Result<Match> {
        self.console.wait_any(&[pattern], from, deadline)
    }

    /// The machine's QMP connection.
    #[must_use]
    pub fn qmp(&self) -> &Qmp {
        &self.running.qmp
    }

    /// Resets the TPM under the running machine, as somebody with a wire on its reset line does: registers and sessions are
    /// gone, the machine is not told. Only for one that was built with [`Builder::tpm_bus`].
    pub fn reset_tpm(&self) -> Result<()> {
        match &self.running.bus {
            Some(bus) => bus.reset_tpm(),
            None => Err(Error::NoBus(self.record.name.clone())),
        }
    }

    /// Waits until QEMU has ended by itself (power-off, or a reboot when that ends it).
    pub fn wait_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.running.qemu.wait(Instant::now() + deadline).ok_or_else(|| Error::Deadline {
            what: "the machine's end".to_owned(),
            deadline,
            tail: tail(&self.dir.join(plan::SERIAL_LOG)),
            log: self.dir.join(plan::SERIAL_LOG),
        })
    }

    /// Asks the guest to power off, and ends QEMU when it has not within `grace`. True when the guest did it itself.
    pub fn stop(mut self, grace: Duration) -> Result<bool> {
        if self.running.qemu.ended().is_some() {
            return Ok(true);
        }
        let asked = !grace.is_zero() && self.running.qmp.system_powerdown().is_ok();
        if asked && self.running.qemu.wait(Instant::now() + grace).is_some() {
            return Ok(true);
        }
        // Disks are written out; if QEMU does not answer, killing it is all that is left.
        let _ = self.running.qmp.pause();
        Ok(false)
    }

    /// Cuts the power: what the guest had not written to its disk is lost. The folder stays, and the machine can be
    /// built from it again.
    pub fn power_cut(mut self) {
        self.running.qemu.kill();
    }

    /// Lets a [`Builder::detached`] machine go on without this process.
    #[must_use]
    pub fn release(mut self) -> Record {
        self.running.qemu.release();
        if let Some(tpm) = &mut self.running.swtpm {
            tpm.release();
        }
        self.record.clone()
    }

    /// The ends of all logs, for a test that failed.
    #[must_use]
    pub fn account(&self) -> String {
        let mut text = format!("machine {} in {}:\n", self.record.name, self.dir.display());
        for log in [plan::SERIAL_LOG, QEMU_LOG, "swtpm.log"] {
            text.push_str(&format!("{log}:\n{}\n", tail(&self.dir.join(log))));
        }
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.qemu.kill();
        let Some(tpm) = self.swtpm.as_mut().filter(|tpm| tpm.is_ours()) else { return };
        // It may have ended with a guest that powered off; killing it would be the ruder way.
        let asked = tpm.ended().is_some() || swtpm::power_down(&self.tpm_dir);
        if !asked || tpm.wait(Instant::now() + QUIT_DEADLINE).is_none() {
            tpm.kill();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.account());
        }
    }
}
