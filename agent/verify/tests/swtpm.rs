//! A real TPM 2.0 implementation agrees: credentials made here are opened by swtpm, and a quote by swtpm over a whole
//! boot, with an EK certificate from swtpm's local CA, is verified. Needs the tools tree; without it the tests say so
//! and pass.
#![allow(clippy::unwrap_used)]

mod boot;

use pillar_layout::{pcr, phase};
use pillar_measure::cel::CelLog;
use pillar_measure::tcg::EventLog;
use pillar_model::{Bank, Evidence};
use pillar_tools::Tools;
use pillar_verify::{
    EkTrust, ExitBootServices, Firmware, Policy, SameTpm, StateVolume, Verdict, ak_name, check_quote, judge,
    make_credential, qualifying_data, tpm::selection,
};
use ring::rand::SystemRandom;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The certificates are made while the test runs, so their time is the clock's.
fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

struct Swtpm {
    tools: Tools,
    folder: TempDir,
    process: Child,
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Swtpm {
    /// A manufactured TPM that runs, its CA in the same folder; `None` without the tools tree.
    fn start() -> Option<Self> {
        let Ok(tools) = Tools::open() else {
            eprintln!("skipped: no tools tree (`./just tools`)");
            return None;
        };
        // Unix socket paths have to be short.
        let folder = tempfile::Builder::new().prefix("tpm").tempdir_in("/tmp").unwrap();
        let at = folder.path();
        let path = at.display();
        std::fs::write(
            at.join("ca.conf"),
            format!(
                "statedir = {path}/ca\nsigningkey = {path}/ca/key.pem\nissuercert = {path}/ca/issuer.pem\n\
                 certserial = {path}/ca/serial\n"
            ),
        )
        .unwrap();
        std::fs::write(
            at.join("ca.options"),
            "--platform-manufacturer test\n--platform-version 1\n--platform-model m\n",
        )
        .unwrap();
        std::fs::write(
            at.join("setup.conf"),
            format!(
                "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {path}/ca.conf\n\
                 create_certs_tool_options = {path}/ca.options\nactive_pcr_banks = sha256\n"
            ),
        )
        .unwrap();
        std::fs::create_dir(at.join("ca")).unwrap();
        std::fs::create_dir(at.join("state")).unwrap();
        let mut setup = tools.command("swtpm_setup");
        setup.args(["--tpm2", "--create-ek-cert", "--overwrite", "--tpmstate"]).arg(at.join("state"));
        setup.arg("--config").arg(at.join("setup.conf"));
        run(&mut setup, at);
        let mut swtpm = tools.command("swtpm");
        swtpm.args(["socket", "--tpm2", "--flags", "startup-clear", "--tpmstate"]);
        swtpm.arg(format!("dir={path}/state"));
        swtpm.arg("--server").arg(format!("type=unixio,path={path}/s"));
        swtpm.arg("--ctrl").arg(format!("type=unixio,path={path}/s.ctrl"));
        let process = swtpm.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !at.join("s.ctrl").exists() {
            assert!(Instant::now() < deadline, "swtpm does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { tools, folder, process })
    }

    fn at(&self) -> &Path {
        self.folder.path()
    }

    /// Runs lines of shell in the tools tree, in the TPM's folder.
    fn script(&self, lines: &str) -> String {
        let mut shell = self.tools.command("sh");
        shell.args(["-euc", lines]);
        shell.env("TPM2TOOLS_TCTI", format!("swtpm:path={}/s", self.at().display()));
        run(&mut shell, self.at())
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.at().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// `TPMT_PUBLIC` from a file with its size in front.
    fn public(&self, name: &str) -> Vec<u8> {
        self.read(name)[2..].to_vec()
    }

    /// The AK of the pillars' template as `ak.ctx` and `ak.pub`.
    fn make_ak(&self) {
        self.script(
            "tpm2_createprimary -Q -C e -G ecc256:ecdsa-sha256:null -g sha256 -c ak.ctx \
             -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign'
             tpm2_flushcontext -Q -t
             tpm2_readpublic -Q -c ak.ctx -f tss -o ak.pub
             tpm2_flushcontext -Q -t",
        );
    }

    /// Wraps a secret for the EK in `ek.pub` and the AK, and has the TPM unwrap it.
    fn activate(&self, secret: &[u8], session: &str) -> Vec<u8> {
        let name = ak_name(&self.public("ak.pub")).unwrap();
        let made = make_credential(&self.public("ek.pub"), &name, secret, &SystemRandom::new()).unwrap();
        let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
        let file =
            [[0xBA, 0xDC, 0xC0, 0xDE, 0, 0, 0, 1].to_vec(), sized(&made.blob), sized(&made.encrypted_secret)];
        std::fs::write(self.at().join("credential"), file.concat()).unwrap();
        self.script(&format!(
            "{session}
             tpm2_activatecredential -Q -c ak.ctx -C ek.ctx -i credential -o secret -P session:session.ctx
             tpm2_flushcontext -Q session.ctx
             tpm2_flushcontext -Q -t"
        ));
        self.read("secret")
    }
}

fn run(command: &mut Command, folder: &Path) -> String {
    let output = command.current_dir(folder).stdin(Stdio::null()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}{err}");
    out.into_owned()
}

/// PolicySecret with the endorsement hierarchy, as the EK templates of the low range demand it.
const POLICY_A: &str = "tpm2_startauthsession -Q --policy-session -S session.ctx
    tpm2_policysecret -Q -S session.ctx -c e";

#[test]
fn swtpm_opens_our_credentials() {
    let Some(tpm) = Swtpm::start() else { return };
    tpm.make_ak();
    for (kind, session) in [("rsa", POLICY_A), ("ecc256", POLICY_A)] {
        tpm.script(&format!("tpm2_createek -Q -G {kind} -c ek.ctx -u ek.pub; tpm2_flushcontext -Q -t"));
        for len in [1, 16, 32] {
            let secret: Vec<u8> = (1..=len).collect();
            assert_eq!(tpm.activate(&secret, session), secret, "{kind}");
        }
    }
    // P-384 by the template of the high range (H-3), whose password authorises its use.
    let policy =
        "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12";
    std::fs::write(tpm.at().join("policy"), hex::decode(policy).unwrap()).unwrap();
    tpm.script(
        "tpm2_createprimary -Q -C e -G ecc384:null:aes256cfb -g sha384 -L policy -c ek.ctx \
         -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|restricted|decrypt'
         tpm2_flushcontext -Q -t
         tpm2_readpublic -Q -c ek.ctx -f tss -o ek.pub
         tpm2_flushcontext -Q -t",
    );
    let secret = [9; 32];
    let hmac = "tpm2_startauthsession -Q --hmac-session -S session.ctx";
    assert_eq!(tpm.activate(&secret, hmac), secret);
}

/// PEM certificates of a file as DER.
fn certificates(tpm: &Swtpm, file: &str) -> Vec<u8> {
    tpm.script(&format!("openssl x509 -in ca/{file} -outform DER -out der"));
    tpm.read("der")
}

#[test]
fn a_whole_boot_quoted_by_swtpm_is_verified() {
    let Some(tpm) = Swtpm::start() else { return };
    let (log, own) =
        (EventLog::parse(&boot::EVENT_LOG).unwrap(), boot::own_log(&phase::ALL, &[boot::NODE_SETTINGS]));
    let mut extends = String::new();
    for event in log.events.iter().filter(|e| e.extends()) {
        let (pcr, digest) = (event.pcr.unwrap(), event.digest(Bank::Sha256).unwrap());
        writeln!(extends, "tpm2_pcrextend {pcr}:sha256={digest}").unwrap();
    }
    for record in CelLog::parse(own.as_bytes()).unwrap().records() {
        writeln!(extends, "tpm2_pcrextend {}:sha256={}", record.pcr, record.digests[0].digest).unwrap();
    }
    tpm.script(&extends);
    tpm.make_ak();
    tpm.script(
        "tpm2_createek -Q -G rsa -c ek.ctx -u ek.pub; tpm2_flushcontext -Q -t
         tpm2_nvread -C o 0x01c00002 -o ek.crt || tpm2_nvread 0x01c00002 -o ek.crt",
    );
    let secret = [0x33; 32];
    let activated = tpm.activate(&secret, POLICY_A);
    let nonce = qualifying_data(&boot::binding(), &boot::EVENT_LOG, own.as_bytes(), &[]);
    let pcrs = pcr::QUOTED.map(|i| i.to_string()).join(",");
    tpm.script(&format!(
        "tpm2_quote -Q -c ak.ctx -l sha256:{pcrs} -q {} -m attest -s signature -f tss",
        hex::encode(nonce)
    ));
    let evidence = Evidence {
        attest: tpm.read("attest"),
        signature: tpm.read("signature"),
        ak_public: tpm.public("ak.pub"),
        ek_public: tpm.public("ek.pub"),
        ek_certificate: tpm.read("ek.crt"),
        activated,
        event_log: boot::EVENT_LOG.to_vec(),
        cel: own.into_bytes(),
        heartbeat_key: Vec::new(),
    };
    let (roots, issuers) =
        ([certificates(&tpm, "swtpm-localca-rootca-cert.pem")], [certificates(&tpm, "issuer.pem")]);
    let release = boot::release();
    let policy = Policy {
        releases: &[&release],
        bank: Bank::Sha256,
        ek: EkTrust::Chain { roots: &roots, intermediates: &issuers, allowed: &[], now_unix_s: now() },
        same_tpm: SameTpm::Activated(&secret),
        firmware: Firmware::Learn,
        state: StateVolume::Learn,
        exit_boot_services: ExitBootServices::Required,
        denied_tpm_firmware: &[],
        dbx_required: &[],
        previous: None,
        session: None,
    };
    let (report, verdict) = judge(&evidence, &boot::binding(), &policy);
    for line in &report.checks {
        eprintln!("{:<16} {:<8} {}", line.name, line.verdict, line.words);
    }
    let verified = verdict.unwrap();
    assert!(report.checks.iter().all(|line| line.verdict == Verdict::Passed));
    assert_eq!(verified.node_settings(), Some(boot::NODE_SETTINGS));
    assert_eq!(verified.ek_issuers(), ["CN=swtpm-localca", "CN=swtpm-localca-rootca"]);
    assert_eq!(verified.firmware().pcrs.len(), 5);

    let chain = EkTrust::Chain { roots: &roots, intermediates: &[], allowed: &[], now_unix_s: now() };
    let without = Policy { ek: chain, ..policy.clone() };
    let refused = judge(&evidence, &boot::binding(), &without).1.unwrap_err();
    assert!(refused.reason.contains("does not lead to a trusted root"), "{refused}");
}

// attack: A7
#[test]
fn quotes_by_each_kind_of_key_are_verified_and_by_no_other_scheme() {
    let Some(tpm) = Swtpm::start() else { return };
    let wanted = selection(Bank::Sha256, &[0, 7]);
    let nonce = [0x5a; 32];
    let mut quotes = Vec::new();
    for kind in [
        "ecc256:ecdsa-sha256",
        "ecc384:ecdsa-sha384",
        "rsa2048:rsassa-sha256",
        "rsa2048:rsapss-sha256",
        "rsa3072:rsapss-sha384",
    ] {
        let (scheme, digest) = kind.split_once(':').unwrap().1.split_once('-').unwrap();
        tpm.script(&format!(
            "tpm2_createprimary -Q -C e -G {kind}:null -g sha256 -c ak.ctx \
             -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign' || exit 0
             tpm2_flushcontext -Q -t
             tpm2_readpublic -Q -c ak.ctx -f tss -o ak.pub
             tpm2_flushcontext -Q -t
             tpm2_quote -Q -c ak.ctx -l sha256:0,7 --scheme {} -g {} -q {} -m attest -s signature -f tss
             tpm2_flushcontext -Q -t",
            scheme,
            digest,
            hex::encode(nonce)
        ));
        // Not every TPM has every size.
        if !tpm.at().join("attest").exists() {
            eprintln!("skipped: {kind}");
            continue;
        }
        quotes.push((kind, tpm.public("ak.pub"), tpm.read("attest"), tpm.read("signature")));
        std::fs::remove_file(tpm.at().join("attest")).unwrap();
    }
    assert!(quotes.len() >= 4);
    for (kind, key, attest, signature) in &quotes {
        assert!(check_quote(attest, signature, key, &nonce, &wanted).is_ok(), "{kind}");
        for (other, foreign, ..) in quotes.iter().filter(|(other, ..)| other != kind) {
            assert!(check_quote(attest, signature, foreign, &nonce, &wanted).is_err(), "{kind} by {other}");
        }
    }
}
