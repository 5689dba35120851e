//! The agent's TPM: its identity (EK with certificate, AK), quotes, and activation of credentials. The only crate that
//! knows tss-esapi; what goes in and out are bytes in the TPM's own wire format.
//!
//! Both keys are primaries made from fixed templates, so they are the same at every boot and nothing is kept. They are
//! made once per [`Tpm`] and held as saved contexts: no slot of the TPM stays occupied between two calls.
//!
//! **Invariant:** every handle that a call opened is flushed before it returns, whatever happened in between.
#![forbid(unsafe_code)]

mod ak;
mod ek;
mod error;

pub use error::Error;

use pillar_model::{Bank, PcrIndex};
use std::str::FromStr;
use std::thread::sleep;
use std::time::Duration;
use tss_esapi::attributes::ObjectAttributes;
use tss_esapi::constants::{CapabilityType, Tss2ResponseCodeKind};
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    CapabilityData, Data, EncryptedSecret, IdObject, PcrSelectionList, PcrSlot, Public, SignatureScheme,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::traits::Marshall;
use tss_esapi::utils::TpmsContext;
use tss_esapi::{Context, Error as TssError};

/// How often a command is sent again when the TPM says that it is busy or testing itself.
const TRIES: u32 = 10;
/// Wait before the second try; it doubles each time, so that all waits together stay under 6 s.
const FIRST_WAIT: Duration = Duration::from_millis(10);

/// An open TPM.
#[derive(Debug)]
pub struct Tpm {
    context: Context,
    keys: Option<Keys>,
}

/// What a verifier needs to know before it makes a challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `TPMT_PUBLIC` of the EK.
    pub ek_public: Vec<u8>,
    /// The EK's certificate, X.509 DER without NV padding.
    pub ek_certificate: Vec<u8>,
    /// `TPMT_PUBLIC` of the AK.
    pub ak_public: Vec<u8>,
    /// `TPMT_PUBLIC` of the TLS key.
    pub tls_public: Vec<u8>,
    /// `TPMS_ATTEST` of its certification by the AK.
    pub tls_attest: Vec<u8>,
    /// `TPMT_SIGNATURE` over that.
    pub tls_signature: Vec<u8>,
}

/// A quote as the TPM made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
}

/// The two keys, out of the TPM.
#[derive(Debug)]
struct Keys {
    identity: Identity,
    ek_kind: ek::Kind,
    ek: TpmsContext,
    ak: TpmsContext,
}

/// A primary key as it came out of the TPM.
struct Primary {
    public: Vec<u8>,
    parsed: Public,
    saved: TpmsContext,
}

impl Tpm {
    /// Opens the TPM behind a TCTI: `device:/dev/tpmrm0`, or `swtpm:host=127.0.0.1,port=2321` in tests.
    pub fn open(tcti: &str) -> Result<Self, Error> {
        let fail = |source| Error::Open { tcti: tcti.to_owned(), source };
        let config = TctiNameConf::from_str(tcti).map_err(fail)?;
        let context = Context::new(config).map_err(fail)?;
        Ok(Self { context, keys: None })
    }

    /// EK, its certificate, and AK.
    pub fn identity(&mut self) -> Result<Identity, Error> {
        self.keys().map(|keys| keys.identity.clone())
    }

    /// Quotes `pcrs` of `bank` with the AK over `qualifying_data`.
    pub fn quote(
        &mut self,
        bank: Bank,
        pcrs: &[PcrIndex],
        qualifying_data: &[u8; 32],
    ) -> Result<Quote, Error> {
        const OPERATION: &str = "quote";
        let fail = |source| Error::Command { operation: OPERATION, source };
        self.require_bank(bank, pcrs)?;
        let selection = selection(bank, pcrs).map_err(fail)?;
        let data = Data::try_from(qualifying_data.to_vec()).map_err(fail)?;
        let ak = self.keys()?.ak.clone();
        let made = self.attempt(OPERATION, |context| {
            let ak = context.context_load(ak.clone())?;
            context.execute_with_temporary_object(ak, |context, ak| {
                context.execute_with_session(Some(AuthSession::Password), |context| {
                    // The scheme is fixed in the AK's public area.
                    let scheme = SignatureScheme::Null;
                    context.quote(KeyHandle::from(ak), data.clone(), scheme, selection.clone())
                })
            })
        });
        let (attest, signature) = self.doubt_keys(made)?;
        Ok(Quote { attest: attest.marshall().map_err(fail)?, signature: signature.marshall().map_err(fail)? })
    }

    /// `TPM2_ActivateCredential`: the secret that was encrypted to this EK for this AK. `credential_blob` and
    /// `encrypted_secret` are the contents of `TPM2B_ID_OBJECT` and `TPM2B_ENCRYPTED_SECRET`.
    pub fn activate(&mut self, credential_blob: &[u8], encrypted_secret: &[u8]) -> Result<Vec<u8>, Error> {
        const OPERATION: &str = "activate credential";
        let fail = |source| Error::Credential { source };
        let blob = IdObject::try_from(credential_blob.to_vec()).map_err(fail)?;
        let secret = EncryptedSecret::try_from(encrypted_secret.to_vec()).map_err(fail)?;
        let keys = self.keys()?;
        let (ek, ak, kind) = (keys.ek.clone(), keys.ak.clone(), keys.ek_kind);
        // The same answers mean something else while a saved key is loaded: that the TPM does not know it any more.
        let mut loaded = false;
        let made = self.attempt(OPERATION, |context| {
            let ek = context.context_load(ek.clone())?;
            context.execute_with_temporary_object(ek, |context, ek| {
                let ak = context.context_load(ak.clone())?;
                loaded = true;
                context.execute_with_temporary_object(ak, |context, ak| {
                    kind.authorize(context, |context, ek_auth| {
                        let sessions = (Some(AuthSession::Password), Some(ek_auth), None);
                        context.execute_with_sessions(sessions, |context| {
                            context.activate_credential(ak.into(), ek.into(), blob.clone(), secret.clone())
                        })
                    })
                })
            })
        });
        let made = made.map(|digest| digest.to_vec()).map_err(|error| match error {
            Error::Command { source, .. } if loaded && error::blames_credential(source) => fail(source),
            other => other,
        });
        self.doubt_keys(made)
    }

    fn keys(&mut self) -> Result<&Keys, Error> {
        let keys = match self.keys.take() {
            Some(keys) => keys,
            None => self.make_keys()?,
        };
        Ok(self.keys.insert(keys))
    }

    fn make_keys(&mut self) -> Result<Keys, Error> {
        let ek::Ek { kind, primary: ek, certificate } = ek::find(self)?;
        let ak = self.primary("create AK", ak::template())?;
        let identity = Identity {
            ek_public: ek.public,
            ek_certificate: certificate,
            ak_public: ak.public,
            tls_public: Vec::new(),
            tls_attest: Vec::new(),
            tls_signature: Vec::new(),
        };
        Ok(Keys { identity, ek_kind: kind, ek: ek.saved, ak: ak.saved })
    }

    /// Makes a primary in the endorsement hierarchy and takes it out of the TPM again.
    fn primary(
        &mut self,
        operation: &'static str,
        template: Result<Public, TssError>,
    ) -> Result<Primary, Error> {
        let fail = |source| Error::Command { operation, source };
        let template = template.map_err(fail)?;
        let (parsed, saved) = self.attempt(operation, |context| {
            let made = context.execute_with_session(Some(AuthSession::Password), |context| {
                context.create_primary(Hierarchy::Endorsement, template.clone(), None, None, None, None)
            })?;
            let saved = context.execute_with_temporary_object(made.key_handle.into(), |context, key| {
                context.context_save(key)
            })?;
            Ok((made.out_public, saved))
        })?;
        Ok(Primary { public: parsed.marshall().map_err(fail)?, parsed, saved })
    }

    /// A quote of a bank that is switched off would succeed and say nothing: refused with what to do.
    fn require_bank(&mut self, bank: Bank, pcrs: &[PcrIndex]) -> Result<(), Error> {
        const OPERATION: &str = "read the allocated PCR banks";
        let (capability, _) =
            self.attempt(OPERATION, |context| context.get_capability(CapabilityType::AssignedPcr, 0, 1))?;
        let CapabilityData::AssignedPcr(banks) = capability else {
            return Err(Error::Answer { operation: OPERATION });
        };
        let algorithm = hashing_algorithm(bank);
        let allocated: Vec<PcrSlot> = banks
            .get_selections()
            .iter()
            .filter(|one| one.hashing_algorithm() == algorithm)
            .flat_map(|one| one.selected())
            .collect();
        let missing = |pcr: &&PcrIndex| slot(**pcr).is_ok_and(|slot| !allocated.contains(&slot));
        match pcrs.iter().find(missing) {
            None => Ok(()),
            Some(_) if allocated.is_empty() => Err(Error::Bank { bank }),
            Some(&pcr) => Err(Error::Pcr { bank, pcr }),
        }
    }

    /// Runs commands, again when the TPM only says "later".
    fn attempt<T>(
        &mut self,
        operation: &'static str,
        mut run: impl FnMut(&mut Context) -> Result<T, TssError>,
    ) -> Result<T, Error> {
        let mut wait = FIRST_WAIT;
        for _ in 1..TRIES {
            match run(&mut self.context) {
                Err(error) if error::is_busy(error) => sleep(wait),
                other => return other.map_err(|error| Error::command(operation, error)),
            }
            wait *= 2;
        }
        run(&mut self.context).map_err(|error| Error::command(operation, error))
    }

    /// After a failure of the TPM the keys are made anew: saved contexts do not outlive its reset or its clearing.
    fn doubt_keys<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if result.as_ref().is_err_and(|error| !error.is_about_the_request()) {
            self.keys = None;
        }
        result
    }
}

fn hashing_algorithm(bank: Bank) -> HashingAlgorithm {
    match bank {
        Bank::Sha1 => HashingAlgorithm::Sha1,
        Bank::Sha256 => HashingAlgorithm::Sha256,
        Bank::Sha384 => HashingAlgorithm::Sha384,
        Bank::Sha512 => HashingAlgorithm::Sha512,
    }
}

fn slot(pcr: PcrIndex) -> Result<PcrSlot, TssError> {
    PcrSlot::try_from(1 << pcr.get())
}

fn selection(bank: Bank, pcrs: &[PcrIndex]) -> Result<PcrSelectionList, TssError> {
    let slots = pcrs.iter().map(|&pcr| slot(pcr)).collect::<Result<Vec<_>, _>>()?;
    PcrSelectionList::builder().with_selection(hashing_algorithm(bank), &slots).build()
}

/// Attributes of a primary that never leaves its TPM; what it may do is added by the caller.
fn attributes(
    use_bits: tss_esapi::attributes::ObjectAttributesBuilder,
) -> Result<ObjectAttributes, TssError> {
    use_bits
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_restricted(true)
        .build()
}

/// The TPM's answer as a kind, when it is one that the library knows.
fn kind(error: TssError) -> Option<Tss2ResponseCodeKind> {
    match error {
        TssError::Tss2Error(code) => code.kind(),
        TssError::WrapperError(_) => None,
    }
}
