//! Kernel modules by name and by device, with what they depend on. The lists (`modules.dep`, `modules.alias`,
//! `modules.softdep`, `modules.builtin`) are depmod's; they are looked up as text, since a sealed root has few modules.

use crate::{files, log};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// A directory for each module that is loaded.
const LOADED: &str = "/sys/module";
const MODULES: &str = "/usr/lib/modules";
/// A whole Debian kernel's `modules.alias` has 1.5 MB.
const LIST_MAX_BYTES: usize = 8 << 20;
/// What sysfs tells at most. A processor's lists its features, five bytes each.
const ALIAS_MAX_BYTES: usize = 4096;
/// Steps of one pattern match, against patterns made to be slow.
const MATCH_STEPS: usize = 100_000;

/// Why a module was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// Not in the lists.
    #[error("module {0} is not in this image")]
    Unknown(String),
    /// The kernel refused it.
    #[error("cannot load module {path}")]
    Load {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The lists, and what was asked for already.
#[derive(Debug, Default)]
pub struct Modules {
    directory: PathBuf,
    dependencies: String,
    aliases: String,
    soft: String,
    builtin: String,
    loaded: HashSet<String>,
    aliases_seen: HashSet<String>,
}

impl Modules {
    /// Reads the lists for the running kernel. An image without modules is one that needs none.
    pub fn open(release: &str) -> Modules {
        let directory = Path::new(MODULES).join(release);
        let list = |name: &str| match files::read_text(&directory.join(name), LIST_MAX_BYTES) {
            Ok(text) => text,
            Err(error) => {
                log::info(&format!("no {}/{name}: {error}", directory.display()));
                String::new()
            }
        };
        Modules {
            dependencies: list("modules.dep"),
            aliases: list("modules.alias"),
            soft: list("modules.softdep"),
            builtin: list("modules.builtin"),
            directory,
            ..Modules::default()
        }
    }

    /// Loads the modules that a list in `/etc/modules-load.d` names; what fails is a warning.
    pub fn load_list(&mut self, list: &str) {
        match files::read_text(Path::new(list), LIST_MAX_BYTES) {
            Ok(text) => names(&text).for_each(|name| self.load_or_warn(name)),
            Err(error) => log::info(&format!("no {list}: {error}")),
        }
    }

    /// Loads a module by name, warning when that fails.
    pub fn load_or_warn(&mut self, name: &str) {
        if let Err(error) = self.load(name) {
            log::warn(&log::chain(&error));
        }
    }

    /// Loads a module and what it depends on.
    pub fn load(&mut self, name: &str) -> Result<(), ModuleError> {
        let name = module_name(name);
        if self.loaded.contains(&name) || is_builtin(&self.builtin, &name) {
            return Ok(());
        }
        let Some(paths) = load_order(&self.dependencies, &name) else {
            return Err(ModuleError::Unknown(name));
        };
        let paths: Vec<String> = paths.into_iter().map(str::to_owned).collect();
        for path in paths {
            // Loaded by stage 1 perhaps. The kernel would say so too, but only after it checked the signature.
            let name = module_name(&path);
            let there = Path::new(LOADED).join(&name).exists();
            if !self.loaded.insert(name.clone()) || there {
                continue;
            }
            self.load_soft(&name, "pre:");
            let file = self.directory.join(&path);
            File::open(&file)
                .and_then(|open| pillar_os::load_module(&open, is_compressed(&path)))
                .map_err(|source| ModuleError::Load { path: file, source })?;
            self.load_soft(&name, "post:");
        }
        Ok(())
    }

    /// Loads what a module wants before or behind it. It may fail, as one way of several to compute the same often does
    /// on a processor without the instructions.
    fn load_soft(&mut self, name: &str, when: &str) {
        for wanted in soft_dependencies(&self.soft, name, when) {
            if let Err(error) = self.load(&wanted) {
                log::info(&log::chain(&error));
            }
        }
    }

    /// Loads what a device asks for. Most devices need nothing that the image has.
    pub fn load_for_device(&mut self, modalias: &str) {
        if modalias.len() > ALIAS_MAX_BYTES || !self.aliases_seen.insert(modalias.to_owned()) {
            return;
        }
        for name in modules_for(&self.aliases, modalias) {
            if let Err(error) = self.load(&name) {
                // For example a driver whose device another driver has: nothing that stops the boot.
                log::info(&log::chain(&error));
            }
        }
    }

    /// Loads what the devices that are there ask for.
    pub fn load_for_all_devices(&mut self) {
        for bus in entries(Path::new("/sys/bus")) {
            for device in entries(&bus.join("devices")) {
                if let Ok(modalias) = files::read_text(&device.join("modalias"), ALIAS_MAX_BYTES) {
                    self.load_for_device(modalias.trim_end());
                }
            }
        }
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Names in a list: one a line, `#` and `;` begin a comment.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
}

/// A module's name from its name or file: `kernel/drivers/md/dm-mod.ko.xz` is `dm_mod`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split_once(".ko").map_or(file, |(stem, _)| stem);
    stem.replace('-', "_")
}

/// True when [`module_name`] of the file is this, without making it.
fn is_module(path: &str, name: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split_once(".ko").map_or(file, |(stem, _)| stem);
    stem.len() == name.len()
        && stem.bytes().zip(name.bytes()).all(|(a, b)| a == b || (a == b'-' && b == b'_'))
}

fn is_compressed(path: &str) -> bool {
    !path.ends_with(".ko")
}

fn is_builtin(list: &str, name: &str) -> bool {
    list.lines().any(|line| is_module(line, name))
}

/// Files to load, in order, from `modules.dep` (`FILE: NEEDS…`, nearest first).
fn load_order<'a>(list: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let (file, needs) =
        list.lines().filter_map(|line| line.split_once(':')).find(|(file, _)| is_module(file, name))?;
    let mut order: Vec<&str> = needs.split_ascii_whitespace().collect();
    order.reverse();
    order.push(file);
    Some(order)
}

/// Modules that another one wants loaded `pre:` or `post:`, from `modules.softdep` (`softdep NAME pre: A B post: C`).
fn soft_dependencies(list: &str, name: &str, when: &str) -> Vec<String> {
    let words = list.lines().filter_map(|line| line.strip_prefix("softdep ")?.split_once(' '));
    words
        .filter(|(module, _)| *module == name)
        .flat_map(|(_, rest)| rest.split_ascii_whitespace().skip_while(|word| *word != when).skip(1))
        .take_while(|word| !word.ends_with(':'))
        .map(str::to_owned)
        .collect()
}

/// Modules for a device, from `modules.alias` (`alias PATTERN MODULE`).
fn modules_for(list: &str, modalias: &str) -> Vec<String> {
    let bus = modalias.split_once(':').map_or(modalias, |(bus, _)| bus);
    list.lines()
        .filter_map(|line| line.strip_prefix("alias ")?.split_once(' '))
        // Cheap first: nearly every pattern is of another bus.
        .filter(|(pattern, _)| pattern.starts_with(bus) && matches(pattern, modalias))
        .map(|(_, module)| module.trim().to_owned())
        .collect()
}

/// `fnmatch` without flags: `*`, `?`, `[a-z]`.
fn matches(pattern: &str, text: &str) -> bool {
    let (p, t) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut in_text) = (0, 0);
    // Where the last star was, and what of the text it has swallowed.
    let mut star: Option<(usize, usize)> = None;
    for _ in 0..MATCH_STEPS {
        if in_text == t.len() {
            return p[at..].iter().all(|byte| *byte == b'*');
        }
        match one(&p[at..], t[in_text]) {
            One::Star => {
                star = Some((at + 1, in_text));
                at += 1;
            }
            One::Fits(length) => {
                at += length;
                in_text += 1;
            }
            One::Not => {
                let Some((behind, swallowed)) = star else { return false };
                star = Some((behind, swallowed + 1));
                (at, in_text) = (behind, swallowed + 1);
            }
        }
    }
    false
}

enum One {
    Star,
    /// The pattern's next so many bytes fit the text's next byte.
    Fits(usize),
    Not,
}

fn one(pattern: &[u8], byte: u8) -> One {
    let fits = |fits: bool, length| if fits { One::Fits(length) } else { One::Not };
    match pattern {
        [b'*', ..] => One::Star,
        [b'?', ..] => One::Fits(1),
        [b'[', set @ ..] => match set.iter().position(|b| *b == b']') {
            Some(end) => fits(in_set(&set[..end], byte), end + 2),
            None => One::Not,
        },
        [literal, ..] => fits(*literal == byte, 1),
        [] => One::Not,
    }
}

fn in_set(mut set: &[u8], byte: u8) -> bool {
    while let Some((first, rest)) = set.split_first() {
        set = match rest {
            [b'-', last, ..] if (*first..=*last).contains(&byte) => return true,
            [b'-', _, rest @ ..] => rest,
            _ if *first == byte => return true,
            _ => rest,
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/drivers/md/dm-mod.ko.xz:
kernel/drivers/md/dm-bufio.ko.xz: kernel/drivers/md/dm-mod.ko.xz
kernel/drivers/md/dm-verity.ko: kernel/lib/rs.ko.xz kernel/drivers/md/dm-bufio.ko.xz kernel/drivers/md/dm-mod.ko.xz
";

    #[test]
    fn order() {
        assert_eq!(
            load_order(DEP, "dm_verity"),
            Some(vec![
                "kernel/drivers/md/dm-mod.ko.xz",
                "kernel/drivers/md/dm-bufio.ko.xz",
                "kernel/lib/rs.ko.xz",
                "kernel/drivers/md/dm-verity.ko",
            ])
        );
        assert_eq!(load_order(DEP, "dm"), None);
        assert!(is_compressed("a.ko.xz") && !is_compressed("a.ko"));
        assert!(is_builtin("kernel/drivers/virtio/virtio_pci.ko\n", "virtio_pci"));
        assert!(!is_builtin("kernel/drivers/virtio/virtio_pci.ko\n", "virtio"));
    }

    #[test]
    fn unknown_module_is_told() {
        let mut modules = Modules { dependencies: DEP.to_owned(), ..Modules::default() };
        assert!(
            matches!(modules.load("nothing-such"), Err(ModuleError::Unknown(name)) if name == "nothing_such")
        );
    }

    #[test]
    fn soft() {
        let list = "softdep libcrc32c pre: crc32c_intel crc32c_generic\nsoftdep a pre: b post: c d\nsoftdep e post: f\n";
        let table: [(&str, &str, &[&str]); 7] = [
            ("libcrc32c", "pre:", &["crc32c_intel", "crc32c_generic"]),
            ("libcrc32c", "post:", &[]),
            ("a", "pre:", &["b"]),
            ("a", "post:", &["c", "d"]),
            ("e", "pre:", &[]),
            ("e", "post:", &["f"]),
            ("crc32c", "pre:", &[]),
        ];
        for (name, when, wanted) in table {
            assert_eq!(soft_dependencies(list, name, when), wanted, "{name} {when}");
        }
    }

    #[test]
    fn lists() {
        let seen: Vec<_> = names("# comment\n\n erofs \n;x\ndm-verity\n").collect();
        assert_eq!(seen, ["erofs", "dm-verity"]);
    }

    #[test]
    fn patterns() {
        let table = [
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4", true),
            ("virtio:d00000002v*", "virtio:d00000001v00001AF4", false),
            ("pci:v00008086d000025ABsv*sd*bc*sc*i*", "pci:v00008086d000025ABsv0sd0bc08sc80i00", true),
            ("acpi*:QEMU0002:*", "acpi:QEMU0002:QEMU0002:", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a[0-3]c", "a2c", true),
            ("a[0-3]c", "a4c", false),
            ("a[xyz]*", "ay", true),
            ("a[", "a[", false),
            ("*a*b", "xxaxxb", true),
            ("*a*b", "xxaxx", false),
            ("", "", true),
            ("*", "", true),
        ];
        for (pattern, text, fits) in table {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
        let slow = "*a".repeat(400);
        assert!(!matches(&slow, &"a".repeat(399)));
    }

    #[test]
    fn devices() {
        let list =
            "# Aliases\nalias pci:v*d* other\nalias virtio:d00000002v* virtio_blk\nalias virtio:d*v* any\n";
        assert_eq!(modules_for(list, "virtio:d00000002v1"), ["virtio_blk", "any"]);
        assert_eq!(modules_for(list, "usb:v1"), Vec::<String>::new());
    }
}
