//! `dedup` on trees made for it, and on real ones against an obvious reference.

#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::program::{Exit, Program, Stream, path_of};

/// Sparse files of this size take no disk, and longer to hash than any test waits.
const ENDLESS: u64 = 256 << 30;

/// No path handed to the kernel may be longer, whoever hands it.
const LONGEST_PATH: usize = 4095;

/// Size and paths of each group.
type Groups = BTreeSet<(u64, Vec<String>)>;

#[test]
fn files_with_equal_contents_form_a_group() {
    let tree = Tree::new("equal");
    tree.file("a", "twins");
    tree.file("sub/deeper/b", "twins");
    tree.file("sub/same size", "other");
    tree.file("another size", "alone");
    tree.file("a longer one", "longer");
    let exit = search(&tree, &["--json"]);
    assert_eq!(
        exit.stdout,
        "{\"size\":5,\"files\":[\"./a\",\"./sub/deeper/b\"]}\n"
    );
}

#[test]
fn without_json_the_groups_are_for_people_and_the_greatest_waste_comes_first() {
    let tree = Tree::new("text");
    for name in ["a", "b"] {
        tree.file(&format!("small/{name}"), "x");
        tree.file(&format!("large/{name}"), "0123456789");
    }
    let exit = search(&tree, &[]);
    assert_eq!(
        exit.stdout,
        "2 files of 10 B, 10 B wasted:\n  ./large/a\n  ./large/b\n\
         2 files of 1 B, 1 B wasted:\n  ./small/a\n  ./small/b\n"
    );
    exit.assert_says(
        "files seen: 4, hashed: 4 (22 B of 22 B), groups of duplicates: 2, wasted: 11 B",
    );
}

#[test]
fn without_json_control_characters_in_a_path_are_escaped() {
    let tree = Tree::new("control");
    tree.file("a\nb", "x");
    tree.file("c\u{1b}[31m \\ \u{e9}", "x");
    let exit = search(&tree, &[]);
    assert_eq!(
        exit.stdout,
        "2 files of 1 B, 1 B wasted:\n  ./a\\nb\n  ./c\\u{1b}[31m \\ \u{e9}\n"
    );
}

#[test]
fn standard_output_has_nothing_but_json() {
    let tree = Tree::new("json");
    tree.file("a \"quoted\"\\\n", "x");
    tree.file("b \u{1F980}", "x");
    tree.fifo("fifo");
    let groups = groups(&search(&tree, &["--json", ".", "fifo"]));
    let names = ["./a \"quoted\"\\\n", "./b \u{1F980}"];
    assert_eq!(groups, [group(1, names)].into());
}

#[test]
fn hard_links_of_one_file_count_once_under_the_path_that_sorts_first() {
    let tree = Tree::new("links");
    tree.file("m", "linked");
    for name in ["z", "b", "sub/k"] {
        tree.hard_link("m", name);
    }
    assert_eq!(groups(&search(&tree, &["--json"])), Groups::new());
    tree.file("y", "linked");
    let found = groups(&search(&tree, &["--json", "sub", "."]));
    assert_eq!(found, [group(6, ["./b", "./y"])].into());
}

#[test]
fn overlapping_roots_count_a_file_once() {
    let tree = Tree::new("roots");
    tree.file("a", "x");
    tree.file("sub/b", "x");
    let roots = ["--json", "sub", ".", "./sub", "sub/../a", ".", "a", "a"];
    let found = groups(&search(&tree, &roots));
    assert_eq!(found, [group(1, ["./a", "./sub/b"])].into());
}

#[test]
fn symbolic_links_are_followed_if_they_are_named_and_not_if_they_are_found() {
    let tree = Tree::new("symlinks");
    tree.file("tree/a", "x");
    tree.file("tree/b", "x");
    tree.symlink("..", "tree/loop");
    tree.symlink("a", "tree/c");
    tree.symlink("nowhere", "tree/dangling");
    tree.symlink("tree", "named");
    let found = groups(&search(&tree, &["--json", "named"]));
    assert_eq!(found, [group(1, ["named/a", "named/b"])].into());
    let found = groups(&search(&tree, &["--json"]));
    assert_eq!(found, [group(1, ["./tree/a", "./tree/b"])].into());
}

#[test]
fn empty_files_are_left_out_unless_they_are_asked_for() {
    let tree = Tree::new("empty");
    tree.file("a", "");
    tree.file("b", "");
    assert_eq!(groups(&search(&tree, &["--json"])), Groups::new());
    let found = groups(&search(&tree, &["--json", "--empty"]));
    assert_eq!(found, [group(0, ["./a", "./b"])].into());
}

#[test]
fn fifos_and_sockets_are_never_opened() {
    let tree = Tree::new("special");
    tree.fifo("one");
    tree.fifo("two");
    let _socket = UnixListener::bind(tree.path("socket")).expect("a socket");
    let found = groups(&search(&tree, &["--json", "--empty", ".", "one", "two"]));
    assert_eq!(found, Groups::new());
}

#[test]
#[cfg(target_os = "linux")]
fn paths_that_are_not_utf8_are_printed_as_well_as_possible_and_it_says_so() {
    let tree = Tree::new("utf8");
    let name = OsString::from_vec(b"caf\xE9".to_vec());
    fs::write(tree.path(&name), "x").expect("this file system takes any name");
    tree.file("cafe", "x");
    let exit = search(&tree, &["--json"]);
    let printed = ["./cafe", "./caf\u{FFFD}"];
    assert_eq!(groups(&exit), [group(1, printed)].into());
    exit.assert_says("paths that are not UTF-8, printed with \u{FFFD}: 1\n");
}

#[test]
fn a_tree_deeper_than_any_stack_likes_is_searched_to_the_bottom() {
    let tree = Tree::new("deep");
    let bottom = tree.path("d/".repeat(1500));
    fs::create_dir_all(&bottom).expect("the path is short enough");
    fs::write(bottom.join("a"), "x").expect("a file");
    fs::write(bottom.join("b"), "x").expect("a file");
    let found = groups(&search(&tree, &["--json"]));
    let paths = ["a", "b"].map(|name| format!("./{}{name}", "d/".repeat(1500)));
    assert_eq!(found, [group(1, &paths)].into());
}

/// Not even root can open a path that is too long.
#[test]
fn unreadable_files_are_counted_named_up_to_twenty_and_never_fatal() {
    let tree = Tree::new("unreadable");
    tree.file("a", "twins");
    tree.file("b", "twins");
    for number in 0..25 {
        tree.file(
            &format!("short/a name of some\u{7}length {number}"),
            "twins",
        );
    }
    tree.move_to_the_longest_path("short");
    let absolute = tree.root.as_os_str(); // relative paths would be shorter
    let exit = run(dedup(&tree).arg("--json").arg(absolute));
    let paths = ["a", "b"].map(|name| tree.path(name).display().to_string());
    assert_eq!(groups(&exit), [group(5, &paths)].into());
    exit.assert_says("could not be read: 25\n");
    exit.assert_says("and 5 more");
    assert_eq!(exit.stderr.matches("File name too long").count(), 20);
    assert_eq!(exit.stderr.matches("some\\u{7}length").count(), 20);
}

#[test]
fn what_permissions_close_is_counted_once_and_never_fatal() {
    let tree = Tree::new("closed");
    tree.file("a", "x");
    tree.file("b", "x");
    tree.file("file", "x");
    tree.file("neither/c", "x");
    tree.file("only listed/d", "x");
    for (name, mode) in [("file", 0o0), ("neither", 0o0), ("only listed", 0o444)] {
        tree.set_mode(name, mode);
    }
    let is_root = File::open(tree.path("file")).is_ok(); // who reads everything
    let roots = ["--json", ".", "neither", "./only listed"];
    let exit = search(&tree, &roots);
    for name in ["neither", "only listed"] {
        tree.set_mode(name, 0o700);
    }
    if !is_root {
        assert_eq!(groups(&exit), [group(1, ["./a", "./b"])].into());
        exit.assert_says("could not be read: 3\n");
        exit.assert_says("file: Permission denied");
    }
}

#[test]
fn files_that_vanish_or_change_while_they_wait_are_listed_and_in_no_group() {
    let tree = Tree::new("vanish");
    let hashers = thread::available_parallelism().map_or(2, |count| count.get().max(2));
    let endless: Vec<File> = (0..hashers)
        .map(|number| tree.sparse_file(&format!("endless/{number}"), ENDLESS))
        .collect();
    tree.file("behind/a", "twins");
    tree.file("behind/b", "twins");
    let program = Program::start(dedup(&tree).args(["--json", "endless", "behind"]));
    program.wait_for_line(&format!("files seen: {}, hashed: 0", hashers + 2));
    fs::remove_file(tree.path("behind/b")).expect("nobody has it open");
    for file in endless {
        file.set_len(1).expect("it is ours");
    }
    let exit = program.exit();
    exit.assert_code(0);
    assert_eq!(groups(&exit), Groups::new());
    exit.assert_says(&format!("could not be read: {}\n", hashers + 1));
    exit.assert_says("behind/b: No such file or directory");
    exit.assert_says("endless/0: its size changed while it was read");
}

#[test]
fn ctrl_c_keeps_what_was_found_and_says_that_it_is_partial() {
    let tree = Tree::new("interrupt");
    tree.file("small/a", "twins");
    tree.file("small/b", "twins");
    tree.sparse_file("endless/a", ENDLESS);
    tree.sparse_file("endless/b", ENDLESS);
    let program = Program::start(dedup(&tree).args(["--json", "small", "endless"]));
    program.wait_for_line("files seen: 4, hashed: 2");
    program.signal("INT");
    let exit = program.exit();
    exit.assert_code(0);
    assert_eq!(groups(&exit), [group(5, ["small/a", "small/b"])].into());
    exit.assert_says("interrupted: the result is partial");
    for line in ["stopped by signal", "walk", "hash/0", "progress"] {
        exit.assert_says(line);
    }
}

#[test]
fn a_search_that_was_not_interrupted_says_nothing_of_a_shutdown() {
    let tree = Tree::new("complete");
    tree.file("a", "x");
    let exit = search(&tree, &[]);
    exit.assert_never_says("interrupted");
    exit.assert_never_says("stopp");
}

#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_size_of_a_file() {
    let tree = Tree::new("memory");
    tree.sparse_file("a", 1 << 30);
    tree.sparse_file("b", 1 << 30);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -v 900000; exec \"$0\" --json ."])
        .arg(path_of("dedup"))
        .current_dir(&tree.root);
    // Not through `Program`: however long it takes, it does not hang.
    let output = limited.output().expect("sh starts");
    assert!(output.status.success(), "{output:?}");
    let found = groups_in(&String::from_utf8(output.stdout).expect("JSON is UTF-8"));
    assert_eq!(found, [group(1 << 30, ["./a", "./b"])].into());
}

#[test]
fn a_path_that_does_not_exist_is_an_error_and_nothing_is_searched() {
    let tree = Tree::new("missing");
    tree.file("a", "x");
    tree.file("b", "x");
    let exit = Program::start(dedup(&tree).args([".", "no\u{1b}where", "a/b"])).exit();
    exit.assert_code(1);
    exit.assert_says("dedup: cannot read no\\u{1b}where: No such file or directory");
    exit.assert_says("dedup: cannot read a/b: Not a directory");
    assert_eq!(exit.stdout, "");
}

#[test]
fn an_unknown_option_is_named() {
    for option in ["--jsno", "-j", "-"] {
        let exit = Program::example("dedup", &[".", option]).exit();
        exit.assert_code(1);
        exit.assert_says(&format!("unknown option {option}"));
        assert_eq!(exit.stdout, "");
    }
}

#[test]
fn two_dashes_end_the_options() {
    let tree = Tree::new("dashes");
    tree.file("--json", "x");
    tree.file("--", "x");
    let found = groups(&search(&tree, &["--json", "--", "--json", "--"]));
    assert_eq!(found, [group(1, ["--", "--json"])].into());
}

#[test]
fn help_goes_to_standard_output() {
    for option in ["--help", "-h"] {
        let exit = Program::example("dedup", &[option]).exit();
        exit.assert_code(0);
        assert!(exit.stdout.contains("Usage: dedup"), "{}", exit.stdout);
        assert_eq!(exit.stderr, "");
    }
}

#[test]
fn a_reader_who_has_gone_is_no_failure() {
    for arguments in [["--json"], ["--help"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let exit = print_to(Stdio::from(writer), arguments);
        exit.assert_code(0);
        exit.assert_never_says("panic");
    }
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    for arguments in [["--json"], ["--help"]] {
        let full = File::options().write(true).open("/dev/full");
        let Ok(full) = full else { return }; // only Linux and some others have it
        let exit = print_to(Stdio::from(full), arguments);
        exit.assert_code(1);
        exit.assert_says("dedup: cannot write to standard output: No space left on device");
    }
}

#[test]
fn a_standard_error_nobody_reads_changes_nothing() {
    let tree = Tree::new("stderr");
    tree.file("a", "x");
    tree.file("b", "x");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = dedup(&tree);
    let command = command.arg("--json").stderr(writer);
    let exit = Program::start_without(command, &[Stream::Stderr]).exit();
    exit.assert_code(0);
    assert_eq!(groups(&exit), [group(1, ["./a", "./b"])].into());
}

#[test]
fn a_real_tree_gives_what_an_obvious_search_gives() {
    let roots = if std::env::var_os("TASKMUSTER_LONG").is_some_and(|value| value == "1") {
        vec![sysroot(), PathBuf::from("/usr/share")]
    } else {
        some_real_directories(2000)
    };
    // Not through `Program`: however long it takes, it does not hang.
    let output = Command::new(path_of("dedup"))
        .arg("--json")
        .args(&roots)
        .output()
        .expect("dedup starts");
    assert!(output.status.success(), "{output:?}");
    let found = groups_in(&String::from_utf8(output.stdout).expect("JSON is UTF-8"));
    let expected = obvious_search(&roots);
    let difference: Vec<_> = found.symmetric_difference(&expected).collect();
    assert!(difference.is_empty(), "below {roots:?}: {difference:#?}");
    assert!(!expected.is_empty(), "no duplicates below {roots:?}");
}

/// No threads, no hashes: files of one size are read as a whole and compared.
fn obvious_search(roots: &[PathBuf]) -> Groups {
    let mut files = BTreeMap::new();
    for root in roots {
        collect_files(root, &mut files);
    }
    let mut by_size = BTreeMap::<u64, Vec<PathBuf>>::new();
    for (path, size) in files.into_values().filter(|(_, size)| *size > 0) {
        by_size.entry(size).or_default().push(path);
    }
    let mut groups = Groups::new();
    for (size, paths) in by_size.into_iter().filter(|(_, paths)| paths.len() > 1) {
        let mut by_contents = BTreeMap::<Vec<u8>, Vec<String>>::new();
        for path in paths {
            let contents = fs::read(&path).expect("tests see only what they may read");
            let path = path.to_string_lossy().into_owned();
            by_contents.entry(contents).or_default().push(path);
        }
        for mut paths in by_contents.into_values().filter(|paths| paths.len() > 1) {
            paths.sort();
            groups.insert((size, paths));
        }
    }
    groups
}

/// Device and inode lead to the path that sorts first, and to the size.
type Files = BTreeMap<(u64, u64), (PathBuf, u64)>;

fn collect_files(directory: &Path, files: &mut Files) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        let metadata = fs::symlink_metadata(&path).expect("nobody removes it");
        if metadata.is_dir() {
            collect_files(&path, files);
        } else if metadata.is_file() {
            let file = (metadata.dev(), metadata.ino());
            let known = files.entry(file);
            let (first, _) = known.or_insert_with(|| (path.clone(), metadata.len()));
            if path.as_os_str() < first.as_os_str() {
                *first = path;
            }
        }
    }
}

/// Directories of this machine with at least so many files; nobody changes them while a test runs.
fn some_real_directories(count: usize) -> Vec<PathBuf> {
    let documentation = sysroot().join("share/doc/rust/html");
    let candidates = [
        Path::new("/usr/share"),
        Path::new("/usr/include"),
        &documentation,
    ];
    let (mut chosen, mut files) = (Vec::new(), Files::new());
    for directory in candidates.into_iter().flat_map(subdirectories) {
        if files.len() >= count {
            return chosen;
        }
        collect_files(&directory, &mut files);
        chosen.push(directory);
    }
    panic!("only {} files below {candidates:?}", files.len());
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut paths: Vec<_> = directories.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn sysroot() -> PathBuf {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .expect("rustc starts");
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim_end())
}

/// `dedup` in this tree, without arguments yet.
fn dedup(tree: &Tree) -> Command {
    let mut command = Command::new(path_of("dedup"));
    command.current_dir(&tree.root);
    command
}

fn search(tree: &Tree, arguments: &[&str]) -> Exit {
    run(dedup(tree).args(arguments))
}

#[track_caller]
fn run(command: &mut Command) -> Exit {
    let exit = Program::start(command).exit();
    exit.assert_code(0);
    exit
}

/// Runs in a tree with a pair of equal files, and says everything to `stdout`.
fn print_to(stdout: Stdio, arguments: [&str; 1]) -> Exit {
    let tree = Tree::new(&format!("print{}", arguments.concat()));
    tree.file("a", "x");
    tree.file("b", "x");
    let mut command = dedup(&tree);
    let command = command.args(arguments).stdout(stdout);
    Program::start_without(command, &[Stream::Stdout]).exit()
}

fn group<S: ToString>(size: u64, paths: impl IntoIterator<Item = S>) -> (u64, Vec<String>) {
    (
        size,
        paths.into_iter().map(|path| path.to_string()).collect(),
    )
}

fn groups(exit: &Exit) -> Groups {
    groups_in(&exit.stdout)
}

/// Reads lines of `{"size":…,"files":[…]}` and takes nothing else.
fn groups_in(printed: &str) -> Groups {
    let parse = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let object = value.as_object().filter(|object| object.len() == 2)?;
        let files = object.get("files")?.as_array()?.iter();
        let files = files.map(|file| file.as_str().map(str::to_owned));
        Some((object.get("size")?.as_u64()?, files.collect::<Option<_>>()?))
    };
    let lines = printed.lines();
    lines
        .map(|line| parse(line).unwrap_or_else(|| panic!("{line:?} is no group")))
        .collect()
}

/// A directory of its own for one test, removed at its end.
struct Tree {
    root: PathBuf,
}

impl Tree {
    fn new(name: &str) -> Self {
        let name = format!(
            "dedup-{name}-{}-{:?}",
            std::process::id(),
            thread::current().id()
        );
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        drop(fs::remove_dir_all(&root)); // of a run with the same number that was killed
        fs::create_dir(&root).expect("the directory for tests is writable");
        Self { root }
    }

    fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.root.join(name.as_ref())
    }

    fn file(&self, name: &str, contents: &str) {
        fs::write(self.new_path(name), contents).expect("a new file");
    }

    fn sparse_file(&self, name: &str, size: u64) -> File {
        let file = File::create_new(self.new_path(name)).expect("a new file");
        file.set_len(size)
            .expect("this file system has sparse files");
        file
    }

    fn hard_link(&self, file: &str, name: &str) {
        fs::hard_link(self.path(file), self.new_path(name)).expect("a new link");
    }

    fn symlink(&self, target: &str, name: &str) {
        symlink(target, self.new_path(name)).expect("a new link");
    }

    fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).expect("it is ours");
    }

    fn fifo(&self, name: &str) {
        let status = Command::new("mkfifo").arg(self.new_path(name)).status();
        assert!(status.expect("mkfifo starts").success());
    }

    /// Moves a directory so deep that its own path may just be used, but that of no file in it.
    fn move_to_the_longest_path(&self, name: &str) {
        let left = LONGEST_PATH - self.root.as_os_str().len() - "/last".len();
        let mut deep = String::new();
        while deep.len() + 2 <= left {
            let length = (left - deep.len() - 1).min(200);
            write!(deep, "/{}", "d".repeat(length)).expect("a String takes everything");
        }
        let deep = self.path(&deep[1..]);
        fs::create_dir_all(&deep).expect("the path is short enough");
        fs::rename(self.path(name), deep.join("last")).expect("the path is short enough");
    }

    /// The path of what is to be made, in a directory that is there.
    fn new_path(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let directory = path.parent().expect("everything lies below the root");
        fs::create_dir_all(directory).expect("the tree is writable");
        path
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.root));
    }
}
