//! The bill of materials (CycloneDX 1.6): the Debian packages whose files are in the image and the crates that the
//! programs are compiled from, with their licences.

use crate::digest;
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

/// A file of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shipped {
    /// Its path in the sealed root; for what is in the UKI or on the ESP, the path that it was taken from.
    pub path: String,
    /// SHA-256, hexadecimal.
    pub sha256: String,
    /// Where it is.
    pub place: Place,
}

/// The parts of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The sealed root.
    Root,
    /// The UKI (kernel, stub) or the ESP (loader).
    Boot,
}

/// A Debian package of the image.
#[derive(Debug, Clone)]
pub struct Package {
    /// Name and version.
    pub package: PackageRef,
    /// Digest of the .deb.
    pub sha256: Option<String>,
    /// Licences.
    pub licences: Vec<String>,
    /// What of it is in the image.
    pub files: Vec<Shipped>,
}

/// A program of ours, or of the workload, that was compiled for the image.
#[derive(Debug, Clone)]
pub struct Program {
    /// The package of the workspace.
    pub name: String,
    /// Where it is.
    pub file: Shipped,
    /// Everything that is linked into it, itself too.
    pub crates: BTreeSet<Crate>,
}

/// Everything in an image, file by file.
#[derive(Debug, Clone, Default)]
pub struct Bill {
    /// Debian packages.
    pub packages: Vec<Package>,
    /// Compiled programs.
    pub programs: Vec<Program>,
    /// The workload's name and the files that it brought.
    pub workload: (String, Vec<Shipped>),
    /// What the build itself wrote: users, names, the list of modules.
    pub configuration: Vec<Shipped>,
}

/// The document. Every file of the sealed root is in it, below the component that it is from.
#[must_use]
pub fn document(subject: &Subject<'_>, bill: &Bill) -> Value {
    let mut components: Vec<Value> = bill.packages.iter().map(debian).collect();
    let own = |kind: &str, name: &str, files: &[Shipped]| {
        json!({
            "type": kind, "bom-ref": format!("pillar:{name}"), "name": name, "version": subject.version,
            "components": contained(files),
        })
    };
    let crates: BTreeSet<&Crate> = bill.programs.iter().flat_map(|program| &program.crates).collect();
    let mut dependencies = Vec::new();
    for found in crates {
        let mut component = cargo(found);
        let program = bill.programs.iter().find(|p| found.origin == Origin::Ours && p.name == found.name);
        if let Some(program) = program {
            component["type"] = json!("application");
            component["components"] = contained(std::slice::from_ref(&program.file));
            let needs: Vec<Value> =
                program.crates.iter().filter(|c| *c != found).map(|c| cargo(c)["bom-ref"].clone()).collect();
            dependencies.push(json!({ "ref": component["bom-ref"], "dependsOn": needs }));
        }
        components.push(component);
    }
    if !bill.workload.1.is_empty() {
        components.push(own("application", &format!("workload-{}", bill.workload.0), &bill.workload.1));
    }
    components.push(own("data", "configuration", &bill.configuration));
    let top: Vec<&Value> = components.iter().map(|component| &component["bom-ref"]).collect();
    dependencies.push(json!({ "ref": "pillar", "dependsOn": top }));
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
        "dependencies": dependencies,
    })
}

fn contained(files: &[Shipped]) -> Value {
    let one = |file: &Shipped| {
        let place = match file.place {
            Place::Root => "root",
            Place::Boot => "boot",
        };
        json!({
            "type": "file", "name": file.path, "hashes": hashes(&file.sha256),
            "properties": [{ "name": "pillar:place", "value": place }],
        })
    };
    files.iter().map(one).collect()
}

fn hashes(sha256: &str) -> Value {
    json!([{ "alg": "SHA-256", "content": sha256 }])
}

fn debian(found: &Package) -> Value {
    let PackageRef { name, version, architecture } = &found.package;
    // In a package URL, `+` and `:` of a version are escaped; `~` and `.` are not.
    let escaped = version.replace('+', "%2B").replace(':', "%3A");
    let purl = format!("pkg:deb/debian/{name}@{escaped}?arch={architecture}&distro=trixie");
    let mut component =
        json!({ "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl });
    if !found.licences.is_empty() {
        component["licenses"] = found.licences.iter().map(|l| json!({ "license": { "name": l } })).collect();
    }
    if let Some(sha256) = &found.sha256 {
        component["hashes"] = hashes(sha256);
    }
    component["components"] = contained(&found.files);
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
        let component = debian(&Package {
            package,
            sha256: Some("00".repeat(32)),
            licences: vec!["LGPL-2.1+".to_owned()],
            files: vec![Shipped { path: "/x".to_owned(), sha256: "11".repeat(32), place: Place::Root }],
        });
        assert_eq!(component["components"][0]["hashes"][0]["content"], "11".repeat(32));
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
    fn a_program_has_its_file_and_its_crates() {
        let one = |name: &str, origin| Crate {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: None,
            origin,
        };
        let file = Shipped { path: "/usr/bin/p".to_owned(), sha256: "11".repeat(32), place: Place::Root };
        let crates = [one("p", Origin::Ours), one("serde", Origin::Registry)].into();
        let bill = Bill { programs: vec![Program { name: "p".to_owned(), file, crates }], ..Bill::default() };
        let subject = Subject { version: "1", flavour: "virt", root_hash: "00" };
        let document = document(&subject, &bill);
        assert_eq!(document["components"][0]["components"][0]["name"], "/usr/bin/p");
        let wanted = json!({ "ref": "pkg:cargo/p@1.0.0", "dependsOn": ["pkg:cargo/serde@1.0.0"] });
        assert_eq!(document["dependencies"][0], wanted);
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
