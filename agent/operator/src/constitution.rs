//! `pillar constitution`: the document that says who decides.

use crate::chain;
use crate::cli::{ConstitutionAction, Form, Output};
use crate::clock;
use crate::enroll::decide;
use crate::failure::{Failure, Kind, Outcome, Said};
use crate::file;
use crate::paint::harmless;
use crate::reference::now_unix_s;
use crate::words;
use pillar_model::{Action, Constitution, OperatorEntry};
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
            show(chain.cluster.constitution(), form).map(Said::from)
        }
        ConstitutionAction::Propose { file, via, signing, caller } => {
            let next = read(&file)?;
            let (mut witness, chain) = chain::open(&via, &caller).await?;
            clock::check(&witness.place.name, witness.view.clock_offset_s)?;
            let proposal = chain.propose(Action::Amend(Box::new(next)))?;
            decide(&mut witness, &chain, proposal, &caller, Some(&signing), None).await
        }
        ConstitutionAction::Sign { via, signing, caller, yes } => {
            let (mut witness, chain) = chain::open(&via, &caller).await?;
            clock::check(&witness.place.name, witness.view.clock_offset_s)?;
            let proposal =
                chain.proposal(|action| matches!(action, Action::Amend(_))).cloned().ok_or_else(|| {
                    Failure::new("nobody proposed a constitution")
                        .kind(Kind::Unknown)
                        .hint("`pillar constitution propose FILE` does")
                })?;
            if !yes {
                confirm(&words::details(&proposal.entry.action, Some(chain.cluster.constitution())))?;
            }
            decide(&mut witness, &chain, proposal, &caller, Some(&signing), None).await
        }
    }
}

fn read(path: &Path) -> Outcome<Constitution> {
    serde_json::from_slice(&file::read(path, FILE_MAX_BYTES)?).map_err(|error| {
        Failure::because(format!("{} is not a constitution", path.display()), &error)
            .hint("`pillar constitution show -o json` prints one to start from")
    })
}

fn show(constitution: &Constitution, form: Form) -> Outcome<String> {
    match form.output {
        Output::Text => Ok(text(constitution, now_unix_s())),
        Output::Json => serde_json::to_string_pretty(constitution)
            .map(|text| text + "\n")
            .map_err(|error| Failure::because("cannot print JSON", &error)),
    }
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
        let json = show(&constitution(), Form { output: Output::Json }).expect("JSON");
        std::fs::write(&path, json).expect("written");
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
