//! Starting tasks that must be ready before the next one starts.

use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::base::time::Duration;
use crate::task::context::{TaskBody, TaskContext, TaskResult};
use crate::task::group::Group;
use crate::task::handle::{ReadyError, TaskHandle};
use crate::task::spawner::{SpawnError, TaskBuilder};

/// # Starting in order
impl TaskBuilder {
    /// Starts the task and returns when it says that it is [ready](TaskContext::ready), at most after `timeout`.
    ///
    /// A task that is not ready in time is asked to stop. Until it is ready, the manager is not
    /// [ready](crate::Manager::is_ready) either.
    ///
    /// # Errors
    /// [`StartError`] when it was not accepted, ended before it was ready, or was not ready in time.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use std::net::TcpListener;
    /// use taskmuster::Manager;
    ///
    /// let report = Manager::builder().run(|manager| {
    ///     manager.task("server").spawn_ready(Duration::from_secs(5), |ctx| {
    ///         let listener = TcpListener::bind("127.0.0.1:0")?; // an error here is the error of the start
    ///         ctx.ready();
    ///         ctx.wait();
    ///         drop(listener);
    ///         Ok(())
    ///     })?;
    ///     assert!(manager.is_ready());
    ///     Ok(())
    /// });
    /// assert!(report.is_clean());
    /// ```
    #[track_caller]
    pub fn spawn_ready<T: Send + 'static>(
        self,
        timeout: Duration,
        body: impl FnOnce(&TaskContext) -> TaskResult<T> + Send + 'static,
    ) -> Result<TaskHandle<T>, StartError> {
        self.spawn_ready_boxed(timeout, Box::new(body), Location::caller())
    }

    fn spawn_ready_boxed<T: Send + 'static>(
        self,
        timeout: Duration,
        body: TaskBody<T>,
        place: &'static Location<'static>,
    ) -> Result<TaskHandle<T>, StartError> {
        let handle = self.counts_for_readiness(true).spawn_boxed(body, place)?;
        handle.wait_ready(timeout).map_err(|error| {
            handle.cancel();
            StartError::new(handle.name(), StartFailure::NotReady(error))
        })?;
        Ok(handle)
    }
}

impl Group {
    /// Several tasks that are started one after the other, each when the one before is ready.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use taskmuster::Manager;
    ///
    /// let report = Manager::builder().run(|manager| {
    ///     let services = manager.group("services");
    ///     let started = services
    ///         .startup(Duration::from_secs(5))
    ///         .then(services.task("database"), |ctx| { ctx.ready(); ctx.wait(); Ok(()) })
    ///         .then(services.task("server"), |ctx| { ctx.ready(); ctx.wait(); Ok(()) })
    ///         .start()?;
    ///     assert_eq!(started.len(), 2);
    ///     Ok(())
    /// });
    /// assert!(report.is_clean());
    /// ```
    pub fn startup(&self, timeout: Duration) -> Startup {
        Startup {
            timeout,
            tasks: Vec::new(),
        }
    }
}

/// Tasks that are started in order, or not at all; made by [`Group::startup`].
#[must_use = "nothing is started before `start`"]
pub struct Startup {
    timeout: Duration,
    tasks: Vec<(TaskBuilder, TaskBody<()>, &'static Location<'static>)>,
}

impl Startup {
    /// Adds a task that is started when all before it are ready.
    #[track_caller]
    pub fn then(
        mut self,
        task: TaskBuilder,
        body: impl FnOnce(&TaskContext) -> TaskResult + Send + 'static,
    ) -> Self {
        self.tasks.push((task, Box::new(body), Location::caller()));
        self
    }

    /// Starts the tasks; each has the timeout for itself to become ready.
    ///
    /// # Errors
    /// [`StartError`] of the first that does not become ready. Those before it are stopped in reverse order, one after
    /// the other, each within the same time.
    pub fn start(self) -> Result<Vec<TaskHandle<()>>, StartError> {
        let mut started = Vec::with_capacity(self.tasks.len());
        for (task, body, place) in self.tasks {
            match task.spawn_ready_boxed(self.timeout, body, place) {
                Ok(handle) => started.push(handle),
                Err(error) => {
                    roll_back(&started, self.timeout);
                    return Err(error);
                }
            }
        }
        Ok(started)
    }
}

fn roll_back(started: &[TaskHandle<()>], timeout: Duration) {
    for handle in started.iter().rev() {
        // What becomes of each is in the books: a failure here stays unread and is in the report.
        handle.cancel();
        handle.wait_end(timeout);
    }
}

impl fmt::Debug for Startup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Startup")
            .field("tasks", &self.tasks.len())
            .finish_non_exhaustive()
    }
}

/// Why a task did not become ready.
#[derive(Debug)]
pub struct StartError {
    task: Arc<str>,
    failure: StartFailure,
}

/// The reasons for a [`StartError`].
#[derive(Debug)]
#[non_exhaustive]
pub enum StartFailure {
    /// It was not accepted; its closure was dropped.
    NotSpawned(Box<dyn Error + Send + Sync>),
    /// It ended, or did not become ready in time.
    NotReady(ReadyError),
}

impl StartError {
    fn new(task: &str, failure: StartFailure) -> Self {
        Self {
            task: task.into(),
            failure,
        }
    }

    /// The name of the task.
    #[must_use]
    pub fn task(&self) -> &str {
        &self.task
    }

    /// Why.
    #[must_use]
    pub fn failure(&self) -> &StartFailure {
        &self.failure
    }
}

impl<T: Send + 'static> From<SpawnError<T>> for StartError {
    fn from(error: SpawnError<T>) -> Self {
        let task = error.task().to_owned();
        Self::new(&task, StartFailure::NotSpawned(Box::new(error)))
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.failure {
            StartFailure::NotSpawned(error) => error.fmt(f),
            StartFailure::NotReady(error) => error.fmt(f),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.failure {
            StartFailure::NotSpawned(error) => Some(&**error),
            StartFailure::NotReady(error) => error.source(),
        }
    }
}
