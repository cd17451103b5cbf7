//! What appending promises, as long as nothing goes wrong.

use super::*;

#[test]
fn what_was_appended_is_read_back_in_order() {
    let state = State::new();
    let journal = state.open();
    let appended = journal.append(&[statement(1, "select 1"), statement(2, "select 2")]).unwrap();
    assert_eq!((appended.first_seq, appended.last_seq), (1, 2));
    let appended = journal.append(&[statement(3, "select 3")]).unwrap();
    assert_eq!((appended.first_seq, appended.last_seq), (3, 3));
    journal.close().unwrap();
    let records = state.records().unwrap();
    assert_eq!(records.len(), 4);
    let report = state.verify();
    assert!(report.ok, "{report:#?}");
    assert_eq!((report.events, report.checkpoints, report.unsigned_tail), (3, 1, 0));
}
