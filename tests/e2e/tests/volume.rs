//! State volumes on a real kernel, without a pillar around them: what needs device-mapper.

use anyhow::Result;
use pillar_e2e::guest;

/// More than the file system has before it is grown, less than a busy host minds.
const DISK_MIB: u64 = 320;

// attack: C1 P6
#[test]
fn volumes_are_made_cut_short_made_anew_grown_reopened_and_damaged() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let said = guest::run("do=prove", DISK_MIB, folder.path())?;
    let expected = [
        "plain: closed, opened again, all files as written, e2fsck finds nothing",
        "integrity: closed, opened again, all files as written, e2fsck finds nothing",
        // What is written over encrypted data is read as something else, and nobody notices …
        "plain: damaged, files read wrong",
        // … unless there is integrity.
        "integrity: damaged, files refused",
    ];
    for line in expected {
        assert!(said.lines.iter().any(|said| said == line), "not said: {line}\nsaid: {:#?}", said.lines);
    }
    Ok(())
}
