//! Entries in words: what an operator sees before they sign.

use crate::chain::Proposal;
use crate::paint::harmless;
use crate::row::sha256;
use pillar_model::{Action, Constitution, Digest, Member, OperatorEntry, ReleasePredicate};
use pillar_quorum::Count;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// "admit p5", "revoke p3: stolen".
pub fn title(action: &Action) -> String {
    match action {
        Action::Found(constitution) => format!("found {}", harmless(&constitution.cluster)),
        Action::Amend(constitution) => format!("constitution {}", constitution.version),
        Action::Admit { member, replaces: None } => format!("admit {}", member.name),
        Action::Admit { member, replaces: Some(_) } => {
            format!("admit {} in place of the member of that name", member.name)
        }
        Action::Revoke { name, reason, .. } => format!("revoke {name}: {}", harmless(reason)),
        Action::Run { committed, trial: None } => format!("run {}", release(committed)),
        Action::Run { committed, trial: Some(trial) } => {
            format!("run {}, with {} on trial", release(committed), release(trial))
        }
    }
}

fn release(release: &ReleasePredicate) -> String {
    format!("{} ({})", harmless(&release.version), harmless(&release.flavour))
}

/// The title, and below it what matters, one indented line each.
pub fn details(action: &Action, present: Option<&Constitution>) -> String {
    let mut out = format!("  {}\n", title(action));
    let lines = match action {
        Action::Found(next) | Action::Amend(next) => constitution(present, next),
        Action::Admit { member, replaces } => row(member, replaces.as_ref()),
        Action::Revoke { ek, .. } => vec![("EK", ek.to_string())],
        Action::Run { committed, trial } => {
            let one = |name, release: &ReleasePredicate| (name, format!("root hash {}", release.root_hash));
            std::iter::once(one("committed", committed))
                .chain(trial.as_deref().map(|r| one("trial", r)))
                .collect()
        }
    };
    for (label, words) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "    {label:<12} {}", harmless(&words));
    }
    out
}

/// A row. Keys by their SHA-256, as other tools name them.
fn row(member: &Member, replaces: Option<&Digest>) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("EK", sha256(&member.ek_public.0).to_string()),
        ("EK cert.", member.ek_certificate.to_string()),
        ("TPM maker", member.tpm_maker.map_or_else(|| "not known".to_owned(), |maker| maker.to_string())),
        ("AK", sha256(&member.ak_public.0).to_string()),
        ("TLS key", sha256(&member.tls_spki.0).to_string()),
    ];
    for (bank, firmware) in &member.firmware {
        let values: Vec<String> = firmware
            .pcrs
            .iter()
            .map(|(pcr, value)| format!("{pcr}={}…", &value.to_string()[..value.to_string().len().min(12)]))
            .collect();
        lines
            .push(("firmware", format!("{bank} PCR {}; {} events", values.join(" "), firmware.events.len())));
    }
    lines.push(("state", member.state_volume.clone()));
    let addresses =
        if member.addresses.is_empty() { "nowhere".to_owned() } else { member.addresses.join(", ") };
    lines.push(("called at", addresses));
    if let Some(ek) = replaces {
        let same = *ek == sha256(&member.ek_public.0);
        let which = if same { "the same TPM" } else { "ANOTHER TPM" };
        lines.push(("replaces", format!("EK {ek}: {which}")));
    }
    lines
}

/// A constitution, or what changes in it.
fn constitution(present: Option<&Constitution>, next: &Constitution) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let names =
        |operators: &[OperatorEntry]| operators.iter().map(|o| o.name.clone()).collect::<Vec<_>>().join(", ");
    let Some(present) = present else {
        lines.push(("operators", names(&next.operators)));
        lines.push(("threshold", next.threshold.to_string()));
        lines.push(("EK roots", roots(&next.ek_roots)));
        lines.push(("expires", format!("{} (seconds since 1970)", next.expires_unix_s)));
        return lines;
    };
    let (before, after) = (keys(present), keys(next));
    for operator in next.operators.iter().filter(|o| !before.contains(&(&o.name, o.key))) {
        lines.push(("+ operator", format!("{} {}", operator.name, operator.key)));
    }
    for operator in present.operators.iter().filter(|o| !after.contains(&(&o.name, o.key))) {
        lines.push(("- operator", format!("{} {}", operator.name, operator.key)));
    }
    if present.threshold != next.threshold {
        lines.push(("threshold", format!("{} → {}", present.threshold, next.threshold)));
    }
    for (label, old, new) in [
        ("EK roots", &present.ek_roots, &next.ek_roots),
        ("EK between", &present.ek_intermediates, &next.ek_intermediates),
        ("EKs allowed", &present.ek_allowed, &next.ek_allowed),
    ] {
        if old != new {
            lines.push((label, format!("{} → {}", roots(old), roots(new))));
        }
    }
    for range in next.denied_tpm_firmware.iter().filter(|r| !present.denied_tpm_firmware.contains(r)) {
        lines.push(("+ TPM denied", range.to_string()));
    }
    for range in present.denied_tpm_firmware.iter().filter(|r| !next.denied_tpm_firmware.contains(r)) {
        lines.push(("- TPM denied", range.to_string()));
    }
    for digest in next.dbx_required.iter().filter(|d| !present.dbx_required.contains(d)) {
        lines.push(("+ in dbx", digest.to_string()));
    }
    for digest in present.dbx_required.iter().filter(|d| !next.dbx_required.contains(d)) {
        lines.push(("- in dbx", digest.to_string()));
    }
    if present.expires_unix_s != next.expires_unix_s {
        lines.push((
            "expires",
            format!("{} → {} (seconds since 1970)", present.expires_unix_s, next.expires_unix_s),
        ));
    }
    if lines.is_empty() {
        lines.push(("changes", "nothing but the version".to_owned()));
    }
    lines
}

fn keys(constitution: &Constitution) -> BTreeSet<(&String, pillar_model::OperatorKey)> {
    constitution.operators.iter().map(|operator| (&operator.name, operator.key)).collect()
}

/// Certificates by the beginning of their SHA-256.
fn roots(all: &[Digest]) -> String {
    let short: Vec<String> = all.iter().map(|der| sha256(&der.0).to_string()[..12].to_owned()).collect();
    if short.is_empty() { "none".to_owned() } else { short.join(" ") }
}

/// Who signed, and who can sign still.
pub fn signatures(proposal: &Proposal) -> String {
    let mut out = String::new();
    for count in proposal.tally.counts() {
        let _ = writeln!(out, "{}", counted(count));
    }
    out
}

fn counted(count: &Count) -> String {
    let by =
        if count.signed_by.is_empty() { String::new() } else { format!(" ({})", count.signed_by.join(", ")) };
    let have = format!("{} of {} signatures{by}", count.have(), count.needed);
    if count.enough() {
        return format!("{have}: enough by constitution {}", count.constitution);
    }
    let missing = count.needed - count.have();
    format!("{have}: {missing} more of {} by constitution {}", count.missing.join(", "), count.constitution)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillar_model::OperatorKey;

    fn of(version: u64, names: &[(&str, u8)]) -> Constitution {
        Constitution {
            version,
            cluster: "lab".to_owned(),
            operators: names
                .iter()
                .map(|(name, key)| OperatorEntry { name: (*name).to_owned(), key: OperatorKey([*key; 32]) })
                .collect(),
            threshold: 2,
            ek_roots: vec![Digest(vec![1])],
            ek_intermediates: Vec::new(),
            ek_allowed: Vec::new(),
            denied_tpm_firmware: Vec::new(),
            dbx_required: Vec::new(),
            expires_unix_s: 2_000_000_000,
        }
    }

    #[test]
    fn an_amendment_is_shown_by_what_it_changes() {
        let present = of(1, &[("a", 1), ("b", 2), ("c", 3)]);
        let mut next = of(2, &[("a", 1), ("b", 9), ("c", 3), ("d", 4)]);
        next.threshold = 3;
        next.ek_roots.clear();
        let text = details(&Action::Amend(Box::new(next)), Some(&present));
        for want in [
            "  constitution 2\n".to_owned(),
            format!("    + operator   b {}\n", "09".repeat(32)),
            format!("    + operator   d {}\n", "04".repeat(32)),
            format!("    - operator   b {}\n", "02".repeat(32)),
            "    threshold    2 → 3\n".to_owned(),
            "    EK roots     4bf5122f3445 → none\n".to_owned(),
        ] {
            assert!(text.contains(&want), "{want} in {text}");
        }
        let same = details(&Action::Amend(Box::new(of(2, &[("a", 1), ("b", 2), ("c", 3)]))), Some(&present));
        assert!(same.contains("changes      nothing but the version"), "{same}");
    }

    // attack: B2
    #[test]
    fn another_tpm_under_a_known_name_cannot_be_overlooked() {
        let member = Member {
            name: "p3".parse().expect("a name"),
            ek_public: Digest(vec![1; 90]),
            ek_certificate: Digest(vec![2; 32]),
            tpm_maker: None,
            ak_public: Digest(vec![3; 90]),
            tls_spki: Digest(vec![4; 91]),
            firmware: std::collections::BTreeMap::new(),
            state_volume: "open\x1b[2J".to_owned(),
            addresses: Vec::new(),
        };
        let admit = |ek| Action::Admit { member: Box::new(member.clone()), replaces: Some(ek) };
        let text = details(&admit(Digest(vec![7; 32])), None);
        assert!(text.contains("in place of the member") && text.contains(": ANOTHER TPM"), "{text}");
        assert!(!text.contains('\x1b'), "{text:?}");
        assert!(details(&admit(sha256(&[1; 90])), None).contains(": the same TPM"));
    }

    #[test]
    fn counts_say_who_is_missing() {
        let mut count = Count {
            constitution: 1,
            signed_by: vec!["a".to_owned()],
            missing: vec!["b".to_owned(), "c".to_owned()],
            needed: 2,
        };
        assert_eq!(counted(&count), "1 of 2 signatures (a): 1 more of b, c by constitution 1");
        count.signed_by.push("b".to_owned());
        assert_eq!(counted(&count), "2 of 2 signatures (a, b): enough by constitution 1");
    }
}
