//! `provenance.json`: from which inputs, how and when the files of a release were made, as an in-toto Statement v1 with
//! SLSA's provenance predicate v1 (<https://slsa.dev/spec/v1.0/provenance>). It is not signed yet: there is no key whose
//! holder could say "I built this" until builders have keys of their own.
//!
//! Invariant: everything outside [`RUNS_OWN`] is the same for every build of the same inputs.

use crate::error::{Error, file};
use crate::host::HostInputs;
use crate::{digest, release};
use cargo_metadata::{DependencyKind, Metadata, PackageId};
use pillar_tools::lock::Lock;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The file's name in `out/`.
pub const FILE: &str = "provenance.json";

/// What a run says of itself under `runDetails`: when it was.
pub const RUNS_OWN: [&str; 1] = ["metadata"];

const PREDICATE: &str = "https://slsa.dev/provenance/v1";

/// How such a build is done: the meaning of the external parameters. ARCHITECTURE.md, "The image".
const BUILD_TYPE: &str = "urn:pillar:build:sealed-image:v1";

/// Whoever runs `./just image` on a machine of their own. Builders with identities come with builders that have keys.
const BUILDER: &str = "urn:pillar:builder:local";

/// The state of the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The commit, where there is git.
    pub commit: Option<String>,
    /// Whether files differ from it.
    pub changed: bool,
    /// Over names and content of every file that git has or would take.
    pub files: [u8; 32],
}

/// Looks at the sources.
pub fn source(project: &Path) -> Result<Source, Error> {
    let git = |words: &[&str]| {
        let output = Command::new("git").arg("-C").arg(project).args(words).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let listed = git(&["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).unwrap_or_default();
    let names: BTreeSet<&str> = listed.split_terminator('\0').collect();
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for name in names {
        let path = project.join(name);
        if path.is_file() {
            parts.push(name.as_bytes().to_vec());
            parts.push(digest::file(&path).map_err(file("read", &path))?.to_vec());
        }
    }
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    Ok(Source {
        commit: git(&["rev-parse", "HEAD"]).map(|text| text.trim().to_owned()),
        changed: git(&["status", "--porcelain"]).is_none_or(|text| !text.is_empty()),
        files: digest::of(&parts),
    })
}

/// What a person chose.
#[derive(Debug)]
pub struct Parameters<'a> {
    /// Flavour.
    pub flavour: &'a str,
    /// The workload's name.
    pub workload: &'a str,
    /// Digest over the workload's files.
    pub workload_files: [u8; 32],
    /// Image version.
    pub version: &'a str,
    /// Security epoch.
    pub security_epoch: u64,
    /// Seconds since 1970 for everything that carries a time.
    pub source_date_epoch: u64,
}

/// What a build was made from.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The sources.
    pub source: &'a Source,
    /// The Debian packages of the image's tree.
    pub packages: &'a Lock,
    /// Those of the tools.
    pub tools: &'a Lock,
    /// Cargo.lock's text.
    pub cargo_lock: &'a str,
    /// The workspace.
    pub metadata: &'a Metadata,
    /// The programs that were compiled.
    pub programs: &'a [&'a str],
    /// The host.
    pub host: &'a HostInputs,
}

/// When a build began and ended.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Began.
    pub started: SystemTime,
    /// Ended.
    pub finished: SystemTime,
}

/// Makes the statement about files (name, place).
pub fn statement(
    parameters: &Parameters<'_>,
    inputs: &Inputs<'_>,
    files: &[(String, PathBuf)],
    times: Times,
) -> Result<Value, Error> {
    let mut subject = Vec::new();
    for (name, path) in files {
        let digest = hex::encode(digest::file(path).map_err(file("read", path))?);
        subject.push(json!({ "name": name, "digest": { "sha256": digest } }));
    }
    let (started, finished) = (rfc3339(times.started), rfc3339(times.finished));
    Ok(json!({
        "_type": release::STATEMENT_TYPE,
        "subject": subject,
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "flavour": parameters.flavour,
                    "workload": parameters.workload,
                    "workloadSha256": hex::encode(parameters.workload_files),
                    "version": parameters.version,
                    "securityEpoch": parameters.security_epoch,
                    "sourceDateEpoch": parameters.source_date_epoch,
                },
                "internalParameters": { "programs": inputs.programs },
                "resolvedDependencies": dependencies(inputs)?,
            },
            "runDetails": {
                "builder": { "id": BUILDER, "version": { "pillar-image": env!("CARGO_PKG_VERSION") } },
                "metadata": {
                    "invocationId": format!("{started} {}", std::process::id()),
                    "startedOn": started,
                    "finishedOn": finished,
                },
            },
        },
    }))
}

fn dependencies(inputs: &Inputs<'_>) -> Result<Vec<Value>, Error> {
    let mut found = vec![json!({
        "name": "source files",
        "uri": "urn:pillar:source-files",
        "digest": { "sha256": hex::encode(inputs.source.files) },
        "annotations": { "changedSinceCommit": inputs.source.changed },
    })];
    if let Some(commit) = &inputs.source.commit {
        found
            .push(json!({ "name": "source", "uri": "urn:pillar:source", "digest": { "gitCommit": commit } }));
    }
    for (lock, used) in [(inputs.packages, "image"), (inputs.tools, "tools")] {
        found.extend(lock.all().map(|package| {
            json!({
                "name": package.file_name(),
                "uri": package.purl(),
                "digest": { "sha256": package.sha256.to_string() },
                "annotations": { "usedFor": used },
            })
        }));
    }
    let checksums = checksums(inputs.cargo_lock)?;
    found.extend(compiled(inputs.metadata, inputs.programs).into_iter().filter_map(|(name, version)| {
        let checksum = checksums.get(&(name.clone(), version.clone()))?;
        Some(json!({
            "name": format!("{name}-{version}.crate"),
            "uri": format!("pkg:cargo/{name}@{}", version.replace('+', "%2B")),
            "digest": { "sha256": checksum },
        }))
    }));
    for (name, input) in inputs.host {
        let mut entry = json!({ "name": name, "uri": format!("urn:pillar:host:{name}") });
        if let Some(version) = &input.version {
            entry["annotations"] = json!({ "version": version });
        }
        let digests = [("sha256", &input.sha256), ("gitCommit", &input.git_commit)];
        for (algorithm, digest) in digests.into_iter().filter_map(|(a, d)| Some((a, d.as_ref()?))) {
            entry["digest"][algorithm] = json!(digest);
        }
        found.push(entry);
    }
    Ok(found)
}

/// Name and version to checksum, for every crate of a registry.
fn checksums(cargo_lock: &str) -> Result<BTreeMap<(String, String), String>, Error> {
    #[derive(Deserialize)]
    struct File {
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let file: File = toml::from_str(cargo_lock)
        .map_err(|e| Error::Output { program: "Cargo.lock", problem: e.to_string() })?;
    Ok(file.package.into_iter().filter_map(|p| Some(((p.name, p.version), p.checksum?))).collect())
}

/// Every package that is compiled to make these programs, build scripts and macros too.
fn compiled(metadata: &Metadata, programs: &[&str]) -> BTreeSet<(String, String)> {
    let Some(resolve) = &metadata.resolve else { return BTreeSet::new() };
    let nodes: HashMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let roots = metadata.workspace_packages().into_iter().filter(|p| programs.contains(&p.name.as_str()));
    let mut todo: Vec<&PackageId> = roots.map(|p| &p.id).collect();
    let mut seen: BTreeSet<&PackageId> = todo.iter().copied().collect();
    while let Some(id) = todo.pop() {
        for dependency in nodes.get(id).map(|node| &node.deps).into_iter().flatten() {
            let used = dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development);
            if used && seen.insert(&dependency.pkg) {
                todo.push(&dependency.pkg);
            }
        }
    }
    seen.into_iter().map(|id| &metadata[id]).map(|p| (p.name.to_string(), p.version.to_string())).collect()
}

/// A digest over the files of a folder, names and content.
pub fn folder_digest(folder: &Path) -> Result<[u8; 32], Error> {
    fn walk(folder: &Path, below: &str, found: &mut BTreeMap<String, PathBuf>) -> std::io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = format!("{below}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                walk(&entry.path(), &name, found)?;
            } else {
                found.insert(name, entry.path());
            }
        }
        Ok(())
    }
    let mut found = BTreeMap::new();
    walk(folder, "", &mut found).map_err(file("read", folder))?;
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for (name, path) in found {
        parts.push(name.into_bytes());
        parts.push(digest::file(&path).map_err(file("read", &path))?.to_vec());
    }
    Ok(digest::of(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

/// A time as RFC 3339 has it, in UTC, to the second.
fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time).truncate_to_second();
    // Only years beyond 9999 cannot be written.
    time.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_standard_has_them() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(951_782_400_700);
        assert_eq!(rfc3339(time), "2000-02-29T00:00:00Z");
    }

    #[test]
    fn what_is_compiled_has_a_checksum_or_is_ours() {
        let metadata = cargo_metadata::MetadataCommand::new().exec().expect("cargo works");
        let root = metadata.workspace_root.as_std_path();
        let text = fs::read_to_string(root.join("Cargo.lock")).expect("there");
        let checksums = checksums(&text).expect("cargo's own");
        let compiled = compiled(&metadata, &["pillar-agent"]);
        assert!(compiled.iter().any(|(name, _)| name == "serde_derive"), "macros are among them");
        for (name, version) in compiled {
            let known = checksums.contains_key(&(name.clone(), version));
            assert_eq!(known, !name.starts_with("pillar"), "{name}");
        }
    }

    #[test]
    fn sources_are_told_apart() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let before = source(dir.path()).expect("readable");
        assert_eq!((before.commit, before.changed), (None, true));
        fs::write(dir.path().join("a"), "1").expect("new");
        let one = folder_digest(dir.path()).expect("readable");
        fs::write(dir.path().join("a"), "2").expect("new");
        assert_ne!(folder_digest(dir.path()).expect("readable"), one);
    }
}
