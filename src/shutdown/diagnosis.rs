//! Why a task did not stop, in one sentence.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::base::text::printable;
use crate::base::time::{Duration, human};
use crate::sync::patience::DEAF;
use crate::task::record::SectionKind;

/// What is known of a task that did not stop, taken shortly before the shutdown's deadline.
///
/// `Display` makes one sentence of it, with advice.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The task's name.
    pub task: Arc<str>,
    /// How long ago it was asked to stop.
    pub asked: Duration,
    /// The last checkpoint or wait it passed, ever.
    pub last_checkpoint: Option<&'static Location<'static>>,
    /// How long ago it passed one, within a quarter of a second; `None` if not since it was asked.
    pub last_seen: Option<Duration>,
    /// How many checkpoints it passed since it was asked.
    pub checkpoints_since: usize,
    /// The section it is in that does not hear the stop, if it is in one.
    pub section: Option<InSection>,
    /// The wait of this library it is in, if it is in one.
    pub waiting_for: Option<String>,
    /// The processor time it used of late, and over which time that was measured, where the kernel says.
    pub cpu: Option<(Duration, Duration)>,
    /// Whether the kernel saw it on a processor or ready for one.
    pub running: bool,
    /// The system call it is blocked in, where the kernel says.
    pub blocked_in: Option<String>,
    /// The line that spawned it.
    pub spawned_at: &'static Location<'static>,
    /// What it is at.
    pub stage: Stage,
}

/// A section that does not hear its task's stop.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InSection {
    /// Why it does not hear it.
    pub kind: SectionKind,
    /// What the program calls it.
    pub what: Arc<str>,
    /// How long it has lasted.
    pub since: Duration,
    /// Not the task's own thread is in it, but a helper thread of the task.
    pub by_helper: bool,
}

/// How the wait for another task begins.
pub(crate) const END_OF: &str = "the end of ";

/// How the wait for a child process begins; it describes itself (process/leash.rs).
const CHILD: &str = "the child process ";

/// How far a task that did not stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Its thread was created but has not begun.
    NotBegun,
    /// Its body is running.
    Body,
    /// Its body is over; its thread is in the logger, to tell of its end.
    Logging,
    /// Its body is over; its thread is in the destructor of a thread-local.
    Exiting,
}

impl Diagnosis {
    /// Whether it is in code that was announced as foreign: then nobody could have stopped it.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        let section = self.section.as_ref();
        section.is_some_and(|section| section.kind == SectionKind::Foreign && !section.by_helper)
    }

    /// Whether it is about the thread of a task that has ended.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Logging | Stage::Exiting)
    }

    /// Whether it computes: on a crowded machine a task that never pauses gets little of a processor.
    fn is_busy(&self) -> bool {
        self.cpu
            .is_some_and(|(used, over)| used > over / 2 || (self.running && !used.is_zero()))
    }

    /// Whether it went on passing checkpoints until the end: it lives, but does not listen. In a shield, and in a join
    /// without the context, there is nothing to be heard.
    fn is_deaf(&self) -> bool {
        let waits_for_others = self
            .waiting_for
            .as_ref()
            .is_some_and(|wait| wait.starts_with(END_OF));
        self.section.is_none()
            && !waits_for_others
            && self.checkpoints_since > 0
            && self
                .last_seen
                .is_some_and(|ago| ago < self.asked / 4 + Duration::from_millis(500))
    }

    fn put_checkpoint(&self) -> String {
        match self.last_checkpoint {
            Some(place) => format!(
                "put `ctx.checkpoint()?` into the loop after {}:{}",
                place.file(),
                place.line()
            ),
            None => format!(
                "put `ctx.checkpoint()?` into the loops of the task spawned at {}:{}",
                self.spawned_at.file(),
                self.spawned_at.line()
            ),
        }
    }

    fn silence(&self) -> String {
        match (self.checkpoints_since, self.last_seen) {
            (0, _) | (_, None) => {
                format!(
                    "has reached no checkpoint since it was asked to stop {} ago",
                    human(self.asked)
                )
            }
            (passed, Some(ago)) => {
                format!(
                    "passed {} after the stop, the last {} ago",
                    counted(passed, "checkpoint"),
                    human(ago)
                )
            }
        }
    }

    fn place(&self) -> String {
        match self.last_checkpoint {
            Some(place) => format!("; it was last seen at {}:{}", place.file(), place.line()),
            None => format!(
                "; it never passed one, and was spawned at {}:{}",
                self.spawned_at.file(),
                self.spawned_at.line()
            ),
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ", self.task)?;
        match self.stage {
            Stage::NotBegun => {
                return write!(
                    f,
                    "has a thread that did not begin within {}: the machine is overloaded",
                    human(self.asked)
                );
            }
            Stage::Logging | Stage::Exiting => {
                f.write_str(match self.stage {
                    Stage::Logging => "has ended, but its thread is still in the logger",
                    _ => "has ended, but its thread is still exiting (thread-local destructor)",
                })?;
                return match &self.blocked_in {
                    Some(call) => write!(f, ", blocked in {call}"),
                    None => Ok(()),
                };
            }
            Stage::Body => {}
        }
        match &self.section {
            Some(InSection {
                kind: SectionKind::Foreign,
                what,
                since,
                by_helper,
            }) => {
                let (what, since) = (printable(what), human(*since));
                if *by_helper {
                    return write!(
                        f,
                        "has a helper thread that has been in `{what}` for {since}, foreign code that nothing can stop"
                    );
                }
                return write!(
                    f,
                    "has been in `{what}` for {since}, foreign code that nothing can stop"
                );
            }
            Some(InSection {
                kind: SectionKind::Shield,
                since,
                ..
            }) => {
                write!(f, "has been in a shield for {}, and ", human(*since))?;
            }
            None => {}
        }
        if self.is_deaf() {
            let passed = counted(self.checkpoints_since, "checkpoint");
            write!(f, "passed {passed} after the stop: it ignores their result")?;
            return match self.last_checkpoint {
                Some(place) => write!(
                    f,
                    "; pass it on with `?` at {}:{}",
                    place.file(),
                    place.line()
                ),
                None => Ok(()),
            };
        }
        if let Some(wait) = &self.waiting_for {
            let why = if wait.ends_with(DEAF) {
                "wait through the context instead (`ctx.lock`, `ctx.wait_while`)"
            } else if self.section.is_some() {
                "a shielded wait does not hear the stop"
            } else if wait.starts_with(END_OF) {
                "that one does not stop either"
            } else if wait.starts_with(CHILD) {
                "SIGKILL comes when its grace is over, shortly before the deadline at the latest, and then only the \
                 kernel can delay its end"
            } else {
                "its stop should have ended that, so the machine is overloaded"
            };
            return write!(f, "waits for {wait}{}: {why}", self.place());
        }
        f.write_str(&self.silence())?;
        match (&self.cpu, &self.blocked_in) {
            (Some((used, over)), _) if self.is_busy() => {
                write!(
                    f,
                    " and burned {} of CPU in the last {}: {}",
                    human(*used),
                    human(*over),
                    self.put_checkpoint()
                )
            }
            (_, Some(call)) => write!(f, " and sits in {call}{}: {}", self.place(), unblock(call)),
            (Some((used, over)), None) => {
                write!(
                    f,
                    " and used {} of {} of CPU: {}",
                    human(*used),
                    human(*over),
                    self.put_checkpoint()
                )
            }
            (None, None) => write!(f, ": {}", self.put_checkpoint()),
        }
    }
}

/// What helps against a blocking call.
fn unblock(call: &str) -> &'static str {
    let name = call.split('(').next().unwrap_or(call);
    match name {
        "futex" => {
            "a lock, a plain channel, condition variable or join; wait through the context instead (`ctx.lock`, \
             `ctx.recv`, `ctx.join`, `select!` with `ctx.cancelled()`)"
        }
        "nanosleep" | "clock_nanosleep" => "sleep with `ctx.sleep` instead",
        "wait4" | "waitid" => {
            "run the child process with `ctx.run` or `ctx.spawn_child` instead, which hear the stop"
        }
        "accept" | "accept4" | "connect" | "recvfrom" | "recvmsg" | "sendto" | "sendmsg" => {
            "give the socket a timeout and a checkpoint between tries, or shut it down from another task that waits \
             with `ctx.wait`"
        }
        _ => {
            "no stop flag reaches a blocking call; give it a timeout and a checkpoint between tries"
        }
    }
}

/// `1 checkpoint`, `1,204 checkpoints`.
fn counted(number: usize, noun: &str) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if number == 1 {
        format!("{grouped} {noun}")
    } else {
        format!("{grouped} {noun}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn straggler() -> Diagnosis {
        Diagnosis {
            task: Arc::from("hash"),
            asked: Duration::from_secs(5),
            last_checkpoint: Some(Location::caller()),
            last_seen: None,
            checkpoints_since: 0,
            section: None,
            waiting_for: None,
            cpu: None,
            running: false,
            blocked_in: None,
            spawned_at: Location::caller(),
            stage: Stage::Body,
        }
    }

    fn place_of(diagnosis: &Diagnosis) -> String {
        let place = diagnosis.last_checkpoint.expect("it has one");
        format!("{}:{}", place.file(), place.line())
    }

    #[test]
    fn a_loop_without_a_checkpoint_is_told_where_to_put_one() {
        let spinning = Diagnosis {
            cpu: Some((Duration::from_millis(4_700), Duration::from_millis(4_800))),
            ..straggler()
        };
        assert_eq!(
            spinning.to_string(),
            format!(
                "`hash` has reached no checkpoint since it was asked to stop 5.00 s ago and burned 4.70 s of CPU in the last 4.80 s: put \
                 `ctx.checkpoint()?` into the loop after {}",
                place_of(&spinning)
            )
        );
    }

    #[test]
    fn one_who_ignores_its_checkpoints_is_told_so() {
        let deaf = Diagnosis {
            checkpoints_since: 1_204,
            last_seen: Some(Duration::from_millis(10)),
            ..straggler()
        };
        let said = deaf.to_string();
        assert!(
            said.starts_with(
                "`hash` passed 1,204 checkpoints after the stop: it ignores their result"
            ),
            "{said}"
        );
    }

    #[test]
    fn who_has_more_than_half_of_a_processor_is_busy_and_who_waits_for_one_too() {
        let used = |millis, running| Diagnosis {
            cpu: Some((Duration::from_millis(millis), Duration::from_secs(2))),
            running,
            ..straggler()
        };
        assert!(used(1_001, false).is_busy() && !used(1_000, false).is_busy());
        assert!(used(10, true).is_busy() && !used(0, true).is_busy());
        assert!(!straggler().is_busy());
    }

    #[test]
    fn how_lately_it_must_have_passed_one_to_ignore_them_grows_with_the_time_it_had() {
        let passed = |asked, ago| Diagnosis {
            asked: Duration::from_millis(asked),
            checkpoints_since: 1,
            last_seen: Some(Duration::from_millis(ago)),
            ..straggler()
        };
        assert!(passed(100, 524).is_deaf() && !passed(100, 525).is_deaf());
        assert!(passed(8_000, 2_499).is_deaf() && !passed(8_000, 2_500).is_deaf());
    }

    #[test]
    fn a_blocking_call_is_named_with_what_helps() {
        let reading = Diagnosis {
            blocked_in: Some("read(0)".to_owned()),
            ..straggler()
        };
        assert!(
            reading.to_string().contains("and sits in read(0)"),
            "{reading}"
        );
        let locked = Diagnosis {
            blocked_in: Some("futex".to_owned()),
            last_checkpoint: None,
            ..straggler()
        };
        assert!(
            locked.to_string().contains("a lock, a plain channel"),
            "{locked}"
        );
        assert!(
            locked
                .to_string()
                .contains("it never passed one, and was spawned at"),
            "{locked}"
        );
    }

    #[test]
    fn who_cannot_hear_the_stop_is_not_said_to_ignore_it() {
        let chatty = Diagnosis {
            checkpoints_since: 12,
            last_seen: Some(Duration::from_millis(10)),
            ..straggler()
        };
        let shielded = Diagnosis {
            section: Some(InSection {
                kind: SectionKind::Shield,
                what: Arc::from("shield"),
                since: Duration::from_secs(5),
                by_helper: false,
            }),
            ..chatty.clone()
        };
        let said = shielded.to_string();
        assert!(
            said.contains(
                "in a shield for 5.00 s, and passed 12 checkpoints after the stop, the last"
            ),
            "{said}"
        );
        let joins = Diagnosis {
            waiting_for: Some(format!("{END_OF}`other`")),
            ..chatty
        };
        let said = joins.to_string();
        assert!(
            said.starts_with("`hash` waits for the end of `other`"),
            "{said}"
        );
    }

    #[test]
    fn one_who_passed_a_few_and_then_fell_silent_is_not_called_deaf() {
        let silent = Diagnosis {
            checkpoints_since: 3,
            last_seen: Some(Duration::from_secs(4)),
            blocked_in: Some("fsync(7)".to_owned()),
            ..straggler()
        };
        let said = silent.to_string();
        assert!(
            said.contains(
                "passed 3 checkpoints after the stop, the last 4.00 s ago and sits in fsync(7)"
            ),
            "{said}"
        );
    }

    #[test]
    fn without_anything_from_the_kernel_the_last_checkpoint_serves() {
        let unknown = straggler();
        assert!(
            unknown.to_string().ends_with(&place_of(&unknown)),
            "{unknown}"
        );
    }

    #[test]
    fn foreign_code_and_shields_are_named() {
        let section = |kind| InSection {
            kind,
            what: Arc::from("dns lookup"),
            since: Duration::from_secs(3),
            by_helper: false,
        };
        let foreign = Diagnosis {
            section: Some(section(SectionKind::Foreign)),
            ..straggler()
        };
        assert!(foreign.is_foreign());
        assert_eq!(
            foreign.to_string(),
            "`hash` has been in `dns lookup` for 3.00 s, foreign code that nothing can stop"
        );
        let helped = Diagnosis {
            section: Some(InSection {
                by_helper: true,
                ..section(SectionKind::Foreign)
            }),
            ..straggler()
        };
        assert!(!helped.is_foreign());
        assert_eq!(
            helped.to_string(),
            "`hash` has a helper thread that has been in `dns lookup` for 3.00 s, foreign code that nothing can stop"
        );
        let shielded = Diagnosis {
            section: Some(section(SectionKind::Shield)),
            waiting_for: Some("a message".to_owned()),
            ..straggler()
        };
        let said = shielded.to_string();
        assert!(
            said.contains("has been in a shield for 3.00 s, and waits for a message"),
            "{said}"
        );
    }

    #[test]
    fn a_wait_that_hears_no_stop_is_told_how_to() {
        let deaf = Diagnosis {
            waiting_for: Some(format!("the lock held by `writer`{DEAF}")),
            ..straggler()
        };
        assert_eq!(
            deaf.to_string(),
            format!(
                "`hash` waits for the lock held by `writer`, deaf to its stop; it was last seen at {}: wait through the \
                 context instead (`ctx.lock`, `ctx.wait_while`)",
                place_of(&deaf)
            )
        );
    }

    #[test]
    fn a_thread_that_only_exits_is_not_blamed_for_its_body() {
        let exiting = Diagnosis {
            stage: Stage::Exiting,
            ..straggler()
        };
        assert!(
            exiting
                .to_string()
                .contains("still exiting (thread-local destructor)")
        );
    }
}
