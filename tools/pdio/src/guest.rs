// SPDX-License-Identifier: GPL-2.0

//! A running machine, and the conversation with the agent in it.
//!
//! The agent (`selftests/vm/agent`) sits on the second serial port. A request
//! is one line, `ID COMMAND`, with newlines and backslashes escaped; the answer
//! is the command's output followed by a line `TOKEN ID STATUS`, where the
//! token is one that no output contains by accident. When the guest dies the
//! socket ends, and when it hangs a deadline passes: no wait is without one.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::interrupt;
use crate::qemu::{Console, Machine, QEMU};

/// How often a wait looks for signals and at the deadline.
const POLL: Duration = Duration::from_millis(100);

/// Starts the line that ends an answer.
const TOKEN: &str = "@pdio-7f3a";

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The machine is gone.
    #[error("the guest died; its console:\n{0}")]
    Died(String),
    /// The machine is there and says nothing.
    #[error("the guest did not answer within {0:?}; its console:\n{1}")]
    Hung(Duration, String),
}

/// What a command in the guest did.
#[derive(Clone, Debug)]
pub struct Output {
    /// What it printed, standard error included.
    pub text: String,
    /// Its exit status.
    pub status: i32,
}

/// A running machine. Dropping it ends the machine.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    stream: UnixStream,
    console: PathBuf,
    buffer: Vec<u8>,
    next_id: u32,
    /// From start to the agent's first word.
    pub boot_time: Duration,
    _dir: TempDir,
}

impl Guest {
    /// Boots `machine`, with its console in the file that the machine names,
    /// and waits for the agent.
    pub fn boot(machine: &Machine, timeout: Duration) -> Result<Self> {
        let Console::File(console) = machine.console.clone() else {
            bail!("a machine with an agent needs its console in a file");
        };
        let dir = tempfile::Builder::new().prefix("pdio-").tempdir()?;
        let control = dir.path().join("control");
        let listener = UnixListener::bind(&control)
            .with_context(|| format!("cannot listen on {}", control.display()))?;
        listener.set_nonblocking(true)?;

        let mut machine = machine.clone();
        machine.control = Some(control);
        machine.append.push("pdio.run=agent".into());

        let errors = dir.path().join("qemu.log");
        let started = Instant::now();
        let mut child = start(&machine, Stdio::null(), fs::File::create(&errors)?.into())?;
        let stream = match accept(&listener, &mut child, started + timeout) {
            Ok(stream) => stream,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let said = fs::read_to_string(&errors).unwrap_or_default();
                return Err(error.context(format!("cannot start {QEMU}: {}", said.trim())));
            }
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(POLL))?;

        let mut guest = Self {
            child,
            stream,
            console,
            buffer: Vec::new(),
            next_id: 0,
            boot_time: Duration::ZERO,
            _dir: dir,
        };
        guest
            .answer(0, timeout, &mut |_| {})
            .context("the guest did not boot")?;
        guest.boot_time = started.elapsed();
        Ok(guest)
    }

    /// Runs a shell command in the guest and returns what it printed.
    pub fn run(&mut self, command: &str, timeout: Duration) -> Result<Output> {
        let mut text = String::new();
        let status = self.stream(command, timeout, &mut |line| {
            text += line;
            text.push('\n');
        })?;
        Ok(Output { text, status })
    }

    /// Like [`run`](Self::run); a failing command is an error.
    pub fn ok(&mut self, command: &str, timeout: Duration) -> Result<String> {
        let output = self.run(command, timeout)?;
        if output.status != 0 {
            bail!(
                "in the guest: `{command}` failed with status {}:\n{}",
                output.status,
                output.text.trim_end()
            );
        }
        Ok(output.text)
    }

    /// Runs a shell command in the guest and hands on each line as it comes.
    pub fn stream(
        &mut self,
        command: &str,
        timeout: Duration,
        line: &mut dyn FnMut(&str),
    ) -> Result<i32> {
        self.next_id += 1;
        let id = self.next_id;
        let request = format!("{id} {}\n", escape(command));
        if self.stream.write_all(request.as_bytes()).is_err() {
            bail!(Lost::Died(self.last_words()));
        }
        self.answer(id, timeout, line)
    }

    fn answer(&mut self, id: u32, timeout: Duration, line: &mut dyn FnMut(&str)) -> Result<i32> {
        let deadline = Instant::now() + timeout;
        let mut chunk = [0; 4096];
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let raw: Vec<u8> = self.buffer.drain(..=end).collect();
                let text = String::from_utf8_lossy(&raw);
                let text = text.trim_end_matches(['\n', '\r']);
                match parse_end(text) {
                    // What the command printed may not have ended its last line.
                    Some((before, number, status)) if number == id => {
                        if !before.is_empty() {
                            line(before);
                        }
                        return Ok(status);
                    }
                    _ => line(text),
                }
            }
            interrupt::check()?;
            if Instant::now() >= deadline {
                bail!(Lost::Hung(timeout, self.last_words()));
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!(Lost::Died(self.last_words())),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(_) => bail!(Lost::Died(self.last_words())),
            }
        }
    }

    /// The end of the console, for messages.
    fn last_words(&self) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// The file that the console is written to.
    pub fn console(&self) -> &Path {
        &self.console
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `machine` with its console on this terminal until it ends.
pub fn interactive(machine: &Machine) -> Result<()> {
    let mut machine = machine.clone();
    machine.append.push("pdio.run=shell".into());
    let mut child = machine
        .command()?
        .spawn()
        .with_context(|| format!("cannot start {QEMU}; see `make doctor`"))?;
    child.wait()?;
    Ok(())
}

fn start(machine: &Machine, stdout: Stdio, stderr: Stdio) -> Result<Child> {
    machine
        .command()?
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .with_context(|| format!("cannot start {QEMU}; run inside the sysroot, see `make doctor`"))
}

fn accept(listener: &UnixListener, child: &mut Child, deadline: Instant) -> Result<UnixStream> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        interrupt::check()?;
        if let Some(status) = child.try_wait()? {
            bail!("it ended with {status}");
        }
        if Instant::now() >= deadline {
            bail!("it did not come up in time");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Makes one line of a command; the agent undoes it with `printf %b`.
fn escape(command: &str) -> String {
    command.replace('\\', "\\\\").replace('\n', "\\n")
}

/// Splits `…TOKEN ID STATUS` into what comes before it, and the numbers.
fn parse_end(line: &str) -> Option<(&str, u32, i32)> {
    let (before, rest) = line.split_once(TOKEN)?;
    let mut words = rest.split_whitespace();
    let id = words.next()?.parse().ok()?;
    let status = words.next()?.parse().ok()?;
    Some((before, id, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_becomes_one_line() {
        assert_eq!(escape("a\nb \\n"), "a\\nb \\\\n");
    }

    #[test]
    fn the_end_is_found_behind_an_unfinished_line() {
        assert_eq!(parse_end("@pdio-7f3a 3 0"), Some(("", 3, 0)));
        assert_eq!(parse_end("tail@pdio-7f3a 12 127"), Some(("tail", 12, 127)));
        assert_eq!(parse_end("ok 1 - @pdio-7f3a"), None);
        assert_eq!(parse_end("ordinary"), None);
    }
}
