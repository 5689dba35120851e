//! `up`: from an image to machines whose agents answer.

use crate::cli::{Output, Up};
use crate::commands::{Shown, show};
use crate::network;
use crate::progress::{self, Step};
use anyhow::{Context, Result, bail};
use pillar_qemu::record::Image;
use pillar_qemu::{DiskMode, Error, Firmware, Machine, Mark, Record, Seat, TpmKind, speaks_tls};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two questions to the agent's port; the console is listened to meanwhile.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// For one question: QEMU accepts at once, the agent answers within this.
const ANSWER: Duration = Duration::from_secs(2);
/// The workload's first health check usually passes before the agent answers; longer than this is its own affair.
const WORKLOAD: Duration = Duration::from_secs(20);

pub fn run(run_dir: &Path, output: Output, options: &Up) -> Result<()> {
    let names = options.names()?;
    options.hardware().check()?;
    let image = match &options.image {
        Some(image) => image.clone(),
        None => newest_image(&options.images(), &options.flavour, options.image_extension())?,
    };
    let seats = network::seats(run_dir, &names, options)?;
    // All of them boot at once; each is told of as it comes.
    let results: Vec<Result<Shown>> = std::thread::scope(|scope| {
        let (image, seats) = (&image, &seats);
        let start = |name: &str| up(&run_dir.join(name), name, image, seats.get(name), options);
        let starts: Vec<_> = names.iter().map(|name| scope.spawn(move || start(name))).collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap_or_else(|_| bail!("a machine's thread failed")))
            .collect()
    });
    let mut shown = Vec::new();
    let mut failed = None;
    for result in results {
        match result {
            Ok(machine) => shown.push(machine),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if failed.is_some() || options.foreground {
        network::end_when_idle(run_dir)?;
    }
    if !options.foreground {
        show(output, &shown)?;
    }
    failed.map_or(Ok(()), Err)
}

fn up(dir: &Path, name: &str, image: &Path, seat: Option<&Seat>, options: &Up) -> Result<Shown> {
    if let Some(record) = Record::read(dir)? {
        if record.is_running() {
            say(name, "runs already");
            return Ok(Shown::of(dir, record));
        }
        clear_remains(dir, name, &record, image, options)?;
    } else if options.fresh {
        remove_machine(dir)?;
    }
    let begun = Instant::now();
    let mut builder = builder(dir, name, image, options);
    if let Some(seat) = seat {
        builder = builder.lab(seat);
    }
    let machine = builder.start()?;
    say(name, &format!("started under {}: {}", machine.accel(), machine.record().accel_reason));
    wait_until_it_answers(&machine, name, Duration::from_secs(options.timeout)).with_context(|| {
        format!("{name} did not come up and was stopped; its logs are in {}", dir.display())
    })?;
    say(name, &format!("answers after {:.0} s", begun.elapsed().as_secs_f64()));
    if options.foreground {
        show(Output::Text, &[Shown::of(dir, machine.record().clone())])?;
        let record = machine.record().clone();
        follow(&machine)?;
        return Ok(Shown::of(dir, record));
    }
    Ok(Shown::of(dir, machine.release()))
}

fn builder(dir: &Path, name: &str, image: &Path, options: &Up) -> pillar_qemu::Builder {
    let mut builder = Machine::builder(name)
        .dir(dir)
        .disk(image, DiskMode::Copy)
        .memory_mib(options.memory)
        .cpus(options.cpus)
        .firmware(if options.no_secure_boot { Firmware::NoSecureBoot } else { Firmware::setup_mode() })
        .hardware(options.hardware())
        .tpm(match options.no_tpm {
            true => TpmKind::None,
            false => TpmKind::Swtpm { banks: options.tpm_banks.clone(), ca: None },
        });
    for forward in &options.forward {
        builder = builder.forward_from(forward.host, forward.guest);
    }
    if let Some(port) = options.agent_port {
        builder = builder.forward_from(port, pillar_layout::AGENT_PORT);
    }
    if options.foreground { builder } else { builder.detached() }
}

/// What an earlier run left: a TPM that outlived its QEMU, a disk of another image, everything when asked for.
fn clear_remains(dir: &Path, name: &str, old: &Record, image: &Path, options: &Up) -> Result<()> {
    old.stop(dir, Duration::ZERO);
    if options.fresh {
        say(name, "begins anew: disk, TPM and firmware variables of its last run are removed");
        return remove_machine(dir);
    }
    if old.image.as_ref() != Some(&Image::of(image)?) {
        say(name, "gets the disk of another image than last time; its TPM and firmware variables stay");
        for file in ["disk.raw", "boot.raw"] {
            match fs::remove_file(dir.join(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("cannot remove the old disk in {}", dir.display()));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn remove_machine(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Follows the boot on the console until the agent speaks TLS, and then for a while until the workload is healthy.
fn wait_until_it_answers(machine: &Machine, name: &str, patience: Duration) -> Result<()> {
    let until = Instant::now() + patience;
    let left = || until.saturating_duration_since(Instant::now());
    let mut from = Mark::default();
    let mut healthy = false;
    loop {
        let found = machine.console().wait_any(progress::landmarks(), from, left())?;
        from = found.end;
        let line = tell(name, &found)?;
        healthy |= line.healthy;
        if line.ready {
            break;
        }
    }
    let mut health_until = until;
    loop {
        if health_until == until && speaks_tls(machine.agent_addr(), ANSWER) {
            health_until = Instant::now() + WORKLOAD;
        }
        let answered = health_until != until;
        if answered && (healthy || Instant::now() >= health_until) {
            if !healthy {
                say(name, "the workload is not healthy yet");
            }
            return Ok(());
        }
        if left().is_zero() {
            bail!("the agent did not answer within {} s", patience.as_secs());
        }
        match machine.console().wait_any(progress::landmarks(), from, ASK_EVERY) {
            Ok(found) => {
                from = found.end;
                healthy |= tell(name, &found)?.healthy;
            }
            Err(Error::Deadline { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[derive(Default)]
struct Told {
    ready: bool,
    healthy: bool,
}

fn tell(name: &str, found: &pillar_qemu::Match) -> Result<Told> {
    let at = found.at.as_secs_f64();
    match progress::step(&found.line) {
        Some(Step::Failed(why)) => bail!(why),
        Some(Step::Ready(words)) => {
            say(name, &format!("{at:6.1} s  {words}"));
            Ok(Told { ready: true, ..Told::default() })
        }
        Some(Step::Passed(words)) => {
            say(name, &format!("{at:6.1} s  {words}"));
            Ok(Told { healthy: words.ends_with(pillar_layout::console::WORKLOAD_HEALTHY), ..Told::default() })
        }
        None => Ok(Told::default()),
    }
}

fn follow(machine: &Machine) -> Result<()> {
    let mut from = Mark::default();
    while let Some((text, end)) = machine.console().more(from) {
        io::stdout().write_all(text.as_bytes())?;
        io::stdout().flush()?;
        from = end;
    }
    Ok(())
}

pub fn say(name: &str, words: &str) {
    // Progress is for who watches; if nobody can, the work goes on.
    let _ = writeln!(io::stderr(), "{name}: {words}");
}

fn newest_image(out: &Path, flavour: &str, extension: &str) -> Result<PathBuf> {
    let end = format!("_{flavour}.{extension}");
    let is_image = |name: &str| name.starts_with("pillar_") && name.ends_with(&end);
    let entries = fs::read_dir(out).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let newest = entries
        .iter()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_image))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .max();
    match newest {
        Some((_, path)) => Ok(path),
        None => Err(Error::ImageMissing(out.join(format!("pillar_*{end}"))).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_image_is_taken_and_none_is_said() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let error = newest_image(dir.path(), "virt", "raw").expect_err("there is none");
        assert!(
            error.downcast_ref::<Error>().and_then(Error::hint).expect("a hint").contains("./just image")
        );
        for (name, age) in
            [("pillar_1_virt.raw", 60), ("pillar_2_virt.raw", 30), ("pillar_3_metal.raw", 0), ("x.raw", 0)]
        {
            let file = fs::File::create(dir.path().join(name)).expect("created");
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age)).expect("dated");
        }
        assert_eq!(
            newest_image(dir.path(), "virt", "raw").expect("found"),
            dir.path().join("pillar_2_virt.raw")
        );
        assert_eq!(
            newest_image(dir.path(), "metal", "raw").expect("found"),
            dir.path().join("pillar_3_metal.raw")
        );
    }
}
