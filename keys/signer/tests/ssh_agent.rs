//! A key in ssh-agent: the real one where it is installed, and one that lies.

use pillar_signer::{AgentKey, Error, Signer, Which, list};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use tempfile::TempDir;

/// A real agent in the foreground, ended with the test.
struct Agent {
    child: Child,
    socket: PathBuf,
    dir: TempDir,
}

impl Agent {
    /// None where OpenSSH is not installed.
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("agent");
        let started =
            Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = started else {
            eprintln!("ssh-agent is not installed: only an imitation of it was tested");
            return None;
        };
        // It says where it listens once it does.
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        Some(Self { child, socket, dir })
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.dir.path()).env("SSH_AUTH_SOCK", &self.socket);
        let output = command.stdin(Stdio::null()).output().expect("OpenSSH is whole");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn add(&self, kind: &str, file: &str, comment: &str) {
        self.run("ssh-keygen", &["-q", "-t", kind, "-N", "", "-C", comment, "-f", file]);
        self.run("ssh-add", &["-q", file]);
    }

    fn public_line(&self, file: &str) -> String {
        let path = self.dir.path().join(format!("{file}.pub"));
        std::fs::read_to_string(path).expect("a public key").trim().to_owned()
    }

    fn find(&self, which: &str) -> Result<AgentKey, Error> {
        let Ok(which) = which.parse();
        AgentKey::find(&self.socket, &which)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_agent_lists_and_signs() {
    let Some(agent) = Agent::start() else { return };
    assert!(matches!(agent.find(""), Err(Error::NoSuchKey { has, .. }) if has.is_empty()));
    agent.add("ed25519", "one", "alice@desk");
    agent.add("ecdsa", "other-kind", "ecdsa@desk");
    let key = agent.find("").expect("the only Ed25519 key");
    assert_eq!(key.comment(), "alice@desk");
    let signer = Signer::Agent(key);
    for message in [&b""[..], b"message", &[0xff; 100_000]] {
        let signature = signer.sign(message).expect("a signature");
        let public = UnparsedPublicKey::new(&ED25519, signer.public().0);
        public.verify(message, &signature).expect("it verifies");
    }

    agent.add("ed25519", "two", "bob@desk");
    let listed = list(&agent.socket).expect("a list");
    assert_eq!(listed.iter().map(|k| k.comment.as_str()).collect::<Vec<_>>(), ["alice@desk", "bob@desk"]);
    assert!(matches!(agent.find(""), Err(Error::Ambiguous { has, .. }) if has.len() == 2));
    let bob = listed[1].key;
    for which in ["bob@desk", &bob.to_string(), &listed[1].fingerprint(), &agent.public_line("two")] {
        assert_eq!(agent.find(which).expect(which).public(), bob, "{which}");
    }
    for which in ["bob", "carol@desk", "SHA256:AAAA", &"00".repeat(32), "ecdsa@desk"] {
        let refused = agent.find(which).expect_err(which);
        assert!(matches!(&refused, Error::NoSuchKey { has, .. } if has.len() == 2), "{refused}");
    }
    let output = Command::new("ssh-keygen").args(["-l", "-f"]).arg(agent.dir.path().join("two.pub")).output();
    let printed = String::from_utf8(output.expect("ssh-keygen runs").stdout).expect("text");
    assert!(printed.contains(&listed[1].fingerprint()), "{printed}");

    // A key that is taken out while we hold it.
    let gone = Signer::Agent(agent.find("bob@desk").expect("there"));
    agent.run("ssh-add", &["-q", "-d", "two"]);
    assert!(matches!(gone.sign(b"message"), Err(Error::AgentRefused("sign"))));
}

/// An agent that gives these answers, one a connection.
fn imitation(socket: &Path, answers: Vec<Vec<u8>>) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).expect("a socket");
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut length = [0; 4];
            stream.read_exact(&mut length).expect("a length");
            let mut request = vec![0; u32::from_be_bytes(length).try_into().expect("small")];
            stream.read_exact(&mut request).expect("a request");
            stream.write_all(&answer).expect("written");
        }
    })
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("small").to_be_bytes(), bytes].concat()
}

fn listing(key: &Ed25519KeyPair, comment: &[u8]) -> Vec<u8> {
    let blob = [string(b"ssh-ed25519"), string(key.public_key().as_ref())].concat();
    string(&[&[12, 0, 0, 0, 1][..], &string(&blob), &string(comment)].concat())
}

fn signature(kind: &[u8], bytes: &[u8]) -> Vec<u8> {
    string(&[&[14][..], &string(&[string(kind), string(bytes)].concat())].concat())
}

// attack: P16
#[test]
fn an_agent_that_lies_is_not_believed() {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).expect("a seed");
    let good = pair.sign(b"message");
    let other = pair.sign(b"other message");
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (signature(b"ssh-ed25519", good.as_ref()), ""),
        (signature(b"ssh-ed25519", other.as_ref()), "a signature that is wrong"),
        (signature(b"ssh-ed25519", &good.as_ref()[..63]), "a signature of another length"),
        (signature(b"ssh-rsa", good.as_ref()), "a signature of another kind"),
        (string(&[14, 0, 0, 1, 0]), "a signature cut short"),
        (string(&[6]), "no signature"),
        (string(&[5]), "refused to sign"),
        (vec![0, 0, 0, 0], "an answer of 0 bytes"),
        (vec![0xff; 4], "an answer of 4294967295 bytes"),
        (vec![0, 0, 0, 9, 14], "failed to fill whole buffer"),
    ];
    for (answer, words) in cases {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("agent");
        let thread = imitation(&socket, vec![listing(&pair, b"a\x1b[2Jb"), answer]);
        let key = AgentKey::find(&socket, &Which::Only).expect("a key");
        assert_eq!(key.comment(), "a[2Jb");
        let outcome = Signer::Agent(key).sign(b"message");
        thread.join().expect("it ends");
        match outcome {
            Ok(signature) => assert_eq!((&signature[..], words), (good.as_ref(), "")),
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                let said = format!("{error}: {source}");
                assert!(!words.is_empty() && said.contains(words), "{words}: {said}");
            }
        }
    }
}

// attack: P16
#[test]
fn lists_that_are_cut_short_are_refused() {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).expect("a seed");
    let whole = listing(&pair, b"me");
    for length in 1..whole.len() - 4 {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("agent");
        let thread = imitation(&socket, vec![string(&whole[4..4 + length])]);
        let refused = list(&socket).expect_err("cut short");
        assert!(matches!(refused, Error::AgentAnswer("a list of keys cut short")), "{length}: {refused}");
        thread.join().expect("it ends");
    }
    let nowhere = list(Path::new("/nonexistent/agent")).expect_err("nobody is there");
    assert!(matches!(nowhere, Error::Agent { .. }));
}
