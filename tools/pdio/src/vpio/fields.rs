// SPDX-License-Identifier: GPL-2.0

//! The fields of a line that a test prints for other programs to read: `name=value`, apart by spaces.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// Those of one line.
pub(super) struct Fields<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Fields<'a> {
    pub(super) fn of(line: &'a str) -> Self {
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
