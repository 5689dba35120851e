//! `pillar`: the operator's command line. Parses, runs one command, reports.
#![forbid(unsafe_code)]

mod attest;
mod cli;
mod failure;
mod file;
mod logs;
mod paint;
mod pins;
mod reference;
mod report;
mod saved;
mod session;
mod state;
mod status;
mod target;

use clap::{CommandFactory, Parser};
use cli::{Action, Arguments};
use failure::{Failure, Kind, Outcome};
use pillar_wire::proto::RebootRequest;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help goes to standard output and is no error; a closed pipe there is none either.
            let _ = error.print();
            return if error.use_stderr() { Kind::Other.exit_code() } else { ExitCode::SUCCESS };
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::because("cannot start", &error)),
    };
    match runtime.block_on(run(arguments.action)) {
        Ok(code) => code,
        Err(failure) => report(&failure),
    }
}

fn report(failure: &Failure) -> ExitCode {
    eprintln!("{failure}");
    failure.kind.exit_code()
}

async fn run(action: Action) -> Outcome<ExitCode> {
    let text = match action {
        Action::Status { target, form } => status::run(&target, form).await?,
        Action::Attest { target, judge, bank, forget, form } => {
            return print_report(&attest::online(&target, &judge, bank.into(), forget).await?, form);
        }
        Action::Evidence { target, bank, output } => attest::save(&target, bank.into(), &output).await?,
        Action::Verify { file, judge, bank, run, form } => {
            return print_report(&attest::offline(&file, &judge, bank.into(), &run)?, form);
        }
        Action::Logs { target, lines, follow, form } => {
            logs::run(&target, lines, follow, form).await?;
            String::new()
        }
        Action::State { action } => state::run(action).await?,
        Action::Reboot { target, power_off } => reboot(&target, power_off).await?,
        Action::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "pillar", &mut script);
            String::from_utf8_lossy(&script).into_owned()
        }
        Action::Man => man()?,
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn print_report(report: &report::Report, form: cli::Form) -> Outcome<ExitCode> {
    match form.output {
        cli::Output::Text => print(&report.text(paint::Paint::for_stdout()))?,
        cli::Output::Json => print(&format!("{:#}\n", report.json()))?,
    }
    Ok(if report.is_verified() { ExitCode::SUCCESS } else { Kind::Refused.exit_code() })
}

fn print(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::because("cannot print", &error))
        }
        _ => Ok(()),
    }
}

async fn reboot(target: &cli::Target, power_off: bool) -> Outcome<String> {
    if target.name.is_none() && target.addr.is_none() {
        return Err(Failure::new("reboot wants to know which pillar").hint("pillar reboot NAME"));
    }
    let place = target::Place::find(target)?;
    let mut connected = session::connect(&place, target).await?;
    session::call("reboot", connected.client.reboot(RebootRequest { power_off })).await?;
    let what = if power_off { "powers off" } else { "reboots" };
    Ok(format!("{} {what}\n", place.name))
}

/// One page: the program, then each command.
fn man() -> Outcome<String> {
    let cannot = |error| Failure::because("cannot make the manual page", &error);
    let command = Arguments::command();
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command.clone());
    man.render(&mut page).map_err(cannot)?;
    for sub in command.get_subcommands() {
        let name = format!("pillar {}", sub.get_name());
        let man = clap_mangen::Man::new(sub.clone().bin_name(&name));
        writeln!(page, ".SH \"{}\"", name.to_uppercase()).map_err(cannot)?;
        man.render_synopsis_section(&mut page).map_err(cannot)?;
        man.render_description_section(&mut page).map_err(cannot)?;
        man.render_options_section(&mut page).map_err(cannot)?;
    }
    // Sections of a command are subsections of the page.
    let text = String::from_utf8_lossy(&page).into_owned();
    Ok(text)
}
