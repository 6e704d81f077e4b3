// SPDX-License-Identifier: GPL-2.0

//! The guest's whole file system, as an initramfs in "newc" format.
//!
//! See `Documentation/driver-api/early-userspace/buffer-format.rst` in the
//! kernel tree.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, File};
use std::io::{self, Cursor, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::Kernel;
use crate::check;
use crate::elf;
use crate::nested;

/// Where the guest finds what is ours.
pub const GUEST_DIR: &str = "/pdio";

/// Where the guest finds kselftests.
pub const GUEST_SELFTESTS: &str = "/pdio/selftests";

/// Where the guest finds a KVM that can be loaded in place of the kernel's own, which `modprobe` finds.
pub const GUEST_KVM: &str = "/pdio/kvm";

/// Drivers of the machine's devices, in the order in which init loads them.
const DRIVERS: [&str; 6] = [
    "e1000e",
    "nvme",
    "ahci",
    "sd_mod",
    "virtio_pci",
    "virtio_net",
];

/// Modules that tests may want, besides the drivers.
const OPTIONAL_MODULES: [&str; 7] = [
    "virtio_iommu",
    "vfio_pci",
    "configs",
    "configfs",
    "zram",
    "kvm_amd",
    "kvm_intel",
];

/// Programs that go in with their libraries; busybox provides everything else.
///
/// Not its shell, though: that one takes its own applets before what is in PATH.
const PROGRAMS: [&str; 7] = ["bash", "chrt", "dash", "ethtool", "fio", "ip", "iperf3"];

const SEARCH_PATH: [&str; 4] = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];

enum Node {
    Directory,
    Link(PathBuf),
    File(u32, Content),
    CharDevice(u32, u32),
}

enum Content {
    Bytes(Vec<u8>),
    Path(PathBuf),
}

/// A file tree that can be written as a cpio archive.
#[derive(Default)]
pub struct Archive {
    nodes: BTreeMap<PathBuf, Node>,
}

impl Archive {
    /// Adds a directory and those above it.
    pub fn directory(&mut self, path: impl AsRef<Path>) {
        for dir in path.as_ref().ancestors() {
            if dir != Path::new("/") && dir != Path::new("") {
                self.nodes.entry(dir.to_owned()).or_insert(Node::Directory);
            }
        }
    }

    fn insert(&mut self, path: impl AsRef<Path>, node: Node) {
        let path = path.as_ref();
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
        self.nodes.insert(path.to_owned(), node);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: impl AsRef<Path>, target: impl Into<PathBuf>) {
        self.insert(path, Node::Link(target.into()));
    }

    /// Adds a file with the given content.
    pub fn bytes(&mut self, path: impl AsRef<Path>, mode: u32, content: impl Into<Vec<u8>>) {
        self.insert(path, Node::File(mode, Content::Bytes(content.into())));
    }

    /// Adds a copy of the host's file `source`, with its permissions.
    pub fn file(&mut self, path: impl AsRef<Path>, source: &Path) -> Result<()> {
        let meta = fs::metadata(source)
            .with_context(|| format!("cannot add {} to the guest", source.display()))?;
        let mode = meta.permissions().mode() & 0o7777;
        self.insert(path, Node::File(mode, Content::Path(source.to_owned())));
        Ok(())
    }

    /// Adds a copy of the host's directory `source`, links kept as links.
    pub fn tree(&mut self, path: impl AsRef<Path>, source: &Path) -> Result<()> {
        let path = path.as_ref();
        self.directory(path);
        let entries =
            fs::read_dir(source).with_context(|| format!("cannot read {}", source.display()))?;
        for entry in entries {
            let entry = entry?;
            let inside = path.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.tree(inside, &entry.path())?;
            } else if kind.is_symlink() {
                self.link(inside, fs::read_link(entry.path())?);
            } else {
                self.file(inside, &entry.path())?;
            }
        }
        Ok(())
    }

    /// Writes the archive. The result depends on the content alone.
    pub fn write(&self, out: &mut impl Write) -> Result<()> {
        for (inode, (path, node)) in (1u32..).zip(&self.nodes) {
            let name = path.strip_prefix("/").unwrap_or(path).to_string_lossy();
            match node {
                Node::Directory => entry(out, inode, 0o040_755, &name, (0, 0), &[])?,
                Node::Link(target) => {
                    let target = target.to_string_lossy();
                    entry(out, inode, 0o120_777, &name, (0, 0), target.as_bytes())?;
                }
                Node::CharDevice(major, minor) => {
                    entry(out, inode, 0o020_600, &name, (*major, *minor), &[])?;
                }
                Node::File(mode, content) => {
                    let read;
                    let data = match content {
                        Content::Bytes(bytes) => bytes,
                        Content::Path(source) => {
                            read = fs::read(source)
                                .with_context(|| format!("cannot read {}", source.display()))?;
                            &read
                        }
                    };
                    entry(out, inode, 0o100_000 | mode, &name, (0, 0), data)?;
                }
            }
        }
        entry(out, 0, 0, "TRAILER!!!", (0, 0), &[])?;
        Ok(())
    }
}

fn entry(
    out: &mut impl Write,
    inode: u32,
    mode: u32,
    name: &str,
    device: (u32, u32),
    data: &[u8],
) -> Result<()> {
    let Ok(size) = u32::try_from(data.len()) else {
        bail!("{name} is too large for an initramfs");
    };
    let (major, minor) = device;
    let name_size = name.len() + 1;
    // magic, ino, mode, uid, gid, nlink, mtime, filesize, dev, rdev, namesize, check
    write!(
        out,
        "070701{inode:08x}{mode:08x}{zero:08x}{zero:08x}{one:08x}{zero:08x}{size:08x}\
         {zero:08x}{zero:08x}{major:08x}{minor:08x}{name_size:08x}{zero:08x}{name}\0",
        zero = 0,
        one = 1,
    )?;
    pad(out, 110 + name_size)?;
    out.write_all(data)?;
    pad(out, data.len())?;
    Ok(())
}

/// Headers and contents start at multiples of four bytes.
fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    out.write_all(&[0; 3][..written.wrapping_neg() % 4])
}

/// What goes into a guest besides the stock system.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    /// The scripts of `selftests/vm`.
    pub scripts: Option<PathBuf>,
    /// Kernel modules of ours.
    pub modules: Vec<PathBuf>,
    /// Modules that can be loaded in place of the kernel's own KVM, to [`GUEST_KVM`].
    pub kvm: Vec<PathBuf>,
    /// A directory of kselftest suites, to [`GUEST_SELFTESTS`].
    pub selftests: Option<PathBuf>,
    /// Programs of ours, with their libraries, to [`GUEST_DIR`]`/bin`.
    pub programs: Vec<PathBuf>,
    /// The library that adds the device `svadma` to QEMU. Stays on the host.
    pub svadma: Option<PathBuf>,
    /// Whether the machine runs guests of its own.
    pub guests: bool,
}

impl Payload {
    /// Whether it brings the kernel module `name`.
    pub fn has_module(&self, name: &str) -> bool {
        self.modules.iter().any(|path| module_name(path) == name)
    }

    fn suites(&self) -> Result<Vec<(String, PathBuf)>> {
        let Some(root) = &self.selftests else {
            return Ok(Vec::new());
        };
        let suites = check::suites(root)?.into_iter();
        Ok(suites
            .map(|suite| (suite.clone(), root.join(suite)))
            .collect())
    }
}

/// Directories, links and files that every system has.
pub(crate) fn skeleton(archive: &mut Archive) {
    for dir in [
        "/dev",
        "/proc",
        "/sys",
        "/tmp",
        "/run",
        "/etc",
        "/root",
        "/var",
        "/mnt",
        "/usr/bin",
        "/usr/sbin",
        "/usr/lib",
        "/usr/lib64",
    ] {
        archive.directory(dir);
    }
    for dir in ["bin", "sbin", "lib", "lib64"] {
        archive.link(Path::new("/").join(dir), Path::new("usr").join(dir));
    }
    archive.link("/var/run", "/run");
    archive.link("/var/tmp", "/tmp");
    archive.insert("/dev/console", Node::CharDevice(5, 1));
    archive.bytes("/etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n");
    archive.bytes("/etc/group", 0o644, "root:x:0:\n");
    archive.bytes("/etc/hosts", 0o644, "127.0.0.1 localhost\n");
}

/// Packs the guest's file system.
pub fn build(kernel: &Kernel, payload: &Payload) -> Result<Archive> {
    let mut archive = Archive::default();
    skeleton(&mut archive);
    for dir in [GUEST_DIR, GUEST_SELFTESTS] {
        archive.directory(dir);
    }

    busybox(&mut archive)?;
    archive.link("/usr/bin/sh", "dash");
    programs(&mut archive, payload)?;
    let mut more = OPTIONAL_MODULES.to_vec();
    if payload.guests {
        more.extend(nested::MODULES);
        nested::add(&mut archive, kernel, payload)?;
    }
    modules(
        &mut archive,
        kernel,
        &Modules {
            load: &DRIVERS,
            more: &more,
            ours: &payload.modules,
        },
    )?;
    for path in &payload.kvm {
        let file = path.file_name().unwrap_or_default();
        archive.file(Path::new(GUEST_KVM).join(file), path)?;
    }

    let Some(scripts) = &payload.scripts else {
        bail!(
            "the guest's scripts (selftests/vm) were not found; run from a checkout, or set PDIO_VM_DIR"
        );
    };
    for script in [
        "init", "agent", "profile", "dma-mode", "net", "disk", "counters",
    ] {
        let source = scripts.join(script);
        if source.exists() {
            archive.file(Path::new(GUEST_DIR).join("vm").join(script), &source)?;
        }
    }
    archive.link("/init", "/pdio/vm/init");
    archive.link("/etc/profile", "/pdio/vm/profile");
    for (name, source) in payload.suites()? {
        archive.tree(Path::new(GUEST_SELFTESTS).join(name), &source)?;
    }
    // What the suites of a checkout share; installed, each has its own.
    let shared = payload.selftests.as_ref().map(|root| root.join("ktap.sh"));
    if let Some(shared) = shared.filter(|path| path.exists()) {
        archive.file(Path::new(GUEST_SELFTESTS).join("ktap.sh"), &shared)?;
    }
    // Tests compare what the modules show with what is written about it.
    if let Some(checkout) = payload.selftests.as_deref().and_then(Path::parent) {
        for described in ["Documentation/ABI", "Documentation/dma-map-cache"] {
            if checkout.join(described).is_dir() {
                archive.tree(
                    Path::new(GUEST_DIR).join(described),
                    &checkout.join(described),
                )?;
            }
        }
    }
    Ok(archive)
}

pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    SEARCH_PATH
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
}

/// Adds busybox, and its applets as links.
pub(crate) fn busybox(archive: &mut Archive) -> Result<()> {
    let path = find_program("busybox")
        .context("busybox is not installed (Debian: busybox-static); run inside the sysroot")?;
    let output = Command::new(&path)
        .arg("--list")
        .output()
        .context("cannot run busybox")?;
    archive.file("/usr/bin/busybox", &path)?;
    let applets = String::from_utf8_lossy(&output.stdout);
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        archive.link(Path::new("/usr/bin").join(applet), "/usr/bin/busybox");
    }
    // Some scripts name these by their path.
    for applet in ["modprobe", "insmod", "rmmod"] {
        archive.link(Path::new("/usr/sbin").join(applet), "/usr/bin/busybox");
    }
    Ok(())
}

fn programs(archive: &mut Archive, payload: &Payload) -> Result<()> {
    let mut all = Vec::new();
    let more = match payload.guests {
        true => &nested::PROGRAMS[..],
        false => &[],
    };
    for name in PROGRAMS.iter().chain(more) {
        let Some(path) = find_program(name) else {
            bail!("{name} is not installed; run inside the sysroot (see `make doctor`)");
        };
        archive.file(Path::new("/usr/bin").join(name), &path)?;
        all.push(path);
    }
    for path in &payload.programs {
        let Some(name) = path.file_name() else {
            bail!("{} is not a file", path.display());
        };
        archive.file(Path::new(GUEST_DIR).join("bin").join(name), path)?;
        all.push(path.clone());
    }
    // A test may be a program too.
    for (_, dir) in payload.suites()? {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_file() && path.extension().is_none() {
                all.push(path);
            }
        }
    }
    libraries(archive, &all)
}

/// Adds the shared libraries that `programs` need.
pub(crate) fn libraries(archive: &mut Archive, programs: &[PathBuf]) -> Result<()> {
    for (path, source) in elf::closure(programs)? {
        // /lib and /lib64 are links in the guest, as they are on Debian.
        let path = match path.strip_prefix("/usr") {
            Ok(_) => path,
            Err(_) => Path::new("/usr").join(path.strip_prefix("/").unwrap_or(&path)),
        };
        archive.file(path, &source)?;
    }
    Ok(())
}

/// Which kernel modules a file system has.
pub(crate) struct Modules<'a> {
    /// The kernel's own that init loads, in this order.
    pub(crate) load: &'a [&'a str],
    /// More of the kernel's own.
    pub(crate) more: &'a [&'a str],
    /// Files of modules of ours.
    pub(crate) ours: &'a [PathBuf],
}

/// Adds kernel modules, uncompressed, with everything they depend on.
pub(crate) fn modules(archive: &mut Archive, kernel: &Kernel, modules: &Modules<'_>) -> Result<()> {
    let index = Index::read(&kernel.modules.join("modules.dep"))?;
    let dir = Path::new("/usr/lib/modules").join(&kernel.release);
    let mut dependencies: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut stock = BTreeSet::new();

    let mut ours = Vec::new();
    for path in modules.ours {
        let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = module_name(path);
        let file = path.file_name().unwrap_or_default();
        let needs: Vec<String> = elf::modinfo(&data, "depends")
            .with_context(|| format!("{} is not a kernel module", path.display()))?
            .iter()
            .flat_map(|list| list.split(','))
            .filter(|need| !need.is_empty())
            .map(|need| need.replace('-', "_"))
            .collect();
        let inside = dir.join("extra").join(file);
        archive.link(Path::new(GUEST_DIR).join(file), &inside);
        archive.bytes(&inside, 0o644, data);
        dependencies.insert(name.clone(), needs.clone());
        ours.push((name, inside));
        for need in needs {
            stock.extend(index.closure(&need).unwrap_or_default());
        }
    }

    let mut load = Vec::new();
    for &name in modules.load {
        // A driver that is built in needs no loading.
        let Some(closure) = index.closure(name) else {
            continue;
        };
        load.push(name);
        stock.extend(closure);
    }
    for name in modules.more {
        stock.extend(index.closure(name).unwrap_or_default());
    }

    let mut lines = String::new();
    for path in &stock {
        let data = uncompressed(&kernel.modules.join(path))?;
        let inside = dir.join(path.with_extension(""));
        let inside = if path.extension().is_some_and(|ext| ext == "ko") {
            dir.join(path)
        } else {
            inside
        };
        archive.bytes(inside, 0o644, data);
        let needs = index.needs(path).iter().map(|need| plain(need));
        lines += &dep_line(&plain(path), needs);
    }
    for (name, inside) in &ours {
        // busybox wants the whole closure on the line, nearest first.
        let mut needs = Vec::new();
        let mut queue = dependencies.get(name).cloned().unwrap_or_default();
        while let Some(need) = queue.pop() {
            if let Some((_, path)) = ours.iter().find(|(name, _)| *name == need) {
                needs.push(relative(path, &dir));
                queue.extend(dependencies.get(&need).cloned().unwrap_or_default());
            } else if let Some(path) = index.path(&need) {
                needs.push(plain(path));
                needs.extend(index.needs(path).iter().map(|need| plain(need)));
            }
        }
        lines += &dep_line(&relative(inside, &dir), needs.into_iter());
    }
    archive.bytes(dir.join("modules.dep"), 0o644, lines);
    archive.bytes("/etc/modules", 0o644, load.join("\n") + "\n");
    Ok(())
}

fn relative(path: &Path, dir: &Path) -> String {
    path.strip_prefix(dir)
        .unwrap_or(path)
        .to_string_lossy()
        .into_owned()
}

/// The path of a module once it is no longer compressed.
fn plain(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.trim_end_matches(".xz").to_owned()
}

fn dep_line(module: &str, needs: impl Iterator<Item = String>) -> String {
    let needs: Vec<_> = needs.map(|need| format!(" {need}")).collect();
    format!("{module}:{}\n", needs.concat())
}

fn module_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = file.split(".ko").next().unwrap_or_default();
    stem.replace('-', "_")
}

fn uncompressed(path: &Path) -> Result<Vec<u8>> {
    let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    match path.extension().and_then(|ext| ext.to_str()) {
        Some("ko") => Ok(data),
        Some("xz") => {
            let mut out = Vec::with_capacity(data.len() * 4);
            lzma_rs::xz_decompress(&mut Cursor::new(data), &mut out)
                .with_context(|| format!("{} is damaged", path.display()))?;
            Ok(out)
        }
        _ => bail!("{}: compression not supported", path.display()),
    }
}

/// `modules.dep`: which file has a module, and which files it needs.
struct Index {
    modules: BTreeMap<PathBuf, Vec<PathBuf>>,
}

impl Index {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| {
            format!(
                "cannot read {}; run depmod, or `make setup`",
                path.display()
            )
        })?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let modules = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(module, needs)| {
                let needs = needs.split_whitespace().map(PathBuf::from).collect();
                (PathBuf::from(module), needs)
            })
            .collect();
        Self { modules }
    }

    fn path(&self, name: &str) -> Option<&Path> {
        let mut paths = self.modules.keys();
        paths
            .find(|path| module_name(path) == name)
            .map(PathBuf::as_path)
    }

    fn needs(&self, path: &Path) -> &[PathBuf] {
        self.modules.get(path).map_or(&[], Vec::as_slice)
    }

    fn closure(&self, name: &str) -> Option<Vec<PathBuf>> {
        let path = self.path(name)?;
        let mut all = vec![path.to_owned()];
        all.extend_from_slice(self.needs(path));
        Some(all)
    }
}

/// Finds the modules, scripts, tests and programs of a checkout.
///
/// `PDIO_MODULES` names files or directories of `.ko` files, of which a directory `kvm` is
/// for [`Payload::kvm`]; `PDIO_SELFTESTS` an installed kselftest directory, `PDIO_VM_DIR`
/// the guest's scripts.
pub fn payload() -> Result<Payload> {
    let mut payload = Payload::default();
    let checkout = env::current_dir()?
        .ancestors()
        .find(|dir| dir.join("selftests/vm/init").exists())
        .map(Path::to_owned);
    payload.scripts = match env::var_os("PDIO_VM_DIR") {
        Some(dir) => Some(dir.into()),
        None => checkout.as_ref().map(|dir| dir.join("selftests/vm")),
    };

    for path in env::var("PDIO_MODULES")
        .unwrap_or_default()
        .split([':', ' ', '\n'])
    {
        if path.is_empty() {
            continue;
        }
        let path = PathBuf::from(path);
        if path.is_dir() {
            payload.modules.extend(modules_in(&path)?);
            let kvm = path.join("kvm");
            if kvm.is_dir() {
                payload.kvm.extend(modules_in(&kvm)?);
            }
        } else if path.exists() {
            payload.modules.push(path);
        } else {
            bail!(
                "PDIO_MODULES: {} does not exist; run `make modules`",
                path.display()
            );
        }
    }

    payload.selftests = match env::var_os("PDIO_SELFTESTS") {
        Some(dir) => Some(dir.into()),
        None => checkout.map(|dir| dir.join("selftests")),
    };

    let own = env::current_exe().context("cannot find this program's own directory")?;
    for program in ["pdio-load", "iopf-test", "iopf-bench", "kvm-ports-test"] {
        let program = own.with_file_name(program);
        if program.exists() {
            payload.programs.push(program);
        }
    }
    let svadma = own.with_file_name("libsvadma.so");
    payload.svadma = svadma.exists().then_some(svadma);
    Ok(payload)
}

/// The `.ko` files of a directory.
fn modules_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let file = entry?.path();
        if file.extension().is_some_and(|ext| ext == "ko") {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

/// Writes `archive` to `path`.
pub fn write(archive: &Archive, path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut out = io::BufWriter::with_capacity(1 << 20, file);
    archive.write(&mut out)?;
    out.flush()
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(data: &[u8], at: usize, number: usize) -> u32 {
        let start = at + 6 + number * 8;
        let text = std::str::from_utf8(&data[start..start + 8]).unwrap();
        u32::from_str_radix(text, 16).unwrap()
    }

    #[test]
    fn entries_are_aligned_and_end_with_the_trailer() {
        let mut archive = Archive::default();
        archive.bytes("/a/bcd", 0o755, *b"hello");
        archive.link("/link", "a/bcd");
        let mut out = Vec::new();
        archive.write(&mut out).unwrap();

        let mut at = 0;
        let mut seen = Vec::new();
        loop {
            assert_eq!(&out[at..at + 6], b"070701");
            assert_eq!(at % 4, 0);
            let size = field(&out, at, 6) as usize;
            let name_size = field(&out, at, 11) as usize;
            let name = String::from_utf8(out[at + 110..at + 110 + name_size - 1].to_vec()).unwrap();
            let body = (at + 110 + name_size).next_multiple_of(4);
            seen.push((
                name.clone(),
                field(&out, at, 1),
                out[body..body + size].to_vec(),
            ));
            at = (body + size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                break;
            }
        }
        assert_eq!(at, out.len());
        assert_eq!(seen[0], ("a".into(), 0o040_755, vec![]));
        assert_eq!(seen[1], ("a/bcd".into(), 0o100_755, b"hello".to_vec()));
        assert_eq!(seen[2], ("link".into(), 0o120_777, b"a/bcd".to_vec()));
    }

    #[test]
    fn modules_dep_gives_the_closure() {
        let index =
            Index::parse("k/nvme.ko.xz: k/nvme-core.ko.xz k/auth.ko.xz\nk/nvme-core.ko.xz:\n");
        let closure = index.closure("nvme").unwrap();
        assert_eq!(closure.len(), 3);
        assert_eq!(
            index.path("nvme_core"),
            Some(Path::new("k/nvme-core.ko.xz"))
        );
        assert!(index.closure("nothing").is_none());
        assert_eq!(plain(Path::new("k/nvme.ko.xz")), "k/nvme.ko");
    }
}
