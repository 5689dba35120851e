//! IMA: what is executed is measured into PCR 10; files that are only read are not (the sealed root is measured as a
//! whole, by its root hash).

use crate::{files, log};
use std::path::Path;

const POLICY_FILE: &str = "/sys/kernel/security/ima/policy";

/// Programs, libraries mapped to be executed, kernel modules. The kernel takes one policy, once.
const POLICY: &str = "\
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
