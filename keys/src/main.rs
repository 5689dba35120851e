//! `pillar-keys`: makes the development keys, shows what is there. It never prints a private key.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand, ValueEnum};
use pillar_keys::{Error, Keys, Made, Variable, certificate_digest, common_name};
use serde_json::json;
use std::path::PathBuf;
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

fn show(dir: &std::path::Path, form: Form) -> Result<(), Error> {
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
