//! IMA: what is executed from outside the sealed root is measured into PCR 10. The sealed root is measured as a whole, by its
//! root hash, and checked block by block whenever it is read; measuring each of its programs again would cost a second of
//! boot and drown what matters: on a sound pillar nothing else is ever executed, so its list stays empty.

use crate::{files, log};
use std::path::Path;

const POLICY_FILE: &str = "/sys/kernel/security/ima/policy";

/// Programs, libraries mapped to be executed, kernel modules, but for those on erofs (`EROFS_SUPER_MAGIC_V1`): only the
/// sealed root is. The kernel takes one policy, once.
const POLICY: &str = "\
dont_measure fsmagic=0xe0f5e1e2
measure func=BPRM_CHECK mask=MAY_EXEC
measure func=MMAP_CHECK mask=MAY_EXEC
measure func=MODULE_CHECK
";

/// Loads the policy. A machine without IMA boots; nothing of ours stands on PCR 10 alone.
pub fn load_policy() {
    if let Err(error) = files::set(Path::new(POLICY_FILE), POLICY) {
        log::warn(&format!("cannot load the IMA policy: {error}"));
    }
}
