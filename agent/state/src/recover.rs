//! Recovery: k operators gave their shares, the agent put the recovery key together. It opens key slot 1, and a new key
//! for slot 0 is sealed to this machine as it is now. The volume itself stays closed: the next boot opens it.

use crate::TPM;
use crate::image::{self, Image};
use crate::make::{keyslot, random};
use crate::open::TpmToken;
use crate::volume::{HeaderFile, RECOVERY_SLOT, TPM_SLOT, Volume};
use anyhow::{Context as _, bail};
use pillar_layout::run;
use pillar_luks::{State, UpdateError};
use pillar_recovery::KEY_BYTES;
use pillar_seal::Tpm;
use std::fs;
use std::path::Path;
use zeroize::Zeroizing;

/// A free slot, for a moment.
const SPARE_SLOT: u32 = 2;

/// The header with another key in slot 0. libcryptsetup puts a key slot into the first gap: after the old one is gone that
/// may be its own place, unless something else is there first.
fn resealed(
    volume: &Volume,
    old: &[u8],
    recovery: &[u8],
    key: &[u8],
    token: &str,
    elsewhere: bool,
) -> anyhow::Result<Vec<u8>> {
    let file = HeaderFile::new(old)?;
    let mut device = volume.device(&file)?;
    device.load()?;
    let volume_key = device
        .volume_key(RECOVERY_SLOT, recovery)
        .context("the recovery key does not open the volume: the shares are of another one")?;
    let slot = keyslot(&volume.shape, TPM_SLOT);
    device.destroy_keyslot(TPM_SLOT)?;
    if elsewhere {
        device.add_keyslot(SPARE_SLOT, &volume_key, key, &slot)?;
    }
    device.add_keyslot(TPM_SLOT, &volume_key, key, &slot)?;
    if elsewhere {
        device.destroy_keyslot(SPARE_SLOT)?;
    }
    device.set_token(0, token)?;
    drop(device);
    file.bytes(old.len())
}

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

    let key = random(KEY_BYTES)?;
    let sealed = tpm.seal(&image.sealing(), &key)?;
    let token = serde_json::to_string(&TpmToken::new(sealed, renew_epoch))?;

    let made = |elsewhere| resealed(&volume, &old, &recovery, &key, &token, elsewhere);
    let plan = |new: &[u8]| pillar_luks::update(&old, new, &volume.shape, volume.bytes);
    let writes = match plan(&made(false)?) {
        // A power cut would leave neither key: the new one must not lie where the old one does.
        Err(UpdateError::InPlace { .. }) => plan(&made(true)?)?,
        other => other?,
    };
    for write in writes {
        volume.write(&write).context("cannot write the header")?;
    }
    println!("<5>state volume sealed anew to this machine; the next boot opens it");
    Ok(())
}
