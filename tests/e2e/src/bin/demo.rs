//! `./just demo`: boots the image that was just built, attests it, stops it, and says what that proved.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use pillar_e2e::programs::program;

fn main() -> Result<()> {
    say("1. A machine boots the sealed image: UEFI firmware with Secure Boot, a TPM 2.0 of its own.");
    let result = attested();
    say("4. The machine stops.");
    let stopped = run("pillar-qemu", &["down"]);
    result.and(stopped)?;
    println!(
        "\nWhat this proved: the machine's TPM, known by its endorsement certificate, signed for a nonce that was drawn a moment\n\
         ago, on this very connection, what the firmware, the loader, the kernel and init measured. Every quoted register was\n\
         recomputed from the event log, and the loader, UKI, kernel, initrd, command line and root hash are those of\n\
         out/release.json. A changed byte in any of them would have given another answer: `./just test` changes them one by one.\n\
         \n\
         Not proved: that the firmware was good at first sight (its registers are learnt, then pinned), and that the hardware\n\
         is real: this TPM is software."
    );
    Ok(())
}

fn attested() -> Result<()> {
    run("pillar-qemu", &["up"])?;
    say("2. What it says about itself. Not proof.");
    run("pillar", &["status"])?;
    say("3. Proof: evidence for a fresh nonce, checked here against out/release.json.");
    run("pillar", &["attest"])
}

fn say(text: &str) {
    println!("\n== {text}");
}

fn run(name: &str, words: &[&str]) -> Result<()> {
    let status = program(name)?
        .env_remove("NO_COLOR")
        .args(words)
        .status()
        .with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        bail!("`{name} {}` failed ({status})", words.join(" "));
    }
    Ok(())
}
