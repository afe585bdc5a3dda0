//! Libraries that stand between a role and the system: small C sources, compiled when they are needed.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{self, Command};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many were compiled: several tests may need the same one at once.
static COMPILED: AtomicUsize = AtomicUsize::new(0);

/// A library to be preloaded into a role.
#[derive(Debug)]
pub(crate) struct Shim(PathBuf);

impl Shim {
    /// Compiles `source`; `None`, with a line that says so, where that is impossible.
    pub(crate) fn compile(name: &str, source: &str) -> Option<Self> {
        if !cfg!(target_os = "linux") {
            return skip(name, "there is no LD_PRELOAD here");
        }
        let number = COMPILED.fetch_add(1, Ordering::Relaxed);
        let stem = format!("{name}-{}-{number}", process::id());
        let stem = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(stem);
        let (code, library) = (stem.with_extension("c"), stem.with_extension("so"));
        fs::write(&code, source).expect("the target directory is writable");
        let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
        let compiled = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &code])
            .args(["-ldl", "-lpthread"])
            .output();
        drop(fs::remove_file(&code));
        match compiled {
            Ok(output) if output.status.success() => Some(Self(library)),
            Ok(output) => skip(name, &String::from_utf8_lossy(&output.stderr)),
            Err(error) => skip(name, &format!("no C compiler: {error}")),
        }
    }

    /// Has the command load it first.
    pub(crate) fn under(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.0);
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

fn skip(name: &str, why: &str) -> Option<Shim> {
    println!("SKIPPED what needs the library `{name}`: {why}");
    None
}
