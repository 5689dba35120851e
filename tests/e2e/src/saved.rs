//! A look into saved evidence, without our own reader of it.

use anyhow::{Context, Result};
use ciborium::Value;

/// The firmware's event log in a file that `pillar evidence` wrote.
pub fn event_log(file: &[u8]) -> Result<Vec<u8>> {
    let value: Value = ciborium::from_reader(file)?;
    let evidence = field(&value, "evidence").context("no evidence in the file")?;
    let log =
        field(evidence, "event_log").and_then(Value::as_bytes).context("no event log in the evidence")?;
    Ok(log.clone())
}

fn field<'a>(map: &'a Value, name: &str) -> Option<&'a Value> {
    map.as_map()?.iter().find(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value)
}
