//! What people and programs are shown.

use super::sessions::{ONE, day, end, start};
use super::*;
use crate::record::query::{Filter, replay, sessions};
use crate::record::render::{Paint, json, report_text, sessions_text, transcript_text, visible};

fn text(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// Times, durations and places differ from run to run; digits do not matter here.
fn undated(text: &str) -> String {
    let mut out = String::new();
    for word in text.split_inclusive([' ', '\n']) {
        let is_time = word.starts_with("20") && word.trim_end().ends_with('Z');
        let is_offset = word.starts_with('+') || word.starts_with("0.");
        match (is_time, is_offset) {
            (true, _) => out += &word.replace(word.trim_end(), "<time>"),
            (_, true) => out += &word.replace(word.trim_end(), "<offset>"),
            _ => out += word,
        }
    }
    out
}

#[test]
fn a_transcript_reads_from_top_to_bottom() {
    let transcript = replay(day().journal_dir(), ONE, 100).unwrap();
    let shown = undated(&text(|out| transcript_text(&transcript, Paint::Plain, out)));
    let expected = "\
session 0198c0de-0000-7000-8000-000000000001
    identity   billing-bot (ai-agents)
    target     shop
    from       127.0.0.1:40001 to 127.0.0.1:5432
    process    pid 4711 python3 /usr/bin/python3, uid 1000, cgroup /agents.slice/billing-bot.service
    login      as postgres to shop, application psql; at the target as shop_app
    start      <time>
    end        TIME, the client closed
    statements 3 (1 denied, 1 held), 3 rows

#1 <offset> permit [read-shop]
    | SELECT email
    | FROM customers
    $1         '4711'
    $2         NULL
    masked     public.customers.email
    result     <offset> SELECT 3, 3 rows, 30 bytes, 3 cells masked

#2 <offset> deny [read-shop]: no writes
    | DELETE FROM customers
    $1         '4711'
    $2         NULL
    masked     public.customers.email

#3 <offset> hold [read-shop]
    | SELECT 3
    $1         '4711'
    $2         NULL
    masked     public.customers.email
    hold       hold-1, approved by root after <offset> fine
    read by    DateStyle ISO, DMY
    result     <offset> error 57014, 0 rows, 0 bytes, 0 cells masked
";
    let end = shown.lines().find(|line| line.starts_with("    end")).unwrap();
    let moment = end.trim_start_matches("    end        ").split(',').next().unwrap();
    assert_eq!(shown.replace(moment, "TIME"), expected);
}

#[test]
fn columns_are_aligned_by_shown_width() {
    let state = State::new();
    let journal = state.open();
    journal.append(&[start("a", "bot", "shop"), start("b", "請求書", "x"), end("a"), end("b")]).unwrap();
    let listing = sessions(state.journal_dir(), &Filter::default()).unwrap();
    let shown = undated(&text(|out| sessions_text(&listing, Paint::Plain, out)));
    let lines = shown.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    assert!(lines[0].starts_with("SESSION  START"), "{shown}");
    assert!(lines[1].contains("bot       shop"), "{shown}");
    assert!(lines[2].contains("請求書    x"), "{shown}");
    assert!(!shown.contains('\x1b'));
    assert!(text(|out| sessions_text(&listing, Paint::Colour, out)).len() >= shown.len());
}

#[test]
fn what_cannot_be_seen_is_spelled_out() {
    let cases = [
        ("select 'a', \"b\" -- ok", "select 'a', \"b\" -- ok"),
        ("naïve 請求書 🙂", "naïve 請求書 🙂"),
        ("\x1b[2J\x1b]0;title\x07", "\\u{1b}[2J\\u{1b}]0;title\\u{7}"),
        ("a\u{9b}31mb\u{7f}", "a\\u{9b}31mb\\u{7f}"),
        ("line\r\nline\ttab\0", "line\\r\\nline\\ttab\\0"),
        ("\u{202e}drop\u{2066}\u{2069}\u{200f}\u{61c}", "\\u{202e}drop\\u{2066}\\u{2069}\\u{200f}\\u{61c}"),
        ("zero\u{200b}width\u{feff}\u{ad}", "zero\\u{200b}width\\u{feff}\\u{ad}"),
        ("\u{2028}\u{2029}\u{e0041}\u{e000}", "\\u{2028}\\u{2029}\\u{e0041}\\u{e000}"),
        ("e\u{301}\u{a0}\u{3164}", "e\\u{301}\\u{a0}\\u{3164}"),
        ("\\u{1b}", "\\\\u{1b}"),
    ];
    for (input, expected) in cases {
        assert_eq!(visible(input), expected);
    }
}

#[test]
fn nothing_in_a_journal_reaches_the_terminal_but_visible_characters() {
    let evil = "x\x1b[31m\u{9b}2J\u{202e}\u{200b}\r\x07\n\u{7f}";
    let state = State::new();
    let mut events = vec![start(evil, evil, evil)];
    let Event::SessionStart { workload, identity, claimed_user, database, application, .. } = &mut events[0]
    else {
        unreachable!()
    };
    (workload.comm, workload.exe, workload.cgroup) = (evil.into(), Some(evil.into()), Some(evil.into()));
    identity.groups = vec![evil.into()];
    (*claimed_user, *database, *application) = (evil.into(), evil.into(), Some(evil.into()));
    let mut sql = statement_in(evil, 1, evil);
    if let Event::Statement { policies, reason, masked, binds, hold, .. } = &mut sql {
        (*policies, *reason, *masked) = ([evil.into()].into(), Some(evil.into()), vec![evil.into()]);
        (*binds, *hold) = ([crate::record::event::Bind::Text(evil.into())].into(), Some(evil.into()));
    }
    events.push(sql);
    events.push(Event::Result {
        session: evil.into(),
        op: 1,
        rows: 0,
        bytes: 0,
        masked_cells: 0,
        tag: evil.into(),
        sqlstate: None,
        served_to: None,
    });
    state.open().append(&events).unwrap();
    let listing = sessions(state.journal_dir(), &Filter::default()).unwrap();
    let transcript = replay(state.journal_dir(), "x", 100).unwrap();
    let report = state.verify();
    let shown = [
        text(|out| sessions_text(&listing, Paint::Plain, out)),
        text(|out| transcript_text(&transcript, Paint::Plain, out)),
        text(|out| report_text(&report, Paint::Plain, out)),
        text(|out| json(&listing, out)),
        text(|out| json(&transcript, out)),
    ];
    for shown in shown {
        let bad =
            shown.chars().find(|c| *c != '\n' && (c.is_control() || matches!(c, '\u{202e}' | '\u{200b}')));
        assert_eq!(bad, None, "{shown:?}");
    }
    let parsed: serde_json::Value = serde_json::from_str(&text(|out| json(&transcript, out))).unwrap();
    assert_eq!(parsed["operations"][0]["sql"], evil, "escaped, and the same");
}

#[test]
fn json_keeps_characters_beyond_the_basic_plane() {
    let value = ["\u{e0041}🙂", "\"\\\u{1f}\u{80}"];
    let shown = text(|out| json(&value, out));
    assert!(shown.contains("\\udb40\\udc41🙂") && shown.contains("\\u0080"), "{shown}");
    assert_eq!(serde_json::from_str::<[String; 2]>(&shown).unwrap(), value);
}

#[test]
fn a_report_names_file_byte_record_and_kind() {
    let state = day();
    let good = state.verify();
    let shown = text(|out| report_text(&good, Paint::Plain, out));
    assert!(
        shown.contains("the journal is what its host wrote") && shown.contains("unsigned tail: 0"),
        "{shown}"
    );
    let place = state.places()[2].clone();
    edit(&place.file, |bytes| bytes[place.at + 70] ^= 1);
    let bad = state.verify();
    let shown = text(|out| report_text(&bad, Paint::Plain, out));
    let expected = format!("edited: journal-00000000000000000001.chj, byte {}, record 3: ", place.at);
    assert!(shown.contains("1 problem\n") && shown.contains(&expected), "{shown}");
    let parsed: serde_json::Value = serde_json::from_str(&text(|out| json(&bad, out))).unwrap();
    assert_eq!((&parsed["ok"], &parsed["problems"][0]["kind"]), (&false.into(), &"edited".into()));
}
