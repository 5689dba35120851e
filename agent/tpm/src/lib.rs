//! The agent's TPM: its identity (EK with certificate, AK, TLS key), quotes, TLS signatures, activation of credentials,
//! and its clock. The only crate that knows tss-esapi; what goes in and out are bytes in the TPM's own wire format.
//!
//! All keys are primaries made from fixed templates, so they are the same at every boot and nothing is kept. They are
//! made once per [`Tpm`] and held as saved contexts: between two calls one session stays in the TPM and no key. TPM
//! commands of a call, when the keys are made: quote 3, TLS signature 3, activation 8 (5 with a high range EK), clock 1.
//!
//! A TPM that was reset does not know the saved keys and the session any more: they are made anew, once, within the call.
//!
//! **Invariant:** every handle that a call opened is flushed before it returns, whatever happened in between, but for
//! the one session; that one is flushed after a failure and when the [`Tpm`] is dropped.
#![forbid(unsafe_code)]

mod ak;
mod clock;
mod ek;
mod error;
mod nv;
mod session;
mod tls;

pub use clock::{Clock, ClockReader};
pub use error::Error;

use error::Fault;
use pillar_model::{Bank, PcrIndex};
use session::Hidden;
use std::str::FromStr;
use std::thread::sleep;
use std::time::Duration;
use tss_esapi::constants::{CapabilityType, SessionType, Tss2ResponseCodeKind};
use tss_esapi::handles::{KeyHandle, ObjectHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Attest, CapabilityData, Data, Digest, EncryptedSecret, IdObject, PcrSelectionList, PcrSlot, Public,
    Signature, SignatureScheme,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::traits::Marshall;
use tss_esapi::utils::TpmsContext;
use tss_esapi::{Context, Error as TssError};

/// How often a command is sent again when the TPM says that it is busy or testing itself.
const TRIES: u32 = 10;
/// Wait before the second try; it doubles each time, so that all waits together stay under 6 s.
const FIRST_WAIT: Duration = Duration::from_millis(10);

/// A TPM, opened when it is needed.
#[derive(Debug)]
pub struct Tpm {
    tcti: String,
    /// `None` after a failure: closing it freed whatever was left in the TPM.
    context: Option<Context>,
    keys: Option<Keys>,
    clock: Option<ClockReader>,
    pinned_ek: Option<Vec<u8>>,
}

/// What a verifier needs to know before it makes a challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `TPMT_PUBLIC` of the EK.
    pub ek_public: Vec<u8>,
    /// The EK's certificate, X.509 DER without NV padding.
    pub ek_certificate: Vec<u8>,
    /// Certificates of authorities that the maker put into NV beside it, DER, at most 16; most TPMs have none.
    pub ek_chain: Vec<Vec<u8>>,
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

/// The keys, out of the TPM, and what belongs to them.
#[derive(Debug)]
struct Keys {
    identity: Identity,
    session: AuthSession,
    ek: TpmsContext,
    ek_authorization: ek::Authorization,
    ak: TpmsContext,
    tls: TpmsContext,
    /// The banks that are on. They change with a reset, and then the keys are made anew.
    banks: PcrSelectionList,
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
        let context = Some(open_context(tcti)?);
        Ok(Self { tcti: tcti.to_owned(), context, keys: None, clock: None, pinned_ek: None })
    }

    /// From now on nothing is done with another EK than this one (`TPMT_PUBLIC`): sessions are salted to a key that is
    /// known beforehand, so that even who answers in the TPM's place learns nothing.
    pub fn pin_ek(&mut self, ek_public: &[u8]) {
        self.pinned_ek = Some(ek_public.to_vec());
        if self.keys.as_ref().is_some_and(|keys| keys.identity.ek_public != ek_public) {
            self.close();
        }
    }

    /// EK, its certificate, AK and TLS key.
    pub fn identity(&mut self) -> Result<Identity, Error> {
        if self.keys.is_none() {
            self.keys = Some(self.make_keys().inspect_err(|_| self.close())?);
        }
        match &self.keys {
            Some(keys) => Ok(keys.identity.clone()),
            None => Err(Error::Answer { operation: "make keys" }),
        }
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
        let selection = selection(bank, pcrs).map_err(fail)?;
        let data = Data::try_from(qualifying_data.to_vec()).map_err(fail)?;
        let made = self.with_keys(OPERATION, |context, keys| {
            require_bank(&keys.banks, bank, pcrs)?;
            with_loaded(context, &keys.ak, |context, ak| {
                // With the AK's empty password: a quote holds nothing that is not shown to whoever asks, its signature says
                // whether it was changed, and in the session it would take the libraries five times as long.
                Ok(context.execute_with_session(Some(AuthSession::Password), |context| {
                    // The scheme is fixed in the AK's public area.
                    context.quote(KeyHandle::from(ak), data.clone(), SignatureScheme::Null, selection.clone())
                })?)
            })
        });
        attestation(OPERATION, made?)
    }

    /// Signs a SHA-256 digest with the TLS key. Returns an `ECDSA-Sig-Value` in DER, as TLS wants it.
    pub fn sign_tls(&mut self, sha256: &[u8; 32]) -> Result<Vec<u8>, Error> {
        const OPERATION: &str = "sign for TLS";
        let fail = |source| Error::Command { operation: OPERATION, source };
        let digest = Digest::try_from(sha256.to_vec()).map_err(fail)?;
        let signature = self.with_keys(OPERATION, |context, keys| {
            with_loaded(context, &keys.tls, |context, key| {
                session::hide(context, keys.session, Hidden::Request)?;
                let ticket = tls::no_ticket()?;
                Ok(context.execute_with_session(Some(keys.session), |context| {
                    context.sign(KeyHandle::from(key), digest.clone(), SignatureScheme::Null, ticket)
                })?)
            })
        })?;
        tls::der(&signature).map_err(fail)
    }

    /// The TPM's clock and counters.
    pub fn clock(&mut self) -> Result<Clock, Error> {
        if self.clock.is_none() {
            self.clock = Some(ClockReader::open(&self.tcti)?);
        }
        match &mut self.clock {
            Some(reader) => reader.read().inspect_err(|_| self.clock = None),
            None => Err(Error::Answer { operation: "read the TPM's clock" }),
        }
    }

    /// `TPM2_ActivateCredential`: the secret that was encrypted to this EK for this AK. `credential_blob` and
    /// `encrypted_secret` are the contents of `TPM2B_ID_OBJECT` and `TPM2B_ENCRYPTED_SECRET`.
    pub fn activate(&mut self, credential_blob: &[u8], encrypted_secret: &[u8]) -> Result<Vec<u8>, Error> {
        let fail = |source| Error::Credential { source };
        let blob = IdObject::try_from(credential_blob.to_vec()).map_err(fail)?;
        let secret = EncryptedSecret::try_from(encrypted_secret.to_vec()).map_err(fail)?;
        let made = self.with_keys("activate credential", |context, keys| {
            with_loaded(context, &keys.ek, |context, ek| {
                with_loaded(context, &keys.ak, |context, ak| {
                    keys.ek_authorization.authorize(context, |context, ek_auth| {
                        session::hide(context, keys.session, Hidden::Both)?;
                        context
                            .execute_with_sessions((Some(keys.session), Some(ek_auth), None), |context| {
                                context.activate_credential(
                                    ak.into(),
                                    ek.into(),
                                    blob.clone(),
                                    secret.clone(),
                                )
                            })
                            .map_err(Fault::credential)
                    })
                })
            })
        });
        made.map(|digest| digest.to_vec())
    }

    /// Runs commands with the keys; once more with new keys when the TPM does not know these any more. After a failure of
    /// the TPM everything is closed.
    fn with_keys<T>(
        &mut self,
        operation: &'static str,
        mut run: impl FnMut(&mut Context, &Keys) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        for last in [false, true] {
            let keys = match self.keys.take() {
                Some(keys) => keys,
                None => self.make_keys().inspect_err(|_| self.close())?,
            };
            let result = self.attempt(operation, |context| run(context, &keys));
            match result {
                Err(Fault::Stale(_)) if !last => self.close(),
                Err(fault) => {
                    let error = fault.named(operation);
                    if error.is_about_the_request() {
                        self.keys = Some(keys);
                    } else {
                        self.close();
                    }
                    return Err(error);
                }
                Ok(value) => {
                    self.keys = Some(keys);
                    return Ok(value);
                }
            }
        }
        Err(Error::Answer { operation })
    }

    fn make_keys(&mut self) -> Result<Keys, Error> {
        let ek::Ek { authorization, primary: ek, certificate } = ek::find(self)?;
        if self.pinned_ek.as_ref().is_some_and(|pinned| *pinned != ek.public) {
            return Err(Error::OtherEk);
        }
        let ek_chain = nv::chain(self)?;
        let session = self.start_session(&ek.saved)?;
        let ak = self.primary("create AK", ak::template(), session)?;
        let tls = self.primary("create TLS key", tls::template(), session)?;
        let certification = self.certify(&tls, &ak, session)?;
        let banks = self.banks()?;
        let identity = Identity {
            ek_public: ek.public,
            ek_certificate: certificate,
            ek_chain,
            ak_public: ak.public,
            tls_public: tls.public,
            tls_attest: certification.attest,
            tls_signature: certification.signature,
        };
        Ok(Keys {
            identity,
            session,
            ek: ek.saved,
            ek_authorization: authorization,
            ak: ak.saved,
            tls: tls.saved,
            banks,
        })
    }

    fn start_session(&mut self, ek: &TpmsContext) -> Result<AuthSession, Error> {
        self.run("start a session", |context| {
            with_loaded(context, ek, |context, ek| {
                Ok(session::start(context, Some(KeyHandle::from(ek)), SessionType::Hmac)?)
            })
        })
    }

    /// The AK's statement that the TLS key is in its TPM.
    fn certify(&mut self, tls: &Primary, ak: &Primary, session: AuthSession) -> Result<Quote, Error> {
        const OPERATION: &str = "certify the TLS key";
        let data = Data::try_from(tls::CERTIFY_DATA.to_vec())
            .map_err(|source| Error::Command { operation: OPERATION, source })?;
        let made = self.run(OPERATION, |context| {
            with_loaded(context, &tls.saved, |context, tls| {
                with_loaded(context, &ak.saved, |context, ak| {
                    session::hide(context, session, Hidden::Both)?;
                    // Two authorisations, and a session serves for one: its HMAC covers the whole command.
                    let sessions = (Some(session), Some(AuthSession::Password), None);
                    Ok(context.execute_with_sessions(sessions, |context| {
                        context.certify(tls, KeyHandle::from(ak), data.clone(), SignatureScheme::Null)
                    })?)
                })
            })
        })?;
        attestation(OPERATION, made)
    }

    /// Makes a primary in the endorsement hierarchy and takes it out of the TPM again.
    fn primary(
        &mut self,
        operation: &'static str,
        template: Result<Public, TssError>,
        session: AuthSession,
    ) -> Result<Primary, Error> {
        let fail = |source| Error::Command { operation, source };
        let template = template.map_err(fail)?;
        let (parsed, saved) = self.run(operation, |context| {
            if session != AuthSession::Password {
                session::hide(context, session, Hidden::Both)?;
            }
            let made = context.execute_with_session(Some(session), |context| {
                context.create_primary(Hierarchy::Endorsement, template.clone(), None, None, None, None)
            })?;
            with_handle(context, made.key_handle.into(), |context, key| {
                Ok((made.out_public, context.context_save(key)?))
            })
        })?;
        Ok(Primary { public: parsed.marshall().map_err(fail)?, parsed, saved })
    }

    fn banks(&mut self) -> Result<PcrSelectionList, Error> {
        const OPERATION: &str = "read the allocated PCR banks";
        let read = |context: &mut Context| Ok(context.get_capability(CapabilityType::AssignedPcr, 0, 1)?);
        match self.run(OPERATION, read)?.0 {
            CapabilityData::AssignedPcr(banks) => Ok(banks),
            _ => Err(Error::Answer { operation: OPERATION }),
        }
    }

    /// Like `attempt`, with the error named.
    fn run<T>(
        &mut self,
        operation: &'static str,
        run: impl FnMut(&mut Context) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        self.attempt(operation, run).map_err(|fault| fault.named(operation))
    }

    /// Runs commands, again when the TPM only says "later".
    fn attempt<T>(
        &mut self,
        operation: &'static str,
        mut run: impl FnMut(&mut Context) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let context = match self.context.take() {
            Some(context) => context,
            None => open_context(&self.tcti).map_err(Fault::Named)?,
        };
        let context = self.context.insert(context);
        match patiently(|| run(context)) {
            Err(fault) if fault.is_busy() => Err(Fault::Named(Error::Busy { operation })),
            other => other,
        }
    }

    /// Gives everything up. Dropping the context flushes what it still has in the TPM.
    fn close(&mut self) {
        self.keys = None;
        self.context = None;
    }
}

fn open_context(tcti: &str) -> Result<Context, Error> {
    let fail = |source| Error::Open { tcti: tcti.to_owned(), source };
    let config = TctiNameConf::from_str(tcti).map_err(fail)?;
    Context::new(config).map_err(fail)
}

/// Runs commands again that the TPM only says "later" to.
fn patiently<T>(mut run: impl FnMut() -> Result<T, Fault>) -> Result<T, Fault> {
    let mut wait = FIRST_WAIT;
    for _ in 1..TRIES {
        match run() {
            Err(fault) if fault.is_busy() => sleep(wait),
            other => return other,
        }
        wait *= 2;
    }
    run()
}

/// Takes a key or a session out of the TPM. A "later" is for this command alone: were all repeated that came before it,
/// each round would leave one more in the TPM.
fn flush(context: &mut Context, handle: ObjectHandle) -> Result<(), Fault> {
    match patiently(|| Ok(context.flush_context(handle)?)) {
        Err(fault) if fault.is_busy() => Err(Error::Busy { operation: "make room in it" }.into()),
        other => other,
    }
}

/// Loads a saved key for the time of `run`.
fn with_loaded<T>(
    context: &mut Context,
    saved: &TpmsContext,
    run: impl FnOnce(&mut Context, ObjectHandle) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let handle = context.context_load(saved.clone()).map_err(Fault::load)?;
    with_handle(context, handle, run)
}

/// Flushes `handle` after `run`, whose own error is the one to tell.
fn with_handle<T>(
    context: &mut Context,
    handle: ObjectHandle,
    run: impl FnOnce(&mut Context, ObjectHandle) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let result = run(context, handle);
    let flushed = flush(context, handle);
    let value = result?;
    flushed?;
    Ok(value)
}

fn attestation(operation: &'static str, (attest, signature): (Attest, Signature)) -> Result<Quote, Error> {
    let fail = |source| Error::Command { operation, source };
    Ok(Quote { attest: attest.marshall().map_err(fail)?, signature: signature.marshall().map_err(fail)? })
}

/// A quote of a bank that is switched off would succeed and say nothing: refused with what to do.
fn require_bank(banks: &PcrSelectionList, bank: Bank, pcrs: &[PcrIndex]) -> Result<(), Error> {
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

/// The TPM's answer as a kind, when it is one that the library knows. Codes of the libraries in between are not the
/// TPM's, although the library decodes them as if they were.
fn kind(error: TssError) -> Option<Tss2ResponseCodeKind> {
    match error {
        TssError::Tss2Error(code) if error::layer(error) == Some(0) => code.kind(),
        TssError::Tss2Error(_) | TssError::WrapperError(_) => None,
    }
}
