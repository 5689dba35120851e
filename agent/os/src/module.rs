//! Kernel modules. The kernel decompresses and checks the signature.

use rustix::io::Errno;
use rustix::system::finit_module;
use std::fs::File;
use std::io;

/// `MODULE_INIT_COMPRESSED_FILE` of `linux/module.h`.
const COMPRESSED: i32 = 4;

/// Loads a module from its file. A module that is there already is no error.
pub fn load(file: &File, compressed: bool) -> io::Result<()> {
    match finit_module(file, c"", if compressed { COMPRESSED } else { 0 }) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
