//! `pillar logs`: a pillar's kernel log with the records of init, agent and workload.

use crate::cli::{Form, Output, Target};
use crate::failure::{Failure, Outcome};
use crate::paint::{Paint, harmless};
use crate::session::{call, connect, denied};
use crate::target::Place;
use pillar_wire::proto::{LogRecord, LogsRequest};
use serde_json::json;
use std::io::{self, Write};

/// Prints records as they come.
pub async fn run(target: &Target, tail: u32, follow: bool, form: Form) -> Outcome {
    let place = Place::find(target)?;
    let mut connected = connect(&place, &target.caller).await?;
    let mut records = call("give its log", connected.client.logs(LogsRequest { tail, follow })).await?;
    let paint = Paint::for_stdout();
    let mut out = io::stdout().lock();
    while let Some(record) =
        records.message().await.map_err(|status| denied("go on with its log", &status))?
    {
        let line = match form.output {
            Output::Text => text(&record, paint),
            Output::Json => json_line(&record),
        };
        match writeln!(out, "{line}").and_then(|()| out.flush()) {
            // The reader has seen enough (`pillar logs | head`).
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            done => done.map_err(|error| Failure::because("cannot print", &error))?,
        }
    }
    Ok(())
}

fn text(record: &LogRecord, paint: Paint) -> String {
    let at = format!("[{:>5}.{:06}]", record.at_us / 1_000_000, record.at_us % 1_000_000);
    let words = harmless(&record.text);
    let words = match record.level {
        // Emergency to error, then warning (syslog severities, RFC 5424 section 6.2.1).
        0..=3 => paint.bad(&words),
        4 => paint.warn(&words),
        7.. => paint.dim(&words),
        _ => words,
    };
    format!("{} {words}", paint.dim(&at))
}

fn json_line(record: &LogRecord) -> String {
    json!({ "sequence": record.sequence, "at_us": record.at_us, "level": record.level, "text": record.text })
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_one_harmless_line_each() {
        let record = LogRecord {
            sequence: 7,
            at_us: 12_000_345,
            level: 3,
            text: "pillar-init: a\nb\x1b[0m".to_owned(),
        };
        assert_eq!(text(&record, Paint::PLAIN), "[   12.000345] pillar-init: a\u{fffd}b\u{fffd}[0m");
        let value: serde_json::Value = serde_json::from_str(&json_line(&record)).expect("JSON");
        assert_eq!(
            (value["level"].as_u64(), value["text"].as_str()),
            (Some(3), Some("pillar-init: a\nb\x1b[0m"))
        );
    }
}
