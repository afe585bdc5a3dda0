//! README and the changelog: what they link to is there, and the tests that they name are where they say.

use std::fs;
use std::path::Path;

use crate::table::tests_in;

const PAGES: [&str; 2] = ["README.md", "CHANGELOG.md"];

/// A link within the project: `[text](path)`.
#[derive(Debug, PartialEq, Eq)]
struct Link<'a> {
    line: usize,
    text: &'a str,
    path: &'a str,
}

impl<'a> Link<'a> {
    /// The name of a test, if the text is one: `` [`name`](path.rs) ``.
    fn test(&self) -> Option<&'a str> {
        let name = self.text.strip_prefix('`')?.strip_suffix('`')?;
        let is_source = Path::new(self.path).extension()? == "rs";
        is_source.then_some(name)
    }
}

/// The links of a page, without those into the web, to a heading, and in blocks of code.
fn links(page: &str) -> Vec<Link<'_>> {
    let (mut links, mut is_code) = (Vec::new(), false);
    for (number, line) in (1..).zip(page.lines()) {
        is_code ^= line.starts_with("```");
        if is_code {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let text = line[..at].rsplit('[').next().unwrap_or_default();
            let target = line[at + 2..].split(')').next().unwrap_or_default();
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") {
                links.push(Link {
                    line: number,
                    text,
                    path,
                });
            }
        }
    }
    links
}

/// Whether the file has this test; a model is one that `tests/loom.rs` runs.
fn has_test(path: &str, source: &str, models: &str, name: &str) -> bool {
    if path.starts_with("src/models/") {
        source.contains(&format!("pub fn {name}()")) && models.contains(&format!(" {name},"))
    } else {
        tests_in(source).contains(&name)
    }
}

/// The rows of the table that begins with this.
fn rows_below<'a>(heading: &str, page: &'a str) -> Vec<&'a str> {
    let (_, table) = page.split_once(heading).expect("such a table");
    let rows = table.lines().skip(2).take_while(|row| !row.is_empty());
    let rows: Vec<&str> = rows.collect();
    assert_ne!(rows, Vec::<&str>::new());
    rows
}

fn read(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(file).unwrap_or_default()
}

#[test]
fn every_link_within_the_project_leads_to_something() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in PAGES {
        for link in links(&read(page)) {
            let (line, path) = (link.line, link.path);
            assert!(
                root.join(path).exists(),
                "{page}:{line}: there is no {path}"
            );
        }
    }
}

#[test]
fn every_test_that_readme_names_is_in_the_file_it_links_to() {
    let (readme, models) = (read("README.md"), read("tests/loom.rs"));
    let mut links = links(&readme);
    links.retain(|link| link.test().is_some());
    assert!(!links.is_empty(), "README names no test");
    for link in links {
        let (line, path, name) = (link.line, link.path, link.test().unwrap_or_default());
        assert!(
            has_test(path, &read(path), &models, name),
            "README.md:{line}: {path} has no test `{name}`"
        );
    }
}

#[test]
fn each_promise_links_to_what_shows_it() {
    let readme = read("README.md");
    for row in rows_below("| | promise |", &readme) {
        assert!(!links(row).is_empty(), "shown by nothing: {row}");
    }
}

#[test]
fn each_way_to_die_elsewhere_links_to_its_test_and_there_are_no_others() {
    let readme = read("README.md");
    let rows = rows_below("| the failure |", &readme);
    let linked = rows.iter().flat_map(|row| links(row));
    let linked: Vec<&str> = linked.filter_map(|link| link.test()).collect();
    assert_eq!(linked, tests_in(&read("tests/promises.rs")));
    assert_eq!(linked.len(), rows.len());
}

#[test]
fn links_and_tests_are_found_in_pages_and_files() {
    let page = "a [b](c.md) [d](https://e.f)\n```\n[g](h)\n```\n| [`i`](j.rs#k), [l](#m) |\n";
    let found = links(page);
    let expected = [(1, "b", "c.md", None), (5, "`i`", "j.rs", Some("i"))];
    let expected = expected.map(|(line, text, path, test)| (Link { line, text, path }, test));
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, (link, test)) in found.iter().zip(&expected) {
        assert_eq!((found, found.test()), (link, *test));
    }

    let source = "#[test]\nfn one() {\nfn helps() {\n";
    assert!(has_test("tests/a.rs", source, "", "one"));
    assert!(!has_test("tests/a.rs", source, "", "helps"));
    let (source, path) = ("pub fn one() {\npub fn two() {\n", "src/models/a.rs");
    assert!(has_test(path, source, "models!(\n    one,\n);", "one"));
    assert!(!has_test(path, source, "models!(\n    one,\n);", "two"));
}
