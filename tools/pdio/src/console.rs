// SPDX-License-Identifier: GPL-2.0

//! What the kernel's console says about a test.
//!
//! A test that provokes a translation fault on purpose announces it:
//!
//! ```sh
//! echo 'pdio: expect fault' >/dev/kmsg
//! ...
//! echo 'pdio: expect nothing' >/dev/kmsg
//! ```
//!
//! Everything else that looks like a bug in the kernel fails the test.

/// Begins the span in which translation faults are expected.
const EXPECT_FAULT: &str = "pdio: expect fault";
/// Ends that span.
const EXPECT_NOTHING: &str = "pdio: expect nothing";

/// Texts that mean a bug, whatever the test was about.
const BUGS: [&str; 18] = [
    "BUG: ",
    "kernel BUG at",
    "WARNING: ",
    "Oops: ",
    "Kernel panic",
    "general protection fault",
    "Unable to handle kernel",
    "UBSAN: ",
    "KASAN: ",
    "refcount_t: ",
    "list_add corruption",
    "list_del corruption",
    "INFO: task ",
    "rcu: INFO: ",
    "soft lockup",
    "Invalidation Queue Error",
    "DMA-API: ",
    "pdio: unmapped 0x",
];

/// Texts that mean that a device touched what it may not.
const FAULTS: [&str; 5] = [
    "DMAR: [DMA ",
    "DMAR: [INTR-REMAP]",
    "AMD-Vi: Event logged [IO_PAGE_FAULT",
    "virtio_iommu: page fault",
    "virtio_iommu: unknown fault",
];

/// log2 of the most pages that the IOMMU of QEMU takes in one invalidation (`VTD_MAMV`).
const MOST_PAGES_LOG2: u64 = 18;

/// Whether a line names a descriptor that is no bug of ours: for processes that are bound the kernel
/// asks for all that lies around what changes to be dropped, without regard to how many pages the
/// IOMMU takes at once (`calculate_psi_aligned_address()` in drivers/iommu/intel/cache.c): for two
/// pages at either side of a boundary, or for all kernel addresses when it frees a page table of its
/// own (`iommu_sva_invalidate_kva_range()`). QEMU refuses that descriptor, and the kernel leaves it out.
fn is_too_wide(line: &str) -> bool {
    let descriptor = |line: &str| {
        let (_, word) = line.split_once("qw1 = 0x")?;
        u64::from_str_radix(word.trim(), 16).ok()
    };
    line.contains("QI HEAD: PASID-based IOTLB Invalidation")
        && descriptor(line).is_some_and(|word| word & 0x3f > MOST_PAGES_LOG2)
}

/// The lines of `text` without those of invalidations that are too wide.
fn without_wide_invalidations(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = Vec::new();
    let mut forgiven = 0;
    for line in text.lines() {
        let reported = |line: &&str| line.contains("detected Invalidation Queue Error");
        if is_too_wide(line) {
            // Other lines may have come between.
            if let Some(at) = lines.iter().rposition(reported) {
                lines.remove(at);
                forgiven += 1;
            }
        } else if forgiven > 0 && line.contains("Invalidation Queue Error (IQE) cleared") {
            forgiven -= 1;
        } else {
            lines.push(line);
        }
    }
    lines
}

/// The lines of `text` that should not be there.
///
/// # Examples
///
/// ```
/// use pdio::console::problems;
///
/// assert!(problems("e1000e: Link is Up").is_empty());
/// assert_eq!(problems("WARNING: CPU: 0 PID: 1 at x.c:1").len(), 1);
/// ```
pub fn problems(text: &str) -> Vec<&str> {
    let mut fault_expected = false;
    let mut found = Vec::new();
    for line in without_wide_invalidations(text) {
        if line.contains(EXPECT_FAULT) {
            fault_expected = true;
        } else if line.contains(EXPECT_NOTHING) {
            fault_expected = false;
        }
        let fault = FAULTS.iter().any(|fault| line.contains(fault));
        if BUGS.iter().any(|bug| line.contains(bug)) || (fault && !fault_expected) {
            found.push(line.trim_end());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAULT: &str = "DMAR: [DMA Write NO_PASID] Request device [00:02.0] fault addr 0x1000\n";

    #[test]
    fn an_unannounced_fault_is_a_problem() {
        assert_eq!(problems(FAULT).len(), 1);
    }

    #[test]
    fn an_announced_fault_is_not_until_the_announcement_ends() {
        let announced = format!("[ 1.0] {EXPECT_FAULT}\n{FAULT}[ 2.0] {EXPECT_NOTHING}\n");
        assert!(problems(&announced).is_empty());
        assert_eq!(problems(&(announced + FAULT)).len(), 1);
    }

    #[test]
    fn an_invalidation_of_too_many_pages_is_no_problem_but_others_are() {
        let error = |word: &str| {
            format!(
                "DMAR: VT-d detected Invalidation Queue Error: Reason 0\n\
                 DMAR: DRHD: handling fault status reg 10\n\
                 DMAR: QI HEAD: PASID-based IOTLB Invalidation qw0 = 0x100010036, qw1 = {word}\n\
                 DMAR: QI PRIOR: Invalidation Wait qw0 = 0x200000025, qw1 = 0x123f524\n\
                 DMAR: Invalidation Queue Error (IQE) cleared\n"
            )
        };
        let kernel = error("0xffff800000000023");
        assert!(problems(&kernel).is_empty());
        assert!(problems(&error("0x7f0180000053")).is_empty());
        assert_eq!(problems(&error("0x7f0180000052")).len(), 2);
        assert_eq!(problems(&(kernel + &error("0x12"))).len(), 2);
    }

    #[test]
    fn a_bug_is_a_problem_even_while_a_fault_is_expected() {
        let text = format!("{EXPECT_FAULT}\n[ 3.0] BUG: sleeping function called\n");
        assert_eq!(problems(&text), ["[ 3.0] BUG: sleeping function called"]);
    }
}
