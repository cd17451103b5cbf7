use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use chaperone_sql::{Catalog, ColumnPath, QUERIES};

use super::*;

/// Tables as `oid schema.table: column, -, column`, where `-` is one that was dropped; and who inherits from whom.
fn catalog(tables: &[&str], inherits: &[(u32, u32)]) -> Catalog {
    let mut rows: HashMap<String, Vec<Vec<Option<String>>>> =
        QUERIES.iter().map(|query| (query.name.to_owned(), Vec::new())).collect();
    let mut add = |name: &str, row: &[&str]| {
        let row = row.iter().map(|cell| Some((*cell).to_owned())).collect();
        rows.get_mut(name).unwrap().push(row);
    };
    add("server", &["150000", "UTF8"]);
    for table in tables {
        let (head, columns) = table.split_once(": ").unwrap();
        let (oid, name) = head.split_once(' ').unwrap();
        let (schema, name) = name.split_once('.').unwrap();
        add("relations", &[oid, schema, name, "r", "f", "f"]);
        for (column, number) in columns.split(", ").zip(1..).filter(|(column, _)| *column != "-") {
            add("columns", &[oid, column, &i32::to_string(&number), "25", ""]);
        }
    }
    for (parent, child) in inherits {
        add("inherits", &[&parent.to_string(), &child.to_string()]);
    }
    for row in rows.get_mut("columns").unwrap() {
        row[4] = None;
    }
    Catalog::build(&rows, &["app".to_owned()]).unwrap()
}

fn path(text: &str) -> ColumnPath {
    let [schema, table, column] = text.split('.').collect::<Vec<_>>()[..] else { panic!("{text}") };
    ColumnPath { schema: schema.into(), table: table.into(), column: column.into() }
}

fn home(cluster: &str, oid: u32) -> Home {
    Home { cluster: cluster.to_owned(), oid, name: "shop".to_owned() }
}

const LABEL: &str = "app.users.email";

/// What the label covers beside what it names, after a reading of these tables.
fn away(places: &Places, home: &Home, tables: &[&str], inherits: &[(u32, u32)]) -> Vec<String> {
    away_at(places, "shop", home, tables, inherits)
}

fn away_at(
    places: &Places,
    target: &str,
    home: &Home,
    tables: &[&str],
    inherits: &[(u32, u32)],
) -> Vec<String> {
    let catalog = catalog(tables, inherits);
    let learned = places.learn(Reading { target, home, catalog: &catalog, labels: &[path(LABEL)] });
    learned.elsewhere[&path(LABEL)].iter().map(ToString::to_string).collect()
}

/// Tables, who inherits from whom, and what the label covers beside what it names.
type Seen<'a> = (&'a [&'a str], &'a [(u32, u32)], &'a [&'a str]);

/// Each reading by an agent of its own, which knows what the one before left in the file.
fn after_restarts(readings: &[Seen<'_>]) {
    let dir = tempfile::tempdir().unwrap();
    for (number, (tables, inherits, expect)) in readings.iter().enumerate() {
        let places = Places::open(dir.path()).unwrap();
        let got = away(&places, &home("7", 5), tables, inherits);
        assert_eq!(got, *expect, "reading {number} of {readings:?}");
    }
}

#[test]
fn what_is_renamed_while_no_agent_runs_is_found_by_the_next() {
    let before: &[&str] = &["16 app.users: id, email", "17 app.other: id, email"];
    after_restarts(&[(before, &[], &[]), (&["16 app.people: id, email"], &[], &["app.people.email"])]);
    // Moved to another schema, and its column renamed; then another of that name added.
    after_restarts(&[
        (before, &[], &[]),
        (&["16 old.users: id, mail"], &[], &["old.users.mail"]),
        (&["16 old.users: id, mail, email"], &[], &["old.users.mail"]),
    ]);
    after_restarts(&[
        (before, &[], &[]),
        (&["16 app.users: id, mail, email"], &[], &["app.users.mail"]),
        (&["16 app.users: id, -, email"], &[], &[]),
    ]);
    // Two tables change their names, and change them back: both were called so.
    let swapped: &[&str] = &["17 app.users: id, email", "16 app.other: id, email"];
    after_restarts(&[
        (before, &[], &[]),
        (swapped, &[], &["app.other.email"]),
        (before, &[], &["app.other.email"]),
    ]);
    // One takes the place of another that is dropped.
    after_restarts(&[
        (before, &[], &[]),
        (&["18 app.users: id, email"], &[], &[]),
        (&["18 app.users: id, email", "19 app.x: id, email"], &[], &[]),
    ]);
}

#[test]
fn what_was_away_and_is_dropped_is_known_again_by_its_name() {
    let old: &[&str] = &["16 app.people: id, email"];
    after_restarts(&[
        (&["16 app.users: id, email"], &[], &[]),
        (old, &[], &["app.people.email"]),
        (&["20 app.more: id"], &[], &[]),
        (&["21 app.people: email"], &[], &["app.people.email"]),
        (&["21 app.folk: email"], &[], &["app.folk.email"]),
    ]);
}

#[test]
fn a_partition_that_is_taken_off_stays_covered_and_its_family_is_named_once() {
    let tables: &[&str] =
        &["16 app.users: id, email", "17 app.u1: email, id", "18 app.u2: id, email", "19 app.u3: id"];
    let all = &[(16, 17), (16, 18), (16, 19)];
    after_restarts(&[
        (tables, all, &[]),
        (tables, &[(16, 18), (16, 19)], &["app.u1.email"]),
        (tables, &[(16, 19)], &["app.u1.email", "app.u2.email"]),
        (tables, all, &[]),
    ]);
    let renamed: &[&str] = &["16 app.people: id, email", "17 app.u1: email, id", "18 app.u2: id, email"];
    after_restarts(&[(tables, all, &[]), (renamed, &[(16, 17), (16, 18)], &["app.people.email"])]);
}

#[test]
fn thousands_of_partitions_are_one_family() {
    const MANY: u32 = 4000;
    let children: Vec<String> = (1..MANY).map(|n| format!("{} app.u{n}: id, email", 16 + n)).collect();
    let under =
        |root: &str| -> Vec<String> { std::iter::once(root.to_owned()).chain(children.clone()).collect() };
    let inherits: Vec<(u32, u32)> = (1..MANY).map(|n| (16, 16 + n)).collect();
    let places = Places::in_memory();
    let look = |tables: &[String], inherits: &[(u32, u32)]| {
        let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
        away(&places, &home("7", 5), &tables, inherits)
    };
    assert!(look(&under("16 app.users: id, email"), &inherits).is_empty());
    assert_eq!(look(&under("16 app.people: id, email"), &inherits), ["app.people.email"]);
    assert_eq!(
        look(&under("16 app.people: id, email"), &inherits[1..]),
        ["app.people.email", "app.u1.email"]
    );
    assert_eq!(look(&children, &[]).len(), children.len());
}

#[test]
fn another_database_is_not_taken_for_the_one_that_was_known() {
    let places = Places::in_memory();
    let users: &[&str] = &["16 app.users: id, email"];
    assert!(away(&places, &home("7", 5), users, &[]).is_empty());
    let people: &[&str] = &["16 app.people: id, email"];
    assert_eq!(away(&places, &home("7", 5), people, &[]), ["app.people.email"]);
    // The same numbers in another cluster, or in another database: what has the name it was last seen under.
    let dump: &[&str] = &["16 app.else: id, email", "99 app.people: id, email"];
    assert_eq!(away(&places, &home("8", 5), dump, &[]), ["app.people.email"]);
    assert_eq!(away(&places, &home("7", 6), dump, &[]), ["app.people.email"]);
    // From here on that one has a life of its own.
    let renamed: &[&str] = &["16 app.else: id, email", "99 app.folk: id, email"];
    assert_eq!(away(&places, &home("8", 5), renamed, &[]), ["app.folk.email"]);
    assert_eq!(away(&places, &home("7", 5), people, &[]), ["app.people.email"]);
    // A copy under another name, as of a template; and what only other databases of that name had.
    let copy = |oid: u32| Home { name: "copy".to_owned(), ..home("7", oid) };
    assert_eq!(away(&places, &copy(50), people, &[]), ["app.people.email"]);
    assert!(away(&places, &copy(51), &["16 app.else: id, email", "17 app.users: email"], &[]).is_empty());
    assert!(away_at(&places, "other", &home("9", 5), people, &[]).is_empty(), "another target");
}

#[test]
fn a_target_that_is_called_otherwise_leads_to_the_same_database() {
    let places = Places::in_memory();
    assert!(away(&places, &home("7", 5), &["16 app.users: id, email"], &[]).is_empty());
    let people: &[&str] = &["16 app.people: id, email"];
    assert_eq!(away_at(&places, "store", &home("7", 5), people, &[]), ["app.people.email"]);
    // Who does not say which cluster it is of: the target says it, and another target does not.
    assert!(away_at(&places, "third", &home("", 5), people, &[]).is_empty());
    assert_eq!(away_at(&places, "shop", &home("", 5), people, &[]), ["app.people.email"]);
}

fn config(labels: &[&str], dir: &Path) -> Config {
    let mut text = format!(
        "state_dir = {dir:?}\n[intercept]\ncgroup = \"/x\"\n[[targets]]\nname = \"shop\"\nprotocol = \"postgres\"\n\
         addresses = [\"127.0.0.1\"]\nport = 5432\nenv = \"prod\"\nuser = \"agent\"\n"
    );
    for label in labels {
        text += &format!("[[targets.labels]]\ncolumn = {label:?}\ntags = [\"pii\"]\n");
    }
    Config::parse(Path::new("test.toml"), &text).unwrap()
}

#[test]
fn a_label_that_is_taken_out_takes_its_memory_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let places = Places::open(dir.path()).unwrap();
    places.follow(&config(&[LABEL], dir.path()));
    assert!(away(&places, &home("7", 5), &["16 app.users: email"], &[]).is_empty());
    let people: &[&str] = &["16 app.people: email"];
    assert_eq!(away(&places, &home("7", 5), people, &[]), ["app.people.email"]);
    let generation = places.generation();
    places.follow(&config(&[LABEL], dir.path()));
    assert_eq!(places.generation(), generation, "nothing was forgotten");
    places.follow(&config(&["app.users.phone"], dir.path()));
    assert_ne!(places.generation(), generation);
    // Sessions of before may ask once more, and leave nothing behind.
    assert!(away(&places, &home("7", 5), people, &[]).is_empty());
    places.follow(&config(&[LABEL], dir.path()));
    assert!(away(&places, &home("7", 5), people, &[]).is_empty());
    let next = Places::open(dir.path()).unwrap();
    assert!(away(&next, &home("7", 5), people, &[]).is_empty());
}

#[test]
fn two_agents_know_what_either_learned_and_neither_brings_back_what_was_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Places::open(dir.path()).unwrap();
    let (old, new) = (open(), open());
    new.follow(&config(&[LABEL], dir.path()));
    let users: &[&str] = &["16 app.users: email"];
    assert!(away(&old, &home("7", 5), users, &[]).is_empty());
    assert!(away(&new, &home("8", 5), users, &[]).is_empty());
    for places in [&old, &new, &open()] {
        assert_eq!(away(places, &home("7", 5), &["16 app.a: email"], &[]), ["app.a.email"]);
        assert_eq!(away(places, &home("8", 5), &["16 app.b: email"], &[]), ["app.b.email"]);
    }
    new.follow(&config(&[], dir.path()));
    assert_eq!(
        away(&old, &home("7", 5), &["16 app.c: email"], &[]),
        ["app.c.email"],
        "its own sessions go on"
    );
    new.follow(&config(&[LABEL], dir.path()));
    let newer = open();
    newer.follow(&config(&[], dir.path()));
    assert!(away(&open(), &home("7", 5), &["16 app.c: email"], &[]).is_empty());
}

#[test]
fn a_file_that_is_not_whole_is_refused_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let places = Places::open(dir.path()).unwrap();
    away(&places, &home("7", 5), &["16 app.users: email"], &[]);
    let file = dir.path().join("labels");
    let whole = fs::read(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let refused = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        Places::open(dir.path()).err().map(|error| error.to_string())
    };
    for end in 0..whole.len() {
        let said = refused(&whole[..end]).unwrap_or_else(|| panic!("{end} bytes of it are taken for whole"));
        assert!(said.contains("damaged") && said.contains("remove the file"), "{said}");
    }
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        assert!(refused(&flipped).is_some(), "byte {at} may be another");
    }
    let text = String::from_utf8(whole.clone()).unwrap();
    let newer = refused(text.replacen("labels 1", "labels 2", 1).as_bytes()).unwrap();
    assert!(newer.contains("newer agent"), "{newer}");
    assert_eq!(refused(&whole), None);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(refused(&whole).unwrap().contains("chmod 600"));
}

#[test]
fn what_cannot_be_written_is_known_while_the_agent_lives_and_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let places = Places::open(dir.path()).unwrap();
    // A folder in the place of the file that is being made.
    fs::create_dir_all(dir.path().join("labels.new/x")).unwrap();
    assert!(away(&places, &home("7", 5), &["16 app.users: email"], &[]).is_empty());
    assert!(places.is_unsaved());
    assert_eq!(away(&places, &home("7", 5), &["16 app.people: email"], &[]), ["app.people.email"]);
    fs::remove_dir_all(dir.path().join("labels.new")).unwrap();
    away(&places, &home("7", 5), &["16 app.people: email"], &[]);
    assert!(!places.is_unsaved());
    let next = Places::open(dir.path()).unwrap();
    assert_eq!(away(&next, &home("7", 5), &["16 app.folk: email"], &[]), ["app.folk.email"]);
}

#[test]
fn a_file_that_is_damaged_or_removed_under_a_running_agent_is_put_right_and_a_newer_ones_left() {
    let dir = tempfile::tempdir().unwrap();
    let places = Places::open(dir.path()).unwrap();
    let file = dir.path().join("labels");
    away(&places, &home("7", 5), &["16 app.users: email"], &[]);
    for spoil in [|file: &Path| fs::write(file, "x").unwrap(), |file: &Path| fs::remove_file(file).unwrap()] {
        spoil(&file);
        away(&places, &home("7", 5), &["16 app.people: email"], &[]);
        let next = Places::open(dir.path()).unwrap();
        assert_eq!(away(&next, &home("7", 5), &["16 app.people: email"], &[]), ["app.people.email"]);
    }
    fs::write(&file, "chaperone-labels 9 x\ny").unwrap();
    away(&places, &home("7", 5), &["16 app.folk: email"], &[]);
    assert_eq!(fs::read(&file).unwrap(), b"chaperone-labels 9 x\ny");
    assert!(places.is_unsaved());
}

#[test]
fn only_so_many_that_are_gone_are_remembered_and_so_many_databases() {
    let places = Places::in_memory();
    away(&places, &home("7", 5), &["16 app.users: email"], &[]);
    for number in 0..300 {
        away(&places, &home("7", 5), &[&format!("16 app.t{number}: email")], &[]);
        away(&places, &home("7", 5), &[&format!("{} app.users: email", number + 20)], &[]);
        away(&places, &home("7", 5), &[&format!("{} app.u{number}: email", number + 20)], &[]);
        away(&places, &home("7", 5), &["1 app.none: id"], &[]);
    }
    let size = file::text(&places.state().memory).unwrap().len();
    assert!(size < 64 << 10, "{size}");
    let back = away(&places, &home("7", 5), &["2 app.u299: email", "3 app.u0: email"], &[]);
    assert_eq!(back, ["app.u299.email"], "who went last is known for longest");
    let databases = |places: &Places| {
        let text = String::from_utf8(file::text(&places.state().memory).unwrap()).unwrap();
        text.matches("cluster").count()
    };
    for oid in 100..110 {
        away(&places, &home("7", oid), &["16 app.users: email"], &[]);
    }
    assert_eq!(databases(&places), 4, "that took each other's place");
    let moved: &[&str] = &["16 app.moved: email"];
    assert_eq!(away(&places, &home("7", 109), moved, &[]), ["app.moved.email"]);
    let many = Places::in_memory();
    let named = |oid: u32| Home { name: format!("ci{oid}"), ..home("7", oid) };
    let kept = Home { name: "kept".to_owned(), ..home("7", 5000) };
    away(&many, &kept, &["16 app.users: email"], &[]);
    assert_eq!(away(&many, &kept, &["16 app.off: email"], &[]), ["app.off.email"]);
    for oid in 1..1100 {
        away(&many, &named(oid), &["16 app.users: email"], &[]);
    }
    let still = away(&many, &kept, &["16 app.further: email"], &[]);
    assert_eq!(still, ["app.further.email"], "what no label names is kept for longest");
    assert_eq!(databases(&many), 1024);
    assert_eq!(away(&many, &named(1099), moved, &[]), ["app.moved.email"]);
    assert!(away(&many, &named(1), &["16 app.folk: email"], &[]).is_empty(), "who came first is forgotten");
}

#[test]
fn an_operator_is_told_which_labels_name_nothing_and_which_cover_more() {
    let dir = tempfile::tempdir().unwrap();
    let both = config(&[LABEL, "app.users.phone"], dir.path());
    assert!(remarks(&both).unwrap().is_empty(), "nothing was read yet");
    let places = Places::open(dir.path()).unwrap();
    let labels = [path(LABEL), path("app.users.phone")];
    let read = |tables: &[&str]| {
        let catalog = catalog(tables, &[]);
        places.learn(Reading { target: "shop", home: &home("7", 5), catalog: &catalog, labels: &labels }).idle
    };
    assert_eq!(read(&["16 app.users: email"]), [path("app.users.phone")]);
    let said = remarks(&both).unwrap();
    assert!(matches!(&said[..], [one] if one.contains("users.phone") && one.contains("shop")), "{said:?}");
    assert_eq!(read(&["16 app.people: email", "17 app.users: phone"]), []);
    let said = remarks(&both).unwrap();
    assert!(matches!(&said[..], [one] if one.contains("app.people.email")), "{said:?}");
    assert_eq!(places.away("shop", "shop", &labels), [path("app.people.email")]);
    assert_eq!(places.away("shop", "other", &labels), []);
    for database in [None, Some("shop")] {
        assert_eq!(super::away(&both, "shop", database, &labels).unwrap(), [path("app.people.email")]);
    }
}
