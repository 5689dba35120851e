//! `pillar eventlog`: any firmware's event log, replayed and shown. Nothing is proved by it.

use crate::cli::{Form, Output};
use crate::failure::{Failure, Kind, Outcome};
use pillar_measure::tcg::{EventLog, LOG_MAX_BYTES};
use pillar_measure::view::View;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const STANDARD_INPUT: &str = "-";
const HINT: &str =
    "the kernel shows the log as it is in /sys/kernel/security/tpm0/binary_bios_measurements; copy it whole";

/// Reads, replays, shows.
pub fn run(path: &Path, form: Form) -> Outcome<String> {
    let bytes = read(path)?;
    let log = EventLog::parse(&bytes).map_err(|error| {
        Failure::because(format!("{} is not a well-formed event log", name(path)), &error)
            .kind(Kind::Refused)
            .hint(HINT)
    })?;
    let view = View::new(&log);
    match form.output {
        Output::Text => Ok(view.to_string()),
        Output::Json => serde_json::to_string_pretty(&view)
            .map(|text| text + "\n")
            .map_err(|error| Failure::because("cannot write JSON", &error)),
    }
}

fn name(path: &Path) -> String {
    if path == Path::new(STANDARD_INPUT) { "standard input".to_owned() } else { path.display().to_string() }
}

/// A file's bytes, or standard input's for `-`; one byte over the limit is enough to see that it is over.
fn read(path: &Path) -> Outcome<Vec<u8>> {
    let cannot = |error| Failure::because(format!("cannot read {}", name(path)), &error);
    let source: Box<dyn Read> = if path == Path::new(STANDARD_INPUT) {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(cannot)?)
    };
    let mut bytes = Vec::new();
    source.take(LOG_MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    Ok(bytes)
}
