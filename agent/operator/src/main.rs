//! `pillar`: the operator's command line. Parses, runs one command, reports.
#![forbid(unsafe_code)]

mod attest;
mod chain;
mod cli;
mod clock;
mod constitution;
mod enroll;
mod eventlog;
mod explain;
mod failure;
mod file;
mod foresight;
mod fork;
mod found;
mod jws;
mod logs;
mod members;
mod operators;
mod paint;
mod pins;
mod policy;
mod promise;
mod reference;
mod report;
mod row;
mod saved;
mod session;
mod signer;
mod spread;
mod state;
mod status;
mod table;
mod target;
mod view;
mod words;

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
    let said = match action {
        Action::Attest { target, judge, bank, forget, from, form } => {
            let report = match (&target.name, &from) {
                (Some(name), Some(from)) => attest::by_peer(name, from, &target.caller).await?,
                _ => attest::online(&target, &judge, bank.into(), forget).await?,
            };
            return print_report(&report, &form);
        }
        Action::Verify { file, policy, judge, bank, run, form } => {
            let report = match policy {
                Some(policy) => attest::by_policy(&file, &policy, bank.into())?,
                None => attest::offline(&file, &judge, bank.into(), &run)?,
            };
            return print_report(&report, &form);
        }
        Action::Logs { target, lines, follow, form } => {
            logs::run(&target, lines, follow, form).await?;
            String::new().into()
        }
        Action::Found(found) => found::run(&found).await?,
        Action::Enroll(enroll) => enroll::enroll(&enroll, enroll.replace).await?,
        Action::Readmit(enroll) => enroll::enroll(&enroll, true).await?,
        Action::Admit(admit) => enroll::admit(&admit).await?,
        Action::Revoke(revoke) => enroll::revoke(&revoke).await?,
        Action::Constitution { action } => constitution::run(action).await?,
        other => simple(other).await?.into(),
    };
    print(&said.text)?;
    Ok(said.kind.map_or(ExitCode::SUCCESS, Kind::exit_code))
}

/// Commands that print a text and are done.
async fn simple(action: Action) -> Outcome<String> {
    match action {
        Action::Status { target, viewer, form } => status::run(&target, &viewer, form).await,
        Action::Explain { name, viewer, caller, form } => explain::run(&name, &viewer, &caller, form).await,
        Action::Evidence { target, bank, output } => attest::save(&target, bank.into(), &output).await,
        Action::Policy { target, judge, via, output } => policy::save(&target, &judge, &via, &output).await,
        Action::Eventlog { file, form } => eventlog::run(&file, form),
        Action::Pending { via, caller, form } => enroll::pending(&via, &caller, form).await,
        Action::State { action } => state::run(action).await,
        Action::Reboot { target, power_off } => reboot(&target, power_off).await,
        Action::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "pillar", &mut script);
            Ok(String::from_utf8_lossy(&script).into_owned())
        }
        Action::Man => man(),
        _ => Err(Failure::new("this command has a way of its own")),
    }
}

fn print_report(report: &report::Report, form: &cli::VerdictForm) -> Outcome<ExitCode> {
    if form.sign_with.is_some() && form.output != cli::VerdictOutput::Ear {
        return Err(Failure::new("--sign-with signs an attestation result, and -o ear makes one"));
    }
    let text = match form.output {
        cli::VerdictOutput::Text => report.text(paint::Paint::for_stdout()),
        cli::VerdictOutput::Json => format!("{:#}\n", report.json()),
        cli::VerdictOutput::Ear => jws::result(report, form.sign_with.as_ref())?,
    };
    print(&text)?;
    Ok(report.failed().map_or(ExitCode::SUCCESS, Kind::exit_code))
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
    let mut connected = session::connect(&place, &target.caller).await?;
    session::call("reboot", connected.client.reboot(RebootRequest { power_off })).await?;
    let what = if power_off { "powers off" } else { "reboots" };
    Ok(format!("{} {what}\n", place.name))
}

/// One page: the program, then each command.
fn man() -> Outcome<String> {
    let cannot = |error| Failure::because("cannot make the manual page", &error);
    let command = Arguments::command();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page).map_err(cannot)?;
    for sub in command.get_subcommands() {
        section(sub, "pillar", &mut page).map_err(cannot)?;
    }
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// A command as a section of the page, then the commands below it.
fn section(command: &clap::Command, above: &str, page: &mut Vec<u8>) -> io::Result<()> {
    let name = format!("{above} {}", command.get_name());
    let man = clap_mangen::Man::new(command.clone().bin_name(&name));
    writeln!(page, ".SH \"{}\"", name.to_uppercase())?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    command.get_subcommands().try_for_each(|sub| section(sub, &name, page))
}
