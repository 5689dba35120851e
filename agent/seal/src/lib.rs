//! The state volume's key in the TPM: sealed so that only an image of the same signer, of a sufficient security epoch,
//! in the phase `sysinit`, on this machine with this firmware, unseals it, once a boot. And the minimum epoch, in an NV
//! index that only such an image writes.
//!
//! This crate speaks the TPM's wire format itself. tss-esapi 7 has no `TPM2_PolicyNV`, its successor is an alpha that
//! needs a newer tpm2-tss than Debian 12 has, and a session cannot be shared between the two; so the few commands that
//! are needed are here, without a C library, for a program that runs as root for a moment. The agent's identity and quotes
//! are `agent/tpm`'s.
//!
//! **Invariant:** every handle that a call opened is flushed before it returns; secrets are wiped when dropped.
#![forbid(unsafe_code)]

mod bytes;
mod device;
mod error;
mod session;

pub use error::Error;

use bytes::{Reader, sized};
use device::Device;
use error::base;
use pillar_layout::pcr;
use pillar_measure::policy::{
    self, ALG_RSASSA, ALG_SHA256, EPOCH_BYTES, EPOCH_INDEX, EPOCH_REF, Policy, STATE_REF, UNSIGNED_LE,
};
use pillar_model::{Digest, PcrIndex, SignedPolicies, SignedPolicy};
use session::{Hidden, Kind, Opening, Point, Session};
use zeroize::Zeroizing;

/// PCRs that must be as they were when the key was sealed: firmware code, option ROMs with their settings, Secure Boot
/// state. PCR 1 and 5 are left out: boot entries and the partition table change without anybody's ill will.
pub const FIRMWARE_PCRS: [(u8, &str); 4] = [
    (0, "firmware"),
    (2, "option ROMs"),
    (3, "settings of option ROMs"),
    (pcr::SECURE_BOOT, "Secure Boot state"),
];
/// A volume key has 64 bytes, with integrity 96; what is sealed is the passphrase of its key slot.
pub const SECRET_MAX_BYTES: usize = 128;

const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
const OWNER: u32 = 0x4000_0001;
const NULL: u32 = 0x4000_0007;
const PASSWORD: u32 = 0x4000_0009;
/// Where a storage root key is kept (TCG Provisioning Guidance, section 7.8).
const STORAGE_ROOT: u32 = 0x8100_0001;

const CC_EVICT_CONTROL: u32 = 0x0120;
const CC_NV_DEFINE_SPACE: u32 = 0x012a;
const CC_CREATE_PRIMARY: u32 = 0x0131;
const CC_NV_WRITE: u32 = 0x0137;
const CC_POLICY_NV: u32 = 0x0149;
const CC_NV_READ: u32 = 0x014e;
const CC_CREATE: u32 = 0x0153;
const CC_LOAD: u32 = 0x0157;
const CC_UNSEAL: u32 = 0x015e;
const CC_FLUSH_CONTEXT: u32 = 0x0165;
const CC_LOAD_EXTERNAL: u32 = 0x0167;
const CC_NV_READ_PUBLIC: u32 = 0x0169;
const CC_POLICY_AUTHORIZE: u32 = 0x016a;
const CC_READ_PUBLIC: u32 = 0x0173;
const CC_START_AUTH_SESSION: u32 = 0x0176;
const CC_VERIFY_SIGNATURE: u32 = 0x0177;
const CC_PCR_READ: u32 = 0x017e;
const CC_POLICY_PCR: u32 = 0x017f;
const CC_POLICY_NV_WRITTEN: u32 = 0x018f;

/// `TPMT_PUBLIC` of the storage root key up to its point: ECC P-256, restricted, decrypting, AES-128-CFB (TCG
/// Provisioning Guidance, section 7.5.1; the template of most other systems too).
const STORAGE_TEMPLATE: [u8; 22] = [
    0x00, 0x23, 0x00, 0x0b, 0x00, 0x03, 0x04, 0x72, 0x00, 0x00, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00,
    0x10, 0x00, 0x03, 0x00, 0x10,
];
/// `fixedTPM | fixedParent | adminWithPolicy | noDA`, a sealed object: no password opens it.
const SEALED_ATTRIBUTES: u32 = 0x0000_0492;
const ALG_KEYEDHASH: u16 = 0x0008;
const ALG_NULL: u16 = 0x0010;

/// A sealed secret as the TPM gave it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The content of `TPM2B_PUBLIC`.
    pub public: Vec<u8>,
    /// The content of `TPM2B_PRIVATE`, encrypted by the TPM.
    pub private: Vec<u8>,
    /// The firmware's PCRs when it was sealed: what [`Error::Firmware`] compares with. A hint; the TPM decides.
    pub firmware: Vec<(PcrIndex, Digest)>,
}

/// What an image brings along: its policy key and what that key signed for it.
#[derive(Debug, Clone)]
pub struct Image<'a> {
    /// `TPMT_PUBLIC` of the policy key, from the sealed root.
    pub policy_key: &'a [u8],
    /// The signed policies, from the UKI. Not trusted: the TPM checks the signatures.
    pub policies: &'a SignedPolicies,
}

/// An open TPM.
#[derive(Debug)]
pub struct Tpm {
    device: Device,
}

/// A loaded object with its name.
struct Loaded {
    handle: u32,
    name: Vec<u8>,
}

/// The storage root key.
struct StorageKey {
    key: Loaded,
    point: Point,
    /// Not persistent, so to be flushed.
    transient: bool,
}

impl Tpm {
    /// Opens the TPM: `device:/dev/tpmrm0`, or `swtpm:host=127.0.0.1,port=2321` in tests.
    pub fn open(name: &str) -> Result<Self, Error> {
        Ok(Self { device: Device::open(name)? })
    }

    /// Seals a secret to this image's policy key and to the firmware's PCRs as they stand.
    pub fn seal(&mut self, image: &Image<'_>, secret: &[u8]) -> Result<Sealed, Error> {
        const OPERATION: &str = "seal the state volume's key";
        if secret.is_empty() || secret.len() > SECRET_MAX_BYTES {
            return Err(Error::Sealed("a secret of this size is never made"));
        }
        let firmware = self.firmware()?;
        let policy = whole_policy(image.policy_key, &firmware);
        let mut public = Vec::new();
        public.extend(ALG_KEYEDHASH.to_be_bytes());
        public.extend(ALG_SHA256.to_be_bytes());
        public.extend(SEALED_ATTRIBUTES.to_be_bytes());
        public.extend(sized(&policy.digest().0));
        public.extend(ALG_NULL.to_be_bytes());
        public.extend(sized(&[]));
        let sensitive = Zeroizing::new([sized(&[]), sized(secret)].concat());
        let mut parameters = Zeroizing::new(sized(&sensitive));
        parameters.extend(sized(&public));
        parameters.extend(sized(&[]));
        parameters.extend(0u32.to_be_bytes());
        self.with_storage_key(|tpm, storage| {
            tpm.with_session(Kind::Hmac, storage, |tpm, session| {
                let hidden = Hidden { request: true, answer: false };
                let handles = [(storage.key.handle, &storage.key.name[..])];
                let answer =
                    tpm.authorized(OPERATION, CC_CREATE, &handles, &mut parameters, session, hidden)?;
                let mut reader = Reader(&answer);
                let (private, public) = (reader.sized()?.to_vec(), reader.sized()?.to_vec());
                Ok(Sealed { public, private, firmware: firmware.clone() })
            })
        })
    }

    /// Unseals. Each refusal says which condition does not hold.
    pub fn unseal(&mut self, image: &Image<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, Error> {
        const OPERATION: &str = "unseal the state volume's key";
        check_sealed(&sealed.public)?;
        let firmware = self.firmware()?;
        let index = self.epoch_index(image.policy_key)?;
        if index != EpochIndex::Written {
            return Err(Error::NoEpoch);
        }
        let result = self.with_storage_key(|tpm, storage| {
            let object = tpm.load(storage, sealed)?;
            let unsealed = tpm.with_session(Kind::Policy, storage, |tpm, session| {
                tpm.satisfy(
                    image,
                    &image.policies.state,
                    STATE_REF,
                    "open the state volume",
                    session,
                    |tpm, session| tpm.policy_nv(image.policies.epoch, session),
                )?;
                let literal = literal_pcrs(&firmware);
                tpm.policy_pcr(session, &literal.iter().map(|(pcr, _)| *pcr).collect::<Vec<_>>())?;
                let hidden = Hidden { request: false, answer: true };
                let handles = [(object.handle, &object.name[..])];
                tpm.authorized(OPERATION, CC_UNSEAL, &handles, &mut [], session, hidden)
            });
            tpm.flush(object.handle)?;
            unsealed
        });
        let answer = result.map_err(|error| self.why(error, image, sealed, &firmware))?;
        let secret = Zeroizing::new(Reader(&answer).sized()?.to_vec());
        Ok(secret)
    }

    /// The least security epoch that this machine accepts; `None` before a state volume was made.
    pub fn minimum_epoch(&mut self, policy_key: &[u8]) -> Result<Option<u64>, Error> {
        match self.epoch_index(policy_key)? {
            EpochIndex::Written => self.read_epoch().map(Some),
            EpochIndex::Absent | EpochIndex::Unwritten => Ok(None),
        }
    }

    /// Makes sure that there is a minimum epoch, at first this image's. Only in the phase `sysinit`.
    pub fn ensure_epoch(&mut self, image: &Image<'_>) -> Result<u64, Error> {
        const OPERATION: &str = "define the NV index of the minimum epoch";
        let name = policy::name(image.policy_key);
        // Without the bank no phase is right; the true reason comes first.
        self.firmware()?;
        let state = self.epoch_index(image.policy_key)?;
        if state == EpochIndex::Absent {
            let public = policy::epoch_public(&name, false);
            let parameters = [sized(&[]), sized(&public)].concat();
            self.with_password(OPERATION, CC_NV_DEFINE_SPACE, &[OWNER], &parameters)?;
        }
        if state == EpochIndex::Written {
            return self.read_epoch();
        }
        self.write_epoch(image, false)?;
        Ok(image.policies.epoch)
    }

    /// Raises the minimum epoch to this image's, when it is higher. Only in the phase `ready`.
    pub fn raise_epoch(&mut self, image: &Image<'_>) -> Result<u64, Error> {
        let minimum = self.minimum_epoch(image.policy_key)?.ok_or(Error::NoEpoch)?;
        let epoch = image.policies.epoch;
        if epoch < minimum {
            return Err(Error::Epoch { epoch, minimum });
        }
        if epoch > minimum {
            self.write_epoch(image, true)?;
        }
        Ok(epoch)
    }

    /// Values of the SHA-256 bank, in the order asked for, which must be ascending.
    pub fn pcrs(&mut self, indices: &[PcrIndex]) -> Result<Vec<(PcrIndex, Digest)>, Error> {
        const OPERATION: &str = "read PCRs";
        let mut values = Vec::new();
        // A TPM gives eight digests an answer at most.
        for some in indices.chunks(8) {
            let answer = self.plain(OPERATION, CC_PCR_READ, &[], &policy::selection(some))?;
            let mut reader = Reader(&answer);
            let _update_counter = reader.u32()?;
            // A bank that is off is left out of the answer, or selects nothing.
            let banks = reader.u32()?;
            let selection = policy::selection(some);
            if banks != 1 || reader.0.get(..selection.len() - 4) != selection.get(4..) {
                return Err(Error::Bank);
            }
            reader.take(selection.len() - 4)?;
            let count = reader.u32()?;
            if usize::try_from(count) != Ok(some.len()) {
                return Err(Error::Answer { operation: OPERATION });
            }
            for &index in some {
                values.push((index, Digest(reader.sized()?.to_vec())));
            }
        }
        Ok(values)
    }

    /// The firmware's PCRs.
    fn firmware(&mut self) -> Result<Vec<(PcrIndex, Digest)>, Error> {
        let indices: Vec<PcrIndex> = FIRMWARE_PCRS.iter().filter_map(|(pcr, _)| index(*pcr)).collect();
        self.pcrs(&indices)
    }

    /// Says which of the conditions that we can look at does not hold.
    fn why(
        &mut self,
        error: Error,
        image: &Image<'_>,
        sealed: &Sealed,
        firmware: &[(PcrIndex, Digest)],
    ) -> Error {
        let Some(code) = error.code() else { return error };
        match base(code) {
            error::INTEGRITY => return Error::Foreign,
            error::POLICY => {
                if let Ok(minimum) = self.read_epoch() {
                    return Error::Epoch { epoch: image.policies.epoch, minimum };
                }
            }
            _ => {}
        }
        if base(code) != error::POLICY_FAIL {
            return error;
        }
        for (pcr, then) in &sealed.firmware {
            let now = firmware.iter().find(|(other, _)| other == pcr).map(|(_, value)| value);
            if let Some(now) = now.filter(|now| *now != then) {
                let meaning =
                    FIRMWARE_PCRS.iter().find(|(p, _)| *p == pcr.get()).map_or("", |(_, meaning)| meaning);
                let (now, then) = (now.to_string(), then.to_string());
                return Error::Firmware { pcr: *pcr, meaning, now, then };
            }
        }
        let identity = index(pcr::IDENTITY).into_iter().collect::<Vec<_>>();
        if let Ok(values) = self.pcrs(&identity)
            && let Some((pcr, _)) = values.iter().find(|(_, value)| value.0.iter().any(|byte| *byte != 0))
        {
            return Error::Used { pcr: *pcr };
        }
        Error::Policy { code }
    }

    /// PolicyPCR(11), the caller's own condition, PolicyAuthorize: what all of our signed policies have in common.
    fn satisfy(
        &mut self,
        image: &Image<'_>,
        signed: &SignedPolicy,
        reference: &[u8],
        what: &'static str,
        session: &mut Session,
        condition: impl FnOnce(&mut Self, &mut Session) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let ticket = self.verify(image.policy_key, signed, reference)?;
        let uki: Vec<PcrIndex> = index(pcr::UKI).into_iter().collect();
        self.policy_pcr(session, &uki)?;
        condition(self, session)?;
        let mut parameters = sized(&signed.policy.0);
        parameters.extend(sized(reference));
        parameters.extend(sized(&policy::name(image.policy_key)));
        parameters.extend(ticket);
        let done = self.plain("authorize a policy", CC_POLICY_AUTHORIZE, &[session.handle], &parameters);
        match done {
            // The session's digest is not what was signed.
            Err(error) if error.code().map(base) == Some(error::VALUE) => Err(Error::Phase { what }),
            other => other.map(drop),
        }
    }

    /// Has the TPM check a policy's signature; `TPMT_TK_VERIFIED`.
    fn verify(
        &mut self,
        policy_key: &[u8],
        signed: &SignedPolicy,
        reference: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let mut parameters = sized(&[]);
        parameters.extend(sized(policy_key));
        parameters.extend(OWNER.to_be_bytes());
        let answer = self.plain("load the policy key", CC_LOAD_EXTERNAL, &[], &parameters)?;
        let handle = Reader(&answer).u32()?;
        let message = [&signed.policy.0[..], reference].concat();
        let digest = ring::digest::digest(&ring::digest::SHA256, &message);
        let mut parameters = sized(digest.as_ref());
        parameters.extend(ALG_RSASSA.to_be_bytes());
        parameters.extend(ALG_SHA256.to_be_bytes());
        parameters.extend(sized(&signed.signature.0));
        let verified = self.plain("check a policy's signature", CC_VERIFY_SIGNATURE, &[handle], &parameters);
        self.flush(handle)?;
        verified.map_err(|error| match error.code().map(base) {
            Some(error::SIGNATURE) => Error::Signature,
            _ => error,
        })
    }

    fn policy_pcr(&mut self, session: &Session, pcrs: &[PcrIndex]) -> Result<(), Error> {
        // An empty digest: whatever the PCRs hold; the policy's digest tells.
        let parameters = [sized(&[]), policy::selection(pcrs)].concat();
        self.plain("add PCRs to a policy", CC_POLICY_PCR, &[session.handle], &parameters).map(drop)
    }

    fn policy_nv(&mut self, epoch: u64, session: &Session) -> Result<(), Error> {
        let mut parameters = sized(&epoch.to_be_bytes());
        parameters.extend(0u16.to_be_bytes());
        parameters.extend(UNSIGNED_LE.to_be_bytes());
        let handles = [EPOCH_INDEX, EPOCH_INDEX, session.handle];
        self.with_password("compare the minimum epoch", CC_POLICY_NV, &handles, &parameters).map(drop)
    }

    fn write_epoch(&mut self, image: &Image<'_>, raise: bool) -> Result<(), Error> {
        const OPERATION: &str = "write the minimum epoch";
        let key_name = policy::name(image.policy_key);
        let name = policy::name(&policy::epoch_public(&key_name, raise));
        let mut parameters = sized(&image.policies.epoch.to_be_bytes());
        parameters.extend(0u16.to_be_bytes());
        self.with_storage_key(|tpm, storage| {
            tpm.with_session(Kind::Policy, storage, |tpm, session| {
                let (signed, what) = match raise {
                    true => (&image.policies.epoch_raise, "raise the minimum epoch"),
                    false => (&image.policies.epoch_first, "set the minimum epoch"),
                };
                tpm.satisfy(image, signed, EPOCH_REF, what, session, |tpm, session| match raise {
                    true => tpm.policy_nv(image.policies.epoch, session),
                    false => {
                        tpm.plain("add a condition", CC_POLICY_NV_WRITTEN, &[session.handle], &[0]).map(drop)
                    }
                })?;
                let handles = [(EPOCH_INDEX, &name[..]), (EPOCH_INDEX, &name[..])];
                let hidden = Hidden::default();
                tpm.authorized(OPERATION, CC_NV_WRITE, &handles, &mut parameters, session, hidden).map(drop)
            })
        })
    }

    fn read_epoch(&mut self) -> Result<u64, Error> {
        const OPERATION: &str = "read the minimum epoch";
        let parameters = [EPOCH_BYTES.to_be_bytes(), [0; 2]].concat();
        let answer = self.with_password(OPERATION, CC_NV_READ, &[EPOCH_INDEX, EPOCH_INDEX], &parameters)?;
        let bytes: [u8; 8] =
            Reader(&answer).sized()?.try_into().map_err(|_| Error::Answer { operation: OPERATION })?;
        Ok(u64::from_be_bytes(bytes))
    }

    /// The index, when it is exactly what this policy key makes; an impostor is refused.
    fn epoch_index(&mut self, policy_key: &[u8]) -> Result<EpochIndex, Error> {
        let answer = self.plain("look for the minimum epoch", CC_NV_READ_PUBLIC, &[EPOCH_INDEX], &[]);
        let answer = match answer {
            Err(error) if error.code().map(base) == Some(error::HANDLE) => return Ok(EpochIndex::Absent),
            other => other?,
        };
        let public = Reader(&answer).sized()?;
        let name = policy::name(policy_key);
        if public == policy::epoch_public(&name, true) {
            Ok(EpochIndex::Written)
        } else if public == policy::epoch_public(&name, false) {
            Ok(EpochIndex::Unwritten)
        } else {
            Err(Error::ForeignIndex { index: EPOCH_INDEX })
        }
    }

    fn load(&mut self, storage: &StorageKey, sealed: &Sealed) -> Result<Loaded, Error> {
        let mut parameters = [sized(&sealed.private), sized(&sealed.public)].concat();
        self.with_session(Kind::Hmac, storage, |tpm, session| {
            let handles = [(storage.key.handle, &storage.key.name[..])];
            let operation = "load the sealed key";
            let (handle, answer) = tpm.authorized_handle(
                operation,
                CC_LOAD,
                &handles,
                &mut parameters,
                session,
                Hidden::default(),
                true,
            )?;
            Ok(Loaded { handle, name: Reader(&answer).sized()?.to_vec() })
        })
    }

    /// The storage root key: the persistent one when it is of our template, else made, and kept when that works.
    fn with_storage_key<T>(
        &mut self,
        work: impl FnOnce(&mut Self, &StorageKey) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let storage = self.storage_key()?;
        let done = work(self, &storage);
        if storage.transient {
            self.flush(storage.key.handle)?;
        }
        done
    }

    fn storage_key(&mut self) -> Result<StorageKey, Error> {
        let operation = "read the storage root key";
        match self.plain(operation, CC_READ_PUBLIC, &[STORAGE_ROOT], &[]) {
            Ok(answer) => {
                let mut reader = Reader(&answer);
                let (public, name) = (reader.sized()?, reader.sized()?);
                if let Ok(point) = storage_point(public)
                    && policy::name(public) == name
                {
                    let key = Loaded { handle: STORAGE_ROOT, name: name.to_vec() };
                    return Ok(StorageKey { key, point, transient: false });
                }
            }
            Err(error) if error.code().map(base) == Some(error::HANDLE) => {}
            Err(error) => return Err(error),
        }
        let made = self.make_storage_key()?;
        let handles = [OWNER, made.key.handle];
        // Somebody else's key may be there, or no room: then it is made again next time.
        let _ = self.with_password(
            "keep the storage root key",
            CC_EVICT_CONTROL,
            &handles,
            &STORAGE_ROOT.to_be_bytes(),
        );
        Ok(made)
    }

    fn make_storage_key(&mut self) -> Result<StorageKey, Error> {
        let template = [&STORAGE_TEMPLATE[..], &sized(&[]), &sized(&[])].concat();
        let mut parameters = sized(&[0; 4]);
        parameters.extend(sized(&template));
        parameters.extend(sized(&[]));
        parameters.extend(0u32.to_be_bytes());
        let command = command(CC_CREATE_PRIMARY, &[OWNER], Some(&password_area(1)), &parameters);
        let operation = "make the storage root key";
        let answer = self.run(operation, &command)?;
        let mut reader = Reader(&answer);
        let handle = reader.u32()?;
        let _parameter_bytes = reader.u32()?;
        let public = reader.sized()?;
        let point = storage_point(public)?;
        Ok(StorageKey { key: Loaded { handle, name: policy::name(public) }, point, transient: true })
    }

    /// Opens a session salted to the storage key, and flushes it afterwards.
    fn with_session<T>(
        &mut self,
        kind: Kind,
        storage: &StorageKey,
        work: impl FnOnce(&mut Self, &mut Session) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let opening = Opening::new(&storage.point)?;
        let mut parameters = sized(opening.nonce());
        parameters.extend(&opening.encrypted_salt);
        parameters.push(kind.code());
        parameters.extend(session::algorithms());
        let handles = [storage.key.handle, NULL];
        let answer = self.plain("start a session", CC_START_AUTH_SESSION, &handles, &parameters)?;
        let mut reader = Reader(&answer);
        let handle = reader.u32()?;
        let mut session = opening.finish(handle, reader.sized()?);
        let done = work(self, &mut session);
        self.flush(handle)?;
        done
    }

    fn flush(&mut self, handle: u32) -> Result<(), Error> {
        self.plain("flush a handle", CC_FLUSH_CONTEXT, &[], &handle.to_be_bytes()).map(drop)
    }

    /// A command that needs no authorisation; what follows the answer's header.
    fn plain(
        &mut self,
        operation: &'static str,
        code: u32,
        handles: &[u32],
        parameters: &[u8],
    ) -> Result<Vec<u8>, Error> {
        self.run(operation, &command(code, handles, None, parameters))
    }

    /// A command authorised by the empty password; the parameters of its answer.
    fn with_password(
        &mut self,
        operation: &'static str,
        code: u32,
        handles: &[u32],
        parameters: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let answer = self.run(operation, &command(code, handles, Some(&password_area(1)), parameters))?;
        let mut reader = Reader(&answer);
        let bytes = usize::try_from(reader.u32()?).map_err(|_| Error::Answer { operation })?;
        Ok(reader.take(bytes)?.to_vec())
    }

    fn authorized(
        &mut self,
        operation: &'static str,
        code: u32,
        handles: &[(u32, &[u8])],
        parameters: &mut [u8],
        session: &mut Session,
        hidden: Hidden,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.authorized_handle(operation, code, handles, parameters, session, hidden, false)
            .map(|(_, answer)| answer)
    }

    /// A command authorised by a session; the handle and the parameters of its answer, checked and decrypted.
    #[allow(clippy::too_many_arguments)] // The parts of a command, each of another type.
    fn authorized_handle(
        &mut self,
        operation: &'static str,
        code: u32,
        handles: &[(u32, &[u8])],
        parameters: &mut [u8],
        session: &mut Session,
        hidden: Hidden,
        gives_handle: bool,
    ) -> Result<(u32, Zeroizing<Vec<u8>>), Error> {
        let names: Vec<&[u8]> = handles.iter().map(|(_, name)| *name).collect();
        let area = session.authorize(code, &names, parameters, hidden)?;
        let numbers: Vec<u32> = handles.iter().map(|(handle, _)| *handle).collect();
        let answer = Zeroizing::new(self.run(operation, &command(code, &numbers, Some(&area), parameters))?);
        let mut reader = Reader(&answer);
        let handle = if gives_handle { reader.u32()? } else { 0 };
        let bytes = usize::try_from(reader.u32()?).map_err(|_| Error::Answer { operation })?;
        let mut parameters = Zeroizing::new(reader.take(bytes)?.to_vec());
        session.accept(code, &mut parameters, reader.0, hidden)?;
        Ok((handle, parameters))
    }

    /// Sends a command; what follows the header of a good answer.
    fn run(&mut self, operation: &'static str, command: &[u8]) -> Result<Vec<u8>, Error> {
        let answer = self.device.exchange(operation, command)?;
        match device::code(&answer) {
            0 => Ok(answer.get(10..).unwrap_or_default().to_vec()),
            code => Err(Error::refused(operation, code)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EpochIndex {
    Absent,
    Unwritten,
    Written,
}

fn index(pcr: u8) -> Option<PcrIndex> {
    PcrIndex::new(pcr).ok()
}

/// The firmware's PCRs as they are, and PCR 15 as it is before the volume was opened.
fn literal_pcrs(firmware: &[(PcrIndex, Digest)]) -> Vec<(PcrIndex, Digest)> {
    let identity = index(pcr::IDENTITY).map(|pcr| (pcr, Digest(vec![0; 32])));
    firmware.iter().cloned().chain(identity).collect()
}

fn whole_policy(policy_key: &[u8], firmware: &[(PcrIndex, Digest)]) -> Policy {
    Policy::authorize(&policy::name(policy_key), STATE_REF).pcr(&literal_pcrs(firmware))
}

/// What is loaded must be a sealed object that a policy alone opens: anything else was put there by somebody.
fn check_sealed(public: &[u8]) -> Result<(), Error> {
    let head =
        [&ALG_KEYEDHASH.to_be_bytes()[..], &ALG_SHA256.to_be_bytes(), &SEALED_ATTRIBUTES.to_be_bytes()];
    if public.starts_with(&head.concat()) {
        Ok(())
    } else {
        Err(Error::Sealed("its attributes are not ours"))
    }
}

/// The point of a key that has our template.
fn storage_point(public: &[u8]) -> Result<Point, Error> {
    let rest = public
        .strip_prefix(&STORAGE_TEMPLATE)
        .ok_or(Error::StorageKey("it is not of the standard template"))?;
    let mut reader = Reader(rest);
    let padded = |coordinate: &[u8]| {
        let missing = 32usize.checked_sub(coordinate.len()).ok_or(bytes::Malformed)?;
        Ok::<_, Error>([vec![0; missing], coordinate.to_vec()].concat())
    };
    let point = Point { x: padded(reader.sized()?)?, y: padded(reader.sized()?)? };
    reader.end()?;
    Ok(point)
}

/// One password session with an empty password each.
fn password_area(sessions: u32) -> Vec<u8> {
    let mut area = (9 * sessions).to_be_bytes().to_vec();
    for _ in 0..sessions {
        area.extend(PASSWORD.to_be_bytes());
        area.extend([0; 5]);
    }
    area
}

fn command(code: u32, handles: &[u32], area: Option<&[u8]>, parameters: &[u8]) -> Vec<u8> {
    let mut body: Vec<u8> = code.to_be_bytes().to_vec();
    handles.iter().for_each(|handle| body.extend(handle.to_be_bytes()));
    body.extend_from_slice(area.unwrap_or_default());
    body.extend_from_slice(parameters);
    let tag = if area.is_some() { SESSIONS } else { NO_SESSIONS };
    let bytes = u32::try_from(body.len() + 6).unwrap_or(u32::MAX);
    [&tag.to_be_bytes()[..], &bytes.to_be_bytes(), &body].concat()
}
