//! The map of the crate, kept by a test that reads the sources.
//!
//! Every rule is a function from sources to places that break it, and every rule is itself tested on a small source
//! that does break it (`mod rules_can_fail`): a rule that cannot fail keeps nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

/// Files whose things nobody else may name, so that model checks can put their own in their place.
const SEAM: [&str; 4] = [
    "src/base/sync.rs",
    "src/base/real.rs",
    "src/base/modelled.rs",
    "src/base/time.rs",
];

/// What only the seam may name. A path is meant with everything below it.
const BEHIND_THE_SEAM: [&str; 10] = [
    "std::thread",
    "std::sync::atomic",
    "std::sync::mpsc",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::Condvar",
    "std::sync::Barrier",
    "std::time::Instant",
    "parking_lot",
    "crossbeam_channel::",
];

/// One place each, so that there is one place to look, to reason about and to change.
const HOMES: [(&str, &[&str]); 12] = [
    (
        "thread::Builder",
        &["src/base/real.rs", "src/base/modelled.rs"],
    ),
    ("parking_lot", &["src/base/sync.rs", "src/base/real.rs"]),
    ("Instant::now", &["src/base/time.rs"]),
    ("catch_unwind", &["src/base/unwind.rs"]),
    ("ctrlc", &["src/shutdown/signal.rs"]),
    ("log::log", &["src/base/log.rs"]),
    ("log::error", &["src/base/log.rs"]),
    ("log::warn", &["src/base/log.rs"]),
    ("log::info", &["src/base/log.rs"]),
    ("log::debug", &["src/base/log.rs"]),
    ("log::trace", &["src/base/log.rs"]),
    ("log::logger", &["src/base/log.rs"]),
];

#[test]
fn imports_go_down() {
    assert_kept(imports_that_go_up);
}

#[test]
fn no_two_files_import_each_other() {
    assert_kept(import_cycles);
}

#[test]
fn module_roots_hold_modules_and_re_exports_only() {
    assert_kept(items_in_module_roots);
}

#[test]
fn nobody_says_super_or_imports_everything() {
    assert_kept(relative_and_glob_imports);
}

#[test]
fn there_is_no_unsafe() {
    assert_kept(unsafe_code);
}

#[test]
fn threads_clocks_atomics_and_channels_are_named_behind_the_seam_only() {
    assert_kept(names_outside_the_seam);
}

#[test]
fn what_has_a_home_is_named_nowhere_else() {
    assert_kept(names_outside_their_home);
}

#[test]
fn every_home_has_its_thing() {
    let sources = sources_of_this_crate();
    for home in [
        "thread::Builder",
        "parking_lot",
        "Instant::now",
        "catch_unwind",
        "ctrlc",
        "log::log",
    ] {
        let (name, files) = HOMES
            .iter()
            .find(|(name, _)| *name == home)
            .expect("it is in the table");
        for file in *files {
            let source = sources.iter().find(|source| source.path == *file);
            let paths = source.map(Source::paths).unwrap_or_default();
            assert!(
                paths.iter().any(|path| path.names(name)),
                "{name} has left {file}: correct the table of homes"
            );
        }
    }
}

#[test]
fn every_file_says_in_its_first_line_what_it_holds() {
    assert_kept(first_lines);
}

/// Fails with every place in this crate that breaks the rule.
#[track_caller]
fn assert_kept(rule: fn(&[Source]) -> Vec<Breach>) {
    let breaches = rule(&sources_of_this_crate());
    let lines: Vec<String> = breaches.iter().map(Breach::to_string).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

fn sources_of_this_crate() -> Vec<Source> {
    let mut sources = Vec::new();
    collect(Path::new(env!("CARGO_MANIFEST_DIR")), "src", &mut sources);
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    set_test_files_apart(&mut sources);
    assert!(
        sources.iter().any(|source| source.path == "src/lib.rs"),
        "these are not the sources of a crate"
    );
    sources
}

fn collect(root: &Path, directory: &str, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(root.join(directory))
        .expect("the sources are there")
        .flatten()
    {
        let path = format!("{directory}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(root, &path, sources);
        } else if Path::new(&path)
            .extension()
            .is_some_and(|extension| extension == "rs")
        {
            sources.push(Source::new(
                &path,
                &fs::read_to_string(entry.path()).expect("a source is text"),
            ));
        }
    }
}

// ---- the rules ----

/// A place that breaks a rule.
struct Breach {
    path: String,
    line: usize,
    what: String,
}

impl Breach {
    fn new(source: &Source, line: usize, what: impl Into<String>) -> Self {
        Self {
            path: source.path.clone(),
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// The order of the `mod` lines is the import order: a file imports only from what stands above it.
fn imports_that_go_up(sources: &[Source]) -> Vec<Breach> {
    let tree = Tree::new(sources);
    let mut breaches = Vec::new();
    for source in sources {
        for path in source
            .paths()
            .iter()
            .filter(|path| path.segments[0] == "crate")
        {
            if let Some(why) = tree.objection(&source.module, &path.segments[1..]) {
                breaches.push(Breach::new(source, path.line, format!("`{path}`: {why}")));
            }
        }
    }
    breaches
}

fn import_cycles(sources: &[Source]) -> Vec<Breach> {
    let tree = Tree::new(sources);
    let mut imports: Vec<Vec<(usize, usize)>> = Vec::new();
    for source in sources {
        let targets = source.paths().into_iter().filter_map(|path| {
            let file = tree.file_of(&source.module, &path.segments)?;
            let target = sources.iter().position(|other| other.module == file)?;
            (file != source.module).then_some((target, path.line))
        });
        imports.push(targets.collect());
    }
    let mut breaches = Vec::new();
    for (start, source) in sources.iter().enumerate() {
        if let Some((line, names)) = way_back(start, &imports, sources) {
            breaches.push(Breach::new(
                source,
                line,
                format!("imports itself by way of {names}"),
            ));
        }
    }
    breaches
}

/// The shortest way from a file over its imports back to itself: the line of its first step and the files between.
fn way_back(
    start: usize,
    imports: &[Vec<(usize, usize)>],
    sources: &[Source],
) -> Option<(usize, String)> {
    let mut came_from = vec![None; imports.len()];
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        for &(next, line) in &imports[at] {
            if next == start {
                let mut way = vec![(at, line)];
                while let Some(step) = came_from[way[way.len() - 1].0] {
                    way.push(step);
                }
                let first_line = way[way.len() - 1].1;
                let between = way.iter().rev().skip(1);
                let names: Vec<&str> = between
                    .map(|(file, _)| sources[*file].path.as_str())
                    .collect();
                return Some((first_line, names.join(", ")));
            }
            if came_from[next].is_none() {
                came_from[next] = Some((at, line));
                queue.push_back(next);
            }
        }
    }
    None
}

/// lib.rs and every mod.rs hold docs, attributes, `mod` lines and re-exports, nothing else.
fn items_in_module_roots(sources: &[Source]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for source in sources.iter().filter(|source| source.is_root()) {
        let code = without_attributes(&source.code);
        for (line, item) in items(&code) {
            let words: Vec<&str> = item.split_whitespace().collect();
            let keyword = words.iter().find(|word| !word.starts_with("pub"));
            let is_public = words[0].starts_with("pub");
            match keyword {
                Some(&"mod") if !item.contains('{') => {}
                Some(&"use") if is_public => {}
                _ => breaches.push(Breach::new(
                    source,
                    line,
                    format!("`{}` in a module root", words.join(" ")),
                )),
            }
        }
    }
    breaches
}

fn relative_and_glob_imports(sources: &[Source]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for source in sources {
        for path in source.paths() {
            if path.segments.iter().any(|segment| segment == "super") {
                breaches.push(Breach::new(
                    source,
                    path.line,
                    format!("`{path}`: write the path from `crate` on"),
                ));
            }
            if path.segments.last().is_some_and(|segment| segment == "*") {
                breaches.push(Breach::new(
                    source,
                    path.line,
                    format!("`{path}`: name what is imported"),
                ));
            }
        }
    }
    breaches
}

/// Holds for tests as well.
fn unsafe_code(sources: &[Source]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for source in sources {
        for path in paths_in(&source.code_with_tests) {
            if path.segments.iter().any(|segment| segment == "unsafe") {
                breaches.push(Breach::new(source, path.line, "`unsafe`"));
            }
        }
    }
    breaches
}

fn names_outside_the_seam(sources: &[Source]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for source in sources
        .iter()
        .filter(|source| !SEAM.contains(&source.path.as_str()))
    {
        for path in source.paths() {
            if BEHIND_THE_SEAM.iter().any(|name| path.starts_with(name)) {
                breaches.push(Breach::new(
                    source,
                    path.line,
                    format!("`{path}`: go through {}", SEAM.join(" or ")),
                ));
            }
        }
    }
    breaches
}

fn names_outside_their_home(sources: &[Source]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for source in sources {
        for path in source.paths() {
            let strange = HOMES
                .iter()
                .find(|(name, homes)| path.names(name) && !homes.contains(&source.path.as_str()));
            if let Some((name, homes)) = strange {
                breaches.push(Breach::new(
                    source,
                    path.line,
                    format!("`{path}`: {name} lives in {}", homes.join(" and ")),
                ));
            }
        }
    }
    breaches
}

fn first_lines(sources: &[Source]) -> Vec<Breach> {
    let is_good = |line: &str| line.starts_with("//! ") && line.chars().count() <= 70;
    let bad = sources.iter().filter(|source| !is_good(&source.first_line));
    bad.map(|source| {
        Breach::new(
            source,
            1,
            format!(
                "not a `//!` of at most 70 characters: {}",
                source.first_line
            ),
        )
    })
    .collect()
}

// ---- what the rules look at ----

/// One file: its module path, and its code without comments, string contents and (apart) tests.
struct Source {
    path: String,
    module: Vec<String>,
    first_line: String,
    code: String,
    code_with_tests: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code_with_tests = without_comments_and_strings(text);
        Self {
            path: path.to_owned(),
            module: module_of(path),
            first_line: text.lines().next().unwrap_or_default().to_owned(),
            code: without_tests(&code_with_tests),
            code_with_tests,
        }
    }

    fn is_root(&self) -> bool {
        self.path.ends_with("/lib.rs") || self.path.ends_with("/mod.rs")
    }

    /// Every path in the code outside tests, imports spelled out.
    fn paths(&self) -> Vec<CodePath> {
        paths_in(&self.code)
    }
}

/// A file that its parent declares for tests only has no other code.
fn set_test_files_apart(sources: &mut [Source]) {
    let mut declared_for_tests = Vec::new();
    for source in sources.iter() {
        let real = declared_modules(&source.code);
        let all = declared_modules(&source.code_with_tests);
        for child in all.into_iter().filter(|child| !real.contains(child)) {
            declared_for_tests.push([source.module.as_slice(), &[child]].concat());
        }
    }
    for source in sources {
        if declared_for_tests.contains(&source.module) {
            source.code.clear();
        }
    }
}

fn module_of(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut module: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|name| name == "mod") || inner == "lib" {
        module.pop();
    }
    module
}

/// A path as the code names it: `crate::base::time::now`; a single word is one, too.
struct CodePath {
    line: usize,
    segments: Vec<String>,
}

impl CodePath {
    /// Has this `a::b` anywhere in it.
    fn names(&self, name: &str) -> bool {
        let wanted: Vec<&str> = name.split("::").collect();
        self.segments
            .windows(wanted.len())
            .any(|segments| segments == wanted)
    }

    /// Begins with this `a::b`; with `a::`, begins with `a` and goes on. `core` is `std`.
    fn starts_with(&self, name: &str) -> bool {
        let mut own: Vec<&str> = self.segments.iter().map(String::as_str).collect();
        if own[0] == "core" {
            own[0] = "std";
        }
        let name: Vec<&str> = name.split("::").collect();
        match name.split_last() {
            Some((&"", name)) => own.starts_with(name) && own.len() > name.len(),
            _ => own.starts_with(&name),
        }
    }
}

impl fmt::Display for CodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.segments.join("::"))
    }
}

/// Which modules there are, and in which order their parents declare them.
struct Tree {
    children: BTreeMap<Vec<String>, Vec<String>>,
    roots: Vec<Vec<String>>,
}

impl Tree {
    fn new(sources: &[Source]) -> Self {
        let children = sources
            .iter()
            .map(|source| (source.module.clone(), declared_modules(&source.code)));
        let roots = sources.iter().filter(|source| source.is_root());
        Self {
            children: children.collect(),
            roots: roots.map(|source| source.module.clone()).collect(),
        }
    }

    /// The file that a path from the crate's root on leads into.
    fn longest_module(&self, path: &[String]) -> Vec<String> {
        let lengths = (0..=path.len()).rev();
        let mut modules = lengths.map(|length| path[..length].to_vec());
        modules
            .find(|module| self.children.contains_key(module))
            .unwrap_or_default()
    }

    /// The file a path in the file of `module` leads into, if it leads into this crate.
    fn file_of(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        if path[0] == "crate" {
            return Some(self.longest_module(&path[1..]));
        }
        let path = if path[0] == "self" { &path[1..] } else { path };
        let is_child = path
            .first()
            .is_some_and(|first| self.children[module].contains(first));
        is_child.then(|| self.longest_module(&[module, path].concat()))
    }

    /// Why the file of module `from` may not name this path (without its `crate`), if so.
    fn objection(&self, from: &[String], path: &[String]) -> Option<String> {
        let target = self.longest_module(path);
        if target.starts_with(from) {
            return None; // itself, or a parent that names its child
        }
        if self.roots.contains(&target) {
            return Some("that is a module root: import from the file that defines it".to_owned());
        }
        let shared = from
            .iter()
            .zip(&target)
            .take_while(|(ours, theirs)| ours == theirs)
            .count();
        let order = &self.children[&from[..shared]];
        let position = |name: Option<&String>| order.iter().position(|module| Some(module) == name);
        match (position(target.get(shared)), position(from.get(shared))) {
            (Some(theirs), Some(ours)) if theirs < ours => None,
            (None, _) | (_, None) => Some("its parent does not declare it".to_owned()),
            _ => Some(format!(
                "`{}` stands below `{}`",
                target[shared],
                from.get(shared)?
            )),
        }
    }
}

fn declared_modules(code: &str) -> Vec<String> {
    let words: Vec<&str> = code.split_whitespace().collect();
    let pairs = words.windows(2).filter(|pair| pair[0] == "mod");
    pairs
        .filter_map(|pair| pair[1].strip_suffix(';'))
        .map(str::to_owned)
        .collect()
}

// ---- reading Rust, as roughly as the rules allow ----

/// Blanks comments and the contents of strings and characters; every line keeps its number.
fn without_comments_and_strings(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => end_of_line(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => end_of_block_comment(&chars, at),
            '"' => end_of_string(&chars, at),
            'r' if !is_inside_word(&chars, at) => end_of_raw_string(&chars, at).unwrap_or(at),
            '\'' => end_of_character(&chars, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            let blanked = chars[at..end]
                .iter()
                .map(|&c| if c == '\n' { '\n' } else { ' ' });
            code.extend(blanked);
            at = end;
        }
    }
    code
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `br"` and `cr"` start a raw string, the `r` of `for` does not.
fn is_inside_word(chars: &[char], at: usize) -> bool {
    let before = chars[..at].iter().rev().take_while(|c| is_word(**c));
    let prefix: String = before.collect();
    !matches!(prefix.as_str(), "" | "b" | "c")
}

fn end_of_line(chars: &[char], at: usize) -> usize {
    at + chars[at..].iter().take_while(|c| **c != '\n').count()
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => depth += 1,
            ('*', Some('/')) => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            break;
        }
    }
    at.min(chars.len())
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn end_of_raw_string(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    (chars.get(open) == Some(&'"')).then_some(())?;
    let closes = |at: &usize| {
        chars[*at] == '"'
            && chars[at + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes
    };
    let close = (open + 1..chars.len()).find(closes).unwrap_or(chars.len());
    Some((close + 1 + hashes).min(chars.len()))
}

/// `'a'` and `'\n'`, but not the lifetime `'a`.
fn end_of_character(chars: &[char], start: usize) -> Option<usize> {
    match chars.get(start + 1)? {
        '\\' => {
            let close = (start + 3..chars.len()).find(|at| chars[*at] == '\'')?;
            Some(close + 1)
        }
        _ => (chars.get(start + 2) == Some(&'\'')).then_some(start + 3),
    }
}

/// Blanks every item under a `#[cfg(test)]` or the like.
fn without_tests(code: &str) -> String {
    let mut chars: Vec<char> = code.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        let end = end_of_attribute(&chars, at);
        let attribute: String = chars[at..end]
            .iter()
            .filter(|c| !c.is_whitespace())
            .collect();
        if attribute.starts_with("#[cfg(")
            && !attribute.contains("not(test")
            && has_word(&attribute, "test")
        {
            let end = end_of_item(&chars, end);
            blank(&mut chars[at..end]);
        }
        at = end.max(at + 1);
    }
    chars.into_iter().collect()
}

/// Blanks every attribute.
fn without_attributes(code: &str) -> String {
    let mut chars: Vec<char> = code.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        let end = end_of_attribute(&chars, at);
        blank(&mut chars[at..end]);
        at = end.max(at + 1);
    }
    chars.into_iter().collect()
}

fn blank(chars: &mut [char]) {
    chars
        .iter_mut()
        .filter(|c| **c != '\n')
        .for_each(|c| *c = ' ');
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c| !is_word(c)).any(|other| other == word)
}

/// The end of the attribute that starts here; `at` itself if none does.
fn end_of_attribute(chars: &[char], at: usize) -> usize {
    let open = match (chars.get(at), chars.get(at + 1), chars.get(at + 2)) {
        (Some('#'), Some('['), _) => at + 1,
        (Some('#'), Some('!'), Some('[')) => at + 2,
        _ => return at,
    };
    end_of_brackets(chars, open)
}

/// The end of the brackets of any kind that open here.
fn end_of_brackets(chars: &[char], open: usize) -> usize {
    let mut depth = 0;
    for (at, c) in chars.iter().enumerate().skip(open) {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    chars.len()
}

/// The end of the item that follows: its semicolon or the end of its body.
fn end_of_item(chars: &[char], start: usize) -> usize {
    let mut at = start;
    while at < chars.len() {
        match chars[at] {
            ';' => return at + 1,
            '{' => return end_of_brackets(chars, at),
            '}' => return at, // the last field or arm of what encloses it
            '(' | '[' => at = end_of_brackets(chars, at),
            _ => at += 1,
        }
    }
    at
}

/// The top-level items of a file without attributes, each with the line it starts on.
fn items(code: &str) -> Vec<(usize, String)> {
    let chars: Vec<char> = code.chars().collect();
    let mut items = Vec::new();
    let mut at = 0;
    while let Some(blank) = chars[at..].iter().position(|c| !c.is_whitespace()) {
        let start = at + blank;
        let head: String = chars[start..]
            .iter()
            .take_while(|c| !"{;".contains(**c))
            .collect();
        let end = match chars[start..].iter().position(|c| *c == ';') {
            Some(length) if has_word(&head, "use") => start + length + 1,
            _ => end_of_item(&chars, start).max(start + 1),
        };
        let line = 1 + chars[..start].iter().filter(|c| **c == '\n').count();
        items.push((line, chars[start..end].iter().collect()));
        at = end;
    }
    items
}

/// Every path in code without comments and strings; `use a::{b, c::d}` gives `a::b` and `a::c::d`.
fn paths_in(code: &str) -> Vec<CodePath> {
    let mut reader = Reader {
        chars: code.chars().collect(),
        at: 0,
        line: 1,
        paths: Vec::new(),
    };
    while reader.at < reader.chars.len() {
        if is_word(reader.chars[reader.at]) {
            reader.path(&[]);
        } else {
            reader.step();
        }
    }
    reader.paths
}

struct Reader {
    chars: Vec<char>,
    at: usize,
    line: usize,
    paths: Vec<CodePath>,
}

impl Reader {
    /// Reads one path; `before` is what the braces around it have in front of them.
    fn path(&mut self, before: &[String]) {
        let line = self.line;
        let is_visibility = self.follows("pub(") || self.follows("pub(in ");
        let mut segments = before.to_vec();
        loop {
            match self.word() {
                Some(word) if word == "self" && segments == before && !before.is_empty() => {}
                Some(word) => segments.push(word),
                None if self.takes("*") => segments.push("*".to_owned()),
                None if self.takes("{") => return self.braces(&segments),
                None => break,
            }
            let (at, line) = (self.at, self.line);
            self.skip_space();
            if !self.takes("::") {
                (self.at, self.line) = (at, line);
                break;
            }
            self.skip_space();
        }
        if !segments.is_empty() && !is_visibility {
            self.paths.push(CodePath { line, segments });
        }
    }

    /// Reads the inside of `a::{…}` up to its end.
    fn braces(&mut self, before: &[String]) {
        while self.at < self.chars.len() && !self.takes("}") {
            let c = self.chars[self.at];
            if !is_word(c) && c != '*' {
                self.step();
                continue;
            }
            self.path(before);
            self.skip_space();
            if self.upcoming("as ") {
                self.word();
                self.skip_space();
                self.word();
            }
        }
    }

    fn word(&mut self) -> Option<String> {
        let start = self.at;
        while self.chars.get(self.at).is_some_and(|c| is_word(*c)) {
            self.at += 1;
        }
        (self.at > start).then(|| self.chars[start..self.at].iter().collect())
    }

    fn follows(&self, text: &str) -> bool {
        self.chars[..self.at]
            .iter()
            .rev()
            .copied()
            .take(text.len())
            .eq(text.chars().rev())
    }

    fn upcoming(&self, text: &str) -> bool {
        text.chars()
            .enumerate()
            .all(|(index, c)| self.chars.get(self.at + index) == Some(&c))
    }

    fn takes(&mut self, text: &str) -> bool {
        let found = self.upcoming(text);
        self.at += if found { text.chars().count() } else { 0 };
        found
    }

    fn skip_space(&mut self) {
        while self.chars.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.step();
        }
    }

    fn step(&mut self) {
        self.line += usize::from(self.chars[self.at] == '\n');
        self.at += 1;
    }
}

mod rules_can_fail {
    use super::*;

    const LIB: &str =
        "//! A crate.\nmod base;\nmod task;\nmod manager;\npub use manager::Manager;\n";
    const BASE: &str = "//! Below.\npub(crate) mod time;\npub(crate) mod sync;\n";

    /// A sound crate, with one file put in or replaced.
    fn crate_with(path: &str, text: &str) -> Vec<Source> {
        let sound = [
            ("src/lib.rs", LIB),
            ("src/base/mod.rs", BASE),
            (
                "src/base/time.rs",
                "//! Time.\nuse std::time::Instant;\nfn now() { Instant::now(); }\n",
            ),
            (
                "src/base/sync.rs",
                "//! Locks.\nuse crate::base::time::now;\nuse std::thread;\n",
            ),
            (
                "src/task.rs",
                "//! Tasks.\nuse crate::base::{sync, time::now};\n",
            ),
            (
                "src/manager.rs",
                "//! Wiring.\nuse crate::task::Task;\nuse crate::base::time;\n",
            ),
        ];
        let others = sound.iter().filter(|(other, _)| *other != path);
        others
            .map(|(path, text)| Source::new(path, text))
            .chain([Source::new(path, text)])
            .collect()
    }

    /// What a rule says of the sound crate with one file put in or replaced, as `file:line` and the rest.
    fn said(rule: fn(&[Source]) -> Vec<Breach>, path: &str, text: &str) -> Vec<String> {
        rule(&crate_with(path, text))
            .iter()
            .map(Breach::to_string)
            .collect()
    }

    #[track_caller]
    fn assert_says(rule: fn(&[Source]) -> Vec<Breach>, path: &str, text: &str, expected: &[&str]) {
        let said = said(rule, path, text);
        let matches = said
            .iter()
            .zip(expected)
            .all(|(said, expected)| said.starts_with(expected));
        assert!(
            matches && said.len() == expected.len(),
            "said {said:#?}, expected {expected:#?}"
        );
    }

    #[test]
    fn a_sound_crate_breaks_no_rule() {
        let rules = [
            imports_that_go_up,
            import_cycles,
            items_in_module_roots,
            relative_and_glob_imports,
            unsafe_code,
            names_outside_the_seam,
            names_outside_their_home,
            first_lines,
        ];
        for rule in rules {
            assert_says(rule, "src/lib.rs", LIB, &[]);
        }
    }

    #[test]
    fn an_import_from_a_module_that_stands_below_is_found() {
        let rule = imports_that_go_up;
        assert_says(
            rule,
            "src/task.rs",
            "//!\nuse crate::manager::Manager;",
            &["src/task.rs:2: `crate::manager::Manager`"],
        );
        assert_says(
            rule,
            "src/task.rs",
            "//!\nfn f() { crate::manager::f() }",
            &["src/task.rs:2: `crate::manager::f`"],
        );
        assert_says(
            rule,
            "src/task.rs",
            "use crate::{\n base::sync,\n manager};",
            &["src/task.rs:3: `crate::manager`"],
        );
        assert_says(
            rule,
            "src/base/time.rs",
            "use crate::base::sync::Lock;",
            &["src/base/time.rs:1: `crate::base::sync"],
        );
        assert_says(
            rule,
            "src/base/sync.rs",
            "use crate::task::Task;",
            &["src/base/sync.rs:1: `crate::task::Task`"],
        );
        assert_says(
            rule,
            "src/task.rs",
            "pub(crate) fn f() {} pub(in crate::manager) fn g() {}",
            &[],
        );
        assert_says(
            rule,
            "src/stray.rs",
            "use crate::task::Task;",
            &["src/stray.rs:1: `crate::task::Task`: its parent"],
        );
    }

    #[test]
    fn an_import_from_a_module_root_is_found() {
        let rule = imports_that_go_up;
        assert_says(
            rule,
            "src/task.rs",
            "use crate::Manager;",
            &["src/task.rs:1: `crate::Manager`: that is a module root"],
        );
        assert_says(
            rule,
            "src/task.rs",
            "use crate::base::now;",
            &["src/task.rs:1: `crate::base::now`: that is a module"],
        );
        assert_says(
            rule,
            "src/base/sync.rs",
            "use crate::base::now;",
            &["src/base/sync.rs:1: `crate::base::now`"],
        );
    }

    #[test]
    fn tests_comments_and_strings_may_name_anything() {
        let text = "//! `crate::manager::Manager`\n/* unsafe /* std::thread */ crate::manager */\n\
                    const A: &str = \"unsafe \\\" std::thread\"; const B: &str = r#\"unsafe \" super::*\"#;\n\
                    const C: char = '\"'; const D: char = '\\''; fn f<'a>(x: &'a str) {}\n\
                    #[cfg(test)]\nmod tests { use super::*; use crate::manager::Manager; use std::thread; }\n";
        let rules = [
            imports_that_go_up,
            import_cycles,
            relative_and_glob_imports,
            unsafe_code,
            names_outside_the_seam,
            names_outside_their_home,
        ];
        for rule in rules {
            assert_says(rule, "src/task.rs", text, &[]);
        }
        let behind = format!("{text}fn g() {{ super::x() }}");
        assert_says(
            relative_and_glob_imports,
            "src/task.rs",
            &behind,
            &["src/task.rs:7: `super::x`"],
        );
    }

    #[test]
    fn a_file_that_is_declared_for_tests_only_may_import_anything() {
        let model = "//! A model.\nuse crate::manager::f;\n";
        for (declaration, breaches) in [("#[cfg(test)]\nmod model;\n", 0), ("mod model;\n", 1)] {
            let mut sources = crate_with("src/base/model.rs", model);
            let root = sources
                .iter_mut()
                .find(|source| source.path == "src/base/mod.rs");
            let root = root.expect("the sample crate has it");
            *root = Source::new("src/base/mod.rs", &format!("{BASE}{declaration}"));
            set_test_files_apart(&mut sources);
            assert_eq!(
                imports_that_go_up(&sources).len(),
                breaches,
                "{declaration}"
            );
        }
    }

    #[test]
    fn code_for_everything_but_tests_is_no_test() {
        let text = "#[cfg(not(test))]\nuse std::thread;";
        assert_says(
            names_outside_the_seam,
            "src/task.rs",
            text,
            &["src/task.rs:2: `std::thread`"],
        );
        let text = "#[cfg(all(test, not(loom)))]\nuse std::thread;\nuse std::sync::atomic;";
        assert_says(
            names_outside_the_seam,
            "src/task.rs",
            text,
            &["src/task.rs:3: `std::sync::atomic`"],
        );
    }

    #[test]
    fn two_files_that_import_each_other_are_found() {
        let text = "use crate::base::sync::Lock;";
        let expected = [
            "src/base/sync.rs:2: imports itself by way of src/base/time.rs",
            "src/base/time.rs:1: imports itself by way of src/base/sync.rs",
        ];
        assert_says(import_cycles, "src/base/time.rs", text, &expected);
        let through_a_root = said(import_cycles, "src/base/time.rs", "use crate::base::now;");
        let expected = "src/base/time.rs:1: imports itself by way of src/base/mod.rs";
        assert!(
            through_a_root.iter().any(|said| said == expected),
            "{through_a_root:#?}"
        );
    }

    #[test]
    fn an_item_in_a_module_root_is_found() {
        let rule = items_in_module_roots;
        let text = "//! A.\n#![warn(missing_docs)]\n#[cfg(a)]\nmod base;\npub use {\n base::x,\n};\nuse base::y;\nfn f() {}\n";
        assert_says(
            rule,
            "src/lib.rs",
            text,
            &["src/lib.rs:8: `use base::y;`", "src/lib.rs:9: `fn f() {}`"],
        );
        assert_says(
            rule,
            "src/base/mod.rs",
            "mod inline { }",
            &["src/base/mod.rs:1: `mod inline { }`"],
        );
        assert_says(
            rule,
            "src/base/mod.rs",
            "pub struct Thing;",
            &["src/base/mod.rs:1: `pub struct Thing;`"],
        );
        assert_says(
            rule,
            "src/base/mod.rs",
            "pub(crate) use time::{now, then}; mod time;",
            &[],
        );
    }

    #[test]
    fn super_and_globs_are_found() {
        let rule = relative_and_glob_imports;
        assert_says(
            rule,
            "src/task.rs",
            "use super::base;",
            &["src/task.rs:1: `super::base`"],
        );
        assert_says(
            rule,
            "src/task.rs",
            "use crate::base::{sync::*, time};",
            &["src/task.rs:1: `crate::base::sync::*`"],
        );
        assert_says(rule, "src/task.rs", "fn f(a: u8) -> u8 { a * 2 }", &[]);
    }

    #[test]
    fn unsafe_is_found_in_tests_too() {
        assert_says(
            unsafe_code,
            "src/task.rs",
            "fn f() {\n unsafe { g() } }",
            &["src/task.rs:2: `unsafe`"],
        );
        assert_says(
            unsafe_code,
            "src/task.rs",
            "#[cfg(test)]\nmod t { unsafe fn f() {} }",
            &["src/task.rs:2"],
        );
        assert_says(unsafe_code, "src/task.rs", "#![forbid(unsafe_code)]", &[]);
    }

    #[test]
    fn what_belongs_behind_the_seam_is_found_in_any_spelling() {
        let rule = names_outside_the_seam;
        assert_says(
            rule,
            "src/task.rs",
            "fn f() { std::thread::yield_now() }",
            &["src/task.rs:1: `std::thread::yield_now`"],
        );
        assert_says(
            rule,
            "src/task.rs",
            "use std::{sync::{Arc, atomic as a}, fmt};",
            &["src/task.rs:1: `std::sync::atomic`"],
        );
        assert_says(
            rule,
            "src/task.rs",
            "use core::sync::atomic::AtomicBool;",
            &["src/task.rs:1: `core::sync::atomic"],
        );
        assert_says(
            rule,
            "src/task.rs",
            "use std::time::{Duration, Instant};",
            &["src/task.rs:1: `std::time::Instant`"],
        );
        assert_says(
            rule,
            "src/task.rs",
            "use crossbeam_channel::bounded;",
            &["src/task.rs:1: `crossbeam_channel::bounded`"],
        );
        assert_says(rule, "src/lib.rs", "pub use crossbeam_channel;", &[]);
    }

    #[test]
    fn what_has_left_its_home_is_found() {
        let rule = names_outside_their_home;
        assert_says(
            rule,
            "src/task.rs",
            "use std::thread::{self, Builder};",
            &["src/task.rs:1: `std::thread::Builder`"],
        );
        assert_says(
            rule,
            "src/task.rs",
            "fn f() { time::Instant::now() }",
            &["src/task.rs:1: `time::Instant::now`"],
        );
        assert_says(
            rule,
            "src/task.rs",
            "use std::panic::catch_unwind;",
            &["src/task.rs:1: `std::panic::catch_unwind`"],
        );
        assert_says(
            rule,
            "src/task.rs",
            "fn f() { log::info!(\"\") }",
            &["src/task.rs:1: `log::info`"],
        );
        assert_says(
            rule,
            "src/task.rs",
            "use log::{Level, warn};",
            &["src/task.rs:1: `log::warn`"],
        );
        assert_says(
            rule,
            "src/task.rs",
            "fn f() { ctrlc::set_handler(g) }",
            &["src/task.rs:1: `ctrlc::set_handler`"],
        );
        assert_says(
            rule,
            "src/task.rs",
            "type M = parking_lot::Mutex<u8>;",
            &["src/task.rs:1: `parking_lot::Mutex`"],
        );
    }

    #[test]
    fn a_first_line_that_says_nothing_or_too_much_is_found() {
        assert_says(
            first_lines,
            "src/task.rs",
            "use std::fmt;",
            &["src/task.rs:1: not a `//!`"],
        );
        assert_says(
            first_lines,
            "src/task.rs",
            "",
            &["src/task.rs:1: not a `//!`"],
        );
        assert_says(
            first_lines,
            "src/task.rs",
            &format!("//! {}", "x".repeat(67)),
            &["src/task.rs:1: not a `//!`"],
        );
        assert_says(
            first_lines,
            "src/task.rs",
            &format!("//! {}", "x".repeat(66)),
            &[],
        );
    }
}
