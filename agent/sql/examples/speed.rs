//! Times the analysis of ordinary statements against the fixture. Only a release build says anything.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a tool of the tests")]

#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod support;

use std::hint::black_box;
use std::time::Instant;

use chaperone_sql::analyse;

fn main() {
    let view = support::labelled();
    let statements = [
        ("select 1", "SELECT 1"),
        ("pgbench select", "SELECT abalance FROM pgbench_accounts WHERE aid = 4711"),
        ("pgbench update", "UPDATE pgbench_accounts SET abalance = abalance + 10 WHERE aid = 4711"),
        (
            "small masked",
            "SELECT u.id, u.name, u.token FROM users u WHERE u.id = 1 AND u.name = 'x' LIMIT 10",
        ),
        ("star masked", "SELECT * FROM users WHERE id = $1"),
        (
            "join",
            "SELECT u.id, u.name, count(*) AS n FROM users u JOIN orgs o ON o.id = u.id LEFT JOIN log l ON l.n = u.id \
             WHERE u.dob > now() - interval '1 day' AND o.name LIKE 'a%' GROUP BY u.id, u.name HAVING count(*) > 1 ORDER BY n DESC LIMIT 5",
        ),
        ("begin", "BEGIN"),
    ];
    for (name, sql) in statements {
        let mut best = f64::MAX;
        for _ in 0..20 {
            let start = Instant::now();
            for _ in 0..2_000 {
                black_box(analyse(black_box(sql), &view).expect("served"));
            }
            best = best.min(start.elapsed().as_secs_f64() / 2_000.0);
        }
        println!("{name:16} {:6.2} us", best * 1e6);
    }
}
