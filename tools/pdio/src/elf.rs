// SPDX-License-Identifier: GPL-2.0

//! What has to travel with a program: the closure of its shared libraries.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use goblin::elf::Elf;

/// Directories that the dynamic loader of a Debian amd64 system searches.
const LIBRARY_PATH: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/usr/lib",
    "/lib",
];

/// The shared libraries that `programs` need, directly or not, and the program
/// interpreters: path where the loader looks for it → file to read.
pub fn closure(programs: &[PathBuf]) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut queue: VecDeque<PathBuf> = programs.iter().cloned().collect();

    while let Some(path) = queue.pop_front() {
        let data = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if !data.starts_with(goblin::elf::header::ELFMAG) {
            continue;
        }
        let elf = Elf::parse(&data).with_context(|| format!("{} is damaged", path.display()))?;
        let mut wanted = Vec::new();
        if let Some(interpreter) = elf.interpreter {
            wanted.push(PathBuf::from(interpreter));
        }
        for name in &elf.libraries {
            wanted.push(locate(name, &elf, &path)?);
        }
        for library in wanted {
            let file = fs::canonicalize(&library)
                .with_context(|| format!("cannot find {}", library.display()))?;
            if found.insert(library, file.clone()).is_none() {
                queue.push_back(file);
            }
        }
    }
    Ok(found)
}

fn locate(name: &str, elf: &Elf<'_>, user: &Path) -> Result<PathBuf> {
    let origin = user.parent().unwrap_or(Path::new("/"));
    let own = elf
        .runpaths
        .iter()
        .chain(&elf.rpaths)
        .flat_map(|paths| paths.split(':'))
        .filter(|path| !path.is_empty())
        .map(|path| {
            let path = path.replace("${ORIGIN}", "$ORIGIN");
            PathBuf::from(path.replace("$ORIGIN", &origin.to_string_lossy()))
        });
    for dir in own.chain(LIBRARY_PATH.iter().map(PathBuf::from)) {
        let candidate = dir.join(name);
        if candidate.exists() {
            return Ok(candidate);
        }
    }
    bail!(
        "{} needs {name}, which is not installed; run `make doctor`",
        user.display()
    )
}

/// The `key=value` strings of a kernel module's `.modinfo` section for `key`.
pub fn modinfo(data: &[u8], key: &str) -> Result<Vec<String>> {
    let elf = Elf::parse(data).context("not an ELF file")?;
    let mut values = Vec::new();
    for section in &elf.section_headers {
        if elf.shdr_strtab.get_at(section.sh_name) != Some(".modinfo") {
            continue;
        }
        let Some(range) = section.file_range() else {
            continue;
        };
        let text = data.get(range).context("section outside the file")?;
        for entry in text.split(|byte| *byte == 0) {
            let entry = String::from_utf8_lossy(entry);
            if let Some((name, value)) = entry.split_once('=') {
                if name == key {
                    values.push(value.to_owned());
                }
            }
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closure_of_a_dynamic_program_has_its_loader_and_libc() {
        let libraries = closure(&[std::env::current_exe().unwrap()]).unwrap();
        let names: Vec<_> = libraries
            .keys()
            .filter_map(|path| path.file_name()?.to_str())
            .collect();
        assert!(names.contains(&"libc.so.6"), "{names:?}");
        assert!(
            names.iter().any(|name| name.starts_with("ld-linux")),
            "{names:?}"
        );
    }

    #[test]
    fn a_script_needs_nothing() {
        let script = tempfile::NamedTempFile::new().unwrap();
        fs::write(script.path(), "#!/bin/sh\n").unwrap();
        assert!(closure(&[script.path().to_owned()]).unwrap().is_empty());
    }
}
