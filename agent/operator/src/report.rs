//! A judgement as it is printed: one line per check, then the verdict.

use crate::failure::Kind;
use crate::paint::{Mark, Paint, harmless};
use serde_json::{Value, json};
use std::fmt::Write;

/// One check and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// How.
    pub mark: Mark,
    /// What was checked, in a word or three.
    pub name: String,
    /// What was found.
    pub words: String,
}

/// The end of a judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every check passed.
    Verified {
        /// For example "0.1.0".
        version: String,
        /// For example "virt".
        flavour: String,
        /// Hexadecimal.
        root_hash: String,
    },
    /// Another pillar says that every check passed.
    Vouched {
        /// Which.
        by: String,
        /// For example "0.1.0".
        version: String,
    },
    /// One did not.
    Refused {
        /// The check.
        check: String,
        /// Why.
        reason: String,
        /// What to do.
        hint: String,
    },
}

impl Verdict {
    /// Before anything was judged: refused.
    fn none() -> Self {
        Verdict::Refused {
            check: "evidence".to_owned(),
            reason: "not judged".to_owned(),
            hint: String::new(),
        }
    }
}

/// A judgement of one machine's evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The machine's name, or its address.
    pub machine: String,
    /// In the order in which they were made.
    pub checks: Vec<Check>,
    /// The end.
    pub verdict: Verdict,
    /// The same as an attestation result for other programs (EAR), when we judged it ourselves.
    pub ear: Option<Value>,
    /// What a refusal is for the exit code.
    pub kind: Kind,
}

impl Report {
    /// A refusal before the verifier had anything to judge.
    pub fn refused(machine: String, check: &str, reason: &str, hint: &str) -> Self {
        let verdict = Verdict::none();
        let mut report = Report { machine, checks: Vec::new(), verdict, ear: None, kind: Kind::Refused };
        report.refuse(Verdict::Refused {
            check: check.to_owned(),
            reason: reason.to_owned(),
            hint: hint.to_owned(),
        });
        report
    }

    /// What the verifier said. `learnt` marks the firmware's values as taken over, not compared.
    pub fn from_verifier(
        machine: &str,
        steps: &pillar_verify::Report,
        result: &Result<pillar_verify::Verified, pillar_verify::Rejection>,
        learnt: bool,
    ) -> Self {
        let check = |step: &pillar_verify::CheckResult| {
            let mark = match step.verdict {
                pillar_verify::Verdict::Passed if learnt && step.check == pillar_verify::Check::Firmware => {
                    Mark::Note
                }
                pillar_verify::Verdict::Passed => Mark::Pass,
                pillar_verify::Verdict::Failed => Mark::Fail,
                pillar_verify::Verdict::NotReached => Mark::Skip,
            };
            let words = if mark == Mark::Skip { "not reached".to_owned() } else { step.words.clone() };
            Check { mark, name: step.name.to_owned(), words }
        };
        let verdict = match result {
            Ok(verified) => Verdict::Verified {
                version: verified.version().to_owned(),
                flavour: verified.flavour().to_owned(),
                root_hash: verified.root_hash().to_string(),
            },
            Err(rejection) => Verdict::Refused {
                check: rejection.check.name().to_owned(),
                reason: rejection.reason.clone(),
                hint: rejection.hint.to_owned(),
            },
        };
        let checks = steps.checks.iter().map(check).collect();
        Self { machine: machine.to_owned(), checks, verdict, ear: None, kind: Kind::Refused }
    }

    /// What a member of the cluster says about another one.
    pub fn from_peer(by: &str, said: &pillar_wire::proto::Peer) -> Self {
        let check = |line: &pillar_wire::proto::CheckLine| {
            let mark = match line.verdict.as_str() {
                "passed" => Mark::Pass,
                "failed" => Mark::Fail,
                _ => Mark::Skip,
            };
            let words = if mark == Mark::Skip { "not reached".to_owned() } else { line.words.clone() };
            Check { mark, name: line.name.clone(), words }
        };
        let verdict = if said.verified && said.state != "untrusted" {
            Verdict::Vouched { by: by.to_owned(), version: said.version.clone() }
        } else {
            let (check, reason, hint) = (said.check.clone(), said.reason.clone(), said.hint.clone());
            Verdict::Refused { check, reason, hint }
        };
        let checks = said.checks.iter().map(check).collect();
        Self { machine: said.name.clone(), checks, verdict, ear: None, kind: Kind::Refused }
    }

    /// Replaces a refusal's hint.
    pub fn advise(&mut self, words: &str) {
        if let Verdict::Refused { hint, .. } = &mut self.verdict {
            words.clone_into(hint);
        }
    }

    /// Turns it into a refusal, with the failed check as its last line.
    pub fn refuse(&mut self, verdict: Verdict) {
        if let Verdict::Refused { check, reason, .. } = &verdict {
            self.checks.push(Check { mark: Mark::Fail, name: check.clone(), words: reason.clone() });
        }
        self.verdict = verdict;
    }

    /// The failed check and its reason, when there is one.
    pub fn refusal(&self) -> Option<String> {
        match &self.verdict {
            Verdict::Refused { check, reason, .. } => Some(format!("{check}: {reason}")),
            Verdict::Verified { .. } | Verdict::Vouched { .. } => None,
        }
    }

    /// True only for [`Verdict::Verified`] and [`Verdict::Vouched`].
    pub fn is_verified(&self) -> bool {
        matches!(self.verdict, Verdict::Verified { .. } | Verdict::Vouched { .. })
    }

    /// For the exit code: none when verified.
    pub fn failed(&self) -> Option<Kind> {
        if self.is_verified() { None } else { Some(self.kind) }
    }

    /// For people.
    pub fn text(&self, paint: Paint) -> String {
        let width = self.checks.iter().map(|c| c.name.chars().count()).max().unwrap_or_default();
        let mut out = String::new();
        for Check { mark, name, words } in &self.checks {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{} {:<width$}  {}", paint.mark(*mark), harmless(name), harmless(words));
        }
        out.push('\n');
        let machine = harmless(&self.machine);
        let _ = match &self.verdict {
            Verdict::Verified { version, flavour, root_hash } => writeln!(
                out,
                "{} {machine} runs pillar {} ({}), root hash {root_hash}",
                paint.good("verified:"),
                harmless(version),
                harmless(flavour)
            ),
            Verdict::Vouched { by, version } => writeln!(
                out,
                "{} {machine} runs pillar {}",
                paint.good(&format!("verified by {}:", harmless(by))),
                harmless(version)
            ),
            Verdict::Refused { check, reason, hint } => writeln!(
                out,
                "{} {machine}: {}: {}\n  hint: {}",
                paint.bad("refused:"),
                harmless(check),
                harmless(reason),
                harmless(hint)
            ),
        };
        out
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|Check { mark, name, words }| {
                let verdict = match mark {
                    Mark::Pass => "pass",
                    Mark::Fail => "fail",
                    Mark::Note => "note",
                    Mark::Skip => "skip",
                };
                json!({ "check": name, "verdict": verdict, "words": words })
            })
            .collect();
        let mut value = json!({ "machine": self.machine, "verified": self.is_verified(), "checks": checks });
        match &self.verdict {
            Verdict::Verified { version, flavour, root_hash } => {
                value["release"] = json!({ "version": version, "flavour": flavour, "root_hash": root_hash });
            }
            Verdict::Vouched { by, version } => {
                value["release"] = json!({ "version": version });
                value["by"] = json!(by);
            }
            Verdict::Refused { check, reason, hint } => {
                value["refused"] = json!({ "check": check, "reason": reason, "hint": hint });
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdict: Verdict) -> Report {
        let check =
            |mark, name: &str, words: &str| Check { mark, name: name.to_owned(), words: words.to_owned() };
        Report {
            machine: "p1".to_owned(),
            checks: vec![
                check(Mark::Pass, "signature", "ECDSA P-256 by the AK"),
                check(Mark::Note, "PCR 0", "learnt"),
                check(Mark::Fail, "PCR 11", "phase \x1b[2Jready"),
            ],
            verdict,
            ear: None,
            kind: Kind::Refused,
        }
    }

    #[test]
    fn what_another_pillar_found_is_said_in_its_name() {
        let line = |name: &str, verdict: &str| pillar_wire::proto::CheckLine {
            name: name.to_owned(),
            verdict: verdict.to_owned(),
            words: "words".to_owned(),
        };
        let mut peer = crate::view::tests::peer("p2", "up");
        peer.checks = vec![line("sizes", "passed"), line("replay", "failed"), line("release", "not reached")];
        let report = Report::from_peer("p1", &peer);
        let text = report.text(Paint::PLAIN);
        assert!(
            text.ends_with("-    release  not reached\n\nverified by p1: p2 runs pillar 0.1.0\n"),
            "{text}"
        );
        assert_eq!((report.failed(), &report.json()["by"]), (None, &json!("p1")));
        // Who is untrusted is so even while an older verdict lives.
        peer.state = "untrusted".to_owned();
        peer.reason = "the TPM was reset".to_owned();
        peer.check = "counters".to_owned();
        let report = Report::from_peer("p1", &peer);
        assert_eq!(report.refusal().as_deref(), Some("counters: the TPM was reset"));
        assert_eq!(report.failed(), Some(Kind::Refused));
    }

    #[test]
    fn a_refusal_in_plain_text() {
        let refused = Verdict::Refused {
            check: "PCR 11".to_owned(),
            reason: "it is not the release's".to_owned(),
            hint: "build again".to_owned(),
        };
        let want = "\
ok   signature  ECDSA P-256 by the AK
note PCR 0      learnt
FAIL PCR 11     phase \u{fffd}[2Jready

refused: p1: PCR 11: it is not the release's
  hint: build again
";
        let report = report(refused);
        assert_eq!(report.text(Paint::PLAIN), want);
        let json = report.json();
        assert_eq!((&json["verified"], &json["refused"]["check"]), (&json!(false), &json!("PCR 11")));
        assert_eq!(
            json["checks"][2],
            json!({ "check": "PCR 11", "verdict": "fail", "words": "phase \x1b[2Jready" })
        );
    }

    #[test]
    fn a_success_on_a_terminal() {
        let verdict = Verdict::Verified {
            version: "0.1.0".to_owned(),
            flavour: "virt".to_owned(),
            root_hash: "ab".repeat(32),
        };
        let text = report(verdict.clone()).text(Paint::RICH);
        assert!(text.starts_with("\x1b[32m✓\x1b[0m signature  ECDSA"), "{text}");
        assert!(text.ends_with(&format!(
            "\x1b[32mverified:\x1b[0m p1 runs pillar 0.1.0 (virt), root hash {}\n",
            "ab".repeat(32)
        )));
        assert_eq!(report(verdict).json()["verified"], json!(true));
    }
}
