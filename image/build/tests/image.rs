//! The image in `out/`, looked at by programs that we did not write: what it holds, whether its tree, table, file
//! systems and signatures are right, and whether it measures to what the release says.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends where its surroundings are broken")]

use pillar_image::list::{Listed, list};
use pillar_image::tree::{forbidden, refuse_file};
use pillar_layout::{gpt, phase, root};
use pillar_model::{Bank, Release};
use pillar_tools::Tools;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

struct Image {
    out: PathBuf,
    tools: Tools,
    release: Release,
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The image that `./just image` left; the tests are skipped where nobody built one.
fn image() -> Option<Image> {
    let out = std::env::var_os("PILLAR_OUT").map_or_else(|| project().join("out"), PathBuf::from);
    let Ok(text) = fs::read_to_string(out.join("release.json")) else {
        eprintln!("skipped: there is no image in {}; `./just image` builds one", out.display());
        return None;
    };
    Some(Image { tools: Tools::open().unwrap(), release: serde_json::from_str(&text).unwrap(), out })
}

impl Image {
    fn file(&self, extension: &str) -> PathBuf {
        let p = &self.release.predicate;
        self.out.join(format!("pillar_{}_{}.{extension}", p.version, p.flavour))
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.tools.command(program).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    fn agrees(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program}: {text}");
        text
    }

    /// A partition's bytes as a file.
    fn partition(&self, label: &str, to: &Path) {
        let table = self.table();
        let row = table.iter().find(|row| row["name"] == label).unwrap();
        let number = |key: &str| row[key].as_u64().unwrap() * 512;
        let mut raw = File::open(self.file("raw")).unwrap();
        raw.seek(SeekFrom::Start(number("start"))).unwrap();
        std::io::copy(&mut raw.take(number("size")), &mut File::create(to).unwrap()).unwrap();
    }

    fn table(&self) -> Vec<Value> {
        let text = self.agrees("sfdisk", &["--json", text(&self.file("raw"))]);
        let table: Value = serde_json::from_str(&text).unwrap();
        table["partitiontable"]["partitions"].as_array().unwrap().clone()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Unpacking takes a while: once for all tests.
fn files(image: &Image) -> &'static [Listed] {
    static FILES: OnceLock<Vec<Listed>> = OnceLock::new();
    FILES.get_or_init(|| list(&image.tools, &image.file("root")).unwrap())
}

#[test]
fn the_sealed_root_holds_no_shell_interpreter_package_manager_login_or_setuid_file() {
    let Some(image) = image() else { return };
    let files = files(&image);
    assert!(files.len() > 100, "only {} files: this is no sealed root", files.len());
    let mut found = Vec::new();
    for file in files {
        let mode = u32::from_str_radix(&file.mode, 8).unwrap();
        let name = file.path.rsplit('/').next().unwrap();
        match file.kind {
            "link" if file.path.contains("/bin/") || file.path.contains("/sbin/") => {
                found.extend(forbidden(name).map(|kind| format!("{}: {kind}", file.path)));
            }
            "file" => found.extend(refuse_file(&file.path, mode, b"").map(|r| r.to_string())),
            "directory" => assert!(mode & 0o022 == 0, "{} is writable by others", file.path),
            "link" => {}
            _ => found.push(format!("{}: neither file, folder nor link", file.path)),
        }
        // The owner is kept where the listing runs as root; elsewhere the test could not tell.
        if rustix::process::geteuid().is_root() {
            assert_eq!((file.uid, file.gid), (0, 0), "{}", file.path);
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn programs_of_the_sealed_root_are_where_they_are_meant_and_nowhere_else() {
    let Some(image) = image() else { return };
    let programs: BTreeSet<&str> = files(&image)
        .iter()
        .filter(|f| f.kind == "file" && f.mode != "0644" && !f.path.starts_with(root::WORKLOAD_FILES))
        .map(|f| f.path.as_str())
        .collect();
    assert_eq!(
        programs,
        [
            root::AGENT,
            root::INIT,
            root::NETWORK,
            root::STATE,
            "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
        ]
        .into()
    );
}

#[test]
fn sizes_are_within_what_the_flavour_promises() {
    let Some(image) = image() else { return };
    let mib = |extension: &str| fs::metadata(image.file(extension)).unwrap().len() >> 20;
    assert!(mib("efi") < 24, "UKI of {} MiB", mib("efi"));
    assert!(mib("root") < 40, "sealed root of {} MiB", mib("root"));
}

#[test]
fn veritysetup_and_fsck_agree() {
    let Some(image) = image() else { return };
    let hash = image.release.predicate.root_hash.to_string();
    let (root, verity) = (image.file("root"), image.file("verity"));
    image.agrees("veritysetup", &["verify", text(&root), text(&verity), &hash]);
    image.agrees("fsck.erofs", &[text(&root)]);
    let other = format!("{}{}", if hash.starts_with('0') { '1' } else { '0' }, &hash[1..]);
    let output = image.run("veritysetup", &["verify", text(&root), text(&verity), &other]);
    assert!(!output.status.success(), "a wrong root hash was accepted");
}

#[test]
fn the_table_is_right_and_carries_the_root_hash() {
    let Some(image) = image() else { return };
    let raw = image.file("raw");
    let said = image.agrees("sgdisk", &["-v", text(&raw)]);
    assert!(said.contains("No problems found"), "{said}");
    image.agrees("sfdisk", &["--verify", text(&raw)]);
    let table = image.table();
    let column = |key: &str| -> Vec<String> {
        table.iter().map(|row| row[key].as_str().unwrap().to_lowercase()).collect()
    };
    assert_eq!(column("name"), ["esp", "root-a", "root-a-verity", "root-b", "root-b-verity", "state"]);
    let (root_guid, verity_guid) = image.release.predicate.root_hash.partition_guids();
    let guids = column("uuid");
    assert_eq!([&guids[1], &guids[2]], [&root_guid, &verity_guid]);
    assert_eq!([&guids[3], &guids[4]], [gpt::EMPTY_ROOT, gpt::EMPTY_VERITY]);
    let types = column("type");
    assert_eq!(types[0], gpt::TYPE_ESP);
    assert_eq!([&types[1], &types[3]], [gpt::TYPE_ROOT; 2]);
    assert_eq!([&types[2], &types[4]], [gpt::TYPE_ROOT_VERITY; 2]);
    assert_eq!(types[5], gpt::TYPE_STATE);
}

/// What sfdisk wrote is what we would write; on a larger disk, sgdisk and sfdisk accept what we write instead.
#[test]
fn the_table_fits_its_disk_and_a_larger_one() {
    use std::os::unix::fs::FileExt;
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let larger = dir.path().join("larger");
    let raw = File::open(image.file("raw")).unwrap();
    let mut head = vec![0; 1 << 20];
    raw.read_exact_at(&mut head, 0).unwrap();
    let disk = File::options().read(true).write(true).create_new(true).open(&larger).unwrap();
    disk.write_all_at(&head, 0).unwrap();
    let size = raw.metadata().unwrap().len();
    disk.set_len(size + (1 << 30) + 12345 * 512).unwrap();
    let fit = |disk: &File| {
        pillar_slot::fit(512, disk.metadata().unwrap().len() / 512, |offset, bytes| {
            let mut buffer = vec![0; bytes];
            disk.read_exact_at(&mut buffer, offset).map(|()| buffer)
        })
    };
    assert_eq!(fit(&raw).unwrap(), None);
    for write in fit(&disk).unwrap().unwrap().writes {
        disk.write_all_at(&write.bytes, write.offset).unwrap();
    }
    assert_eq!(fit(&disk).unwrap(), None);
    let said = image.agrees("sgdisk", &["-v", text(&larger)]);
    assert!(said.contains("No problems found"), "{said}");
    image.agrees("sfdisk", &["--verify", text(&larger)]);
    let said = image.agrees("sgdisk", &["-i", "6", text(&larger)]);
    // A gibibyte, six whole mebibytes, and the one that the image keeps free behind its last partition: 57 sectors
    // remain, and the backup copy takes 33.
    let sectors = image.table()[5]["size"].as_u64().unwrap() + (1 << 21) + 7 * 2048;
    assert!(said.contains(&format!("Partition size: {sectors} sectors")), "{said}");
}

#[test]
fn the_partitions_hold_the_files_of_the_release() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (label, extension) in [(gpt::LABEL_ROOT_A, "root"), (gpt::LABEL_VERITY_A, "verity")] {
        let copy = dir.path().join(label);
        image.partition(label, &copy);
        let (partition, file) = (fs::read(&copy).unwrap(), fs::read(image.file(extension)).unwrap());
        assert!(partition.starts_with(&file), "{label}");
        assert!(partition[file.len()..].iter().all(|b| *b == 0), "{label} has something behind the image");
        assert!(partition.len() >= 2 * file.len(), "{label} has no room for an image twice the size");
    }
    let esp = dir.path().join("esp");
    image.partition(gpt::LABEL_ESP, &esp);
    image.agrees("fsck.vfat", &["-n", text(&esp)]);
    let version = &image.release.predicate.version;
    let copy = dir.path().join("uki");
    image.agrees("mcopy", &["-i", text(&esp), &format!("::/EFI/Linux/pillar_{version}+3.efi"), text(&copy)]);
    assert_eq!(fs::read(&copy).unwrap(), fs::read(image.file("efi")).unwrap());
    let listed = image.agrees("mdir", &["-/", "-b", "-i", text(&esp), "::"]);
    let mut paths: Vec<&str> = listed.lines().map(str::trim).filter(|l| !l.ends_with('/')).collect();
    paths.sort_unstable();
    let wanted = [
        "::/EFI/BOOT/BOOTX64.EFI",
        &format!("::/EFI/Linux/pillar_{version}+3.efi"),
        "::/keys/KEK.cer",
        "::/keys/PK.cer",
        "::/keys/db.cer",
        "::/loader/keys/auto/KEK.auth",
        "::/loader/keys/auto/PK.auth",
        "::/loader/keys/auto/db.auth",
        "::/loader/loader.conf",
    ];
    assert_eq!(paths, wanted);
}

#[test]
fn sbverify_accepts_our_signature_and_no_other() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let keys = std::env::var_os("PILLAR_KEYS")
        .map_or_else(|| project().join(pillar_keys::DEFAULT_DIR), PathBuf::from);
    let (ours, foreign) = (keys.join("db.crt"), keys.join("PK.crt"));
    let esp = dir.path().join("esp");
    image.partition(gpt::LABEL_ESP, &esp);
    let loader = dir.path().join("loader.efi");
    image.agrees("mcopy", &["-i", text(&esp), "::/EFI/BOOT/BOOTX64.EFI", text(&loader)]);
    for file in [image.file("efi"), loader] {
        image.agrees("sbverify", &["--cert", text(&ours), text(&file)]);
        let output = image.run("sbverify", &["--cert", text(&foreign), text(&file)]);
        assert!(!output.status.success(), "{} verifies with a foreign certificate", file.display());
    }
}

#[test]
fn systemd_measure_predicts_the_same_pcr_11() {
    use object::read::pe::PeFile64;
    use object::{Object, ObjectSection};
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let uki = fs::read(image.file("efi")).unwrap();
    let pe = PeFile64::parse(uki.as_slice()).unwrap();
    let mut arguments = vec!["calculate".to_owned(), "--json=short".to_owned()];
    for name in ["linux", "osrel", "cmdline", "initrd", "uname", "sbat", "pcrpkey"] {
        let section = pe.section_by_name(&format!(".{name}")).unwrap();
        // Raw data is padded to the file's alignment; the virtual size is what the section holds.
        let bytes = section.data().unwrap();
        let size = usize::try_from(section.size()).unwrap().min(bytes.len());
        let path = dir.path().join(name);
        File::create(&path).unwrap().write_all(&bytes[..size]).unwrap();
        arguments.push(format!("--{name}={}", path.display()));
    }
    for n in 1..=phase::ALL.len() {
        arguments.push(format!("--phase={}", phase::ALL[..n].join(":")));
    }
    for bank in [Bank::Sha256, Bank::Sha384] {
        let mut arguments = arguments.clone();
        arguments.push(format!("--bank={bank}"));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = image.run("/usr/lib/systemd/systemd-measure", &arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let rows = said[bank.to_string()].as_array().unwrap();
        for (n, name) in phase::ALL.iter().enumerate() {
            let path = phase::ALL[..=n].join(":");
            let row = rows.iter().find(|row| row["phase"] == path.as_str()).unwrap();
            let ours = &image.release.predicate.pcrs[&bank].uki_after_phase[*name];
            assert_eq!(row["hash"].as_str().unwrap(), ours.to_string(), "{bank} {name}");
        }
    }
}

#[test]
fn the_release_names_every_file_with_its_digest() {
    let Some(image) = image() else { return };
    assert!(image.release.subject.len() >= 5);
    for subject in &image.release.subject {
        let output = Command::new("sha256sum").arg(image.out.join(&subject.name)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.starts_with(&subject.digest["sha256"].to_string()), "{}", subject.name);
        let size = fs::metadata(image.out.join(&subject.name)).unwrap().len();
        assert_eq!(image.release.predicate.sizes_bytes[&subject.name], size);
    }
}

#[test]
fn the_bill_of_materials_has_licences_for_nearly_everything() {
    let Some(image) = image() else { return };
    let bill: Value =
        serde_json::from_str(&fs::read_to_string(image.out.join("sbom.json")).unwrap()).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let components = bill["components"].as_array().unwrap();
    let named = |name: &str| components.iter().any(|c| c["name"] == name);
    for name in [
        "libc6",
        "libssl3t64",
        "tzdata",
        "ca-certificates",
        "systemd-boot-efi",
        "pillar-init",
        "rustix",
        "glibc-static",
    ] {
        assert!(named(name), "{name} is not in the bill");
    }
    for absent in ["bash", "dpkg", "tempfile"] {
        assert!(!named(absent), "{absent} is in the bill, and not in the image");
    }
    let without: Vec<&Value> =
        components.iter().filter(|c| c.get("licenses").is_none()).map(|c| &c["name"]).collect();
    assert!(without.len() * 10 <= components.len(), "no licence: {without:?}");
}

#[test]
fn nothing_of_the_build_machine_is_in_the_image() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    image.agrees("fsck.erofs", &[&format!("--extract={}", tree.display()), text(&image.file("root"))]);
    let home = std::env::var("HOME").unwrap_or_default();
    let places = [format!("{}/", project().display()), format!("{home}/.cargo"), format!("{home}/.rustup")];
    for path in [root::INIT, root::AGENT] {
        let bytes = fs::read(tree.join(&path[1..])).unwrap();
        for place in places.iter().filter(|p| p.len() > 8) {
            let found = bytes.windows(place.len()).any(|w| w == place.as_bytes());
            assert!(!found, "{path} names {place}");
        }
    }
}

/// Runs a Python program of the tools tree with a document as its one argument; what it prints.
fn python(image: &Image, program: &str, arguments: &[&Path]) -> Output {
    let mut command = image.tools.command("python3");
    command.args(["-I", "-c", program]).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// CycloneDX's own library, with the schema that its authors publish.
const VALIDATE_SBOM: &str = "
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read())
sys.exit(str(error) if error else 0)
";

#[test]
fn the_bill_of_materials_is_accepted_by_its_standard_s_own_validator() {
    let Some(image) = image() else { return };
    let path = image.out.join("sbom.json");
    let output = python(&image, VALIDATE_SBOM, &[&path]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("sbom.json");
    let text = fs::read_to_string(&path).unwrap();
    for (from, to) in
        [("\"alg\": \"SHA-256\"", "\"alg\": \"SHA-257\""), ("\"type\": \"file\"", "\"type\": \"fail\"")]
    {
        assert!(text.contains(from));
        fs::write(&bad, text.replacen(from, to, 1)).unwrap();
        assert!(!python(&image, VALIDATE_SBOM, &[&bad]).status.success(), "{to} was accepted");
    }
}

#[test]
fn the_bill_of_materials_names_every_file_of_the_sealed_root_and_nothing_that_is_not_there() {
    let Some(image) = image() else { return };
    let bill: Value = serde_json::from_slice(&fs::read(image.out.join("sbom.json")).unwrap()).unwrap();
    let components = bill["components"].as_array().unwrap();
    let mut listed: Vec<(String, String)> = Vec::new();
    let mut with_files = BTreeSet::new();
    for component in components {
        for file in component["components"].as_array().into_iter().flatten() {
            with_files.insert(component["bom-ref"].as_str().unwrap());
            if file["properties"][0]["value"] == "root" {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                listed.push((text(&file["name"]), text(&file["hashes"][0]["content"])));
            }
        }
    }
    listed.sort();
    let real: Vec<(String, String)> = files(&image)
        .iter()
        .filter(|f| f.kind == "file")
        .map(|f| (f.path.clone(), f.sha256.clone().unwrap()))
        .collect();
    assert!(real.len() > 50);
    assert_eq!(listed, real);

    // A component without a file is a crate, and a program that has a file is made from it.
    let made_from: BTreeSet<&str> = bill["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|d| d["ref"] != "pillar" && with_files.contains(d["ref"].as_str().unwrap()))
        .flat_map(|d| d["dependsOn"].as_array().unwrap())
        .map(|name| name.as_str().unwrap())
        .collect();
    let names: BTreeSet<&str> = components.iter().map(|c| c["bom-ref"].as_str().unwrap()).collect();
    assert_eq!(names.len(), components.len(), "a component is in it twice");
    let loose: Vec<&&str> =
        names.iter().filter(|name| !with_files.contains(*name) && !made_from.contains(*name)).collect();
    assert_eq!(loose, Vec::<&&str>::new());
    for wanted in ["pkg:cargo/pillar-init@", "pkg:cargo/pillar-agent@", "pkg:generic/glibc-static@"] {
        assert!(names.iter().any(|name| name.starts_with(wanted)), "{wanted}");
    }
    let packages: BTreeSet<&str> = image.release.predicate.packages.iter().map(|p| p.name.as_str()).collect();
    let debian = names.iter().filter_map(|n| n.strip_prefix("pkg:deb/debian/")?.split('@').next());
    assert_eq!(debian.collect::<BTreeSet<_>>(), packages, "release.json has the same packages");
}

/// in-toto's own bindings: every field must be one that the standards know, and the statement must be whole.
const VALIDATE_PROVENANCE: &str = "
import json, sys, tempfile, zipfile
folder = tempfile.TemporaryDirectory()
zipfile.ZipFile(sys.argv[1]).extractall(folder.name)
sys.path.insert(0, folder.name)
from google.protobuf import json_format
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
import in_toto_attestation.v1.statement_pb2 as statement_pb2
import in_toto_attestation.predicates.provenance.v1.provenance_pb2 as provenance_pb2
document = json.load(open(sys.argv[2]))
statement = json_format.ParseDict(document, statement_pb2.Statement())
Statement.copy_from_pb(statement).validate()
assert statement.predicate_type == 'https://slsa.dev/provenance/v1', statement.predicate_type
provenance = json_format.ParseDict(document['predicate'], provenance_pb2.Provenance())
definition = provenance.build_definition
assert definition.build_type and definition.external_parameters.fields, 'buildDefinition'
assert provenance.run_details.builder.id, 'builder.id'
assert provenance.run_details.metadata.finished_on.seconds > 0, 'finishedOn'
for dependency in definition.resolved_dependencies:
    ResourceDescriptor.copy_from_pb(dependency).validate()
";

/// The wheel of in-toto's bindings, by digest; fetched once with pip, the registry's ordinary client.
fn in_toto_bindings() -> Result<PathBuf, String> {
    const NAME: &str = "in_toto_attestation-0.9.3-py3-none-any.whl";
    const SHA256: &str = "1f44d3f3bded1ed551e260c5e9f834ee05de03f1d2f360bada5a172c11d748ff";
    let folder = pillar_tools::cache_dir().join("inputs/pypi");
    let wheel = folder.join(NAME);
    if !wheel.is_file() {
        fs::create_dir_all(&folder).unwrap();
        let requirement = folder.join("requirements.txt");
        fs::write(&requirement, format!("in-toto-attestation==0.9.3 --hash=sha256:{SHA256}\n")).unwrap();
        let mut pip = Command::new("pip");
        pip.args(["download", "--quiet", "--no-deps", "--require-hashes", "--dest"]).arg(&folder);
        let output = pip.arg("--requirement").arg(requirement).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("pip: {error}"))?;
        if !wheel.is_file() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
    }
    let found = hex::encode(pillar_image::digest::file(&wheel).unwrap());
    assert_eq!(found, SHA256, "{}", wheel.display());
    Ok(wheel)
}

#[test]
fn the_provenance_is_accepted_by_in_toto_s_own_bindings() {
    let Some(image) = image() else { return };
    let wheel = match in_toto_bindings() {
        Ok(wheel) => wheel,
        Err(why) => {
            eprintln!("skipped: in-toto's Python bindings are not to be had: {why}");
            return;
        }
    };
    let path = image.out.join("provenance.json");
    let output = python(&image, VALIDATE_PROVENANCE, &[&wheel, &path]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("provenance.json");
    let text = fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("\"buildType\"", "\"builtType\""),
        ("\"resolvedDependencies\"", "\"dependencies\""),
        ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0"),
        ("\"startedOn\": \"", "\"startedOn\": \"at "),
    ] {
        assert!(text.contains(from), "{from}");
        fs::write(&bad, text.replacen(from, to, 1)).unwrap();
        assert!(!python(&image, VALIDATE_PROVENANCE, &[&wheel, &bad]).status.success(), "{to} was accepted");
    }
}

#[test]
fn the_provenance_names_the_release_s_files_and_every_input_by_digest() {
    let Some(image) = image() else { return };
    let provenance: Value =
        serde_json::from_slice(&fs::read(image.out.join("provenance.json")).unwrap()).unwrap();
    let mut names = BTreeSet::new();
    for subject in provenance["subject"].as_array().unwrap() {
        let name = subject["name"].as_str().unwrap();
        let digest = hex::encode(pillar_image::digest::file(&image.out.join(name)).unwrap());
        assert_eq!(subject["digest"]["sha256"], digest, "{name}");
        names.insert(name);
    }
    assert!(names.contains("release.json") && names.contains("sbom.json"));
    for subject in &image.release.subject {
        assert!(names.contains(subject.name.as_str()), "{} is not in the provenance", subject.name);
    }
    let dependencies = provenance["predicate"]["buildDefinition"]["resolvedDependencies"].as_array().unwrap();
    let digest_of = |uri: &str| {
        let found =
            dependencies.iter().find(|d| d["uri"] == uri).unwrap_or_else(|| panic!("{uri} is missing"));
        found["digest"]["sha256"].as_str().unwrap().to_owned()
    };
    let flavour = &image.release.predicate.flavour;
    let lock = fs::read_to_string(project().join(format!("image/lock/{flavour}.lock"))).unwrap();
    let lock = pillar_tools::lock::Lock::parse(&lock).unwrap();
    for package in lock.all().chain(pillar_tools::locked().unwrap().all()) {
        assert_eq!(digest_of(&package.purl()), package.sha256.to_string());
    }
    let crates = dependencies.iter().filter(|d| d["uri"].as_str().unwrap().starts_with("pkg:cargo/")).count();
    assert!(crates > 50, "{crates} crates");
    assert_eq!(digest_of("urn:pillar:host:libc.a").len(), 64);
}
