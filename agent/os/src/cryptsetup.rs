//! LUKS2 volumes through libcryptsetup: the few calls that making, opening and re-keying one volume takes.
//!
//! The functions are declared by hand, as `libcryptsetup.h` (2.6, soname 12) has them. What is *in* a header is judged
//! by another crate before a device comes here. No other program of the image opens LUKS headers, so libcryptsetup's
//! lock files are off; so are its plug-ins for tokens, which it would load from the file system, and udev, which a
//! pillar does not have: libdevmapper makes the nodes in `/dev/mapper` itself.
//!
//! Header and data may be two files ([`Device::open_detached`]): then what was judged is what is opened, as nobody
//! else can change a header that is in memory.
//!
//! **Invariant:** every failure carries libcryptsetup's own words; no secret outlives its owner unwiped.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::ptr::{NonNull, null, null_mut};
use std::sync::{Mutex, Once, PoisonError};
use zeroize::Zeroizing;

/// Largest volume key (AES-256-XTS and HMAC-SHA-512), so that a damaged header cannot make us allocate.
const VOLUME_KEY_MAX_BYTES: usize = 64 + 64;
/// How much of what libcryptsetup says is kept for an error.
const MESSAGE_MAX_BYTES: usize = 1024;
/// libcryptsetup counts data offsets in sectors of this size.
const OFFSET_UNIT_BYTES: u64 = 512;
const LUKS2: &CStr = c"LUKS2";
const LOG_ERROR: c_int = 1;
/// No slot in particular: what a new one would have.
const ANY_SLOT: c_int = -1;
const PBKDF_NO_BENCHMARK: u32 = 1 << 1;
const ACTIVATE_KEYRING_KEY: u32 = 1 << 11;
const ACTIVATE_NO_JOURNAL: u32 = 1 << 12;
const ACTIVATE_NO_READ_WORKQUEUE: u32 = 1 << 24;
const ACTIVATE_NO_WRITE_WORKQUEUE: u32 = 1 << 25;
const WIPE_ZERO: c_int = 0;

/// `struct crypt_device`, libcryptsetup's own.
#[repr(C)]
struct Context {
    opaque: [u8; 0],
}

/// `struct crypt_pbkdf_type`.
#[repr(C)]
struct PbkdfType {
    kind: *const c_char,
    hash: *const c_char,
    time_ms: u32,
    iterations: u32,
    max_memory_kb: u32,
    parallel_threads: u32,
    flags: u32,
}

/// `struct crypt_params_luks2`.
#[repr(C)]
struct Luks2Params {
    pbkdf: *const PbkdfType,
    integrity: *const c_char,
    integrity_params: *const c_void,
    data_alignment: usize,
    data_device: *const c_char,
    sector_size: u32,
    label: *const c_char,
    subsystem: *const c_char,
}

type LogCallback = extern "C" fn(c_int, *const c_char, *mut c_void);
type WipeProgress = extern "C" fn(u64, u64, *mut c_void) -> c_int;

#[link(name = "cryptsetup")]
unsafe extern "C" {
    fn crypt_init(cd: *mut *mut Context, device: *const c_char) -> c_int;
    fn crypt_init_data_device(
        cd: *mut *mut Context,
        device: *const c_char,
        data_device: *const c_char,
    ) -> c_int;
    fn crypt_free(cd: *mut Context);
    fn crypt_set_log_callback(cd: *mut Context, log: Option<LogCallback>, usrptr: *mut c_void);
    fn crypt_metadata_locking(cd: *mut Context, enable: c_int) -> c_int;
    fn crypt_token_external_disable();
    fn crypt_set_data_offset(cd: *mut Context, sectors: u64) -> c_int;
    fn crypt_set_metadata_size(cd: *mut Context, metadata_size: u64, keyslots_size: u64) -> c_int;
    fn crypt_set_pbkdf_type(cd: *mut Context, pbkdf: *const PbkdfType) -> c_int;
    fn crypt_format(
        cd: *mut Context,
        kind: *const c_char,
        cipher: *const c_char,
        cipher_mode: *const c_char,
        uuid: *const c_char,
        volume_key: *const u8,
        volume_key_size: usize,
        params: *mut c_void,
    ) -> c_int;
    fn crypt_load(cd: *mut Context, requested_type: *const c_char, params: *mut c_void) -> c_int;
    fn crypt_keyslot_get_encryption(cd: *mut Context, keyslot: c_int, key_size: *mut usize) -> *const c_char;
    fn crypt_keyslot_set_encryption(cd: *mut Context, cipher: *const c_char, key_size: usize) -> c_int;
    fn crypt_keyslot_add_by_volume_key(
        cd: *mut Context,
        keyslot: c_int,
        volume_key: *const u8,
        volume_key_size: usize,
        passphrase: *const u8,
        passphrase_size: usize,
    ) -> c_int;
    fn crypt_keyslot_change_by_passphrase(
        cd: *mut Context,
        keyslot_old: c_int,
        keyslot_new: c_int,
        passphrase: *const u8,
        passphrase_size: usize,
        new_passphrase: *const u8,
        new_passphrase_size: usize,
    ) -> c_int;
    fn crypt_keyslot_destroy(cd: *mut Context, keyslot: c_int) -> c_int;
    fn crypt_token_json_set(cd: *mut Context, token: c_int, json: *const c_char) -> c_int;
    fn crypt_set_label(cd: *mut Context, label: *const c_char, subsystem: *const c_char) -> c_int;
    fn crypt_get_volume_key_size(cd: *mut Context) -> c_int;
    fn crypt_get_uuid(cd: *mut Context) -> *const c_char;
    fn crypt_volume_key_get(
        cd: *mut Context,
        keyslot: c_int,
        volume_key: *mut u8,
        volume_key_size: *mut usize,
        passphrase: *const u8,
        passphrase_size: usize,
    ) -> c_int;
    fn crypt_activate_by_passphrase(
        cd: *mut Context,
        name: *const c_char,
        keyslot: c_int,
        passphrase: *const u8,
        passphrase_size: usize,
        flags: u32,
    ) -> c_int;
    fn crypt_activate_by_volume_key(
        cd: *mut Context,
        name: *const c_char,
        volume_key: *const u8,
        volume_key_size: usize,
        flags: u32,
    ) -> c_int;
    fn crypt_resize(cd: *mut Context, name: *const c_char, sectors: u64) -> c_int;
    fn crypt_deactivate_by_name(cd: *mut Context, name: *const c_char, flags: u32) -> c_int;
    fn crypt_wipe(
        cd: *mut Context,
        device: *const c_char,
        pattern: c_int,
        offset: u64,
        length: u64,
        block_size: usize,
        flags: u32,
        progress: Option<WipeProgress>,
        usrptr: *mut c_void,
    ) -> c_int;
}

#[link(name = "devmapper")]
unsafe extern "C" {
    fn dm_udev_set_sync_support(sync_with_udev: c_int);
}

/// What libcryptsetup could not do.
#[derive(Debug, thiserror::Error)]
#[error("libcryptsetup cannot {operation} {}: {message}", .on.display())]
pub struct CryptError {
    /// What was asked for.
    pub operation: &'static str,
    /// On which device or volume.
    pub on: PathBuf,
    /// The last that libcryptsetup said about it, or what its error number means.
    pub message: String,
    /// Its error number.
    pub source: io::Error,
}

impl CryptError {
    /// The passphrase opens no key slot (or not the one that was named).
    #[must_use]
    pub fn is_wrong_key(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }
}

/// How a volume is made. What a `str` names is spelled as cryptsetup's own options are.
#[derive(Debug, Clone)]
pub struct FormatParams<'a> {
    /// Cipher, for example `aes`.
    pub cipher: &'a str,
    /// Mode and initialisation vector, for example `xts-plain64`.
    pub mode: &'a str,
    /// `hmac(sha256)`, or none. The volume key is then longer by the key of the HMAC.
    pub integrity: Option<&'a str>,
    /// Encryption sector.
    pub sector_bytes: u32,
    /// Where the data begins.
    pub data_offset_bytes: u64,
    /// One copy of the header: binary part and JSON.
    pub metadata_bytes: u64,
    /// Area of all key slots together.
    pub keyslots_bytes: u64,
    /// Label in the header.
    pub label: &'a str,
    /// Subsystem in the header.
    pub subsystem: &'a str,
    /// UUID of the volume; one is made up when there is none.
    pub uuid: Option<&'a str>,
    /// How the digest of the volume key is made.
    pub pbkdf2: Pbkdf2,
}

/// How a passphrase becomes a key: PBKDF2 with HMAC-SHA-256. Fit for passphrases that are random keys, not for people's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pbkdf2 {
    /// Rounds.
    pub iterations: u32,
}

/// How a key slot keeps its key.
#[derive(Debug, Clone, Copy)]
pub struct KeyslotParams<'a> {
    /// Cipher of the slot's area, for example `aes-xts-plain64`.
    pub encryption: &'a str,
    /// Its key.
    pub key_bytes: usize,
    /// How the passphrase becomes that key.
    pub pbkdf2: Pbkdf2,
}

/// How a volume is opened. Discards are never let through: they would tell which blocks are in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Activation {
    /// Hand the volume key to the kernel through its keyring, so that no later table listing shows it.
    pub keyring: bool,
    /// Encrypt and decrypt in the caller's own context instead of the kernel's work queues.
    pub no_workqueues: bool,
    /// Write data and integrity tags without a journal: only for benchmarks, a power cut then breaks sectors.
    pub no_journal: bool,
}

impl Activation {
    fn flags(self) -> u32 {
        let keyring = if self.keyring { ACTIVATE_KEYRING_KEY } else { 0 };
        let queues = ACTIVATE_NO_READ_WORKQUEUE | ACTIVATE_NO_WRITE_WORKQUEUE;
        let queues = if self.no_workqueues { queues } else { 0 };
        keyring | queues | if self.no_journal { ACTIVATE_NO_JOURNAL } else { 0 }
    }
}

/// What libcryptsetup said since it was last asked for.
type Log = Mutex<String>;

extern "C" fn collect(level: c_int, message: *const c_char, log: *mut c_void) {
    if level != LOG_ERROR || message.is_null() || log.is_null() {
        return;
    }
    // SAFETY: libcryptsetup passes a string that ends in a NUL and lives through this call, and the pointer that
    // crypt_set_log_callback was given: the log of the same Device, which outlives its context (see Drop).
    let (message, log) = unsafe { (CStr::from_ptr(message), &*log.cast::<Log>()) };
    let mut kept = log.lock().unwrap_or_else(PoisonError::into_inner);
    let message = message.to_string_lossy();
    if kept.len() + message.len() <= MESSAGE_MAX_BYTES {
        if !kept.is_empty() {
            kept.push_str("; ");
        }
        kept.push_str(message.trim().trim_end_matches('.'));
    }
}

/// What libcryptsetup says when there is no context yet.
static EARLY: Log = Mutex::new(String::new());

/// Settings that libcryptsetup and libdevmapper keep for the whole process.
fn set_up() {
    static ONCE: Once = Once::new();
    let log: *const Log = &raw const EARLY;
    // SAFETY: the functions take plain numbers and, where a context is asked for, null, which makes it the process's
    // setting. The callback has the type that is asked for, and the pointer it will be given is a static's.
    ONCE.call_once(|| unsafe {
        dm_udev_set_sync_support(0);
        crypt_token_external_disable();
        crypt_metadata_locking(null_mut(), 0);
        crypt_set_log_callback(null_mut(), Some(collect), log.cast_mut().cast());
    });
}

/// A device (or file) with a LUKS2 volume on it, or about to get one.
#[derive(Debug)]
pub struct Device {
    // Null is never kept: crypt_init succeeded.
    context: NonNull<Context>,
    path: PathBuf,
    // Boxed: libcryptsetup keeps its address.
    log: Box<Log>,
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: the context came from crypt_init, is freed once, and nothing uses it afterwards. It is freed before
        // the log that it points to, as fields are dropped after this.
        unsafe { crypt_free(self.context.as_ptr()) };
    }
}

impl Device {
    /// Opens a device or file. Nothing is read yet.
    pub fn open(path: &Path) -> Result<Self, CryptError> {
        let name = c_path(path)?;
        // SAFETY: both pointers are valid for the call; libcryptsetup copies the name and writes the context's pointer.
        Self::started(path, |context| unsafe { crypt_init(context, name.as_ptr()) })
    }

    /// Opens a volume whose header is in a file of its own and whose data is on another device.
    pub fn open_detached(header: &Path, data: &Path) -> Result<Self, CryptError> {
        let (header, name) = (c_path(header)?, c_path(data)?);
        Self::started(data, |context| {
            // SAFETY: the three pointers are valid for the call; libcryptsetup copies the names and writes the
            // context's pointer.
            unsafe { crypt_init_data_device(context, header.as_ptr(), name.as_ptr()) }
        })
    }

    fn started(path: &Path, start: impl FnOnce(*mut *mut Context) -> c_int) -> Result<Self, CryptError> {
        set_up();
        let mut context = null_mut();
        let code = start(&raw mut context);
        let Some(context) = NonNull::new(context).filter(|_| code >= 0) else {
            return Err(failed("open", path, code, &EARLY));
        };
        let log: Box<Log> = Box::default();
        let usrptr: *const Log = &raw const *log;
        // SAFETY: the context is live. The callback has the type that is asked for, and the pointer it will be given is
        // the log's, which stays where it is until the context was freed.
        unsafe { crypt_set_log_callback(context.as_ptr(), Some(collect), usrptr.cast_mut().cast()) };
        Ok(Device { context, path: path.to_owned(), log })
    }

    fn done(&self, operation: &'static str, code: c_int) -> Result<c_int, CryptError> {
        if code < 0 {
            return Err(failed(operation, &self.path, code, &self.log));
        }
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(code)
    }

    /// Writes a LUKS2 header without any key slot over what is there, and with integrity also the superblock that
    /// dm-integrity wants where the data begins.
    pub fn format_luks2(&mut self, params: &FormatParams<'_>, volume_key: &[u8]) -> Result<(), CryptError> {
        const WHAT: &str = "make a volume on";
        let text = |text: &str| c_text(text, WHAT, &self.path);
        let (cipher, mode) = (text(params.cipher)?, text(params.mode)?);
        let (label, subsystem) = (text(params.label)?, text(params.subsystem)?);
        let integrity = params.integrity.map(text).transpose()?;
        let uuid = params.uuid.map(text).transpose()?;
        let pbkdf = pbkdf_type(params.pbkdf2);
        let mut luks2 = Luks2Params {
            pbkdf: &raw const pbkdf,
            integrity: integrity.as_ref().map_or(null(), |text| text.as_ptr()),
            integrity_params: null(),
            data_alignment: 0,
            data_device: null(),
            sector_size: params.sector_bytes,
            label: label.as_ptr(),
            subsystem: subsystem.as_ptr(),
        };
        let context = self.context.as_ptr();
        // SAFETY: the context is live; plain numbers.
        self.done("place the data of", unsafe {
            crypt_set_data_offset(context, params.data_offset_bytes / OFFSET_UNIT_BYTES)
        })?;
        // SAFETY: as above.
        self.done("size the header of", unsafe {
            crypt_set_metadata_size(context, params.metadata_bytes, params.keyslots_bytes)
        })?;
        // SAFETY: the context is live. All strings end in a NUL and, like the parameters and the key (whose length is
        // given), live through the call; `luks2` has the layout that LUKS2 as type asks for. libcryptsetup copies.
        let code = unsafe {
            crypt_format(
                context,
                LUKS2.as_ptr(),
                cipher.as_ptr(),
                mode.as_ptr(),
                uuid.as_ref().map_or(null(), |text| text.as_ptr()),
                volume_key.as_ptr(),
                volume_key.len(),
                (&raw mut luks2).cast(),
            )
        };
        self.done(WHAT, code)?;
        Ok(())
    }

    /// Reads the header. To be called on a header that was judged before.
    pub fn load(&mut self) -> Result<(), CryptError> {
        // SAFETY: the context is live, the type ends in a NUL, and LUKS2 takes no parameters (null).
        let code = unsafe { crypt_load(self.context.as_ptr(), LUKS2.as_ptr(), null_mut()) };
        self.done("read the header of", code)?;
        Ok(())
    }

    /// The volume's UUID, once it was made or its header read.
    #[must_use]
    pub fn uuid(&self) -> Option<String> {
        // SAFETY: the context is live; the answer is null or a string of the context's, copied before it can change.
        unsafe {
            let uuid = crypt_get_uuid(self.context.as_ptr());
            (!uuid.is_null()).then(|| CStr::from_ptr(uuid).to_string_lossy().into_owned())
        }
    }

    /// Lets a passphrase open the volume, through a key slot that is free.
    pub fn add_keyslot(
        &mut self,
        slot: u32,
        volume_key: &[u8],
        passphrase: &[u8],
        params: &KeyslotParams<'_>,
    ) -> Result<(), CryptError> {
        self.keyslot_params(params)?;
        // SAFETY: the context is live; key and passphrase are given with their lengths and only read.
        let code = unsafe {
            crypt_keyslot_add_by_volume_key(
                self.context.as_ptr(),
                number(slot),
                volume_key.as_ptr(),
                volume_key.len(),
                passphrase.as_ptr(),
                passphrase.len(),
            )
        };
        self.done("add a key slot to", code)?;
        Ok(())
    }

    /// Gives a key slot another passphrase.
    pub fn change_keyslot(
        &mut self,
        slot: u32,
        old: &[u8],
        new: &[u8],
        params: &KeyslotParams<'_>,
    ) -> Result<(), CryptError> {
        self.keyslot_params(params)?;
        // SAFETY: the context is live; both passphrases are given with their lengths and only read.
        let code = unsafe {
            crypt_keyslot_change_by_passphrase(
                self.context.as_ptr(),
                number(slot),
                number(slot),
                old.as_ptr(),
                old.len(),
                new.as_ptr(),
                new.len(),
            )
        };
        self.done("change a key slot of", code)?;
        Ok(())
    }

    fn keyslot_params(&mut self, params: &KeyslotParams<'_>) -> Result<(), CryptError> {
        const WHAT: &str = "set the parameters of a key slot of";
        let encryption = c_text(params.encryption, WHAT, &self.path)?;
        let context = self.context.as_ptr();
        let mut key_bytes = 0;
        // SAFETY: the context is live and the size is written. The answer is null or a string of the context's, which
        // is compared before anything else can change it.
        let is_so = unsafe {
            let found = crypt_keyslot_get_encryption(context, ANY_SLOT, &raw mut key_bytes);
            !found.is_null()
                && CStr::from_ptr(found) == encryption.as_c_str()
                && key_bytes == params.key_bytes
        };
        if !is_so {
            self.keyslot_encryption(WHAT, &encryption, params.key_bytes)?;
        }
        let pbkdf = pbkdf_type(params.pbkdf2);
        // SAFETY: the context is live; the structure and its strings are copied.
        self.done(WHAT, unsafe { crypt_set_pbkdf_type(context, &raw const pbkdf) })?;
        Ok(())
    }

    /// Refused by libcryptsetup for a volume with integrity, whose key slots have its own default. So it is called only
    /// when something else is wanted.
    fn keyslot_encryption(
        &mut self,
        operation: &'static str,
        encryption: &CStr,
        key_bytes: usize,
    ) -> Result<(), CryptError> {
        // SAFETY: the context is live; the string ends in a NUL and is copied.
        let code =
            unsafe { crypt_keyslot_set_encryption(self.context.as_ptr(), encryption.as_ptr(), key_bytes) };
        self.done(operation, code)?;
        Ok(())
    }

    /// Overwrites and frees a key slot.
    pub fn destroy_keyslot(&mut self, slot: u32) -> Result<(), CryptError> {
        // SAFETY: the context is live; a plain number.
        let code = unsafe { crypt_keyslot_destroy(self.context.as_ptr(), number(slot)) };
        self.done("destroy a key slot of", code)?;
        Ok(())
    }

    /// Writes a token: a JSON object with `type` and `keyslots`.
    pub fn set_token(&mut self, id: u32, json: &str) -> Result<(), CryptError> {
        const WHAT: &str = "write a token of";
        let json = c_text(json, WHAT, &self.path)?;
        // SAFETY: the context is live; the string ends in a NUL and is parsed during the call.
        let code = unsafe { crypt_token_json_set(self.context.as_ptr(), number(id), json.as_ptr()) };
        self.done(WHAT, code)?;
        Ok(())
    }

    /// Removes a token.
    pub fn remove_token(&mut self, id: u32) -> Result<(), CryptError> {
        // SAFETY: the context is live; null as text means removal.
        let code = unsafe { crypt_token_json_set(self.context.as_ptr(), number(id), null()) };
        self.done("remove a token of", code)?;
        Ok(())
    }

    /// Sets label and subsystem.
    pub fn set_label(&mut self, label: &str, subsystem: &str) -> Result<(), CryptError> {
        const WHAT: &str = "label";
        let (label, subsystem) = (c_text(label, WHAT, &self.path)?, c_text(subsystem, WHAT, &self.path)?);
        // SAFETY: the context is live; both strings end in a NUL and are copied.
        let code = unsafe { crypt_set_label(self.context.as_ptr(), label.as_ptr(), subsystem.as_ptr()) };
        self.done(WHAT, code)?;
        Ok(())
    }

    /// The volume key, by the passphrase of one key slot.
    pub fn volume_key(&mut self, slot: u32, passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptError> {
        const WHAT: &str = "get the volume key of";
        // SAFETY: the context is live.
        let bytes = self.done(WHAT, unsafe { crypt_get_volume_key_size(self.context.as_ptr()) })?;
        let bytes = usize::try_from(bytes).unwrap_or(0).min(VOLUME_KEY_MAX_BYTES);
        let mut key = Zeroizing::new(vec![0; bytes]);
        let mut written = key.len();
        // SAFETY: the context is live. The key's buffer is given with its length, which libcryptsetup heeds (it fails
        // when the key is longer) and replaces by what it wrote; the passphrase is only read.
        let code = unsafe {
            crypt_volume_key_get(
                self.context.as_ptr(),
                number(slot),
                key.as_mut_ptr(),
                &raw mut written,
                passphrase.as_ptr(),
                passphrase.len(),
            )
        };
        self.done(WHAT, code)?;
        key.truncate(written);
        Ok(key)
    }

    /// Opens the volume as `/dev/mapper/NAME` by the passphrase of one key slot.
    pub fn activate(
        &mut self,
        name: &str,
        slot: u32,
        passphrase: &[u8],
        how: Activation,
    ) -> Result<(), CryptError> {
        const WHAT: &str = "open";
        let name = c_text(name, WHAT, &self.path)?;
        // SAFETY: the context is live; the name ends in a NUL, the passphrase is given with its length; both are read.
        let code = unsafe {
            crypt_activate_by_passphrase(
                self.context.as_ptr(),
                name.as_ptr(),
                number(slot),
                passphrase.as_ptr(),
                passphrase.len(),
                how.flags(),
            )
        };
        self.done(WHAT, code)?;
        Ok(())
    }

    /// Opens the volume as `/dev/mapper/NAME` by its volume key, which is checked against the header's digest.
    pub fn activate_by_volume_key(
        &mut self,
        name: &str,
        volume_key: &[u8],
        how: Activation,
    ) -> Result<(), CryptError> {
        const WHAT: &str = "open";
        let name = c_text(name, WHAT, &self.path)?;
        // SAFETY: the context is live; the name ends in a NUL, the key is given with its length; both are read.
        let code = unsafe {
            crypt_activate_by_volume_key(
                self.context.as_ptr(),
                name.as_ptr(),
                volume_key.as_ptr(),
                volume_key.len(),
                how.flags(),
            )
        };
        self.done(WHAT, code)?;
        Ok(())
    }

    /// Lets an open volume use all of its device again, after that grew.
    pub fn resize(&mut self, name: &str) -> Result<(), CryptError> {
        const WHAT: &str = "grow";
        let name = c_text(name, WHAT, &self.path)?;
        // SAFETY: the context is live; the name ends in a NUL; 0 means all of the device.
        let code = unsafe { crypt_resize(self.context.as_ptr(), name.as_ptr(), 0) };
        self.done(WHAT, code)?;
        Ok(())
    }

    /// Closes a volume that is open.
    pub fn deactivate(&mut self, name: &str) -> Result<(), CryptError> {
        const WHAT: &str = "close";
        let name = c_text(name, WHAT, &self.path)?;
        // SAFETY: the context is live; the name ends in a NUL.
        let code = unsafe { crypt_deactivate_by_name(self.context.as_ptr(), name.as_ptr(), 0) };
        self.done(WHAT, code)?;
        Ok(())
    }

    /// Writes zeros, past the page cache: a new volume with integrity has no valid tags until it was written. `path` is
    /// a device that is open (`/dev/mapper/…`) or, when none, the data device itself.
    pub fn wipe(
        &mut self,
        path: Option<&Path>,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<(), CryptError> {
        let path = path.map(c_path).transpose()?;
        // SAFETY: the context is live; the path is null or ends in a NUL; no callback is given, so no pointer for it
        // either.
        let code = unsafe {
            crypt_wipe(
                self.context.as_ptr(),
                path.as_ref().map_or(null(), |path| path.as_ptr()),
                WIPE_ZERO,
                offset_bytes,
                length_bytes,
                WIPE_BLOCK_BYTES,
                0,
                None,
                null_mut(),
            )
        };
        self.done("wipe", code)?;
        Ok(())
    }
}

/// How much a wipe writes at once.
const WIPE_BLOCK_BYTES: usize = 1024 * 1024;

/// What says that a key comes from PBKDF2. Its strings are static.
fn pbkdf_type(pbkdf2: Pbkdf2) -> PbkdfType {
    PbkdfType {
        kind: c"pbkdf2".as_ptr(),
        hash: c"sha256".as_ptr(),
        time_ms: 0,
        iterations: pbkdf2.iterations,
        max_memory_kb: 0,
        parallel_threads: 0,
        flags: PBKDF_NO_BENCHMARK,
    }
}

/// Slot and token numbers end at 32; what does not fit is refused by libcryptsetup as any other number out of range
/// (−1, which would mean "any", is never made).
fn number(number: u32) -> c_int {
    c_int::try_from(number).unwrap_or(c_int::MAX)
}

fn c_path(path: &Path) -> Result<CString, CryptError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| has_nul("use", path))
}

fn c_text(text: &str, operation: &'static str, on: &Path) -> Result<CString, CryptError> {
    CString::new(text).map_err(|_| has_nul(operation, on))
}

fn has_nul(operation: &'static str, on: &Path) -> CryptError {
    let source = io::ErrorKind::InvalidInput.into();
    CryptError { operation, on: on.to_owned(), message: "an argument has a NUL in it".to_owned(), source }
}

fn failed(operation: &'static str, on: &Path, code: c_int, log: &Log) -> CryptError {
    let said = std::mem::take(&mut *log.lock().unwrap_or_else(PoisonError::into_inner));
    let source = io::Error::from_raw_os_error(code.wrapping_neg());
    let message = if said.is_empty() { "it says nothing more".to_owned() } else { said };
    CryptError { operation, on: on.to_owned(), message, source }
}

#[cfg(test)]
mod tests;
