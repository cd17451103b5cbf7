//! What opening makes of a journal that was not left well.

use super::*;
use crate::record::format::Header;
use crate::record::key;

/// Three segments, not closed and without a head, as a killed agent leaves them.
fn killed() -> State {
    let state = State::with_segments_of(2_500);
    let journal = state.open();
    for op in 1..=20 {
        journal.append(&[statement(op, "select 1")]).unwrap();
    }
    drop(journal);
    assert_eq!(state.segments().len(), 3);
    state
}

#[test]
fn every_truncation_of_the_last_segment_keeps_the_whole_records_and_says_so() {
    // Small records, since every byte of the segment is a case.
    let state = State::with_segments_of(350);
    let given = ["a", "b", "c", "d"].map(|reason| Event::AgentStop { reason: reason.into() });
    let journal = state.open();
    for event in &given {
        journal.append(std::slice::from_ref(event)).unwrap();
    }
    drop(journal);
    let last = state.segments().pop().unwrap();
    let places = state.places().into_iter().filter(|place| place.file == last).collect::<Vec<_>>();
    let (tree, events) = places.split_first().unwrap();
    assert_eq!((state.segments().len(), tree.kind, events.len()), (3, Kind::Tree, 1));
    let name = last.file_name().unwrap().to_str().unwrap();
    for len in 0..fs::read(&last).unwrap().len() {
        let copy = state.copy();
        edit(&copy.journal_dir().join(name), |bytes| bytes.truncate(len));
        let journal = copy.open();
        let next = journal.append(&[Event::AgentStop { reason: "next".into() }]).unwrap().first_seq;
        drop(journal);

        // A segment without its tree is none.
        let whole = places.iter().map(|place| place.at + place.len).filter(|end| *end <= len).max();
        let (from, kept) =
            (whole.unwrap_or(0), 3 + events.iter().filter(|place| place.at + place.len <= len).count());
        let mut expected = given[..kept].to_vec();
        if from < len || len == 0 {
            expected.push(Event::Repair {
                segment: name.into(),
                offset: from as u64,
                bytes: (len - from) as u64,
            });
        }
        expected.push(Event::AgentStop { reason: "next".into() });
        assert_eq!(
            (copy.events(), Some(next)),
            (expected.clone(), copy.places().last().map(|place| place.seq))
        );
        let report = copy.verify();
        assert!(
            report.ok && report.repairs == (expected.len() - kept - 1) as u64,
            "cut to {len}: {report:#?}"
        );
    }
}

#[test]
fn the_only_segment_may_have_lost_its_header() {
    let state = State::new();
    drop(state.open());
    edit(&state.segments()[0], |bytes| bytes.truncate(50));
    state.open().close().unwrap();
    assert!(matches!(state.events()[..], [Event::Repair { offset: 0, bytes: 50, .. }]));
    assert!(state.verify().ok);
}

#[test]
fn what_is_cut_off_is_kept_beside_the_segment() {
    let state = killed();
    let last = state.places().pop().unwrap();
    let mut lost = Vec::new();
    edit(&last.file, |bytes| {
        bytes[last.at + last.len - 1] ^= 1;
        lost = bytes[last.at..].to_vec();
    });
    assert_eq!(state.open().repaired().len(), 1);
    let kept = format!("{}.cut-{}", last.file.display(), last.at);
    assert_eq!(fs::read(kept).unwrap(), lost);
}

#[test]
fn zeros_at_the_end_are_cut_off() {
    let state = killed();
    edit(&state.segments()[2], |bytes| bytes.resize(bytes.len() + 4096, 0));
    let journal = state.open();
    assert_eq!(journal.repaired()[0].bytes, 4096);
    drop(journal);
    let report = state.verify();
    assert!(report.ok && report.events == 21, "{report:#?}");
}

#[test]
fn damage_with_whole_records_after_it_is_a_refusal_that_names_the_place() {
    let state = killed();
    let places = state.places();
    let in_last = places.iter().rev().nth(1).unwrap();
    let in_one_before = places.iter().find(|place| place.file == state.segments()[1]).unwrap();
    for place in [in_last, in_one_before] {
        let copy = state.copy();
        let file = copy.journal_dir().join(place.file.file_name().unwrap());
        edit(&file, |bytes| bytes[place.at + FRAME_LEN + 3] ^= 0x20);
        let refusal = copy.refusal();
        let expected = format!("{}, byte {}, record {}:", file.display(), place.at, place.seq);
        assert!(refusal.starts_with(&expected), "{refusal}");
        assert!(copy.refusal().starts_with(&expected), "the second time too");
    }
}

#[test]
fn a_hole_behind_what_was_synced_is_cut_off_and_one_before_it_is_a_refusal() {
    let state = State::new();
    let journal = state.open();
    let fill = |from: u64| {
        for op in from..from + 20 {
            journal.append(&[statement(op, &"select 1 ".repeat(100))]).unwrap();
        }
    };
    fill(1);
    journal.checkpoint().unwrap();
    let len = |state: &State| fs::metadata(&state.segments()[0]).unwrap().len() as usize;
    let synced = len(&state);
    fill(100);
    drop(journal);
    let (mut refused, mut cut) = (0, 0);
    for place in state.places().iter().filter(|place| place.seq > 3).step_by(4) {
        let from = place.at.next_multiple_of(512);
        if from + 512 > place.at + place.len {
            continue;
        }
        let copy = state.copy();
        edit(&copy.segments()[0], |bytes| bytes[from..from + 512].fill(0));
        if from < synced {
            assert!(copy.refusal().contains("are no record"), "{}", copy.refusal());
            refused += 1;
            continue;
        }
        let journal = copy.open();
        let repairs = journal.repaired().to_vec();
        let [repaired] = repairs.as_slice() else { panic!("{:?}", journal.repaired()) };
        assert_eq!((repaired.offset, repaired.bytes), (place.at as u64, (len(&state) - place.at) as u64));
        // What was not lost, but stands behind it, is kept for who wants to look.
        let kept = copy.journal_dir().join(format!("{}.cut-{}", repaired.segment, repaired.offset));
        assert_eq!(fs::metadata(kept).unwrap().len(), repaired.bytes);
        journal.append(&[statement(200, "select 2")]).unwrap();
        journal.close().unwrap();
        let report = copy.verify();
        assert!(report.ok && report.repairs == 1, "{report:#?}");
        cut += 1;
    }
    assert!(refused > 2 && cut > 2, "{refused} {cut}");
}

#[test]
fn a_missing_segment_is_a_refusal() {
    for gone in [0, 1] {
        let state = killed();
        fs::remove_file(&state.segments()[gone]).unwrap();
        let refusal = state.refusal();
        assert!(refusal.contains("missing") || refusal.contains("begins with record"), "{refusal}");
    }
}

#[test]
fn an_end_that_was_signed_and_synced_cannot_be_cut_off_unseen() {
    let state = State::new();
    let journal = state.open();
    journal.append(&[statement(1, "select 1"), statement(2, "select 2")]).unwrap();
    journal.close().unwrap();
    drop(journal);
    let whole = fs::read(&state.segments()[0]).unwrap();
    for len in 0..whole.len() {
        let copy = state.copy();
        edit(&copy.segments()[0], |bytes| bytes.truncate(len));
        let refusal = copy.refusal();
        assert!(
            refusal.contains("signed it up to record 2") || refusal.contains("shorter than its header"),
            "{refusal}"
        );
    }
    fs::remove_file(&state.segments()[0]).unwrap();
    assert!(state.refusal().contains("the segments are gone"));
}

#[test]
fn a_journal_of_another_key_is_a_refusal() {
    let state = killed();
    fs::remove_file(&state.options.key).unwrap();
    assert!(state.refusal().contains("another host's key"), "{}", state.refusal());
}

#[test]
fn a_segment_of_another_journal_of_this_host_is_a_refusal() {
    let (state, other) = (killed(), killed());
    fs::copy(&state.options.key, &other.options.key).unwrap();
    fs::remove_dir_all(other.journal_dir()).unwrap();
    let journal = other.open();
    for op in 1..=20 {
        journal.append(&[statement(op, "select 1")]).unwrap();
    }
    let name = state.segments()[1].file_name().unwrap().to_owned();
    fs::copy(other.journal_dir().join(&name), state.journal_dir().join(&name)).unwrap();
    assert!(state.refusal().contains("another journal"), "{}", state.refusal());
}

#[test]
fn a_second_opener_is_refused_and_told_who_holds_the_journal() {
    let state = State::new();
    let journal = state.open();
    let refusal = state.refusal();
    assert!(refusal.contains(&format!("pid {}", std::process::id())), "{refusal}");
    drop(journal);
    state.open().close().unwrap();
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let state = State::new();
    drop(state.open());
    let options = state.options.clone();
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o500);
    fs::set_permissions(&options.dir, closed).unwrap();
    fs::remove_file(options.dir.join("lock")).ok();
    // Root writes everywhere; as far as files go this thread is somebody else.
    let opened = std::thread::spawn(move || {
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65_534));
        Journal::open(&options).err().map(|error| error.to_string())
    });
    let refusal = opened.join().unwrap().expect("should not open");
    assert!(refusal.contains("Permission denied") && refusal.contains("lock"), "{refusal}");
}

#[test]
fn an_unfinished_segment_is_removed_and_a_header_alone_is_cut_off() {
    let state = State::new();
    let journal = state.open();
    journal.append(&[statement(1, "select 1")]).unwrap();
    drop(journal);
    let left = state.journal_dir().join("journal-00000000000000000002.chj.new");
    fs::write(&left, b"half a header").unwrap();
    let key = key::HostKey::load_or_create(&state.options.key).unwrap();
    let first = Header::decode(&fs::read(&state.segments()[0]).unwrap()).unwrap();
    let bytes = fs::read(&state.segments()[0]).unwrap();
    let last = Frame::fields(&bytes[HEADER_LEN..]).unwrap().hash();
    let header = Header { first_seq: 2, previous: last, host: key.public().host(), ..first };
    fs::write(state.journal_dir().join("journal-00000000000000000002.chj"), header.encode()).unwrap();
    let journal = state.open();
    assert!(!left.exists());
    assert_eq!(journal.repaired()[0].bytes, HEADER_LEN as u64);
    assert_eq!(journal.append(&[statement(2, "select 2")]).unwrap().first_seq, 3);
    journal.close().unwrap();
    assert!(state.verify().ok);
}
