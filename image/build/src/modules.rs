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
    soft: BTreeMap<String, Vec<(Order, String)>>,
    builtin_text: String,
}

/// Whether a soft dependency is loaded before or behind the module that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Pre,
    Post,
}

/// The texts of depmod's files for one kernel.
#[derive(Debug, Clone, Copy)]
pub struct Texts<'a> {
    /// `modules.dep`
    pub dep: &'a str,
    /// `modules.alias`
    pub alias: &'a str,
    /// `modules.softdep`
    pub softdep: &'a str,
    /// `modules.builtin`
    pub builtin: &'a str,
}

/// A module that does not exist in this kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the kernel has no module {0:?}, neither as a file nor built in")]
pub struct UnknownModule(pub String);

/// What to put into an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Files below the modules directory as shipped, for example `kernel/fs/erofs/erofs.ko.xz`, and what they are
    /// called in the image.
    pub files: BTreeMap<String, String>,
    /// `modules.dep` for them, naming them as they are in the image.
    pub dep: String,
    /// `modules.alias` for them.
    pub alias: String,
    /// `modules.softdep` for them, with modules instead of aliases: what each wants to find loaded though it can do
    /// without. The kernel would ask modprobe for it, which the image does not have.
    pub softdep: String,
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
    /// Reads depmod's files.
    #[must_use]
    pub fn parse(texts: Texts<'_>) -> Self {
        let Texts { dep, alias, softdep, builtin } = texts;
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
        let mut index = Self {
            modules,
            builtin: names,
            aliases,
            soft: BTreeMap::new(),
            builtin_text: builtin.to_owned(),
        };
        for line in softdep.lines() {
            index.add_soft(line);
        }
        index
    }

    /// A line `softdep MODULE pre: NAME… post: NAME…`; names that no module of this kernel has are built in, or nothing
    /// that can be helped.
    fn add_soft(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let (Some("softdep"), Some(module)) = (words.next(), words.next()) else { return };
        let mut order = None;
        let mut found = Vec::new();
        for word in words {
            match (word, order) {
                ("pre:", _) => order = Some(Order::Pre),
                ("post:", _) => order = Some(Order::Post),
                (name, Some(order)) => found.extend(self.named(name).into_iter().map(|name| (order, name))),
                (_, None) => {}
            }
        }
        self.soft.entry(module.replace('-', "_")).or_default().extend(found);
    }

    /// The modules of that name, or with that alias.
    fn named(&self, name: &str) -> BTreeSet<String> {
        let key = name.replace('-', "_");
        if self.modules.contains_key(&key) {
            return [key].into();
        }
        let with_alias = self.aliases.iter().filter(|(pattern, _)| pattern.replace('-', "_") == key);
        with_alias.map(|(_, module)| module.replace('-', "_")).collect()
    }

    /// The named modules with everything they depend on: `unpacked` ones, and others `as_shipped` (compressed). What
    /// both need is unpacked.
    pub fn select(&self, unpacked: &[String], as_shipped: &[String]) -> Result<Selection, UnknownModule> {
        let mut files: BTreeMap<String, String> =
            self.closure(as_shipped)?.into_iter().map(|file| (file.clone(), file)).collect();
        for file in self.closure(unpacked)? {
            let name = uncompressed(&file).to_owned();
            files.insert(file, name);
        }
        let mut dep = String::new();
        for (file, name) in &files {
            let needs =
                self.modules.get(&name_of(file)).map(|(_, needs)| needs.as_slice()).unwrap_or_default();
            dep.push_str(name);
            dep.push(':');
            for need in needs {
                dep.push(' ');
                dep.push_str(files.get(need).unwrap_or(need));
            }
            dep.push('\n');
        }
        let chosen: BTreeSet<String> = files.keys().map(|file| name_of(file)).collect();
        let alias = self
            .aliases
            .iter()
            .filter(|(_, module)| chosen.contains(&module.replace('-', "_")))
            .map(|(pattern, module)| format!("alias {pattern} {module}\n"))
            .collect();
        let softdep = chosen.iter().filter_map(|name| self.softdep_line(name)).collect();
        Ok(Selection { files, dep, alias, softdep, builtin: self.builtin_text.clone() })
    }

    fn softdep_line(&self, name: &str) -> Option<String> {
        let soft = self.soft.get(name).filter(|soft| !soft.is_empty())?;
        let mut line = format!("softdep {name}");
        for (wanted, label) in [(Order::Pre, " pre:"), (Order::Post, " post:")] {
            let names: Vec<&str> =
                soft.iter().filter(|(order, _)| *order == wanted).map(|(_, name)| name.as_str()).collect();
            if !names.is_empty() {
                line.push_str(&format!("{label} {}", names.join(" ")));
            }
        }
        line.push('\n');
        Some(line)
    }

    /// The files of the named modules and of what they depend on, softly too; nothing for those that are built in.
    fn closure(&self, names: &[String]) -> Result<BTreeSet<String>, UnknownModule> {
        let mut files = BTreeSet::new();
        let mut todo: Vec<String> = names.iter().rev().map(|name| name.replace('-', "_")).collect();
        while let Some(key) = todo.pop() {
            let Some((file, needs)) = self.modules.get(&key) else {
                if self.builtin.contains(&key) {
                    continue;
                }
                return Err(UnknownModule(key));
            };
            if files.insert(file.clone()) {
                todo.extend(needs.iter().map(|file| name_of(file)));
                todo.extend(self.soft.get(&key).into_iter().flatten().map(|(_, name)| name.clone()));
            }
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/drivers/md/dm-mod.ko.xz:\n\
        kernel/drivers/md/dm-bufio.ko.xz: kernel/drivers/md/dm-mod.ko.xz\n\
        kernel/drivers/md/dm-verity.ko.xz: kernel/drivers/md/dm-bufio.ko.xz kernel/drivers/md/dm-mod.ko.xz\n\
        kernel/net/x.ko.xz:\n";
    const ALIAS: &str =
        "# comment\nalias devname:mapper/control dm_mod\nalias pci:v0000 x\nalias pci:v0001 dm-verity\n";
    const SOFTDEP: &str = "# comment\nsoftdep x pre: dm-mod crypto-none post: pci:v0001\nsoftdep y dm_mod\n";
    const BUILTIN: &str = "kernel/drivers/virtio/virtio_pci.ko\n";

    fn words(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    fn index() -> Index {
        Index::parse(Texts { dep: DEP, alias: ALIAS, softdep: SOFTDEP, builtin: BUILTIN })
    }

    fn select(names: &[&str]) -> Result<Selection, UnknownModule> {
        index().select(&words(names), &[])
    }

    #[test]
    fn dependencies_come_along_and_the_index_says_uncompressed() {
        let selection = select(&["dm-verity", "virtio_pci"]).expect("known");
        assert_eq!(selection.files.len(), 3);
        assert!(selection.dep.contains(
            "kernel/drivers/md/dm-verity.ko: kernel/drivers/md/dm-bufio.ko kernel/drivers/md/dm-mod.ko\n"
        ));
        assert_eq!(selection.alias, "alias devname:mapper/control dm_mod\nalias pci:v0001 dm-verity\n");
        assert_eq!(selection.builtin, BUILTIN);
    }

    #[test]
    fn spare_modules_stay_as_shipped_but_for_what_is_loaded_anyway() {
        let selection = index().select(&words(&["dm_mod"]), &words(&["dm_verity", "x"])).expect("known");
        let names: Vec<&str> = selection.files.values().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "kernel/drivers/md/dm-bufio.ko.xz",
                "kernel/drivers/md/dm-mod.ko",
                "kernel/drivers/md/dm-verity.ko.xz",
                "kernel/net/x.ko.xz",
            ]
        );
        let line = "kernel/drivers/md/dm-verity.ko.xz: kernel/drivers/md/dm-bufio.ko.xz kernel/drivers/md/dm-mod.ko\n";
        assert!(selection.dep.contains(line), "{}", selection.dep);
        assert_eq!(selection.alias.lines().count(), 3);
    }

    #[test]
    fn soft_dependencies_come_along_as_modules_whatever_they_are_called() {
        let selection = select(&["x"]).expect("known");
        let names: Vec<String> = selection.files.keys().map(|file| name_of(file)).collect();
        assert_eq!(names, ["dm_bufio", "dm_mod", "dm_verity", "x"]);
        assert_eq!(selection.softdep, "softdep x pre: dm_mod post: dm_verity\n");
        assert_eq!(select(&["dm_mod"]).expect("known").softdep, "");
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
