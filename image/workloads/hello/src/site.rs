//! The files of the page, in memory.

use crate::visits::Visits;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// All files together: what the workload may keep in memory for them.
const TOTAL_MAX_BYTES: u64 = 8 * 1024 * 1024;
/// Folders in folders.
const DEPTH_MAX: usize = 4;

/// One file.
pub struct File {
    /// Value of `Content-Type`.
    pub content_type: &'static str,
    /// Content.
    pub bytes: Vec<u8>,
}

/// Request path to file.
pub struct Site {
    files: BTreeMap<String, File>,
    /// Kept over restarts, when there is a place for it.
    pub visits: Option<Visits>,
}

impl Site {
    /// Reads every file under `root`; what is neither a file nor a folder (a link, for example) is refused.
    pub fn load(root: &Path, visits: Option<Visits>) -> Result<Self, String> {
        let mut site = Self { files: BTreeMap::new(), visits };
        site.read_folder(root, "/", DEPTH_MAX, &mut TOTAL_MAX_BYTES.clone())?;
        if site.files.contains_key("/index.html") {
            Ok(site)
        } else {
            Err(format!("{} has no index.html", root.display()))
        }
    }

    fn read_folder(
        &mut self,
        folder: &Path,
        prefix: &str,
        depth: usize,
        room: &mut u64,
    ) -> Result<(), String> {
        let cannot = |e| format!("cannot read {}: {e}", folder.display());
        for entry in fs::read_dir(folder).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(cannot)?);
            let name = entry.file_name().into_string().map_err(|n| format!("{n:?} is not UTF-8"))?;
            if kind.is_dir() && depth > 0 {
                self.read_folder(&path, &format!("{prefix}{name}/"), depth - 1, room)?;
            } else if kind.is_file() {
                let size = entry.metadata().map_err(cannot)?.len();
                *room = room
                    .checked_sub(size)
                    .ok_or_else(|| format!("{} is over {TOTAL_MAX_BYTES} bytes in all", folder.display()))?;
                let bytes = fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
                self.files
                    .insert(format!("{prefix}{name}"), File { content_type: content_type(&name), bytes });
            } else {
                return Err(format!("{} is neither a file nor a folder, or too deep", path.display()));
            }
        }
        Ok(())
    }

    /// The file of a request's path; `/` is the page.
    pub fn get(&self, path: &str) -> Option<&File> {
        self.files.get(if path == "/" { "/index.html" } else { path })
    }

    /// How many files.
    pub fn len(&self) -> usize {
        self.files.len()
    }
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        Some("txt") => "text/plain; charset=utf-8",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_and_paths_outside_it_do_not_exist() {
        let site = Site::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("www"), None).expect("the page");
        assert_eq!(site.get("/").expect("page").content_type, "text/html; charset=utf-8");
        assert_eq!(site.get("/style.css").expect("style").content_type, "text/css; charset=utf-8");
        for path in [
            "/../pillar.toml",
            "/..%2fpillar.toml",
            "//index.html",
            "/./index.html",
            "index.html",
            "",
            "/www",
        ] {
            assert!(site.get(path).is_none(), "{path}");
        }
    }

    #[test]
    fn a_folder_without_a_page_is_refused() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        assert!(Site::load(&src, None).err().expect("refused").contains("has no index.html"));
    }
}
