//! Recovery: k operators gave their shares, the agent put the recovery key together. It opens key slot 1, and a new key
//! for slot 0 is sealed to this machine as it is now. The volume itself stays closed: the next boot opens it.

use crate::TPM;
use crate::image::{self, Image};
use crate::make::{keyslot, random};
use crate::open::TpmToken;
use crate::volume::{HeaderFile, RECOVERY_SLOT, TPM_SLOT, Volume};
use anyhow::{Context as _, bail};
use pillar_layout::run;
use pillar_luks::State;
use pillar_recovery::KEY_BYTES;
use pillar_seal::Tpm;
use std::fs;
use std::path::Path;
use zeroize::Zeroizing;

/// Takes the recovery key and seals anew.
pub fn run(partition: &Path) -> anyhow::Result<()> {
    let recovery = Zeroizing::new(image::read(run::RECOVERY_KEY)?);
    fs::remove_file(run::RECOVERY_KEY).with_context(|| format!("cannot remove {}", run::RECOVERY_KEY))?;
    if recovery.len() != KEY_BYTES {
        bail!("a recovery key has {KEY_BYTES} bytes, not {}", recovery.len());
    }
    let volume = Volume::open(partition, image::settings()?)?;
    if volume.state()? != State::Luks2 {
        bail!("there is no state volume on {} that could be recovered", partition.display());
    }
    let (_, old) = volume.header()?;
    let image = Image::read()?;
    let mut tpm = Tpm::open(TPM)?;
    let renew_epoch = tpm.minimum_epoch(&image.policy_key)?.is_none();

    let file = HeaderFile::new(&old)?;
    let mut device = volume.device(&file)?;
    device.load()?;
    let volume_key = device
        .volume_key(RECOVERY_SLOT, &recovery)
        .context("the recovery key does not open the volume: the shares are of another one")?;
    let key = random(KEY_BYTES)?;
    let sealed = tpm.seal(&image.sealing(), &key)?;
    device.destroy_keyslot(TPM_SLOT)?;
    device.add_keyslot(TPM_SLOT, &volume_key, &key, &keyslot(&volume.shape, TPM_SLOT))?;
    device.set_token(0, &serde_json::to_string(&TpmToken::new(sealed, renew_epoch))?)?;
    drop(device);

    let new = file.bytes(old.len())?;
    for write in pillar_luks::update(&old, &new, &volume.shape, volume.bytes)? {
        volume.write(&write).context("cannot write the header")?;
    }
    println!("state volume sealed anew to this machine; the next boot opens it");
    Ok(())
}
