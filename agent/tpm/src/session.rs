//! The session in which keys are used: an HMAC session salted to the EK, with encrypted parameters (TPM 2.0 part 1,
//! sections 19 and 21). Who listens on the wire between processor and TPM learns neither what is activated nor what is
//! signed, and who changes it there is noticed.
//!
//! It stays open: a salt costs a private operation of the EK, longer than the quote itself. Its nonces roll with each
//! command.

use crate::error::Fault;
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::SymmetricDefinition;
use tss_esapi::{Context, Error, WrapperErrorKind};

/// Which parameters of a command are hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// The first of the command and the first of the answer.
    Both,
    /// The first of the command; the answer has none that could be.
    Request,
}

/// Opens a session; salted, when a key is given.
pub(crate) fn start(
    context: &mut Context,
    salt_key: Option<KeyHandle>,
    kind: SessionType,
) -> Result<AuthSession, Error> {
    let symmetric = SymmetricDefinition::AES_128_CFB;
    context
        .start_auth_session(salt_key, None, None, kind, symmetric, HashingAlgorithm::Sha256)?
        .ok_or(Error::WrapperError(WrapperErrorKind::WrongValueFromTpm))
}

/// Says what the next command hides. Nothing goes to the TPM for that.
pub(crate) fn hide(context: &mut Context, session: AuthSession, hidden: Hidden) -> Result<(), Error> {
    let (attributes, mask) = SessionAttributesBuilder::new()
        .with_continue_session(true)
        .with_decrypt(true)
        .with_encrypt(hidden == Hidden::Both)
        .build();
    context.tr_sess_set_attributes(session, attributes, mask)
}

/// Closes a session.
pub(crate) fn close(context: &mut Context, session: AuthSession) -> Result<(), Fault> {
    crate::flush(context, SessionHandle::from(session).into())
}
