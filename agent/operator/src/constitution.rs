//! `pillar constitution`: the document that says who decides.

use crate::chain;
use crate::cli::{Caller, ConstitutionAction, Form, Output, Propose};
use crate::clock;
use crate::enroll::{Decision, decide};
use crate::failure::{Failure, Kind, Outcome, Said};
use crate::file;
use crate::foresight::foresee;
use crate::operators;
use crate::paint::harmless;
use crate::reference::now_unix_s;
use crate::view::Witness;
use crate::words;
use pillar_model::{Action, Constitution, OperatorEntry, ReleasePredicate};
use pillar_quorum::{Approved, Cluster};
use std::fmt::Write as _;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

/// Dozens of roots in hexadecimal, thousands of allowed keys.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// Runs one of the commands.
pub async fn run(action: ConstitutionAction) -> Outcome<Said> {
    match action {
        ConstitutionAction::Show { via, caller, form } => {
            let (_, chain) = chain::open(&via, &caller).await?;
            show(&chain.cluster, form).map(Said::from)
        }
        ConstitutionAction::Propose(args) => propose(&args).await,
        ConstitutionAction::Sign { via, signing, caller, yes, even_all, even_me, form } => {
            let (mut witness, chain) = chain::open(&via, &caller).await?;
            clock::check(&witness.place.name, witness.view.clock_offset_s)?;
            let proposal =
                chain.proposal(|action| matches!(action, Action::Amend(_))).cloned().ok_or_else(|| {
                    Failure::new("nobody proposed a constitution")
                        .kind(Kind::Unknown)
                        .hint("`pillar constitution propose FILE` does")
                })?;
            let Action::Amend(next) = &proposal.entry.action else {
                return Err(Failure::new("the proposal is of another kind"));
            };
            let own = own_fate(next, &witness, &caller, even_me)?;
            let foreseen = own + &foresee(&witness, &chain, next, &caller, even_all).await?;
            if !yes {
                let changes = words::details(&proposal.entry.action, Some(chain.cluster.constitution()));
                confirm(&(changes + &foreseen))?;
            }
            let signing = Some(&signing);
            let decision = Decision { proposal, signing, machine: None, foreseen, form };
            decide(&mut witness, &chain, &caller, decision).await
        }
    }
}

async fn propose(args: &Propose) -> Outcome<Said> {
    let document = args.file.as_deref().map(read).transpose()?;
    let (mut witness, chain) = chain::open(&args.via, &args.caller).await?;
    clock::check(&witness.place.name, witness.view.clock_offset_s)?;
    let next = changed(document, chain.cluster.constitution(), args)?;
    let proposal = chain.propose(Action::Amend(Box::new(next.clone())))?;
    let own = own_fate(&next, &witness, &args.caller, args.even_me)?;
    let foreseen = own + &foresee(&witness, &chain, &next, &args.caller, args.even_all).await?;
    let signing = Some(&args.signing);
    let decision = Decision { proposal, signing, machine: None, foreseen, form: args.form };
    decide(&mut witness, &chain, &args.caller, decision).await
}

/// Pillars serve the next constitution's operators and nobody else: who is none of them is told before signing, and has to
/// say that it is meant.
fn own_fate(next: &Constitution, witness: &Witness, caller: &Caller, meant: bool) -> Outcome<String> {
    if operators::serve(&next.operators, &witness.connected.client_spki) {
        return Ok(String::new());
    }
    let cert = caller.cert();
    if meant {
        return Ok(format!("  no pillar will serve the holder of {} any more\n", cert.display()));
    }
    let names: Vec<&str> = next.operators.iter().map(|operator| operator.name.as_str()).collect();
    Err(Failure::new(format!(
        "with this constitution no pillar would serve the holder of {} any more: its operators are {}",
        cert.display(),
        harmless(&names.join(", "))
    ))
    .kind(Kind::Refused)
    .hint("nothing was signed; use the key of an operator who stays, or keep this one; --even-me says that it is meant"))
}

/// The document that was given, or the present one with the next number; with the changes that the options name.
fn changed(document: Option<Constitution>, present: &Constitution, args: &Propose) -> Outcome<Constitution> {
    let mut next = document
        .unwrap_or_else(|| Constitution { version: present.version.saturating_add(1), ..present.clone() });
    // In the order in which documents have them. What overlaps is refused there, with words.
    next.denied_tpm_firmware.extend(&args.deny_tpm_firmware);
    next.denied_tpm_firmware.sort_unstable();
    next.denied_tpm_firmware.dedup();
    next.dbx_required.extend(&args.require_dbx);
    next.dbx_required.sort_unstable();
    next.dbx_required.dedup();
    if let Some(days) = args.days {
        next.expires_unix_s = now_unix_s().saturating_add(u64::from(days) * 86_400);
    }
    for name in &args.remove_operator {
        let at = next.operators.iter().position(|operator| operator.name == *name).ok_or_else(|| {
            let known: Vec<&str> = next.operators.iter().map(|operator| operator.name.as_str()).collect();
            Failure::new(format!("no operator is called {}", harmless(name)))
                .kind(Kind::Unknown)
                .hint(format!("operators are {}", harmless(&known.join(", "))))
        })?;
        next.operators.remove(at);
    }
    if !args.add_operator.is_empty() {
        next.operators.extend(operators::load(&args.add_operator, Path::new(""))?);
    }
    next.threshold = args.threshold.unwrap_or(next.threshold);
    Ok(next)
}

fn read(path: &Path) -> Outcome<Constitution> {
    serde_json::from_slice(&file::read(path, FILE_MAX_BYTES)?).map_err(|error| {
        Failure::because(format!("{} is not a constitution", path.display()), &error)
            .hint("`pillar constitution show -o json` prints one to start from")
    })
}

fn show(cluster: &Cluster, form: Form) -> Outcome<String> {
    match form.output {
        Output::Text => Ok(text(cluster.constitution(), now_unix_s()) + &decided(cluster)),
        Output::Json => json(cluster.constitution()),
    }
}

fn json(constitution: &Constitution) -> Outcome<String> {
    serde_json::to_string_pretty(constitution)
        .map(|text| text + "\n")
        .map_err(|error| Failure::because("cannot print JSON", &error))
}

/// What the operators decided beside it, and who of them did.
fn decided(cluster: &Cluster) -> String {
    let mut out = String::new();
    let one = |what: &str, release: &Approved<ReleasePredicate>| {
        let (by, serial) = (harmless(&release.by().join(", ")), release.serial());
        format!(
            "  {what}: {} ({}), by entry {serial}, signed by {by}\n",
            harmless(&release.version),
            harmless(&release.flavour)
        )
    };
    if let Some(releases) = cluster.releases() {
        out.push_str(&one("release", &releases.committed));
        out.extend(releases.trial.as_ref().map(|trial| one("on trial", trial)));
    }
    let ago = now_unix_s().saturating_sub(cluster.made_unix_s());
    let ago = crate::status::span(Duration::from_secs(ago));
    // Writing to a String cannot fail.
    let _ = writeln!(out, "  last decision: entry {}, made {ago} ago", cluster.serial());
    out
}

fn text(constitution: &Constitution, now_unix_s: u64) -> String {
    let Constitution {
        version,
        cluster,
        operators,
        threshold,
        ek_roots,
        ek_intermediates,
        ek_allowed,
        denied_tpm_firmware,
        dbx_required,
        expires_unix_s,
    } = constitution;
    let left = expires_unix_s.saturating_sub(now_unix_s);
    let expires = if left == 0 {
        "expired: only its amendment is taken".to_owned()
    } else {
        format!("expires in {}", crate::status::span(Duration::from_secs(left)))
    };
    let mut out = format!("{}: constitution {version}, {expires}\n", harmless(cluster));
    let count = operators.len();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "  any {threshold} of {count} operators decide:");
    for OperatorEntry { name, key } in operators {
        let _ = writeln!(out, "    {:<16} {key}", harmless(name));
    }
    let allowed = match ek_allowed.len() {
        0 => "every TPM that they certified".to_owned(),
        count => format!("{count} TPMs by name"),
    };
    let (roots, between) = (ek_roots.len(), ek_intermediates.len());
    let _ = writeln!(out, "  TPM makers: {roots} roots, {between} certificates between; {allowed}");
    for range in denied_tpm_firmware {
        let _ = writeln!(out, "  TPM firmware that is not believed: {range}");
    }
    for entry in dbx_required {
        let _ = writeln!(out, "  each dbx must hold: {entry}");
    }
    out
}

/// A yes typed by a person who saw what changes.
fn confirm(changes: &str) -> Outcome {
    if !io::stdin().is_terminal() {
        return Err(
            Failure::new("nobody is there to confirm the changes").hint("--yes says so, if you are sure")
        );
    }
    print!("{changes}sign this? [y/N] ");
    let mut typed = String::new();
    let read = io::stdout().flush().and_then(|()| io::stdin().lock().read_line(&mut typed));
    read.map_err(|error| Failure::because("cannot ask", &error))?;
    if matches!(typed.trim(), "y" | "yes") { Ok(()) } else { Err(Failure::new("not signed")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillar_model::OperatorKey;

    fn constitution() -> Constitution {
        Constitution {
            version: 3,
            cluster: "lab".to_owned(),
            operators: vec![OperatorEntry { name: "alice".to_owned(), key: OperatorKey([0xab; 32]) }],
            threshold: 1,
            ek_roots: Vec::new(),
            ek_intermediates: Vec::new(),
            ek_allowed: Vec::new(),
            denied_tpm_firmware: Vec::new(),
            dbx_required: Vec::new(),
            expires_unix_s: 1_000_000,
        }
    }

    #[test]
    fn the_document_is_shown_and_read_back() {
        let want = format!(
            "lab: constitution 3, expires in 1 d\n  any 1 of 1 operators decide:\n    alice            {}\n  TPM makers: 0 roots, 0 certificates between; every TPM that they certified\n",
            "ab".repeat(32)
        );
        assert_eq!(text(&constitution(), 1_000_000 - 86_400), want);
        assert!(text(&constitution(), 1_000_000).contains("expired: only its amendment is taken"));
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("next.json");
        std::fs::write(&path, json(&constitution()).expect("JSON")).expect("written");
        assert_eq!(read(&path).expect("read"), constitution());
        std::fs::write(&path, "{}").expect("written");
        assert!(
            read(&path)
                .expect_err("none")
                .to_string()
                .contains("is not a constitution\n  caused by: missing field")
        );
    }
}
