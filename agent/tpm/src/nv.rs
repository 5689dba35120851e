//! Reading NV indices: certificates, templates and nonces of the EK, which everybody may read.

use crate::{Error, Tpm};
use tss_esapi::abstraction::nv;
use tss_esapi::constants::CapabilityType;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::resource_handles::NvAuth;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::CapabilityData;
use x509_parser::prelude::{FromDer, X509Certificate};

/// First NV index of the range in which EK certificates are.
const RANGE: u32 = 0x01c0_0000;
/// NV indices asked for at once; a TPM has a few dozen.
const COUNT: u32 = 254;
/// Where certificates of authorities are by the EK Credential Profile: the first index and the last.
const CHAIN: (u32, u32) = (0x01c0_0100, 0x01c0_01ff);
/// Certificates of a chain that are read. Makers put two or three there.
const CHAIN_MAX: usize = 16;
/// Bytes of a chain that are read.
const CHAIN_MAX_BYTES: usize = 16 * 1024;

/// The NV indices that exist from the first one for EKs on, ascending: asked for, so that no read has to fail.
pub(crate) fn indices(tpm: &mut Tpm, first: u32) -> Result<Vec<u32>, Error> {
    const OPERATION: &str = "list the TPM's NV indices";
    let (capability, _) = tpm.run(OPERATION, |context| {
        Ok(context.get_capability(CapabilityType::Handles, first.max(RANGE), COUNT)?)
    })?;
    match capability {
        CapabilityData::Handles(handles) => Ok(handles.iter().map(|&handle| handle.into()).collect()),
        _ => Err(Error::Answer { operation: OPERATION }),
    }
}

/// The whole content of an index, with its padding.
pub(crate) fn read(tpm: &mut Tpm, operation: &'static str, index: u32) -> Result<Vec<u8>, Error> {
    tpm.run(operation, |context| {
        let handle = NvIndexTpmHandle::new(index)?;
        let object = context.tr_from_tpm_public(TpmHandle::NvIndex(handle))?;
        // With the index's own (empty) password: the owner's may belong to somebody. `read_full` closes the object.
        let auth = NvAuth::NvIndex(NvIndexHandle::from(object));
        Ok(context.execute_with_session(Some(AuthSession::Password), |context| {
            nv::read_full(context, auth, handle)
        })?)
    })
}

/// Certificates of authorities that the maker left in NV. Only a help for whoever verifies, who trusts none of them for
/// being here; so what cannot be read as certificates is left out and nothing is refused.
pub(crate) fn chain(tpm: &mut Tpm) -> Result<Vec<Vec<u8>>, Error> {
    let mut bytes = Vec::new();
    for index in indices(tpm, CHAIN.0)?.into_iter().filter(|index| (CHAIN.0..=CHAIN.1).contains(index)) {
        if bytes.len() >= CHAIN_MAX_BYTES {
            break;
        }
        match read(tpm, "read the EK's certificate chain", index) {
            Ok(part) => bytes.extend(part),
            Err(Error::Command { .. } | Error::Endorsement { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(CHAIN_MAX_BYTES);
    Ok(split(&bytes))
}

/// Certificates one after the other; one may go on in the next index, and padding may be between them.
fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut certificates = Vec::new();
    while certificates.len() < CHAIN_MAX {
        let padding = bytes.iter().take_while(|&&byte| matches!(byte, 0 | 0xff)).count();
        bytes = &bytes[padding..];
        let Ok((rest, _)) = X509Certificate::from_der(bytes) else { break };
        certificates.push(bytes[..bytes.len() - rest.len()].to_vec());
        bytes = rest;
    }
    certificates
}
