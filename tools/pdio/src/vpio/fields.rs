// SPDX-License-Identifier: GPL-2.0

//! Lines that a test prints for other programs to read: a word that says what of, and fields
//! `name=value`, apart by spaces.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// What the lines that begin with `mark` tell, among the results of a test.
///
/// # Errors
///
/// `one` cannot read a line, there is none, or a case has failed.
pub(super) fn parse<T>(
    text: &str,
    mark: &str,
    one: fn(&Fields<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for line in text.lines() {
        let line = line.trim_start_matches("# ");
        if line.starts_with("not ok ") {
            bail!("the guest's `{line}`");
        }
        if let Some(fields) = line.strip_prefix(mark) {
            let told = one(&Fields::of(fields));
            all.push(told.with_context(|| format!("the guest's `{line}` tells nothing"))?);
        }
    }
    match all.is_empty() {
        true => bail!("the guest has printed no line `{}`", mark.trim_end()),
        false => Ok(all),
    }
}

/// The fields of one line.
pub(super) struct Fields<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Fields<'a> {
    fn of(line: &'a str) -> Self {
        let fields = line.split_whitespace();
        Self(fields.filter_map(|field| field.split_once('=')).collect())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn text(&self, name: &str) -> Result<&'a str> {
        let value = self.0.get(name).copied();
        value.with_context(|| format!("there is no {name}"))
    }

    pub(super) fn number(&self, name: &str) -> Result<u64> {
        let value = self.text(name)?.parse();
        value.with_context(|| format!("{name} is no number"))
    }
}
