//! systemd's own tools agree: a UKI built by `ukify` has the PCR 11 that `systemd-measure` calculates, and its Authenticode
//! digest is the same signed and unsigned. Needs the tools tree; without it the test says so and passes.
#![allow(clippy::unwrap_used)]

use pillar_measure::predict::{Error, authenticode, uki_pcr11};
use pillar_model::Bank;
use pillar_tools::Tools;
use std::path::Path;
use std::process::Command;

fn run(command: &mut Command, folder: &Path) -> String {
    let output = command.current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn pcr_11_equals_systemd_measure() {
    let Ok(tools) = Tools::open() else {
        eprintln!("skipped: no tools tree (`./just tools`)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let stub = tools.path("usr/lib/systemd/boot/efi/linuxx64.efi.stub");
    // Sizes that are no multiple of anything; the kernel is never started here.
    std::fs::write(at.join("linux"), vec![0x5a; 70_001]).unwrap();
    std::fs::write(at.join("initrd"), vec![0xa5; 5_003]).unwrap();
    std::fs::write(at.join("osrel"), "ID=pillar\n").unwrap();
    std::fs::copy(stub, at.join("stub")).unwrap();
    let mut ukify = tools.command("ukify");
    ukify.args(["build", "--linux=linux", "--initrd=initrd", "--os-release=@osrel", "--uname=1.2-3"]);
    ukify.args(["--cmdline=console=ttyS0 a=b", "--stub=stub", "--output=uki.efi"]);
    ukify.args(["--measure", "--pcr-banks=sha256,sha384"]);
    let calculated = run(&mut ukify, at);
    let uki = std::fs::read(at.join("uki.efi")).unwrap();
    for bank in [Bank::Sha256, Bank::Sha384] {
        for (phase, value) in uki_pcr11(&uki, bank).unwrap() {
            assert!(
                calculated.contains(&format!("11:{bank}={value}")),
                "{phase}: {value} not in\n{calculated}"
            );
        }
    }

    let mut key = tools.command("openssl");
    key.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test"]);
    run(key.args(["-keyout", "key", "-out", "crt"]), at);
    let mut sign = tools.command("sbsign");
    run(sign.args(["--key", "key", "--cert", "crt", "--output", "signed.efi", "uki.efi"]), at);
    let signed = std::fs::read(at.join("signed.efi")).unwrap();
    assert_ne!(signed.len(), uki.len());
    assert_eq!(authenticode(&signed, Bank::Sha256), authenticode(&uki, Bank::Sha256));

    let mut changed = uki.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    assert_ne!(authenticode(&changed, Bank::Sha256), authenticode(&uki, Bank::Sha256));
    assert!(matches!(authenticode(&uki[..uki.len() - 600], Bank::Sha256), Err(Error::Layout(_))));
}

#[test]
fn what_is_no_pe_file_is_an_error() {
    assert!(matches!(authenticode(b"MZ", Bank::Sha256), Err(Error::Pe(_))));
    assert!(matches!(uki_pcr11(&[0; 512], Bank::Sha256), Err(Error::Pe(_))));
}
