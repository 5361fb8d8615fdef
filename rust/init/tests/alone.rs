//! Tests here make pipes, fork and wait; one that shared its process with another could fail by what that one holds.

use std::sync::atomic::{AtomicU32, Ordering};

static TESTS_IN_THIS_PROCESS: AtomicU32 = AtomicU32::new(0);

fn assert_alone() {
    let before = TESTS_IN_THIS_PROCESS.fetch_add(1, Ordering::SeqCst);
    assert_eq!(
        before, 0,
        "run tests by `cargo test`, which gives each a process: rust/one-process-a-test.sh"
    );
}

// Two of the same: in one process, whether at once or in turn, the second fails.

#[test]
fn a_test_has_a_process_of_its_own() {
    assert_alone();
}

#[test]
fn another_test_has_another_process() {
    assert_alone();
}
