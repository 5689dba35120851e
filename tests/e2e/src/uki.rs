//! The release's UKI with something else in it, signed again by all of the development keys: what somebody makes who has
//! the vendor's keys and not the operators'.

use crate::damage::{pe_section_headers, word};
use crate::machine::Bench;
use crate::programs::workspace;
use anyhow::{Context, Result, ensure};
use pillar_image::policy;
use pillar_image::run::Scratch;
use pillar_image::seal::{Sealer, SigningKey};
use pillar_keys::KeySource;
use pillar_tools::Tools;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Stdio;

impl Bench {
    /// The release's UKI with more words on its command line. Its PCR policies and its signature are good.
    pub fn uki_with(&self, words: &str) -> Result<Vec<u8>> {
        let tools = Tools::open()?;
        let scratch = Scratch::new(self.dir().join("uki"))?;
        let (unsigned, signed) = (scratch.join("unsigned.efi"), scratch.join("signed.efi"));
        fs::copy(self.files().file("efi"), &unsigned)?;
        strip(&tools, &unsigned)?;

        let mut uki = fs::read(&unsigned)?;
        let mut command_line = text(&uki, ".cmdline")?.trim_end_matches(['\0', '\n']).to_owned();
        command_line.push(' ');
        command_line.push_str(words);
        put(&mut uki, ".cmdline", command_line.as_bytes())?;
        fs::write(&unsigned, &uki)?;

        let sealer = Sealer { tools: &tools, epoch: 0, seed: "a UKI with other words" };
        let (key, public) = (KeySource::File(key("pcr.key")), policy::public_area(&key("pcr.pub"))?);
        let epoch = self.files().release.predicate.epoch;
        let made = policy::sign(&sealer, &unsigned, &key, &public, epoch, &scratch)?;
        put(&mut uki, ".pcrsig", &made.signatures)?;
        fs::write(&unsigned, &uki)?;
        let db = SigningKey { key: KeySource::File(self::key("db.key")), certificate: self::key("db.crt") };
        sealer.sign(&unsigned, &db, &signed)?;
        Ok(fs::read(&signed)?)
    }
}

fn key(file: &str) -> PathBuf {
    workspace().join("keys/dev").join(file)
}

/// Removes the signature of a PE file.
fn strip(tools: &Tools, file: &Path) -> Result<()> {
    let status = tools.command("sbattach").arg("--remove").arg(file).stdin(Stdio::null()).status()?;
    ensure!(status.success(), "sbattach cannot remove the signature");
    Ok(())
}

/// Where a section's header is, and its room in the file.
fn place(uki: &[u8], name: &str) -> Result<(usize, Range<usize>)> {
    let headers = pe_section_headers(uki)?;
    let (_, header) =
        headers.into_iter().find(|(found, _)| found == name).with_context(|| format!("no {name}"))?;
    let start = usize::try_from(word(uki, header + 20)?)?;
    Ok((header, start..start + usize::try_from(word(uki, header + 16)?)?))
}

fn text(uki: &[u8], name: &str) -> Result<String> {
    let (header, room) = place(uki, name)?;
    let bytes = usize::try_from(word(uki, header + 8)?)?.min(room.len());
    let content = uki.get(room.start..room.start + bytes).context("UKI ends early")?;
    Ok(String::from_utf8(content.to_vec())?)
}

/// Gives a section another content, where the old one was.
fn put(uki: &mut [u8], name: &str, content: &[u8]) -> Result<()> {
    let (header, room) = place(uki, name)?;
    ensure!(content.len() <= room.len(), "{name} has room for {} bytes, not {}", room.len(), content.len());
    let room = uki.get_mut(room).context("UKI ends early")?;
    room.fill(0);
    room[..content.len()].copy_from_slice(content);
    uki[header + 8..header + 12].copy_from_slice(&u32::try_from(content.len())?.to_le_bytes());
    Ok(())
}
