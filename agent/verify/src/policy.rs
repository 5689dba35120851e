//! What the verifier demands: releases, keys, values and counters, each of them named by the caller.

use crate::tpm::Counters;
use pillar_measure::review::ExitBootServices;
use pillar_model::{
    Bank, DbxEntry, DeniedTpmFirmware, Digest, FirmwareReference, ReleasePredicate, TpmMaker,
};

/// What the verifier demands.
#[derive(Debug, Clone)]
pub struct Policy<'a> {
    /// What the pillar may run: one release, or the committed and the trial one.
    pub releases: &'a [&'a ReleasePredicate],
    /// The PCR bank; SHA-1 is refused.
    pub bank: Bank,
    /// Why the EK is believed to be a TPM's.
    pub ek: EkTrust<'a>,
    /// How it is known that the AK is in the TPM of the EK.
    pub same_tpm: SameTpm<'a>,
    /// What the firmware's PCRs must be.
    pub firmware: Firmware<'a>,
    /// What the state volume must be.
    pub state: StateVolume<'a>,
    /// Whether the firmware's log must end with the end of the boot services.
    pub exit_boot_services: ExitBootServices,
    /// TPM firmware that is known to be broken.
    pub denied_tpm_firmware: &'a [DeniedTpmFirmware],
    /// What Secure Boot must forbid, all of it in dbx and as entries of that kind.
    pub dbx_required: &'a [DbxEntry],
    /// Clock and counters of this pillar's last accepted evidence, perhaps of an earlier boot: they only count up.
    pub previous: Option<Counters>,
    /// Clock and counters of the evidence that opened the session on which this evidence came: the TPM was not reset
    /// since, so that both counters are the same.
    pub session: Option<Counters>,
}

/// Why the EK is believed to be a TPM's.
#[derive(Debug, Clone, Copy)]
pub enum EkTrust<'a> {
    /// A manufacturer's certificate says so.
    Chain {
        /// Roots of the TPM manufacturers that are trusted, as DER.
        roots: &'a [Vec<u8>],
        /// Certificates between them and the EKs', as DER. Not trusted by themselves.
        intermediates: &'a [Vec<u8>],
        /// SHA-256 of the `TPMT_PUBLIC` of the EKs that alone are trusted; empty: every one with a good certificate.
        allowed: &'a [Digest],
        /// Now, in seconds since 1970, for the certificates' dates.
        now_unix_s: u64,
    },
    /// It is the enrolled one, whose certificate was checked when its machine was admitted. The evidence need not bring
    /// the certificate; one that it brings is not looked at.
    Row {
        /// The row's EK, as `TPMT_PUBLIC`.
        ek_public: &'a [u8],
        /// Who made the TPM, as the row says. Of a maker that is not known, every denied version is.
        maker: Option<TpmMaker>,
    },
}

/// How it is known that the AK is in the TPM of the EK.
#[derive(Debug, Clone, Copy)]
pub enum SameTpm<'a> {
    /// The TPM gave back this secret, which was wrapped by [`make_credential`] for the EK and the AK's name.
    Activated(&'a [u8]),
    /// The AK has this name, which an earlier activation proved (enrolled machines, offline verification).
    PinnedAk(&'a [u8]),
}

/// What the firmware's PCRs ([`FIRMWARE_PCRS`]) must be.
#[derive(Debug, Clone, Copy)]
pub enum Firmware<'a> {
    /// Anything that the log explains; the values are returned, to be pinned.
    Learn,
    /// These values: all of the PCRs must be named. With its events a change can be named as well.
    Pinned(&'a FirmwareReference),
}

/// What the state volume must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateVolume<'a> {
    /// Open; which one is returned, to be pinned.
    Learn,
    /// The one that was measured with this text: another one is a look-alike, or the pillar's was erased.
    Pinned(&'a str),
    /// Open or not: for those who come to recover it.
    Any,
}
