//! `pillar.toml` to [`Workload`]: strict, and every refusal names the key, what was found and what is allowed.
//!
//! The text is read into forms whose numbers are plain `i64` first, so that a number out of range is refused in our
//! words and not in the parser's.

use crate::{Check, Health, Limits, OneCheck, Workload, one_check};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// What `pillar.toml` may hold. Each bound keeps a typing mistake from becoming a machine that never gets healthy.
pub mod limit {
    use std::ops::RangeInclusive;

    /// Bytes of `pillar.toml`.
    pub const FILE_BYTES: usize = 64 * 1024;
    /// Words in one command.
    pub const ARGUMENTS: usize = 64;
    /// Bytes of one word, path or value; the kernel's own limit for one argument is 128 KiB.
    pub const STRING_BYTES: usize = 4096;
    /// Environment variables.
    pub const ENVIRONMENT: usize = 128;
    /// TCP ports.
    pub const PORTS: usize = 64;
    /// Writable directories; each is a mount.
    pub const WRITABLE: usize = 16;
    /// `[[build]]` tables.
    pub const BUILDS: usize = 16;
    /// `health.interval_ms`: a tenth of a second to an hour.
    pub const INTERVAL_MS: RangeInclusive<i64> = 100..=3_600_000;
    /// `health.timeout_ms`: up to a minute.
    pub const TIMEOUT_MS: RangeInclusive<i64> = 10..=60_000;
    /// `health.failures`.
    pub const FAILURES: RangeInclusive<i64> = 1..=100;
    /// `limits.memory_mib`: 4 MiB to 1 TiB.
    pub const MEMORY_MIB: RangeInclusive<i64> = 4..=1_048_576;
    /// `limits.processes`.
    pub const PROCESSES: RangeInclusive<i64> = 1..=32_768;
    /// `limits.cpu_percent`: 0 is no limit, 100 is one CPU.
    pub const CPU_PERCENT: RangeInclusive<i64> = 0..=102_400;
    /// `limits.open_files`.
    pub const OPEN_FILES: RangeInclusive<i64> = 16..=1_048_576;
}

/// What of the sealed root no writable directory may cover: it would hide or replace something that is verified or
/// that the kernel or init own.
const SEALED: [&str; 15] = [
    "/usr", "/etc", "/proc", "/sys", "/dev", "/run", "/boot", "/efi", "/bin", "/sbin", "/lib", "/lib32",
    "/lib64", "/sysroot", "/init",
];

/// A cargo package that is built with the image and becomes part of the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Package of this workspace; its one program is taken.
    pub package: String,
    /// Where the program goes: a path inside the workload's directory.
    pub to: String,
}

/// Why a `pillar.toml` is refused. The caller knows the file's path and says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Larger than [`limit::FILE_BYTES`].
    #[error("has {found} bytes, allowed are {}", limit::FILE_BYTES)]
    TooLarge {
        /// Bytes.
        found: usize,
    },
    /// Not TOML, or not our keys and types.
    #[error("line {line}: `{text}`: {problem}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// The line.
        text: String,
        /// What the parser says.
        problem: String,
    },
    /// A key's value is none that we take.
    #[error("`{key}` is {found}: {allowed}")]
    Value {
        /// Dotted key, for example "limits.memory_mib" or "ports[1]".
        key: String,
        /// What was there, shortened.
        found: String,
        /// What may be there.
        allowed: String,
    },
    /// The health check is missing, or there are several.
    #[error("`[health]` needs exactly one check, found {found}: {}", CHECK_FORMS)]
    Check {
        /// How many.
        found: usize,
    },
}

const CHECK_FORMS: &str = "http = { port, path }, tcp = { port } or command = { argv } (init runs it to see whether the workload works)";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    name: String,
    command: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    health: HealthForm,
    #[serde(default)]
    ports: Vec<i64>,
    #[serde(default)]
    limits: LimitsForm,
    #[serde(default)]
    writable: Vec<String>,
    #[serde(default)]
    build: Vec<BuildForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HealthForm {
    http: Option<HttpForm>,
    tcp: Option<TcpForm>,
    command: Option<CommandForm>,
    interval_ms: Option<i64>,
    timeout_ms: Option<i64>,
    failures: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpForm {
    port: i64,
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TcpForm {
    port: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandForm {
    argv: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsForm {
    memory_mib: Option<i64>,
    processes: Option<i64>,
    cpu_percent: Option<i64>,
    open_files: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BuildForm {
    package: String,
    to: String,
}

/// Parses and checks the text of a `pillar.toml`.
pub fn parse(toml_text: &str) -> Result<(Workload, Vec<Build>), Error> {
    if toml_text.len() > limit::FILE_BYTES {
        return Err(Error::TooLarge { found: toml_text.len() });
    }
    let form: FileForm = toml::from_str(toml_text).map_err(|error| syntax(toml_text, &error))?;
    let workload = Workload {
        name: name(form.name)?,
        command: command("command", form.command)?,
        environment: environment(form.environment)?,
        health: health(form.health)?,
        ports: ports(&form.ports)?,
        limits: limits(&form.limits)?,
        writable: writable(form.writable)?,
    };
    Ok((workload, builds(form.build)?))
}

fn syntax(source: &str, error: &toml::de::Error) -> Error {
    let at = error.span().map_or(0, |span| span.start).min(source.len());
    let before = source.get(..at).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let text = source.lines().nth(line - 1).unwrap_or_default().trim();
    let problem = error.message().lines().collect::<Vec<_>>().join(", ");
    Error::Syntax { line, text: shorten(text), problem }
}

/// At most so many characters of what was found go into a message.
const SHOWN_CHARS: usize = 80;

fn shorten(text: &str) -> String {
    let clean: String =
        text.chars().map(|c| if c.is_control() { '?' } else { c }).take(SHOWN_CHARS).collect();
    if text.chars().count() > SHOWN_CHARS { clean + "…" } else { clean }
}

fn refuse<T>(key: &str, found: &str, allowed: &str) -> Result<T, Error> {
    Err(Error::Value { key: key.to_owned(), found: found.to_owned(), allowed: allowed.to_owned() })
}

fn refuse_text<T>(key: &str, found: &str, allowed: &str) -> Result<T, Error> {
    if found.is_empty() {
        refuse(key, "empty", allowed)
    } else {
        refuse(key, &format!("\"{}\"", shorten(found)), allowed)
    }
}

fn count(key: &str, found: usize, most: usize) -> Result<(), Error> {
    if found <= most {
        Ok(())
    } else {
        refuse(key, &format!("{found} entries long"), &format!("at most {most} are allowed"))
    }
}

fn within(key: &str, found: i64, allowed: &RangeInclusive<i64>) -> Result<u64, Error> {
    match u64::try_from(found) {
        Ok(number) if allowed.contains(&found) => Ok(number),
        _ => {
            refuse(key, &found.to_string(), &format!("allowed are {} to {}", allowed.start(), allowed.end()))
        }
    }
}

fn or_default(
    key: &str,
    found: Option<i64>,
    allowed: &RangeInclusive<i64>,
    default: u64,
) -> Result<u64, Error> {
    found.map_or(Ok(default), |found| within(key, found, allowed))
}

fn name(name: String) -> Result<String, Error> {
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=63).contains(&name.len())
        && name.chars().all(label)
        && !name.starts_with('-')
        && !name.ends_with('-')
    {
        return Ok(name);
    }
    refuse_text("name", &name, "it must be a host name label: 1 to 63 of a-z, 0-9 and -, no - at either end")
}

/// A string that may become an argument or a value: bounded, without NUL.
fn plain(key: &str, text: &str) -> Result<(), Error> {
    if text.len() > limit::STRING_BYTES {
        return refuse(
            key,
            &format!("{} bytes long", text.len()),
            &format!("at most {} are allowed", limit::STRING_BYTES),
        );
    }
    if text.contains('\0') { refuse_text(key, text, "it must not contain a NUL character") } else { Ok(()) }
}

/// True for "a/b": no empty, "." or ".." component.
fn normalised(relative: &str) -> bool {
    relative.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

fn command(key: &str, words: Vec<String>) -> Result<Vec<String>, Error> {
    let Some(program) = words.first() else {
        return refuse(
            key,
            "empty",
            "it must name a program, for example [\"bin/server\", \"--listen\", \"0.0.0.0:8080\"]",
        );
    };
    count(key, words.len(), limit::ARGUMENTS)?;
    for (i, word) in words.iter().enumerate() {
        plain(&format!("{key}[{i}]"), word)?;
    }
    if !normalised(program.strip_prefix('/').unwrap_or(program)) {
        return refuse_text(
            &format!("{key}[0]"),
            program,
            "it must be the program's path inside the workload's directory (or an absolute one), without empty, . or .. parts",
        );
    }
    Ok(words)
}

fn environment(variables: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Error> {
    count("environment", variables.len(), limit::ENVIRONMENT)?;
    for (variable, value) in &variables {
        let key = format!("environment.{}", shorten(variable));
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let digit_first = variable.starts_with(|c: char| c.is_ascii_digit());
        if !(1..=128).contains(&variable.len()) || digit_first || !variable.chars().all(word) {
            return refuse(
                &key,
                "not a variable's name",
                "a name is 1 to 128 of A-Z, a-z, 0-9 and _, no digit first",
            );
        }
        plain(&key, value)?;
    }
    Ok(variables)
}

fn port(key: &str, found: i64) -> Result<u16, Error> {
    match u16::try_from(found) {
        Ok(port) if port == pillar_layout::AGENT_PORT => {
            refuse(key, &found.to_string(), "that port is the agent's; take another one")
        }
        Ok(port) if port != 0 => Ok(port),
        _ => refuse(key, &found.to_string(), "allowed are 1 to 65535"),
    }
}

fn ports(found: &[i64]) -> Result<Vec<u16>, Error> {
    count("ports", found.len(), limit::PORTS)?;
    let mut seen = BTreeSet::new();
    let mut ports = Vec::with_capacity(found.len());
    for (i, &number) in found.iter().enumerate() {
        let key = format!("ports[{i}]");
        let port = port(&key, number)?;
        if !seen.insert(port) {
            return refuse(&key, &number.to_string(), "it is in the list already");
        }
        ports.push(port);
    }
    Ok(ports)
}

fn health(form: HealthForm) -> Result<Health, Error> {
    let http = form.http.map(|c| http_check(c.port, c.path)).transpose()?;
    let tcp =
        form.tcp.map(|c| port("health.tcp.port", c.port).map(|port| Check::Tcp { port })).transpose()?;
    let command = form.command.map(|c| command("health.command.argv", c.argv)).transpose()?;
    let check = one_check(http, tcp, command.map(|argv| Check::Command { argv }))
        .map_err(|OneCheck(found)| Error::Check { found })?;
    let failures =
        or_default("health.failures", form.failures, &limit::FAILURES, u64::from(crate::default_failures()))?;
    Ok(Health {
        check,
        interval_ms: or_default(
            "health.interval_ms",
            form.interval_ms,
            &limit::INTERVAL_MS,
            crate::default_interval_ms(),
        )?,
        timeout_ms: or_default(
            "health.timeout_ms",
            form.timeout_ms,
            &limit::TIMEOUT_MS,
            crate::default_timeout_ms(),
        )?,
        failures: u32::try_from(failures).unwrap_or(u32::MAX),
    })
}

fn http_check(number: i64, path: String) -> Result<Check, Error> {
    let port = port("health.http.port", number)?;
    // The path goes into a request line as it is: what could end the line or start a header is refused.
    if path.len() > 1024 || !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic()) {
        return refuse_text(
            "health.http.path",
            &path,
            "it must begin with / and be at most 1024 printable ASCII characters without spaces",
        );
    }
    Ok(Check::Http { port, path })
}

fn limits(form: &LimitsForm) -> Result<Limits, Error> {
    let d = Limits::default();
    Ok(Limits {
        memory_mib: or_default("limits.memory_mib", form.memory_mib, &limit::MEMORY_MIB, d.memory_mib)?,
        processes: or_default("limits.processes", form.processes, &limit::PROCESSES, d.processes)?,
        cpu_percent: or_default("limits.cpu_percent", form.cpu_percent, &limit::CPU_PERCENT, d.cpu_percent)?,
        open_files: or_default("limits.open_files", form.open_files, &limit::OPEN_FILES, d.open_files)?,
    })
}

/// True when `path` is `dir` or below it.
fn below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn writable(directories: Vec<String>) -> Result<Vec<String>, Error> {
    count("writable", directories.len(), limit::WRITABLE)?;
    for (i, directory) in directories.iter().enumerate() {
        let key = format!("writable[{i}]");
        plain(&key, directory)?;
        if !directory.strip_prefix('/').is_some_and(normalised) || directory.chars().any(char::is_whitespace)
        {
            return refuse_text(
                &key,
                directory,
                "it must be an absolute path without spaces and without empty, . or .. parts, for example \"/var/lib/hello\"",
            );
        }
        if let Some(sealed) = SEALED.iter().find(|sealed| below(directory, sealed)) {
            return refuse_text(
                &key,
                directory,
                &format!("{sealed} is not the workload's to write; take a path under /var, /srv or /tmp"),
            );
        }
        if let Some(other) =
            directories[..i].iter().find(|other| below(directory, other) || below(other, directory))
        {
            return refuse_text(
                &key,
                directory,
                &format!("it overlaps \"{other}\"; name each directory once"),
            );
        }
    }
    Ok(directories)
}

fn builds(forms: Vec<BuildForm>) -> Result<Vec<Build>, Error> {
    count("build", forms.len(), limit::BUILDS)?;
    let mut targets = BTreeSet::new();
    let mut builds = Vec::with_capacity(forms.len());
    for (i, BuildForm { package, to }) in forms.into_iter().enumerate() {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        // cargo gets the name as an argument, so that a leading dash would be an option.
        if !(1..=64).contains(&package.len()) || package.starts_with('-') || !package.chars().all(word) {
            let key = format!("build[{i}].package");
            return refuse_text(
                &key,
                &package,
                "it must be a cargo package's name: 1 to 64 of A-Z, a-z, 0-9, - and _",
            );
        }
        let key = format!("build[{i}].to");
        plain(&key, &to)?;
        if !normalised(&to) {
            return refuse_text(
                &key,
                &to,
                "it must be a path inside the workload's directory, without empty, . or .. parts",
            );
        }
        if !targets.insert(to.clone()) {
            return refuse_text(&key, &to, "another [[build]] goes there");
        }
        builds.push(Build { package, to });
    }
    Ok(builds)
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
