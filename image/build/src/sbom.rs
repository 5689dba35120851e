//! The bill of materials (CycloneDX 1.6): the Debian packages whose files are in the image and the crates that the
//! programs are compiled from, with their licences.

use crate::digest;
use crate::workshop::Workshop;
use cargo_metadata::{DependencyKind, Metadata, PackageId};
use pillar_model::PackageRef;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};

/// The file's name in `out/`.
pub const FILE: &str = "sbom.json";

/// A crate that was compiled in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SPDX expression.
    pub licence: Option<String>,
    /// Where it is from.
    pub origin: Origin,
}

/// Who published a crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// This workspace.
    Ours,
    /// A registry.
    Registry,
    /// The compiler or the C library that it links against.
    Toolchain,
}

/// Everything that the given packages of the workspace link in: normal dependencies, followed to the end.
#[must_use]
pub fn crates(metadata: &Metadata, programs: &[&str]) -> BTreeSet<Crate> {
    let Some(resolve) = &metadata.resolve else { return BTreeSet::new() };
    let nodes: HashMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut todo: Vec<&PackageId> = metadata
        .workspace_packages()
        .into_iter()
        .filter(|p| programs.contains(&p.name.as_str()))
        .map(|p| &p.id)
        .collect();
    let mut seen: BTreeSet<&PackageId> = todo.iter().copied().collect();
    while let Some(id) = todo.pop() {
        let Some(node) = nodes.get(id) else { continue };
        for dependency in &node.deps {
            let linked = dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            if linked && seen.insert(&dependency.pkg) {
                todo.push(&dependency.pkg);
            }
        }
    }
    seen.into_iter()
        .map(|id| &metadata[id])
        .map(|package| Crate {
            name: package.name.to_string(),
            version: package.version.to_string(),
            licence: package.license.clone().map(|text| text.replace('/', " OR ")),
            origin: if package.source.is_none() { Origin::Ours } else { Origin::Registry },
        })
        .collect()
}

/// What the bill is about.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Image version.
    pub version: &'a str,
    /// Flavour.
    pub flavour: &'a str,
    /// Root hash, hexadecimal.
    pub root_hash: &'a str,
}

/// The document.
#[must_use]
pub fn document(
    subject: &Subject<'_>,
    packages: &[PackageRef],
    workshop: &Workshop,
    crates: &BTreeSet<Crate>,
) -> Value {
    let mut components: Vec<Value> =
        packages.iter().map(|package| debian(package, &workshop.licences(&package.name))).collect();
    components.extend(crates.iter().map(cargo));
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", digest::guid(subject.root_hash, "sbom")),
        "version": 1,
        "metadata": {
            "component": {
                "type": "operating-system",
                "bom-ref": "pillar",
                "name": format!("pillar-{}", subject.flavour),
                "version": subject.version,
                "properties": [{ "name": "pillar:root-hash", "value": subject.root_hash }],
            },
        },
        "components": components,
    })
}

fn debian(package: &PackageRef, licences: &[String]) -> Value {
    let PackageRef { name, version, architecture } = package;
    // In a package URL, `+` and `:` of a version are escaped; `~` and `.` are not.
    let escaped = version.replace('+', "%2B").replace(':', "%3A");
    let purl = format!("pkg:deb/debian/{name}@{escaped}?arch={architecture}&distro=trixie");
    let mut component =
        json!({ "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl });
    if !licences.is_empty() {
        component["licenses"] = licences.iter().map(|l| json!({ "license": { "name": l } })).collect();
    }
    component
}

fn cargo(found: &Crate) -> Value {
    let version = found.version.replace('+', "%2B");
    let purl = match found.origin {
        Origin::Ours | Origin::Registry => format!("pkg:cargo/{}@{version}", found.name),
        Origin::Toolchain => format!("pkg:generic/{}@{version}", found.name),
    };
    let mut component =
        json!({ "type": "library", "bom-ref": purl, "name": found.name, "version": found.version });
    if found.origin != Origin::Ours {
        component["purl"] = json!(purl);
    }
    if let Some(expression) = &found.licence {
        component["licenses"] = json!([{ "expression": expression }]);
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debian_package_has_a_package_url_and_its_licences() {
        let package = PackageRef {
            name: "libc6".to_owned(),
            version: "2.41-12+deb13u4".to_owned(),
            architecture: "amd64".to_owned(),
        };
        let component = debian(&package, &["LGPL-2.1+".to_owned()]);
        assert_eq!(component["purl"], "pkg:deb/debian/libc6@2.41-12%2Bdeb13u4?arch=amd64&distro=trixie");
        assert_eq!(component["licenses"][0]["license"]["name"], "LGPL-2.1+");
    }

    #[test]
    fn crates_of_the_workspace_have_no_registry_address() {
        let found = Crate {
            name: "pillar-init".to_owned(),
            version: "0.1.0".to_owned(),
            licence: None,
            origin: Origin::Ours,
        };
        assert!(cargo(&found).get("purl").is_none());
    }

    #[test]
    fn the_toolchain_is_no_crate() {
        let found = Crate {
            name: "rust-std".to_owned(),
            version: "1.95.0".to_owned(),
            licence: None,
            origin: Origin::Toolchain,
        };
        assert_eq!(cargo(&found)["purl"], "pkg:generic/rust-std@1.95.0");
    }

    #[test]
    fn this_workspace_can_be_described() {
        let metadata = cargo_metadata::MetadataCommand::new().exec().expect("cargo works");
        let found = crates(&metadata, &["pillar-image"]);
        assert!(
            found.iter().any(|c| c.name == "serde" && c.origin == Origin::Registry && c.licence.is_some())
        );
        assert!(!found.iter().any(|c| c.name == "tempfile" && c.origin == Origin::Ours));
    }
}
