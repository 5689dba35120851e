//! What decides which image boots, as pure functions on bytes: the partition table and how it fits a larger disk, the
//! pair of partitions that a root hash names, the boot entry's counter, the kernel command line, the dm-verity superblock.
//!
//! No files, no devices: the caller reads (through a closure where the place depends on what was read before), and
//! nothing here trusts what it is given. **Invariant:** whatever the bytes are, these functions return; what they
//! find wrong is an error that names the check.
#![forbid(unsafe_code)]

mod cmdline;
mod entry;
mod erofs;
mod fit;
mod gpt;
mod pair;
mod verity;

pub use cmdline::{CmdlineError, root_hash, value};
pub use entry::{BootEntry, EntryError, Tries};
pub use erofs::{EROFS_HEAD_BYTES, erofs_bytes};
pub use fit::{ALIGNMENT, DiskWrite, Fit, FitError, fit, lay};
pub use gpt::{CopyError, Gpt, GptError, Guid, GuidError, Partition, limits as gpt_limits};
pub use pair::{PairError, RootPair, find_by_type, root_pair};
pub use verity::{Superblock, SuperblockError, TableError, limits as verity_limits};
