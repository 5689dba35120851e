//! `pillar-keys`: makes the development keys, shows what is there. It never prints a private key.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand, ValueEnum};
use pillar_keys::{
    Error, Keys, Made, Variable, certificate_digest, common_name, new_operator, write_certificate,
};
use pillar_signer::{KeyFile, PassphraseFrom, Signer, Source, change_passphrase};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Keys of a pillar's makers and operators.
///
/// Development keys are for trying things out on one machine. They lie unencrypted in an ignored folder; an image that
/// trusts them is as safe as that folder.
#[derive(Parser)]
#[command(name = "pillar-keys", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

const EXAMPLES: &str = "Examples:
  pillar-keys make                       make keys/dev, once
  pillar-keys make --operators 5         add operator-4 and operator-5 to it
  pillar-keys show                       print what is there, by fingerprint
  pillar-keys operator alice --encrypt -o alice.key
                                         make alice.key (it asks for a passphrase) and alice.crt
  pillar-keys certificate bob --key agent:bob@desk -o bob.crt
                                         a certificate for a key that ssh-agent keeps
  pillar-keys passphrase alice.key       give alice.key another passphrase

Exit codes: 0 done, 1 failed, 2 wrong arguments";

#[derive(Subcommand)]
enum Action {
    /// Make the development keys; a second run changes nothing
    ///
    /// Secure Boot keys PK, KEK and db (RSA-2048, with certificate and signed variable content), the key that signs PCR
    /// policies, and one Ed25519 key per operator.
    Make {
        /// Folder of the keys
        #[arg(long, default_value = pillar_keys::DEFAULT_DIR)]
        dir: PathBuf,
        /// How many operators
        #[arg(long, default_value_t = pillar_keys::DEFAULT_OPERATORS, value_name = "N")]
        operators: usize,
    },
    /// Print names and fingerprints, never a private key
    Show {
        /// Folder of the keys
        #[arg(long, default_value = pillar_keys::DEFAULT_DIR)]
        dir: PathBuf,
        /// Form of the output
        #[arg(short, long, default_value = "text")]
        output: Form,
    },
    /// Make one operator's key and certificate, for real use
    ///
    /// The key is Ed25519 in PKCS#8 PEM, mode 0600; `openssl pkcs8` reads it. The certificate goes beside it, with the
    /// extension crt: it is public, and what an image is built with.
    Operator {
        /// The operator: 1 to 63 of a-z, 0-9 and -
        name: String,
        /// New file for the key
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Encrypt the key with a passphrase
        #[arg(long)]
        encrypt: bool,
        /// Take the passphrase from a file's first line or a file descriptor, not from the terminal
        #[arg(long, value_name = "FILE|fd:N", requires = "encrypt")]
        passphrase_from: Option<PassphraseFrom>,
    },
    /// Make a certificate for an operator's key that exists
    Certificate {
        /// The operator: 1 to 63 of a-z, 0-9 and -
        name: String,
        /// The key: a PKCS#8 file, `agent`, or `agent:` and a comment, public key or fingerprint
        #[arg(long, value_name = "KEY")]
        key: Source,
        /// New file for the certificate
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Take the key's passphrase from a file's first line or a file descriptor, not from the terminal
        #[arg(long, value_name = "FILE|fd:N")]
        passphrase_from: Option<PassphraseFrom>,
    },
    /// Give a key file another passphrase, or none
    Passphrase {
        /// The key
        file: PathBuf,
        /// Leave the key unencrypted
        #[arg(long, conflicts_with = "new_passphrase_from")]
        remove: bool,
        /// Take the passphrase that it has from a file's first line or a file descriptor
        #[arg(long, value_name = "FILE|fd:N")]
        passphrase_from: Option<PassphraseFrom>,
        /// Take the new one from a file's first line or a file descriptor
        #[arg(long, value_name = "FILE|fd:N")]
        new_passphrase_from: Option<PassphraseFrom>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    /// For people
    Text,
    /// For programs
    Json,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Action::Make { dir, operators } => pillar_keys::make(&dir, operators).map(|(keys, made)| {
            let place = keys.dir().display();
            match made {
                Made::New => println!("made development keys in {place}"),
                Made::Existed => println!("keys exist in {place}; nothing changed"),
                Made::Added(1) => println!("added 1 operator to {place}"),
                Made::Added(count) => println!("added {count} operators to {place}"),
            }
        }),
        Action::Show { dir, output } => show(&dir, output),
        Action::Operator { name, output, encrypt, passphrase_from } => {
            operator(&name, &output, encrypt.then(|| passphrase_from.unwrap_or_default()).as_ref())
        }
        Action::Certificate { name, key, output, passphrase_from } => {
            certify(&name, &key, &output, &passphrase_from.unwrap_or_default())
        }
        Action::Passphrase { file, remove, passphrase_from, new_passphrase_from } => {
            let new = (!remove).then(|| new_passphrase_from.unwrap_or_default());
            passphrase(&file, &passphrase_from.unwrap_or_default(), new)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn report(error: &Error) -> ExitCode {
    eprintln!("error: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        eprintln!("  caused by: {cause}");
        source = cause.source();
    }
    if let Some(hint) = error.hint() {
        eprintln!("  hint: {hint}");
    }
    ExitCode::FAILURE
}

fn operator(name: &str, file: &Path, passphrase: Option<&PassphraseFrom>) -> Result<(), Error> {
    let (key, certificate) = new_operator(name, file, passphrase)?;
    println!("made {} and {}", file.display(), certificate.display());
    println!("public key of {name}: {key}");
    Ok(())
}

fn certify(name: &str, key: &Source, file: &Path, passphrase: &PassphraseFrom) -> Result<(), Error> {
    let signer = Signer::open(key, passphrase)?;
    write_certificate(name, &signer, file)?;
    println!("made {}", file.display());
    println!("public key of {name}: {}", signer.public());
    Ok(())
}

fn passphrase(file: &Path, old: &PassphraseFrom, new: Option<PassphraseFrom>) -> Result<(), Error> {
    let key = KeyFile::open(file, old)?;
    let new = new.map(|from| from.ask_new("New passphrase: ")).transpose()?;
    change_passphrase(&key, new.as_ref())?;
    let protection =
        if new.is_some() { "encrypted with the new passphrase" } else { "not encrypted any more" };
    println!("{} is {protection}", file.display());
    Ok(())
}

fn show(dir: &Path, form: Form) -> Result<(), Error> {
    let keys = Keys::load(dir)?;
    let mut certificates: Vec<(String, PathBuf)> =
        Variable::ALL.iter().map(|v| (v.to_string(), keys.secure_boot(*v).certificate)).collect();
    certificates.extend(keys.operators().iter().map(|o| (o.name.clone(), o.certificate.clone())));
    let mut rows = Vec::new();
    for (name, path) in certificates {
        rows.push((name, common_name(&path)?, certificate_digest(&path)?));
    }
    match form {
        Form::Text => {
            println!("{:<12} {:<24} SHA-256 of the certificate", "key", "name");
            for (key, name, digest) in rows {
                println!("{key:<12} {name:<24} {digest}");
            }
        }
        Form::Json => {
            let rows: Vec<_> = rows
                .into_iter()
                .map(|(key, name, digest)| json!({ "key": key, "name": name, "certificate_sha256": digest.to_string() }))
                .collect();
            println!("{:#}", json!({ "dir": keys.dir(), "keys": rows }));
        }
    }
    Ok(())
}
