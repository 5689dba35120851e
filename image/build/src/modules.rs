//! The kernel modules that go into the image: names and what they depend on, with the index files that init reads cut
//! down to match. Pure over the text of depmod's files; see modules.dep(5).

use std::collections::{BTreeMap, BTreeSet};

/// The index of a kernel's modules.
#[derive(Debug, Clone, Default)]
pub struct Index {
    /// Module name (with `_`) to its file and the files it depends on, all as in `modules.dep`.
    modules: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
    aliases: Vec<(String, String)>,
    builtin_text: String,
}

/// A module that does not exist in this kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the kernel has no module {0:?}, neither as a file nor built in")]
pub struct UnknownModule(pub String);

/// What to put into an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Files below the modules directory as shipped, for example `kernel/fs/erofs/erofs.ko.xz`.
    pub files: BTreeSet<String>,
    /// `modules.dep` for them, naming them uncompressed.
    pub dep: String,
    /// `modules.alias` for them.
    pub alias: String,
    /// `modules.builtin`, whole: it is how init knows that a module needs no file.
    pub builtin: String,
}

/// The module name of a file: without directories and extensions, `-` as `_`.
#[must_use]
pub fn name_of(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

/// A module file's name once it is uncompressed.
#[must_use]
pub fn uncompressed(file: &str) -> &str {
    file.strip_suffix(".xz").unwrap_or(file)
}

impl Index {
    /// Reads the texts of `modules.dep`, `modules.alias` and `modules.builtin`.
    #[must_use]
    pub fn parse(dep: &str, alias: &str, builtin: &str) -> Self {
        let modules = dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, needs)| {
                (name_of(file), (file.to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
            })
            .collect();
        let aliases = alias
            .lines()
            .filter_map(|line| line.strip_prefix("alias ")?.rsplit_once(' '))
            .map(|(pattern, module)| (pattern.to_owned(), module.to_owned()))
            .collect();
        let names = builtin.lines().map(name_of).collect();
        Self { modules, builtin: names, aliases, builtin_text: builtin.to_owned() }
    }

    /// The named modules with everything they depend on.
    pub fn select<'a>(
        &self,
        names: impl IntoIterator<Item = &'a String>,
    ) -> Result<Selection, UnknownModule> {
        let mut files = BTreeSet::new();
        for name in names {
            let key = name.replace('-', "_");
            match self.modules.get(&key) {
                Some((file, needs)) => {
                    files.insert(file.clone());
                    files.extend(needs.iter().cloned());
                }
                None if self.builtin.contains(&key) => {}
                None => return Err(UnknownModule(name.clone())),
            }
        }
        let chosen: BTreeSet<String> = files.iter().map(|file| name_of(file)).collect();
        let mut dep = String::new();
        for file in &files {
            let needs =
                self.modules.get(&name_of(file)).map(|(_, needs)| needs.as_slice()).unwrap_or_default();
            dep.push_str(uncompressed(file));
            dep.push(':');
            for need in needs {
                dep.push(' ');
                dep.push_str(uncompressed(need));
            }
            dep.push('\n');
        }
        let alias = self
            .aliases
            .iter()
            .filter(|(_, module)| chosen.contains(&module.replace('-', "_")))
            .map(|(pattern, module)| format!("alias {pattern} {module}\n"))
            .collect();
        Ok(Selection { files, dep, alias, builtin: self.builtin_text.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/drivers/md/dm-mod.ko.xz:\n\
        kernel/drivers/md/dm-bufio.ko.xz: kernel/drivers/md/dm-mod.ko.xz\n\
        kernel/drivers/md/dm-verity.ko.xz: kernel/drivers/md/dm-bufio.ko.xz kernel/drivers/md/dm-mod.ko.xz\n\
        kernel/net/x.ko.xz:\n";
    const ALIAS: &str = "# comment\nalias devname:mapper/control dm_mod\nalias pci:v0000 x\n";
    const BUILTIN: &str = "kernel/drivers/virtio/virtio_pci.ko\n";

    fn select(names: &[&str]) -> Result<Selection, UnknownModule> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        Index::parse(DEP, ALIAS, BUILTIN).select(&names)
    }

    #[test]
    fn dependencies_come_along_and_the_index_says_uncompressed() {
        let selection = select(&["dm-verity", "virtio_pci"]).expect("known");
        assert_eq!(selection.files.len(), 3);
        assert!(selection.dep.contains(
            "kernel/drivers/md/dm-verity.ko: kernel/drivers/md/dm-bufio.ko kernel/drivers/md/dm-mod.ko\n"
        ));
        assert_eq!(selection.alias, "alias devname:mapper/control dm_mod\n");
        assert_eq!(selection.builtin, BUILTIN);
    }

    #[test]
    fn dash_and_underscore_are_one() {
        assert_eq!(select(&["dm_verity"]), select(&["dm-verity"]));
    }

    #[test]
    fn an_unknown_module_is_named() {
        assert_eq!(select(&["dm_mod", "nosuch"]), Err(UnknownModule("nosuch".to_owned())));
    }
}
