//! `pillar-image`: the command line of the image tooling.
#![forbid(unsafe_code)]

use clap::Parser;
use pillar_image::assembly::{self, Built};
use pillar_image::error::Error;
use pillar_image::options::{
    Action, BuildOptions, CompareOptions, Format, InstallerOptions, ListOptions, LockOptions, Options,
    ReproOptions, TreesOptions, words_to_flags,
};
use pillar_image::progress::Progress;
use pillar_image::{compare, flash, installer, list, lock, repro, run};
use pillar_tools::Tools;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// `repro` and `compare`: the two are not the same.
const DIFFERENT: u8 = 2;

fn main() -> ExitCode {
    let options = match words_to_flags(std::env::args()) {
        Ok(words) => Options::parse_from(words),
        Err(error) => {
            report(&error);
            return ExitCode::from(2);
        }
    };
    let result = match &options.command {
        Action::Build(options) => build(options).map(|()| true),
        Action::List(options) => show(options).map(|()| true),
        Action::Lock(options) => renew(options).map(|()| true),
        Action::Trees(options) => trees(options).map(|()| true),
        Action::Repro(options) => build_twice(options),
        Action::Compare(options) => compare_folders(options),
        Action::Flash(options) => flash::run(options).and_then(|text| print(&text)).map(|()| true),
        Action::Installer(options) => build_installer(options).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(DIFFERENT),
        Err(error) => {
            report(&error);
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &Error) -> u8 {
    use pillar_flash::Error as FlashError;
    match error {
        Error::Usage(_) => 2,
        Error::Unconfirmed(_) | Error::NotOfRelease { .. } | Error::NoDiskImage(_) => 3,
        Error::Flash(FlashError::Refused { .. } | FlashError::NoImage { .. }) => 3,
        Error::Flash(FlashError::Interrupted { .. }) => 130,
        _ => 1,
    }
}

fn build(options: &BuildOptions) -> Result<(), Error> {
    run::end_cleanly_on_signals()?;
    let progress = Progress::new();
    let built = assembly::build(&assembly::project()?, options, &progress)?;
    print_built(&built, options.output)
}

fn build_installer(options: &InstallerOptions) -> Result<(), Error> {
    run::end_cleanly_on_signals()?;
    let progress = Progress::new();
    let built = installer::build(&assembly::project()?, options, &progress)?;
    print_built(&built, options.output)
}

fn print_built(built: &Built, output: Format) -> Result<(), Error> {
    match output {
        Format::Json => print(&json("the result", built)?),
        Format::Text => print(&summary(built)),
    }
}

fn show(options: &ListOptions) -> Result<(), Error> {
    run::end_cleanly_on_signals()?;
    let files = list::list(&Tools::open()?, &options.file)?;
    if options.output == Format::Json {
        return print(&json("the list", &files)?);
    }
    let mut text = String::new();
    for file in files {
        let target = file.target.map(|t| format!(" -> {t}")).unwrap_or_default();
        text.push_str(&format!(
            "{:9} {} {:>3}:{:<3} {:>9} {}{target}\n",
            file.kind, file.mode, file.uid, file.gid, file.size, file.path
        ));
    }
    print(text.trim_end())
}

fn renew(options: &LockOptions) -> Result<(), Error> {
    let renewed = lock::renew(&assembly::project()?, &options.names, &Progress::new())?;
    match options.output {
        Format::Json => print(&json("the changes", &renewed)?),
        Format::Text => print(&lock::summary(&renewed)),
    }
}

fn trees(options: &TreesOptions) -> Result<(), Error> {
    run::end_cleanly_on_signals()?;
    let workshop = assembly::trees(&assembly::project()?, options, &Progress::new())?;
    print(&workshop.display().to_string())
}

/// Whether the two builds are the same.
fn build_twice(options: &ReproOptions) -> Result<bool, Error> {
    run::end_cleanly_on_signals()?;
    let outcome = repro::repro(&assembly::project()?, options, &Progress::new())?;
    match options.output {
        Format::Json => print(&json("the comparison", &outcome)?)?,
        Format::Text => print(&repro::summary(&outcome))?,
    }
    Ok(outcome.same)
}

/// Whether two folders hold the same build.
fn compare_folders(options: &CompareOptions) -> Result<bool, Error> {
    let files = compare::folders(&options.first, &options.second)?;
    match options.output {
        Format::Json => print(&json("the comparison", &files)?)?,
        Format::Text => print(repro::table(&files).trim_end())?,
    }
    Ok(!files.iter().any(compare::Compared::differs))
}

fn json(what: &'static str, value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string_pretty(value).map_err(|source| Error::Json { what, source })
}

/// A closed pipe (`| head`) is the reader's wish, not a failure.
fn print(text: &str) -> Result<(), Error> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::File { operation: "write to", path: "standard output".into(), source: error })
        }
        _ => Ok(()),
    }
}

fn summary(built: &Built) -> String {
    let mut text = format!(
        "pillar {} ({}), kernel {}\nroot hash {}\n",
        built.version, built.flavour, built.kernel, built.root_hash
    );
    for (name, size) in &built.files {
        #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
        let mib = *size as f64 / f64::from(1 << 20);
        text.push_str(&format!("{mib:>8.1} MiB  {}\n", built.out.join(name).display()));
    }
    text.push_str(&format!("built in {:.1} s", built.took.as_secs_f64()));
    text
}

/// `error:` what, `caused by:` why, `hint:` what to do.
fn report(error: &Error) {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let label = |code: &str, text: &str| {
        if colour { format!("\x1b[1;{code}m{text}\x1b[0m") } else { text.to_owned() }
    };
    eprintln!("{} {error}", label("31", "error:"));
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        eprintln!("{} {cause}", label("33", "caused by:"));
        source = cause.source();
    }
    if let Some(hint) = error.hint() {
        eprintln!("{} {hint}", label("36", "hint:"));
    }
}
