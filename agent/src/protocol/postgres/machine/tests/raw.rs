//! What masks take away, for auditors.

use super::super::super::plan::CopyFormat;
use super::*;

#[test]
fn what_masks_take_away_is_kept_for_auditors_where_the_plan_says_so() {
    let masked = columns(&[None, Some(Mask::Redact)]);
    let sealing = Arc::new(Plan { seals: true, ..Plan::clone(&masked) });
    let answers = || {
        join(&[
            description(&[(7, 1, 23), (7, 2, 25)]),
            row(&["1", "secret"]),
            row(&["2", "\u{1f511}"]),
            complete("SELECT 2"),
            ready(b'I'),
        ])
    };
    let raw = |plan: &Arc<Plan>, answers: BytesMut| {
        let mut machine = machine();
        client(&mut machine, query("select id, token from secrets"), |_| Ok(Arc::clone(plan)));
        let (mut answers, mut out) = (answers, BytesMut::new());
        machine.server(&mut answers, &mut out, &mut Vec::new()).unwrap();
        assert!(!out.windows(6).any(|window| window == b"secret"), "{}", out.escape_ascii());
        String::from_utf8(machine.take_raw()).unwrap()
    };
    let lines = "{\"op\":1,\"row\":1,\"cells\":[[2,{\"text\":\"secret\"}]]}\n\
                 {\"op\":1,\"row\":2,\"cells\":[[2,{\"text\":\"\u{1f511}\"}]]}\n";
    assert_eq!(raw(&sealing, answers()), lines);
    assert_eq!(raw(&masked, answers()), "");
    let copying = Arc::new(Plan {
        statements: vec![StatementPlan {
            copy: Some(Copy::Out(CopyFormat::Text { delimiter: b'\t', null: "\\N".into(), header: false })),
            ..sealing.statements[0].clone()
        }],
        ..Plan::clone(&sealing)
    });
    let copied = join(&[
        msg(b'H', &[0, 0, 2, 0, 0, 0, 0]),
        msg(b'd', b"1\tsecret\n"),
        msg(b'c', b""),
        complete("COPY 1"),
        ready(b'I'),
    ]);
    assert_eq!(raw(&copying, copied), "{\"op\":1,\"row\":1,\"copy\":{\"text\":\"1\\tsecret\\n\"}}\n");
}
