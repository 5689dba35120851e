//! The state of Secure Boot as PCR 7's events tell it: judged by content, because the value itself differs between
//! machines that are configured alike (owner GUIDs, order of dbx).
//!
//! Only events whose data is what was measured count. Variables come in the order that the firmware profile gives
//! them, each once, before the separator; authorities follow.

use crate::bytes::Reader;
use crate::content::{self, Content, Variable, content, is_measured, measured_authority};
use crate::hash::hash;
use crate::tcg::{EventLog, EventType};
use pillar_layout::pcr::SECURE_BOOT;
use pillar_model::{Bank, Digest, PcrIndex};

/// More signatures than this in one variable are refused; dbx has some 500 today.
pub const SIGNATURES_MAX: usize = 8192;

/// `EFI_GLOBAL_VARIABLE`, 8be4df61-93ca-11d2-aa0d-00e098032b8c, as in memory.
const GLOBAL: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
/// `EFI_IMAGE_SECURITY_DATABASE_GUID`, d719b2cb-3d3a-4596-a3bc-dad00e67656f.
const IMAGE_SECURITY: [u8; 16] =
    [0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f];
/// `EFI_CERT_X509_GUID`, a5c059a1-94e4-4aa7-87b5-ab155c2bf072.
const CERT_X509: [u8; 16] =
    [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];
/// `EFI_CERT_SHA256_GUID`, c1c41626-504c-4092-aca9-41f936934328.
const CERT_SHA256: [u8; 16] =
    [0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28];

/// The variables in the order in which firmware measures them (PFP section 3.3.4.8); the first five always.
const ORDER: [(&str, [u8; 16]); 7] = [
    ("SecureBoot", GLOBAL),
    ("PK", GLOBAL),
    ("KEK", GLOBAL),
    ("db", IMAGE_SECURITY),
    ("dbx", IMAGE_SECURITY),
    ("dbt", IMAGE_SECURITY),
    ("dbr", IMAGE_SECURITY),
];
const REQUIRED: usize = 5;

/// Why PCR 7's events do not tell a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An event's data is not what was measured.
    #[error("event {0}: its data does not hash to its digest")]
    NotMeasured(usize),
    /// An event's data cannot be read.
    #[error("event {number}: {source}")]
    Content {
        /// Number of the event.
        number: usize,
        /// Why.
        source: content::Error,
    },
    /// An event that has no place in PCR 7.
    #[error("event {number}: {event_type} has no place here")]
    Unexpected {
        /// Number of the event.
        number: usize,
        /// Its type.
        event_type: EventType,
    },
    /// A variable that is not known, twice, or out of order.
    #[error("event {number}: variable {name} is unknown, out of order or there twice")]
    Variable {
        /// Number of the event.
        number: usize,
        /// The variable.
        name: String,
    },
    /// A variable that must be measured is not.
    #[error("variable {0} was not measured")]
    Missing(&'static str),
    /// The `SecureBoot` variable is not one byte of 0 or 1.
    #[error("variable SecureBoot has a value that is neither 0 nor 1")]
    SecureBoot,
    /// A signature list is malformed.
    #[error("variable {name}: signature list is malformed: {reason}")]
    Signatures {
        /// The variable.
        name: String,
        /// Why.
        reason: String,
    },
    /// No separator, two, or one that tells of an error.
    #[error("not exactly one separator of a normal boot")]
    Separator,
}

/// One entry of a signature database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// SHA-256 over the DER of an X.509 certificate.
    Certificate(Digest),
    /// The Authenticode SHA-256 of an image.
    ImageSha256(Digest),
    /// Another kind, by its GUID as in memory.
    Other([u8; 16]),
}

/// What allowed an image to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    /// SHA-256 over the DER of the certificate in db that the image's signature leads to.
    Certificate(Digest),
    /// Something else: shim's variables, a digest in db.
    Other(String),
}

/// The state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Whether Secure Boot was on.
    pub enabled: bool,
    /// Platform key.
    pub pk: Vec<Signature>,
    /// Key exchange keys.
    pub kek: Vec<Signature>,
    /// What may start.
    pub db: Vec<Signature>,
    /// What may not.
    pub dbx: Vec<Signature>,
    /// Timestamp and recovery databases.
    pub others: Vec<Signature>,
    /// What firmware said beside it, such as "UEFI Debug Mode" or "DMA Protection Disabled".
    pub remarks: Vec<String>,
    /// What allowed the images to start, in order.
    pub authorities: Vec<Authority>,
}

/// The state that PCR 7's events tell. The replay of PCR 7 in this bank must have been proved first.
pub fn state(log: &EventLog<'_>, bank: Bank) -> Result<State, Error> {
    let mut variables: Vec<Variable<'_>> = Vec::new();
    let (mut remarks, mut authorities, mut separators) = (Vec::new(), Vec::new(), 0);
    let pcr7 = PcrIndex::new(SECURE_BOOT).ok();
    for event in log.events.iter().filter(|e| e.extends() && e.pcr == pcr7) {
        let number = event.number;
        let unexpected = Error::Unexpected { number, event_type: event.event_type };
        if event.event_type == EventType::VariableAuthority {
            let data = measured_authority(event, bank).ok_or(Error::NotMeasured(number))?;
            authorities.push(authority(data));
            continue;
        }
        if !is_measured(event, bank) {
            return Err(Error::NotMeasured(number));
        }
        match (event.event_type, content(event).map_err(|source| Error::Content { number, source })?) {
            (EventType::Separator, Content::Separator) if separators == 0 => separators = 1,
            (EventType::Separator, _) => return Err(Error::Separator),
            (EventType::VariableDriverConfig, Content::Variable(variable)) if separators == 0 => {
                variables.push(in_order(&variables, variable, number)?);
            }
            (EventType::EfiAction, Content::Action(text)) if separators == 0 => {
                remarks.push(text.into_owned());
            }
            _ => return Err(unexpected),
        }
    }
    if separators != 1 {
        return Err(Error::Separator);
    }
    build(&variables, remarks, authorities)
}

/// What PCR 7's events tell, as far as they do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Whether Secure Boot was on.
    pub enabled: Option<bool>,
    /// Platform key.
    pub pk: Option<Vec<Signature>>,
    /// Key exchange keys.
    pub kek: Option<Vec<Signature>>,
    /// What may start.
    pub db: Option<Vec<Signature>>,
    /// What may not.
    pub dbx: Option<Vec<Signature>>,
    /// What allowed the images to start, in order.
    pub authorities: Vec<Authority>,
    /// What firmware said beside it.
    pub remarks: Vec<String>,
    /// Why it is not a whole [`State`].
    pub problem: Option<Error>,
}

/// For tools that show logs: what the events tell even where they do not tell a whole state. The first value of a variable
/// counts. Never a base for a decision: that is [`state`].
#[must_use]
pub fn told(log: &EventLog<'_>, bank: Bank) -> Told {
    let mut told = Told { problem: state(log, bank).err(), ..Told::default() };
    for event in log.events.iter().filter(|e| e.extends() && e.pcr.map(PcrIndex::get) == Some(SECURE_BOOT)) {
        if event.event_type == EventType::VariableAuthority {
            told.authorities.extend(measured_authority(event, bank).map(authority));
        } else if is_measured(event, bank) {
            match content(event) {
                Ok(Content::Variable(variable)) => told.take(&variable),
                Ok(Content::Action(text)) => told.remarks.push(text.into_owned()),
                _ => {}
            }
        }
    }
    told
}

impl Told {
    fn take(&mut self, variable: &Variable<'_>) {
        if !ORDER.contains(&(&*variable.name, variable.guid)) {
            return;
        }
        let place = match &*variable.name {
            "SecureBoot" => {
                self.enabled = self.enabled.or_else(|| switch(variable.data));
                return;
            }
            "PK" => &mut self.pk,
            "KEK" => &mut self.kek,
            "db" => &mut self.db,
            "dbx" => &mut self.dbx,
            _ => return,
        };
        if place.is_none() {
            *place = signatures(variable.data).ok();
        }
    }
}

/// The value of the variable `SecureBoot`. Firmware without keys may measure it as absent.
fn switch(data: &[u8]) -> Option<bool> {
    match data {
        [1] => Some(true),
        [0] | [] => Some(false),
        _ => None,
    }
}

/// Lets a variable pass when it comes behind all that were seen.
fn in_order<'a>(seen: &[Variable<'a>], variable: Variable<'a>, number: usize) -> Result<Variable<'a>, Error> {
    let place = |v: &Variable<'_>| ORDER.iter().position(|(name, guid)| *name == v.name && *guid == v.guid);
    match (place(&variable), seen.last().and_then(place)) {
        (Some(0), None) if seen.is_empty() => Ok(variable),
        (Some(here), Some(before)) if here > before => Ok(variable),
        _ => Err(Error::Variable { number, name: variable.name.into_owned() }),
    }
}

fn build(
    variables: &[Variable<'_>],
    remarks: Vec<String>,
    authorities: Vec<Authority>,
) -> Result<State, Error> {
    let find = |name: &str| variables.iter().find(|v| v.name == name);
    if let Some((missing, _)) = ORDER.iter().take(REQUIRED).find(|(name, _)| find(name).is_none()) {
        return Err(Error::Missing(missing));
    }
    let lists = |name: &str| {
        find(name).map_or(Ok(Vec::new()), |v| {
            signatures(v.data).map_err(|reason| Error::Signatures { name: name.to_owned(), reason })
        })
    };
    let enabled = find("SecureBoot").and_then(|v| switch(v.data)).ok_or(Error::SecureBoot)?;
    let mut others = lists("dbt")?;
    others.extend(lists("dbr")?);
    Ok(State {
        enabled,
        pk: lists("PK")?,
        kek: lists("KEK")?,
        db: lists("db")?,
        dbx: lists("dbx")?,
        others,
        remarks,
        authorities,
    })
}

/// Entries of a signature database: `EFI_SIGNATURE_LIST`s one after the other (UEFI 2.10, section 32.4.1).
pub fn signatures(data: &[u8]) -> Result<Vec<Signature>, String> {
    let short = |e: crate::Short| e.to_string();
    let mut reader = Reader::new(data);
    let mut found = Vec::new();
    while reader.left() > 0 {
        let kind: [u8; 16] = reader.array().map_err(short)?;
        let (list, header, each) =
            (reader.u32().map_err(short)?, reader.u32().map_err(short)?, reader.u32().map_err(short)?);
        let body = (list as usize).checked_sub(28).ok_or("list shorter than its header")?;
        let mut body = Reader::new(reader.take(body).map_err(short)?);
        body.take(header as usize).map_err(short)?;
        let each = each as usize;
        if each <= 16 || !body.left().is_multiple_of(each) {
            return Err(format!("{} bytes do not hold entries of {each} bytes", body.left()));
        }
        while body.left() > 0 {
            if found.len() >= SIGNATURES_MAX {
                return Err(format!("over the limit of {SIGNATURES_MAX} entries"));
            }
            let (_owner, data) = body.take(each).map_err(short)?.split_at(16);
            found.push(signature(kind, data));
        }
    }
    Ok(found)
}

fn signature(kind: [u8; 16], data: &[u8]) -> Signature {
    match kind {
        CERT_X509 => Signature::Certificate(hash(Bank::Sha256, &[data])),
        CERT_SHA256 if data.len() == 32 => Signature::ImageSha256(Digest(data.to_vec())),
        other => Signature::Other(other),
    }
}

/// An authority event's variable holds one `EFI_SIGNATURE_DATA`: the owner's GUID and, from db, a certificate. Old shims
/// write lengths that do not fit; what cannot be read is no certificate of db.
fn authority(data: &[u8]) -> Authority {
    let Ok(variable) = content::variable(data) else {
        return Authority::Other(
            content::name(data).unwrap_or_else(|| "something that cannot be read".into()),
        );
    };
    match variable.data.split_at_checked(16) {
        // DER of a certificate begins with a SEQUENCE of a two-byte length; a bare digest of an image does not.
        Some((_owner, data))
            if variable.name == "db"
                && variable.guid == IMAGE_SECURITY
                && data.starts_with(&[0x30, 0x82]) =>
        {
            Authority::Certificate(hash(Bank::Sha256, &[data]))
        }
        _ => Authority::Other(variable.name.into_owned()),
    }
}
