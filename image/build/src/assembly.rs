//! One build from beginning to end. Everything is made in a scratch folder beside `out/`; at the end the files are
//! renamed in, `release.json` last: where it is, everything that it names is.

use crate::compile::{Compiler, Linking};
use crate::disk::{self, EspFile};
use crate::error::{Error, file};
use crate::flavour::{self, Flavour};
use crate::options::{BuildOptions, TreesOptions, check_version};
use crate::progress::Progress;
use crate::run::{Scratch, uninterrupted};
use crate::seal::{Sealer, SigningKey, UkiParts, UkiPolicies, cmdline};
use crate::sealed::{self, Contents, Parts};
use crate::tree::{Content, Source};
use crate::workload::{self, Workload};
use crate::workshop::Workshop;
use crate::{archive, digest, host, lock, policy, provenance, release, sbom};
use pillar_keys::{KeySource, Keys, Variable};
use pillar_layout::gpt;
use pillar_model::{Release, RootHash};
use pillar_tools::lock::Lock;
use pillar_tools::{Network, Tools};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// What a build needs beside out/ at its peak: disk image, root as tar and erofs, UKI before and after signing.
pub(crate) const SCRATCH_MIB: u64 = 500;

/// 2025-01-01: the time of everything in an image whose source has no history to take one from.
const FALLBACK_EPOCH: u64 = 1_735_689_600;

pub(crate) const PID_1: &str = "pillar-init";
const AGENT: &str = "pillar-agent";
const STATE: &str = "pillar-state";
const NETWORK: &str = "pillar-network";

/// How often the boot loader starts a new image before it falls back.
const TRIES: u32 = 3;

/// What was built.
#[derive(Debug, Clone, Serialize)]
pub struct Built {
    /// Image version.
    pub version: String,
    /// Flavour.
    pub flavour: String,
    /// Root of the verity tree.
    pub root_hash: RootHash,
    /// `uname -r` of the kernel.
    pub kernel: String,
    /// Name to size of every file in `out`.
    pub files: BTreeMap<String, u64>,
    /// Where they are.
    pub out: PathBuf,
    /// How long it took.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub took: Duration,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 10.0).round() / 10.0)
}

/// The project's folder: the current one or one above it.
pub fn project() -> Result<PathBuf, Error> {
    let here = env::current_dir().map_err(file("find", Path::new(".")))?;
    here.ancestors()
        .find(|folder| folder.join("image/flavours").is_dir() && folder.join("Cargo.toml").is_file())
        .map(Path::to_owned)
        .ok_or(Error::NoProject(here))
}

/// Builds an image.
pub fn build(project: &Path, options: &BuildOptions, progress: &Progress) -> Result<Built, Error> {
    let started = SystemTime::now();
    // What a person typed is checked first, all of it, before anything takes time.
    let flavour = flavour::read(project, &options.flavour)?;
    let version = options.version.clone().unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned());
    check_version(&version)?;
    let workload = workload::read(&under(project, &options.workload))?;
    let packages = lock::read(project, &flavour)?;
    let keys = SigningKeys::open(project, options)?;
    let tools = Tools::open()?;
    let out = Output::open(&under(project, &options.out()))?;
    check_space(out.beside(), SCRATCH_MIB)?;
    let compiler = Compiler::new(project, options.offline)?;
    let network = network(options.offline);
    let workshop =
        Workshop::prepare(project, &flavour, &packages, &tools, network, options.refresh, progress)?;
    let scratch = Scratch::new(out.scratch())?;
    let host = host::observe(project);
    if let Some(difference) = host::difference(project, &host) {
        progress.note(&difference);
    }

    let job = Job {
        flavour: &flavour,
        version: &version,
        security_epoch: options.epoch,
        workload: &workload,
        workload_folder: &under(project, &options.workload),
        project,
        packages: &packages,
        host: &host,
        started,
        keys: &keys,
        workshop: &workshop,
        compiler: &compiler,
        sealer: &Sealer {
            tools: &tools,
            epoch: source_date_epoch(project),
            seed: &format!("{version} {}", flavour.name),
        },
        progress,
        scratch: &scratch,
        keep_unsigned: options.unsigned,
    };
    let (release, files) = job.run()?;
    progress.step("release into place");
    let sizes = out.publish(&scratch, &files)?;
    Ok(Built {
        version,
        flavour: flavour.name.clone(),
        root_hash: release.predicate.root_hash,
        kernel: workshop.kernel.clone(),
        files: sizes,
        out: out.folder.clone(),
        took: progress.finish(),
    })
}

pub(crate) fn under(project: &Path, path: &Path) -> PathBuf {
    if path.is_absolute() {
        return path.to_owned();
    }
    // What the person's own folder has comes first; the defaults are meant from the project.
    match env::current_dir().map(|here| here.join(path)) {
        Ok(here) if here.exists() => here,
        _ => project.join(path),
    }
}

/// `SOURCE_DATE_EPOCH`, else the time of the last commit, else a constant.
pub(crate) fn source_date_epoch(project: &Path) -> u64 {
    let given = env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let committed = || {
        let output =
            Command::new("git").arg("-C").arg(project).args(["log", "-1", "--format=%ct"]).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    given.or_else(committed).unwrap_or(FALLBACK_EPOCH)
}

/// Makes sure of the Debian trees: the tools, and what a flavour's image takes its files from.
/// Returns where the second is.
pub fn trees(project: &Path, options: &TreesOptions, progress: &Progress) -> Result<PathBuf, Error> {
    let flavour = flavour::read(project, &options.flavour)?;
    let packages = lock::read(project, &flavour)?;
    let network = network(options.offline);
    progress.step("tools tree");
    let tools = Tools::ensure(network)?;
    let workshop = Workshop::prepare(project, &flavour, &packages, &tools, network, false, progress)?;
    progress.finish();
    Ok(workshop.root().to_owned())
}

fn network(offline: bool) -> Network {
    if offline { Network::Forbidden } else { Network::Allowed }
}

pub(crate) fn check_space(folder: &Path, needed_mib: u64) -> Result<(), Error> {
    let stat = rustix::fs::statvfs(folder).map_err(|e| file("look at", folder)(e.into()))?;
    let free_mib = stat.f_bavail.saturating_mul(stat.f_frsize) >> 20;
    if free_mib < needed_mib {
        return Err(Error::DiskFull { path: folder.to_owned(), free_mib, needed_mib });
    }
    Ok(())
}

/// The keys that a build uses.
pub(crate) struct SigningKeys {
    folder: Keys,
    pub(crate) db: SigningKey,
    pcr: KeySource,
    pcr_public: PathBuf,
    /// `TPMT_PUBLIC` of the same key, for the sealed root.
    policy_key: Vec<u8>,
}

impl SigningKeys {
    pub(crate) fn open(project: &Path, options: &BuildOptions) -> Result<Self, Error> {
        for (what, source) in [("Secure Boot key", &options.db_key), ("PCR key", &options.pcr_key)] {
            if let Some(KeySource::File(path)) = source
                && !path.is_file()
            {
                return Err(Error::MissingKey { what, path: path.clone() });
            }
        }
        let pcr_public = match (&options.pcr_key, &options.pcr_certificate) {
            (Some(KeySource::Pkcs11(_)), None) => {
                return Err(Error::Usage(
                    "pcr-key is on a token: say pcr-certificate=FILE too, its certificate (PEM)".to_owned(),
                ));
            }
            (Some(KeySource::Pkcs11(_)), Some(path)) if !path.is_file() => {
                return Err(Error::MissingKey { what: "PCR key's certificate", path: path.clone() });
            }
            (Some(KeySource::Pkcs11(_)), Some(path)) => Some(path.clone()),
            _ => None,
        };
        let folder = Keys::load(&under(project, &options.keys))?;
        let db = folder.secure_boot(Variable::Db);
        let pcr_public = pcr_public.unwrap_or_else(|| folder.pcr().public);
        Ok(Self {
            policy_key: policy::public_area(&pcr_public)?,
            db: SigningKey {
                key: options.db_key.clone().unwrap_or_else(|| db.key.into()),
                certificate: db.certificate,
            },
            pcr_public,
            pcr: options.pcr_key.clone().unwrap_or_else(|| folder.pcr().key.into()),
            folder,
        })
    }
}

/// The output folder, ours alone for as long as this lives.
pub(crate) struct Output {
    folder: PathBuf,
    made: bool,
    _lock: File,
}

impl Output {
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        let made = !folder.exists();
        fs::create_dir_all(folder).map_err(file("create", folder))?;
        if made {
            crate::run::made(folder);
        }
        let lock = File::open(folder).map_err(file("open", folder))?;
        if lock.try_lock().is_err() {
            return Err(Error::Busy(folder.to_owned()));
        }
        Ok(Self { folder: folder.to_owned(), made, _lock: lock })
    }

    pub(crate) fn beside(&self) -> &Path {
        &self.folder
    }

    /// Beside the output folder, so that renaming is all that it takes.
    pub(crate) fn scratch(&self) -> PathBuf {
        let mut name = self.folder.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        self.folder.with_file_name(name)
    }

    /// Renames everything in. A signal waits until this is done; a power cut in the middle leaves no release.json.
    fn publish(&self, scratch: &Scratch, files: &[String]) -> Result<BTreeMap<String, u64>, Error> {
        uninterrupted(|| {
            let release = self.folder.join(release::FILE);
            match fs::remove_file(&release) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(file("remove", &release)(error));
                }
                _ => {}
            }
            let mut sizes = BTreeMap::new();
            for name in files {
                let (from, to) = (scratch.join(name), self.folder.join(name));
                fs::rename(&from, &to).map_err(file("rename", &from))?;
                let size = fs::metadata(&to).map_err(file("read", &to))?.len();
                sizes.insert(name.clone(), size);
            }
            Ok(sizes)
        })
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.made {
            // Only when the build failed and left it empty: a folder with files in it stays.
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

/// Everything that one build works with.
struct Job<'a> {
    flavour: &'a Flavour,
    version: &'a str,
    security_epoch: u64,
    workload: &'a Workload,
    workload_folder: &'a Path,
    project: &'a Path,
    packages: &'a Lock,
    host: &'a host::HostInputs,
    started: SystemTime,
    keys: &'a SigningKeys,
    workshop: &'a Workshop,
    compiler: &'a Compiler,
    sealer: &'a Sealer<'a>,
    progress: &'a Progress,
    scratch: &'a Scratch,
    keep_unsigned: bool,
}

/// Compiled programs.
struct Programs {
    init: PathBuf,
    agent: PathBuf,
    state: PathBuf,
    network: PathBuf,
    workload: Vec<PathBuf>,
}

/// The signed boot files.
struct BootFiles {
    loader: PathBuf,
    uki: PathBuf,
    cmdline: String,
}

impl Job<'_> {
    /// Makes every file of the release in the scratch folder; their names, `release.json` last.
    fn run(&self) -> Result<(Release, Vec<String>), Error> {
        let programs = self.compile()?;
        let operators = self.keys.folder.operators_pem()?;
        let template = self.scratch.join("state.ext4");
        self.sealer.state_template(&template)?;
        let parts = Parts {
            workshop: self.workshop,
            flavour: self.flavour,
            version: self.version,
            init: &programs.init,
            agent: &programs.agent,
            state: &programs.state,
            network: &programs.network,
            state_template: &template,
            policy_key: &self.keys.policy_key,
            workload: self.workload,
            workload_programs: &programs.workload,
            operators: &operators,
        };
        self.progress.step("sealed root (erofs, dm-verity)");
        let root = sealed::root(&parts)?;
        for (module, name) in &root.missing_firmware {
            self.progress.note(&format!(
                "no package has {name}: devices of {module} that need this firmware do not work"
            ));
        }
        let initrd = sealed::initrd(&parts)?;
        let root_file = self.scratch.join(self.name("root"));
        self.sealer.erofs(&root, self.scratch.path(), &root_file)?;
        limit("the sealed root", &root_file, self.flavour.limits.root_mib)?;
        let verity_file = self.scratch.join(self.name("verity"));
        let root_hash = self.sealer.verity(&root_file, &verity_file)?;

        self.progress.step("kernel, initrd and command line as one signed file (UKI)");
        let boot = self.boot_files(&parts, &initrd, &root_hash)?;

        self.progress.step("disk image");
        let disks = self.disks(&boot, &root_hash, &root_file, &verity_file)?;

        self.progress.step("measurements, release, bill of materials");
        self.describe(&root, &initrd, &boot, root_hash, disks)
    }

    fn name(&self, extension: &str) -> String {
        format!("pillar_{}_{}.{extension}", self.version, self.flavour.name)
    }

    fn compile(&self) -> Result<Programs, Error> {
        self.progress.step("PID 1");
        let init = self.compiler.build(&[PID_1], Linking::Static)?.remove(0);
        self.progress.step("agent and workload");
        let mut packages = vec![AGENT, STATE, NETWORK];
        packages.extend(self.workload.builds.iter().map(|build| build.package.as_str()));
        let mut paths = self.compiler.build(&packages, Linking::Dynamic)?;
        let agent = paths.remove(0);
        let state = paths.remove(0);
        let network = paths.remove(0);
        Ok(Programs { init, agent, state, network, workload: paths })
    }

    fn boot_files(
        &self,
        parts: &Parts<'_>,
        initrd: &Contents,
        root_hash: &RootHash,
    ) -> Result<BootFiles, Error> {
        let write = |name: &str, bytes: &[u8]| {
            let path = self.scratch.join(name);
            fs::write(&path, bytes).map_err(file("write", &path))?;
            Ok::<_, Error>(path)
        };
        let initrd = write("initrd.cpio", &archive::cpio(&initrd.tree)?)?;
        let os_release = write("os-release", sealed::os_release(parts).as_bytes())?;
        let cmdline = cmdline(root_hash, &self.flavour.cmdline);
        let first = self.scratch.join("first.efi");
        let unsigned = self.scratch.join(self.name("unsigned.efi"));
        let stub = self.workshop.file("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")?;
        let kernel = self.workshop.file(&format!("/boot/vmlinuz-{}", self.workshop.kernel))?;
        let uki_parts = UkiParts {
            kernel: &kernel,
            kernel_release: &self.workshop.kernel,
            initrd: &initrd,
            cmdline: &cmdline,
            os_release: &os_release,
            stub: &stub,
            version: self.version,
            policies: UkiPolicies::Make { key: &self.keys.pcr, public: &self.keys.pcr_public },
        };
        // What our policies are about is known only when there is a UKI; so it is made twice.
        self.sealer.uki(&uki_parts, &first)?;
        let sections = policy::sign(
            self.sealer,
            &first,
            &self.keys.pcr,
            &self.keys.policy_key,
            self.security_epoch,
            self.scratch,
        )?;
        let public = write("pcr.pub", &sections.public)?;
        let signatures = write("pcrsig.json", &sections.signatures)?;
        let policies = UkiPolicies::Made { public: &public, signatures: &signatures };
        self.sealer.uki(&UkiParts { policies, ..uki_parts }, &unsigned)?;
        let uki = self.scratch.join(self.name("efi"));
        self.sealer.sign(&unsigned, &self.keys.db, &uki)?;
        limit("the UKI", &uki, self.flavour.limits.uki_mib)?;
        let loader = self.scratch.join("BOOTX64.EFI");
        self.sealer.sign(
            &self.workshop.file("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")?,
            &self.keys.db,
            &loader,
        )?;
        Ok(BootFiles { loader, uki, cmdline })
    }

    /// One disk image for each sector size of the flavour; their names.
    fn disks(
        &self,
        boot: &BootFiles,
        root_hash: &RootHash,
        root: &Path,
        verity: &Path,
    ) -> Result<Vec<String>, Error> {
        let plan = disk::plan(&self.flavour.disk, root_hash, self.sealer.seed);
        let parts = FilesOfEsp {
            loader: boot.loader.clone(),
            uki: boot.uki.clone(),
            entry: format!("pillar_{}+{TRIES}.efi", self.version),
        };
        let files = esp_files(&parts, self.keys, self.scratch)?;
        let esp = self.scratch.join("esp.img");
        let mut names = Vec::new();
        for &sector in &self.flavour.disk.sector_sizes {
            if let Some(partition) = plan.partition(gpt::LABEL_ESP) {
                disk::esp(self.sealer, partition, sector, &files, &esp)?;
            }
            let name = self.name(sector.extension());
            let contents =
                [(gpt::LABEL_ESP, esp.as_path()), (gpt::LABEL_ROOT_A, root), (gpt::LABEL_VERITY_A, verity)];
            disk::write(self.sealer, &plan, sector, &contents, &self.scratch.join(&name))?;
            names.push(name);
        }
        Ok(names)
    }

    fn describe(
        &self,
        root: &Contents,
        initrd: &Contents,
        boot: &BootFiles,
        root_hash: RootHash,
        disks: Vec<String>,
    ) -> Result<(Release, Vec<String>), Error> {
        let mut programs = vec![PID_1, AGENT, STATE, NETWORK];
        programs.extend(self.workload.builds.iter().map(|build| build.package.as_str()));
        let root_hash_text = root_hash.to_string();
        let subject =
            sbom::Subject { version: self.version, flavour: &self.flavour.name, root_hash: &root_hash_text };
        let bill = self.bill(root, initrd)?;
        let packages = bill.packages.iter().map(|p| p.package.clone()).collect();
        let bill = sbom::document(&subject, &bill);
        release::write_json(&self.scratch.join(sbom::FILE), "the bill of materials", &bill)?;

        let read = |path: &Path| fs::read(path).map_err(file("read", path));
        let mut names = disks;
        names.extend(["efi", "root", "verity"].map(|extension| self.name(extension)));
        names.push(sbom::FILE.to_owned());
        let files: Vec<(String, PathBuf)> = names.iter().map(|n| (n.clone(), self.scratch.join(n))).collect();
        let release = release::statement(release::Facts {
            version: self.version,
            flavour: &self.flavour.name,
            epoch: self.security_epoch,
            root_hash,
            kernel: &self.workshop.kernel,
            cmdline: &boot.cmdline,
            loader: &read(&boot.loader)?,
            uki: &read(&boot.uki)?,
            files: &files,
            secure_boot: self.keys.folder.certificate_digests()?,
            packages,
        })?;
        release::write_json(&self.scratch.join(release::FILE), "the release", &release)?;
        if self.keep_unsigned {
            names.push(self.name("unsigned.efi"));
        }
        names.push(release::FILE.to_owned());
        self.provenance(&names, &programs)?;
        names.insert(names.len() - 1, provenance::FILE.to_owned());
        Ok((release, names))
    }

    /// Everything in the image, file by file, with what it is from.
    fn bill(&self, root: &Contents, initrd: &Contents) -> Result<sbom::Bill, Error> {
        let kernel = format!("/boot/vmlinuz-{}", self.workshop.kernel);
        let boot = [
            "/usr/lib/systemd/boot/efi/linuxx64.efi.stub",
            "/usr/lib/systemd/boot/efi/systemd-bootx64.efi",
            kernel.as_str(),
        ];
        let mut used: BTreeSet<String> = &root.used | &initrd.used;
        used.extend(boot.map(str::to_owned));
        let owners = self.workshop.owners(&used)?;
        // What the workshop's files became, by the path that they were taken from.
        let mut taken: BTreeMap<String, Vec<sbom::Shipped>> = BTreeMap::new();
        for path in boot {
            let from = self.workshop.file(path)?;
            let sha256 = hex::encode(digest::file(&from).map_err(file("read", &from))?);
            let shipped = sbom::Shipped { path: path.to_owned(), sha256, place: sbom::Place::Boot };
            taken.entry(path.to_owned()).or_default().push(shipped);
        }
        let mut bill =
            sbom::Bill { workload: (self.workload.settings.name.clone(), Vec::new()), ..Default::default() };
        let compiled = self.compiled_paths();
        for (path, entry) in root.tree.iter() {
            let Content::File(source) = &entry.content else { continue };
            let sha256 = match source {
                Source::Host(host) => digest::file(host).map_err(file("read", host))?.to_vec(),
                Source::Bytes(bytes) => digest::plain(bytes).to_vec(),
            };
            let shipped = sbom::Shipped {
                path: path.to_owned(),
                sha256: hex::encode(sha256),
                place: sbom::Place::Root,
            };
            if let Some(from) = self.origin(path, source, &used) {
                taken.entry(from).or_default().push(shipped);
            } else if let Some(package) = compiled.get(path) {
                let mut crates = sbom::crates(self.compiler.metadata(), &[package]);
                crates.extend(self.compiler.runtime(*package == PID_1)?);
                bill.programs.push(sbom::Program { name: (*package).to_owned(), file: shipped, crates });
            } else if path.starts_with(pillar_layout::root::WORKLOAD_FILES) {
                bill.workload.1.push(shipped);
            } else {
                bill.configuration.push(shipped);
            }
        }
        for (package, paths) in owners {
            let files = paths.iter().filter_map(|path| taken.get(path)).flatten().cloned().collect();
            let sha256 = self.packages.packages.get(&package.name).map(|p| p.sha256.to_string());
            let licences = self.workshop.licences(&package.name);
            bill.packages.push(sbom::Package { package, sha256, licences, files });
        }
        Ok(bill)
    }

    /// Where in the sealed root the compiled programs are, and which package of the workspace each is.
    fn compiled_paths(&self) -> BTreeMap<String, &str> {
        let files = pillar_layout::root::WORKLOAD_FILES;
        let own = [
            (pillar_layout::root::INIT, PID_1),
            (pillar_layout::root::AGENT, AGENT),
            (pillar_layout::root::STATE, STATE),
            (pillar_layout::root::NETWORK, NETWORK),
        ];
        let own = own.into_iter().map(|(path, package)| (path.to_owned(), package));
        let builds = self.workload.builds.iter();
        own.chain(builds.map(|build| (format!("{files}/{}", build.to), build.package.as_str()))).collect()
    }

    /// The path in the workshop that a file of the sealed root was taken from. Modules may have been unpacked.
    fn origin(&self, path: &str, source: &Source, used: &BTreeSet<String>) -> Option<String> {
        match source {
            Source::Host(host) => self.workshop.inside(host),
            Source::Bytes(_) => {
                [path.to_owned(), format!("{path}.xz")].into_iter().find(|path| used.contains(path))
            }
        }
    }

    /// Says about all these files what they were made from.
    fn provenance(&self, names: &[String], programs: &[&str]) -> Result<(), Error> {
        let cargo_lock = self.project.join("Cargo.lock");
        let parameters = provenance::Parameters {
            flavour: &self.flavour.name,
            workload: &self.workload.settings.name,
            workload_files: provenance::folder_digest(self.workload_folder)?,
            version: self.version,
            security_epoch: self.security_epoch,
            source_date_epoch: self.sealer.epoch,
        };
        let inputs = provenance::Inputs {
            source: &provenance::source(self.project)?,
            packages: self.packages,
            tools: &pillar_tools::locked()?,
            cargo_lock: &fs::read_to_string(&cargo_lock).map_err(file("read", &cargo_lock))?,
            metadata: self.compiler.metadata(),
            programs,
            host: self.host,
        };
        let files: Vec<(String, PathBuf)> = names.iter().map(|n| (n.clone(), self.scratch.join(n))).collect();
        let times = provenance::Times { started: self.started, finished: SystemTime::now() };
        let statement = provenance::statement(&parameters, &inputs, &files, times)?;
        release::write_json(&self.scratch.join(provenance::FILE), "the provenance", &statement)
    }
}

/// What an ESP holds beside keys and settings of the loader.
pub(crate) struct FilesOfEsp {
    /// The signed boot loader.
    pub(crate) loader: PathBuf,
    /// The signed UKI.
    pub(crate) uki: PathBuf,
    /// The UKI's name on the ESP.
    pub(crate) entry: String,
}

/// The files of an ESP, with the keys that firmware in setup mode enrols.
pub(crate) fn esp_files(
    parts: &FilesOfEsp,
    keys: &SigningKeys,
    scratch: &Scratch,
) -> Result<Vec<EspFile>, Error> {
    let loader_conf = scratch.join("loader.conf");
    fs::write(&loader_conf, LOADER_CONF).map_err(file("write", &loader_conf))?;
    let mut files = vec![
        EspFile { path: "EFI/BOOT/BOOTX64.EFI".to_owned(), source: parts.loader.clone() },
        EspFile { path: format!("EFI/Linux/{}", parts.entry), source: parts.uki.clone() },
        EspFile { path: "loader/loader.conf".to_owned(), source: loader_conf },
    ];
    for variable in Variable::ALL {
        files.push(EspFile {
            path: format!("loader/keys/auto/{variable}.auth"),
            source: keys.folder.secure_boot(variable).auth,
        });
        // For firmware whose menus enrol certificates. Not beside the others: the loader would offer the folder.
        let der = scratch.join(format!("{variable}.cer"));
        fs::write(&der, keys.folder.certificate_der(variable)?).map_err(file("write", &der))?;
        files.push(EspFile { path: format!("keys/{variable}.cer"), source: der });
    }
    Ok(files)
}

/// systemd-boot: no menu, no editor, no entries but ours; in setup mode it enrols the keys and restarts.
const LOADER_CONF: &str =
    "timeout 0\neditor no\nauto-entries no\nauto-firmware no\nsecure-boot-enroll force\n";

fn limit(what: &'static str, path: &Path, limit_mib: u64) -> Result<(), Error> {
    let bytes = fs::metadata(path).map_err(file("read", path))?.len();
    if bytes > limit_mib << 20 {
        return Err(Error::TooLarge { what, bytes, limit_mib });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_output_folder_has_one_builder() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let folder = dir.path().join("out");
        let first = Output::open(&folder).expect("free");
        assert!(matches!(Output::open(&folder), Err(Error::Busy(_))));
        drop(first);
        assert!(!folder.exists(), "a folder that was made for nothing goes away");
    }

    #[test]
    fn a_full_disk_is_found_before_anything_is_written() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let error = check_space(dir.path(), u64::MAX).expect_err("nobody has that much");
        assert!(matches!(error, Error::DiskFull { .. }) && error.hint().is_some());
    }

    #[test]
    fn publishing_leaves_either_a_whole_release_or_none() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let out = Output::open(&dir.path().join("out")).expect("free");
        fs::write(out.folder.join(release::FILE), "old").expect("new");
        let scratch = Scratch::new(out.scratch()).expect("new");
        fs::write(scratch.join("a"), "new").expect("new");
        let missing = ["a".to_owned(), release::FILE.to_owned()];
        assert!(out.publish(&scratch, &missing).is_err());
        assert!(!out.folder.join(release::FILE).exists(), "no release names files of another build");
    }
}
