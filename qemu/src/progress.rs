//! What a boot says of itself on the console, in words for the person who waits.

use pillar_layout::console;

/// A line that tells how far a boot is.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Something to show.
    Passed(String),
    /// Init starts agent and workload: from here on the agent's port is worth asking.
    Ready(String),
    /// It will not come up; why.
    Failed(String),
}

/// What is looked for, in the console's own words.
const LANDMARKS: [&str; 9] = [
    "BdsDxe: starting",
    "BdsDxe: failed to load",
    "BdsDxe: No bootable option",
    "secure boot keys from directory",
    "EFI stub: UEFI Secure Boot",
    "Linux version ",
    console::INIT_PREFIX,
    "Kernel panic",
    "Security Violation",
];

/// The landmarks, to be waited for.
pub fn landmarks() -> &'static [&'static str] {
    &LANDMARKS
}

/// What a line with a landmark means; none for one that says nothing new.
pub fn step(line: &str) -> Option<Step> {
    let passed = |words: &str| Some(Step::Passed(words.to_owned()));
    let line = line.trim();
    let failed = |words: &str| Some(Step::Failed(format!("{words}: {line}")));
    if let Some((_, record)) = line.split_once(console::INIT_PREFIX) {
        return init(record.trim());
    }
    if line.contains("Kernel panic") {
        return failed("the kernel gave up");
    }
    if line.contains("No bootable option") || line.ends_with(": Not Found") {
        return failed("the firmware found nothing to boot");
    }
    if line.contains("failed to load") || line.contains("Security Violation") {
        return failed("the firmware refused the loader or the loader the kernel");
    }
    if line.contains("secure boot keys from directory") {
        return passed("Secure Boot keys are enrolled; the machine restarts");
    }
    if line.contains("BdsDxe: starting") {
        return passed("the firmware starts the loader");
    }
    if line.contains("UEFI Secure Boot is enabled") {
        return passed("Secure Boot is on; the kernel starts");
    }
    if line.contains("UEFI Secure Boot") {
        return passed("Secure Boot is off; the kernel starts");
    }
    line.contains("Linux version ").then(|| Step::Passed("kernel".to_owned()))
}

fn init(record: &str) -> Option<Step> {
    if let Some(reason) = record.strip_prefix(console::FATAL) {
        return Some(Step::Failed(format!("init gave up: {reason}")));
    }
    if record == console::READY {
        return Some(Step::Ready(format!("init: {record}")));
    }
    let worth = record.starts_with("phase ") || record == console::WORKLOAD_HEALTHY;
    worth.then(|| Step::Passed(format!("init: {record}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_steps() {
        let passed = |words: &str| Some(Step::Passed(words.to_owned()));
        for (line, expected) in [
            (
                "BdsDxe: starting Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)",
                passed("the firmware starts the loader"),
            ),
            (
                "Enrolling secure boot keys from directory: \\loader\\keys\\auto",
                passed("Secure Boot keys are enrolled; the machine restarts"),
            ),
            ("[    0.000000] Linux version 6.12", passed("kernel")),
            ("[    3.1] pillar-init: phase enter-initrd", passed("init: phase enter-initrd")),
            ("[    4.1] pillar-init: phase ready", Some(Step::Ready("init: phase ready".to_owned()))),
            ("[    4.1] pillar-init: workload: hello", None),
            ("[    5.1] pillar-init: fatal: no disk", Some(Step::Failed("init gave up: no disk".to_owned()))),
        ] {
            assert_eq!(step(line), expected, "{line}");
        }
        let failed = |line: &str| match step(line) {
            Some(Step::Failed(words)) => words,
            other => panic!("{line}: {other:?}"),
        };
        assert!(
            failed("BdsDxe: failed to load Boot0001 from Pci: Access Denied")
                .starts_with("the firmware refused")
        );
        assert!(failed("BdsDxe: failed to load Boot0001 from Pci: Not Found").contains("nothing to boot"));
        assert!(matches!(step("[ 1.0] Kernel panic - not syncing: VFS"), Some(Step::Failed(_))));
    }
}
