//! Work to be done on cancel, as programs register it.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::cancel::callback::Callback;
use crate::cancel::token::CancellationToken;

/// # Unblocking foreign calls
impl CancellationToken {
    /// Has `work` done when the token is cancelled: to unblock a call that hears no stop flag.
    ///
    /// It runs at most once: exactly once if the token is cancelled while the guard is there or after it was
    /// [kept](CallbackGuard::keep), and the process does not end before. It begins after the flag was set and everybody who
    /// waits was woken, and at once if the token is cancelled already. Dropping the guard takes it back: then it does not
    /// run, unless it has begun.
    ///
    /// It runs on the thread that cancels, which goes on when it is done; so it should be short. When a deadline, a failure
    /// or a shutdown cancels, a thread of this library runs it. There are four for the whole process: once so many block,
    /// each further one delays the others by 100 ms, until another thread takes over, and there are 64 at most. While the
    /// system gives no thread at all, what a deadline set going waits. A shutdown waits until those that it has set going
    /// are over; who is not by its deadline is named in the report, and makes the exit code 2. No lock is held meanwhile: it
    /// may cancel, register and unregister whatever it likes. A panic in it is caught and logged. Of several callbacks of
    /// one token the youngest begins first.
    ///
    /// ```
    /// use std::net::{Shutdown, TcpListener, TcpStream};
    /// use std::io::Read as _;
    /// use taskmuster::CancellationToken;
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let mut stream = TcpStream::connect(listener.local_addr()?)?;
    /// let token = CancellationToken::new();
    ///
    /// let other_end = stream.try_clone()?;
    /// let _guard = token.on_cancel(move || drop(other_end.shutdown(Shutdown::Both)));
    /// # let canceller = token.clone();
    /// std::thread::spawn(move || canceller.cancel());
    /// assert_eq!(stream.read(&mut [0; 16])?, 0); // nobody ever wrote; the cancel ended the wait
    /// # Ok::<(), taskmuster::BoxError>(())
    /// ```
    ///
    /// Not for clean-up of one's own: a task does that when its checkpoints and waits tell it to stop.
    #[track_caller]
    pub fn on_cancel(&self, work: impl FnOnce() + Send + 'static) -> CallbackGuard {
        let callback = Callback::new(Box::new(work), Location::caller());
        let number = self.node().on_cancel(&callback);
        CallbackGuard {
            token: self.clone(),
            callback,
            number,
            is_kept: false,
        }
    }
}

/// Takes a callback back when dropped, unless it is [kept](Self::keep); made by [`CancellationToken::on_cancel`].
#[must_use = "dropping the guard takes the callback back"]
pub struct CallbackGuard {
    token: CancellationToken,
    callback: Arc<Callback>,
    /// Its number in the token's list; `None` if it was never in it.
    number: Option<u64>,
    is_kept: bool,
}

impl CallbackGuard {
    /// Takes the callback back and says whether that was in time: `false` means that it runs or has run.
    ///
    /// Never waits. Its captures are dropped here, if it did not run.
    #[expect(
        clippy::must_use_candidate,
        reason = "as good as a drop for who does not ask"
    )]
    pub fn disarm(self) -> bool {
        self.callback.disarm()
    }

    /// Leaves the callback with its token for good: it is dropped with the token's last clone, if it did not run before.
    /// With that of a task, when the task has ended and nobody else has the token or one below it.
    ///
    /// ```
    /// use taskmuster::CancellationToken;
    ///
    /// let token = CancellationToken::new();
    /// token.on_cancel(|| println!("stopping")).keep();
    /// token.cancel(); // stopping
    /// ```
    pub fn keep(mut self) {
        self.is_kept = true;
    }

    /// Takes the callback back; if it runs at this moment on another thread, waits until it is over. `true` if it was
    /// taken back in time.
    ///
    /// Afterwards it does not run, and what it uses may be given up. Inside the callback itself it does not wait.
    #[expect(
        clippy::must_use_candidate,
        reason = "as good as a drop for who does not ask"
    )]
    pub fn wait(self) -> bool {
        let in_time = self.callback.disarm();
        if !in_time {
            self.callback.wait();
        }
        in_time
    }
}

impl Drop for CallbackGuard {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if let Some(number) = self.number {
            self.token.node().forget_callback(number);
        }
        self.callback.disarm();
    }
}

impl fmt::Debug for CallbackGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallbackGuard({})", self.callback.registered_at())
    }
}
