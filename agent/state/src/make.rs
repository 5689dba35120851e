//! Making a volume: marker, header in memory, file system, header onto the disk. See `pillar_luks` for what a power cut
//! leaves at each step.

use crate::image::{self, Image};
use crate::open::{TpmToken, opened};
use crate::volume::{self, HeaderFile, RECOVERY_SLOT, TPM_SLOT, Volume};
use crate::{TPM, filesystem};
use anyhow::{Context as _, anyhow};
use pillar_luks::{COPY_BYTES, Header, Shape};
use pillar_model::{StateOutcome, StateReport};
use pillar_os::cryptsetup::{Device, FormatParams, KeyslotParams, Pbkdf2};
use pillar_recovery::{KEY_BYTES, Token, VolumeId};
use pillar_seal::Tpm;
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// Fresh random bytes.
pub fn random(bytes: usize) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut random = Zeroizing::new(vec![0; bytes]);
    SystemRandom::new().fill(&mut random).map_err(|_| anyhow!("no random bytes"))?;
    Ok(random)
}

/// Makes the volume and leaves it open.
pub fn make(volume: &Volume) -> anyhow::Result<(StateReport, Header)> {
    let image = Image::read()?;
    let operators = image::operators()?;
    let mut tpm = Tpm::open(TPM)?;
    tpm.ensure_epoch(&image.sealing())?;
    let key = random(KEY_BYTES)?;
    let sealed = tpm.seal(&image.sealing(), &key)?;
    // What went wrong until here has left the partition as it was.
    volume.mark()?;

    let volume_key = random(usize::try_from(volume.shape.volume_key_bytes)?)?;
    let file = HeaderFile::new(&vec![0; volume.head_bytes()?])?;
    let mut device = format(volume, &file, &volume_key)?;
    let uuid = device.uuid().context("libcryptsetup gave the volume no UUID")?;
    let recovery = recovery(&mut device, volume, &volume_key, &uuid, &operators)?;
    device.add_keyslot(TPM_SLOT, &volume_key, &key, &keyslot(&volume.shape, TPM_SLOT))?;
    device.set_token(0, &serde_json::to_string(&TpmToken::new(sealed, false))?)?;
    device.set_token(1, &serde_json::to_string(&recovery)?)?;
    device.activate_by_volume_key(volume::NAME, &volume_key, volume::activation())?;
    filesystem::make(&volume::mapped())?;
    filesystem::grow(&volume::mapped())?;
    drop(device);

    let head = file.bytes(volume.head_bytes()?)?;
    // The next boot must be able to open what this one made.
    let header = pillar_luks::check(&head, &volume.shape, volume.bytes)
        .context("libcryptsetup made a header that would not be opened again")?;
    for write in pillar_luks::commit(&head) {
        volume.write(&write).context("cannot write the header")?;
    }
    Ok((opened(StateOutcome::Made, &uuid, &volume_key), header))
}

fn format(volume: &Volume, file: &HeaderFile, volume_key: &[u8]) -> anyhow::Result<Device> {
    let Shape { label, subsystem, encryption, integrity, sector_bytes, data_offset, keyslots_bytes, .. } =
        volume.shape;
    let (cipher, mode) = encryption.split_once('-').context("the shape names no cipher and mode")?;
    let mut device = volume.device(file)?;
    device.format_luks2(
        &FormatParams {
            cipher,
            mode,
            integrity,
            sector_bytes,
            data_offset_bytes: data_offset,
            metadata_bytes: COPY_BYTES as u64,
            keyslots_bytes,
            label,
            subsystem,
            uuid: None,
            pbkdf2: Pbkdf2 { iterations: volume.shape.digest_iterations },
        },
        volume_key,
    )?;
    Ok(device)
}

/// How a key slot of the shape is made.
pub fn keyslot(shape: &Shape, number: u32) -> KeyslotParams<'static> {
    let slot = shape.keyslots.iter().find(|slot| slot.number == number);
    KeyslotParams {
        encryption: shape.keyslot_encryption,
        key_bytes: shape.keyslot_key_bytes as usize,
        pbkdf2: Pbkdf2 { iterations: slot.map_or(shape.digest_iterations, |slot| slot.iterations) },
    }
}

/// The recovery key lives in here alone: it goes into its key slot and, in shares, to the operators.
fn recovery(
    device: &mut Device,
    volume: &Volume,
    volume_key: &[u8],
    uuid: &str,
    operators: &[pillar_recovery::Operator],
) -> anyhow::Result<Token> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    key.copy_from_slice(&random(KEY_BYTES)?);
    device.add_keyslot(RECOVERY_SLOT, volume_key, key.as_slice(), &keyslot(&volume.shape, RECOVERY_SLOT))?;
    let id = VolumeId::parse(uuid).context("the volume's UUID is none")?;
    let needed = image::recovery_threshold(operators.len());
    let fresh = random(pillar_recovery::random_bytes_to_make(needed, operators.len()))?;
    Ok(Token::make(&key, needed, operators, id, RECOVERY_SLOT, &fresh)?)
}
