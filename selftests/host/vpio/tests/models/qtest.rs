// SPDX-License-Identifier: GPL-2.0

//! Stock QEMU, driven through its qtest protocol: no CPU runs, every access to a port is ours.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use crate::model::access::{Access, Width};
use crate::model::card::Card;

const QEMU: &str = "qemu-system-x86_64";
/// Is in the Debian root, where QEMU has to be.
const SYSROOT_MARK: &str = "/etc/pdio-sysroot";
/// Commands that are sent before their answers are read: what both pipes hold at least.
const BATCH: usize = 1024;
/// How long an answer, or a frame, may take before the test has failed.
const PATIENCE: Duration = Duration::from_secs(3);

/// The PCI slot of the first card.
const FIRST_SLOT: u32 = 3;
/// The ports of the first card.
const FIRST_BASE: u16 = 0xc000;
/// From the ports of one card to those of the next.
const BASE_STEP: u16 = 0x100;

/// A QEMU that runs.
struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    directory: PathBuf,
    line: String,
}

impl Process {
    /// Gives commands, and hands each answer to `answer`.
    fn batch(&mut self, commands: impl Iterator<Item = String>, mut answer: impl FnMut(u32)) {
        let mut commands = commands.peekable();

        while commands.peek().is_some() {
            let mut text = String::new();
            let mut count = 0;

            for command in commands.by_ref().take(BATCH) {
                writeln!(text, "{command}").unwrap();
                count += 1;
            }
            self.stdin.write_all(text.as_bytes()).unwrap();
            for _ in 0..count {
                self.line.clear();
                self.stdout.read_line(&mut self.line).unwrap();

                let mut words = self.line.split_whitespace();

                assert_eq!(words.next(), Some("OK"), "{:?} to {text:?}", self.line);
                answer(words.next().map_or(0, |value| {
                    u32::from_str_radix(value.trim_start_matches("0x"), 16).unwrap()
                }));
            }
        }
    }

    /// Gives one command.
    fn command(&mut self, command: String) -> u32 {
        let mut value = 0;

        self.batch(std::iter::once(command), |answer| value = answer);
        value
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already, and then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A network card of QEMU, the only one on its wire.
pub(crate) struct QemuCard {
    process: Rc<RefCell<Process>>,
    slot: u32,
    base: u16,
    wire: UnixDatagram,
    input: PathBuf,
}

/// A directory for sockets that nobody else has. Process numbers tell nothing: each container has its
/// own, while /tmp may be shared.
fn new_directory() -> PathBuf {
    (0u32..)
        .map(|number| std::env::temp_dir().join(format!("vpio-qtest-{number}")))
        .find(|directory| match std::fs::create_dir(directory) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => panic!("{}: {error}", directory.display()),
        })
        .unwrap()
}

/// Starts QEMU with `N` cards of a kind.
///
/// [`None`]: there is no QEMU here, and this is no place where it has to be.
pub(crate) fn cards<const N: usize>(kind: &str) -> Option<[QemuCard; N]> {
    let directory = new_directory();
    let mut command = Command::new(QEMU);

    command
        .args([
            "-machine",
            "pc,accel=qtest",
            "-nodefaults",
            "-display",
            "none",
        ])
        .args(["-qtest", "stdio", "-qtest-log", "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    for (index, slot) in (FIRST_SLOT..).take(N).enumerate() {
        let input = directory.join(format!("in{index}"));
        let output = directory.join(format!("out{index}"));

        command.arg("-netdev").arg(format!(
            "dgram,id=net{index},local.type=unix,local.path={},remote.type=unix,remote.path={}",
            input.display(),
            output.display(),
        ));
        command.arg("-device").arg(format!(
            "{kind},addr={slot},netdev=net{index},romfile=,mac=52:54:00:12:34:56"
        ));
    }

    let wires: [_; N] = std::array::from_fn(|index| {
        UnixDatagram::bind(directory.join(format!("out{index}"))).unwrap()
    });
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if Path::new(SYSROOT_MARK).exists() => panic!("{QEMU}: {error}"),
        Err(error) => {
            eprintln!("SKIPPED: {QEMU}: {error}; scripts/in-sysroot has it");
            std::fs::remove_dir_all(&directory).unwrap();
            return None;
        }
    };
    let process = Rc::new(RefCell::new(Process {
        stdin: child.stdin.take().unwrap(),
        stdout: BufReader::new(child.stdout.take().unwrap()),
        child,
        directory: directory.clone(),
        line: String::new(),
    }));
    let mut index = 0;

    Some(wires.map(|wire| {
        wire.set_read_timeout(Some(PATIENCE)).unwrap();

        let card = QemuCard {
            process: process.clone(),
            slot: FIRST_SLOT + u32::try_from(index).unwrap(),
            base: FIRST_BASE + BASE_STEP * u16::try_from(index).unwrap(),
            wire,
            input: directory.join(format!("in{index}")),
        };

        index += 1;
        // BAR 0, then I/O and bus mastering.
        card.write_config(0x10, u32::from(card.base));
        card.write_config(0x04, 0x0005);
        card
    }))
}

impl QemuCard {
    fn command(&self, command: String) -> u32 {
        self.process.borrow_mut().command(command)
    }

    fn select_config(&self, register: u32) {
        let address = 0x8000_0000 | self.slot << 11 | register;

        self.command(format!("outl 0xcf8 {address:#x}"));
    }

    fn write_config(&self, register: u32, value: u32) {
        self.select_config(register);
        self.command(format!("outl 0xcfc {value:#x}"));
    }

    /// Whether the card asserts its interrupt: a bit of the PCI status register.
    pub(crate) fn asserts_interrupt(&self) -> bool {
        self.select_config(0x04);
        self.command("inl 0xcfc".to_owned()) >> 16 & 8 != 0
    }

    /// Sends a frame to the card. It arrives later, behind those that were sent before.
    pub(crate) fn send(&self, frame: &[u8]) {
        self.wire.send_to(frame, &self.input).unwrap();
    }

    /// The next frame that the card has sent.
    pub(crate) fn receive(&self) -> Vec<u8> {
        let mut frame = vec![0; 0x1_0000];
        let len = self.wire.recv(&mut frame).unwrap();

        frame.truncate(len);
        frame
    }

    /// Reads of the machine's memory.
    pub(crate) fn read_memory(&self, address: u64) -> u32 {
        self.command(format!("readl {address:#x}"))
    }

    /// Writes to the machine's memory.
    pub(crate) fn write_memory(&self, address: u64, value: u32) {
        self.command(format!("writel {address:#x} {value:#x}"));
    }

    /// Looks until `done` says that what was waited for has happened.
    pub(crate) fn wait(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let start = std::time::Instant::now();

        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "nothing has happened");
            std::thread::yield_now();
        }
    }
}

fn letter(width: Width) -> char {
    match width {
        Width::Byte => 'b',
        Width::Word => 'w',
        Width::Dword => 'l',
    }
}

impl Card for QemuCard {
    fn read(&mut self, access: Access) -> u32 {
        let port = self.base + u16::from(access.port());

        self.command(format!("in{} {port:#x}", letter(access.width())))
    }

    fn write(&mut self, access: Access, value: u32) {
        let port = self.base + u16::from(access.port());
        let value = value & access.width().mask();

        self.command(format!(
            "out{} {port:#x} {value:#x}",
            letter(access.width())
        ));
    }

    fn read_words(&mut self, port: u8, data: &mut [[u8; 2]]) {
        let port = self.base + u16::from(port);
        let count = data.len();
        let mut words = data.iter_mut();

        self.process.borrow_mut().batch(
            std::iter::repeat_with(|| format!("inw {port:#x}")).take(count),
            |value| *words.next().unwrap() = u16::try_from(value).unwrap().to_le_bytes(),
        );
    }

    fn write_words(&mut self, port: u8, data: &[[u8; 2]]) {
        let port = self.base + u16::from(port);

        self.process.borrow_mut().batch(
            data.iter()
                .map(|word| format!("outw {port:#x} {:#x}", u16::from_le_bytes(*word))),
            |_| (),
        );
    }
}
