// SPDX-License-Identifier: GPL-2.0

//! The test machine as data, and as a QEMU command line.
//!
//! PCI addresses are part of the interface: tests name devices by them.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

/// The emulator that the sysroot has.
pub const QEMU: &str = "qemu-system-x86_64";

/// The two network controllers that are joined back to back.
pub const E1000E: [&str; 2] = ["0000:00:02.0", "0000:00:03.0"];
/// The NVMe controller.
pub const NVME: &str = "0000:00:04.0";
/// The SATA controller.
pub const AHCI: &str = "0000:00:05.0";
/// The two virtio network devices that are joined back to back.
pub const VIRTIO_NET: [&str; 2] = ["0000:00:06.0", "0000:00:07.0"];
/// The device number of the port that leads out of the machine. Behind it, at
/// 0000:01:00.0, is an NVMe controller that the kernel does not trust.
pub const EXTERNAL_PORT: u8 = 8;

/// The device number of the port behind which is the device that works on virtual addresses.
pub const SVADMA_PORT: u8 = 10;

/// The device that copies to and from any address that it is told: it does what a hostile one would.
pub const EDU: &str = "0000:00:09.0";

/// The network cards that a machine with guests of its own has for them: an NE2000 and an RTL8139.
pub const CARDS: [&str; 2] = ["0000:00:0b.0", "0000:00:0c.0"];

/// The network device at the other end of the cable that these are on.
pub const PEER: &str = "0000:00:0d.0";

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// The processor's own virtualization.
    Kvm,
    /// QEMU's translator; works anywhere.
    Tcg,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// Which IOMMU translates for the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Iommu {
    /// VT-d with first-stage tables: for function.
    IntelScalable,
    /// VT-d with second-stage tables: wherever the kernel's identity mode is compared.
    IntelLegacy,
    /// VT-d with second-stage tables that says that it caches what is not there, as it does for
    /// the sake of nested guests: each mapping is invalidated as well, and the kernel refuses its
    /// lazy mode.
    IntelCaching,
    /// AMD-Vi.
    Amd,
    /// The paravirtual IOMMU.
    Virtio,
    /// None: devices reach all memory.
    None,
}

impl Iommu {
    /// What the command line calls it.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether the driver is VT-d's.
    pub fn is_intel(self) -> bool {
        matches!(
            self,
            Self::IntelScalable | Self::IntelLegacy | Self::IntelCaching
        )
    }

    fn device(self) -> Option<&'static str> {
        match self {
            Self::IntelScalable => Some("intel-iommu,scalable-mode=on,fsts=on"),
            Self::IntelLegacy => Some("intel-iommu,caching-mode=off"),
            Self::IntelCaching => Some("intel-iommu,caching-mode=on"),
            Self::Amd => Some("amd-iommu,dma-remap=on"),
            Self::Virtio => Some("virtio-iommu-pci,addr=1e.0"),
            Self::None => None,
        }
    }

    fn kernel_parameters(self) -> &'static str {
        match self {
            Self::IntelScalable => "intel_iommu=on,sm_on",
            Self::IntelLegacy | Self::IntelCaching => "intel_iommu=on,sm_off",
            Self::Amd => "amd_iommu=on",
            Self::Virtio => "pdio.modules=virtio_iommu",
            Self::None => "intel_iommu=off",
        }
    }
}

/// What the disks are made of.
#[derive(Clone, Debug)]
pub enum Disks {
    /// Accept everything, keep nothing: for measuring.
    Null,
    /// Sparse files in this directory: for checking content.
    Files(PathBuf),
}

/// Where the first serial port, the kernel's console, goes.
#[derive(Clone, Debug)]
pub enum Console {
    /// To this terminal.
    Terminal,
    /// To a file.
    File(PathBuf),
}

/// Everything that distinguishes one test machine from another.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What executes the guest.
    pub accel: Accel,
    /// Which IOMMU.
    pub iommu: Iommu,
    /// Number of processors, if not [as many as go with the rest](Machine::cpus).
    pub cpus: Option<u32>,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// Guest time is the number of executed instructions, at one per nanosecond.
    pub icount: bool,
    /// The disks behind both storage controllers.
    pub disks: Disks,
    /// Whether to have devices at all; without them a boot is a little quicker.
    pub devices: bool,
    /// A file with [`external_facing_port`](crate::acpi::external_facing_port) of
    /// [`EXTERNAL_PORT`], if there is to be one.
    pub external_port: Option<PathBuf>,
    /// The library that adds the device `svadma` to QEMU, if there is to be one.
    pub svadma: Option<PathBuf>,
    /// Whether it runs guests of its own, and has cards for them instead of its other devices.
    pub guests: bool,
    /// Where the console goes.
    pub console: Console,
    /// A listening Unix socket: the second serial port, which the agent uses.
    pub control: Option<PathBuf>,
    /// The kernel image.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// More kernel parameters.
    pub append: Vec<String>,
}

impl Machine {
    /// Number of processors.
    ///
    /// Two, so that what happens on one is seen on another. But instructions are counted on one only, and where QEMU
    /// emulates SVM it loses a processor about once in two hours of guests: it sleeps, with interrupts pending, and the
    /// other one waits for it.
    pub fn cpus(&self) -> u32 {
        let one = self.icount || self.guests && self.accel == Accel::Tcg;
        self.cpus.unwrap_or(if one { 1 } else { 2 })
    }

    /// The arguments for QEMU.
    pub fn arguments(&self) -> Result<Vec<OsString>> {
        let mut args = Arguments::default();
        args.add("-nodefaults");
        args.add("-no-user-config");
        args.add("-no-reboot");
        // A parent that is killed takes the machine with it.
        args.pair("-run-with", "exit-with-parent=on");
        args.pair("-display", "none");
        args.pair("-monitor", "none");
        args.pair(
            "-machine",
            match self.accel {
                // Interrupt remapping needs the split irqchip.
                Accel::Kvm => "q35,kernel-irqchip=split",
                Accel::Tcg => "q35",
            },
        );
        match self.accel {
            Accel::Kvm => {
                if self.icount {
                    bail!("instructions can only be counted with TCG");
                }
                args.pair("-accel", "kvm");
                args.pair("-cpu", "host");
            }
            Accel::Tcg => {
                let thread = if self.icount { "single" } else { "multi" };
                args.pair("-accel", format!("tcg,thread={thread},tb-size=256"));
                // The kernel clears and copies by bytes on a CPU that is fast at that. TCG executes, and
                // counts, one after the other: clearing a page would take more than the fault for it.
                let strings = if self.svadma.is_some() {
                    ",erms=off,fsrm=off"
                } else {
                    ""
                };
                args.pair("-cpu", format!("max,la57=off{strings}"));
            }
        }
        if self.icount {
            if self.cpus() != 1 {
                bail!("instructions can only be counted with one CPU");
            }
            args.pair("-icount", "shift=0,sleep=off");
        }
        args.pair("-smp", self.cpus().to_string());
        args.pair("-m", format!("{}M", self.memory_mib));

        // First, because it has to come before the devices that it translates for.
        if let Some(device) = self.iommu.device() {
            let more = match (self.iommu, &self.svadma) {
                (Iommu::IntelScalable, Some(_)) => ",svm=on,pasid-bits=20,device-iotlb=on",
                _ => "",
            };
            args.pair("-device", format!("{device}{more}"));
        }
        if self.guests {
            cards(&mut args);
        } else if self.devices {
            self.network(&mut args);
            self.storage(&mut args)?;
            // Without the mask it reaches 28 address bits only.
            args.pair("-device", "edu,addr=9.0,dma_mask=0xffffffffffffffff");
        }
        if let Some(table) = &self.external_port {
            self.external(&mut args, table)?;
        }
        if let Some(library) = &self.svadma {
            if self.preload().is_none() {
                args.pair("-plugin", option(library)?);
            }
            args.pair(
                "-device",
                format!("pcie-root-port,id=svadma-port,chassis=2,addr={SVADMA_PORT:x}.0"),
            );
            args.pair("-device", "svadma,bus=svadma-port");
        }

        match &self.console {
            Console::Terminal => args.pair("-serial", "mon:stdio"),
            Console::File(path) => {
                args.pair("-chardev", format!("file,id=con,path={}", option(path)?));
                args.pair("-serial", "chardev:con");
            }
        }
        if let Some(path) = &self.control {
            args.pair("-chardev", format!("socket,id=ctl,path={}", option(path)?));
            args.pair("-serial", "chardev:ctl");
        }

        args.pair("-kernel", &self.kernel);
        args.pair("-initrd", &self.initrd);
        args.pair("-append", self.kernel_command_line());
        Ok(args.0)
    }

    /// The library that has to be in QEMU before it starts: KVM takes no plugins.
    fn preload(&self) -> Option<&Path> {
        match self.accel {
            Accel::Kvm => self.svadma.as_deref(),
            Accel::Tcg => None,
        }
    }

    /// QEMU, as it has to be started.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(QEMU);
        command.args(self.arguments()?);
        if let Some(library) = self.preload() {
            command.env("LD_PRELOAD", library);
        }
        Ok(command)
    }

    fn kernel_command_line(&self) -> String {
        let mut line = vec![
            "console=ttyS0",
            "panic=-1",
            "oops=panic",
            "nvme_core.io_timeout=3600",
            self.iommu.kernel_parameters(),
        ];
        if self.external_port.is_some() {
            // What an untrusted device shares a page with, the kernel bounces, and for RAM below
            // 4 GiB it keeps no buffers for that unless it is asked to.
            line.push("iommu=soft");
        }
        if self.accel == Accel::Tcg {
            line.extend(["tsc=reliable", "no_timer_check"]);
        }
        if self.icount {
            line.push("pdio.icount");
        }
        if self.guests {
            // Each would cost at each exit of a guest, and there is nobody to be kept from anything.
            line.push("mitigations=off");
        }
        line.extend(self.append.iter().map(String::as_str));
        line.join(" ")
    }

    fn network(&self, args: &mut Arguments) {
        for (pair, (model, slots)) in [
            ("e1000e", [2, 3]),
            ("virtio-net-pci,iommu_platform=on,disable-legacy=on", [6, 7]),
        ]
        .into_iter()
        .enumerate()
        {
            for slot in slots {
                args.pair("-netdev", format!("hubport,id=net{slot},hubid={pair}"));
                args.pair(
                    "-device",
                    format!(
                        "{model},netdev=net{slot},addr={slot:x}.0,mac=52:54:00:00:00:{slot:02x}"
                    ),
                );
            }
        }
    }

    fn storage(&self, args: &mut Arguments) -> Result<()> {
        for name in ["nvme", "ahci"] {
            args.pair("-blockdev", self.drive(name)?);
        }
        args.pair("-device", "nvme,serial=pdio,drive=nvme,addr=4.0");
        args.pair("-device", "ich9-ahci,id=ahci,addr=5.0");
        args.pair("-device", "ide-hd,drive=ahci,bus=ahci.0");
        Ok(())
    }

    fn drive(&self, name: &str) -> Result<String> {
        Ok(match &self.disks {
            Disks::Null => {
                // Without a delay some requests are done before whoever waits for them
                // sleeps, and which ones depends on the host: that would be noise.
                let delay = if self.icount {
                    ",latency-ns=200000"
                } else {
                    ""
                };
                format!("driver=null-co,node-name={name},size={DISK_BYTES},read-zeroes=off{delay}")
            }
            Disks::Files(dir) => {
                let path = dir.join(format!("{name}.img"));
                format!(
                    "driver=file,node-name={name},filename={},cache.no-flush=on",
                    option(&path)?
                )
            }
        })
    }

    fn external(&self, args: &mut Arguments, table: &Path) -> Result<()> {
        args.pair(
            "-acpitable",
            format!(
                "sig=SSDT,rev=2,oem_id=PDIO,oem_table_id=EXTPORT,data={}",
                option(table)?
            ),
        );
        args.pair(
            "-device",
            format!("pcie-root-port,id=external,chassis=1,addr={EXTERNAL_PORT:x}.0"),
        );
        args.pair("-blockdev", self.drive("external")?);
        args.pair(
            "-device",
            "nvme,serial=external,drive=external,bus=external",
        );
        Ok(())
    }

    /// A few words that tell this machine from the others.
    pub fn describe(&self) -> String {
        let icount = if self.icount { " icount" } else { "" };
        let iommu = self.iommu.name();
        let port = match self.external_port {
            Some(_) => ", external port",
            None => "",
        };
        let svadma = match self.svadma {
            Some(_) => ", svadma",
            None => "",
        };
        let guests = match self.guests {
            true => ", guests",
            false => "",
        };
        format!(
            "{}{icount}, {iommu}{port}{svadma}{guests}, {} CPU",
            self.accel,
            self.cpus()
        )
    }
}

/// All on one cable. The driver of the peer pads frames to what Ethernet asks for, which few do and QEMU
/// does not: an NE2000 takes none that are shorter.
fn cards(args: &mut Arguments) {
    for (model, slot) in [("ne2k_pci", 0xb), ("rtl8139", 0xc), ("e1000", 0xd)] {
        args.pair("-netdev", format!("hubport,id=net{slot},hubid=2"));
        args.pair(
            "-device",
            format!(
                "{model},netdev=net{slot},addr={slot:x}.0,romfile=,mac=52:54:00:00:00:{slot:02x}"
            ),
        );
    }
}

/// Bytes of a data-retaining disk. Sparse, so it costs nothing until used.
pub const DISK_BYTES: u64 = 1 << 30;

/// Makes the disks of [`Disks::Files`] in `dir`.
pub fn create_disks(dir: &Path) -> Result<Disks> {
    for name in ["nvme", "ahci", "external"] {
        let path = dir.join(format!("{name}.img"));
        std::fs::File::create(&path)
            .and_then(|file| file.set_len(DISK_BYTES))
            .with_context(|| format!("cannot create {}", path.display()))?;
    }
    Ok(Disks::Files(dir.to_owned()))
}

/// The emulator's version, such as `11.1.3`.
pub fn version() -> Result<String> {
    let output = Command::new(QEMU)
        .arg("--version")
        .output()
        .with_context(|| {
            format!("cannot run {QEMU}; run inside the sysroot (`make vm`), see `make doctor`")
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .split_whitespace()
        .skip_while(|word| *word != "version")
        .nth(1);
    Ok(version.unwrap_or("unknown").to_owned())
}

/// A path as part of an option: QEMU separates options by commas.
fn option(path: &Path) -> Result<String> {
    match path.to_str() {
        Some(text) => Ok(text.replace(',', ",,")),
        None => bail!("{} is not valid UTF-8", path.display()),
    }
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn add(&mut self, arg: impl Into<OsString>) {
        self.0.push(arg.into());
    }

    fn pair(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.add(name);
        self.add(value.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            accel: Accel::Tcg,
            iommu: Iommu::IntelLegacy,
            cpus: None,
            memory_mib: 1024,
            icount: true,
            disks: Disks::Null,
            devices: true,
            external_port: None,
            svadma: None,
            guests: false,
            console: Console::File("/tmp/a,b".into()),
            control: Some("/tmp/ctl".into()),
            kernel: "/k".into(),
            initrd: "/i".into(),
            append: vec!["pdio.run=agent".into()],
        }
    }

    fn line(machine: &Machine) -> String {
        let args = machine.arguments().unwrap();
        args.join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn the_iommu_comes_before_the_devices_it_translates_for() {
        for &iommu in Iommu::value_variants() {
            let Some(device) = iommu.device() else {
                continue;
            };
            let line = line(&Machine { iommu, ..machine() });
            let at = line.find(device).unwrap();
            for device in ["e1000e", "nvme", "ahci", "virtio-net"] {
                assert!(at < line.find(device).unwrap(), "{device}");
            }
        }
    }

    #[test]
    fn devices_sit_where_tests_expect_them() {
        let line = line(&machine());
        for (device, slot) in [
            ("e1000e,netdev=net2", "addr=2.0"),
            ("e1000e,netdev=net3", "addr=3.0"),
            ("nvme,serial=pdio", "addr=4.0"),
            ("ich9-ahci", "addr=5.0"),
            ("netdev=net6", "addr=6.0"),
            ("netdev=net7", "addr=7.0"),
            ("edu", "addr=9.0"),
        ] {
            let mut words = line.split(' ');
            let word = words.find(|word| word.contains(device) && word.contains("addr="));
            assert!(word.is_some_and(|word| word.contains(slot)), "{device}");
        }
    }

    #[test]
    fn the_external_port_comes_with_its_table() {
        assert!(!line(&machine()).contains("pcie-root-port"));
        let line = line(&Machine {
            external_port: Some("/t".into()),
            ..machine()
        });
        assert!(line.contains("sig=SSDT") && line.contains("data=/t"));
        assert!(line.contains("pcie-root-port,id=external,chassis=1,addr=8.0"));
    }

    #[test]
    fn svadma_comes_with_its_library_and_an_iommu_that_serves_it() {
        assert!(!line(&machine()).contains("svadma"));
        assert!(!line(&machine()).contains("erms=off"));
        let tcg = Machine {
            svadma: Some("/l".into()),
            iommu: Iommu::IntelScalable,
            ..machine()
        };
        let line = line(&tcg);
        assert!(line.contains("-plugin /l ") && line.contains("svm=on"));
        assert!(line.contains("-cpu max,la57=off,erms=off,fsrm=off"));
        assert!(line.find("intel-iommu").unwrap() < line.find("svadma,bus").unwrap());

        let kvm = Machine {
            accel: Accel::Kvm,
            icount: false,
            ..tcg
        };
        let command = kvm.command().unwrap();
        assert!(command.get_args().all(|arg| arg != "-plugin"));
        assert!(command.get_envs().any(|env| env.0 == "LD_PRELOAD"));
    }

    #[test]
    fn cards_for_guests_are_instead_of_other_devices() {
        let line = line(&Machine {
            guests: true,
            ..machine()
        });
        for (model, address) in [
            ("ne2k_pci", CARDS[0]),
            ("rtl8139", CARDS[1]),
            ("e1000", PEER),
        ] {
            let mut words = line.split(' ');
            let word = words.find(|word| word.starts_with(model)).unwrap();
            let address = address.trim_start_matches("0000:00:0");
            assert!(word.contains(&format!("addr={address}")), "{model}");
        }
        assert!(!line.contains("e1000e") && !line.contains("nvme,"));
    }

    #[test]
    fn guests_that_are_emulated_have_one_cpu_unless_told_otherwise() {
        let cpus = |accel, guests, cpus| {
            let machine = Machine {
                icount: false,
                accel,
                guests,
                cpus,
                ..machine()
            };
            machine.cpus()
        };
        assert_eq!(cpus(Accel::Tcg, false, None), 2);
        assert_eq!(cpus(Accel::Tcg, true, None), 1);
        assert_eq!(cpus(Accel::Kvm, true, None), 2);
        assert_eq!(cpus(Accel::Tcg, true, Some(4)), 4);
    }

    #[test]
    fn counting_instructions_takes_one_cpu_and_tcg() {
        assert!(line(&machine()).contains("-icount shift=0,sleep=off -smp 1"));
        let two = Machine {
            cpus: Some(2),
            ..machine()
        };
        assert!(two.arguments().is_err());
        let kvm = Machine {
            accel: Accel::Kvm,
            ..machine()
        };
        assert!(kvm.arguments().is_err());
    }

    #[test]
    fn commas_in_paths_are_doubled() {
        assert!(line(&machine()).contains("path=/tmp/a,,b"));
    }
}
