//! Libraries that stand between a role and the system: small C sources, compiled when they are needed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many were compiled: several tests may need the same one at once.
static COMPILED: AtomicUsize = AtomicUsize::new(0);

/// A library to be preloaded into a role.
#[derive(Debug)]
pub(crate) struct Shim(PathBuf);

impl Shim {
    /// Compiles `source`, the only one of that name; `None`, with a line that says so, where that is impossible.
    pub(crate) fn compile(name: &str, source: &str) -> Option<Self> {
        compile(name, source)
            .map_err(|why| println!("SKIPPED what needs the library `{name}`: {why}"))
            .ok()
    }

    /// Has no thread created while the file `FAULTS_GATE` exists, or so many times as `FAULTS_REFUSALS` says.
    pub(crate) fn without_threads() -> Option<Self> {
        Self::compile("no-threads", NO_THREADS)
    }

    /// Has the command load it first.
    pub(crate) fn under(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.0);
    }
}

/// While the file `FAULTS_GATE` exists no thread can be created, or `FAULTS_REFUSALS` times not.
const NO_THREADS: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *data) {
    static atomic_int refused;
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    const char *gate = getenv("FAULTS_GATE"), *most = getenv("FAULTS_REFUSALS");
    if (gate && access(gate, F_OK) == 0 && atomic_fetch_add(&refused, 1) < (most ? atoi(most) : 1 << 30)) return EAGAIN;
    if (!real) real = dlsym(RTLD_NEXT, "pthread_create");
    return real(thread, attributes, start, data);
}
"#;

fn compile(name: &str, source: &str) -> Result<Shim, String> {
    if cfg!(not(all(target_os = "linux", target_env = "gnu"))) {
        return Err("it is made for Linux with the GNU C library".to_owned());
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let number = COMPILED.fetch_add(1, Ordering::Relaxed);
    let own = directory.join(format!("{name}-{}-{number}", process::id()));
    let (code, library) = (own.with_extension("c"), own.with_extension("so"));
    fs::write(&code, source).expect("the target directory is writable");
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output = Command::new(compiler)
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &code])
        .args(["-ldl", "-lpthread"])
        .output();
    drop(fs::remove_file(&code));
    let output = output.map_err(|error| format!("no C compiler: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    // The same for all processes, so that no test run leaves one behind.
    let shared = directory.join(format!("lib{name}.so"));
    fs::rename(&library, &shared).expect("the target directory is writable");
    Ok(Shim(shared))
}
