//! Model checks of the core protocols; empty without `--cfg loom`.
#![cfg(loom)]

use std::process::Command;

use taskmuster::models::{interleavings, twins};

macro_rules! models {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            loom::model(interleavings::$name);
        })*
    };
}

models!(
    a_wait_never_misses_the_cancel_and_finds_its_cause,
    a_flag_that_is_seen_has_its_cause,
    a_child_made_during_the_cancel_is_cancelled,
    one_of_two_cancels_wins,
    a_wait_for_two_latches_hears_either,
    a_spawn_against_the_stop_is_cancelled_or_refused,
    two_joiners_share_one_value,
    completion_against_cancel_is_one_outcome,
    completion_against_abandonment_keeps_the_books,
    a_thread_is_joined_by_exactly_one,
    a_callback_registered_during_the_cancel_runs_once,
    a_callback_is_disarmed_or_has_run,
    an_alarm_rings_or_was_moved,
    an_alarm_is_taken_back_by_one_of_two_or_rings,
    an_alarm_that_was_taken_off_is_not_taken_for_one_that_rang,
    a_token_of_two_parents_made_during_a_cancel_is_cancelled_and_has_its_cause,
    a_gate_lets_one_through_at_a_time_and_nobody_sleeps_before_a_free_one,
    a_gate_is_handed_on_when_the_called_one_is_cancelled,
    a_waiter_that_goes_leaves_the_others_in_line,
    a_gate_is_handed_on_when_the_time_of_the_called_one_is_over,
    one_who_barges_in_is_followed_by_whoever_was_called,
    one_who_is_served_and_cancelled_leaves_the_gate,
    a_notification_finds_who_waits,
    a_notification_is_not_lost_with_a_cancelled_waiter,
    a_notification_is_not_lost_with_one_who_is_cancelled_before_the_lock,
);

/// Each twin is run in a process of its own, because a deadlock that loom finds aborts.
macro_rules! twins {
    ($($name:ident as $check:ident fails_with $words:literal),* $(,)?) => {
        $(#[test]
        #[ignore = "a broken twin: it must fail, and is run by the test that says so"]
        fn $name() {
            loom::model(twins::$name);
        }

        #[test]
        fn $check() {
            assert_fails(stringify!($name), $words);
        })*
    };
}

twins!(
    a_wait_that_looks_too_early as a_lost_wake_up_is_found fails_with "deadlock",
    a_spawn_that_decides_before_it_registers as a_lost_task_is_found
        fails_with "accepted, but never asked to stop",
    a_join_that_looks_and_then_takes as a_value_taken_twice_is_found
        fails_with "the value that was seen",
    a_registration_that_looks_and_then_enters as a_lost_callback_is_found
        fails_with "a callback was lost",
    an_alarm_that_is_moved_in_two_steps as an_alarm_moved_and_rung_is_found
        fails_with "moved, and rang all the same",
    a_called_waiter_that_goes_silently as a_gate_that_is_not_handed_on_is_found
        fails_with "deadlock",
    a_waiter_that_looks_and_then_joins as a_sleeper_before_a_free_gate_is_found
        fails_with "deadlock",
    a_notified_waiter_that_goes_silently as a_notification_lost_with_its_waiter_is_found
        fails_with "deadlock",
    a_cancel_that_looks_and_then_ends_the_task as a_second_outcome_is_found
        fails_with "one outcome",
    an_abandonment_that_looks_and_then_writes as an_overwritten_outcome_is_found
        fails_with "the real end is the last word",
);

fn assert_fails(twin: &str, words: &str) {
    let output = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", twin, "--ignored", "--nocapture"])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(
        said.contains("running 1 test"),
        "the twin was not run:\n{said}"
    );
    assert!(!output.status.success(), "the broken twin passes:\n{said}");
    assert!(
        said.contains(words),
        "the twin fails for another reason:\n{said}"
    );
}
