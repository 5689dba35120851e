//! Which accelerator runs guests here. `/dev/kvm` may be there and still not run a guest, so the answer comes from
//! booting something tiny, and is remembered until the host boots again.

use crate::error::{Error, Result, file_error};
use pillar_tools::Tools;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A working KVM takes a tenth of a second; most of the rest is the start of QEMU on a busy host.
const PROBE_DEADLINE: Duration = Duration::from_secs(15);
/// Overrides the probe: "kvm" or "tcg".
pub const OVERRIDE: &str = "PILLAR_ACCEL";
/// Changes whenever the probe does, so that old answers are not used.
const PROBE_VERSION: u32 = 2;
/// Where the probe's ROM ends in the guest's memory: the processor starts 16 bytes below.
const ROM_BYTES: usize = 64 * 1024;
/// isa-debug-exit ends QEMU with `(value << 1) | 1`; the ROM writes 0x2A.
const PROBE_STATUS: i32 = (0x2A << 1) | 1;

/// How guest code is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// By the processor.
    Kvm,
    /// By translation: works everywhere, ten times slower.
    Tcg,
}

impl std::fmt::Display for Accel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        })
    }
}

impl Accel {
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg,tb-size=256",
        }
    }

    pub(crate) fn cpu(self) -> &'static str {
        match self {
            Accel::Kvm => "host",
            Accel::Tcg => TCG_CPU,
        }
    }

    /// How much longer everything takes than under KVM: deadlines of whole boots are stretched by it.
    #[must_use]
    pub fn patience(self) -> u32 {
        match self {
            Accel::Kvm => 1,
            Accel::Tcg => 5,
        }
    }
}

/// What TCG emulates: an old processor (translating for new ones costs more than they save: a kernel reached its
/// init in 3.0 s of QEMU's time on this one, in 3.6 s on "max"), with what the guest has use for, SHA-256 in
/// hardware and a random number generator that need not be waited for.
const TCG_CPU: &str = "qemu64,+ssse3,+sse4.1,+sha-ni,+rdrand";

/// An answer and its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The accelerator.
    pub accel: Accel,
    /// Why this one, in words.
    pub reason: String,
}

/// What is remembered, and for which boot of the host.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    version: u32,
    boot_id: String,
    choice: Choice,
}

/// The accelerator for this host: what `PILLAR_ACCEL` says, what was found since the host booted, or what a probe
/// finds now.
pub fn choose(tools: &Tools) -> Result<Choice> {
    if let Ok(wanted) = std::env::var(OVERRIDE) {
        let reason = format!("{OVERRIDE}={wanted}");
        match wanted.as_str() {
            "kvm" => return Ok(Choice { accel: Accel::Kvm, reason }),
            "tcg" => return Ok(Choice { accel: Accel::Tcg, reason }),
            _ => {}
        }
    }
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let dir = pillar_tools::cache_dir().join("qemu");
    let memory = dir.join("accel.json");
    fs::create_dir_all(&dir).map_err(file_error("create", &dir))?;
    // Machines start in parallel; one of them asks, the others read the answer.
    let lock_path = dir.join("accel.lock");
    let lock = fs::File::create(&lock_path).map_err(file_error("create", &lock_path))?;
    lock.lock().map_err(file_error("lock", &lock_path))?;
    let known = fs::read(&memory).ok().and_then(|bytes| serde_json::from_slice::<Remembered>(&bytes).ok());
    if let Some(known) = known.filter(|k| k.boot_id == boot_id && k.version == PROBE_VERSION) {
        return Ok(known.choice);
    }
    let choice = probe(tools, &dir)?;
    let remembered = Remembered { version: PROBE_VERSION, boot_id, choice: choice.clone() };
    let bytes = serde_json::to_vec_pretty(&remembered).unwrap_or_default();
    let work = dir.join(format!("accel.{}.tmp", std::process::id()));
    fs::write(&work, bytes).map_err(file_error("write", &work))?;
    fs::rename(&work, &memory).map_err(file_error("rename", &work))?;
    Ok(choice)
}

fn probe(tools: &Tools, dir: &Path) -> Result<Choice> {
    let tcg = |reason: &str| Ok(Choice { accel: Accel::Tcg, reason: reason.to_owned() });
    if !cfg!(target_arch = "x86_64") {
        return tcg("the host is no x86-64 machine");
    }
    match fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return tcg("there is no /dev/kvm"),
        Err(error) => return tcg(&format!("/dev/kvm cannot be opened ({error})")),
    }
    match boots(tools, dir, Accel::Kvm)? {
        Outcome::Booted(time) => Ok(Choice {
            accel: Accel::Kvm,
            reason: format!("a tiny guest ran under KVM in {:.1} s", time.as_secs_f64()),
        }),
        Outcome::Refused(status) => {
            tcg(&format!("/dev/kvm is there, but a tiny guest did not run under it ({status})"))
        }
        Outcome::Hung => tcg(&format!(
            "/dev/kvm is there, but a tiny guest hung under it for {} s",
            PROBE_DEADLINE.as_secs()
        )),
    }
}

enum Outcome {
    Booted(Duration),
    Refused(String),
    Hung,
}

/// Boots the probe under one accelerator.
fn boots(tools: &Tools, dir: &Path, accel: Accel) -> Result<Outcome> {
    let rom = dir.join(format!("probe.{}.{accel}.rom", std::process::id()));
    fs::write(&rom, probe_rom()).map_err(file_error("write", &rom))?;
    let start = Instant::now();
    let mut command = tools.command("timeout");
    command.args(["--signal", "KILL", &PROBE_DEADLINE.as_secs().to_string()]);
    command.args(["qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none", "-m", "16"]);
    command.args([
        "-machine",
        "q35",
        "-accel",
        &accel.to_string(),
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=1",
    ]);
    command.arg("-bios").arg(&rom).stdin(Stdio::null());
    let output = command.output();
    // The answer does not hang on it.
    let _ = fs::remove_file(&rom);
    let output =
        output.map_err(|source| Error::Spawn { program: "qemu-system-x86_64".to_owned(), source })?;
    let words = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
    Ok(match output.status.code() {
        Some(PROBE_STATUS) => Outcome::Booted(start.elapsed()),
        // timeout(1) kills itself too when it has to kill, or says 137.
        None | Some(137 | 124) => Outcome::Hung,
        Some(_) => Outcome::Refused(if words.is_empty() { output.status.to_string() } else { words }),
    })
}

/// A ROM that goes through what kernels need and a broken KVM fails at: real mode, protected mode, paging, long
/// mode, floating point; counts there, and writes 0x2A to port 0xF4.
fn probe_rom() -> Vec<u8> {
    let mut rom = vec![0xF4; ROM_BYTES];
    let mut put = |at: usize, bytes: &[u8]| rom[at..at + bytes.len()].copy_from_slice(bytes);
    // 0xFFFF0: jmp 0xF000 (real mode, cs = 0xF000)
    put(0xFFF0, &[0xE9, 0x0D, 0xF0]);
    #[rustfmt::skip]
    put(0xF000, &[
        0xFA,                               // cli
        0x2E, 0x66, 0x0F, 0x01, 0x16, 0x00, 0xF2, // lgdt cs:[0xF200]
        0x0F, 0x20, 0xC0,                   // mov eax, cr0
        0x0C, 0x01,                         // or al, 1            (protection)
        0x0F, 0x22, 0xC0,                   // mov cr0, eax
        0x66, 0xEA, 0x00, 0xF1, 0x0F, 0x00, 0x08, 0x00, // jmp 0x08:0x000FF100
    ]);
    #[rustfmt::skip]
    put(0xF100, &[                          // 32 bits
        0x66, 0xB8, 0x10, 0x00,             // mov ax, 0x10
        0x8E, 0xD8, 0x8E, 0xC0, 0x8E, 0xD0, // mov ds, es, ss
        0xBF, 0x00, 0x10, 0x00, 0x00,       // mov edi, 0x1000     (page tables in RAM)
        0x31, 0xC0,                         // xor eax, eax
        0xB9, 0x00, 0x0C, 0x00, 0x00,       // mov ecx, 3 * 1024
        0xF3, 0xAB,                         // rep stosd
        0xC7, 0x05, 0x00, 0x10, 0x00, 0x00, 0x03, 0x20, 0x00, 0x00, // [0x1000] = 0x2003  (PML4 → PDPT)
        0xC7, 0x05, 0x00, 0x20, 0x00, 0x00, 0x03, 0x30, 0x00, 0x00, // [0x2000] = 0x3003  (PDPT → PD)
        0xC7, 0x05, 0x00, 0x30, 0x00, 0x00, 0x83, 0x00, 0x00, 0x00, // [0x3000] = 0x83    (2 MiB page)
        0x0F, 0x20, 0xE0,                   // mov eax, cr4
        0x0D, 0x20, 0x06, 0x00, 0x00,       // or eax, 0x620       (PAE, SSE)
        0x0F, 0x22, 0xE0,                   // mov cr4, eax
        0xB8, 0x00, 0x10, 0x00, 0x00,       // mov eax, 0x1000
        0x0F, 0x22, 0xD8,                   // mov cr3, eax
        0xB9, 0x80, 0x00, 0x00, 0xC0,       // mov ecx, 0xC0000080 (EFER)
        0x0F, 0x32,                         // rdmsr
        0x0D, 0x00, 0x01, 0x00, 0x00,       // or eax, 0x100       (long mode)
        0x0F, 0x30,                         // wrmsr
        0x0F, 0x20, 0xC0,                   // mov eax, cr0
        0x0D, 0x00, 0x00, 0x00, 0x80,       // or eax, 0x80000000  (paging)
        0x0F, 0x22, 0xC0,                   // mov cr0, eax
        0xEA, 0x80, 0xF1, 0x0F, 0x00, 0x18, 0x00, // jmp 0x18:0x000FF180
    ]);
    #[rustfmt::skip]
    put(0xF180, &[                          // 64 bits
        0x48, 0xC7, 0xC1, 0x40, 0x42, 0x0F, 0x00, // mov rcx, 1000000
        0x48, 0xFF, 0xC9,                   // dec rcx
        0x75, 0xFB,                         // jnz to the line above
        0x9B, 0xDB, 0xE3,                   // finit               (as the firmware does first)
        0x0F, 0x57, 0xC0,                   // xorps xmm0, xmm0
        0x66, 0x0F, 0x6F, 0xC8,             // movdqa xmm1, xmm0
        0x0F, 0xA2,                         // cpuid               (leaves the guest)
        0xB0, 0x2A,                         // mov al, 0x2A
        0xE6, 0xF4,                         // out 0xF4, al        (ends QEMU)
        0xF4,                               // hlt
    ]);
    put(0xF200, &[0x1F, 0x00, 0x10, 0xF2, 0x0F, 0x00]); // limit, address of the table
    #[rustfmt::skip]
    put(0xF210, &[
        0, 0, 0, 0, 0, 0, 0, 0,                         // null
        0xFF, 0xFF, 0, 0, 0, 0x9B, 0xCF, 0,             // 0x08: code, 32 bits, flat
        0xFF, 0xFF, 0, 0, 0, 0x93, 0xCF, 0,             // 0x10: data, flat
        0xFF, 0xFF, 0, 0, 0, 0x9B, 0xAF, 0,             // 0x18: code, 64 bits
    ]);
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_runs_where_everything_runs() {
        let Ok(tools) = Tools::open() else {
            eprintln!("skipped: no tools tree; `./just tools` builds it");
            return;
        };
        let dir = tempfile::tempdir().expect("a temporary folder");
        match boots(&tools, dir.path(), Accel::Tcg).expect("QEMU starts") {
            Outcome::Booted(time) => assert!(time < PROBE_DEADLINE),
            Outcome::Refused(status) => panic!("the probe's ROM did not finish under TCG: {status}"),
            Outcome::Hung => panic!("the probe's ROM hangs under TCG"),
        }
    }
}
