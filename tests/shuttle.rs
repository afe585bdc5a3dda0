//! The protocols under random schedules; empty without `--cfg shuttle`.
//!
//! `TASKMUSTER_SCHEDULES` says how many schedules there are in all; a million, without it. A schedule that fails is
//! printed, to be replayed with `shuttle::replay`.
#![cfg(shuttle)]

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};
use taskmuster::models::{interleavings, schedules, twins};

/// How deep the bugs may lie that the second scheduler is sure to find with a known probability (Burckhardt et al.,
/// "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010).
const DEPTH: usize = 3;

/// Of a thousand schedules, how many each of the large models has, and each of the small ones.
const LARGE: usize = 160;
const SMALL: usize = 8;

fn share_of(per_mille: usize) -> usize {
    let all = std::env::var("TASKMUSTER_SCHEDULES").map_or(1_000_000, |number| {
        number.parse().expect("TASKMUSTER_SCHEDULES is a number")
    });
    (all / 1_000 * per_mille).max(2)
}

/// Half of the schedules at random, half with random priorities.
fn check(model: fn(), schedules: usize) {
    run(RandomScheduler::new(schedules / 2), model);
    run(PctScheduler::new(DEPTH, schedules / 2), model);
}

fn run(scheduler: impl Scheduler + 'static, model: fn()) {
    let mut config = Config::new();
    config.stack_size = 256 * 1024;
    Runner::new(scheduler, config).run(model);
}

macro_rules! models {
    ($per_mille:ident of $module:ident: $($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            check($module::$name, share_of($per_mille));
        })*
    };
}

models!(LARGE of schedules:
    a_shutdown_accounts_for_everybody,
    those_who_wait_for_ends_are_let_go,
    a_tree_is_cancelled_while_it_grows_and_withers,
    a_callback_has_run_or_was_taken_back,
    failures_at_the_same_time_are_all_counted,
);

models!(SMALL of interleavings:
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
    a_gate_is_handed_on_when_the_called_one_is_cancelled,
    a_waiter_that_goes_leaves_the_others_in_line,
    a_gate_is_handed_on_when_the_time_of_the_called_one_is_over,
    one_who_is_served_and_cancelled_leaves_the_gate,
    a_notification_finds_who_waits,
    a_notification_is_not_lost_with_a_cancelled_waiter,
    a_notification_is_not_lost_with_one_who_is_cancelled_before_the_lock,
);

/// A checker that passes a broken twin proves nothing.
macro_rules! twins {
    ($($name:ident fails_with $words:literal),* $(,)?) => {
        $(#[test]
        #[should_panic(expected = $words)]
        fn $name() {
            check(twins::$name, 10_000);
        })*
    };
}

twins!(
    a_wait_that_looks_too_early fails_with "deadlock",
    a_spawn_that_decides_before_it_registers fails_with "accepted, but never asked to stop",
    a_join_that_looks_and_then_takes fails_with "the value that was seen",
    a_registration_that_looks_and_then_enters fails_with "a callback was lost",
    an_alarm_that_is_moved_in_two_steps fails_with "moved, and rang all the same",
    a_called_waiter_that_goes_silently fails_with "deadlock",
    a_waiter_that_looks_and_then_joins fails_with "deadlock",
    a_notified_waiter_that_goes_silently fails_with "deadlock",
    a_cancel_that_looks_and_then_ends_the_task fails_with "one outcome",
    an_abandonment_that_looks_and_then_writes fails_with "the real end is the last word",
);
