//! Child processes of a task: started, watched, ended, reaped.

pub(crate) mod redirection;

pub(crate) mod system;

pub(crate) mod helper;

pub(crate) mod leash;

pub(crate) mod capture;

pub(crate) mod output;

pub(crate) mod run_error;

pub(crate) mod child;

pub(crate) mod run;
