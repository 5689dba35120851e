//! A decision that parts machines from each other is given to every one of them from here. By an amendment members may
//! come to deny each other, and who is denied hears of it from nobody; a revoked machine fetches nothing any more, and
//! would go on serving operators who are removed later.

use crate::chain::{self, Chain};
use crate::cli::Caller;
use crate::failure::{Failure, Outcome};
use crate::paint::harmless;
use crate::target::Place;
use crate::view::{self, Witness};
use pillar_quorum::Envelope;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long one machine may take; what it misses, its peers may still give to it.
const ANSWER: Duration = Duration::from_secs(10);

/// Who has a decision, and who does not, with the reason.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Spread {
    given: Vec<String>,
    lacking: Vec<(String, String)>,
}

impl Spread {
    /// Lines for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        if !self.given.is_empty() {
            let _ = writeln!(out, "{} {} it too", self.given.join(", "), have(self.given.len()));
        }
        for (name, why) in &self.lacking {
            let _ = writeln!(out, "{name} was not given it from here: {}", harmless(why));
        }
        out
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let lacking = self.lacking.iter().map(|(name, why)| json!({ "name": name, "reason": why }));
        json!({ "given": self.given, "lacking": lacking.collect::<Vec<_>>() })
    }
}

fn have(count: usize) -> &'static str {
    if count == 1 { "has" } else { "have" }
}

/// Gives these entries to all who were members before the last of them, at the same time. The witness has them.
pub async fn spread(witness: &Witness, chain: &Chain, envelopes: Vec<Envelope>, caller: &Caller) -> Spread {
    let envelopes: Arc<[Envelope]> = envelopes.into();
    let mut tasks = Vec::new();
    for name in chain.cluster.members().keys().map(|name| name.as_str().to_owned()) {
        if name == witness.view.said.own_name {
            continue;
        }
        let (asked, envelopes, caller) = (name.clone(), Arc::clone(&envelopes), caller.clone());
        tasks.push((name, tokio::spawn(async move { give(&asked, &envelopes, &caller).await })));
    }
    let mut spread = Spread::default();
    for (name, task) in tasks {
        match task.await.unwrap_or_else(|error| Err(Failure::because("cannot ask", &error))) {
            Ok(()) => spread.given.push(name),
            Err(failure) => spread.lacking.push((name, failure.words().to_owned())),
        }
    }
    spread
}

async fn give(name: &str, envelopes: &[Envelope], caller: &Caller) -> Outcome {
    let place = Place::named(name, &caller.run)?;
    let given = async {
        let mut machine = Witness::at(place, caller).await?;
        // A machine without a cluster is not made a member by its name.
        if !machine.view.said.founded {
            return Err(view::no_cluster(name));
        }
        chain::hand_over(&mut machine, envelopes).await
    };
    let late = || Failure::new(format!("it did not answer within {} s", ANSWER.as_secs()));
    timeout(ANSWER, given).await.unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lacks_a_decision_is_named_with_the_reason() {
        let spread = Spread {
            given: vec!["p2".to_owned(), "p3".to_owned()],
            lacking: vec![("p4".to_owned(), "p4 does not run".to_owned())],
        };
        assert_eq!(spread.text(), "p2, p3 have it too\np4 was not given it from here: p4 does not run\n");
        assert_eq!(spread.json()["lacking"][0]["reason"], "p4 does not run");
        assert_eq!(Spread::default().text(), "");
    }
}
